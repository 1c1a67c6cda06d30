"""The command line: what it writes and prints, and how it fails."""

import ctypes
import json
import os
import shutil
import subprocess
import sys

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from runs import raw_config
from systems import ethanol, make_potential
from typer.testing import CliRunner

import npcalc
from npcalc.cli import app
from npcalc.md import Trajectory, read_structure


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """File of a potential; writing it takes seconds."""
    path = tmp_path_factory.mktemp("written") / "p.pt"
    make_potential("painn", "geometry", card={"scale": 0.02, "composition": "C2H6O"}).save(path)
    return path


@pytest.fixture
def run(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(written, "p.pt")

    def call(line, code=0):
        result = CliRunner().invoke(app, line.split())
        assert result.exit_code == code, result.output + str(result.exception)
        return result.output

    return call


@pytest.mark.filterwarnings("ignore:the mean temperature")  # after half a picosecond
def test_md_resume_and_ir(run, tmp_path):
    run(
        "md ethanol -p ethanol-fast --steps 600 -q -o t.h5 --stride cell=50 --stride dipole=1 --block 300"
    )
    output = run("md ethanol --steps 1200 -q -o t.h5 --resume --temperature 900", code=1)
    assert "changed settings: it was made with temperature_K 300.0, now 900.0" in output
    output = run("md ethanol -p ethanol --steps 1200 -q -o t.h5 --resume", code=1)
    assert "changed calculator: it was made with potential 'ethanol-fast'" in output
    # Settings and potential are those of the file.
    assert "t.h5: 1200 steps" in run("md ethanol --steps 1200 -q -o t.h5 --resume")
    with Trajectory("t.h5") as trajectory:
        assert len(trajectory.values("dipole")) == 1201
        assert len(trajectory.values("cell")) == 25
        assert trajectory.settings["block"] == 300
    assert "f.xyz: 6 structures" in run("frames t.h5 -o f.xyz --every 12")
    frames = ase.io.read("f.xyz", index=":")
    with Trajectory("t.h5") as trajectory:
        np.testing.assert_allclose(
            frames[1].positions, trajectory.values("positions")[12], atol=1e-7
        )
        velocities = trajectory.values("velocities")
        assert frames[1].info["time_fs"] == trajectory.times_fs("positions")[12] == 120.0
    # Positions are stored every 20 steps, velocities every 100: after 240 steps there are none.
    assert not frames[1].get_momenta().any()
    np.testing.assert_allclose(frames[5].get_velocities() * units.fs, velocities[12], atol=1e-7)
    assert "exists" in run("frames t.h5 -o f.xyz", code=1)
    run("md ethanol -p ethanol-fast --steps 10 -q -o e.h5 --stride positions=0")
    assert "holds no positions" in run("frames e.h5 -o e.xyz", code=1)
    output = run(
        "ir t.h5 -o ir.csv --skip 0 --resolution 400 --window blackman --correction standard"
    )
    assert "resolution" in output
    table = np.loadtxt("ir.csv", delimiter=",", skiprows=1)
    assert table.shape[1] == 3
    assert np.isfinite(table).all()
    assert (tmp_path / "ir.png").exists()
    assert "exists" in run("ir t.h5 -o ir.csv --resolution 400", code=1)


@pytest.mark.filterwarnings("ignore::npcalc.DomainWarning")
def test_resume_finds_the_file_of_its_potential(run, tmp_path, monkeypatch):
    run("md CO2 -p p.pt --steps 20 -q -o t.h5 --temperature 10")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "40 steps" in run("md CO2 --steps 40 -q -o ../t.h5 --resume")
    (tmp_path / "p.pt").rename("q.pt")
    assert "no potential" in run("md CO2 --steps 60 -q -o ../t.h5 --resume", code=1)
    assert "60 steps" in run("md CO2 -p q.pt --steps 60 -q -o ../t.h5 --resume")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_resume_goes_on_where_the_run_was(run):
    run("md ethanol -p ethanol-fast --steps 20 -q -o t.h5")
    with h5py.File("t.h5", "r+") as file:
        made_with = json.loads(file.attrs["calculator"]) | {"device": "cuda"}
        file.attrs["calculator"] = json.dumps(made_with)
    assert "no CUDA device" in run("md ethanol --steps 40 -q -o t.h5 --resume", code=1)
    assert "device 'cuda', now 'cpu'" in run(
        "md ethanol --steps 40 -q -o t.h5 --resume --device cpu", code=1
    )


def test_relax(run):
    assert "after" in run("relax ethanol -p ethanol-fast -o r.xyz --fmax 0.01")
    assert "exists" in run("relax ethanol -p ethanol-fast -o r.xyz", code=1)
    output = run("relax ethanol -p ethanol-fast -o s.xyz --fmax 1e-9 --steps 2", code=1)
    assert "the structure reached is in s.xyz" in output
    assert len(read_structure("s.xyz")) == 9


@pytest.mark.filterwarnings("default::npcalc.DomainWarning")
def test_evaluate(run):
    frames = [molecule(name) for name in ("CH3CH2OH", "CH3OH", "H2O")]
    ase.io.write("in.xyz", frames)
    output = run("evaluate in.xyz -p p.pt -o out.xyz")
    assert "3 structures" in output
    assert "warning: the structure is CH4O, but potential" in output
    again = ase.io.read("out.xyz", index=":")
    calculator = npcalc.NPCalculator("p.pt", check_domain=False)
    for atoms, read in zip(frames, again, strict=True):
        assert read.get_potential_energy() == pytest.approx(calculator.get_potential_energy(atoms))
        np.testing.assert_allclose(read.get_forces(), calculator.get_forces(atoms), atol=1e-5)
        found = read.get_dipole_moment()
        np.testing.assert_allclose(found, calculator.get_dipole_moment(atoms), atol=1e-5)
    assert "exists" in run("evaluate in.xyz -p p.pt -o out.xyz", code=1)
    assert "labels" not in output
    del again[1].calc.results["forces"]
    again[0].calc.results["energy"] += 0.3
    again[2].calc.results["forces"][1, 2] -= 0.6
    ase.io.write("labelled.xyz", again)
    output = run("evaluate labelled.xyz -p p.pt -o errors.xyz")
    assert "against the labels in labelled.xyz: energy 0.1 eV, forces 0.01667 eV/A" in output


@pytest.mark.filterwarnings("ignore::npcalc.DomainWarning")
def test_evaluate_with_several(run):
    frames = [ethanol(seed=k) for k in range(3)]
    ase.io.write("in.xyz", frames)
    output = run("evaluate in.xyz -p ethanol -p ethanol-fast -o out.xyz")
    again = ase.io.read("out.xyz", index=":")
    expected = npcalc.evaluate_committee(["ethanol", "ethanol-fast"], frames)
    for atoms, results in zip(again, expected, strict=True):
        np.testing.assert_allclose(atoms.get_forces(), results["forces"], atol=1e-5)
        written = atoms.arrays["forces_deviation"]
        np.testing.assert_allclose(written, results["forces_deviation"], atol=1e-5)
        largest = atoms.info["max_force_deviation"]
        assert largest == pytest.approx(results["max_force_deviation"], abs=1e-5)
    deviations = [results["max_force_deviation"] for results in expected]
    most = int(np.argmax(deviations))
    text = (
        f"median {np.median(deviations):.4f} eV/A, most {deviations[most]:.4f} in structure {most}"
    )
    assert text in output
    same = run("evaluate in.xyz -p ethanol -p ethanol -o again.xyz", code=1)
    assert "potentials 0 and 1 of the committee are the same" in same


def test_convert_and_info(run):
    np.savez(
        "x.npz", nuclear_charges=[8, 1, 1], coords=np.eye(3)[None].repeat(2, 0),
        energies=np.zeros(2), forces=np.zeros((2, 3, 3)),
    )  # fmt: skip
    assert "2 structures with energy, forces" in run("convert x.npz x.h5")
    atoms = molecule("H2O")
    atoms.info["alpha"] = 9.8
    ase.io.write("a.xyz", atoms)
    assert "1 structures with alpha" in run("convert a.xyz a.h5 --property alpha=bohr^3")
    ase.io.write("two.xyz", [atoms, molecule("H2O")])
    output = run("convert two.xyz two.h5 --property alpha=bohr^3")
    assert "2 structures with alpha (1 of them)" in output
    assert "'alhpa' is asked for" in run("convert a.xyz b.h5 --property alhpa=bohr^3", code=1)
    assert json.loads(run("info p.pt"))["name"] == "painn-geometry"
    assert "ethanol-fast: " in run("info")
    assert npcalc.__version__ in run("--version")


def test_a_resumed_run_has_the_length_that_was_asked_for(run, monkeypatch):
    real = npcalc.md.dynamics._Run._record

    def stopped(self, step):
        if step == 120:
            raise KeyboardInterrupt
        real(self, step)

    line = "md ethanol -p ethanol-fast --no-compile -q -o t.h5 --block 50"
    with monkeypatch.context() as patched:
        patched.setattr("npcalc.md.dynamics._Run._record", stopped)
        assert "with --resume" in run(f"{line} --steps 230", code=130)
    assert "t.h5: 230 steps" in run("md ethanol -q -o t.h5 --resume")
    with h5py.File("t.h5", "r+") as file:
        del file.attrs["steps_wanted"]
    assert "give --steps" in run("md ethanol -q -o t.h5 --resume", code=1)
    assert "npcalc frames makes one" in run("evaluate t.h5 -p p.pt", code=1)


@pytest.mark.parametrize(
    "line", ["ir t.h5 --skip -3", "relax ethanol --fmax -1", "harmonic ethanol --fmax -1"]
)
def test_negative_numbers(run, line):
    assert line.split()[-2] in run(line, code=2)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("md ethanol -p nothing", "bundled potentials are"),
        ("md nothing -p p.pt", "no structure 'nothing'"),
        ("md ethanol -p p.pt --stride dipol=3", "expected QUANTITY=STEPS"),
        ("md ethanol -p p.pt --resume", "no trajectory"),
        ("md CO2 -p p.pt --timestep -1", "timestep_fs: Input should be greater than 0, got -1.0"),
        ("md CO2 -p p.pt --seed -1", "seed: Input should be greater than or equal to 0"),
        ("md NH3 -p p.pt", "npcalc: potential 'painn-geometry' does not know N"),
        ("md ethanol -p p.pt --device cuda:7", "no CUDA device"),
        ("relax ethanol -p p.pt --cell", "three periodic lattice vectors"),
        ("convert x.npz x.h5 --key energies", "expected NAME=VALUE"),
        ("ir none.h5", "no trajectory"),
        ("frames none.h5", "no trajectory"),
        ("frames none.h5 -o x.cif", "expected a name that ends in .xyz"),
        ("evaluate none.xyz -p p.pt", "no structure file"),
        ("evaluate p.pt -p p.pt", "not a file that ASE can read"),
        ("evaluate p.pt -p p.pt -o x.cif", "ends in .xyz or .extxyz"),
        ("relax ethanol -p p.pt -o x.foo", "expected a name that ends in"),
        ("relax ethanol -p p.pt -o nodir/x.xyz", "there is no folder 'nodir'"),
        ("ir none.h5 -o x.png", "ends in .csv"),
        ("convert x.npz x.xyz", "ends in .h5"),
        ("md ethanol -p p.pt -o nodir/x.h5", "there is no folder 'nodir'"),
        ("md ethanol -p p.pt --device gpu", "expected cpu, cuda or auto"),
        ("ir p.pt", "not a readable HDF5"),
        ("train none.yaml", "no configuration"),
        ("info p.txt", "no potential 'p.txt'"),
        ("convert none.npz x.h5", "no data file"),
        ("demo -p p.pt --picoseconds 1", "too short"),
        ("demo -p p.pt -o .", "not empty"),
    ],
)
def test_errors_are_one_clear_line(run, line, match):
    output = run(line, code=1)
    assert match in output
    assert "Traceback" not in output


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc"
)
def test_memory_is_kept():
    """Arrays of a step lie where those of the step before were, and are not fetched from the system."""
    script = (
        "import resource, torch\n"
        "from npcalc.cli.common import keep_memory\n"
        "{}\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def step():\n"
        "    arrays = [torch.ones(2**18) for _ in range(30)]\n"
        "step()\n"
        "before = faults()\n"
        "for _ in range(20):\n"
        "    step()\n"
        "print(faults() - before)\n"
    )
    found = []
    for call in ("pass", "keep_memory()"):
        command = [sys.executable, "-c", script.format(call)]
        found.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    assert found[1] < 0.2 * found[0]


