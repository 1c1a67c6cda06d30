"""A molecule of springs between all pairs of atoms, with charges: a reference that any potential can learn.

What it names ``calculator`` is of water.
"""

import numpy as np
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes


class PairSprings(Calculator):
    """Energies (eV), forces and dipoles of harmonic springs and fixed charges."""

    implemented_properties = ["energy", "forces", "dipole"]

    def __init__(self, reference, charges, stiffness=20.0):
        super().__init__()
        self.lengths, self.charges = reference.get_all_distances(), np.asarray(charges)
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        vectors = self.atoms.get_all_distances(vector=True)
        lengths = np.linalg.norm(vectors, axis=2)
        stretch = lengths - self.lengths
        units = vectors / np.maximum(lengths, 1e-9)[:, :, None]
        self.results = {
            "energy": 0.25 * self.stiffness * (stretch**2).sum(),
            "forces": self.stiffness * (stretch[:, :, None] * units).sum(1),
            "dipole": self.charges @ self.atoms.positions,
        }


calculator = PairSprings(molecule("H2O"), [-0.6, 0.3, 0.3])
