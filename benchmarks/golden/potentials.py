"""Golden numbers of the shipped potentials: what they gave when they were released.

python benchmarks/golden/potentials.py tests/golden/potentials.json
"""

import json
import sys
from pathlib import Path

from ase.build import molecule

from npcalc import NPCalculator
from npcalc.potential import bundled_potentials


def main(target: Path) -> None:
    out: dict[str, list] = {}
    for name in bundled_potentials():
        out[name] = []
        for seed in (None, 11):
            atoms = molecule("CH3CH2OH")
            if seed is not None:
                atoms.rattle(0.05, seed=seed)
            atoms.calc = NPCalculator(name, dtype="float64")
            out[name].append(
                {
                    "rattle_seed": seed,
                    "energy": atoms.get_potential_energy(),
                    "forces": atoms.get_forces().tolist(),
                    "dipole": atoms.get_dipole_moment().tolist(),
                }
            )
    target.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
