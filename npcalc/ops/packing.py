"""Weights as the operators want them."""

from torch import Tensor, nn

PANEL = 32
"""Columns of a panel of packed weights, as in ``common.h``."""


def pack(matrix: Tensor) -> Tensor:
    """Panels of 32 columns one after the other, zeros filling up the last.

    Args:
        matrix: Shape (..., rows, columns).

    Returns:
        Shape (..., n_panels, rows, 32).
    """
    wide = nn.functional.pad(matrix, (0, -matrix.shape[-1] % PANEL))
    return wide.unflatten(-1, (-1, PANEL)).transpose(-3, -2).contiguous()


def pack_bias(bias: Tensor) -> Tensor:
    """Zeros fill up the last panel.

    Args:
        bias: Shape (..., columns).

    Returns:
        Shape (..., 32 n_panels).
    """
    return nn.functional.pad(bias, (0, -bias.shape[-1] % PANEL)).contiguous()
