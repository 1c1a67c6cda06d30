"""Commands for infrared spectra."""

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    PotentialOption,
    StructureArgument,
    app,
    errors,
    must_be_free,
)


@app.command()
def ir(
    trajectory: Annotated[Path, typer.Argument(help="Trajectory with dipoles.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Table (.csv); a .png goes beside it.")
    ] = Path("ir.csv"),
    skip: Annotated[
        float,
        typer.Option(
            help="Picoseconds to leave out at the start, while the run warms up.", min=0.0
        ),
    ] = 2.0,
    temperature: Annotated[
        float | None, typer.Option(help="K; by default that of the run.")
    ] = None,
    resolution: Annotated[float, typer.Option(help="Width of a sharp line in 1/cm.")] = 10.0,
    window: Annotated[str, typer.Option(help="Window of scipy.signal.")] = "hann",
    correction: Annotated[
        str, typer.Option(help="harmonic, none, standard or schofield.")
    ] = "harmonic",
    reference: Annotated[Path | None, typer.Option(help="Measured spectrum, JCAMP-DX.")] = None,
) -> None:
    """Infrared spectrum of a trajectory, in km/mol per 1/cm."""
    from ..spectra import plot_spectrum, read_jcamp
    from ..spectra.trajectory import trajectory_spectrum, write_table

    with errors():
        must_be_free(output, output.with_suffix(".png"), endings=(".csv", ".txt"))
        measured = read_jcamp(reference) if reference else None
        spectrum = trajectory_spectrum(
            trajectory, skip, temperature, resolution, window, correction
        )
        write_table(output, spectrum)
        plot_spectrum(output.with_suffix(".png"), spectrum, reference=measured)
        typer.echo(
            f"{output}, {output.with_suffix('.png')}: resolution {spectrum.resolution:.1f} 1/cm"
        )


@app.command()
def harmonic(
    structure: StructureArgument,
    potential: PotentialOption = "ethanol",
    fmax: Annotated[
        float, typer.Option(help="Relax to this force in eV/A first; 0 does not.", min=0.0)
    ] = 1e-4,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Plot to write.")] = None,
) -> None:
    """Harmonic frequencies, imaginary ones below zero, and infrared intensities where there are dipoles."""
    import numpy as np

    from .. import NPCalculator
    from ..md import read_structure
    from ..md import relax as relax_atoms
    from ..spectra import calculate_harmonic_spectrum, plot_spectrum

    with errors():
        must_be_free(output, endings=(".png", ".pdf", ".svg"))
        atoms = read_structure(structure)
        atoms.calc = NPCalculator(potential, dtype="float64")
        if fmax > 0.0:
            relax_atoms(atoms, fmax)
        lines = calculate_harmonic_spectrum(atoms)
        no_dipole = np.isnan(lines.intensities).any()
        typer.echo("   1/cm" if no_dipole else "   1/cm    km/mol")
        for frequency, intensity in zip(lines.frequencies, lines.intensities, strict=True):
            typer.echo(f"{frequency:8.1f}" + ("" if no_dipole else f" {intensity:8.1f}"))
        if output is not None:
            if len(lines.frequencies) == 0:
                raise ValueError(f"{structure} has no modes to plot")
            plot_spectrum(output, None, lines)
