"""NPCalculator as an ASE calculator: results, caching, boundary conditions, errors."""

import pickle
import warnings

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from ase.stress import voigt_6_to_full_3x3_stress
from ase.vibrations import Infrared, Vibrations
from systems import crystal, dimer, ethanol, evaluate, make_potential

from npcalc import DomainWarning, NPCalculator
from npcalc.builder import FEW_EDGES

TIGHT = {"composition": "C2H6O"}


@pytest.fixture
def calculator():
    return NPCalculator(make_potential("painn", "geometry-4"))


def test_results_equal_a_direct_call(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    direct = evaluate(calculator.potential, atoms)
    assert atoms.get_potential_energy() == pytest.approx(direct["energies"].sum(), abs=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_potential_energies(), direct["energies"], atol=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), direct["forces"], atol=1e-12)
    np.testing.assert_allclose(atoms.get_dipole_moment(), direct["dipole"][0], atol=1e-12)
    np.testing.assert_allclose(atoms.get_charges(), direct["charges"], atol=1e-12)
    born = calculator.get_property("born_effective_charges", atoms)
    assert born.shape == (9, 3, 3)
    assert calculator.get_electron_displacements(atoms).shape == (9, 4, 3)
    np.testing.assert_allclose(
        calculator.get_electron_positions(atoms) - atoms.positions[:, None], direct["displacements"]
    )
    dipoles = calculator.get_atomic_dipoles(atoms)
    np.testing.assert_allclose(dipoles.sum(0), atoms.get_dipole_moment(), atol=1e-12)
    assert calculator.get_hessian(atoms).shape == (27, 27)


def test_ase_exports_all_properties(calculator):
    atoms = ethanol()
    found = calculator.calculate_properties(atoms, ["energy", "born_effective_charges"])
    born = calculator.get_born_effective_charges(atoms)
    np.testing.assert_array_equal(found["born_effective_charges"], born)
    assert "born_effective_charges" not in calculator.calculate_properties(atoms, ["energy"])


def test_what_a_caller_says_has_changed_is_not_believed():
    """It knows what changed since it asked last, not what others have asked in between."""
    calculator = NPCalculator(make_potential("painn", "geometry-4"))
    small, large = crystal(), crystal()
    large.set_cell(large.cell.array * 1.3, scale_atoms=True)
    free = crystal()
    free.pbc = False
    expected = [NPCalculator(calculator.potential).get_potential_energy(a) for a in (large, free)]
    for other, energy in zip((large, free), expected, strict=True):
        calculator.calculate(small, ["energy"])
        calculator.calculate(other, ["energy"], ["positions"])
        assert calculator.results["energy"] == pytest.approx(energy, abs=1e-10)


def test_stress_of_a_crystal(calculator):
    atoms = crystal()
    atoms.calc = calculator
    virial = evaluate(calculator.potential, atoms)["virial"][0]
    stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
    np.testing.assert_allclose(stress, virial / atoms.cell.volume, atol=1e-12)


def test_one_calculator_serves_many_structures(calculator):
    slab = crystal()
    slab.pbc = [True, True, False]
    systems = [ethanol(), crystal(), dimer(1.2), slab, Atoms("O", [[0, 0, 0]]), ethanol(seed=2)]
    for atoms in [*systems, *systems[::-1]]:
        other = NPCalculator(calculator.potential, skin=0.0)
        forces = calculator.get_forces(atoms)
        assert forces.shape == (len(atoms), 3)
        np.testing.assert_allclose(forces, other.get_forces(atoms), atol=1e-10)


def test_skin_changes_nothing_while_atoms_move(calculator):
    atoms = crystal()
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    for _ in range(20):
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        exact = evaluate(calculator.potential, atoms)
        np.testing.assert_allclose(atoms.get_forces(), exact["forces"], atol=1e-9)
    assert 1 < calculator.build.neighbors.n_searches < 20


