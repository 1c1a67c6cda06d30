"""PaiNN: scalar and vector features (K. T. Schuett, O. T. Unke, M. Gastegger, ICML 2021).

Equation numbers refer to arXiv:2102.03150. With one distance and one direction the equations are
the published ones; further distances widen the radial filter and further directions add one more
``W_vs`` term each to eq. 8. With heads each part of the channels has filters of its own distances, four
for each head, and two ``W_vs`` terms, the second with its own direction. Filters of moved points may see
products of radial functions and shifts besides, see `PointSpec.functions`.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..heads import head_direction, head_product
from ..radial import make_basis
from ..scatter import sum_edges
from .base import (
    EdgeGeometry,
    Host,
    HostConfig,
    PointSpec,
    ScalarVectorLayer,
    check_parts,
)


class PaiNNConfig(HostConfig):
    """Configuration of the `PaiNN` host; the defaults of the paper where it gives one.

    Attributes:
        channels: Scalar channels, and vector channels.
        n_layers: Layers.
        n_basis: Radial functions of each distance.
        basis: Kind of radial functions.
        epsilon: Added under the root of eq. 9. SchNetPack has 1e-8, which leaves energies a cone wherever
            symmetry or chance makes a vector vanish, as all at the carbon atom of methane do: harmonic
            frequencies of symmetric molecules mean nothing then.
        filter_rank: Rank of the linear map from radial functions to filters, full by default. With
            many distances to an edge that map is most of the work.
    """

    learning_rate: ClassVar[float] = 3e-3
    knows_relative: ClassVar[bool] = True
    knows_products: ClassVar[bool] = True

    name: Literal["painn"] = "painn"
    channels: int = Field(64, ge=1)
    n_layers: int = Field(3, ge=1)
    n_basis: int = Field(20, ge=2)
    basis: Literal["bessel", "gaussian"] = "bessel"
    epsilon: float = Field(1e-2, gt=0.0)
    filter_rank: int | None = Field(None, ge=1)

    def check_heads(self, n_heads: int) -> None:
        check_parts(self.channels, n_heads)
        if self.filter_rank is not None:
            raise ValueError(
                "host.filter_rank is not for paired_heads and paired_products, whose filters are small"
            )


class PaiNNLayer(ScalarVectorLayer):
    """Message block (eqs. 7, 8) and update block (eqs. 9, 10).

    Args:
        spec: What the layer is built for.
        config: Configuration of the host.
        is_first: Whether it is the first layer, whose vectors are zero.
    """

    def __init__(self, spec: PointSpec, config: PaiNNConfig, is_first: bool) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.is_first = is_first
        self.n_basis = config.n_basis
        self.n_heads = spec.n_heads
        self.spec = spec
        self.n_directions = spec.seen_directions
        self.n_scalars = c
        self.n_vectors = c
        self.epsilon = config.epsilon
        n_parts = 2 + self.n_directions
        self.phi = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, n_parts * c))
        n_radial = spec.seen_functions * config.n_basis
        self.first: nn.Linear | None = None
        if config.filter_rank is not None:
            self.first = nn.Linear(n_radial, config.filter_rank, bias=False)
            n_radial = config.filter_rank
        self.filter = nn.Linear(n_radial, n_parts * c)
        self.mix = nn.Linear(c, 2 * c, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * c, c), nn.SiLU(), nn.Linear(c, 3 * c))
        self.basis = make_basis(config.basis, config.n_basis, spec.cutoff)

    def forward(self, x: Tensor, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        c = self.channels
        n = x.shape[0]
        s, v = self.scalars(x), self.vectors(x)
        geometry = geometry._replace(direction=self.spec.counted(geometry.direction))

        w = self.filters(geometry) * self.parts(self.phi(s))[geometry.neighbor]  # (E, parts c)
        ds, *rest = torch.split(w, c, dim=1)
        pulls = [] if self.is_first else [rest.pop(0)[:, None] * v[geometry.neighbor]]
        for m, part in enumerate(rest):
            pulls.append(part[:, None] * head_direction(geometry, m, self.n_heads, c))
        dv = sum(pulls[1:], pulls[0])
        # Scalars and vectors apart: the compiler makes slow code of joined ones.
        s = s + sum_edges(ds, geometry.center, n)
        v = v + sum_edges(dv, geometry.center, n)
        return self.update_block(s, v)

    def filters(self, geometry: EdgeGeometry) -> Tensor:
        """Filters (n_edges, parts c) of eqs. 7 and 8, envelope included."""
        distance, weight = geometry.distance, (self.first or self.filter).weight
        if self.n_heads > 1 and not geometry.still:
            functions, weight = self.spec.functions(self.basis, geometry), self.parts(weight, 0)
            filters = head_product(functions, weight, self.n_heads, self.channels)
            return (filters + self.parts(self.filter.bias, 0)) * geometry.envelope[:, None]
        if geometry.still and distance.shape[1] > 2:
            geometry, weight = geometry._replace(distance=distance[:, :2]), self.fold_still(weight)
        functions = self.spec.functions(self.basis, geometry).flatten(1)  # (E, K n_basis)
        if self.first is not None:
            functions = functions @ weight.T
            weight = self.filter.weight
        weight, bias = self.parts(weight, 0), self.parts(self.filter.bias, 0)
        envelope = geometry.envelope[:, None]
        if self.training:  # mostly compiled, where factors of an edge cost nothing
            return nn.functional.linear(functions, weight, bias) * envelope
        # The same with the envelope on functions and bias, which are fewer than filters.
        functions = torch.cat([functions * envelope, envelope], dim=1)
        return functions @ torch.cat([weight, bias[:, None]], dim=1).T

    def fold_still(self, weight: Tensor) -> Tensor:
        """Weights (rows, 2 n_basis) where all distances after the first are equal.

        Equal distances have equal functions: their weights (rows, n_distances n_basis) add up.
        """
        by_distance = weight.reshape(weight.shape[0], -1, self.n_basis)
        return torch.cat([by_distance[:, 0], by_distance[:, 1:].sum(1)], dim=1)

    def parts(self, x: Tensor, axis: int = 1) -> Tensor:
        """What is needed of the parts of eqs. 7 and 8: in the first layer there are no vectors to filter."""
        if not self.is_first:
            return x
        c = self.channels
        return torch.cat([x.narrow(axis, 0, c), x.narrow(axis, 2 * c, self.n_directions * c)], axis)

    def update_block(self, s: Tensor, v: Tensor) -> Tensor:
        """State (n_points, C) after eqs. 9, 10 from scalars (n_points, c) and vectors (n_points, 3, c)."""
        c = self.channels
        v_v, v_w = torch.split(self.mix(v), [c, c], dim=2)
        norm = torch.sqrt((v_v * v_v).sum(1) + self.epsilon)
        a_ss, a_vv, a_sv = torch.split(self.update(torch.cat([s, norm], dim=1)), [c, c, c], dim=1)
        s = s + a_ss + a_sv * (v_v * v_w).sum(1)
        v = v + a_vv[:, None] * v_w
        return torch.cat([s, v.flatten(1)], dim=1)


class PaiNN(Host):
    """The PaiNN network.

    Args:
        spec: What the host is built for.
        config: Its configuration.
    """

    def __init__(self, spec: PointSpec, config: PaiNNConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.embedding = nn.Embedding(spec.n_types, c)
        self.layers = nn.ModuleList(
            [PaiNNLayer(spec.of_layer(k), config, k == 0) for k in range(config.n_layers)]
        )
        self.readout = nn.Sequential(nn.Linear(c, c // 2), nn.SiLU(), nn.Linear(c // 2, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier weights and zero biases, as in the reference implementation."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        s = self.embedding(point_type)
        v = torch.zeros(s.shape[0], 3 * self.channels, dtype=s.dtype, device=s.device)
        return torch.cat([s, v], dim=1)

    def energy(self, states: list[Tensor]) -> Tensor:
        return self.readout(states[-1][:, : self.channels]).squeeze(-1)
