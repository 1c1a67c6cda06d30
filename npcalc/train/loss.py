"""The loss as one function of weights and a batch, eager, traced or compiled."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..nn.scatter import sum_edges
from ..potential.compiled import compile_graph, trace
from ..potential.derivatives import EdgePotential
from .batches import Batch
from .config import LossConfig


class Errors(NamedTuple):
    """Mean absolute and root mean square errors; NaN where there are no labels.

    Energies in eV per structure, forces in eV/A and dipoles in e*A by component.
    """

    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float
    dipole_mae: float
    dipole_rmse: float

    def known(self) -> dict[str, float | None]:
        """Errors by name, None instead of NaN, which JSON does not have."""
        return {k: None if math.isnan(v) else v for k, v in self._asdict().items()}

    @classmethod
    def from_sums(cls, sums: Tensor) -> "Errors":
        """From the added-up statistics of batches, shape (3, 4): |x|, x^2, x and count by label."""
        absolute, square, _, count = sums.to(torch.float64).unbind(1)
        mae, rmse = absolute / count, torch.sqrt(square / count)
        pairs = [(float(a), float(b)) for a, b in zip(mae, rmse, strict=True)]
        return cls(*pairs[0], *pairs[1], *pairs[2])


def _term(error: Tensor, present: Tensor, count: Tensor, config: LossConfig) -> Tensor:
    if config.form == "mse":
        value = error * error
    elif config.form == "mae":
        value = error.abs()
    else:
        value = nn.functional.huber_loss(
            error, torch.zeros_like(error), reduction="none", delta=config.delta
        )
    return (value * present).sum() / torch.clamp(count, min=1.0)


class LossModule(nn.Module):
    """Loss and error statistics of a batch.

    The gradient of the energy is part of the traced graph, so a training step differentiates a
    plain forward graph once. One graph serves each size of batch.

    Args:
        potential: The potential, in training mode.
        config: Weights and form of the terms.
        compiled: Whether to trace and compile.
    """

    def __init__(self, potential: EdgePotential, config: LossConfig, compiled: bool) -> None:
        super().__init__()
        self.potential = potential.train()
        self.config = config
        self.compiled = compiled
        self.names = [name for name, _ in potential.named_parameters()]
        self._graphs: dict[tuple[int, int], Callable[..., tuple[Tensor, Tensor]]] = {}

    def forward(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the current weights and the statistics of `Errors.from_sums`."""
        return self.evaluate(list(self.potential.parameters()), Batch(*batch))

    def evaluate(self, weights: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """The same with other weights, for example averaged ones, in the order of parameters."""
        if not self.compiled:
            return self._eager(weights, *batch)
        sizes = (batch.species.shape[0], batch.center.shape[0])
        if sizes not in self._graphs:
            graph = trace(self._eager, weights, *batch)
            self._graphs[sizes] = compile_graph(graph, (weights, *batch))
        return self._graphs[sizes](weights, *batch)

    def _eager(self, weights: list[Tensor], *fields: Tensor) -> tuple[Tensor, Tensor]:
        batch = Batch(*fields)
        named: dict[str, Any] = dict(zip(self.names, weights, strict=True))
        arguments = (batch.edges, batch.species, batch.center, batch.neighbor)
        out = functional_call(self.potential, named, arguments)
        n_systems = batch.n_atoms.shape[0]
        energy = sum_edges(out.energies, batch.system, n_systems) - batch.energy
        forces = out.forces - batch.forces
        dipole = sum_edges(out.dipoles, batch.system, n_systems) - batch.dipole
        c = self.config
        present_f = batch.has_forces[:, None].expand_as(forces)
        present_d = batch.has_dipole[:, None].expand_as(dipole)
        loss = (
            c.energy * _term(energy / batch.n_atoms, batch.has_energy, batch.counts[0], c)
            + c.forces * _term(forces, present_f, batch.counts[1], c)
            + c.dipole * _term(dipole, present_d, batch.counts[2], c)
        )
        rows = [(energy, batch.has_energy), (forces, present_f), (dipole, present_d)]
        sums = [
            torch.stack([(x.abs() * m).sum(), (x * x * m).sum(), (x * m).sum(), m.sum()])
            for x, m in rows
        ]
        return loss, torch.stack(sums).detach()
