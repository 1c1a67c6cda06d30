"""From what a potential returns to results under ASE's names, for one structure or a list of them."""

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from .batches import GraphBatch, evaluated, graph_batches
from .domain import (
    DomainWarning,
    NearestCheck,
    is_trained_atom,
    unknown_composition,
    warn_of_composition,
)
from .errors import naming
from .potential import Card, Potential, load_potential
from .potential.derivatives import PER_SYSTEM

Array = NDArray[np.float64]


DEVIATIONS = ("energy_deviation", "forces_deviation", "max_force_deviation")
"""What `evaluate_committee` adds to results."""


def results_of(out: dict[str, Array], atoms: Atoms, card: Card) -> dict[str, Any]:
    """Results of one structure under ASE's names, in its units and signs.

    Args:
        out: What `Potential.evaluate` returns for this structure alone, as arrays.
        atoms: The structure.
        card: Of the potential.

    Returns:
        The first-order results among the card's properties, ``stress`` not without a volume. The dipole of a
        charged structure is about its centre of mass.

    Raises:
        ValueError: An energy, force or dipole is not a number.
    """
    energy = float(out["energies"].sum())
    # A sum is finite only if all of its terms are.
    total = energy + float(out["forces"].sum()) + float(out["dipole"].sum())
    if not math.isfinite(total):
        raise ValueError(
            "the potential gives a NaN or infinite energy, force or dipole for this structure: it "
            "is far outside the training domain"
        )
    results: dict[str, Any] = {}
    properties = card.properties
    if "energy" in properties:
        results = {
            "energy": energy,
            "free_energy": energy,
            "energies": out["energies"],
            "forces": out["forces"],
        }
    # A molecule mostly has no cell at all, which is known sooner than the rank of it.
    if "stress" in properties and atoms.cell.array.any() and atoms.cell.rank == 3:
        results["stress"] = full_3x3_to_voigt_6_stress(out["virial"][0] / atoms.cell.volume)
    if "dipole" in properties:
        charge = total_charge(atoms, card)
        moment = charge * atoms.get_center_of_mass() if charge else 0.0
        results["dipole"] = out["dipole"][0] - moment
    if "charges" in properties:
        results["charges"] = out["charges"]
    return results


def total_charge(atoms: Atoms, card: Card) -> float:
    """The charge of a structure in e: that of the formal charges.

    Increments cancel; their sum is not zero by rounding, which would count far from the origin.
    """
    formal = card.model.formal_charges
    return sum(formal.get(symbol, 0.0) for symbol in atoms.symbols) if formal else 0.0


def evaluate(
    potential: str | os.PathLike[str] | Potential,
    structures: Iterable[Atoms],
    compile: bool = False,
    edges_per_batch: int = 1500,
) -> list[dict[str, Any]]:
    """Results of many structures, evaluated together in batches of about the same size.

    Batches are filled with structures of similar size up to a number of edges, so memory does not
    grow with the list. On the CPU as many small batches run at once as torch has threads
    (``torch.set_num_threads``), one on each, and as many again wait; meanwhile torch's number of threads
    is one, also for other threads of Python that begin to use it. Compiled networks without operators
    of our own, see `npcalc.ops`, have one batch after the other on all threads.

    Args:
        potential: The potential, the name of a bundled one, or the path of a file.
        structures: Any structures of elements that it knows; sizes and cells may differ. Compositions
            that it was not trained on are warned of, once each, and structures whose atoms have
            nearest neighbors at distances that were not trained, once for all.
        compile: Whether to run compiled code, see `Potential.evaluate_compiled`.
        edges_per_batch: Edges of a batch; one structure may have more. The default is as many as
            code that is not compiled does in one go, see `npcalc.ops.pairs`.

    Returns:
        For each structure, in the order given, what `NPCalculator` has in its results (without
        ``born_effective_charges``) and the molecular properties by name.

    Raises:
        TypeError: It is one structure and not a list.
        ValueError: A structure cannot be evaluated; the message has its place in the list.
    """
    structures = listed(structures)
    if not isinstance(potential, Potential):
        potential = load_potential(potential)
    if edges_per_batch < 1:
        raise ValueError(f"edges_per_batch: expected 1 or more, got {edges_per_batch}")
    found: list[dict[str, Any]] = [{} for _ in structures]
    # A formula for each list of atoms, of which there are few, and not for each structure.
    different = {_kind(atoms): atoms for atoms in structures}
    formulas = {key: unknown_composition(potential.card, atoms) for key, atoms in different.items()}
    check = NearestCheck(potential.card, potential.card.model.cutoff)
    n_unusual, farthest = 0, (0.0, "")
    batches = graph_batches(potential, structures, edges_per_batch)
    for batch, out in evaluated(potential, batches, compile):
        to_check = [
            formulas[_kind(structures[k])] is None
            and not is_trained_atom(potential.card, structures[k])
            for k in batch.places
        ]
        more, excess, text = _unusual_structures(check, batch, np.array(to_check))
        n_unusual, farthest = n_unusual + more, max(farthest, (excess, text))
        first = 0
        for row, (index, size) in enumerate(zip(batch.places, batch.sizes, strict=True)):
            atoms_rows = slice(first, first + size)
            first += size
            own = {
                k: v[row : row + 1] if k in PER_SYSTEM else v[atoms_rows] for k, v in out.items()
            }
            with naming(f"structure {index}"):
                results = results_of(own, structures[index], potential.card)
            names = potential.card.model.properties
            results.update(zip(names, own["properties"][0].tolist(), strict=True))
            found[index] = results
    for formula in sorted({f for f in formulas.values() if f is not None}):
        warn_of_composition(potential.card, formula)
    if n_unusual > 0:
        warnings.warn(
            f"{n_unusual} of {len(structures)} structures are outside the training domain of "
            f"{potential.card.name!r}; the farthest is {farthest[1]}",
            DomainWarning,
            stacklevel=2,
        )
    return found


