"""Filters and directions of hosts whose channels are parted into heads, see `PointSpec.n_heads`."""

import torch
from torch import Tensor, nn

from .hosts.base import EdgeGeometry


def head_product(functions: Tensor, weight: Tensor, n_heads: int, channels: int) -> Tensor:
    """Product of weights with the radial functions that each channel sees.

    Args:
        functions: Radial functions of all distances and products with shifts, see `PointSpec.functions`,
            shape (n_edges, n, n_basis).
        weight: Weights (n_parts * channels, n_seen * n_basis), of a channel for the functions that it sees.
        n_heads: Number of heads; with one, all channels see all distances.
        channels: Channels of each part.

    Returns:
        Shape (n_edges, n_parts * channels).
    """
    if n_heads == 1:
        return functions.flatten(1) @ weight.T
    width = channels // n_heads
    n_others = (functions.shape[1] - 1) // n_heads
    between, *others = torch.split(functions, [1, *[n_heads] * n_others], dim=1)
    # (n_edges, n_heads, 4 n_basis), with products 7
    seen = torch.stack([between.expand(-1, n_heads, -1), *others], dim=2).flatten(2)
    n_edges, n_columns = seen.shape[0], weight.shape[0]
    # (n_heads, 4 or 7 n_basis, n_parts width): the channels of a head side by side
    weight = weight.reshape(-1, n_heads, width, seen.shape[2]).permute(1, 3, 0, 2).flatten(2)
    product = torch.bmm(seen.transpose(0, 1), weight)
    product = product.reshape(n_heads, n_edges, n_columns // channels, width)
    return product.permute(1, 2, 0, 3).reshape(n_edges, n_columns)


def head_linear(linear: nn.Linear, functions: Tensor, n_heads: int, channels: int) -> Tensor:
    """A linear layer (n_seen * n_basis to n_parts * channels); arguments and result as of `head_product`."""
    return head_product(functions, linear.weight, n_heads, channels) + linear.bias


def head_direction(geometry: EdgeGeometry, m: int, n_heads: int, channels: int) -> Tensor:
    """Direction m of the two that each channel sees, shape (n_edges, 3, 1) or (n_edges, 3, channels)."""
    if m == 0 or n_heads == 1 or geometry.still:
        return geometry.direction[:, m, :, None]
    own = geometry.direction[:, 1:].transpose(1, 2)
    return own[..., None].expand(-1, -1, -1, channels // n_heads).flatten(2)
