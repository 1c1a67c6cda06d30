"""Filters of pairs of atoms from their radial functions, for ``pairs.py``, and their gradient.

TorchScript understands the functions here. In shapes B are pairs; c channels in H heads of w each; P parts of
the filters; n radial functions of each distance; F sets of them; K electron points. See ``pairs.py``.
"""

import torch
from torch import Tensor


def radial_input(
    f: Tensor, envelope: Tensor, n_heads: int, still: bool, products: bool
) -> tuple[Tensor, Tensor]:
    """What the even and the odd weights of filters are multiplied with.

    Args:
        f: Radial functions times the envelope, `RadialFunctions.values`, shape (F, n, B).
        envelope: Shape (1, B).
        n_heads: H; with one, all channels see all points.
        still: Whether displacements are zero, or there are none.
        products: Whether there are products.

    Returns:
        (H, n_even, B) and (H, n_odd, B): functions of R^nn and R^ee, the sums of those of R^ne and
        R^en, products in the same order, and the envelope for the bias; differences of R^ne and R^en, those
        of their functions and those of their products.
    """
    if still:
        even = torch.cat([f.flatten(0, 1), envelope]).unsqueeze(0)
        return even, even[:, :0]
    n_kinds = 2 if products else 1
    k = f.shape[0] // (3 * n_kinds)
    # (n_kinds, 3, K, n, B), K points of each head, but for the nuclei.
    kinds = f[1:].view(n_kinds, 3, k, f.shape[1], f.shape[2])
    total, change = kinds[:, 0] + kinds[:, 1], kinds[:, 0] - kinds[:, 1]
    if n_heads == 1:
        pairs = torch.stack([kinds[:, 2], total], dim=1).flatten(0, 3)
        even = torch.cat([f[0], pairs, envelope])
        return even.unsqueeze(0), change.flatten(0, 2).unsqueeze(0)
    parts = [f[:1].expand(k, -1, -1)]
    for kind in range(n_kinds):
        parts += [kinds[kind, 2], total[kind]]
    parts.append(envelope.unsqueeze(0).expand(k, 1, -1))
    return torch.cat(parts, dim=1), torch.cat(change.unbind(0), dim=1)


def radial_input_backward(
    by_even: Tensor, by_odd: Tensor, n: int, still: bool, products: bool
) -> tuple[Tensor, Tensor]:
    """Gradient of `radial_input` by f (F, n, B) and by the envelope (1, B)."""
    b = by_even.shape[2]
    if still:
        return by_even[0, :-1].view(-1, n, b), by_even[0, -1:]
    n_kinds = 2 if products else 1
    h = by_even.shape[0]
    # (H, n_kinds, points of a head, n, B)
    odd = by_odd.view(h, n_kinds, -1, n, b)
    even = by_even[:, n:-1].view(h, 2 * n_kinds, odd.shape[2], n, b)
    found = [by_even[:, :n].sum(0, keepdim=True)]
    for kind in range(n_kinds):
        ee, both, change = even[:, 2 * kind], even[:, 2 * kind + 1], odd[:, kind]
        found += [(both + change).flatten(0, 1), (both - change).flatten(0, 1), ee.flatten(0, 1)]
    return torch.cat(found), by_even[:, -1].sum(0, keepdim=True)


def filters_of(
    f: Tensor,
    envelope: Tensor,
    even: Tensor,
    odd: Tensor,
    n_parts: int,
    still: bool,
    products: bool,
) -> Tensor:
    """Filters (2, B, P, c) of both edges, or (1, B, P, c) where both have the same.

    Args:
        f: As of `radial_input`, as are ``envelope``, ``still`` and ``products``.
        envelope: Shape (1, B).
        even: Weights, shape (H, n_even, P w).
        odd: Weights, shape (H, n_odd, P w).
        n_parts: P.
        still: Whether displacements are zero, or there are none.
        products: Whether there are products.
    """
    f_even, f_odd = radial_input(f, envelope, even.shape[0], still, products)
    of_even = torch.bmm(f_even.transpose(1, 2), even)
    h, b = of_even.shape[0], of_even.shape[1]
    w = of_even.shape[2] // n_parts
    if still:
        return of_even.view(1, b, n_parts, w)
    of_odd = torch.bmm(f_odd.transpose(1, 2), odd)
    found = torch.empty([2, b, n_parts, h * w], dtype=f.dtype, device=f.device)
    if h == 1:
        torch.add(of_even, of_odd, out=found[0].view(1, b, -1))
        torch.sub(of_even, of_odd, out=found[1].view(1, b, -1))
        return found
    # Heads side by side: torch has fast loops over the few channels of a head for this alone.
    there, back = of_even + of_odd, of_even.sub_(of_odd)
    torch.cat(there.view(h, -1, w).unbind(0), dim=1, out=found[0].view(-1, h * w))
    torch.cat(back.view(h, -1, w).unbind(0), dim=1, out=found[1].view(-1, h * w))
    return found


def filters_of_backward(
    by: Tensor, even: Tensor, odd: Tensor, n: int, still: bool, products: bool
) -> tuple[Tensor, Tensor]:
    """Gradient of `filters_of` by f (F, n, B) and envelope (1, B), from that by filters (2, B, P, c)."""
    both = product_of_heads(even, by[0] + by[1])
    if still:
        return radial_input_backward(both, both, n, still, products)
    return radial_input_backward(both, product_of_heads(odd, by[0] - by[1]), n, still, products)


def product_of_heads(weights: Tensor, by: Tensor) -> Tensor:
    """Products (H, n_even, B) of weights (H, n_even, P w) and the part of each head of ``by`` (B, P, c)."""
    h, b, p = weights.shape[0], by.shape[0], by.shape[1]
    if h == 1:
        return torch.bmm(weights, by.view(1, b, -1).transpose(1, 2))
    w = weights.shape[2] // p
    heads = by.view(b, p, h, w).permute(1, 2, 3, 0)
    found = torch.bmm(weights[:, :, :w], heads[0])
    for part in range(1, p):
        found.baddbmm_(weights[:, :, part * w : (part + 1) * w], heads[part])
    return found