def test_edges_in_the_skin_are_left_out_of_large_graphs():
    potential = make_potential("painn", "geometry")
    atoms = crystal().repeat(3)
    with_skin, without = (NPCalculator(potential, skin=s, check_domain=False) for s in (0.6, 0.0))
    assert with_skin.graph(atoms).edge_index.shape == without.graph(atoms).edge_index.shape
    atoms.rattle(0.02, seed=4)
    a, b = with_skin.graph(atoms), without.graph(atoms)
    assert with_skin.build.neighbors.n_searches == 1
    assert a.edge_index.shape[1] == b.edge_index.shape[1] > FEW_EDGES
    out = [potential.evaluate(g)["forces"].numpy() for g in (a, b)]
    np.testing.assert_allclose(*out, atol=1e-10)


def test_a_potential_keeps_its_precision_and_device():
    potential = make_potential("painn", "geometry", dtype="float32")
    assert NPCalculator(potential, device="cpu", dtype="float32").potential is potential
    for more in ({"dtype": "float64"}, {"device": "cuda"}, {"device": "cpu:1"}):
        with pytest.raises(
            ValueError, match=f"asked for .*{next(iter(more.values()))}.* load it with"
        ):
            NPCalculator(potential, **more)


def test_nothing_to_calculate_is_said_so():
    for name in ("get_forces", "get_electron_displacements", "get_atomic_dipoles", "get_hessian"):
        with pytest.raises(ValueError, match="no structure has been calculated yet: give atoms"):
            getattr(NPCalculator(make_potential("painn", "geometry")), name)()


def test_a_failed_calculation_leaves_no_results(calculator):
    good = ethanol()
    calculator.calculate(good)
    bad = ethanol()
    bad.positions[1] = bad.positions[0] + 0.05
    bad.calc = calculator
    for _ in range(2):
        with pytest.raises(ValueError, match="overlapping"):
            calculator.calculate(bad)
        with pytest.raises(ValueError, match="overlapping"):
            bad.get_potential_energy()


