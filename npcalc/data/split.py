"""Splits and reference energies."""

import itertools

import numpy as np
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from .dataset import DataSet

SAME_ENERGY = 0.05
"""Difference in eV up to which energies of an isolated atom are of one state: boxes and grids differ."""


def random_split(n: int, sizes: list[int], seed: int) -> list[NDArray[np.int64]]:
    """Disjoint random index sets.

    Args:
        n: Number of structures.
        sizes: Size of each set.
        seed: Seed of the permutation.

    Returns:
        One sorted index array per size.

    Raises:
        ValueError: The sizes add up to more than there is.
    """
    if sum(sizes) > n or min(sizes) < 0:
        raise ValueError(f"cannot split {n} structures into sets of {sizes}")
    order = np.random.default_rng(seed).permutation(n)
    bounds = np.cumsum([0, *sizes])
    return [np.sort(order[a:b]) for a, b in itertools.pairwise(bounds)]


def isolated_atoms(data: DataSet, cutoff: float) -> NDArray[np.bool_]:
    """Which structures are one atom without neighbors, in a box or without one.

    Args:
        data: Data set.
        cutoff: Distance in Angstrom from which atoms are no neighbors; periodic images count.

    Returns:
        Shape (n_structures,).
    """
    found = data.n_atoms == 1
    for row in np.flatnonzero(found & data.pbc.any(1)):
        pbc = data.pbc[row]
        reduced, _ = minkowski_reduce(data.cell[row], pbc)  # whose vectors are the shortest
        found[row] = np.linalg.norm(reduced[pbc], axis=1).min() >= cutoff
    return found


def fit_reference_energies(data: DataSet, cutoff: float) -> dict[int, float]:
    """Energy per element: that of its isolated atom if the data have it, else by least squares.

    A structure of one atom has no interactions, so its energy is the reference energy of its element.
    Those of the other elements are a least-squares fit of what is left of the energies on the
    compositions. The solution of smallest norm is taken, so a data set of one composition gives values
    whose sum over its formula is right, though each of them has no meaning by itself.

    Args:
        data: Data set with energies.
        cutoff: As of `isolated_atoms`.

    Returns:
        Energy in eV by atomic number, of the elements of structures with energies.

    Raises:
        ValueError: Isolated atoms of one element have different energies.
    """
    label = data.require("energy")
    elements = data.elements
    rows = np.repeat(np.arange(len(data)), data.n_atoms)
    counts = np.zeros((len(data), len(elements)))
    np.add.at(counts, (rows, np.searchsorted(elements, data.numbers)), 1.0)
    alone = label.present & isolated_atoms(data, cutoff)
    known = counts[alone].sum(0) > 0
    solution = np.zeros(len(elements))
    for k in np.flatnonzero(known):
        rows = np.flatnonzero(alone & (counts[:, k] > 0))
        values = label.values[rows]
        low, high = rows[values.argmin()], rows[values.argmax()]
        if values.max() - values.min() > SAME_ENERGY:
            raise ValueError(
                f"isolated {chemical_symbols[elements[k]]} atoms have different energies, structure "
                f"{data.place(int(low))} {values.min():.4f} eV and structure {data.place(int(high))} "
                f"{values.max():.4f} eV: keep those of the state that energies count from, or give "
                f"data.reference_energies; a cell of one atom whose images are beyond model.cutoff is one too"
            )
        solution[k] = values.mean()
    use = label.present & ~alone
    if use.any():
        rest = label.values[use] - counts[use] @ solution
        solution[~known] = np.linalg.lstsq(counts[use][:, ~known], rest, rcond=None)[0]
    seen = np.flatnonzero(counts[label.present].sum(0))
    return {elements[k]: float(solution[k]) for k in seen}
