"""Commands that move atoms, and what they leave."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    CompileOption,
    PotentialOption,
    QuietOption,
    StructureArgument,
    ThreadsOption,
    app,
    errors,
    must_be_free,
    use_threads,
)

if TYPE_CHECKING:
    from ase import Atoms

STRUCTURE_FILES = (".xyz", ".extxyz", ".cif", ".traj", ".json", ".vasp", ".pdb")
"""Endings of files for one structure, of the formats of ASE that keep a cell or need none."""

FRAME_FILES = (".xyz", ".extxyz", ".traj", ".pdb")
"""Endings of files for many structures."""

DEFAULT_STEPS = 100_000
"""Steps of a run where nothing else is said."""

LONG_RUN = 200_000
"""Steps times atoms from which compiling a potential pays."""


class Ensemble(str, Enum):
    """Choices of --ensemble."""

    langevin = "langevin"
    nve = "nve"


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(
        "npcalc-demo"
    ),
    potential: PotentialOption = "ethanol-fast",
    picoseconds: Annotated[
        float, typer.Option(help="Length of the trajectory, 8 at least.")
    ] = 15.0,
    reference: Annotated[Path | None, typer.Option(help="Measured spectrum, JCAMP-DX.")] = None,
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
) -> None:
    """Ethanol: relaxation, Langevin dynamics at 300 K, infrared spectrum, plot and report."""
    from ..demo import run_demo

    use_threads(threads)
    with errors():
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
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of the whole run; 100000 by default, with --resume those asked for before.",
            min=1,
        ),
    ] = None,
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
        int | None,
        typer.Option(
            help="Seed of velocities and thermostat; 0 by default. A seed or a temperature that is "
            "given replaces velocities of the file."
        ),
    ] = None,
    stride: Annotated[
        list[str] | None, typer.Option(help="QUANTITY=STEPS, repeatable; 0 leaves it out.")
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            help="Steps after which the state is saved; 2000 by default, fewer above 1000 atoms.",
            min=1,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the trajectory, with its settings and potential.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto; auto by default.")] = None,
    compile: CompileOption = None,
    threads: ThreadsOption = 1,
    quiet: QuietOption = False,
) -> None:
    """Molecular dynamics to an HDF5 trajectory with dipoles."""
    from .. import NPCalculator
    from ..md import MDSettings, Trajectory, read_structure, run_md
    from ..md.dynamics import has_velocities

    use_threads(threads)
    with errors():
        settings: dict[str, Any] = MDSettings().model_dump()
        made_with: dict[str, Any] = {}
        if resume:
            with Trajectory(output) as trajectory:
                settings, made_with = trajectory.settings, trajectory.calculator
                atoms, wanted = trajectory.start, trajectory.steps_wanted
            steps = steps or wanted
            if steps is None:
                raise ValueError(f"{str(output)!r} does not know its length: give --steps")
            _check_same_atoms(structure, atoms, output)
        else:
            must_be_free(
                output,
                endings=(".h5", ".hdf5"),
                instead="go on with that run (--resume), or give another name",
            )
            atoms = read_structure(structure)
            if temperature is not None or seed is not None:
                atoms.arrays.pop("momenta", None)
            elif has_velocities(atoms):
                typer.echo(f"velocities are those in {structure}", err=True)
        steps = steps or DEFAULT_STEPS
        if compile is None:
            compile = made_with.get("compile", steps * len(atoms) >= LONG_RUN)
        calculator = NPCalculator(
            potential or made_with.get("source") or made_with.get("potential", "ethanol"),
            device=device or made_with.get("device") or "auto",
            dtype=made_with.get("dtype"),
            compile=compile,
        )
        given = {
            "ensemble": ensemble.value if ensemble else None,
            "timestep_fs": timestep,
            "temperature_K": temperature,
            "friction_per_ps": friction,
            "seed": seed,
            "block": block,
        }
        settings |= {name: value for name, value in given.items() if value is not None}
        if settings["ensemble"] == "nve" and friction is not None:
            raise ValueError(
                "--friction is that of Langevin dynamics: leave it out with --ensemble nve"
            )
        has_dipole = "dipole" in calculator.implemented_properties
        settings["strides"] = _strides(settings["strides"], stride, has_dipole)
        model = MDSettings.model_validate(settings)
        try:
            last = run_md(atoms, calculator, steps, output, model, resume, progress=not quiet)
        except KeyboardInterrupt:
            if output.exists():
                typer.echo(
                    "npcalc: stopped; to go on from the last complete block, give the same command "
                    "with --resume",
                    err=True,
                )
            raise typer.Exit(130) from None
        typer.echo(
            f"{output}: {steps} steps, {last.info['temperature_K']:.0f} K, "
            f"{last.get_potential_energy():.4f} eV at the end"
        )


def _check_same_atoms(structure: str, stored: "Atoms", output: Path) -> None:
    """Refuses to resume a run of other atoms than those of the structure given.

    Raises:
        ValueError: They are others.
    """
    from ..md import read_structure

    try:
        given = read_structure(structure)
    except (OSError, ValueError):
        return  # the file may have gone since the run began
    if given.numbers.tolist() != stored.numbers.tolist():
        raise ValueError(
            f"{str(output)!r} is a run of {stored.get_chemical_formula()}, {structure} is "
            f"{given.get_chemical_formula()}: give the structure that it began with"
        )


def _strides(defaults: dict[str, int], given: list[str] | None, has_dipole: bool) -> dict[str, int]:
    """Strides of the defaults with the given ones instead."""
    from ..md.trajectory import QUANTITIES

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
def relax(
    structure: StructureArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "relaxed.xyz"
    ),
    potential: PotentialOption = "ethanol",
    fmax: Annotated[float, typer.Option(help="Largest force in eV/A.", min=0.0)] = 1e-3,
    steps: Annotated[int, typer.Option(help="Steps to give up after.", min=1)] = 500,
    cell: Annotated[bool, typer.Option(help="Relax the cell too.")] = False,
    threads: ThreadsOption = 1,
) -> None:
    """Relax a structure."""
    from .. import NPCalculator
    from ..md import NotConverged, read_structure
    from ..md import relax as relax_atoms
    from ..md.structures import write_structure

    use_threads(threads)
    with errors():
        must_be_free(output, endings=STRUCTURE_FILES)
        atoms = read_structure(structure)
        if output.suffix.lower() == ".vasp" and atoms.cell.rank < 3:
            raise ValueError(
                f"{str(output)!r}: VASP's format needs a cell; take .xyz for a molecule"
            )
        atoms.arrays.pop("momenta", None)  # those of the file are not of the relaxed structure
        atoms.calc = NPCalculator(potential)
        try:
            taken = relax_atoms(atoms, fmax, steps, cell)
        except NotConverged as error:
            write_structure(output, atoms)
            raise NotConverged(f"{error}; the structure reached is in {output}") from None
        write_structure(output, atoms)
        typer.echo(f"{output}: {atoms.get_potential_energy():.4f} eV after {taken} steps")


@app.command()
def frames(
    trajectory: Annotated[Path, typer.Argument(help="Trajectory of npcalc md.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "frames.xyz"
    ),
    every: Annotated[int, typer.Option(help="Take each so many of the frames.", min=1)] = 1,
) -> None:
    """Structures of a trajectory for viewers and other programs."""
    from ..md import Trajectory
    from ..md.structures import write_structure

    with errors():
        must_be_free(output, endings=FRAME_FILES)
        with Trajectory(trajectory) as stored:
            atoms = stored.frames(every)
        write_structure(output, atoms)
        typer.echo(f"{output}: {len(atoms)} structures")
