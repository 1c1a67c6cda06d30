"""Readers, the HDF5 data set, splits, reference energies, and what is wrong with bad data."""

from dataclasses import replace

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from npcalc.conventions import DIPOLE_UNITS, ENERGY_UNITS, unit_factor
from npcalc.data import (
    DataSet,
    Label,
    fit_reference_energies,
    from_atoms,
    isolated_atoms,
    random_split,
    read_data,
    read_npz,
)
from npcalc.files import new_file


def small_npz(path, **more):
    rng = np.random.default_rng(0)
    arrays = {
        "nuclear_charges": np.array([8, 1, 1], dtype=np.uint8),
        "coords": rng.normal(size=(4, 3, 3)),
        "energies": rng.normal(size=4),
        "forces": rng.normal(size=(4, 3, 3)),
    }
    arrays.update(more)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def frames():
    """Two sizes; the second has no forces, the third no energy."""
    out = []
    for k, symbols in enumerate(["OHH", "CO", "OHH"]):
        atoms = Atoms(symbols, np.random.default_rng(k).normal(size=(len(symbols), 3)))
        results = {"energy": -10.0 - k, "forces": np.full((len(symbols), 3), float(k))}
        if k == 1:
            del results["forces"]
        if k == 2:
            del results["energy"]
        atoms.calc = SinglePointCalculator(atoms, **results)
        out.append(atoms)
    return out


def test_npz_in_package_units(tmp_path):
    arrays = small_npz(tmp_path / "x.npz")
    data = read_npz(tmp_path / "x.npz")
    factor = 0.0433641
    np.testing.assert_allclose(data.labels["energy"].values, arrays["energies"] * factor, rtol=1e-5)
    forces = data.labels["forces"].values.reshape(4, 3, 3)
    np.testing.assert_allclose(forces, arrays["forces"] * factor, rtol=1e-5)
    assert data.atoms(2).get_chemical_formula() == "H2O"


def test_reference_file(reference_data):
    data = read_data(reference_data / "rmd17" / "rmd17_ethanol_train_01.npz")
    assert len(data) == 1000
    forces = data.labels["forces"].values.reshape(1000, 9, 3)
    assert abs(forces.sum(1)).max() < 1e-3
    assert data.labels["energy"].values.mean() == pytest.approx(-4209.5, abs=1.0)


def test_hdf5_round_trip_keeps_absence(tmp_path):
    data = replace(from_atoms(frames()), provenance={"license": "CC0"})
    data.save(tmp_path / "x.h5")
    again = read_data(tmp_path / "x.h5")
    assert again.sha256() == data.sha256()
    assert again.provenance == {"license": "CC0"}
    assert list(again.labels["forces"].present) == [True, False, True]
    assert list(again.labels["energy"].present) == [True, True, False]
    assert np.isnan(again.labels["forces"].values[3:5]).all()
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["labels/forces/values"].attrs["unit"] == "eV/A"
        assert len(file["labels/forces/values"]) == 6
    with pytest.raises(FileExistsError, match="exists"):
        data.save(tmp_path / "x.h5")


def test_extended_xyz(tmp_path):
    ase.io.write(tmp_path / "x.xyz", frames()[:1] * 3, format="extxyz")
    data = read_data(tmp_path / "x.xyz")
    assert len(data) == 3
    np.testing.assert_allclose(data.labels["energy"].values, -10.0)


def test_subset_and_split():
    data = from_atoms(frames())
    part = data.subset([2, 1])
    assert list(part.n_atoms) == [3, 2]
    np.testing.assert_array_equal(part.atoms(1).positions, data.atoms(1).positions)
    a, b = random_split(100, [80, 15], seed=3)
    assert len(set(a) | set(b)) == 95
    np.testing.assert_array_equal(a, random_split(100, [80, 15], seed=3)[0])
    with pytest.raises(ValueError, match="cannot split"):
        random_split(10, [8, 3], 0)
    with pytest.raises(IndexError, match="structure 3 does not exist"):
        data.subset([3])


