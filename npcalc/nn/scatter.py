"""Sums over edges: torch's ``index_add``, or torch-scatter's segment sum where it is installed.

On the CPU ``index_add`` is as fast. The segment sum adds in a fixed order, which makes results on a
GPU repeatable; it needs edges sorted by the index they are summed by.
"""

import torch
from torch import Tensor


def sum_edges(values: Tensor, index: Tensor, n_rows: int) -> Tensor:
    """Sums rows that share an index.

    Args:
        values: Shape (n_edges, ...).
        index: Row that each is added to, int64, shape (n_edges,).
        n_rows: Number of rows of the result.

    Returns:
        Shape (n_rows, ...).
    """
    shape = [n_rows] + list(values.shape[1:])
    return torch.zeros(shape, dtype=values.dtype, device=values.device).index_add(0, index, values)
