"""Readers of reference data: the rMD17 npz layout, extended XYZ and HDF5."""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import compare_atoms
from numpy.typing import NDArray

from ..conventions import DIPOLE_UNITS, ENERGY_UNITS, LENGTH_UNITS, unit_factor
from ..errors import naming, reason
from .dataset import LABELS, DataSet, Label, field_of

Array = NDArray[np.float64]

NO_LABELS = frozenset(
    ["charges", "free_energy", "initial_charges", "initial_magmoms", "magmom", "magmoms", "masses"]
    + ["momenta", "stress", "tags"]
)
"""Keys of ASE that no label is read from, whatever they hold."""


def label_factor(
    name: str, energy_unit: str, length_unit: str, dipole_unit: str, forces_unit: str | None = None
) -> float:
    """Factor from the units of a file to those of the package for the label ``name``.

    It is 1 for molecular properties, which keep the unit of the file. Without a unit of their own forces have
    that of energy over that of length.
    """
    energy = unit_factor(ENERGY_UNITS, energy_unit, "energy")
    length = unit_factor(LENGTH_UNITS, length_unit, "length")
    dipole = unit_factor(DIPOLE_UNITS, dipole_unit, "dipole")
    forces = energy / length
    if forces_unit is not None:
        of_energy, slash, of_length = forces_unit.rpartition("/")
        if not slash:
            raise ValueError(
                f"unit of forces {forces_unit!r}: expected ENERGY/LENGTH, such as hartree/bohr"
            )
        forces = unit_factor(ENERGY_UNITS, of_energy, "energy")
        forces /= unit_factor(LENGTH_UNITS, of_length, "length")
    factors = {"energy": energy, "forces": forces, "dipole": dipole, "centroids": length}
    return factors.get(name, 1.0)


def _check_names(keys: Mapping[str, str], properties: Mapping[str, str]) -> None:
    for name in keys:
        if name not in LABELS and name not in properties:
            known = ", ".join((*LABELS, *properties))
            raise ValueError(f"unknown label {name!r}: expected one of {known}")


def read_npz(
    path: str | os.PathLike[str],
    keys: Mapping[str, str] | None = None,
    energy_unit: str = "kcal/mol",
    length_unit: str = "A",
    dipole_unit: str = "e*A",
    properties: Mapping[str, str] | None = None,
    forces_unit: str | None = None,
) -> DataSet:
    """Reads structures of one composition in the layout of rMD17.

    Args:
        path: File with ``nuclear_charges`` (n_atoms,), ``coords`` (n, n_atoms, 3) and labels.
        keys: Key of each label in the file; by default ``energies`` and ``forces``.
        energy_unit: Unit of energies, and of forces per length without ``forces_unit``.
        length_unit: Unit of coordinates.
        dipole_unit: Unit of dipoles.
        properties: Unit of each molecular property; without ``keys`` its name is its key.
        forces_unit: Unit of forces, such as ``hartree/bohr``.

    Returns:
        The data set in package units.

    Raises:
        ValueError: A key is missing or an array has the wrong shape.
    """
    units = properties or {}
    keys = dict(
        keys or {"energy": "energies", "forces": "forces", **{name: name for name in units}}
    )
    _check_names(keys, units)
    try:
        # Opened here, because numpy leaves a file open that it cannot read.
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not a readable npz file: {error}") from error

    def factor(name: str) -> float:
        return label_factor(name, energy_unit, length_unit, dipole_unit, forces_unit)

    with naming(path):
        length = unit_factor(LENGTH_UNITS, length_unit, "length")
        data = _from_arrays(arrays, keys, length, factor, units)
    data.provenance["file"] = Path(path).name
    return data


