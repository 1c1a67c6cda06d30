"""Geometry of pairs of atoms and their electron points, for ``pairs.py``, and its gradient.

TorchScript understands the functions here. Pairs are the last axis, since loops of torch are fast where
that is long. In shapes B are pairs; H heads; K electron points; V softened distances: R^ne, R^en and R^ee
of each point, one for all while the points are still, none without points; n radial functions.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class PairGeometry(NamedTuple):
    """What is between the points of pairs of atoms, in Angstrom.

    Attributes:
        length: Distance of the nuclei, shape (1, B).
        unit: Direction of the neighbor's nucleus, shape (3, B).
        soft: Vectors that have softened lengths, shape (3, V, B).
        lengths: These lengths, shape (V, B).
        second: Vectors between electron points, shape (3, H, B), or between their means, shape (3, 1, B),
            where there is one head; empty without points.
        second_length: Their softened lengths, shape (H, B) or (1, B).
    """

    length: Tensor
    unit: Tensor
    soft: Tensor
    lengths: Tensor
    second: Tensor
    second_length: Tensor


class RadialFunctions(NamedTuple):
    """Radial functions of pairs, and what they were made of.

    Attributes:
        values: Functions times the envelope, shape (1 + V, n, B); with products behind them, shape
            (1 + 2 V, n, B), those of the nuclei times the shifts.
        sine: Sines of which they are made, shape (1 + V, n, B).
        cosine: Cosines of the same angles.
        shift: Softened lengths less that of the nuclei's vector, shape (V, B); not read without products.
    """

    values: Tensor
    sine: Tensor
    cosine: Tensor
    shift: Tensor


def geometry_of(
    r: Tensor, i: Tensor, j: Tensor, d: Tensor, softening: float, n_heads: int, still: bool
) -> PairGeometry:
    """Geometry of pairs from r_ij (B, 3), both atoms (B,), and all displacements (n_atoms, K, 3)."""
    r = r.t().contiguous()
    length = norms(r, 0.0).unsqueeze(0)
    unit = r / length
    k = d.shape[1]
    soft = r.unsqueeze(1)
    if k == 0:
        none = soft[:, :0]
        return PairGeometry(length, unit, none, length[:0], none, length[:0])
    if not still:
        d_i = d.index_select(0, i).permute(2, 1, 0).contiguous()
        d_j = d.index_select(0, j).permute(2, 1, 0).contiguous()
        ne = soft + d_j
        soft = torch.cat([ne, soft - d_i, ne - d_i], dim=1)
    lengths = norms(soft, softening)
    first = 0 if still else 2 * k
    second, second_length = soft[:, first:], lengths[first:]
    if n_heads != second.shape[1]:  # all points in all channels
        second = second.mean(1, keepdim=True)
        second_length = norms(second, softening)
    return PairGeometry(length, unit, soft, lengths, second, second_length)


def geometry_backward(
    found: PairGeometry,
    by_length: Tensor,
    by_unit: Tensor,
    by_lengths: Tensor,
    by_own: Tensor,
    still: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of `geometry_of` by r (3, B) and by displacements of i and of j (3, K, B), none of still ones.

    Args:
        found: Its result.
        by_length: Gradient by a part of it, of its shape, as the following.
        by_unit: Shape (3, B).
        by_lengths: Shape (V, B).
        by_own: By ``second / second_length``, shape (3, H, B); not read without points.
        still: Whether displacements are zero, or there are none.
    """
    radial = (by_unit * found.unit).sum(0, keepdim=True)
    by_r = (by_unit - radial * found.unit) / found.length + found.unit * by_length
    soft, lengths = found.soft, found.lengths
    if soft.shape[1] == 0:
        return by_r, soft, soft
    by_soft = soft * (by_lengths / lengths)
    k = 0 if still else soft.shape[1] // 3
    second, length = found.second, found.second_length
    by_second = by_own / length
    by_second = by_second - second * ((by_second * second).sum(0) / (length * length))
    if second.shape[1] != soft.shape[1] - 2 * k:
        by_second = by_second / float(soft.shape[1] - 2 * k)
    by_soft[:, 2 * k :] += by_second
    by_r = by_r + by_soft.sum(1)
    if still:
        return by_r, soft, soft
    ne, en, ee = by_soft[:, :k], by_soft[:, k : 2 * k], by_soft[:, 2 * k :]
    return by_r, (en + ee).neg_(), ne + ee


