"""Systems and random potentials that the tests share."""

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from npcalc.graph import AtomGraph, collate
from npcalc.model import ModelConfig, PolarizedModel
from npcalc.neighbors import neighbor_list
from npcalc.potential import Card, Potential, properties_of
from npcalc.potential.derivatives import PER_SYSTEM

ELEMENTS = ("H", "C", "O")

HOSTS = {
    "painn": {"name": "painn", "channels": 8, "n_layers": 2, "n_basis": 6},
    "painn-rank": {"name": "painn", "channels": 8, "n_layers": 2, "n_basis": 6, "filter_rank": 5},
    "nequip": {"name": "nequip", "channels": 4, "n_layers": 3, "l_max": 2, "radial_width": 8},
    "egnn": {"name": "egnn", "channels": 8, "n_layers": 2, "n_vectors": 3},
    "et": {"name": "et", "channels": 8, "n_layers": 2, "n_basis": 6, "n_heads": 4},
    "tensornet": {"name": "tensornet", "channels": 8, "n_layers": 2, "n_basis": 6},
    "mace": {
        "name": "mace", "channels": 4, "n_layers": 2, "l_max": 2, "radial_width": 8, "radial_depth": 1
    },
    "nequip-both": {
        "name": "nequip", "channels": 4, "n_layers": 3, "l_max": 1, "parity": True, "radial_width": 8
    },
}  # fmt: skip

FORMS = {
    "none": {"polarization": "none", "charges": "increments"},
    "geometry": {"coupling": "paired_geometry"},
    "geometry-4": {"coupling": "paired_geometry", "n_points": 4, "charges": "increments"},
    "shifts-2": {"coupling": "paired_shifts", "n_points": 2},
    "heads-4": {"coupling": "paired_heads", "n_points": 4, "charges": "increments"},
    "products-2": {"coupling": "paired_products", "n_points": 2, "charges": "increments"},
    "static": {"polarization": "static", "charges": "increments"},
    "nodes-same": {"coupling": "paired_nodes", "pairs": "same"},
    "nodes-all-2": {"coupling": "paired_nodes", "n_points": 2, "charges": "increments"},
}

ONCE = {"nequip-both": "nodes-all-2", "painn-rank": "geometry-4"}
"""Variants of a host that are tested in one form."""

CASES = [
    (h, f)
    for h in HOSTS
    for f in FORMS
    if (h not in ONCE or f == ONCE[h])
    and (f not in ("heads-4", "products-2") or h in ("painn", "et"))
]
MOVING = [(h, f) for h, f in CASES if f not in ("none", "static")]


def make_config(host="painn", form="geometry", **more):
    values = {
        "host": HOSTS[host] if isinstance(host, str) else host,
        "elements": ELEMENTS,
        "cutoff": 4.0,
        "n_neighbors": 6.0,
    }
    return ModelConfig.model_validate({**values, **FORMS[form], **more})


def make_potential(host="painn", form="geometry", dtype="float64", seed=0, card=None, **more):
    """A potential with random weights whose electron points really move."""
    config = make_config(host, form, **more)
    torch.manual_seed(seed)
    model = PolarizedModel(config, torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "updates" in name and "direction" in name:
                parameter.mul_(50.0)
    values = {
        "name": f"{config.host.name}-{form}", "model": config, "scale": 1.3,
        "reference_energies": (-13.6, -1030.0, -2040.0), "properties": properties_of(config),
    }  # fmt: skip
    card = Card.model_validate({**values, **(card or {})})
    return Potential(card, dict(model.named_parameters()), "cpu", dtype)


def make_graph(potential, atoms):
    """Graph of a structure with the exact neighbor list."""
    model = potential.card.model
    edge_index, shifts = neighbor_list(
        atoms.positions, atoms.cell.array, np.asarray(atoms.pbc), model.cutoff
    )
    return AtomGraph(
        torch.tensor(atoms.positions),
        torch.tensor(atoms.cell.array[None]),
        torch.tensor([model.elements.index(s) for s in atoms.symbols]),
        torch.tensor(edge_index),
        torch.tensor(shifts, dtype=torch.float64),
        torch.zeros(len(atoms), dtype=torch.int64),
    )


def evaluate(potential, atoms):
    """All first-order quantities as numpy arrays."""
    return {k: v.numpy() for k, v in potential.evaluate(make_graph(potential, atoms)).items()}


def evaluate_all(potential, structures):
    """The same of many structures, in one batch: far faster than one by one."""
    graph = collate([make_graph(potential, atoms) for atoms in structures])
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    parts = {
        k: np.split(v.numpy(), len(structures) if k in PER_SYSTEM else ends)
        for k, v in potential.evaluate(graph).items()
    }
    return [{k: v[n] for k, v in parts.items()} for n in range(len(structures))]


def ethanol(rattle=0.1, seed=1):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(rattle, seed=seed)
    return atoms


def crystal(rattle=0.1):
    """Eight atoms of three elements in a small triclinic cell, smaller than the cutoff."""
    atoms = bulk("C", "diamond", a=3.6, cubic=True)
    atoms.symbols[:3] = ["O", "H", "H"]
    atoms.set_cell(atoms.cell.array + [[0, 0, 0], [0.4, 0, 0], [0.2, -0.3, 0]], scale_atoms=True)
    atoms.rattle(rattle, seed=3)
    return atoms


def rotation(seed=0):
    """A proper rotation matrix."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def dimer(distance, symbols="CO"):
    return Atoms(symbols, [[0, 0, 0], [0.3 * distance, 0.4 * distance, np.sqrt(0.75) * distance]])
