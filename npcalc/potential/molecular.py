"""Molecular properties: one number for a structure from the contributions of its atoms."""

import torch
from ase.data import atomic_masses, atomic_numbers
from torch import Tensor, nn

from ..model import ModelConfig
from ..nn.scatter import sum_edges

READOUTS = ("sum", "mean", "extent")
"""Readouts that add up contributions; ``dipole_norm`` is the length of the model's dipole."""


class MolecularProperties(nn.Module):
    """``P = sum_i m_i [reference(z_i) + scale p_i]`` with a measure m_i fixed by the readout.

    m_i is 1 for ``sum``, 1/n_atoms for ``mean`` and |r_i - R|^2 about the centre of mass R for
    ``extent``.

    Args:
        config: The model, whose ``properties`` they are.
        scales: Value of one unit of the network's contribution to each property.
        references: Contribution of each species to each property, shape (n_species, n_properties).
    """

    def __init__(
        self, config: ModelConfig, scales: tuple[float, ...], references: list[list[float]]
    ) -> None:
        super().__init__()
        readouts = [p.readout for p in config.properties.values()]
        kinds = [[float(r == kind) for r in readouts] for kind in READOUTS]
        masses = [atomic_masses[atomic_numbers[e]] for e in config.elements]
        self.n_properties = len(readouts)
        self.kinds: Tensor
        self.norm: Tensor
        self.scales: Tensor
        self.references: Tensor
        self.masses: Tensor
        double = torch.float64
        self.register_buffer("kinds", torch.tensor(kinds, dtype=double))
        norm = [r == "dipole_norm" for r in readouts]
        self.register_buffer("norm", torch.tensor(norm, dtype=torch.bool))
        self.register_buffer("scales", torch.tensor(scales, dtype=double))
        shape = (len(masses), self.n_properties)
        self.register_buffer("references", torch.tensor(references, dtype=double).reshape(shape))
        self.register_buffer("masses", torch.tensor(masses, dtype=double))

    def measures(self, positions: Tensor, species: Tensor, batch: Tensor, n: int) -> Tensor:
        """Weights m_i of the atoms, shape (n_atoms, n_properties).

        Args:
            positions: Coordinates in Angstrom, float64, shape (n_atoms, 3).
            species: Index of each atom's element, shape (n_atoms,).
            batch: System of each atom, shape (n_atoms,).
            n: Number of systems.
        """
        one = torch.ones_like(positions[:, 0])
        mass = self.masses[species]
        first = sum_edges(mass[:, None] * positions, batch, n)
        middle = first / sum_edges(mass, batch, n)[:, None]
        away = positions - middle[batch]
        rows = [one, one / sum_edges(one, batch, n)[batch], (away * away).sum(1)]
        return torch.stack(rows, 1) @ self.kinds

    def forward(
        self,
        raw: Tensor,
        dipole: Tensor,
        positions: Tensor,
        species: Tensor,
        batch: Tensor,
    ) -> Tensor:
        """Properties of each system, float64, shape (n_systems, n_properties).

        Args:
            raw: Contributions of the network, shape (n_atoms, n_properties).
            dipole: Dipole of each system in e*A, shape (n_systems, 3).
            positions: Coordinates in Angstrom, float64, shape (n_atoms, 3).
            species: Index of each atom's element, shape (n_atoms,).
            batch: System of each atom, shape (n_atoms,).
        """
        n = dipole.shape[0]
        if self.n_properties == 0:
            return positions.new_zeros((n, 0))
        contributions = self.references[species] + self.scales * raw.to(torch.float64)
        total = sum_edges(self.measures(positions, species, batch, n) * contributions, batch, n)
        return torch.where(self.norm, dipole_norm(dipole)[:, None], total)


def dipole_norm(dipole: Tensor) -> Tensor:
    """Length of dipoles (n, 3) in e*A, rounded off at zero so that it can be differentiated."""
    return torch.sqrt((dipole * dipole).sum(1) + 1e-12)
