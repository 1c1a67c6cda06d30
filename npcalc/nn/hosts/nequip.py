"""NequIP: E(3)-equivariant tensor-product convolutions with gates (S. Batzner et al., 2022).

Equations are those of Nat. Commun. 13, 2453 (2022) as the nequip package (0.19) builds them, with
two differences of form: the envelope multiplies the message instead of the radial basis, and the
self-connection holds one matrix per type, which is what the package's product with a type
embedding amounts to. Irreps, spherical harmonics and Clebsch-Gordan coefficients are e3nn's.

Further distances of an edge widen the radial network. Further directions add to the spherical
harmonics, Y_l = Y_l(first) + sum_m a_lm(distances) Y_l(m), with learned factors a, so they cost no
further paths.

All irreps have the same number of channels, and the state is kept as (n_points, D, C) flattened,
components before channels, as `TensorProduct` wants it.
"""

import itertools
import math
from typing import ClassVar, Literal

import torch
from e3nn import o3
from e3nn.math import normalize2mom
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..radial import BesselBasis
from ..tensor_product import TensorProduct
from .base import EdgeGeometry, Host, HostConfig, HostLayer, PointSpec


class NequIPConfig(HostConfig):
    """Configuration of the `NequIP` host."""

    learning_rate: ClassVar[float] = 2e-2
    knows_relative: ClassVar[bool] = True

    name: Literal["nequip"] = "nequip"
    channels: int = Field(32, ge=1)
    n_layers: int = Field(4, ge=1)
    l_max: int = Field(2, ge=0, le=4)
    parity: bool = False
    n_basis: int = Field(8, ge=2)
    radial_width: int = Field(64, ge=1)
    radial_depth: int = Field(1, ge=1)


