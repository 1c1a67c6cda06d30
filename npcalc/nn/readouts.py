"""Charge increments and electron weights, from which the dipole is made, and molecular properties."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .hosts.base import HostLayer
from .points import Coupling
from .radial import BesselBasis


class LearnedWeight(nn.Module):
    """Electron weight ``w = softplus(MLP(scalars)) > 0`` in e.

    Args:
        layer: Last layer of the host.
        coupling: Coupling of the points.
    """

    def __init__(self, layer: HostLayer, coupling: Coupling) -> None:
        super().__init__()
        self.coupling = coupling
        n_out = coupling.n_points // max(coupling.n_kinds - 1, 1)
        s = layer.n_scalars
        self.mlp = nn.Sequential(nn.Linear(s, s // 2), nn.SiLU(), nn.Linear(s // 2, n_out))

    def forward(self, scalars: Tensor, species: Tensor) -> Tensor:
        """Weights (n_atoms, n_points) from the invariants (n_host_points, S)."""
        n = species.shape[0]
        w = F.softplus(self.mlp(self.coupling.electronic(scalars, n)))[:, None]
        return self.coupling.split_points(w, n).squeeze(-1)


class FormalWeight(nn.Module):
    """Electron weight fixed per species, shared evenly by the electron points.

    Args:
        weights: Weight of each species in e.
        n_points: Electron points of an atom.
    """

    def __init__(self, weights: list[float], n_points: int) -> None:
        super().__init__()
        self.n_points = n_points
        each = torch.tensor(weights, dtype=torch.float64) / max(n_points, 1)
        self.weights: Tensor
        self.register_buffer("weights", each, persistent=False)

    def forward(self, scalars: Tensor, species: Tensor) -> Tensor:
        """Weights (n_atoms, n_points)."""
        return self.weights[species][:, None].expand(-1, self.n_points)


class ChargeIncrements(nn.Module):
    """Charge a_ij = -a_ji that atom i gives to its neighbor j, in e.

    a_ij = u(r_ij) sum_c f_c(r_ij) [l_c(i) g_c(j) - g_c(i) l_c(j)], antisymmetric by construction;
    l and g are linear in the invariants of the atoms and u is the envelope.

    Args:
        layer: Last layer of the host.
        cutoff: Cutoff in Angstrom.
        n_basis: Radial functions.
    """

    def __init__(self, layer: HostLayer, cutoff: float, n_basis: int = 8) -> None:
        super().__init__()
        s = layer.n_scalars
        self.s = s
        self.give = nn.Sequential(nn.Linear(s, s), nn.SiLU(), nn.Linear(s, 2 * s))
        self.basis = BesselBasis(n_basis, cutoff)
        self.radial = nn.Linear(n_basis, s)

    def forward(
        self, scalars: Tensor, center: Tensor, neighbor: Tensor, r: Tensor, envelope: Tensor
    ) -> Tensor:
        """Increments (n_edges,).

        Args:
            scalars: Invariants of the atoms, shape (n_atoms, S).
            center: Center atoms, shape (n_edges,).
            neighbor: Neighbor atoms, shape (n_edges,).
            r: Nuclear distances in Angstrom, shape (n_edges,).
            envelope: Smooth cutoff factors, shape (n_edges,).
        """
        both = self.give(scalars)
        i = both[center]
        j = both[neighbor]
        s = self.s
        swap = i[:, :s] * j[:, s:] - i[:, s:] * j[:, :s]
        return envelope * (self.radial(self.basis(r)) * swap).sum(-1) / s


class AtomicProperties(nn.Module):
    """Contribution of each atom to each molecular property, the sum over its points.

    Args:
        layer: Last layer of the host.
        n_properties: Number of properties.
    """

    def __init__(self, layer: HostLayer, n_properties: int) -> None:
        super().__init__()
        s = layer.n_scalars
        self.n_properties = n_properties
        self.mlp = nn.Sequential(nn.Linear(s, s), nn.SiLU(), nn.Linear(s, n_properties))

    def forward(self, scalars: Tensor, n_atoms: int) -> Tensor:
        """Contributions (n_atoms, n_properties) from the invariants (n_host_points, S)."""
        return self.mlp(scalars).reshape(-1, n_atoms, self.n_properties).sum(0)


class NoProperties(nn.Module):
    """No molecular property."""

    def forward(self, scalars: Tensor, n_atoms: int) -> Tensor:
        """An empty tensor (n_atoms, 0)."""
        return scalars[:n_atoms, :0]


class NoIncrements(nn.Module):
    """No charge is moved between atoms."""

    def forward(
        self, scalars: Tensor, center: Tensor, neighbor: Tensor, r: Tensor, envelope: Tensor
    ) -> Tensor:
        """Zeros (n_edges,)."""
        return torch.zeros_like(envelope)
