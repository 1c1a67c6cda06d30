"""Dynamics, trajectories, resuming, explosions, relaxation, structures."""

import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from springs import Springs, spring_system
from systems import ethanol, make_potential

from npcalc import NPCalculator
from npcalc.md import (
    MDExploded,
    MDSettings,
    NotConverged,
    Trajectory,
    TrajectoryError,
    read_structure,
    relax,
    run_md,
)
from npcalc.md.structures import read_structures, write_structure

ALL = {
    "positions": 5,
    "velocities": 10,
    "cell": 20,
    "dipole": 2,
    "energy": 1,
    "kinetic_energy": 1,
    "temperature": 1,
}


def test_nve_conserves_energy(tmp_path):
    atoms, calculator = spring_system()
    settings = MDSettings(ensemble="nve", timestep_fs=0.25, strides=ALL)
    run_md(atoms, calculator, 2000, tmp_path / "t.h5", settings, progress=False)
    with Trajectory(tmp_path / "t.h5") as trajectory:
        total = trajectory.values("energy") + trajectory.values("kinetic_energy")
        assert len(total) == 2001
        assert np.ptp(total) < 2e-3 * trajectory.values("kinetic_energy").mean()
        assert trajectory.values("dipole").shape == (1001, 3)
        np.testing.assert_allclose(trajectory.times_fs("cell")[:2], [0.0, 5.0])
        assert str(trajectory.atoms(0).symbols) == str(atoms.symbols)
        momentum = (trajectory.values("velocities") * atoms.get_masses()[:, None]).sum(1)
        assert np.abs(momentum).max() < 1e-9


def test_nve_of_a_potential_conserves_energy(tmp_path):
    """A random network: its forces are the gradient of its energy along a whole trajectory."""
    atoms = ethanol(rattle=0.0)
    # Random forces of a trained size; larger ones tear the molecule apart.
    calculator = NPCalculator(make_potential("painn", "geometry", card={"scale": 0.02}))
    settings = MDSettings(ensemble="nve", timestep_fs=0.1, temperature_K=100, strides=ALL)
    run_md(atoms, calculator, 200, tmp_path / "t.h5", settings, progress=False)
    with Trajectory(tmp_path / "t.h5") as trajectory:
        total = trajectory.values("energy") + trajectory.values("kinetic_energy")
        assert np.ptp(total) < 1e-3
        assert np.ptp(trajectory.values("energy")) > 10 * np.ptp(total)


