"""The neighbor list against ASE's, in the cases that break cell lists."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list

from npcalc.neighbors import FEW_ATOMS, VerletList, neighbor_list, search_box


def triclinic():
    atoms = bulk("Cu", "fcc", a=3.6).repeat((2, 1, 1))
    atoms.set_cell(atoms.cell.array + [[0, 0.3, 0], [0, 0, 0.4], [0.2, 0, 0]], scale_atoms=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def left_handed():
    atoms = triclinic()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def unwrapped():
    atoms = triclinic()
    atoms.positions += np.random.default_rng(0).integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    return atoms


def slab(pbc):
    atoms = fcc111("Cu", (2, 2, 2), vacuum=None)
    atoms.pbc = pbc
    atoms.rattle(0.05, seed=1)
    return atoms


def far_molecule():
    atoms = molecule("CH3CH2OH")
    atoms.positions += [1000.0, -2000.0, 500.0]
    return atoms


def wire():
    return Atoms("C2", [[0, 0, 0], [0.7, 0.4, 1.3]], cell=[0, 0, 2.6], pbc=[False, False, True])


def crowd():
    """More atoms without periodic directions than all pairs are looked at of."""
    atoms = bulk("Cu", "fcc", a=3.6).repeat(5)
    atoms.pbc = False
    atoms.rattle(0.1, seed=0)
    assert len(atoms) > FEW_ATOMS
    return atoms


def far_fragments(n=2):
    atoms = molecule("CH3CH2OH")
    for k in range(1, n + 1):
        other = molecule("H2O")
        other.positions += [1e5 * k, -7e4, 30.0 * k]
        atoms += other
    return atoms


def evaporated():
    atoms = slab([True, True, False])
    return atoms + Atoms("CuCu", atoms.positions[:2] + [0.3, 0.1, 5e4])


CASES = {
    "triclinic": triclinic,
    "left-handed": left_handed,
    "unwrapped": unwrapped,
    "one atom, small cell": lambda: bulk("Cu", "fcc", a=3.6),
    "slab": lambda: slab([True, True, False]),
    "slab, one direction": lambda: slab([True, False, False]),
    "molecule": lambda: molecule("C6H6"),
    "flat molecule in a cell": lambda: Atoms(
        "C3", [[0, 0, 0], [1, 0, 0], [0, 1, 0]], cell=[9, 9, 9]
    ),
    "far molecule": far_molecule,
    "single atom": lambda: Atoms("C", [[5.0, 5.0, 5.0]]),
    "none in range": lambda: Atoms("C2", [[0, 0, 0], [50, 0, 0]]),
    "line": lambda: Atoms("C3", [[0, 0, 0], [0, 0, 1.5], [0, 0, 3.0]]),
    "wire": wire,
    "far fragments": far_fragments,
    "many far fragments": lambda: far_fragments(20),
    "crowd": crowd,
    "atom far above a slab": evaporated,
    "outside its open cell": lambda: Atoms("C2", [[-5, 0, 20], [-5, 1, 21]], cell=[4, 4, 4]),
}


def as_set(edge_index, shifts):
    return {(*map(int, e), *map(int, s)) for e, s in zip(edge_index.T, shifts, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_same_pairs_as_ase(name):
    atoms = CASES[name]()
    edge_index, shifts = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, 4.1)
    i, j, s = ase_neighbor_list("ijS", atoms, 4.1)
    assert len(shifts) == len(i)
    assert as_set(edge_index, shifts) == as_set(np.array([i, j]), s)
    assert (np.diff(edge_index[0]) >= 0).all()
    vectors = atoms.positions[edge_index[1]] - atoms.positions[edge_index[0]]
    vectors = vectors + shifts @ atoms.cell.array
    if len(vectors):
        assert np.linalg.norm(vectors, axis=1).max() <= 4.1


def test_empty():
    edge_index, shifts = neighbor_list(np.zeros((0, 3)), np.zeros((3, 3)), np.zeros(3, bool), 4.0)
    assert edge_index.shape == (2, 0)
    assert shifts.shape == (0, 3)


def test_search_box_of_a_far_molecule_is_small():
    atoms = far_molecule()
    box, _ = search_box(atoms.positions, atoms.cell.array, atoms.pbc, 5.0)
    assert np.abs(box).max() < 20.0


def test_verlet_list_searches_only_after_half_the_skin():
    atoms = triclinic()
    arguments = (atoms.cell.array, np.asarray(atoms.pbc))
    neighbors = VerletList(4.0, skin=1.0)
    start = atoms.get_positions()
    first = neighbors(start, *arguments)
    moved = start.copy()
    moved[0, 0] += 0.49
    assert neighbors(moved, *arguments) is first
    exact = as_set(*neighbor_list(moved, *arguments, 4.0))
    assert exact <= as_set(*first)
    moved[0, 0] += 0.02
    neighbors(moved, *arguments)
    assert neighbors.n_searches == 2
    neighbors(moved, atoms.cell.array * 1.01, arguments[1])
    assert neighbors.n_searches == 3
    neighbors(moved[:1], *arguments)
    neighbors(moved[:1], arguments[0], np.zeros(3, bool))
    assert neighbors.n_searches == 5
    neighbors.reset()
    neighbors(moved[:1], arguments[0], np.zeros(3, bool))
    assert neighbors.n_searches == 6


@pytest.mark.parametrize(("cutoff", "skin"), [(0.0, 0.5), (4.0, -0.1)])
def test_bad_cutoff(cutoff, skin):
    with pytest.raises(ValueError, match="cutoff > 0 and skin >= 0"):
        VerletList(cutoff, skin)
