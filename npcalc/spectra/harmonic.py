"""Normal modes and harmonic infrared intensities from a Hessian and Born charges."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ..conventions import HBAR, INVERSE_CM_PER_EV, KM_PER_MOL

Array = NDArray[np.float64]

IMAGINARY = 5.0
"""Frequencies below minus this, in 1/cm, are warned of; smaller ones may be what forces are left."""


@dataclass(frozen=True)
class HarmonicSpectrum:
    """Normal modes without translations and rotations.

    Attributes:
        frequencies: 1/cm, ascending, shape (n_modes,); an imaginary one is negative.
        intensities: km/mol, shape (n_modes,); NaN where the potential has no dipole.
        modes: Mass-weighted unit vectors, shape (n_modes, n_atoms, 3).
    """

    frequencies: Array
    intensities: Array
    modes: Array


def rigid_motions(atoms: Atoms) -> Array:
    """Orthonormal mass-weighted translations and, without periodicity, rotations.

    Args:
        atoms: Structure.

    Returns:
        Rows, shape (n, 3 n_atoms): 6 for a molecule, 5 for a linear one, 3 for a crystal or an atom.
    """
    root = np.sqrt(atoms.get_masses())
    rows = [np.outer(root, axis).ravel() for axis in np.eye(3)]
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.get_center_of_mass()
        rows += [(root[:, None] * np.cross(axis, arms)).ravel() for axis in np.eye(3)]
    _, size, vectors = np.linalg.svd(np.array(rows), full_matrices=False)
    # A relaxed linear molecule is bent by some 1e-5 A, and rotates about its axis no more for that.
    return vectors[size > 1e-3 * size.max()]


def harmonic_spectrum(atoms: Atoms, hessian: Array, born_charges: Array) -> HarmonicSpectrum:
    """Frequencies and infrared intensities of a relaxed structure.

    With mass-weighted normal coordinates Q the intensity is 974.88 km/mol * |d mu/dQ|^2 in e^2/amu.

    Args:
        atoms: Structure; its masses are used.
        hessian: Second derivatives in eV/A^2, shape (3 n_atoms, 3 n_atoms).
        born_charges: ``Z[i, a, b] = d mu_a / d r_(i,b)`` in e, shape (n_atoms, 3, 3).

    Returns:
        The modes.

    Raises:
        ValueError: An array has the wrong shape.
    """
    n = len(atoms)
    if hessian.shape != (3 * n, 3 * n) or born_charges.shape != (n, 3, 3):
        raise ValueError(
            f"expected a Hessian of shape {(3 * n, 3 * n)} and Born charges of shape {(n, 3, 3)}, got "
            f"{hessian.shape} and {born_charges.shape}"
        )
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    rigid = rigid_motions(atoms)
    # The rows of the complement span the internal motions.
    internal = np.linalg.svd(rigid)[2][len(rigid) :]
    values, vectors = np.linalg.eigh(internal @ (hessian / np.outer(root, root)) @ internal.T)
    modes = vectors.T @ internal
    energy = HBAR * np.sqrt(np.abs(values))  # sqrt(eV/(A^2 amu)) is 1 over ASE's unit of time
    slopes = born_charges.transpose(1, 0, 2).reshape(3, 3 * n) @ (modes / root).T
    return HarmonicSpectrum(
        frequencies=np.sign(values) * energy * INVERSE_CM_PER_EV,
        intensities=KM_PER_MOL * (slopes**2).sum(axis=0),
        modes=modes.reshape(-1, n, 3),
    )


def calculate_harmonic_spectrum(atoms: Atoms) -> HarmonicSpectrum:
    """The same with the Hessian and Born charges of the attached `NPCalculator`.

    Args:
        atoms: Relaxed structure with a calculator.

    Returns:
        The modes; without intensities, that is NaN, where the potential has no dipole.

    Raises:
        TypeError: The calculator is another one.

    Warns:
        UserWarning: The structure has constraints, or is no minimum.
    """
    calculator: Any = atoms.calc
    if not hasattr(calculator, "get_hessian"):
        raise TypeError(
            f"atoms.calc: expected an NPCalculator, which has second derivatives, got "
            f"{type(calculator).__name__}; of others ase.vibrations has them by differences"
        )
    if atoms.constraints:
        warnings.warn(
            "the structure has constraints, which normal modes do not know: they are those of all atoms "
            "moving freely, and mean something only where all forces vanish",
            stacklevel=2,
        )
    born = np.full((len(atoms), 3, 3), np.nan)
    if "born_effective_charges" in calculator.implemented_properties:
        born = calculator.get_born_effective_charges(atoms)
    lines = harmonic_spectrum(atoms, calculator.get_hessian(atoms), born)
    imaginary = lines.frequencies[lines.frequencies < -IMAGINARY]
    if len(imaginary):
        warnings.warn(
            f"the structure is no minimum: {len(imaginary)} of its frequencies, those below zero, are "
            f"imaginary (lowest {imaginary[0]:.0f} 1/cm); relax it to smaller forces, or, of a saddle point, "
            f"move the atoms along the mode and relax again",
            stacklevel=2,
        )
    return lines
