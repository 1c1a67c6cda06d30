"""The dipole moment along a trajectory, of the molecule and of its atoms.

python md_examples/04_dipole_trajectory.py [steps] [trajectory.h5]
"""

import sys
from pathlib import Path

import numpy as np

from npcalc import NPCalculator
from npcalc.md import MDSettings, Trajectory, read_structure, run_md

n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
path = sys.argv[2] if len(sys.argv) > 2 else "dipole.h5"

calculator = NPCalculator("ethanol-fast")
settings = MDSettings(temperature_K=300, strides={"dipole": 1, "positions": 10})
run_md(read_structure("ethanol"), calculator, n_steps, path, settings, resume=Path(path).exists())

with Trajectory(path) as trajectory:
    dipoles, times = trajectory.values("dipole"), trajectory.times_fs("dipole")
    atoms = trajectory.atoms()

length = np.linalg.norm(dipoles, axis=1)
print(f"{len(dipoles)} dipoles over {times[-1]:.0f} fs, as numpy arrays")
print(f"mean dipole      {length.mean():.3f} +- {length.std():.3f} e A")

# The dipole of the molecule is the sum of those of its atoms.
atomic = calculator.get_atomic_dipoles(atoms)
for symbol, dipole in zip(atoms.symbols, np.linalg.norm(atomic, axis=1), strict=True):
    print(f"  {symbol:2s} {dipole:.3f} e A")
