"""Points of an atom and the geometry of their pairs: the couplings of neural polarization.

The idea is that of B. Kwak and J. Jo, arXiv:2406.00441 and J. Chem. Theory Comput. 21, 8468 (2025):
an atom is a fixed nucleus point and electron points that the network moves by d. For an edge i, j

    R^nn = r_ij      R^ne = r_ij + d_j      R^en = r_ij - d_i      R^ee = r_ij + d_j - d_i

A coupling decides what a host sees of these. `PairedGeometry` gives it one point per atom whose
edges carry all the distances; `PairedHeads` does so too, with a part of the channels for each
electron point, whose messages use that point alone, and `PairedProducts` with more for filters to
see; `PairedNodes` gives it every point as a node of its own.

Two displaced points may coincide, so lengths of displaced pairs are softened:
D = sqrt(|R|^2 + eps^2) with direction R / D; lengths between nuclei are exact.
"""

import torch
from torch import Tensor, nn

from .hosts.base import EdgeGeometry


class Coupling(nn.Module):
    """What a host sees of the points.

    Attributes:
        n_points: Electron points of an atom, 0 without polarization.
        n_distances: Distances of a host edge.
        n_directions: Directions of a host edge.
        n_kinds: Host points of an atom.
        edges_per_pair: Host edges of a pair of atoms.
        n_heads: Parts of the host's channels that use different electron points.
        relative: Whether hosts see differences to the nuclei, and nothing else where all points rest.
        products: Whether edges have shifts, see `EdgeGeometry.shift`.
        shift_unit: What they are divided by, in Angstrom.
    """

    n_points: int
    n_distances: int = 1
    n_directions: int = 1
    n_kinds: int = 1
    edges_per_pair: int = 1
    n_heads: int = 1
    relative: bool = False
    products: bool = False
    shift_unit: float = 1.0

    def __init__(self, n_points: int, softening: float, envelope: nn.Module) -> None:
        super().__init__()
        self.n_points = n_points
        self.softening2 = softening**2
        self.envelope = envelope

    def point_types(self, species: Tensor, n_species: int) -> Tensor:
        """Types (n_host_points,) from the species (n_atoms,)."""
        return species

    def geometry(
        self, bare: EdgeGeometry, edges: Tensor, d: Tensor, still: bool = False
    ) -> EdgeGeometry:
        """Geometry of the host's edges.

        Args:
            bare: That of the nuclei, see `bare`; one serves all layers.
            edges: Vectors r_ij in Angstrom, shape (n_edges, 3).
            d: Displacements in Angstrom, shape (n_atoms, n_points, 3).
            still: Whether they are known to be zero.

        Returns:
            The geometry that the host's next layer uses.
        """
        raise NotImplementedError

    def bare(self, edges: Tensor, center: Tensor, neighbor: Tensor) -> EdgeGeometry:
        """Geometry of the nuclei alone: exact distances and unit vectors."""
        r = torch.sqrt((edges * edges).sum(-1))
        unit = edges / r[:, None]
        return EdgeGeometry(center, neighbor, self.envelope(r), r[:, None], unit[:, None])

    def nuclear(self, x: Tensor, n_atoms: int) -> Tensor:
        """Rows of the nucleus points, shape (n_atoms, ...), of a host's (n_host_points, ...)."""
        return x

    def electronic(self, x: Tensor, n_atoms: int) -> Tensor:
        """Rows that the electron points are moved by: one per atom, or one per electron point."""
        return x

    def split_points(self, x: Tensor, n_atoms: int) -> Tensor:
        """Sorts what belongs to the electron points, (rows, a, k), to (n_atoms, n_points, a)."""
        return x.transpose(1, 2)


class SinglePoint(Coupling):
    """The host as published: one point per atom.

    Args:
        envelope: Smooth cutoff.
    """

    def __init__(self, envelope: nn.Module) -> None:
        super().__init__(0, 0.0, envelope)

    def geometry(
        self, bare: EdgeGeometry, edges: Tensor, d: Tensor, still: bool = False
    ) -> EdgeGeometry:
        return bare


class PairedGeometry(Coupling):
    """One host point per atom; edges carry R^nn and each electron point's R^ne, R^en and R^ee.

    Directions are those of R^nn and of the mean R^ee.

    Args:
        n_points: Electron points of an atom.
        softening: Softening length eps in Angstrom.
        envelope: Smooth cutoff.
    """

    def __init__(self, n_points: int, softening: float, envelope: nn.Module) -> None:
        super().__init__(n_points, softening, envelope)
        self.n_distances = 1 + 3 * n_points
        self.n_directions = 2

    def geometry(
        self, bare: EdgeGeometry, edges: Tensor, d: Tensor, still: bool = False
    ) -> EdgeGeometry:
        center, neighbor = bare.center, bare.neighbor
        if still and self.relative:
            return bare
        shift = None
        if still:
            length = torch.sqrt((edges * edges).sum(-1, keepdim=True) + self.softening2)
            distance = length.expand(-1, 3 * self.n_points)
            direction = (edges / length)[:, None].expand(-1, self.n_directions - 1, -1)
        else:
            d_i = d[center]
            d_j = d[neighbor]
            vectors = torch.cat(
                [edges[:, None] + d_j, edges[:, None] - d_i, edges[:, None] + d_j - d_i], 1
            )
            distance = torch.sqrt((vectors * vectors).sum(-1) + self.softening2)  # (E, 3 n_points)
            if self.products:
                between = torch.sqrt(bare.distance * bare.distance + self.softening2)
                shift = (distance - between) / self.shift_unit
            k = 2 * self.n_points
            direction = self.electronic_directions(vectors[:, k:], distance[:, k:])
        return EdgeGeometry(
            center,
            neighbor,
            bare.envelope,
            torch.cat([bare.distance, distance], 1),
            torch.cat([bare.direction, direction], 1),
            still,
            shift,
        )

    def electronic_directions(self, vectors: Tensor, distance: Tensor) -> Tensor:
        """Directions (n_edges, n_directions - 1, 3) between electron points.

        Args:
            vectors: R^ee of each electron point in Angstrom, shape (n_edges, n_points, 3).
            distance: Their softened lengths, shape (n_edges, n_points).
        """
        mean = vectors.mean(1)
        length = torch.sqrt((mean * mean).sum(-1) + self.softening2)
        return (mean / length[:, None])[:, None]


