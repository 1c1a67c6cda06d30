"""Coupled cluster from few structures: training that starts from `ethanol-fast`, which knows PBE, and training anew.

    python benchmarks/finetune.py run ETHANOL_CCSD_T_NPZ RUNS [--structures 25 50 100 175] [--seeds 0]
    python benchmarks/finetune.py table

ETHANOL_CCSD_T_NPZ is `ethanol_ccsd_t-train.npz` of Chmiela et al., Nat. Commun. 9, 3887 (2018), CCSD(T)/cc-pVTZ; RUNS takes
data sets and checkpoints. A fixed permutation of the 1000 structures gives 800 to test, 25 to validate and 175 of which the
first train. A row that is finished, a file in ``results/finetune``, is not run again; one that was interrupted goes on.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from rows import load_rows, save_row, training_parser, write_table

from npcalc.data import DataSet, read_npz
from npcalc.train import parse_config, train

ROWS = Path(__file__).parent / "results" / "finetune"
STEPS = 6000
MODEL = {
    "host": {"name": "painn", "channels": 64, "n_layers": 3, "n_basis": 8, "epsilon": 1e-8},
    "cutoff": 5.0, "coupling": "paired_products", "n_points": 8, "dipole": False,
}  # fmt: skip
KINDS = {"start": {"start_from": "ethanol-fast"}, "anew": {"model": MODEL}}
NOTE = f"""# Ethanol by CCSD(T)/cc-pVTZ, from few structures

Training that starts from `ethanol-fast` (PBE), and that of the same network, without a dipole, anew: {STEPS} steps of batch 5 each, energies
and forces. Mean absolute errors on 800 other structures, means over the seeds. Both data sets are from one trajectory of MD17, so that the
PBE potential may have seen geometries that are tested here, with other energies.
"""


def parts_of(source: Path, runs: Path) -> dict[str, DataSet]:
    """The structures to train, to validate and to test on."""
    with np.load(source) as file:  # in the layout of rMD17 under other names
        np.savez(
            runs / "all.npz", coords=file["R"], nuclear_charges=file["z"].ravel(),
            energies=file["E"].reshape(-1), forces=file["F"],
        )  # fmt: skip
    data = read_npz(runs / "all.npz")
    order = np.random.default_rng(0).permutation(len(data))
    places = {"test": order[:800], "validation": order[800:825], "pool": order[825:]}
    return {name: data.subset(index) for name, index in places.items()}


def run(args: argparse.Namespace) -> None:
    """Trains what is missing."""
    args.runs.mkdir(parents=True, exist_ok=True)
    parts = parts_of(args.data, args.runs)
    for n in args.structures:
        files = {"train": parts["pool"].subset(np.arange(n)), **parts}
        paths = {name: args.runs / f"{name}-{n}.h5" for name in ("train", "validation", "test")}
        for name, path in paths.items():
            files[name].save(path, overwrite=True)
        for seed in args.seeds:
            for kind, section in KINDS.items():
                name = f"{kind}-{n}-seed{seed}"
                if (ROWS / f"{name}.json").exists():
                    continue
                config = {
                    "name": name, "output": str(args.runs / name), **section,
                    "data": {name: str(path) for name, path in paths.items()},
                    "loss": {"energy": 50.0, "forces": 1.0, "dipole": 0.0},
                    "training": {
                        "epochs": args.epochs or STEPS // -(-n // 5), "batch_size": 5, "seed": seed,
                        "validate_every": 20, "checkpoint_every": 20, "threads": 1, "device": "cpu",
                        "compile": args.compile,
                    },
                }  # fmt: skip
                train(parse_config(config))
                summary = json.loads((args.runs / name / "summary.json").read_text())
                errors = summary["errors"]["test"]
                save_row(ROWS / f"{name}.json", {
                    "kind": kind, "structures": n, "seed": seed, "forces_mae_meV_A": 1000 * errors["forces_mae"],
                    "energy_mae_meV": 1000 * errors["energy_mae"],
                })  # fmt: skip


def table() -> None:
    """Writes the rows as Markdown."""
    rows = load_rows(ROWS)
    lines = [
        NOTE,
        "| structures | seeds | start: forces, meV/A | energy, meV | anew: forces, meV/A | energy, meV |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for n in sorted({row["structures"] for row in rows}):
        cells = [str(n), str(len({row["seed"] for row in rows if row["structures"] == n}))]
        for kind in KINDS:
            for key in ("forces_mae_meV_A", "energy_mae_meV"):
                found = [r[key] for r in rows if (r["kind"], r["structures"]) == (kind, n)]
                cells.append(f"{statistics.mean(found):.1f}" if found else "-")
        lines.append(f"| {' | '.join(cells)} |")
    write_table(ROWS.parent / "finetune", lines)


def main() -> None:
    parser, runner = training_parser(__doc__, None)
    runner.add_argument("--structures", nargs="+", type=int, default=[25, 50, 100, 175])
    args = parser.parse_args()
    run(args) if args.command == "run" else table()


if __name__ == "__main__":
    main()
