"""Messages of pairs of atoms, in the files of potentials: the numbers of the network, whatever the edges."""

import re

import numpy as np
import pytest
import torch
from systems import HOSTS, crystal, ethanol, make_graph, make_potential

import npcalc
from npcalc.graph import collate
from npcalc.nn.hosts.painn import PaiNNLayer
from npcalc.nn.radial import make_envelope
from npcalc.ops import can_fuse_messages
from npcalc.ops.pair_geometry import envelope_of
from npcalc.ops.pairs import (
    edge_messages,
    edge_messages_backward,
    one_of_each_pair,
    pairs_at_once,
)
from npcalc.ops.portable import can_be_portable
from npcalc.potential import portable

HEADS = {"coupling": "paired_heads", "n_points": 4, "charges": "none"}
FORMS = {
    "none": ("none", {"charges": "none", "dipole": False}),
    "static": ("static", {"charges": "none", "dipole": False, "n_points": 2}),
    "one": ("geometry", {"envelope": "polynomial"}),
    "three": ("geometry", {"n_points": 3}),
    "heads": ("heads-4", HEADS),
    "shifts": ("shifts-2", {}),
    "products": ("products-2", {"charges": "none"}),
    "products of one": ("products-2", {"charges": "none", "n_points": 1}),
    "rank": ("geometry", {"host": {**HOSTS["painn"], "filter_rank": 5}}),
}


def make(name, **more):
    form, own = FORMS[name]
    return make_potential(**{"host": "painn", "form": form, **own, **more})