class ScaledLinear(nn.Module):
    """Linear map without bias of weights of order one, divided by sqrt(fan-in) when used.

    Args:
        n_in: Inputs.
        n_out: Outputs.
        gain: Factor of the result.
    """

    def __init__(self, n_in: int, n_out: int, gain: float = 1.0) -> None:
        super().__init__()
        self.alpha = gain / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.randn(n_in, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., n_in) to (..., n_out)."""
        return torch.matmul(x, self.weight * self.alpha)


class TypeLinear(nn.Module):
    """A `ScaledLinear` with weights of its own for each point type.

    Args:
        n_types: Number of types.
        n_in: Inputs.
        n_out: Outputs.
    """

    def __init__(self, n_types: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.alpha = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.randn(n_types, n_in, n_out))

    def forward(self, x: Tensor, point_type: Tensor) -> Tensor:
        """Maps (n_points, k, n_in) to (n_points, k, n_out)."""
        # Types side by side, the others zero: a gather of matrices would move more memory.
        n, k = x.shape[:2]
        types = torch.arange(self.weight.shape[0], device=x.device)
        chosen = (point_type[:, None] == types).to(x.dtype) * self.alpha
        spread = chosen[:, None, :, None] * x[:, :, None]
        return torch.matmul(spread.reshape(n, k, -1), self.weight.flatten(0, 1))


def feature_irreps(l_max: int, parity: bool) -> list[o3.Irrep]:
    """Irreps of hidden features: both parities, or that of the spherical harmonics."""
    parities = [1, -1] if parity else []
    return [o3.Irrep(l, p) for l in range(l_max + 1) for p in parities or [(-1) ** l]]  # noqa: E741


class Convolution(nn.Module):
    """Tensor-product convolution: spherical harmonics of the edges times features of the neighbor.

    Args:
        inputs: Irreps of the features, each with ``channels`` copies.
        outputs: Irreps wanted; those that no path reaches are left out.
        spec: What the host is built for.
        config: Configuration of the host.

    Attributes:
        outputs: Irreps of the result, one after the other.
        paths: Number of paths into each of them.
        widths: Components of all paths into each of them.
    """

    def __init__(
        self, inputs: list[o3.Irrep], outputs: list[o3.Irrep], spec: PointSpec, config: NequIPConfig
    ) -> None:
        super().__init__()
        c = config.channels
        harmonics = [ir for _, ir in o3.Irreps.spherical_harmonics(config.l_max)]
        self.outputs: list[o3.Irrep] = []
        self.paths: list[int] = []
        self.dims: list[int] = []
        blocks: list[Tensor] = []
        for ir in outputs:
            found = path_matrices(inputs, harmonics, ir)
            if found:
                self.outputs.append(ir)
                self.paths.append(len(found))
                self.dims.append(ir.dim)
                blocks += found
        # (n_harmonics, Q, d_in) with Q the components of all paths
        self.product = TensorProduct(torch.cat(blocks, dim=1), self.paths, self.dims, c)
        self.widths = self.product.widths
        widths = [spec.n_distances * config.n_basis] + [config.radial_width] * config.radial_depth
        layers: list[nn.Module] = [ScaledLinear(widths[0], widths[1])]
        for n_in, n_out in itertools.pairwise(widths[1:]):
            layers += [nn.SiLU(), ScaledLinear(n_in, n_out, math.sqrt(2.0))]
        layers += [nn.SiLU(), ScaledLinear(widths[-1], sum(self.paths) * c, math.sqrt(2.0))]
        self.radial = nn.Sequential(*layers)

    def forward(
        self, x: Tensor, harmonics: Tensor, basis: Tensor, geometry: EdgeGeometry
    ) -> Tensor:
        """Sums the messages of the neighbors.

        Args:
            x: Features, shape (n_points, d_in, C).
            harmonics: Spherical harmonics of the edges, shape (n_edges, n_harmonics).
            basis: Radial functions of all distances, shape (n_edges, n_distances * n_basis).
            geometry: Geometry of the edges.

        Returns:
            All paths one after the other, shape (n_points, Q, C).
        """
        # The envelope on the harmonics, of which there are fewer than weights.
        inside = harmonics * geometry.envelope[:, None]
        return self.product(self.radial(basis), inside, x, geometry.center, geometry.neighbor)


def path_matrices(
    inputs: list[o3.Irrep], harmonics: list[o3.Irrep], output: o3.Irrep
) -> list[Tensor]:
    """Clebsch-Gordan matrices of all paths input x harmonic -> output.

    The normalisation is e3nn's ``component``: sqrt(2 l + 1) times Wigner's 3j symbols.

    Returns:
        One tensor per path, float64, shape (n_harmonics, output.dim, d_in), with zeros outside
        the blocks of its irreps.
    """
    d_in = sum(ir.dim for ir in inputs)
    n_harmonics = sum(ir.dim for ir in harmonics)
    found = []
    a = 0
    for ir_in in inputs:
        b = 0
        for ir_edge in harmonics:
            if output in ir_in * ir_edge:
                w3j = o3.wigner_3j(ir_in.l, ir_edge.l, output.l, dtype=torch.float64)
                block = torch.zeros(n_harmonics, output.dim, d_in, dtype=torch.float64)
                values = math.sqrt(output.dim) * w3j.permute(1, 2, 0)
                block[b : b + ir_edge.dim, :, a : a + ir_in.dim] = values
                found.append(block)
            b += ir_edge.dim
        a += ir_in.dim
    return found


class EdgeHarmonics(nn.Module):
    """Spherical harmonics of an edge, of several directions mixed by its distances.

    Directions of softened length enter as they are, so the harmonics vanish smoothly where two
    points coincide.

    Args:
        spec: What the host is built for.
        config: Configuration of the host.
    """

    def __init__(self, spec: PointSpec, config: NequIPConfig) -> None:
        super().__init__()
        self.n_more = spec.n_directions - 1
        self.spec = spec
        self.harmonics = o3.SphericalHarmonics(
            list(range(config.l_max + 1)), normalize=False, normalization="component"
        )
        degree = [k for k in range(config.l_max + 1) for _ in range(2 * k + 1)]
        self.register_buffer("degree", torch.tensor(degree), persistent=False)
        self.n_degrees = config.l_max + 1
        n_in = spec.n_distances * config.n_basis
        self.mix = ScaledLinear(n_in, self.n_more * self.n_degrees) if self.n_more else _Zero()

    def forward(self, basis: Tensor, direction: Tensor) -> Tensor:
        """Maps basis (n_edges, k) and directions (n_edges, n_directions, 3) to (n_edges, n_harmonics)."""
        y = self.harmonics(direction)
        first = y[:, 0]
        if self.n_more == 0:
            return first
        a = self.mix(basis).reshape(-1, self.n_more, self.n_degrees)
        return first + (a[:, :, self.degree] * self.spec.counted(y)[:, 1:]).sum(1)


class _Zero(nn.Module):
    """Stands where nothing is mixed."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class NequIPLayer(HostLayer):
    """Interaction block and gate.

    Args:
        inputs: Irreps of the features before the layer.
        hidden: Irreps wanted after it.
        first: Whether it is the first layer, which has no self-connection.
        spec: What the host is built for.
        config: Configuration of the host.
    """

    def __init__(
        self,
        inputs: list[o3.Irrep],
        hidden: list[o3.Irrep],
        first: bool,
        spec: PointSpec,
        config: NequIPConfig,
    ) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.first = first
        self.norm = 1.0 / math.sqrt(spec.n_neighbors)
        self.silu_norm = float(normalize2mom(F.silu).cst)
        self.tanh_norm = float(normalize2mom(torch.tanh).cst)
        self.in_dims = [ir.dim for ir in inputs]
        self.basis = BesselBasis(config.n_basis, spec.cutoff)
        self.basis_factor = math.sqrt(2.0 / spec.cutoff)
        self.spec = spec
        self.harmonics = EdgeHarmonics(spec, config)
        self.convolution = Convolution(inputs, hidden, spec, config)
        outputs = self.convolution.outputs
        self.outputs = outputs
        self.out_dims = [ir.dim for ir in outputs]
        self.even = [ir.p == 1 for ir in outputs]
        n_gated = sum(ir.l > 0 for ir in outputs)
        # Gates are scalars of the first irrep, 0e, beside its own channels.
        widths = [c * (1 + n_gated) if k == 0 else c for k in range(len(outputs))]
        self.before = nn.ModuleList([ScaledLinear(c, c) for _ in inputs])
        self.after = nn.ModuleList(
            [ScaledLinear(n * c, w) for n, w in zip(self.convolution.paths, widths, strict=True)]
        )
        self.connect = nn.ModuleList(
            []
            if first
            else [
                TypeLinear(spec.n_types, c, w) if ir in inputs else _Nothing(w)
                for ir, w in zip(outputs, widths, strict=True)
            ]
        )
        starts = [0]
        for ir in inputs:
            starts.append(starts[-1] + ir.dim)
        self.connect_from = [starts[inputs.index(ir)] if ir in inputs else 0 for ir in outputs]
        self.n_scalars = c
        vector = o3.Irrep("1o")
        self.n_vectors = c if vector in outputs else 0
        self.vector_start = sum(self.out_dims[: outputs.index(vector)]) if self.n_vectors else 0

    def forward(self, x: Tensor, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        n, c = x.shape[0], self.channels
        x = x.reshape(n, -1, c)
        functions = self.basis(geometry.distance) * self.basis_factor
        basis = self.spec.counted(functions).flatten(1)
        harmonics = self.harmonics(basis, geometry.direction)

        mixed: list[Tensor] = []
        inputs = torch.split(x, self.in_dims, dim=1)
        for k, linear in enumerate(self.before):
            mixed.append(linear(inputs[k]))
        message = self.convolution(torch.cat(mixed, dim=1) * self.norm, harmonics, basis, geometry)

        out: list[Tensor] = []
        messages = torch.split(message, self.convolution.widths, dim=1)
        for k, linear in enumerate(self.after):
            n_paths = self.convolution.paths[k]
            dim = self.out_dims[k]
            part = messages[k].reshape(n, n_paths, dim, c)
            out.append(linear(part.transpose(1, 2).reshape(n, dim, n_paths * c)))
        for k, connect in enumerate(self.connect):
            origin = self.connect_from[k]
            out[k] = out[k] + connect(x[:, origin : origin + self.out_dims[k]], point_type)
        return self.gate(out)

    def gate(self, parts: list[Tensor]) -> Tensor:
        """Applies the gate: silu to even scalars, tanh to odd ones, gates to all else."""
        c = self.channels
        gates = self.silu_norm * F.silu(parts[0])
        done: list[Tensor] = []
        gate = 0
        for k, part in enumerate(parts):
            if k == 0:
                done.append(gates[:, :, :c])
            elif self.out_dims[k] == 1:
                even = self.silu_norm * F.silu(part)
                done.append(even if self.even[k] else self.tanh_norm * torch.tanh(part))
            else:
                gate += 1
                done.append(part * gates[:, :, gate * c : (gate + 1) * c])
        return torch.cat(done, dim=1).flatten(1)

    def scalars(self, x: Tensor) -> Tensor:
        return x[:, : self.channels]

    def vectors(self, x: Tensor) -> Tensor:
        start = self.vector_start * self.channels
        stop = start + 3 * self.n_vectors
        return x[:, start:stop].reshape(x.shape[0], 3, self.n_vectors)

    def add(self, x: Tensor, ds: Tensor, dv: Tensor) -> Tensor:
        c = self.channels
        start = self.vector_start * c
        stop = start + 3 * self.n_vectors
        if self.n_vectors == 0:
            return torch.cat([x[:, :c] + ds, x[:, c:]], dim=1)
        parts = [x[:, :c] + ds, x[:, c:start], x[:, start:stop] + dv.flatten(1), x[:, stop:]]
        return torch.cat(parts, dim=1)


class _Nothing(nn.Module):
    """A self-connection to an irrep that the input does not have."""

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.n_out = n_out

    def forward(self, x: Tensor, point_type: Tensor) -> Tensor:
        return torch.zeros(1, 1, self.n_out, dtype=x.dtype, device=x.device)


class NequIP(Host):
    """The NequIP network; its last layer has scalars only.

    Args:
        spec: What the host is built for.
        config: Its configuration.
    """

    def __init__(self, spec: PointSpec, config: NequIPConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        scalar = o3.Irrep("0e")
        irreps = [scalar]
        self.embedding = nn.Embedding(spec.n_types, c)
        layers: list[NequIPLayer] = []
        for index in range(config.n_layers):
            last = index == config.n_layers - 1
            hidden = [scalar] if last else feature_irreps(config.l_max, config.parity)
            layers.append(NequIPLayer(irreps, hidden, index == 0, spec.of_layer(index), config))
            irreps = layers[-1].outputs
        self.layers = nn.ModuleList(layers)
        self.readout = ScaledLinear(c, 1)

    def embed(self, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        return self.embedding(point_type)

    def energy(self, states: list[Tensor]) -> Tensor:
        return self.readout(states[-1][:, : self.channels]).squeeze(-1)
