"""Paired shifts: hosts see by how much moved points differ from the nuclei."""

import pytest
import torch
from pydantic import ValidationError
from systems import HOSTS, crystal, make_config, make_graph, make_potential

from npcalc.model import ModelConfig, PolarizedModel
from npcalc.nn.hosts import HostConfig, PointSpec
from npcalc.potential.derivatives import edge_vectors

SIX = ("painn", "nequip", "egnn", "et", "tensornet", "mace")
FORM = {"coupling": "paired_shifts", "n_points": 3, "charges": "increments"}


@pytest.fixture(scope="module")
def arguments():
    graph = make_graph(make_potential("egnn", "none"), crystal())
    vectors = edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch)
    return vectors, graph.species, *graph.edge_index


def make_model(host, **more):
    torch.manual_seed(0)
    return PolarizedModel(make_config(host, "geometry", **{**FORM, **more}), torch.float64).eval()


@pytest.mark.parametrize("host", SIX)
def test_points_at_rest_are_the_host(host, arguments):
    plain, rest = (make_model(host, polarization=kind) for kind in ("none", "static"))
    assert torch.equal(plain(*arguments).energy, rest(*arguments).energy)


@pytest.mark.parametrize("host", SIX)
def test_what_points_add_is_nothing_while_they_rest(host, arguments):
    """Weights of displaced pairs, those that the published layer lacks, do nothing without displacements."""
    model = make_model(host, softening=1e-9)
    published = make_model(host, polarization="none")
    shapes = {name: p.shape for name, p in published.named_parameters()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("updates") and "direction" in name:
                p.zero_()
        before = model.train()(*arguments)
        changed = 0
        for name, p in model.host.named_parameters():
            old = shapes.get(f"host.{name}")
            if old is None or p.shape == old:
                continue
            changed += 1
            # Everything beyond the corner that is the published layer's.
            new = torch.randn_like(p)
            corner = tuple(slice(0, n) for n in old)
            new[corner] = p[corner]
            p.copy_(new)
        after = model(*arguments)
    assert changed > 0
    assert after.displacement.abs().max() == 0.0
    torch.testing.assert_close(after.energy, before.energy, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("host", SIX)
def test_movement_is_seen(host, arguments):
    model = make_model(host)
    with torch.no_grad():
        before = model.train()(*arguments)
        for name, p in model.named_parameters():
            if name.startswith("updates") and "direction" in name:
                p.mul_(10.0)
        after = model(*arguments)
    assert after.displacement.abs().max() > 0.01
    assert (after.energy - before.energy).abs().max() > 1e-7


def test_differences_are_to_the_first():
    values = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    found = PointSpec(1, 3, 3, 5.0, 1.0, relative=True).counted(values)
    assert torch.equal(found[:, 0], values[:, 0])
    assert torch.equal(found[:, 2], values[:, 2] - values[:, 0])


def test_hosts_that_do_not_know_it_are_refused():
    class Other(HostConfig):
        name: str = "other"

    with pytest.raises(ValueError, match="host 'other' does not know coupling: paired_shifts"):
        Other().check_relative()


def test_it_is_refused_where_the_host_does_not_know_it(monkeypatch):
    config = make_config("egnn", "geometry")
    monkeypatch.setattr(type(config.host), "knows_relative", False)
    with pytest.raises(ValidationError, match="does not know coupling: paired_shifts"):
        ModelConfig.model_validate({"host": HOSTS["egnn"], "elements": ("H",), **FORM})
