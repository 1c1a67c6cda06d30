"""Errors on revised MD17 of hosts with and without neural polarization, one budget for all rows.

    python benchmarks/rmd17.py run RMD17_FOLDER RUNS --molecules ethanol aspirin --forms host moving-geometry-4 --seeds 0 1 2
    python benchmarks/rmd17.py table

RMD17_FOLDER holds ``rmd17_<molecule>_{train,test}_01.npz``; RUNS takes the checkpoints. Each row is 950 + 50 structures
of the official split 01, batches of 5, 106 epochs = 20140 steps, squared errors, each host's own learning rate (see
`rates.py`), and is tested on the 1000 test structures. A row that is finished, a file in ``results/rmd17``, is not run
again; one that was interrupted goes on. ``table`` writes the means over seeds as Markdown
and all rows as CSV.

Forms: ``host`` (no polarization; ``host-80`` with 80 channels), ``static-`` or ``moving-`` with ``nodes`` (paired nodes,
all pairs), ``same`` (paired nodes, pairs of the same kind), ``geometry`` (paired geometry), ``shifts`` (paired shifts, which
at rest are the host), ``heads`` (paired heads) or ``products`` (paired products, at rest heads), and the number of electron
points, ``moving-heads-4``; ``-r32`` behind it, for painn, filters of rank 32; ``-d1.0`` behind that, displacements up to 1 A instead of 0.5 A;
``-e0.01`` at the end of any form, for painn and et, ``epsilon`` of 0.01 instead of 1e-8. ``host-74`` of
painn has the weights of ``moving-heads-8`` (192 and 187 thousand; ``moving-products-8`` has 200).
Rows of ``head_shifts``, paired heads by differences, are of a coupling that was tried and is not in the package.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

from rows import load_rows, save_row, training_parser, write_table

from npcalc.train import TrainConfig, Trainer, parse_config

EPOCHS = 106
ROWS = Path(__file__).parent / "results" / "rmd17"
COSTS = Path(__file__).parent / "results" / "cost"
# The published epsilon, with which all rows were run; the default has become 1e-2 since (form `-e0.01`).
HOSTS = {
    "painn": {"channels": 64, "n_layers": 3, "n_basis": 8, "epsilon": 1e-8},
    "nequip": {"channels": 32, "n_layers": 4, "l_max": 2},
    "egnn": {"channels": 64, "n_layers": 4},
    "et": {"channels": 64, "n_layers": 3, "n_heads": 8, "epsilon": 1e-8},
    "tensornet": {"channels": 64, "n_layers": 2, "n_basis": 16},
    "mace": {"channels": 32, "l_hidden": 1, "l_max": 2},
}

NOTE = f"""# rMD17, split 01

950 + 50 structures to train and validate, mean absolute errors on the 1000 test structures; {EPOCHS} epochs with batches
of 5, 20,140 steps, for every row. The forms are explained in `rmd17.py`. Times are those of a training step in `cost.md`,
on one thread with nothing else running, where the case has been measured.

## What each form gains

