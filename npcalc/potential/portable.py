"""The portable form of a potential: energies and forces as the source of one plain forward function.

Scripting the network itself would leave the forces to TorchScript's autograd, which records and
walks a tape at every call. Here the function is traced through its gradient with symbolic sizes,
cleaned, and written down as TorchScript: the same numbers, no tape, no compiler, any number of
atoms, edges and systems.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..ops.portable import NAMESPACE, can_be_portable, make_portable
from .compiled import trace_module
from .derivatives import ARGUMENTS, OUTPUTS, PotentialModule
from .rewrite import overwritten_arguments, rewrite

aten = torch.ops.aten


def edges_for_pairs(n_points: int) -> int:
    """Edges from which on `npcalc.ops.pairs` is faster: it has more to call, and less to do for each edge.

    Found with one and with eight points on molecules of up to 324 edges.
    """
    return min(300, 900 // max(n_points, 1))


def forward_source(n_edges: int) -> str:
    """Source of the method that chooses among those of few and of many edges."""
    return f"""def forward(self, {", ".join(ARGUMENTS)}):
    if edge_index.size(1) >= {n_edges}:
        taken = one_of_each_pair(edge_index, shifts)
        if taken.size(0) > 0:
            edges = edge_index[:, taken]
            return self.many_edges(positions, cell, species, edges, shifts[taken], batch)
    return self.few_edges({", ".join(ARGUMENTS)})
"""


def portable_source(module: PotentialModule) -> tuple[str, dict[str, Tensor]]:
    """TorchScript source of a potential.

    Args:
        module: Potential in evaluation mode.

    Returns:
        Source of a method ``forward`` with the arguments and results of `PotentialModule.forward`
        and of methods that it calls, with functions of `npcalc.ops.pairs` in them; and the tensors by name
        that they read from ``self``.
    """
    model = module.edge_potential.model
    if not can_be_portable(model):
        return write_source(trace_module(module), "forward")
    few, constants = write_source(trace_module(module), "few_edges")
    before = model.fused
    make_portable(model)
    try:
        many, others = write_source(trace_module(module), "many_edges")
    finally:
        model.fused = before
    return few + many + forward_source(edges_for_pairs(model.n_points)), constants | others


def write_source(graph_module: GraphModule, name: str) -> tuple[str, dict[str, Tensor]]:
    """TorchScript source of a graph, and the constants that it reads from ``self``.

    Args:
        graph_module: A graph of ATen operators with `ARGUMENTS` as arguments and `OUTPUTS` as results;
            it is changed.
        name: Name of the method that is written.

    Returns:
        Source and constants by name.
    """
    rewrite(graph_module)
    overwritten = overwritten_arguments(graph_module.graph)
    constants: dict[str, Tensor] = {}
    kept: dict[tuple[Any, ...], str] = {}
    lines = [f"def {name}(self, {', '.join(ARGUMENTS)}):"]
    names: dict[Node, str] = {}
    arguments = iter(ARGUMENTS)
    for number, node in enumerate(graph_module.graph.nodes):
        if node.op == "placeholder":
            names[node] = next(arguments)
        elif node.op == "get_attr":
            key = f"{name}_{len(constants)}"
            constants[key] = getattr(graph_module, str(node.target))
            names[node] = f"self.{key}"
        elif node.op == "call_function":
            names[node] = f"v{number}"
            results = f"v{number}"
            if node.target is getattr(torch.ops, NAMESPACE).edge_messages.default:
                kept[node.args] = f"kept{number}"
                results += f", kept{number}"
            call = _call(node, names, overwritten.get(node))
            if node.target is getattr(torch.ops, NAMESPACE).edge_messages_backward.default:
                # The gradient of the messages with the same arguments.
                call = f"{call.removesuffix(')')}, {kept.get(node.args[1:])})"
            lines.append(f"    {results} = {call}")
        else:
            outputs = zip(OUTPUTS, node.args[0], strict=True)
            items = ", ".join(f'"{key}": {names[value]}' for key, value in outputs)
            lines.append(f"    return {{{items}}}")
    return "\n".join(lines) + "\n", constants


def _call(node: Node, names: dict[Node, str], overwritten: Node | None) -> str:
    """A node as an expression, whose result lies where an argument was if one is overwritten."""
    target = node.target
    args = [_text(a, names) for a in node.args]
    if overwritten is not None and node.args[0] is not overwritten:
        args[:2] = args[1::-1]
    if target is operator.getitem:
        return f"{args[0]}[{args[1]}]"
    if target in (operator.mul, operator.add, operator.sub, operator.floordiv):
        sign = {"mul": "*", "add": "+", "sub": "-", "floordiv": "//"}[target.__name__]
        return f"({args[0]} {sign} {args[1]})"
    if target is aten.sym_size.int:
        return f"{args[0]}.size({args[1]})"
    if target in (aten.index.Tensor, aten.index_put.default):
        # A list without None would be taken for one that cannot hold it.
        args[1] = f"torch.jit.annotate(List[Optional[Tensor]], {args[1]})"
    for key, value in node.kwargs.items():
        if key == "device":  # that of the arguments, whatever it was when the graph was traced
            args.append(f"device={ARGUMENTS[0]}.device")
        elif value is not None:
            args.append(f"{key}={_text(value, names)}")
    if isinstance(target, torch._ops.OpOverload) and target.namespace == NAMESPACE:
        return f"{target._schema.name.split('::')[1]}({', '.join(args)})"
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        raise NotImplementedError(f"operator {target} has no TorchScript form here")
    name = target._schema.name.split("::")[1] + ("_" if overwritten is not None else "")
    return f"torch.ops.aten.{name}({', '.join(args)})"


def _text(value: Any, names: dict[Node, str]) -> str:
    """An argument as an expression."""
    if isinstance(value, Node):
        return names[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(v, names) for v in value) + "]"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    return repr(value)  # numbers, None, and torch's names of types and layouts
