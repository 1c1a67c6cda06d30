"""A network that is being trained is the function that is run afterwards."""

import pytest
import torch
from systems import HOSTS, ethanol, make_config, make_graph, make_potential

from npcalc.model import PolarizedModel
from npcalc.nn.hosts.painn import PaiNN
from npcalc.potential.derivatives import edge_vectors


@pytest.mark.parametrize("form", ["none", "geometry-4"])
@pytest.mark.parametrize("host", HOSTS)
def test_modes_agree(host, form):
    potential = make_potential(host, form)
    graph = make_graph(potential, ethanol())
    model = potential.module.edge_potential.model
    vectors = edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch)
    arguments = (vectors, graph.species, *graph.edge_index)
    outputs = [model.train(mode)(*arguments) for mode in (True, False)]
    for name, training, running in zip(outputs[0]._fields, *outputs, strict=True):
        torch.testing.assert_close(training, running, rtol=1e-11, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("host", "change"),
    [
        ("mace", {"l_hidden": 0}),
        ("mace", {"n_layers": 1}),
        ("nequip", {"l_max": 0}),
        ("nequip", {"n_layers": 1}),
    ],
)
def test_points_that_nothing_moves_are_refused(host, change):
    """Not a dipole of zero and an ablation that compares points at rest with themselves."""
    host = {**HOSTS[host], **change}
    with pytest.raises(ValueError, match=r"nothing would move the points: host .* has no vectors"):
        PolarizedModel(make_config(host, "geometry"))
    PolarizedModel(make_config(host, "static"))


def test_a_single_layer_moves_points_for_a_dipole_alone():
    host = {**HOSTS["painn"], "n_layers": 1}
    PolarizedModel(make_config(host, "geometry"))
    with pytest.raises(ValueError, match="nothing would move the points"):
        PolarizedModel(make_config(host, "geometry", dipole=False))


def test_vectors_of_mace_need_vectors():
    with pytest.raises(ValueError, match="l_hidden: 1 needs l_max of at least 1"):
        make_config({**HOSTS["mace"], "l_max": 0}, "geometry")


@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_that_files_would_lose_are_refused(monkeypatch, persistent):
    real = PaiNN.reset_parameters

    def more(self):
        real(self)
        self.register_buffer("mean", torch.zeros(3), persistent=persistent)

    monkeypatch.setattr(PaiNN, "reset_parameters", more)
    if not persistent:
        PolarizedModel(make_config())
        return
    with pytest.raises(
        ValueError, match=r"'painn' has buffers that .* would be lost in files: host\.mean;"
    ):
        PolarizedModel(make_config())
