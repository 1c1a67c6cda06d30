"""Errors on acetylacetone with the official split: trained at 300 K, tested at 300 and 600 K and on two scans.

    python benchmarks/acac.py train ACAC_FOLDER RUNS --model nequip [--form none] [--epochs N] [--seed N] [--reference isolated]
                              [--set KEY=VALUE ...]
    python benchmarks/acac.py test ACAC_FOLDER RUNS

ACAC_FOLDER holds the ``*.xyz.xz`` files of the BOTNet data set (Batatia et al., arXiv:2205.06643; UHF PBE+D3/def2-SVP);
RUNS takes the data sets as HDF5, the checkpoints and the potentials. ``train`` takes 450 + 50 of the 500 structures at
300 K; one that was interrupted goes on, and ``--epochs`` may be raised later. ``test`` evaluates every potential in RUNS
and writes ``results/acac.json``, ``acac.md`` and, of the main runs, ``acac.png``. Both run on one core of the CPU.
Reference energies are fitted to the training structures; ``isolated`` takes those of the isolated atoms, which train far
more slowly. ``--set`` changes the configuration, as in ``--set training.epochs=300 model.d_max=0.2``, and becomes part of
the row's name.
"""

import argparse
import io
import json
import lzma
import os
from pathlib import Path

import ase.io
import numpy as np
import torch
import yaml
from ase import Atoms
from matplotlib.figure import Figure
from rows import save_figure

from npcalc import NPCalculator, load_potential
from npcalc.data import from_atoms
from npcalc.files import new_file
from npcalc.graph import collate
from npcalc.train import parse_config, train

RESULTS = Path(__file__).parent / "results"
HOSTS = {
    "nequip": {"name": "nequip", "channels": 48, "n_layers": 4, "l_max": 2},
    "painn": {"name": "painn", "channels": 64, "n_layers": 3, "n_basis": 8, "epsilon": 1e-8},
    "tensornet": {"name": "tensornet", "channels": 64, "n_layers": 2, "n_basis": 16},
}
ENVELOPES = {"nequip": "polynomial", "painn": "cosine", "tensornet": "cosine"}
POINTS = {
    "nequip": {"coupling": "paired_geometry", "n_points": 1},
    "painn": {"coupling": "paired_products", "n_points": 8},
    "tensornet": {"coupling": "paired_geometry", "n_points": 4},
}
ENERGY_WEIGHTS = {"nequip": 200.0, "painn": 50.0, "tensornet": 100.0}
MD = {"300 K": "test_MD_300K", "600 K": "test_MD_600K"}
SCANS = {"dihedral": "test_dihedral", "H transfer": "test_H_transfer"}
AXES = ("dihedral angle C-C-C-O (degree)", "d(O-H) of donor minus acceptor (Å)")
PUBLISHED = {
    "MACE": {"300 K": [0.9, 5.1], "600 K": [4.6, 22.4]},
    "NequIP": {"300 K": [0.81, 5.90], "600 K": [6.04, 27.8]},
    "BOTNet": {"300 K": [0.89, 6.3], "600 K": [6.2, 29.8]},
}
"""RMSE of energy (meV) and forces (meV/A) from Batatia et al., arXiv:2206.07697."""
NOTE = """Acetylacetone, trained on 450 structures of 300 K (50 more choose the weights). E is in meV per structure, F in
meV/A by component. Each curve of a scan counts from its own lowest point; the barrier is the energy of the structure
that is highest in DFT above that which is lowest in DFT. Epochs are those made, in brackets that of the weights. Hours
are those of the training steps on one CPU core with compilation. Rows with `isolated` were trained above the energies of
isolated atoms, the others above fitted ones. Rows with `huber` are older: Huber's loss, learning rates a third to a
fifth of today's. Published rows: Batatia et al., arXiv:2206.07697.
"""


def frames_of(folder: Path, name: str) -> list[Atoms]:
    """The structures of one file."""
    with lzma.open(folder / f"{name}.xyz.xz", "rt") as file:
        return ase.io.read(io.StringIO(file.read()), index=":", format="extxyz")


def data_set(folder: Path, runs: Path, name: str) -> str:
    """Path of a file as npcalc data set, which the first run makes."""
    target = runs / f"{name}.h5"
    if not target.exists():
        runs.mkdir(parents=True, exist_ok=True)
        # Two runs may start at once: each writes a file of its own, and the last one to end stays.
        own = runs / f"{name}-{os.getpid()}.h5"
        from_atoms(frames_of(folder, name)).save(own)
        os.replace(own, target)
    return str(target)


