"""Every host learns: its training step lowers the loss on a few real frames."""

import numpy as np
import pytest
import torch
from systems import HOSTS

from npcalc.data import DataSet
from npcalc.model import ModelConfig, PolarizedModel
from npcalc.potential.derivatives import EdgePotential
from npcalc.potential.registry import bundled_folder
from npcalc.train.batches import Batches
from npcalc.train.config import LossConfig
from npcalc.train.loss import LossModule

ELEMENTS = [1, 6, 8]


@pytest.fixture(scope="module")
def batch():
    frames = DataSet.load(bundled_folder() / "data" / "ethanol-train.h5").subset(np.arange(8))
    reference = [frames.labels["energy"].values.mean() / 9] * 3
    return Batches(frames, ELEMENTS, 4.0, reference, [0.0] * 3, 8).make(np.arange(8))


@pytest.mark.parametrize("coupling", ["paired_geometry", "paired_nodes"])
@pytest.mark.parametrize("host", [h for h in HOSTS if h != "nequip-both"])
def test_overfitting_eight_frames(host, coupling, batch):
    config = ModelConfig(
        host={**HOSTS[host], "channels": 16},
        elements=("H", "C", "O"),
        cutoff=4.0,
        coupling=coupling,
        pairs="same",
        n_neighbors=7.0,
    )
    torch.manual_seed(0)
    potential = EdgePotential(PolarizedModel(config), 1.0)
    loss = LossModule(potential, LossConfig(energy=1.0, forces=1.0, dipole=1.0), compiled=False)
    optimizer = torch.optim.Adam([loss.weights], lr=5e-3)
    values: list[float] = []
    while len(values) < 300 and not (values and values[-1] < 0.1 * values[0]):
        optimizer.zero_grad()
        value = loss(*batch)[0]
        value.backward()
        torch.nn.utils.clip_grad_norm_(loss.weights, 10.0)
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.1 * values[0]
