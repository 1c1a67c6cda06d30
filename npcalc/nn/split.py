"""Division of a tensor into blocks, in the form that each way of running it needs."""

import torch
from torch import Tensor


def split(x: Tensor, sizes: list[int], dim: int) -> list[Tensor]:
    """Divides a tensor into consecutive blocks.

    The backward of a slice fills and adds a full tensor for each block, that of ``torch.split``
    writes it once; but in TorchScript 2.13 the latter fails where a block is not used.

    Args:
        x: Any tensor.
        sizes: Sizes of the blocks, which add up to that of ``x``.
        dim: Dimension to divide.

    Returns:
        Views of the blocks.
    """
    if not torch.jit.is_scripting():
        return list(torch.split(x, sizes, dim))
    blocks: list[Tensor] = []
    start = 0
    for size in sizes:
        blocks.append(x.narrow(dim, start, size))
        start += size
    return blocks