def functions_of(
    found: PairGeometry,
    envelope: Tensor,
    n_basis: int,
    cutoff: float,
    softening: float,
    products: bool,
) -> RadialFunctions:
    """Radial functions of the distances of pairs.

    Args:
        found: The geometry.
        envelope: Shape (1, B).
        n_basis: Number n of functions of a distance.
        cutoff: Cutoff in Angstrom.
        softening: Softening length in Angstrom.
        products: Whether there are products.
    """
    x = torch.cat([found.length, found.lengths])
    sine, cosine = sines_of(x, n_basis, cutoff)
    values = sine * (envelope / x).unsqueeze(1)
    shift = found.lengths  # not read without products
    if products:
        shift = found.lengths - torch.sqrt(found.length * found.length + softening * softening)
        values = torch.cat([values, values[:1] * shift.unsqueeze(1)])
    return RadialFunctions(values, sine, cosine, shift)


def functions_backward(
    by: Tensor,
    made: RadialFunctions,
    found: PairGeometry,
    envelope: Tensor,
    cutoff: float,
    softening: float,
    products: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of `functions_of` by length (1, B), softened lengths (V, B) and envelope (1, B).

    Args:
        by: Gradient by its values, of their shape.
        made: Its result, of which the cosines are written over.
        found: Its argument.
        envelope: As above.
        cutoff: As above.
        softening: As above.
        products: As above.
    """
    x = torch.cat([found.length, found.lengths])
    by_shift = found.lengths  # not read without products
    if products:
        of_products = by[x.shape[0] :]
        by_shift = (of_products * made.values[:1]).sum(1)
        by_first = by[:1] + (of_products * made.shift.unsqueeze(1)).sum(0, keepdim=True)
        by = torch.cat([by_first, by[1 : x.shape[0]]])
    multiples = torch.arange(1, by.shape[1] + 1, dtype=x.dtype, device=x.device).unsqueeze(1)
    scale = envelope / x
    by_scale = (by * made.sine).sum(1)
    by_angle = (by * made.cosine.mul_(multiples)).sum(1) * (math.pi / cutoff)
    by_x = scale * (by_angle - by_scale / x)
    by_envelope = (by_scale / x).sum(0, keepdim=True)
    by_length, by_lengths = by_x[:1], by_x[1:]
    if products:
        slope = found.length / torch.sqrt(found.length * found.length + softening * softening)
        by_length = by_length - by_shift.sum(0, keepdim=True) * slope
        by_lengths = by_lengths + by_shift
    return by_length, by_lengths, by_envelope


def norms(x: Tensor, softening: float) -> Tensor:
    """Softened lengths (...) of vectors (3, ...)."""
    a, b, c = x.unbind(0)
    square = (a * a).addcmul_(b, b).addcmul_(c, c)
    return square.add_(softening * softening).sqrt_()


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


def sines_of(x: Tensor, n: int, cutoff: float) -> tuple[Tensor, Tensor]:
    """Sines and cosines (1 + V, n, B) of 1 to n times pi x / cutoff, from x (1 + V, B).

    Those of m + k times an angle come from those of m and of k times it.
    """
    angle = x * (math.pi / cutoff)
    shape = [x.shape[0], n, x.shape[1]]
    sine = torch.empty(shape, dtype=x.dtype, device=x.device)
    cosine = torch.empty(shape, dtype=x.dtype, device=x.device)
    torch.sin(angle, out=sine[:, 0])
    torch.cos(angle, out=cosine[:, 0])
    m = 1
    while m < n:
        k = min(m, n - m)
        s, c = sine[:, :k], cosine[:, :k]
        s_m, c_m = sine[:, m - 1 : m], cosine[:, m - 1 : m]
        torch.mul(c, s_m, out=sine[:, m : m + k]).addcmul_(s, c_m)
        torch.mul(c, c_m, out=cosine[:, m : m + k]).addcmul_(s, s_m, value=-1.0)
        m += k
    return sine, cosine
