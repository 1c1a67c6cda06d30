"""Joined arrays and gradients of slices taken out of traced graphs.

The gradient of a slice is an array of zeros with a part of it written over, and the gradients of all
slices of an array are added: much is moved for what is a joining, or nothing at all where only
slices of the sum are read. The same holds for slices of what was joined before. Here arrays are followed
as pieces along one axis.
"""

import operator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import Argument, Target, map_arg

aten = torch.ops.aten


class Piece(NamedTuple):
    """A part of an array: from and to which index, and its values, None for zeros."""

    start: int
    stop: int
    value: Node | None


class Pieces(NamedTuple):
    """An array as parts along an axis.

    Attributes:
        axis: The axis.
        parts: The parts in order, without gaps.
        apart: Whether none of them was cut out of an array that had to be made.
    """

    axis: int
    parts: list[Piece]
    apart: bool = True


def forward_pieces(graph: Graph) -> None:
    """Lets readers of slices read the pieces that arrays are made of.

    Args:
        graph: Graph of ATen operators that was traced with values.
    """
    known: dict[Node, Pieces] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        pieces = _pieces_of(graph, node, known)
        if pieces is not None:
            known[node] = pieces
            continue
        cut = _cut_of(node)
        if cut is not None and cut[0] in known:
            _replace_slice(graph, node, known[cut[0]], *cut[1:])
    for node, pieces in reversed(known.items()):
        if not node.users:
            graph.erase_node(node)
            continue
        values = [p.value for p in pieces.parts if p.value is not None]
        is_joined = len(values) == len(pieces.parts) and pieces.apart
        if node.target is aten.add.Tensor and is_joined:
            replace(graph, node, aten.cat.default, (values, pieces.axis))
    graph.eliminate_dead_code()


def replace(
    graph: Graph, node: Node, target: Target, args: tuple[Argument, ...], **options: Argument
) -> None:
    """Puts an operator in the place of another one that has the same result."""
    with graph.inserting_before(node):
        other = graph.call_function(target, args, options)  # type: ignore[arg-type]
    other.meta = node.meta
    node.replace_all_uses_with(other)
    graph.erase_node(node)


def call(graph: Graph, target: Target, args: tuple[Argument, ...]) -> Node:
    """A new node with its value, at the place where the graph inserts nodes."""
    node = graph.call_function(target, args)  # type: ignore[arg-type]
    node.meta["val"] = target(*map_arg(args, lambda n: n.meta["val"]))  # type: ignore[operator]
    return node


