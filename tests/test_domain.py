"""Warnings of structures that are something else than what a potential was trained on."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from systems import make_potential

from npcalc import DomainWarning, NPCalculator, evaluate
from npcalc.data import DataSet
from npcalc.domain import NearestCheck, nearest_distances, nearest_range
from npcalc.md import run_md

CO = {
    "C": {"O": (1.0, 1.5), "any": (1.0, 1.5)},
    "O": {"C": (1.0, 1.5), "O": (2.5, None), "any": (1.0, 1.5)},
}


def without_hydrogen():
    """Ethanol whose O-H bond is broken."""
    atoms = molecule("CH3CH2OH")
    oxygen = atoms.symbols.search("O")[0]
    distances = atoms.get_distances(oxygen, atoms.symbols.search("H"))
    hydrogen = atoms.symbols.search("H")[distances.argmin()]
    bond = atoms.positions[hydrogen] - atoms.positions[oxygen]
    atoms.positions[hydrogen] += bond
    return atoms


def squeezed():
    atoms = molecule("CH3CH2OH")
    atoms.positions *= 0.8
    return atoms


def test_distances_to_the_nearest_of_each_element():
    species, center, neighbor = np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([1, 2, 0])
    table = nearest_distances(species, center, neighbor, np.array([1.2, 1.1, 1.2]), 2)
    np.testing.assert_array_equal(
        table, [[np.inf, 1.1, 1.1], [1.2, np.inf, 1.2], [np.inf, np.inf, np.inf]]
    )
    ranges = nearest_range("CO", species, table)
    assert ranges == {
        "C": {"O": (1.1, 1.1), "any": (1.1, 1.1)},
        "O": {"C": (1.2, None), "any": (1.2, None)},  # one O has no neighbor
    }


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0.0, 1.2], None),
        ([0.0, 1.6], None),  # within the margin
        ([0.0, 1.8], r"nearest [OC] of this [CO] is 1.80 A away, .* 1.00 to 1.50"),
        ([0.0, 0.8], r"is 0.80 A away"),
        ([0.0, 9.0], r"is 4.50 A or more away"),
        ([0.0, 1.2, 2.4], r"none was within 4 A"),  # C and C
        ([None, -1.1, 0.0, 1.1], r"nearest O of this O is 2.20 A .* none was nearer than 2.50 A"),
    ],
)
def test_ranges(positions, message):
    """C O C O along a line."""
    potential = make_potential(cutoff=4.0, card={"nearest_range": CO})
    check = NearestCheck(potential.card, 4.5)
    elements = list(potential.card.model.elements)
    species = np.array([elements.index("CO"[k % 2]) for k in range(len(positions))])
    species = species[[x is not None for x in positions]]
    positions = [x for x in positions if x is not None]
    distance = np.abs(np.subtract.outer(positions, positions))
    near = (distance < 4.5) & (distance > 0.0)
    found = check(species, *np.nonzero(near), distance[near])
    if message is None:
        assert found is None
    else:
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(found.text)
        assert found.worst in found.atoms
        assert found.excess > 1.0


@pytest.mark.filterwarnings("ignore:an electron point")  # whose displacements tell it too
@pytest.mark.parametrize("name", ["ethanol", "ethanol-fast"])
@pytest.mark.parametrize("make", [without_hydrogen, squeezed, lambda: molecule("CH3OCH3")])
def test_isomers_and_broken_bonds_warn(name, make):
    atoms = make()
    atoms.calc = NPCalculator(name)
    with pytest.warns(DomainWarning, match="in the training structures it was"):
        atoms.get_potential_energy()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        atoms.rattle(0.05, seed=0)  # what has been said is not said again
        atoms.translate(0.4)  # a new search
        atoms.get_potential_energy()
        assert atoms.calc.build.neighbors.n_searches == 2
        quiet = NPCalculator(atoms.calc.potential, check_domain=False)
        quiet.get_potential_energy(make())
    assert not [w for w in found if "nearest" in str(w.message)]


@pytest.mark.filterwarnings("ignore:an electron point")
def test_elements_that_change_places_are_looked_at_again():
    """No search of neighbors tells of them: the positions are the same."""
    atoms = molecule("CH3CH2OH")
    atoms.calc = NPCalculator("ethanol-fast", check_domain=True)
    atoms.get_potential_energy()
    carbon, oxygen = atoms.symbols.search("C")[1], atoms.symbols.search("O")[0]
    atoms.symbols[[carbon, oxygen]] = ["O", "C"]
    with pytest.warns(DomainWarning, match="nearest"):
        atoms.get_potential_energy()


def test_overlapping_atoms_are_an_error_and_no_warning():
    atoms = molecule("CH3CH2OH")
    atoms.calc = NPCalculator("ethanol-fast")
    atoms.positions[1] = atoms.positions[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="overlapping atoms"):
            atoms.get_potential_energy()
        atoms.positions = molecule("CH3CH2OH").positions
        atoms.get_potential_energy()


def test_structures_like_the_trained_are_inside():
    data = DataSet.load(Path(__file__).parents[1] / "potentials" / "data" / "ethanol-test.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DomainWarning)
        evaluate("ethanol-fast", [data.atoms(k) for k in range(0, len(data), 2)])


def test_dynamics_stays_inside(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DomainWarning)
        run_md(
            molecule("CH3CH2OH"),
            NPCalculator("ethanol-fast"),
            200,
            tmp_path / "run.h5",
            progress=False,
        )


def test_atoms_that_were_trained_alone_are_inside():
    ranges = {"C": {"O": (1.0, 1.5), "any": (1.0, 1.5)}, "O": {"C": (1.0, 1.5), "any": (1.0, 1.5)}}
    card = {"composition": "CO", "nearest_range": ranges, "data": {"isolated_atoms": ["O"]}}
    potential = make_potential(cutoff=4.0, card=card)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(potential, [Atoms("O"), Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])])
        NPCalculator(potential).get_potential_energy(Atoms("O"))
    for warns in (
        lambda: evaluate(potential, [Atoms("C")]),
        lambda: NPCalculator(potential).get_potential_energy(Atoms("C")),
        lambda: NPCalculator(potential).get_potential_energy(Atoms("O2", [[0, 0, 0], [0, 0, 3]])),
    ):
        with pytest.warns(DomainWarning, match="trained on CO alone"):
            warns()


def test_evaluation_counts_unusual_structures():
    good = molecule("CH3CH2OH")
    mixed = [good, without_hydrogen(), good, molecule("CH3OCH3"), squeezed()]
    message = (
        "^3 of 5 structures are outside .* of 'ethanol-fast'; the farthest is structure 3, atom"
    )
    with pytest.warns(DomainWarning, match=message):
        evaluate("ethanol-fast", mixed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate("ethanol-fast", [good, good])