@pytest.mark.filterwarnings("ignore::npcalc.DomainWarning")
def test_velocities_of_a_file(run):
    """They are used, and said to be, unless a temperature or a seed is asked for."""
    run("md ethanol -p ethanol-fast --steps 100 -q -o hot.h5 --ensemble nve --temperature 600")
    run("frames hot.h5 -o hot.xyz")
    nve = "md hot.xyz -p ethanol-fast --steps 10 -q --ensemble nve"
    assert "velocities are those in hot.xyz" in run(f"{nve} -o a.h5")
    assert "velocities" not in run(f"{nve} -o b.h5 --temperature 50")
    run("relax hot.xyz -p ethanol-fast -o r.xyz --fmax 0.05")
    assert "velocities" not in run("md r.xyz -p ethanol-fast --steps 10 -q -o c.h5")
    first = []
    for name in "ab":
        with Trajectory(f"{name}.h5") as trajectory:
            first.append(trajectory.values("temperature")[0])
    assert first[0] > 200.0
    assert first[1] < 150.0
    assert "--friction is that of Langevin" in run(f"{nve} -o d.h5 --friction 5", code=1)


def test_resume_with_another_structure(run, tmp_path):
    run("md ethanol -p ethanol-fast --steps 10 -q -o t.h5 --stride positions=0")
    output = run("md water --steps 20 -q -o t.h5 --resume", code=1)
    assert "is a run of C2H6O, water is H2O" in output
    assert "20 steps" in run("md gone.xyz --steps 20 -q -o t.h5 --resume")


