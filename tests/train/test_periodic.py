"""Periodic structures: what is trained on them serves other cells; branches of dipoles are told apart."""

import warnings

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from runs import log_rows, raw_config
from systems import crystal, ethanol, make_potential

from npcalc import DomainWarning, NPCalculator, evaluate, load_potential
from npcalc.data import from_atoms
from npcalc.train import parse_config, train
from npcalc.train.batches import Batches

FORMAL = {"charges": "formal", "formal_charges": {"H": 1.0, "C": 1.0, "O": -7.0}}


def rattled(n, pbc=True):
    frames = []
    for k in range(n):
        atoms = crystal()
        atoms.pbc = pbc
        atoms.rattle(0.05, seed=k)
        frames.append(atoms)
    return frames


def config_of(tmp_path, frames, model, **training):
    from_atoms(frames).save(tmp_path / "d.h5")
    raw = raw_config(tmp_path / "run", batch_size=4, **training)
    raw["data"] = {"train": str(tmp_path / "d.h5"), "n_validation": 4}
    raw["model"] |= {"cutoff": 4.0, **model}
    return raw


@pytest.mark.parametrize("off", [0, 1])
def test_dipoles_on_other_branches_are_warned_of(tmp_path, off):
    """Dipoles of the formal charges and a bit; of every third structure also a lattice vector."""
    frames = rattled(24)
    for k, atoms in enumerate(frames):
        charges = [FORMAL["formal_charges"][s] for s in atoms.symbols]
        jump = (k % 3 == 0) * off * atoms.cell.array[k % 2]
        atoms.info["dipole"] = charges @ atoms.positions + 0.1 * np.sin([k, 2 * k, 3 * k]) + jump
    raw = config_of(tmp_path, frames, FORMAL, epochs=1)
    raw["loss"] = {"energy": 0.0, "forces": 0.0, "dipole": 1.0}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train(parse_config(raw), progress=False)
    said = [str(w.message) for w in found if "on one branch" in str(w.message)]
    assert len(said) == off
    assert all("d.h5: dipoles are off by " in text for text in said)


def test_what_is_trained_on_one_cell_serves_others(tmp_path):
    teacher = NPCalculator(make_potential("painn", "geometry-4", dipole=False))
    frames = rattled(24)
    for atoms in frames:
        found = {"energy": teacher.get_potential_energy(atoms), "forces": teacher.get_forces(atoms)}
        atoms.calc = SinglePointCalculator(atoms, **found)
    raw = config_of(tmp_path, frames, {"dipole": False, "polarization": "none"}, epochs=12)
    raw["loss"]["dipole"] = 0.0
    potential = load_potential(train(parse_config(raw), progress=False), dtype="float64")
    losses = [float(row["train_loss"]) for row in log_rows(tmp_path / "run")]
    assert losses[-1] < 0.5 * losses[0]
    assert potential.card.data["periodic"] == [True, True, True]

    calculator, atoms = NPCalculator(potential), frames[0].copy()
    energy, forces = calculator.get_potential_energy(atoms), calculator.get_forces(atoms)
    larger = atoms.repeat((2, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is no other composition
        assert calculator.get_potential_energy(larger) == pytest.approx(2 * energy, rel=1e-9)
        np.testing.assert_allclose(
            calculator.get_forces(larger), np.tile(forces, (2, 1)), atol=1e-8
        )
        evaluate(potential, [larger])
    # And is looked at: an atom that leaves its neighbors.
    larger.positions[3] += [1.1, 0.3, 0.2]
    for check in (NPCalculator(potential).get_potential_energy, lambda a: evaluate(potential, [a])):
        with pytest.warns(DomainWarning, match="nearest|outside the training domain"):
            check(larger)
    slab, mixed = atoms.repeat((2, 1, 1)), atoms.copy()
    slab.pbc = [True, True, False]
    mixed.symbols[4] = "O"
    for first, other in ((atoms.repeat((2, 1, 1)), slab), (atoms, mixed)):
        for structures in ([first, other], [other, first]):
            with pytest.warns(DomainWarning, match="was trained on C5H2O alone"):
                evaluate(potential, structures)
        calculator = NPCalculator(potential)
        calculator.get_potential_energy(first)
        with pytest.warns(DomainWarning, match="was trained on C5H2O alone"):
            calculator.get_potential_energy(other)


def test_molecules_in_boxes_are_molecules():
    boxed = ethanol()
    boxed.set_cell([20.0] * 3)
    boxed.pbc = True

    def periodic(*structures):
        return Batches(from_atoms(structures), [1, 6, 8], 4.0, [0.0] * 3, [0.0] * 3, 1).periodic

    assert periodic(boxed) is None
    assert periodic(*rattled(2)) == [True, True, True]
    assert periodic(*rattled(2, pbc=[True, False, False])) == [True, False, False]
    assert periodic(*rattled(1), *rattled(1, pbc=[True, True, False])) is None
