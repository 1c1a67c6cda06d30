"""Numbers too small for a full mantissa, which CPUs handle tens of times more slowly than zeros."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Takes denormal numbers for zeros while it lasts, in this thread.

    Radial functions far from their centers are such numbers, and so is what the optimizer keeps of
    their squares. PyTorch does not tell how it was set before: afterwards it is at its default, off.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
