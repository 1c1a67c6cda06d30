"""Pairs that cross the cutoff, coincident points, far-off molecules, precision."""

import numpy as np
import pytest
import torch
from ase.build import molecule
from systems import (
    CASES,
    MOVING,
    dimer,
    ethanol,
    evaluate,
    evaluate_all,
    make_graph,
    make_potential,
)

from npcalc.graph import AtomGraph, collate
from npcalc.nn.points import PairedGeometry, PairedNodes
from npcalc.nn.polarization import limit
from npcalc.nn.radial import BesselBasis, GaussianBasis, make_envelope


@pytest.mark.parametrize(
    ("host", "form", "envelope"),
    [(*case, "cosine") for case in CASES]
    + [(*case, "polynomial") for case in CASES if case[1] == "geometry-4"],
)
def test_a_pair_crossing_the_cutoff_changes_nothing(host, form, envelope):
    potential = make_potential(host, form, envelope=envelope)
    assert np.abs(evaluate(potential, dimer(2.0))["forces"]).max() > 1e-4
    # A third atom displaces the points, so the crossing pair is one of displaced points.
    steps = (-1e-6, 1e-6, -1e-5, 1e-5)
    found = evaluate_all(potential, [dimer(4.0 + x) + dimer(1.3, "CH")[[1]] for x in steps])
    for name in ("energies", "forces", "dipole", "displacements"):
        a, b, c, d = (out[name] for out in found)
        if a.size:
            # A continuous quantity changes in proportion to the step, a jump stays.
            assert np.abs(a - b).max() < 0.2 * np.abs(c - d).max() + 1e-9, name


@pytest.mark.parametrize(("host", "form"), CASES)
def test_forces_change_boundedly_through_the_cutoff(host, form):
    potential = make_potential(host, form)
    distances = np.linspace(3.99, 4.01, 81)
    chosen = [*distances, 2.0, 2.001]
    forces = np.array([x["forces"][0] for x in evaluate_all(potential, [dimer(d) for d in chosen])])
    forces, inner = forces[:-2], forces[-2:]
    slope = np.abs(np.diff(forces, axis=0)).max() / (distances[1] - distances[0])
    assert slope < 100 * max(np.abs(np.diff(inner, axis=0)).max() / 1e-3, 1e-2)


@pytest.mark.parametrize("coupling", ["geometry", "nodes"])
def test_coincident_electron_points(coupling):
    """Finite values and gradients where displaced points lie on each other."""
    envelope = make_envelope("cosine", 4.0)
    maker = {
        "geometry": lambda: PairedGeometry(1, 0.05, envelope),
        "nodes": lambda: PairedNodes(1, 0.05, envelope, all_pairs=True),
    }[coupling]
    edges = torch.tensor(
        [[0.9, 0.0, 0.0], [-0.9, 0.0, 0.0]], dtype=torch.float64, requires_grad=True
    )
    d = torch.tensor([[[0.45, 0, 0]], [[-0.45, 0, 0]]], dtype=torch.float64, requires_grad=True)
    coupling = maker()
    bare = coupling.bare(edges, torch.tensor([0, 1]), torch.tensor([1, 0]))
    geometry = coupling.geometry(bare, edges, d)
    assert geometry.distance.min().item() == pytest.approx(0.05)
    value = BesselBasis(8, 4.0)(geometry.distance).sum() + (geometry.direction**3).sum()
    for gradient in torch.autograd.grad(value, [edges, d]):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 1e4


def test_limit_is_smooth_at_zero_and_bounded():
    d = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0], [1e4, 0.0, 0.0]], dtype=torch.float64)
    d.requires_grad_(True)
    out = limit(d, 0.5)
    assert (out.norm(dim=-1) < 0.5).all()
    assert torch.autograd.gradcheck(lambda x: limit(x, 0.5), [d[:2].detach().requires_grad_(True)])
    torch.testing.assert_close(torch.autograd.grad(out[0, 0], d)[0][0, 0].item(), 1.0)


@pytest.mark.parametrize("basis", [BesselBasis, GaussianBasis])
def test_bases_are_finite_beyond_the_cutoff(basis):
    values = basis(8, 4.0)(torch.tensor([0.05, 4.0, 5.0], dtype=torch.float64))
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
def test_envelopes(name):
    envelope = make_envelope(name, 4.0)
    r = torch.tensor([0.0, 2.0, 4.0, 4.5], dtype=torch.float64, requires_grad=True)
    value = envelope(r)
    assert value[0] == 1.0
    assert 0.1 < value[1] < 0.99
    assert value[2:].abs().max() < 1e-12
    assert torch.autograd.grad(value.sum(), r)[0][2:].abs().max() < 1e-12


@pytest.mark.parametrize(("host", "form"), MOVING[:3])
def test_far_off_molecule_in_float32(host, form):
    """Differences are taken in float64, so coordinates of 200 A cost no precision."""
    potential = make_potential(host, form, dtype="float32")
    near, far = ethanol(), ethanol()
    far.positions += [200.0, -300.0, 100.0]
    a, b = evaluate(potential, near), evaluate(potential, far)
    np.testing.assert_allclose(a["forces"], b["forces"], atol=1e-5 * np.abs(a["forces"]).max())
    exact = evaluate(make_potential(host, form), near)
    np.testing.assert_allclose(a["forces"], exact["forces"], atol=1e-4 * np.abs(a["forces"]).max())


def test_batch_equals_single_and_gradients_do_not_mix():
    potential = make_potential("painn", "geometry")
    systems = [ethanol(seed=1), ethanol(seed=2), dimer(1.2)]
    singles = [evaluate(potential, a) for a in systems]
    batch = collate([make_graph(potential, a) for a in systems])
    # Padding, as in training: atoms that have only edges outside the cutoff.
    double = {"dtype": torch.float64}
    ghosts = AtomGraph(
        positions=torch.zeros(3, 3, **double),
        cell=8.0 * torch.eye(3, **double)[None],
        species=torch.zeros(3, dtype=torch.int64),
        edge_index=torch.zeros(2, 7, dtype=torch.int64),
        shifts=torch.tensor([[1.0, 0.0, 0.0]], **double).expand(7, 3),
        batch=torch.zeros(3, dtype=torch.int64),
    )
    for graph in (batch, collate([batch, ghosts])):
        out = potential.evaluate(graph)
        forces = np.concatenate([s["forces"] for s in singles])
        np.testing.assert_allclose(out["forces"][: len(forces)].numpy(), forces, atol=1e-12)
        dipoles = np.concatenate([s["dipole"] for s in singles])
        np.testing.assert_allclose(out["dipole"][:3].numpy(), dipoles, atol=1e-12)


@pytest.mark.parametrize(("host", "form"), CASES)
def test_no_cone_where_symmetry_makes_vectors_vanish(host, form):
    """At the carbon atom of methane lengths of vectors are zero; second derivatives are those nearby."""
    potential = make_potential(host, form)
    atoms, direction = molecule("CH4"), np.array([0.6, 0.48, 0.64])
    curvatures = []
    for step in (1e-5, 1e-3):
        forces = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[0] += sign * step * direction
            forces.append(evaluate(potential, moved)["forces"][0] @ direction)
        curvatures.append((forces[1] - forces[0]) / (2 * step))
    assert curvatures[0] == pytest.approx(curvatures[1], rel=0.05, abs=1e-4)
