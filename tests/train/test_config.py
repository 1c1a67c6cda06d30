"""Configurations that are refused, and what is said of them."""

import pytest
import yaml
from runs import raw_config

from npcalc.train import ConfigError, load_config


def write(tmp_path, raw):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda c: c.update(traning={}),
            "unknown key 'traning', the nearest known key is 'training'",
        ),
        (
            lambda c: c["training"].update(batchsize=1),
            "'training.batchsize', the nearest known key is 'batch_size'",
        ),
        (lambda c: c["model"]["host"].update(chanels=1), "the nearest known key is 'channels'"),
        (
            lambda c: c["model"].update(properties={"gap": {"readut": "sum"}}),
            "'model.properties.gap.readut', the nearest known key is 'readout'",
        ),
        (lambda c: c["training"].update(lr=1.0), "unknown key 'training.lr'; known: "),
        (lambda c: c["model"]["host"].update(name="pain"), "model.host"),
        (lambda c: c["training"].update(epochs=0), "'training.epochs': .* got 0"),
        (lambda c: c.pop("data"), "'data' is missing"),
        (
            lambda c: c["model"].update(polarization="none"),
            "a dipole needs moving points or a charge model",
        ),
        (lambda c: c["model"].update(elements=["H", "Xq"]), "unknown chemical symbols"),
        (lambda c: c["model"].update(formal_charges={"O": -1}), "need charges"),
        (lambda c: c["model"].update(charges="formal"), "needs formal_charges"),
        (
            lambda c: c["model"].update(coupling="paired_heads", n_points=3),
            "need host.channels that are a multiple of that, got 16",
        ),
        (
            lambda c: c["model"].update(coupling="paired_heads", n_points=2, host={"name": "egnn"}),
            "host 'egnn' does not know the heads of coupling: paired_heads and .*: take paired_geometry",
        ),
        (
            lambda c: c["model"].update(coupling="paired_products", host={"name": "egnn"}),
            "host 'egnn' does not know coupling: paired_products: take paired_geometry",
        ),
        (
            lambda c: c["model"].update(coupling="paired_products", n_points=3),
            "need host.channels that are a multiple of that, got 16",
        ),
        (
            lambda c: (
                c["model"].update(coupling="paired_heads", n_points=2),
                c["model"]["host"].update(filter_rank=4),
            ),
            "host.filter_rank is not for paired_heads",
        ),
        (
            lambda c: c["model"].update(polarization="none", dipole=False, n_points=4),
            "model.n_points does nothing with polarization: none",
        ),
        (lambda c: c["model"].update(pairs="same"), "model.pairs does nothing without coupling"),
        (
            lambda c: c["model"].update(polarization="static", dipole=False, d_max=1.0),
            "model.d_max does nothing with polarization: static",
        ),
        (
            lambda c: c["loss"].update(form="mse", delta=0.1),
            "loss.delta does nothing without form: huber",
        ),
        (
            lambda c: c["data"].update(
                validation="v.h5", n_train=None, n_validation=20, split_seed=1
            ),
            "data.n_validation does nothing beside a file of .*; data.split_seed does nothing where",
        ),
        (lambda c: c["data"].update(split_file="s.txt"), "leave out validation and n_train"),
    ],
)
def test_bad_configuration(tmp_path, change, match):
    raw = raw_config(tmp_path / "run")
    change(raw)
    with pytest.raises(ConfigError, match=match):
        load_config(write(tmp_path, raw))


def test_bad_configuration_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"not valid YAML, line \d"):
        load_config(tmp_path / "x.yaml")
