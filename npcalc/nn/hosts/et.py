"""Equivariant transformer of TorchMD-NET (P. Thoelke, G. De Fabritiis, ICLR 2022).

Equations are those of arXiv:2202.02541 as TorchMD-NET builds them with ``vector_cutoff``: the
vector messages are multiplied by the envelope like the scalar ones, because as published they do
not vanish at the cutoff. Each point attends to itself as well, as there.

Further distances widen the filters; further directions have values of their own. The heads of
electron points are parts of the channels as those of the attention are, in the same order.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..heads import head_direction, head_linear
from ..radial import ExpNormalBasis
from ..scatter import sum_edges
from .base import (
    EdgeGeometry,
    Host,
    HostConfig,
    PointSpec,
    ScalarVectorLayer,
    check_parts,
)


class ETConfig(HostConfig):
    """Configuration of the `ET` host."""

    learning_rate: ClassVar[float] = 2e-3
    knows_relative: ClassVar[bool] = True
    knows_products: ClassVar[bool] = True

    name: Literal["et"] = "et"
    channels: int = Field(128, ge=2)
    n_layers: int = Field(6, ge=1)
    n_basis: int = Field(32, ge=2)
    n_heads: int = Field(8, ge=1)
    epsilon: float = Field(1e-2, gt=0.0)

    @model_validator(mode="after")
    def _heads_divide(self) -> "ETConfig":
        if self.channels % self.n_heads:
            raise ValueError(
                f"channels ({self.channels}) have to be a multiple of n_heads ({self.n_heads})"
            )
        return self

    def check_heads(self, n_heads: int) -> None:
        check_parts(self.channels, n_heads)
        if self.n_heads % n_heads:
            raise ValueError(
                f"paired_heads and paired_products with {n_heads} electron points need host.n_heads that are "
                f"a multiple of that, got {self.n_heads}: a head of the attention sees one of the points"
            )


class ETLayer(ScalarVectorLayer):
    """Modified attention and update (equations 5 to 11).

    Args:
        spec: What the layer is built for.
        config: Configuration of the host.
    """

    def __init__(self, spec: PointSpec, config: ETConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.n_heads = config.n_heads
        self.point_heads = spec.n_heads
        self.n_scalars = c
        self.n_vectors = c
        self.n_directions = spec.seen_directions
        n_parts = 2 + self.n_directions
        self.n_parts = n_parts
        n_radial = spec.seen_functions * config.n_basis
        self.basis = ExpNormalBasis(config.n_basis, spec.cutoff)
        # Radial functions of a point's distance to itself.
        self.spec = spec
        zero = torch.zeros(1, spec.seen_distances, dtype=torch.float64)
        itself = spec.counted(self.basis(zero)).flatten()
        itself = F.pad(itself, (0, n_radial - len(itself)))  # its shifts are zero
        self.itself: Tensor
        self.register_buffer("itself", itself, persistent=False)
        self.norm = nn.LayerNorm(c)
        self.query = nn.Linear(c, c)
        self.key = nn.Linear(c, c)
        self.value = nn.Linear(c, n_parts * c)
        self.key_filter = nn.Linear(n_radial, c)
        self.value_filter = nn.Linear(n_radial, n_parts * c)
        self.mix = nn.Linear(c, 3 * c, bias=False)
        self.out = nn.Linear(c, 3 * c)
        for linear in (
            self.query, self.key, self.value, self.key_filter, self.value_filter, self.mix, self.out
        ):  # fmt: skip
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        n, c = x.shape[0], self.channels
        s, v = x[:, :c], self.vectors(x)
        normed = self.norm(s)
        q, k, values = self.query(normed), self.key(normed), self.value(normed)

        envelope = geometry.envelope[:, None]
        radial = self.spec.functions(self.basis, geometry) * envelope[..., None]
        geometry = geometry._replace(direction=self.spec.counted(geometry.direction))
        key_filters, value_filters = (
            F.silu(head_linear(linear, radial, self.point_heads, c))
            for linear in (self.key_filter, self.value_filter)
        )
        weight = self.weight(q[geometry.center], k[geometry.neighbor], key_filters)
        value = values[geometry.neighbor] * value_filters * envelope
        parts = torch.split(value, [c] * self.n_parts, dim=1)
        pull = parts[1][:, None] * v[geometry.neighbor]
        for m in range(self.n_directions):
            pull = pull + parts[2 + m][:, None] * head_direction(geometry, m, self.point_heads, c)
        # Scalars and vectors apart: the compiler makes slow code of joined ones.
        attended = sum_edges(parts[0] * weight, geometry.center, n)
        pulled = sum_edges(pull, geometry.center, n)

        weight = self.weight(q, k, F.silu(self.key_filter(self.itself)))
        own = torch.split(
            values * F.silu(self.value_filter(self.itself)), [c] * self.n_parts, dim=1
        )
        attended = attended + own[0] * weight
        pulled = pulled + own[1][:, None] * v

        v1, v2, v3 = torch.split(self.mix(v), [c, c, c], dim=2)
        o1, o2, o3 = torch.split(self.out(attended), [c, c, c], dim=1)
        ds = (v1 * v2).sum(1) * o2 + o3
        return self.add(x, ds, v3 * o1[:, None] + pulled)

    def weight(self, q: Tensor, k: Tensor, filters: Tensor) -> Tensor:
        """Attention weights of each channel's head, shape (n, C)."""
        width = self.channels // self.n_heads
        products = (q * k * filters).reshape(q.shape[0], self.n_heads, width)
        weight = F.silu(products.sum(-1, keepdim=True))
        return weight.expand(products.shape).reshape(q.shape)


