"""Training, validation and test structures as a configuration names them."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from ..data import DataSet, isolated_atoms, random_split, read_data
from .config import TrainConfig


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
    alone, others = np.flatnonzero(isolated), np.flatnonzero(~isolated)
    if run.model.elements:
        kept = np.isin(
            whole.numbers[whole.atom_rows(alone)], [atomic_numbers[e] for e in run.model.elements]
        )
        alone = alone[kept]
    n_others = len(others)
    if n_others == 0:
        raise ValueError(f"{config.train} holds isolated atoms alone: there is nothing to train on")

    def random_subsets(*sizes: int) -> list[DataSet]:
        """Training structures, and others where a second size is given."""
        train, *rest = (
            others[part] for part in random_split(n_others, list(sizes), config.split_seed)
        )
        return [whole.subset(np.union1d(train, alone)), *map(whole.subset, rest)]

    splits = {}
    if config.validation is not None:
        splits["validation"] = read(config.validation)
        splits["train"] = random_subsets(config.n_train or n_others)[0]
    elif config.split_file is not None:
        train = np.loadtxt(config.split_file, dtype=np.int64, ndmin=1)
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
                f"{config.split_file} names all {n_others} structures of {config.train}: none is "
                f"left to validate on; leave some out or give data.validation"
            )
        train = np.concatenate([train, np.setdiff1d(alone, train)])
        splits = {"train": whole.subset(train), "validation": whole.subset(rest)}
    else:
        n = config.n_train or n_others - config.n_validation
        if n < 1:
            raise ValueError(
                f"{config.train} has {n_others} structures, of which data.n_validation takes "
                f"{config.n_validation}: none is left to train on"
            )
        splits["train"], splits["validation"] = random_subsets(n, config.n_validation)
    if config.test is not None:
        splits["test"] = read(config.test)
    _warn_of_repeated(run, splits)
    return splits


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
