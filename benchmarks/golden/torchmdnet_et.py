"""Golden numbers of the et host: TorchMD-NET's equivariant transformer with random weights.

python -m venv peer && peer/bin/pip install "torch==2.13.0" torchmd-net==3.1.0
peer/bin/python benchmarks/golden/torchmdnet_et.py tests/golden/et_torchmdnet.npz
"""

import sys

import torch
from structures import CUTOFF
from torchmdnet.models.output_modules import EquivariantScalar
from torchmdnet.models.torchmd_et import TorchMD_ET
from torchmdnet_common import write

CHANNELS, HEADS, BASIS = 8, 2, 6

torch.manual_seed(5)
representation = TorchMD_ET(
    hidden_channels=CHANNELS, num_layers=3, num_rbf=BASIS, trainable_rbf=False, num_heads=HEADS,
    cutoff_upper=CUTOFF, vector_cutoff=True, dtype=torch.float64,
)  # fmt: skip
readout = EquivariantScalar(CHANNELS, dtype=torch.float64)
write(
    sys.argv[1],
    representation,
    readout,
    BASIS,
    lambda name, w: "embedding" in name and len(w) == 100,
)