def test_structures_of_earlier_calculations_stay(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    kept = []
    for k in range(3):
        atoms.positions[0, 0] += 0.1
        atoms.get_potential_energy()
        kept.append(calculator.atoms)
        assert len({id(a.positions) for a in kept}) == k + 1
    assert len({a.positions[0, 0] for a in kept}) == 3


def test_calculator_can_be_pickled(calculator):
    atoms = ethanol()
    again = pickle.loads(pickle.dumps(calculator))
    np.testing.assert_allclose(again.get_forces(atoms), calculator.get_forces(atoms), atol=1e-12)


def test_cache_notices_changes(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    first = atoms.get_potential_energy()
    assert not calculator.calculation_required(atoms, ["energy", "forces"])
    atoms.positions[0, 0] += 0.01
    assert atoms.get_potential_energy() != first
    del atoms[8]
    assert atoms.get_forces().shape == (8, 3)


def test_wrapping_a_periodic_molecule_keeps_energy_and_forces(calculator):
    atoms = ethanol()
    atoms.set_cell([12.0, 12.0, 12.0])
    atoms.pbc = True
    atoms.calc = calculator
    energy, forces, dipole = (
        atoms.get_potential_energy(),
        atoms.get_forces(),
        atoms.get_dipole_moment(),
    )
    atoms.wrap()
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-10)
    # No formal charges: the dipole comes from edges and displacements and does not jump either.
    np.testing.assert_allclose(atoms.get_dipole_moment(), dipole, atol=1e-10)


def test_the_dipole_of_a_neutral_molecule_does_not_depend_on_the_place():
    """Charge increments cancel but for rounding, which would count far from the origin."""
    atoms = ethanol()
    potential = make_potential("painn", "geometry-4", dtype="float32")
    atoms.calc = NPCalculator(potential)
    charges = potential.evaluate(atoms.calc.graph(atoms))["charges"]
    assert charges.abs().max() > 1e-2
    here = atoms.get_dipole_moment()
    atoms.positions += 4096.0  # keeps differences of positions to 1e-12
    np.testing.assert_allclose(atoms.get_dipole_moment(), here, atol=1e-5)


def test_charged_system_reports_the_dipole_about_the_centre_of_mass():
    more = {"charges": "formal", "formal_charges": {"H": 1.0, "O": -1.0}}
    atoms = Atoms("OHH", [[0, 0, 0], [0.9, 0.3, 0], [-0.3, 0.9, 0.1]])
    atoms.calc = NPCalculator(make_potential("painn", "geometry", **more))
    here = atoms.get_dipole_moment()
    atoms.positions += [5.0, 6.0, 7.0]
    np.testing.assert_allclose(atoms.get_dipole_moment(), here, atol=1e-10)
    np.testing.assert_allclose(atoms.get_charges(), [-1.0, 1.0, 1.0])
    before = atoms.get_center_of_mass()
    atoms.set_masses([16.0, 2.0, 1.0])  # HDO
    moved = atoms.get_center_of_mass() - before
    np.testing.assert_allclose(atoms.get_dipole_moment(), here - moved, atol=1e-10)


def test_ase_tools_work(calculator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = dimer(1.2)
    atoms.calc = calculator
    atoms.set_constraint(FixAtoms([0]))
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=5)
    atoms.set_constraint()
    Vibrations(atoms, name="vib").run()
    infrared = Infrared(atoms, name="ir")
    infrared.run()
    assert infrared.get_spectrum()[0].size


def test_implemented_properties_follow_the_card():
    plain = NPCalculator(make_potential("painn", "geometry", dipole=False))
    atoms = ethanol()
    atoms.calc = plain
    assert "dipole" not in plain.implemented_properties
    assert "dipole" in NPCalculator(make_potential()).implemented_properties
    for call in (atoms.get_dipole_moment, atoms.get_charges):
        with pytest.raises(PropertyNotImplementedError, match="it has: energy"):
            call()
    for call in (plain.get_electron_displacements, plain.get_atomic_dipoles):
        with pytest.raises(PropertyNotImplementedError, match="has no"):
            call(atoms)
    with pytest.raises(PropertyNotImplementedError, match="stress needs a cell"):
        atoms.get_stress()


def test_energy_only_model_has_no_untrained_update():
    """Its last update reaches nothing, so it does not exist."""
    model = make_potential("painn", "geometry", dipole=False).module.edge_potential.model
    assert [len(list(u.parameters())) > 0 for u in model.updates] == [True, False]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Atoms(), "no atoms"),
        (lambda: Atoms("NO", [[0, 0, 0], [1.2, 0, 0]]), "does not know N; it knows H, C, O"),
        (lambda: Atoms("CO", [[0, 0, 0], [np.nan, 0, 0]]), "position of atom 1 is NaN"),
        (lambda: Atoms("CO", [[0, 0, 0], [0, 0, 0.01]]), "atoms 0 .C. and 1 .O. are 0.010 A apart"),
        (lambda: Atoms("CO", [[0, 0, 0], [0, 0, 0]]), "overlapping"),
        (lambda: Atoms("CO", [[0, 0, 0], [0, 0, 1]], pbc=True), "lattice vector is zero"),
        (
            lambda: Atoms("C", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 3]], pbc=True),
            "linearly dependent",
        ),
    ],
)
def test_bad_structures(calculator, make, match):
    atoms = make()
    atoms.calc = calculator
    with pytest.raises(ValueError, match=match):
        atoms.get_potential_energy()
    good = ethanol()
    good.calc = calculator
    assert np.isfinite(good.get_potential_energy())


