"""The contract between neural polarization and the equivariant network that carries it.

A host knows points, their types and the geometry of their pairs; it knows nothing of atoms,
nuclei or electron points. Its state is one flat tensor whose layout only the host knows.
"""

from typing import ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class HostConfig(BaseModel):
    """Configuration of a host; a subclass for each, with its name as a literal.

    Attributes:
        name: Name of the host in configuration files.
        learning_rate: Of training where its configuration gives none.
        knows_relative: Whether the host makes use of `PointSpec.counted` and `PointSpec.of_layer`.
        knows_products: Whether the host has its radial functions from `PointSpec.functions`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: ClassVar[float] = 1e-3
    knows_relative: ClassVar[bool] = False
    knows_products: ClassVar[bool] = False

    name: str

    def check_heads(self, n_heads: int) -> None:
        """Refuses what the host cannot be built for; hosts that know heads say here which.

        Args:
            n_heads: `PointSpec.n_heads`, larger than one.

        Raises:
            ValueError: The host cannot have so many heads.
        """
        raise ValueError(
            f"host {self.name!r} does not know the heads of coupling: paired_heads and paired_products: "
            f"take paired_geometry, or a host that does (painn, et)"
        )

    def check_relative(self) -> None:
        """Refuses hosts that would see absolute distances where differences are meant.

        Raises:
            ValueError: The host does not know `PointSpec.counted`.
        """
        self._check_known(self.knows_relative, "paired_shifts", "counted", "knows_relative")

    def check_products(self) -> None:
        """Refuses hosts that would not see shifts.

        Raises:
            ValueError: The host does not know `PointSpec.functions`.
        """
        self._check_known(self.knows_products, "paired_products", "functions", "knows_products")

    def _check_known(self, known: bool, coupling: str, method: str, flag: str) -> None:
        """Refuses a coupling that a host does not know, naming what of `PointSpec` it would have to use."""
        if not known:
            raise ValueError(
                f"host {self.name!r} does not know coupling: {coupling}: take paired_geometry, or let "
                f"the host use PointSpec.of_layer and PointSpec.{method} and set {flag}"
            )


def check_parts(channels: int, n_heads: int) -> None:
    """Refuses channels that cannot be parted.

    Args:
        channels: Channels of a host.
        n_heads: Equal parts.

    Raises:
        ValueError: They are not a multiple.
    """
    if channels % n_heads:
        raise ValueError(
            f"paired_heads and paired_products with {n_heads} electron points need host.channels that are a "
            f"multiple of that, got {channels}"
        )


class EdgeGeometry(NamedTuple):
    """Geometry of the point pairs of one layer.

    Attributes:
        center: Receiving point of each edge, int64, shape (n_edges,).
        neighbor: Sending point of each edge, int64, shape (n_edges,).
        envelope: Smooth cutoff factor of the nuclear distance, shape (n_edges,). Every message is
            multiplied by it.
        distance: Distances in Angstrom, shape (n_edges, n_distances); valid beyond the cutoff.
        direction: Vectors of length <= 1 from center to neighbor, shape (n_edges, n_directions, 3).
        still: Whether all displacements are zero, so that all distances after the first are equal;
            a host may make use of it.
        shift: With `PointSpec.products`, by how much distances after the first are longer than the softened
            one of the nuclei, in units of the coupling, shape (n_edges, n_distances - 1).
    """

    center: Tensor
    neighbor: Tensor
    envelope: Tensor
    distance: Tensor
    direction: Tensor
    still: bool = False
    shift: Tensor | None = None


class PointSpec(NamedTuple):
    """What a host has to be built for.

    Attributes:
        n_types: Number of point types.
        n_distances: Distances of each edge.
        n_directions: Directions of each edge.
        cutoff: Cutoff of the nuclear distance in Angstrom.
        n_neighbors: Mean number of edges of a point, for normalisation.
        n_heads: Equal parts of the channels. With K of them, edges have the distances of `PairedHeads`, nn,
            ne of each head, en of each and ee of each, and directions nn and ee of each; part k of the
            channels uses nn and those of head k.
        still_layers: First layers, and the embedding before them, in which all points are at rest; see
            `of_layer`.
        relative: Whether what belongs to distances and directions after the first counts by its difference
            to that of the first, see `counted`.
        products: Whether edges have shifts, see `functions`.
    """

    n_types: int
    n_distances: int
    n_directions: int
    cutoff: float
    n_neighbors: float
    n_heads: int = 1
    still_layers: int = 0
    relative: bool = False
    products: bool = False

    def of_layer(self, index: int) -> "PointSpec":
        """What a layer has to be built for; the embedding as the first one.

        While points are at rest there are no products, and with ``relative`` one distance and one direction.
        """
        if index >= self.still_layers:
            return self
        resting = self._replace(products=False)
        return resting._replace(n_distances=1, n_directions=1) if self.relative else resting

    def counted(self, values: Tensor) -> Tensor:
        """What is to be used of a function of the distances, or of one of the directions.

        Args:
            values: Of each distance or direction, shape (n_edges, n, k).

        Returns:
            The same, or with ``relative`` the first and the differences of all others to it.
        """
        if not self.relative or values.shape[1] == 1:
            return values
        first = values[:, :1]
        return torch.cat([first, values[:, 1:] - first], dim=1)

    def functions(self, basis: nn.Module, geometry: EdgeGeometry) -> Tensor:
        """Radial functions of edges: those of each distance, `counted`, and products with shifts.

        Args:
            basis: Radial functions b, (...) to (..., n_basis).
            geometry: Geometry of the edges.

        Returns:
            Shape (n_edges, n_distances, n_basis); with ``products``, behind them those of the first distance
            times each shift.
        """
        found = self.counted(basis(geometry.distance))
        if not self.products:
            return found
        assert geometry.shift is not None
        return torch.cat([found, found[:, :1] * geometry.shift[:, :, None]], dim=1)

    @property
    def seen_distances(self) -> int:
        """Distances of an edge that a channel sees."""
        return 4 if self.n_heads > 1 else self.n_distances

    @property
    def seen_functions(self) -> int:
        """Sets of radial functions of an edge that a channel sees: of distances, and products."""
        return self.seen_distances + (self.seen_distances - 1 if self.products else 0)

    @property
    def seen_directions(self) -> int:
        """Directions of an edge that a channel sees."""
        return 2 if self.n_heads > 1 else self.n_directions


class HostLayer(nn.Module):
    """One message-passing layer.

    Attributes:
        n_scalars: Number of invariant channels S of the state after the layer.
        n_vectors: Number of odd vector channels V, may be 0.
    """

    n_scalars: int
    n_vectors: int

    def forward(self, x: Tensor, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        """New state (n_points, C) from the state (n_points, C)."""
        raise NotImplementedError

    def scalars(self, x: Tensor) -> Tensor:
        """Invariant channels of the state, shape (n_points, S)."""
        raise NotImplementedError

    def vectors(self, x: Tensor) -> Tensor:
        """Vector channels of the state, shape (n_points, 3, V)."""
        raise NotImplementedError

    def add(self, x: Tensor, ds: Tensor, dv: Tensor) -> Tensor:
        """The state with ``ds`` (n_points, S) and ``dv`` (n_points, 3, V) added."""
        raise NotImplementedError


class ScalarVectorLayer(HostLayer):
    """A layer whose state is S scalars followed by V vectors, components before channels."""

    def scalars(self, x: Tensor) -> Tensor:
        return x[:, : self.n_scalars]

    def vectors(self, x: Tensor) -> Tensor:
        return x[:, self.n_scalars :].reshape(x.shape[0], 3, self.n_vectors)

    def add(self, x: Tensor, ds: Tensor, dv: Tensor) -> Tensor:
        return x + torch.cat([ds, dv.flatten(1)], dim=1)


class Host(nn.Module):
    """An equivariant network, made of ``(spec: PointSpec, config: HostConfig)``.

    Attributes:
        layers: Its `HostLayer` modules in order.
    """

    layers: nn.ModuleList

    def embed(self, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        """State (n_points, C) before the first layer."""
        raise NotImplementedError

    def energy(self, states: list[Tensor]) -> Tensor:
        """Energy of each point (n_points,) from the states after each layer."""
        raise NotImplementedError
