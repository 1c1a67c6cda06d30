"""Operators of our own: the numbers of the network, whatever the edges, the threads and the precision."""

import copy

import numpy as np
import pytest
import torch
from systems import crystal, dimer, ethanol, make_graph, make_potential

from npcalc import ops
from npcalc.graph import collate
from npcalc.nn.tensor_product import TensorProduct
from npcalc.ops import library
from npcalc.ops.convolution import FusedTensorProduct
from npcalc.potential import derivatives, package
from npcalc.potential.derivatives import edge_vectors

pytestmark = pytest.mark.skipif(library.find_compiler() is None, reason="needs a C++ compiler")

HOST = {"name": "painn", "channels": 16, "n_layers": 2, "n_basis": 6}

FORMS = {
    "none": ("none", {}),
    "static": ("static", {"n_points": 2}),
    "one": ("geometry", {}),
    "three": ("geometry", {"n_points": 3, "envelope": "polynomial"}),
    "heads": ("heads-4", {"host": {**HOST, "channels": 64}}),
    "heads of 8": ("heads-4", {"host": {**HOST, "channels": 32}}),
    "heads of 4": ("heads-4", {}),
    "shifts": ("shifts-2", {"n_points": 3}),
    "products": ("products-2", {}),
    "products of one": ("products-2", {"n_points": 1, "envelope": "polynomial"}),
    "rank": ("geometry-4", {"host": {**HOST, "filter_rank": 5}}),
    "wide": ("geometry", {"host": {**HOST, "channels": 48, "n_basis": 9}, "d_max": 1.5}),
}

PRODUCTS = {
    "nequip": ("geometry-4", {"host": {"name": "nequip", "channels": 16, "n_layers": 3}}),
    "parity": (
        "nodes-same",
        {"host": {"name": "nequip", "channels": 32, "n_layers": 2, "l_max": 3, "parity": True}},
    ),
    "mace": ("geometry", {"host": {"name": "mace", "channels": 16, "l_max": 2}}),
    "tensornet": ("static", {"host": {"name": "tensornet", "channels": 16, "n_basis": 6}}),
}
"""Forms whose sums over edges are the operator of convolution.h; the others are those of messages.h."""

ALL = FORMS | PRODUCTS


def make(name="three", dtype="float64"):
    form, more = ALL[name]
    more = {"host": HOST, **more}
    return make_potential(more.pop("host"), form, dtype, **more)


def fused(potential):
    """The function of a potential with our operators in it, in eager mode."""
    module = package.with_operators(potential.module)
    assert module is not potential.module

    def evaluate(graph):
        with torch.enable_grad():
            return {k: v.detach() for k, v in module(*graph).items()}

    return evaluate


def assert_same(found, expected, atol=1e-10):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=atol, err_msg=name)


@pytest.mark.parametrize("name", ALL)
def test_operator_equals_network(name):
    potential = make(name)
    evaluate = fused(potential)
    graphs = [make_graph(potential, a) for a in (ethanol(), crystal(), dimer(1.1), dimer(9.0))]
    for graph in (*graphs, collate(graphs)):
        assert_same(evaluate(graph), potential.evaluate(graph))


@pytest.mark.parametrize("name", ["three", "heads", "products"])
def test_edges_in_any_order_with_and_without_a_partner(name):
    potential = make(name)
    evaluate = fused(potential)
    graph = make_graph(potential, crystal())
    rng = np.random.default_rng(0)
    # Half of the edges are gone: many have no edge that goes back.
    some = torch.tensor(rng.permutation(graph.edge_index.shape[1])[::2].copy())
    graph = graph._replace(edge_index=graph.edge_index[:, some], shifts=graph.shifts[some])
    vectors = graph.positions[graph.edge_index[1]] - graph.positions[graph.edge_index[0]]
    vectors = vectors + graph.shifts @ graph.cell[0]
    reverse = torch.ops.npcalc.reverse_edges(vectors, *graph.edge_index, 4.0)
    assert 0 < (reverse < 0).sum() < len(reverse)
    assert_same(evaluate(graph), potential.evaluate(graph))


