"""PolarizedModel: edge vectors and species in, energy, charge, weight and displacement per atom out."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..nn.hosts import EdgeGeometry, HostLayer, PointSpec, make_host
from ..nn.points import (
    Coupling,
    PairedGeometry,
    PairedHeads,
    PairedNodes,
    PairedProducts,
    PairedShifts,
    SinglePoint,
)
from ..nn.polarization import Displacement, NoExchange, PairExchange, Rest
from ..nn.radial import make_envelope
from ..nn.readouts import (
    AtomicProperties,
    ChargeIncrements,
    FormalWeight,
    LearnedWeight,
    NoIncrements,
    NoProperties,
)
from .config import ModelConfig


class ModelOutput(NamedTuple):
    """What the model returns.

    Attributes:
        energy: Readout of each atom in units of the energy scale, zero for an isolated atom,
            shape (n_atoms,).
        displacement: Electron points minus nucleus in Angstrom, shape (n_atoms, n_points, 3).
        weight: Electron weight of each point in e, shape (n_atoms, n_points).
        increment: Charge a_ij that the center gives to the neighbor in e, shape (n_edges,).
        properties: Contributions to the molecular properties in units of their scales, shape
            (n_atoms, n_properties).
    """

    energy: Tensor
    displacement: Tensor
    weight: Tensor
    increment: Tensor
    properties: Tensor


class PolarizedModel(nn.Module):
    """A host network with neural polarization.

    Everything depends on the atoms only through edge vectors and species. While training, the
    energy of the isolated atoms is evaluated along with the structures; in evaluation mode it is
    a stored constant, refreshed on entering that mode.

    Args:
        config: Its configuration.
        dtype: Of weights and constants. Constants are made in float64 and cast, so build the
            model anew rather than widening one that was made in float32.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.n_species = len(config.elements)
        moving = config.polarization == "moving"
        self.coupling = make_coupling(config)
        self.n_points = self.coupling.n_points
        spec = PointSpec(
            n_types=self.coupling.n_kinds * self.n_species,
            n_distances=self.coupling.n_distances,
            n_directions=self.coupling.n_directions,
            cutoff=config.cutoff,
            n_neighbors=(config.n_neighbors or 1.0)
            * self.coupling.edges_per_pair
            / self.coupling.n_kinds,
            n_heads=self.coupling.n_heads,
            # Before the first movement all displacements are zero.
            still_layers=1 if moving else sys.maxsize,
            relative=self.coupling.relative,
            products=self.coupling.products,
        )
        self.host = make_host(spec, config.host)
        layers: list[HostLayer] = list(self.host.layers)  # type: ignore[arg-type]
        updates: list[nn.Module] = []
        for index, layer in enumerate(layers):
            # The last update is read by the dipole alone; without one it would never be trained.
            used = config.dipole or index < len(layers) - 1
            move = moving and used and layer.n_vectors > 0
            updates.append(Displacement(layer, self.coupling, config.d_max) if move else Rest())
        self.updates = nn.ModuleList(updates)
        moved = [isinstance(update, Displacement) for update in updates]
        self.still = [
            # Layers that were built for less while points rest, and no others, get it.
            index < spec.still_layers if spec.relative or spec.products else not any(moved[:index])
            for index in range(len(moved))
        ]
        self.has_exchange = self.coupling.n_kinds > 1
        self.exchanges = nn.ModuleList(
            [
                PairExchange(layer, self.coupling)
                if self.has_exchange and layer.n_vectors > 0
                else NoExchange()
                for layer in layers
            ]
        )
        self.weight: nn.Module = FormalWeight([0.0] * self.n_species, self.n_points)
        self.increments: nn.Module = NoIncrements()
        if config.dipole and moving:
            self.weight = (
                LearnedWeight(layers[-1], self.coupling)
                if config.electron_weight == "learned"
                else FormalWeight(
                    [config.formal_weights[e] for e in config.elements], self.n_points
                )
            )
        if config.charges == "increments":
            self.increments = ChargeIncrements(layers[-1], config.cutoff)
        self.properties: nn.Module = (
            AtomicProperties(layers[-1], len(config.properties))
            if config.properties
            else NoProperties()
        )
        # Layers of our own operators, see `npcalc.ops`: a view of the host's, so no modules of the model.
        self.fused: Sequence[nn.Module] = ()
        self.isolated_energy: Tensor
        self.register_buffer("isolated_energy", torch.zeros(self.n_species))
        self.to(dtype)

    def train(self, mode: bool = True) -> "PolarizedModel":
        """Sets the mode; entering evaluation stores the energies of the isolated atoms."""
        super().train(mode)
        if not mode:
            self.refresh_isolated()
        return self

    def refresh_isolated(self) -> None:
        """Stores the readout of each isolated species in ``isolated_energy``."""
        buffer = self.isolated_energy
        species = torch.arange(self.n_species, device=buffer.device)
        none = species[:0]
        with torch.no_grad():
            raw = self.evaluate(
                torch.zeros(0, 3, dtype=buffer.dtype, device=buffer.device), species, none, none
            )
            buffer.copy_(raw.energy)

    def forward(
        self, edges: Tensor, species: Tensor, center: Tensor, neighbor: Tensor
    ) -> ModelOutput:
        """Evaluates the model.

        Args:
            edges: Vectors r_ij in Angstrom, shape (n_edges, 3), none of zero length.
            species: Index of each atom's element, shape (n_atoms,).
            center: Center atoms, shape (n_edges,).
            neighbor: Neighbor atoms, shape (n_edges,).

        Returns:
            Its outputs per atom and edge.
        """
        if not self.training:
            out = self.evaluate(edges, species, center, neighbor)
            energy = out.energy - self.isolated_energy[species]
            return ModelOutput(energy, out.displacement, out.weight, out.increment, out.properties)
        n = species.shape[0]
        extended = torch.cat([species, torch.arange(self.n_species, device=species.device)])
        out = self.evaluate(edges, extended, center, neighbor)
        energy = out.energy[:n] - out.energy[n:][species]
        return ModelOutput(
            energy, out.displacement[:n], out.weight[:n], out.increment, out.properties[:n]
        )

    def evaluate(
        self, edges: Tensor, species: Tensor, center: Tensor, neighbor: Tensor
    ) -> ModelOutput:
        """As `forward`, with the readouts of isolated atoms still in the energy."""
        bare = self.coupling.bare(edges, center, neighbor)
        x, d = self.start(bare, edges, species)
        states: list[Tensor] = []
        for index in range(len(self.updates)):
            x, d = self.step(index, x, d, bare, edges, species)
            states.append(x)
        return self.read(states, d, bare, edges, species)

    def start(self, bare: EdgeGeometry, edges: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """State of the host's points before the first layer, and displacements of zero.

        Args:
            bare: Geometry of the nuclei, see `Coupling.bare`.
            edges: Vectors r_ij in Angstrom, shape (n_edges, 3).
            species: Index of each atom's element, shape (n_atoms,).

        Returns:
            State (n_host_points, C) and displacements (n_atoms, n_points, 3).
        """
        d = edges.new_zeros(species.shape[0], self.n_points, 3)
        types = self.coupling.point_types(species, self.n_species)
        geometry = self.coupling.geometry(bare, edges, d, still=True)
        return self.host.embed(types, geometry), d

    def step(
        self,
        index: int,
        x: Tensor,
        d: Tensor,
        bare: EdgeGeometry,
        edges: Tensor,
        species: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One layer: messages, exchange within the atoms, movement of the electron points.

        Rows of an atom depend on its own edges and on the rows at their ends alone.

        Args:
            index: Which layer.
            x: State (n_host_points, C).
            d: Displacements in Angstrom, shape (n_atoms, n_points, 3).
            bare: Geometry of the nuclei, see `Coupling.bare`.
            edges: Vectors r_ij in Angstrom, shape (n_edges, 3).
            species: Index of each atom's element, shape (n_atoms,).

        Returns:
            New state and displacements.
        """
        layer = self.layer(index)
        if self.fused:
            x = self.fused[index](x, edges, bare.center, bare.neighbor, d)
        else:
            types = self.coupling.point_types(species, self.n_species)
            still = self.still[index]
            x = layer(x, types, self.coupling.geometry(bare, edges, d, still))
        if self.has_exchange:
            ds, dv = self.exchanges[index](layer.scalars(x), layer.vectors(x), d)
            x = layer.add(x, ds, dv)
        return x, self.updates[index](layer.scalars(x), layer.vectors(x), d)

    def read(
        self,
        states: list[Tensor],
        d: Tensor,
        bare: EdgeGeometry,
        edges: Tensor,
        species: Tensor,
    ) -> ModelOutput:
        """Outputs from the states after each layer and the last displacements.

        All but the increments of the edges are of each atom alone; arguments as of `step`.
        """
        n = species.shape[0]
        scalars = self.layer(len(states) - 1).scalars(states[-1])
        return ModelOutput(
            self.host.energy(states).reshape(-1, n).sum(0),
            d,
            self.weight(scalars, species),
            self.increments(
                self.coupling.nuclear(scalars, n),
                bare.center,
                bare.neighbor,
                bare.distance[:, 0],
                bare.envelope,
            ),
            self.properties(scalars, n),
        )

    def layer(self, index: int) -> HostLayer:
        """A layer of the host."""
        return self.host.layers[index]  # type: ignore[return-value]


GEOMETRIES = {
    "paired_geometry": PairedGeometry,
    "paired_shifts": PairedShifts,
    "paired_heads": PairedHeads,
}
"""Couplings whose hosts have one point for each atom, but for `PairedProducts`."""


def make_coupling(config: ModelConfig) -> Coupling:
    """Builds the coupling that a configuration asks for."""
    envelope = make_envelope(config.envelope, config.cutoff)
    if config.polarization == "none":
        return SinglePoint(envelope)
    if config.coupling == "paired_nodes":
        return PairedNodes(config.n_points, config.softening, envelope, config.pairs == "all")
    if config.coupling == "paired_products":
        return PairedProducts(config.n_points, config.softening, envelope, unit=config.d_max)
    return GEOMETRIES[config.coupling](config.n_points, config.softening, envelope)
