"""Messages of PaiNN and their gradient written out, for where there is no compiler.

TorchScript understands the functions here, so that the file of a potential holds them. They do the two
edges i, j and j, i of a pair of atoms at once, as ``messages.h`` does: distances are the same but for
those between an electron point and a nucleus, which trade places, so the even and the odd part of the
filters serve both. Some hundred pairs at a time stay in the caches, and the gradient makes the filters
again, so that nothing is kept for an edge.

Equation numbers are those of arXiv:2102.03150. In shapes B are pairs, and before them 2 the edges i, j
and j, i; c channels in H heads of w each; P parts of eqs. 7 and 8 (scalars, vectors but for the first
layer, each direction); K electron points; V softened distances: R^ne, R^en and R^ee of each point, one
for all while the points are still, none without points; n radial functions of each distance.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class PairGeometry(NamedTuple):
    """What is between the points of pairs of atoms, in Angstrom.

    Attributes:
        length: Distance of the nuclei, shape (B, 1).
        unit: Direction of the neighbor's nucleus, shape (B, 3).
        soft: Vectors that have softened lengths, shape (B, V, 3).
        lengths: These lengths, shape (B, V).
        second: Vectors between electron points, shape (B, 3, H), or between their means, shape (B, 3, 1),
            where there is one head; empty without points.
        second_length: Their softened lengths, shape (B, 1, H) or (B, 1, 1).
    """

    length: Tensor
    unit: Tensor
    soft: Tensor
    lengths: Tensor
    second: Tensor
    second_length: Tensor


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
    """Pairs of a block: what stays in the caches; on a GPU more, at some 25 kB of its memory for each."""
    return 32768 if r.is_cuda else 512


def envelope_of(length: Tensor, cutoff: float, power: int) -> tuple[Tensor, Tensor]:
    """Envelope and its derivative: `CosineEnvelope` for power 0, `PolynomialEnvelope` for others."""
    x = torch.clamp(length / cutoff, max=1.0)
    if power == 0:
        angle = math.pi * x
        return 0.5 * torch.cos(angle) + 0.5, torch.sin(angle) * (-0.5 * math.pi / cutoff)
    p = float(power)
    slope = torch.pow(x, p - 1.0) * (1.0 - x) * (1.0 - x) * (-0.5 * p * (p + 1.0) * (p + 2.0))
    poly = (p + 1.0) * (p + 2.0) / 2.0 - p * (p + 2.0) * x + p * (p + 1.0) / 2.0 * x * x
    return 1.0 - torch.pow(x, p) * poly, slope / cutoff


def geometry_of(
    r: Tensor, i: Tensor, j: Tensor, d: Tensor, softening: float, n_heads: int, still: bool
) -> PairGeometry:
    """Geometry of pairs from r_ij (B, 3), both atoms (B,), and all displacements (n_atoms, K, 3)."""
    length = torch.sqrt((r * r).sum(1, keepdim=True))
    unit = r / length
    k = d.shape[1]
    d_i, d_j = d.index_select(0, i), d.index_select(0, j)
    if k == 0:
        return PairGeometry(length, unit, d_i, length[:, :0], d_i, d_i)
    soft = r.unsqueeze(1)
    if not still:
        ne = soft + d_j
        soft = torch.cat([ne, soft - d_i, ne - d_i], dim=1)
    lengths = torch.sqrt((soft * soft).sum(2) + softening * softening)
    first = 0 if still else 2 * k
    second, second_length = soft[:, first:], lengths[:, first:].unsqueeze(2)
    if n_heads != second.shape[1]:  # all points in all channels
        second = second.mean(1, keepdim=True)
        second_length = torch.sqrt((second * second).sum(2, keepdim=True) + softening * softening)
    second, second_length = second.transpose(1, 2), second_length.transpose(1, 2)
    return PairGeometry(length, unit, soft, lengths, second, second_length)


def radial_input(f: Tensor, envelope: Tensor, n_heads: int, still: bool) -> tuple[Tensor, Tensor]:
    """What the even and the odd weights of filters are multiplied with.

    Args:
        f: Radial functions times the envelope, shape (B, 1 + V, n).
        envelope: Shape (B, 1).
        n_heads: H; with one, all channels see all points.
        still: Whether displacements are zero, or there are none.

    Returns:
        (H, B, n_even) and (H, B, n_odd): functions of R^nn and R^ee, the sums of those of R^ne and
        R^en, and the envelope for the bias; the differences of the latter.
    """
    if still:
        even = torch.cat([f.flatten(1), envelope], dim=1).unsqueeze(0)
        return even, even[:, :, :0]
    k = f.shape[1] // 3
    ne, en = f[:, 1 : 1 + k], f[:, 1 + k : 1 + 2 * k]
    if n_heads == 1:
        even = torch.cat([f[:, :1], f[:, 1 + 2 * k :], ne + en], dim=1).flatten(1)
        even = torch.cat([even, envelope], dim=1)
        return even.unsqueeze(0), (ne - en).flatten(1).unsqueeze(0)
    bias = envelope.unsqueeze(1).expand(-1, k, 1)
    parts = [f[:, :1].expand(-1, k, f.shape[2]), f[:, 1 + 2 * k :], ne + en, bias]
    return torch.cat(parts, dim=2).transpose(0, 1), (ne - en).transpose(0, 1)


def radial_input_backward(
    by_even: Tensor, by_odd: Tensor, n: int, still: bool
) -> tuple[Tensor, Tensor]:
    """Gradient of `radial_input` by f (B, 1 + V, n) and by the envelope (B, 1)."""
    if still:
        by_f = by_even[0, :, :-1]
        return by_f.reshape(by_f.shape[0], by_f.shape[1] // n, n), by_even[0, :, -1:]
    if by_even.shape[0] == 1:
        b, k = by_odd.shape[1], by_odd.shape[2] // n
        parts = by_even[0, :, :-1].reshape(b, 1 + 2 * k, n)
        both, change = parts[:, 1 + k :], by_odd[0].reshape(b, k, n)
        by_f = torch.cat([parts[:, :1], both + change, both - change, parts[:, 1 : 1 + k]], dim=1)
        return by_f, by_even[0, :, -1:]
    between, ee = by_even[:, :, :n].sum(0, keepdim=True), by_even[:, :, n : 2 * n]
    both = by_even[:, :, 2 * n : 3 * n]
    by_f = torch.cat([between, both + by_odd, both - by_odd, ee]).transpose(0, 1)
    return by_f, by_even[:, :, 3 * n].sum(0).unsqueeze(1)


def filters_of(
    f: Tensor, envelope: Tensor, even: Tensor, odd: Tensor, n_parts: int, still: bool
) -> Tensor:
    """Filters (2, B, P, c) of both edges, or (1, B, P, c) where both have the same.

    Args:
        f: As of `radial_input`, as are ``envelope`` and ``still``.
        envelope: Shape (B, 1).
        even: Weights, shape (H, n_even, P w).
        odd: Weights, shape (H, n_odd, P w).
        n_parts: P.
        still: Whether displacements are zero, or there are none.
    """
    f_even, f_odd = radial_input(f, envelope, even.shape[0], still)
    of_even = torch.bmm(f_even, even)
    h, b = of_even.shape[0], of_even.shape[1]
    w = of_even.shape[2] // n_parts
    if still:
        return of_even.view(1, b, n_parts, w)
    of_odd = torch.bmm(f_odd, odd)
    found = torch.empty([2, b, n_parts, h, w], dtype=f.dtype, device=f.device)
    of_even = of_even.view(h, b, n_parts, w).permute(1, 2, 0, 3)
    of_odd = of_odd.view(h, b, n_parts, w).permute(1, 2, 0, 3)
    torch.add(of_even, of_odd, out=found[0])
    torch.sub(of_even, of_odd, out=found[1])
    return found.view(2, b, n_parts, h * w)


def filters_of_backward(
    by: Tensor, even: Tensor, odd: Tensor, n: int, still: bool
) -> tuple[Tensor, Tensor]:
    """Gradient of `filters_of` by f (B, 1 + V, n) and envelope (B, 1), from that by filters (2, B, P, c)."""
    b, p, h = by.shape[1], by.shape[2], even.shape[0]
    if still:
        by_even = torch.bmm((by[0] + by[1]).view(1, b, -1), even.transpose(1, 2))
        return radial_input_backward(by_even, by_even, n, still)
    w = by.shape[3] // h
    parts = torch.empty([2, h, b, p, w], dtype=by.dtype, device=by.device)
    one, two = by[0].view(b, p, h, w), by[1].view(b, p, h, w)
    torch.add(one, two, out=parts[0].permute(1, 2, 0, 3))
    torch.sub(one, two, out=parts[1].permute(1, 2, 0, 3))
    parts = parts.view(2, h, b, p * w)
    by_even = torch.bmm(parts[0], even.transpose(1, 2))
    return radial_input_backward(by_even, torch.bmm(parts[1], odd.transpose(1, 2)), n, still)


def to_channels(found: PairGeometry, of_head: Tensor, relative: bool) -> Tensor:
    """Second directions (2, B, 3, c), or (2, B, 3, 1) where all are the same, of both edges.

    Where they are relative, less the directions between the nuclei.
    """
    own = found.second / found.second_length
    if relative:
        own = own - found.unit.unsqueeze(2)
    wide = own if own.shape[2] == 1 else torch.matmul(own, of_head)
    return torch.stack([wide, -wide])


def edge_messages(
    r: Tensor, center: Tensor, neighbor: Tensor, d: Tensor, phi: Tensor, v: Tensor,
    even: Tensor, odd: Tensor, of_head: Tensor, frequencies: Tensor,
    cutoff: float, softening: float, power: int, still: bool, relative: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sums of the messages of eqs. 7 and 8 over the edges of each center.

    Args:
        r: Vectors r_ij of one edge of each pair in Angstrom, shape (n_pairs, 3).
        center: Centers of these edges, shape (n_pairs,).
        neighbor: Their neighbors.
        d: Displacements in Angstrom, shape (n_atoms, K, 3).
        phi: What filters are multiplied with, shape (n_atoms, P c).
        v: Vectors, shape (n_atoms, 3, c); without a part for them they are not read.
        even: Weights, shape (H, n_even, P w), see `radial_input`.
        odd: Weights, shape (H, n_odd, P w).
        of_head: Which channels are those of a head, ones and zeros, shape (H, c).
        frequencies: Those of the Bessel functions in 1/A, shape (n,).
        cutoff: Cutoff in Angstrom.
        softening: Softening length in Angstrom.
        power: Of the envelope, 0 for that of a cosine.
        still: Whether displacements are zero, or there are none.
        relative: Whether second directions count by their difference to the first; that radial functions
            do so is in the weights.

    Returns:
        Changes of scalars (n_atoms, c) and vectors (n_atoms, 3, c).
    """
    c = v.shape[2]
    p = phi.shape[1] // c
    n_directions = min(d.shape[1], 1) + 1
    ds, dv = torch.zeros_like(v[:, 0]), torch.zeros_like(v)
    step = pairs_at_once(r)
    for start in range(0, r.shape[0], step):
        i, j = center[start : start + step], neighbor[start : start + step]
        r_ij = r[start : start + step]
        found = geometry_of(r_ij, i, j, d, softening, even.shape[0], still)
        envelope = envelope_of(found.length, cutoff, power)[0]
        x = torch.cat([found.length, found.lengths], dim=1).unsqueeze(2)
        f = torch.sin(x * frequencies).mul_(envelope.unsqueeze(2) / x)
        targets, sources = torch.cat([i, j]), torch.cat([j, i])
        m = phi.index_select(0, sources).view(2, -1, p, c)
        m.mul_(filters_of(f, envelope, even, odd, p, still))
        unit = torch.stack([found.unit, -found.unit]).unsqueeze(3)
        pull = unit * m[:, :, p - n_directions].unsqueeze(2)
        if n_directions > 1:
            pull.addcmul_(to_channels(found, of_head, relative), m[:, :, p - 1].unsqueeze(2))
        if p > 1 + n_directions:
            v_j = v.index_select(0, sources).view(2, -1, 3, c)
            pull.addcmul_(v_j, m[:, :, 1].unsqueeze(2))
        ds.index_add_(0, targets, m[:, :, 0].reshape(-1, c))
        dv.index_add_(0, targets, pull.view(-1, 3, c))
    return ds, dv


