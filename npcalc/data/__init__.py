"""Reference data: sets of structures with labels, their files, splits and reference energies."""

from .dataset import LABELS, DataSet, Label
from .readers import from_atoms, read_data, read_npz
from .split import fit_reference_energies, isolated_atoms, random_split

__all__ = [
    "LABELS",
    "DataSet",
    "Label",
    "fit_reference_energies",
    "from_atoms",
    "isolated_atoms",
    "random_split",
    "read_data",
    "read_npz",
]
