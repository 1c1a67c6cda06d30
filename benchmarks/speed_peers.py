"""The cases of `speed.py` that run in the environments of the peers, with random weights.

python benchmarks/speed_peers.py schnetpack|mace|nequip|torchani STRUCTURE|train|train-plain|train-aspirin THREADS
"""

import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TypeVar

# SchNetPack's calculator loads a pickled model; this one was made a moment ago by this script.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import numpy as np
import torch
from ase import Atoms
from speed_common import ase_step, measure, report, structure

ELEMENTS = (1, 6, 8)
CUTOFF = 5.0


def import_schnetpack():
    import torch.utils.data.dataloader as loader

    if not hasattr(loader, "T_co"):  # SchNetPack 2.0.4 imports a name that newer torch has dropped
        loader.T_co = TypeVar("T_co", covariant=True)
    import schnetpack

    return schnetpack


def painn(dipole: bool) -> torch.nn.Module:
    """SchNetPack's PaiNN, 64 channels, 3 layers, with the dipole where it is trained."""
    spk = import_schnetpack()
    outputs = [
        spk.atomistic.Atomwise(n_in=64, output_key="energy"),
        spk.atomistic.Forces(energy_key="energy", force_key="forces"),
        spk.atomistic.DipoleMoment(n_in=64, dipole_key="dipole", predict_magnitude=False),
    ]
    return spk.model.NeuralNetworkPotential(
        representation=spk.representation.PaiNN(
            n_atom_basis=64,
            n_interactions=3,
            radial_basis=spk.nn.GaussianRBF(n_rbf=20, cutoff=CUTOFF),
            cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
        ),
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=outputs if dipole else outputs[:2],
    )


def schnetpack_step(atoms: Atoms):
    import_schnetpack()
    from schnetpack.interfaces import SpkCalculator
    from schnetpack.transform import MatScipyNeighborList

    with tempfile.TemporaryDirectory() as folder:
        torch.save(painn(dipole=False), Path(folder) / "model")
        atoms.calc = SpkCalculator(
            model_file=str(Path(folder) / "model"),
            neighbor_list=MatScipyNeighborList(cutoff=CUTOFF),
            energy_unit="eV",
        )
    return ase_step(atoms), "schnetpack"


def mace_step(atoms: Atoms):
    """MACE, 64x0e, 2 layers, correlation 3, by mace's own calculator in float32."""
    torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 stores its constants with one
    from e3nn import o3
    from mace.calculators import MACECalculator
    from mace.modules import RealAgnosticResidualInteractionBlock, ScaleShiftMACE

    torch.set_default_dtype(torch.float32)
    block = RealAgnosticResidualInteractionBlock
    model = ScaleShiftMACE(
        r_max=CUTOFF, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, interaction_cls=block,
        interaction_cls_first=block, num_interactions=2, num_elements=3,
        hidden_irreps=o3.Irreps("64x0e"), MLP_irreps=o3.Irreps("16x0e"), atomic_energies=np.zeros(3),
        avg_num_neighbors=15.0, atomic_numbers=list(ELEMENTS), correlation=3,
        gate=torch.nn.functional.silu, atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip
    atoms.calc = MACECalculator(models=[model], device="cpu", default_dtype="float32")
    return ase_step(atoms), "mace-torch"


def nequip_step(atoms: Atoms):
    """NequIP, l = 1, 32 features, 3 layers: list, model and forces, without the overhead of its calculator."""
    from matscipy.neighbours import neighbour_list
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    model = NequIPGNNModel(
        seed=5, model_dtype="float32", type_names=["H", "C", "O"], r_max=CUTOFF, num_layers=3,
        l_max=1, parity=False, num_features=32, radial_mlp_depth=2, radial_mlp_width=64,
        avg_num_neighbors=15.0, per_type_energy_scales=1.0, per_type_energy_shifts=0.0,
    ).eval()  # fmt: skip
    rng = np.random.default_rng(0)
    if not atoms.pbc.any():
        atoms.center(vacuum=2.0 * CUTOFF)  # its neighbor list needs a box
    start = atoms.get_positions()
    types = torch.tensor([ELEMENTS.index(z) for z in atoms.numbers])
    batch, count = torch.zeros(len(atoms), dtype=torch.int64), torch.tensor([len(atoms)])

    def step() -> None:
        atoms.positions = start + 0.01 * rng.normal(size=start.shape)
        i, j, shifts = neighbour_list("ijS", atoms, CUTOFF)
        data = {
            "pos": torch.tensor(atoms.positions), "edge_index": torch.tensor(np.stack([i, j])).long(),
            "atom_types": types, "batch": batch, "num_atoms": count,
        }  # fmt: skip
        if atoms.pbc.any():
            data["cell"] = torch.tensor(atoms.cell.array)[None]
            data["edge_cell_shift"] = torch.tensor(shifts, dtype=torch.float64)
        model(data)["forces"].detach().numpy()

    return step, "nequip"


def torchani_step(atoms: Atoms):
    """One network of the form of ANI-2x, whose cutoffs are its own (5.2 A, angles 3.5 A)."""
    from torchani.arch import simple_ani

    torch.manual_seed(0)
    atoms.calc = simple_ani(("H", "C", "O"), lot="wb97x-631gd", neighborlist="adaptive").ase()
    return ase_step(atoms), "torchani"


def schnetpack_training(of: str, dipole: bool):
    """A step on ten structures of a molecule: energy, forces and, if wanted, dipole."""
    spk = import_schnetpack()
    import schnetpack.properties as names
    from schnetpack.transform import CastTo32, MatScipyNeighborList

    torch.manual_seed(0)
    model = painn(dipole)
    systems = []
    for k in range(10):
        atoms = structure(of)
        atoms.rattle(0.1, seed=k)
        inputs = {
            names.Z: torch.tensor(atoms.numbers), names.R: torch.tensor(atoms.positions),
            names.cell: torch.zeros(1, 3, 3, dtype=torch.float64),
            names.pbc: torch.zeros(3, dtype=torch.bool),
            names.n_atoms: torch.tensor([len(atoms)]), names.idx: torch.tensor([k]),
        }  # fmt: skip
        systems.append(CastTo32()(MatScipyNeighborList(cutoff=CUTOFF)(inputs)))
    batch = spk.data.loader._atoms_collate_fn(systems)
    targets = {"energy": torch.randn(10), "forces": torch.randn(10 * len(atoms), 3)}
    if dipole:
        targets["dipole"] = torch.randn(10, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        out = model({k: v.clone() for k, v in batch.items()})
        loss = sum(((out[k].reshape(v.shape) - v) ** 2).mean() for k, v in targets.items())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return step, "schnetpack"


STEPS = {
    "schnetpack": schnetpack_step,
    "mace": mace_step,
    "nequip": nequip_step,
    "torchani": torchani_step,
}

if __name__ == "__main__":
    peer, what, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    training = {  # of what, and with dipoles or without
        "train": ("ethanol", True), "train-plain": ("ethanol", False), "train-aspirin": ("aspirin", False),
    }  # fmt: skip
    if what in training:
        step, package = schnetpack_training(*training[what])
    else:
        step, package = STEPS[peer](structure(what))
    report(measure(step), version=f"{package} {metadata.version(package)}")