def _from_arrays(
    arrays: Mapping[str, NDArray],
    keys: Mapping[str, str],
    length: float,
    factor: Callable[[str], float],
    units: Mapping[str, str],
) -> DataSet:
    """Structures of one composition, from what an npz file holds.

    Args:
        arrays: Arrays by key.
        keys: Key of each label.
        length: Factor of coordinates to Angstrom.
        factor: Factor of each label to the package's unit.
        units: Unit of each molecular property.
    """
    for key in ["nuclear_charges", "coords", *keys.values()]:
        if key not in arrays:
            raise ValueError(f"no key {key!r}; it has: {', '.join(arrays)}")
    coords = np.asarray(arrays["coords"], dtype=float) * length
    numbers = np.asarray(arrays["nuclear_charges"], dtype=np.int64)
    if coords.ndim != 3 or coords.shape[1:] != (*numbers.shape, 3):
        raise ValueError(
            f"key 'coords' has shape {coords.shape}, key 'nuclear_charges' {numbers.shape}: expected "
            f"(n, n_atoms, 3) and (n_atoms,)"
        )
    n, n_atoms, _ = coords.shape
    labels = {}
    for name, key in keys.items():
        spec = field_of(name)
        per_structure = (n_atoms, *spec.shape) if spec.level == "atom" else spec.shape
        try:
            values = np.asarray(arrays[key], dtype=float)
        except ValueError as error:
            raise ValueError(f"key {key!r} for label {name!r}: {error}") from error
        if values.shape == (n, 1) and not per_structure:
            values = values[:, 0]
        if values.shape != (n, *per_structure):
            raise ValueError(
                f"key {key!r} for label {name!r} has shape {values.shape}, "
                f"expected {(n, *per_structure)}"
            )
        rows = (n * n_atoms, *spec.shape) if spec.level == "atom" else (n, *spec.shape)
        present = np.ones(n, dtype=bool)
        labels[name] = Label(values.reshape(rows) * factor(name), present, units.get(name, ""))
    return DataSet(
        n_atoms=np.full(n, n_atoms, dtype=np.int64),
        numbers=np.tile(numbers, n),
        positions=coords.reshape(-1, 3),
        cell=np.zeros((n, 3, 3)),
        pbc=np.zeros((n, 3), dtype=bool),
        labels=labels,
    )


def _atoms_label(atoms: Atoms, name: str, key: str) -> Array | None:
    """One label of one frame: from info, arrays, or the results that ASE's reader found."""
    store = atoms.arrays if field_of(name).level == "atom" else atoms.info
    if key in store:
        return np.asarray(store[key], dtype=float)
    if atoms.calc is not None and key in atoms.calc.results:
        if _is_changed(atoms):
            raise ValueError(
                f"label {name!r} (key {key!r}) is a result of a calculator for another structure: atoms were "
                f"moved since, or several structures share the calculator; give each a "
                f"SinglePointCalculator with its own results"
            )
        return np.asarray(atoms.calc.results[key], dtype=float)
    return None


def _is_changed(atoms: Atoms) -> bool:
    """Whether the results of the calculator are of another structure."""
    known = getattr(atoms.calc, "atoms", None)
    if known is None:
        return False
    changes = compare_atoms(
        known, atoms, excluded_properties=["initial_charges", "initial_magmoms"]
    )
    return bool(changes)


def _keys_of(frames: list[Atoms]) -> list[str]:
    """All keys that labels may have."""
    keys = {
        str(key)
        for atoms in frames
        for key in [*atoms.info, *atoms.arrays, *(atoms.calc.results if atoms.calc else ())]
    }
    return sorted(keys - {"numbers", "positions"})


def _unread(frames: list[Atoms], used: list[str]) -> tuple[str, ...]:
    """Keys that may be labels under another name."""
    return tuple(key for key in _keys_of(frames) if key not in {*used, *NO_LABELS})


