"""What a potential was trained on, and warnings of structures that are something else."""

import warnings

from ase import Atoms

from .potential.card import Card


class DomainWarning(UserWarning):
    """A structure lies outside what the potential was trained on."""


def unknown_composition(card: Card, atoms: Atoms) -> str | None:
    """The formula of a structure, if the potential was trained on another one alone."""
    if not card.composition:
        return None
    found = atoms.get_chemical_formula(mode="hill")
    return found if found != card.composition else None


def warn_of_composition(card: Card, formula: str) -> None:
    """Warns that results for a formula are extrapolated."""
    warnings.warn(
        f"the structure is {formula}, but potential {card.name!r} was trained on "
        f"{card.composition} alone: its results for anything else are extrapolated",
        DomainWarning,
        stacklevel=3,
    )
