"""Constant-energy dynamics: how well a trajectory keeps its energy.

python md_examples/02_nve_energy_drift.py [steps]
"""

import sys

import numpy as np
from ase.build import molecule
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from npcalc import NPCalculator

n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 4000

atoms = molecule("CH3CH2OH")
atoms.calc = NPCalculator("ethanol-fast")
thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(0))
Stationary(atoms)

dynamics = VelocityVerlet(atoms, timestep=0.5 * fs)
times, energies = [], []


def record():
    """Keeps the total energy of each tenth step."""
    times.append(dynamics.get_time() / fs / 1000)
    energies.append(atoms.get_total_energy())


dynamics.attach(record, interval=10)
dynamics.run(n_steps)

slope = np.polyfit(times, energies, 1)[0]
print(f"temperature      {atoms.get_temperature():.0f} K at the end of {times[-1]:.2f} ps")
print(f"energy drift     {1000 * slope / len(atoms):+.4f} meV per atom and ps")
print(f"fluctuation      {1000 * np.std(energies):.3f} meV")
