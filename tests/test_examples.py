"""Every example runs, in a short mode, and prints what it promises."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "md_examples"

SPRINGS = Path(__file__).with_name("pairs_of_springs.py")
OWN = [
    "--reference", SPRINGS, "--sampler", SPRINGS, "--compare", "--structures", "60", "--epochs", "15",
    "--steps", "2000",
]  # fmt: skip
CASES = {
    "01_single_point_and_relaxation.py": ([], "relaxed dipole"),
    "02_nve_energy_drift.py": (["200"], "energy drift"),
    "03_langevin.py": (["200", "t.h5"], "mean temperature"),
    "04_dipole_trajectory.py": (["100", "t.h5"], "mean dipole"),
    "05_infrared_spectrum.py": (["1000", "."], "O-H stretch"),
    "06_own_molecule.py": (["H2O", "own", *OWN], "plot"),
}


def test_every_example_is_here():
    assert {p.name for p in FOLDER.glob("*.py")} == set(CASES)


def run(name, arguments, folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", FOLDER / name, *arguments],
        cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_example(name, tmp_path):
    arguments, expected = CASES[name]
    printed = run(name, arguments, tmp_path)
    assert expected in printed
    if name.startswith("06"):
        (wrong, size), dipoles = re.findall(r"([\d.]+) of (\d+)", printed)[-2:]
        assert float(wrong) < 0.1 * float(size)
        assert float(dipoles[0]) < 0.1 * float(dipoles[1])
        found, known = (re.findall(r"[\d.]+", line) for line in re.findall(r"(.*) 1/cm", printed))
        np.testing.assert_allclose(np.array(found, float), np.array(known, float), rtol=0.12)
    if name.startswith("05"):  # takes the trajectory that is there, and makes the plot anew
        assert expected in run(name, arguments, tmp_path)


PBE = """
import runpy, sys
from ase import Atoms
atoms = Atoms("HF", [[0.0, 0.0, 0.0], [0.0, 0.3, 0.9]])
calculator = atoms.calc = runpy.run_path(sys.argv[1])["calculator"](atoms)
print(atoms.get_forces()[1, 2], *atoms.get_dipole_moment())
for shift in (1e-3, -1e-3):
    moved = atoms.copy()
    moved.positions[1, 2] += shift
    moved.calc = calculator
    print(moved.get_potential_energy())
"""


def test_reference_by_pbe():
    """Forces are differences of energies; the hydrogen of HF is its positive end."""
    pytest.importorskip("pyscf")
    # In a process of its own, since PySCF leaves files open.
    done = subprocess.run(
        [sys.executable, "-c", PBE, FOLDER / "references" / "pbe.py"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    force, _, y, z, *energies = map(float, done.stdout.split()[-6:])
    assert force == pytest.approx((energies[1] - energies[0]) / 2e-3, abs=5e-3)
    assert z == pytest.approx(3 * y, rel=1e-3)
    assert -0.45 < z < -0.3  # e A; 1.8 D were measured
