"""What the README shows runs, in a short mode."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from npcalc.cli import app
from npcalc.train import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

SHORT = {"md": ["--no-compile", "-q"], "ir": ["--resolution", "300", "--skip", "0"]}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_blocks():
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.strip().splitlines()]
    assert {shlex.split(line)[1] for line in lines} >= {"relax", "md", "ir", "harmonic", "train"}
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
