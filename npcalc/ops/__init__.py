"""Operators of our own in C++, for compiled code on the CPU.

Messages of PaiNN are most of its work, and general compilers store arrays of the size of
(edges, channels) many times on the way. The operator of ``messages.h`` stores none and does the two
edges of a pair of atoms together. It is built when something is first compiled, a potential or a
training step; without it compiled code is the same function made by TorchInductor alone.
"""

from .library import load_operators
from .painn import can_fuse, fuse, operators_serve

__all__ = ["can_fuse", "fuse", "load_operators", "operators_serve"]
