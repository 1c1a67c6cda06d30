"""MACE: products of many-body messages (I. Batatia et al., NeurIPS 2022).

Equations are those of arXiv:2206.07697 as the mace-torch package (0.3) builds them from its residual
interaction blocks, with the envelope on the messages (there ``apply_cutoff=False``). Irreps,
spherical harmonics and coupling coefficients are e3nn's. Distances and directions beyond the first
enter as in the `nequip` host, whose convolution this one shares.

The last layer has scalars only, so it moves no points.
"""

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from e3nn import o3
from e3nn.math import normalize2mom
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..radial import BesselBasis
from .base import EdgeGeometry, Host, HostConfig, HostLayer, PointSpec
from .nequip import Convolution, EdgeHarmonics, NequIPConfig, ScaledLinear, TypeLinear


class MACEConfig(HostConfig):
    """Configuration of the `MACE` host.

    Attributes:
        channels: Channels of each irrep.
        l_hidden: Largest degree of the hidden features.
        l_max: Largest degree of the spherical harmonics and of the messages.
        correlation: Messages that are multiplied at most; the body order less one.
        readout_width: Width of the last readout.
    """

    learning_rate: ClassVar[float] = 2e-2
    knows_relative: ClassVar[bool] = True

    name: Literal["mace"] = "mace"
    channels: int = Field(128, ge=1)
    n_layers: int = Field(2, ge=1)
    l_hidden: int = Field(1, ge=0, le=3)
    l_max: int = Field(3, ge=0, le=3)
    correlation: int = Field(3, ge=1, le=3)
    n_basis: int = Field(8, ge=2)
    radial_width: int = Field(64, ge=1)
    radial_depth: int = Field(3, ge=1)
    readout_width: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _products_of_scalars_are_scalars(self) -> "MACEConfig":
        if self.l_hidden > 0 and self.l_max == 0:
            raise ValueError(f"l_hidden: {self.l_hidden} needs l_max of at least 1, got 0")
        return self


def couplings(irreps: list[o3.Irrep], order: int, keep: o3.Irrep | None = None) -> list:
    """Couplings of ``order`` copies of a direct sum of irreps to single irreps.

    Args:
        irreps: The direct sum, of dimension D.
        order: Number of copies.
        keep: The only result to keep.

    Returns:
        Pairs of the resulting irrep and coefficients (irrep.dim, D, ..., D), float64, made by
        coupling one copy after the other, in the order of the irreps.
    """
    total = sum(ir.dim for ir in irreps)
    starts = [sum(ir.dim for ir in irreps[:k]) for k in range(len(irreps))]
    if order == 1:
        unit = torch.eye(total, dtype=torch.float64)
        rows = [(ir, unit[a : a + ir.dim]) for ir, a in zip(irreps, starts, strict=True)]
        return [row for row in rows if keep in (None, row[0])]
    found = []
    for left, coefficients in couplings(irreps, order - 1):
        for ir, start in zip(irreps, starts, strict=True):
            for out in left * ir:
                if keep not in (None, out):
                    continue
                w3j = math.sqrt(out.dim) * o3.wigner_3j(out.l, left.l, ir.l, dtype=torch.float64)
                block = torch.einsum("olr,l...->o...r", w3j, coefficients)
                table = torch.zeros(*block.shape[:-1], total, dtype=torch.float64)
                table[..., start : start + ir.dim] = block
                found.append((out, table))
    return sorted(found, key=lambda pair: pair[0])


def n_monomials(variables: int, order: int) -> int:
    """Number of products of ``order`` variables, whatever their sequence."""
    return math.comb(variables + order - 1, order)


def place(indices: Sequence[int]) -> int:
    """Place of a product of variables, given in ascending order, among those of `monomials`."""
    return sum(n_monomials(a, k + 1) for k, a in enumerate(indices))


def monomials(x: Tensor, order: int) -> Tensor:
    """Products of 1 to ``order`` components, order by order, sorted by the last of their components.

    Args:
        x: Messages, shape (C, D, n).
        order: Most factors.

    Returns:
        Shape (C, n_monomials(D, 1) + ... + n_monomials(D, order), n).
    """
    found = [x]
    for k in range(1, order):
        # What has no component after a stands in front.
        before = [found[-1][:, : n_monomials(a + 1, k)] for a in range(x.shape[1])]
        found.append(torch.cat([p * x[:, a : a + 1] for a, p in enumerate(before)], dim=1))
    return torch.cat(found, dim=1)


