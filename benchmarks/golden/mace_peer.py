"""Golden numbers of the mace host: mace-torch's MACE with random weights.

python -m venv peer && peer/bin/pip install "torch==2.13.0" mace-torch==0.3.16
peer/bin/python benchmarks/golden/mace_peer.py tests/golden/mace_torch.npz
"""

import sys

import numpy as np
import torch

torch.serialization.add_safe_globals([slice])  # e3nn 0.4.4 stores its constants with one

from e3nn import o3  # noqa: E402
from mace.modules import MACE, RealAgnosticResidualInteractionBlock  # noqa: E402
from structures import CUTOFF, ELEMENTS, NUMBERS, frames, pairs  # noqa: E402

torch.set_default_dtype(torch.float64)
torch.manual_seed(7)
block = RealAgnosticResidualInteractionBlock
model = MACE(
    r_max=CUTOFF, num_bessel=6, num_polynomial_cutoff=6, max_ell=2, interaction_cls=block,
    interaction_cls_first=block, num_interactions=2, num_elements=3,
    hidden_irreps=o3.Irreps("4x0e + 4x1o"), MLP_irreps=o3.Irreps("5x0e"),
    atomic_energies=np.zeros(3), avg_num_neighbors=5.0, atomic_numbers=list(ELEMENTS), correlation=3,
    gate=torch.nn.functional.silu, apply_cutoff=False, use_reduced_cg=False, radial_MLP=[8, 8],
)  # fmt: skip

out = {"numbers": NUMBERS, "positions": np.array(frames())}
energies, forces = [], []
for frame in frames():
    i, j = torch.tensor(pairs(frame))
    data = {
        "positions": torch.tensor(frame), "edge_index": torch.stack([j, i]),
        "shifts": torch.zeros(len(i), 3), "unit_shifts": torch.zeros(len(i), 3), "cell": torch.zeros(3, 3),
        "node_attrs": torch.eye(3)[[ELEMENTS.index(z) for z in NUMBERS]],
        "batch": torch.zeros(len(NUMBERS), dtype=torch.int64),
        "ptr": torch.tensor([0, len(NUMBERS)]), "head": torch.zeros(1, dtype=torch.int64),
    }  # fmt: skip
    result = model(data)
    energies.append(result["energy"].item())
    forces.append(result["forces"].detach().numpy())
out["energies"], out["forces"] = np.array(energies), np.array(forces)
for name, value in model.named_parameters():
    out[f"model.{name}"] = value.detach().numpy()
np.savez_compressed(sys.argv[1], **out)
print(out["energies"], {k: v.shape for k, v in out.items() if k.startswith("model.")})
