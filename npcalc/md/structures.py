"""Structures to start from: files and names; relaxation."""

import os
from pathlib import Path

import ase.io
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.collections import g2
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from ..errors import reason
from ..files import new_file

ALIASES = {"ethanol": "CH3CH2OH", "methanol": "CH3OH", "water": "H2O"}


def read_structure(name_or_path: str | os.PathLike[str]) -> Atoms:
    """A structure from a file that ASE reads, or by the name of a molecule.

    Args:
        name_or_path: Path, or a name of ASE's g2 collection such as ``CH3CH2OH``, or ``ethanol``.

    Returns:
        The structure, the last one of a file.

    Raises:
        FileNotFoundError: Neither a file nor a known name.
        ValueError: The file cannot be read.
    """
    name = os.fspath(name_or_path)
    if Path(name).is_file():
        try:
            return ase.io.read(name)
        except Exception as error:
            raise ValueError(
                f"{name!r} is not a structure that ASE can read: {reason(error)}"
            ) from error
    known = ALIASES.get(name, name)
    if known in g2.names:
        return molecule(known)
    raise FileNotFoundError(
        f"no structure {name!r}: there is no such file, and it is no molecule of ASE's g2 collection "
        f"(for example CH3CH2OH) or one of {', '.join(ALIASES)}"
    )


class NotConverged(RuntimeError):  # noqa: N818 - names the outcome
    """A relaxation reached its last step with larger forces than asked for."""


def relax(
    atoms: Atoms,
    fmax: float = 1e-3,
    max_steps: int = 500,
    cell: bool = False,
    log: str | None = None,
) -> int:
    """Relaxes a structure in place with BFGS.

    Args:
        atoms: Structure with a calculator.
        fmax: Largest force component norm to stop at, in eV/A.
        max_steps: Steps to give up after.
        cell: Whether the cell relaxes too.
        log: File of ASE's log, ``-`` for standard output, none by default.

    Returns:
        Steps taken.

    Raises:
        ValueError: The cell is to relax, but the structure is not periodic in three directions.
        NotConverged: The forces are still larger than ``fmax``; the structure is that of the last
            step.
    """
    if cell and not (atoms.cell.rank == 3 and atoms.pbc.all()):
        raise ValueError(
            f"a cell to relax needs three periodic lattice vectors, got pbc {atoms.pbc.tolist()} and a "
            f"cell of rank {atoms.cell.rank}"
        )
    target = FrechetCellFilter(atoms) if cell else atoms
    optimizer = BFGS(target, logfile=log, maxstep=0.1)
    if not optimizer.run(fmax=fmax, steps=max_steps):
        # Of a cell filter these are the generalized forces of the cell too.
        largest = float((target.get_forces() ** 2).sum(axis=1).max() ** 0.5)
        raise NotConverged(
            f"the relaxation did not converge in {max_steps} steps: the largest force is {largest:.2e} "
            f"eV/A, wanted {fmax:.2e}; allow more steps or a larger fmax (float32 reaches about 1e-4)"
        )
    return int(optimizer.nsteps)


def read_structures(path: str | os.PathLike[str]) -> list[Atoms]:
    """All structures of a file that ASE reads.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, or is empty.
    """
    name = os.fspath(path)
    if not Path(name).is_file():
        raise FileNotFoundError(f"no structure file {name!r}")
    if Path(name).suffix.lower() in (".h5", ".hdf5"):
        raise ValueError(
            f"{name!r} is no file of structures: npcalc frames makes one of a trajectory (.h5)"
        )
    try:
        found = ase.io.read(name, index=":")
    except Exception as error:
        raise ValueError(f"{name!r} is not a file that ASE can read: {reason(error)}") from error
    if not found:
        raise ValueError(f"{name!r} holds no structure")
    return found if isinstance(found, list) else [found]


def write_structure(path: str | os.PathLike[str], atoms: Atoms | list[Atoms]) -> None:
    """Writes structures and their results; the file appears only when it is complete.

    What a structure has under the name of a result in ``info`` or ``arrays``, such as labels of a data set,
    gives way to the result.

    Args:
        path: File to write; its ending decides the format.
        atoms: Structure, or several.

    Raises:
        FileExistsError: The file exists.
        ValueError: The format cannot hold them.
    """
    several = [atoms] if isinstance(atoms, Atoms) else atoms
    with new_file(path) as partial:
        try:
            ase.io.write(partial, [_with_results_alone(one) for one in several])
        except OSError:
            raise
        except Exception as error:
            raise ValueError(
                f"{os.fspath(path)!r}: its format cannot hold the structure ({reason(error)}); .xyz can"
            ) from error


def _with_results_alone(atoms: Atoms) -> Atoms:
    """The structure without values under names of its results, which writers of ASE take for a conflict."""
    names = set(getattr(atoms.calc, "results", ()))
    if not names & (atoms.info.keys() | atoms.arrays.keys()):
        return atoms
    copy = atoms.copy()
    for name in names:
        copy.info.pop(name, None)
        copy.arrays.pop(name, None)
    copy.calc = SinglePointCalculator(copy, **atoms.calc.results)
    return copy
