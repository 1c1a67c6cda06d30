"""Which structures are trained on."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from runs import DATA, raw_config

from npcalc.data import DataSet, from_atoms
from npcalc.train import Trainer, parse_config
from npcalc.train.splits import load_splits


@pytest.fixture
def config(tmp_path):
    """Of ten molecules and, between them, an atom in a box and one without."""
    known = DataSet.load(DATA).subset(np.arange(10))
    molecules = [known.atoms(k) for k in range(10)]
    boxed, alone = Atoms("H", pbc=True, cell=[12.0] * 3), Atoms("O")
    energies = [*known.labels["energy"].values, -13.0, -2041.0]
    forces = [*known.labels["forces"].values.reshape(10, 9, 3), np.zeros((1, 3)), np.zeros((1, 3))]
    for atoms, energy, force in zip([*molecules, boxed, alone], energies, forces, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=force)
    data = from_atoms([*molecules[:3], boxed, *molecules[3:8], alone, *molecules[8:]])
    data.save(tmp_path / "d.h5")
    raw = raw_config(tmp_path / "run")
    raw["loss"] |= {"dipole": 0.0}
    raw["model"] |= {"dipole": False}
    raw["data"] = {"train": str(tmp_path / "d.h5"), "n_train": 3, "n_validation": 2}
    return raw


def numbers_of(data):
    return sorted(data.n_atoms.tolist())


def test_isolated_atoms_are_trained_on_wherever_they_are(config, tmp_path):
    splits = load_splits(parse_config(config))
    assert numbers_of(splits["train"]) == [1, 1, 9, 9, 9]
    assert numbers_of(splits["validation"]) == [9, 9]
    trainer = Trainer(parse_config(config))
    assert trainer.elements == [1, 6, 8]
    assert [trainer.reference[k] for k in (0, 2)] == pytest.approx([-13.0, -2041.0])

    np.savetxt(tmp_path / "split.txt", [0, 2, 9], fmt="%d")
    config["data"] = {"train": config["data"]["train"], "split_file": str(tmp_path / "split.txt")}
    splits = load_splits(parse_config(config))
    assert splits["train"].n_atoms.tolist() == [9, 9, 1, 1]
    assert numbers_of(splits["validation"]) == [9] * 8

    config["data"] = {
        "train": config["data"]["train"],
        "validation": str(DATA.with_name("ethanol-test.h5")),
    }
    assert numbers_of(load_splits(parse_config(config))["train"]) == [1, 1] + [9] * 10


def test_isolated_atoms_of_other_elements_are_left_out(config):
    for elements, n_isolated in ((["C", "H", "O"], 2), (["H"], 1)):
        config["model"]["elements"] = elements
        splits = load_splits(parse_config(config))
        assert numbers_of(splits["train"]) == [1] * n_isolated + [9] * 3


def test_isolated_atoms_alone_cannot_be_trained_on(config, tmp_path):
    data = DataSet.load(tmp_path / "d.h5")
    data.subset(np.flatnonzero(data.n_atoms == 1)).save(tmp_path / "atoms.h5")
    config["data"]["train"] = str(tmp_path / "atoms.h5")
    with pytest.raises(ValueError, match="isolated atoms alone: there is nothing to train on"):
        load_splits(parse_config(config))
