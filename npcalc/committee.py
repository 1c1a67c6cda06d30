"""Several potentials for the same structures, and by how much they differ: where not to trust them."""

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from .errors import naming
from .potential import Card, Potential, load_potential
from .results import DEVIATIONS, evaluate, listed, total_charge

NOT_AVERAGED = ("energies", "charges")
"""Results that potentials trained alike need not agree on: how they share energy and charge among atoms."""


def evaluate_committee(
    potentials: Iterable[str | os.PathLike[str] | Potential],
    structures: Iterable[Atoms],
    compile: bool = False,
) -> list[dict[str, Any]]:
    """Means of what several potentials say of many structures, and how far they are apart.

    Potentials trained alike but for ``training.seed`` agree on what they were trained on and part elsewhere
    (query by committee, H. S. Seung et al., COLT 1992, 287), so that the deviation of forces tells which
    structures of a trajectory to label and train on next. It is no error bar: errors that all have in
    common are not in it.

    Args:
        potentials: Two or more, by name or path, or as they are.
        structures: Any structures of elements that all of them know.
        compile: Whether to run compiled code.

    Returns:
        For each structure, in the order given, means of ``energy``, ``free_energy``, ``forces``, ``stress``,
        ``dipole`` and the molecular properties, as far as all potentials have them. With energies also
        ``energy_deviation``, the standard deviation of the energy in eV; ``forces_deviation``, shape
        (n_atoms,), the square root of the mean of |F_k - F|^2 over the potentials k in eV/A (Y. Zhang et al.,
        Comput. Phys. Commun. 253, 107206 (2020)); and ``max_force_deviation``, the largest of these.

    Raises:
        ValueError: There are fewer than two potentials, two are the same, they have nothing in common, a
            structure has different charges by them, or cannot be evaluated; the message has the potential
            and the place in the list.
        TypeError: It is one structure and not a list.
    """
    structures = listed(structures)
    if isinstance(potentials, (str, os.PathLike, Potential)):
        potentials = [potentials]
    members = [p if isinstance(p, Potential) else load_potential(p) for p in potentials]
    if len(members) < 2:
        raise ValueError(
            f"a committee has two or more potentials, got {len(members)}: give a list of them"
        )
    for (j, one), (k, other) in itertools.combinations(enumerate(members), 2):
        if _are_the_same(one, other):
            raise ValueError(
                f"potentials {j} and {k} of the committee are the same, {one.card.name!r}: train each "
                f"with another seed"
            )
    common = set.intersection(*({*m.card.properties, *m.card.model.properties} for m in members))
    if not common - set(NOT_AVERAGED):
        have = "; ".join(f"{m.card.name!r}: {', '.join(m.card.properties)}" for m in members)
        raise ValueError(f"the potentials of the committee have no result in common ({have})")
    if "dipole" in common:
        _check_charges([member.card for member in members], structures)
    opinions = []
    for k, member in enumerate(members):
        with naming(f"potential {k}, {member.card.name!r}"):
            opinions.append(evaluate(member, structures, compile))
    return [_together(of_one) for of_one in zip(*opinions, strict=True)]


def _check_charges(cards: Sequence[Card], structures: Sequence[Atoms]) -> None:
    """Refuses structures whose dipoles by several potentials are those of different charges."""
    if all(card.model.formal_charges == cards[0].model.formal_charges for card in cards):
        return
    for k, atoms in enumerate(structures):
        charges = {total_charge(atoms, card) for card in cards}
        if len(charges) > 1:
            raise ValueError(
                f"structure {k} has different charges by the formal charges of the potentials "
                f"({', '.join(f'{q:g}' for q in sorted(charges))} e): their dipoles have no mean"
            )


def _are_the_same(one: Potential, other: Potential) -> bool:
    """Whether two potentials have the same weights, in whatever precision."""
    if one.card.model != other.card.model:
        return False
    pairs = zip(one.weights.values(), other.weights.values(), strict=True)
    return all(torch.equal(a.cpu().float(), b.cpu().float()) for a, b in pairs)


def _together(opinions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What potentials say of one structure, as `evaluate_committee` returns it."""
    names = [name for name in opinions[0] if all(name in other for other in opinions[1:])]
    values = {name: np.array([opinion[name] for opinion in opinions]) for name in names}
    out: dict[str, Any] = {
        name: value.mean(axis=0) for name, value in values.items() if name not in NOT_AVERAGED
    }
    if "forces" in values:
        square = ((values["forces"] - out["forces"]) ** 2).sum(axis=2)
        forces = np.sqrt(square.mean(axis=0))
        found = (values["energy"].std(axis=0), forces, forces.max())
        out |= zip(DEVIATIONS, found, strict=True)
    # Numbers are Python's, as those of `evaluate`.
    return {name: value if np.ndim(value) else float(value) for name, value in out.items()}
