"""Energy, forces, dipole and electron points of ethanol, and its relaxed structure.

python md_examples/01_single_point_and_relaxation.py
"""

import numpy as np
from ase import units
from ase.build import molecule
from ase.optimize import BFGS

from npcalc import NPCalculator

atoms = molecule("CH3CH2OH")
# Double precision lets the relaxation reach small forces.
atoms.calc = NPCalculator("ethanol", dtype="float64")

print(f"energy           {atoms.get_potential_energy():.4f} eV")
print(f"largest force    {np.abs(atoms.get_forces()).max():.3f} eV/A")

# The potential is an ordinary ASE calculator, so any optimizer works on it.
BFGS(atoms, logfile=None).run(fmax=1e-4)
dipole = np.linalg.norm(atoms.get_dipole_moment())
print(f"relaxed energy   {atoms.get_potential_energy():.4f} eV")
print(f"relaxed dipole   {dipole:.3f} e A = {dipole / units.Debye:.2f} D")

# Each atom is a nucleus and one or more electron points, which the network moves.
moved = np.linalg.norm(atoms.calc.get_electron_displacements(atoms), axis=-1).mean(axis=1)
for symbol, length in zip(atoms.symbols, moved, strict=True):
    print(f"  electron points of {symbol:2s} moved by {length:.3f} A")
