"""Training that starts from a trained potential: fine-tuning, or another level of theory."""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from ..data import DataSet, Label, fit_reference_energies, isolated_atoms
from ..data.split import SAME_ENERGY
from ..domain import DomainWarning
from ..model import PolarizedModel
from ..potential import Card, Potential
from ..potential.archive import read_archive
from ..potential.registry import find_potential
from ..results import evaluate
from .batches import species_index
from .config import TrainConfig
from .targets import PropertyFit

FAR = 1.0
"""Distance in eV from a reference energy at which an isolated atom counts from elsewhere."""

ENOUGH = 1000
"""Structures whose energies move the reference energies, at most."""

RATE = 0.1
"""Learning rate of such a run by default, in units of the host's: larger ones forget what was learned."""


@dataclass(frozen=True)
class Start:
    """The potential that a run starts from.

    Attributes:
        card: Its card.
        weights: Its weights by name.
    """

    card: Card
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, config: TrainConfig) -> "Start":
        """Reads the potential of a configuration.

        Raises:
            FileNotFoundError: There is no such potential.
            ValueError: It is where the run would write its own.
            ArchiveError: The file is none.
        """
        path = find_potential(config.start_from or "")
        target = config.output / f"{config.name}.pt"
        if target.resolve() == path.resolve():
            raise ValueError(f"{target} is what training starts from: give another output or name")
        return cls(*read_archive(path))

    def put_into(self, model: PolarizedModel) -> None:
        """Gives a network the weights."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.weights[name])

    @cached_property
    def sha256(self) -> str:
        """Hash of the potential."""
        return Potential(self.card, self.weights, "cpu").sha256

    @property
    def origin(self) -> dict[str, str]:
        """What the card of what comes of it says of it."""
        card, data = self.card, str(self.card.data.get("origin", ""))
        found = {"name": card.name, "sha256": self.sha256, "data": data}
        return found | {"license": card.license, "citation": card.citation}

    def reference_energies(self, data: DataSet) -> list[float]:
        """Reference energies above which the weights fit new structures best.

        They are those of the potential and what a least-squares fit finds in its errors, so that energies of
        another level of theory, which counts from elsewhere, are met from the first step on. Isolated atoms
        do not count: fitted reference energies are not those of atoms.

        Args:
            data: Training structures with energies, of elements that the potential knows.

        Returns:
            Energy in eV of each element of the model.

        Raises:
            ValueError: The potential was not trained on energies, or isolated atoms are far from its
                reference energies.
        """
        own = dict(zip(_numbers(self.card), self.card.reference_energies, strict=True))
        species_index(data, list(own))  # names what the potential does not know
        if "energy" not in self.card.properties:
            raise ValueError(
                f"potential {self.card.name!r}, from which training starts, was not trained on energies: "
                f"set loss.energy: 0, or give data.reference_energies"
            )
        alone = isolated_atoms(data, self.card.model.cutoff)
        label = data.require("energy")
        shift = self._shifts(data.subset(_some(data, label.present & ~alone)))
        moved = {z: energy + shift.get(z, 0.0) for z, energy in own.items()}
        for k in np.flatnonzero(alone & label.present):
            z, energy = int(data.numbers[data.offsets[k]]), float(label.values[k])
            if abs(energy - moved[z]) > FAR:
                raise ValueError(
                    f"structure {data.place(int(k))} is an isolated {chemical_symbols[z]} of {energy:.3f} "
                    f"eV, but the potential that training starts from counts from {moved[z]:.3f} eV, which "
                    f"was fitted: leave isolated atoms out, or train anew"
                )
        missing = [chemical_symbols[z] for z in own if z not in shift]
        if missing and max(map(abs, shift.values()), default=0.0) > SAME_ENERGY:
            warnings.warn(
                f"no training structure has {', '.join(missing)}: reference energies of these stay those of "
                f"potential {self.card.name!r}, while others move, so that energies of structures with both "
                f"are wrong",
                stacklevel=2,
            )
        return list(moved.values())

    def _shifts(self, data: DataSet) -> dict[int, float]:
        """Least-squares fit of the errors of energies: eV by atomic number of the elements there are."""
        if len(data) == 0:
            return {}
        # In double precision, so that a run that goes on elsewhere finds the same.
        potential = Potential(self.card, self.weights, "cpu", "float64")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DomainWarning)  # what is new is what it is to learn
            found = evaluate(potential, [data.atoms(k) for k in range(len(data))])
        label = data.labels["energy"]
        error = Label(label.values - [r["energy"] for r in found], label.present)
        errors = replace(data, labels={"energy": error})
        return fit_reference_energies(errors, self.card.model.cutoff)

    def keep_units(self, fit: PropertyFit) -> PropertyFit:
        """A fit of molecular properties with the scales and references that the weights know."""
        references = np.array(self.card.property_references).reshape(fit.references.shape)
        return fit._replace(scales=np.array(self.card.property_scales), references=references)


def _numbers(card: Card) -> list[int]:
    return [atomic_numbers[e] for e in card.model.elements]


def _some(data: DataSet, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Enough of the wanted structures to fit reference energies to, with all elements that they have."""
    places = np.flatnonzero(wanted)
    if len(places) <= ENOUGH:
        return places
    evenly = places[np.linspace(0, len(places) - 1, ENOUGH).astype(np.int64)]
    system = np.repeat(np.arange(len(data)), data.n_atoms)
    with_each = [system[(data.numbers == z) & wanted[system]][:1] for z in data.elements]
    return np.unique(np.concatenate([evenly, *with_each]))
