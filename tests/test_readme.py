"""What the README shows runs, in a short mode."""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from systems import ethanol, evaluate, make_potential, rotation
from typer.testing import CliRunner

from npcalc import NPCalculator, load_potential
from npcalc.cli import app
from npcalc.model import ModelConfig, PolarizedModel
from npcalc.potential import Card, Potential, properties_of
from npcalc.potential.registry import bundled_folder
from npcalc.train import ConfigError, load_config, parse_config, train
from npcalc.train.splits import load_splits

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

SHORT = {"md": ["--no-compile", "-q"], "ir": ["--resolution", "300", "--skip", "0"]}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run_block(block, folder):
    """Runs a block as a file, because TorchScript wants to see the source."""
    path = folder / "block.py"
    path.write_text(block)
    spec = importlib.util.spec_from_file_location("block", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["block"] = module
    spec.loader.exec_module(module)
    return module


def test_python_blocks(tmp_path):
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        run_block(block, tmp_path)


def test_own_host(tmp_path):
    """The README's host is equivariant, its forces are a gradient, it trains, and its file runs."""
    (block,) = (b for b in blocks("python") if "register_host" in b)
    assert len(block.strip().splitlines()) <= 60
    run_block(block, tmp_path)
    values = {"host": {"name": "simple", "channels": 8}, "elements": ("H", "C", "O")}
    for coupling in ("paired_geometry", "paired_nodes"):
        config = ModelConfig(**values, coupling=coupling, n_neighbors=8.0)
        torch.manual_seed(0)
        weights = dict(PolarizedModel(config, torch.float64).named_parameters())
        card = Card(
            name="own", model=config, scale=1.0, reference_energies=(0, 0, 0),
            properties=properties_of(config),
        )  # fmt: skip
        potential = Potential(card, weights, "cpu", "float64")
        atoms = ethanol()
        matrix = -rotation(4)
        turned = atoms.copy()
        turned.positions = atoms.positions @ matrix.T
        a, b = evaluate(potential, atoms), evaluate(potential, turned)
        np.testing.assert_allclose(a["forces"] @ matrix.T, b["forces"], atol=1e-12)
        np.testing.assert_allclose(a["dipole"] @ matrix.T, b["dipole"], atol=1e-12)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[3, 1] += sign * 1e-4
            energies.append(evaluate(potential, moved)["energies"].sum())
        slope = (energies[0] - energies[1]) / 2e-4
        assert -slope == pytest.approx(a["forces"][3, 1], abs=1e-7)
        path = tmp_path / f"{coupling}.pt"
        potential.save(path)
        again = load_potential(path, dtype="float64")
        np.testing.assert_allclose(evaluate(again, atoms)["forces"], a["forces"], atol=1e-6)
    data = str(bundled_folder() / "data" / "ethanol-train.h5")
    config = {
        "name": "own", "output": str(tmp_path / "run"),
        "model": {"host": {"name": "simple", "channels": 8}},
        "data": {"train": data, "n_train": 20, "n_validation": 5},
        "training": {"epochs": 2, "batch_size": 5, "compile": False},
    }  # fmt: skip
    assert train(parse_config(config), progress=False).exists()
    config["model"]["host"]["chanels"] = 3
    with pytest.raises(
        ConfigError, match=r"unknown key 'model.host.chanels', the nearest known key is 'channels'"
    ):
        parse_config(config)


def test_keys_and_units(tmp_path):
    atoms = ethanol()
    atoms.info |= {"REF_energy": -154.0, "REF_dipole": np.array([1.0, 0.0, 0.0])}
    atoms.arrays["REF_forces"] = np.full((len(atoms), 3), 0.01)
    ase.io.write(tmp_path / "frames.xyz", [atoms] * 3)
    data = yaml.safe_load(blocks("yaml")[0])["data"] | {"n_validation": 1}
    raw = {"output": "run", "model": {"host": {"name": "painn"}}, "data": data}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(raw))
    with pytest.warns(UserWarning, match="are training structures too"):  # three times one
        train = load_splits(load_config(tmp_path / "train.yaml"))["train"]
    assert train.labels["energy"].values[0] == pytest.approx(-154.0 * 27.211386)
    assert train.labels["forces"].values[0, 0] == pytest.approx(0.01 * 51.422067)
    assert train.labels["dipole"].values[0, 0] == pytest.approx(0.208194, rel=1e-5)


def test_start_from(tmp_path):
    section = yaml.safe_load(blocks("yaml")[2])
    data = {"train": str(ROOT / "potentials" / "data" / "ethanol-train.h5")}
    config = parse_config({"output": str(tmp_path), "data": data, **section})
    assert config.model == load_potential(config.start_from).card.model


def test_properties():
    section = yaml.safe_load(blocks("yaml")[1])
    card = {"property_scales": (1.0, 1.0), "property_references": ((0.0, 0.0),) * 3}
    atoms = ethanol()
    atoms.calc = NPCalculator(make_potential(card=card, **section["model"]))
    atoms.get_potential_energy()
    assert list(atoms.calc.get_molecular_properties()) == ["alpha", "gap"]


@pytest.mark.filterwarnings("ignore:the mean temperature")  # of a run cut short
def test_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Compilation takes long; tests/test_package.py does it with a small potential.
    monkeypatch.setattr(Potential, "compile", lambda self: self.card.name == "ethanol")
    # What a user has trained.
    for name, of in (("first", "ethanol-fast"), ("second", "ethanol")):
        shutil.copy(ROOT / "potentials" / of / f"{of}.pt", f"{name}.pt")
    lines = [line for block in blocks("sh") for line in block.strip().splitlines()]
    assert {shlex.split(line)[1] for line in lines} >= {
        "relax",
        "md",
        "ir",
        "harmonic",
        "train",
        "compile",
        "evaluate",
    }
    for line in lines:
        program, command, *arguments = shlex.split(line)
        assert program == "npcalc"
        if command == "train":
            # Training takes long; the configuration is checked here, training in tests/train.
            assert load_config(ROOT / arguments[0]).data.train.exists()
            continue
        arguments = [re.sub(r"^(\d+)000$", r"\1", a) for a in arguments]  # 100000 steps to 100
        arguments = ["1000" if a in ("100", "200") else a for a in arguments]
        result = CliRunner().invoke(app, [command, *arguments, *SHORT.get(command, [])])
        assert result.exit_code == 0, f"{line}: {result.output}"


def test_ci_runs_the_test_command_of_the_readme():
    ci = (ROOT / ".ci" / "run").read_text()
    command = next(line for line in README.splitlines() if "pytest" in line and "venv" in line)
    assert "pip install '.[test]'" in command.replace(".venv/bin/", "")
    assert re.search(r"pip install .*'\.\[test\]'", ci)
    assert "python -m pytest" in ci
    assert "python -m pytest" in command.replace(".venv/bin/", "")


@pytest.mark.slow
def test_demo(tmp_path):
    """The README's first command, shorter and without the compiler."""
    from npcalc.demo import run_demo

    report = run_demo(tmp_path / "demo", picoseconds=8.0, compile=False, progress=False)
    assert "dipole moment" in report
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert names == {"relaxed.xyz", "trajectory.h5", "ir.csv", "ir.png"}
    assert (tmp_path / "demo" / "ir.png").read_bytes().startswith(b"\x89PNG")
