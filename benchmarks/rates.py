"""Losses and learning rates: what decides how far each host gets in the budget of `rmd17.py`.

    python benchmarks/rates.py run RMD17_FOLDER RUNS --hosts painn nequip --forms host --losses mse huber --rates 0.003 0.01
    python benchmarks/rates.py run RMD17_FOLDER RUNS --molecules uracil --forms host moving-heads-8 --rates 0.006
    python benchmarks/rates.py table

A row that is finished, a file in ``results/rates``, is not run again. Errors are those of the training structures and of the
1000 test structures.
"""

import argparse
import itertools
from pathlib import Path

from rmd17 import EPOCHS, HOSTS, configuration, model_of
from rows import load_rows, save_row, training_parser, write_table

from npcalc.train import Trainer

ROWS = Path(__file__).parent / "results" / "rates"

NOTE = """# Losses and learning rates

rMD17, one budget (`rmd17.py`): mean absolute errors of the forces, meV/A, on training and test structures, and of the energy,
meV, on the latter. A retreat is a return to the last checkpoint, with half the rate, from a loss that exploded.
"""


def run(
    args: argparse.Namespace, host: str, molecule: str, form: str, loss: str, rate: float, seed: int
) -> None:
    """One row: trains and writes its errors, where they are not there yet."""
    name = f"{host}-{molecule}-{form}-{loss}-{rate:g}-seed{seed}"
    finished = ROWS / f"{name}.json"
    if finished.exists():
        return
    folder = args.runs / "rates" / name
    model = model_of(host, form)
    budget = (args.epochs, seed, args.compile)
    trainer = Trainer(configuration(args.data, molecule, model, folder, *budget, loss, rate))
    trainer.run()
    train, test = trainer.errors("train"), trainer.errors("test")
    row = {
        "host": host, "molecule": molecule, "form": form, "loss": loss, "learning_rate": rate,
        "seed": seed,
        "train_forces_mae_meV_A": 1000 * train["forces_mae"], "forces_mae_meV_A": 1000 * test["forces_mae"],
        "energy_mae_meV": 1000 * test["energy_mae"], "steps": trainer.state["step"],
        "retreats": trainer.state["retreats"],
    }  # fmt: skip
    save_row(finished, row)


def table() -> None:
    """All finished rows as Markdown."""
    sort_by = ("host", "molecule", "form", "loss", "learning_rate", "seed")
    rows = sorted(load_rows(ROWS), key=lambda r: [r[k] for k in sort_by])
    lines = [
        NOTE,
        "| host | molecule | form | loss | learning rate | seed | forces, train | forces, test | energy | retreats |",
        "| --- " * 10 + "|",
    ]
    for r in rows:
        errors = [
            f"{r[k]:.1f}" for k in ("train_forces_mae_meV_A", "forces_mae_meV_A", "energy_mae_meV")
        ]
        named = [r[k] for k in ("host", "molecule", "form", "loss")]
        cells = [*named, f"{r['learning_rate']:g}", r["seed"], *errors, r.get("retreats", "-")]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    write_table(ROWS, lines)


def main() -> None:
    parser, runner = training_parser(__doc__, EPOCHS)
    runner.add_argument("--hosts", nargs="+", default=["painn"], choices=HOSTS)
    runner.add_argument("--molecules", nargs="+", default=["ethanol"])
    runner.add_argument("--forms", nargs="+", default=["host"])
    runner.add_argument("--losses", nargs="+", default=["mse"], choices=["mse", "mae", "huber"])
    runner.add_argument("--rates", nargs="+", type=float, default=[1e-3])
    args = parser.parse_args()
    if args.command == "table":
        table()
        return
    asked = (args.hosts, args.molecules, args.forms, args.losses, args.rates, args.seeds)
    for row in itertools.product(*asked):
        run(args, *row)


if __name__ == "__main__":
    main()