def run(args: argparse.Namespace) -> None:
    """Trains one model, or goes on with it, and exports it."""
    isolated = "-isolated" * (args.reference == "isolated")
    changes = [change.split("=", 1) for change in args.set]
    marks = "".join(f"-{key.split('.')[-1]}={value}" for key, value in changes)
    name = f"{args.model}-{args.form}{marks}{isolated}-seed{args.seed}"
    atoms = frames_of(args.data, "isolated_atoms") if isolated else []
    config = {
        "name": name, "output": str(args.runs / name),
        "model": {
            "host": HOSTS[args.model], "cutoff": 5.0, "envelope": ENVELOPES[args.model], "dipole": False,
            "polarization": args.form, **(POINTS[args.model] if args.form == "moving" else {}),
        },
        "data": {
            "train": data_set(args.data, args.runs, "train_300K"), "n_validation": 50, "split_seed": 0,
            "test": data_set(args.data, args.runs, "test_MD_300K"),
            "reference_energies": {a.symbols[0]: a.get_potential_energy() for a in atoms} or "fit",
        },
        "loss": {"energy": ENERGY_WEIGHTS[args.model], "forces": 1.0, "dipole": 0.0, "form": "mse"},
        "training": {
            "epochs": args.epochs, "batch_size": 5, "ema": 0.999,
            "seed": args.seed, "validate_every": 5, "checkpoint_every": 5, "threads": 1, "device": "cpu",
            "compile": False if args.no_compile else "auto",
        },
        "card": {
            "description": "Acetylacetone as it moves at 300 K.", "level_of_theory": "UHF PBE+D3/def2-SVP", "license": "MIT",
            "data_origin": "BOTNet data sets, acetylacetone, train_300K (450 + 50 of 500)",
            "citation": "I. Batatia et al., arXiv:2205.06643 (2022)",
        },
    }  # fmt: skip
    for key, value in changes:
        *sections, last = key.split(".")
        section: dict = config
        for part in sections:
            section = section[part]
        section[last] = yaml.safe_load(value)
    print(train(parse_config(config)))


def coordinate(frames: list[Atoms]) -> np.ndarray:
    """Of a scan: the angle that its comment lines give in degrees, else d(O-H) of donor minus acceptor in Angstrom."""
    if "dihedral_angle" in frames[0].info:
        return np.array([a.info["dihedral_angle"] for a in frames])
    distances = frames[0].get_all_distances()
    oxygen, hydrogen = (np.flatnonzero(frames[0].numbers == z) for z in (8, 1))
    shared = hydrogen[distances[np.ix_(oxygen, hydrogen)].sum(0).argmin()]
    donor, acceptor = sorted(oxygen, key=lambda k: distances[k, shared])
    pairs = [a.get_distances(shared, [donor, acceptor]) for a in frames]
    return np.array([near - far for near, far in pairs])


