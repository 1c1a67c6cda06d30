"""Committees: means and deviations of several potentials, and that these grow outside of the training."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.mixing import AverageCalculator
from systems import crystal, ethanol, make_potential

import npcalc
from npcalc import NPCalculator, Potential, evaluate_committee
from npcalc.data import DataSet
from npcalc.potential.registry import bundled_folder


@pytest.fixture(scope="module")
def potentials():
    return [make_potential("painn", form, seed=k) for k, form in enumerate(("geometry-4", "none"))]


def test_means_and_deviations(potentials):
    structures = [ethanol(seed=1), crystal(), Atoms("O")]
    members = [npcalc.evaluate(p, structures) for p in potentials]
    found = evaluate_committee(potentials, structures)
    for results, first, second in zip(found, *members, strict=True):
        for name in ("energy", "free_energy", "forces", "dipole"):
            np.testing.assert_allclose(results[name], (first[name] + second[name]) / 2, atol=1e-12)
        # Of two, each is half of their difference from the mean.
        apart = np.linalg.norm(first["forces"] - second["forces"], axis=1) / 2
        np.testing.assert_allclose(results["forces_deviation"], apart, atol=1e-12)
        assert results["max_force_deviation"] == pytest.approx(apart.max())
        half = abs(first["energy"] - second["energy"]) / 2
        assert results["energy_deviation"] == pytest.approx(half)
        assert not {"energies", "charges"} & results.keys()
    assert ["stress" in r for r in found] == [False, True, False]
    assert evaluate_committee(potentials, []) == []


def test_what_all_have(potentials):
    other = make_potential("painn", "geometry", seed=5, dipole=False)
    results = evaluate_committee([*potentials, other], [ethanol()])[0]
    assert "dipole" not in results
    forces = [npcalc.evaluate(p, [ethanol()])[0]["forces"] for p in (*potentials, other)]
    square = ((np.array(forces) - np.mean(forces, axis=0)) ** 2).sum(axis=2)
    expected = np.sqrt(square.sum(axis=0) / 3)
    np.testing.assert_allclose(results["forces_deviation"], expected, atol=1e-12)


def test_charges_have_to_be_the_same(potentials):
    formal = {"charges": "formal", "formal_charges": {"H": 1.0, "O": -2.0}}
    charged = make_potential("painn", "geometry", seed=6, **formal)
    water = Atoms("OHH", ethanol().positions[:3])
    assert "dipole" in evaluate_committee([*potentials, charged], [water])[0]
    with pytest.raises(ValueError, match=r"structure 1 has different charges .*\(0, 4 e\)"):
        evaluate_committee([*potentials, charged], [water, ethanol()])


def test_errors(potentials):
    for few in ("ethanol", potentials[0], potentials[:1], []):
        with pytest.raises(ValueError, match="two or more potentials"):
            evaluate_committee(few, [ethanol()])
    single = Potential(potentials[0].card, potentials[0].weights, "cpu", "float32")
    for twin in (potentials[0], single):
        with pytest.raises(ValueError, match="potentials 0 and 2 of the committee are the same"):
            evaluate_committee(iter([*potentials, twin]), [ethanol()])
    dipole_alone = make_potential(card={"properties": ("dipole",)}, seed=7)
    energy_alone = make_potential("painn", "none", seed=8, dipole=False)
    with pytest.raises(ValueError, match=r"have no result in common .*: dipole; .*: energy, "):
        evaluate_committee([dipole_alone, energy_alone], [ethanol()])
    found = evaluate_committee([dipole_alone, potentials[0]], [ethanol()])[0]
    assert list(found) == ["dipole"]
    with pytest.raises(ValueError, match=r"potential 0, '.*': structure 1: .* does not know Ne"):
        evaluate_committee(potentials, [ethanol(), Atoms("Ne")])


@pytest.mark.filterwarnings("ignore::npcalc.DomainWarning")
def test_members_part_outside_of_their_training():
    names = ["ethanol", "ethanol-fast"]
    data = DataSet.load(bundled_folder() / "data" / "ethanol-test.h5")
    frames = [data.atoms(k) for k in range(20)]
    inside = evaluate_committee(names, frames)
    outside = []
    for atoms in frames:
        stretched = atoms.copy()
        stretched.positions *= 1.15
        outside.append(stretched)
    largest = [r["max_force_deviation"] for r in evaluate_committee(names, outside)]
    assert min(largest) > 2 * max(r["max_force_deviation"] for r in inside)
    # ASE's own mean of calculators, for dynamics.
    atoms = frames[0]
    atoms.calc = AverageCalculator([NPCalculator(name) for name in names])
    np.testing.assert_allclose(atoms.get_forces(), inside[0]["forces"], atol=1e-4)
    np.testing.assert_allclose(atoms.get_dipole_moment(), inside[0]["dipole"], atol=1e-4)
    apart = np.std(atoms.calc.results["forces_contributions"], axis=0)
    np.testing.assert_allclose(
        np.linalg.norm(apart, axis=1), inside[0]["forces_deviation"], atol=1e-4
    )
