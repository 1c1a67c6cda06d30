"""Many structures at once: the same results as one by one, in order, whatever the batches."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from systems import crystal, dimer, ethanol, make_potential

import npcalc
from npcalc import NPCalculator
from npcalc.builder import GraphBuilder
from npcalc.graph import collate
from npcalc.results import annotated, results_of


@pytest.fixture(scope="module")
def potential():
    card = {"property_scales": (1.0,), "property_references": ((0.0,), (1.0,), (2.0,))}
    section = {"properties": {"alpha": {"unit": "bohr^3"}}}
    return make_potential("painn", "geometry-4", card=card, **section)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("edges_per_batch", [1, 90, 4000])
def test_equal_to_one_by_one(potential, edges_per_batch, threads):
    torch.set_num_threads(threads)
    structures = [ethanol(seed=k) for k in range(3)]
    structures += [crystal(), dimer(1.3), Atoms("O"), ethanol(seed=9), dimer(9.0)]
    found = npcalc.evaluate(potential, structures, edges_per_batch=edges_per_batch)
    assert torch.get_num_threads() == threads
    calculator = NPCalculator(potential)
    for atoms, results in zip(structures, found, strict=True):
        calculator.calculate(atoms)
        assert set(results) == {*calculator.results, "alpha"}
        for name, value in calculator.results.items():
            np.testing.assert_allclose(results[name], value, atol=1e-9, err_msg=name)
        alpha = calculator.get_molecular_properties(atoms)["alpha"]
        assert results["alpha"] == pytest.approx(alpha, abs=1e-9)


def test_what_is_no_list_of_structures_or_no_potential(potential):
    with pytest.raises(TypeError, match=r"got 'run\.xyz': read files first"):
        npcalc.evaluate(potential, "run.xyz")
    with pytest.raises(TypeError, match="structure 1: expected Atoms, got str"):
        npcalc.evaluate(potential, [ethanol(), "run.xyz"])
    with pytest.raises(TypeError, match=r"calc\.potential; got NPCalculator"):
        npcalc.evaluate(NPCalculator(potential), [ethanol()])


@pytest.mark.parametrize("name", ["energies", "forces", "dipole"])
def test_what_is_no_number_is_an_error(potential, name):
    atoms = ethanol()
    out = {"energies": np.zeros(9), "forces": np.zeros((9, 3)), "dipole": np.zeros((1, 3))}
    out |= {"virial": np.zeros((1, 3, 3)), "charges": np.zeros(9)}
    results_of(out, atoms, potential.card)
    out[name][...] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite energy, force or dipole"):
        results_of(out, atoms, potential.card)


@pytest.mark.parametrize("threads", [1, 2])
def test_errors_name_the_structure(potential, threads):
    torch.set_num_threads(threads)
    overlapping = dimer(0.05)
    with pytest.raises(ValueError, match=r"structure 1: atoms . \(.\) and . \(.\) are 0.05"):
        npcalc.evaluate(potential, [ethanol(), overlapping, ethanol()])
    assert torch.get_num_threads() == threads
    # Molecules of the same atoms are looked at together; what is said is of one of them.
    with pytest.raises(ValueError, match=r"structure 2: atoms . \(.\) and . \(.\) are 0.05"):
        npcalc.evaluate(potential, [dimer(1.1), dimer(1.3), overlapping])
    lost = dimer(1.2)
    lost.positions[1, 2] = np.nan
    with pytest.raises(ValueError, match="structure 1: position of atom 1 is NaN"):
        npcalc.evaluate(potential, [dimer(1.1), lost])
    with pytest.raises(ValueError, match="structure 0: the structure has no atoms"):
        npcalc.evaluate(potential, [Atoms(), Atoms()])
    with pytest.raises(ValueError, match=r"structure 0: .*does not know Ne"):
        npcalc.evaluate(potential, [Atoms("Ne"), Atoms("Ne")])
    with pytest.raises(ValueError, match="edges_per_batch"):
        npcalc.evaluate(potential, [ethanol()], edges_per_batch=0)
    assert npcalc.evaluate(potential, []) == []
    with pytest.raises(TypeError, match="expected a list of Atoms, got one"):
        npcalc.evaluate(potential, ethanol())


def test_takes_a_name_and_warns_of_other_compositions():
    frames = [molecule(name) for name in ("CH3CH2OH", "CH3OH", "CH3OH")]
    with pytest.warns(npcalc.DomainWarning, match="the structure is CH4O") as warned:
        found = npcalc.evaluate("ethanol-fast", frames)
    assert len(warned) == 1
    expected = NPCalculator("ethanol-fast").get_potential_energy(frames[0])
    assert found[0]["energy"] == pytest.approx(expected, abs=1e-4)


def test_molecules_at_once_are_the_graphs_of_each(potential):
    """Also those with a cell, which is no reason to look at images."""
    molecules = [ethanol(seed=k) for k in range(4)]
    for k, atoms in enumerate(molecules[:3]):
        atoms.cell = [9.0 + k, 10.0, 11.0]
    batch, lengths = GraphBuilder(potential, skin=0.0).molecules(molecules)
    single = GraphBuilder(potential, skin=0.0)
    graphs, found = [], []
    for atoms in molecules:
        graphs.append(single(atoms))
        found.append(single.lengths)
    for name, expected in collate(graphs)._asdict().items():
        value = getattr(batch, name)
        assert value.dtype == expected.dtype, name
        np.testing.assert_array_equal(value, expected, err_msg=name)
    np.testing.assert_allclose(lengths, np.concatenate(found), rtol=1e-12)
    results = npcalc.evaluate(potential, molecules)
    assert ["stress" in r for r in results] == [True, True, True, False]


def test_isomers_and_other_formulas_of_one_size(potential):
    symbols = ("OCHH", "CHHO", "OHHO", "OCHH")
    structures = [Atoms(s, ethanol(seed=k).positions[:4]) for k, s in enumerate(symbols)]
    found = npcalc.evaluate(potential, structures)
    calculator = NPCalculator(potential)
    for atoms, results in zip(structures, found, strict=True):
        np.testing.assert_allclose(results["forces"], calculator.get_forces(atoms), atol=1e-9)


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_run_side_by_side(potential, monkeypatch, threads):
    seen, together = set(), threading.Barrier(threads, timeout=30)
    arrays = potential.arrays

    def watched(graph, compile=False):
        seen.add((threading.get_ident(), torch.get_num_threads()))
        together.wait()  # passes only where all threads come here at once
        return arrays(graph, compile)

    monkeypatch.setattr(potential, "arrays", watched)
    torch.set_num_threads(threads)
    npcalc.evaluate(potential, [ethanol(seed=k) for k in range(8)], edges_per_batch=72)
    assert len(seen) == threads
    assert {n for _, n in seen} == {1}


@pytest.mark.parametrize("where", ["arrays", "results"])
def test_errors_leave_the_threads_of_torch_as_they_were(potential, monkeypatch, where):
    arrays = potential.arrays

    def failing(graph, compile=False):
        if where == "arrays":
            raise RuntimeError("no memory")
        out = arrays(graph, compile)
        return {**out, "forces": np.nan * out["forces"]}

    monkeypatch.setattr(potential, "arrays", failing)
    torch.set_num_threads(2)
    with pytest.raises((RuntimeError, ValueError), match=r"no memory|structure 0: .* NaN"):
        npcalc.evaluate(potential, [ethanol(seed=k) for k in range(8)], edges_per_batch=72)
    # A new thread takes the number of the process.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2


@pytest.mark.filterwarnings("error::npcalc.DomainWarning")
def test_errors_come_before_warnings_and_iterators_are_lists():
    with pytest.raises(ValueError, match=r"structure 1: .* does not know N"):
        npcalc.evaluate("ethanol-fast", [molecule("CH4"), molecule("NH3")])
    frames = [molecule("CH3CH2OH"), molecule("CH3CH2OH")]
    frames[1].positions[0] += 0.02
    potentials = ["ethanol-fast", "ethanol"]
    for function, given in (
        (npcalc.evaluate, potentials[0]),
        (npcalc.evaluate_committee, potentials),
    ):
        found, expected = (function(given, structures) for structures in (iter(frames), frames))
        assert [r["energy"] for r in found] == [r["energy"] for r in expected]
        with pytest.raises(TypeError, match="got one: give"):
            function(given, frames[0])


def test_what_an_earlier_committee_said_does_not_stay():
    potentials, frames = ["ethanol-fast", "ethanol"], [molecule("CH3CH2OH")]
    judged = annotated(frames, npcalc.evaluate_committee(potentials, frames))
    assert "forces_deviation" in judged[0].arrays
    again = annotated(judged, npcalc.evaluate(potentials[0], judged))[0]
    assert not [k for k in (*again.arrays, *again.info) if "deviation" in k]
