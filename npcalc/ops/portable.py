"""PaiNN layers whose messages are those of ``pairs.py``, for the files of potentials."""

from typing import Any

import torch
from torch import Tensor, nn

from ..model import PolarizedModel
from ..nn.hosts.painn import PaiNNLayer
from ..nn.points import PairedGeometry, SinglePoint
from ..nn.radial import BesselBasis
from ..nn.readouts import NoIncrements
from .painn import envelope_power, filter_weights, knows_geometry, points_seen
from .pairs import edge_messages, edge_messages_backward

NAMESPACE = "npcalc_pairs"
"""In a trace each is one node, for which `npcalc.potential.portable` writes a call of the function."""

_ARGUMENTS = (
    "Tensor r, Tensor center, Tensor neighbor, Tensor d, Tensor sent, "
    "Tensor even, Tensor odd, Tensor of_head, "
    "int n_basis, float cutoff, float softening, int power, bool still, bool relative, bool products"
)


def _messages(*arguments: Any) -> Tensor:
    return edge_messages(*arguments)[0]


# What the messages keep for their gradient is left to the calls that are written.
OPERATORS = {
    name: torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=(), schema=schema)
    for name, function, schema in (
        ("edge_messages", _messages, f"({_ARGUMENTS}) -> Tensor"),
        (
            "edge_messages_backward",
            edge_messages_backward,
            f"(Tensor by_received, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
        ),
    )
}


@OPERATORS["edge_messages"].register_fake
def _shape_of_messages(
    r: Tensor, center: Tensor, neighbor: Tensor, d: Tensor, sent: Tensor, *rest: Any
) -> Tensor:
    return sent.new_empty(sent.shape[0], 4, sent.shape[2])


@OPERATORS["edge_messages_backward"].register_fake
def _shape_of_gradient(
    by_received: Tensor, r: Tensor, center: Tensor, neighbor: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    d, sent = rest[:2]
    return torch.empty_like(r), torch.empty_like(d), torch.empty_like(sent)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.settings = inputs[8:]


def _backward(ctx: Any, by_received: Tensor) -> tuple[Tensor | None, ...]:
    arguments = (*ctx.saved_tensors, *ctx.settings)
    by_r, *others = OPERATORS["edge_messages_backward"](by_received, *arguments)
    return (by_r, None, None, *others, *[None] * (len(arguments) - 5))


OPERATORS["edge_messages"].register_autograd(_backward, setup_context=_save)


class PortablePaiNNLayer(nn.Module):
    """The same function as a `PaiNNLayer` on the geometry of its coupling, given one edge of each pair.

    It has first derivatives.

    Args:
        layer: The layer; it stays what it is, and so must its weights.
        coupling: Its coupling, for which `can_be_portable` holds.
        still: Whether all displacements are zero: before the first movement, or of static points.
    """

    def __init__(
        self, layer: PaiNNLayer, coupling: PairedGeometry | SinglePoint, still: bool
    ) -> None:
        super().__init__()
        self.layer = layer
        dtype = layer.filter.weight.dtype
        with torch.no_grad():
            self.n_points = points_seen(layer, coupling)
            bias, even, odd = filter_weights(layer, coupling, still, torch.float64)
            even = torch.cat([even, bias[:, :, None]], dim=2)
            self.weights = [self.as_sent(w).mT.contiguous().to(dtype) for w in (even, odd)]
        n_heads = even.shape[0]
        of_head = torch.eye(n_heads, dtype=dtype, device=even.device)
        self.of_head = of_head.repeat_interleave(layer.channels // n_heads, dim=1)
        envelope = coupling.envelope
        self.settings: tuple[int, float, float, int, bool, bool, bool] = (
            layer.n_basis,
            envelope.cutoff,  # type: ignore[assignment]
            coupling.softening2**0.5,
            envelope_power(envelope),
            still or self.n_points == 0,
            layer.spec.relative,
            layer.spec.products,
        )

    def as_sent(self, weights: Tensor) -> Tensor:
        """Weights (H, P w, n) of filters with the part of the vectors last, in the first layer without."""
        if self.layer.is_first:
            return self.layer.parts(weights)
        parts = weights.unflatten(1, (2 + self.layer.n_directions, -1))
        return torch.cat([parts[:, :1], parts[:, 2:], parts[:, 1:2]], dim=1).flatten(1, 2)

    def forward(
        self, x: Tensor, edges: Tensor, center: Tensor, neighbor: Tensor, d: Tensor
    ) -> Tensor:
        """New state (n_atoms, C).

        Args:
            x: State (n_atoms, C).
            edges: Vectors r_ij of one edge of each pair in Angstrom, shape (n_pairs, 3).
            center: Center atoms, shape (n_pairs,).
            neighbor: Neighbor atoms, shape (n_pairs,).
            d: Displacements in Angstrom, shape (n_atoms, n_points, 3).
        """
        layer = self.layer
        s, v = layer.scalars(x), layer.vectors(x)
        sent = layer.parts(layer.phi(s)).unflatten(1, (-1, layer.channels))
        if not layer.is_first:
            sent = torch.cat([sent[:, :1], sent[:, 2:], sent[:, 1:2] * v], dim=1)
        received = OPERATORS["edge_messages"](
            edges, center, neighbor, d[:, : self.n_points], sent, *self.weights, self.of_head,
            *self.settings,
        )  # fmt: skip
        return layer.update_block(s + received[:, 0], v + received[:, 1:])


def can_be_portable(model: PolarizedModel) -> bool:
    """Whether the functions of ``pairs.py`` are what the messages of a model are."""
    return (
        knows_geometry(model.coupling)
        and isinstance(model.increments, NoIncrements)  # which are of each edge
        and all(
            # Classes derived from these may be another function.
            type(layer) is PaiNNLayer and type(layer.basis) is BesselBasis
            for layer in model.host.layers
        )
    )


def make_portable(model: PolarizedModel) -> None:
    """Lets a model, for which `can_be_portable` holds, take one edge of each pair.

    Args:
        model: The model, whose weights will stay what they are now.
    """
    model.fused = [
        PortablePaiNNLayer(layer, model.coupling, still)  # type: ignore[arg-type]
        for layer, still in zip(model.host.layers, model.still, strict=True)
    ]
