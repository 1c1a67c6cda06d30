"""The one place that differentiates: forces, virial, dipole, Born charges and Hessian.

The energy is a function of edge vectors r_ij and species. One gradient with respect to the edge
vectors gives forces and virial:

    F_i = sum over edges with center i of dE/dr - sum over edges with neighbor i of dE/dr
    W   = sum over edges of r outer dE/dr,  stress = W / volume
"""

from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..graph import AtomGraph
from ..model import ModelOutput, PolarizedModel
from ..nn.scatter import sum_edges
from .molecular import MolecularProperties

ARGUMENTS = ("positions", "cell", "species", "edge_index", "shifts", "batch")
"""Names of the arguments of `PotentialModule.forward`, those of the fields of an `AtomGraph`."""

OUTPUTS = (
    "energies",
    "forces",
    "virial",
    "dipole",
    "atomic_dipoles",
    "charges",
    "displacements",
    "properties",
)
"""Names of what `PotentialModule` returns, in its order."""

PER_SYSTEM = ("virial", "dipole", "properties")
"""Those of them whose first axis runs over systems; that of the others runs over atoms."""


class AtomicOutput(NamedTuple):
    """Outputs per atom and edge in the dtype of the model, without reference energies.

    Attributes:
        energies: eV above the isolated atoms, shape (n_atoms,).
        forces: eV/A, shape (n_atoms, 3).
        edge_gradient: dE/dr_ij in eV/A, shape (n_edges, 3).
        dipoles: Dipole of each atom without the formal charges in e*A, shape (n_atoms, 3).
        charges: Charge of each atom above the formal one in e, shape (n_atoms,).
        displacements: Electron points minus nucleus in Angstrom, shape (n_atoms, n_points, 3).
        weights: Electron weight of each point in e, shape (n_atoms, n_points).
        properties: Contributions to the molecular properties in units of their scales, shape
            (n_atoms, n_properties).
    """

    energies: Tensor
    forces: Tensor
    edge_gradient: Tensor
    dipoles: Tensor
    charges: Tensor
    displacements: Tensor
    weights: Tensor
    properties: Tensor


class EdgePotential(nn.Module):
    """Energies and their gradient, dipoles and charges from edge vectors.

    Args:
        model: The network.
        scale: Energy in eV of one unit of the model's readout.
    """

    def __init__(self, model: PolarizedModel, scale: float) -> None:
        super().__init__()
        self.model = model
        self.scale = scale

    def forward(
        self,
        edges: Tensor,
        species: Tensor,
        center: Tensor,
        neighbor: Tensor,
        differentiate: bool = True,
    ) -> AtomicOutput:
        """Evaluates the potential; in training mode the outputs can be differentiated again.

        Args:
            edges: Vectors r_ij in Angstrom, shape (n_edges, 3).
            species: Index of each atom's element, shape (n_atoms,).
            center: Center atoms, shape (n_edges,).
            neighbor: Neighbor atoms, shape (n_edges,).
            differentiate: Whether forces are wanted; they are zero otherwise.

        Returns:
            Outputs per atom and edge.
        """
        if differentiate and not edges.requires_grad:
            edges = edges.detach().requires_grad_(True)
        n = species.shape[0]
        out = self.model(edges, species, center, neighbor)
        energies = out.energy * self.scale
        gradient = torch.zeros_like(edges)
        if differentiate:
            found = torch.autograd.grad(
                [energies.sum()],
                [edges],
                create_graph=self.training,
                retain_graph=True,
                allow_unused=True,
            )[0]
            if found is not None:
                gradient = found
        forces = sum_edges(gradient, center, n) - sum_edges(gradient, neighbor, n)
        dipoles, charges = moments(out, edges, center)
        return AtomicOutput(
            energies,
            forces,
            gradient,
            dipoles,
            charges,
            out.displacement,
            out.weight,
            out.properties,
        )


