"""What a run shows: a row of CSV for each validation, and the errors beside the progress bar."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from ..files import new_file
from .loss import Errors, Target


class TrainingLog:
    """Rows of ``log.csv``, each with the epoch in front.

    Args:
        path: The file.
        columns: Names of the columns, that of the epoch first.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = columns

    def start(self) -> None:
        """Writes a new file with the names of the columns."""
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerow(self.columns)

    def add(self, row: Sequence[object]) -> None:
        """Adds a row."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)

    def cut(self, epoch: int) -> None:
        """Drops the rows after an epoch, which the continued run writes again."""
        if not self.path.exists():  # someone removed it: the rest of the run is still worth a table
            self.start()
            return
        with self.path.open(newline="") as file:
            rows = list(csv.reader(file)) or [list(self.columns)]
        kept = [rows[0]] + [r for r in rows[1:] if r and int(r[0]) <= epoch]
        with new_file(self.path, overwrite=True) as partial, partial.open("w", newline="") as file:
            csv.writer(file).writerows(kept)


def progress_text(errors: Errors, targets: Sequence[Target]) -> str:
    """The errors that the progress bar shows, of what is trained and labelled.

    Args:
        errors: Of the validation structures.
        targets: What the run is trained on.
    """
    units = {"energy": "meV", "forces": "meV/A", "dipole": "me A", "centroids": "mA"}
    parts = []
    for target in targets:
        mae = errors[f"{target.name}_mae"]
        if target.weight == 0.0 or math.isnan(mae):
            continue
        if target.name in units:
            parts.append(f"{target.name[0].upper()} {1e3 * mae:.1f} {units[target.name]}")
        else:
            parts.append(f"{target.name} {mae:.3g}")
    return ", ".join(parts[:6])