def edge_messages_backward(  # noqa: D417
    by_ds: Tensor, by_dv: Tensor,
    r: Tensor, center: Tensor, neighbor: Tensor, d: Tensor, phi: Tensor, v: Tensor,
    even: Tensor, odd: Tensor, of_head: Tensor, frequencies: Tensor,
    cutoff: float, softening: float, power: int, still: bool, relative: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradient of `edge_messages` by r, d, phi and v.

    Args:
        by_ds: Gradient by its first result, shape (n_atoms, c).
        by_dv: Gradient by its second result, shape (n_atoms, 3, c).
        r: As all further ones, the argument of `edge_messages`.

    Returns:
        Of the shapes of r, d, phi and v.
    """
    c, n = v.shape[2], frequencies.shape[0]
    p = phi.shape[1] // c
    n_directions = min(d.shape[1], 1) + 1
    by_r, by_d = torch.zeros_like(r), torch.zeros_like(d)
    by_phi, by_v = torch.zeros_like(phi), torch.zeros_like(v)
    step = pairs_at_once(r)
    for start in range(0, r.shape[0], step):
        i, j = center[start : start + step], neighbor[start : start + step]
        r_ij = r[start : start + step]
        found = geometry_of(r_ij, i, j, d, softening, even.shape[0], still)
        envelope, slope = envelope_of(found.length, cutoff, power)
        x = torch.cat([found.length, found.lengths], dim=1).unsqueeze(2)
        angle, inverse = x * frequencies, 1.0 / x
        bare = torch.sin(angle).mul_(inverse)
        filters = filters_of(bare * envelope.unsqueeze(2), envelope, even, odd, p, still)
        targets, sources = torch.cat([i, j]), torch.cat([j, i])
        phi_j = phi.index_select(0, sources).view(2, -1, p, c)
        m = phi_j * filters
        # By the messages, and by what they are products of.
        g = by_dv.index_select(0, targets).view(2, -1, 3, c)
        by_m = torch.empty_like(m)
        by_m[:, :, 0] = by_ds.index_select(0, targets).view(2, -1, c)
        unit = torch.stack([found.unit, -found.unit]).unsqueeze(3)
        torch.sum(g * unit, dim=2, out=by_m[:, :, p - n_directions])
        by_unit = torch.matmul(g, m[:, :, p - n_directions].unsqueeze(3)).squeeze(3)
        by_own = g[0]
        if n_directions > 1:
            own = to_channels(found, of_head, relative)
            torch.sum(g * own, dim=2, out=by_m[:, :, p - 1])
            products = g * m[:, :, p - 1].unsqueeze(2)
            by_own = torch.matmul(products[0] - products[1], of_head.t())  # (B, 3, H)
            if relative:
                by_unit[0] -= by_own.sum(2)
        if p > 1 + n_directions:
            v_j = v.index_select(0, sources).view(2, -1, 3, c)
            torch.sum(g * v_j, dim=2, out=by_m[:, :, 1])
            by_v.index_add_(0, sources, (g * m[:, :, 1].unsqueeze(2)).view(-1, 3, c))
        by_phi.index_add_(0, sources, (by_m * filters).view(-1, p * c))
        by_f, by_envelope = filters_of_backward(by_m.mul_(phi_j), even, odd, n, still)
        by_envelope = by_envelope + (by_f * bare).sum(2).sum(1, keepdim=True)
        change = torch.cos(angle).mul_(frequencies).sub_(bare).mul_(inverse)
        by_x = (by_f * change).sum(2) * envelope
        by_length = by_x[:, :1] + by_envelope * slope
        by_pair, by_i, by_j = geometry_backward(
            found, by_length, by_unit[0] - by_unit[1], by_x[:, 1:], by_own, still
        )
        by_r[start : start + step] = by_pair
        if not still:
            by_d.index_add_(0, i, by_i)
            by_d.index_add_(0, j, by_j)
    return by_r, by_d, by_phi, by_v


def geometry_backward(
    found: PairGeometry,
    by_length: Tensor,
    by_unit: Tensor,
    by_lengths: Tensor,
    by_own: Tensor,
    still: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of `geometry_of` by r and by the displacements of i and of j, which still points have not.

    Args:
        found: Its result.
        by_length: Gradient by a part of it, of its shape, as the following.
        by_unit: Shape (B, 3).
        by_lengths: Shape (B, V).
        by_own: By ``second / second_length``, shape (B, 3, H); not read without points.
        still: Whether displacements are zero, or there are none.
    """
    along = (by_unit * found.unit).sum(1, keepdim=True)
    by_r = (by_unit - along * found.unit) / found.length + found.unit * by_length
    soft, lengths = found.soft, found.lengths
    if soft.shape[1] == 0:
        return by_r, soft, soft
    by_soft = soft * (by_lengths / lengths).unsqueeze(2)
    k = 0 if still else soft.shape[1] // 3
    second, length = found.second, found.second_length
    by_second = by_own / length
    by_second = by_second - second * ((by_second * second).sum(1, keepdim=True) / (length * length))
    if second.shape[2] != soft.shape[1] - 2 * k:
        by_second = by_second / float(soft.shape[1] - 2 * k)
    by_soft[:, 2 * k :] += by_second.transpose(1, 2)
    by_r = by_r + by_soft.sum(1)
    if still:
        return by_r, soft, soft
    ne, en, ee = by_soft[:, :k], by_soft[:, k : 2 * k], by_soft[:, 2 * k :]
    return by_r, (en + ee).neg_(), ne + ee
