"""First data sets of users: few structures, sizes of all kinds, labels that vanish."""

import math
import shutil

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from runs import log_rows, raw_config

from npcalc.data import from_atoms
from npcalc.train import Trainer, parse_config
from npcalc.train.batches import Batches
from npcalc.train.export import make_card
from npcalc.train.loss import Errors


def config_of(tmp_path, frames, data=(), loss=(), model=(), **training):
    from_atoms(frames).save(tmp_path / "d.h5", overwrite=True)
    raw = raw_config(tmp_path / "run", **training)
    raw["model"] |= {"cutoff": 4.0, "dipole": False, **dict(model)}
    raw["data"] = {"train": str(tmp_path / "d.h5"), "n_validation": 5, **dict(data)}
    raw["loss"] |= {"dipole": 0.0, **dict(loss)}
    return parse_config(raw)


def labelled(atoms):
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def strained(n=20):
    """Copper cells whose forces vanish by symmetry."""
    frames = []
    for factor in np.linspace(0.96, 1.06, n):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * factor, scale_atoms=True)
        frames.append(labelled(atoms))
    return frames


def test_forces_that_vanish_by_symmetry(tmp_path):
    """The network's energies have the size of those there are."""
    trainer = Trainer(config_of(tmp_path, strained()))
    energies = trainer.batches["train"].energy / 4
    assert trainer.scale == pytest.approx(energies.std())
    assert trainer.scale > 1e-3
    trainer = Trainer(config_of(tmp_path, strained(), loss={"energy": 0.0}))
    assert trainer.scale == 1.0


def test_every_structure_is_trained_on_in_every_epoch(tmp_path):
    """One that is unlike the others does not make the loss jump from epoch to epoch."""
    frames = strained()
    frames[3].calc, frames[3].positions[0] = None, frames[3].positions[0] + 0.9
    frames[3] = labelled(frames[3])
    config = config_of(tmp_path, frames, epochs=30, learning_rate=1e-2)
    trainer = Trainer(config)
    assert len(trainer.splits["train"]) == 15
    assert trainer.steps_per_epoch == 2
    trainer.run(progress=False)
    assert trainer.state["retreats"] == 0
    assert len(log_rows(tmp_path / "run")) == 30


def test_batches_of_many_sizes_have_few_shapes():
    """Each shape is compiled anew."""
    rng = np.random.default_rng(0)
    chain = bulk("Cu", "sc", a=2.5)
    frames = [chain.repeat((int(n), 1, 1)) for n in rng.integers(1, 100, 300)]
    batches = Batches(from_atoms(frames), [29], 4.0, [0.0], [0.0], 4)
    shapes, waste = set(), []
    for _ in range(20):
        order = rng.permutation(300)
        for k in range(0, 300, 4):
            batch = batches.make(order[k : k + 4])
            shapes.add((len(batch.species), len(batch.edges)))
            waste.append(len(batch.species) / batches.n_atoms[order[k : k + 4]].sum())
    assert len(shapes) <= 1 + math.log(0.1) / math.log(0.8)
    assert np.median(waste) < 1.3


def test_a_last_batch_of_fewer_structures_has_the_shape_of_the_others():
    batches = Batches(from_atoms(strained(13)), [29], 4.0, [0.0], [0.0], 5)
    found = list(batches.ordered())
    assert len({b.edges.shape for b in found}) == 1
    assert [int(b.n_atoms.sum()) for b in found] == [21, 21, 15]  # 1 for systems that are not there


def test_best_weights_are_good_at_energies_where_forces_are_not_trained(tmp_path):
    trainer = Trainer(config_of(tmp_path, strained(), loss={"energy": 8.0, "forces": 0.0}))
    sums = torch.tensor(
        [[5.0, 25.0, 0.0, 5.0]] + [[0.0, 0.0, 0.0, 0.0]] * (len(trainer.loss.targets) - 1)
    )
    assert trainer._score(Errors.from_sums([t.name for t in trainer.loss.targets], sums)) == 8.0 / 4


def test_errors_that_are_no_numbers_choose_no_weights(tmp_path):
    trainer = Trainer(config_of(tmp_path, strained()))
    names = [t.name for t in trainer.loss.targets]
    nothing = Errors.from_sums(names, torch.full((len(names), 4), math.nan))
    assert math.isnan(trainer._score(nothing))


def test_lengths_in_another_unit(tmp_path):
    frames = strained()
    for atoms in frames:
        atoms.set_cell(atoms.cell * 100, scale_atoms=True)
        atoms.calc.atoms = atoms.copy()
    with pytest.raises(ValueError, match=r"no two atoms .* within the cutoff of 4.0 A"):
        Trainer(config_of(tmp_path, frames))


def test_isolated_atoms_leave_the_domain_as_it_is(tmp_path):
    """They lack neighbors and have another formula, which says nothing of molecules."""
    frames = [labelled(Atoms("CO", [[0, 0, 0], [0, 0, 1.1 + 0.01 * k]])) for k in range(20)]
    atoms = [labelled(Atoms(symbol)) for symbol in "CO"]
    cards = []
    for data in (frames, [*frames, *atoms]):
        trainer = Trainer(config_of(tmp_path, data, epochs=1))
        trainer.run(progress=False)
        cards.append(make_card(trainer, {}))
        shutil.rmtree(tmp_path / "run")
    assert cards[1].composition == cards[0].composition == "CO"
    assert cards[1].nearest_range == cards[0].nearest_range
    assert cards[1].nearest_range["C"]["any"][1] > 1.0
    assert (cards[0].data["isolated_atoms"], cards[1].data["isolated_atoms"]) == ([], ["C", "O"])


def test_an_element_without_training_structures(tmp_path):
    model = {"elements": ["Cu", "S"]}
    expected = (
        r"model\.elements has S, which no training structure with an energy has: there is nothing"
    )
    with pytest.raises(ValueError, match=expected):
        Trainer(config_of(tmp_path, strained(), model=model))
    without_energy = [atoms.copy() for atoms in strained()]
    for atoms in without_energy:
        atoms.symbols[0] = "S"
        atoms.calc = SinglePointCalculator(atoms, forces=np.zeros((4, 3)))
    with pytest.raises(ValueError, match=expected):
        Trainer(config_of(tmp_path, [*strained(), *without_energy], model=model))
    data = {"reference_energies": {"Cu": 0.0, "S": 0.0}}
    Trainer(config_of(tmp_path, strained(), data, model=model))
