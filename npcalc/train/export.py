"""From a finished run to a potential with its card."""

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols

from .._version import __version__
from ..conventions import FIELDS
from ..potential import Card, Potential, properties_of
from .loss import Errors
from .trainer import Trainer


def export(trainer: Trainer, overwrite: bool = False) -> Path:
    """Evaluates the best weights of a run on all splits and writes the potential.

    All processes of a run call it, since they share the evaluation; the first one writes.

    Args:
        trainer: A run, to its last epoch or so far.
        overwrite: Whether an existing potential may be replaced.

    Returns:
        Path of the potential, ``<output>/<name>.pt``.

    Raises:
        FileExistsError: The file exists.
        ValueError: The best weights are the initial ones.
    """
    if trainer.state["best_epoch"] == 0:
        raise ValueError(
            f"no validation of the run in {trainer.output} has given errors that are numbers, so there "
            f"are no trained weights to export: train it, look at its log.csv, and where errors are "
            f"NaN give a smaller training.learning_rate"
        )
    trainer.center_energies()
    errors: dict[str, Errors] = {
        split: trainer.errors(split) for split in ("validation", "test") if split in trainer.splits
    }
    target = trainer.output / f"{trainer.config.name}.pt"
    if not trainer.processes.first:
        return target
    for split, found in errors.items():
        _warn_of_branches(trainer, split, found)
    trainer.write_summary(errors)
    card = make_card(trainer, errors)
    weights: dict[str, torch.Tensor] = dict(trainer.best_model().named_parameters())
    Potential(card, weights, device="cpu").save(target, overwrite)
    return target


def make_card(trainer: Trainer, errors: dict[str, Errors]) -> Card:
    """The card of a run's potential.

    Args:
        trainer: The run.
        errors: Errors by split.

    Returns:
        The card.
    """
    config, text = trainer.config, trainer.config.card
    train, isolated = trainer.splits["train"], trainer.batches["train"].isolated
    fit = trainer.properties
    started = {} if trainer.start is None else {"started_from": trainer.start.origin}
    return Card(
        name=config.name,
        model=trainer.model_config,
        scale=trainer.scale,
        reference_energies=tuple(trainer.reference),
        properties=properties_of(trainer.model_config, config.trains_energy, config.trains_dipole),
        property_scales=() if fit is None else tuple(fit.scales),
        property_references=() if fit is None else tuple(map(tuple, fit.references)),
        units={k: v.unit for k, v in FIELDS.items()},
        composition=train.subset(np.flatnonzero(~isolated)).common_formula,
        displacement_range=displacement_range(trainer),
        nearest_range=trainer.batches["train"].nearest_range(trainer.model_config.elements),
        errors={split: e.known() for split, e in errors.items()},
        data={
            **started,
            "origin": text.data_origin,
            "level_of_theory": text.level_of_theory,
            "n_train": len(train),
            "n_validation": len(trainer.splits["validation"]),
            "n_test": len(trainer.splits["test"]) if "test" in trainer.splits else 0,
            "periodic": trainer.batches["train"].periodic,
            "isolated_atoms": [
                chemical_symbols[z]
                for z in np.unique(train.numbers[np.repeat(isolated, train.n_atoms)])
            ],
            "sha256_train": train.sha256(),
            "epochs": trainer.state["epoch"],
            "best_epoch": trainer.state["best_epoch"],
            "reference_energies": _reference_note(trainer),
        },
        description=text.description,
        license=text.license,
        citation=text.citation,
        versions={"npcalc": __version__, "torch": torch.__version__.split("+")[0]},
    )


BRANCH = 0.2
"""Error of periodic dipoles, in units of e times the shortest lattice vector, that is no small one."""


def _warn_of_branches(trainer: Trainer, split: str, errors: Errors) -> None:
    """Warns of errors that periodic dipoles have where labels and positions are on different branches.

    Such dipoles are known up to e times lattice vectors, and training takes labels as they are: to compare
    with the nearest branch of each leads a network astray that knows nothing yet.
    """
    data, wrong = trainer.splits[split], errors.get("dipole_rmse", math.nan)
    if trainer.config.loss.dipole == 0.0 or "dipole" not in data.labels:
        return
    labelled = data.labels["dipole"].present[:, None] & data.pbc
    lengths = np.linalg.norm(data.cell, axis=2)[labelled]
    if len(lengths) and wrong > BRANCH * lengths.min():
        warnings.warn(
            f"{trainer.config.data.file_of(split)}: dipoles are off by {wrong:.3g} e*A, and e times a "
            f"lattice vector is {lengths.min():.3g}: periodic dipoles are known up to such multiples, and "
            f"training needs labels and positions of all structures on one branch; make molecules whole, "
            f"and add to labels what is missing",
            stacklevel=3,
        )


def _reference_note(trainer: Trainer) -> str:
    if trainer.config.data.reference_energies != "fit":
        return "given"
    if trainer.config.loss.energy == 0.0:
        return "none: energies were not trained, only their differences within one composition mean anything"
    if trainer.start is not None:
        return (
            "those of the potential that training started from, moved by least squares of its errors, and "
            "with one composition by the mean error on the validation structures"
        )
    if trainer.splits["train"].common_formula:
        return (
            "least squares; one composition fixes only their sum over the formula, not each, and the sum "
            "is set so that the mean error on the validation structures is zero"
        )
    return (
        "isolated atoms where the training structures have them, least squares for other elements"
    )


def displacement_range(trainer: Trainer) -> dict[str, float]:
    """Largest displacement of each element in Angstrom over the training structures."""
    model = trainer.best_model()
    largest = dict.fromkeys(trainer.elements, 0.0)
    if model.n_points == 0:
        return {}
    with torch.no_grad():
        for batch in trainer.batches["train"].ordered():
            fields = (batch.edges, batch.species, batch.center, batch.neighbor)
            d = model(*(f.cpu() for f in fields)).displacement.norm(dim=-1).amax(dim=1)
            real = batch.system.cpu() < batch.n_atoms.shape[0] - 1
            for k, z in enumerate(trainer.elements):
                mine = d[real & (batch.species.cpu() == k)]
                if len(mine):
                    largest[z] = max(largest[z], float(mine.max()))
    return {chemical_symbols[z]: round(v, 6) for z, v in largest.items()}
