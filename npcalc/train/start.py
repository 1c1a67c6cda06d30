"""Training that starts from a trained potential: fine-tuning, or another level of theory."""

import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor

from ..data import DataSet, Label, fit_reference_energies
from ..domain import DomainWarning
from ..model import PolarizedModel
from ..potential import Card, Potential
from ..potential.archive import read_archive
from ..potential.registry import find_potential
from ..results import evaluate
from .targets import PropertyFit

RATE = 0.1
"""Learning rate of such a run by default, in units of the host's: larger ones forget what was learned."""


class Start(NamedTuple):
    """The potential that a run starts from.

    Attributes:
        card: Its card.
        weights: Its weights by name.
    """

    card: Card
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, name: str) -> "Start":
        """Reads a potential by its name or path.

        Raises:
            FileNotFoundError: There is no such potential.
            ArchiveError: The file is none.
        """
        return cls(*read_archive(find_potential(name)))

    def put_into(self, model: PolarizedModel) -> None:
        """Gives a network the weights."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.weights[name])

    def reference_energies(self, data: DataSet) -> list[float]:
        """Reference energies above which the weights fit new structures best.

        They are those of the potential and what a least-squares fit finds in its errors, so that energies of
        another level of theory, which counts from elsewhere, are met from the first step on.

        Args:
            data: Training structures with energies.

        Returns:
            Energy in eV of each element of the model.
        """
        own = self.card.reference_energies
        if "energy" not in self.card.properties:
            raise ValueError(
                f"potential {self.card.name!r} was not trained on energies: start without loss.energy, or "
                f"give data.reference_energies"
            )
        # In double precision, so that a run that goes on elsewhere finds the same.
        potential = Potential(self.card, self.weights, "cpu", "float64")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DomainWarning)  # what is new is what it is to learn
            found = evaluate(potential, [data.atoms(k) for k in range(len(data))])
        label = data.require("energy")
        error = Label(label.values - [r["energy"] for r in found], label.present)
        shift = fit_reference_energies(
            replace(data, labels={"energy": error}), self.card.model.cutoff
        )
        elements = [atomic_numbers[e] for e in self.card.model.elements]
        return [energy + shift.get(z, 0.0) for z, energy in zip(elements, own, strict=True)]

    def keep_units(self, fit: PropertyFit) -> PropertyFit:
        """A fit of molecular properties with the scales and references that the weights know."""
        references = np.array(self.card.property_references).reshape(fit.references.shape)
        return fit._replace(scales=np.array(self.card.property_scales), references=references)
