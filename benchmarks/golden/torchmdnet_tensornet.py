"""Golden numbers of the tensornet host: TorchMD-NET's TensorNet with random weights.

python -m venv peer && peer/bin/pip install "torch==2.13.0" torchmd-net==3.1.0
peer/bin/python benchmarks/golden/torchmdnet_tensornet.py tests/golden/tensornet_torchmdnet.npz
"""

import math
import sys

import numpy as np
import torch
from structures import CUTOFF, NUMBERS, frames, pairs
from torchmdnet.models import tensornet
from torchmdnet.models.output_modules import Scalar

CHANNELS, BASIS = 8, 6

# The peer's operations in plain PyTorch, instead of its kernels.
tensornet.OPT = False
for name in ("compose_tensor", "decompose_tensor", "tensor_matmul_o3", "tensor_matmul_so3"):
    setattr(tensornet, name, getattr(tensornet, f"_{name}"))


class Pairs(torch.nn.Module):
    """Stands for the peer's search of neighbors: the same edges, with each atom's to itself."""

    def forward(self, positions, batch, box):
        i, j = torch.tensor(pairs(positions.detach().numpy()))
        itself = torch.arange(len(positions))
        edges = torch.stack([torch.cat([i, itself]), torch.cat([j, itself])])
        vectors = positions[edges[0]] - positions[edges[1]]
        distance = torch.zeros(len(vectors), dtype=vectors.dtype)
        distance[: len(i)] = vectors[: len(i)].norm(dim=1)
        return edges, distance, vectors


torch.manual_seed(6)
representation = tensornet.TensorNet(
    hidden_channels=CHANNELS, num_layers=2, num_rbf=BASIS, trainable_rbf=False, cutoff_upper=CUTOFF,
    static_shapes=False, dtype=torch.float64,
).double()  # fmt: skip
representation.distance = Pairs()
readout = Scalar(CHANNELS, dtype=torch.float64)
# Made in float32 by the peer, which would limit the comparison.
basis = representation.distance_expansion
basis.means = torch.linspace(math.exp(-CUTOFF), 1.0, BASIS, dtype=torch.float64)
basis.betas = torch.full_like(basis.means, (2.0 / BASIS * (1.0 - math.exp(-CUTOFF))) ** -2)
for module in (representation, readout):
    for parameter in module.parameters():
        if parameter.ndim == 1:  # biases are zero by default; make them count
            torch.nn.init.normal_(parameter, mean=float((parameter == 1.0).all()), std=0.3)

out = {"numbers": NUMBERS, "positions": np.array(frames())}
energies, forces = [], []
for frame in frames():
    positions = torch.tensor(frame, requires_grad=True)
    z = torch.tensor(NUMBERS)
    batch = torch.zeros_like(z)
    x, v, z, _, _ = representation(z, positions, batch)
    energy = readout.pre_reduce(x, v, z, positions, batch).sum()
    energies.append(energy.item())
    forces.append(-torch.autograd.grad(energy, positions)[0].numpy())
out["energies"], out["forces"] = np.array(energies), np.array(forces)
for prefix, module in (("representation", representation), ("readout", readout)):
    for name, value in module.named_parameters():
        keep = value[[1, 6, 8]] if name.endswith("emb.weight") else value
        out[f"{prefix}.{name}"] = keep.detach().numpy()
np.savez_compressed(sys.argv[1], **out)
print(out["energies"])