def listed(structures: Iterable[Atoms]) -> list[Atoms]:
    """The structures as a list.

    Raises:
        TypeError: It is no list of structures, or one of them, whose atoms would be taken for structures.
    """
    if isinstance(structures, Atoms):
        raise TypeError("structures: expected a list of Atoms, got one: give [atoms]")
    if isinstance(structures, (str, os.PathLike)):
        raise TypeError(
            f"structures: expected a list of Atoms, got {structures!r}: read files first, as with "
            f"ase.io.read(path, ':')"
        )
    found = list(structures)
    for k, one in enumerate(found):
        if not isinstance(one, Atoms):
            raise TypeError(f"structure {k}: expected Atoms, got {type(one).__name__}")
    return found


def _kind(atoms: Atoms) -> tuple[bytes, bytes]:
    """What decides whether a structure is of a composition that was trained."""
    return atoms.numbers.tobytes(), atoms.pbc.tobytes()


def annotated(structures: Sequence[Atoms], results: Sequence[dict[str, Any]]) -> list[Atoms]:
    """Copies of structures that carry results, for a file: ASE's names as those of a calculator.

    Args:
        structures: The structures.
        results: What `evaluate` or `evaluate_committee` found for them.

    Returns:
        The copies; other results are in ``info``, or ``arrays`` where they have a number for each atom.
    """
    copies = []
    for atoms, found in zip(structures, results, strict=True):
        copy = atoms.copy()
        for name in DEVIATIONS:  # of an earlier committee
            copy.info.pop(name, None)
            copy.arrays.pop(name, None)
        for name, value in found.items():
            if name not in all_properties:
                (copy.arrays if np.ndim(value) else copy.info)[name] = value
        known = {k: v for k, v in found.items() if k in all_properties}
        copy.calc = SinglePointCalculator(copy, **known)
        copies.append(copy)
    return copies


def _unusual_structures(
    check: NearestCheck, batch: GraphBatch, to_check: NDArray[np.bool_]
) -> tuple[int, float, str]:
    """How many structures of a batch are outside what was trained, how far and why the farthest is.

    Args:
        check: What knows.
        batch: The structures.
        to_check: Which of them to look at; of those of another composition more has been said.
    """
    if not check.ranges or not to_check.any():
        return 0, 0.0, ""
    center, neighbor = batch.graph.edge_index.cpu().numpy()
    system = batch.graph.batch.cpu().numpy()
    species = batch.graph.species.cpu().numpy()
    found = check(species, center, neighbor, batch.lengths, to_check[system])
    if found is None:
        return 0, 0.0, ""
    atom = found.worst - int(np.searchsorted(system, system[found.worst]))
    text = f"structure {batch.places[system[found.worst]]}, atom {atom}: {found.text}"
    return len(np.unique(system[found.atoms])), found.excess, text
