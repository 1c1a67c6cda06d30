"""Structures that hosts and peers are compared on; imported by the scripts beside it."""

import numpy as np

ELEMENTS = (1, 6, 8)
CUTOFF = 3.5
NUMBERS = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
# Ethanol; the longest distances lie beyond the cutoff.
POSITIONS = np.array(
    [
        [1.168, -0.404, 0.000], [0.000, 0.553, 0.000], [-1.190, -0.215, 0.000],
        [-1.946, 0.381, 0.000], [0.042, 1.196, 0.887], [0.042, 1.196, -0.887],
        [2.115, 0.145, 0.000], [1.129, -1.038, 0.887], [1.129, -1.038, -0.887],
    ]
)  # fmt: skip


def frames() -> list[np.ndarray]:
    """Three distorted geometries, shape (9, 3) each, in Angstrom."""
    rng = np.random.default_rng(7)
    return [POSITIONS + 0.15 * rng.normal(size=POSITIONS.shape) for _ in range(3)]


def pairs(positions: np.ndarray) -> np.ndarray:
    """Ordered pairs within the cutoff, shape (2, n_pairs)."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return np.array(np.nonzero((distance < CUTOFF) & (distance > 0.0)))
