"""NPCalculator: a thin ASE adapter, atoms in, results out."""

import copy
import os
import warnings
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.outputs import Properties
from numpy.typing import NDArray

from .batches import check_extent
from .builder import GraphBuilder
from .domain import (
    DomainWarning,
    NearestCheck,
    Unusual,
    is_trained_atom,
    unknown_composition,
    warn_of_composition,
)
from .graph import AtomGraph
from .potential import Potential, load_potential
from .results import results_of

Array = NDArray[np.float64]

AT_BOUND = 0.99
"""Part of the largest displacement there can be from which lengths hardly differ any more."""


class NPCalculator(Calculator):
    """ASE calculator of a neural-polarization potential.

    Results are in ASE's units and signs: ``energy``, ``free_energy``, ``energies``, ``forces``,
    ``stress``, and as the potential allows ``dipole``, ``charges`` and
    ``born_effective_charges``; ``implemented_properties`` lists them. Electron points, atomic
    dipoles, the Hessian and molecular properties come from methods. One calculator may serve
    structures of any size, species and boundary conditions in any order.

    The dipole is that of the whole system in e*A, from minus to plus. For a charged system it is
    reported about the centre of mass. For a periodic system it is defined only up to lattice
    quanta; it belongs to the positions as they are, so do not wrap atoms back into the cell during
    a trajectory.

    Args:
        potential: Name of a bundled potential, path of a file, or a `Potential`.
        device: ``cpu``, ``cuda`` or ``auto``; a `Potential` has its own.
        dtype: ``float32`` or ``float64``, that of the card by default; a `Potential` has its own.
        skin: Width in Angstrom by which the neighbor list reaches beyond the cutoff.
        compile: Whether to run machine code made for the potential, a few times faster. Making it
            takes about a minute, once on each machine for a precision: it is kept in a cache
            folder (``NPCALC_CACHE``, by default ``~/.cache/npcalc``) and serves structures of all
            sizes and any number of threads. It needs a C++ compiler and falls back, with a
            warning, without one.
        check_domain: Whether to warn of structures outside the training domain.

    Raises:
        FileNotFoundError: There is no such potential; the message lists those that exist.
        ArchiveError: The file is not a potential, damaged, or of a newer format.
        ValueError: A `Potential` is of another device or precision than asked for.
    """

    def __init__(
        self,
        potential: str | os.PathLike[str] | Potential,
        device: str = "auto",
        dtype: str | None = None,
        skin: float = 0.5,
        compile: bool = False,
        check_domain: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(potential, Potential):
            _refuse_other(potential, device, dtype)
            self.potential = potential
        else:
            self.potential = load_potential(potential, device, dtype)
        card = self.potential.card
        self.implemented_properties = list(card.properties)
        self.compile = compile
        self.check_domain = check_domain
        self._unusual: Unusual | None = None
        self._nearest = NearestCheck(card, card.model.cutoff + skin)
        watch = self._check_nearest if card.nearest_range else None
        self.build = GraphBuilder(self.potential, skin, watch)
        self._warned: set[str] = set()
        self._species: torch.Tensor | None = None
        self._pbc = b""
        self._previous: Atoms | None = None  # what ASE forgets when something changes
        self._unusual_square = np.zeros((0, 1))
        self._atomic: dict[str, Array] = {}

        self.parameters.update(potential=card.name, dtype=self.potential.dtype)  # for databases

    def set(self, **changes: Any) -> dict[str, Any]:
        """ASE's way to change parameters, of which there are none.

        Raises:
            TypeError: One was given.
        """
        if changes:
            raise TypeError(
                f"an NPCalculator cannot change {', '.join(changes)}: make a new one, "
                f"NPCalculator(potential, ...)"
            )
        return {}

    @property
    def identity(self) -> dict[str, Any]:
        """What results depend on, to the last bit: potential, precision and way of evaluation.

        The ``source`` of the potential, by which it is found again, is there besides.
        """
        potential = self.potential
        return {
            "potential": potential.card.name,
            "sha256": potential.sha256,
            "dtype": potential.dtype,
            "compile": self.compile,
            "device": potential.device.type,
            "source": potential.source,
        }

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fills ``results``; called by ASE.

        Raises:
            PropertyNotImplementedError: The potential does not have the property.
            ValueError: The structure cannot be evaluated; the message says why.
        """
        # What fails leaves nothing behind that could be taken for results of these atoms.
        self.results, self._atomic = {}, {}
        if atoms is not None:  # in place of ASE's own `calculate`, which copies all of them
            self._remember(atoms, system_changes)
        assert self.atoms is not None
        wanted = properties or ["energy"]
        for name in wanted:
            self._require(name)
        graph = self.graph(self.atoms)
        self.results = self._first_order(graph)
        if "born_effective_charges" in wanted:
            # Not among the results: ASE's writer of extended XYZ cannot write (n_atoms, 3, 3).
            born = self.potential.born_effective_charges(graph)
            self._atomic["born_effective_charges"] = born.cpu().numpy()

    def _remember(self, atoms: Atoms, system_changes: list[str]) -> None:
        """Keeps a copy of the structure, of its arrays alone where no more has changed."""
        old = self._previous
        # What has changed is said by the caller, who may have seen another structure before than this.
        if (
            old is None
            or system_changes != ["positions"]
            or not _same(old.cell.array, atoms.cell.array)
            or not _same(old.pbc, atoms.pbc)
        ):
            self.atoms = atoms.copy()
        else:
            self.atoms = copy.copy(old)  # shares the cell, which is the same
            self.atoms.arrays = {name: array.copy() for name, array in atoms.arrays.items()}
        self._previous = self.atoms

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation; called by ASE.

        Only what results depend on is compared, and exactly, which takes a tenth of the time of
        ASE's own comparison.
        """
        if self.atoms is None:
            return list(all_changes)
        names = ("positions", "numbers", "cell", "pbc")
        states = [(a.positions, a.numbers, a.cell.array, a.pbc) for a in (self.atoms, atoms)]
        changed = [n for n, old, new in zip(names, *states, strict=True) if not _same(old, new)]
        # The dipole of a charged structure is about the centre of mass.
        old, new = (a.arrays.get("masses") for a in (self.atoms, atoms))
        if old is not new and (old is None or new is None or not _same(old, new)):
            changed.append("masses")
        return changed

    def graph(self, atoms: Atoms) -> AtomGraph:
        """The graph of a structure on the potential's device, after checks.

        Args:
            atoms: Any structure of known elements.

        Returns:
            A batch of one system.

        Raises:
            ValueError: The structure is empty, has unknown elements, positions that are not
                numbers, a periodic direction without lattice vector, or atoms on each other.
        """
        self._unusual = None
        graph = self.build(atoms)
        if self.check_domain:
            pbc = atoms.pbc.tobytes()
            if graph.species is not self._species or pbc != self._pbc:
                self._species, self._pbc = graph.species, pbc
                self._new_composition(atoms)
        if self._unusual is not None:
            self._warn_of_nearest(atoms, self._unusual)
        return graph

    def export_properties(self) -> Properties:
        """Results for ASE's `calculate_properties`, Born effective charges among them."""
        name = "born_effective_charges"
        more = {name: self._atomic[name].copy()} if name in self._atomic else {}
        return Properties(self.results | more)

    def get_electron_displacements(self, atoms: Atoms | None = None) -> Array:
        """Displacements of the electron points in Angstrom, shape (n_atoms, n_points, 3).

        Args:
            atoms: Structure; by default the one last calculated.

        Raises:
            PropertyNotImplementedError: The points of this potential do not move, or no dipole has
                trained their movement.
        """
        if (
            "dipole" not in self.implemented_properties
            or self.potential.card.model.polarization != "moving"
        ):
            raise PropertyNotImplementedError(
                f"potential {self.potential.card.name!r} has no electron points trained on dipoles"
            )
        return self._get_atomic(atoms, "displacements")

    def get_electron_positions(self, atoms: Atoms | None = None) -> Array:
        """Positions of the electron points in Angstrom, shape (n_atoms, n_points, 3)."""
        displacements = self.get_electron_displacements(atoms)
        assert self.atoms is not None
        return self.atoms.positions[:, None] + displacements

    def get_atomic_dipoles(self, atoms: Atoms | None = None) -> Array:
        """Dipole of each atom beyond its formal charge in e*A, shape (n_atoms, 3).

        Raises:
            PropertyNotImplementedError: The potential has no dipole.
        """
        if "dipole" not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"potential {self.potential.card.name!r} has no dipole"
            )
        return self._get_atomic(atoms, "atomic_dipoles")

    def get_hessian(self, atoms: Atoms | None = None) -> Array:
        """Second derivatives of the energy in eV/A^2, shape (3 n_atoms, 3 n_atoms).

        Args:
            atoms: Structure; by default the one last calculated.

        Raises:
            PropertyNotImplementedError: The potential has no energy.
        """
        self._require("energy")
        structure = self._structure(atoms)
        return self.potential.hessian(self.graph(structure)).cpu().numpy()

    def get_molecular_properties(self, atoms: Atoms | None = None) -> dict[str, float]:
        """Molecular properties by name, in the units of the card's ``model.properties``.

        Args:
            atoms: Structure; by default the one last calculated.

        Raises:
            PropertyNotImplementedError: The potential has none.
        """
        sections = self.potential.card.model.properties
        if not sections:
            raise PropertyNotImplementedError(
                f"potential {self.potential.card.name!r} has no molecular properties"
            )
        structure = self._structure(atoms)
        check_extent(self.potential, structure)
        values = self.potential.evaluate(self.graph(structure))["properties"][0]
        return dict(zip(sections, values.tolist(), strict=True))

    def get_born_effective_charges(self, atoms: Atoms | None = None) -> Array:
        """Atomic polar tensors ``Z[i, a, b] = d mu_a / d r_(i,b)`` in e, shape (n_atoms, 3, 3)."""
        return self.get_property("born_effective_charges", atoms)

    def _structure(self, atoms: Atoms | None) -> Atoms:
        """The structure given, or the one last calculated."""
        structure = atoms if atoms is not None else self.atoms
        if structure is None:
            raise ValueError("no structure has been calculated yet: give atoms")
        return structure

    def _get_atomic(self, atoms: Atoms | None, name: str) -> Array:
        self.get_property("dipole", atoms)
        return self._atomic[name].copy()

    def _first_order(self, graph: AtomGraph) -> dict[str, Any]:
        out = self.potential.arrays(graph, self.compile)
        assert self.atoms is not None
        results = results_of(out, self.atoms, self.potential.card)
        self._atomic = {k: out[k] for k in ("displacements", "atomic_dipoles")}
        if self.check_domain:
            self._check_displacements(out["displacements"])
        return results

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """ASE's access to results; says why a property cannot be had.

        Raises:
            PropertyNotImplementedError: The potential or the structure does not have the property.
        """
        self._require(name)
        structure = self._structure(atoms)
        if name == "stress" and structure.cell.rank < 3:
            raise PropertyNotImplementedError(
                "stress needs a cell with three lattice vectors (a volume); set atoms.cell"
            )
        if name != "born_effective_charges":
            return super().get_property(name, atoms, allow_calculation)
        changes = self.check_state(structure)
        if changes or name not in self._atomic:
            if not allow_calculation:
                return None
            self.calculate(structure, [name], changes)
        return self._atomic[name].copy()

    def _require(self, name: str) -> None:
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"potential {self.potential.card.name!r} has no {name}; it has: "
                f"{', '.join(self.implemented_properties)}"
            )

    def _new_composition(self, atoms: Atoms) -> None:
        """Warns of a composition that was not trained; notes how far its points may move."""
        card = self.potential.card
        limits, d_max = card.displacement_range, card.model.d_max
        allowed = np.array([limits.get(s, d_max) for s in atoms.symbols])
        # Near the bound lengths hardly differ, so they are compared as they were before it. Training
        # extremes are a sample: leave room before calling a structure unusual.
        unusual = 1.2 * _before_limit(allowed, d_max) + 0.005
        square = unusual**2 / (1.0 + (unusual / d_max) ** 2)
        # At the bound itself lengths say nothing.
        self._unusual_square = np.where(allowed > AT_BOUND * d_max, np.inf, square)[:, None]
        found = unknown_composition(card, atoms)
        if found is not None and f"composition {found}" not in self._warned:
            self._warned.add(f"composition {found}")
            warn_of_composition(card, found)

    def _check_nearest(self, *edges: Any) -> None:
        """Notes atoms whose nearest neighbors are at distances that were not trained."""
        self._unusual = self._nearest(*edges) if self.check_domain else None

    def _warn_of_nearest(self, atoms: Atoms, found: Unusual) -> None:
        card = self.potential.card
        # Of another composition more is said.
        if unknown_composition(card, atoms) is None and not is_trained_atom(card, atoms):
            self._warn(
                f"nearest {atoms.get_chemical_formula()}",
                f"atom {found.worst}: {found.text}: this structure is outside the training domain",
            )

    def _check_displacements(self, displacements: Array) -> None:
        card = self.potential.card
        limits = card.displacement_range
        if not limits or displacements.shape[1] == 0:
            return
        square = (displacements * displacements).sum(2)
        if (square > self._unusual_square).any():
            assert self.atoms is not None
            length = np.sqrt(square.max(1))
            worst = int((length - np.sqrt(self._unusual_square[:, 0])).argmax())
            symbol = self.atoms.symbols[worst]
            self._warn(
                f"displacement {self.atoms.get_chemical_formula()}",
                f"an electron point of atom {worst} ({symbol}) moved by {length[worst]:.3f} A, "
                f"in the training structures by {limits.get(symbol, card.model.d_max):.3f} A at most: "
                f"this structure is outside the training domain",
            )

    def _warn(self, reason: str, message: str) -> None:
        """Warns once for each reason and composition, so that a long run does not drown in warnings."""
        if reason not in self._warned:
            self._warned.add(reason)
            warnings.warn(message, DomainWarning, stacklevel=2)


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays of one type are equal to the bit; for small ones far faster than NumPy."""
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _before_limit(length: Array, d_max: float) -> Array:
    """Lengths of displacements before `npcalc.nn.polarization.limit` bounded them."""
    ratio = np.minimum(length / d_max, 1.0 - 1e-9)
    return length / np.sqrt(1.0 - ratio**2)


def _refuse_other(potential: Potential, device: str, dtype: str | None) -> None:
    """Refuses a device or a precision that a loaded potential does not have.

    Raises:
        ValueError: It has another.
    """
    where = str(potential.device)
    same_device = device in ("auto", where, potential.device.type)
    checks = [("device", same_device, device, where)]
    checks.append(("dtype", dtype in (None, potential.dtype), dtype or "", potential.dtype))
    for name, same, wanted, own in checks:
        if not same:
            raise ValueError(
                f"{name}: asked for {wanted!r}, but the potential given is of {own!r}: load it with "
                f"load_potential(..., {name}={wanted!r}), or give its name or file"
            )
