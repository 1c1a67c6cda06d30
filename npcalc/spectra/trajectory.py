"""The spectrum of a trajectory file, and its table."""

import os
import warnings
from dataclasses import replace

import numpy as np

from ..conventions import SPEED_OF_LIGHT_CM_PER_FS
from ..files import new_file
from ..md import Trajectory
from .infrared import Spectrum, correction_factor, infrared_spectrum

BLOCKS = 10
"""Parts of a run whose scatter tells the error of its mean temperature."""


def run_temperature(trajectory: Trajectory, skip_ps: float = 0.0) -> float:
    """Temperature of a run in K: that of its thermostat, or the mean kinetic one where it has none.

    Warns where the mean kinetic temperature is not that of the thermostat: the run was too short, or
    its friction too weak, for the thermostat to reach it.

    Args:
        trajectory: The run.
        skip_ps: Time to leave out at the start, in ps.

    Raises:
        ValueError: A run without thermostat has no temperatures.
    """
    settings, measured = trajectory.settings, np.zeros(0)
    if "temperature" in trajectory.quantities:
        late = trajectory.times_fs("temperature") >= 1000.0 * skip_ps
        measured = trajectory.values("temperature")[late]
    # The temperature of the settings is that of the initial velocities alone.
    if settings["ensemble"] == "nve" or settings["friction_per_ps"] == 0.0:
        if len(measured) == 0:
            raise ValueError(
                f"{trajectory.file.filename!r} is a run without thermostat and without recorded "
                f"temperature, which the intensities are proportional to: give temperature_K "
                f"(--temperature)"
            )
        return float(measured.mean())
    wanted = float(settings["temperature_K"])
    if len(measured) >= BLOCKS:
        means = np.array([part.mean() for part in np.array_split(measured, BLOCKS)])
        off, error = abs(means.mean() - wanted), means.std(ddof=1) / BLOCKS**0.5
        if off > 0.2 * wanted and off > 4.0 * error:
            warnings.warn(
                f"the mean temperature is {means.mean():.0f} K, that of the thermostat {wanted:.0f} K: "
                f"run longer or with more friction, or give the temperature (--temperature); "
                f"intensities are proportional to it",
                stacklevel=3,
            )
    return wanted


def trajectory_spectrum(
    path: str | os.PathLike[str],
    skip_ps: float = 0.0,
    temperature_K: float | None = None,
    resolution: float = 10.0,
    window: str = "hann",
    correction: str = "harmonic",
) -> Spectrum:
    """Infrared spectrum of a trajectory with dipoles.

    Wavenumbers are without the error of the time step, see `without_step_error`.

    Args:
        path: Trajectory.
        skip_ps: Time to leave out at the start, in ps.
        temperature_K: Temperature, see `run_temperature` for the default.
        resolution: Width of a sharp line in 1/cm.
        window: Window of ``scipy.signal.get_window``.
        correction: Quantum correction.

    Returns:
        The spectrum.

    Raises:
        ValueError: The trajectory has no dipoles, or too few, or no temperature.
    """
    with Trajectory(path) as trajectory:
        if "dipole" not in trajectory.quantities:
            raise ValueError(
                f"{os.fspath(path)!r} has no dipoles; it has: {', '.join(trajectory.quantities)}"
            )
        times = trajectory.times_fs("dipole")
        dipoles = trajectory.values("dipole")[times >= 1000.0 * skip_ps]
        interval = trajectory.stride("dipole") * trajectory.timestep_fs
        if len(dipoles) == 0:
            raise ValueError(
                f"{os.fspath(path)!r} has no dipoles after its first {skip_ps} ps: run longer, or leave "
                f"out less (--skip)"
            )
        if temperature_K is None:
            temperature_K = run_temperature(trajectory, skip_ps)
        timestep = trajectory.timestep_fs
    try:
        found = infrared_spectrum(dipoles, interval, temperature_K, resolution, window)
        found = without_step_error(found, timestep)
        factor = correction_factor(found.wavenumbers, temperature_K, correction)
        return replace(found, blocks=found.blocks * factor)
    except ValueError as error:
        left = f"{os.fspath(path)!r} without its first {skip_ps} ps" if skip_ps else os.fspath(path)
        raise ValueError(f"{left}: {error}") from None


def without_step_error(spectrum: Spectrum, timestep_fs: float) -> Spectrum:
    """Moves bands back by what the time step of velocity Verlet has moved them up.

    A harmonic motion of angular frequency w appears at w' with w = (2 / dt) sin(w' dt / 2), as follows from
    r(t + dt) - 2 r(t) + r(t - dt) = -w^2 dt^2 r(t): at 0.5 fs and 3700 1/cm 19 1/cm too high. Absorption is
    that of the derivative of the dipole, so that it is too strong by (w' / w)^2, there by a hundredth, which
    is taken off too.

    Args:
        spectrum: Of the dynamics, with the harmonic quantum correction.
        timestep_fs: Its time step in fs.

    Returns:
        The spectrum on an even grid of the same spacing.
    """
    half = np.pi * SPEED_OF_LIGHT_CM_PER_FS * timestep_fs
    seen = half * spectrum.wavenumbers < 1.3  # at 0.5 pi dynamics explode
    phase = half * spectrum.wavenumbers[seen]
    true = np.sin(phase) / half
    grid = spectrum.wavenumbers[spectrum.wavenumbers <= true[-1]]
    stretch = np.cos(phase)  # d true / d seen
    weight = np.sinc(phase / np.pi) ** 2 / stretch
    blocks = [np.interp(grid, true, block[seen] * weight) for block in spectrum.blocks]
    return Spectrum(grid, np.array(blocks), spectrum.resolution)


def write_table(path: str | os.PathLike[str], spectrum: Spectrum) -> None:
    """Writes a spectrum as CSV.

    Args:
        path: File to write.
        spectrum: The spectrum.

    Raises:
        FileExistsError: The file exists.
    """
    columns = np.column_stack([spectrum.wavenumbers, spectrum.absorption, spectrum.error])
    header = "wavenumber_per_cm,absorption_km_per_mol_cm,standard_error"
    with new_file(path) as partial:
        np.savetxt(partial, columns, delimiter=",", header=header, comments="", fmt="%.6e")
