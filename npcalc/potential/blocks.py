"""Evaluation in blocks of atoms: memory that does not grow with the number of edges.

Rows of an atom after a layer depend on the rows at the ends of its own edges alone
(`PolarizedModel.step`). So each layer is evaluated for one block of centers after the other, on the
small graph of the block and its neighbors, and only the rows of all atoms between the layers are
kept. The gradient goes back in the same way: layer by layer from the last one, each block evaluated
again and differentiated with what has arrived for its rows (checkpointing, T. Chen et al.,
arXiv:1604.06174). The numbers are those of one piece, up to the order of sums.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..graph import AtomGraph
from ..model import PolarizedModel
from ..nn.scatter import sum_edges
from .derivatives import AtomicOutput, PotentialModule, assemble, edge_vectors, moments

EDGES_PER_BLOCK = 2048
"""Edges of a block: few enough for the caches, enough to make the calls of operators worth it."""


class Block(NamedTuple):
    """A few centers with all their edges, as a graph of its own.

    Attributes:
        atoms: Atoms of the small graph, the centers first, shape (n_sub,).
        n_centers: How many of them are centers.
        edges: Which edges of the whole graph are in it.
        center: Center of each edge in the small graph, shape (n_block_edges,).
        neighbor: Neighbor of each edge in the small graph, shape (n_block_edges,).
    """

    atoms: Tensor
    n_centers: int
    edges: Tensor
    center: Tensor
    neighbor: Tensor

    def rows(self, n_kinds: int, n_atoms: int, centers: bool = False) -> Tensor:
        """Rows of its atoms, or of its centers alone, in a state that has ``n_kinds`` points of each atom."""
        atoms = self.atoms[: self.n_centers] if centers else self.atoms
        kinds = torch.arange(n_kinds, device=atoms.device)[:, None] * n_atoms
        return (kinds + atoms).flatten()


def make_blocks(graph: AtomGraph, edges_per_block: int) -> Iterator[Block]:
    """Divides the atoms of a graph into blocks.

    Args:
        graph: Any structures.
        edges_per_block: Edges of a block; the edges of one atom stay together.

    Yields:
        The blocks; each atom is a center of one of them.
    """
    center, neighbor = graph.edge_index[0], graph.edge_index[1]
    order = torch.argsort(center, stable=True)
    counts = torch.bincount(center, minlength=graph.n_atoms)
    ends = counts.cumsum(0)
    local = torch.full_like(graph.species, -1)
    first_atom, first_edge = 0, 0
    while first_atom < graph.n_atoms:
        # The last atom whose edges still fit, but at least one.
        limit = torch.tensor(first_edge + edges_per_block, device=ends.device)
        last_atom = max(int(torch.searchsorted(ends, limit, right=True)), first_atom + 1)
        last_edge = int(ends[last_atom - 1])
        edges = order[first_edge:last_edge]
        centers = torch.arange(first_atom, last_atom, device=center.device)
        ends_of_edges = torch.unique(neighbor[edges])
        others = ends_of_edges[(ends_of_edges < first_atom) | (ends_of_edges >= last_atom)]
        atoms = torch.cat([centers, others])
        local[atoms] = torch.arange(len(atoms), device=atoms.device)
        yield Block(
            atoms, last_atom - first_atom, edges, local[center[edges]], local[neighbor[edges]]
        )
        first_atom, first_edge = last_atom, last_edge


def evaluate_in_blocks(
    module: PotentialModule, graph: AtomGraph, edges_per_block: int = EDGES_PER_BLOCK
) -> dict[str, Tensor]:
    """The same as ``module(*graph)`` in memory that is bounded by atoms and size of a block.

    Args:
        module: Potential in evaluation mode.
        graph: Structures on its device.
        edges_per_block: Edges evaluated at once.

    Returns:
        As `PotentialModule.forward`.
    """
    return _Evaluation(module, graph, edges_per_block).run()


class _Evaluation:
    """One evaluation: rows of all atoms after each layer, forward and back."""

    def __init__(self, module: PotentialModule, graph: AtomGraph, edges_per_block: int) -> None:
        self.module = module
        self.graph = graph
        self.model: PolarizedModel = module.edge_potential.model
        self.scale = module.edge_potential.scale
        self.n_kinds = self.model.coupling.n_kinds
        self.n_layers = len(self.model.updates)
        vectors = edge_vectors(
            graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch
        )
        self.exact_vectors = vectors
        self.vectors = vectors.to(self.model.isolated_energy.dtype)
        self.blocks = list(make_blocks(graph, edges_per_block))
        self.states: list[Tensor] = []
        self.displacements: list[Tensor] = []
        self.gradient = torch.zeros_like(self.vectors)
        self.energies = self.vectors.new_zeros(graph.n_atoms)

    def run(self) -> dict[str, Tensor]:
        with torch.no_grad():
            for index in range(-1, self.n_layers):
                self._forward(index)
            n = self.graph.n_atoms
            dipoles = self.vectors.new_zeros(n, 3)
            charges = self.vectors.new_zeros(n)
            weights = self.vectors.new_zeros(n, self.model.n_points)
            parts = []
            for block in self.blocks:
                atoms, edges = block.atoms[: block.n_centers], self.vectors[block.edges]
                out = self.model.read(
                    [s[block.rows(self.n_kinds, n)] for s in self.states[1:]],
                    self.displacements[-1][block.atoms],
                    self.model.coupling.bare(edges, block.center, block.neighbor),
                    edges,
                    self.graph.species[block.atoms],
                )
                k = block.n_centers
                found = moments(out, edges, block.center)
                dipoles[atoms], charges[atoms] = found[0][:k], found[1][:k]
                weights[atoms] = out.weight[:k]
                parts.append(out.properties[:k])
        adjoints = self._differentiate_energy()
        moved_points = torch.zeros_like(self.displacements[-1])
        for index in range(self.n_layers - 1, -2, -1):
            moved_points = self._backward(index, adjoints, moved_points)
        center, neighbor = self.graph.edge_index[0], self.graph.edge_index[1]
        forces = sum_edges(self.gradient, center, n) - sum_edges(self.gradient, neighbor, n)
        total = AtomicOutput(
            self.energies, forces, self.gradient, dipoles, charges,
            self.displacements[-1], weights, torch.cat(parts),
        )  # fmt: skip
        return assemble(self.module, total, self.graph, self.exact_vectors)

    def _layer(
        self, index: int, block: Block, x: Tensor, d: Tensor, edges: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rows of the centers of a block after a layer, -1 for what comes before the first."""
        species = self.graph.species[block.atoms]
        where = (self.model.coupling.bare(edges, block.center, block.neighbor), edges, species)
        x, d = self.model.start(*where) if index < 0 else self.model.step(index, x, d, *where)
        n = len(block.atoms)
        x = x.reshape(self.n_kinds, n, -1)[:, : block.n_centers].flatten(0, 1)
        return x, d[: block.n_centers]

    def _forward(self, index: int) -> None:
        n = self.graph.n_atoms
        x = d = None
        for block in self.blocks:
            rows = block.rows(self.n_kinds, n)
            before = (
                (self.states[-1][rows], self.displacements[-1][block.atoms])
                if index >= 0
                else (self.vectors, self.vectors)  # not read
            )
            new_x, new_d = self._layer(index, block, *before, self.vectors[block.edges])
            if x is None or d is None:
                x = new_x.new_zeros(self.n_kinds * n, new_x.shape[1])
                d = new_d.new_zeros(n, *new_d.shape[1:])
            x[block.rows(self.n_kinds, n, centers=True)] = new_x
            d[block.atoms[: block.n_centers]] = new_d
        assert x is not None
        assert d is not None
        self.states.append(x)
        self.displacements.append(d)

    def _differentiate_energy(self) -> list[Tensor]:
        """Energies of the atoms, and the derivative of their sum by the rows after each layer."""
        n = self.graph.n_atoms
        adjoints = [torch.zeros_like(s) for s in self.states]
        for block in self.blocks:
            rows = block.rows(self.n_kinds, n, centers=True)
            with torch.enable_grad():
                states = [s[rows].requires_grad_() for s in self.states[1:]]
                raw = self.model.host.energy(states).reshape(self.n_kinds, -1).sum(0)
                found = torch.autograd.grad(
                    raw.sum() * self.scale, states, allow_unused=True, materialize_grads=True
                )
            atoms = block.atoms[: block.n_centers]
            isolated = self.model.isolated_energy[self.graph.species[atoms]]
            self.energies[atoms] = (raw.detach() - isolated) * self.scale
            for adjoint, part in zip(adjoints[1:], found, strict=True):
                adjoint[rows] = part
        return adjoints

    def _backward(self, index: int, adjoints: list[Tensor], adjoint_d: Tensor) -> Tensor:
        """Takes derivatives by the rows after a layer to the edges and to the rows before it.

        Args:
            index: The layer, -1 for what comes before the first.
            adjoints: Derivatives by the state before the first layer and after each; those before
                this layer are added to.
            adjoint_d: Derivative by the displacements after the layer.

        Returns:
            Derivative by the displacements before the layer.
        """
        n = self.graph.n_atoms
        before = torch.zeros_like(adjoint_d)
        for block in self.blocks:
            rows = block.rows(self.n_kinds, n)
            given = [
                adjoints[index + 1][block.rows(self.n_kinds, n, centers=True)],
                adjoint_d[block.atoms[: block.n_centers]],
            ]
            with torch.enable_grad():
                edges = self.vectors[block.edges].requires_grad_()
                inputs = [edges]
                if index >= 0:
                    inputs += [
                        self.states[index][rows].requires_grad_(),
                        self.displacements[index][block.atoms].requires_grad_(),
                    ]
                results = self._layer(index, block, inputs[-2:][0], inputs[-1], edges)
                pairs = [(r, g) for r, g in zip(results, given, strict=True) if r.requires_grad]
                if not pairs:
                    continue
                found = torch.autograd.grad(
                    [r for r, _ in pairs], inputs, [g for _, g in pairs],
                    allow_unused=True, materialize_grads=True,
                )  # fmt: skip
            self.gradient[block.edges] += found[0]
            if index >= 0:
                adjoints[index].index_add_(0, rows, found[1])
                before.index_add_(0, block.atoms, found[2])
        return before
