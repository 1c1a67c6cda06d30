"""Infrared spectra: from dipole trajectories, and harmonic."""

from .harmonic import HarmonicSpectrum, calculate_harmonic_spectrum, harmonic_spectrum
from .infrared import CORRECTIONS, Spectrum, infrared_spectrum
from .plot import plot_spectrum
from .reference import read_jcamp
from .trajectory import trajectory_spectrum

__all__ = [
    "CORRECTIONS",
    "HarmonicSpectrum",
    "Spectrum",
    "calculate_harmonic_spectrum",
    "harmonic_spectrum",
    "infrared_spectrum",
    "plot_spectrum",
    "read_jcamp",
    "trajectory_spectrum",
]
