"""Infrared absorption from a dipole trajectory, in absolute units.

    A(nu~) = N_A / (6 c eps0 k_B T) * integral dt <mu'(0) . mu'(t)> exp(-i 2 pi c nu~ t)

is the molar absorption per wavenumber of classical dynamics with the harmonic quantum correction,
which in this form is complete. The integral is the two-sided power spectrum of mu', summed over the
components; it is estimated by Welch's method.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import detrend, get_window, welch

from ..conventions import (
    AMU_A2_PER_FS2_IN_EV,
    KB,
    KELVIN_PER_INVERSE_CM,
    KM_PER_MOL,
    SPEED_OF_LIGHT_CM_PER_FS,
)

Array = NDArray[np.float64]

HIGHEST_FUNDAMENTAL = 4000.0
"""Wavenumber in 1/cm that no fundamental of a molecule but H2 lies above."""

CORRECTIONS: dict[str, Callable[[Array], Array]] = {
    "harmonic": lambda x: np.ones_like(x),
    "none": lambda x: -np.expm1(-x) / x,
    "standard": lambda x: -2.0 * np.expm1(-x) / (x * (1.0 + np.exp(-x))),
    "schofield": lambda x: np.exp(0.5 * x) * -np.expm1(-x) / x,
}
"""Factor of each quantum correction relative to the harmonic one, of x = hbar omega / k_B T.

