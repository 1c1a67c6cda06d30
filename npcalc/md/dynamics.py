"""Molecular dynamics with ASE's integrators, written to an HDF5 trajectory."""

import os
from pathlib import Path
from typing import Any, Literal

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.constraints import FixBondLengths, FixCom
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from pydantic import BaseModel, ConfigDict, Field, field_validator
from tqdm import tqdm

from ..calculator import NPCalculator
from ..conventions import FS, KB
from ..files import new_file
from .trajectory import QUANTITIES, Trajectory, TrajectoryError


class MDSettings(BaseModel):
    """A run of molecular dynamics.

    Attributes:
        ensemble: ``langevin`` (NVT) or ``nve``.
        timestep_fs: Time step in fs. Its error moves fast motions up by nu (omega dt)^2 / 24: at 0.5 fs an
            O-H stretch of 3700 1/cm by 19 1/cm; `npcalc.spectra.trajectory_spectrum` takes that back.
        temperature_K: Temperature in K; for ``nve`` that of the initial velocities.
        friction_per_ps: Langevin friction in 1/ps. It broadens lines of a spectrum by
            friction / (2 pi c), 5.3 1/cm for 1/ps.
        seed: Of initial velocities and the thermostat.
        strides: Steps between two values of each quantity.
        block: Steps between two flushes; a killed run loses no more than that. By default 2000, and fewer
            above 1000 atoms, for which steps times atoms are two millions, but 50 at least.
        fix_center_of_mass: Whether the centre of mass rests; it is one molecule or a periodic cell.
            Not where the structure has constraints of its own.
        max_temperature_K: Above it the run has exploded and is stopped.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ensemble: Literal["langevin", "nve"] = "langevin"
    timestep_fs: float = Field(0.5, gt=0.0)
    temperature_K: float = Field(300.0, ge=0.0)
    friction_per_ps: float = Field(1.0, ge=0.0)
    seed: int = Field(0, ge=0)
    strides: dict[str, int] = {
        "positions": 20,
        "velocities": 100,
        "dipole": 2,
        "energy": 10,
        "kinetic_energy": 10,
        "temperature": 10,
    }
    block: int | None = Field(None, ge=1)
    fix_center_of_mass: bool = True
    max_temperature_K: float = Field(20000.0, gt=0.0)

    @field_validator("strides")
    @classmethod
    def _known(cls, strides: dict[str, int]) -> dict[str, int]:
        for name, stride in strides.items():
            if name not in QUANTITIES or stride < 1:
                raise ValueError(
                    f"stride {name!r}: {stride}: expected at least 1 and one of {', '.join(QUANTITIES)}"
                )
        return strides


def has_velocities(atoms: Atoms) -> bool:
    """Whether a structure moves; files and earlier dynamics may leave momenta that are all zero."""
    return atoms.has("momenta") and bool(atoms.get_momenta().any())


class MDExploded(RuntimeError):  # noqa: N818 - it is an event, and named so by users
    """The dynamics left what makes sense; the last frame is saved and named in the message."""


def run_md(
    atoms: Atoms,
    calculator: Calculator,
    n_steps: int,
    path: str | os.PathLike[str],
    settings: MDSettings | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Atoms:
    """Runs molecular dynamics to a total number of steps.

    A run that was interrupted and resumed is identical to one that was not. One that came to its end and is
    made longer is so where that end is a multiple of ``settings.block``; elsewhere rounding differs, which
    grows. That, and the refusal to go on with another potential, hold for an `NPCalculator`; of other
    calculators nothing but their class is known.

    Args:
        atoms: Structure at the start; its momenta are used if any is not zero, otherwise they are drawn
            at the temperature, 0 K for a start at rest. Its constraints hold. Not changed. Not used when
            resuming.
        calculator: Calculator of forces, and of dipoles if they are recorded.
        n_steps: Steps of the whole run, those before a resume included.
        path: Trajectory file.
        settings: Settings; when resuming, those of the file by default, and they may not differ. By default
            dipoles are left out where the calculator has none.
        resume: Whether to go on with an existing file.
        progress: Whether to show a bar.

    Returns:
        The last structure, with momenta; ``info["temperature_K"]`` is its temperature in the
        degrees of freedom of the run.

    Raises:
        FileExistsError: The file exists and ``resume`` is not set.
        TrajectoryError: The file cannot be continued, has more steps already, or was made with other
            settings or another calculator.
        TypeError: ``settings`` are no `MDSettings`.
        ValueError: The calculator cannot evaluate the structure, or there are no steps to do.
        MDExploded: The dynamics left what makes sense.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps: expected 1 or more, got {n_steps}")
    if settings is not None and not isinstance(settings, MDSettings):
        raise TypeError(f"settings: expected MDSettings(...), got {type(settings).__name__}")
    identity = getattr(calculator, "identity", {"class": type(calculator).__name__})
    if resume:
        with Trajectory(path) as trajectory:
            stored = trajectory.settings
            if n_steps < trajectory.steps_done:
                raise TrajectoryError(
                    f"{os.fspath(path)!r} has {trajectory.steps_done} steps already, asked for are "
                    f"{n_steps}: give the number of the whole run"
                )
            given = settings.model_dump() if settings else stored
            if given["block"] is None:
                given = given | {"block": stored["block"]}
            _refuse_changes(path, "settings", stored, given)
            # A potential may have moved to another place; older files know less.
            known = {k: v for k, v in trajectory.calculator.items() if k != "source"}
            _refuse_changes(path, "calculator", known, {k: identity.get(k) for k in known})
        settings = MDSettings.model_validate(stored)
        trajectory = Trajectory(path, "r+")
        first, atoms, generator = trajectory.restart()
    else:
        if settings is None:
            settings = MDSettings()
            if "dipole" not in calculator.implemented_properties:
                strides = {k: v for k, v in settings.strides.items() if k != "dipole"}
                settings = settings.model_copy(update={"strides": strides})
        if settings.block is None:
            block = max(2_000_000 // max(len(atoms), 1000), 50)  # each costs an evaluation
            settings = settings.model_copy(update={"block": block})
        atoms = atoms.copy()
        for constraint in atoms.constraints:
            # Lengths of the start, where none are given: after a resume they would be those of then.
            if isinstance(constraint, FixBondLengths) and constraint.bondlengths is None:
                constraint.bondlengths = constraint.initialize_bond_lengths(atoms)
        first, generator = 0, None
        # What cannot be evaluated at all is an error of the input and leaves no file behind.
        atoms.calc = calculator
        atoms.get_forces()
        if "dipole" in settings.strides:
            atoms.get_dipole_moment()
        trajectory = Trajectory.create(
            path, atoms, settings.model_dump(), settings.strides, identity
        )
    own = list(atoms.constraints)
    with trajectory:
        trajectory.steps_wanted = n_steps
        run = _Run(atoms, calculator, trajectory, settings, generator)
        last = run.to(first, n_steps, progress)
    last.info["temperature_K"] = last.get_temperature()  # of the degrees of freedom of the run
    last.set_constraint(own)
    return last


def _refuse_changes(
    path: str | os.PathLike[str], what: str, old: dict[str, Any], new: dict[str, Any]
) -> None:
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        pairs = ", ".join(f"{k} {old.get(k)!r}, now {new.get(k)!r}" for k in changed)
        raise TrajectoryError(
            f"{os.fspath(path)!r} cannot go on with changed {what}: it was made with {pairs}"
        )


class _Run:
    """A run in progress."""

    def __init__(
        self,
        atoms: Atoms,
        calculator: Calculator,
        trajectory: Trajectory,
        settings: MDSettings,
        generator: dict[str, Any] | None,
    ) -> None:
        self.atoms, self.trajectory, self.settings = atoms, trajectory, settings
        self.rng = np.random.default_rng(settings.seed)
        rest = settings.fix_center_of_mass and len(atoms) > 1 and not atoms.constraints
        if rest:
            atoms.set_constraint(FixCom())
        if generator is not None:
            self.rng.bit_generator.state = generator
        elif not has_velocities(atoms):
            thermalize_momenta(atoms, temperature_K=settings.temperature_K, rng=self.rng)
            if rest:
                Stationary(atoms)
        elif rest:
            # The constraint would stop a drift at the first step.
            Stationary(atoms, preserve_temperature=False)
        self.is_new = generator is None
        atoms.calc = calculator
        self._reset_neighbors()
        self.integrator = self._integrator()

    def _integrator(self) -> MolecularDynamics:
        s = self.settings
        if s.ensemble == "nve":
            return VelocityVerlet(self.atoms, timestep=s.timestep_fs * FS)
        return Langevin(
            self.atoms,
            timestep=s.timestep_fs * FS,
            temperature_K=s.temperature_K,
            friction=s.friction_per_ps / (1000.0 * FS),
            fixcm=False,
            rng=self.rng,
        )

    def to(self, first: int, last: int, progress: bool) -> Atoms:
        """Steps from ``first`` to ``last``, recording and flushing."""
        step, block = first, self.settings.block
        assert block is not None
        try:
            forces = self.atoms.get_forces(md=True)
            if self.is_new:
                self._record(0)
                # To go on from, with these velocities, before the first block is complete.
                self._save(0)
            bar = tqdm(total=last, initial=first, desc="MD", unit="step", disable=not progress)
            with bar:
                while step < last:
                    forces = self.integrator.step(forces)
                    step += 1
                    self._record(step)
                    if step % block == 0 or step == last:
                        self._save(step)
                        if step < last:
                            self._reset_neighbors()
                            forces = self.atoms.get_forces(md=True)
                        bar.set_postfix_str(f"{self.atoms.get_temperature():.0f} K")
                    bar.update()
        except (ValueError, FloatingPointError) as error:
            raise self._exploded(step, str(error)) from error
        except RuntimeError as error:
            if "converge" not in str(error):
                raise
            # So says ASE where fixed bond lengths cannot be kept.
            raise self._exploded(step, f"constraints: {error}") from error
        return self.atoms

    def _save(self, step: int) -> None:
        """Writes what was recorded, and the state to go on from."""
        self.trajectory.flush(step, self.atoms, dict(self.rng.bit_generator.state))

    def _record(self, step: int) -> None:
        s, atoms = self.settings, self.atoms
        due = [name for name, stride in s.strides.items() if step % stride == 0]
        if not due:
            return
        getters = {
            "positions": lambda: atoms.positions.copy(),
            "velocities": lambda: atoms.get_velocities() * FS,
            "cell": lambda: atoms.cell.array.copy(),
            "dipole": atoms.get_dipole_moment,
            "energy": atoms.get_potential_energy,
            "kinetic_energy": atoms.get_kinetic_energy,
            "temperature": atoms.get_temperature,
        }
        for name in due:
            self.trajectory.append(name, step, getters[name]())
        kinetic = atoms.get_kinetic_energy()
        temperature = kinetic / (1.5 * KB * len(atoms))
        if not np.isfinite(temperature) or temperature > s.max_temperature_K:
            raise ValueError(
                f"the temperature is {temperature:.0f} K, above {s.max_temperature_K:.0f} K"
            )

    def _reset_neighbors(self) -> None:
        # The edges of a kept neighbor list depend on where it was made, and with them the order of
        # sums. Making it, and the forces, anew at every block keeps a resumed run identical.
        if isinstance(self.atoms.calc, NPCalculator):
            self.atoms.calc.build.neighbors.reset()
            self.atoms.calc.reset()

    def _exploded(self, step: int, reason: str) -> MDExploded:
        self.trajectory.write_values()
        path = Path(self.trajectory.file.filename)
        frame = path.with_name(path.stem + "-exploded.xyz")
        bare = Atoms(
            self.atoms.numbers, self.atoms.positions, cell=self.atoms.cell, pbc=self.atoms.pbc
        )
        with new_file(frame, overwrite=True) as partial:
            ase.io.write(partial, bare, format="extxyz")
        return MDExploded(
            f"the dynamics broke down at step {step} ({step * self.settings.timestep_fs:.1f} fs): {reason}; "
            f"the frame is saved in {str(frame)!r}, the values up to it in {str(path)!r}. A smaller time "
            f"step, a lower temperature or a relaxed start may help"
        )
