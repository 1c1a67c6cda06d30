"""Forces, stress, Born charges and Hessian against finite differences; second derivatives."""

import numpy as np
import pytest
import torch
from systems import CASES, crystal, ethanol, evaluate, make_graph, make_potential

from npcalc.potential.compiled import trace

STEP = 1e-4


def difference(function, positions):
    """Central difference of fourth order by each coordinate, shape (n, 3, ...)."""
    rows = []
    for i in range(len(positions)):
        for a in range(3):
            values = []
            for k in (1, -1, 2, -2):
                moved = positions.copy()
                moved[i, a] += k * STEP
                values.append(function(moved))
            rows.append((8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * STEP))
    return np.array(rows).reshape(len(positions), 3, *np.shape(rows[0]))


def of_positions(potential, atoms, name):
    def function(positions):
        moved = atoms.copy()
        moved.positions = positions
        value = evaluate(potential, moved)[name]
        return value.sum() if name == "energies" else value[0] if name == "dipole" else value

    return function


@pytest.mark.parametrize(("host", "form"), CASES)
def test_forces(host, form):
    # Zero reference energies: thousands of eV would drown the differences.
    potential = make_potential(host, form, card={"reference_energies": (0.0, 0.0, 0.0)})
    atoms = ethanol()
    numeric = -difference(of_positions(potential, atoms, "energies"), atoms.positions)
    analytic = evaluate(potential, atoms)["forces"]
    assert np.abs(numeric - analytic).max() < 1e-6 * np.abs(analytic).max()


@pytest.mark.parametrize(("host", "form"), CASES)
def test_virial_of_a_crystal(host, form):
    potential = make_potential(host, form, card={"reference_energies": (0.0, 0.0, 0.0)})
    atoms = crystal()
    numeric = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            values = []
            for k in (1, -1, 2, -2):
                strain = np.eye(3)
                strain[a, b] += k * STEP
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                values.append(evaluate(potential, moved)["energies"].sum())
            numeric[a, b] = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * STEP)
    analytic = evaluate(potential, atoms)["virial"][0]
    assert np.abs(numeric - analytic).max() < 1e-6 * np.abs(analytic).max()
    assert np.abs(analytic - analytic.T).max() < 1e-10 * np.abs(analytic).max()


@pytest.mark.parametrize(("host", "form"), CASES)
def test_born_charges(host, form):
    potential = make_potential(host, form)
    atoms = ethanol()
    numeric = difference(of_positions(potential, atoms, "dipole"), atoms.positions)
    analytic = potential.born_effective_charges(make_graph(potential, atoms)).numpy()
    # The difference has the position index before the dipole index.
    assert np.abs(numeric.transpose(0, 2, 1) - analytic).max() < 1e-6 * np.abs(analytic).max()
    assert np.abs(analytic.sum(0)).max() < 1e-12


@pytest.mark.parametrize(("host", "form"), CASES)
@pytest.mark.parametrize("system", [ethanol, crystal])
def test_hessian(host, form, system):
    potential = make_potential(host, form)
    atoms = system()
    analytic = potential.hessian(make_graph(potential, atoms)).numpy()
    first = atoms[[0]].positions[0]
    for a in range(3):
        forces = []
        for k in (1, -1, 2, -2):
            moved = atoms.copy()
            moved.positions[0] = first
            moved.positions[0, a] += k * STEP
            forces.append(evaluate(potential, moved)["forces"].ravel())
        row = -(8 * (forces[0] - forces[1]) - (forces[2] - forces[3])) / (12 * STEP)
        assert np.abs(row - analytic[a]).max() < 1e-6 * np.abs(analytic).max()


@pytest.mark.parametrize(("host", "form"), [("painn", "geometry-4"), ("nequip", "nodes-all-2")])
def test_gradients_of_forces_by_weights(host, form):
    """Training needs them: they agree with finite differences, eager and traced."""
    potential = make_potential(host, form)
    graph = make_graph(potential, ethanol())
    edge_potential = potential.module.edge_potential.train().requires_grad_(True)
    edges = graph.positions[graph.edge_index[1]] - graph.positions[graph.edge_index[0]]
    names = [name for name, _ in edge_potential.named_parameters()]
    weights = [p for _, p in edge_potential.named_parameters()]

    def loss(tensors, r):
        named = dict(zip(names, tensors, strict=True))
        arguments = (r, graph.species, graph.edge_index[0], graph.edge_index[1])
        out = torch.func.functional_call(edge_potential, named, arguments)
        return (out.forces**2).sum() + (out.dipoles**2).sum() + (out.energies**2).sum()

    traced = trace(loss, weights, edges)
    eager = torch.autograd.grad(loss(weights, edges), weights, allow_unused=True)
    again = torch.autograd.grad(traced(weights, edges), weights, allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    for index in range(0, len(weights), 5):
        if eager[index] is None:
            continue
        torch.testing.assert_close(eager[index], again[index])
        direction = torch.randn(weights[index].shape, generator=generator, dtype=torch.float64)
        shifted = []
        for k in (1, -1, 2, -2):
            moved = list(weights)
            moved[index] = (weights[index] + k * STEP * direction).detach()
            shifted.append(loss(moved, edges).item())
        numeric = (8 * (shifted[0] - shifted[1]) - (shifted[2] - shifted[3])) / (12 * STEP)
        assert (eager[index] * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-7)
