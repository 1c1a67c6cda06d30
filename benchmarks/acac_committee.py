"""Whether potentials of acetylacetone that differ in their seeds tell by their deviation where they fail.

    python benchmarks/acac_committee.py ACAC_FOLDER POTENTIAL POTENTIAL [...]

Potentials are those of `acac.py`. Writes ``results/acac_committee.md``: errors of each and of their mean, and how the
largest deviation of a force in a structure goes with the largest error of a force of the mean.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from acac import MD, RESULTS, SCANS, errors, frames_of
from ase import Atoms
from rows import write_table
from scipy.stats import spearmanr

from npcalc import DomainWarning, evaluate, evaluate_committee, load_potential
from npcalc.potential import Potential

NOTE = """Acetylacetone: potentials of the same training but for its seed, and their mean. Forces in meV/A. Of a structure count
the largest deviation of the force on an atom (`evaluate_committee`) and the largest error of the mean's: Spearman's correlation
of the two, and how many of the tenth of the structures with the largest errors are among the tenth with the largest
deviations (by chance a tenth).
"""


def on_dynamics(members: list[Potential], frames: list[Atoms]) -> list[str]:
    """Cells of the table for structures with reference forces."""
    reference = np.array([a.get_forces() for a in frames])
    single = [np.array([r["forces"] for r in evaluate(p, frames)]) for p in members]
    results = evaluate_committee(members, frames)
    wrong = np.array([r["forces"] for r in results]) - reference
    deviation = np.array([r["max_force_deviation"] for r in results])
    error = np.linalg.norm(wrong, axis=2).max(axis=1)
    tenth = len(frames) // 10
    found = set(np.argsort(error)[-tenth:]) & set(np.argsort(deviation)[-tenth:])
    rmse = [
        1000 * errors(difference)["rmse"]
        for difference in (*(s - reference for s in single), wrong)
    ]
    return [
        ", ".join(f"{x:.1f}" for x in rmse[:-1]), f"{rmse[-1]:.1f}",
        f"{1000 * np.median(deviation):.0f} / {1000 * deviation.max():.0f}",
        f"{1000 * np.median(error):.0f} / {1000 * error.max():.0f}",
        f"{spearmanr(deviation, error).statistic:.2f}", f"{len(found)} of {tenth}",
    ]  # fmt: skip


def on_scan(members: list[Potential], frames: list[Atoms]) -> list[str]:
    """Cells of the table for a scan, which has energies alone: curves count from their lowest points."""
    dft = np.array([a.get_potential_energy() for a in frames])
    results = evaluate_committee(members, frames)
    curves = [np.array([r["energy"] for r in evaluate(p, frames)]) for p in members]
    curves.append(np.array([r["energy"] for r in results]))
    off = [curve - curve.min() - (dft - dft.min()) for curve in curves]
    rmse = [1000 * errors(difference)["rmse"] for difference in off]
    deviation = np.array([r["max_force_deviation"] for r in results])
    return [
        ", ".join(f"{x:.0f}" for x in rmse[:-1]), f"{rmse[-1]:.0f}",
        f"{1000 * np.median(deviation):.0f} / {1000 * deviation.max():.0f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("potentials", nargs="+", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", DomainWarning)
    members = [load_potential(path) for path in args.potentials]
    names = ", ".join(f"`{p.card.name}`" for p in members)
    dynamics = [
        ["structures", "RMSE of each", "of the mean", "deviation, median / most", "error, median / most",
         "correlation", "worst tenth found"],
    ]  # fmt: skip
    dynamics += [
        [name, *on_dynamics(members, frames_of(args.data, file))] for name, file in MD.items()
    ]
    scans = [["scan", "RMSE of each curve, meV", "of the mean", "deviation, median / most"]]
    scans += [[name, *on_scan(members, frames_of(args.data, file))] for name, file in SCANS.items()]
    lines = ["# Committee on acetylacetone", "", NOTE, f"Potentials: {names}.", ""]
    for table in (dynamics, scans):
        for row in (table[0], ["---"] * len(table[0]), *table[1:]):
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    write_table(RESULTS / "acac_committee", lines[:-1])


if __name__ == "__main__":
    main()
