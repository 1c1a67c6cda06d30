"""What a potential was trained on, and warnings of structures that are something else."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.formula import Formula
from numpy.typing import NDArray

from .potential.card import Card

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

ANY = "any"
"""In place of an element: whichever neighbor is nearest."""

MARGIN = 0.1
"""Part of a distance by which it may lie outside the range of the training structures: they are a sample."""


class DomainWarning(UserWarning):
    """A structure lies outside what the potential was trained on."""


def is_trained_atom(card: Card, atoms: Atoms) -> bool:
    """Whether a structure is an atom alone, and such an atom was among the training structures."""
    alone = len(atoms) == 1 and not atoms.pbc.any()
    return alone and str(atoms.symbols[0]) in card.data.get("isolated_atoms", ())


def unknown_composition(card: Card, atoms: Atoms) -> str | None:
    """The formula of a structure, if the potential was trained on another one alone.

    Where those that it was trained on have neighbors across their boundaries, others that are periodic in the
    same directions and have the same proportions are the same: a cell twice as large has twice as much in it.
    """
    if not card.composition or is_trained_atom(card, atoms):
        return None
    found = atoms.get_chemical_formula(mode="hill")
    if found == card.composition:
        return None
    if card.data.get("periodic") == atoms.pbc.tolist():
        proportions, _ = Formula(found).reduce()
        if proportions.count() == Formula(card.composition).reduce()[0].count():
            return None
    return found


def warn_of_composition(card: Card, formula: str) -> None:
    """Warns that results for a formula are extrapolated."""
    warnings.warn(
        f"the structure is {formula}, but potential {card.name!r} was trained on "
        f"{card.composition} alone: its results for anything else are extrapolated",
        DomainWarning,
        stacklevel=3,
    )


def nearest_distances(
    species: Integers, center: Integers, neighbor: Integers, distance: Array, n_elements: int
) -> Array:
    """Distance from each atom to the nearest atom of each element, and to the nearest of any.

    Args:
        species: Index of each atom's element, shape (n_atoms,).
        center: Center of each edge, shape (n_edges,).
        neighbor: Neighbor of each edge, shape (n_edges,).
        distance: Length of each edge in Angstrom, shape (n_edges,).
        n_elements: Number of elements.

    Returns:
        Distances in Angstrom, infinite where there is none, shape (n_atoms, n_elements + 1).
    """
    found = np.full(len(species) * n_elements, np.inf)
    np.minimum.at(found, center * n_elements + species[neighbor], distance)
    table = found.reshape(-1, n_elements)
    return np.concatenate([table, table.min(axis=1, keepdims=True)], axis=1)


def nearest_range(
    elements: Sequence[str], species: Integers, table: Array
) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Smallest and largest distances to the nearest atom of each element, for the card.

    Args:
        elements: Chemical symbols in the order of the species.
        species: Index of each atom's element, shape (n_atoms,).
        table: What `nearest_distances` found, shape (n_atoms, n_elements + 1).

    Returns:
        Ranges in Angstrom by element of the atom and element of its neighbor or `ANY`; without an
        upper end where some atoms have no such neighbor, and without an entry where all have none.
    """
    ranges: dict[str, dict[str, tuple[float, float | None]]] = {}
    for a, symbol in enumerate(elements):
        rows = table[species == a]
        ranges[symbol] = {}
        for b, other in enumerate((*elements, ANY)):
            seen = rows[:, b][np.isfinite(rows[:, b])]
            if len(seen):
                all_have = len(seen) == len(rows)
                top = round(float(seen.max()), 3) if all_have else None
                ranges[symbol][other] = (round(float(seen.min()), 3), top)
    return ranges


class NearestCheck:
    """Compares distances to nearest neighbors with those of the training structures.

    It tells broken bonds, many isomers and atoms pressed together from what was trained, and is
    cheap: a distance for each atom and element. What keeps nearest neighbors passes it: most
    distortions, and a hydrogen atom that has changed its place.

    Args:
        card: Card of the potential; without ranges nothing is unusual.
        reach: Distance in Angstrom up to which the lists of edges that will be checked go.
    """

    def __init__(self, card: Card, reach: float) -> None:
        self.elements = card.model.elements
        self.others = (*self.elements, ANY)
        self.ranges = card.nearest_range
        self.cutoff, self.reach = card.model.cutoff, reach
        shape = (len(self.elements), len(self.others))
        # What no training structure has within the cutoff should not be within it.
        self.low = np.full(shape, (1.0 - MARGIN) * self.cutoff)
        self.high = np.full(shape, np.inf)
        for a, symbol in enumerate(self.elements):
            for b, other in enumerate(self.others):
                low, high = self.ranges.get(symbol, {}).get(other, (None, None))
                if low is not None:
                    self.low[a, b] = (1.0 - MARGIN) * low
                if high is not None:
                    self.high[a, b] = (1.0 + MARGIN) * high

    def __call__(
        self,
        species: Integers,
        center: Integers,
        neighbor: Integers,
        distance: Array,
        chosen: NDArray[np.bool_] | None = None,
    ) -> "Unusual | None":
        """What is outside, None if nothing is.

        Args:
            species: Index of each atom's element, shape (n_atoms,).
            center: Center of each edge, shape (n_edges,).
            neighbor: Neighbor of each edge, shape (n_edges,).
            distance: Length of each edge in Angstrom, shape (n_edges,).
            chosen: Which atoms to look at, shape (n_atoms,); all by default.
        """
        if not self.ranges:
            return None
        table = nearest_distances(species, center, neighbor, distance, len(self.elements))
        # What no edge reaches is at least as far as the edges reach.
        table = np.minimum(table, self.reach)
        excess = np.maximum(self.low[species] / table, table / self.high[species])
        if chosen is not None:
            excess[~chosen] = 0.0
        atoms = np.flatnonzero(excess.max(axis=1) > 1.0)
        if len(atoms) == 0:
            return None
        worst, b = divmod(int(excess.argmax()), len(self.others))
        symbol, other = self.elements[species[worst]], self.others[b]
        known = self.ranges[symbol].get(other)
        if known is None:
            trained = f"none was within {self.cutoff:g} A"
        elif known[1] is None:
            trained = f"none was nearer than {known[0]:.2f} A"
        else:
            trained = f"it was {known[0]:.2f} to {known[1]:.2f} A away"
        away = f"{table[worst, b]:.2f} A" + " or more" * bool(table[worst, b] >= self.reach)
        nearest = "neighbor" if other == ANY else other
        text = f"the nearest {nearest} of this {symbol} is {away} away, in the training structures {trained}"
        return Unusual(atoms, worst, float(excess.max()), text)


class Unusual(NamedTuple):
    """Atoms with nearest neighbors at distances that were not trained.

    Attributes:
        atoms: All such atoms.
        worst: The one that is farthest outside.
        excess: Its distance over the end of the range, or the other way round; above 1.
        text: What is unusual about it.
    """

    atoms: Integers
    worst: int
    excess: float
    text: str