With Q the correction of the classical line shape and A proportional to omega (1 - exp(-x)) Q C(omega):
``harmonic`` x / (1 - exp(-x)), ``none`` 1, ``standard`` 2 / (1 + exp(-x)), ``schofield`` exp(x / 2).
"""


@dataclass(frozen=True)
class Spectrum:
    """An absorption spectrum.

    Attributes:
        wavenumbers: 1/cm, shape (n,), ascending from 0.
        blocks: Molar napierian absorption of each block of the run in km/mol per 1/cm, shape (n_blocks, n).
        resolution: Width in 1/cm that the window and the segment length give to a sharp line.
    """

    wavenumbers: Array
    blocks: Array
    resolution: float

    @property
    def absorption(self) -> Array:
        """Molar napierian absorption in km/mol per 1/cm, shape (n,)."""
        return self.blocks.mean(axis=0)

    @property
    def error(self) -> Array:
        """Its standard error, as from independent blocks, shape (n,)."""
        return _standard_error(self.blocks)

    def band(self, low: float, high: float) -> tuple[float, float]:
        """Intensity of a band in km/mol and its standard error.

        The error is that of the integrals of the blocks: as the energy of a mode comes and goes, its
        whole band rises and falls. Blocks are independent where they are much longer than that takes.

        Args:
            low: Lower end in 1/cm.
            high: Upper end in 1/cm.
        """
        inside = (self.wavenumbers >= low) & (self.wavenumbers < high)
        step = float(self.wavenumbers[1] - self.wavenumbers[0])
        integrals = self.blocks[:, inside].sum(axis=1) * step
        return float(integrals.mean()), float(_standard_error(integrals))


def _standard_error(blocks: Array) -> Array:
    """Of the mean over the first axis."""
    return blocks.std(axis=0, ddof=1) / math.sqrt(len(blocks))


def correction_factor(wavenumbers: Array, temperature_K: float, correction: str) -> Array:
    """Factor of a quantum correction relative to the harmonic one.

    Args:
        wavenumbers: 1/cm, ascending from 0.
        temperature_K: Temperature in K.
        correction: One of `CORRECTIONS`.

    Raises:
        ValueError: There is no such correction.
    """
    if correction not in CORRECTIONS:
        raise ValueError(
            f"unknown correction {correction!r}: expected one of {', '.join(CORRECTIONS)}"
        )
    factor = np.ones_like(wavenumbers)
    x = wavenumbers[1:] * KELVIN_PER_INVERSE_CM / temperature_K
    factor[1:] = CORRECTIONS[correction](x)
    return factor


def infrared_spectrum(
    dipoles: Array,
    interval_fs: float,
    temperature_K: float,
    resolution: float = 10.0,
    window: str = "hann",
    correction: str = "harmonic",
    n_blocks: int = 5,
) -> Spectrum:
    """Infrared spectrum of a dipole trajectory.

    Args:
        dipoles: Total dipole in e*A at even intervals, continuous in time, shape (n, 3).
        interval_fs: Time between two dipoles in fs; it bounds the spectrum at 1 / (2 c interval).
        temperature_K: Temperature of the run in K.
        resolution: Width of a sharp line in 1/cm; the smaller, the noisier.
        window: Any window of ``scipy.signal.get_window``.
        correction: Quantum correction, one of `CORRECTIONS`.
        n_blocks: Blocks for the standard error.

    Returns:
        The spectrum.

    Raises:
        ValueError: The trajectory is too short for the resolution, not finite, or an option is
            unknown.

    Warns:
        UserWarning: The interval is too long for the fastest motions of molecules.
    """
    dipoles = np.asarray(dipoles, dtype=float)
    if dipoles.ndim != 2 or dipoles.shape[1] != 3:
        raise ValueError(f"dipoles: expected shape (n, 3), got {dipoles.shape}")
    if not np.isfinite(dipoles).all():
        raise ValueError("dipoles: some are NaN or infinite")
    if n_blocks < 2:
        raise ValueError(f"n_blocks: an error takes two blocks at least, got {n_blocks}")
    if not (temperature_K > 0.0 and interval_fs > 0.0 and resolution > 0.0):
        raise ValueError(
            f"expected positive temperature, interval and resolution, got {temperature_K} K, "
            f"{interval_fs} fs and {resolution} 1/cm"
        )
    highest = 0.5 / (SPEED_OF_LIGHT_CM_PER_FS * interval_fs)
    if highest < HIGHEST_FUNDAMENTAL:
        warnings.warn(
            f"a dipole every {interval_fs} fs shows motions up to {highest:.0f} 1/cm; faster ones, "
            f"such as O-H stretches, appear at wrong wavenumbers below: record it at least every 4 fs",
            stacklevel=2,
        )
    shape = get_window(window, 1024)
    # Equivalent noise bandwidth of the window in units of one frequency bin.
    bandwidth = len(shape) * float((shape**2).sum() / shape.sum() ** 2)
    length = round(bandwidth / (resolution * SPEED_OF_LIGHT_CM_PER_FS * interval_fs))
    rates = np.diff(dipoles, axis=0) / interval_fs
    n_blocks = min(n_blocks, len(rates) // max(length, 1))
    if length < 8:
        raise ValueError(
            f"a resolution of {resolution} 1/cm is coarser than the spectrum of a dipole every "
            f"{interval_fs} fs is wide: give a smaller one"
        )
    if n_blocks < 2:
        needed = 2 * length * interval_fs / 1000.0
        raise ValueError(
            f"{len(dipoles)} dipoles at {interval_fs} fs are too few for a resolution of {resolution} "
            f"1/cm: {math.ceil(10.0 * needed + 1e-6) / 10.0:.1f} ps are needed at least, or a coarser "
            f"resolution"
        )
    blocks = []
    for block in np.array_split(rates, n_blocks):
        frequency, power = welch(
            detrend(block, axis=0, type="constant"),
            fs=1.0 / interval_fs,
            window=window,
            nperseg=length,
            nfft=4 * length,
            axis=0,
            detrend=False,
            return_onesided=True,
            scaling="density",
        )
        # Of both signs of the frequency, which welch adds up where there are both.
        power[1:-1] *= 0.5
        blocks.append(power.sum(axis=1))
    wavenumbers = frequency / SPEED_OF_LIGHT_CM_PER_FS
    # A difference over one interval is the mean of the derivative over it, which damps fast motion.
    damping = np.sinc(frequency * interval_fs) ** 2
    factor = correction_factor(wavenumbers, temperature_K, correction)
    # N_A / (6 c eps0) = 2 c KM_PER_MOL amu / e^2, with powers in (e A/fs)^2 fs
    unit = 2.0 * KM_PER_MOL * SPEED_OF_LIGHT_CM_PER_FS * AMU_A2_PER_FS2_IN_EV / (KB * temperature_K)
    return Spectrum(
        wavenumbers=wavenumbers,
        blocks=np.array(blocks) * factor / damping * unit,
        resolution=bandwidth / (length * SPEED_OF_LIGHT_CM_PER_FS * interval_fs),
    )
