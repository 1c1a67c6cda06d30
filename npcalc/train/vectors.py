"""The weights of a run with what follows them: averages, the best averages, moments of the optimizer."""

import torch
from torch import Tensor

from .loss import LossModule

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What the optimizer keeps of each weight."""


class WeightVectors:
    """Vectors of one layout, that of `LossModule.weights`; a checkpoint holds all of them.

    Args:
        loss: The loss, whose weights are trained.
        weight_decay: Of the optimizer.

    Attributes:
        current: The weights.
        average: Their moving average.
        best: The average with the lowest errors so far.
        optimizer: The optimizer of the weights.
    """

    def __init__(self, loss: LossModule, weight_decay: float) -> None:
        self._pieces = loss.pieces
        self.current = loss.weights
        self.average = self.current.detach().clone()
        self.best = self.average.clone()
        self.optimizer = torch.optim.AdamW([self.current], weight_decay=weight_decay, fused=True)

    def step(self, learning_rate: float) -> None:
        """Changes the weights along their gradient.

        Args:
            learning_rate: Of this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def follow(self, step: int, decay: float) -> None:
        """Moves the average towards the weights.

        Args:
            step: Steps that have been made.
            decay: Part of the average that stays; less in the first steps.
        """
        with torch.no_grad():
            self.average.lerp_(self.current, 1.0 - min(decay, (1.0 + step) / (10.0 + step)))

    def keep_average(self) -> None:
        """Makes the average the best one."""
        self.best = self.average.clone()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a continued run needs, by name."""
        vectors = {"weight": self.current, "average": self.average, "best": self.best}
        state = self.optimizer.state.get(self.current, {})
        vectors |= {f"optimizer.{k}": state[k] for k in MOMENTS if k in state}
        tensors = {
            f"{kind}.{name}": piece
            for kind, vector in vectors.items()
            for name, piece in self._pieces(vector).items()
        }
        return tensors | ({"optimizer.step": state["step"]} if state else {})

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes up what `tensors` returned.

        Args:
            tensors: Of a checkpoint; those of older versions have a step for each parameter, and no
                moments of those without use.
        """
        with torch.no_grad():
            self._fill(self.current, "weight", tensors)
            self._fill(self.average, "average", tensors)
            self._fill(self.best, "best", tensors)
            self.optimizer.state.clear()
            steps = [v for k, v in tensors.items() if k.startswith("optimizer.step")]
            if steps:
                moments = {key: torch.zeros_like(self.average) for key in MOMENTS}
                for key, vector in moments.items():
                    self._fill(vector, f"optimizer.{key}", tensors)
                step = steps[0].to(self.current.device)
                self.optimizer.state[self.current] = {"step": step, **moments}

    def _fill(self, vector: Tensor, kind: str, tensors: dict[str, Tensor]) -> None:
        """Fills a vector with what a checkpoint has of a kind."""
        for name, piece in self._pieces(vector).items():
            key = f"{kind}.{name}"
            if key in tensors or not kind.startswith("optimizer"):
                piece.copy_(tensors[key])
