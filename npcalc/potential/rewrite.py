"""Traced graphs made faster without a compiler.

A graph that is run as it is calls an operator for each of its nodes and makes a new array for each
result. Where edges are few the calls take the time, where they are many the memory does, which is
fetched from the system and moved. So what depends on weights alone is calculated once, slices are read
from what they were joined of, products are folded into sums, and results are written over arguments that
nothing reads any more.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from .pieces import (
    forward_pieces,
    lies_in_order,
    replace,
    same_form,
    same_layout,
    shape_of,
    value_of,
)

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


# Whose results are their argument where these have the same shape.
SAME_NUMBERS = {
    aten.view.default, aten._unsafe_view.default, aten.expand.default, aten._to_copy.default,
}  # fmt: skip

# Which repeat operands to the shape of the others.
BROADCASTING = {
    aten.mul.Tensor,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.div.Tensor,
    aten.addcmul.default,
}


def rewrite(graph_module: GraphModule) -> None:
    """Makes a graph faster to run as it is; its results stay the same but for rounding.

    Args:
        graph_module: Graph of ATen operators that was traced with values.
    """
    fold_constants(graph_module)
    forward_pieces(graph_module.graph)
    simplify(graph_module.graph)
    fold_products(graph_module.graph)


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


def simplify(graph: Graph) -> None:
    """Takes out operators that change nothing, or that another one does along with its own work.

    Args:
        graph: Graph of ATen operators that was traced with values.
    """
    for node in list(graph.nodes):
        if node.target in SAME_NUMBERS and same_form(node.args[0], node):
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.squeeze.dim:
            _sum_squeezed(graph, node)
        elif node.target in (aten.index.Tensor, aten.index_put.default):
            _take_rows(graph, node)
        elif node.target in BROADCASTING:
            _leave_expansion_to(node)
        if node.target is aten.add.Tensor:
            _add_twice(node)
    graph.eliminate_dead_code()


def _sum_squeezed(graph: Graph, node: Node) -> None:
    """A sum that keeps an axis, which is taken away then, is one that does not keep it."""
    total, axis = node.args
    if not isinstance(total, Node) or total.target is not aten.sum.dim_IntList:
        return
    n = total.meta["val"].ndim
    kept = len(total.args) > 2 and total.args[2]
    if not kept or total.kwargs or [a % n for a in total.args[1]] != [axis % n]:  # type: ignore
        return
    replace(graph, node, aten.sum.dim_IntList, total.args[:2])


def _take_rows(graph: Graph, node: Node) -> None:
    """Rows by their numbers, or sums to them, by the operators that do nothing else and do it faster.

    They do not count from the end, which negative numbers ask for: nothing in this project has such. What
    they give lies in memory in order, as that of others does where their array does.
    """
    array, indices = node.args[:2]
    rows = value_of(indices[0]) if isinstance(indices, (list, tuple)) else None
    if rows is None or len(indices) != 1 or rows.ndim != 1 or rows.dtype != torch.int64:  # type: ignore
        return
    if not lies_in_order(array):
        return
    taken = (array, 0, indices[0])  # type: ignore[index]
    if node.target is aten.index.Tensor:
        replace(graph, node, aten.index_select.default, taken)
        return
    whole = shape_of(indices[0]) + shape_of(node)[1:]  # type: ignore[index]
    if node.args[3:] == (True,) and shape_of(node.args[2]) == whole:
        replace(graph, node, aten.index_add.default, (*taken, node.args[2]))


def _leave_expansion_to(node: Node) -> None:
    """Operands that were repeated to the shape of another one, which the operator does itself."""
    operands = [a for a in node.args if isinstance(a, Node)]
    repeated = [a for a in operands if a.target is aten.expand.default]
    if not any(a not in repeated and same_form(a, node) for a in operands):
        return
    for operand in repeated:
        node.replace_input_with(operand, operand.args[0])  # type: ignore[arg-type]


def _add_twice(node: Node) -> None:
    """``(x + y) + y``, as gradients of squares are, with one operator less."""
    if node.kwargs or len(node.args) != 2:
        return
    for total, y in (node.args, node.args[::-1]):
        if not isinstance(total, Node) or total.target is not aten.add.Tensor or total.kwargs:
            continue
        if y not in total.args or list(total.users) != [node] or total.args[0] is total.args[1]:
            continue
        x = total.args[0] if total.args[1] is y else total.args[1]
        if isinstance(x, Node) and same_form(x, node) and lies_in_order(x):
            node.args, node.kwargs = (x, y), {"alpha": 2}
            return


def fold_products(graph: Graph) -> None:
    """Makes ``x + a * b``, ``x - a * b`` and ``x + a @ b`` one operator where the product has no other use.

    Args:
        graph: Graph of ATen operators that was traced with values.
    """
    for node in list(graph.nodes):
        if node.target not in (aten.add.Tensor, aten.sub.Tensor) or node.kwargs:
            continue
        x, product = node.args
        if node.target is aten.add.Tensor and _add_matrix_product(graph, node):
            continue
        if node.target is aten.add.Tensor and not _is_single_product(product, node):
            x, product = product, x
        if not _is_single_product(product, node) or not _same_type([x, product, *product.args]):
            continue
        sign = {"value": -1} if node.target is aten.sub.Tensor else {}
        replace(graph, node, aten.addcmul.default, (x, *product.args), **sign)
        graph.erase_node(product)


def _add_matrix_product(graph: Graph, node: Node) -> bool:
    for x, product in (node.args, node.args[::-1]):
        if not isinstance(product, Node) or product.target is not aten.mm.default:
            continue
        if list(product.users) != [node] or x is product or not same_form(x, product):
            continue
        replace(graph, node, aten.addmm.default, (x, *product.args))
        graph.erase_node(product)
        return True
    return False


def _is_single_product(product: object, user: Node) -> bool:
    return (
        isinstance(product, Node)
        and product.target is aten.mul.Tensor
        and list(product.users) == [user]
        and [user.args[0], user.args[1]].count(product) == 1
    )


def _same_type(items: Iterable[object]) -> bool:
    """Whether all are tensors of one floating type."""
    values = [value_of(item) for item in items]
    types = {v.dtype for v in values if v is not None}
    return all(v is not None for v in values) and len(types) == 1 and types.pop().is_floating_point


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
        # Views further on need the layout that the result had when the graph was traced.
        if not same_form(argument, node) or not same_layout(argument, node):
            continue
        # Nothing else in this memory may be read by this operator or by a later one.
        members = sharing[memory[argument]]
        last = max((order[user] for member in members for user in member.users), default=0)
        others = [n for n in node.all_input_nodes if n is not argument]
        if last <= order[node] and not members.intersection(others):
            return argument
    return None
