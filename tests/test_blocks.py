"""Evaluation in blocks gives the numbers of one piece."""

import pytest
import torch
from systems import CASES, crystal, ethanol, make_graph, make_potential

from npcalc.graph import collate
from npcalc.potential.blocks import evaluate_in_blocks, make_blocks

CHOSEN = [(h, f) for h, f in CASES if f in ("geometry-4", "nodes-all-2", "none")]


@pytest.mark.parametrize(("host", "form"), CHOSEN)
def test_blocks_equal_one_piece(host, form):
    potential = make_potential(host, form)
    graph = collate([make_graph(potential, s) for s in (ethanol(), crystal(), ethanol(seed=2)[:1])])
    expected = potential.evaluate(graph)
    found = evaluate_in_blocks(potential.module, graph, edges_per_block=60)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)


def test_large_graphs_are_evaluated_in_blocks(monkeypatch):
    potential = make_potential("painn", "geometry")
    graph = make_graph(potential, crystal())
    expected = potential.evaluate(graph)["forces"]
    calls = []
    monkeypatch.setattr(
        "npcalc.potential.potential.evaluate_in_blocks",
        lambda *args: calls.append(args) or evaluate_in_blocks(*args),
    )
    monkeypatch.setattr("npcalc.potential.potential.EDGES_AT_ONCE", graph.edge_index.shape[1] - 1)
    torch.testing.assert_close(potential.evaluate(graph)["forces"], expected)
    assert len(calls) == 1


def test_each_atom_and_edge_is_in_one_block():
    potential = make_potential("painn", "none")
    graph = make_graph(potential, crystal())
    shuffled = torch.randperm(graph.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    graph = graph._replace(edge_index=graph.edge_index[:, shuffled], shifts=graph.shifts[shuffled])
    blocks = list(make_blocks(graph, 100))
    assert len(blocks) > 2
    atoms = torch.cat([b.atoms[: b.n_centers] for b in blocks])
    edges = torch.cat([b.edges for b in blocks])
    assert sorted(atoms.tolist()) == list(range(graph.n_atoms))
    assert sorted(edges.tolist()) == list(range(graph.edge_index.shape[1]))
    for block in blocks:
        pair = torch.stack([block.atoms[block.center], block.atoms[block.neighbor]])
        assert torch.equal(pair, graph.edge_index[:, block.edges])
