"""What neural polarization costs: parameters, time and memory of each host and form, beside its errors.

    python benchmarks/cost.py run RMD17_FOLDER --hosts painn nequip --forms host moving-geometry-4 --molecules ethanol
    python benchmarks/cost.py table

Forms are those of ``rmd17.py``, whose networks and batches of 5 these are. Every case runs in a process of its own with
one thread; nothing else may run beside it. A step of MD is energy and forces of one structure, compiled and not; a training
step is loss, gradient and optimizer, compiled. A case that is finished, a file in ``results/cost``, is not run again.
``table`` joins the cases with the mean errors of ``results/rmd17`` and draws force error against time per MD step, which
is not compiled.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from rmd17 import HOSTS, ROWS, configuration, model_of
from rows import load_rows, save_figure, save_row, write_table
from speed_common import measure, peak_memory

CASES = Path(__file__).parent / "results" / "cost"


def run_case(data: Path, host: str, form: str, molecule: str) -> dict:
    """Parameters, ms per step and peak memory of one case, in this process."""
    import torch

    from npcalc import NPCalculator
    from npcalc.model import PolarizedModel
    from npcalc.potential import Card, Potential, properties_of
    from npcalc.train import Trainer
    from npcalc.train.denormals import flush_denormals

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(data, molecule, model_of(host, form), Path(folder), epochs=1)
        trainer = Trainer(config)
        batches = [trainer.batches["train"].make(trainer.order(k)[:5]) for k in range(20)]
        count = iter(range(10**9))

        def train_step() -> None:
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.loss(*batches[next(count) % len(batches)])[0].backward()
            torch.nn.utils.clip_grad_norm_(trainer.weights, config.training.clip)
            trainer.vectors.step(trainer.run_state.rate_now)

        with flush_denormals():  # as in training
            training = measure(train_step, seconds=8.0)
        training_peak = peak_memory()
        atoms = trainer.splits["train"].atoms(0)
        # As it was before training: the time does not depend on the weights.
        card = Card(
            name=form,
            model=trainer.model_config,
            scale=trainer.scale,
            reference_energies=tuple(trainer.reference),
            properties=properties_of(trainer.model_config),
        )
        weights = dict(PolarizedModel(trainer.model_config).named_parameters())
        Potential(card, weights, "cpu").save(file := Path(folder) / "p.pt")  # with its TorchScript
        calculator = NPCalculator(file)
        graph = calculator.graph(atoms)
        dynamics = measure(lambda: calculator.potential.evaluate(graph), seconds=4.0)
        compiled = measure(lambda: calculator.potential.evaluate_compiled(graph), seconds=4.0)
    return {
        "host": host, "molecule": molecule, "form": form,
        "parameters": trainer.weights.numel(),
        "md_step_ms": statistics.median(dynamics), "md_step_compiled_ms": statistics.median(compiled),
        "training_step_ms": statistics.median(training),
        "training_peak_MiB": round(training_peak),
    }  # fmt: skip


def run(args: argparse.Namespace) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for molecule in args.molecules:
        for host in args.hosts:
            for form in args.forms:
                target = CASES / f"{host}-{molecule}-{form}.json"
                if target.exists():
                    continue
                case = ["case", str(args.data), host, form, molecule]
                command = [sys.executable, __file__, *case]
                done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
                row = json.loads(done.stdout.decode().strip().splitlines()[-1])
                save_row(target, row)


def errors() -> dict[tuple[str, str, str], float]:
    """Mean force errors over seeds in meV/A of the finished rows of rMD17."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in load_rows(ROWS) if any(ROWS.glob("*.json")) else []:
        key = (row["host"], row["molecule"], row["form"])
        groups.setdefault(key, []).append(row["forces_mae_meV_A"])
    return {key: statistics.mean(values) for key, values in groups.items()}


def table(target: Path) -> None:
    """All cases as Markdown, and the plot."""
    rows = load_rows(CASES)
    found = errors()
    lines = [
        "One thread, float32; errors from `rmd17.md`, where a row was run.", "",
        "| host | molecule | form | parameters | MD step, compiled / not, ms | training step (5), ms | training peak, MiB | forces, meV/A |",
        "| --- " * 8 + "|",
    ]  # fmt: skip
    for row in rows:
        error = found.get((row["host"], row["molecule"], row["form"]))
        cells = [row["host"], row["molecule"], row["form"], row["parameters"]]
        compiled = row.get("md_step_compiled_ms")  # older rows have none
        compiled = "-" if compiled is None else f"{compiled:.2f}"
        cells += [f"{compiled} / {row['md_step_ms']:.2f}", f"{row['training_step_ms']:.1f}"]
        cells += [row["training_peak_MiB"], "-" if error is None else f"{error:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    write_table(target, lines)
    plot(rows, found, target.with_suffix(".png"))


def plot(rows: list[dict], found: dict[tuple[str, str, str], float], target: Path) -> None:
    """Force error against time per MD step: one panel a molecule, one color a host."""
    known = [r for r in rows if (r["host"], r["molecule"], r["form"]) in found]
    molecules = sorted({r["molecule"] for r in known})
    if not molecules:
        return
    figure = Figure(figsize=(4.5 * len(molecules), 4), layout="tight")
    axes = figure.subplots(1, len(molecules), squeeze=False)
    for axis, molecule in zip(axes[0], molecules, strict=True):
        for row in (r for r in known if r["molecule"] == molecule):
            color = f"C{list(HOSTS).index(row['host'])}"
            marker = {"h": "o", "s": "^", "m": "s"}[row["form"][0]]
            error = found[row["host"], molecule, row["form"]]
            axis.plot(row["md_step_ms"], error, marker, color=color)
            axis.annotate(f"{row['host']} {row['form']}", (row["md_step_ms"], error), fontsize=6)
        axis.set(xscale="log", yscale="log", title=molecule, xlabel="time per MD step, ms")
    axes[0][0].set_ylabel("force MAE, meV/A")
    save_figure(figure, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    runner = commands.add_parser("run")
    runner.add_argument("data", type=Path)
    runner.add_argument("--hosts", nargs="+", default=["painn"], choices=HOSTS)
    runner.add_argument("--molecules", nargs="+", default=["ethanol"])
    runner.add_argument(
        "--forms", nargs="+", default=["host", "static-geometry-4", "moving-geometry-4"]
    )
    case = commands.add_parser("case")
    for name in ("data", "host", "form", "molecule"):
        case.add_argument(name)
    commands.add_parser("table")
    args = parser.parse_args()
    if args.command == "table":
        table(CASES)
    elif args.command == "case":
        print(json.dumps(run_case(Path(args.data), args.host, args.form, args.molecule)))
    else:
        run(args)


if __name__ == "__main__":
    main()