class GatedBlock(nn.Module):
    """Gated equivariant block of the readout (figure 2 of the paper, after PaiNN).

    Args:
        n_in: Channels.
        n_out: Channels of the result.
        activate: Whether the scalars of the result go through silu.
        epsilon: Squared length that keeps the norm of a zero vector smooth.
    """

    def __init__(self, n_in: int, n_out: int, activate: bool, epsilon: float) -> None:
        super().__init__()
        self.n_out = n_out
        self.activate = activate
        self.epsilon = epsilon
        self.length = nn.Linear(n_in, n_in, bias=False)
        self.vector = nn.Linear(n_in, n_out, bias=False)
        self.update = nn.Sequential(
            nn.Linear(2 * n_in, n_in), nn.SiLU(), nn.Linear(n_in, 2 * n_out)
        )

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Maps scalars (n, n_in) and vectors (n, 3, n_in) to (n, n_out) and (n, 3, n_out)."""
        mixed = self.length(v)
        length = torch.sqrt((mixed * mixed).sum(1) + self.epsilon)
        a, gate = torch.split(
            self.update(torch.cat([s, length], dim=1)), [self.n_out, self.n_out], dim=1
        )
        return F.silu(a) if self.activate else a, gate[:, None] * self.vector(v)


class ET(Host):
    """The equivariant transformer.

    Args:
        spec: What the host is built for.
        config: Its configuration.
    """

    def __init__(self, spec: PointSpec, config: ETConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.embedding = nn.Embedding(spec.n_types, c)
        # Neighbor embedding (equation 4).
        self.basis = ExpNormalBasis(config.n_basis, spec.cutoff)
        self.neighbor = nn.Embedding(spec.n_types, c)
        self.point_heads = spec.n_heads
        self.filter = nn.Linear(spec.of_layer(0).seen_distances * config.n_basis, c)
        self.combine = nn.Linear(2 * c, c)
        for linear in (self.filter, self.combine):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.layers = nn.ModuleList(
            [ETLayer(spec.of_layer(k), config) for k in range(config.n_layers)]
        )
        self.norm = nn.LayerNorm(c)
        self.first = GatedBlock(c, c // 2, True, config.epsilon)
        self.second = GatedBlock(c // 2, 1, False, config.epsilon)

    def embed(self, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        envelope = geometry.envelope[:, None]
        radial = self.basis(geometry.distance) * envelope[..., None]
        filters = head_linear(self.filter, radial, self.point_heads, self.channels)
        around = self.neighbor(point_type)[geometry.neighbor] * filters * envelope
        total = sum_edges(around, geometry.center, point_type.shape[0])
        s = self.combine(torch.cat([self.embedding(point_type), total], dim=1))
        return torch.cat([s, s.new_zeros(s.shape[0], 3 * self.channels)], dim=1)

    def energy(self, states: list[Tensor]) -> Tensor:
        x = states[-1]
        c = self.channels
        s, v = self.first(self.norm(x[:, :c]), x[:, c:].reshape(x.shape[0], 3, c))
        return self.second(s, v)[0].squeeze(-1)
