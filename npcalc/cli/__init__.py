"""The command line: parse, call one function, print."""

from . import dynamics, potentials, spectra
from .common import app

__all__ = ["app", "dynamics", "potentials", "spectra"]
