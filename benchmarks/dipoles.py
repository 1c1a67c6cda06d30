"""Dipoles and electron points: moving points beside charges, and points trained on Wannier centroids.

    python benchmarks/dipoles.py run DATA_FOLDER RUNS --sets water-monomer h2co-all --forms points-4 increments --seeds 0 1 2
    python benchmarks/dipoles.py table

DATA_FOLDER holds ``deepmd_water``, ``water_ccsd``, ``water_cc_dipole`` and ``h2co``; RUNS takes the data sets as HDF5, the
checkpoints and the potentials. All rows of a set have the same data and steps. A row that is finished, a file in
``results/dipoles``, is not run again; one that was interrupted goes on. A plain set trains dipoles or centroids alone,
``<set>-all`` also its energies and forces. ``table`` writes means over seeds as Markdown and all rows as CSV.

Forms for dipoles: ``points-<n>`` (n moving points, no charges), ``increments`` (charges, no points), ``both-<n>``, and as a
control of the latter ``static-<n>`` (charges; the points never move). Wannier sets have one form, ``formal``: one point of
8 e on each O, charges H +1 and O -2, so that a centroid gives the dipole of its molecule, the one that is tested.

Splits are random with a fixed seed, but for the official ones of ethanol and ``wannier-tensor``. Of structures equal up to
rotation, reflection and exchange of atoms only the first is kept, for an equivariant model has seen the others: 92 of 1000
monomers and 229 of 6591 molecules of ``water-cc`` go. Errors are by component; across the plane of three atoms there is none.
Frames of ``wannier`` are 0.9 A apart (mean over O of the nearest frame, median), so that a random split is fair; training
frames of ``wannier-tensor`` 0.07 A, so that its validation errors are low, but its test frames are of another trajectory.
A file ``nopbc`` there makes DeePMD-kit ignore the boxes; here they are used, because hydrogen bonds go on across them.
"""

import argparse
import io
import itertools
import lzma
import statistics
import tarfile
from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from rows import load_rows, save_row, training_parser, write_table
from scipy.spatial import cKDTree

from npcalc import NPCalculator, load_potential
from npcalc.conventions import E_ANGSTROM_PER_DEBYE
from npcalc.data import DataSet, from_atoms, random_split
from npcalc.potential.registry import bundled_folder
from npcalc.train import Trainer, export, parse_config

ROWS = Path(__file__).parent / "results" / "dipoles"
TENSOR = [f"water_tensor/dipole/{k}_data_reformat/atomic_system" for k in ("training", "validation")]  # fmt: skip
WANNIER = {"wannier": ["water/dplr/train/data"], "wannier-tensor": TENSOR}
WEIGHTS = {"dipole": 10.0, "centroids": 10.0, "energy": 50.0, "forces": 1.0}
FORMAL = {
    "electron_weight": "formal", "formal_weights": {"O": 8.0, "H": 0.0},
    "charges": "formal", "formal_charges": {"O": -2.0, "H": 1.0},
}  # fmt: skip
FORMS = {
    "points": {"polarization": "moving"}, "increments": {"polarization": "none", "charges": "increments"},
    "both": {"polarization": "moving", "charges": "increments"}, "formal": {"polarization": "moving", **FORMAL},
    "static": {"polarization": "static", "charges": "increments"},
}  # fmt: skip
COLUMNS = {
    "dipole MAE / RMSE, e A": ("dipole_mae", "dipole_rmse", 1, 5),
    "mean dipole": ("dipole_mean", 1, 3),
    "centroids MAE / RMSE, A": ("centroids_mae", "centroids_rmse", 1, 5),
    "mean centroid": ("centroids_mean", 1, 4),
    "forces MAE / RMSE, meV/A": ("forces_mae", "forces_rmse", 1000, 1),
    "energy MAE / RMSE, meV": ("energy_mae", "energy_rmse", 1000, 2),
    "ms per step": ("ms_per_step", 1, 1),
}
"""Quantities of a row, in the units of the package there; their factor and digits in the table."""


class Plan(NamedTuple):
    """Structures to train on, validate on and test on, budget and sizes of the host, PaiNN."""

    sizes: tuple[int, int, int]
    epochs: int
    batch_size: int = 10
    channels: int = 64
    n_layers: int = 3
    cutoff: float = 5.0


