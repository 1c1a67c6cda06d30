"""Every example runs, in a short mode, and prints what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "md_examples"

CASES = {
    "01_single_point_and_relaxation.py": ([], "relaxed dipole"),
    "02_nve_energy_drift.py": (["200"], "energy drift"),
    "03_langevin.py": (["200", "t.h5"], "mean temperature"),
    "04_dipole_trajectory.py": (["100", "t.h5"], "mean dipole"),
    "05_infrared_spectrum.py": (["1000", "."], "O-H stretch"),
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
    assert expected in run(name, arguments, tmp_path)
    if name.startswith("05"):  # takes the trajectory that is there, and makes the plot anew
        assert expected in run(name, arguments, tmp_path)
