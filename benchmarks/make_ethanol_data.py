"""Makes potentials/data/ethanol-{train,test}.h5 from rMD17 and the dipoles computed for it.

    python benchmarks/make_ethanol_data.py REFERENCE_DATA potentials/data

REFERENCE_DATA holds ``rmd17/rmd17_ethanol_{train,test}_01.npz`` (CC0, Christensen and von Lilienfeld,
Mach. Learn.: Sci. Technol. 1, 045018 (2020)) and ``rmd17_dipoles/ethanol_dipoles.npz``.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from npcalc.data import Label, read_npz


def main(source: Path, target: Path) -> None:
    """Writes both files."""
    dipoles = np.load(source / "rmd17_dipoles/ethanol_dipoles.npz")
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        data = read_npz(source / f"rmd17/rmd17_ethanol_{split}_01.npz")
        values = np.full((len(data), 3), np.nan)
        values[dipoles[f"{split}_index"]] = dipoles[f"{split}_dipole_eA"]
        labels = {**data.labels, "dipole": Label(values, np.isfinite(values).all(1))}
        provenance = {
            "origin": f"revised MD17, ethanol, split 01, {split} part",
            "level_of_theory": "PBE/def2-SVP; dipoles: PySCF 2.14, density fitting, grid level 3",
            "license": "CC0 1.0",
            "citation": "A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, "
            "045018 (2020); dipoles computed for npcalc",
        }
        data = replace(data, labels=labels, provenance=provenance)
        data.save(target / f"ethanol-{split}.h5", overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
