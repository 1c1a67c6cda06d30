"""npcalc: machine-learned potentials with neural polarization, for ASE."""

from ._version import __version__
from .calculator import DomainWarning, NPCalculator
from .committee import evaluate_committee
from .potential import Potential, load_potential, save_potential
from .results import evaluate

__all__ = [
    "DomainWarning",
    "NPCalculator",
    "Potential",
    "__version__",
    "evaluate",
    "evaluate_committee",
    "load_potential",
    "save_potential",
]
