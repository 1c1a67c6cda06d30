"""Dynamics of structures with constraints."""

import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLengths
from springs import Springs, spring_system

from npcalc.md import MDExploded, MDSettings, run_md


def test_fixed_bonds_keep_their_lengths_through_a_resume(tmp_path):
    """To the bit: those of the start and not those that the resume finds."""
    settings = MDSettings(strides={"positions": 1}, block=20)
    ends = []
    for name, stops in (("whole.h5", [300]), ("parts.h5", [20, 180, 300])):
        start = molecule("CH3CH2OH")
        start.set_constraint(FixBondLengths([[0, 1], [1, 2]]))
        calculator = Springs(start.positions)
        for part, stop in enumerate(stops):
            last = run_md(start, calculator, stop, tmp_path / name, settings, part > 0, False)
        assert last.constraints[0].bondlengths is not None
        assert start.constraints[0].bondlengths is None
        ends.append(last.positions)
    np.testing.assert_array_equal(*ends)
    d = last.get_distance(0, 1)
    assert d == pytest.approx(start.get_distance(0, 1), abs=1e-9)


def test_bonds_that_cannot_be_kept_are_an_explosion(tmp_path):
    atoms = molecule("CH3CH2OH")
    atoms.set_constraint(FixBondLengths([[0, 1], [1, 2], [2, 3]]))
    settings = MDSettings(timestep_fs=40.0, temperature_K=2000.0, strides={"positions": 1})
    with pytest.raises(MDExploded, match="constraints: Did not converge"):
        run_md(atoms, Springs(atoms.positions), 500, tmp_path / "t.h5", settings, progress=False)
    assert (tmp_path / "t-exploded.xyz").exists()


def test_constraints_hold_through_a_resume(tmp_path):
    """Fixed atoms stay where they are, and the run's own constraint does not stay on the result."""
    atoms, calculator = spring_system()
    start = run_md(atoms, calculator, 10, tmp_path / "free.h5", progress=False)
    assert not start.constraints
    atoms.set_constraint(FixAtoms([0, 2]))
    last = run_md(atoms, calculator, 20, tmp_path / "t.h5", progress=False)
    last = run_md(atoms, calculator, 40, tmp_path / "t.h5", resume=True, progress=False)
    assert [c.todict() for c in last.constraints] == [FixAtoms([0, 2]).todict()]
    np.testing.assert_array_equal(last.positions[[0, 2]], atoms.positions[[0, 2]])
    assert np.abs(last.positions[1] - atoms.positions[1]).max() > 1e-4
