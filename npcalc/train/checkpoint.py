"""Checkpoints: all state of a run as safetensors with a JSON header, no pickle."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import new_file
from .config import TrainConfig, idle_keys

FORMAT = "npcalc checkpoint 1"


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes a checkpoint; the file appears only when it is complete.

    Args:
        path: File to write.
        tensors: Weights and optimizer state by name.
        state: What JSON can hold: epoch, best error and so on.
    """
    copies = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    content = save(copies, metadata={"format": FORMAT, "state": json.dumps(state)})
    with new_file(path, overwrite=True) as partial:
        # Not by safetensors' own function, whose files nobody else may read.
        partial.write_bytes(content)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        path: File that `save_checkpoint` wrote.

    Returns:
        Tensors and state.

    Raises:
        ValueError: The file is no complete checkpoint of this format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({error}): delete it to start anew"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this version: {metadata.get('format')}")
    return tensors, json.loads(metadata["state"])


def check_same_run(path: Path, config: TrainConfig) -> None:
    """Refuses to go on with a run by a configuration of another one.

    The number of epochs may change (the schedule of the learning rate follows it), the learning
    rate and the clip, and what has no influence on the weights but rounding: paths, texts, how often to
    validate or save, what calculates, and keys that do nothing in both.

    Args:
        path: ``config.json`` of the run.
        config: What is to go on.

    Raises:
        ValueError: It is another run.
    """
    free: Any = {
        "name": True,
        "output": True,
        "start_from": True,  # a hash guards the content
        "card": True,
        "data": {"train", "validation", "test", "split_file"},  # a hash guards the content
        "training": {
            "epochs",
            "learning_rate",
            "clip",
            "validate_every",
            "checkpoint_every",
            "threads",
            "compile",
            "device",
        },
    }
    try:
        stored = TrainConfig.model_validate_json(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path}, the configuration of the run in this folder, cannot be read: give another "
            f"output folder, or delete the file if the run is surely this one"
        ) from error
    old, new = stored.model_dump(exclude=free), config.model_dump(exclude=free)
    for key in idle_keys(stored).keys() & idle_keys(config).keys():
        section, name = key.split(".")
        for side in (old, new):
            side[section].pop(name, None)
    different = next(_differences(old, new), None)
    if different is not None:
        key, before, now = different
        raise ValueError(
            f"{path.parent} holds a run with another {key}, {before!r} and not {now!r}: take that, or give "
            f"another output folder"
        )


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys, joined by dots, with both values where they differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for part in {**old, **new}:
            yield from _differences(old.get(part), new.get(part), f"{key}.{part}".lstrip("."))
    elif old != new:
        yield key, old, new
