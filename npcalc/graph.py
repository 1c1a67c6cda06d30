"""AtomGraph: an immutable batch of structures as tensors."""

from typing import NamedTuple

import torch
from torch import Tensor


class AtomGraph(NamedTuple):
    """A batch of structures.

    Attributes:
        positions: Cartesian coordinates in Angstrom, float64, shape (n_atoms, 3).
        cell: Lattice vectors as rows in Angstrom, float64, shape (n_systems, 3, 3); zero rows
            where a system is not periodic.
        species: Index of each atom's element in the potential's list, int64, shape (n_atoms,).
        edge_index: Center and neighbor of each edge, int64, shape (2, n_edges).
        shifts: Lattice translations of the neighbor in units of the cell, float64,
            shape (n_edges, 3).
        batch: System of each atom, int64, shape (n_atoms,).
    """

    positions: Tensor
    cell: Tensor
    species: Tensor
    edge_index: Tensor
    shifts: Tensor
    batch: Tensor

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all systems."""
        return self.positions.shape[0]

    @property
    def n_systems(self) -> int:
        """Number of systems."""
        return self.cell.shape[0]


def collate(graphs: list[AtomGraph]) -> AtomGraph:
    """Joins graphs into one batch.

    Args:
        graphs: At least one graph.

    Returns:
        The batch; atoms, edges and systems keep the order of the list.
    """
    atoms = torch.tensor([0] + [g.n_atoms for g in graphs]).cumsum(0)
    systems = torch.tensor([0] + [g.n_systems for g in graphs]).cumsum(0)
    return AtomGraph(
        positions=torch.cat([g.positions for g in graphs]),
        cell=torch.cat([g.cell for g in graphs]),
        species=torch.cat([g.species for g in graphs]),
        edge_index=torch.cat([g.edge_index + a for g, a in zip(graphs, atoms, strict=False)], 1),
        shifts=torch.cat([g.shifts for g in graphs]),
        batch=torch.cat([g.batch + s for g, s in zip(graphs, systems, strict=False)]),
    )
