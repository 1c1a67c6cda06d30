"""Training: configuration, loss, trainer, export."""

import os
from pathlib import Path

from .config import ConfigError, TrainConfig, load_config, parse_config
from .export import export
from .loss import Errors
from .run_state import TrainingDiverged
from .trainer import Trainer


def train(config: TrainConfig | str | os.PathLike[str], progress: bool = True) -> Path | None:
    """Trains a potential, or goes on with an interrupted run, and exports it.

    Args:
        config: A configuration or the path of one.
        progress: Whether to show a bar.

    Returns:
        Path of the potential; None in all but the first of several processes.

    Raises:
        ConfigError: The configuration is not valid.
        ValueError: Data and configuration do not fit.
        TrainingDiverged: Training diverged, also with the halved learning rates that were tried.
    """
    trainer = Trainer(config if isinstance(config, TrainConfig) else load_config(config))
    trainer.run(progress)
    path = export(trainer, overwrite=True)
    trainer.processes.close()
    return path if trainer.processes.first else None


__all__ = [
    "ConfigError",
    "Errors",
    "TrainConfig",
    "Trainer",
    "TrainingDiverged",
    "export",
    "load_config",
    "parse_config",
    "train",
]
