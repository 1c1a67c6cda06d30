"""Messages of PaiNN and their gradient written out, for where there is no compiler.

TorchScript understands the functions here, so that the file of a potential holds them. They do the two
edges i, j and j, i of a pair of atoms at once, as ``messages.h`` does: distances are the same but for
those between an electron point and a nucleus, which trade places, so the even and the odd part of the
filters serve both. Some hundred pairs at a time stay in the caches. What is made for them is handed to the
gradient where these are all pairs; where there are more the gradient makes it again, so that nothing is
kept for an edge.

What has few numbers for a pair, as distances, has pairs as its last axis, what has many, as filters, has
channels: loops of torch are fast where the last axis is long.

Equation numbers are those of arXiv:2102.03150. In shapes B are pairs, and before them 2 the edges i, j
and j, i; c channels in H heads of w each; P parts of eqs. 7 and 8, scalars, each direction, and vectors but
in the first layer; K electron points; V softened distances: R^ne, R^en and R^ee of each point, one
for all while the points are still, none without points; n radial functions of each distance; F sets of
them, those of 1 + V distances, and with products of V shifts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .pair_filters import filters_of, filters_of_backward
from .pair_geometry import (
    PairGeometry,
    RadialFunctions,
    envelope_of,
    functions_backward,
    functions_of,
    geometry_backward,
    geometry_of,
)


def one_of_each_pair(edge_index: Tensor, shifts: Tensor) -> Tensor:
    """Which edges to take so that there is one for each pair of atoms.

    Args:
        edge_index: Center and neighbor, shape (2, n_edges).
        shifts: Lattice translations of the neighbor, shape (n_edges, 3).

    Returns:
        Numbers of half of the edges; of none where they do not come in pairs i, j and j, i.
    """
    center, neighbor = edge_index[0], edge_index[1]
    x, y, z = shifts[:, 0], shifts[:, 1], shifts[:, 2]
    first = torch.where(x != 0, x, torch.where(y != 0, y, z))
    taken = torch.logical_or(center < neighbor, torch.logical_and(center == neighbor, first > 0))
    # The edges that are taken are the others turned round: two sums over them are the same then, and
    # by chance in one of 2^64 cases.
    there, back = edge_hash(center, neighbor, shifts), edge_hash(neighbor, center, -shifts)
    if int(torch.where(taken, there, -back).sum()) != 0:
        return torch.nonzero(taken[:0]).squeeze(1)
    return torch.nonzero(taken).squeeze(1)


def edge_hash(center: Tensor, neighbor: Tensor, shifts: Tensor) -> Tensor:
    """A number (n_edges,) made of each edge's center (n_edges,), neighbor and shift (n_edges, 3)."""
    n = shifts.to(torch.int64)
    mixed = center * 6364136223846793005 + neighbor * 1442695040888963407
    mixed = mixed + n[:, 0] * 3935559000370003845 + n[:, 1] * 2862933555777941757
    mixed = mixed + n[:, 2] * 3202034522624059733
    mixed = torch.bitwise_xor(mixed, mixed >> 32) * 7046029254386353131
    return torch.bitwise_xor(mixed, mixed >> 29) * 2685821657736338717


def pairs_at_once(r: Tensor) -> int:
    """Pairs of a block: what stays in the caches.

    On a GPU more, at some 25 kB of its memory for each, and 10 kB for each layer where there is one block.
    """
    return 32768 if r.is_cuda else 768


def second_directions(found: PairGeometry, of_head: Tensor, relative: bool) -> Tensor:
    """Second directions (B, 3, c), or (B, 3, 1) where all are the same, of the edges i, j.

    Where they are relative, less the directions between the nuclei.
    """
    own = found.second / found.second_length
    if relative:
        own = own - found.unit.unsqueeze(1)
    if own.shape[1] == 1:
        return own.permute(2, 0, 1)
    wide = torch.empty([own.shape[2], 3, of_head.shape[1]], dtype=own.dtype, device=own.device)
    for x in range(3):
        torch.mm(own[x].t(), of_head, out=wide[:, x])
    return wide


def along(x: Tensor, direction: Tensor, out: Tensor) -> None:
    """Writes the component of vectors (..., 3, c) along directions (..., 3, c) or (..., 3, 1) to (..., c)."""
    x_1, x_2, x_3 = x.unbind(-2)
    d_1, d_2, d_3 = direction.unbind(-2)
    torch.mul(x_1, d_1, out=out).addcmul_(x_2, d_2).addcmul_(x_3, d_3)


