"""PaiNN layers whose messages are the operator of ``messages.cpp``."""

import torch
from torch import Tensor, nn

from ..model import PolarizedModel
from ..nn.hosts.painn import PaiNNLayer
from ..nn.points import Coupling, PairedGeometry, SinglePoint
from ..nn.radial import BesselBasis, PolynomialEnvelope
from .atoms import FusedUpdate, fuse_perceptrons
from .packing import pack, pack_bias


def envelope_power(envelope: nn.Module) -> int:
    """How operators know an envelope: by its power, 0 for that of a cosine."""
    return int(envelope.power) if isinstance(envelope, PolynomialEnvelope) else 0


def filter_weights(
    layer: PaiNNLayer, coupling: Coupling, still: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the filters of a layer, even and odd under exchange of center and neighbor.

    Args:
        layer: A layer with a `BesselBasis`, whose norm becomes part of the weights.
        coupling: Coupling of the points.
        still: Whether all displacements are zero, so that heads are one.
        dtype: Precision to calculate in.

    Returns:
        Bias (n_heads, parts w), even (n_heads, parts w, n_even) and odd weights (n_heads, parts w, n_odd),
        w channels to a head.
    """
    basis = layer.basis
    assert isinstance(basis, BesselBasis)
    n_heads = 1 if still else layer.n_heads
    n_points = points_seen(layer, coupling)
    weight = layer.filter.weight.to(dtype)
    if isinstance(layer.first, nn.Linear):
        weight = weight @ layer.first.weight.to(dtype)
    weight = weight * basis.norm
    if n_points == 0 or still:
        even = layer.fold_still(weight) if n_points > 0 else weight
        odd = even[:, :0]
    else:
        seen = 1 if n_heads > 1 else n_points
        distances = weight.unflatten(1, (-1, layer.n_basis))
        n_kinds = 6 if layer.spec.products else 3
        nuclei, ne, en, ee, *products = distances.split([1, *[seen] * n_kinds], 1)
        if layer.spec.relative:
            # w (f - f_nn) of a distance is w f, and -w is the nuclei's.
            nuclei = nuclei - torch.cat([ne, en, ee], 1).sum(1, keepdim=True)
        even_kinds, odd_kinds = [nuclei, ee, 0.5 * (ne + en)], [0.5 * (ne - en)]
        if products:
            ne, en, ee = (kind / coupling.shift_unit for kind in products)
            even_kinds += [ee, 0.5 * (ne + en)]
            odd_kinds += [0.5 * (ne - en)]
        even, odd = (torch.cat(kinds, 1).flatten(1) for kinds in (even_kinds, odd_kinds))

    def by_head(rows: Tensor) -> Tensor:
        parts = rows.unflatten(0, (-1, n_heads, layer.channels // n_heads))
        return parts.transpose(0, 1).flatten(1, 2)

    return by_head(layer.filter.bias[:, None]).squeeze(2), by_head(even), by_head(odd)


def points_seen(layer: PaiNNLayer, coupling: Coupling) -> int:
    """Electron points of an atom that a layer sees, none where it is that of the published host."""
    return coupling.n_points if layer.spec.n_distances > 1 else 0


class FusedPaiNNLayer(nn.Module):
    """The same function as a `PaiNNLayer` on the geometry of its coupling, on the CPU.

    It has no second derivatives by the edges, and with constant weights none at all.

    Args:
        layer: The layer; it stays what it is.
        coupling: Its coupling, for which `can_fuse_messages` holds.
        still: Whether all displacements are zero: before the first movement, or of static points.
        constant: Whether the weights of the layer will stay what they are: they are packed once, and the
            update block is an operator too.
    """

    def __init__(
        self,
        layer: PaiNNLayer,
        coupling: PairedGeometry | SinglePoint,
        still: bool,
        constant: bool,
    ) -> None:
        super().__init__()
        self.layer = layer
        envelope = coupling.envelope
        self.cutoff = envelope.cutoff
        self.power = envelope_power(envelope)
        self.softening = coupling.softening2**0.5
        self.n_points = points_seen(layer, coupling)
        self.n_basis = layer.n_basis
        self.still = still
        self.coupling = coupling
        self.n_heads = 1 if still else layer.n_heads
        self.packed: tuple[Tensor, ...] | None = None
        self.update: FusedUpdate | None = None
        if constant:
            self.update = FusedUpdate(layer)
            with torch.no_grad():
                dtype = layer.filter.weight.dtype
                self.packed = tuple(t.to(dtype) for t in self.pack(torch.float64))

    def pack(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Bias, and panels of the even and odd weights and their transposes.

        Args:
            dtype: Precision to calculate in.
        """
        bias, even, odd = filter_weights(self.layer, self.coupling, self.still, dtype)
        return pack_bias(bias), *(pack(part) for part in (even.mT, odd.mT, even, odd))

    def forward(
        self, x: Tensor, edges: Tensor, center: Tensor, neighbor: Tensor, d: Tensor
    ) -> Tensor:
        """New state (n_atoms, C).

        Args:
            x: State (n_atoms, C).
            edges: Vectors r_ij in Angstrom, shape (n_edges, 3).
            center: Center atoms, shape (n_edges,).
            neighbor: Neighbor atoms, shape (n_edges,).
            d: Displacements in Angstrom, shape (n_atoms, n_points, 3).

        Raises:
            RuntimeError: A shape is not what the operator can do.
        """
        layer = self.layer
        s, v = layer.scalars(x), layer.vectors(x)
        reverse = torch.ops.npcalc.reverse_edges(edges, center, neighbor, self.cutoff)
        packed = self.packed or self.pack(x.dtype)
        ds, dv = torch.ops.npcalc.pair_messages(
            edges, d[:, : self.n_points], layer.phi(s), v, center, neighbor, reverse, *packed,
            self.cutoff, self.softening, self.n_basis, self.power, self.n_heads, self.still,
            layer.spec.relative, layer.spec.products,
        )  # fmt: skip
        if self.update is not None:
            return self.update(x, ds, dv)
        return layer.update_block(s + ds, v + dv)


def knows_geometry(coupling: Coupling) -> bool:
    """Whether the geometry and filters of a coupling are those made here and in ``pairs.py``."""
    return isinstance(coupling, (SinglePoint, PairedGeometry))


def can_fuse_messages(model: PolarizedModel) -> bool:
    """Whether the operator has what the messages of a model need."""
    coupling = model.coupling
    return knows_geometry(coupling) and all(
        # Classes derived from these may be another function.
        type(layer) is PaiNNLayer
        and type(layer.basis) is BesselBasis
        and layer.channels % 16 == 0
        and layer.channels % (4 * layer.n_heads) == 0
        # The series of sine and cosine in the operator reach to twice the cutoff.
        and getattr(update, "d_max", 0.0) <= 0.5 * coupling.envelope.cutoff  # type: ignore[operator]
        for layer, update in zip(model.host.layers, model.updates, strict=True)
    )


def fuse_messages(model: PolarizedModel, constant: bool) -> None:
    """Makes the messages of a model, for which `can_fuse_messages` holds, the operator's.

    Args:
        model: The model.
        constant: Whether its weights will stay what they are now. What atoms do by themselves is operators
            too then; training, which differentiates it twice, leaves it to the compiler.
    """
    model.fused = [
        FusedPaiNNLayer(layer, model.coupling, still, constant)  # type: ignore[arg-type]
        for layer, still in zip(model.host.layers, model.still, strict=True)
    ]
    if constant:
        fuse_perceptrons(model)
