"""The shipped potentials: golden numbers, physics, errors on the official test frames."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from systems import evaluate, make_graph, rotation

from npcalc import NPCalculator, load_potential
from npcalc.data import DataSet
from npcalc.md import MDSettings, Trajectory, relax, run_md
from npcalc.ops.library import find_compiler
from npcalc.potential import bundled_potentials
from npcalc.potential.registry import bundled_folder
from npcalc.spectra import calculate_harmonic_spectrum

NAMES = ("ethanol", "ethanol-fast")
GOLDEN = json.loads((Path(__file__).parent / "golden" / "potentials.json").read_text())
STEP = 1e-4


def test_what_is_bundled():
    assert set(bundled_potentials()) == set(NAMES) == set(GOLDEN)
    for path in bundled_potentials().values():
        assert (path.parent / "train.yaml").exists()
        assert (path.parent / "README.md").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_golden_numbers(name, dtype):
    tolerance = {"float64": 1e-8, "float32": 5e-4}[dtype]
    for row in GOLDEN[name]:
        atoms = molecule("CH3CH2OH")
        if row["rattle_seed"] is not None:
            atoms.rattle(0.05, seed=row["rattle_seed"])
        atoms.calc = NPCalculator(name, dtype=dtype)
        assert atoms.get_potential_energy() == pytest.approx(row["energy"], abs=tolerance)
        np.testing.assert_allclose(atoms.get_forces(), row["forces"], atol=tolerance)
        np.testing.assert_allclose(atoms.get_dipole_moment(), row["dipole"], atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_errors_on_the_test_frames_are_those_of_the_card(name):
    """Every tenth official test frame, through the file and the calculator."""
    test = DataSet.load(bundled_folder() / "data" / "ethanol-test.h5")
    part = test.subset(np.arange(0, len(test), 10))
    calculator = NPCalculator(name)
    forces, energies, dipoles = [], [], []
    for k in range(len(part)):
        atoms = part.atoms(k)
        atoms.calc = calculator
        forces.append(atoms.get_forces())
        energies.append(atoms.get_potential_energy())
        dipoles.append(atoms.get_dipole_moment())
    card = calculator.potential.card
    found = np.abs(np.concatenate(forces) - part.labels["forces"].values).mean()
    assert found == pytest.approx(card.errors["test"]["forces_mae"], rel=0.25)
    found = np.abs(energies - part.labels["energy"].values).mean()
    assert found == pytest.approx(card.errors["test"]["energy_mae"], rel=0.35)
    found = np.nanmean(np.abs(dipoles - part.labels["dipole"].values))
    assert found == pytest.approx(card.errors["test"]["dipole_mae"], rel=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_symmetry(name):
    potential = load_potential(name, dtype="float64")
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    matrix = -rotation(8)
    order = np.random.default_rng(0).permutation(9)
    turned = atoms[order]
    turned.positions = turned.positions @ matrix.T + [3.0, 2.0, 1.0]
    a, b = evaluate(potential, atoms), evaluate(potential, turned)
    assert a["energies"].sum() == pytest.approx(b["energies"].sum(), abs=1e-9)
    for key in ("forces", "displacements", "atomic_dipoles"):
        scale = np.abs(a[key]).max()
        np.testing.assert_allclose(a[key][order] @ matrix.T, b[key], atol=1e-10 * scale)
    born = [
        potential.born_effective_charges(make_graph(potential, x)).numpy() for x in (atoms, turned)
    ]
    np.testing.assert_allclose(matrix @ born[0][order] @ matrix.T, born[1], atol=1e-9)
    assert np.abs(born[0].sum(0)).max() < 1e-9
    assert np.linalg.norm(a["displacements"], axis=-1).max() < potential.card.model.d_max


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name):
    potential = load_potential(name, dtype="float64")
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    out = evaluate(potential, atoms)
    born = potential.born_effective_charges(make_graph(potential, atoms)).numpy()
    reference = np.array(potential.card.reference_energies)
    species = make_graph(potential, atoms).species.numpy()
    scale = np.abs(out["forces"]).max()
    for i, a in ((0, 0), (2, 1), (3, 2)):
        energies, dipoles = [], []
        for k in (1, -1, 2, -2):
            moved = atoms.copy()
            moved.positions[i, a] += k * STEP
            new = evaluate(potential, moved)
            energies.append((new["energies"] - reference[species]).sum())
            dipoles.append(new["dipole"][0])

        def slope(v):
            return (8 * (v[0] - v[1]) - (v[2] - v[3])) / (12 * STEP)

        assert -slope(energies) == pytest.approx(out["forces"][i, a], abs=1e-6 * scale)
        np.testing.assert_allclose(slope(dipoles), born[i, :, a], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_hessian(name):
    potential = load_potential(name, dtype="float64")
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    hessian = potential.hessian(make_graph(potential, atoms)).numpy()
    for i, a in ((1, 0), (4, 2)):
        forces = []
        for k in (1, -1, 2, -2):
            moved = atoms.copy()
            moved.positions[i, a] += k * STEP
            forces.append(evaluate(potential, moved)["forces"])
        slope = (8 * (forces[0] - forces[1]) - (forces[2] - forces[3])) / (12 * STEP)
        scale = np.abs(hessian).max()
        np.testing.assert_allclose(-slope.ravel(), hessian[3 * i + a], atol=1e-6 * scale)


def packed():
    """An ethanol in a cell so small that it touches its own images."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=5)
    atoms.set_cell([[5.6, 0, 0], [0.8, 5.2, 0], [-0.5, 0.4, 4.9]])
    atoms.pbc = True
    return atoms


