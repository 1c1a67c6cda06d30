"""Langevin dynamics at 300 K with a progress bar, written to an HDF5 trajectory.

A run that was interrupted goes on where it stopped: call it with ``resume=True``.

    python md_examples/03_langevin.py [steps] [trajectory.h5]
"""

import sys

from npcalc import NPCalculator
from npcalc.md import MDSettings, Trajectory, read_structure, run_md

n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
path = sys.argv[2] if len(sys.argv) > 2 else "langevin.h5"

settings = MDSettings(ensemble="langevin", timestep_fs=0.5, temperature_K=300, friction_per_ps=5)
run_md(read_structure("ethanol"), NPCalculator("ethanol-fast"), n_steps, path, settings)

with Trajectory(path) as trajectory:
    temperature = trajectory.values("temperature")
    print(f"quantities       {', '.join(trajectory.quantities)}")
    print(f"mean temperature {temperature[len(temperature) // 4 :].mean():.0f} K")