def test_reverse_edges_are_opposite_and_mutual():
    ops.load_operators()
    graph = make_graph(make(), crystal())
    center, neighbor = graph.edge_index
    vectors = graph.positions[neighbor] - graph.positions[center] + graph.shifts @ graph.cell[0]
    length = vectors.norm(dim=1)
    assert (center == neighbor).any()  # images of the atom itself are among them
    for cutoff in (float(length.max()) + 0.1, float(length.median())):
        reverse = torch.ops.npcalc.reverse_edges(vectors, center, neighbor, cutoff)
        near = length < cutoff
        assert (reverse[~near] == -1).all()
        back = reverse[near]
        assert (reverse[back] == torch.arange(len(reverse))[near]).all()
        assert (vectors[back] == -vectors[near]).all()
        assert (center[back] == neighbor[near]).all()


@pytest.mark.parametrize("name", ["one", "nequip"])
def test_edges_beyond_the_cutoff_change_nothing(name):
    potential = make(name)
    evaluate = fused(potential)
    wide = make_potential(cutoff=4.5)
    near, far = make_graph(potential, crystal()), make_graph(wide, crystal())
    assert far.edge_index.shape[1] > near.edge_index.shape[1]
    assert_same(evaluate(far), evaluate(near))


@pytest.mark.parametrize(
    "name", ["rank", "heads", "heads of 8", "heads of 4", "shifts", "products", "nequip"]
)
def test_operator_in_float32(name):
    double, single = make(name), make(name, "float32")
    for atoms in (ethanol(), crystal()):
        graph = make_graph(double, atoms)
        expected, found = double.evaluate(graph), fused(single)(graph)
        np.testing.assert_allclose(found["energies"], expected["energies"], atol=1e-5)
        np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-4)


def trainable(potential, with_operators):
    """Energies, forces and dipoles of a potential that can be differentiated by its weights."""
    part = copy.deepcopy(potential.module.edge_potential).train().requires_grad_(True)
    if with_operators:
        ops.load_operators()
        ops.fuse(part.model, constant=False)
    return part


def weight_gradients(part, graph, **chosen):
    """Gradient of a random combination of outputs by the weights."""
    vectors = edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch)
    out = part(vectors, graph.species, *graph.edge_index, **chosen)
    rng = torch.Generator().manual_seed(0)
    values = (out.energies, out.forces, out.dipoles)
    loss = sum((v * torch.randn(v.shape, generator=rng, dtype=v.dtype)).sum() for v in values)
    names, weights = zip(*part.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    zeros = [torch.zeros_like(w) for w in weights]
    return dict(
        zip(names, (z if g is None else g for g, z in zip(found, zeros, strict=True)), strict=True)
    )


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_training_equal_those_of_the_network(name):
    """Derivatives by the weights of energies, dipoles and, through second derivatives, forces."""
    potential = make(name)
    plain, fast = (trainable(potential, with_operators) for with_operators in (False, True))
    for atoms in (ethanol(), crystal(), dimer(1.1)):
        graph = make_graph(potential, atoms)
        expected = weight_gradients(plain, graph)
        assert max(g.abs().max() for g in expected.values()) > 0.1
        assert_same(weight_gradients(fast, graph), expected, atol=1e-8)
    # Runs without energies and forces take the first derivative alone.
    if name in ("one", "three"):
        expected = weight_gradients(plain, graph, differentiate=False)
        assert_same(weight_gradients(fast, graph, differentiate=False), expected, atol=1e-8)


@pytest.mark.parametrize("name", ["three", "products", "nequip"])
def test_gradients_of_training_on_two_threads(name):
    potential = make(name)
    part = trainable(potential, True)
    graph = make_graph(potential, crystal().repeat(3))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = weight_gradients(part, graph)
        torch.set_num_threads(2)
        assert_same(weight_gradients(part, graph), one, atol=1e-8)
    finally:
        torch.set_num_threads(before)


def test_second_derivatives_by_edges_are_refused():
    """They are not there; a Hessian of zeros would be worse than an error."""
    potential = make()
    module = package.with_operators(potential.module)
    graph = make_graph(potential, ethanol())
    with pytest.raises(RuntimeError, match="no second derivatives by edges"):
        derivatives.hessian(module, graph)


def test_derivatives_beyond_those_that_are_there_are_refused():
    """Third ones, and second ones of a gradient that was taken by weights too."""
    part = trainable(make(), True)
    graph = make_graph(make(), ethanol())
    vectors = edge_vectors(
        graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch
    ).requires_grad_(True)
    weight = part.model.host.layers[1].filter.weight
    energy = part(vectors, graph.species, *graph.edge_index, differentiate=False).energies.sum()
    gradient, _ = torch.autograd.grad(energy, [vectors, weight], create_graph=True)
    with pytest.raises(RuntimeError, match="has no derivatives"):
        torch.autograd.grad((gradient**2).sum(), weight)


def test_tensors_of_any_strides():
    """What lies in memory in another order is the same tensor."""
    ops.load_operators()
    part = trainable(make(), True)
    graph = make_graph(make(), ethanol())
    vectors = edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch)
    layer = part.model.fused[1]
    rng = torch.Generator().manual_seed(0)
    d, phi, v = (
        torch.randn(shape, generator=rng, dtype=torch.float64)
        for shape in ((9, 3, 3), (9, 64), (9, 3, 16))
    )
    center, neighbor = graph.edge_index
    reverse = torch.ops.npcalc.reverse_edges(vectors, center, neighbor, layer.cutoff)
    rest = (
        center, neighbor, reverse, *layer.pack(torch.float64),
        layer.cutoff, layer.softening, layer.n_basis, layer.power, layer.n_heads, False, False, False,
    )  # fmt: skip
    with torch.no_grad():
        expected = torch.ops.npcalc.pair_messages(vectors, 0.1 * d, phi, v, *rest)
        v = v.transpose(1, 2).contiguous().transpose(1, 2)
        phi = phi.T.contiguous().T
        assert not v.is_contiguous()
        found = torch.ops.npcalc.pair_messages(vectors, 0.1 * d, phi, v, *rest)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["three", "heads", "products", "nequip"])