def test_langevin_reaches_the_temperature(tmp_path):
    atoms, calculator = spring_system()
    settings = MDSettings(friction_per_ps=50.0, timestep_fs=1.0, strides={"temperature": 10})
    run_md(atoms, calculator, 20000, tmp_path / "t.h5", settings, progress=False)
    with Trajectory(tmp_path / "t.h5") as trajectory:
        temperature = trajectory.values("temperature")[200:]
        blocks = temperature[: len(temperature) // 10 * 10].reshape(10, -1).mean(1)
    assert abs(blocks.mean() - 300.0) < 4 * blocks.std(ddof=1) / np.sqrt(10)


@pytest.mark.parametrize("ensemble", ["langevin", "nve"])
def test_a_resumed_run_is_identical(tmp_path, ensemble):
    potential = make_potential("painn", "geometry", dtype="float32", card={"scale": 0.02})
    settings = MDSettings(
        ensemble=ensemble, strides=ALL, block=20, timestep_fs=0.2, temperature_K=50
    )
    calculator = NPCalculator(potential, skin=2.0)
    run_md(ethanol(0.0), calculator, 60, tmp_path / "a.h5", settings, progress=False)
    # A kept list depends on where it was made: it is made anew at the start, after a first look at the
    # structure, and behind each of the three blocks, but for the last one, after which nothing is calculated.
    assert calculator.build.neighbors.n_searches == 1 + 1 + 2

    class Killed(NPCalculator):
        def calculate(self, *args, **kwargs):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > 50:
                raise KeyboardInterrupt
            super().calculate(*args, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        run_md(ethanol(0.0), Killed(potential), 60, tmp_path / "b.h5", settings, progress=False)
    last = run_md(
        Atoms(), NPCalculator(potential), 60, tmp_path / "b.h5", resume=True, progress=False
    )
    assert last.has("momenta")
    with Trajectory(tmp_path / "a.h5") as a, Trajectory(tmp_path / "b.h5") as b:
        for name in a.quantities:
            np.testing.assert_array_equal(a.values(name), b.values(name), err_msg=name)
            np.testing.assert_array_equal(a.times_fs(name), b.times_fs(name))


def test_a_killed_process_can_be_resumed(tmp_path):
    """SIGKILL within a block, also the first: the file opens, goes on, and ends as if nothing happened."""
    script = """
import os, signal, sys
from npcalc import NPCalculator
from npcalc.md import MDSettings, read_structure, run_md

class Calculator(NPCalculator):
    calls = 0
    def calculate(self, *args, **kwargs):
        Calculator.calls += 1
        if Calculator.calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(*args, **kwargs)

settings = MDSettings(block=20, strides={"energy": 1, "positions": 7})
run_md(read_structure("ethanol"), Calculator("ethanol-fast"), 60, sys.argv[1], settings, progress=False)
"""
    for name, last_call in (("a.h5", 0), ("b.h5", 50), ("c.h5", 10)):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            script,
            str(tmp_path / name),
            str(last_call),
        ]
        code = subprocess.run(command, timeout=300).returncode
        assert code == (-signal.SIGKILL if last_call else 0)
    for name, steps in (("b.h5", 40), ("c.h5", 0)):
        with Trajectory(tmp_path / name) as killed:
            assert 0 < len(killed.values("energy")) < 61
            assert (killed.steps_done, killed.steps_wanted) == (steps, 60)
        calculator = NPCalculator("ethanol-fast")
        run_md(Atoms(), calculator, 60, tmp_path / name, resume=True, progress=False)
        with Trajectory(tmp_path / "a.h5") as a, Trajectory(tmp_path / name) as b:
            for quantity in a.quantities:
                np.testing.assert_array_equal(a.values(quantity), b.values(quantity), quantity)


def test_a_structure_that_cannot_be_evaluated_leaves_no_file(tmp_path):
    calculator = NPCalculator(make_potential("painn", "geometry"))
    with pytest.raises(ValueError, match="does not know N"):
        run_md(molecule("NH3"), calculator, 10, tmp_path / "t.h5", progress=False)
    assert not list(tmp_path.iterdir())


def test_cells_of_frames_have_their_own_stride(tmp_path):
    atoms, calculator = spring_system()
    settings = MDSettings(strides={"positions": 2, "cell": 5})
    run_md(atoms, calculator, 20, tmp_path / "t.h5", settings, progress=False)
    with Trajectory(tmp_path / "t.h5") as trajectory:
        assert len(trajectory.atoms(10)) == len(trajectory.atoms(-1)) == 9


def test_explosion_saves_the_frame(tmp_path):
    atoms, _ = spring_system()
    calculator = Springs(atoms.positions.copy(), broken_after=300)
    with pytest.raises(MDExploded, match=r"broke down at step \d+ .*frame is saved in"):
        run_md(atoms, calculator, 5000, tmp_path / "t.h5", MDSettings(block=100), progress=False)
    frame = read_structure(tmp_path / "t-exploded.xyz")
    assert len(frame) == 9
    with Trajectory(tmp_path / "t.h5") as trajectory:
        assert len(trajectory.values("dipole")) >= 140, "the values up to the explosion are kept"


def test_files_that_exist_or_are_none(tmp_path):
    atoms, calculator = spring_system()
    path = tmp_path / "t.h5"
    run_md(atoms, calculator, 10, path, progress=False)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="exists: give another name"):
        run_md(atoms, calculator, 10, path, progress=False)
    assert path.read_bytes() == before
    with pytest.raises(TrajectoryError, match="changed settings: it was made with seed 0, now 5"):
        run_md(atoms, calculator, 20, path, MDSettings(seed=5), resume=True, progress=False)
    with pytest.raises(TrajectoryError, match="has 10 steps already, asked for are 5"):
        run_md(atoms, calculator, 5, path, resume=True, progress=False)
    assert path.read_bytes() == before
    other = NPCalculator(make_potential())
    with pytest.raises(
        TrajectoryError, match="changed calculator: it was made with class 'Springs'"
    ):
        run_md(atoms, other, 20, path, resume=True, progress=False)
    with pytest.raises(FileNotFoundError, match="no trajectory"):
        Trajectory(tmp_path / "none.h5")
    (tmp_path / "x.h5").write_text("x")
    with pytest.raises(TrajectoryError, match="not a readable HDF5"):
        Trajectory(tmp_path / "x.h5")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(TrajectoryError, match="not an npcalc trajectory"):
        Trajectory(tmp_path / "y.h5")
    with pytest.raises(OSError, match=r"."):
        run_md(atoms, calculator, 10, tmp_path / "no" / "folder" / "t.h5", progress=False)
    with Trajectory(path) as trajectory, pytest.raises(KeyError, match="has no 'cell'; it has"):
        trajectory.values("cell")


