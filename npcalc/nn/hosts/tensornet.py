"""TensorNet: Cartesian rank-2 tensors (G. Simeon, G. De Fabritiis, NeurIPS 2023).

Equations are those of arXiv:2306.06482 as TorchMD-NET builds them, for O(3) and neutral systems.
Every channel is a 3 x 3 matrix X = I + A + S: a scalar, an odd vector as its antisymmetric part and
a symmetric traceless part. Each point has an edge to itself, as there.

Directions enter the embedding alone, where electron points still sit on their nuclei; displacements
enter through the distances of the layers. Where these are relative (`PointSpec.relative`), the change of
a direction pulls on the vectors of the messages too, a term that the paper does not have.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..radial import ExpNormalBasis
from ..scatter import sum_edges
from ..tensor_product import BlockSum, spread
from .base import EdgeGeometry, Host, HostConfig, HostLayer, PointSpec

PARTS = [1, 3, 6]
"""Components of scalar, vector and symmetric part; the last is kept with its trace."""


class TensorNetConfig(HostConfig):
    """Configuration of the `TensorNet` host."""

    learning_rate: ClassVar[float] = 3e-3
    knows_relative: ClassVar[bool] = True

    name: Literal["tensornet"] = "tensornet"
    channels: int = Field(128, ge=2)
    n_layers: int = Field(2, ge=1)
    n_basis: int = Field(32, ge=2)


def compose(parts: Tensor) -> Tensor:
    """Matrices (n, 3, 3, C) of scalar, vector and xx, xy, xz, yy, yz, zz, shape (n, 10, C)."""
    i, ax, ay, az, xx, xy, xz, yy, yz, zz = parts.unbind(1)
    rows = [i + xx, xy - az, xz + ay, xy + az, i + yy, yz - ax, xz - ay, yz + ax, i + zz]
    return torch.stack(rows, dim=1).reshape(parts.shape[0], 3, 3, parts.shape[2])


def decompose(x: Tensor) -> Tensor:
    """The inverse of `compose`."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = x.flatten(1, 2).unbind(1)
    i = (xx + yy + zz) / 3.0
    rows = [i, 0.5 * (zy - yz), 0.5 * (xz - zx), 0.5 * (yx - xy)]
    rows += [xx - i, 0.5 * (xy + yx), 0.5 * (xz + zx), yy - i, 0.5 * (yz + zy), zz - i]
    return torch.stack(rows, dim=1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products of the channels, shape (n, 3, 3, C)."""
    return (a[:, :, :, None] * b[:, None]).sum(2)


def square(x: Tensor) -> Tensor:
    """Squared Frobenius norm of each channel, shape (n, C)."""
    return (x * x).sum((1, 2))


class TensorLinear(nn.Module):
    """A linear map without bias of the channels for each of the three parts.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(channels, channels, bias=False) for _ in range(3)])

    def forward(self, parts: Tensor) -> Tensor:
        """Maps parts (n, 10, C) to the same shape."""
        done: list[Tensor] = []
        pieces = torch.split(parts, PARTS, dim=1)
        for k, linear in enumerate(self.maps):
            done.append(linear(pieces[k]))
        return torch.cat(done, dim=1)


