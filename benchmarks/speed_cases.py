"""The cases of npcalc in ``speed.py``, one to a process.

    python benchmarks/speed_cases.py CASE FOLDER

CASE is who, way of running, what and threads, for example ``"fast compiled ethanol 1"``; FOLDER holds the network of
``ethanol-fast`` with one point, ``one-*.pt``, which is made there if need be. What the cases are stands in ``speed.py``.
"""

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from speed_common import ase_step, measure, report, structure

HERE = Path(__file__).resolve().parent
TRAINED = {"train": "ethanol", "train-aspirin": "aspirin"}
"""What the structures of a training step are, by the case."""


def random_potential(path: Path) -> None:
    """The architecture of ``ethanol-fast`` with one point and random weights."""
    import torch

    from npcalc import load_potential
    from npcalc.model import PolarizedModel
    from npcalc.potential import Potential

    card = load_potential("ethanol-fast").card
    torch.manual_seed(0)
    config = card.model.model_copy(update={"n_points": 1})
    more = {"model": config, "displacement_range": {}}
    weights = {k: v.detach() for k, v in PolarizedModel(config).named_parameters()}
    Potential(card.model_copy(update=more), weights, "cpu").save(path)


def run_case(case: str, folder: Path) -> None:
    """One case, in this process."""
    import torch

    from npcalc import NPCalculator, evaluate, load_potential

    began = time.perf_counter()
    points, way, what, threads = case.split()
    torch.set_num_threads(int(threads))
    compiled = way == "compiled"
    # Named by the potential whose architecture it has.
    source = HERE.parent / "potentials" / "ethanol-fast" / "ethanol-fast.pt"
    one = folder / f"one-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.pt"
    if points == "one" and not one.exists():
        random_potential(one)
    names = {"fast": "ethanol-fast", "accurate": "ethanol", "one": str(one)}
    name = names.get(points, "")
    if what == "core":
        core_case()
        return
    if points == "operator":
        operator_case(what)
        return
    if what in TRAINED:
        train_case(points, TRAINED[what])
        return
    if what == "import":
        import_case()
        return
    if what == "machine-code":
        with tempfile.TemporaryDirectory() as cache:
            os.environ["NPCALC_CACHE"] = cache
            load_potential(name).compile()
        report([1000 * (time.perf_counter() - began)])
        return
    if what in ("evaluate", "singly"):
        from npcalc.data import DataSet

        data = DataSet.load(HERE.parent / "potentials" / "data" / "ethanol-test.h5")
        frames, potential = [data.atoms(k) for k in range(1000)], load_potential(name)
        calculator = NPCalculator(potential, compile=compiled)

        def singly() -> None:
            for atoms in frames:
                atoms.calc = calculator
                atoms.get_forces()
                atoms.get_dipole_moment()
                calculator.reset()

        def together() -> None:
            evaluate(potential, frames, compile=compiled)

        times = measure(singly if what == "singly" else together, warm=2)
        report([t / len(frames) for t in times])
        return
    large = what == "water-100k"
    small = what in ("start", "around")
    atoms = structure("water-98304" if large else "ethanol" if small else what)
    if way == "empty":
        atoms.calc = empty_calculator(len(atoms))
        report(measure(ase_step(atoms, dipole=True)))
        return
    # Water is outside of what ethanol-fast was trained on; its speed is the same.
    atoms.calc = NPCalculator(name, compile=compiled, check_domain=False)
    if what == "start":
        atoms.get_forces()
        report([1000 * (time.perf_counter() - began)])
        return
    step = ase_step(atoms, dipole=True)
    if what == "around":
        step()
        potential = atoms.calc.potential
        out = potential.arrays(atoms.calc.graph(atoms), compiled)
        potential.arrays = lambda *_: out
        report(measure(step))
        return
    if large:
        start = time.perf_counter()
        step()
        report([1000 * (time.perf_counter() - start)])
        return
    few = {"warm": 1, "least": 2} if len(atoms) > 10_000 else {}
    times = measure(step, **few)
    graph = atoms.calc.graph(atoms)
    call = atoms.calc.potential.evaluate_compiled if compiled else atoms.calc.potential.evaluate
    alone = statistics.median(measure(lambda: call(graph), seconds=3.0, **few))
    coupling = atoms.calc.potential.card.model.coupling
    report(times, model_ms=alone, edges=graph.edge_index.shape[1], coupling=coupling)


def empty_calculator(n_atoms: int) -> Calculator:
    """A calculator as ASE's manual has them, whose results are zeros."""

    class Empty(Calculator):
        implemented_properties = ["energy", "forces", "dipole"]

        def calculate(self, *arguments, **more) -> None:
            super().calculate(*arguments, **more)
            zeros = {"forces": np.zeros((n_atoms, 3)), "dipole": np.zeros(3)}
            self.results = {"energy": 0.0, **zeros}

    return Empty()