@pytest.fixture(scope="module", params=FORMS)
def pair(request, tmp_path_factory):
    """A potential and its script, which has pairs however few edges there are."""
    path = tmp_path_factory.mktemp("pairs") / "p.pt"
    potential = make(request.param, card={"dtype": "float64"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portable, "edges_for_pairs", lambda n_points: 0)
        potential.save(path)
    scripted = npcalc.load_potential(path)
    assert scripted._script.bounded
    return potential, scripted


def assert_same(found, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-10, err_msg=name)


def large():
    """Enough edges for more than one block of pairs, with images of atoms among their own neighbors."""
    return crystal().repeat((2, 2, 2))


def test_script_equals_network(pair):
    potential, scripted = pair
    graphs = [make_graph(potential, a) for a in (ethanol(), large(), crystal()[:1], ethanol()[:1])]
    assert graphs[1].edge_index.shape[1] > 2 * pairs_at_once(graphs[1].positions)
    assert (graphs[2].edge_index[0] == graphs[2].edge_index[1]).all()
    assert graphs[3].edge_index.shape[1] == 0
    for graph in (*graphs, collate(graphs)):
        for _ in range(3):  # the profiling executor changes its mind after the first calls
            found = scripted.evaluate(graph)
        assert_same(found, potential.evaluate(graph))


def test_gradients_get_what_messages_keep(pair):
    source, _ = portable.portable_source(pair[0].module)
    made = re.findall(r"(kept\d+) = edge_messages\(", source)
    used = re.findall(r"edge_messages_backward\(.*, (\w+)\)$", source, re.MULTILINE)
    assert len(made) == 2
    assert used == made[::-1]


def test_edges_in_any_order(pair):
    potential, scripted = pair
    graph = make_graph(potential, crystal())
    order = torch.tensor(np.random.default_rng(0).permutation(graph.edge_index.shape[1]))
    mixed = graph._replace(edge_index=graph.edge_index[:, order], shifts=graph.shifts[order])
    assert_same(scripted.evaluate(mixed), potential.evaluate(graph))


def test_edges_without_a_partner(pair):
    """They are evaluated as they are, by the graph for few edges."""
    potential, scripted = pair
    graph = make_graph(potential, crystal())
    taken = one_of_each_pair(graph.edge_index, graph.shifts)
    # As many that would be taken as others: each second one of those, with any others.
    others = torch.tensor(np.setdiff1d(np.arange(graph.edge_index.shape[1]), taken))
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
    for some in (torch.cat([taken[::2], others[order][: len(taken[::2])]]), taken):
        part = graph._replace(edge_index=graph.edge_index[:, some], shifts=graph.shifts[some])
        assert len(one_of_each_pair(part.edge_index, part.shifts)) == 0
        assert_same(scripted.evaluate(part), potential.evaluate(part))


def test_edges_of_nearest_neighbors():
    """The nearest ones of each atom are often not mutual, and as many ascend as descend."""
    graph = make_graph(make("one"), large())
    vectors = graph.positions[graph.edge_index[1]] - graph.positions[graph.edge_index[0]]
    length = (vectors + graph.shifts @ graph.cell[0]).norm(dim=1)
    for k in range(5, 30):
        near = []
        for atom in range(graph.n_atoms):
            own = (graph.edge_index[0] == atom).nonzero().squeeze(1)
            near.append(own[length[own].argsort(stable=True)[:k]])
        some = torch.cat(near)
        rows = torch.cat([graph.edge_index[:, some].T, graph.shifts[some].long()], 1)
        back = torch.cat([rows[:, [1, 0]], -rows[:, 2:]], 1)
        mutual = {tuple(r) for r in rows.tolist()} == {tuple(r) for r in back.tolist()}
        taken = one_of_each_pair(graph.edge_index[:, some], graph.shifts[some])
        assert (len(taken) > 0) == mutual


def test_where_very_many_edges_go(monkeypatch):
    """In one piece to a script that needs little memory for them, else to blocks of atoms."""
    potential = npcalc.load_potential("ethanol-fast")
    graph = make_graph(potential, ethanol())
    calls = []
    module = "npcalc.potential.potential"
    monkeypatch.setattr(f"{module}.EDGES_AT_ONCE", 10)
    monkeypatch.setattr(f"{module}.evaluate_in_blocks", lambda *given: calls.append(given) or {})
    assert potential.evaluate(graph)
    assert not calls
    half = graph._replace(edge_index=graph.edge_index[:, ::2], shifts=graph.shifts[::2])
    assert not potential.evaluate(half)
    monkeypatch.setattr(f"{module}.EDGES_AT_ONCE_BOUNDED", 20)
    assert not potential.evaluate(graph)
    assert len(calls) == 2


def test_one_edge_is_taken_of_each_pair():
    graph = make_graph(make("one"), crystal())
    taken = one_of_each_pair(graph.edge_index, graph.shifts)
    rows = torch.cat([graph.edge_index.T, graph.shifts.long()], dim=1)
    back = torch.cat([graph.edge_index.flip(0).T, -graph.shifts.long()], dim=1)[taken]
    both = {tuple(r.tolist()) for r in torch.cat([rows[taken], back])}
    assert len(both) == len(rows) == 2 * len(taken)
    assert both == {tuple(r.tolist()) for r in rows}


@pytest.mark.parametrize(("name", "power"), [("cosine", 0), ("polynomial", 6)])
def test_envelopes_are_those_of_the_hosts(name, power):
    r = torch.tensor([0.1, 1.3, 3.9, 4.0, 4.2], dtype=torch.float64, requires_grad=True)
    expected = make_envelope(name, 4.0)(r)
    (slope,) = torch.autograd.grad(expected.sum(), r)
    value, found = envelope_of(r.detach(), 4.0, power)
    torch.testing.assert_close(value, expected.detach(), atol=1e-14, rtol=0)
    torch.testing.assert_close(found, slope, atol=1e-14, rtol=0)


def test_memory_does_not_grow_with_the_edges_at_once():
    """Nothing of the size of edges and channels is made, with or without the gradient."""
    largest: dict[str, list[int]] = {}
    for n_pairs in (2048, 4096):
        g = torch.Generator().manual_seed(0)
        center, neighbor = torch.randint(0, 50, (2, n_pairs), generator=g)
        arguments = (
            torch.randn(n_pairs, 3, generator=g), center, neighbor, torch.randn(50, 2, 3, generator=g),
            torch.randn(50, 6, 16, generator=g), torch.randn(2, 13, 32), torch.randn(2, 4, 32),
            torch.eye(2).repeat_interleave(8, 1), 4, 5.0, 0.05, 0, False, False, False,
        )  # fmt: skip
        by = (torch.randn(50, 4, 16),)
        for function, given in ((edge_messages, ()), (edge_messages_backward, by)):
            with torch.profiler.profile(profile_memory=True, record_shapes=True) as profile:
                function(*given, *arguments)
            sizes = [e.self_cpu_memory_usage for e in profile.events()]
            largest.setdefault(function.__name__, []).append(max(sizes))
    for sizes in largest.values():
        assert sizes[0] == sizes[1] <= 2 * 768 * 6 * 16 * 4


def test_models_that_need_more_keep_their_graph(tmp_path):
    # Increments, which are of each edge; another host.
    for host, form in (("painn", "heads-4"), ("egnn", "geometry")):
        potential = make_potential(host, form)
        assert not can_be_portable(potential.module.edge_potential.model)
    potential.save(tmp_path / "p.pt")
    assert not npcalc.load_potential(tmp_path / "p.pt")._script.bounded


def test_threads_are_left_as_they_were():
    """Few edges are evaluated on one thread, the numbers are those of any number, and torch's stays."""
    scripted = npcalc.load_potential("ethanol-fast")
    graph = make_graph(scripted, ethanol())
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            many = collate([graph] * 20)
            found.append([scripted.evaluate(g)["forces"] for g in (graph, many)])
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-5)


def test_layers_derived_from_painn_keep_their_function():
    class Doubled(PaiNNLayer):
        def forward(self, x, point_type, geometry):
            return 2.0 * super().forward(x, point_type, geometry)

    model = make("one").module.edge_potential.model
    assert can_be_portable(model)
    model.host.layers[1].__class__ = Doubled
    assert not can_be_portable(model)
    assert not can_fuse_messages(model)
