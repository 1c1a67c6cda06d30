"""Traced graphs made faster without a compiler.

A graph that is run as it is calls an operator for each of its nodes and makes a new array for each
result. Where edges are few the calls take the time, where they are many the memory does, which is
fetched from the system and moved. So what depends on weights alone is calculated once, products are
folded into sums, and results are written over arguments that nothing reads any more.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten

# Operators that write their result over their first argument when an underscore is put behind their name.
OVERWRITING = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.addcmul.default,
    aten.neg.default, aten.sin.default, aten.cos.default, aten.exp.default, aten.tanh.default,
    aten.sigmoid.default, aten.silu.default, aten.sqrt.default, aten.reciprocal.default,
    aten.pow.Tensor_Scalar, aten.index_add.default, aten.index_put.default,
}  # fmt: skip

COMMUTATIVE = {aten.add.Tensor, aten.mul.Tensor}

# Operators besides these whose results lie in memory of their own. Of all others it is assumed that
# their results may share the memory of any argument.
FRESH = OVERWRITING | {
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.cat.default, aten.stack.default,
    aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.embedding.default,
    aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.clamp.default, aten.where.self,
    aten.zeros.default, aten.ones.default, aten.full.default, aten.new_zeros.default,
    aten.new_ones.default, aten.zeros_like.default, aten.ones_like.default, aten.clone.default,
    aten._to_copy.default, aten.sigmoid_backward.default, aten.tanh_backward.default,
    aten.silu_backward.default,
}  # fmt: skip


def fold_constants(graph_module: GraphModule) -> None:
    """Calculates once what depends on nothing but weights and constants.

    Args:
        graph_module: Graph of ATen operators.
    """
    graph = graph_module.graph
    known: dict[Node, Tensor] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(graph_module, str(node.target))
            continue
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs or not all(n in known for n in inputs):
            continue
        with torch.no_grad():
            value = node.target(*map_arg(node.args, known.__getitem__), **node.kwargs)
        if not isinstance(value, Tensor):  # several results; each that is used would be one
            continue
        name = f"folded{len(known)}"
        graph_module.register_buffer(name, value)
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta = node.meta
        known[constant] = value
        node.replace_all_uses_with(constant)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def fold_products(graph: Graph) -> None:
    """Makes ``x + a * b`` and ``x - a * b`` one operator where the product is used nowhere else.

    Args:
        graph: Graph of ATen operators that was traced with values.
    """
    for node in list(graph.nodes):
        if node.target not in (aten.add.Tensor, aten.sub.Tensor) or node.kwargs:
            continue
        x, product = node.args
        if node.target is aten.add.Tensor and not _is_single_product(product, node):
            x, product = product, x
        if not _is_single_product(product, node) or not _same_type([x, product, *product.args]):
            continue
        with graph.inserting_before(node):
            folded = graph.call_function(aten.addcmul.default, (x, *product.args))
            if node.target is aten.sub.Tensor:
                folded.kwargs = {"value": -1}
        folded.meta = node.meta
        node.replace_all_uses_with(folded)
        graph.erase_node(node)
        graph.erase_node(product)


def _is_single_product(product: object, user: Node) -> bool:
    return (
        isinstance(product, Node)
        and product.target is aten.mul.Tensor
        and list(product.users) == [user]
        and [user.args[0], user.args[1]].count(product) == 1
    )


def _same_type(items: Iterable[object]) -> bool:
    """Whether all are tensors of one floating type."""
    values = [i.meta.get("val") if isinstance(i, Node) else None for i in items]
    if not all(isinstance(v, Tensor) for v in values):
        return False
    types = {v.dtype for v in values}  # type: ignore[union-attr]
    return len(types) == 1 and types.pop().is_floating_point


def overwritten_arguments(graph: Graph) -> dict[Node, Node]:
    """Which argument each operator may write its result over, because nothing reads it afterwards.

    Args:
        graph: Graph of ATen operators that was traced with values.

    Returns:
        The argument for each operator that has one; of a sum or product it may be the second.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    memory: dict[Node, int] = {}  # an index of the memory that the result of a node lies in
    sharing: dict[int, set[Node]] = {}
    found: dict[Node, Node] = {}
    for node in graph.nodes:
        argument = _overwritable(node, order, memory, sharing)
        if argument is not None:
            found[node] = argument
            own = [argument]
        elif node.target in FRESH or node.op != "call_function":
            own = []
        else:
            own = node.all_input_nodes
        joined = {memory[n] for n in own}
        name = min(joined, default=order[node])
        members = {node}.union(*(sharing.pop(k) for k in joined))
        sharing[name] = members
        memory.update(dict.fromkeys(members, name))
    return found


def _overwritable(
    node: Node, order: dict[Node, int], memory: dict[Node, int], sharing: dict[int, set[Node]]
) -> Node | None:
    if node.target not in OVERWRITING:
        return None
    # A factor of the second term, ``alpha``, makes a sum another one when its terms trade places.
    exchangeable = node.target in COMMUTATIVE and not node.kwargs
    for argument in node.args[: 2 if exchangeable else 1]:
        if not isinstance(argument, Node) or argument.target not in FRESH:
            continue
        if not _same_form(argument, node):
            continue
        # Nothing else in this memory may be read by this operator or by a later one.
        members = sharing[memory[argument]]
        last = max((order[user] for member in members for user in member.users), default=0)
        others = [n for n in node.all_input_nodes if n is not argument]
        if last <= order[node] and not members.intersection(others):
            return argument
    return None


def _same_form(a: Node, b: Node) -> bool:
    """Whether two results have the same type and the same shape for all sizes."""
    one, two = a.meta.get("val"), b.meta.get("val")
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return False
    return one.dtype == two.dtype and [str(n) for n in one.shape] == [str(n) for n in two.shape]