def test_reference_energies_by_least_squares():
    atoms = [Atoms(s, np.eye(3)[: len(s)] * 3) for s in ("OH", "OO", "HH", "OHH"[:2])]
    for a in atoms:
        energy = sum({"O": -5.0, "H": -1.0}[s] for s in a.symbols)
        a.calc = SinglePointCalculator(a, energy=energy)
    fitted = fit_reference_energies(from_atoms(atoms), 5.0)
    assert fitted == pytest.approx({1: -1.0, 8: -5.0})


def test_shipped_training_data():
    """The bundled sets: sizes, absent dipoles, licence."""
    from npcalc.potential.registry import bundled_folder

    train = DataSet.load(bundled_folder() / "data" / "ethanol-train.h5")
    test = DataSet.load(bundled_folder() / "data" / "ethanol-test.h5")
    assert (len(train), len(test)) == (1000, 1000)
    assert train.labels["dipole"].present.sum() == 1000
    assert test.labels["dipole"].present.sum() == 500
    assert "CC0" in train.provenance["license"]


@pytest.mark.parametrize(
    ("change", "keys", "match"),
    [
        ({"energies": None}, None, "no key 'energies'; it has: .*coords"),
        ({"coords": None}, None, r"x\.npz: no key 'coords'"),
        ({"coords": np.zeros((4, 9))}, None, r"x\.npz: key 'coords' has shape \(4, 9\), key"),
        (
            {"energies": np.array(["a"] * 4)},
            None,
            r"x\.npz: key 'energies' for label 'energy': could",
        ),
        ({"forces": np.zeros((4, 2, 3))}, None, r"shape \(4, 2, 3\), expected \(4, 3, 3\)"),
        ({"forces": np.zeros((4, 9))}, None, r"shape \(4, 9\), expected \(4, 3, 3\)"),
        ({"energies": np.array([0.0, np.nan, 0.0, 0.0])}, None, "'energy' of structure 1 is NaN"),
        ({"coords": np.full((4, 3, 3), np.inf)}, None, "structure 0 has NaN or infinite positions"),
        ({}, {"dipole": "mu"}, "no key 'mu'"),
        ({}, {"dipol": "energies"}, "dipol"),
    ],
)
def test_bad_npz(tmp_path, change, keys, match):
    small_npz(tmp_path / "x.npz", **change)
    with pytest.raises((ValueError, KeyError), match=match):
        read_npz(tmp_path / "x.npz", keys)


def test_units_of_files_that_do_not_say_them(tmp_path):
    small_npz(tmp_path / "x.npz")
    kcal = read_data(tmp_path / "x.npz")
    ev = read_data(tmp_path / "x.npz", units={"energy": "eV"})
    for name in ("energy", "forces"):
        np.testing.assert_allclose(
            kcal.labels[name].values, ev.labels[name].values * ENERGY_UNITS["kcal/mol"]
        )
    with pytest.raises(ValueError, match="unit of 'force'"):
        read_data(tmp_path / "x.npz", units={"force": "eV"})


def test_forces_in_a_unit_of_their_own(tmp_path):
    """As quantum chemistry gives them: coordinates in A, energies in hartree, forces in hartree/bohr."""
    ase.io.write(tmp_path / "x.xyz", frames())
    plain = read_data(tmp_path / "x.xyz")
    data = read_data(tmp_path / "x.xyz", units={"energy": "hartree", "forces": "hartree/bohr"})
    np.testing.assert_array_equal(data.positions, plain.positions)
    for name, factor in (("energy", 27.211386), ("forces", 51.422067)):
        np.testing.assert_allclose(
            data.labels[name].values, plain.labels[name].values * factor, rtol=1e-7
        )
    data = read_data(tmp_path / "x.xyz", units={"forces": "kcal/mol/A"})
    np.testing.assert_allclose(
        data.labels["forces"].values, plain.labels["forces"].values * ENERGY_UNITS["kcal/mol"]
    )
    for wrong, match in (("hartree", "expected ENERGY/LENGTH"), ("eV/m", "unknown unit 'm'")):
        with pytest.raises(ValueError, match=match):
            read_data(tmp_path / "x.xyz", units={"forces": wrong})


