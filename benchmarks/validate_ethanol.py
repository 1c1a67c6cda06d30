"""Correctness of a shipped ethanol potential, as JSON and a table.

    python benchmarks/validate_ethanol.py REFERENCE_DATA ethanol OUTPUT.json

REFERENCE_DATA holds ``rmd17_dipoles/harmonic_trans.npz``, the PBE/def2-SVP reference. The script runs 20 ps of
NVE, 100 ps of Langevin dynamics and 100 ps at 50 K.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from npcalc import NPCalculator, load_potential
from npcalc.md import MDSettings, Trajectory, relax, run_md
from npcalc.spectra import calculate_harmonic_spectrum, infrared_spectrum

torch.set_num_threads(1)
PS = 2000  # steps of 0.5 fs


def reference(folder: Path) -> tuple[Atoms, np.ndarray, np.ndarray]:
    file = np.load(folder / "rmd17_dipoles" / "harmonic_trans.npz")
    atoms = Atoms(file["numbers"], file["positions"])
    return atoms, file["frequencies_cm1"], file["intensities_km_mol"]


def harmonic(name: str, folder: Path) -> tuple[dict, Atoms, np.ndarray, np.ndarray]:
    """Trans against the reference, and gauche from the same potential."""
    atoms, frequencies, intensities = reference(folder)
    trans = atoms.copy()
    trans.calc = NPCalculator(load_potential(name, dtype="float64"))
    relax(trans, fmax=1e-4)
    lines = calculate_harmonic_spectrum(trans)
    high = frequencies > 200.0
    gauche = trans.copy()
    oxygen = int(np.flatnonzero(gauche.numbers == 8)[0])
    distance = gauche.get_all_distances()[oxygen]
    hydrogen = int(np.flatnonzero((gauche.numbers == 1) & (distance < 1.2))[0])
    carbon = int(np.flatnonzero((gauche.numbers == 6) & (distance < 1.7))[0])
    other = int(np.flatnonzero((gauche.numbers == 6) & (distance > 1.7))[0])
    gauche.set_dihedral(other, carbon, oxygen, hydrogen, 60.0, indices=[hydrogen])
    gauche.calc = trans.calc
    relax(gauche, fmax=1e-4)
    bent = calculate_harmonic_spectrum(gauche)
    deviation = np.abs(lines.frequencies - frequencies)
    out = {
        "frequency_mad_cm1": float(deviation[high].mean()),
        "frequency_max_deviation_cm1": float(deviation.max()),
        "intensity_correlation": float(np.corrcoef(lines.intensities, intensities)[0, 1]),
        "trans_frequencies": lines.frequencies.round(1).tolist(),
        "trans_intensities": lines.intensities.round(1).tolist(),
        "reference_frequencies": frequencies.round(1).tolist(),
        "reference_intensities": intensities.round(1).tolist(),
        "gauche_frequencies": bent.frequencies.round(1).tolist(),
        "gauche_intensities": bent.intensities.round(1).tolist(),
        "gauche_dihedral": float(gauche.get_dihedral(other, carbon, oxygen, hydrogen)),
        "gauche_minus_trans_meV": 1000
        * (gauche.get_potential_energy() - trans.get_potential_energy()),
    }
    return out, trans, lines.frequencies, lines.intensities


def nve(atoms: Atoms, calculator: NPCalculator, folder: Path) -> dict:
    """20 ps at 0.5 fs after 5 ps of equilibration at 300 K."""
    warm = MDSettings(friction_per_ps=10.0, strides={"temperature": 10})
    start = run_md(atoms, calculator, 5 * PS, folder / "warm.h5", warm)
    settings = MDSettings(
        ensemble="nve", strides={"energy": 5, "kinetic_energy": 5, "temperature": 5}
    )
    start.set_constraint()
    run_md(start, calculator, 20 * PS, folder / "nve.h5", settings)
    with Trajectory(folder / "nve.h5") as t:
        total = t.values("energy") + t.values("kinetic_energy")
        times = t.times_fs("energy") / 1000
        temperature = float(t.values("temperature").mean())
    slope = np.polyfit(times, total, 1)[0]
    return {
        "nve_drift_meV_per_atom_per_ps": float(1000 * slope / len(atoms)),
        "nve_drift_meV_per_atom_in_20_ps": float(20 * 1000 * slope / len(atoms)),
        "nve_fluctuation_meV": float(1000 * (total - slope * times).std()),
        "nve_temperature_K": temperature,
    }


def langevin(atoms: Atoms, calculator: NPCalculator, folder: Path) -> dict:
    """100 ps at 300 K: temperature and bonds."""
    strides = {"temperature": 5, "positions": 20}
    settings = MDSettings(friction_per_ps=5.0, strides=strides)
    run_md(atoms, calculator, 100 * PS, folder / "langevin.h5", settings)
    with Trajectory(folder / "langevin.h5") as t:
        times = t.times_fs("temperature") / 1000
        temperature = t.values("temperature")[times > 5.0]
        positions = t.values("positions")
    blocks = temperature[: len(temperature) // 19 * 19].reshape(19, -1).mean(1)
    error = blocks.std(ddof=1) / np.sqrt(len(blocks))
    start = atoms.get_all_distances()
    heavy = (atoms.numbers[:, None] > 1) & (atoms.numbers[None] > 1)
    i, j = np.nonzero(np.triu((start < 1.2) | (heavy & (start < 1.7)), 1))
    lengths = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1) / start[i, j]
    return {
        "langevin_temperature_K": float(blocks.mean()),
        "langevin_standard_error_K": float(error),
        "langevin_bonds_min_max": [float(lengths.min()), float(lengths.max())],
        "langevin_n_bonds": len(i),
    }


BANDS = (
    (350, 480),
    (700, 960),
    (960, 1180),
    (1180, 1300),
    (1300, 1520),
    (2750, 3200),
    (3600, 3850),
)


def cold_spectrum(
    atoms: Atoms, calculator: NPCalculator, lines: tuple[np.ndarray, np.ndarray], folder: Path
) -> dict:
    """Bands of 100 ps at 50 K against the harmonic intensities of the same potential."""
    settings = MDSettings(temperature_K=50.0, friction_per_ps=1.0, strides={"dipole": 4}, seed=4)
    run_md(atoms, calculator, 100 * PS, folder / "cold.h5", settings)
    with Trajectory(folder / "cold.h5") as t:
        dipoles = t.values("dipole")[10 * PS // 4 :]
    spectrum = infrared_spectrum(dipoles, 2.0, 50.0, resolution=8.0, n_blocks=10)
    rows = []
    for low, high in BANDS:
        value, error = spectrum.band(low, high)
        inside = (lines[0] >= low) & (lines[0] < high)
        expected = float(lines[1][inside].sum())
        rows.append(
            {"band": [low, high], "md": value, "error": error, "harmonic": expected,
             "ratio": value / expected}
        )  # fmt: skip
    total, error = spectrum.band(350, 3850)
    expected = float(lines[1][lines[0] > 350].sum())
    return {
        "cold_bands": rows,
        "cold_total_ratio": total / expected,
        "cold_total_error": error / expected,
    }


def main(folder: Path, name: str, output: Path) -> None:
    out, trans, frequencies, intensities = harmonic(name, folder)
    print(json.dumps({k: v for k, v in out.items() if np.isscalar(v)}, indent=1))
    trans.calc = None
    calculator = NPCalculator(name, compile=True)
    with tempfile.TemporaryDirectory() as scratch:
        steps = (
            lambda: nve(trans, calculator, Path(scratch)),
            lambda: langevin(trans, calculator, Path(scratch)),
            lambda: cold_spectrum(trans, calculator, (frequencies, intensities), Path(scratch)),
        )
        for step in steps:
            part = step()
            out.update(part)
            print(json.dumps(part, indent=1))
            output.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
