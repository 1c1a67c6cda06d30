"""Paired products: filters see functions of the nuclei's distance times shifts of displaced pairs."""

import pytest
import torch
from systems import crystal, make_config, make_graph, make_potential

from npcalc.model import PolarizedModel
from npcalc.nn.heads import head_linear
from npcalc.nn.hosts import HostConfig
from npcalc.potential.derivatives import edge_vectors

HOSTS = ("painn", "et")
K = 2


@pytest.fixture(scope="module")
def arguments():
    graph = make_graph(make_potential("egnn", "none"), crystal())
    vectors = edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch)
    return vectors, graph.species, *graph.edge_index


def make_model(host, coupling="paired_products", **more):
    torch.manual_seed(0)
    values = {"coupling": coupling, "n_points": K, "charges": "increments", **more}
    return PolarizedModel(make_config(host, "geometry", **values), torch.float64).eval()


@pytest.mark.parametrize("host", HOSTS)
def test_points_at_rest_are_heads(host, arguments):
    products, heads = (
        make_model(host, coupling, polarization="static")
        for coupling in ("paired_products", "paired_heads")
    )
    assert torch.equal(products(*arguments).energy, heads(*arguments).energy)


@pytest.mark.parametrize("host", HOSTS)
def test_layers_before_the_first_movement_have_no_products(host):
    first, second = make_model(host).host.layers
    assert (first.spec.seen_functions, second.spec.seen_functions) == (4, 7)


def test_products_are_of_the_shifts(arguments):
    vectors, species, center, neighbor = arguments
    model = make_model("painn", softening=0.1, d_max=0.4)
    generator = torch.Generator().manual_seed(0)
    d = 0.2 * torch.randn(len(species), K, 3, generator=generator, dtype=torch.float64)
    layer = model.host.layers[1]
    bare = model.coupling.bare(vectors, center, neighbor)
    found = layer.spec.functions(layer.basis, model.coupling.geometry(bare, vectors, d))
    assert found.shape[1] == 1 + 6 * K

    def soft(x):
        return torch.sqrt((x * x).sum(-1) + 0.1**2)

    length = vectors.norm(dim=1)
    between = layer.basis(length)
    for k in range(K):
        d_i, d_j = d[center, k], d[neighbor, k]
        moved = (vectors + d_j, vectors - d_i, vectors + d_j - d_i)
        for kind, vector in enumerate(moved):
            shift = (soft(vector) - soft(vectors)) / 0.4
            assert shift.abs().max() > 0.1
            column = 1 + kind * K + k
            torch.testing.assert_close(found[:, column], layer.basis(soft(vector)))
            torch.testing.assert_close(found[:, column + 3 * K], shift[:, None] * between)


@pytest.mark.parametrize(
    ("host", "filters"), [("painn", "filter"), ("et", "key_filter"), ("et", "value_filter")]
)
def test_products_are_seen_by_the_channels_of_a_point_that_has_moved(host, filters, arguments):
    vectors, species, center, neighbor = arguments
    model = make_model(host)
    layer = model.host.layers[1]
    linear = getattr(layer, filters)
    n = linear.weight.shape[1] // 7
    d = torch.zeros(len(species), K, 3, dtype=torch.float64)
    d[:, 1] = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    geometry = model.coupling.geometry(model.coupling.bare(vectors, center, neighbor), vectors, d)
    functions = layer.spec.functions(layer.basis, geometry)

    def found():
        parts = head_linear(linear, functions, K, layer.channels)
        return parts.reshape(len(vectors), -1, K, layer.channels // K)

    with torch.no_grad():
        before = found()
        linear.weight[:, 4 * n :] += 0.5
        change = (found() - before).abs().amax((0, 1, 3))
    assert change[0] < 1e-12
    assert change[1] > 1e-3


@pytest.mark.parametrize("host", HOSTS)
def test_one_point(host, arguments):
    """With one point there are no heads; its products change the energy."""
    model = make_model(host, n_points=1)
    layer = model.host.layers[1]
    linear = layer.filter if host == "painn" else layer.value_filter
    with torch.no_grad():
        before = model(*arguments).energy
        linear.weight[:, linear.weight.shape[1] // 7 * 4 :] *= 3.0
        after = model(*arguments).energy
    assert (after - before).abs().max() > 1e-7


def test_hosts_that_do_not_know_it_are_refused():
    class Other(HostConfig):
        name: str = "other"

    with pytest.raises(ValueError, match="host 'other' does not know coupling: paired_products"):
        Other().check_products()
