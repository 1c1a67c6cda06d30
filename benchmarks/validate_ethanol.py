"""Correctness of a shipped ethanol potential, as JSON and a table.

    python benchmarks/validate_ethanol.py REFERENCE_DATA ethanol OUTPUT.json [nve] [langevin] [cold]

REFERENCE_DATA holds ``rmd17_dipoles/harmonic_trans.npz``, the PBE/def2-SVP reference. The parts are 20 ps of NVE,
100 ps of Langevin dynamics and 32 times 21 ps at 50 K, all three by default.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units

from npcalc import NPCalculator, load_potential
from npcalc.conventions import SPEED_OF_LIGHT_CM_PER_FS
from npcalc.graph import collate
from npcalc.md import MDSettings, Trajectory, relax, run_md
from npcalc.spectra import calculate_harmonic_spectrum, infrared_spectrum

torch.set_num_threads(1)
PS = 2000  # steps of 0.5 fs
COLD_K = 50.0
COPIES = 32


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
    """20 ps at 0.5 fs after 5 ps of equilibration at 300 K.

    The energy that a molecule of nine atoms happens to have spreads by a third, so the velocities are scaled
    to a total energy of k_B T per vibration and k_B T / 2 per rotation before it starts.
    """
    atoms.calc = calculator
    lowest = atoms.get_potential_energy()
    warm = MDSettings(friction_per_ps=10.0, strides={"temperature": 10})
    start = run_md(atoms, calculator, 5 * PS, folder / "warm.h5", warm)
    start.calc = calculator
    wanted = 300.0 * units.kB * (3 * len(atoms) - 6 + 1.5)
    kinetic = wanted - (start.get_potential_energy() - lowest)
    start.set_velocities(start.get_velocities() * np.sqrt(kinetic / start.get_kinetic_energy()))
    settings = MDSettings(
        ensemble="nve", strides={"energy": 5, "kinetic_energy": 5, "temperature": 5}
    )
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


def thermal_copies(
    atoms: Atoms, hessian: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities (n, n_atoms, 3) of the classical harmonic ensemble at `COLD_K`."""
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    values, vectors = np.linalg.eigh(hessian / np.outer(root, root))
    internal, modes = values[6:], vectors[:, 6:]
    kt = units.kB * COLD_K
    q = rng.standard_normal((n, len(internal))) * np.sqrt(kt / internal)
    v = rng.standard_normal((n, 3 * len(atoms))) * np.sqrt(kt) / root
    return atoms.positions + (q @ modes.T / root).reshape(n, -1, 3), v.reshape(n, -1, 3)


def dipoles_of_copies(atoms: Atoms, calculator: NPCalculator, hessian: np.ndarray) -> np.ndarray:
    """Langevin dynamics (BAOAB) of many copies in one batch.

    A mode keeps its energy for as long as the friction is slow, 1 ps here, so one run samples it poorly: many
    independent ones, started from the ensemble, are averaged.

    Returns:
        Dipoles every 2 fs in e*A, shape (frames, copies, 3).
    """
    rng = np.random.default_rng(4)
    x, v = thermal_copies(atoms, hessian, COPIES, rng)
    one = calculator.graph(atoms)
    assert one.edge_index.shape[1] == len(atoms) * (len(atoms) - 1), (
        "the list has to hold all pairs"
    )
    graph = collate([one] * COPIES)
    mass = atoms.get_masses()[:, None]
    dt = 0.5 * units.fs
    keep = np.exp(-0.5e-3)  # friction 1/ps
    kick = np.sqrt((1.0 - keep**2) * units.kB * COLD_K / mass)

    def evaluate() -> tuple[np.ndarray, np.ndarray]:
        positions = torch.as_tensor(x.reshape(-1, 3))
        out = calculator.potential.evaluate_compiled(graph._replace(positions=positions))
        return out["forces"].numpy().reshape(x.shape), out["dipole"].numpy()

    forces, _ = evaluate()
    dipoles = []
    for step in range(21 * PS):
        v += 0.5 * dt * forces / mass
        x += 0.5 * dt * v
        v = keep * v + kick * rng.standard_normal(v.shape)
        x += 0.5 * dt * v
        forces, dipole = evaluate()
        v += 0.5 * dt * forces / mass
        if step >= PS and step % 4 == 3:
            dipoles.append(dipole.copy())
    return np.array(dipoles)


def broadened(lines: tuple[np.ndarray, np.ndarray], low: float, high: float) -> float:
    """Harmonic intensity in a band in km/mol, each line with the shape that the friction gives it.

    A damped oscillator absorbs as 2/pi w^2 g / ((w0^2 - w^2)^2 + g^2 w^2); a strong line reaches into its
    neighbor's band.
    """
    g = 1e-3 / (2.0 * np.pi * SPEED_OF_LIGHT_CM_PER_FS)  # 1/ps as a wavenumber
    w = np.arange(low, high, 0.05)[:, None] + 0.025
    shape = w**2 * g / ((lines[0] ** 2 - w**2) ** 2 + (g * w) ** 2)
    return float((2.0 / np.pi * shape * lines[1]).sum() * 0.05)


def cold_spectrum(
    atoms: Atoms, calculator: NPCalculator, lines: tuple[np.ndarray, np.ndarray]
) -> dict:
    """Bands at 50 K against the harmonic intensities of the same potential; errors from the copies' scatter."""
    hessian = calculator.potential.hessian(calculator.graph(atoms)).numpy()
    dipoles = dipoles_of_copies(atoms, calculator, hessian)
    spectra = [infrared_spectrum(d, 2.0, COLD_K, resolution=8.0) for d in dipoles.swapaxes(0, 1)]

    def band(low: float, high: float) -> dict:
        each = np.array([s.band(low, high)[0] for s in spectra])
        expected = broadened(lines, low, high)
        error = each.std(ddof=1) / np.sqrt(len(each))
        return {
            "band": [low, high],
            "harmonic": expected,
            "ratio": float(each.mean() / expected),
            "error": float(error / expected),
        }

    return {"cold_bands": [band(*b) for b in BANDS], "cold_total": band(350, 3850)}


def main(folder: Path, name: str, output: Path, wanted: list[str]) -> None:
    out, trans, frequencies, intensities = harmonic(name, folder)
    print(json.dumps({k: v for k, v in out.items() if np.isscalar(v)}, indent=1))
    trans.calc = None
    calculator = NPCalculator(name, compile=True)
    with tempfile.TemporaryDirectory() as scratch:
        steps = {
            "nve": lambda: nve(trans, calculator, Path(scratch)),
            "langevin": lambda: langevin(trans, calculator, Path(scratch)),
            "cold": lambda: cold_spectrum(trans, calculator, (frequencies, intensities)),
        }
        for step in wanted or list(steps):
            part = steps[step]()
            out.update(part)
            print(json.dumps(part, indent=1))
            output.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
