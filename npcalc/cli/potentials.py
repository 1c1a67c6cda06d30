"""Commands for potentials, their data and many structures at once."""

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    QuietOption,
    app,
    errors,
    must_be_free,
    pairs,
    use_threads,
)

if TYPE_CHECKING:
    from ase import Atoms


def _show_keys(wanted: bool) -> None:
    if wanted:
        from ..train.reference import reference

        with errors():
            typer.echo(reference())
        raise typer.Exit


@app.command()
def train(
    config: Annotated[
        Path,
        typer.Argument(
            help="Configuration, YAML. Paths of data in it are relative to its folder, `output` to the "
            "working directory."
        ),
    ],
    keys: Annotated[
        bool,
        typer.Option(
            "--keys",
            help="Show all keys of configurations and exit.",
            callback=_show_keys,
            is_eager=True,
        ),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Train a potential, or go on with an interrupted run."""
    from ..potential.archive import read_archive
    from ..train import TrainingDiverged
    from ..train import train as run_training

    with errors(TrainingDiverged):
        path = run_training(config, progress=not quiet)
        if path is not None:
            typer.echo(f"{path}")
            for line in read_archive(path)[0].error_lines():
                typer.echo(line)


@app.command(name="compile")
def compile_potential(
    potential: Annotated[str, typer.Argument(help="Bundled name or file.")] = "ethanol",
) -> None:
    """Compile a potential for this machine, once for structures of all sizes."""
    from ..potential import load_potential

    with errors():
        if not load_potential(potential).compile():
            raise typer.Exit(1)
        typer.echo(f"{potential}: compiled")


@app.command()
def info(
    potential: Annotated[str | None, typer.Argument(help="Bundled name or file.")] = None,
) -> None:
    """List the bundled potentials, or show the card of one."""
    from ..potential import bundled_potentials
    from ..potential.archive import read_archive
    from ..potential.registry import find_potential

    with errors():
        if potential is not None:
            typer.echo(read_archive(find_potential(potential))[0].model_dump_json(indent=2))
            return
        for name, path in bundled_potentials().items():
            card = read_archive(path)[0]
            typer.echo(f"{name}: {card.description} ({', '.join(card.properties)})")


@app.command()
def evaluate(
    structures: Annotated[Path, typer.Argument(help="Structures, any format of ASE.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ.")] = Path(
        "evaluated.xyz"
    ),
    potential: Annotated[
        list[str] | None,
        typer.Option(
            "--potential",
            "-p",
            help="Bundled name or file, ethanol by default. Of several, means are written, and by how much "
            "they differ: forces_deviation of each atom and max_force_deviation in eV/A.",
        ),
    ] = None,
    compile: Annotated[bool, typer.Option(help="Compile the potential.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads, a batch for each; by default torch's.", min=1)
    ] = None,
) -> None:
    """Energies, forces, dipoles and other results of many structures, and errors where these have labels."""
    from .. import evaluate as evaluate_structures
    from .. import evaluate_committee, load_potential
    from ..md.structures import read_structures, write_structure
    from ..results import annotated

    if threads is not None:
        use_threads(threads)
    with errors():
        must_be_free(output, endings=(".xyz", ".extxyz"))
        frames = read_structures(structures)
        members = [load_potential(name) for name in potential or ["ethanol"]]
        if len(members) == 1:
            results = evaluate_structures(members[0], frames, compile)
        else:
            results = evaluate_committee(members, frames, compile)
        write_structure(output, annotated(frames, results))
        typer.echo(f"{output}: {len(frames)} structures")
        known = _label_errors(frames, results)
        if known:
            typer.echo(
                f"mean absolute errors against the labels in {structures}: {', '.join(known)}"
            )
        deviations = [r["max_force_deviation"] for r in results if "max_force_deviation" in r]
        if deviations:
            largest = max(range(len(deviations)), key=deviations.__getitem__)
            typer.echo(
                f"largest deviation of a force: median {median(deviations):.4f} eV/A, most "
                f"{deviations[largest]:.4f} in structure {largest}"
            )


def _label_errors(structures: "list[Atoms]", results: list[dict[str, Any]]) -> list[str]:
    """Mean absolute errors against the labels that structures carry, forces and dipoles by component.

    Args:
        structures: The structures, with energies (eV), forces (eV/A) and dipoles (e*A) under ASE's names.
        results: What `evaluate` found for them.

    Returns:
        A text for each kind of label that some of them have; none where labels make no sense.
    """
    import numpy as np

    from ..conventions import FIELDS
    from ..data import from_atoms

    try:
        labels = from_atoms(structures).labels
    except ValueError:
        return []
    texts = []
    for name in ("energy", "forces", "dipole"):
        label = labels.get(name)
        if label is None or name not in results[0]:
            continue
        there = [r[name] for r, present in zip(results, label.present, strict=True) if present]
        found = np.concatenate([np.ravel(value) for value in there])
        wrong = np.abs(found - label.values[~np.isnan(label.values)]).mean()
        texts.append(f"{name} {wrong:.4g} {FIELDS[name].unit}")
    return texts


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help=".npz in the rMD17 layout, extended XYZ, ...")],
    target: Annotated[Path, typer.Argument(help="Data set to write, .h5.")],
    key: Annotated[
        list[str] | None, typer.Option(help="LABEL=KEY in the file, repeatable.")
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(
            help="energy=UNIT, length=UNIT, dipole=UNIT or forces=ENERGY/LENGTH of the file, repeatable."
        ),
    ] = None,
    molecular: Annotated[
        list[str] | None,
        typer.Option("--property", help="NAME=UNIT of a molecular property, repeatable."),
    ] = None,
) -> None:
    """Convert reference data to npcalc's HDF5."""
    from ..data import read_data

    with errors():
        must_be_free(target, endings=(".h5", ".hdf5"))
        properties = pairs("--property", molecular)
        data = read_data(source, pairs("--key", key), pairs("--unit", unit), properties)
        for name in properties or {}:
            data.require(name)
        data.save(target)
        counts = {name: int(label.present.sum()) for name, label in data.labels.items()}
        named = [k if n == len(data) else f"{k} ({n} of them)" for k, n in counts.items()]
        typer.echo(f"{target}: {len(data)} structures with {', '.join(named) or 'no labels'}")