SETS = {
    "wannier": Plan((24, 3, 3), 100, batch_size=1, channels=48, n_layers=2, cutoff=4.0),
    "wannier-tensor": Plan((72, 8, 80), 40, batch_size=1, channels=48, n_layers=2, cutoff=4.0),
    "water-monomer": Plan((708, 100, 100), 280),
    "water-dimer": Plan((800, 100, 100), 250),
    "water-cc": Plan((800, 100, 1000), 250),
    "h2co": Plan((800, 100, 1000), 250),
    "ethanol": Plan((950, 50, 1000), 150),
}
NAMES = [n for s in SETS for n in (s, f"{s}-all") if n not in ("wannier-tensor-all", "water-cc-all")]  # fmt: skip


def wannier(folder: Path, system: str) -> DataSet:
    """One system in the layout of DeePMD-kit, with centroids on O."""
    raw = {}
    with tarfile.open(folder / "deepmd_water" / "deepmd_water.tar.xz") as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(f"{system}/"):
                raw[Path(member.name).name] = archive.extractfile(member).read()
    types = np.array(raw["type.raw"].split(), dtype=int)
    symbols = np.array(raw["type_map.raw"].decode().split())[types]
    arrays = {k: np.load(io.BytesIO(v)).astype(float) for k, v in raw.items() if k.endswith("npy")}
    cells = arrays["box.npy"].reshape(-1, 3, 3)
    dipoles = arrays["atomic_dipole.npy"].reshape(len(cells), -1, 3)
    if dipoles.shape[1] == len(symbols):
        # This set has rows for all atoms and the sum over four centers; the other O only and the mean.
        dipoles = dipoles[:, symbols == "O"] / 4.0
    frames = []
    for k, (cell, dipole) in enumerate(zip(cells, dipoles, strict=True)):
        atoms = Atoms(symbols, arrays["coord.npy"][k].reshape(-1, 3), cell=cell, pbc=True)
        atoms.arrays["centroids"] = np.full((len(atoms), 3), np.nan)
        atoms.arrays["centroids"][symbols == "O"] = dipole
        if "force.npy" in arrays:
            atoms.info["energy"] = arrays["energy.npy"][k]
            atoms.arrays["forces"] = arrays["force.npy"][k].reshape(-1, 3)
        frames.append(atoms)
    return from_atoms(frames)


def ccsd(path: Path) -> DataSet:
    """Water monomers or dimers of CCSD in extended XYZ."""
    frames = ase.io.read(path, index=":")
    for atoms in frames:
        atoms.pbc = False  # the file has a lattice of zeros, which ASE takes for a periodic one
    keys = {"energy": "potential", "dipole": "mu"}
    return from_atoms(frames, keys, energy_unit="hartree", dipole_unit="e*bohr")


def coupled_cluster(path: Path) -> DataSet:
    """Water molecules of CCSD(T), comment lines ``charge q dipole x y z``."""
    with lzma.open(path, "rt") as file:
        lines = [line.split() for line in file]
    frames = []
    while lines:
        end = 2 + int(lines[0][0])
        comment, rows, lines = lines[1], lines[2:end], lines[end:]
        if (comment[0], comment[2]) != ("charge", "dipole") or float(comment[1]) != 0.0:
            raise ValueError(f"{path}: expected charge 0 and a dipole, got {' '.join(comment)!r}")
        atoms = Atoms([r[0] for r in rows], np.array([r[1:4] for r in rows], dtype=float))
        atoms.info["dipole"] = np.array(comment[3:6], dtype=float)
        frames.append(atoms)
    return from_atoms(frames, dipole_unit="e*bohr")


def formaldehyde(path: Path) -> DataSet:
    """H2CO of B3LYP; its dipoles were taken from a.u. to e A as if they had been in Debye."""
    file, frames = np.load(path), []
    for z, r, f, energy, dipole in zip(*(file[key] for key in "ZRFED"), strict=True):
        frames.append(Atoms(z, r, info={"energy": energy, "dipole": dipole / E_ANGSTROM_PER_DEBYE}))
        frames[-1].arrays["forces"] = f
    return from_atoms(frames, dipole_unit="e*bohr")