def predict(calculator: NPCalculator, frames: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Energies in meV and forces in meV/A, shapes (n_structures,) and (n_structures, n_atoms, 3)."""
    parts: dict[str, list] = {"energies": [], "forces": []}
    for start in range(0, len(frames), 25):
        graph = collate([calculator.graph(a) for a in frames[start : start + 25]])
        out = calculator.potential.evaluate(graph)
        for name, part in parts.items():
            part.append(1000 * out[name].unflatten(0, (graph.n_systems, -1)).numpy())
    return np.concatenate(parts["energies"]).sum(1), np.concatenate(parts["forces"])


def errors(difference: np.ndarray) -> dict[str, float]:
    d = difference.ravel()
    return {"rmse": float(np.sqrt(d @ d / len(d))), "mae": float(np.abs(d).mean())}


def evaluate(path: Path, tests: dict[str, list[Atoms]], energy: dict[str, np.ndarray]) -> dict:
    """What a potential says of the four tests."""
    potential = load_potential(path, device="cpu")
    calculator = NPCalculator(potential, skin=0.0)
    state = json.loads((path.parent / "summary.json").read_text())["state"]
    training = json.loads((path.parent / "config.json").read_text())["training"]
    row: dict = {
        "name": potential.card.name, "parameters": sum(w.numel() for w in potential.weights.values()),
        "seed": training["seed"], "epochs": state["epoch"], "best_epoch": state["best_epoch"],
        "hours_on_one_core": state["seconds"] / 3600,
    }  # fmt: skip
    for test, frames in tests.items():
        energies, forces = predict(calculator, frames)
        dft = energy[test]
        row[test] = {"energy_meV": errors(energies - dft)}
        if test in MD:
            row[test]["forces_meV_A"] = errors(forces - [1000 * a.get_forces() for a in frames])
            continue
        curve = energies - energies.min()
        row[test]["curve_meV"] = errors(curve - (dft - dft.min()))
        row[test]["barrier_meV"] = float(curve[dft.argmax()] - curve[dft.argmin()])
        row[test]["curve"] = curve.round(3).tolist()
    return row


def table(rows: list[dict], scans: dict[str, dict]) -> str:
    """Published rows and ours as Markdown."""
    head = ["model", "parameters", "seed", "epochs", "hours"]
    head += [f"{test}: {kind} E / F" for kind in ("RMSE", "MAE") for test in MD]
    head += [f"{scan}: RMSE of curve / barrier, meV" for scan in SCANS]
    lines = [head, ["---"] * len(head)]
    for name, published in PUBLISHED.items():
        cells = [f"{e} / {f}" for e, f in published.values()]
        lines.append([f"{name}, published", *"----", *cells, *"----"])
    for r in rows:
        hours = f"{r['hours_on_one_core']:.2f}"
        cells = [r["name"], r["parameters"], r["seed"], f"{r['epochs']} ({r['best_epoch']})", hours]
        for kind in ("rmse", "mae"):
            for test in (r[name] for name in MD):
                cells.append(f"{test['energy_meV'][kind]:.2f} / {test['forces_meV_A'][kind]:.1f}")
        cells += [f"{r[s]['curve_meV']['rmse']:.1f} / {r[s]['barrier_meV']:.1f}" for s in SCANS]
        lines.append([str(c) for c in cells])
    lines.append(["DFT", *"--------", *(f"- / {max(scans[s]['curve']):.1f}" for s in SCANS)])
    return "\n".join([NOTE, *(f"| {' | '.join(line)} |" for line in lines)])


def plot(path: Path, rows: list[dict], scans: dict[str, dict], sampled: np.ndarray) -> None:
    """The two scans, DFT and every model, and how far the angle went in the training file."""
    figure = Figure(figsize=(11.0, 5.5), layout="constrained")
    for axes, scan, label in zip(figure.subplots(1, 2), SCANS, AXES, strict=True):
        axes.set(xlabel=label, ylabel="energy (meV)", title=scan)
        x = scans[scan]["coordinate"]
        axes.plot(x, scans[scan]["curve"], "o", color="k", markersize=4.0, label="DFT")
        top = 3.0 * max(scans[scan]["curve"])  # what is higher is cut off
        axes.set_ylim(-0.05 * top, top)
        for k, row in enumerate(rows):
            label = f"{row['name']} (RMSE {row[scan]['curve_meV']['rmse']:.1f} meV)"
            axes.plot(x, row[scan]["curve"], color=f"C{k}", linewidth=1.2, label=label)
        if scan == "dihedral":
            # The sign of the angle only mirrors the molecule.
            reach = np.abs((sampled + 180.0) % 360.0 - 180.0).max()
            axes.axvspan(0.0, reach, color="0.9", linewidth=0.0, label="in train_300K")
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    save_figure(figure, path)


def test(args: argparse.Namespace) -> None:
    """Evaluates every potential and writes JSON, table and plot."""
    paths = sorted(args.runs.glob("*/*.pt"))
    if not paths:
        raise SystemExit(f"{args.runs} holds no potential: run `train` first")
    torch.set_num_threads(1)
    tests = {name: frames_of(args.data, file) for name, file in (MD | SCANS).items()}
    energy = {k: 1000 * np.array([a.get_potential_energy() for a in v]) for k, v in tests.items()}
    scans = {}
    for scan in SCANS:
        curve = (energy[scan] - energy[scan].min()).round(3).tolist()
        scans[scan] = {"coordinate": coordinate(tests[scan]).round(4).tolist(), "curve": curve}
    rows = [evaluate(path, tests, energy) for path in paths]
    # Rows of earlier runs stay, unless there is a new one of the same name.
    stored = RESULTS / "acac.json"
    old = json.loads(stored.read_text())["models"] if stored.exists() else []
    rows += [row for row in old if row["name"] not in {r["name"] for r in rows}]
    rows.sort(key=lambda row: row["name"])
    out = {"published_rmse": PUBLISHED, "models": rows, "dft_scans": scans}
    RESULTS.mkdir(exist_ok=True)
    for name, text in (("json", json.dumps(out, indent=1)), ("md", table(rows, scans))):
        with new_file(RESULTS / f"acac.{name}", overwrite=True) as partial:
            partial.write_text(text + "\n")
    # Of older and of shorter runs, which are many, the table tells enough.
    shown = [row for row in rows if "huber" not in row["name"] and "epochs=" not in row["name"]]
    plot(RESULTS / "acac.png", shown, scans, coordinate(frames_of(args.data, "train_300K")))
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["train", "test"])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--model", default="nequip", choices=HOSTS)
    parser.add_argument("--form", default="moving", choices=["moving", "none"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", default="fit", choices=["fit", "isolated"])
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    run(args) if args.command == "train" else test(args)


if __name__ == "__main__":
    main()
