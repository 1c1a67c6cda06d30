"""Rewritten graphs give the numbers of the graphs that they were made of, and spoil nobody's memory."""

import pytest
import torch
from systems import ethanol, make_graph, make_potential
from torch.fx import Interpreter

from npcalc.potential.compiled import clean, trace, trace_module
from npcalc.potential.rewrite import overwritten_arguments, rewrite

aten = torch.ops.aten
W = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(3, 4)
SQUARE = torch.linspace(-1.0, 1.0, 16, dtype=torch.float64).reshape(4, 4).sin()


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


def operand_of_other_strides(x, y):
    total = x.t() + y.t().contiguous().sin()
    return total.t().view(-1)


def grows(x, y):
    return (x[:, :1] * y[:, :1]) * y


def argument_twice(x, y):
    product = x * y
    return product * product


def through_two_names(x, y):
    a = x * y
    b = a.sin()
    return b.reshape(-1).cos().sum() + b.sum(), x + y * b


def wide(x):
    """A matrix whose number of columns is known while tracing, as that of channels is."""
    return x @ SQUARE.to(x.dtype)


def gradient(function):
    """The gradient of a function of ``x`` and ``y`` by both."""

    def by_both(x, y):
        with torch.enable_grad():
            x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
            return torch.autograd.grad(function(x, y), [x, y])

    by_both.__name__ = f"gradient_of_{function.__name__}"
    return by_both


@gradient
def slices_of_all(x, y):
    product = wide(x * y)
    return (product[:, :1].sin() * product[:, 1:].sum(1, keepdim=True)).sum()


@gradient
def slices_with_gaps(x, y):
    product = wide(x * y)
    return (product[:, 1:2].exp() + product[:, 3:] * product[:, 2:3] + product[:, 3:].sin()).sum()


@gradient
def slices_that_overlap(x, y):
    product = wide(x * y)
    return (product[:, :3].sin() * product[:, 1:]).sum()


@gradient
def slices_and_the_whole(x, y):
    product = wide(x * y)
    return (product[:, :2].sin() * product[:, 2:]).sum() + product.exp().sum()


@gradient
def one_row_of_three(x, y):
    product = wide(x * y)
    return (product[1] * product[0].sin()).sum() + product.select(1, 2).exp().sum()


@gradient
def slices_of_joined(x, y):
    joined = torch.cat([wide(x).sin(), wide(x * y)], dim=1)
    again = torch.cat([joined[:, 4:] * joined[:, :4], joined[:, 2:6], wide(y)], dim=1)
    parts = torch.split(again, [4, 1, 3, 4], dim=1)
    return (parts[0] * parts[3].exp()).sum() + (parts[1] * parts[2]).sum()


@gradient
def piece_of_other_strides(x, y):
    joined = torch.cat([wide(x.t() @ y).t(), wide(y.t() @ y)], dim=1)
    return (joined[:, :4].reshape(2, 8).sin() * joined[:, 4:].reshape(2, 8)).sum()


@gradient
def piece_of_other_strides_far_from_a_view(x, y):
    piece = (wide(x)[:, :, None] * SQUARE[:, :2]).transpose(1, 2)
    joined = torch.cat([piece, SQUARE[:2] * wide(y)[:, None]], dim=1)
    return (joined[:, :2].sin().reshape(3, 8) * joined[:, 2:].reshape(3, 8)).sum()


def types_are_mixed(x, y):
    joined = torch.cat([wide(x).float(), wide(y)], dim=1)
    return joined[:, :4] * joined[:, 4:]


def one_value_for_many_rows(x, y):
    numbers = torch.tensor([2, 0, 2])
    return x[:, 0].index_put((numbers,), y[0, 0], accumulate=True)


@gradient
def joined_is_read_whole(x, y):
    joined = torch.cat([wide(x * y), wide(x).sin()], dim=1)
    return (joined.exp().sum(1) * joined[:, 4:].sum(1)).sum()


@gradient
def squares(x, y):
    return ((x * x).sum(1, keepdim=True).squeeze(1) * (y * y).sum(0).sin().sum()).sqrt().sum()