def distinct(data: DataSet) -> DataSet:
    """The structures without those that repeat an earlier one, told by their sorted distances."""
    n = int(data.n_atoms[0])
    i, j = np.array(list(itertools.combinations(range(n), 2))).T
    x, kinds = data.positions.reshape(-1, n, 3), data.numbers[i] * data.numbers[j]
    distances = np.linalg.norm(x[:, i] - x[:, j], axis=2)
    invariants = [np.sort(distances[:, kinds == kind], axis=1) for kind in np.unique(kinds)]
    pairs = cKDTree(np.concatenate(invariants, axis=1)).query_pairs(1e-4)
    return data.subset(np.setdiff1d(np.arange(len(data)), [max(pair) for pair in pairs]))


READERS = {
    "water-monomer": (ccsd, "water_ccsd/water_monomer.xyz.xz"),
    "water-dimer": (ccsd, "water_ccsd/water_dimer.xyz.xz"),
    "water-cc": (coupled_cluster, "water_cc_dipole/h2o.xyz.xz"),
    "h2co": (formaldehyde, "h2co/h2co_B3LYP_cc-pVDZ_4001.npz"),
}


def files_of(folder: Path, runs: Path, name: str) -> list[Path]:
    """A set as two npcalc data sets, to train (and validate) on and to test on; the first run makes them."""
    home = bundled_folder() / "data" if name == "ethanol" else runs / "data"
    paths = [home / f"{name}-{part}.h5" for part in ("train", "test")]
    if all(p.exists() for p in paths):
        return paths
    if name in WANNIER:
        parts = [wannier(folder, system) for system in WANNIER[name]]
    else:
        reader, file = READERS[name]
        parts = [distinct(reader(folder / file))]
    if len(parts) == 1:
        n_train, n_validation, n_test = SETS[name].sizes
        split = random_split(len(parts[0]), [n_train + n_validation, n_test], seed=0)
        parts = [parts[0].subset(index) for index in split]
    home.mkdir(parents=True, exist_ok=True)
    for path, part in zip(paths, parts, strict=True):
        part.save(path, overwrite=True)
    return paths


def model_of(plan: Plan, form: str) -> dict:
    """The section ``model`` of a row."""
    host = {"name": "painn", "channels": plan.channels, "n_layers": plan.n_layers, "n_basis": 8}
    host["epsilon"] = 1e-8  # that of the rows
    model = {"host": host, "cutoff": plan.cutoff, "coupling": "paired_geometry"}
    kind, _, n_points = form.partition("-")
    return model | FORMS[kind] | {"n_points": int(n_points or 1)}


def molecular(path: Path, test: DataSet) -> dict[str, float]:
    """Errors and mean length of the dipoles of the molecules of a liquid in e A."""
    calculator = NPCalculator(load_potential(path, device="cpu"), skin=0.0, check_domain=False)
    errors, known = [], []
    for k, centroids in enumerate(np.split(test.labels["centroids"].values, test.offsets[1:-1])):
        atoms = test.atoms(k)
        oxygen, hydrogen = (np.flatnonzero(atoms.numbers == z) for z in (8, 1))
        vectors = atoms.get_all_distances(mic=True, vector=True)[oxygen][:, hydrogen]
        owner = np.linalg.norm(vectors, axis=2).argmin(0)
        if (np.bincount(owner, minlength=len(oxygen)) != 2).any():
            raise ValueError(f"test structure {k}: an O has not two H")
        formal = np.zeros((len(oxygen), 3))
        np.add.at(formal, owner, vectors[owner, np.arange(len(hydrogen))])
        out = calculator.potential.evaluate(calculator.graph(atoms))
        known.append(formal - FORMAL["formal_weights"]["O"] * centroids[oxygen])
        errors.append(formal + out["atomic_dipoles"].numpy()[oxygen] - known[-1])
    error, length = np.concatenate(errors), np.linalg.norm(np.concatenate(known), axis=1)
    mae, rmse = np.abs(error).mean(), np.sqrt((error**2).mean())
    return {"dipole_mae": mae, "dipole_rmse": rmse, "dipole_mean": length.mean()}


