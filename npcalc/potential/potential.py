"""Potential: a trained model with its card, on a device, ready to evaluate graphs."""

import hashlib
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..graph import AtomGraph, pad
from . import derivatives
from .archive import build_module, read_archive, write_archive
from .card import Card
from .compiled import compile_graph, trace
from .registry import find_potential

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Potential:
    """A trained potential.

    Args:
        card: Its card.
        weights: Parameters of its network by name.
        device: ``cpu``, ``cuda`` or ``auto``.
        dtype: ``float32`` or ``float64``; that of the card by default.

    Raises:
        ValueError: The dtype is neither of the two, or the device is not there.

    Attributes:
        card: The card.
        device: Where it runs.
        dtype: In which precision.
        module: The function that it evaluates.
    """

    def __init__(
        self,
        card: Card,
        weights: dict[str, Tensor],
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        name = dtype or card.dtype
        if name not in DTYPES:
            raise ValueError(f"unknown dtype {name!r}: expected float32 or float64")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {device!r} is asked for, but torch finds no CUDA device here")
        self.card = card
        self.dtype = name
        self.device = torch.device(device)
        self.module = build_module(card, weights, DTYPES[name]).to(self.device)
        self._graphs: dict[tuple[int, ...], Callable[..., Any]] = {}

    @property
    def sha256(self) -> str:
        """Hash of network and weights, which tells two potentials apart whatever their names."""
        digest = hashlib.sha256(self.card.model.model_dump_json().encode())
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters of the network by name."""
        return dict(self.module.edge_potential.model.named_parameters())

    def evaluate(self, graph: AtomGraph) -> dict[str, Tensor]:
        """All first-order quantities of a batch, see `PotentialModule.forward`.

        Args:
            graph: Structures on the potential's device.

        Returns:
            Tensors by name in the units of `npcalc.conventions`.
        """
        with torch.enable_grad():
            return {k: v.detach() for k, v in self.module(*graph).items()}

    def evaluate_compiled(self, graph: AtomGraph) -> dict[str, Tensor]:
        """The same through a graph that is compiled for these sizes when they first occur.

        Edges are padded to a multiple, so that a neighbor list that grows or shrinks seldom needs
        a new graph.

        Args:
            graph: One or more structures.

        Returns:
            As `evaluate`.
        """
        n_edges = graph.edge_index.shape[1]
        step = max(8, (1 << n_edges.bit_length()) // 8)
        padded_edges = -(-n_edges // step) * step
        fits = padded_edges == n_edges
        cutoff = self.card.model.cutoff
        full = graph if fits else pad(graph, graph.n_atoms + 1, padded_edges, cutoff)
        key = (full.n_atoms, padded_edges, full.n_systems)
        if key not in self._graphs:
            traced = trace(lambda *tensors: self.module(*tensors), *full)
            self._graphs[key] = compile_graph(traced, full)
        with torch.no_grad():
            out = self._graphs[key](*full)
        if fits:
            return out
        systems = ("virial", "dipole", "properties")
        return {k: v[: graph.n_systems if k in systems else graph.n_atoms] for k, v in out.items()}

    def born_effective_charges(self, graph: AtomGraph) -> Tensor:
        """Atomic polar tensors in e, see `derivatives.born_effective_charges`."""
        with torch.enable_grad():
            return derivatives.born_effective_charges(self.module, graph)

    def hessian(self, graph: AtomGraph) -> Tensor:
        """Second derivatives in eV/A^2, see `derivatives.hessian`."""
        with torch.enable_grad():
            return derivatives.hessian(self.module, graph)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Writes the potential.

        Args:
            path: File to write.
            overwrite: Whether an existing file may be replaced.

        Raises:
            FileExistsError: The file exists.
        """
        write_archive(path, self.card, self.module.edge_potential.model, overwrite)


def load_potential(
    name_or_path: str | os.PathLike[str], device: str = "auto", dtype: str | None = None
) -> Potential:
    """Loads a potential.

    Args:
        name_or_path: Name of a bundled potential, or path of a file.
        device: ``cpu``, ``cuda`` or ``auto``.
        dtype: ``float32`` or ``float64``; that of the card by default.

    Returns:
        The potential.

    Raises:
        FileNotFoundError: There is no such potential; the message lists those that exist.
        ArchiveError: The file is not a potential, damaged, or of a newer format.
    """
    card, weights = read_archive(find_potential(name_or_path))
    return Potential(card, weights, device, dtype)


def save_potential(
    potential: Potential, path: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Writes a potential, see `Potential.save`."""
    potential.save(path, overwrite)
