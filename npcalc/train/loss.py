"""The loss as one function of weights and a batch, eager, traced or compiled."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .. import ops
from ..nn.scatter import sum_edges
from ..potential.compiled import compile_graph, trace
from ..potential.derivatives import AtomicOutput, EdgePotential
from ..potential.molecular import dipole_norm
from .batches import Batch
from .config import LossConfig
from .targets import PropertyFit

LOG = logging.getLogger(__name__)


class Errors(dict[str, float]):
    """Mean absolute and root mean square errors; NaN where there are no labels.

    Keys are ``<target>_mae`` and ``<target>_rmse``: ``energy`` in eV per structure, ``forces`` in
    eV/A, ``dipole`` in e*A and ``centroids`` in A by component, molecular properties in their units.
    """

    def known(self) -> dict[str, float | None]:
        """Errors by name, None instead of NaN, which JSON does not have."""
        return {k: None if math.isnan(v) else v for k, v in self.items()}

    @classmethod
    def from_sums(cls, names: Sequence[str], sums: Tensor) -> "Errors":
        """From the added-up statistics of batches.

        Args:
            names: Names of the targets.
            sums: |x|, x^2, x and count of each target, shape (n_targets, 4).
        """
        absolute, square, _, count = sums.to(torch.float64).unbind(1)
        found = cls()
        for name, a, b in zip(names, absolute / count, torch.sqrt(square / count), strict=True):
            found[f"{name}_mae"], found[f"{name}_rmse"] = float(a), float(b)
        return found


class Target(NamedTuple):
    """One term of the loss.

    Attributes:
        name: What it is.
        weight: Its weight.
        unit: Error that counts as one: 1 in package units, or the spread of a property.
        row: Its place in ``Batch.counts``.
    """

    name: str
    weight: float
    unit: float
    row: int


def targets_of(config: LossConfig, properties: PropertyFit | None) -> tuple[Target, ...]:
    """The terms of a loss: energy, forces and dipole, centroids if weighted, and the properties."""
    known = {name: getattr(config, name) for name in ("energy", "forces", "dipole", "centroids")}
    found = [Target(name, weight, 1.0, k) for k, (name, weight) in enumerate(known.items())]
    if config.centroids == 0.0:
        found.pop()
    if properties is not None:
        for k, name in enumerate(properties.config.properties):
            weight = config.weight_of(name)
            found.append(Target(name, weight, float(properties.spreads[k]), len(known) + k))
    return tuple(found)


def _term(error: Tensor, present: Tensor, count: Tensor, config: LossConfig) -> Tensor:
    if config.form == "mse":
        value = error * error
    elif config.form == "mae":
        value = error.abs()
    else:
        value = nn.functional.huber_loss(
            error, torch.zeros_like(error), reduction="none", delta=config.delta
        )
    # Of several processes each has a share of the count, which may be less than one.
    return (value * present).sum() / torch.where(count > 0.0, count, 1.0)


class LossModule(nn.Module):
    """Loss and error statistics of a batch.

    The gradient of the energy is part of the traced graph, so a training step differentiates a
    plain forward graph once. One graph serves each size of batch.

    All weights are one vector, which the potential's parameters are views of: an optimizer, a clip
    of the gradient and an average then cost one call and not one for each of them.

    Args:
        potential: The potential, on its device; put in training mode.
        config: Weights and form of the terms.
        compiled: Whether to trace and compile.
        properties: What is known of the molecular properties, if there are any.

    Attributes:
        targets: The terms, in the order of the statistics.
        weights: All weights, shape (n_weights,).
        shapes: Shape of each parameter by name, in their order in ``weights``.
    """

    def __init__(
        self,
        potential: EdgePotential,
        config: LossConfig,
        compiled: bool,
        properties: PropertyFit | None = None,
    ) -> None:
        super().__init__()
        self.potential = potential.train()
        self.config = config
        self.compiled = compiled
        if compiled and ops.operators_serve(potential.model):
            ops.fuse(potential.model, constant=False)
        self.targets = targets_of(config, properties)
        # A run without energies and forces needs no gradient and reports neither.
        self.differentiate = config.energy > 0.0 or config.forces > 0.0
        n = 0 if properties is None else len(properties.scales)
        self.scales: Tensor
        self.norm: Tensor
        scales = torch.ones(0) if properties is None else torch.as_tensor(properties.scales)
        self.register_buffer("scales", scales.to(torch.float32), persistent=False)
        norm = torch.zeros(n, dtype=torch.bool)
        if properties is not None:
            sections = properties.config.properties.values()
            norm = torch.tensor([p.readout == "dipole_norm" for p in sections], dtype=torch.bool)
        self.register_buffer("norm", norm, persistent=False)
        self.shapes = {name: p.shape for name, p in potential.named_parameters()}
        flat = torch.cat([p.detach().flatten() for p in potential.parameters()])
        self.weights = nn.Parameter(flat)
        for parameter, piece in zip(
            potential.parameters(), self.pieces(flat).values(), strict=True
        ):
            parameter.requires_grad_(False).data = piece
        self._graphs: dict[tuple[int, int], Callable[..., tuple[Tensor, Tensor]]] = {}

    def pieces(self, weights: Tensor) -> dict[str, Tensor]:
        """A vector like ``weights`` as views in the shapes of the parameters, by name."""
        parts = weights.split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}

    def forward(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the current weights and the statistics of `Errors.from_sums`."""
        return self.evaluate(self.weights, Batch(*batch))

    def evaluate(self, weights: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same with other weights, for example averaged ones, a vector like ``weights``."""
        if not self.compiled:
            return self._eager(weights, *batch)
        sizes = (batch.species.shape[0], batch.center.shape[0])
        if sizes not in self._graphs:
            graph = trace(self._eager, weights, *batch)
            if not self._graphs:
                LOG.info("compiling the training step, which takes a minute or more")
            self._graphs[sizes] = compile_graph(graph, (weights, *batch))
        return self._graphs[sizes](weights, *batch)

    def _eager(self, weights: Tensor, *fields: Tensor) -> tuple[Tensor, Tensor]:
        batch = Batch(*fields)
        named = self.pieces(weights)
        arguments = (batch.edges, batch.species, batch.center, batch.neighbor, self.differentiate)
        out = functional_call(self.potential, named, arguments)
        found = self._errors(out, batch)
        loss = torch.zeros((), device=batch.energy.device)
        sums = []
        for name, weight, unit, row in self.targets:
            x, m = found[name]
            if weight > 0.0:
                scaled = x / batch.n_atoms if name == "energy" else x / unit
                loss = loss + weight * _term(scaled, m, batch.counts[row], self.config)
            statistics = [(x.abs() * m).sum(), (x * x * m).sum(), (x * m).sum(), m.sum()]
            sums.append(torch.stack(statistics))
        return loss, torch.stack(sums).detach()

    def _errors(self, out: AtomicOutput, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Prediction minus label of each target, and 1 where there is a label."""
        n_systems = batch.n_atoms.shape[0]
        dipole = sum_edges(out.dipoles, batch.system, n_systems)
        energy = sum_edges(out.energies, batch.system, n_systems)
        reported, trained = float(self.differentiate), float(self.config.energy > 0.0)
        found = {
            # Untrained energies have no zero in common with the labels.
            "energy": (energy - batch.energy, reported * trained * batch.has_energy),
            "forces": (
                out.forces - batch.forces,
                reported * batch.has_forces[:, None].expand(-1, 3),
            ),
            "dipole": (dipole - batch.dipole, batch.has_dipole[:, None].expand(-1, 3)),
        }
        if self.config.centroids > 0.0:
            w = out.weights[:, :, None]
            # Atoms whose electron weight is zero have no centroid and no label.
            centroid = (w * out.displacements).sum(1) / torch.clamp(w.sum(1), min=1e-6)
            mask = batch.has_centroids[:, None].expand(-1, 3)
            found["centroids"] = (centroid - batch.centroids, mask)
        n_properties = batch.properties.shape[1]
        if n_properties > 0:
            parts = batch.measures * self.scales * out.properties
            values = sum_edges(parts, batch.system, n_systems)
            values = torch.where(self.norm, dipole_norm(dipole)[:, None], values)
            error = (values - batch.properties).unbind(1)
            names = [target.name for target in self.targets[-n_properties:]]
            pairs = zip(error, batch.has_properties.unbind(1), strict=True)
            found |= dict(zip(names, pairs, strict=True))
        return found
