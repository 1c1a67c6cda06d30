"""Trajectories as HDF5: every quantity at its own stride, resumable after a kill.

Layout: ``/<quantity>/values`` (n, ...) and ``/<quantity>/step`` (n,), unit in the attributes of the
values; ``/atoms`` with numbers, masses, pbc; ``/state`` with two slots of restart data, of which the
attribute ``current`` names the one that is complete.
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.constraints import FixBondLengths, FixConstraint, dict2constraint
from ase.io.jsonio import decode, encode
from numpy.typing import NDArray

from ..conventions import FIELDS, FS
from ..files import new_file

Array = NDArray[np.float64]
FORMAT = 1
QUANTITIES = (
    "positions", "velocities", "cell", "dipole", "energy", "kinetic_energy", "temperature",
)  # fmt: skip
"""What may be recorded, with units and shapes of `npcalc.conventions.FIELDS`."""


class TrajectoryError(ValueError):
    """The file is not a trajectory, or not one that can be continued."""


class Trajectory:
    """A trajectory file, open for reading or appending.

    Args:
        path: File.
        mode: ``r`` to read, ``r+`` to go on.

    Raises:
        FileNotFoundError: There is no such file.
        TrajectoryError: It is not a trajectory.
    """

    def __init__(self, path: str | os.PathLike[str], mode: str = "r") -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no trajectory {os.fspath(path)!r}")
        try:
            self.file = h5py.File(path, mode)
        except BlockingIOError as error:
            raise TrajectoryError(
                f"{os.fspath(path)!r} is open in another process: a run that writes it, or one that "
                f"reads it while this is to go on; wait for its end"
            ) from error
        except OSError as error:
            raise TrajectoryError(
                f"{os.fspath(path)!r} is not a readable HDF5 file: {error}"
            ) from error
        if self.file.attrs.get("format") != "npcalc trajectory":
            self.file.close()
            raise TrajectoryError(f"{os.fspath(path)!r} is HDF5, but not an npcalc trajectory")
        version = int(self.file.attrs["version"])
        if version > FORMAT:
            self.file.close()
            raise TrajectoryError(
                f"{os.fspath(path)!r} has format {version}, this npcalc reads up to {FORMAT}: update "
                f"npcalc"
            )
        self._buffer: dict[str, list[tuple[int, Any]]] = {}

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        atoms: Atoms,
        settings: dict[str, Any],
        strides: dict[str, int],
        calculator: dict[str, Any] | None = None,
    ) -> "Trajectory":
        """Makes a new file.

        Args:
            path: File to make.
            atoms: Structure at the start; its constraints are kept for a resume.
            settings: What JSON can hold: time step in fs (``timestep_fs``), temperature and so on.
            strides: Steps between two values of each quantity.
            calculator: What identifies the calculator, for a resume.

        Returns:
            The file, open for appending.

        Raises:
            FileExistsError: The file exists.
        """
        n = len(atoms)
        with new_file(path) as partial, h5py.File(partial, "w") as file:
            file.attrs["format"] = "npcalc trajectory"
            file.attrs["version"] = FORMAT
            file.attrs["settings"] = json.dumps(settings)
            file.attrs["timestep_fs"] = float(settings["timestep_fs"])
            file.attrs["calculator"] = json.dumps(calculator or {})
            file.attrs["constraints"] = encode([_as_dict(c) for c in atoms.constraints])
            group = file.create_group("atoms")
            group["numbers"] = atoms.numbers
            group["masses"] = atoms.get_masses()
            group["masses"].attrs["unit"] = "amu"
            group["pbc"] = atoms.pbc
            for name, stride in strides.items():
                spec = FIELDS[name]
                shape = (n, *spec.shape) if spec.level == "atom" else spec.shape
                # Chunks of up to a MiB, what h5py keeps in memory: a kill while HDF5 divides a node of
                # the index of chunks loses the quantity, and of large chunks it has few.
                rows = max(1, 2**20 // (8 * max(int(np.prod(shape)), 1)))
                group = file.create_group(name)
                group.attrs["stride"] = stride
                values = group.create_dataset(
                    "values",
                    (0, *shape),
                    maxshape=(None, *shape),
                    chunks=(rows, *shape),
                    dtype="f8",
                )
                values.attrs["unit"] = spec.unit
                values.attrs["meaning"] = spec.meaning
                group.create_dataset("step", (0,), maxshape=(None,), chunks=(8192,), dtype="i8")
            state = file.create_group("state")
            state.attrs["current"] = -1
            for slot in ("0", "1"):
                group = state.create_group(slot)
                group["positions"] = atoms.positions
                group["momenta"] = np.zeros((n, 3))
                group["cell"] = atoms.cell.array
        return cls(path, "r+")

    def __enter__(self) -> "Trajectory":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; values that were not flushed are dropped."""
        self.file.close()

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run."""
        return json.loads(self.file.attrs["settings"])

    @property
    def calculator(self) -> dict[str, Any]:
        """What identifies the calculator of the run."""
        return json.loads(self.file.attrs.get("calculator", "{}"))

    @property
    def steps_done(self) -> int:
        """Steps up to the last complete state, from which a run can go on."""
        current = int(self.file["state"].attrs["current"])
        return int(self.file[f"state/{current}"].attrs["step"]) if current >= 0 else 0

    @property
    def steps_wanted(self) -> int | None:
        """Steps of the whole run, None in files of before they were kept."""
        wanted = self.file.attrs.get("steps_wanted")
        return None if wanted is None else int(wanted)

    @steps_wanted.setter
    def steps_wanted(self, steps: int) -> None:
        self.file.attrs["steps_wanted"] = steps

    @property
    def start(self) -> Atoms:
        """Structure in the first of the two states, of the atoms of this run."""
        state = self.file["state/0"]
        return self._atoms(state["positions"][...], state["cell"][...])

    def _atoms(self, positions: Array, cell: Array, **more: Any) -> Atoms:
        """The atoms of this run at these positions."""
        return Atoms(
            self.file["atoms/numbers"][...],
            positions,
            cell=cell,
            pbc=self.file["atoms/pbc"][...],
            masses=self.file["atoms/masses"][...],
            **more,
        )

    @property
    def timestep_fs(self) -> float:
        """Time step in fs."""
        return float(self.file.attrs["timestep_fs"])

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities."""
        return [name for name in QUANTITIES if name in self.file]

    def stride(self, name: str) -> int:
        """Steps between two values of a quantity."""
        return int(self.file[name].attrs["stride"])

    def values(self, name: str) -> Array:
        """All values of a quantity, shape (n, ...).

        Raises:
            KeyError: The trajectory does not have it; the message lists what it has.
        """
        if name not in self.quantities:
            raise KeyError(f"the trajectory has no {name!r}; it has: {', '.join(self.quantities)}")
        return self.file[name]["values"][: self._length(name)]

    def _length(self, name: str) -> int:
        """Complete values of a quantity: a kill may leave more steps than values, or fewer."""
        group = self.file[name]
        return min(len(group["step"]), len(group["values"]))

    def times_fs(self, name: str) -> Array:
        """Time of each value of a quantity in fs, shape (n,)."""
        return self.file[name]["step"][: self._length(name)] * self.timestep_fs

    def atoms(self, index: int = -1) -> Atoms:
        """Structure at one of the stored positions.

        Args:
            index: Which of them; the last by default.
        """
        row = range(self._length("positions"))[index]
        state = self.file[f"state/{max(int(self.file['state'].attrs['current']), 0)}"]
        cell = state["cell"][...]
        if "cell" in self.file and self._length("cell"):
            step = self.file["positions/step"][row]
            known = self.file["cell/step"][: self._length("cell")]
            last = max(int(np.searchsorted(known, step, side="right")) - 1, 0)
            cell = self.file["cell/values"][last]
        return self._atoms(self.file["positions/values"][row], cell)

    def frames(self, every: int = 1) -> list[Atoms]:
        """The stored structures, with their times in fs and, where recorded, momenta.

        Args:
            every: Take each so many of them.

        Raises:
            ValueError: ``every`` is below 1.
            TrajectoryError: There are no positions.
        """
        if every < 1:
            raise ValueError(f"every: expected 1 or more, got {every}")
        if "positions" not in self.quantities or not len(self.file["positions/step"]):
            raise TrajectoryError(f"{self.file.filename!r} holds no positions")
        rows: dict[int, int] = {}
        if "velocities" in self.quantities:
            known = self.file["velocities/step"][: self._length("velocities")]
            rows = {int(step): row for row, step in enumerate(known)}
        steps = self.file["positions/step"][: self._length("positions")]
        found = []
        for index in range(0, len(steps), every):
            atoms = self.atoms(index)
            step = int(steps[index])
            atoms.info["time_fs"] = step * self.timestep_fs
            if step in rows:
                atoms.set_velocities(self.file["velocities/values"][rows[step]] / FS)
            found.append(atoms)
        return found

    def append(self, name: str, step: int, value: Any) -> None:
        """Adds one value of a quantity to the block in memory."""
        self._buffer.setdefault(name, []).append((step, value))

    def write_values(self) -> None:
        """Writes the block in memory, without a state to go on from."""
        for name, rows in self._buffer.items():
            group = self.file[name]
            n = len(group["step"])
            for key, column in (("step", [r[0] for r in rows]), ("values", [r[1] for r in rows])):
                data = group[key]
                data.resize(n + len(rows), axis=0)
                data[n:] = np.asarray(column)
        self._buffer = {}
        self.file.flush()

    def flush(self, step: int, atoms: Atoms, generator: dict[str, Any]) -> None:
        """Writes the block and the state from which a run can go on.

        Args:
            step: Steps done.
            atoms: Structure with momenta.
            generator: State of the random number generator.
        """
        self.write_values()
        state = self.file["state"]
        slot = 1 - max(int(state.attrs["current"]), 0)
        group = state[str(slot)]
        group["positions"][...] = atoms.positions
        group["momenta"][...] = atoms.get_momenta()
        group["cell"][...] = atoms.cell.array
        group.attrs["step"] = step
        group.attrs["generator"] = json.dumps(generator)
        self.file.flush()
        state.attrs["current"] = slot
        self.file.flush()

    def restart(self) -> tuple[int, Atoms, dict[str, Any]]:
        """Goes back to the last complete state and drops what came after it.

        Returns:
            Steps done, structure with momenta and constraints, and state of the random number generator.

        Raises:
            TrajectoryError: The run was stopped before its first state was written.
        """
        current = int(self.file["state"].attrs["current"])
        if current < 0:
            raise TrajectoryError(
                f"{self.file.filename!r} holds no state to go on from: delete it and start anew"
            )
        group = self.file[f"state/{current}"]
        step = int(group.attrs["step"])
        try:
            for name in self.quantities:
                kept = int(np.searchsorted(self.file[name]["step"][...], step, side="right"))
                for key in ("step", "values"):
                    self.file[name][key].resize(kept, axis=0)
        except (OSError, RuntimeError) as error:
            raise TrajectoryError(
                f"{self.file.filename!r} is damaged ({error}): its run was killed while it was being "
                f"written. Start a new run, from the last of its frames (npcalc frames) if they can be read"
            ) from error
        atoms = self._atoms(
            group["positions"][...],
            group["cell"][...],
            momenta=group["momenta"][...],
            constraint=[
                dict2constraint(c) for c in decode(self.file.attrs.get("constraints", "[]"))
            ],
        )
        return step, atoms, json.loads(group.attrs["generator"])


def _as_dict(constraint: FixConstraint) -> dict[str, Any]:
    """What `ase.constraints.dict2constraint` makes the same constraint of."""
    found: dict[str, Any] = constraint.todict()
    if isinstance(constraint, FixBondLengths) and constraint.bondlengths is not None:
        found["kwargs"]["bondlengths"] = list(constraint.bondlengths)  # which ASE leaves out
    return found