def test_formats_that_cannot_hold_a_molecule(run, tmp_path):
    assert "VASP's format needs a cell" in run("relax ethanol -o r.vasp", code=1)
    assert not (tmp_path / "r.vasp").exists()


@pytest.mark.filterwarnings("ignore:the structure is no minimum")  # of random weights
def test_modes_without_a_dipole(run):
    make_potential("painn", "geometry", dipole=False, charges="none").save("bare.pt")
    output = run("harmonic H2O -p bare.pt --fmax 0")
    assert "1/cm\n" in output
    assert "nan" not in output
    assert "no dipole" in run("harmonic H2O -p bare.pt --fmax 0 -o x.png", code=1)


def test_training_shows_its_errors_and_all_its_keys(run, tmp_path):
    config = raw_config(tmp_path / "run", epochs=2)
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    output = run("train c.yaml -q")
    errors = npcalc.load_potential(tmp_path / "run" / "small.pt").card.errors["validation"]
    assert f"validation: mean absolute errors: energy {errors['energy_mae']:.4g} eV" in output
    assert f"forces {errors['forces_mae']:.4g} eV/A" in output
    keys = run("train --keys")
    for key in ("data.keys = None", "model.host.l_max", "loss.form = 'mse'    (mse | mae | huber)"):
        assert key in keys
    # Checkpoints may be read by whom other files may.
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "run").iterdir()}
    assert modes["checkpoint.safetensors"] == modes["config.json"]


