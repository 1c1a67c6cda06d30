"""GraphBuilder: from ASE atoms to a graph, with checks, doing again only what has changed."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from .graph import AtomGraph
from .neighbors import SHORTEST_DISTANCE, VerletList, pairs_of_molecules, spans_periodic
from .potential import Potential
from .potential.derivatives import edge_vectors

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


FEW_EDGES = 2000
"""Edges up to which those in the skin, which count for nothing, are not worth leaving out."""


class _System(NamedTuple):
    """What follows from elements and cell of a structure.

    Attributes:
        key: Bytes of atomic numbers, cell and boundary conditions.
        species: Index of each atom's element in the card, shape (n_atoms,).
        batch: Zeros, shape (n_atoms,).
        cell: Lattice vectors as rows in Angstrom, shape (1, 3, 3).
    """

    key: tuple[bytes, bytes, bytes]
    species: torch.Tensor
    batch: torch.Tensor
    cell: torch.Tensor


class _Edges(NamedTuple):
    """A neighbor list on the potential's device.

    Attributes:
        source: What the neighbor list returned.
        edge_index: Center and neighbor, shape (2, n_edges).
        shifts: Lattice translations, shape (n_edges, 3).
        lengths: Length of each edge in Angstrom when they were found, shape (n_edges,).
        may_overlap: Whether two atoms may come to lie on each other before the next search.
    """

    source: tuple[NDArray[np.int64], NDArray[np.int64]]
    edge_index: torch.Tensor
    shifts: torch.Tensor
    lengths: Array
    may_overlap: bool


class GraphBuilder:
    """Makes the graphs of one potential; best when structures follow each other in small steps.

    Args:
        potential: The potential.
        skin: Width in Angstrom by which the neighbor list reaches beyond the cutoff.
        on_search: Is called after each search of neighbors, and when elements have changed, with
            species, center and neighbor of the edges and their lengths in Angstrom at the search.
    """

    def __init__(
        self,
        potential: Potential,
        skin: float,
        on_search: Callable[[Integers, Integers, Integers, Array], object] | None = None,
    ) -> None:
        card = potential.card
        self.name = card.name
        self.device = potential.device
        self.neighbors = VerletList(card.model.cutoff, skin)
        self._index = {e: k for k, e in enumerate(card.model.elements)}
        self._on_search = on_search
        # Edges and species that it was called with last.
        self._seen: tuple[object, torch.Tensor] | None = None
        self._edges: _Edges | None = None
        self._system: _System | None = None

    def __call__(self, atoms: Atoms) -> AtomGraph:
        """The graph of a structure on the potential's device.

        Args:
            atoms: Any structure of known elements.

        Returns:
            A batch of one system. Its cell and species are the same tensors until they change.

        Raises:
            ValueError: The structure is empty, has unknown elements, positions that are not
                numbers, a periodic direction without lattice vector, or atoms on each other.
        """
        system = self._known_system(atoms)
        positions = atoms.positions
        cell, pbc = atoms.cell.array, atoms.pbc
        if not math.isfinite(positions.sum()):
            _check_positions(positions)
        edges = self._known_edges(positions, cell, pbc)
        graph = AtomGraph(
            positions=torch.from_numpy(positions.copy()).to(self.device),
            cell=system.cell,
            species=system.species,
            edge_index=edges.edge_index,
            shifts=edges.shifts,
            batch=system.batch,
        )
        if edges.may_overlap:
            _check_distances(graph, atoms)
        seen = (edges.source, system.species)
        if self._on_search is not None and (
            self._seen is None or any(a is not b for a, b in zip(seen, self._seen, strict=True))
        ):
            center, neighbor = edges.source[0]
            self._on_search(system.species.cpu().numpy(), center, neighbor, edges.lengths)
            self._seen = seen
        if self.neighbors.skin > 0.0 and edges.edge_index.shape[1] > FEW_EDGES:
            return _within(graph, self.neighbors.cutoff)
        return graph

    def molecules(self, structures: Sequence[Atoms]) -> tuple[AtomGraph, Array] | None:
        """The graph of molecules of the same atoms, all at once, which is far faster than one by one.

        Args:
            structures: Molecules with the same atomic numbers in the same order, not periodic.

        Returns:
            A batch and the length of each edge in Angstrom; None where one of them, looked at alone,
            would be refused.
        """
        positions = np.stack([atoms.positions for atoms in structures])
        n_molecules, n_atoms = positions.shape[:2]
        if set(structures[0].symbols) - set(self._index) or not math.isfinite(positions.sum()):
            return None
        edge_index = pairs_of_molecules(positions, self.neighbors.cutoff)
        rows = positions.reshape(-1, 3)
        vectors = rows[edge_index[1]] - rows[edge_index[0]]
        lengths = np.sqrt((vectors * vectors).sum(1))
        if lengths.min(initial=np.inf) < SHORTEST_DISTANCE:
            return None
        species = [self._index[s] for s in structures[0].symbols] * n_molecules
        arrays = {
            "positions": rows,
            "cell": np.stack([atoms.cell.array for atoms in structures]),
            "species": np.array(species),
            "edge_index": edge_index,
            "shifts": np.zeros((len(lengths), 3)),
            "batch": np.repeat(np.arange(n_molecules), n_atoms),
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return AtomGraph(**{name: t.to(self.device) for name, t in tensors.items()}), lengths

    @property
    def lengths(self) -> Array:
        """Length in Angstrom of each edge that the last search found: without a skin, of the last graph."""
        assert self._edges is not None
        return self._edges.lengths

    def _known_system(self, atoms: Atoms) -> _System:
        """What follows from elements and cell, checked and made once while they stay."""
        key = (atoms.numbers.tobytes(), atoms.cell.array.tobytes(), atoms.pbc.tobytes())
        old = self._system
        if old is not None and old.key == key:
            return old
        _check_system(atoms)
        cell = torch.from_numpy(atoms.cell.array[None].copy()).to(self.device)
        if old is not None and old.key[0] == key[0]:
            self._system = old._replace(key=key, cell=cell)
            return self._system
        unknown = sorted(set(atoms.symbols) - set(self._index))
        if unknown:
            raise ValueError(
                f"potential {self.name!r} does not know {', '.join(unknown)}; it knows "
                f"{', '.join(self._index)}"
            )
        self._system = _System(
            key,
            torch.tensor([self._index[s] for s in atoms.symbols], device=self.device),
            torch.zeros(len(atoms), dtype=torch.int64, device=self.device),
            cell,
        )
        return self._system

    def _known_edges(self, positions: Array, cell: Array, pbc: NDArray[np.bool_]) -> _Edges:
        """Edges as tensors, made once for each search of the neighbor list."""
        found = self.neighbors(positions, cell, pbc)
        if self._edges is None or self._edges.source is not found:
            (center, neighbor), shifts = found[0], found[1].astype(float)
            vectors = positions[neighbor] - positions[center] + shifts @ cell
            lengths = np.sqrt((vectors**2).sum(1))
            shortest = lengths.min(initial=np.inf)
            # Until the next search two atoms approach each other by less than the skin.
            may_overlap = bool(shortest < SHORTEST_DISTANCE + self.neighbors.skin)
            index = torch.as_tensor(found[0], device=self.device)
            translations = torch.as_tensor(shifts, device=self.device)
            self._edges = _Edges(found, index, translations, lengths, may_overlap)
        return self._edges


def _within(graph: AtomGraph, cutoff: float) -> AtomGraph:
    """A graph of one system without the edges that reach beyond the cutoff."""
    ends = graph.positions[graph.edge_index]
    vectors = torch.addmm(ends[1] - ends[0], graph.shifts, graph.cell[0])
    inside = (vectors * vectors).sum(1) < cutoff**2
    return graph._replace(edge_index=graph.edge_index[:, inside], shifts=graph.shifts[inside])


def _check_positions(positions: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise ValueError(f"position of atom {bad[0]} is NaN or infinite: {positions[bad[0]]}")


def _check_system(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise ValueError("the structure has no atoms")
    if not atoms.pbc.any():
        return
    flat = [k for k in range(3) if atoms.pbc[k] and not atoms.cell.array[k].any()]
    if flat:
        raise ValueError(
            f"direction {flat[0]} is periodic, but its lattice vector is zero: set atoms.cell or "
            f"atoms.pbc = False"
        )
    if not spans_periodic(atoms.cell.array, atoms.pbc):
        raise ValueError(f"the periodic lattice vectors are linearly dependent: {atoms.cell.array}")


def _check_distances(graph: AtomGraph, atoms: Atoms) -> None:
    if graph.edge_index.shape[1] == 0:
        return
    vectors = edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch)
    shortest2, edge = (vectors * vectors).sum(1).min(0)
    if float(shortest2) < SHORTEST_DISTANCE**2:
        i, j = (int(k) for k in graph.edge_index[:, int(edge)])
        raise ValueError(
            f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are "
            f"{float(shortest2) ** 0.5:.3f} A apart: overlapping atoms cannot be evaluated"
        )
