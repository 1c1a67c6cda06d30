"""PBE/def2-SVP by PySCF (`pip install pyscf`), a reference of `06_own_molecule.py`.

Write another functional or basis here: spectra of PBE have bonds to hydrogen a few percent too soft.
"""

import os

from ase import Atoms
from pyscf import dft, gto
from pyscf.pbc.tools.pyscf_ase import PySCF, ase_atoms_to_pyscf


def calculator(atoms: Atoms) -> PySCF:
    """Of a molecule without charge, all electrons paired."""
    shape = gto.M(atom=ase_atoms_to_pyscf(atoms), basis="def2-svp", output=os.devnull)
    return PySCF(method=dft.RKS(shape, xc="pbe").density_fit())
