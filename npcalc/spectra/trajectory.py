"""The spectrum of a trajectory file, and its table."""

import os

import numpy as np

from ..files import new_file
from ..md import Trajectory
from .infrared import Spectrum, infrared_spectrum


def trajectory_spectrum(
    path: str | os.PathLike[str],
    skip_ps: float = 0.0,
    temperature_K: float | None = None,
    resolution: float = 10.0,
    window: str = "hann",
    correction: str = "harmonic",
) -> Spectrum:
    """Infrared spectrum of a trajectory with dipoles.

    Args:
        path: Trajectory.
        skip_ps: Time to leave out at the start, in ps.
        temperature_K: Temperature; by default that of the thermostat, or the mean kinetic one of a
            run without, after ``skip_ps``.
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
        if temperature_K is None:
            settings = trajectory.settings
            temperature_K = float(settings["temperature_K"])
            if settings["ensemble"] == "nve":
                # The temperature of the settings is that of the initial velocities alone.
                if "temperature" not in trajectory.quantities:
                    raise ValueError(
                        f"{os.fspath(path)!r} is an NVE run without recorded temperature, which the "
                        f"intensities are proportional to: give temperature_K (--temperature)"
                    )
                late = trajectory.times_fs("temperature") >= 1000.0 * skip_ps
                temperature_K = float(trajectory.values("temperature")[late].mean())
    try:
        return infrared_spectrum(dipoles, interval, temperature_K, resolution, window, correction)
    except ValueError as error:
        left = f"{os.fspath(path)!r} without its first {skip_ps} ps" if skip_ps else os.fspath(path)
        raise ValueError(f"{left}: {error}") from None


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