class PairedShifts(PairedGeometry):
    """As `PairedGeometry`, but hosts see by how much displaced pairs differ from the nuclei.

    Nearly equal radial functions side by side are a poor input to train from. Differences are zero, but
    for the softening, until points move; layers before the first movement are those of the host as
    published.

    Args:
        n_points: Electron points of an atom.
        softening: Softening length eps in Angstrom.
        envelope: Smooth cutoff.
    """

    relative = True


class PairedHeads(PairedGeometry):
    """As `PairedGeometry`, but each electron point is that of one part of the host's channels.

    As the heads of an attention, the parts look at the neighbors each in its own way: filters of
    part k use R^nn and the R^ne, R^en and R^ee of electron point k, and its messages the directions
    of R^nn and of that R^ee. So the filters cost what those of a single electron point do.

    Args:
        n_points: Electron points of an atom.
        softening: Softening length eps in Angstrom.
        envelope: Smooth cutoff.
    """

    def __init__(self, n_points: int, softening: float, envelope: nn.Module) -> None:
        super().__init__(n_points, softening, envelope)
        self.n_heads = n_points
        self.n_directions = 1 + n_points

    def electronic_directions(self, vectors: Tensor, distance: Tensor) -> Tensor:
        return vectors / distance[..., None]


class PairedProducts(PairedHeads):
    """As `PairedHeads`, and filters also see products of radial functions of the nuclei and shifts.

    With b the radial functions of |R^nn| and D^nn its softened length these are b (D^ne - D^nn),
    b (D^en - D^nn) and b (D^ee - D^nn), the shifts divided by a unit. A linear filter of single
    distances is a sum f(|R^nn|) + g(D^ne) + ..., in which what a small displacement does at a distance
    of the nuclei is the slope of g there, and what a larger one does follows from it; products give
    the slope a function of its own. While points rest products are zero.

    Args:
        n_points: Electron points of an atom.
        softening: Softening length eps in Angstrom.
        envelope: Smooth cutoff.
        unit: Unit of shifts in Angstrom.
    """

    products = True

    def __init__(self, n_points: int, softening: float, envelope: nn.Module, unit: float) -> None:
        super().__init__(n_points, softening, envelope)
        self.shift_unit = unit


class PairedNodes(Coupling):
    """Every point is a host node: nuclei first, then each electron point of all atoms.

    Args:
        n_points: Electron points of an atom.
        softening: Softening length eps in Angstrom.
        envelope: Smooth cutoff.
        all_pairs: Edges between points of all kinds, or only of the same kind.
    """

    def __init__(
        self, n_points: int, softening: float, envelope: nn.Module, all_pairs: bool
    ) -> None:
        super().__init__(n_points, softening, envelope)
        self.n_kinds = 1 + n_points
        kinds = range(self.n_kinds)
        pairs = [(a, b) for a in kinds for b in kinds if all_pairs or a == b]
        self.pairs: list[tuple[int, int]] = pairs
        self.edges_per_pair = len(pairs)

    def point_types(self, species: Tensor, n_species: int) -> Tensor:
        return torch.cat([species + k * n_species for k in range(self.n_kinds)])

    def geometry(
        self, bare: EdgeGeometry, edges: Tensor, d: Tensor, still: bool = False
    ) -> EdgeGeometry:
        n_atoms = d.shape[0]
        center, neighbor = bare.center, bare.neighbor
        centers = [center]
        neighbors = [neighbor]
        envelopes = [bare.envelope]
        distances = [bare.distance]
        directions = [bare.direction]
        # Once for all pairs: of several gathers TorchInductor (2.13) fuses the gradients to wrong code.
        d_i = d[center].unbind(1)
        d_j = d[neighbor].unbind(1)
        for a, b in self.pairs:
            if a == 0 and b == 0:
                continue
            vector = edges
            if b > 0:
                vector = vector + d_j[b - 1]
            if a > 0:
                vector = vector - d_i[a - 1]
            length = torch.sqrt((vector * vector).sum(-1) + self.softening2)[:, None]
            centers.append(center + a * n_atoms)
            neighbors.append(neighbor + b * n_atoms)
            envelopes.append(bare.envelope)
            distances.append(length)
            directions.append((vector / length)[:, None])
        return EdgeGeometry(
            torch.cat(centers),
            torch.cat(neighbors),
            torch.cat(envelopes),
            torch.cat(distances),
            torch.cat(directions),
        )

    def nuclear(self, x: Tensor, n_atoms: int) -> Tensor:
        return x[:n_atoms]

    def electronic(self, x: Tensor, n_atoms: int) -> Tensor:
        return x[n_atoms:]

    def split_points(self, x: Tensor, n_atoms: int) -> Tensor:
        return x.reshape(self.n_points, n_atoms, -1).transpose(0, 1)
