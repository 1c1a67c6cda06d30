"""Absolute infrared intensities: an oscillator that is known, corrections, harmonic modes, files."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from scipy import constants
from scipy.signal import lfilter
from systems import make_potential

from npcalc import NPCalculator
from npcalc.conventions import (
    AMU_A2_PER_FS2_IN_EV,
    KB,
    KELVIN_PER_INVERSE_CM,
    KM_PER_MOL,
    SPEED_OF_LIGHT_CM_PER_FS,
)
from npcalc.md import MDSettings, Trajectory
from npcalc.spectra import (
    CORRECTIONS,
    calculate_harmonic_spectrum,
    harmonic_spectrum,
    infrared_spectrum,
    plot_spectrum,
    read_jcamp,
)
from npcalc.spectra.trajectory import trajectory_spectrum

SLOPE = np.array([0.3, -0.1, 0.2])  # d mu / dQ in e/sqrt(amu)


def oscillator(wavenumber, temperature, n=100000, interval=1.0, seed=0):
    """Dipole of many periods of a classical oscillator with the thermal mean energy."""
    omega = 2 * np.pi * SPEED_OF_LIGHT_CM_PER_FS * wavenumber
    amplitude = np.sqrt(2 * KB * temperature / AMU_A2_PER_FS2_IN_EV) / omega
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    return amplitude * np.cos(omega * interval * np.arange(n) + phase)[:, None] * SLOPE


def test_unit_constant():
    c = constants
    expected = c.N_A * c.e**2 / (12 * c.epsilon_0 * c.c**2 * c.atomic_mass) / 1000
    assert pytest.approx(expected, rel=1e-6) == KM_PER_MOL


@pytest.mark.parametrize("wavenumber", [300.0, 1500.0, 3700.0])
@pytest.mark.parametrize("temperature", [50.0, 300.0])
@pytest.mark.parametrize("window", ["hann", "blackman"])
def test_oscillator_integrates_to_its_intensity(wavenumber, temperature, window):
    spectrum = infrared_spectrum(
        oscillator(wavenumber, temperature), 1.0, temperature, window=window
    )
    value, _ = spectrum.band(wavenumber - 150, wavenumber + 150)
    assert value == pytest.approx(KM_PER_MOL * (SLOPE**2).sum(), rel=2e-3)
    peak = spectrum.wavenumbers[spectrum.absorption.argmax()]
    assert abs(peak - wavenumber) < 5.0
    assert spectrum.resolution == pytest.approx(10.0, rel=0.05)


def test_components_keep_their_ratio():
    """Components are added as they are, not scaled to the same variance."""
    dipole = oscillator(1500.0, 300.0)
    dipole[:, 1:] = 0.0
    dipole[:, 1] = 2.0 * oscillator(2500.0, 300.0)[:, 0]
    spectrum = infrared_spectrum(dipole, 1.0, 300.0)
    ratio = spectrum.band(2300, 2700)[0] / spectrum.band(1300, 1700)[0]
    assert ratio == pytest.approx(4.0, rel=1e-2)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrections(name):
    wavenumber, temperature = 1500.0, 300.0
    x = wavenumber * KELVIN_PER_INVERSE_CM / temperature
    line_shape = {
        "harmonic": x / (1 - np.exp(-x)), "none": 1.0, "standard": 2 / (1 + np.exp(-x)),
        "schofield": np.exp(x / 2),
    }[name]  # fmt: skip
    dipole = oscillator(wavenumber, temperature)
    bands = [
        infrared_spectrum(dipole, 1.0, temperature, correction=c).band(1450, 1550)[0]
        for c in (name, "harmonic")
    ]
    assert bands[0] / bands[1] == pytest.approx(line_shape / (x / (1 - np.exp(-x))), rel=1e-2)
    assert CORRECTIONS[name](np.array([1e-6]))[0] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("wavenumber", [1000.0, 3700.0])
def test_bands_of_dynamics_are_where_the_forces_have_them(tmp_path, wavenumber):
    """Velocity Verlet moves them up, by 19 1/cm at 3700 1/cm and 0.5 fs, and rates with them."""
    step = 0.5
    half = np.pi * SPEED_OF_LIGHT_CM_PER_FS * step
    seen = np.arcsin(half * wavenumber) / half
    strides = {"dipole": 1}
    settings = MDSettings(strides=strides, timestep_fs=step)
    # As far as forces let it at this temperature, but faster.
    dipoles = oscillator(seen, 300.0, interval=step) * (seen / wavenumber)
    path = tmp_path / "t.h5"
    with Trajectory.create(path, Atoms("H"), settings.model_dump(), strides) as trajectory:
        for k, dipole in enumerate(dipoles):
            trajectory.append("dipole", k, dipole)
        trajectory.write_values()
    raw = infrared_spectrum(dipoles, step, 300.0)
    found = trajectory_spectrum(path, temperature_K=300.0)
    near = (wavenumber - 100.0, wavenumber + 100.0)
    assert seen - wavenumber == pytest.approx(
        wavenumber * (2 * half * wavenumber) ** 2 / 24, rel=0.05
    )
    for spectrum, place in ((raw, seen), (found, wavenumber)):
        weights = spectrum.absorption * (abs(spectrum.wavenumbers - wavenumber) < 100.0)
        mean = (weights * spectrum.wavenumbers).sum() / weights.sum()
        assert mean == pytest.approx(place, abs=0.3)
    intensity = KM_PER_MOL * (SLOPE**2).sum()
    assert found.band(*near)[0] == pytest.approx(intensity, rel=2e-3)
    assert raw.band(*near)[0] == pytest.approx(intensity * (seen / wavenumber) ** 2, rel=2e-3)
    x = wavenumber * KELVIN_PER_INVERSE_CM / 300.0
    corrected = trajectory_spectrum(path, temperature_K=300.0, correction="schofield")
    factor = 2.0 * np.sinh(0.5 * x) / x
    assert corrected.band(*near)[0] == pytest.approx(intensity * factor, rel=1e-2)
    np.testing.assert_allclose(np.diff(found.wavenumbers), raw.wavenumbers[1], rtol=1e-9)


def test_block_errors_cover_the_noise():
    """White noise in the rate has a flat spectrum; the deviations fit the error bars."""
    rng = np.random.default_rng(0)
    spectrum = infrared_spectrum(rng.normal(size=(40000, 3)).cumsum(0), 1.0, 300.0, n_blocks=20)
    inside = (spectrum.wavenumbers > 500) & (spectrum.wavenumbers < 4000)
    level = (
        spectrum.absorption[inside]
        * np.sinc(spectrum.wavenumbers[inside] * SPEED_OF_LIGHT_CM_PER_FS) ** 2
    )
    ratio = level.std() / spectrum.error[inside].mean()
    assert 0.6 < ratio < 1.5


def test_white_noise_is_flat_to_the_end():
    """Both ends of the frequencies have one sign alone."""
    rng = np.random.default_rng(0)
    dipoles = rng.normal(size=(200000, 3)).cumsum(0)
    spectrum = infrared_spectrum(dipoles, 1.0, 300.0, resolution=400.0)
    level = spectrum.absorption * np.sinc(spectrum.wavenumbers * SPEED_OF_LIGHT_CM_PER_FS) ** 2
    np.testing.assert_allclose(level[[0, -1]], level.mean(), rtol=0.1)


def test_errors_of_bands_cover_the_energy_that_comes_and_goes():
    """A thermostat changes the energy of a mode within a picosecond, and its whole band with it.

    The band is wider than the resolution: its points are no independent measurements.
    """
    rng = np.random.default_rng(0)
    n, relaxation_fs = 13000, 1000.0
    kept = np.exp(-0.5 / relaxation_fs)  # of the amplitude in 1 fs
    t = np.arange(n)
    phase = 2.0 * np.pi * 1500.0 * SPEED_OF_LIGHT_CM_PER_FS * t
    phase += 4.0 * np.sin(2.0 * np.pi * t / relaxation_fs)
    found = []
    for _ in range(40):
        noise = rng.normal(size=(n, 6)).view(complex) * np.sqrt(1.0 - kept**2)
        amplitude = lfilter([1.0], [1.0, -kept], noise, axis=0)
        dipoles = (amplitude * np.exp(1j * phase)[:, None]).real
        found.append(infrared_spectrum(dipoles, 1.0, 300.0, 20.0).band(1300, 1700))
    values, errors = np.array(found).T
    ratio = values.std(ddof=1) / np.sqrt((errors**2).mean())
    assert 0.75 < ratio < 1.33


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((np.zeros((100, 2)), 1.0, 300.0), r"expected shape \(n, 3\)"),
        (
            (np.zeros((100, 3)), 1.0, 300.0),
            "too few for a resolution of 10.0 1/cm: .* ps are needed",
        ),
        ((np.full((9999, 3), np.nan), 1.0, 300.0), "NaN"),
        ((np.zeros((99999, 3)), 1.0, 0.0), "expected positive temperature"),
        (
            (np.zeros((99999, 3)), 1.0, 300.0, 10.0, "hann", "harmonic", 1),
            "two blocks at least, got 1",
        ),
        ((np.zeros((99999, 3)), 1.0, 300.0, 10.0, "hann", "magic"), "unknown correction 'magic'"),
    ],
)
def test_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        infrared_spectrum(*arguments)


def test_modes_need_second_derivatives():
    for calculator in (None, EMT()):
        atoms = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], calculator=calculator)
        with pytest.raises(TypeError, match=r"expected an NPCalculator, .* got"):
            calculate_harmonic_spectrum(atoms)


def test_harmonic_diatomic():
    """A spring: frequency sqrt(k/mu), intensity of point charges."""
    atoms = Atoms("HF", [[0, 0, 0], [0, 0, 0.92]])
    stiffness, charge = 60.0, 0.4
    hessian = np.zeros((6, 6))
    hessian[np.ix_([2, 5], [2, 5])] = stiffness * np.array([[1, -1], [-1, 1]])
    born = np.array([charge * np.eye(3), -charge * np.eye(3)])
    lines = harmonic_spectrum(atoms, hessian, born)
    m = atoms.get_masses()
    reduced = m.prod() / m.sum()
    omega = np.sqrt(stiffness * constants.e * 1e20 / (reduced * constants.atomic_mass))
    expected = omega / (2 * np.pi * constants.c * 100)
    np.testing.assert_allclose(lines.frequencies, [expected], rtol=1e-6)
    np.testing.assert_allclose(lines.intensities, [KM_PER_MOL * charge**2 / reduced], rtol=1e-9)


@pytest.mark.parametrize(("name", "modes"), [("H2O", 3), ("CO2", 4), ("C6H6", 30)])
def test_number_of_modes(name, modes):
    atoms = molecule(name)
    n = 3 * len(atoms)
    lines = harmonic_spectrum(atoms, np.eye(n), np.zeros((len(atoms), 3, 3)))
    assert len(lines.frequencies) == modes


def test_reference_hessian(reference_data):
    """Frequencies and intensities of the reference from its own Hessian and polar tensors."""
    file = np.load(reference_data / "rmd17_dipoles" / "harmonic_trans.npz")
    atoms = Atoms(file["numbers"], file["positions"])
    # The file has the position index before the dipole index.
    lines = harmonic_spectrum(atoms, file["hessian_eV_A2"], file["apt_e"].transpose(0, 2, 1))
    np.testing.assert_allclose(lines.frequencies, file["frequencies_cm1"], atol=0.05)
    np.testing.assert_allclose(lines.intensities, file["intensities_km_mol"], atol=0.01)


def test_measured_spectra(reference_data):
    for name, band in (("ethanol", (950, 1150)), ("water", (1400, 1800))):
        x, y = read_jcamp(reference_data / "ir_gas" / f"{name}.jdx")
        assert (np.diff(x) > 0).all()
        assert y.min() == 0.0
        assert y.max() == 1.0
        inside = (x > band[0]) & (x < band[1])
        assert y[inside].max() > 0.3


JDX = """##TITLE=TEST
##JCAMP-DX=4.24
##DATA TYPE=INFRARED SPECTRUM
##XUNITS=1/CM
##YUNITS=TRANSMITTANCE
##XFACTOR=1.0
##YFACTOR=1.0
##FIRSTX=1000
##LASTX=1003
##NPOINTS=4
##FIRSTY=1.0
##XYDATA=(X++(Y..Y))
1000 1.0 0.1 1.0 1.0
##END=
"""


def test_read_and_plot(tmp_path):
    (tmp_path / "m.jdx").write_text(JDX)
    x, y = read_jcamp(tmp_path / "m.jdx")
    np.testing.assert_allclose(x, [1000, 1001, 1002, 1003])
    np.testing.assert_allclose(y, [0, 1, 0, 0])
    spectrum = infrared_spectrum(oscillator(1500.0, 300.0), 1.0, 300.0)
    lines = harmonic_spectrum(molecule("H2O"), np.eye(9), np.ones((3, 3, 3)))
    plot_spectrum(tmp_path / "p.png", spectrum, lines, (x, y), "title")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileNotFoundError, match="no spectrum"):
        read_jcamp(tmp_path / "none.jdx")
    (tmp_path / "bad.jdx").write_text("nothing")
    with pytest.raises(ValueError, match="not a JCAMP-DX spectrum"):
        read_jcamp(tmp_path / "bad.jdx")


def test_slow_sampling_is_warned_of():
    with pytest.warns(UserWarning, match="appear at wrong wavenumbers"):
        infrared_spectrum(oscillator(1500.0, 300.0, interval=5.0), 5.0, 300.0)
    with pytest.raises(ValueError, match="coarser than the spectrum"):
        infrared_spectrum(oscillator(1500.0, 300.0), 1.0, 300.0, resolution=20000.0)
    with pytest.raises(ValueError, match="expected positive"):
        infrared_spectrum(oscillator(1500.0, 300.0), 1.0, 300.0, resolution=0.0)


def test_nve_takes_the_temperature_that_the_run_had(tmp_path):
    """Intensities are proportional to 1/T, and the settings hold only that of the start."""

    def write(name, quantities):
        settings = MDSettings(ensemble="nve", timestep_fs=1.0, strides=quantities)
        path = tmp_path / name
        with Trajectory.create(path, Atoms("H"), settings.model_dump(), quantities) as trajectory:
            for step, dipole in enumerate(oscillator(1500.0, 150.0, n=20000)):
                trajectory.append("dipole", step, dipole)
                if "temperature" in quantities:
                    trajectory.append("temperature", step, 900.0 if step < 5000 else 150.0)
            trajectory.write_values()
        return path

    path = write("with.h5", {"dipole": 1, "temperature": 1})
    late = trajectory_spectrum(path, skip_ps=5.0).band(1400, 1600)[0]
    given = trajectory_spectrum(path, skip_ps=5.0, temperature_K=150.0).band(1400, 1600)[0]
    assert late == pytest.approx(given)
    with pytest.raises(ValueError, match="without recorded temperature"):
        trajectory_spectrum(write("without.h5", {"dipole": 1}))


def stored(path, temperatures, **settings):
    """A trajectory of an oscillator with these temperatures."""
    strides = {"dipole": 1, "temperature": 1}
    values = MDSettings(strides=strides, **settings)
    atoms = molecule("H2O")
    with Trajectory.create(path, atoms, values.model_dump(), strides) as trajectory:
        dipoles = oscillator(1500.0, 300.0, n=len(temperatures), interval=0.5)
        for step, (dipole, temperature) in enumerate(zip(dipoles, temperatures, strict=True)):
            trajectory.append("dipole", step, dipole)
            trajectory.append("temperature", step, temperature)
        trajectory.write_values()
    return path


def test_without_friction_there_is_no_thermostat(tmp_path):
    """The temperature is the mean kinetic one, as of an NVE run."""
    temperatures = np.random.default_rng(0).normal(150.0, 30.0, 20000)
    runs = {"langevin": {"friction_per_ps": 0.0}, "nve": {}}
    bands = [
        trajectory_spectrum(
            stored(tmp_path / f"{name}.h5", temperatures, ensemble=name, **more), resolution=40.0
        ).band(1350, 1650)[0]
        for name, more in runs.items()
    ]
    assert bands[0] == bands[1]
    path = stored(tmp_path / "t.h5", temperatures, temperature_K=300.0)
    with pytest.warns(UserWarning, match="mean temperature is 150 K, that of the thermostat 300 K"):
        weak = trajectory_spectrum(path, resolution=40.0).band(1350, 1650)[0]
    assert bands[0] == pytest.approx(2 * weak, rel=0.01)


@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_a_run_shorter_than_what_is_left_out(tmp_path, ensemble):
    path = stored(tmp_path / "t.h5", np.full(200, 300.0), ensemble=ensemble)
    with pytest.raises(ValueError, match=r"no dipoles after its first 2.0 ps: run longer"):
        trajectory_spectrum(path, skip_ps=2.0)


@pytest.mark.parametrize("bent", [0.0, 1e-6, 1e-4])
def test_a_linear_molecule_that_is_bent_a_little_keeps_its_modes(bent):
    atoms = molecule("CO2")
    atoms.positions[0, 0] += bent
    n = 3 * len(atoms)
    spectrum = harmonic_spectrum(atoms, np.eye(n), np.zeros((3, 3, 3)))
    assert len(spectrum.frequencies) == 4


@pytest.mark.filterwarnings("ignore:the structure is no minimum")  # of random weights
def test_constraints_are_said_to_be_ignored():
    atoms = molecule("H2O")
    atoms.calc = NPCalculator(make_potential("painn", "geometry"))
    atoms.set_constraint(FixAtoms([0]))
    with pytest.warns(UserWarning, match="has constraints, which normal modes do not know"):
        calculate_harmonic_spectrum(atoms)


def test_modes_without_a_dipole_and_of_no_minimum():
    atoms = molecule("H2O")
    atoms.calc = NPCalculator(make_potential("painn", "geometry", dipole=False, charges="none"))
    with pytest.warns(UserWarning, match=r"no minimum: \d of its frequencies"):
        lines = calculate_harmonic_spectrum(atoms)
    assert lines.frequencies[0] < 0.0
    assert np.isfinite(lines.frequencies).all()
    assert np.isnan(lines.intensities).all()
    with pytest.raises(ValueError, match="no intensities to plot"):
        plot_spectrum("x.png", None, lines)
