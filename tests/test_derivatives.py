"""Forces, stress, Born charges and Hessian against finite differences; second derivatives."""

import numpy as np
import pytest
import torch
from systems import CASES, crystal, ethanol, evaluate, evaluate_all, make_graph, make_potential

from npcalc.potential.compiled import trace

STEP = 1e-4


def moved(atoms, i, a, shift):
    """A structure with one coordinate changed."""
    found = atoms.copy()
    found.positions[i, a] += shift
    return found


def strained(atoms, a, b, strain):
    """A structure with one element of the strain changed."""
    found = atoms.copy()
    matrix = np.eye(3)
    matrix[a, b] += strain
    found.set_cell(atoms.cell.array @ matrix, scale_atoms=True)
    return found


def differences(potential, change, rows):
    """Central differences of fourth order of all results, for each row of arguments of `change`."""
    steps = (1, -1, 2, -2)
    found = evaluate_all(potential, [change(*row, k * STEP) for row in rows for k in steps])
    one, two, three, four = (found[k::4] for k in range(4))
    return [
        {name: (8 * (a[name] - b[name]) - (c[name] - d[name])) / (12 * STEP) for name in a}
        for a, b, c, d in zip(one, two, three, four, strict=True)
    ]


def assert_near(numeric, analytic):
    assert np.abs(numeric - analytic).max() < 1e-6 * np.abs(analytic).max()


@pytest.mark.parametrize(("host", "form"), CASES)
def test_forces_and_born_charges(host, form):
    # Zero reference energies: thousands of eV would drown the differences.
    potential = make_potential(host, form, card={"reference_energies": (0.0, 0.0, 0.0)})
    atoms = ethanol()
    rows = [(atoms, i, a) for i in range(len(atoms)) for a in range(3)]
    found = differences(potential, moved, rows)
    numeric = np.array([-row["energies"].sum() for row in found]).reshape(-1, 3)
    assert_near(numeric, evaluate(potential, atoms)["forces"])
    numeric = np.array([row["dipole"][0] for row in found]).reshape(-1, 3, 3)
    analytic = potential.born_effective_charges(make_graph(potential, atoms)).numpy()
    # The difference has the position index before the dipole index.
    assert_near(numeric.transpose(0, 2, 1), analytic)
    assert np.abs(analytic.sum(0)).max() < 1e-12


@pytest.mark.parametrize(("host", "form"), CASES)
def test_virial_of_a_crystal(host, form):
    potential = make_potential(host, form, card={"reference_energies": (0.0, 0.0, 0.0)})
    atoms = crystal()
    found = differences(potential, strained, [(atoms, a, b) for a in range(3) for b in range(3)])
    analytic = evaluate(potential, atoms)["virial"][0]
    assert_near(np.array([row["energies"].sum() for row in found]).reshape(3, 3), analytic)
    assert np.abs(analytic - analytic.T).max() < 1e-10 * np.abs(analytic).max()


@pytest.mark.parametrize(
    ("host", "form", "system"),
    [(*case, ethanol) for case in CASES] + [(*c, crystal) for c in CASES if c[1] == "geometry-4"],
)
def test_hessian(host, form, system):
    potential = make_potential(host, form)
    atoms = system()
    analytic = potential.hessian(make_graph(potential, atoms)).numpy()
    found = differences(potential, moved, [(atoms, 0, a) for a in range(3)])
    numeric = np.array([-row["forces"].ravel() for row in found])
    assert np.abs(numeric - analytic[:3]).max() < 1e-6 * np.abs(analytic).max()


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
            others = list(weights)
            others[index] = (weights[index] + k * STEP * direction).detach()
            shifted.append(loss(others, edges).item())
        numeric = (8 * (shifted[0] - shifted[1]) - (shifted[2] - shifted[3])) / (12 * STEP)
        assert (eager[index] * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-7)