def core_case() -> None:
    """What one core does at best: float32 products, and copies of arrays beyond the caches."""
    import torch

    from npcalc.cache import processor

    n = 1024
    a, b, out = torch.rand(n, n), torch.rand(n, n), torch.empty(n, n)
    product = measure(lambda: torch.mm(a, b, out=out), seconds=3.0)
    source = torch.rand(2**26)
    target = torch.empty_like(source)
    copy = statistics.median(measure(lambda: target.copy_(source), seconds=3.0))
    gflops = 2 * n**3 / statistics.median(product) / 1e6
    name = processor(torch.device("cpu")).splitlines()[-1].partition(":")[2].strip()
    copied = round(2 * source.nbytes / copy / 1e6, 1)
    report(product, gflops=round(gflops), copy_GB_s=copied, processor=name)


def operator_case(what: str) -> None:
    """The operator of the messages alone: second layer of ``ethanol-fast``, random features and displacements."""
    import torch

    from npcalc import NPCalculator, load_potential
    from npcalc.ops import load_operators
    from npcalc.ops.painn import FusedPaiNNLayer
    from npcalc.potential.derivatives import edge_vectors

    load_operators()
    potential = load_potential("ethanol-fast")
    graph = NPCalculator(potential, check_domain=False).graph(structure("water-192"))
    model = potential.module.edge_potential.model
    fused = FusedPaiNNLayer(model.layer(1), model.coupling, False, constant=True)
    edges = edge_vectors(
        graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch
    ).float()
    center, neighbor = graph.edge_index
    reverse = torch.ops.npcalc.reverse_edges(edges, center, neighbor, fused.cutoff)
    n, c = len(graph.species), fused.layer.channels
    random = torch.Generator().manual_seed(0)

    def features() -> list[torch.Tensor]:
        d, phi, v = (
            torch.randn(shape, generator=random)
            for shape in ((n, fused.n_points, 3), (n, 4 * c), (n, 3, c))
        )
        return [0.1 * d, phi, v]

    by = [torch.randn(shape, generator=random) for shape in ((n, c), (n, 3, c))]
    along = [torch.randn(edges.shape, generator=random), *features()]
    first = {"messages": [], "messages_second_backward": along + by}.get(what, by)
    operation = getattr(torch.ops.npcalc, f"pair_{what}")
    arguments = (
        *first, edges, *features(), center, neighbor, reverse, *fused.packed,
        fused.cutoff, fused.softening, fused.n_basis, fused.power, fused.n_heads, False,
        fused.layer.spec.relative, fused.layer.spec.products,
    )  # fmt: skip
    with torch.no_grad():
        times = measure(lambda: operation(*arguments))
    report(times, ns_per_edge=round(1e6 * statistics.median(times) / len(edges)))


def import_case() -> None:
    """A process that imports the package; this one, whose memory is reported, has done so too."""
    command = [sys.executable, "-W", "ignore", "-c", "import npcalc"]
    report(measure(lambda: subprocess.run(command, check=True), warm=1))


def aspirin_data(path: Path) -> Path:
    """Aspirin shaken, with labels at random: how long a step takes does not depend on them."""
    rng = np.random.default_rng(0)
    frames = []
    for seed in range(100):
        atoms = structure("aspirin")
        atoms.rattle(0.05, seed=seed)
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return path


def train_case(points: str, of: str) -> None:
    """A compiled training step on ten structures.

    Args:
        points: Of the network of ``ethanol-fast``: ``fast``, ``one`` with one point, or ``plain`` with none, and
            no dipoles.
        of: ``ethanol``, or ``aspirin``, without dipoles.
    """
    import torch

    from npcalc.train import Trainer, load_config
    from npcalc.train.denormals import flush_denormals

    config = load_config(HERE.parent / "potentials" / "ethanol-fast" / "train.yaml")
    training = config.training.model_copy(update={"batch_size": 10, "threads": 1})
    with tempfile.TemporaryDirectory() as output:
        none = {"polarization": "none", "dipole": False}
        changes = {"fast": {}, "one": {"n_points": 1}, "plain": none}[points]
        if of == "aspirin":
            changes = {**changes, "dipole": False}
            data = {
                "train": aspirin_data(Path(output) / "aspirin.xyz"),
                "test": None,
                "n_validation": 10,
            }
            config = config.model_copy(update={"data": config.data.model_copy(update=data)})
        model = config.model.model_copy(update=changes)
        loss = config.loss if model.dipole else config.loss.model_copy(update={"dipole": 0.0})
        more = {"training": training, "output": Path(output), "model": model, "loss": loss}
        trainer = Trainer(config.model_copy(update=more))
        rng = np.random.default_rng(0)
        n = len(trainer.splits["train"])

        def step() -> None:
            batch = trainer.batches["train"].make(rng.choice(n, 10, replace=False))
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.loss(*batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(trainer.weights, 10.0)
            trainer.vectors.step(trainer.run_state.rate_now)

        with flush_denormals():  # as in training
            report(measure(step))


if __name__ == "__main__":
    run_case(sys.argv[1], Path(sys.argv[2]))
