"""The small run that the tests of training share."""

import csv

from npcalc.potential.registry import bundled_folder

DATA = bundled_folder() / "data" / "ethanol-train.h5"


def raw_config(folder, **training):
    return {
        "name": "small",
        "output": str(folder),
        "model": {"host": {"name": "painn", "channels": 16, "n_layers": 2, "n_basis": 8}},
        "data": {"train": str(DATA), "n_train": 100, "n_validation": 20},
        "loss": {"energy": 1.0, "forces": 1.0, "dipole": 1.0},
        "training": {
            "epochs": 4, "batch_size": 10, "learning_rate": 5e-3, "compile": False, "ema": 0.9,
            "validate_every": 1, "checkpoint_every": 1, "warmup_steps": 5, **training,
        },
    }  # fmt: skip


def log_rows(folder):
    """Rows of the log of a run."""
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))
