"""Many structures at once: the same results as one by one, in order, whatever the batches."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from systems import crystal, dimer, ethanol, make_potential

import npcalc
from npcalc import NPCalculator


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
