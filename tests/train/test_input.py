"""What is wrong with data and configuration is said, with its place, before anything is trained."""

from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from runs import DATA, raw_config

from npcalc.data import DataSet, from_atoms
from npcalc.train import ConfigError, Trainer, export, parse_config
from npcalc.train.config import LossConfig
from npcalc.train.loss import _term


def labelled(atoms, energy=-1.0, forces=0.1):
    atoms.calc = SinglePointCalculator(
        atoms, energy=energy, forces=np.full((len(atoms), 3), forces), dipole=np.zeros(3)
    )
    return atoms


def waters(n=30, **where):
    """Waters, with other structures put where the keywords say."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(n):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=k)
        frames.append(labelled(where.get(f"at_{k}", atoms), rng.normal()))
    return frames


def config_of(tmp_path, frames, **more):
    ase.io.write(tmp_path / "d.xyz", frames)
    raw = raw_config(tmp_path / "run", epochs=2)
    data = more.pop("data", {})
    sizes = {} if "validation" in data else {"n_validation": 5}
    raw["data"] = {"train": str(tmp_path / "d.xyz"), **sizes, **data}
    for section, values in more.items():
        raw[section] |= values
    return raw


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Atoms("OH", [[0, 0, 0], [0, 0, 0.05]]), "d.xyz: structure 23 has two atoms nearer than"),
        (
            Atoms("OH", [[0, 0, 0], [0, 0, 1.0]], pbc=True),
            "d.xyz: structure 23 is periodic in 3 directions",
        ),
    ],
)
def test_structures_are_named_by_their_place_in_the_file(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        Trainer(parse_config(config_of(tmp_path, waters(at_23=bad))))


def test_an_element_that_is_not_trained(tmp_path):
    ase.io.write(tmp_path / "v.xyz", waters(38, at_36=molecule("SH2"))[30:])
    raw = config_of(tmp_path, waters(), data={"validation": str(tmp_path / "v.xyz")})
    with pytest.raises(ValueError, match=r"v.xyz: structure 6 has S, the model knows H, O"):
        Trainer(parse_config(raw))


def test_sizes_and_splits_that_do_not_fit(tmp_path):
    raw = config_of(tmp_path, waters(), data={"n_train": 28})
    with pytest.raises(ValueError, match=r"d\.xyz has 30 .* data.n_train and .* ask for, 28 and 5"):
        Trainer(parse_config(raw))
    (tmp_path / "s.txt").write_text("1\ntwo\n")
    raw = config_of(tmp_path, waters(), data={"split_file": str(tmp_path / "s.txt")})
    with pytest.raises(ValueError, match=r"s\.txt: expected one index a line"):
        Trainer(parse_config(raw))


def test_files_without_the_labels_are_named(tmp_path):
    frames = waters()
    for atoms in frames:
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.calc = None
    with pytest.raises(ValueError, match=r"d\.xyz: label 'energy' .* REF_energy \(data\.keys"):
        Trainer(parse_config(config_of(tmp_path, frames)))


def test_molecules_need_no_rank_of_a_matrix(tmp_path, monkeypatch):
    """Older versions of numpy fail at that of an empty one."""
    rank = np.linalg.matrix_rank

    def old(matrix, *args, **kwargs):
        assert np.size(matrix) > 0
        return rank(matrix, *args, **kwargs)

    monkeypatch.setattr(np.linalg, "matrix_rank", old)
    trainer = Trainer(parse_config(config_of(tmp_path, waters())))
    trainer.run(progress=False)
    assert trainer.state["epoch"] == 2


def test_places_go_through_subsets():
    data = from_atoms(waters(10)).subset([7, 3, 5]).subset([2, 0])
    assert [data.place(k) for k in range(2)] == [5, 7]


def test_settings_that_cannot_be(tmp_path):
    def refused(match, kind=ConfigError, **more):
        with pytest.raises(kind, match=match):
            Trainer(parse_config(config_of(tmp_path, waters(), **more)))

    raw = config_of(tmp_path, waters())
    with pytest.raises(ConfigError, match="'name': String should match"):
        parse_config(raw | {"name": "water/v1"})
    refused("expected auto, cpu or cuda, got 'gpu'", ValueError, training={"device": "gpu"})
    if not torch.cuda.is_available():
        refused("torch finds no GPU", ValueError, training={"device": "cuda"})
    refused(
        r"forces, and not 'energy', which has a weight",
        ValueError,
        data={"keys": {"forces": "forces"}},
    )
    refused("formal_weights need electron_weight: formal", model={"formal_weights": {"O": 8.0}})
    formal = {"electron_weight": "formal", "formal_weights": {"O": 8.0}}
    refused("^model: formal_weights has no value for H$", model=formal)
    refused(
        "says its own units: leave out those given",
        ValueError,
        data={"train": str(DATA), "units": {"energy": "eV"}},
    )


def test_a_run_may_get_another_name(tmp_path):
    raw = config_of(tmp_path, waters())
    trainer = Trainer(parse_config(raw))
    trainer.run(progress=False)
    again = Trainer(parse_config(raw | {"name": "other"}))
    assert again.state["epoch"] == 2
    assert export(again).name == "other.pt"


def test_a_damaged_configuration_of_a_run(tmp_path):
    raw = config_of(tmp_path, waters())
    Trainer(parse_config(raw)).run_state.save()
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"config.json, the configuration of the run in this folder"
    ):
        Trainer(parse_config(raw))


def test_energies_that_are_not_trained_have_no_errors(tmp_path):
    raw = config_of(tmp_path, waters(), loss={"energy": 0.0}, model={"charges": "increments"})
    trainer = Trainer(parse_config(raw))
    trainer.run(progress=False)
    errors = trainer.errors("validation").known()
    assert errors["energy_mae"] is None
    assert errors["forces_mae"] is not None
    assert errors["dipole_mae"] is not None
    raw = config_of(tmp_path, waters(), loss={"dipole": 0.0}, model={"dipole": False})
    trainer = Trainer(parse_config(raw | {"output": str(tmp_path / "other")}))
    assert trainer.errors("validation", trainer.vectors.average).known()["dipole_mae"] is None


def test_forces_without_weight_do_not_set_the_scale(tmp_path):
    """Those of relaxed structures are nearly zero."""
    data = DataSet.load(DATA).subset(np.arange(40))
    tiny = replace(data.labels["forces"], values=1e-6 * data.labels["forces"].values)
    replace(data, labels={**data.labels, "forces": tiny}).save(tmp_path / "d.h5")
    raw = raw_config(tmp_path / "run")
    raw["data"] = {"train": str(tmp_path / "d.h5"), "n_validation": 5}
    raw["loss"]["forces"] = 0.0
    assert Trainer(parse_config(raw)).scale == 1.0


def test_shares_of_a_label_weigh_what_the_label_does():
    """Of three numbers shared by four processes each has a count of 0.75; no number, no term."""
    error, present = torch.full((8, 3), 2.0), torch.zeros(8, 3)
    config = LossConfig()
    present[0] = 1.0
    parts = [_term(error[k::4], present[k::4], torch.tensor(0.75), config) for k in range(4)]
    assert sum(parts) / 4 == _term(error, present, torch.tensor(3.0), config) == 4.0
    assert _term(error, 0 * present, torch.tensor(0.0), config) == 0.0


def test_structures_to_validate_on_that_are_trained_on(tmp_path):
    frames = waters()
    ase.io.write(tmp_path / "v.xyz", [*waters(32)[30:], *frames[:3]])
    raw = config_of(tmp_path, frames, data={"validation": str(tmp_path / "v.xyz")})
    with pytest.warns(UserWarning, match=r"3 of the 5 validation structures of .*v.xyz"):
        Trainer(parse_config(raw))


def test_a_split_file_that_repeats(tmp_path):
    (tmp_path / "s.txt").write_text("3\n4\n3\n")
    raw = config_of(tmp_path, waters(), data={"split_file": str(tmp_path / "s.txt")})
    with pytest.raises(ValueError, match=r"s.txt names structure 3 more than once"):
        Trainer(parse_config(raw))


def test_untrained_weights_are_not_exported(tmp_path):
    trainer = Trainer(parse_config(config_of(tmp_path, waters())))
    with pytest.raises(ValueError, match=r"no validation of the run in .* are numbers"):
        export(trainer)
    assert not list(tmp_path.rglob("*.pt"))
