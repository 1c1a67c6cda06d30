"""What the scripts for TorchMD-NET's networks share."""

import math
from collections.abc import Callable

import numpy as np
import torch
from structures import CUTOFF, NUMBERS, frames, pairs


class Pairs(torch.nn.Module):
    """Stands for the peer's search of neighbors: the same edges, with each atom's to itself."""

    def forward(self, positions, batch, box):
        i, j = torch.tensor(pairs(positions.detach().numpy()))
        itself = torch.arange(len(positions))
        edges = torch.stack([torch.cat([j, itself]), torch.cat([i, itself])])
        vectors = positions[edges[0]] - positions[edges[1]]
        distance = torch.zeros(len(vectors), dtype=vectors.dtype)
        distance[: len(i)] = vectors[: len(i)].norm(dim=1)
        return edges, distance, vectors.clone()  # the peer changes it in place


def write(
    path: str,
    representation: torch.nn.Module,
    readout: torch.nn.Module,
    n_basis: int,
    per_element: Callable[[str, torch.Tensor], bool],
) -> None:
    """Evaluates the networks on all structures and stores results and weights.

    Args:
        path: File to write.
        representation: Network in float64; its search of neighbors is replaced.
        readout: Readout in float64.
        n_basis: Number of radial functions.
        per_element: Whether a weight, by name and value, has a row for each atomic number.
    """
    representation.distance = Pairs()
    # Made in float32 by the peer, which would limit the comparison.
    basis = representation.distance_expansion
    basis.means = torch.linspace(math.exp(-CUTOFF), 1.0, n_basis, dtype=torch.float64)
    basis.betas = torch.full_like(basis.means, (2.0 / n_basis * (1.0 - math.exp(-CUTOFF))) ** -2)
    for module in (representation, readout):
        for parameter in module.parameters():  # biases are zero by default; make them count
            if parameter.ndim == 1:
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
            keep = value[[1, 6, 8]] if per_element(name, value) else value
            out[f"{prefix}.{name}"] = keep.detach().numpy()
    np.savez_compressed(path, **out)
    print(out["energies"])
