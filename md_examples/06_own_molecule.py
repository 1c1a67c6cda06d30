"""Infrared spectrum of a molecule of one's own: label, train, see how wrong dynamics are, train on, spectrum.

    pip install tblite pyscf
    python md_examples/06_own_molecule.py CH3OH methanol
    python md_examples/06_own_molecule.py CH3OH methanol-pbe --reference md_examples/references/pbe.py

The reference is GFN2-xTB, or what a file names `calculator`: any calculator of ASE with energies, forces and
dipoles, or a function that makes one for a structure. Dynamics at 500 K by xTB visit the structures; where
the reference is slow it labels a few hundred of them one after the other, and what is labelled stays when
the script is stopped and started again. A sixth as many, of those that the trained potential visits itself,
are labelled too: they tell how wrong it is where it is used, and training goes on with them (`--rounds`
times). Where its dynamics break down, what they visited until then is labelled.
"""

import argparse
import inspect
import runpy
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.vibrations import Vibrations
from tqdm import tqdm

from npcalc import NPCalculator, evaluate
from npcalc.md import MDExploded, MDSettings, Trajectory, read_structure, relax, run_md
from npcalc.spectra import calculate_harmonic_spectrum, plot_spectrum, trajectory_spectrum
from npcalc.train import parse_config, train

LABELS = ["energy", "forces", "dipole"]

parser = argparse.ArgumentParser()
parser.add_argument("molecule", help="file of a structure, or a name such as CH3OH")
parser.add_argument("folder", type=Path)
parser.add_argument("--reference", default="gfn2", help="what labels: gfn2, or a Python file")
parser.add_argument(
    "--sampler", default="gfn2", help="what moves the atoms before there is a potential"
)
parser.add_argument("--structures", type=int, default=600)
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("--rounds", type=int, default=1, help="of training on with what it visits")
parser.add_argument("--steps", type=int, default=200000, help="of the dynamics for the spectrum")
parser.add_argument("--compare", action="store_true", help="harmonic lines of the reference, too")
options = parser.parse_args()
folder: Path = options.folder
folder.mkdir(parents=True, exist_ok=True)


def calculator_of(name: str) -> Calculator:
    """GFN2-xTB, or what a file names ``calculator``, a function of the structure or the thing itself."""
    if name != "gfn2":
        found = runpy.run_path(name)["calculator"]
        return found(molecule) if inspect.isfunction(found) else found
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", verbosity=0)


def broke_down(name: str) -> bool:
    """Whether dynamics did, which leave their last structure behind then."""
    return (folder / f"{name}-exploded.xyz").exists()


def visit(calculator: Calculator, kelvin: float, n: int, seed: int, name: str) -> list[Atoms]:
    """Structures of Langevin dynamics, one each 20 fs, without the first 0.5 ps where these are all."""
    path = folder / f"{name}.h5"
    settings = MDSettings(
        temperature_K=kelvin,
        friction_per_ps=5,
        strides={"positions": 40},
        seed=seed,
        max_temperature_K=8 * kelvin,
    )
    try:
        if not broke_down(name):
            run_md(molecule, calculator, 1000 + 40 * n, path, settings, resume=path.exists())
    except MDExploded as error:
        if calculator is sampler:
            raise
        print(error)
    with Trajectory(path) as trajectory:
        return trajectory.frames()[-n:]


def label(structures: list[Atoms], path: Path) -> list[Atoms]:
    """Adds to the file what it lacks, structure by structure."""
    done = len(ase.io.read(path, ":")) if path.exists() else 0
    todo = structures[done:]
    for atoms in tqdm(todo, desc=path.stem, unit="structure", disable=not todo):
        bare = Atoms(atoms.numbers, atoms.positions)
        try:
            # Not property by property, for which some codes would go through all of it again.
            reference.calculate(atoms, LABELS, all_changes)
            results = {key: reference.results[key] for key in LABELS}
            bare.calc = SinglePointCalculator(bare, **results)
        except RuntimeError as error:  # a bad potential leads to structures where nothing converges
            print(f"a structure of {path} stays without labels: {error}")
        ase.io.write(path, bare, append=True, format="extxyz")
    # Not what is in memory: training that goes on later has to see the same digits.
    found = [atoms for atoms in ase.io.read(path, ":") if atoms.calc is not None]
    if not found:
        raise SystemExit(f"the reference has labelled no structure of {path}")
    return found