def test_modules_that_register_hosts_are_imported(run, tmp_path):
    (tmp_path / "own_host.py").write_text(
        "from npcalc.nn.hosts import register_host\n"
        "from npcalc.nn.hosts.painn import PaiNN, PaiNNConfig\n"
        "from typing import Literal\n"
        "class OwnConfig(PaiNNConfig):\n"
        "    name: Literal['own'] = 'own'\n"
        "class Own(PaiNN):\n"
        "    pass\n"
        "register_host(OwnConfig, Own)\n"
    )
    config = raw_config(tmp_path / "run", epochs=2)
    config["model"]["host"] = {**config["model"]["host"], "name": "own"}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    call = [sys.executable, "-m", "npcalc"]
    alone = subprocess.run([*call, "train", "c.yaml", "-q"], capture_output=True, text=True)
    assert alone.returncode == 1
    assert "unknown host 'own'" in alone.stderr
    assert "--import" in alone.stderr
    for module in ("own_host", "own_host.py"):
        subprocess.run([*call, "--import", module, "train", "c.yaml", "-q"], check=True)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "random.py").touch()
    for module, message in (
        ("no_host", "npcalc: No module named"),
        ("no_host.py", "npcalc: no file"),
        ("sub/random.py", "there is a module 'random' already"),
    ):
        wrong = subprocess.run([*call, "--import", module, "info"], capture_output=True, text=True)
        assert wrong.returncode == 1
        assert message in wrong.stderr


@pytest.mark.parametrize("arguments", [["info"], ["train", "--keys"]])
def test_a_reader_that_stops_is_no_error(run, arguments):
    end, pipe = os.pipe()
    os.close(end)
    call = [sys.executable, "-m", "npcalc", *arguments]
    done = subprocess.run(call, stdout=pipe, stderr=subprocess.PIPE, text=True)
    os.close(pipe)
    assert done.returncode == 1
    assert done.stderr == ""


def test_other_broken_pipes_are_errors(run, monkeypatch):
    def broken(*_):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr(npcalc.potential.registry, "find_potential", broken)
    assert "npcalc: of a worker" in run("info ethanol", code=1)


def test_what_to_do_with_folders_and_earlier_runs(run, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.copy("p.pt", "runs/mine.pt")
    assert "'runs' is a folder: give the file of a potential, such as runs/mine.pt" in run(
        "relax ethanol -p runs", code=1
    )
    (tmp_path / "t.h5").touch()
    assert "go on with that run (--resume)" in run("md ethanol -o t.h5", code=1)
