"""The demonstration: from a molecule's name to its infrared spectrum."""

import os
import time
from pathlib import Path

from .calculator import NPCalculator
from .conventions import E_ANGSTROM_PER_DEBYE
from .md import MDSettings, Trajectory, read_structure, relax, run_md
from .md.structures import write_structure
from .potential import load_potential
from .spectra import calculate_harmonic_spectrum, plot_spectrum, read_jcamp
from .spectra.trajectory import trajectory_spectrum, write_table

EQUILIBRATION_PS = 2.0
SHORTEST_PS = 8.0


def run_demo(
    output: str | os.PathLike[str],
    potential: str = "ethanol-fast",
    picoseconds: float = 15.0,
    reference: str | os.PathLike[str] | None = None,
    compile: bool = True,
    progress: bool = True,
) -> str:
    """Relaxes ethanol, runs Langevin dynamics at 300 K and computes the infrared spectrum.

    Args:
        output: Folder to make; it receives ``relaxed.xyz``, ``trajectory.h5``, ``ir.csv`` and
            ``ir.png``.
        potential: Potential to use.
        picoseconds: Length of the dynamics in ps, the first 2 ps being equilibration.
        reference: Measured spectrum in JCAMP-DX to draw as well.
        compile: Whether to compile the potential first.
        progress: Whether to show a bar.

    Returns:
        A short report.

    Raises:
        FileExistsError: The folder exists and is not empty.
        ValueError: The run is too short for a spectrum.
    """
    folder = Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"{os.fspath(output)!r} exists and is not empty: give another --output"
        )
    if picoseconds < SHORTEST_PS:
        raise ValueError(
            f"{picoseconds} ps are too short for a spectrum: give {SHORTEST_PS} ps or more"
        )
    measured = read_jcamp(reference) if reference is not None else None
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()

    atoms = read_structure("ethanol")
    atoms.calc = NPCalculator(load_potential(potential, dtype="float64"))
    relax(atoms, fmax=1e-4)
    write_structure(folder / "relaxed.xyz", atoms)
    dipole = float((atoms.get_dipole_moment() ** 2).sum() ** 0.5)
    lines = calculate_harmonic_spectrum(atoms)

    calculator = NPCalculator(potential, compile=compile)
    settings = MDSettings(temperature_K=300.0, seed=1)
    n_steps = round(1000.0 * picoseconds / settings.timestep_fs)
    path = folder / "trajectory.h5"
    run_md(atoms, calculator, n_steps, path, settings, progress=progress)
    spectrum = trajectory_spectrum(path, skip_ps=EQUILIBRATION_PS, resolution=20.0)
    write_table(folder / "ir.csv", spectrum)
    plot_spectrum(folder / "ir.png", spectrum, lines, measured, f"ethanol, 300 K, {potential}")
    with Trajectory(path) as trajectory:
        temperature = trajectory.values("temperature").mean()
    rows = [
        f"ethanol with potential {potential!r}",
        f"  dipole moment       {dipole:.3f} e A = {dipole / E_ANGSTROM_PER_DEBYE:.2f} D (relaxed)",
        f"  dynamics            {picoseconds:g} ps, mean temperature {temperature:.0f} K",
        "  band (1/cm)         MD, 300 K (km/mol)   harmonic (km/mol)",
    ]
    for low, high in ((700, 1180), (1180, 1600), (2700, 3300), (3500, 4000)):
        value, error = spectrum.band(low, high)
        inside = (lines.frequencies >= low) & (lines.frequencies < high)
        sum_of_lines = lines.intensities[inside].sum()
        rows.append(
            f"    {low:4d} - {high:4d}       {value:7.1f} +- {error:<7.1f}   {sum_of_lines:10.1f}"
        )
    rows.append(f"  files               {folder}/: relaxed.xyz trajectory.h5 ir.csv ir.png")
    rows.append(f"  time                {time.perf_counter() - began:.0f} s")
    return "\n".join(rows)
