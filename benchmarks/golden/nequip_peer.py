"""Golden numbers of the nequip host: the nequip package with random weights.

    python -m venv peer && peer/bin/pip install "torch==2.13.0" nequip==0.19.1
    peer/bin/python benchmarks/golden/nequip_peer.py tests/golden/nequip

The envelope is moved from the radial basis to the messages, where npcalc has it; everything else is
the package as it is.
"""

import sys

import numpy as np
import torch
from nequip.model import NequIPGNNModel
from nequip.nn.embedding import PolynomialCutoff
from nequip.nn.embedding._edge import BesselEdgeLengthEncoding
from nequip.nn.interaction_block import InteractionBlock
from nequip.utils.global_state import set_global_state
from structures import CUTOFF, ELEMENTS, NUMBERS, frames, pairs


class One(torch.nn.Module):
    """Stands in for the cutoff of the basis and remembers the distances over the cutoff."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.x = x
        return torch.ones_like(x)


class Enveloped(torch.nn.Module):
    """A radial network times the envelope."""

    def __init__(self, network: torch.nn.Module, one: One) -> None:
        super().__init__()
        self.network, self.one, self.cutoff = network, one, PolynomialCutoff(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) * self.cutoff(self.one.x)


set_global_state()
for parity in (False, True):
    model = NequIPGNNModel(
        seed=5, model_dtype="float64", type_names=["H", "C", "O"], r_max=CUTOFF, num_layers=3,
        l_max=2, parity=parity, num_features=4, radial_mlp_depth=1, radial_mlp_width=8,
        avg_num_neighbors=7.0, per_type_energy_scales=1.0, per_type_energy_shifts=0.0,
    ).eval()  # fmt: skip
    parameters = {k: v.detach().numpy() for k, v in model.named_parameters()}
    one = One()
    for module in list(model.modules()):
        if isinstance(module, BesselEdgeLengthEncoding):
            module.cutoff = one
        if isinstance(module, InteractionBlock):
            module.edge_mlp = Enveloped(module.edge_mlp, one)
    out = {"numbers": NUMBERS, "positions": np.array(frames()), "parity": np.array(parity)}
    results = []
    for frame in frames():
        data = {
            "pos": torch.tensor(frame),
            "edge_index": torch.tensor(pairs(frame)),
            "atom_types": torch.tensor([ELEMENTS.index(z) for z in NUMBERS]),
            "batch": torch.zeros(len(NUMBERS), dtype=torch.int64),
            "num_atoms": torch.tensor([len(NUMBERS)]),
        }
        results.append(model(data))
    out["energies"] = np.array([float(r["total_energy"].detach()) for r in results])
    out["forces"] = np.array([r["forces"].detach().numpy() for r in results])
    np.savez_compressed(f"{sys.argv[1]}_{'both' if parity else 'natural'}.npz", **out, **parameters)
    print(parity, out["energies"], {k: v.shape for k, v in parameters.items()})
