"""Training batches of fixed sizes, made from neighbor lists that are searched once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from ..data import DataSet, isolated_atoms
from ..data.dataset import ragged_rows
from ..domain import nearest_distances, nearest_range
from ..neighbors import SHORTEST_DISTANCE, neighbor_list, spans_periodic
from .targets import PropertyFit


class Batch(NamedTuple):
    """Structures and labels as tensors, padded; the last system holds the padding.

    Attributes:
        edges: Edge vectors in Angstrom, shape (n_edges, 3).
        species: Index of each atom's element, shape (n_atoms,).
        center: Center of each edge, shape (n_edges,).
        neighbor: Neighbor of each edge, shape (n_edges,).
        system: System of each atom, shape (n_atoms,).
        n_atoms: Atoms of each system, at least 1, shape (n_systems,).
        energy: Energy above the reference energies in eV, shape (n_systems,).
        forces: eV/A, shape (n_atoms, 3).
        dipole: Dipole without the formal charges in e*A, shape (n_systems, 3).
        centroids: Electron centroids minus nuclei in Angstrom, shape (n_atoms, 3).
        properties: Molecular properties above their references, shape (n_systems, n_properties).
        measures: Weight of each atom in each property, shape (n_atoms, n_properties).
        has_energy: 1 where the label is there, else 0, shape (n_systems,).
        has_forces: The same by atom, shape (n_atoms,).
        has_dipole: The same by system, shape (n_systems,).
        has_centroids: The same by atom, shape (n_atoms,).
        has_properties: The same by system and property, shape (n_systems, n_properties).
        counts: Values of energy, forces, dipole, centroids and properties that the loss is a mean
            over, shape (4 + n_properties,). Of several processes that share the structures, each
            has the mean of all.
    """

    edges: Tensor
    species: Tensor
    center: Tensor
    neighbor: Tensor
    system: Tensor
    n_atoms: Tensor
    energy: Tensor
    forces: Tensor
    dipole: Tensor
    centroids: Tensor
    properties: Tensor
    measures: Tensor
    has_energy: Tensor
    has_forces: Tensor
    has_dipole: Tensor
    has_centroids: Tensor
    has_properties: Tensor
    counts: Tensor


SMALLEST = 0.1
"""Smallest size of a batch, in units of the largest: code for each size takes a minute to compile."""


def _sizes(largest: tuple[int, int], need: tuple[int, int]) -> tuple[int, int]:
    """The smallest of ``largest``, 0.8 ``largest``, 0.64 ``largest``... both numbers of which are enough."""
    sizes = largest
    while True:
        n, m = int(sizes[0] * 0.8), int(sizes[1] * 0.8)
        if n < max(need[0], SMALLEST * largest[0], 1) or m < max(need[1], SMALLEST * largest[1], 1):
            return sizes
        sizes = (n, m)


class Batches:
    """Serves batches of a data set.

    Few different sizes occur, so that compiled code is used again.

    Args:
        data: Structures and labels.
        elements: Atomic numbers the model knows, in the order of its species.
        cutoff: Cutoff in Angstrom.
        reference: Reference energy of each of the elements in eV.
        formal: Formal charge of each of the elements in e.
        batch_size: Structures of a batch.
        device: Where the tensors go.
        properties: What is known of the molecular properties, if there are any.

    Attributes:
        periodic: Periodic directions, if all structures have the same and in some of them atoms have
            neighbors across a boundary, else None: molecules in boxes are molecules.

    Raises:
        ValueError: An element is not known, or two atoms lie on each other.
    """

    def __init__(
        self,
        data: DataSet,
        elements: list[int],
        cutoff: float,
        reference: list[float],
        formal: list[float],
        batch_size: int,
        device: str = "cpu",
        properties: PropertyFit | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.cutoff = cutoff
        self.device = device
        self.n_atoms = data.n_atoms
        self.offsets = data.offsets
        self.species = species_index(data, elements)
        self._find_edges(data, cutoff)
        n = len(data)
        start = self.offsets[:-1]
        shift = np.add.reduceat(np.asarray(reference)[self.species], start)
        charge = np.asarray(formal)[self.species][:, None] * data.positions
        energy, self.has_energy = _label(data, "energy", (n,))
        self.energy = energy - np.where(self.has_energy, shift, 0.0)
        self.forces, self.has_forces = _label(data, "forces", (len(data.numbers), 3))
        dipole, self.has_dipole = _label(data, "dipole", (n, 3))
        self.dipole = dipole - self.has_dipole[:, None] * np.add.reduceat(charge, start)
        self.centroids, whole = _label(data, "centroids", (len(data.numbers), 3))
        self.has_centroids = np.repeat(whole, self.n_atoms)
        if whole.any():
            self.has_centroids &= np.isfinite(data.labels["centroids"].values).all(1)
        if properties is None:
            self.properties, self.measures = np.zeros((n, 0)), np.zeros((len(data.numbers), 0))
            self.has_properties = np.zeros((n, 0), dtype=bool)
        else:
            fitted = properties.labels(data, self.species)
            self.properties, self.has_properties, self.measures = fitted
        top_atoms = np.sort(self.n_atoms)[-batch_size:].sum()
        top_edges = np.sort(self.n_edges)[-batch_size:].sum()
        self.most = (int(top_atoms) + 1, max(int(top_edges), 1))

    def _find_edges(self, data: DataSet, cutoff: float) -> None:
        index, vectors, counts, crossing = [], [], [], False
        for k in range(len(data)):
            rows = slice(self.offsets[k], self.offsets[k + 1])
            positions = data.positions[rows]
            if not spans_periodic(data.cell[k], data.pbc[k]):
                periodic = data.cell[k][data.pbc[k]]
                raise ValueError(
                    f"structure {data.place(k)} is periodic in {len(periodic)} directions, but their "
                    f"lattice vectors are zero or dependent: {periodic.tolist()}"
                )
            edge_index, shifts = neighbor_list(positions, data.cell[k], data.pbc[k], cutoff)
            vector = positions[edge_index[1]] - positions[edge_index[0]] + shifts @ data.cell[k]
            if len(vector) and (vector**2).sum(1).min() < SHORTEST_DISTANCE**2:
                raise ValueError(
                    f"structure {data.place(k)} has two atoms nearer than {SHORTEST_DISTANCE} A"
                )
            index.append(edge_index)
            vectors.append(vector)
            counts.append(len(shifts))
            crossing = crossing or bool(shifts.any())
        self.edge_index = np.concatenate(index, axis=1)
        self.vectors = np.concatenate(vectors)
        self.n_edges = np.array(counts, dtype=np.int64)
        self.edge_offsets = np.concatenate([[0], self.n_edges.cumsum()])
        self.isolated = isolated_atoms(data, cutoff)
        directions = data.pbc[~self.isolated]
        same = bool((directions == directions[:1]).all())
        self.periodic = directions[0].tolist() if same and crossing else None

    def nearest_range(
        self, elements: Sequence[str]
    ) -> dict[str, dict[str, tuple[float, float | None]]]:
        """Distances of atoms to their nearest neighbors, see `npcalc.domain.nearest_range`.

        Args:
            elements: Chemical symbols in the order of the model's species.
        """
        center, neighbor = self.edge_index + np.repeat(self.offsets[:-1], self.n_edges)
        distance = np.sqrt((self.vectors**2).sum(1))
        table = nearest_distances(self.species, center, neighbor, distance, len(elements))
        # Atoms alone are there for their energies: what has lost a neighbor is no better known for them.
        bound = np.repeat(~self.isolated, self.n_atoms)
        return nearest_range(elements, self.species[bound], table[bound])

    def shift_energies(self, per_atom: float) -> None:
        """Adds to the energies what the reference energies lose, in eV per atom."""
        self.energy = self.energy + self.has_energy * per_atom * self.n_atoms

    @property
    def mean_neighbors(self) -> float:
        """Mean number of neighbors of an atom."""
        return float(self.n_edges.sum() / self.n_atoms.sum())

    def __len__(self) -> int:
        return -(-len(self.n_atoms) // self.batch_size)

    def ordered(self) -> Iterator[Batch]:
        """All structures once, in order."""
        for start in range(0, len(self.n_atoms), self.batch_size):
            stop = min(start + self.batch_size, len(self.n_atoms))
            yield self.make(np.arange(start, stop))

    def make(self, index: NDArray[np.int64], rank: int = 0, n_processes: int = 1) -> Batch:
        """The batch of the structures with these indices, or one process's share of them.

        Args:
            index: Structures, at most ``batch_size`` of them in a share.
            rank: Number of the process.
            n_processes: Processes that share the structures.
        """
        everywhere = ragged_rows(self.offsets[index], self.n_atoms[index])
        counts = (
            self.has_energy[index].sum(),
            3 * self.n_atoms[index][self.has_forces[index]].sum(),
            3 * self.has_dipole[index].sum(),
            3 * self.has_centroids[everywhere].sum(),
            *self.has_properties[index].sum(0),
        )
        index = index[rank::n_processes]
        n_atoms, n_edges = self.n_atoms[index], self.n_edges[index]
        # Of fewer structures than others the size is what that of a whole batch would be.
        part = self.batch_size / max(len(index), 1)
        full = (int(part * n_atoms.sum()) + 1, int(part * n_edges.sum()))
        size_n, size_e = _sizes(self.most, full)
        n_systems = self.batch_size + 1
        atoms = ragged_rows(self.offsets[index], n_atoms)
        edges = ragged_rows(self.edge_offsets[index], n_edges)
        first = np.repeat(n_atoms.cumsum() - n_atoms, n_edges)
        ghost = int(n_atoms.sum())
        ends = np.full((2, size_e), ghost)
        ends[:, : len(edges)] = self.edge_index[:, edges] + first
        vectors = np.zeros((size_e, 3))
        vectors[:, 0] = 2.0 * self.cutoff
        vectors[: len(edges)] = self.vectors[edges]

        def fill(rows: NDArray, size: int, value: float = 0.0) -> NDArray:
            out = np.full((size, *rows.shape[1:]), value, dtype=rows.dtype)
            out[: len(rows)] = rows
            return out

        def real(array: NDArray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=self.device)

        def whole(array: NDArray) -> Tensor:
            return torch.as_tensor(array, dtype=torch.int64, device=self.device)

        return Batch(
            edges=real(vectors),
            species=whole(fill(self.species[atoms], size_n)),
            center=whole(ends[0]),
            neighbor=whole(ends[1]),
            system=whole(fill(np.repeat(np.arange(len(index)), n_atoms), size_n, n_systems - 1)),
            n_atoms=real(fill(n_atoms.astype(float), n_systems, 1.0)),
            energy=real(fill(self.energy[index], n_systems)),
            forces=real(fill(self.forces[atoms], size_n)),
            dipole=real(fill(self.dipole[index], n_systems)),
            centroids=real(fill(self.centroids[atoms], size_n)),
            properties=real(fill(self.properties[index], n_systems)),
            measures=real(fill(self.measures[atoms], size_n)),
            has_energy=real(fill(self.has_energy[index].astype(float), n_systems)),
            has_forces=real(fill(np.repeat(self.has_forces[index], n_atoms).astype(float), size_n)),
            has_dipole=real(fill(self.has_dipole[index].astype(float), n_systems)),
            has_centroids=real(fill(self.has_centroids[atoms].astype(float), size_n)),
            has_properties=real(fill(self.has_properties[index].astype(float), n_systems)),
            counts=real(np.array(counts) / n_processes),
        )


def species_index(data: DataSet, elements: list[int]) -> NDArray[np.int64]:
    """Index in ``elements`` of each atom's atomic number.

    Raises:
        ValueError: The data have an element that is not among them.
    """
    unknown = ~np.isin(data.numbers, elements)
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        found = chemical_symbols[data.numbers[row]]
        place = data.place(int(np.searchsorted(data.offsets, row, side="right")) - 1)
        known = ", ".join(chemical_symbols[z] for z in elements)
        raise ValueError(
            f"structure {place} has {found}, the model knows {known}: those of the training structures, "
            f"unless model.elements lists them; give it all that occur"
        )
    order = np.argsort(elements)
    return order[np.searchsorted(np.asarray(elements)[order], data.numbers)]


def _label(
    data: DataSet, name: str, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values with zeros where absent (never NaN: they are masked by product), and presence."""
    if name not in data.labels:
        return np.zeros(shape), np.zeros(len(data), dtype=bool)
    label = data.labels[name]
    return np.nan_to_num(label.values), label.present
