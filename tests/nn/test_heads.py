"""Paired heads: which point each channel sees."""

import pytest
import torch
from systems import crystal, make_config, make_graph, make_potential

from npcalc.model import PolarizedModel
from npcalc.nn.heads import head_direction, head_product
from npcalc.potential.derivatives import edge_vectors

K = 4
CHANNELS = 8


def geometry(d):
    """Geometry of the edges of a crystal with electron points displaced by d."""
    potential = make_potential("painn", "heads-4")
    graph = make_graph(potential, crystal())
    vectors = edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch)
    coupling = potential.module.edge_potential.model.coupling
    return coupling.geometry(coupling.bare(vectors, *graph.edge_index), vectors, d)


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(0)
    n_atoms = len(crystal())
    return 0.2 * torch.randn(n_atoms, K, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("point", range(K))
def test_a_point_is_seen_by_its_own_channels(points, point):
    torch.manual_seed(0)
    model = PolarizedModel(make_config("painn", "heads-4"), torch.float64)
    layer = model.host.layers[1]
    moved = points.clone()
    moved[:, point] *= 1.5
    before, after = geometry(points), geometry(moved)
    change = (layer.filters(after) - layer.filters(before)).abs().amax(0)
    directions = [head_direction(g, 1, K, CHANNELS) for g in (before, after)]
    turned = (directions[1] - directions[0]).abs().amax((0, 1))
    own = torch.zeros(K, CHANNELS // K, dtype=torch.bool)
    own[point] = True
    own = own.flatten()
    for part in (*change.reshape(4, CHANNELS), turned):
        assert (part[own] > 1e-3).all()
        assert (part[~own] == 0.0).all()


def test_product_of_heads_is_that_of_each_channel(points):
    generator = torch.Generator().manual_seed(1)
    n_edges, n_basis, n_parts = 5, 3, 2
    functions = torch.randn(n_edges, 1 + 3 * K, n_basis, generator=generator)
    weight = torch.randn(n_parts * CHANNELS, 4 * n_basis, generator=generator)
    found = head_product(functions, weight, K, CHANNELS)
    for column in range(n_parts * CHANNELS):
        head = column % CHANNELS // (CHANNELS // K)
        seen = functions[:, [0, 1 + head, 1 + K + head, 1 + 2 * K + head]].flatten(1)
        torch.testing.assert_close(found[:, column], seen @ weight[column])


@pytest.mark.parametrize("host", ["painn", "et"])
def test_one_head_is_paired_geometry(host):
    """With one point both couplings are the same network."""
    graph = make_graph(make_potential(host, "geometry"), crystal())
    heads, geometry = (
        make_potential(host, coupling=f"paired_{kind}").evaluate(graph)
        for kind in ("heads", "geometry")
    )
    for name, value in geometry.items():
        torch.testing.assert_close(heads[name], value)
