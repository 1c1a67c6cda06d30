"""Potentials: derivatives, compiled graphs, cards and files."""

from .archive import ArchiveError
from .card import Card, properties_of
from .potential import Potential, load_potential, save_potential
from .registry import bundled_potentials

__all__ = [
    "ArchiveError",
    "Card",
    "Potential",
    "bundled_potentials",
    "load_potential",
    "properties_of",
    "save_potential",
]
