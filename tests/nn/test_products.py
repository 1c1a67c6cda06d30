"""Paired products: filters see functions of the nuclei's distance times shifts of displaced pairs."""

import pytest
import torch
from systems import crystal, make_config, make_graph, make_potential

from npcalc.model import PolarizedModel
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
    found = layer.spec.functions(layer.basis, model.coupling.geometry(vectors, center, neighbor, d))
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


@pytest.mark.parametrize("host", HOSTS)
def test_products_are_seen_where_points_have_moved(host, arguments):
    """Weights of products do nothing until points have moved."""
    vectors, species, center, neighbor = arguments
    model = make_model(host)
    layer = model.host.layers[1]
    filters = layer.filter if host == "painn" else layer.value_filter
    n = layer.basis(vectors[:1, 0].abs()).shape[-1]
    assert filters.weight.shape[1] == 7 * n
    still = torch.zeros(len(species), K, 3, dtype=torch.float64)
    moved = still.clone()
    moved[:, 0] = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    types = model.coupling.point_types(species, model.n_species)
    x = model.start(*arguments)[0] + 0.1

    def change(d):
        geometry = model.coupling.geometry(vectors, center, neighbor, d)
        with torch.no_grad():
            before = filters.weight.clone()
            first = layer(x, types, geometry)
            filters.weight[:, 4 * n :] += 0.5
            second = layer(x, types, geometry)
            filters.weight.copy_(before)
        return (second - first).abs().max()

    assert change(still) < 1e-12
    assert change(moved) > 1e-3


def test_hosts_that_do_not_know_it_are_refused():
    class Other(HostConfig):
        name: str = "other"

    with pytest.raises(ValueError, match="host 'other' does not know coupling: paired_products"):
        Other().check_products()