class TensorNetLayer(HostLayer):
    """Interaction and node update (section 3.2 of the paper).

    Args:
        spec: What the layer is built for.
        config: Configuration of the host.
    """

    def __init__(self, spec: PointSpec, config: TensorNetConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.n_scalars = c
        self.n_vectors = c
        self.spec = spec
        self.basis = ExpNormalBasis(config.n_basis, spec.cutoff)
        # Radial functions of a point's distance to itself.
        itself = self.basis(torch.zeros(1, spec.n_distances, dtype=torch.float64))
        self.itself: Tensor
        self.register_buffer("itself", self.features(itself), persistent=False)
        # Where directions change between layers, further ones pull.
        self.n_pulls = spec.n_directions - 1 if spec.relative else 0
        self.radial = nn.Sequential(
            nn.Linear(spec.n_distances * config.n_basis, c), nn.SiLU(),
            nn.Linear(c, 2 * c), nn.SiLU(),
            nn.Linear(2 * c, (3 + self.n_pulls) * c), nn.SiLU(),
        )  # fmt: skip
        self.messages = BlockSum(PARTS, c)
        self.before = TensorLinear(c)
        self.after = TensorLinear(c)

    def features(self, functions: Tensor) -> Tensor:
        """What the radial network sees of the functions of each distance, (n, n_distances n_basis)."""
        return self.spec.counted(functions).flatten(1)

    def forward(self, x: Tensor, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        n, c = x.shape[0], self.channels
        tensor = x.reshape(n, 3, 3, c)
        tensor = tensor / (square(tensor) + 1.0)[:, None, None]
        parts = self.before(decompose(tensor))
        envelope = geometry.envelope[:, None]
        factors = self.radial(self.features(self.basis(geometry.distance)) * envelope)
        total = self.messages(
            factors[:, : 3 * c], envelope, parts, geometry.center, geometry.neighbor
        )
        total = total + parts * spread(self.radial(self.itself)[:, : 3 * c], PARTS, c)
        if self.n_pulls:
            direction = self.spec.counted(geometry.direction)[:, 1:]
            factor = factors[:, 3 * c :].reshape(-1, self.n_pulls, 1, c)
            pull = (factor * direction[..., None]).sum(1)
            scalars = parts[:, 0][geometry.neighbor] * envelope
            pull = sum_edges(pull * scalars[:, None], geometry.center, n)
            total = torch.cat([total[:, :1], total[:, 1:4] + pull, total[:, 4:]], dim=1)
        y, m = compose(parts), compose(total)
        both = product(m, y) + product(y, m)
        change = compose(self.after(decompose(both / (square(both) + 1.0)[:, None, None])))
        return (tensor + change + product(change, change)).flatten(1)

    def scalars(self, x: Tensor) -> Tensor:
        c = self.channels
        return (x[:, :c] + x[:, 4 * c : 5 * c] + x[:, 8 * c :]) / 3.0

    def vectors(self, x: Tensor) -> Tensor:
        parts = decompose(x.reshape(x.shape[0], 3, 3, self.channels))
        return parts[:, 1:4]

    def add(self, x: Tensor, ds: Tensor, dv: Tensor) -> Tensor:
        c = self.channels
        symmetric = dv.new_zeros(dv.shape[0], 6, c)
        return x + compose(torch.cat([ds[:, None], dv, symmetric], dim=1)).flatten(1)


class TensorNet(Host):
    """The TensorNet network.

    Args:
        spec: What the host is built for.
        config: Its configuration.
    """

    def __init__(self, spec: PointSpec, config: TensorNetConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        still = spec.of_layer(0)
        self.embedding = nn.Embedding(spec.n_types, c)
        self.center = nn.Linear(c, c)
        self.neighbor = nn.Linear(c, c, bias=False)
        self.basis = ExpNormalBasis(config.n_basis, spec.cutoff)
        itself = self.basis(torch.zeros(still.n_distances, dtype=torch.float64)).flatten()
        self.itself: Tensor
        self.register_buffer("itself", itself[None], persistent=False)
        self.radial = nn.Linear(still.n_distances * config.n_basis, 3 * c)
        self.norm = nn.LayerNorm(c)
        self.scale = nn.Sequential(
            nn.Linear(c, 2 * c), nn.SiLU(), nn.Linear(2 * c, 3 * c), nn.SiLU()
        )
        self.mix = TensorLinear(c)
        self.layers = nn.ModuleList(
            [TensorNetLayer(spec.of_layer(k), config) for k in range(config.n_layers)]
        )
        self.out_norm = nn.LayerNorm(3 * c)
        self.readout = nn.Sequential(
            nn.Linear(3 * c, c), nn.SiLU(), nn.Linear(c, c // 2), nn.SiLU(), nn.Linear(c // 2, 1)
        )

    def embed(self, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        n, c = point_type.shape[0], self.channels
        z = self.embedding(point_type)
        a, b = self.center(z), self.neighbor(z)
        envelope = geometry.envelope[:, None]
        factors = self.radial(self.basis(geometry.distance).flatten(1) * envelope) * envelope
        pair = a[geometry.center] + b[geometry.neighbor]
        message = spread(factors, PARTS, c) * (pair[:, None] * angular(geometry.direction[:, 0]))
        own = (a + b) * self.radial(self.itself)[:, :c]
        parts = sum_edges(message, geometry.center, n)
        parts = torch.cat([parts[:, :1] + own[:, None], parts[:, 1:]], dim=1)
        scale = self.scale(self.norm(square(compose(parts))))
        return compose(self.mix(parts) * spread(scale, PARTS, c)).flatten(1)

    def energy(self, states: list[Tensor]) -> Tensor:
        n, c = states[-1].shape[0], self.channels
        parts = decompose(states[-1].reshape(n, 3, 3, c))
        i, a, s = torch.split(parts, PARTS, dim=1)
        squares = torch.cat(
            [
                3.0 * (i * i).flatten(1),
                2.0 * (a * a).sum(1),
                2.0 * (s * s).sum(1) - (s[:, 0] ** 2 + s[:, 3] ** 2 + s[:, 5] ** 2),
            ],
            dim=1,
        )
        return self.readout(self.out_norm(squares)).squeeze(-1)


def angular(direction: Tensor) -> Tensor:
    """Scalar, vector and traceless outer product of unit vectors (n, 3), shape (n, 10, 1)."""
    x, y, z = direction.unbind(1)
    third = (x * x + y * y + z * z) / 3.0
    rows = [torch.ones_like(x), x, y, z]
    rows += [x * x - third, x * y, x * z, y * y - third, y * z, z * z - third]
    return torch.stack(rows, dim=1)[..., None]
