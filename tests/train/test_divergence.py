"""Training that diverges, and learning rates that change on the way."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import DATA, log_rows, raw_config

from npcalc.data import DataSet
from npcalc.train import Trainer, TrainingDiverged, parse_config
from npcalc.train.checkpoint import load_checkpoint


def test_wrong_labels_stop_the_training(tmp_path):
    data = DataSet.load(DATA).subset(np.arange(40))
    forces = data.labels["forces"]
    huge = replace(forces, values=np.where(np.arange(360)[:, None] == 7, 1e38, forces.values))
    replace(data, labels={**data.labels, "forces": huge}).save(tmp_path / "d.h5")
    raw = raw_config(tmp_path / "run")
    raw["data"] = {"train": str(tmp_path / "d.h5"), "n_validation": 5}
    with (
        pytest.warns(UserWarning, match="going on from epoch 0 with half the learning rate"),
        pytest.raises(
            TrainingDiverged, match=r"in epoch 0, for the 4th time, .* look for wrong labels"
        ),
    ):
        Trainer(parse_config(raw)).run(progress=False)


@pytest.mark.parametrize("kind", ["nan", "explosion"])
def test_training_that_diverges_goes_back_with_half_the_learning_rate(tmp_path, monkeypatch, kind):
    """To the last checkpoint; from then on it is what a run resumed from there would be."""
    folder = tmp_path / "run"
    raw = raw_config(folder, learning_rate=4e-3, epochs=5, checkpoint_every=2)
    trainer = Trainer(parse_config(raw))
    monkeypatch.setattr("npcalc.train.run_state.EXPLODED", 2.0)  # what is a hundredfold is soon NaN
    real, spoilt = Trainer._epoch, []

    def epoch(self, module, number):
        if number == 3 and not spoilt:
            spoilt.append(number)
            with torch.no_grad():
                self.weights.mul_(math.nan if kind == "nan" else 1.5)
        elif number == 2 and spoilt:
            shutil.copytree(folder, tmp_path / "copy")
        return real(self, module, number)

    monkeypatch.setattr(Trainer, "_epoch", epoch)
    expected = "NaN or infinite in epoch 3" if kind == "nan" else "loss of epoch 3 is"
    with pytest.warns(UserWarning, match=f"{expected}.* from epoch 2 with half .*, 0.002"):
        trainer.run(progress=False)
    assert trainer.state["epoch"] == 5
    assert trainer.state["retreats"] == 1
    table = log_rows(folder)
    assert [int(r["epoch"]) for r in table] == [1, 2, 3, 4, 5]
    assert float(table[-1]["learning_rate"]) == pytest.approx(4e-3 / 2 * 0.01)
    assert float(table[-1]["train_loss"]) < float(table[0]["train_loss"])

    monkeypatch.setattr(Trainer, "_epoch", real)
    resumed = Trainer(parse_config({**raw, "output": str(tmp_path / "copy")}))
    assert resumed.state["epoch"] == 2
    assert resumed.run_state.learning_rate == 2e-3
    resumed.run(progress=False)
    found, wanted = resumed.vectors.tensors(), trainer.vectors.tensors()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_training_that_diverges_at_once_begins_anew(tmp_path, monkeypatch):
    """Before there is a checkpoint: the first weights, and nothing written that would hold the folder."""
    trainer = Trainer(parse_config(raw_config(tmp_path / "run", learning_rate=4e-3, epochs=1)))
    real, seen = Trainer._epoch, []

    def epoch(self, module, number):
        assert not self.run_state.checkpoint.exists()
        seen.append(self.weights.detach().clone())
        if len(seen) == 1:
            with torch.no_grad():
                self.weights.fill_(math.nan)
        return real(self, module, number)

    monkeypatch.setattr(Trainer, "_epoch", epoch)
    with pytest.warns(UserWarning, match="from epoch 0 with half"):
        trainer.run(progress=False)
    assert torch.equal(*seen)
    assert float(log_rows(tmp_path / "run")[-1]["learning_rate"]) == pytest.approx(4e-3 / 2 * 0.01)


def test_a_run_goes_on_with_another_learning_rate(tmp_path):
    raw = raw_config(tmp_path / "run", learning_rate=4e-3, epochs=2)
    trainer = Trainer(parse_config(raw))
    trainer.state["retreats"] = 3
    trainer.run(progress=False)
    raw["training"] |= {"learning_rate": None, "epochs": 3}
    assert (
        Trainer(parse_config(raw)).run_state.learning_rate == 4e-3
    )  # without one, that which it had
    raw["training"] |= {"learning_rate": 1e-3, "clip": 0.5}
    for _ in range(2):  # the second start is from the same checkpoint
        trainer = Trainer(parse_config(raw))
        assert trainer.state["retreats"] == 0
        assert trainer.run_state.learning_rate == 1e-3
        rate = 1e-3 * (0.01 + 0.99 * 0.25)  # two thirds of the way down the cosine
        assert trainer.run_state.rate_now == pytest.approx(rate)
    trainer.run(progress=False)
    assert float(log_rows(tmp_path / "run")[-1]["learning_rate"]) == pytest.approx(1e-5)
    state = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1]
    assert state["learning_rate"] == 1e-3


def test_more_epochs_are_no_divergence(tmp_path):
    """The rate goes up again, and the loss with it; what is compared with begins anew."""
    raw = raw_config(tmp_path / "run", epochs=2)
    trainer = Trainer(parse_config(raw))
    trainer.run(progress=False)
    trainer.state["lowest_loss"] = 1e-9
    trainer.run_state.save()
    assert Trainer(parse_config(raw)).state["lowest_loss"] == 1e-9
    raw["training"]["epochs"] = 4
    again = Trainer(parse_config(raw))
    again.run(progress=False)
    assert again.state["retreats"] == 0
    assert again.state["epoch"] == again.state["epochs"] == 4


def test_a_retreat_to_before_more_epochs_compares_anew(tmp_path):
    raw = raw_config(tmp_path / "run", epochs=2)
    Trainer(parse_config(raw)).run(progress=False)
    raw["training"]["epochs"] = 4
    state = Trainer(parse_config(raw)).run_state
    with pytest.warns(UserWarning, match="from epoch 2 with half the learning rate"):
        state.retreat(TrainingDiverged("it rose"))
    assert state.state["lowest_loss"] is None
    state.check_loss(3.0, 3.0, 2)
    with pytest.warns(UserWarning, match="from epoch 2"):  # from the checkpoint of the retreat
        state.retreat(TrainingDiverged("it rose"))
    assert state.state["lowest_loss"] is None


def test_a_loss_of_zero_is_nothing_to_compare_with(tmp_path):
    state = Trainer(parse_config(raw_config(tmp_path / "run"))).run_state
    state.check_loss(0.0, 0.0, 0)
    state.check_loss(1.0, 1.0, 1)


@pytest.mark.parametrize("late", [False, True])
def test_one_wrong_label_is_no_divergence(tmp_path, late):
    """An epoch may leave a structure out; one that exploded stays so, also if late."""
    raw = raw_config(tmp_path / "run")
    raw["training"]["batch_size"] = 2
    trainer = Trainer(parse_config(raw))
    steps = trainer.steps_per_epoch
    assert steps >= 8
    seen = []

    def loss_of(bad):
        def module(*batch):
            seen.append(len(seen) % steps)
            return 0.0 * trainer.weights.sum() + (1000.0 if seen[-1] in bad else 1e-3), None

        return module

    trainer._epoch(loss_of(()), 0)
    assert trainer.run_state.is_settled
    assert trainer._epoch(loss_of([steps - 1]), 1) > 100 * 1e-3
    assert not trainer.run_state.is_settled  # not kept, as it might be the begin of an explosion
    assert trainer._epoch(loss_of([2, 3]), 2) > 100 * 1e-3
    assert trainer.run_state.is_settled
    assert trainer.state["lowest_loss"] == pytest.approx(1e-3)
    with pytest.raises(TrainingDiverged, match="the loss of epoch 3 is"):
        trainer._epoch(loss_of(range(steps - 3 if late else 1, steps)), 3)
