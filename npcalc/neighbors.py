"""Neighbor lists: matscipy's search, its edge cases, and a list that is kept while atoms move little.

The one edge direction of the package is fixed here: ``edge_index[0]`` is the center i,
``edge_index[1]`` the neighbor j, and the edge vector is ``r_j - r_i + shift @ cell``.
"""

import numpy as np
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

SHORTEST_DISTANCE = 0.2
"""Distance in Angstrom below which two atoms are taken to lie on each other."""


def search_box(
    positions: Array, cell: Array, pbc: NDArray[np.bool_], pad: float
) -> tuple[Array, Array]:
    """A right-handed box around the atoms that keeps the periodic lattice vectors.

    The search bins space by the box, so along directions that are not periodic the user's cell is
    replaced by the extent of the atoms: it may be zero, flat, or not hold the atoms at all.

    Args:
        positions: Coordinates in Angstrom, shape (n_atoms, 3).
        cell: Lattice vectors as rows in Angstrom, shape (3, 3).
        pbc: Which of them are periodic, shape (3,).
        pad: Space to leave along directions that are not periodic, in Angstrom.

    Returns:
        The box (3, 3) and its origin (3,), in Angstrom.
    """
    if not pbc.any():
        return np.diag(np.ptp(positions, axis=0) + 2.0 * pad), positions.min(axis=0) - pad
    box = np.array(cell, dtype=float)
    origin = np.zeros(3)
    open_axes = np.flatnonzero(~pbc)
    for axis, direction in zip(open_axes, open_directions(cell, pbc), strict=True):
        along = positions @ direction
        box[axis] = direction * (np.ptp(along) + 2.0 * pad)
        origin += direction * (along.min() - pad)
    if np.linalg.det(box) < 0.0 and not pbc.all():
        flipped = open_axes[0]
        origin += box[flipped]
        box[flipped] = -box[flipped]
    return box, origin


def spans_periodic(cell: Array, pbc: NDArray[np.bool_]) -> bool:
    """Whether the lattice vectors of the periodic directions are independent.

    Args:
        cell: Lattice vectors as rows in Angstrom, shape (3, 3).
        pbc: Periodic directions, shape (3,).
    """
    vectors = cell[pbc]
    # Of an empty matrix older versions of numpy do not know the rank.
    return len(vectors) == 0 or bool(np.linalg.matrix_rank(vectors) == len(vectors))


def open_directions(cell: Array, pbc: NDArray[np.bool_]) -> Array:
    """Orthonormal vectors that the periodic lattice vectors do not span, shape (n, 3)."""
    if not pbc.any():
        return np.eye(3)
    periodic = np.asarray(cell, dtype=float)[pbc]
    return np.linalg.svd(periodic)[2][len(periodic) :]


def close_gaps(positions: Array, cell: Array, pbc: NDArray[np.bool_], cutoff: float) -> Array:
    """Positions with empty slabs that are wider than the cutoff made as wide as it.

    The pairs within the cutoff stay what they are, since none reaches over such a slab; the bins of
    the search, which takes memory for each, do not grow with the distance of far fragments.

    Args:
        positions: Coordinates in Angstrom, shape (n_atoms, 3).
        cell: Lattice vectors as rows in Angstrom, shape (3, 3).
        pbc: Which of them are periodic, shape (3,).
        cutoff: Largest distance of a pair in Angstrom.
    """
    wide = 1.01 * cutoff
    for direction in open_directions(cell, pbc):
        along = positions @ direction
        order = np.argsort(along)
        gaps = np.diff(along[order])
        surplus = np.cumsum(np.maximum(gaps - wide, 0.0))
        if len(surplus) and surplus[-1] > 0.0:
            shift = np.zeros(len(positions))
            shift[order[1:]] = surplus
            positions = positions - shift[:, None] * direction
    return positions


FEW_ATOMS = 60
"""Atoms up to which all pairs of a molecule are looked at, which is then faster than a search."""


