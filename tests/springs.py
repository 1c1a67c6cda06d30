"""Atoms on springs, whose dynamics are known."""

from ase.calculators.calculator import Calculator, all_changes
from systems import ethanol


class Springs(Calculator):
    """Harmonic springs to a reference geometry: physics that is known."""

    implemented_properties = ["energy", "forces", "dipole"]

    def __init__(self, reference, stiffness=5.0, broken_after=None):
        super().__init__()
        self.reference, self.stiffness, self.broken_after, self.calls = (
            reference,
            stiffness,
            broken_after,
            0,
        )

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        offset = self.atoms.positions - self.reference
        sign = 1.0 if self.broken_after is None or self.calls < self.broken_after else -50.0
        energy = 0.5 * sign * self.stiffness * (offset**2).sum()
        self.results = {
            "energy": energy,
            "forces": -sign * self.stiffness * offset,
            "dipole": offset.sum(0),
        }


def spring_system():
    atoms = ethanol(rattle=0.0)
    return atoms, Springs(atoms.positions.copy())
