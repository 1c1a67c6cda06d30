"""Golden numbers of the painn host: SchNetPack's PaiNN with random weights.

python -m venv peer && peer/bin/pip install "torch==2.13.0" schnetpack==2.0.4
peer/bin/python benchmarks/golden/schnetpack_painn.py tests/golden/painn_schnetpack.npz
"""

import sys
from typing import TypeVar

import numpy as np
import torch
import torch.utils.data.dataloader as loader

if not hasattr(loader, "T_co"):  # SchNetPack 2.0.4 imports a name that newer torch has dropped
    loader.T_co = TypeVar("T_co", covariant=True)

import schnetpack as spk
import schnetpack.properties as names
from structures import CUTOFF, NUMBERS, frames, pairs

torch.manual_seed(3)
representation = spk.representation.PaiNN(
    n_atom_basis=8,
    n_interactions=3,
    radial_basis=spk.nn.GaussianRBF(n_rbf=10, cutoff=CUTOFF),
    cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
)
readout = spk.atomistic.Atomwise(n_in=8, output_key="energy")
representation.double()
readout.double()
# Made in float32 by the peer, which would limit the comparison.
basis = representation.radial_basis
basis.offsets = torch.linspace(0.0, CUTOFF, 10, dtype=torch.float64)
basis.widths = torch.full_like(basis.offsets, CUTOFF / 9)
representation.cutoff_fn.cutoff = torch.tensor([CUTOFF], dtype=torch.float64)
for module in (representation, readout):
    for parameter in module.parameters():  # biases are zero by default; make them count
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)

out = {"numbers": NUMBERS, "positions": np.array(frames())}
energies, forces = [], []
for frame in frames():
    positions = torch.tensor(frame, requires_grad=True)
    i, j = torch.tensor(pairs(frame))
    inputs = {
        names.Z: torch.tensor(NUMBERS), names.R: positions, names.idx_i: i, names.idx_j: j,
        names.idx_m: torch.zeros(len(NUMBERS), dtype=torch.int64),
        names.Rij: positions[j] - positions[i],
    }  # fmt: skip
    energy = readout(representation(inputs))["energy"].sum()
    energies.append(energy.item())
    forces.append(-torch.autograd.grad(energy, positions)[0].numpy())
out["energies"], out["forces"] = np.array(energies), np.array(forces)
for prefix, module in (("representation", representation), ("readout", readout)):
    for name, value in module.state_dict().items():
        keep = value[[1, 6, 8]] if name == "embedding.weight" else value
        out[f"{prefix}.{name}"] = keep.numpy()
np.savez_compressed(sys.argv[1], **out)
print(out["energies"])
