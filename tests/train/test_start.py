"""Training that starts from a potential: what that knows stays, and energies may count from elsewhere."""

import numpy as np
import pytest
import yaml
from ase.build import molecule
from runs import DATA, log_rows, raw_config
from systems import make_potential

from npcalc import NPCalculator, load_potential
from npcalc.data import DataSet, from_atoms
from npcalc.train import ConfigError, Trainer, load_config, parse_config, train
from npcalc.train.start import Start
from npcalc.train.targets import PropertyFit

SHIFT = 3.0


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A small potential of ethanol."""
    folder = tmp_path_factory.mktemp("first")
    return train(parse_config(raw_config(folder, epochs=6)), progress=False)


@pytest.fixture
def raw(tmp_path, first):
    """A run that starts from it with other structures, whose energies count from elsewhere."""
    data = DataSet.load(DATA).subset(np.arange(400, 430))
    data.labels["energy"].values[:] += SHIFT
    data.save(tmp_path / "d.h5")
    found = raw_config(tmp_path / "run", epochs=2)
    del found["model"]
    return found | {
        "name": "second",
        "start_from": str(first),
        "data": {"train": str(tmp_path / "d.h5"), "n_validation": 10},
    }


def test_first_step_has_what_is_known(raw, first):
    raw["training"] |= {"learning_rate": 1e-9, "epochs": 1}
    path = train(parse_config(raw), progress=False)
    potential, before = load_potential(path), load_potential(first)
    card = potential.card
    assert card.model == before.card.model
    assert card.scale == before.card.scale
    assert card.data["started_from"] == "small"
    atoms = molecule("CH3CH2OH")
    calculators = NPCalculator(potential), NPCalculator(before)
    new, old = ([c.get_forces(atoms), c.get_dipole_moment(atoms)] for c in calculators)
    for a, b in zip(new, old, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    energies = [c.get_potential_energy(atoms) for c in calculators]
    # Apart by the shift and the mean error of the few structures there are.
    assert energies[0] - energies[1] == pytest.approx(SHIFT, abs=0.2)
    # The first validation has errors of a trained network.
    row = log_rows(path.parent)[0]
    assert float(row["energy_mae"]) < 0.3


def test_less_is_to_be_learned(raw, first):
    anew = raw | {"name": "anew", "output": raw["output"] + "-anew"}
    del anew["start_from"]
    anew["model"] = {"host": load_potential(first).card.model.host.model_dump()}
    errors = {}
    for run in (raw, anew):
        row = log_rows(train(parse_config(run), progress=False).parent)[-1]
        errors[run["name"]] = float(row["forces_mae"])
    assert errors["second"] < 0.7 * errors["anew"]


def test_run_goes_on_and_not_from_another_potential(raw, tmp_path, first):
    path = train(parse_config(raw), progress=False)
    assert Trainer(parse_config(raw)).state["epoch"] == 2
    # Another one of the same network has other errors, hence other reference energies.
    raw["start_from"] = str(path)
    with pytest.raises(ValueError, match="reference energies"):
        Trainer(parse_config(raw))


def test_without_dipoles_there_is_none(raw, tmp_path):
    data = DataSet.load(raw["data"]["train"])
    data.labels.pop("dipole")
    data.save(tmp_path / "e.h5")
    raw["data"]["train"] = str(tmp_path / "e.h5")
    raw["loss"] = {"energy": 1.0, "forces": 1.0, "dipole": 0.0}
    potential = load_potential(train(parse_config(raw), progress=False))
    assert "dipole" not in potential.card.properties
    assert "forces" in potential.card.properties


def test_rate_is_lower(raw):
    del raw["training"]["learning_rate"]
    trainer = Trainer(parse_config(raw))
    usual = trainer.model_config.host.learning_rate
    assert trainer.state["learning_rate"] == pytest.approx(0.1 * usual)


def test_path_is_relative_to_the_configuration(raw, tmp_path, first):
    (tmp_path / "first.pt").write_bytes(first.read_bytes())
    raw["start_from"] = "first.pt"
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(raw))
    config = load_config(tmp_path / "t.yaml")
    assert config.start_from == str(tmp_path / "first.pt")
    assert config.model.host.channels == 16


def test_what_is_wrong_is_said(raw, tmp_path):
    with pytest.raises(ConfigError, match="leave model out"):
        parse_config(raw | {"model": {"host": {"name": "painn"}}})
    with pytest.raises(FileNotFoundError, match="bundled potentials are"):
        parse_config(raw | {"start_from": "nothing"})
    with pytest.raises(ValueError, match=r"d\.h5'.* not "):
        parse_config(raw | {"start_from": raw["data"]["train"]})
    atoms = molecule("NH3")
    atoms.info["energy"], atoms.arrays["forces"] = -1.0, np.zeros((4, 3))
    from_atoms([atoms] * 12).save(tmp_path / "n.h5")
    raw["data"]["train"] = str(tmp_path / "n.h5")
    raw["loss"] = {"dipole": 0.0}
    with (
        pytest.warns(UserWarning, match="are training structures too"),  # twelve times one
        pytest.raises(ValueError, match=r"n\.h5: .*does not know N"),
    ):
        Trainer(parse_config(raw))


def test_molecular_properties_keep_their_units():
    sections = {"volume": {"unit": "A^3"}, "gap": {"readout": "mean", "unit": "eV"}}
    references = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
    card = {"property_scales": (2.0, 0.5), "property_references": references}
    potential = make_potential(properties=sections, card=card)
    n = len(references)
    fit = PropertyFit(potential.card.model, np.zeros((n, 2)), np.ones(2), np.array([0.3, 0.7]))
    kept = Start(potential.card, potential.weights).keep_units(fit)
    np.testing.assert_array_equal(kept.references, references)
    np.testing.assert_array_equal(kept.scales, (2.0, 0.5))
    np.testing.assert_array_equal(kept.spreads, fit.spreads)