def trained(labelled: list[Atoms], name: str, start_from: Path | None) -> Path:
    """A potential; a run that was interrupted goes on."""
    data = folder / f"{name}.xyz"
    ase.io.write(data, labelled, format="extxyz")
    host = {"name": "painn", "channels": 64, "n_layers": 3, "n_basis": 8}
    epochs = options.epochs
    begin: dict = {"model": {"host": host, "coupling": "paired_products", "n_points": 8}}
    if start_from is not None:
        epochs, begin = max(epochs // 3, 1), {"start_from": str(start_from)}
    run = {
        "name": name,
        "output": str(folder / name),
        "data": {"train": str(data), "validation": str(folder / "validation.xyz")},
        "loss": {"energy": 50.0, "forces": 1.0, "dipole": 2.0},
        "training": {
            "epochs": epochs,
            "batch_size": 5,
            "compile": "auto" if epochs >= 50 else False,
        },
        **begin,
    }
    finished = folder / name / f"{name}.pt"
    return finished if finished.exists() else Path(train(parse_config(run)))


def errors(potential: Path, labelled: list[Atoms]) -> str:
    """Mean absolute errors of forces and dipoles beside how large these are."""
    found = evaluate(potential, labelled)
    parts = []
    for key, unit in (("forces", "meV/A"), ("dipole", "me A")):
        right = 1000.0 * np.array([atoms.calc.results[key] for atoms in labelled])
        wrong = 1000.0 * np.array([one[key] for one in found]) - right
        parts.append(f"{key} {abs(wrong).mean():.1f} of {abs(right).mean():.0f} {unit}")
    return ", ".join(parts)


def wavenumbers(frequencies: np.ndarray) -> str:
    """As text."""
    return ", ".join(f"{nu:.0f}" for nu in frequencies) + " 1/cm"


molecule = read_structure(options.molecule)
sampler = calculator_of(options.sampler)
reference = calculator_of(options.reference)
if lacks := set(LABELS) - set(reference.implemented_properties):
    raise SystemExit(f"the reference {options.reference} has no {', '.join(sorted(lacks))}")
molecule.calc = sampler
relax(molecule, fmax=0.01)

n_new = max(options.structures // 6, 1)
labelled = label(visit(sampler, 500, options.structures, 0, "sampled"), folder / "sampled.xyz")
# The same in all rounds: what weights are chosen by must not have been trained on before.
ase.io.write(folder / "validation.xyz", labelled[::20], format="extxyz")
labelled = [atoms for k, atoms in enumerate(labelled) if k % 20 > 0]
previous: Path | None = None
for k in range(options.rounds + 1):
    potential = trained(labelled, f"potential{k}", previous)
    visited = visit(NPCalculator(potential), 400, n_new, k + 1, f"visited{k}")
    new = label(visited, folder / f"visited{k}.xyz")
    print(f"potential{k}, on its own dynamics at 400 K, is off by: {errors(potential, new)}")
    labelled, previous = labelled + new, potential
if broke_down(f"visited{options.rounds}"):
    raise SystemExit(f"Its dynamics break down. Go on with --rounds {options.rounds + 1}.")

molecule.calc = NPCalculator(potential, dtype="float64")
relax(molecule, fmax=1e-4)
lines = calculate_harmonic_spectrum(molecule)
calculator = NPCalculator(potential, compile=options.steps >= 20000)
settings = MDSettings(temperature_K=300, strides={"dipole": 2, "positions": 100})
path = folder / f"infrared{options.rounds}.h5"
run_md(molecule, calculator, options.steps, path, settings, resume=path.exists())
resolution = 10.0 if options.steps >= 40000 else 400.0
equilibration = options.steps * settings.timestep_fs / 8000  # ps, an eighth
spectrum = trajectory_spectrum(path, equilibration, resolution=resolution)
plot = folder / "infrared.png"
plot.unlink(missing_ok=True)  # of an earlier run
plot_spectrum(plot, spectrum, lines, title=f"{molecule.get_chemical_formula()}, 300 K")
print(f"harmonic lines   {wavenumbers(lines.frequencies)}")
if options.compare:
    molecule.calc = reference
    relax(molecule, fmax=1e-3)
    by_differences = Vibrations(molecule, name=folder / "differences")
    by_differences.run()
    known = by_differences.get_frequencies().real[-len(lines.frequencies) :]
    print(f"of the reference {wavenumbers(known)}")
print(f"plot             {plot}")
