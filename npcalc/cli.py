"""The command line: parse, call one function, print."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

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
    int, typer.Option(help="CPU threads; more than one pays from a hundred atoms on.", min=1)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]

STRUCTURE_FILES = (".xyz", ".extxyz", ".cif", ".traj", ".json", ".vasp", ".pdb")
"""Endings of files for one structure, of the formats of ASE that keep a cell or need none."""

LONG_RUN = 200_000
"""Steps times atoms from which compiling a potential pays."""


class Ensemble(str, Enum):
    """Choices of --ensemble."""

    langevin = "langevin"
    nve = "nve"


def _use_threads(number: int) -> None:
    """Sets the threads of this process; small molecules are fastest on one."""
    import torch

    torch.set_num_threads(number)


@contextmanager
def _errors(*more: type[Exception]) -> Iterator[None]:
    """Turns what a user can mend into one line on standard error and exit code 1."""
    from ase.calculators.calculator import PropertyNotImplementedError
    from pydantic import ValidationError

    from .md import MDExploded, NotConverged

    mendable = (ValueError, OSError, ImportError, PropertyNotImplementedError)
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        typer.echo(f"npcalc: {where}: {first['msg']}, got {first['input']!r}", err=True)
        raise typer.Exit(1) from None
    except (*mendable, MDExploded, NotConverged, *more) as error:
        typer.echo(f"npcalc: {error}", err=True)
        raise typer.Exit(1) from None


def _must_be_free(*paths: Path | None, endings: tuple[str, ...] = ()) -> None:
    """Finds out before a long computation that its result could not be written.

    Args:
        paths: Files to write.
        endings: What the name of the first may end in, anything if empty.
    """
    for path in paths:
        if path is not None and path.exists():
            raise FileExistsError(f"{str(path)!r} exists: give another --output, or remove it")
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {str(path.parent)!r}: make it first")
    first = paths[0]
    if endings and first is not None and first.suffix.lower() not in endings:
        raise ValueError(f"{str(first)!r}: expected a name that ends in {' or '.join(endings)}")


def _pairs(option: str, items: list[str] | None) -> dict[str, str] | None:
    """Values of a repeatable option NAME=VALUE."""
    for item in items or []:
        if not all(item.partition("=")):
            raise ValueError(f"{option} {item}: expected NAME=VALUE")
    return dict(item.split("=", 1) for item in items) if items else None


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
    potential: Annotated[
        str | None,
        typer.Option("--potential", "-p", help="Bundled name or file; ethanol by default."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the whole run.", min=1)] = 100_000,
    ensemble: Annotated[
        Ensemble | None, typer.Option(help="Ensemble; langevin by default.")
    ] = None,
    timestep: Annotated[float | None, typer.Option(help="Time step in fs; 0.5 by default.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature in K; 300 by default.")
    ] = None,
    friction: Annotated[
        float | None, typer.Option(help="Langevin friction in 1/ps; 1 by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of velocities and thermostat; 0 by default.")
    ] = None,
    stride: Annotated[
        list[str] | None, typer.Option(help="QUANTITY=STEPS, repeatable; 0 leaves it out.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the trajectory, with its settings and potential.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    compile: CompileOption = None,
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
) -> None:
    """Molecular dynamics to an HDF5 trajectory with dipoles."""
    from . import NPCalculator
    from .md import MDSettings, Trajectory, read_structure, run_md

    _use_threads(threads)
    with _errors():
        settings: dict[str, Any] = MDSettings().model_dump()
        made_with: dict[str, Any] = {}
        if resume:
            with Trajectory(output) as trajectory:
                settings, made_with = trajectory.settings, trajectory.calculator
        else:
            _must_be_free(output, endings=(".h5", ".hdf5"))
        atoms = read_structure(structure)
        if compile is None:
            compile = made_with.get("compile", steps * len(atoms) >= LONG_RUN)
        calculator = NPCalculator(
            potential or made_with.get("potential", "ethanol"),
            device=device,
            dtype=made_with.get("dtype"),
            compile=compile,
        )
        given = {
            "ensemble": ensemble.value if ensemble else None,
            "timestep_fs": timestep,
            "temperature_K": temperature,
            "friction_per_ps": friction,
            "seed": seed,
        }
        settings |= {name: value for name, value in given.items() if value is not None}
        has_dipole = "dipole" in calculator.implemented_properties
        settings["strides"] = _strides(settings["strides"], stride, has_dipole)
        last = run_md(
            atoms,
            calculator,
            steps,
            output,
            MDSettings.model_validate(settings),
            resume,
            progress=not quiet,
        )
        typer.echo(
            f"{output}: {steps} steps, {last.info['temperature_K']:.0f} K, "
            f"{last.get_potential_energy():.4f} eV at the end"
        )


def _strides(defaults: dict[str, int], given: list[str] | None, has_dipole: bool) -> dict[str, int]:
    """Strides of the defaults with the given ones instead."""
    from .md.trajectory import QUANTITIES

    strides = dict(defaults)
    if not has_dipole:
        strides.pop("dipole", None)
    for item in given or []:
        name, _, value = item.partition("=")
        if name not in QUANTITIES or not value.isdigit():
            raise ValueError(
                f"--stride {item}: expected QUANTITY=STEPS with one of {', '.join(QUANTITIES)}"
            )
        strides[name] = int(value)
    return {name: value for name, value in strides.items() if value > 0}


@app.command()
def evaluate(
    structures: Annotated[Path, typer.Argument(help="Structures, any format of ASE.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ.")] = Path(
        "evaluated.xyz"
    ),
    potential: PotentialOption = "ethanol",
    compile: Annotated[bool, typer.Option(help="Compile the potential.")] = False,
    threads: ThreadsOption = 1,
) -> None:
    """Energies, forces, dipoles and other results of many structures."""
    from . import evaluate as evaluate_structures
    from . import load_potential
    from .md.structures import read_structures, write_structure
    from .results import annotated

    _use_threads(threads)
    with _errors():
        _must_be_free(output, endings=(".xyz", ".extxyz"))
        frames = read_structures(structures)
        results = evaluate_structures(load_potential(potential), frames, compile)
        write_structure(output, annotated(frames, results))
        typer.echo(f"{output}: {len(frames)} structures")


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
    from .md import NotConverged, read_structure
    from .md import relax as relax_atoms
    from .md.structures import write_structure

    _use_threads(threads)
    with _errors():
        _must_be_free(output, endings=STRUCTURE_FILES)
        atoms = read_structure(structure)
        atoms.calc = NPCalculator(potential)
        try:
            taken = relax_atoms(atoms, fmax, steps, cell)
        except NotConverged as error:
            write_structure(output, atoms)
            raise NotConverged(f"{error}; the structure reached is in {output}") from None
        write_structure(output, atoms)
        typer.echo(f"{output}: {atoms.get_potential_energy():.4f} eV after {taken} steps")


@app.command()
def ir(
    trajectory: Annotated[Path, typer.Argument(help="Trajectory with dipoles.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Table (.csv); a .png goes beside it.")
    ] = Path("ir.csv"),
    skip: Annotated[
        float, typer.Option(help="Picoseconds to leave out at the start, while the run warms up.")
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
    from .spectra import plot_spectrum, read_jcamp
    from .spectra.trajectory import trajectory_spectrum, write_table

    with _errors():
        _must_be_free(output, output.with_suffix(".png"), endings=(".csv", ".txt"))
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
        _must_be_free(output, endings=(".png", ".pdf", ".svg"))
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
    from .train import TrainingDiverged
    from .train import train as run_training

    with _errors(TrainingDiverged):
        path = run_training(config, progress=not quiet)
        if path is not None:
            typer.echo(f"{path}")


@app.command(name="compile")
def compile_potential(
    potential: Annotated[str, typer.Argument(help="Bundled name or file.")] = "ethanol",
) -> None:
    """Compile a potential for this machine, once for structures of all sizes."""
    from .potential import load_potential

    with _errors():
        if not load_potential(potential).compile():
            raise typer.Exit(1)
        typer.echo(f"{potential}: compiled")


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
    unit: Annotated[
        list[str] | None,
        typer.Option(help="energy=UNIT, length=UNIT or dipole=UNIT of the file, repeatable."),
    ] = None,
    molecular: Annotated[
        list[str] | None,
        typer.Option("--property", help="NAME=UNIT of a molecular property, repeatable."),
    ] = None,
) -> None:
    """Convert reference data to npcalc's HDF5."""
    from .data import read_data

    with _errors():
        _must_be_free(target, endings=(".h5", ".hdf5"))
        properties = _pairs("--property", molecular)
        data = read_data(source, _pairs("--key", key), _pairs("--unit", unit), properties)
        for name in properties or {}:
            data.require(name)
        data.save(target)
        typer.echo(f"{target}: {len(data)} structures with {', '.join(data.labels) or 'no labels'}")


if __name__ == "__main__":
    app()
