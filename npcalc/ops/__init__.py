"""Operators of our own in C++, for the compiled path on the CPU.

Messages of PaiNN are most of its work, and general compilers store arrays of the size of
(edges, channels) many times on the way. The operator of ``messages.h`` stores none and does the two
edges of a pair of atoms together. It is built when a potential is first compiled; without it the
compiled path is the same function made by TorchInductor alone.
"""

from .library import load_operators
from .painn import can_fuse, fuse

__all__ = ["can_fuse", "fuse", "load_operators"]
