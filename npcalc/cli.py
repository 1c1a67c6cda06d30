"""The command line: parse, call one function, print."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ._version import __version__

app = typer.Typer(
    help="Molecular dynamics, dipoles and infrared spectra with neural-polarization potentials.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PotentialOption = Annotated[str, typer.Option("--potential", "-p", help="Bundled name or file.")]
StructureArgument = Annotated[
    str, typer.Argument(help="Structure file, or a name such as ethanol.")
]
CompileOption = Annotated[
    bool | None, typer.Option(help="Compile the potential; by default where the run is long.")
]
ThreadsOption = Annotated[
    int, typer.Option(help="CPU threads; more than one pays from some hundred atoms on.", min=1)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]

LONG_RUN = 20000
"""Steps from which compiling a potential pays."""


class Ensemble(str, Enum):
    """Choices of --ensemble."""

    langevin = "langevin"
    nve = "nve"


def _use_threads(number: int) -> None:
    """Sets the threads of this process; small molecules are fastest on one."""
    import torch

    torch.set_num_threads(number)


@contextmanager
def _errors() -> Iterator[None]:
    """Turns what a user can mend into one line on standard error and exit code 1."""
    from .md import MDExploded, NotConverged

    try:
        yield
    except (ValueError, OSError, MDExploded, NotConverged, ImportError) as error:
        typer.echo(f"npcalc: {error}", err=True)
        raise typer.Exit(1) from None


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"npcalc: warning: {message}", file=sys.stderr)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Molecular dynamics, dipoles and infrared spectra with neural-polarization potentials."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    warnings.showwarning = _show_warning


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(
        "npcalc-demo"
    ),
    potential: PotentialOption = "ethanol-fast",
    picoseconds: Annotated[float, typer.Option(help="Length of the trajectory.")] = 15.0,
    reference: Annotated[Path | None, typer.Option(help="Measured spectrum, JCAMP-DX.")] = None,
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
) -> None:
    """Ethanol: relaxation, Langevin dynamics at 300 K, infrared spectrum, plot and report."""
    from .demo import run_demo

    _use_threads(threads)
    with _errors():
        typer.echo(run_demo(output, potential, picoseconds, reference, progress=not quiet))


@app.command()
def md(
    structure: StructureArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Trajectory to write.")] = Path(
        "md.h5"
    ),
    potential: PotentialOption = "ethanol",
    steps: Annotated[int, typer.Option(help="Steps of the whole run.", min=1)] = 20000,
    ensemble: Annotated[Ensemble, typer.Option(help="Ensemble.")] = Ensemble.langevin,
    timestep: Annotated[float, typer.Option(help="Time step in fs.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Temperature in K.")] = 300.0,
    friction: Annotated[float, typer.Option(help="Langevin friction in 1/ps.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of velocities and thermostat.")] = 0,
    stride: Annotated[
        list[str] | None, typer.Option(help="QUANTITY=STEPS, repeatable; 0 leaves it out.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the trajectory.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    compile: CompileOption = None,
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
) -> None:
    """Molecular dynamics to an HDF5 trajectory with dipoles."""
    from . import NPCalculator
    from .md import MDSettings, read_structure, run_md

    _use_threads(threads)
    with _errors():
        calculator = NPCalculator(
            potential, device=device, compile=steps >= LONG_RUN if compile is None else compile
        )
        settings = MDSettings(
            ensemble=ensemble.value,
            timestep_fs=timestep,
            temperature_K=temperature,
            friction_per_ps=friction,
            seed=seed,
            strides=_strides(stride, calculator),
        )
        atoms = read_structure(structure)
        last = run_md(
            atoms,
            calculator,
            steps,
            output,
            None if resume else settings,
            resume,
            progress=not quiet,
        )
        typer.echo(
            f"{output}: {steps} steps, {last.get_temperature():.0f} K, "
            f"{last.get_potential_energy():.4f} eV at the end"
        )


def _strides(given: list[str] | None, calculator: object) -> dict[str, int]:
    """Strides of the defaults with the given ones instead."""
    from .md import MDSettings
    from .md.trajectory import QUANTITIES

    strides = dict(MDSettings().strides)
    if "dipole" not in calculator.implemented_properties:  # type: ignore[attr-defined]
        strides.pop("dipole")
    for item in given or []:
        name, _, value = item.partition("=")
        if name not in QUANTITIES or not value.isdigit():
            raise ValueError(
                f"--stride {item}: expected QUANTITY=STEPS with one of {', '.join(QUANTITIES)}"
            )
        strides[name] = int(value)
    return {name: value for name, value in strides.items() if value > 0}


@app.command()
def relax(
    structure: StructureArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "relaxed.xyz"
    ),
    potential: PotentialOption = "ethanol",
    fmax: Annotated[float, typer.Option(help="Largest force in eV/A.")] = 1e-3,
    steps: Annotated[int, typer.Option(help="Steps to give up after.", min=1)] = 500,
    cell: Annotated[bool, typer.Option(help="Relax the cell too.")] = False,
    threads: ThreadsOption = 1,
) -> None:
    """Relax a structure."""
    from . import NPCalculator
    from .md import read_structure
    from .md import relax as relax_atoms
    from .md.structures import write_structure

    _use_threads(threads)
    with _errors():
        atoms = read_structure(structure)
        atoms.calc = NPCalculator(potential)
        taken = relax_atoms(atoms, fmax, steps, cell)
        write_structure(output, atoms)
        typer.echo(f"{output}: {atoms.get_potential_energy():.4f} eV after {taken} steps")


@app.command()
def ir(
    trajectory: Annotated[Path, typer.Argument(help="Trajectory with dipoles.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Table (.csv); a .png goes beside it.")
    ] = Path("ir.csv"),
    skip: Annotated[float, typer.Option(help="Picoseconds to leave out at the start.")] = 0.0,
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
    from .spectra import plot_spectrum, read_jcamp
    from .spectra.trajectory import trajectory_spectrum, write_table

    with _errors():
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
        float, typer.Option(help="Relax to this force in eV/A first; 0 does not.")
    ] = 1e-4,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Plot to write.")] = None,
) -> None:
    """Harmonic frequencies and infrared intensities."""
    from . import NPCalculator
    from .md import read_structure
    from .md import relax as relax_atoms
    from .spectra import calculate_harmonic_spectrum, plot_spectrum

    with _errors():
        atoms = read_structure(structure)
        atoms.calc = NPCalculator(potential, dtype="float64")
        if fmax > 0.0:
            relax_atoms(atoms, fmax)
        lines = calculate_harmonic_spectrum(atoms)
        typer.echo("   1/cm    km/mol")
        for frequency, intensity in zip(lines.frequencies, lines.intensities, strict=True):
            typer.echo(f"{frequency:8.1f} {intensity:8.1f}")
        if output is not None:
            plot_spectrum(output, None, lines)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Configuration, YAML.")],
    quiet: QuietOption = False,
) -> None:
    """Train a potential, or go on with an interrupted run."""
    from .train import train as run_training

    with _errors():
        path = run_training(config, progress=not quiet)
        if path is not None:
            typer.echo(f"{path}")


@app.command()
def info(
    potential: Annotated[str | None, typer.Argument(help="Bundled name or file.")] = None,
) -> None:
    """List the bundled potentials, or show the card of one."""
    from .potential import bundled_potentials
    from .potential.archive import read_archive
    from .potential.registry import find_potential

    with _errors():
        if potential is not None:
            typer.echo(read_archive(find_potential(potential))[0].model_dump_json(indent=2))
            return
        for name, path in bundled_potentials().items():
            card = read_archive(path)[0]
            typer.echo(f"{name}: {card.description} ({', '.join(card.properties)})")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help=".npz in the rMD17 layout, extended XYZ, ...")],
    target: Annotated[Path, typer.Argument(help="Data set to write, .h5.")],
    key: Annotated[
        list[str] | None, typer.Option(help="LABEL=KEY in the file, repeatable.")
    ] = None,
) -> None:
    """Convert reference data to npcalc's HDF5."""
    from .data import read_data

    with _errors():
        keys = dict(item.split("=", 1) for item in key) if key else None
        data = read_data(source, keys)
        data.save(target)
        typer.echo(f"{target}: {len(data)} structures with {', '.join(data.labels) or 'no labels'}")


if __name__ == "__main__":
    app()
