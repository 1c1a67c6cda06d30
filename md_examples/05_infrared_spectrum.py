"""Infrared spectrum of ethanol: molecular dynamics above, harmonic lines below.

python md_examples/05_infrared_spectrum.py [steps] [folder]
"""

import sys
from pathlib import Path

from npcalc import NPCalculator
from npcalc.md import MDSettings, read_structure, relax, run_md
from npcalc.spectra import calculate_harmonic_spectrum, plot_spectrum, trajectory_spectrum

n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40000
folder = Path(sys.argv[2] if len(sys.argv) > 2 else ".")

# Harmonic: relax, then Hessian and Born charges of the same model.
atoms = read_structure("ethanol")
atoms.calc = NPCalculator("ethanol-fast", dtype="float64")
relax(atoms, fmax=1e-4)
lines = calculate_harmonic_spectrum(atoms)

# Anharmonic: the dipole along a trajectory with little friction. Compiling takes a while and pays
# for long runs.
calculator = NPCalculator("ethanol-fast", compile=n_steps >= 20000)
settings = MDSettings(temperature_K=300, friction_per_ps=1, strides={"dipole": 2, "positions": 100})
path = folder / f"infrared-{n_steps}.h5"
run_md(atoms, calculator, n_steps, path, settings, resume=path.exists())

equilibration = n_steps * settings.timestep_fs / 8000  # ps, an eighth
resolution = 20.0 if n_steps >= 20000 else 400.0
spectrum = trajectory_spectrum(path, equilibration, resolution=resolution)
value, error = spectrum.band(3400, 4000)
print(f"O-H stretch      {value:.1f} +- {error:.1f} km/mol from 300 K dynamics")
print(
    f"                 {lines.intensities[-1]:.1f} km/mol harmonic, {lines.frequencies[-1]:.0f} 1/cm"
)
plot = folder / f"infrared-{n_steps}.png"
plot.unlink(missing_ok=True)  # of an earlier run
plot_spectrum(plot, spectrum, lines, title="ethanol, 300 K")
print(f"plot             {plot}")
