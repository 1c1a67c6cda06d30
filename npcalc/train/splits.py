"""Training, validation and test structures as a configuration names them."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from ..data import DataSet, isolated_atoms, random_split, read_data
from .config import DataConfig, TrainConfig

_Rows = NDArray[np.int64]


def load_splits(run: TrainConfig) -> dict[str, DataSet]:
    """Reads the files and splits them.

    Isolated atoms are reference energies and nothing to learn or to validate on: all those of the file are
    among the training structures, beside as many others as are asked for.

    Args:
        run: Says where they are and which molecular properties to read.

    Returns:
        Data sets ``train``, ``validation`` and, if a file is given, ``test``.

    Raises:
        ValueError: The sizes asked for do not fit.
    """
    config = run.data
    properties = {name: p.unit for name, p in run.model.properties.items()}

    def read(path: Path) -> DataSet:
        return read_data(path, config.keys, config.units, properties)

    whole = read(config.train)
    isolated = isolated_atoms(whole, run.model.cutoff)
    others = np.flatnonzero(~isolated)
    if len(others) == 0:
        raise ValueError(f"{config.train} holds isolated atoms alone: there is nothing to train on")
    train, validation = (
        _named(config, whole, others) if config.split_file else _drawn(config, others)
    )
    alone = np.setdiff1d(
        _rows_of_elements(whole, np.flatnonzero(isolated), run.model.elements), train
    )
    splits = {"train": whole.subset(np.concatenate([train, alone]))}
    splits["validation"] = (
        read(config.validation) if config.validation else whole.subset(validation)
    )
    if config.test is not None:
        splits["test"] = read(config.test)
    _warn_of_repeated(run, splits)
    return splits


def _drawn(config: DataConfig, others: _Rows) -> tuple[_Rows, _Rows]:
    """Rows to train and to validate on, drawn from those of no isolated atom."""
    n_validation = 0 if config.validation else config.n_validation
    n_train = config.n_train or len(others) - n_validation
    if n_train < 1:
        raise ValueError(
            f"{config.train} has {len(others)} structures, of which data.n_validation takes "
            f"{n_validation}: none is left to train on"
        )
    if n_train + n_validation > len(others):
        raise ValueError(
            f"{config.train} has {len(others)} structures that are no isolated atoms, fewer than "
            f"data.n_train and data.n_validation ask for, {n_train} and {n_validation}"
        )
    train, validation = random_split(len(others), [n_train, n_validation], config.split_seed)
    return others[train], others[validation]


def _named(config: DataConfig, whole: DataSet, others: _Rows) -> tuple[_Rows, _Rows]:
    """Rows that the file of a split names, and the first of the others."""
    try:
        train = np.loadtxt(str(config.split_file), dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise ValueError(f"{config.split_file}: expected one index a line: {error}") from error
    wrong = train[(train < 0) | (train >= len(whole))]
    if len(wrong):
        raise ValueError(
            f"{config.split_file} names structure {wrong[0]}, but {config.train} has "
            f"{len(whole)}, counted from 0"
        )
    twice = np.flatnonzero(np.bincount(train) > 1)
    if len(twice):
        raise ValueError(f"{config.split_file} names structure {twice[0]} more than once")
    rest = np.setdiff1d(others, train)[: config.n_validation]
    if len(rest) == 0:
        raise ValueError(
            f"{config.split_file} names all {len(others)} structures of {config.train}: none is "
            f"left to validate on; leave some out or give data.validation"
        )
    return train, rest


def _rows_of_elements(data: DataSet, rows: _Rows, elements: tuple[str, ...]) -> _Rows:
    """Those rows of isolated atoms whose element is among the given, all where none is given."""
    if not elements:
        return rows
    return rows[np.isin(data.numbers[data.atom_rows(rows)], [atomic_numbers[e] for e in elements])]


def _warn_of_repeated(run: TrainConfig, splits: dict[str, DataSet]) -> None:
    """Warns where structures that are not to be trained on are among those that are."""
    trained = set(_structures(splits["train"]))
    for name, other in splits.items():
        if name == "train":
            continue
        repeated = sum(structure in trained for structure in _structures(other))
        if repeated:
            warnings.warn(
                f"{repeated} of the {len(other)} {name} structures of {run.data.file_of(name)} are "
                f"training structures too: errors on them say nothing about others",
                stacklevel=3,
            )


def _structures(data: DataSet) -> Iterator[bytes]:
    """A hash of atoms, positions and cell of each structure."""
    ends = np.cumsum(data.n_atoms)
    for first, last, cell in zip(ends - data.n_atoms, ends, data.cell, strict=True):
        parts = (data.numbers[first:last], data.positions[first:last], cell)
        yield hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()