def test_threads_agree(name):
    potential = make(name)
    evaluate = fused(potential)
    graph = make_graph(potential, crystal().repeat(3))
    assert graph.edge_index.shape[1] > 2 * 2 * 16 * 32  # enough for two threads
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = evaluate(graph)
        torch.set_num_threads(2)
        assert_same(evaluate(graph), one)
    finally:
        torch.set_num_threads(before)
    assert_same(one, potential.evaluate(graph))


def test_models_that_the_operator_cannot_do():
    for potential in (
        make_potential({**HOST, "channels": 8}),
        make_potential({**HOST, "basis": "gaussian"}),
        make_potential(HOST, d_max=2.5),
        make_potential(HOST, "nodes-same"),
        make_potential(HOST, "heads-4", n_points=8),  # heads of 2 channels
        make_potential("egnn"),
        make_potential("nequip"),  # of 4 channels
    ):
        model = potential.module.edge_potential.model
        assert not ops.can_fuse(model)
        assert package.with_operators(potential.module) is potential.module
        with pytest.raises(ValueError, match="can_fuse"):
            ops.fuse(copy.deepcopy(model))


def convolution_arguments():
    """A tensor product with its operator, and random arguments of both."""
    ops.load_operators()
    product = make("parity").module.edge_potential.model.host.layers[1].convolution.product
    rng = torch.Generator().manual_seed(0)
    n_points, n_edges = 7, 40
    n_harmonics, _, d_in = product.shape
    shapes = ((n_edges, 32 * sum(product.paths)), (n_edges, n_harmonics), (n_points, d_in, 32))
    numbers = [
        torch.randn(s, generator=rng, dtype=torch.float64, requires_grad=True) for s in shapes
    ]
    ends = [torch.randint(n_points, (n_edges,), generator=rng) for _ in range(2)]
    return product, FusedTensorProduct(product), (*numbers, *ends)


