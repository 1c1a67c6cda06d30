"""DataSet: structures with any subset of labels, ragged, in memory and as HDF5."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from ..conventions import FIELDS, Field
from ..errors import naming
from ..files import new_file

Array = NDArray[np.float64]
LABELS = ("energy", "forces", "dipole", "centroids")
"""Labels with a meaning of their own. The dipole of a charged structure is that about the coordinate
origin. Any other name is a molecular property: one number for each structure, in a unit of its own."""

FORMAT = 2
"""Format 1 knew no labels but energy, forces and dipole."""


@dataclass(frozen=True)
class Label:
    """One label of all structures.

    Attributes:
        values: Float64 in package units. Per system: shape (n_structures, ...); per atom: shape
            (n_atoms_total, ...). NaN where absent.
        present: Which structures have it, shape (n_structures,).
        unit: Unit of a molecular property; those of `LABELS` have the package's.
    """

    values: Array
    present: NDArray[np.bool_]
    unit: str = ""


def field_of(name: str, unit: str = "") -> Field:
    """What a label is: one of `LABELS`, or a molecular property in ``unit``."""
    return FIELDS[name] if name in LABELS else Field(unit, "system", (), "molecular property")


@dataclass(frozen=True)
class DataSet:
    """Structures of any size, one after the other.

    Attributes:
        n_atoms: Atoms of each structure, shape (n_structures,).
        numbers: Atomic numbers, shape (n_atoms_total,).
        positions: Angstrom, shape (n_atoms_total, 3).
        cell: Lattice vectors as rows in Angstrom, shape (n_structures, 3, 3).
        pbc: Periodic directions, shape (n_structures, 3).
        labels: Labels by name, see `LABELS`.
        provenance: Free text by key: origin, level of theory, licence and so on.
        places: Where the structures stood in the file of which they are a part, shape (n_structures,).
        unread: Keys of the file that no label was read from; not saved.
    """

    n_atoms: NDArray[np.int64]
    numbers: NDArray[np.int64]
    positions: Array
    cell: Array
    pbc: NDArray[np.bool_]
    labels: dict[str, Label]
    provenance: dict[str, str] = field(default_factory=dict)
    places: NDArray[np.int64] | None = None
    unread: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        total = int(self.n_atoms.sum())
        if not (len(self.numbers) == len(self.positions) == total):
            raise ValueError(
                f"n_atoms adds up to {total}, got {len(self.numbers)} atomic numbers and "
                f"{len(self.positions)} positions"
            )
        if (self.n_atoms < 1).any():
            raise ValueError(f"structure {int(np.argmin(self.n_atoms))} has no atoms")
        if not np.isfinite(self.positions).all():
            row = int(np.flatnonzero(~np.isfinite(self.positions).all(1))[0])
            raise ValueError(f"structure {self._structure_of(row)} has NaN or infinite positions")
        for name, label in self.labels.items():
            self._check(name, label)

    def _structure_of(self, row: int) -> int:
        return int(np.searchsorted(self.n_atoms.cumsum(), row, side="right"))

    def _check(self, name: str, label: Label) -> None:
        if name not in LABELS and (name in FIELDS or not name.isidentifier()):
            raise ValueError(
                f"{name!r} is no label: expected one of {', '.join(LABELS)}, or an identifier that "
                f"names a molecular property and is not the name of another quantity"
            )
        spec = field_of(name)
        rows = len(self.numbers) if spec.level == "atom" else len(self)
        expected = (rows, *spec.shape)
        if label.values.shape != expected:
            raise ValueError(f"label {name!r}: expected shape {expected}, got {label.values.shape}")
        present = np.repeat(label.present, self.n_atoms) if spec.level == "atom" else label.present
        if spec.partial:
            present = present & ~np.isnan(label.values.reshape(rows, -1)).all(axis=1)
        finite = np.asarray(np.isfinite(label.values).reshape(rows, -1).all(axis=1))
        if not finite[present].all():
            row = int(np.flatnonzero(present & ~finite)[0])
            index = self._structure_of(row) if spec.level == "atom" else row
            raise ValueError(f"label {name!r} of structure {index} is NaN or infinite")

    def __len__(self) -> int:
        return len(self.n_atoms)

    def place(self, index: int) -> int:
        """Where a structure stood in the file of which this may be a part, counted from 0."""
        return index if self.places is None else int(self.places[index])

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First atom of each structure and the total, shape (n_structures + 1,)."""
        return np.concatenate([[0], self.n_atoms.cumsum()]).astype(np.int64)

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return [int(z) for z in np.unique(self.numbers)]

    @property
    def common_formula(self) -> str:
        """Hill formula that all structures share, or an empty string."""
        if (self.n_atoms != self.n_atoms[0]).any():
            return ""
        numbers = np.sort(self.numbers.reshape(len(self), -1), axis=1)
        if (numbers != numbers[0]).any():
            return ""
        return Formula.from_list([chemical_symbols[z] for z in numbers[0]]).format("hill")

    def atom_rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the atoms of the given structures in the ragged arrays."""
        offsets = self.offsets
        return ragged_rows(offsets[indices], self.n_atoms[indices])

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "DataSet":
        """The structures with these indices, in this order.

        Raises:
            IndexError: An index is outside the data set.
        """
        index = np.asarray(indices, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            bad = index[(index < 0) | (index >= len(self))][0]
            raise IndexError(f"structure {bad} does not exist: the data set has {len(self)}")
        rows = self.atom_rows(index)
        labels = {
            name: Label(
                label.values[rows if field_of(name).level == "atom" else index],
                label.present[index],
                label.unit,
            )
            for name, label in self.labels.items()
        }
        return replace(
            self,
            n_atoms=self.n_atoms[index],
            numbers=self.numbers[rows],
            positions=self.positions[rows],
            cell=self.cell[index],
            pbc=self.pbc[index],
            labels=labels,
            places=index if self.places is None else self.places[index],
        )

    def atoms(self, index: int) -> Atoms:
        """The structure with this index as ASE `Atoms`, without labels."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return Atoms(
            self.numbers[rows], self.positions[rows], cell=self.cell[index], pbc=self.pbc[index]
        )

    def require(self, name: str, advice: str = "") -> Label:
        """The label of this name.

        Args:
            name: The label.
            advice: What is added to the message where there is none.

        Raises:
            ValueError: No structure has it.
        """
        label = self.labels.get(name)
        if label is None or not label.present.any():
            have = [k for k, v in self.labels.items() if v.present.any()]
            hint = ""
            if self.unread:
                hint = (
                    f"; keys that no label is read from: {', '.join(self.unread)} (data.keys, or --key of "
                    f"npcalc convert, say which is which)"
                )
            raise ValueError(
                f"label {name!r} is asked for, but no structure has it; the data set has: "
                f"{', '.join(have) or 'no labels'}{hint}{advice}"
            )
        return label

    def sha256(self) -> str:
        """Hash of structures and labels, for the card of a potential."""
        digest = hashlib.sha256()
        arrays: list[NDArray] = [self.n_atoms, self.numbers, self.positions, self.cell, self.pbc]
        for name in sorted(self.labels):
            arrays += [self.labels[name].values, self.labels[name].present]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Writes the data set as HDF5 with units in the attributes.

        Args:
            path: File to write; it appears only when it is complete.
            overwrite: Whether an existing file may be replaced.

        Raises:
            FileExistsError: The file exists.
        """
        packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
        with new_file(path, overwrite) as partial, h5py.File(partial, "w") as file:
            file.attrs["format"] = "npcalc data set"
            file.attrs["version"] = FORMAT
            for key, text in self.provenance.items():
                file.attrs[f"provenance_{key}"] = text
            file.create_dataset("n_atoms", data=self.n_atoms, **packed)
            file.create_dataset("numbers", data=self.numbers.astype(np.uint8), **packed)
            file.create_dataset("positions", data=self.positions, **packed).attrs["unit"] = "A"
            file.create_dataset("cell", data=self.cell, **packed).attrs["unit"] = "A"
            file.create_dataset("pbc", data=self.pbc, **packed)
            for name, label in self.labels.items():
                group = file.create_group(f"labels/{name}")
                present = label.present
                spec = field_of(name, label.unit)
                rows = np.repeat(present, self.n_atoms) if spec.level == "atom" else present
                data = group.create_dataset("values", data=label.values[rows], **packed)
                data.attrs["unit"] = spec.unit
                group.create_dataset("present", data=present, **packed)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "DataSet":
        """Reads a data set that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not such a data set, or of a newer format, or damaged.
        """
        name = os.fspath(path)
        if not Path(path).exists():
            raise FileNotFoundError(f"no data set {name!r}")
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise ValueError(f"{name!r} is not a readable HDF5 file: {error}") from error
        try:
            with naming(name):
                return cls._read(file)
        except (KeyError, OSError) as error:
            raise ValueError(f"the data set {name!r} is damaged: {error}") from error

    @classmethod
    def _read(cls, file: h5py.File) -> "DataSet":
        with file:
            if file.attrs.get("format") != "npcalc data set":
                raise ValueError("HDF5, but not an npcalc data set")
            if file.attrs["version"] > FORMAT:
                raise ValueError(
                    f"format {file.attrs['version']}, this npcalc reads up to {FORMAT}: update npcalc"
                )
            n_atoms = file["n_atoms"][...].astype(np.int64)
            labels = {
                label: _read_label(group, label, n_atoms)
                for label, group in file.get("labels", {}).items()
            }
            prefix = "provenance_"
            return cls(
                n_atoms=n_atoms,
                numbers=file["numbers"][...].astype(np.int64),
                positions=file["positions"][...],
                cell=file["cell"][...],
                pbc=file["pbc"][...].astype(bool),
                labels=labels,
                provenance={
                    k.removeprefix(prefix): str(v)
                    for k, v in file.attrs.items()
                    if k.startswith(prefix)
                },
            )


def _read_label(group: h5py.Group, name: str, n_atoms: NDArray[np.int64]) -> Label:
    unit = str(group["values"].attrs["unit"])
    spec = field_of(name, unit)
    if unit != spec.unit:
        raise ValueError(f"label {name!r} has unit {unit!r}, expected {spec.unit!r}")
    present = group["present"][...].astype(bool)
    rows = np.repeat(present, n_atoms) if spec.level == "atom" else present
    values = np.full((len(rows), *group["values"].shape[1:]), np.nan)
    values[rows] = group["values"][...]
    return Label(values, present, "" if name in LABELS else unit)


def ragged_rows(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Joins the ranges ``start .. start + count`` of ragged arrays into one index array."""
    ends = counts.cumsum()
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
