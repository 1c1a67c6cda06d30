"""Training, validation and test structures as a configuration names them."""

import numpy as np

from ..data import DataSet, random_split, read_data
from .config import DataConfig


def load_splits(config: DataConfig) -> dict[str, DataSet]:
    """Reads the files and splits them.

    Args:
        config: Where they are.

    Returns:
        Data sets ``train``, ``validation`` and, if a file is given, ``test``.

    Raises:
        ValueError: The sizes asked for do not fit.
    """
    whole = read_data(config.train, config.keys, config.units)
    splits = {}
    if config.validation is not None:
        splits["validation"] = read_data(config.validation, config.keys, config.units)
        n = config.n_train or len(whole)
        splits["train"] = whole.subset(random_split(len(whole), [n], config.split_seed)[0])
    elif config.split_file is not None:
        train = np.loadtxt(config.split_file, dtype=np.int64, ndmin=1)
        wrong = train[(train < 0) | (train >= len(whole))]
        if len(wrong):
            raise ValueError(
                f"{config.split_file} names structure {wrong[0]}, but {config.train} has "
                f"{len(whole)}, counted from 0"
            )
        rest = np.setdiff1d(np.arange(len(whole)), train)[: config.n_validation]
        if len(rest) == 0:
            raise ValueError(
                f"{config.split_file} names all {len(whole)} structures of {config.train}: none is "
                f"left to validate on; leave some out or give data.validation"
            )
        splits = {"train": whole.subset(train), "validation": whole.subset(rest)}
    else:
        n = config.n_train or len(whole) - config.n_validation
        parts = random_split(len(whole), [n, config.n_validation], config.split_seed)
        splits = {"train": whole.subset(parts[0]), "validation": whole.subset(parts[1])}
    if config.test is not None:
        splits["test"] = read_data(config.test, config.keys, config.units)
    return splits
