"""Movement of the electron points and exchange between the points of an atom.

Only powers of d and |d|^2 occur, never d / |d|: d = 0 is a regular point.
"""

import torch
from torch import Tensor, nn

from .hosts.base import HostLayer
from .points import Coupling


def limit(d: Tensor, d_max: float) -> Tensor:
    """Smooth, equivariant bound: ``d / sqrt(1 + |d|^2 / d_max^2)``, shorter than d_max.

    Args:
        d: Vectors in Angstrom, shape (..., 3).
        d_max: Bound in Angstrom.

    Returns:
        Vectors of the same directions, shape (..., 3).
    """
    return d / torch.sqrt(1.0 + (d * d).sum(-1, keepdim=True) / d_max**2)


class Displacement(nn.Module):
    """``d <- limit(d + g(scalars) V(vectors))`` with V linear and a gate g.

    Args:
        layer: Host layer whose channels are read.
        coupling: Coupling of the points.
        d_max: Bound of |d| in Angstrom.
    """

    def __init__(self, layer: HostLayer, coupling: Coupling, d_max: float) -> None:
        super().__init__()
        self.coupling = coupling
        self.d_max = d_max
        n_out = coupling.n_points // max(coupling.n_kinds - 1, 1)
        s = layer.n_scalars
        self.gate = nn.Sequential(nn.Linear(s, s), nn.SiLU(), nn.Linear(s, n_out))
        self.direction = nn.Linear(layer.n_vectors, n_out, bias=False)

    def forward(self, scalars: Tensor, vectors: Tensor, d: Tensor) -> Tensor:
        """New displacements (n_atoms, n_points, 3).

        Args:
            scalars: Invariants of the host's points, shape (n_host_points, S).
            vectors: Vectors of the host's points, shape (n_host_points, 3, V).
            d: Displacements in Angstrom, shape (n_atoms, n_points, 3).
        """
        n = d.shape[0]
        g = self.gate(self.coupling.electronic(scalars, n))[:, None]  # (rows, 1, k)
        move = g * self.direction(self.coupling.electronic(vectors, n))  # (rows, 3, k)
        return limit(d + self.coupling.split_points(move, n), self.d_max)


class Rest(nn.Module):
    """Leaves the displacements as they are: static points, or a layer without vectors."""

    def forward(self, scalars: Tensor, vectors: Tensor, d: Tensor) -> Tensor:
        """Returns ``d``."""
        return d


class NoExchange(nn.Module):
    """Changes nothing: single points, or a layer without vectors."""

    def forward(self, scalars: Tensor, vectors: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Returns zeros of both shapes."""
        return torch.zeros_like(scalars), torch.zeros_like(vectors)


class PairExchange(nn.Module):
    """The points of one atom update each other (paired nodes).

    With electron point e of nucleus n the invariants are h = [s_n, s_e, |d|^2, d . v_n, d . v_e] for
    a few mixed vectors v; then s += MLP(h), v_e += a(h) v_n + b(h) d, and v_n likewise, averaged
    over the electron points.

    Args:
        layer: Host layer whose state is updated.
        coupling: Coupling of the points.
    """

    def __init__(self, layer: HostLayer, coupling: Coupling) -> None:
        super().__init__()
        s, v = layer.n_scalars, layer.n_vectors
        self.s, self.v = s, v
        self.n_points = coupling.n_points
        n_in = 2 * s + 1 + 2 * v
        self.mlp = nn.Sequential(nn.Linear(n_in, s), nn.SiLU(), nn.Linear(s, 2 * s + 4 * v))
        self.mix = nn.Linear(v, 2 * v, bias=False)

    def forward(self, scalars: Tensor, vectors: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Changes of the host's points.

        Args:
            scalars: Shape (n_host_points, S).
            vectors: Shape (n_host_points, 3, V).
            d: Displacements in Angstrom, shape (n_atoms, n_points, 3).

        Returns:
            Changes of both, of the same shapes.
        """
        n, k, s, v = d.shape[0], self.n_points, self.s, self.v
        d = d.transpose(0, 1)[..., None]  # (k, N, 3, 1)
        s_all = scalars.reshape(1 + k, n, s)
        v_all = self.mix(vectors).reshape(1 + k, n, 3, 2 * v)
        v_n = v_all[:1].expand(k, n, 3, 2 * v)
        v_e = v_all[1:]
        h = torch.cat(
            [
                s_all[:1].expand(k, n, s),
                s_all[1:],
                (d * d).sum(2),
                (d * v_n[..., :v]).sum(2),
                (d * v_e[..., :v]).sum(2),
            ],
            dim=-1,
        )
        out = self.mlp(h)
        a = out[:, :, None, 2 * s :]
        dv_n = a[..., :v] * v_e[..., v:] + a[..., v : 2 * v] * d
        dv_e = a[..., 2 * v : 3 * v] * v_n[..., v:] + a[..., 3 * v :] * d
        ds = torch.cat([out[..., :s].mean(0, keepdim=True), out[..., s : 2 * s]])
        dv = torch.cat([dv_n.mean(0, keepdim=True), dv_e])
        return ds.reshape(-1, s), dv.reshape(-1, 3, v)
