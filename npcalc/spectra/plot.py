"""Plots with matplotlib's object interface: no display and no global state."""

import os

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..files import new_file
from .harmonic import HarmonicSpectrum
from .infrared import Spectrum

Array = NDArray[np.float64]


def plot_spectrum(
    path: str | os.PathLike[str],
    spectrum: Spectrum | None,
    harmonic: HarmonicSpectrum | None = None,
    reference: tuple[Array, Array] | None = None,
    title: str = "",
    upper: float = 4000.0,
) -> None:
    """Draws a spectrum, harmonic lines under it and a measured spectrum over it.

    Args:
        path: File to write; its ending decides the format.
        spectrum: Spectrum of molecular dynamics.
        harmonic: Harmonic lines, drawn as sticks on an axis of their own.
        reference: Wavenumbers in 1/cm and absorbance in arbitrary units.
        title: Title.
        upper: Largest wavenumber in 1/cm.

    Raises:
        FileExistsError: The file exists.
        ValueError: The harmonic lines have no intensities.
    """
    if harmonic is not None and np.isnan(harmonic.intensities).any():
        raise ValueError("there are no intensities to plot: the potential has no dipole")
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(upper, 0.0), xlabel="wavenumber (cm$^{-1}$)", title=title)
    axes.set_ylabel("absorption (km mol$^{-1}$ cm)")
    top = 1.0
    if spectrum is not None:
        shown = spectrum.wavenumbers <= upper
        x, y, e = spectrum.wavenumbers[shown], spectrum.absorption[shown], spectrum.error[shown]
        axes.fill_between(x, np.clip(y - e, 0.0, None), y + e, color="C0", alpha=0.3, linewidth=0.0)
        axes.plot(x, y, color="C0", linewidth=1.0, label="molecular dynamics")
        top = float(y[x > 200.0].max()) if (x > 200.0).any() else float(y.max())
    if reference is not None:
        axes.plot(
            reference[0], reference[1] * top, color="C7", linewidth=0.8, label="measured (scaled)"
        )
    axes.set_ylim(-0.35 * top if harmonic is not None else 0.0, 1.1 * top)
    if harmonic is not None:
        sticks = axes.twinx()
        largest = float(harmonic.intensities.max())
        sticks.vlines(
            harmonic.frequencies, 0.0, -harmonic.intensities, color="C3", label="harmonic"
        )
        sticks.set_ylim(-1.15 * largest, 3.6 * largest)
        sticks.set_yticks([0.0, -largest], ["0", f"{largest:.0f}"])
        sticks.set_ylabel(
            "harmonic intensity (km mol$^{-1}$)", loc="bottom", color="C3", fontsize=8
        )
        axes.axhline(0.0, color="0.6", linewidth=0.5)
        axes.plot([], [], color="C3", label="harmonic lines")
    axes.legend(frameon=False)
    with new_file(path) as partial:
        figure.savefig(partial, dpi=150)
