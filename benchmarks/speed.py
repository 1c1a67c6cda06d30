"""Time and memory of one ASE step and one training step, beside SchNetPack's PaiNN.

    python benchmarks/speed.py PEER_PYTHON OUTPUT.json

PEER_PYTHON is the interpreter of an environment with schnetpack 2.0.4 (see golden/schnetpack_painn.py). Every
case runs in a process of its own with one thread, cases alternate over several rounds, and the medians over
all rounds are reported. An ASE step is the forces and the dipole of ethanol after its atoms have moved. A
training step is ten ethanol structures: loss of energy, forces and dipole, gradient and optimizer. Evaluation is of 512
ethanol structures at once, time per structure.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 2
HERE = Path(__file__).resolve().parent
CASES = ["ase ethanol-fast compiled", "ase ethanol-fast", "ase ethanol compiled", "ase ethanol",
         "train ethanol-fast compiled", "evaluate ethanol-fast", "evaluate ethanol-fast compiled"]  # fmt: skip
PEER_CASES = ["ase", "train"]


def measure(function: Callable[[], object], seconds: float = 5.0, warm: int = 30) -> list[float]:
    """Times of single calls in ms, after some that are not counted."""
    for _ in range(warm):
        function()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return times


def report(times: list[float]) -> None:
    """Prints median and peak memory as JSON on the last line."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"median_ms": statistics.median(times), "n": len(times), "peak_MiB": peak}))


def ase_step(atoms: object, dipole: bool = True) -> Callable[[], object]:
    """A step that moves the atoms and asks for forces and, if wanted, the dipole."""
    import numpy as np

    rng = np.random.default_rng(0)
    start = atoms.get_positions()

    def step() -> None:
        atoms.positions = start + 0.01 * rng.normal(size=start.shape)
        atoms.get_forces()
        if dipole:
            atoms.get_dipole_moment()

    return step


def run_case(case: str) -> None:
    """One of `CASES`, in this process."""
    import torch

    torch.set_num_threads(1)
    kind, name, *rest = case.split()
    if kind == "ase":
        from ase.build import molecule

        from npcalc import NPCalculator

        atoms = molecule("CH3CH2OH")
        atoms.calc = NPCalculator(name, compile=bool(rest))
        report(measure(ase_step(atoms)))
        return
    if kind == "evaluate":
        from npcalc import evaluate, load_potential
        from npcalc.data import DataSet

        data = DataSet.load(HERE.parent / "potentials" / "data" / "ethanol-test.h5")
        frames, potential = [data.atoms(k) for k in range(512)], load_potential(name)
        times = measure(lambda: evaluate(potential, frames, compile=bool(rest)), warm=2)
        report([t / len(frames) for t in times])
        return
    import tempfile

    import numpy as np

    from npcalc.train import Trainer, load_config

    config = load_config(HERE.parent / "potentials" / name / "train.yaml")
    training = config.training.model_copy(update={"batch_size": 10, "threads": 1})
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        trainer = Trainer(config.model_copy(update={"training": training, "output": output}))
        rng = np.random.default_rng(0)

        def step() -> None:
            batch = trainer.batches["train"].make(rng.choice(950, 10, replace=False))
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.loss(*batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(trainer.weights, 10.0)
            trainer.optimizer.step()

        report(measure(step))


def main(peer: str, output: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    results: dict[str, list[dict]] = {}
    for _ in range(ROUNDS):
        jobs = [(c, [sys.executable, __file__, "--case", c]) for c in CASES]
        jobs += [
            (f"schnetpack {c}", [peer, str(HERE / "speed_schnetpack.py"), c]) for c in PEER_CASES
        ]
        for name, command in jobs:
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            results.setdefault(name, []).append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(name, results[name][-1], flush=True)
    table = {
        name: {
            "median_ms": statistics.median(r["median_ms"] for r in rows),
            "rounds_ms": [round(r["median_ms"], 3) for r in rows],
            "peak_MiB": round(max(r["peak_MiB"] for r in rows)),
        }
        for name, rows in results.items()
    }
    for name, row in table.items():
        kind = name.split()[0].replace("evaluate", "ase")  # the peer has no evaluation in batches
        peer_row = table[f"schnetpack {kind}"] if "schnetpack" not in name else row
        row["ratio_to_schnetpack"] = round(peer_row["median_ms"] / row["median_ms"], 2)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "--case":
        run_case(sys.argv[2])
    else:
        main(sys.argv[1], Path(sys.argv[2]))
