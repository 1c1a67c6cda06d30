"""SchNetPack's PaiNN (64 channels, 3 layers, 5 A) with forces and dipole; run by speed.py."""

import os
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

# SchNetPack's calculator loads a pickled model; this one was made a moment ago by this script.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import numpy as np
import torch
import torch.utils.data.dataloader as loader
from speed import ase_step, measure, report

if not hasattr(loader, "T_co"):  # SchNetPack 2.0.4 imports a name that newer torch has dropped
    loader.T_co = TypeVar("T_co", covariant=True)

import schnetpack as spk
import schnetpack.properties as names
from ase import Atoms
from ase.build import molecule
from schnetpack.interfaces import SpkCalculator
from schnetpack.transform import CastTo32, MatScipyNeighborList

torch.set_num_threads(1)
torch.manual_seed(0)
representation = spk.representation.PaiNN(
    n_atom_basis=64,
    n_interactions=3,
    radial_basis=spk.nn.GaussianRBF(n_rbf=20, cutoff=5.0),
    cutoff_fn=spk.nn.CosineCutoff(5.0),
)
model = spk.model.NeuralNetworkPotential(
    representation=representation,
    input_modules=[spk.atomistic.PairwiseDistances()],
    output_modules=[
        spk.atomistic.Atomwise(n_in=64, output_key="energy"),
        spk.atomistic.Forces(energy_key="energy", force_key="forces"),
        spk.atomistic.DipoleMoment(n_in=64, dipole_key="dipole", predict_magnitude=False),
    ],
)

if sys.argv[1] == "ase":
    atoms = molecule("CH3CH2OH")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model, Path(folder) / "model")
        atoms.calc = SpkCalculator(
            model_file=str(Path(folder) / "model"),
            neighbor_list=MatScipyNeighborList(cutoff=5.0),
            energy_unit="eV",
        )
    # The model computes the dipole along with the forces; the peer's calculator does not hand it out.
    report(measure(ase_step(atoms, dipole=False)))
else:
    rng = np.random.default_rng(0)
    systems = []
    for k in range(10):
        atoms = Atoms(molecule("CH3CH2OH"))
        atoms.rattle(0.1, seed=k)
        inputs = {
            names.Z: torch.tensor(atoms.numbers),
            names.R: torch.tensor(atoms.positions),
            names.cell: torch.zeros(1, 3, 3, dtype=torch.float64),
            names.pbc: torch.zeros(3, dtype=torch.bool),
            names.n_atoms: torch.tensor([len(atoms)]),
            names.idx: torch.tensor([k]),
        }
        systems.append(CastTo32()(MatScipyNeighborList(cutoff=5.0)(inputs)))
    batch = spk.data.loader._atoms_collate_fn(systems)
    targets = {
        "energy": torch.randn(10),
        "forces": torch.randn(90, 3),
        "dipole": torch.randn(10, 3),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        out = model({k: v.clone() for k, v in batch.items()})
        loss = sum(((out[k].reshape(v.shape) - v) ** 2).mean() for k, v in targets.items())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    report(measure(step))
