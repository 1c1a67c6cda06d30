"""Equivariance, extensivity, isolated atoms and bounds, for all hosts and couplings."""

import numpy as np
import pytest
from ase import Atoms
from systems import CASES, MOVING, crystal, ethanol, evaluate, make_graph, make_potential, rotation

TOLERANCE = 1e-10


def close(a, b, what=""):
    scale = max(np.abs(a).max(), np.abs(b).max(), 1e-12)
    assert np.abs(a - b).max() / scale < TOLERANCE, what


@pytest.mark.parametrize(("host", "form"), CASES)
@pytest.mark.parametrize("inversion", [False, True])
@pytest.mark.parametrize("system", [ethanol, crystal])
def test_rotation_inversion_translation(host, form, inversion, system):
    potential = make_potential(host, form)
    matrix = rotation(4) * (-1 if inversion else 1)
    atoms = system()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix.T)
    turned.positions = atoms.positions @ matrix.T + [1.0, -2.0, 0.5]
    a, b = evaluate(potential, atoms), evaluate(potential, turned)
    reference = np.array(potential.card.reference_energies)
    above = [x["energies"] - reference[make_graph(potential, atoms).species] for x in (a, b)]
    close(*above, "energies")
    close(a["forces"] @ matrix.T, b["forces"], "forces")
    close(matrix @ a["virial"] @ matrix.T, b["virial"], "virial")
    close(a["dipole"] @ matrix.T, b["dipole"], "dipole")
    if a["displacements"].size:
        close(a["displacements"] @ matrix.T, b["displacements"], "displacements")
    born = [
        potential.born_effective_charges(make_graph(potential, x)).numpy() for x in (atoms, turned)
    ]
    close(matrix @ born[0] @ matrix.T, born[1], "born charges")


@pytest.mark.parametrize(("host", "form"), CASES)
def test_permutation(host, form):
    potential = make_potential(host, form)
    atoms = ethanol()
    order = np.random.default_rng(0).permutation(len(atoms))
    a, b = evaluate(potential, atoms), evaluate(potential, atoms[order])
    close(a["forces"][order], b["forces"])
    close(a["displacements"][order], b["displacements"]) if a["displacements"].size else None
    close(a["dipole"], b["dipole"])


@pytest.mark.parametrize(("host", "form"), MOVING)
def test_points_move_and_stay_inside_the_bound(host, form):
    for d_max in (0.5, 0.05):
        potential = make_potential(host, form, d_max=d_max)
        length = np.linalg.norm(evaluate(potential, ethanol())["displacements"], axis=-1)
        assert length.max() < d_max
        assert length.mean() > 1e-3 * d_max


@pytest.mark.parametrize(("host", "form"), CASES)
def test_isolated_atom(host, form):
    potential = make_potential(host, form)
    for symbol in ("H", "C", "O"):
        atoms = Atoms(symbol, [[3.0, 1.0, 2.0]])
        out = evaluate(potential, atoms)
        expected = potential.card.reference_energies["HCO".index(symbol)]
        assert out["energies"][0] == pytest.approx(expected, abs=1e-12)
        for name in ("forces", "virial", "dipole", "displacements"):
            assert not out[name].any(), name
        graph = make_graph(potential, atoms)
        assert not potential.hessian(graph).numpy().any()
        assert not potential.born_effective_charges(graph).numpy().any()


@pytest.mark.parametrize(("host", "form"), MOVING)
def test_centrosymmetric_site_has_no_displacement(host, form):
    potential = make_potential(host, form)
    atoms = Atoms("OCO", [[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]])
    out = evaluate(potential, atoms)
    assert np.abs(out["displacements"][1]).max() < 1e-12
    assert np.abs(out["dipole"]).max() < 1e-12
    assert np.abs(out["displacements"][0]).max() > 1e-3


@pytest.mark.parametrize(("host", "form"), CASES)
def test_far_apart_molecules_add(host, form):
    potential = make_potential(host, form)
    one, two = ethanol(seed=1), ethanol(seed=2)
    two.positions += [200.0, 0.0, 0.0]
    a, b, both = (evaluate(potential, x) for x in (one, two, one + two))
    close(a["energies"].sum() + b["energies"].sum(), both["energies"].sum())
    close(a["dipole"] + b["dipole"], both["dipole"])
    close(np.concatenate([a["forces"], b["forces"]]), both["forces"])


@pytest.mark.parametrize(("host", "form"), CASES)
def test_supercell_gives_n_times_the_energy(host, form):
    potential = make_potential(host, form)
    atoms = crystal()
    one, four = evaluate(potential, atoms), evaluate(potential, atoms.repeat((2, 1, 2)))
    close(4 * one["energies"].sum(), four["energies"].sum())
    close(np.tile(one["forces"], (4, 1)), four["forces"])
    close(4 * one["virial"], four["virial"])


def test_charges_give_the_edge_form_of_the_dipole():
    """sum_i q_i r_i equals the sum over edge vectors for a molecule, and charges add up to zero."""
    potential = make_potential("painn", "none")
    atoms = ethanol()
    out = evaluate(potential, atoms)
    assert abs(out["charges"]).max() > 1e-3
    assert abs(out["charges"].sum()) < 1e-12
    close(out["charges"] @ atoms.positions, out["dipole"][0])


def test_formal_charges_and_weights():
    """Ions: charges are the formal ones, the dipole is about the origin, Born charges add up to Q."""
    more = {
        "charges": "formal", "formal_charges": {"H": 1.0, "O": -1.5}, "electron_weight": "formal",
        "formal_weights": {"H": 0.0, "C": 0.0, "O": 8.0},
    }  # fmt: skip
    potential = make_potential("painn", "geometry", **more)
    atoms = Atoms("OHH", [[0, 0, 0], [0.9, 0.3, 0], [-0.3, 0.9, 0.1]])
    out = evaluate(potential, atoms)
    np.testing.assert_allclose(out["charges"], [-1.5, 1.0, 1.0])
    expected = out["charges"] @ atoms.positions - 8.0 * out["displacements"][0, 0]
    close(out["dipole"][0], expected)
    born = potential.born_effective_charges(make_graph(potential, atoms)).numpy()
    np.testing.assert_allclose(born.sum(0), 0.5 * np.eye(3), atol=1e-12)