@gradient
def rows_by_number(x, y):
    numbers = torch.tensor([2, 0, 2, 1, 0])
    return (x[numbers] * y[numbers].sin()).sum()


@gradient
def product_of_matrices_in_a_sum(x, y):
    inner = x @ y.t()
    return (inner.sin() @ x + y).exp().sum()


def rows_by_mask_and_columns(x, y):
    return x[torch.tensor([True, False, True])] * y[:2], x[:, torch.tensor([1, 3])]


FUNCTIONS = [
    chain, view_is_read_later, own_view_as_other_operand, view_is_returned, second_operand_is_free,
    weighted_sum, operand_of_other_strides, grows, argument_twice, through_two_names, slices_of_all,
    slices_with_gaps, slices_that_overlap, slices_and_the_whole, one_row_of_three, slices_of_joined,
    piece_of_other_strides, piece_of_other_strides_far_from_a_view, types_are_mixed,
    one_value_for_many_rows, joined_is_read_whole, squares, rows_by_number,
    product_of_matrices_in_a_sum, rows_by_mask_and_columns,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_numbers_and_arguments_stay(function):
    x, y = (torch.rand(3, 4, dtype=torch.float64, generator=torch.manual_seed(k)) for k in (0, 1))
    graph_module = trace(function, x, y, symbolic=True)
    clean(graph_module)
    rewrite(graph_module)
    before = x.clone(), y.clone()
    with torch.no_grad():
        found, expected = Overwriting(graph_module).run(x, y), function(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def targets(function, *example):
    graph_module = trace(function, *example, symbolic=True)
    clean(graph_module)
    rewrite(graph_module)
    return [n.target for n in graph_module.graph.nodes if n.op == "call_function"], graph_module


def test_products_are_folded_where_nothing_else_reads_them():
    x, y = torch.rand(3, 4), torch.rand(3, 4)
    assert targets(lambda a, b: a - b * b, x, y)[0] == [aten.addcmul.default]
    assert targets(lambda a, b: a * b + b, x, y)[0] == [aten.addcmul.default]
    used_twice = targets(lambda a, b: (a + (p := a * b), p), x, y)[0]
    assert aten.addcmul.default not in used_twice
    mixed = targets(lambda a, b: a + b.double() * b.double(), x, y)[0]
    assert aten.addcmul.default not in mixed


def test_gradients_of_slices_are_joined_or_not_made():
    x, y = torch.rand(3, 4), torch.rand(3, 4)
    for function in (slices_of_all, slices_of_joined):
        found = targets(function, x, y)[0]
        assert aten.slice_backward.default not in found
        assert aten.cat.default in found


def test_slices_of_what_was_joined_are_read_before_it_is():
    def swapped(a, b):
        joined = torch.cat([wide(a), wide(b)], dim=1)
        return joined[:, 4:] * joined[:, 1:3].sum() * joined[:, :4]

    found = targets(swapped, torch.rand(3, 4), torch.rand(3, 4))[0]
    assert aten.cat.default not in found


def test_what_other_operators_do_along_is_left_to_them():
    x, y = torch.rand(3, 4), torch.rand(3, 4)
    assert targets(lambda a, b: a.sum(1, keepdim=True).squeeze(1), x, y)[0] == [
        aten.sum.dim_IntList
    ]
    assert targets(lambda a, b: a * b[:, :1].expand(3, 4), x, y)[0][-1:] == [aten.mul.Tensor]
    assert targets(lambda a, b: (a + b) + b, x, y)[0] == [aten.add.Tensor]
    numbers = torch.tensor([2, 0, 2])
    assert aten.index.Tensor not in targets(lambda a, b: a[numbers] * b[numbers], x, y)[0]


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
    rewrite(graph_module)
    run = Overwriting(graph_module)
    with torch.no_grad():
        found = run.run(*graph)
    for a, b in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    able = [n for n in graph_module.graph.nodes if n.target in (aten.mul.Tensor, aten.add.Tensor)]
    assert sum(n in run.overwritten for n in able) > len(able) / 3