def run(args: argparse.Namespace, name: str, form: str, seed: int) -> None:
    """Trains and tests one row, or goes on with it."""
    finished = ROWS / f"{name}-{form}-seed{seed}.json"
    if finished.exists():
        return
    base = name.removesuffix("-all")
    plan, (train, test) = SETS[base], files_of(args.data, args.runs, base)
    data = DataSet.load(test)
    first = "centroids" if base in WANNIER else "dipole"
    trained = [first, *(k for k in ("energy", "forces") if name != base and k in data.labels)]
    config = {
        "name": f"{name}-{form}", "output": str(args.runs / f"{name}-{form}-seed{seed}"), "model": model_of(plan, form),
        "data": {"train": str(train), "test": str(test), "n_train": plan.sizes[0], "n_validation": plan.sizes[1]},
        "loss": {k: w if k in trained else 0.0 for k, w in WEIGHTS.items()} | {"form": "huber", "delta": 0.01},
        "training": {
            "epochs": args.epochs or plan.epochs, "batch_size": plan.batch_size, "learning_rate": 1e-3, "ema": 0.999,
            "clip": 10.0, "seed": seed, "validate_every": 10, "checkpoint_every": 10, "threads": 1, "compile": args.compile, "device": "cpu",
        },
    }  # fmt: skip
    trainer = Trainer(parse_config(config))
    trainer.run()
    path = export(trainer, overwrite=True)
    errors = dict(load_potential(path, device="cpu").card.errors["test"])
    errors[f"{first}_mean"] = np.nanmean(np.linalg.norm(data.labels[first].values, axis=1))
    errors |= molecular(path, data) if first == "centroids" else {}
    row = {"set": name, "form": form, "seed": seed}
    for key in (k for column in COLUMNS.values() for k in column[:-2]):
        known = key.split("_")[0] in (*trained, "dipole") and key in errors
        row[key] = float(errors[key]) if known else None
    row["ms_per_step"] = 1000 * trainer.state["seconds"] / trainer.state["step"]
    row |= {"parameters": trainer.weights.numel(), "steps": trainer.state["step"]}
    save_row(finished, row)


NOTE = """# Dipoles and electron points

Errors on test structures, by component. Forms: `points-<n>`, n moving points of each atom and no charges; `increments`, charges
and no points; `both-<n>`; `static-<n>`, charges beside points that never move. `formal`: one point of 8 e on each O, charges
H +1 and O -2, trained on Wannier centroids; the dipole is that of a molecule. Sets that end in `-all` are trained on energies
and forces too. The sets are described in `dipoles.py`.
"""


def table(target: Path) -> None:
    """All finished rows as CSV, and their means over seeds as Markdown."""
    rows = load_rows(ROWS)
    rows.sort(key=lambda r: (NAMES.index(r["set"]), r["form"], r["seed"]))
    head = ["set", "form", "seeds", "parameters", *COLUMNS]
    lines = [head, ["---"] * len(head)]
    for (name, form), group in itertools.groupby(rows, key=lambda r: (r["set"], r["form"])):
        some = list(group)
        line = [name, form, str(len(some)), str(some[0]["parameters"])]
        for *keys, factor, digits in COLUMNS.values():
            values = [[factor * r[k] for r in some] for k in keys if some[0][k] is not None]
            cell = " / ".join(f"{statistics.mean(v):.{digits}f}" for v in values) or "-"
            if len(some) > 1 and len(values) > 1:
                cell += f" (MAE +- {statistics.stdev(values[0]):.{digits}f})"
            line.append(cell)
        lines.append(line)
    text = [NOTE, *(f"| {' | '.join(line)} |" for line in lines)]
    write_table(target, text, rows)


def main() -> None:
    parser, runner = training_parser(__doc__, None)
    runner.add_argument("--sets", nargs="+", default=NAMES, choices=NAMES)
    runner.add_argument("--forms", nargs="+", default=["points-1", "points-4", "increments", "both-1"])  # fmt: skip
    args = parser.parse_args()
    if args.command == "table":
        table(ROWS)
        return
    for seed, name in itertools.product(args.seeds, args.sets):
        for form in ["formal"] if name.removesuffix("-all") in WANNIER else args.forms:
            run(args, name, form, seed)


if __name__ == "__main__":
    main()