def test_settings_that_are_none_and_calculators_without_dipoles(tmp_path):
    atoms, calculator = spring_system()
    with pytest.raises(TypeError, match=r"settings: expected MDSettings\(...\), got dict"):
        run_md(atoms, calculator, 2, tmp_path / "t.h5", {"seed": 1}, progress=False)
    copper = bulk("Cu", cubic=True)
    run_md(copper, EMT(), 2, tmp_path / "t.h5", progress=False)
    with Trajectory(tmp_path / "t.h5") as trajectory:
        assert "dipole" not in trajectory.quantities


def test_a_run_of_no_steps_leaves_no_file(tmp_path):
    atoms, calculator = spring_system()
    with pytest.raises(ValueError, match="n_steps: expected 1 or more, got 0"):
        run_md(atoms, calculator, 0, tmp_path / "t.h5", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_run_killed_before_it_began_says_so(tmp_path):
    atoms, calculator = spring_system()
    Trajectory.create(tmp_path / "t.h5", atoms, MDSettings().model_dump(), {"energy": 1}).close()
    with pytest.raises(TrajectoryError, match="no state to go on from"):
        run_md(atoms, calculator, 10, tmp_path / "t.h5", resume=True, progress=False)


@pytest.mark.parametrize("strides", [{"dipol": 1}, {"dipole": 0}])
def test_bad_strides(strides):
    with pytest.raises(ValueError, match="expected at least 1 and one of positions"):
        MDSettings(strides=strides)


def test_relax():
    atoms, calculator = spring_system()
    reference = atoms.get_positions()
    atoms.rattle(0.1, seed=0)
    atoms.calc = calculator
    assert relax(atoms, fmax=1e-4) > 0
    np.testing.assert_allclose(atoms.positions, reference, atol=1e-4)
    atoms.rattle(0.1, seed=0)
    with pytest.raises(NotConverged, match="largest force"):
        relax(atoms, fmax=1e-6, max_steps=1)


def test_structures(tmp_path):
    assert read_structure("ethanol").get_chemical_formula() == "C2H6O"
    assert len(read_structure("CH4")) == 5
    with pytest.raises(FileNotFoundError, match="no structure 'unobtainium'"):
        read_structure("unobtainium")
    (tmp_path / "x.xyz").write_text("nonsense")
    with pytest.raises(ValueError, match="not a structure that ASE can read"):
        read_structure(tmp_path / "x.xyz")


def test_a_drift_of_given_velocities_is_gone_before_the_first_step(tmp_path):
    atoms, calculator = spring_system()
    atoms.set_velocities(np.full((len(atoms), 3), 0.01))
    settings = MDSettings(ensemble="nve", strides=ALL)
    run_md(atoms, calculator, 5, tmp_path / "t.h5", settings, progress=False)
    with Trajectory(tmp_path / "t.h5") as trajectory:
        assert trajectory.values("kinetic_energy")[0] == pytest.approx(0.0, abs=1e-12)


def test_momenta_that_are_all_zero_are_none(tmp_path):
    """As VASP leaves them in its files, and ASE's dynamics on structures that it was made for."""
    for temperature in (300.0, 0.0):
        atoms, calculator = spring_system()
        atoms.set_momenta(np.zeros((len(atoms), 3)))
        settings = MDSettings(ensemble="nve", strides=ALL, temperature_K=temperature)
        path = tmp_path / f"{temperature}.h5"
        run_md(atoms, calculator, 1, path, settings, progress=False)
        with Trajectory(path) as trajectory:
            assert (trajectory.values("kinetic_energy")[0] > 0.1) == (temperature > 0)


def test_blocks_of_large_structures_are_shorter(tmp_path):
    """So that a run that may not last for hours can be taken up again."""
    for n_atoms, block in ((9, 2000), (4000, 500), (80_000, 50)):
        atoms = Atoms(f"H{n_atoms}", np.arange(3.0 * n_atoms).reshape(-1, 3))
        path, springs = tmp_path / f"{n_atoms}.h5", Springs(atoms.positions.copy())
        run_md(atoms, springs, 1, path, MDSettings(strides={"energy": 1}), progress=False)
        with Trajectory(path) as trajectory:
            assert trajectory.settings["block"] == block
        settings = MDSettings(strides={"energy": 1})
        run_md(atoms, springs, 2, path, settings, resume=True, progress=False)


def test_a_resumed_run_of_many_edges_is_identical(tmp_path):
    """Atoms that move in and out of the kept list change the order of sums."""
    grid = 3.2 * np.stack(np.meshgrid(*[range(4)] * 3), -1).reshape(-1, 3)
    water = Atoms(cell=[12.8] * 3, pbc=True)
    for place in grid:
        one = molecule("H2O")
        one.positions += place
        water += one
    water.rattle(0.1, seed=0)
    potential = make_potential("painn", dtype="float32", card={"scale": 0.02})
    settings = MDSettings(strides=ALL, block=4, timestep_fs=0.5)
    for name, parts in (("a.h5", (12,)), ("b.h5", (8, 12))):
        for n in parts:
            more = {"resume": n != parts[0], "progress": False}
            run_md(water, NPCalculator(potential), n, tmp_path / name, settings, **more)
    with Trajectory(tmp_path / "a.h5") as a, Trajectory(tmp_path / "b.h5") as b:
        for name in a.quantities:
            np.testing.assert_array_equal(a.values(name), b.values(name), err_msg=name)


def test_labels_of_a_structure_give_way_to_results(tmp_path):
    atoms, calculator = spring_system()
    atoms.info |= {"energy": -1.0, "name": "trans"}
    atoms.arrays["forces"] = np.ones((len(atoms), 3))
    atoms.positions += 0.1
    atoms.calc = calculator
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    write_structure(tmp_path / "a.xyz", atoms)
    write_structure(tmp_path / "b.xyz", [atoms, atoms])
    for found in (read_structure(tmp_path / "a.xyz"), *read_structures(tmp_path / "b.xyz")):
        assert found.get_potential_energy() == pytest.approx(energy)
        np.testing.assert_allclose(found.get_forces(), forces, atol=1e-7)
        assert found.info["name"] == "trans"
    assert atoms.info["energy"] == -1.0  # the structure itself is left alone
    assert calculator.calls == 1


def test_values_and_steps_that_a_kill_left_uneven(tmp_path):
    atoms, calculator = spring_system()
    run_md(atoms, calculator, 20, tmp_path / "t.h5", MDSettings(strides=ALL), progress=False)
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file["dipole/values"].resize(7, axis=0)
        file["positions/step"].resize(3, axis=0)
        file["velocities/values"].resize(1, axis=0)
        file["cell/values"].resize(1, axis=0)
    with Trajectory(tmp_path / "t.h5") as trajectory:
        assert len(trajectory.values("dipole")) == len(trajectory.times_fs("dipole")) == 7
        frames = trajectory.frames()
        assert [frame.has("momenta") for frame in frames] == [True, False, False]
        assert trajectory.atoms() == frames[2]


def test_a_trajectory_that_another_process_writes(tmp_path):
    atoms, calculator = spring_system()
    run_md(atoms, calculator, 5, tmp_path / "t.h5", progress=False)
    code = (
        "import sys; from npcalc.md import Trajectory; t = Trajectory(sys.argv[1], 'r+'); "
        "print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "t.h5")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(TrajectoryError, match="is open in another process"):
            Trajectory(tmp_path / "t.h5")
        process.stdin.close()


def test_a_damaged_trajectory_cannot_be_resumed(tmp_path, monkeypatch):
    atoms, calculator = spring_system()
    run_md(atoms, calculator, 20, tmp_path / "t.h5", progress=False)

    def broken(*args, **kwargs):
        raise RuntimeError("addr overflow")

    monkeypatch.setattr(h5py.Dataset, "resize", broken)
    with pytest.raises(TrajectoryError, match=r"is damaged \(addr overflow\)"):
        run_md(atoms, calculator, 40, tmp_path / "t.h5", resume=True, progress=False)