def value_of(node: object) -> Tensor | None:
    """The tensor that a node was traced with, if it is one."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def shape_of(node: object) -> list[str]:
    """The shape that a node was traced with, symbols as text; of what is no tensor none."""
    value = value_of(node)
    return [] if value is None else [str(n) for n in value.shape]


def lies_in_order(node: object) -> bool:
    """Whether the numbers of a tensor lie in memory one after the other, its last axis first."""
    value = value_of(node)
    return value is not None and value.is_contiguous()


def same_form(a: object, b: object) -> bool:
    """Whether two results have the same type and the same shape for all sizes."""
    one, two = value_of(a), value_of(b)
    if one is None or two is None:
        return False
    return one.dtype == two.dtype and shape_of(a) == shape_of(b)


def same_layout(a: object, b: object) -> bool:
    """Whether two results of the same shape lie in memory alike for all sizes."""
    one, two = value_of(a), value_of(b)
    if one is None or two is None:
        return False
    return [str(n) for n in one.stride()] == [str(n) for n in two.stride()]


def _pieces_of(graph: Graph, node: Node, known: dict[Node, Pieces]) -> Pieces | None:
    value = value_of(node)
    if value is None:
        return None
    if node.target is aten.cat.default:
        return _joined(node, value)
    if node.target is aten.slice_backward.default and node.args[5] == 1:
        g, _, axis, start, stop = node.args[:5]
        return _surrounded(g, value, axis, start, stop)  # type: ignore[arg-type]
    if node.target is aten.select_backward.default:
        g, _, axis, index = node.args
        if not isinstance(value.shape[axis], int) or index < 0:  # type: ignore
            return None
        with graph.inserting_before(node):
            g = call(graph, aten.unsqueeze.default, (g, axis))
        return _surrounded(g, value, axis, index, index + 1)  # type: ignore
    if node.target is aten.add.Tensor and not node.kwargs:
        return _sum(graph, node, value, known)
    return None


def _joined(node: Node, value: Tensor) -> Pieces | None:
    axis = node.args[1] if len(node.args) > 1 else 0
    parts: list[Piece] = []
    start = 0
    for item in node.args[0]:  # type: ignore[union-attr]
        own = item.meta["val"]  # type: ignore
        width = own.shape[axis] if own.ndim == value.ndim else None
        # Readers of a piece must find the type that joining would have given it.
        if not isinstance(width, int) or own.dtype != value.dtype:
            return None
        parts.append(Piece(start, start + width, item))  # type: ignore[arg-type]
        start += width
    return Pieces(axis % value.ndim, parts)  # type: ignore


def _surrounded(g: Node, value: Tensor, axis: int, start: int, stop: int) -> Pieces | None:
    """Zeros with a part in them."""
    size = value.shape[axis]
    if not isinstance(size, int) or start < 0 or stop < 0:
        return None
    stop = min(stop, size)
    parts = [Piece(0, start, None), Piece(start, stop, g), Piece(stop, size, None)]
    return Pieces(axis % value.ndim, [p for p in parts if p.stop > p.start])


def _sum(graph: Graph, node: Node, value: Tensor, known: dict[Node, Pieces]) -> Pieces | None:
    """A sum piece by piece, if one of its terms has zeros in it."""
    terms = [t for t in node.args if isinstance(t, Node)]
    found = [known[t] for t in terms if t in known]
    zeros = [p for p in found if any(part.value is None for part in p.parts)]
    if len(terms) != 2 or not zeros:
        return None
    axis = zeros[0].axis
    # Both must be as the sum: what is repeated along an axis has no pieces there.
    if not all(same_form(t, node) for t in terms):
        return None
    sides = []
    apart = True
    for term in terms:
        pieces = known.get(term)
        if pieces is None or pieces.axis != axis:
            pieces = Pieces(axis, [Piece(0, value.shape[axis], term)], apart=False)
        apart = apart and pieces.apart
        sides.append(pieces.parts)
    ends = sorted({p.stop for parts in sides for p in parts})
    parts = []
    with graph.inserting_before(node):
        for start, stop in zip([0, *ends[:-1]], ends, strict=True):
            values = [_cut(graph, side, axis, start, stop) for side in sides]
            there = [v for v in values if v is not None]
            total = call(graph, aten.add.Tensor, tuple(there)) if len(there) == 2 else None
            parts.append(Piece(start, stop, total or (there[0] if there else None)))
    return Pieces(axis, parts, apart)


def _cut(graph: Graph, parts: list[Piece], axis: int, start: int, stop: int) -> Node | None:
    """What lies from one index to another within a single piece."""
    part = next(p for p in parts if p.start <= start and stop <= p.stop)
    if part.value is None or (part.start, part.stop) == (start, stop):
        return part.value
    inner = (part.value, axis, start - part.start, stop - part.start)
    return call(graph, aten.slice.Tensor, inner)


def _cut_of(node: Node) -> tuple[Node, int, int, int] | None:
    """Array, axis, start and stop of what is a slice of an array."""
    value = value_of(node)
    if value is None:
        return None
    if node.target is aten.slice.Tensor and node.args[4:] in ((), (1,)):
        array, axis, start, _ = (*node.args, 0, 0, 0)[:4]
        if isinstance(start, int) and start >= 0:
            width = value.shape[axis]  # type: ignore[index]
            if isinstance(width, int):
                return array, axis % value.ndim, start, start + width  # type: ignore
    if node.target is operator.getitem:
        split, number = node.args
        if isinstance(split, Node) and split.target is aten.split_with_sizes.default:
            array, sizes = split.args[:2]
            axis = split.args[2] if len(split.args) > 2 else 0
            if all(isinstance(n, int) for n in sizes):  # type: ignore[union-attr]
                start = sum(sizes[:number])  # type: ignore
                return array, axis % value.ndim, start, start + sizes[number]  # type: ignore
    return None


def _replace_slice(
    graph: Graph, node: Node, pieces: Pieces, axis: int, start: int, stop: int
) -> None:
    inside = [p for p in pieces.parts if p.start <= start and stop <= p.stop]
    # Views further on need numbers that lie in the order of those of the slice when the graph was traced.
    if axis != pieces.axis or not inside or not lies_in_order(inside[0].value):
        return
    with graph.inserting_before(node):
        found = _cut(graph, inside, axis, start, stop)
    if found is not None:
        node.replace_all_uses_with(found)