class PairBlock(NamedTuple):
    """What messages of some pairs and their gradient are made from.

    Attributes:
        found: The geometry.
        envelope: Shape (1, B).
        slope: Its derivative.
        made: Radial functions.
        filters: Shape (2, B, P, c), or (1, B, P, c) where both edges have the same.
        second: Second directions of the edges i, j, see `second_directions`; not read where there are none.
        targets: Centers of the edges i, j, then of j, i, shape (2 B,).
        sources: Their neighbors.
        of_j: What is sent by these, shape (2, B, parts, c).
    """

    found: PairGeometry
    envelope: Tensor
    slope: Tensor
    made: RadialFunctions
    filters: Tensor
    second: Tensor
    targets: Tensor
    sources: Tensor
    of_j: Tensor


def block_of(
    r: Tensor, i: Tensor, j: Tensor, d: Tensor, sent: Tensor,
    even: Tensor, odd: Tensor, of_head: Tensor, n_basis: int,
    cutoff: float, softening: float, power: int, still: bool, relative: bool, products: bool,
) -> PairBlock:  # fmt: skip
    """What `edge_messages` and its gradient need of some of their pairs, with arguments as there."""
    n_sent, c = sent.shape[1], sent.shape[2]
    n_scaled = min(d.shape[1], 1) + 2
    n_parts = n_scaled + (n_sent - n_scaled) // 3
    found = geometry_of(r, i, j, d, softening, even.shape[0], still)
    envelope, slope = envelope_of(found.length, cutoff, power)
    made = functions_of(found, envelope, n_basis, cutoff, softening, products)
    filters = filters_of(made.values, envelope, even, odd, n_parts, still, products)
    second = second_directions(found, of_head, relative) if n_scaled > 2 else found.second
    targets, sources = torch.cat([i, j]), torch.cat([j, i])
    of_j = sent.index_select(0, sources).view(2, -1, n_sent, c)
    return PairBlock(found, envelope, slope, made, filters, second, targets, sources, of_j)


def edge_messages(
    r: Tensor, center: Tensor, neighbor: Tensor, d: Tensor, sent: Tensor,
    even: Tensor, odd: Tensor, of_head: Tensor, n_basis: int,
    cutoff: float, softening: float, power: int, still: bool, relative: bool, products: bool,
) -> tuple[Tensor, PairBlock | None]:  # fmt: skip
    """Sums of the messages of eqs. 7 and 8 over the edges of each center.

    Args:
        r: Vectors r_ij of one edge of each pair in Angstrom, shape (n_pairs, 3).
        center: Centers of these edges, shape (n_pairs,).
        neighbor: Their neighbors.
        d: Displacements in Angstrom, shape (n_atoms, K, 3).
        sent: What filters are multiplied with, for the scalars and for each direction, shape
            (n_atoms, P, c) in the first layer; in others also three, the vectors times what they
            are multiplied with, shape (n_atoms, P + 2, c).
        even: Weights, shape (H, n_even, P w), see `radial_input`; parts in the order of ``sent``.
        odd: Weights, shape (H, n_odd, P w).
        of_head: Which channels are those of a head, ones and zeros, shape (H, c).
        n_basis: Number of radial functions, those of `npcalc.nn.radial.BesselBasis` but for its norm.
        cutoff: Cutoff in Angstrom.
        softening: Softening length in Angstrom.
        power: Of the envelope, 0 for that of a cosine.
        still: Whether displacements are zero, or there are none.
        relative: Whether second directions count by their difference to the first; that radial functions
            do so is in the weights.
        products: Whether there are products of radial functions with shifts, see `RadialFunctions`.

    Returns:
        Changes of scalars and vectors, shape (n_atoms, 4, c), and what `edge_messages_backward` need not make
        again where all pairs are one block.
    """
    n_sent, c = sent.shape[1], sent.shape[2]
    n_scaled = min(d.shape[1], 1) + 2
    received = torch.zeros([sent.shape[0], 4, c], dtype=sent.dtype, device=sent.device)
    step = pairs_at_once(r)
    kept: PairBlock | None = None
    for start in range(0, r.shape[0], step):
        end = start + step
        block = block_of(
            r[start:end], center[start:end], neighbor[start:end], d, sent, even, odd, of_head,
            n_basis, cutoff, softening, power, still, relative, products,
        )  # fmt: skip
        if r.shape[0] <= step:
            kept = block
        filters, of_j, second = block.filters, block.of_j, block.second
        message = torch.empty([2, of_j.shape[1], 4, c], dtype=sent.dtype, device=sent.device)
        torch.mul(of_j[:, :, 0], filters[:, :, 0], out=message[:, :, 0])
        scaled = of_j[:, :, 1:n_scaled] * filters[:, :, 1:n_scaled]
        pull = message[:, :, 1:]
        unit = block.found.unit.t().unsqueeze(2)
        torch.mul(scaled[0, :, :1], unit, out=pull[0])
        torch.mul(scaled[1, :, :1], -unit, out=pull[1])
        if n_scaled > 2:
            pull[0].addcmul_(scaled[0, :, 1:], second)
            pull[1].addcmul_(scaled[1, :, 1:], second, value=-1.0)
        if n_sent > n_scaled:
            pull.addcmul_(of_j[:, :, n_scaled:], filters[:, :, n_scaled:])
        received.index_add_(0, block.targets, message.view(-1, 4, c))
    return received, kept