Mean relative reduction over the molecules (and the seeds) that both have. The number behind +- is its standard error
by the scatter of pairs of runs of the molecules that have several, where there are three or more such pairs beyond the first.
"""


def model_of(host: str, form: str) -> dict:
    """The section ``model`` of a row."""
    section = {"name": host, **HOSTS[host]}
    model: dict = {"host": section, "cutoff": 5.0, "dipole": False}
    kind, *rest = form.split("-")
    if rest and rest[-1].startswith("e"):
        section["epsilon"] = float(rest.pop()[1:])
    if kind == "host":
        section["channels"] = int(rest[0]) if rest else section["channels"]
        return {**model, "polarization": "none"}
    if rest[-1].startswith("d"):
        model["d_max"] = float(rest.pop()[1:])
    if rest[-1].startswith("r"):
        section["filter_rank"] = int(rest.pop()[1:])
    coupling, points = rest[0], int(rest[1]) if len(rest) > 1 else 1
    model |= {"polarization": kind, "n_points": points}
    if coupling in ("geometry", "shifts", "heads", "products"):
        return {**model, "coupling": f"paired_{coupling}"}
    return {**model, "coupling": "paired_nodes", "pairs": "same" if coupling == "same" else "all"}


def configuration(
    data: Path,
    molecule: str,
    model: dict,
    folder: Path,
    epochs: int = EPOCHS,
    seed: int = 0,
    compile: str | bool = "auto",
    loss: str = "mse",
    rate: float | None = None,
) -> TrainConfig:
    """A run of the budget of all rows.

    Args:
        data: RMD17_FOLDER.
        molecule: The molecule.
        model: The section ``model``.
        folder: Where checkpoints go.
        epochs: Passes over the training structures.
        seed: Seed of weights and order.
        compile: ``auto`` or false.
        loss: Form of the loss.
        rate: Learning rate, that of the host by default.
    """
    files = {k: str(data / f"rmd17_{molecule}_{k}_01.npz") for k in ("train", "test")}
    return parse_config({
        "name": folder.name, "output": str(folder), "data": {**files, "n_validation": 50}, "model": model,
        "loss": {"energy": 50.0, "forces": 1.0, "dipole": 0.0, "form": loss, "delta": 0.01},
        "training": {
            "epochs": epochs, "batch_size": 5, "learning_rate": rate, "ema": 0.999, "seed": seed,
            "validate_every": 10, "checkpoint_every": 10, "threads": 1, "compile": compile,
        },
    })  # fmt: skip


def run(args: argparse.Namespace, molecule: str, form: str, seed: int) -> None:
    folder = args.runs / args.host / molecule / f"{form}-seed{seed}"
    finished = ROWS / f"{args.host}-{molecule}-{form}-seed{seed}.json"
    if finished.exists():
        return
    model = model_of(args.host, form)
    config = configuration(args.data, molecule, model, folder, args.epochs, seed, args.compile)
    trainer = Trainer(config)
    trainer.run()
    test = trainer.errors("test")
    row = {
        "host": args.host, "molecule": molecule, "form": form, "seed": seed,
        "forces_mae_meV_A": 1000 * test["forces_mae"], "energy_mae_meV": 1000 * test["energy_mae"],
        "parameters": trainer.weights.numel(), "steps": trainer.state["step"],
    }  # fmt: skip
    save_row(finished, row)


def mean_and_spread(values: list[float]) -> str:
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def at_rest(form: str) -> str:
    """The form whose points do not move; of products, which are zero then, heads are left."""
    return form.replace("products", "heads").replace("moving", "static")


def baselines(form: str) -> list[str]:
    """The forms that a form is held against."""
    if form.startswith("host"):
        return ["host"] if form != "host" else []
    found = ["host", "host-74", "host-96", "host-128"]
    found += [form.replace(kind, "geometry") for kind in ("heads", "shifts") if kind in form]
    if "products" in form:
        found.append(form.replace("products", "heads"))
    return [*found, at_rest(form)] if form.startswith("moving") else found


def step_times() -> dict[tuple[str, str, str], float]:
    """Measured ms of a training step, by host, molecule and form; see `cost.py`."""
    found = [json.loads(path.read_text()) for path in COSTS.glob("*.json")]
    return {(r["host"], r["molecule"], r["form"]): r["training_step_ms"] for r in found}


def time_ratio(times: dict, host: str, form: str, base: str) -> str:
    """Mean ratio of the times of two forms over the molecules for which both are known."""
    ratios = [
        time / times[host, molecule, base]
        for (h, molecule, f), time in times.items()
        if (h, f) == (host, form) and (host, molecule, base) in times
    ]
    return f"x {statistics.mean(ratios):.2f}" if ratios else "-"


def standard_error(ratios: list[list[float]]) -> float | None:
    """Standard error of the mean over molecules of the means over seeds, for other seeds of the same molecules.

    Pairs of runs are taken to scatter equally on all molecules, as those do that have several.

    Args:
        ratios: For each molecule those of its pairs of runs.

    Returns:
        The error, or nothing where there are fewer than three pairs beyond the first of each molecule.
    """
    several = [values for values in ratios if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if freedom < 3:
        return None
    variance = sum((len(values) - 1) * statistics.variance(values) for values in several) / freedom
    return math.sqrt(variance * sum(1 / len(values) for values in ratios)) / len(ratios)


def reductions(rows: list[dict]) -> list[str]:
    """Markdown lines of the mean relative reduction of each form against each of its baselines."""
    groups: dict[tuple, dict[tuple, dict]] = {}
    for row in rows:
        groups.setdefault((row["host"], row["form"]), {})[row["molecule"], row["seed"]] = row
    lines = [
        "| host | form | against | molecules | pairs of runs | lower forces on | forces | energy | time per step |",
        "| --- " * 9 + "|",
    ]
    times = step_times()
    for (host, form), members in groups.items():
        for base in baselines(form):
            others = groups.get((host, base), {})
            gain: dict[str, list[list[float]]] = {}
            for key in members.keys() & others.keys():
                a, b = members[key], others[key]
                ratios = [a[k] / b[k] for k in ("forces_mae_meV_A", "energy_mae_meV")]
                gain.setdefault(key[0], []).append(ratios)
            if not gain:
                continue
            means = [
                [statistics.mean(c) for c in zip(*seeds, strict=True)] for seeds in gain.values()
            ]
            forces, energy = (statistics.mean(column) for column in zip(*means, strict=True))
            lower = sum(m[0] < 1 for m in means)
            pairs = sum(len(seeds) for seeds in gain.values())
            error = standard_error([[ratio for ratio, _ in seeds] for seeds in gain.values()])
            chance = "" if error is None else f" +- {100 * error:.1f}"
            lines.append(
                f"| {host} | {form} | {base} | {len(gain)} | {pairs} | {lower} "
                f"| {100 * (1 - forces):.1f}{chance} % | {100 * (1 - energy):.1f} % "
                f"| {time_ratio(times, host, form, base)} |"
            )
    return lines


def by_molecule(groups: dict[tuple, list[dict]]) -> list[str]:
    """Markdown lines of the mean errors of each molecule, the forms of a host side by side.

    Args:
        groups: Rows of each host, molecule and form.

    Returns:
        For each host a table of forces and one of energies with the forms that at least half of its molecules have.
    """
    lines = []
    for host in dict.fromkeys(host for host, _, _ in groups):
        found = {(m, form): rows for (h, m, form), rows in groups.items() if h == host}
        molecules = list(dict.fromkeys(molecule for molecule, _ in found))
        forms = {form: sum((m, form) in found for m in molecules) for _, form in found}
        kept = [form for form, number in forms.items() if 2 * number >= len(molecules)]
        for key, name in (("forces_mae_meV_A", "forces, meV/A"), ("energy_mae_meV", "energy, meV")):
            lines += [
                "",
                f"| {host}: {name} | {' | '.join(kept)} |",
                "| --- " * (1 + len(kept)) + "|",
            ]
            for molecule in molecules:
                cells = []
                for form in kept:
                    rows = found.get((molecule, form), [])
                    mean = f"{statistics.mean(row[key] for row in rows):.2f}" if rows else "-"
                    cells.append(mean + (f" ({len(rows)})" if len(rows) > 1 else ""))
                lines.append(f"| {molecule} | {' | '.join(cells)} |")
    return lines


def table(target: Path) -> None:
    """All finished rows as CSV, and as Markdown their means over seeds and what each form gains."""
    rows = load_rows(ROWS)
    times = step_times()
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        row.pop("ms_per_step", None)  # of older rows, on a busy machine
        groups.setdefault((row["host"], row["molecule"], row["form"]), []).append(row)
    lines = [
        NOTE,
        *reductions(rows),
        "\n## Molecule by molecule\n",
        "Means over seeds, their number in brackets where there are several.",
        *by_molecule(groups),
        "\n## All forms\n",
        "| host | molecule | form | seeds | parameters | forces, meV/A | energy, meV | ms per step |",
        "| --- " * 8 + "|",
    ]
    for (host, molecule, form), members in groups.items():
        cells = [
            mean_and_spread([m[k] for m in members]) for k in ("forces_mae_meV_A", "energy_mae_meV")
        ]
        time = times.get((host, molecule, form))
        cells.append("-" if time is None else f"{time:.1f}")
        lines.append(
            f"| {host} | {molecule} | {form} | {len(members)} | {members[0]['parameters']} | {' | '.join(cells)} |"
        )
    write_table(target, lines, rows)


def main() -> None:
    parser, runner = training_parser(__doc__, EPOCHS)
    runner.add_argument("--host", default="painn", choices=HOSTS)
    runner.add_argument("--molecules", nargs="+", default=["ethanol"])
    runner.add_argument(
        "--forms", nargs="+", default=["host", "static-geometry-4", "moving-geometry-4"]
    )
    args = parser.parse_args()
    if args.command == "table":
        table(ROWS)
        return
    for seed in args.seeds:
        for molecule in args.molecules:
            for form in args.forms:
                run(args, molecule, form, seed)


if __name__ == "__main__":
    main()
