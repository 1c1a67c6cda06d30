"""npcalc: machine-learned potentials with neural polarization, for ASE."""

from ._version import __version__
from .calculator import DomainWarning, NPCalculator
from .potential import Potential, load_potential, save_potential

__all__ = [
    "DomainWarning",
    "NPCalculator",
    "Potential",
    "__version__",
    "load_potential",
    "save_potential",
]