def test_keys_that_are_not_read_are_named(tmp_path):
    with pytest.raises(ValueError, match="keys found: energy, forces"):
        from_atoms(frames(), {"energy": "Energy"})
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]], info={"REF_energy": -1.0})
    ase.io.write(tmp_path / "x.xyz", atoms)
    with pytest.raises(ValueError, match=r"no labels; keys .*: REF_energy \(data\.keys"):
        read_data(tmp_path / "x.xyz").require("energy")
    assert read_data(tmp_path / "x.xyz", {"energy": "REF_energy"}).require("energy").present.all()
    assert from_atoms([Atoms("O", info={"a": 1, 3: 2})]).unread == ("3", "a")
    other = from_atoms([Atoms("O", info={"energy": 1.0, "stress": 0.0, "mu": [0.0, 0.0, 1.0]})])
    with pytest.raises(ValueError, match=r"the data set has: energy; keys .* read from: mu \("):
        other.require("dipole")


@pytest.mark.parametrize("ending", ["xyz", "npz", "h5"])
def test_files_with_wrong_values_are_named(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    if ending == "npz":
        small_npz(path, energies=np.array([0.0, np.nan, 0.0, 0.0]))
    elif ending == "xyz":
        atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]])
        atoms.calc = SinglePointCalculator(atoms, energy=np.nan)
        ase.io.write(path, atoms)
    else:
        from_atoms(frames()).save(path)
        with h5py.File(path, "r+") as file:
            file["labels/energy/values"][1] = np.nan
    with pytest.raises(ValueError, match=rf"x\.{ending}: label 'energy' of structure \d is NaN"):
        read_data(path)


def test_a_data_set_without_labels_and_its_fixed_names(tmp_path):
    bare = from_atoms([Atoms("OH", [[0, 0, 0], [0, 0, 1]])])
    bare.save(tmp_path / "bare.h5")
    assert DataSet.load(tmp_path / "bare.h5").labels == {}
    from_atoms(frames()).save(tmp_path / "x.h5")
    assert len(read_data(tmp_path / "x.h5", {"energy": "energy"})) == 3
    with pytest.raises(ValueError, match="no key 'E' for label 'energy'"):
        read_data(tmp_path / "x.h5", {"energy": "E"})


