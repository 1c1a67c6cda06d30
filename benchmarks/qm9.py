"""Errors on 12 properties of QM9 molecules, of hosts with and without neural polarization.

    python benchmarks/qm9.py run QM9_NPZ RUNS --hosts painn egnn --forms host moving-geometry-4 --seeds 0 1
    python benchmarks/qm9.py table

Each network is trained on all 12 targets at once, sees only 23,444 molecules and has a short budget. Its errors compare
with the other rows of this table and NOT with published ones, which are of one network a target, trained for days on
110,000 molecules.

QM9_NPZ is ``qm9_30k.npz``, 29,305 molecules of QM9 (R. Ramakrishnan et al., Sci. Data 1, 140022 (2014)), split at random
into 80 % to train, 10 % to validate and 10 % to test, the same for all rows. RUNS takes the data sets as HDF5 and the
checkpoints. A row that is finished, a file in ``results/qm9``, is not run again; one that was interrupted goes on.
``table`` writes all rows as CSV and Markdown. Forms are those of ``rmd17.py``; every form has a dipole from charge
increments, so that the dipole moment of the plain host is not a matter of other readouts.
"""

import argparse
import os
import statistics
from pathlib import Path

import numpy as np
from rmd17 import HOSTS, at_rest, model_of
from rows import load_rows, ms_per_step, save_row, training_parser, write_table

from npcalc.conventions import E_ANGSTROM_PER_DEBYE, EV_PER_HARTREE
from npcalc.data import DataSet, Label, random_split
from npcalc.train import Trainer, parse_config

EPOCHS = 13
BATCH_SIZE = 50
ROWS = Path(__file__).parent / "results" / "qm9"
TARGETS = {
    "mu": ("Dipole_debye", "dipole_norm", "e*A"),
    "alpha": ("Polarizability_bohr3", "sum", "bohr^3"),
    "homo": ("HOMO_au", "mean", "eV"),
    "lumo": ("LUMO_au", "mean", "eV"),
    "gap": ("HOMO_LUMO_gap_au", "mean", "eV"),
    "r2": ("R2_bohr2", "extent", "bohr^2"),
    "zpve": ("ZPVE_au", "sum", "eV"),
    "u0": ("InternalEnergy_0K_au", "sum", "eV"),
    "u": ("InternalEnergy_298K_au", "sum", "eV"),
    "h": ("Enthalphy_298K_au", "sum", "eV"),
    "g": ("GibbsFreeEnergy_298K_au", "sum", "eV"),
    "cv": ("Heatcapacity_Cv_cal_mol_K", "sum", "cal/mol/K"),
}
"""Of each target its column in the file, and its readout and unit in the model."""
UNITS = {"eV": (EV_PER_HARTREE, "meV", 1000.0), "e*A": (E_ANGSTROM_PER_DEBYE, "D", 1 / E_ANGSTROM_PER_DEBYE)}  # fmt: skip
"""Of a unit that the file (hartree, Debye) does not have: factor to it, the unit of the errors, factor to that."""
THERMODYNAMIC = ("u0", "u", "h", "g", "cv")
NOTE = """# QM9, 12 targets at once

Each network sees only 23,444 molecules, learns all 12 targets at once and has a short budget, the same for all rows.
**The errors are not comparable with published ones**, which are of one network a target, trained for far longer on
110,000 molecules. Mean absolute errors on 2,931 test molecules; split 80/10/10 at random, fixed.
"""
REDUCTIONS = """
Mean relative reduction of the errors, averaged over seeds that both rows have: over the thermodynamic targets of the
papers (u0, u, h, g, cv; u0 to g are almost one target once the atoms are taken off) and over all 12. `static` points
never move, so a row against `static` shows what the movement itself pays.
"""


def units(name: str) -> tuple[float, str, float]:
    """The line of `UNITS` of a target."""
    unit = TARGETS[name][2]
    return UNITS.get(unit, (1.0, unit, 1.0))