class ProductTerm(nn.Module):
    """Coefficients of the products of one order, with weights of the point types.

    Args:
        irreps: Irreps of the messages.
        output: Irrep of the products.
        order: Number of factors.
        n_types: Number of point types.
        channels: Number of channels.
    """

    def __init__(
        self, irreps: list[o3.Irrep], output: o3.Irrep, order: int, n_types: int, channels: int
    ) -> None:
        super().__init__()
        tables = [table for _, table in couplings(irreps, order, output)]
        n_paths = len(tables)
        total = sum(ir.dim for ir in irreps)
        self.shape = (output.dim, n_monomials(total, order))
        table = torch.zeros(*self.shape, n_paths, dtype=torch.float64)
        if tables:
            # Products do not depend on the sequence of their factors: coefficients of all are added.
            sequences = itertools.product(range(total), repeat=order)
            places = torch.tensor([place(sorted(sequence)) for sequence in sequences])
            table.index_add_(1, places, torch.stack(tables, -1).reshape(output.dim, -1, n_paths))
        self.table: Tensor
        self.register_buffer("table", table.flatten(0, 1), persistent=False)
        scale = 1.0 / max(n_paths, 1)
        self.weight = nn.Parameter(scale * torch.randn(n_types, n_paths, channels))

    def forward(self) -> Tensor:
        """Coefficients of each type, shape (n_types, output.dim, n_monomials, C)."""
        mixed = torch.matmul(self.table, self.weight)
        return mixed.reshape(self.weight.shape[0], *self.shape, self.weight.shape[2])


class Product(nn.Module):
    """Coefficients of the symmetric contraction to one irrep (equations 10 and 11).

    Args:
        irreps: Irreps of the messages.
        output: Irrep of the products.
        n_types: Number of point types.
        config: Configuration of the host.
    """

    def __init__(
        self, irreps: list[o3.Irrep], output: o3.Irrep, n_types: int, config: MACEConfig
    ) -> None:
        super().__init__()
        orders = range(config.correlation, 0, -1)
        self.terms = nn.ModuleList(
            [ProductTerm(irreps, output, k, n_types, config.channels) for k in orders]
        )

    def forward(self) -> Tensor:
        """Coefficients of all `monomials` for each type, shape (n_types, dim, n_monomials, C)."""
        return torch.cat([term() for term in reversed(self.terms)], dim=2)


def contract(coefficients: Tensor, x: Tensor, types: Tensor, order: int) -> Tensor:
    """Sums monomials with the coefficients of each point's type.

    Args:
        coefficients: Shape (n_types, K, M, C).
        x: Messages, shape (n, D, C).
        types: Types as one-hot rows, shape (n, n_types).
        order: Most factors of a monomial.

    Returns:
        Shape (n, K, C).
    """
    n_types, k, m, c = coefficients.shape
    # Channels first and points last, as the product of matrices has them. It is made for all types and
    # the right one is taken: coefficients of each point would be far larger.
    products = monomials(x.permute(2, 1, 0).contiguous(), order)
    rows = coefficients.permute(3, 0, 1, 2).reshape(c, n_types * k, m)
    every = torch.bmm(rows, products).reshape(c, n_types, k, -1)
    return (every * types.T[:, None]).sum(1).permute(2, 1, 0)


