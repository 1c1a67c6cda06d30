"""Rewritten graphs give the numbers of the graphs that they were made of, and spoil nobody's memory."""

import pytest
import torch
from systems import ethanol, make_graph, make_potential
from torch.fx import Interpreter

from npcalc.potential.compiled import clean, trace, trace_module
from npcalc.potential.rewrite import fold_constants, fold_products, overwritten_arguments

aten = torch.ops.aten
W = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(3, 4)


class Overwriting(Interpreter):
    """Runs a graph and writes over arguments where that is allowed."""

    def __init__(self, graph_module):
        super().__init__(graph_module)
        self.overwritten = overwritten_arguments(graph_module.graph)

    def run_node(self, node):
        if node not in self.overwritten:
            return super().run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if node.args[0] is not self.overwritten[node]:
            args = (args[1], args[0], *args[2:])
        name = node.target._schema.name.split("::")[1] + "_"
        result = getattr(aten, name)(*args, **kwargs)
        assert result.data_ptr() == args[0].data_ptr()
        return result


def chain(x, y):
    return ((x * y).sin() + y * 2.0).exp()


def view_is_read_later(x, y):
    product = x * y
    part = product[:2]
    return product.sin(), part * 3.0


def own_view_as_other_operand(x, y):
    product = x * y
    return product * product[:1]


def view_is_returned(x, y):
    product = x * y
    return product.t(), product + 1.0


def second_operand_is_free(x, y):
    return x[:, :1] * y.sin()


def weighted_sum(x, y):
    return torch.add(x, y.sin(), alpha=2.0)


def grows(x, y):
    return (x[:, :1] * y[:, :1]) * y


def argument_twice(x, y):
    product = x * y
    return product * product


def through_two_names(x, y):
    a = x * y
    b = a.sin()
    return b.reshape(-1).cos().sum() + b.sum(), x + y * b


FUNCTIONS = [
    chain, view_is_read_later, own_view_as_other_operand, view_is_returned, second_operand_is_free,
    weighted_sum, grows, argument_twice, through_two_names,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_numbers_and_arguments_stay(function):
    x, y = (torch.rand(3, 4, dtype=torch.float64, generator=torch.manual_seed(k)) for k in (0, 1))
    graph_module = trace(function, x, y, symbolic=True)
    clean(graph_module)
    fold_products(graph_module.graph)
    before = x.clone(), y.clone()
    with torch.no_grad():
        found, expected = Overwriting(graph_module).run(x, y), function(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def targets(function, *example):
    graph_module = trace(function, *example, symbolic=True)
    clean(graph_module)
    fold_constants(graph_module)
    fold_products(graph_module.graph)
    return [n.target for n in graph_module.graph.nodes if n.op == "call_function"], graph_module


def test_products_are_folded_where_nothing_else_reads_them():
    x, y = torch.rand(3, 4), torch.rand(3, 4)
    assert targets(lambda a, b: a - b * b, x, y)[0] == [aten.addcmul.default]
    assert targets(lambda a, b: a * b + b, x, y)[0] == [aten.addcmul.default]
    used_twice = targets(lambda a, b: (a + (p := a * b), p), x, y)[0]
    assert aten.addcmul.default not in used_twice
    mixed = targets(lambda a, b: a + b.double() * b.double(), x, y)[0]
    assert aten.addcmul.default not in mixed


def test_what_weights_alone_decide_is_calculated_once():
    found, graph_module = targets(lambda a: a @ (W.t() * 2.0), torch.rand(2, 4, dtype=W.dtype))
    assert found == [aten.mm.default]
    a = torch.rand(5, 4, dtype=W.dtype)
    torch.testing.assert_close(graph_module(a), a @ W.t() * 2.0)


def test_many_results_of_a_potential_lie_over_others():
    potential = make_potential("painn", "geometry")
    graph_module = trace_module(potential.module)
    graph = make_graph(potential, ethanol())
    expected = potential.evaluate(graph)
    fold_constants(graph_module)
    fold_products(graph_module.graph)
    run = Overwriting(graph_module)
    with torch.no_grad():
        found = run.run(*graph)
    for a, b in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    able = [n for n in graph_module.graph.nodes if n.target in (aten.mul.Tensor, aten.add.Tensor)]
    assert sum(n in run.overwritten for n in able) > len(able) / 3