def moments(out: ModelOutput, edges: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Dipoles and charges of the atoms without the formal charges.

    Args:
        out: Outputs of the model.
        edges: Vectors r_ij in Angstrom, shape (n_edges, 3).
        center: Center atoms, shape (n_edges,).

    Returns:
        Dipoles in e*A, shape (n_atoms, 3), and charges in e, shape (n_atoms,).
    """
    n = out.energy.shape[0]
    dipoles = -(out.weight[:, :, None] * out.displacement).sum(1)
    dipoles = dipoles + 0.5 * sum_edges(out.increment[:, None] * edges, center, n)
    return dipoles, -sum_edges(out.increment, center, n)


def edge_vectors(
    positions: Tensor, cell: Tensor, edge_index: Tensor, shifts: Tensor, batch: Tensor
) -> Tensor:
    """Vectors r_j - r_i + shift @ cell in the dtype of the positions, shape (n_edges, 3).

    Args:
        positions: Shape (n_atoms, 3), Angstrom.
        cell: Shape (n_systems, 3, 3), Angstrom.
        edge_index: Center and neighbor, shape (2, n_edges).
        shifts: Lattice translations, shape (n_edges, 3).
        batch: System of each atom, shape (n_atoms,).
    """
    center, neighbor = edge_index[0], edge_index[1]
    translation = (shifts[:, :, None] * cell[batch[center]]).sum(1)
    return positions[neighbor] - positions[center] + translation


class PotentialModule(nn.Module):
    """The function that is exported: from positions to every first-order quantity.

    Positions are float64 and differences are taken before the cast to the model's dtype, so that
    a molecule far from the origin has the same forces; energies are summed in float64, because
    absolute energies of 10^4 eV do not survive float32.

    Args:
        model: The network.
        scale: Energy in eV of one unit of the model's readout.
        reference_energies: Energy of each isolated atom in eV, one per species.
        formal_charges: Charge of each species in e.
        properties: Readouts of the molecular properties.
    """

    def __init__(
        self,
        model: PolarizedModel,
        scale: float,
        reference_energies: list[float],
        formal_charges: list[float],
        properties: MolecularProperties,
    ) -> None:
        super().__init__()
        self.edge_potential = EdgePotential(model, scale)
        self.properties = properties
        self.reference: Tensor
        self.formal: Tensor
        self.register_buffer("reference", torch.tensor(reference_energies, dtype=torch.float64))
        self.register_buffer("formal", torch.tensor(formal_charges, dtype=torch.float64))

    def forward(
        self,
        positions: Tensor,
        cell: Tensor,
        species: Tensor,
        edge_index: Tensor,
        shifts: Tensor,
        batch: Tensor,
    ) -> dict[str, Tensor]:
        """Evaluates a batch of structures.

        Args:
            positions: Coordinates in Angstrom, float64, shape (n_atoms, 3).
            cell: Lattice vectors as rows in Angstrom, float64, shape (n_systems, 3, 3).
            species: Index of each atom's element in the card's list, int64, shape (n_atoms,).
            edge_index: Center and neighbor of each edge, int64, shape (2, n_edges).
            shifts: Lattice translations of the neighbor, float64, shape (n_edges, 3).
            batch: System of each atom, int64, shape (n_atoms,).

        Returns:
            ``energies`` (n_atoms,), ``forces`` (n_atoms, 3), ``virial`` (n_systems, 3, 3),
            ``dipole`` (n_systems, 3) about the coordinate origin, ``atomic_dipoles``
            (n_atoms, 3), ``charges`` (n_atoms,), ``displacements`` (n_atoms, n_points, 3), all
            float64 in the units of `npcalc.conventions`, and ``properties``
            (n_systems, n_properties), float64 in the units of the card.
        """
        center, neighbor = edge_index[0], edge_index[1]
        vectors = edge_vectors(positions, cell, edge_index, shifts, batch)
        dtype = self.edge_potential.model.isolated_energy.dtype
        out = self.edge_potential(vectors.to(dtype), species, center, neighbor)
        graph = AtomGraph(positions, cell, species, edge_index, shifts, batch)
        return assemble(self, out, graph, vectors)


def assemble(
    module: PotentialModule, out: AtomicOutput, graph: AtomGraph, vectors: Tensor
) -> dict[str, Tensor]:
    """What `PotentialModule.forward` returns, from outputs per atom and edge.

    Args:
        module: The potential.
        out: Outputs of its network.
        graph: The structures.
        vectors: Edge vectors in Angstrom, float64, shape (n_edges, 3).
    """
    positions, cell, species, edge_index, _, batch = graph
    virial = vectors[:, :, None] * out.edge_gradient.to(torch.float64)[:, None, :]
    formal = module.formal[species]
    atomic_dipoles = out.dipoles.to(torch.float64)
    n_systems = cell.shape[0]
    dipole = sum_edges(atomic_dipoles + formal[:, None] * positions, batch, n_systems)
    return {
        "energies": module.reference[species] + out.energies.to(torch.float64),
        "forces": out.forces.to(torch.float64),
        "virial": sum_edges(virial, batch[edge_index[0]], n_systems),
        "dipole": dipole,
        "atomic_dipoles": atomic_dipoles,
        "charges": formal + out.charges.to(torch.float64),
        "displacements": out.displacements.to(torch.float64),
        "properties": module.properties(out.properties, dipole, positions, species, batch),
    }


_FLAG = Lock()


def _differentiable(module: PotentialModule, graph: AtomGraph) -> tuple[Tensor, AtomicOutput]:
    """Edge vectors that require gradients and the outputs as functions of them."""
    dtype = module.edge_potential.model.isolated_energy.dtype
    edges = edge_vectors(graph.positions, graph.cell, graph.edge_index, graph.shifts, graph.batch)
    edges = edges.to(dtype).detach().requires_grad_(True)
    model = module.edge_potential.model
    center, neighbor = graph.edge_index[0], graph.edge_index[1]
    with _FLAG:  # of one thread at a time
        was_training = module.edge_potential.training
        # Only the wrapper's flag, which keeps the graph of the gradient; the model stays in evaluation.
        module.edge_potential.training = True
        try:
            out = module.edge_potential(edges, graph.species, center, neighbor)
        finally:
            module.edge_potential.training = was_training
    assert not model.training
    return edges, out


def _scatter_gradient(gradient: Tensor, graph: AtomGraph) -> Tensor:
    """Derivative by positions (n_atoms, 3) of a quantity whose derivative by edges is given."""
    center, neighbor = graph.edge_index[0], graph.edge_index[1]
    gradient = gradient.to(torch.float64)
    return sum_edges(gradient, neighbor, graph.n_atoms) - sum_edges(gradient, center, graph.n_atoms)


def born_effective_charges(module: PotentialModule, graph: AtomGraph) -> Tensor:
    """Atomic polar tensors ``Z[i, a, b] = d mu_a / d r_(i,b)`` of the dipole about the origin.

    Args:
        module: Potential in evaluation mode.
        graph: One or more structures.

    Returns:
        Tensors in e, shape (n_atoms, 3, 3). Their sum over a structure is its total charge times
        the unit matrix.
    """
    edges, out = _differentiable(module, graph)
    total = out.dipoles.sum(0)
    columns = []
    for a in range(3):
        (gradient,) = torch.autograd.grad(
            total[a], edges, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        columns.append(_scatter_gradient(gradient, graph))
    unit = torch.eye(3, dtype=torch.float64, device=edges.device)
    formal = module.formal[graph.species]
    return torch.stack(columns, dim=1).detach() + formal[:, None, None] * unit


def hessian(module: PotentialModule, graph: AtomGraph) -> Tensor:
    """Second derivatives of the energy of one structure.

    Args:
        module: Potential in evaluation mode.
        graph: One structure; its atoms move together with their periodic images.

    Returns:
        Matrix in eV/A^2, shape (3 n_atoms, 3 n_atoms), made symmetric.
    """
    edges, out = _differentiable(module, graph)
    rows = []
    for force in out.forces.reshape(-1):
        (gradient,) = torch.autograd.grad(
            force, edges, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(-_scatter_gradient(gradient, graph).reshape(-1))
    matrix = torch.stack(rows).detach()
    return 0.5 * (matrix + matrix.T)
