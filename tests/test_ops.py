"""Operators of our own: the numbers of the network, whatever the edges, the threads and the precision."""

import copy

import numpy as np
import pytest
import torch
from systems import crystal, dimer, ethanol, make_graph, make_potential

from npcalc import ops
from npcalc.graph import collate
from npcalc.ops import library
from npcalc.potential import package

pytestmark = pytest.mark.skipif(library.find_compiler() is None, reason="needs a C++ compiler")

HOST = {"name": "painn", "channels": 16, "n_layers": 3, "n_basis": 6}

FORMS = {
    "none": ("none", {}),
    "static": ("static", {"n_points": 2}),
    "one": ("geometry", {}),
    "three": ("geometry", {"n_points": 3, "envelope": "polynomial"}),
    "rank": ("geometry-4", {"host": {**HOST, "filter_rank": 5}}),
    "wide": ("geometry", {"host": {**HOST, "channels": 48, "n_basis": 9}, "d_max": 1.5}),
}


def make(name="three", dtype="float64"):
    form, more = FORMS[name]
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


@pytest.mark.parametrize("name", FORMS)
def test_operator_equals_network(name):
    potential = make(name)
    evaluate = fused(potential)
    graphs = [make_graph(potential, a) for a in (ethanol(), crystal(), dimer(1.1), dimer(9.0))]
    for graph in (*graphs, collate(graphs)):
        assert_same(evaluate(graph), potential.evaluate(graph))


def test_edges_in_any_order_with_and_without_a_partner():
    potential = make()
    evaluate = fused(potential)
    graph = make_graph(potential, crystal())
    rng = np.random.default_rng(0)
    # Half of the edges are gone: many have no edge that goes back.
    some = torch.tensor(rng.permutation(graph.edge_index.shape[1])[::2].copy())
    graph = graph._replace(edge_index=graph.edge_index[:, some], shifts=graph.shifts[some])
    vectors = graph.positions[graph.edge_index[1]] - graph.positions[graph.edge_index[0]]
    vectors = vectors + graph.shifts @ graph.cell[0]
    reverse = torch.ops.npcalc.reverse_edges(vectors, *graph.edge_index)
    assert 0 < (reverse < 0).sum() < len(reverse)
    assert_same(evaluate(graph), potential.evaluate(graph))


def test_reverse_edges_are_opposite_and_mutual():
    ops.load_operators()
    graph = make_graph(make(), crystal())
    center, neighbor = graph.edge_index
    vectors = graph.positions[neighbor] - graph.positions[center] + graph.shifts @ graph.cell[0]
    reverse = torch.ops.npcalc.reverse_edges(vectors, center, neighbor)
    assert (reverse[reverse] == torch.arange(len(reverse))).all()
    assert (vectors[reverse] == -vectors).all()
    assert (center[reverse] == neighbor).all()
    assert (center == neighbor).any()  # images of the atom itself are among them


def test_edges_beyond_the_cutoff_change_nothing():
    potential = make("one")
    evaluate = fused(potential)
    wide = make_potential(HOST, cutoff=4.5)
    near, far = make_graph(potential, crystal()), make_graph(wide, crystal())
    assert far.edge_index.shape[1] > near.edge_index.shape[1]
    assert_same(evaluate(far), evaluate(near))


def test_operator_in_float32():
    double, single = make("rank"), make("rank", "float32")
    for atoms in (ethanol(), crystal()):
        graph = make_graph(double, atoms)
        expected, found = double.evaluate(graph), fused(single)(graph)
        np.testing.assert_allclose(found["energies"], expected["energies"], atol=1e-5)
        np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-4)


def test_threads_agree():
    potential = make()
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
        make_potential("egnn"),
    ):
        model = potential.module.edge_potential.model
        assert not ops.can_fuse(model)
        assert package.with_operators(potential.module) is potential.module
        with pytest.raises(ValueError, match="can_fuse"):
            ops.fuse(copy.deepcopy(model))


def test_wrong_width_is_refused():
    potential = make()
    graph = make_graph(potential, ethanol())
    ops.load_operators()
    module = package.with_operators(potential.module)
    layer = module.edge_potential.model.fused[0]
    layer.layer.phi[-1] = torch.nn.Linear(16, 5, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="phi has 5 columns"):
        module(*graph)


def test_without_operators(monkeypatch, tmp_path):
    """A failing build is one warning, and the network itself is compiled."""
    monkeypatch.setattr(ops, "load_operators", library.load_operators.__wrapped__)  # not its cache
    monkeypatch.setattr(library, "library_path", lambda: tmp_path / "operators.so")
    potential = make()
    monkeypatch.setattr(library, "FLAGS", ("--no-such-flag",))
    with pytest.warns(UserWarning, match="operators of npcalc could not be built"):
        assert package.with_operators(potential.module) is potential.module
    assert not list(tmp_path.iterdir())
    # Where there is no compiler at all, that is said once, by what compiles the rest.
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    assert package.with_operators(potential.module) is potential.module