def pairs_of_molecules(positions: Array, cutoff: float) -> Integers:
    """All pairs of atoms of the same molecule closer than the cutoff, both directions of each.

    Args:
        positions: Coordinates of molecules of equal size in Angstrom, shape (n_molecules, n_atoms, 3).
        cutoff: Largest distance in Angstrom.

    Returns:
        Edge index (2, n_edges) of the atoms of all molecules, sorted by center.
    """
    n = positions.shape[1]
    vectors = positions[:, None] - positions[:, :, None]
    near = (vectors * vectors).sum(3) < cutoff**2
    near.reshape(len(near), -1)[:, :: n + 1] = False
    molecule, center, neighbor = np.nonzero(near)
    return np.stack([n * molecule + center, n * molecule + neighbor])


def neighbor_list(
    positions: Array, cell: Array, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[Integers, Integers]:
    """All pairs of atoms and images closer than the cutoff, both directions of each.

    Args:
        positions: Coordinates in Angstrom, shape (n_atoms, 3); they need not lie in the cell.
        cell: Lattice vectors as rows in Angstrom, shape (3, 3).
        pbc: Which of them are periodic, shape (3,).
        cutoff: Largest distance in Angstrom.

    Returns:
        Edge index (2, n_edges), sorted by center, and lattice shifts (n_edges, 3).
    """
    if len(positions) == 0:
        return np.zeros((2, 0), dtype=np.int64), np.zeros((0, 3), dtype=np.int64)
    if len(positions) <= FEW_ATOMS and not pbc.any():
        edge_index = pairs_of_molecules(positions[None], cutoff)
        return edge_index, np.zeros((edge_index.shape[1], 3), dtype=np.int64)
    positions = close_gaps(positions, cell, pbc, cutoff)
    box, origin = search_box(positions, cell, pbc, pad=cutoff)
    center, neighbor, shifts = neighbour_list(
        "ijS", cutoff=cutoff, positions=positions - origin, cell=box, pbc=pbc
    )
    order = np.lexsort((neighbor, center))
    edge_index = np.stack([center[order], neighbor[order]]).astype(np.int64)
    return edge_index, np.asarray(shifts, dtype=np.int64)[order]


class VerletList:
    """A neighbor list with a skin, searched anew only when an atom has moved by half the skin.

    The list holds pairs up to ``cutoff + skin``; those outside the cutoff have a zero envelope.

    Args:
        cutoff: Cutoff in Angstrom.
        skin: Width of the skin in Angstrom; 0 searches at every call.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if cutoff <= 0.0 or skin < 0.0:
            raise ValueError(f"expected cutoff > 0 and skin >= 0, got {cutoff} and {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.n_searches = 0
        self._built_at: tuple[Array, Array, NDArray[np.bool_]] | None = None
        self._edges: tuple[Integers, Integers] | None = None

    def __call__(
        self, positions: Array, cell: Array, pbc: NDArray[np.bool_]
    ) -> tuple[Integers, Integers]:
        """The list for these positions.

        Args:
            positions: Coordinates in Angstrom, shape (n_atoms, 3).
            cell: Lattice vectors as rows in Angstrom, shape (3, 3).
            pbc: Which of them are periodic, shape (3,).

        Returns:
            Edge index (2, n_edges) and lattice shifts (n_edges, 3). The same arrays come back
            until the next search.
        """
        if self._edges is None or self.skin == 0.0 or self._moved(positions, cell, pbc):
            self._edges = neighbor_list(positions, cell, pbc, self.cutoff + self.skin)
            self._built_at = (positions.copy(), np.array(cell), np.array(pbc))
            self.n_searches += 1
        return self._edges

    def reset(self) -> None:
        """Forgets the list, so that the next call searches."""
        self._edges = None
        self._built_at = None

    def _moved(self, positions: Array, cell: Array, pbc: NDArray[np.bool_]) -> bool:
        assert self._built_at is not None
        old_positions, old_cell, old_pbc = self._built_at
        if positions.shape != old_positions.shape or pbc.tobytes() != old_pbc.tobytes():
            return True
        # Of the cell only periodic vectors count; mostly none has changed.
        if cell.tobytes() != old_cell.tobytes() and not np.array_equal(cell[pbc], old_cell[pbc]):
            return True
        moved = positions - old_positions
        moved *= moved
        # Not "moved >= limit", which positions that are no numbers would pass.
        return not moved.sum(axis=1).max(initial=0.0) < (0.5 * self.skin) ** 2