def test_truncated_npz(tmp_path):
    small_npz(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable npz"):
        read_data(tmp_path / "y.npz")


def test_bad_xyz_keys(tmp_path):
    with pytest.raises(
        ValueError, match="no structure has the key 'REF_energy' for label 'energy'"
    ):
        from_atoms(frames(), {"energy": "REF_energy"})
    atoms = frames()[0]
    atoms.info["mu"] = [1.0, 2.0]
    with pytest.raises(ValueError, match=r"label 'dipole' .key 'mu'. of structure 0 has shape"):
        from_atoms([atoms], {"dipole": "mu"})
    with pytest.raises(ValueError, match="no structures"):
        from_atoms([])


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data file"):
        read_data(tmp_path / "none.npz")
    (tmp_path / "x.h5").write_text("hello")
    with pytest.raises(ValueError, match="not a readable HDF5"):
        read_data(tmp_path / "x.h5")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(ValueError, match="not an npcalc data set"):
        read_data(tmp_path / "y.h5")


def test_data_set_checks():
    data = from_atoms(frames())
    with pytest.raises(ValueError, match="adds up to 7"):
        replace(data, n_atoms=np.array([3, 2, 2]))
    with pytest.raises(ValueError, match="label 'energy': expected shape"):
        replace(data, labels={"energy": Label(np.zeros(2), np.ones(3, bool))})
    with pytest.raises(ValueError, match="'virial' is no label"):
        replace(data, labels={"virial": Label(np.zeros(3), np.ones(3, bool))})
    with pytest.raises(ValueError, match=r"label 'gap': expected shape \(3,\), got \(3, 2\)"):
        replace(data, labels={"gap": Label(np.zeros((3, 2)), np.ones(3, bool))})
    with pytest.raises(ValueError, match=r"'dipole' is asked for.*has: energy, forces"):
        data.require("dipole")


def test_units():
    assert unit_factor(ENERGY_UNITS, "kcal/mol", "energy") == pytest.approx(0.0433641, rel=1e-5)
    assert unit_factor(DIPOLE_UNITS, "D", "dipole") == pytest.approx(1 / 4.80320, rel=1e-5)
    with pytest.raises(ValueError, match="unknown unit 'Ry' of energy: expected one of eV"):
        unit_factor(ENERGY_UNITS, "Ry", "energy")


def test_isolated_atoms_are_their_reference_energies():
    """Other elements are fitted to what is left."""
    found = [
        Atoms("O"),
        Atoms("O"),
        molecule("H2O"),
        molecule("CO"),
        molecule("CH4"),
        Atoms("O", pbc=True, cell=[3] * 3),
    ]
    energies = [-10.08, -10.12, -10.1 - 2 * 1.5, -10.1 - 20.0, -20.0 - 4 * 1.5, -17.0]
    for atoms, energy in zip(found, energies, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    fitted = fit_reference_energies(from_atoms(found[:-1]), 5.0)
    assert fitted == pytest.approx({1: -1.5, 6: -20.0, 8: -10.1})
    # A crystal of one atom in its cell is no isolated one.
    assert fit_reference_energies(from_atoms(found[2:]), 5.0)[8] != pytest.approx(-17.0)
    assert fit_reference_energies(from_atoms(found[2:]), 2.9)[8] == pytest.approx(-17.0)
    assert fit_reference_energies(from_atoms(found[:2]), 5.0) == pytest.approx({8: -10.1})
    # Nor do two states of an atom have a mean that is one.
    with pytest.raises(ValueError, match=r"O atoms .*, structure 6 -17.* and structure 1 -10\.08"):
        fit_reference_energies(from_atoms([found[2], *found]), 2.9)


def test_atoms_are_isolated_where_no_image_is_near():
    skewed = [[9.0, 0.0, 0.0], [8.0, 3.0, 0.0], [0.0, 0.0, 9.0]]  # an image at 3.16 A
    found = [
        Atoms("O"),
        Atoms("O", pbc=True, cell=[9.0] * 3),
        Atoms("O", pbc=True, cell=[9.0, 9.0, 4.9]),
        Atoms("O", pbc=(True, True, False), cell=[9.0, 9.0, 4.9]),
        Atoms("O", pbc=(True, False, False), cell=[9.0, 0.0, 0.0]),
        Atoms("O", pbc=True, cell=skewed),
        Atoms("O", pbc=(True, False, True), cell=skewed),
        molecule("O2"),
    ]
    expected = [True, True, False, True, True, False, True, False]
    assert isolated_atoms(from_atoms(found), 5.0).tolist() == expected


def test_files_that_cannot_be_read(tmp_path):
    from_atoms(frames()).save(tmp_path / "d.H5")
    assert len(read_data(tmp_path / "d.H5")) == 3
    with pytest.raises(ValueError, match="unit of 'foo'"):
        read_data(tmp_path / "d.H5", units={"foo": "bar"})
    with h5py.File(tmp_path / "d.H5", "r+") as file:
        del file["positions"]
    with pytest.raises(ValueError, match=r"d.H5' is damaged: .*positions"):
        read_data(tmp_path / "d.H5")
    for name in ("empty.xyz", "odd.foo"):
        (tmp_path / name).write_text("")
        with pytest.raises(ValueError, match=f"{name}' holds no structures that ASE can read"):
            read_data(tmp_path / name)


def test_results_of_another_structure_are_no_labels():
    atoms = [Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2 + 0.1 * k]]) for k in range(2)]
    shared = EMT()
    for one in atoms:
        one.calc = shared
        one.get_potential_energy()
    with pytest.raises(ValueError, match=r"structure 0: label 'energy' .* for another structure"):
        from_atoms(atoms)
    moved = atoms[0].copy()
    moved.calc = SinglePointCalculator(moved, energy=-1.0)
    moved.set_initial_charges([0.1, -0.1])  # does not matter
    assert from_atoms([moved]).labels["energy"].values[0] == -1.0
    moved.positions[0, 0] += 0.1
    with pytest.raises(ValueError, match="atoms were moved since"):
        from_atoms([moved])


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch, links):
    path = tmp_path / "a.txt"

    def refuse(*names):
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    with new_file(path) as partial:
        partial.write_text("mine")
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    path.unlink()
    if links:
        block = new_file(path)
        block.__enter__().write_text("mine")
        path.write_text("theirs")
        with pytest.raises(FileExistsError, match=r"a\.txt' was made by something else"):
            block.__exit__(None, None, None)
        assert path.read_text() == "theirs"
        assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
