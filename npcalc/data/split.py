"""Splits and reference energies."""

import itertools

import numpy as np
from numpy.typing import NDArray

from .dataset import DataSet


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


def fit_reference_energies(data: DataSet) -> dict[int, float]:
    """Energy per element: that of its isolated atom if the data have it, else by least squares.

    A structure of one atom has no interactions, so its energy is the reference energy of its element.
    Those of the other elements are a least-squares fit of what is left of the energies on the
    compositions. The solution of smallest norm is taken, so a data set of one composition gives values
    whose sum over its formula is right, though each of them has no meaning by itself.

    Args:
        data: Data set with energies.

    Returns:
        Energy in eV by atomic number.
    """
    label = data.require("energy")
    elements = data.elements
    rows = np.repeat(np.arange(len(data)), data.n_atoms)
    counts = np.zeros((len(data), len(elements)))
    np.add.at(counts, (rows, np.searchsorted(elements, data.numbers)), 1.0)
    alone = label.present & (data.n_atoms == 1) & ~data.pbc.any(1)
    known = counts[alone].sum(0) > 0
    solution = np.zeros(len(elements))
    for k in np.flatnonzero(known):
        solution[k] = label.values[alone & (counts[:, k] > 0)].mean()
    use = label.present & ~alone
    if use.any():
        rest = label.values[use] - counts[use] @ solution
        solution[~known] = np.linalg.lstsq(counts[use][:, ~known], rest, rcond=None)[0]
    return {z: float(e) for z, e in zip(elements, solution, strict=True)}
