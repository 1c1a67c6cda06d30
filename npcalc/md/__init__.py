"""Molecular dynamics, relaxation and trajectories."""

from .dynamics import MDExploded, MDSettings, run_md
from .structures import NotConverged, read_structure, relax
from .trajectory import Trajectory, TrajectoryError

__all__ = [
    "MDExploded",
    "MDSettings",
    "NotConverged",
    "Trajectory",
    "TrajectoryError",
    "read_structure",
    "relax",
    "run_md",
]
