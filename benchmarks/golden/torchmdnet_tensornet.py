"""Golden numbers of the tensornet host: TorchMD-NET's TensorNet with random weights.

python -m venv peer && peer/bin/pip install "torch==2.13.0" torchmd-net==3.1.0
peer/bin/python benchmarks/golden/torchmdnet_tensornet.py tests/golden/tensornet_torchmdnet.npz
"""

import sys

import torch
from structures import CUTOFF
from torchmdnet.models import tensornet
from torchmdnet.models.output_modules import Scalar
from torchmdnet_common import write

CHANNELS, BASIS = 8, 6

# The peer's operations in plain PyTorch, instead of its kernels.
tensornet.OPT = False
for name in ("compose_tensor", "decompose_tensor", "tensor_matmul_o3", "tensor_matmul_so3"):
    setattr(tensornet, name, getattr(tensornet, f"_{name}"))

torch.manual_seed(6)
representation = tensornet.TensorNet(
    hidden_channels=CHANNELS, num_layers=2, num_rbf=BASIS, trainable_rbf=False, cutoff_upper=CUTOFF,
    static_shapes=False, dtype=torch.float64,
).double()  # fmt: skip
readout = Scalar(CHANNELS, dtype=torch.float64)
write(sys.argv[1], representation, readout, BASIS, lambda name, w: name.endswith("emb.weight"))
