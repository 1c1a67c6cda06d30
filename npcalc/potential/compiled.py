"""Gradients traced into plain forward graphs, which the compiler can optimise.

A function that calls ``torch.autograd.grad`` inside is traced with real tensors into a
``torch.fx`` graph of ATen operators without autograd. Run as it is the graph saves the work of
building and walking the autograd tape; compiled with TorchInductor it is two to three times faster. It
can be differentiated again, which makes training steps fast.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from ..ops.library import find_compiler
from .derivatives import PotentialModule

END = 2**63 - 1
"""How ATen writes the open end of a slice."""

aten = torch.ops.aten

TOLERANCE = 2e-3
"""Largest difference of compiled from uncompiled results, relative to the largest element."""


def trace(function: Callable[..., Any], *example: Any, symbolic: bool = False) -> GraphModule:
    """Traces a function of tensors through ``torch.autograd.grad``.

    Args:
        function: Maps tensors (or lists of them) to tensors.
        *example: Arguments with the sizes that the graph will serve.
        symbolic: Whether sizes may be others than those of the example.

    Returns:
        The graph; it takes the same arguments.
    """
    mode: Any = "symbolic" if symbolic else "real"
    with torch.enable_grad():
        # Weights and constants of the function become part of the graph.
        graph_module = make_fx(function, tracing_mode=mode, _allow_non_fake_inputs=symbolic)(
            *example
        )
    # Outputs that autograd saved for its backward come back detached. In the traced graph the
    # detach would cut the second derivative, which training needs.
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def example_inputs(module: PotentialModule) -> tuple[Tensor, ...]:
    """Arguments of `PotentialModule.forward` to trace with, and to compare results of.

    They are a crumpled ring whose edges are 0.4 to 0.9 of the cutoff long: what a trained network says of
    atoms nearer to each other may be no number at all.
    """
    device = module.reference.device
    n_atoms, n_edges, n_systems = 7, 11, 5  # all different: tracing takes equal ones for one
    cutoff: float = module.edge_potential.model.coupling.envelope.cutoff  # type: ignore[assignment]
    angle = torch.arange(n_atoms, dtype=torch.float64) * (2.0 * math.pi / n_atoms)
    ring = torch.stack([angle.cos(), angle.sin(), 0.3 * (3.0 * angle).sin()], dim=1)
    crumpled = torch.arange(3.0 * n_atoms, dtype=torch.float64).reshape(n_atoms, 3).sin()
    center = torch.arange(n_edges) % n_atoms
    inputs = (
        (0.55 * ring + 0.03 * crumpled) * cutoff,
        torch.zeros(n_systems, 3, 3, dtype=torch.float64),
        torch.arange(n_atoms) % module.reference.shape[0],
        torch.stack([center, (center + 1 + torch.arange(n_edges) // n_atoms) % n_atoms]),
        torch.zeros(n_edges, 3, dtype=torch.float64),
        torch.arange(n_atoms) % n_systems,
    )
    return tuple(t.to(device) for t in inputs)


def trace_module(module: PotentialModule) -> GraphModule:
    """Traces a potential for any number of atoms, edges and systems.

    Args:
        module: Potential in evaluation mode.

    Returns:
        A graph from the arguments of ``module`` to its outputs as a tuple.
    """
    graph_module = trace(
        lambda *tensors: tuple(module(*tensors).values()), *example_inputs(module), symbolic=True
    )
    clean(graph_module)
    return graph_module


def clean(graph_module: GraphModule) -> None:
    """Removes what changes nothing: slices over a whole axis, repeated calculations, dead ends."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if _is_whole_slice(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _merge_repeated(graph)
    graph.eliminate_dead_code()
    graph_module.recompile()


def _is_whole_slice(node: Node) -> bool:
    if node.target is aten.slice.Tensor:
        return node.args[2:4] == (0, END)
    return node.target is aten.slice_backward.default and node.args[3:] == (0, END, 1)


def _merge_repeated(graph: Graph) -> None:
    """Lets nodes that do the same with the same arguments be one; none here writes to its arguments."""
    seen: dict[str, Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = f"{node.op} {node.target} {node.args} {sorted(node.kwargs.items())}"
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def compiler_available() -> bool:
    """Whether TorchInductor finds a C++ compiler for the CPU."""
    return find_compiler() is not None


def warn_no_compiler() -> None:
    """Warns that there is no C++ compiler."""
    warnings.warn(
        "no C++ compiler found (g++, clang++): running without compilation, which is slower; "
        "install one, for example the package g++",
        stacklevel=3,
    )


def warn_failed(error: Exception) -> None:
    """Warns that a compilation failed."""
    lines = str(error).strip().splitlines() or [repr(error)]
    warnings.warn(f"compilation failed ({lines[0]}): running without it, slower", stacklevel=3)


def compile_graph(graph_module: GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
    """Compiles a traced graph, or warns and returns it as it is where that fails.

    Compilers have faults: results and, where the arguments require gradients, the gradient of the
    first result are compared with those of the graph before the compiled code is trusted.

    Args:
        graph_module: A graph from `trace`.
        example: Arguments to try it on.

    Returns:
        A callable with the arguments of the graph.
    """
    if not compiler_available() and not torch.cuda.is_available():
        warn_no_compiler()
        return graph_module
    compiled = torch.compile(graph_module, dynamic=False, fullgraph=True)
    try:
        check_agreement(_with_gradient(compiled, example), _with_gradient(graph_module, example))
    except Exception as error:
        warn_failed(error)
        return graph_module
    return compiled


def _with_gradient(function: Callable[..., Any], example: Sequence[Any]) -> list[Tensor]:
    """Results of a function, and the gradient of the first of them by what requires one."""
    results = tree_leaves(function(*example))
    inputs = [t for t in tree_leaves(example) if isinstance(t, Tensor) and t.requires_grad]
    if not inputs or not results[0].requires_grad:
        return results
    return results + list(torch.autograd.grad(results[0], inputs, allow_unused=True))


def check_outputs(
    module: PotentialModule,
    inputs: Sequence[Tensor],
    found: Sequence[Tensor],
    expected: Sequence[Tensor],
) -> None:
    """Compares outputs of a potential in the order of `OUTPUTS`.

    Args:
        module: The potential.
        inputs: What they were calculated of, see `example_inputs`.
        found: Outputs of other code.
        expected: Outputs of the network.

    Raises:
        RuntimeError: They differ by more than rounding.
    """
    # Energies of the atoms, a thousand times those of bonds, would hide what differs.
    reference = module.reference[inputs[2]]
    check_agreement([found[0] - reference, *found[1:]], [expected[0] - reference, *expected[1:]])


def check_agreement(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Compares results of compiled code with those of the code that it was made of.

    Args:
        found: Results of the compiled code.
        expected: Results without compilation.

    Raises:
        RuntimeError: They differ by more than rounding.
    """
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        if b is None or b.numel() == 0:
            continue
        error, size = ((x.detach().abs().max()).item() for x in (a - b, b))
        if not error <= TOLERANCE * size + 1e-5:
            raise RuntimeError(
                f"the compiler made wrong code: result {k} is off by {error:.2g}, its size is {size:.2g}"
            )
