"""Operators of our own, in C++ for compiled code on the CPU.

Messages are most of the work of a network, and general compilers store arrays of the size of
(edges, channels) many times on the way. The operator of ``messages.h`` does those of PaiNN, stores none
and does the two edges of a pair of atoms together; that of ``convolution.h`` does the tensor products of
NequIP and MACE and the sums of TensorNet. They are built when something is first compiled, a potential or a
training step; without them compiled code is the same function made by TorchInductor alone. The functions of
``pairs.py`` do the messages of PaiNN where there is no compiler, in the files of potentials.
"""

from .fuse import can_fuse, fuse, operators_serve
from .library import load_operators
from .painn import can_fuse_messages

__all__ = ["can_fuse", "can_fuse_messages", "fuse", "load_operators", "operators_serve"]
