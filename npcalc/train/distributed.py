"""Data-parallel training over processes, through Hugging Face Accelerate where it is installed.

A single process needs none of it. Several are started with
``torchrun --nproc_per_node=N -m npcalc train config.yaml`` and share each batch.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn


class Processes:
    """The processes of a run; one, unless a launcher has started more.

    Args:
        device: Device of this process.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
    """

    def __init__(self, device: str) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._accelerator: Any = None
        if self.count > 1:
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise ImportError(
                    "training with several processes needs accelerate: "
                    "pip install 'npcalc[distributed]'"
                ) from error
            self._accelerator = Accelerator(cpu=device == "cpu")

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over processes."""
        return self._accelerator.prepare(module) if self._accelerator else module

    def backward(self, loss: Tensor) -> None:
        """Computes gradients."""
        if self._accelerator:
            self._accelerator.backward(loss)
        else:
            loss.backward()

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        return self._accelerator.reduce(values, reduction="sum") if self._accelerator else values

    def close(self) -> None:
        """Leaves the group of processes."""
        if self._accelerator:
            self._accelerator.wait_for_everyone()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
