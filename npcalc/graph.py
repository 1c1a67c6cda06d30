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


def pad(graph: AtomGraph, n_atoms: int, n_edges: int, cutoff: float) -> AtomGraph:
    """Adds one system of unconnected atoms so that the graph has the given sizes.

    Fixed sizes let compiled code be used again. The padding edges lie outside the cutoff, where
    the envelope is zero, so the other systems do not notice.

    Args:
        graph: The batch.
        n_atoms: Number of atoms wanted, more than the graph has.
        n_edges: Number of edges wanted, at least as many as the graph has.
        cutoff: Cutoff in Angstrom.

    Returns:
        The graph with one more system as its last.

    Raises:
        ValueError: The graph does not fit.
    """
    more_atoms = n_atoms - graph.n_atoms
    more_edges = n_edges - graph.edge_index.shape[1]
    if more_atoms < 1 or more_edges < 0:
        raise ValueError(
            f"cannot pad a graph of {graph.n_atoms} atoms and {graph.edge_index.shape[1]} edges "
            f"to {n_atoms} atoms and {n_edges} edges: one atom has to be added at least"
        )
    like = graph.positions
    box = 2.0 * cutoff * torch.eye(3, dtype=like.dtype, device=like.device)
    first = graph.n_atoms
    ghosts = torch.full((2, more_edges), first, dtype=torch.int64, device=like.device)
    shift = torch.tensor([[1.0, 0.0, 0.0]], dtype=like.dtype, device=like.device)
    return AtomGraph(
        positions=torch.cat([graph.positions, like.new_zeros(more_atoms, 3)]),
        cell=torch.cat([graph.cell, box[None]]),
        species=torch.cat([graph.species, graph.species.new_zeros(more_atoms)]),
        edge_index=torch.cat([graph.edge_index, ghosts], 1),
        shifts=torch.cat([graph.shifts, shift.expand(more_edges, 3)]),
        batch=torch.cat([graph.batch, graph.batch.new_full((more_atoms,), graph.n_systems)]),
    )
