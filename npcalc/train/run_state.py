"""What a run is at: weights, learning rate and epoch, kept in checkpoints that it goes on from or back to."""

import math
import warnings
from typing import Any

import numpy as np
from torch import Tensor

from ..files import new_file
from .checkpoint import check_same_run, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .log import TrainingLog
from .vectors import WeightVectors

EXPLODED = 100.0
"""Loss of an epoch, in units of the lowest so far, from which on training has diverged."""

RETREATS = 3
"""How often the learning rate is halved before training is given up."""


class TrainingDiverged(RuntimeError):  # noqa: N818 - names the outcome
    """A gradient was NaN or infinite, or errors exploded, with each of the learning rates tried."""


class RunState:
    """A run in its output folder, new or taken up from the checkpoint there.

    Args:
        config: The run.
        vectors: Its weights and optimizer, set to those of the checkpoint if there is one.
        log: Its table, cut where the run goes on.
        learning_rate: Largest learning rate of a new run.
        steps_per_epoch: Steps of a pass over the data.
        reference: Energies of isolated atoms that the network adds to.
        hashes: SHA-256 of the structures of ``data.train`` and ``data.validation``, and of the potential of
            ``start_from`` if there is one.
        writes: Whether this process is the one that writes files.

    Attributes:
        state: What JSON can hold: epoch, step, best error and so on.
        checkpoint: Path of the checkpoint.

    Raises:
        ValueError: The folder holds a run with another configuration, other structures or reference energies.
    """

    def __init__(
        self,
        config: TrainConfig,
        vectors: WeightVectors,
        log: TrainingLog,
        learning_rate: float,
        steps_per_epoch: int,
        reference: list[float],
        hashes: dict[str, str],
        writes: bool,
    ) -> None:
        self._options = config.training
        self._vectors = vectors
        self._log = log
        self._total_steps = config.training.epochs * steps_per_epoch
        self._writes = writes
        self.checkpoint = log.path.parent / "checkpoint.safetensors"
        asked = [config.training.learning_rate, config.training.clip]
        self.state: dict[str, Any] = {
            "epoch": 0,
            "step": 0,
            "best": math.inf,
            "best_epoch": 0,
            "seconds": 0.0,
            "learning_rate": learning_rate,
            "asked": asked,
            "epochs": config.training.epochs,
            "retreats": 0,
            "lowest_loss": None,
            "reference": reference,
            **{_key(name): value for name, value in hashes.items()},
        }
        self._hashed = list(hashes)
        self._odd = (False, False)
        stored = log.path.parent / "config.json"
        if self.checkpoint.exists():
            if stored.exists():
                check_same_run(stored, config)
            self._resume()
            if self.state["asked"] != asked:
                # Another rate or clip: the run may diverge with them as often as a new one.
                rate = asked[0] or self.learning_rate
                self.state |= {"asked": asked, "retreats": 0, "learning_rate": rate}
            if self.state["epochs"] != config.training.epochs:
                # The rate goes up again with another end of the schedule, and the loss may follow it.
                self.state |= {"epochs": config.training.epochs, "lowest_loss": None}
        elif writes:
            log.path.parent.mkdir(parents=True, exist_ok=True)
            log.start()
        if writes:
            with new_file(stored, overwrite=True) as partial:
                partial.write_text(config.model_dump_json(indent=1))
        # Where training goes back to that diverges before its first checkpoint.
        tensors = {name: tensor.detach().clone() for name, tensor in vectors.tensors().items()}
        self._beginning = (tensors, dict(self.state))

    @property
    def learning_rate(self) -> float:
        """Largest learning rate: that of the configuration or of the host, halved at each retreat."""
        return self.state["learning_rate"]

    @property
    def rate_now(self) -> float:
        """Learning rate of the next step: up in the first steps, then half a cosine."""
        opt, step = self._options, self.state["step"]
        warm = min(1.0, (step + 1) / max(opt.warmup_steps, 1))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(step / self._total_steps, 1.0)))
        part = opt.final_learning_rate + (1.0 - opt.final_learning_rate) * cosine
        return self.learning_rate * (warm * part)

    def step(self) -> None:
        """Changes the weights along the gradient that they have."""
        self._vectors.step(self.rate_now)
        self.state["step"] += 1
        self._vectors.follow(self.state["step"], self._options.ema)

    def check_loss(self, loss: float, late: float, epoch: int) -> None:
        """Holds the loss of an epoch against the lowest so far.

        A structure with a wrong label that one epoch left out makes the mean of the next many times larger,
        but not the median of its last steps; a network that exploded stays so to the end.

        Args:
            loss: Mean over the epoch.
            late: Median over its last steps.
            epoch: Its number.

        Raises:
            TrainingDiverged: It exploded.
        """
        lowest = self.state["lowest_loss"]
        self._odd = (self._odd[1], bool(lowest) and loss > EXPLODED * lowest)
        if lowest and min(loss, late) > EXPLODED * lowest:
            raise TrainingDiverged(
                f"the loss of epoch {epoch} is {loss / lowest:.0f} times the lowest"
            )
        if loss > 0.0:
            self.state["lowest_loss"] = loss if lowest is None else min(loss, lowest)

    @property
    def is_settled(self) -> bool:
        """Whether weights are worth keeping: a first epoch of large loss may be the begin of an explosion."""
        before, now = self._odd
        return before or not now

    def save(self) -> None:
        """Writes the checkpoint."""
        if self._writes:
            save_checkpoint(self.checkpoint, self._vectors.tensors(), self.state)

    def retreat(self, reason: TrainingDiverged) -> None:
        """Goes back to the last checkpoint, or to the beginning, and on with half the learning rate.

        Args:
            reason: What made it necessary.

        Raises:
            TrainingDiverged: It happened too often.
        """
        retreats, rate = self.state["retreats"] + 1, 0.5 * self.learning_rate
        since = {k: self.state[k] for k in ("asked", "epochs")}
        if retreats > RETREATS:
            raise TrainingDiverged(
                f"{reason}, for the {retreats}th time, with a learning rate of "
                f"{self.learning_rate:.2g}: look for wrong labels or structures, or give a smaller "
                f"training.learning_rate"
            )
        if self.checkpoint.exists():
            self._resume()
        else:
            self._restore(*self._beginning)
        if self.state["epochs"] != since["epochs"]:  # a checkpoint of before it was changed
            since["lowest_loss"] = None
        self.state |= {**since, "retreats": retreats, "learning_rate": rate}
        if self.state["step"] > 0:
            self.save()
        if self._writes:
            warnings.warn(
                f"{reason}: going on from epoch {self.state['epoch']} with half the learning rate, "
                f"{rate:.2g}",
                stacklevel=3,
            )

    def _resume(self) -> None:
        tensors, state = load_checkpoint(self.checkpoint)
        for name in self._hashed:
            key = _key(name)
            if state.get(key, self.state[key]) != self.state[key]:
                other = f"other {name} structures"
                if name == "start_from":
                    other = "another potential of start_from"
                raise ValueError(
                    f"{self.checkpoint} was made with {other}: give the same, or another output folder"
                )
        # Older checkpoints do not have them; processors differ in the last digits of a fit.
        now = self.state["reference"]
        before = state.get("reference", now)
        if len(before) != len(now) or not np.allclose(before, now, rtol=1e-9, atol=1e-6):
            raise ValueError(
                f"{self.checkpoint} was made with other reference energies, {before} eV and not {now}: "
                f"give the version of npcalc or the data that it was made with, or another output folder"
            )
        self._restore(tensors, state)

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.state |= state
        self._odd = (False, False)
        self._vectors.restore(tensors)
        if self._writes:
            self._log.cut(self.state["epoch"])


def _key(name: str) -> str:
    """Under which a hash is in the state: ``sha256_train`` of ``data.train``."""
    return f"sha256_{name.removeprefix('data.')}"
