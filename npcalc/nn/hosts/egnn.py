"""EGNN: messages of invariants alone (V. G. Satorras, E. Hoogeboom, M. Welling, ICML 2021).

The form is that of the paper's QM9 experiments (appendix C.3): messages of squared distances, edge
inference, residual node updates, positions that stay. Each message is multiplied by the envelope,
which makes the paper's fully connected network local.

Neural polarization needs a direction, and the form for QM9 has none. The vectors are those of the
paper's equation (4), ``sum_j (x_i - x_j) phi_x(m_ij)``, with directions in place of differences and
several channels; nothing but polarization reads them.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..scatter import sum_edges
from .base import EdgeGeometry, Host, HostConfig, PointSpec, ScalarVectorLayer


class EGNNConfig(HostConfig):
    """Configuration of the `EGNN` host."""

    learning_rate: ClassVar[float] = 3e-3
    knows_relative: ClassVar[bool] = True

    name: Literal["egnn"] = "egnn"
    channels: int = Field(128, ge=1)
    n_layers: int = Field(7, ge=1)
    n_vectors: int = Field(8, ge=1)


class EGNNLayer(ScalarVectorLayer):
    """Messages, edge inference and node update (equations 3 to 8).

    Args:
        spec: What the layer is built for.
        config: Configuration of the host.
    """

    def __init__(self, spec: PointSpec, config: EGNNConfig) -> None:
        super().__init__()
        c, v = config.channels, config.n_vectors
        self.n_scalars = c
        self.n_vectors = v
        self.n_directions = spec.n_directions
        self.spec = spec
        # One linear map of (h_i, h_j, distances) in three parts: two of them are by point, not by edge.
        self.center = nn.Linear(c, c)
        self.neighbor = nn.Linear(c, c, bias=False)
        self.distance = nn.Linear(spec.n_distances, c, bias=False)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(c, c), nn.SiLU())
        self.inference = nn.Sequential(nn.Linear(c, 1), nn.Sigmoid())
        self.update = nn.Sequential(nn.Linear(2 * c, c), nn.SiLU(), nn.Linear(c, c))
        self.vector = nn.Sequential(
            nn.Linear(c, c), nn.SiLU(), nn.Linear(c, spec.n_directions * v, bias=False)
        )

    def forward(self, x: Tensor, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        n = x.shape[0]
        h = self.scalars(x)
        m = self.center(h)[geometry.center] + self.neighbor(h)[geometry.neighbor]
        squared = self.spec.counted((geometry.distance * geometry.distance)[..., None])
        direction = self.spec.counted(geometry.direction)
        m = self.message(m + self.distance(squared.flatten(1)))
        envelope = geometry.envelope[:, None]
        total = sum_edges(m * self.inference(m) * envelope, geometry.center, n)
        new = h + self.update(torch.cat([h, total], dim=1))
        factor = (self.vector(m) * envelope).reshape(-1, self.n_directions, 1, self.n_vectors)
        pull = (factor * direction[..., None]).sum(1)
        vectors = self.vectors(x) + sum_edges(pull, geometry.center, n)
        return torch.cat([new, vectors.flatten(1)], dim=1)


class EGNN(Host):
    """The EGNN network.

    Args:
        spec: What the host is built for.
        config: Its configuration.
    """

    def __init__(self, spec: PointSpec, config: EGNNConfig) -> None:
        super().__init__()
        c = config.channels
        self.channels = c
        self.n_vectors = config.n_vectors
        self.embedding = nn.Embedding(spec.n_types, c)
        self.layers = nn.ModuleList(
            [EGNNLayer(spec.of_layer(k), config) for k in range(config.n_layers)]
        )
        self.readout = nn.Sequential(nn.Linear(c, c), nn.SiLU(), nn.Linear(c, 1))

    def embed(self, point_type: Tensor, geometry: EdgeGeometry) -> Tensor:
        h = self.embedding(point_type)
        return torch.cat([h, h.new_zeros(h.shape[0], 3 * self.n_vectors)], dim=1)

    def energy(self, states: list[Tensor]) -> Tensor:
        return self.readout(states[-1][:, : self.channels]).squeeze(-1)
