"""Langevin dynamics at 300 K with a progress bar, written to an HDF5 trajectory.

A run that was interrupted goes on where it stopped when it is started again. The frames are also
written as extended XYZ, which viewers read (``npcalc frames langevin.h5`` does the same).

    python md_examples/03_langevin.py [steps] [trajectory.h5]
"""

import sys
from pathlib import Path

import ase.io

from npcalc import NPCalculator
from npcalc.md import MDSettings, Trajectory, read_structure, run_md

n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
path = Path(sys.argv[2] if len(sys.argv) > 2 else "langevin.h5")

settings = MDSettings(ensemble="langevin", timestep_fs=0.5, temperature_K=300, friction_per_ps=5)
start, calculator = read_structure("ethanol"), NPCalculator("ethanol-fast")
run_md(start, calculator, n_steps, path, settings, resume=path.exists())

with Trajectory(path) as trajectory:
    temperature = trajectory.values("temperature")
    frames = trajectory.frames()
    print(f"quantities       {', '.join(trajectory.quantities)}")
    print(f"mean temperature {temperature[len(temperature) // 4 :].mean():.0f} K")
ase.io.write(path.with_suffix(".xyz"), frames)
