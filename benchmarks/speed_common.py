"""What the cases of `speed.py` share in every environment: structures, clocks, a line of JSON. Knows ASE and NumPy only."""

import json
import re
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule

ASPIRIN = (
    "CCCCCCCOOOCCOHHHHHHHH",
    """1.91 -1.44 .01 1.11 1.04 -.63 2.84 -.69 -.71 2.35 .47 -1.18 -2.9 2.21 .43 .54 -1.08 .32 .24 .27 .04
    -1.48 -1.88 1.42 -1.78 1.14 -1.43 .11 -3.31 .55 -.4 -2.04 .89 -1.82 1.4 -.28 -.93 .86 .63 -.28 -3.99 1.07
    2.26 -2.35 .47 .82 2.04 -.9 3.81 -1.12 -.94 3.03 1.23 -1.66 -2.72 3.22 .58 -3.86 2.31 -.13 -2.87 1.7 1.45""",
)
"""The first training structure of rMD17 aspirin (CC0), rounded."""

VOLUME = 18.015 / 0.60221408 / 0.997
"""Volume of a water molecule in the liquid at 25 C, A^3."""


def water_box(n_molecules: int) -> Atoms:
    """Water molecules on a cubic lattice in random orientation, at the density of the liquid."""
    rng = np.random.default_rng(0)
    per_side = round(n_molecules ** (1 / 3))
    length = VOLUME ** (1 / 3)
    shape = molecule("H2O").positions
    shape = shape - shape.mean(0)
    positions = []
    for place in np.ndindex(per_side, per_side, per_side):
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        positions.append(shape @ q + length * np.array(place))
    n = len(positions)
    return Atoms("OHH" * n, np.concatenate(positions), cell=[per_side * length] * 3, pbc=True)


def structure(name: str) -> Atoms:
    """``ethanol``, ``aspirin`` or ``water-<atoms>``."""
    if name == "ethanol":
        return molecule("CH3CH2OH")
    if name == "aspirin":
        symbols, numbers = ASPIRIN
        return Atoms(list(symbols), np.array(numbers.split(), dtype=float).reshape(-1, 3))
    return water_box(int(name.split("-")[1]) // 3)


def measure(
    function: Callable[[], object], seconds: float = 5.0, warm: int = 30, least: int = 3
) -> list[float]:
    """Times of single calls in ms, after some that are not counted (fewer of them where one takes long)."""
    start = time.perf_counter()
    for k in range(warm):
        function()
        if k > 1 and time.perf_counter() - start > seconds / 2:
            break
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < least:
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return times


def peak_memory() -> float:
    """Most memory in MiB that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # the other way counts what the process that started this one had, too
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(times: list[float], **more: object) -> None:
    """Prints median and peak memory as JSON on the last line."""
    row = {"median_ms": statistics.median(times), "n": len(times), "peak_MiB": round(peak_memory())}
    print(json.dumps({**row, **more}))


def ase_step(atoms: Atoms, dipole: bool = False) -> Callable[[], object]:
    """A step that moves the atoms a little and asks for forces and, if wanted, the dipole."""
    rng = np.random.default_rng(0)
    start = atoms.get_positions()

    def step() -> None:
        atoms.positions = start + 0.01 * rng.normal(size=start.shape)
        atoms.get_forces()
        if dipole:
            atoms.get_dipole_moment()

    return step
