"""Rows of the tables: one JSON file each, so that what is finished is not run again."""

import argparse
import csv
import json
import statistics
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure

from npcalc.files import new_file


def save_row(path: Path, row: dict) -> None:
    """Writes and prints a finished row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial:
        partial.write_text(json.dumps(row, indent=1))
    print(row, flush=True)


def ms_per_step(log: Path) -> float:
    """Time of a training step from a log, the median over its lines.

    The time to the first line holds compilation and is left out; validation is part of the rest.
    """
    with log.open(newline="") as file:
        lines = [(int(line["step"]), float(line["seconds"])) for line in csv.DictReader(file)]
    return 1000 * statistics.median((t - s) / (n - m) for (m, s), (n, t) in pairwise(lines))


def load_rows(folder: Path) -> list[dict]:
    """All finished rows of a folder; ends the program where there is none."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not rows:
        raise SystemExit(f"{folder} holds no finished row")
    return rows


def write_table(target: Path, lines: list[str], rows: list[dict] | None = None) -> None:
    """Writes Markdown lines to ``target`` with the ending .md and rows to .csv; prints the lines."""
    with new_file(target.with_suffix(".md"), overwrite=True) as partial:
        partial.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if rows is None:
        return
    with (
        new_file(target.with_suffix(".csv"), overwrite=True) as partial,
        partial.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def save_figure(figure: Figure, target: Path) -> None:
    """Writes a figure."""
    with new_file(target, overwrite=True) as partial:
        figure.savefig(partial, dpi=150)


def training_parser(
    doc: str, epochs: int | None
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """A parser with the commands ``run`` and ``table``, and that of ``run`` to add options to."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("table")
    runner = commands.add_parser("run")
    runner.add_argument("data", type=Path)
    runner.add_argument("runs", type=Path)
    runner.add_argument("--seeds", nargs="+", type=int, default=[0])
    runner.add_argument("--epochs", type=int, default=epochs)
    runner.add_argument(
        "--no-compile", dest="compile", action="store_const", const=False, default="auto"
    )
    return parser, runner