def test_another_composition_warns_once():
    calculator = NPCalculator(make_potential(card=TIGHT))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_potential_energy(ethanol())
    with pytest.warns(DomainWarning, match="is CO, but potential .* trained on C2H6O"):
        calculator.get_potential_energy(dimer(1.2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.get_potential_energy(dimer(1.3))


def test_displacements_at_the_bound_say_nothing():
    """Where the training structures have reached it lengths hardly differ."""
    ranges = dict.fromkeys("HCO", 0.49999)
    calculator = NPCalculator(make_potential(card={"displacement_range": ranges}))
    assert calculator.potential.card.model.d_max == 0.5
    calculator.calculate(ethanol())
    assert np.isinf(calculator._unusual_square).all()


def test_it_has_no_parameters_to_set():
    calculator = NPCalculator("ethanol-fast")
    assert calculator.todict() == {"potential": "ethanol-fast", "dtype": "float32"}
    with pytest.raises(TypeError, match="cannot change skin, dtype: make a new one"):
        calculator.set(skin=2.0, dtype="float64")


def test_large_displacement_warns():
    calculator = NPCalculator(
        make_potential(card={"displacement_range": {"H": 1e-6, "C": 1e-6, "O": 1e-6}})
    )
    with pytest.warns(DomainWarning, match="outside the training domain"):
        calculator.get_potential_energy(ethanol())
    quiet = NPCalculator(calculator.potential, check_domain=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet.get_potential_energy(ethanol())


def test_inside_no_grad_and_first_call_of_a_method():
    atoms = ethanol()
    atoms.calc = NPCalculator(make_potential())
    forces = atoms.get_forces()
    with torch.no_grad():
        again = NPCalculator(make_potential()).get_forces(atoms)
    np.testing.assert_array_equal(forces, again)
    overlapping = ethanol()
    overlapping.positions[1] = overlapping.positions[0] + 0.05
    with pytest.raises(ValueError, match="overlapping atoms"):
        NPCalculator(make_potential()).get_hessian(overlapping)


@pytest.mark.filterwarnings("ignore:an electron point")  # whose displacements tell it too
def test_each_composition_is_warned_of():
    calculator = NPCalculator("ethanol-fast")
    for name in ("CH4", "H2O"):
        with pytest.warns(DomainWarning, match="trained"):
            calculator.get_potential_energy(molecule(name))


def test_born_charges_do_not_keep_a_structure_from_being_written(tmp_path):
    atoms = ethanol()
    atoms.calc = NPCalculator(make_potential("painn", "geometry"))
    atoms.get_potential_energy()
    assert atoms.calc.get_property("born_effective_charges", atoms, allow_calculation=False) is None
    born = atoms.calc.get_born_effective_charges(atoms)
    ase.io.write(tmp_path / "a.xyz", atoms)
    assert ase.io.read(tmp_path / "a.xyz").get_forces() == pytest.approx(atoms.get_forces())
    again = atoms.calc.get_property("born_effective_charges", atoms, allow_calculation=False)
    np.testing.assert_array_equal(again, born)
    atoms.positions[0] += 0.1
    assert np.abs(atoms.calc.get_born_effective_charges(atoms) - born).max() > 1e-4


def test_a_pickled_calculator_knows_its_file(tmp_path):
    make_potential("painn", "geometry").save(tmp_path / "p.pt")
    calculator = NPCalculator(tmp_path / "p.pt")
    raw = pickle.dumps(calculator)
    again = pickle.loads(raw)
    assert again.identity == calculator.identity
    assert again.potential._script is not None  # as fast as the one that was pickled
    # Another potential of that name, or none: what was pickled is what comes back.
    make_potential("painn", "geometry", seed=1).save(tmp_path / "p.pt", overwrite=True)
    forces = calculator.get_forces(ethanol())
    for _ in range(2):
        again = pickle.loads(raw)
        assert again.identity == calculator.identity
        np.testing.assert_allclose(again.get_forces(ethanol()), forces, atol=1e-4)
        (tmp_path / "p.pt").unlink(missing_ok=True)