def from_atoms(
    frames: list[Atoms],
    keys: Mapping[str, str] | None = None,
    energy_unit: str = "eV",
    length_unit: str = "A",
    dipole_unit: str = "e*A",
    properties: Mapping[str, str] | None = None,
    forces_unit: str | None = None,
) -> DataSet:
    """Makes a data set of ASE `Atoms`.

    Args:
        frames: Structures.
        keys: Key of each label in ``info``, ``arrays`` or the calculator's results; by default
            whatever of `LABELS` and of ``properties`` is there.
        energy_unit: Unit of energies, and of forces per length without ``forces_unit``.
        length_unit: Unit of coordinates and cells.
        dipole_unit: Unit of dipoles.
        properties: Unit of each molecular property, one number for each frame.
        forces_unit: Unit of forces, such as ``hartree/bohr``.

    Returns:
        The data set in package units; frames without a label are marked so.

    Raises:
        ValueError: No frame has a key that was asked for, a label has the wrong shape, or results are not
            those of the frame as it is.
    """
    if not frames:
        raise ValueError("no structures: the file is empty")
    length = unit_factor(LENGTH_UNITS, length_unit, "length")
    n_atoms = np.array([len(a) for a in frames], dtype=np.int64)
    labels = {}
    units = properties or {}
    _check_names(keys or {}, units)
    for name in keys if keys is not None else (*LABELS, *units):
        key = keys[name] if keys is not None else name
        spec = field_of(name)
        found = []
        for index, atoms in enumerate(frames):
            with naming(f"structure {index}"):
                found.append(_atoms_label(atoms, name, key))
        if all(f is None for f in found):
            if keys is None:
                continue
            raise ValueError(
                f"no structure has the key {key!r} for label {name!r}; keys found: "
                f"{', '.join(_keys_of(frames)) or 'none'}"
            )
        factor = label_factor(name, energy_unit, length_unit, dipole_unit, forces_unit)
        blocks = []
        for index, (value, count) in enumerate(zip(found, n_atoms, strict=True)):
            shape = (int(count), *spec.shape) if spec.level == "atom" else (1, *spec.shape)
            if value is None:
                blocks.append(np.full(shape, np.nan))
            elif value.shape not in (shape, shape[1:] if spec.level == "system" else shape):
                raise ValueError(
                    f"label {name!r} (key {key!r}) of structure {index} has shape {value.shape}, "
                    f"expected {shape if spec.level == 'atom' else spec.shape}"
                )
            else:
                blocks.append(value.reshape(shape) * factor)
        present = np.array([f is not None for f in found])
        labels[name] = Label(np.concatenate(blocks), present, units.get(name, ""))
    return DataSet(
        n_atoms=n_atoms,
        numbers=np.concatenate([a.numbers for a in frames]).astype(np.int64),
        positions=np.concatenate([a.positions for a in frames]) * length,
        cell=np.stack([a.cell.array for a in frames]) * length,
        pbc=np.stack([a.pbc for a in frames]),
        labels=labels,
        unread=_unread(frames, [keys[name] if keys else name for name in labels]),
    )


def read_data(
    path: str | os.PathLike[str],
    keys: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
) -> DataSet:
    """Reads a data set; the ending of the name decides how.

    Args:
        path: ``.h5``/``.hdf5`` (npcalc's own), ``.npz`` (rMD17 layout, kcal/mol), or anything that
            ASE reads with labels in eV and Angstrom, such as extended XYZ.
        keys: Key of each label in the file; not for npcalc's own files, whose names are fixed.
        units: Units of ``energy``, ``length``, ``dipole`` and ``forces`` in the file, instead of those
            above; forces have that of energy over that of length where theirs is not given. npcalc's own
            files say theirs.
        properties: Unit of each molecular property to read beside `LABELS`; npcalc's own files
            have to agree with it.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not what its name says, or a key is missing.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"no data file {os.fspath(path)!r}")
    for what in units or {}:
        if what not in ("energy", "length", "dipole", "forces"):
            raise ValueError(f"unit of {what!r}: expected that of energy, length, dipole or forces")
    ending = source.suffix.lower()
    if ending in (".h5", ".hdf5"):
        if units:
            raise ValueError(
                f"{os.fspath(path)!r} says its own units: leave out those given ({', '.join(units)})"
            )
        data = DataSet.load(source)
        for name, key in (keys or {}).items():
            if name != key or key not in data.labels:
                raise ValueError(
                    f"{os.fspath(path)!r} has no key {key!r} for label {name!r}; it has: "
                    f"{', '.join(data.labels)}, under these names"
                )
        for name, unit in (properties or {}).items():
            if name in data.labels and data.labels[name].unit != unit:
                raise ValueError(
                    f"{os.fspath(path)!r} has {name!r} in {data.labels[name].unit!r}, expected {unit!r}"
                )
        return data
    given = {f"{what}_unit": unit for what, unit in (units or {}).items()}
    if ending == ".npz":
        return read_npz(source, keys, **given, properties=properties)
    try:
        frames = ase.io.read(source, index=":")
    except Exception as error:
        raise ValueError(
            f"{os.fspath(path)!r} holds no structures that ASE can read: {reason(error)}"
        ) from error
    with naming(source):
        return from_atoms(
            frames if isinstance(frames, list) else [frames], keys, **given, properties=properties
        )