@pytest.mark.parametrize("name", NAMES)
def test_stress_and_supercell(name):
    potential = load_potential(name, dtype="float64")
    reference = np.array(potential.card.reference_energies)
    atoms = packed()

    def energy(structure):
        species = make_graph(potential, structure).species.numpy()
        return (evaluate(potential, structure)["energies"] - reference[species]).sum()

    virial = evaluate(potential, atoms)["virial"][0]
    scale = np.abs(virial).max()
    for a, b in ((0, 0), (1, 2)):
        energies = []
        for k in (1, -1, 2, -2):
            strain = np.eye(3)
            strain[a, b] += k * STEP
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(energy(moved))
        slope = (8 * (energies[0] - energies[1]) - (energies[2] - energies[3])) / (12 * STEP)
        assert slope == pytest.approx(virial[a, b], abs=1e-6 * scale)
    assert energy(atoms.repeat((2, 1, 1))) == pytest.approx(2 * energy(atoms), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_cutoff_and_centrosymmetric_site(name):
    """A molecule that comes into reach changes nothing at once; a site of inversion has no dipole."""
    potential = load_potential(name, dtype="float64")
    cutoff = potential.card.model.cutoff

    def pair(offset):
        oxygen = Atoms("O", [[cutoff + offset, 0, 0]])
        return evaluate(potential, molecule("CH3CH2OH")[[0]] + oxygen)

    atoms = molecule("CH3CH2OH")[[0]]
    shift = atoms.positions[0, 0]
    for key in ("forces", "dipole", "displacements"):
        jump = [
            np.abs(pair(shift + x)[key][0] - pair(shift - x)[key][0]).max() for x in (1e-5, 1e-6)
        ]
        assert jump[1] < 0.2 * jump[0] + 1e-9, key
    site = Atoms("OCO", [[-1.2, 0, 0], [0, 0, 0], [1.2, 0, 0]])
    out = evaluate(potential, site)
    assert np.abs(out["displacements"][1]).max() < 1e-12
    assert np.abs(out["displacements"][0]).max() > 1e-4
    assert np.isfinite(potential.hessian(make_graph(potential, site)).numpy()).all()


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_matter(name):
    potential = load_potential(name)
    graph = make_graph(potential, packed().repeat(2))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(potential.evaluate(graph))
    for key in ("forces", "dipole"):
        torch.testing.assert_close(*(r[key] for r in results), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_isolated_atoms_and_far_apart_molecules(name):
    potential = load_potential(name, dtype="float64")
    card = potential.card
    for symbol, energy in zip(card.model.elements, card.reference_energies, strict=True):
        out = evaluate(potential, Atoms(symbol, [[0, 0, 0]]))
        assert out["energies"][0] == pytest.approx(energy, abs=1e-10)
        assert not out["displacements"].any()
    one, two = molecule("CH3CH2OH"), molecule("CH3CH2OH")
    two.rattle(0.05, seed=1)
    two.positions += [150.0, 0, 0]
    a, b, both = (evaluate(potential, x) for x in (one, two, one + two))
    np.testing.assert_allclose(a["dipole"] + b["dipole"], both["dipole"], atol=1e-10)
    np.testing.assert_allclose(
        np.concatenate([a["forces"], b["forces"]]), both["forces"], atol=1e-9
    )


@pytest.mark.parametrize("name", NAMES)
def test_short_dynamics(name, tmp_path):
    """A picosecond at 300 K stays bound and keeps its energy."""
    atoms = molecule("CH3CH2OH")
    strides = {"energy": 10, "kinetic_energy": 10, "positions": 50}
    settings = MDSettings(ensemble="nve", temperature_K=600.0, strides=strides)
    run_md(atoms, NPCalculator(name), 1000, tmp_path / "t.h5", settings, progress=False)
    with Trajectory(tmp_path / "t.h5") as trajectory:
        total = trajectory.values("energy") + trajectory.values("kinetic_energy")
        positions = trajectory.values("positions")
    assert np.std(total) < 0.01
    start = atoms.get_all_distances()
    i, j = np.nonzero(np.triu(start < 1.12, 1))
    ratio = np.linalg.norm(positions[:, i] - positions[:, j], axis=-1) / start[i, j]
    assert ratio.min() > 0.7
    assert ratio.max() < 1.3


@pytest.mark.parametrize("name", NAMES)
def test_harmonic_spectrum_against_the_reference(name, reference_data):
    file = np.load(reference_data / "rmd17_dipoles" / "harmonic_trans.npz")
    atoms = Atoms(file["numbers"], file["positions"])
    atoms.calc = NPCalculator(name, dtype="float64")
    born = atoms.calc.get_born_effective_charges(atoms)
    # The reference has the position index before the dipole index; a transposition would show.
    expected = file["apt_e"].transpose(0, 2, 1)
    assert np.abs(born - expected).mean() < 0.5 * np.abs(born - file["apt_e"]).mean()
    relax(atoms, fmax=1e-4)
    lines = calculate_harmonic_spectrum(atoms)
    deviation = np.abs(lines.frequencies - file["frequencies_cm1"])
    assert deviation[file["frequencies_cm1"] > 200].mean() <= 10.0
    assert np.corrcoef(lines.intensities, file["intensities_km_mol"])[0, 1] >= 0.98


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_of_scripts_where_edges_are_many(name):
    """Float32 and the file's TorchScript, against the float64 network, on eight molecules in a cell."""
    atoms = Atoms(cell=[11.0] * 3, pbc=True)
    for place in np.ndindex(2, 2, 2):
        one = molecule("CH3CH2OH")
        one.rotate(40.0 * sum(place), (1.0, 2.0, 3.0))
        one.translate(5.5 * np.array(place) - one.get_center_of_mass())
        atoms += one
    atoms.rattle(0.02, seed=1)
    reference = evaluate(load_potential(name, dtype="float64"), atoms)
    scripted = load_potential(name)
    assert scripted._bounded or name != "ethanol-fast"
    found = evaluate(scripted, atoms)
    assert np.abs(found["energies"] - reference["energies"]).max() < 1e-5
    np.testing.assert_allclose(found["forces"], reference["forces"], atol=1e-4)
    np.testing.assert_allclose(found["virial"], reference["virial"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_accuracy_of_fast_paths_after_a_run(compile):
    """Float32 on a list with a skin after 1000 steps, against the float64 network on a fresh one."""
    if compile and find_compiler() is None:
        pytest.skip("needs a C++ compiler")
    atoms = molecule("CH3CH2OH")
    atoms.calc = NPCalculator("ethanol-fast", compile=compile)
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(1))
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs,
        rng=np.random.default_rng(2), fixcm=False,
    )  # fmt: skip
    dynamics.run(1000)
    assert atoms.calc.build.neighbors.n_searches < 200
    reference = evaluate(load_potential("ethanol-fast", dtype="float64"), atoms)
    assert abs(atoms.get_potential_energy() - reference["energies"].sum()) < 1e-5 * len(atoms)
    np.testing.assert_allclose(atoms.get_forces(), reference["forces"], atol=1e-4)
    np.testing.assert_allclose(atoms.get_dipole_moment(), reference["dipole"][0], atol=1e-4)


def test_results_can_be_used_where_something_else_is_differentiated():
    potential = load_potential("ethanol-fast")
    out = potential.evaluate(make_graph(potential, molecule("CH3CH2OH")))
    scale = torch.ones((), requires_grad=True)
    (scale * out["forces"].square().sum()).backward()
    assert scale.grad.item() == pytest.approx(out["forces"].square().sum().item())
    out["forces"] += 1.0
