"""Names, shapes, units and signs of every quantity, and the only place where a unit is converted.

Inside the package and at its surface: eV, Angstrom, e, e*Angstrom, eV/Angstrom^3, amu, fs, K.

* Dipoles point from minus to plus and are never in Debye inside the package.
* Stress has ASE's sign (positive under tension) and Voigt order xx, yy, zz, yz, xz, xy.
* Rows of a cell are lattice vectors.
* ``edge_index[0]`` is the center i, which receives, ``edge_index[1]`` the neighbor j, and the edge
  vector is ``r_j - r_i + shift @ cell``.
* Born effective charges are ``Z[i, a, b] = d mu_a / d r_(i,b)``: atom, dipole component, position
  component; of a charged system with mu about the coordinate origin, so that they add up to the charge.
* A dipole of a charged system depends on the origin: models return it, and are trained on it, about the
  coordinate origin; the ASE calculator has it about the centre of mass. A dipole of a periodic system is
  defined only up to lattice quanta; it is computed from edge vectors and unwrapped positions, so that it
  is continuous in time.
"""

from typing import NamedTuple

from ase import units as _ase

FS = _ase.fs
"""One femtosecond in ASE's unit of time."""

KB = _ase.kB
"""Boltzmann constant in eV/K."""

EV_PER_HARTREE = _ase.Hartree
EV_PER_KCAL_MOL = _ase.kcal / _ase.mol
ANGSTROM_PER_BOHR = _ase.Bohr
E_ANGSTROM_PER_DEBYE = _ase.Debye

SPEED_OF_LIGHT_CM_PER_FS = _ase._c * 100.0 * 1e-15
KM_PER_MOL = 974.8801
"""Harmonic infrared intensity in km/mol of |d mu/dQ|^2 = 1 e^2/amu: N_A e^2 / (12 eps0 c^2 amu)."""

INVERSE_CM_PER_EV = 1.0 / _ase.invcm
KELVIN_PER_INVERSE_CM = _ase.invcm / _ase.kB
"""hbar omega / k_B T is the wavenumber in 1/cm times this, divided by the temperature."""

HBAR = _ase._hbar * _ase.J * _ase.s
"""Planck's reduced constant in eV times ASE's unit of time, which is sqrt(amu A^2 / eV)."""

AMU_A2_PER_FS2_IN_EV = 1.0 / _ase.fs**2


class Field(NamedTuple):
    """What a named quantity is.

    Attributes:
        unit: Unit inside the package.
        level: ``"system"``, ``"atom"`` or ``"edge"``: what its first axis runs over.
        shape: Shape behind the first axis.
        meaning: One line for people.
        partial: Whether a label may be absent (NaN) on some atoms of a structure that has it.
    """

    unit: str
    level: str
    shape: tuple[int, ...]
    meaning: str
    partial: bool = False


FIELDS: dict[str, Field] = {
    "energy": Field("eV", "system", (), "potential energy"),
    "energies": Field("eV", "atom", (), "potential energy of each atom; adds up to the energy"),
    "forces": Field("eV/A", "atom", (3,), "minus the gradient of the energy"),
    "virial": Field("eV", "system", (3, 3), "derivative of the energy by strain: stress * volume"),
    "stress": Field("eV/A^3", "system", (6,), "stress, Voigt order xx yy zz yz xz xy"),
    "dipole": Field("e*A", "system", (3,), "electric dipole moment, from minus to plus"),
    "charges": Field("e", "atom", (), "partial charges of the charge model"),
    "displacements": Field("A", "atom", (-1, 3), "electron points minus nucleus (n_points, 3)"),
    "centroids": Field(
        "A", "atom", (3,), "mean of the electron points by weight, minus nucleus", partial=True
    ),
    "born_effective_charges": Field(
        "e", "atom", (3, 3), "d dipole_a / d position_b of each atom: Z[i, a, b]"
    ),
    "positions": Field("A", "atom", (3,), "Cartesian coordinates"),
    "velocities": Field("A/fs", "atom", (3,), "Cartesian velocities"),
    "cell": Field("A", "system", (3, 3), "lattice vectors as rows"),
    "kinetic_energy": Field("eV", "system", (), "kinetic energy"),
    "temperature": Field("K", "system", (), "temperature of the kinetic energy"),
    "time": Field("fs", "system", (), "simulation time"),
}

ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": EV_PER_KCAL_MOL,
    "kJ/mol": _ase.kJ / _ase.mol,
    "hartree": EV_PER_HARTREE,
}
LENGTH_UNITS = {"A": 1.0, "bohr": ANGSTROM_PER_BOHR, "nm": 10.0}
DIPOLE_UNITS = {"e*A": 1.0, "D": E_ANGSTROM_PER_DEBYE, "e*bohr": ANGSTROM_PER_BOHR}


def unit_factor(table: dict[str, float], name: str, what: str) -> float:
    """Factor from a named unit to the package's own.

    Args:
        table: One of the unit tables of this module.
        name: Name of the unit.
        what: Name of the quantity for the message.

    Returns:
        The value in package units of one ``name``.

    Raises:
        ValueError: The unit is not in the table.
    """
    if name not in table:
        known = ", ".join(table)
        raise ValueError(f"unknown unit {name!r} of {what}: expected one of {known}")
    return table[name]
