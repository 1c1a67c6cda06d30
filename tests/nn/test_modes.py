"""A network that is being trained is the function that is run afterwards."""

import pytest
import torch
from systems import HOSTS, ethanol, make_config, make_graph, make_potential

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


def test_vectors_of_mace_need_vectors():
    with pytest.raises(ValueError, match="l_hidden: 1 needs l_max of at least 1"):
        make_config({**HOSTS["mace"], "l_max": 0}, "geometry")