def data_sets(source: Path, runs: Path) -> dict[str, str]:
    """Paths of the three data sets, which the first run makes."""
    paths = {name: runs / f"qm9-{name}.h5" for name in ("train", "validation", "test")}
    if not all(path.exists() for path in paths.values()):
        raw = np.load(source)
        n = len(raw["n_atoms"])
        columns = dict(zip(raw["target_names"].tolist(), raw["targets"].T, strict=True))
        labels = {
            name: Label(units(name)[0] * columns[column], np.ones(n, bool), unit)
            for name, (column, _, unit) in TARGETS.items()
        }
        origin = "QM9, R. Ramakrishnan et al., Sci. Data 1, 140022 (2014), random subset"
        whole = DataSet(
            n_atoms=raw["n_atoms"].astype(np.int64),
            numbers=raw["numbers"].astype(np.int64),
            positions=raw["positions"].astype(np.float64),
            cell=np.zeros((n, 3, 3)),
            pbc=np.zeros((n, 3), dtype=bool),
            labels=labels,
            provenance={"origin": origin, "level": "B3LYP/6-31G(2df,p)"},
        )
        sizes = [int(0.8 * n), int(0.1 * n)]
        parts = random_split(n, [*sizes, n - sum(sizes)], seed=0)
        runs.mkdir(parents=True, exist_ok=True)
        for path, part in zip(paths.values(), parts, strict=True):
            # Two runs may start at once: each writes files of its own, and the last to end stay.
            own = path.with_stem(f"{path.stem}-{os.getpid()}")
            whole.subset(part).save(own)
            os.replace(own, path)
    return {name: str(path) for name, path in paths.items()}


def run(args: argparse.Namespace, host: str, form: str, seed: int) -> None:
    finished = ROWS / f"{host}-{form}-seed{seed}.json"
    if finished.exists():
        return
    properties = {name: {"readout": t[1], "unit": t[2]} for name, t in TARGETS.items()}
    config = {
        "name": f"{host}-{form}", "output": str(args.runs / host / f"{form}-seed{seed}"),
        "data": data_sets(args.data, args.runs),
        "model": model_of(host, form) | {"dipole": True, "charges": "increments", "properties": properties},
        # The rows are judged by mean absolute errors, so that is what they are trained on.
        "loss": {"energy": 0.0, "forces": 0.0, "dipole": 0.0, "form": "mae"},
        "training": {
            # The gradient is a sum over 12 targets: the usual bound would cut nearly every step.
            "epochs": args.epochs, "batch_size": BATCH_SIZE, "learning_rate": 1e-3, "ema": 0.999, "clip": 100.0,
            "seed": seed, "validate_every": 1, "checkpoint_every": 1, "threads": 1, "compile": args.compile,
        },
    }  # fmt: skip
    trainer = Trainer(parse_config(config))
    trainer.run()
    test = trainer.errors("test")
    row = {
        "host": host, "form": form, "seed": seed,
        **{name: units(name)[2] * test[f"{name}_mae"] for name in TARGETS},
        "parameters": trainer.weights.numel(), "steps": trainer.state["step"],
        "ms_per_step": ms_per_step(trainer.log.path),
    }  # fmt: skip
    save_row(finished, row)


def reductions(rows: list[dict]) -> list[str]:
    """Markdown lines of the relative reductions against the host and against static points."""
    found = {(r["host"], r["form"], r["seed"]): r for r in rows}
    lines = ["| host | form | against | seeds | thermodynamic | all 12 |", "| --- " * 6 + "|"]
    for host, form in dict.fromkeys((r["host"], r["form"]) for r in rows):
        for base in dict.fromkeys(("host", at_rest(form))):
            seeds = [s for h, f, s in found if (h, f) == (host, form) and (h, base, s) in found]
            if base == form or form.startswith("host") or not seeds:
                continue
            pairs = [(found[host, form, s], found[host, base, s]) for s in seeds]
            gain = {t: statistics.mean(100 * (1 - a[t] / b[t]) for a, b in pairs) for t in TARGETS}
            both = [statistics.mean(gain[t] for t in group) for group in (THERMODYNAMIC, TARGETS)]
            cells = [host, form, base, str(len(seeds)), *(f"{value:.1f} %" for value in both)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def table(target: Path) -> None:
    """All finished rows as CSV and as Markdown, there with the reductions."""
    rows = load_rows(ROWS)
    heads = [*rows[0]]
    heads[3 : 3 + len(TARGETS)] = [f"{name}, {units(name)[1]}" for name in TARGETS]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    write_table(target, [NOTE, *lines, REDUCTIONS, *reductions(rows)], rows)


def main() -> None:
    parser, runner = training_parser(__doc__, EPOCHS)
    runner.add_argument("--hosts", nargs="+", default=["painn", "egnn"], choices=HOSTS)
    runner.add_argument(
        "--forms", nargs="+", default=["host", "static-geometry-4", "moving-geometry-4"]
    )
    args = parser.parse_args()
    if args.command == "table":
        table(ROWS)
        return
    for seed in args.seeds:
        for host in args.hosts:
            for form in args.forms:
                run(args, host, form, seed)


if __name__ == "__main__":
    main()
