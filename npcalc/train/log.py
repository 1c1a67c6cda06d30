"""The table of a run: one row of CSV for each validation."""

import csv
from collections.abc import Sequence
from pathlib import Path

from ..files import new_file


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
            rows = list(csv.reader(file))
        kept = [rows[0]] + [r for r in rows[1:] if r and int(r[0]) <= epoch]
        with new_file(self.path, overwrite=True) as partial, partial.open("w", newline="") as file:
            csv.writer(file).writerows(kept)
