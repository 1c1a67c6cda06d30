"""Sums over edges of what neighbors send, components of a tensor before channels.

Tensor products and weighted sums are one function, a contraction of radial weights, harmonics and
features, so that one operator of our own serves them where code is compiled, see `npcalc.ops`.
"""

import torch
from torch import Tensor, nn

from .scatter import sum_edges


class TensorProduct(nn.Module):
    """Messages ``sum over j of w_ij (Y_ij x_j)`` of all paths, each with radial weights of its own.

    The products of one edge with all its paths are a single matrix, made from the spherical
    harmonics and shared by the channels.

    Args:
        table: Coefficients, zero outside the blocks of the paths, shape (n_harmonics, Q, d_in) with
            Q the components of all paths.
        paths: Number of paths into each of the results.
        dims: Components of each of the results.
        channels: Channels of features and results.

    Attributes:
        widths: Components of all paths into each of the results.
    """

    def __init__(self, table: Tensor, paths: list[int], dims: list[int], channels: int) -> None:
        super().__init__()
        self.shape = tuple(table.shape)
        self.paths, self.dims, self.channels = paths, dims, channels
        self.widths = [n * d for n, d in zip(paths, dims, strict=True)]
        self.table: Tensor
        self.register_buffer("table", table.flatten(1), persistent=False)

    def forward(
        self, weight: Tensor, harmonics: Tensor, x: Tensor, center: Tensor, neighbor: Tensor
    ) -> Tensor:
        """Sums the messages of the neighbors.

        Args:
            weight: Radial weights, path by path, shape (n_edges, n_paths * C).
            harmonics: Spherical harmonics of the edges, shape (n_edges, n_harmonics).
            x: Features, shape (n_points, d_in, C).
            center: Receiving point of each edge, shape (n_edges,).
            neighbor: Sending point of each edge, shape (n_edges,).

        Returns:
            All paths one after the other, shape (n_points, Q, C).
        """
        c = self.channels
        product = torch.matmul(harmonics, self.table).reshape(-1, *self.shape[1:])
        y = torch.bmm(product, x[neighbor])  # (E, Q, d_in), (E, d_in, C) -> (E, Q, C)
        weights = torch.split(weight, [n * c for n in self.paths], dim=1)
        products = torch.split(y, self.widths, dim=1)
        parts: list[Tensor] = []
        for n, dim, width, w, part in zip(
            self.paths, self.dims, self.widths, weights, products, strict=True
        ):
            scaled = part.reshape(-1, n, dim, c) * w.reshape(-1, n, 1, c)
            parts.append(scaled.reshape(-1, width, c))
        return sum_edges(torch.cat(parts, dim=1), center, x.shape[0])


class BlockSum(TensorProduct):
    """Messages ``sum over j of w_ij x_j``, one weight for each block of components.

    Args:
        dims: Components of each block.
        channels: Channels of features and results.
    """

    def __init__(self, dims: list[int], channels: int) -> None:
        total = sum(dims)
        unit = torch.eye(total, dtype=torch.float64)[None]
        super().__init__(unit, [1] * len(dims), dims, channels)

    def forward(
        self, weight: Tensor, harmonics: Tensor, x: Tensor, center: Tensor, neighbor: Tensor
    ) -> Tensor:
        """As `TensorProduct.forward`, with a single harmonic, a factor of each edge."""
        factors = spread(weight * harmonics, self.dims, self.channels)
        return sum_edges(x[neighbor] * factors, center, x.shape[0])


def spread(factors: Tensor, dims: list[int], channels: int) -> Tensor:
    """Factors of blocks, (n, n_blocks * C), for each of their components, (n, sum of dims, C)."""
    n = factors.shape[0]
    f = factors.reshape(n, len(dims), 1, channels)
    return torch.cat([f[:, k].expand(n, dim, channels) for k, dim in enumerate(dims)], dim=1)