def test_convolution_has_the_derivatives_of_the_tensor_product():
    """First and second ones, by weights, harmonics and features, of all of its components at once."""
    product, operator, arguments = convolution_arguments()
    found = []
    for function in (product, operator):
        rng = torch.Generator().manual_seed(1)
        g = torch.randn(product.shape[1], 7, 32, generator=rng, dtype=torch.float64)
        g = g.requires_grad_().transpose(0, 1)  # not contiguous

        def weighted(tensors, rng=rng):
            return sum(
                (t * torch.randn(t.shape, generator=rng, dtype=t.dtype)).sum() for t in tensors
            )

        out = function(*arguments)
        first = torch.autograd.grad(out, arguments[:3], g, create_graph=True)
        second = torch.autograd.grad(weighted(first), (g, *arguments[:3]))
        found.append((out, *first, *second))
    for a, b in zip(*found, strict=True):
        assert b.abs().max() > 1.0
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_third_derivatives_of_the_convolution_are_refused():
    _, operator, arguments = convolution_arguments()
    gradient = torch.autograd.grad(operator(*arguments).sum(), arguments[2], create_graph=True)[0]
    second = torch.autograd.grad((gradient**2).sum(), arguments[1], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="third ones"):
        torch.autograd.grad(second.sum(), arguments[0])


def test_convolution_of_wrong_shapes_is_refused():
    """All that would otherwise be read or written beyond an array."""
    _, operator, (weight, harmonics, x, center, neighbor) = convolution_arguments()
    for wrong, match in (
        ((weight[:, :31], harmonics, x, center, neighbor), "weights have shape .*31., expected"),
        ((weight[:9], harmonics, x, center, neighbor), "weights have shape"),
        ((weight, harmonics[:9], x, center, neighbor), "harmonics have shape"),
        ((weight, harmonics[:, :3], x, center, neighbor), "the table has the components"),
        ((weight, harmonics, x[:, :3], center, neighbor), "the table has the components"),
        ((weight, harmonics, x, center, neighbor[:9]), "neighbor have shape"),
        ((weight, harmonics, x[..., :8], center, neighbor), "multiple of 16"),
    ):
        with pytest.raises(RuntimeError, match=match):
            operator(*wrong)
    table = (operator.entries, operator.values, operator.paths)
    arguments = (weight, harmonics, x, center, neighbor, *table)
    out = operator(*arguments[:5]).detach()
    with pytest.raises(RuntimeError, match="derivatives have shape"):
        torch.ops.npcalc.convolution_backward(out[:3], *arguments)
    for k, name in enumerate(("weights", "harmonics", "features")):
        along = [t.detach()[:3] if n == k else t.detach() for n, t in enumerate(arguments[:3])]
        with pytest.raises(RuntimeError, match=f"directions of {name} have shape"):
            torch.ops.npcalc.convolution_second_backward(*along, out, *arguments)


def test_convolution_without_edges_is_zero():
    _, operator, (weight, harmonics, x, center, neighbor) = convolution_arguments()
    none = (weight[:0], harmonics[:0], x, center[:0], neighbor[:0])
    out = operator(*none)
    assert out.shape[0] == len(x)
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), x)[0].any()


class OtherProduct(TensorProduct):
    """Derived from what has an operator, but another function."""

    def forward(self, *arguments):
        return 2.0 * super().forward(*arguments)


def test_other_functions_are_not_replaced():
    model = make("nequip").module.edge_potential.model
    assert ops.can_fuse(model)
    model.host.layers[1].convolution.product.__class__ = OtherProduct
    assert not ops.can_fuse(model)


def test_wrong_width_is_refused():
    potential = make()
    graph = make_graph(potential, ethanol())
    ops.load_operators()
    module = package.with_operators(potential.module)
    layer = module.edge_potential.model.fused[0]
    layer.layer.phi = torch.nn.Linear(16, 5, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="phi has 5 columns"):
        module(*graph)


def test_without_operators(monkeypatch, tmp_path):
    """A failing build is one warning, and the network itself is compiled."""
    monkeypatch.setattr(library, "_load_once", library._load_once.__wrapped__)  # not its cache
    monkeypatch.setattr(library, "library_path", lambda: tmp_path / "operators.so")
    potential = make()
    monkeypatch.setattr(library, "FLAGS", ("--no-such-flag",))
    with pytest.warns(UserWarning, match="operators of npcalc could not be built"):
        assert package.with_operators(potential.module) is potential.module
    assert not list(tmp_path.iterdir())
    # Where there is no compiler at all, that is said once, by what compiles the rest.
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    assert package.with_operators(potential.module) is potential.module
