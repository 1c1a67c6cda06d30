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

FORMAL = [1.0, 2.0, -2.0]
CHARGES = dict(zip((1, 6, 8), FORMAL, strict=True))


def labelled(atoms, off=(0.0, 0.0, 0.0)):
    """Its dipole is that of the formal charges, and a bit, and so many lattice vectors."""
    formal = np.array([CHARGES[z] for z in atoms.numbers]) @ atoms.positions
    atoms.info["dipole"] = formal + [0.3, -0.2, 0.1] + np.array(off) @ atoms.cell.array
    return atoms


def slab():
    atoms = crystal()
    atoms.pbc = [True, True, False]
    return atoms


def batches(structures):
    return Batches(from_atoms(structures), [1, 6, 8], 4.0, [0.0] * 3, FORMAL, 2)


def test_same_branch_is_no_reason():
    away = labelled(ethanol())
    away.info["dipole"] += 50.0  # no lattice
    raised = labelled(slab())
    raised.info["dipole"] += 5.0 * np.cross(*raised.cell.array[:2])  # nor in this direction
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches([labelled(crystal(), (0.4, -0.6, 0.5)), labelled(slab()), away, raised, crystal()])


@pytest.mark.parametrize(("make", "off"), [(crystal, (0, 0, -3)), (slab, (0, 3, 0))])
def test_other_branches_are(make, off):
    structures = [labelled(crystal()), labelled(make(), off), labelled(ethanol())]
    with pytest.warns(UserWarning, match=r"1 of 3 structures .* structure 1 by [23]\.\d of them"):
        batches(structures)


def test_atoms_on_the_other_side_are():
    """The label is that of whole molecules, the positions are not."""
    atoms = labelled(crystal())
    atoms.positions[0] += 2 * atoms.cell.array[1]  # an oxygen, of -2
    with pytest.warns(
        UserWarning, match=r"structure 0 by [34]\.\d of them: .* make molecules whole"
    ):
        batches([atoms])


def test_what_is_trained_on_one_cell_serves_others(tmp_path):
    teacher = NPCalculator(make_potential("painn", "geometry-4", dipole=False))
    frames = []
    for k in range(24):
        atoms = crystal()
        atoms.rattle(0.05, seed=k)
        found = {"energy": teacher.get_potential_energy(atoms), "forces": teacher.get_forces(atoms)}
        frames.append(atoms.copy())
        frames[-1].calc = SinglePointCalculator(frames[-1], **found)
    from_atoms(frames).save(tmp_path / "d.h5")
    raw = raw_config(tmp_path / "run", epochs=12, batch_size=4)
    raw["data"] = {"train": str(tmp_path / "d.h5"), "n_validation": 4}
    raw["model"] |= {"dipole": False, "polarization": "none", "cutoff": 4.0}
    raw["loss"]["dipole"] = 0.0
    potential = load_potential(train(parse_config(raw), progress=False), dtype="float64")
    losses = [float(row["train_loss"]) for row in log_rows(tmp_path / "run")]
    assert losses[-1] < 0.5 * losses[0]
    assert potential.card.data["periodic"] is True

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
    cluster, mixed = atoms.copy(), atoms.copy()
    cluster.pbc = False
    mixed.symbols[4] = "O"
    for other in (cluster.repeat((2, 1, 1)), mixed):
        with pytest.warns(DomainWarning, match="was trained on C5H2O alone"):
            NPCalculator(potential).get_potential_energy(other)
