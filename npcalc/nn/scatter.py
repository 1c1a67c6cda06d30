"""Sums over edges, in the one place where a faster or deterministic kernel could be put."""

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
    shape = [n_rows, *values.shape[1:]]
    return torch.zeros(shape, dtype=values.dtype, device=values.device).index_add(0, index, values)
