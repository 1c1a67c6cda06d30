"""Training that starts from a potential: what that knows stays, and energies may count from elsewhere."""

import json

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from runs import DATA, log_rows, raw_config
from systems import make_potential

from npcalc import NPCalculator, load_potential
from npcalc.data import DataSet, from_atoms
from npcalc.train import ConfigError, Trainer, load_config, parse_config, train
from npcalc.train.start import ENOUGH, Start, _some
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
    assert card.data["started_from"]["name"] == "small"
    assert card.data["started_from"]["sha256"] == before.sha256
    assert "moved by least squares" in card.data["reference_energies"]
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
    # By another path it is the same; what is stored with the run will do for a configuration.
    copy = tmp_path / "copy.pt"
    copy.write_bytes(first.read_bytes())
    stored = json.loads((path.parent / "config.json").read_text()) | {"start_from": str(copy)}
    assert Trainer(parse_config(stored)).state["epoch"] == 2
    other = tmp_path / "other.pt"
    other.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="was made with another potential of start_from"):
        Trainer(parse_config(raw | {"start_from": str(other)}))
    with pytest.raises(ValueError, match="is what training starts from"):
        Trainer(parse_config(raw | {"start_from": path}))


def test_without_dipoles_there_is_none(raw, tmp_path):
    data = DataSet.load(raw["data"]["train"])
    data.labels.pop("dipole")
    data.save(tmp_path / "e.h5")
    raw["data"]["train"] = str(tmp_path / "e.h5")
    raw["loss"] = {"energy": 1.0, "forces": 1.0, "dipole": 0.0}
    potential = load_potential(train(parse_config(raw), progress=False))
    assert "dipole" not in potential.card.properties
    assert "forces" in potential.card.properties
    assert "dipole_mae" not in {k for k, v in potential.card.errors["validation"].items() if v}
    with pytest.raises(ValueError, match=r"set loss\.dipole: 0$"):
        Trainer(parse_config(raw | {"loss": {}}))


def with_atoms(data, energies):
    """Structures and isolated atoms before them."""
    atoms = [Atoms(symbol) for symbol in energies]
    frames = [data.atoms(k) for k in range(len(data))]
    forces = np.split(data.labels["forces"].values, data.offsets[1:-1])
    for one, energy in zip(atoms, energies.values(), strict=True):
        one.calc = SinglePointCalculator(one, energy=energy, forces=np.zeros((1, 3)))
    for k, (frame, force) in enumerate(zip(frames, forces, strict=True)):
        frame.calc = SinglePointCalculator(
            frame, energy=data.labels["energy"].values[k], forces=force
        )
    return from_atoms([*atoms, *frames])


def test_isolated_atoms_do_not_move_what_was_fitted(raw, tmp_path, first):
    data = DataSet.load(raw["data"]["train"])
    raw["loss"] = {"dipole": 0.0}
    own = dict(zip("HCO", Start.of(parse_config(raw)).card.reference_energies, strict=True))
    raw["data"]["train"] = str(tmp_path / "atoms.h5")
    with_atoms(data, {"H": -13.6, "C": -1029.0}).save(raw["data"]["train"])
    with pytest.raises(ValueError, match=r"structure 0 is an isolated H of -13\.600 eV"):
        Trainer(parse_config(raw))
    near = {symbol: energy + SHIFT / 9.0 for symbol, energy in own.items()}
    with_atoms(data, near).save(raw["data"]["train"], overwrite=True)
    trainer = Trainer(parse_config(raw))
    counts = np.array([6, 2, 1]) @ (np.array(trainer.reference) - list(own.values()))
    assert counts == pytest.approx(SHIFT, abs=0.2)
    raw["data"]["reference_energies"] = near
    with pytest.raises(ValueError, match="beside start_from"):
        Trainer(parse_config(raw))


def test_elements_that_are_not_there_are_said(raw, first):
    start = Start.of(parse_config(raw))
    frames = [molecule("CH4"), molecule("C2H6")]
    for atoms in frames:
        atoms.info["energy"] = -1.0
    with pytest.warns(
        UserWarning, match="no training structure has O: reference energies of these"
    ):
        found = start.reference_energies(from_atoms(frames))
    assert found[2] == start.card.reference_energies[2]


def test_enough_structures_have_all_elements():
    frames = [molecule("CH4")] * 2000 + [molecule("H2O")] + [molecule("CO")]
    data = from_atoms(frames)
    wanted = np.ones(len(data), dtype=bool)
    wanted[-1] = False
    chosen = _some(data, wanted)
    assert len(chosen) <= ENOUGH + 3
    assert 2000 in chosen
    assert 2001 not in chosen
    np.testing.assert_array_equal(_some(data.subset(np.arange(5)), wanted[:5]), np.arange(5))


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
        pytest.raises(ValueError, match=r"n\.h5: structure \d+ has N, the model knows H, C, O"),
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
