"""Small real training: it learns, resumes identically, exports; and what stops it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs import DATA, log_rows, raw_config
from systems import ethanol

from npcalc import NPCalculator, load_potential
from npcalc.data import DataSet, Label, from_atoms
from npcalc.nn.hosts import find_host
from npcalc.ops.library import find_compiler
from npcalc.train import (
    Trainer,
    parse_config,
    train,
)
from npcalc.train.batches import Batches
from npcalc.train.checkpoint import load_checkpoint, save_checkpoint
from npcalc.train.splits import load_splits
from npcalc.train.vectors import MOMENTS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = train(parse_config(raw_config(folder, epochs=12)), progress=False)
    return folder, path


def test_training_learns_energies_forces_and_dipoles(trained):
    folder, path = trained
    log = log_rows(folder)
    assert len(log) == 12
    data = DataSet.load(DATA)
    spread = np.abs(data.labels["forces"].values).mean()
    assert float(log[-1]["forces_mae"]) < 0.25 * spread
    assert float(log[-1]["forces_mae"]) < float(log[0]["forces_mae"])
    assert float(log[-1]["dipole_mae"]) < 0.5 * np.abs(data.labels["dipole"].values).mean()
    card = load_potential(path).card
    assert card.composition == "C2H6O"
    assert card.errors["validation"]["forces_mae"] == pytest.approx(
        float(log[-1]["forces_mae"]), rel=0.2
    )
    assert set(card.displacement_range) == {"H", "C", "O"}
    assert max(card.displacement_range.values()) > 0.001
    low, high = card.nearest_range["O"]["H"]
    assert 0.8 < low < 1.0 < high < 1.2
    assert not list(folder.glob("*partial*"))


def test_exported_potential_has_the_errors_of_its_card(trained):
    """The file, through the calculator, on the validation structures themselves."""
    folder, path = trained
    config = parse_config(raw_config(folder, epochs=12))
    validation = Trainer(config).splits["validation"]
    calculator = NPCalculator(path)
    forces, energies, dipoles = [], [], []
    for k in range(len(validation)):
        atoms = validation.atoms(k)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
        energies.append(atoms.get_potential_energy())
        dipoles.append(atoms.get_dipole_moment())
    labels = {k: v.values for k, v in validation.labels.items()}
    errors = calculator.potential.card.errors["validation"]
    found = np.abs(np.concatenate(forces) - labels["forces"]).mean()
    assert found == pytest.approx(errors["forces_mae"], rel=1e-3)
    assert np.abs(energies - labels["energy"]).mean() == pytest.approx(
        errors["energy_mae"], rel=1e-2
    )
    assert np.abs(dipoles - labels["dipole"]).mean() == pytest.approx(
        errors["dipole_mae"], rel=1e-3
    )
    # With one composition the zero of energy is set by the validation structures.
    assert abs((energies - labels["energy"]).mean()) < 0.01 * errors["energy_mae"]


def test_a_resumed_run_is_identical(tmp_path, monkeypatch):
    whole = parse_config(raw_config(tmp_path / "whole"))
    Trainer(whole).run(progress=False)
    broken = parse_config(raw_config(tmp_path / "broken"))
    trainer = Trainer(broken)
    real = Trainer._epoch

    def killed(self, module, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return real(self, module, epoch)

    monkeypatch.setattr(Trainer, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(progress=False)
    monkeypatch.setattr(Trainer, "_epoch", real)
    again = Trainer(broken)
    assert again.state["epoch"] == 2
    again.run(progress=False)
    a, sa = load_checkpoint(tmp_path / "whole" / "checkpoint.safetensors")
    b, sb = load_checkpoint(tmp_path / "broken" / "checkpoint.safetensors")
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert {k: v for k, v in sa.items() if k != "seconds"} == {
        k: v for k, v in sb.items() if k != "seconds"
    }
    strip = [{k: v for k, v in r.items() if k != "seconds"} for r in log_rows(tmp_path / "whole")]
    assert strip == [
        {k: v for k, v in r.items() if k != "seconds"} for r in log_rows(tmp_path / "broken")
    ]


def test_a_checkpoint_of_an_older_version_goes_on(tmp_path):
    """Which has a step for each parameter, and no moments of parameters that nothing reads."""
    config = parse_config(raw_config(tmp_path / "run", epochs=2))
    Trainer(config).run(progress=False)
    path = tmp_path / "run" / "checkpoint.safetensors"
    tensors, state = load_checkpoint(path)
    names = [k.removeprefix("weight.") for k in tensors if k.startswith("weight.")]
    step = tensors.pop("optimizer.step")
    save_checkpoint(path, tensors | {f"optimizer.step.{n}": step for n in names[1:]}, state)
    again = Trainer(config)
    assert again.optimizer.state[again.weights]["step"] == step == again.state["step"] > 0
    for key in MOMENTS:
        pieces = again.loss.pieces(again.optimizer.state[again.weights][key])
        for name in names:
            assert torch.equal(pieces[name], tensors[f"optimizer.{key}.{name}"])


@pytest.mark.slow
@pytest.mark.filterwarnings("error:compilation failed")  # the mark that is first wins
@pytest.mark.filterwarnings("ignore")  # torch's own
@pytest.mark.parametrize(
    ("coupling", "dipole"), [("paired_geometry", True), ("paired_nodes", False)]
)
def test_compiled_step_equals_eager(tmp_path, coupling, dipole):
    compiled, eager = (raw_config(tmp_path / str(c), compile=c) for c in ("auto", False))
    for raw in (compiled, eager):
        raw["model"] |= {"coupling": coupling, "dipole": dipole}
        raw["model"]["host"]["n_layers"] = 3
        raw["loss"]["dipole"] = float(dipole)
    compiled, eager = (Trainer(parse_config(raw)) for raw in (compiled, eager))
    serves = coupling == "paired_geometry" and find_compiler() is not None
    assert bool(compiled.potential.model.fused) == serves
    assert not eager.potential.model.fused
    batch = compiled.batches["train"].make(np.arange(10))
    losses, gradients = [], []
    for trainer in (compiled, eager):
        losses.append(trainer.loss(*batch)[0])
        (gradient,) = torch.autograd.grad(losses[-1], trainer.weights)
        gradients.append(trainer.loss.pieces(gradient))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
    for name, b in gradients[1].items():
        atol = 1e-3 * float(b.abs().max()) + 1e-6
        torch.testing.assert_close(gradients[0][name], b, rtol=1e-3, atol=atol, msg=name)


def test_two_processes_share_a_batch(tmp_path):
    """Data parallel through accelerate: the same weights as one process, up to rounding.

    Five structures on two processes, some without dipole: the shares are not equal.
    """
    data = DataSet.load(DATA).subset(np.arange(60))
    label = data.labels["dipole"]
    present = np.arange(60) % 3 > 0
    values = np.where(present[:, None], label.values, np.nan)
    replace(data, labels={**data.labels, "dipole": Label(values, present)}).save(
        tmp_path / "data.h5"
    )
    runs = {}
    for n in (1, 2):
        raw = raw_config(tmp_path / f"run{n}", epochs=1, batch_size=5)
        raw["data"] = {"train": str(tmp_path / "data.h5"), "n_validation": 10}
        config = tmp_path / f"{n}.yaml"
        config.write_text(yaml.safe_dump(raw))
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={n}", "--master_port=29511"]
        command = [sys.executable, "-W", "ignore", *(launch if n > 1 else []), "-m", "npcalc"]
        done = subprocess.run(
            [*command, "train", str(config), "-q"],
            capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"run{n}" / "small.pt").exists()
        runs[n] = load_checkpoint(tmp_path / f"run{n}" / "checkpoint.safetensors")[0]
    for name, value in runs[1].items():
        # The last bias cancels against that of the isolated atoms: its gradient is rounding alone.
        if name.startswith("weight.") and not name.endswith("host.readout.2.bias"):
            torch.testing.assert_close(value, runs[2][name], rtol=2e-3, atol=2e-4)


def test_another_configuration_does_not_take_over_a_run(trained):
    folder, _ = trained
    other = raw_config(folder, epochs=12)
    other["loss"]["forces"] = 2.0
    with pytest.raises(
        ValueError, match=r"holds a run with another loss\.forces, 1\.0 and not 2\.0"
    ):
        Trainer(parse_config(other))
    Trainer(parse_config(raw_config(folder, epochs=20)))  # going on for longer is allowed


def test_other_data_does_not_take_over_a_run(trained, tmp_path):
    folder, _ = trained
    DataSet.load(DATA).subset(np.arange(200)).save(tmp_path / "other.h5")
    other = raw_config(folder, epochs=12)
    other["data"]["train"] = str(tmp_path / "other.h5")
    with pytest.raises(ValueError, match="made with other data"):
        Trainer(parse_config(other))


def test_other_validation_data_does_not_take_over_a_run(tmp_path):
    data = DataSet.load(DATA)
    config = raw_config(tmp_path / "run")
    for name, rows in (("train", (0, 30)), ("validation", (30, 35))):
        data.subset(np.arange(*rows)).save(tmp_path / f"{name}.h5")
        config["data"][name] = str(tmp_path / f"{name}.h5")
    del config["data"]["n_train"], config["data"]["n_validation"]
    Trainer(parse_config(config)).run_state.save()
    # Runs from before keys that do nothing were refused may have them.
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    stored["data"] |= {"n_validation": 20, "split_seed": 1}
    stored["loss"]["delta"] = 0.1
    path.write_text(json.dumps(stored))
    Trainer(parse_config(config))
    data.subset(np.arange(30, 37)).save(tmp_path / "seven.h5")
    config["data"]["validation"] = str(tmp_path / "seven.h5")
    with pytest.raises(ValueError, match=r"made with other data\.validation structures"):
        Trainer(parse_config(config))


def test_the_stored_configuration_is_the_configuration(trained):
    """What a run writes down, read again, is the same run."""
    folder, _ = trained
    stored = parse_config(json.loads((folder / "config.json").read_text()))
    again = Trainer(stored)
    assert again.state["epoch"] == 12
    json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(("name", "given"), [("painn", None), ("egnn", None), ("egnn", 2e-3)])
def test_each_host_has_a_learning_rate(tmp_path, name, given):
    raw = raw_config(tmp_path / "run", learning_rate=given, epochs=1, warmup_steps=1)
    raw["model"]["host"] = {"name": name, "channels": 8, "n_layers": 1}
    trainer = Trainer(parse_config(raw))
    expected = given or find_host(name)[0].learning_rate
    assert trainer.run_state.rate_now == expected
    trainer.run(progress=False)
    again = Trainer(parse_config(raw))
    assert again.run_state.learning_rate == expected
    last = expected * 0.01  # the end of the cosine
    assert again.run_state.rate_now == pytest.approx(last)


def test_training_on_energies_alone(tmp_path):
    """The best weights are found by the energies, and nothing untrained is offered."""
    raw = raw_config(tmp_path / "run", epochs=3)
    raw["loss"] = {"energy": 1.0, "forces": 0.0, "dipole": 0.0}
    with pytest.raises(ValueError, match="nothing trains the dipole"):
        Trainer(parse_config(raw))
    raw["model"]["dipole"] = False
    trainer = Trainer(parse_config(raw))
    trainer.run(progress=False)
    assert trainer.state["best_epoch"] > 0
    card = load_potential(train(parse_config(raw), progress=False)).card
    assert "dipole" not in card.properties


def test_labels_to_validate_on(tmp_path):
    """Validation without dipoles chooses by forces; without any label it is refused."""
    data = DataSet.load(DATA)
    data.subset(np.arange(30, 80)).save(tmp_path / "train.h5")
    data = data.subset(np.arange(30))
    forces_only = replace(data, labels={"forces": data.labels["forces"]})
    forces_only.save(tmp_path / "forces.h5")
    replace(data, labels={}).save(tmp_path / "none.h5")
    raw = raw_config(tmp_path / "run", epochs=2)
    raw["data"] = {
        k: str(tmp_path / f) for k, f in (("train", "train.h5"), ("validation", "forces.h5"))
    }
    trainer = Trainer(parse_config(raw))
    trainer.run(progress=False)
    assert trainer.state["best_epoch"] > 0
    raw["data"]["validation"] = str(tmp_path / "none.h5")
    raw["output"] = str(tmp_path / "run2")
    with pytest.raises(ValueError, match="the best weights could not be told"):
        Trainer(parse_config(raw))


def test_split_files(tmp_path):
    raw = raw_config(tmp_path / "run")
    path = tmp_path / "split.txt"
    raw["data"] = {"train": str(DATA), "split_file": str(path), "n_validation": 7}
    np.savetxt(path, np.arange(100, 160), fmt="%d")
    splits = load_splits(parse_config(raw))
    assert len(splits["train"]) == 60
    assert len(splits["validation"]) == 7
    np.savetxt(path, np.arange(1000), fmt="%d")
    with pytest.raises(ValueError, match="names all 1000 structures"):
        load_splits(parse_config(raw))
    np.savetxt(path, [3, 1000], fmt="%d")
    with pytest.raises(ValueError, match=r"names structure 1000, but .* has 1000, counted from 0"):
        load_splits(parse_config(raw))


def test_absent_labels_are_masked(tmp_path):
    """Frames without a dipole train on energy and forces, and give the same errors elsewhere."""
    data = DataSet.load(DATA).subset(np.arange(12))
    label = data.labels["dipole"]
    present = np.arange(12) < 6
    values = np.where(present[:, None], label.values, np.nan)
    partly = replace(data, labels={**data.labels, "dipole": Label(values, present)})
    batches = [Batches(d, [1, 6, 8], 5.0, [0.0] * 3, [0.0] * 3, 12) for d in (data, partly)]
    full, part = (b.make(np.arange(12)) for b in batches)
    assert part.has_dipole.sum() == 6
    assert torch.isfinite(part.dipole).all()
    torch.testing.assert_close(part.dipole[:6], full.dipole[:6])
    assert full.edges.shape == (12 * 72, 3)
    assert full.system.max() == 12


def test_configured_label_that_no_structure_has(tmp_path):
    atoms = [ethanol(seed=k) for k in range(4)]
    for a in atoms:
        a.info["energy"] = -1.0
    from_atoms(atoms).save(tmp_path / "d.h5")
    raw = raw_config(tmp_path / "run", batch_size=1)
    raw["data"] = {"train": str(tmp_path / "d.h5"), "n_validation": 1}
    with pytest.raises(ValueError, match="label 'forces' is asked for, but no structure has it"):
        Trainer(parse_config(raw))
    raw["loss"] = {"energy": 1.0, "forces": 0.0, "dipole": 1.0}
    with pytest.raises(ValueError, match=r"label 'dipole' is asked for.*model\.dipole: false"):
        Trainer(parse_config(raw))


def test_data_with_an_element_the_model_does_not_know(tmp_path):
    raw = raw_config(tmp_path / "run")
    raw["model"]["elements"] = ["H", "C"]
    with pytest.raises(ValueError, match="has O, the model knows H, C"):
        Trainer(parse_config(raw))


def test_damaged_checkpoint(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"12345678garbage")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        Trainer(parse_config(raw_config(folder)))


@pytest.mark.parametrize(
    ("host", "dipole"),
    [
        ({"name": "mace", "channels": 4, "l_hidden": 0, "l_max": 2}, True),
        ({"name": "mace", "channels": 4, "l_max": 2, "n_layers": 1}, True),
        ({"name": "nequip", "channels": 4, "l_max": 0}, True),
        ({"name": "painn", "channels": 8, "n_layers": 1}, False),
    ],
)
def test_points_that_nothing_moves_are_refused(tmp_path, host, dipole):
    """Not a dipole of zero and an ablation that compares points at rest with themselves."""
    raw = raw_config(tmp_path / "run")
    raw["model"] = {"host": host, "dipole": dipole}
    raw["loss"]["dipole"] = float(dipole)
    with pytest.raises(ValueError, match="nothing would move the points"):
        Trainer(parse_config(raw))


def test_other_reference_energies_do_not_take_over_a_run(tmp_path, monkeypatch):
    raw = raw_config(tmp_path / "run")
    trainer = Trainer(parse_config(raw))
    trainer.run_state.save()
    Trainer(parse_config(raw))
    other = [energy + 1 for energy in trainer.reference]
    monkeypatch.setattr(Trainer, "_reference_energies", lambda self: other)
    with pytest.raises(ValueError, match="was made with other reference energies"):
        Trainer(parse_config(raw))