def edge_messages_backward(  # noqa: D417
    by_received: Tensor, r: Tensor, center: Tensor, neighbor: Tensor, d: Tensor, sent: Tensor,
    even: Tensor, odd: Tensor, of_head: Tensor, n_basis: int,
    cutoff: float, softening: float, power: int, still: bool, relative: bool, products: bool,
    kept: PairBlock | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradient of `edge_messages` by r, d and what is sent.

    Args:
        by_received: Gradient by its result, shape (n_atoms, 4, c).
        r: As all further ones but the last, the argument of `edge_messages`.
        kept: What that has kept; some of it is written over.

    Returns:
        Of the shapes of r, d and ``sent``.
    """
    n_sent, c = sent.shape[1], sent.shape[2]
    n_scaled = min(d.shape[1], 1) + 2
    n_parts = n_scaled + (n_sent - n_scaled) // 3
    by_r, by_d, by_sent = torch.zeros_like(r), torch.zeros_like(d), torch.zeros_like(sent)
    step = pairs_at_once(r)
    for start in range(0, r.shape[0], step):
        end = start + step
        i, j = center[start:end], neighbor[start:end]
        block = (
            kept
            if kept is not None
            else block_of(
                r[start:end], i, j, d, sent, even, odd, of_head,
                n_basis, cutoff, softening, power, still, relative, products,
            )
        )  # fmt: skip
        found, filters, of_j, second = block.found, block.filters, block.of_j, block.second
        g = by_received.index_select(0, block.targets).view(2, -1, 4, c)
        by_pull = g[:, :, 1:]
        by_filters = torch.empty([2, i.shape[0], n_parts, c], dtype=r.dtype, device=r.device)
        by_of_j = torch.empty_like(of_j)
        # By the scalars and by the sizes of the pulls along each direction.
        by_scaled = torch.empty([2, i.shape[0], n_scaled, c], dtype=r.dtype, device=r.device)
        by_scaled[:, :, 0] = g[:, :, 0]
        scaled = of_j[:, :, 1:n_scaled] * filters[:, :, 1:n_scaled]
        unit = found.unit.t().unsqueeze(2)
        along(by_pull[0], unit, by_scaled[0, :, 1])
        along(by_pull[1], -unit, by_scaled[1, :, 1])
        product = by_pull[0] * scaled[0, :, :1]
        product.addcmul_(by_pull[1], scaled[1, :, :1], value=-1.0)
        by_unit = product.sum(2).t()
        by_second = by_unit.unsqueeze(1)  # not read where there is no second direction
        if n_scaled > 2:
            along(by_pull[0], second, by_scaled[0, :, 2])
            along(by_pull[1], -second, by_scaled[1, :, 2])
            torch.mul(by_pull[0], scaled[0, :, 1:], out=product)
            product.addcmul_(by_pull[1], scaled[1, :, 1:], value=-1.0)
            by_second = torch.matmul(of_head, product.permute(1, 2, 0))  # (3, H, B)
            if relative:
                by_unit = by_unit - by_second.sum(1)
        torch.mul(by_scaled, of_j[:, :, :n_scaled], out=by_filters[:, :, :n_scaled])
        torch.mul(by_scaled, filters[:, :, :n_scaled], out=by_of_j[:, :, :n_scaled])
        if n_sent > n_scaled:
            along(of_j[:, :, n_scaled:], by_pull, by_filters[:, :, n_scaled])
            torch.mul(by_pull, filters[:, :, n_scaled:], out=by_of_j[:, :, n_scaled:])
        by_sent.index_add_(0, block.sources, by_of_j.view(-1, n_sent, c))
        by_f, by_bias = filters_of_backward(by_filters, even, odd, n_basis, still, products)
        by_length, by_lengths, by_envelope = functions_backward(
            by_f, block.made, found, block.envelope, cutoff, softening, products
        )
        by_length = by_length + (by_envelope + by_bias) * block.slope
        by_pair, by_i, by_j = geometry_backward(
            found, by_length, by_unit, by_lengths, by_second, still
        )
        by_r[start:end] = by_pair.t()
        if not still:
            by_d.index_add_(0, i, by_i.permute(2, 1, 0))
            by_d.index_add_(0, j, by_j.permute(2, 1, 0))
    return by_r, by_d, by_sent