class MACELayer(HostLayer):
    """Interaction and product basis (equations 7 to 12).

    Args:
        inputs: Irreps of the features before the layer.
        hidden: Irreps after it.
        spec: What the host is built for.
        config: Configuration of the host.
    """

    def __init__(
        self,
        inputs: list[o3.Irrep],
        hidden: list[o3.Irrep],
        spec: PointSpec,
        config: MACEConfig,
    ) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.correlation = config.correlation
        self.n_types = spec.n_types
        self.norm = 1.0 / spec.n_neighbors
        messages = [ir for _, ir in o3.Irreps.spherical_harmonics(config.l_max)]
        convolution = NequIPConfig(
            channels=c, l_max=config.l_max, n_basis=config.n_basis,
            radial_width=config.radial_width, radial_depth=config.radial_depth,
        )  # fmt: skip
        self.basis = BesselBasis(config.n_basis, spec.cutoff)
        self.spec = spec
        self.harmonics = EdgeHarmonics(spec, convolution)
        self.before = nn.ModuleList([ScaledLinear(c, c) for _ in inputs])
        self.convolution = Convolution(inputs, messages, spec, convolution)
        reached = self.convolution.outputs
        self.in_dims = [ir.dim for ir in inputs]
        self.out_dims = [ir.dim for ir in reached]
        self.after = nn.ModuleList([ScaledLinear(p * c, c) for p in self.convolution.paths])
        self.product_dims = [ir.dim for ir in hidden]
        self.products = nn.ModuleList([Product(reached, ir, spec.n_types, config) for ir in hidden])
        self.mix = nn.ModuleList([ScaledLinear(c, c) for _ in hidden])
        common = [ir for ir in hidden if ir in inputs]
        # Irreps are in the same order on both sides, so those in common come first.
        assert common == hidden[: len(common)] == inputs[: len(common)]
        self.connect = nn.ModuleList([TypeLinear(spec.n_types, c, c) for _ in common])
        self.n_scalars = c
        self.n_vectors = c if o3.Irrep("1o") in hidden else 0

    def forward(self, x: Tensor, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        n, c = x.shape[0], self.channels
        inputs = torch.split(x.reshape(n, -1, c), self.in_dims, dim=1)
        basis = self.spec.counted(self.basis(geometry.distance)).flatten(1)
        harmonics = self.harmonics(basis, geometry.direction)
        mixed: list[Tensor] = []
        for k, linear in enumerate(self.before):
            mixed.append(linear(inputs[k]))
        message = self.convolution(torch.cat(mixed, dim=1) * self.norm, harmonics, basis, geometry)

        parts = torch.split(message, self.convolution.widths, dim=1)
        atomic: list[Tensor] = []
        for k, linear in enumerate(self.after):
            n_paths, dim = self.convolution.paths[k], self.out_dims[k]
            part = parts[k].reshape(n, n_paths, dim, c).transpose(1, 2)
            atomic.append(linear(part.reshape(n, dim, n_paths * c)))
        base = torch.cat(atomic, dim=1)

        types = point_type[:, None] == torch.arange(self.n_types, device=x.device)
        coefficients = torch.cat([product() for product in self.products], dim=1)
        every = contract(coefficients, base, types.to(x.dtype), self.correlation)
        products = torch.split(every, self.product_dims, dim=1)
        out = [linear(part) for linear, part in zip(self.mix, products, strict=True)]
        for k, connect in enumerate(self.connect):
            out[k] = out[k] + connect(inputs[k], point_type)
        return torch.cat(out, dim=1).flatten(1)

    def scalars(self, x: Tensor) -> Tensor:
        return x[:, : self.channels]

    def vectors(self, x: Tensor) -> Tensor:
        c = self.channels
        return x[:, c : c + 3 * self.n_vectors].reshape(x.shape[0], 3, self.n_vectors)

    def add(self, x: Tensor, ds: Tensor, dv: Tensor) -> Tensor:
        c = self.channels
        stop = c + 3 * self.n_vectors
        parts = [x[:, :c] + ds, x[:, c:stop] + dv.flatten(1), x[:, stop:]]
        return torch.cat(parts, dim=1)


class MACE(Host):
    """The MACE network; every layer has a readout, that of the last one is nonlinear.

    Args:
        spec: What the host is built for.
        config: Its configuration.
    """

    def __init__(self, spec: PointSpec, config: MACEConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        scalar = o3.Irrep("0e")
        features = [o3.Irrep(l, (-1) ** l) for l in range(config.l_hidden + 1)]  # noqa: E741
        self.embedding = nn.Embedding(spec.n_types, c)
        layers = []
        inputs = [scalar]
        for index in range(config.n_layers):
            hidden = [scalar] if index == config.n_layers - 1 else features
            layers.append(MACELayer(inputs, hidden, spec.of_layer(index), config))
            inputs = hidden
        self.layers = nn.ModuleList(layers)
        self.readouts = nn.ModuleList([ScaledLinear(c, 1) for _ in layers[1:]])
        self.silu_norm = float(normalize2mom(F.silu).cst)
        self.last = ScaledLinear(c, config.readout_width)
        self.out = ScaledLinear(config.readout_width, 1)

    def embed(self, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        return self.embedding(point_type)

    def energy(self, states: list[Tensor]) -> Tensor:
        c = self.channels
        hidden = self.silu_norm * F.silu(self.last(states[-1][:, :c]))
        energy = self.out(hidden)
        for k, readout in enumerate(self.readouts):
            energy = energy + readout(states[k][:, :c])
        return energy.squeeze(-1)
