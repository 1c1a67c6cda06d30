"""Which structures that low-order networks confuse does each host tell apart, with and without NP?

    python benchmarks/expressiveness.py

Writes ``results/expressiveness.json`` and ``.md`` in about three minutes. Nothing is trained:
networks of random weights in float64 give an energy to both structures of a pair, and the
difference is divided by the spread of the energies of rattled copies. A median over seeds above
1e-8 counts as told apart, one above 1e-11 as faint. Below is rounding, measured with a rotated,
inverted and renumbered copy: the network cannot, or not to any effect. That a random network can
tell a pair apart does not say that training uses it, nor that real structures need it.

The pairs are those of S. N. Pozdnyakov et al., Phys. Rev. Lett. 125, 166001 (2020), and of
C. K. Joshi et al., ICML 2023 (arXiv:2301.09308) with its repository geometric-gnn-dojo, rescaled to
bonds of 1.5 A and more. All atoms have one species. Edges are given explicitly:

- Environments of equal distances, angles or triplets. ``star``: edges between the center and its
  neighbors in both directions, as in Joshi et al.; from two layers on neighbors read the center's
  features, which raises the body order. ``inward``: edges into the center alone, so that its own
  features decide (neighbors see a blind twin of it, see `with_twin`). NequIP makes products with
  neighbors' features only and is left with distances there.
- k-chains: bonds in both directions, as in Joshi et al.; floor(k / 2) + 1 layers should do.
- L-fold stars. The two orientations are congruent, and Joshi et al. classify the equivariant
  features of the center in a fixed frame. An energy cannot do that, so two truly different pairs
  stand in for it. ``through``: the center C of a planar star is seen by an atom R on the axis that
  is bonded to a marker atom M (arms -> C -> R <-> M). What R and M know of the orientation has
  passed C as a tensor, as in the original. ``marked``: the marker is one more neighbor of C
  (arms -> C <- M) and gives C itself a direction in the plane; this one is not in the paper.

Random weights move the points by very different amounts, so each displacement update is scaled
once, on a random cluster that is no part of the test, to moves of 0.3 A before the bound d_max.
TensorNet's embedding sees directions already, so it is one layer deeper than it counts.
"""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from npcalc.files import new_file
from npcalc.model import ModelConfig, PolarizedModel
from npcalc.nn.polarization import Displacement

RESULTS = Path(__file__).parent / "results" / "expressiveness"
SEEDS = 10
THRESHOLD, ROUNDING = 1e-8, 1e-11
MOVE = 0.3  # mean length of a displacement update in Angstrom
LAYERS = (1, 2, 3, 4, 5)
COPIES = 3  # rattled copies of each structure, by 0.1 A
SMALL = {"channels": 4, "radial_width": 8}
HOSTS = {
    "egnn": {"name": "egnn", "channels": 8, "n_vectors": 4},
    "painn": {"name": "painn", "channels": 8, "n_basis": 6, "epsilon": 1e-8},
    "et": {"name": "et", "channels": 8, "n_basis": 6, "n_heads": 2, "epsilon": 1e-8},
    "tensornet": {"name": "tensornet", "channels": 8, "n_basis": 6},
    "nequip": {"name": "nequip", "l_max": 2, **SMALL},
    "nequip, l = 3": {"name": "nequip", "l_max": 3, **SMALL},
    "mace": {"name": "mace", "l_max": 2, "radial_depth": 1, **SMALL, "channels": 2},
}
FORMS = {
    "none": {"polarization": "none"},
    "static geometry": {"polarization": "static", "coupling": "paired_geometry"},
    "moving geometry": {"polarization": "moving", "coupling": "paired_geometry"},
    "static nodes": {"polarization": "static", "coupling": "paired_nodes"},
    "moving nodes": {"polarization": "moving", "coupling": "paired_nodes"},
}


class Pair(NamedTuple):
    """Two structures with the same edges.

    Attributes:
        first: Positions in Angstrom, shape (n_atoms, 3).
        second: Positions of the other structure, atom by atom.
        edges: Center and neighbor of each edge, shape (2, n_edges).
        layers: Largest number of layers that is tried.
    """

    first: np.ndarray
    second: np.ndarray
    edges: np.ndarray
    layers: int = 3


def both(edges: list[tuple[int, int]]) -> np.ndarray:
    """Edges in both directions as (center, neighbor), shape (2, n_edges)."""
    return np.array([*edges, *[(b, a) for a, b in edges]]).T


def tuples(neighbors: np.ndarray, k: int) -> list[tuple]:
    """Sorted shapes, up to rotation and mirror image, of the center with each k neighbors."""
    shapes = []
    for chosen in itertools.combinations(range(len(neighbors)), k):
        orders = [neighbors[list(p)] for p in itertools.permutations(chosen)]
        shapes.append(min(tuple(np.round(x @ x.T, 6).ravel() + 0.0) for x in orders))
    return sorted(shapes)


def environments() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A center at the origin and its neighbors; the name says which order of information is equal.

    Two bodies: the running example of Joshi et al.; three: figure 1b of Pozdnyakov et al. with
    their coordinates; four: the idea of figure 2f, a triangle above the center, its copy below
    turned about the axis, and an atom on the axis, above or below. The triangles in the repository
    of Joshi et al. are isosceles, and then a half turn maps one structure to the other, so no
    invariant can differ; here they are scalene.
    """
    angles = np.array([0.0, 1.1, 2.9, 0.6, 1.7, 3.5])  # three above, the same plus 0.6 below
    height = np.array([0.4, 0.4, 0.4, -0.4, -0.4, -0.4])
    rings = np.stack([np.cos(angles), np.sin(angles), height], 1) * 5.0
    four = [np.vstack([rings, [[0.0, 0.0, s]]]) for s in (5.0, -5.0)]
    three = [np.array([[5, 0, 5], [5, 5, 5], [-5, -5, 5], [0, s, 5]], float) for s in (5, -5)]
    two = [np.array([[5, 0, 0], x], float) for x in ([3, 0, 4], [-5, 0, 0])]
    pairs = {"equal 2-body": two, "equal 3-body": three, "equal 4-body": four}
    for order, (a, b) in zip((2, 3, 4), pairs.values(), strict=True):
        assert all(tuples(a, k) == tuples(b, k) for k in range(1, order))
        assert tuples(a, order) != tuples(b, order)  # so the two are not congruent
    center = np.zeros((1, 3))
    return {k: tuple(0.3 * np.vstack([center, x]) for x in pair) for k, pair in pairs.items()}


def chain(k: int) -> Pair:
    """k-chain: k atoms in a line whose two ends bend to the same side or to opposite sides."""
    line = [[0, 5 * i, 0] for i in range(k)]
    a, b = (np.array([[s, -3, 0], *line, [4, 5 * k - 2, 0]]) * 0.3 for s in (-4, 4))
    edges = both([(i, i + 1) for i in range(k + 1)])
    for atom in range(k + 2):
        near = edges[1, edges[0] == atom]
        assert tuples(a[near] - a[atom], len(near)) == tuples(b[near] - b[atom], len(near))
    assert not np.isclose(np.linalg.norm(a[0] - a[-1]), np.linalg.norm(b[0] - b[-1]))
    return Pair(a, b, edges, layers=max(LAYERS))


def with_twin(first: np.ndarray, second: np.ndarray, edges: list[tuple[int, int]]) -> Pair:
    """A pair whose atoms without neighbors see a twin of atom 0 at its place that sees nothing.

    It tells them no more than the distance and direction of atom 0. Without it NequIP, whose first
    layer has no self-connection, would have no features there.
    """
    n = len(first)
    twin = [(i, n) for i in range(1, n) if i not in {center for center, _ in edges}]
    first, second = (np.vstack([x, x[:1]]) for x in (first, second))
    return Pair(first, second, np.array([*edges, *twin]).T)


def symmetric(fold: int, through: bool) -> Pair:
    """Star of arms of 1.5 A in the plane z = 0, and the same turned by half a step; see the top."""
    structures = []
    for start in (0.0, np.pi / fold):
        phi = start + 2.0 * np.pi * np.arange(fold) / fold
        arms = 1.5 * np.stack([np.cos(phi), np.sin(phi), np.zeros(fold)], 1)
        rest = [[0, 0, 1.8], [2.1, 0, 1.8]] if through else [[2.1, 0, 0]]
        structures.append(np.vstack([np.zeros((1, 3)), arms, rest]))
    a, b = structures
    # Moments of the arms along the direction to the marker: below order L they know no turn.
    moments = [[np.mean(x[1 : fold + 1, 0] ** p) for x in (a, b)] for p in range(fold + 1)]
    assert np.allclose(*np.transpose(moments[:fold]), atol=1e-12)
    assert abs(moments[fold][0] - moments[fold][1]) > 1e-3
    r, m = fold + 1, fold + 2
    more = [(r, 0), (r, m), (m, r)] if through else [(0, r)]
    return with_twin(a, b, [*((0, 1 + i) for i in range(fold)), *more])


def all_pairs() -> dict[str, Pair]:
    """Every pair by the name it has in the table."""
    stars, inward = {}, {}
    for name, (a, b) in environments().items():
        edges = [(0, i) for i in range(1, len(a))]
        stars[f"{name}, star"] = Pair(a, b, both(edges))
        inward[f"{name}, inward"] = with_twin(a, b, edges)
    through = {f"{n}-fold, through": symmetric(n, True) for n in (2, 3, 5, 10)}
    marked = {f"{n}-fold, marked": symmetric(n, False) for n in (2, 3, 5, 10)}
    return {**stars, **inward, "4-chain": chain(4), **through, **marked}


class Batch:
    """Structures, given as positions and edges, side by side as one graph."""

    def __init__(self, structures: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.sizes = [len(x) for x, _ in structures]
        starts = np.cumsum([0, *self.sizes])
        edges = [e + start for (_, e), start in zip(structures, starts, strict=True)]
        self.vectors = torch.tensor(np.concatenate([x[e[1]] - x[e[0]] for x, e in structures]))
        self.center, self.neighbor = torch.tensor(np.concatenate(edges, 1))
        self.species = torch.zeros(sum(self.sizes), dtype=torch.int64)

    def evaluate(self, model: PolarizedModel) -> tuple[np.ndarray, float]:
        """Energies of the structures and the mean |d| in Angstrom of the atoms with neighbors."""
        with torch.no_grad():
            out = model(self.vectors, self.species, self.center, self.neighbor)
        energy = np.array([float(e.sum()) for e in out.energy.split(self.sizes)])
        length = out.displacement[self.center.unique()].norm(dim=-1)
        return energy, float(length.mean()) if length.numel() else 0.0


def make_model(host: str, form: str, n_layers: int, seed: int, cluster: Batch) -> PolarizedModel:
    """A network of random weights whose displacements are neither negligible nor at their bound."""
    values = {"host": {"n_layers": n_layers, **HOSTS[host]}, "elements": ("C",), **FORMS[form]}
    torch.manual_seed(seed)
    config = ModelConfig.model_validate({**values, "dipole": False})
    model = PolarizedModel(config, torch.float64).eval()

    def rescale(update: Displacement, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        scalars, vectors, d = inputs
        bounded = update.forward(scalars, vectors, torch.zeros_like(d)).norm(dim=-1)
        move = bounded / torch.sqrt(1.0 - (bounded / update.d_max) ** 2)
        update.direction.weight.mul_(MOVE / move.mean())
        return update.forward(scalars, vectors, d)

    updates = [u for u in model.updates if isinstance(u, Displacement)]
    handles = [update.register_forward_hook(rescale) for update in updates]
    cluster.evaluate(model)
    for handle in handles:
        handle.remove()
    return model


def make_batch(pairs: dict[str, Pair]) -> Batch:
    """For each pair both structures, a transformed copy of the first and rattled copies of both."""
    rng = np.random.default_rng(0)
    structures = []
    for pair in pairs.values():
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        order, shuffle = rng.permutation(len(pair.first)), rng.permutation(pair.edges.shape[1])
        same = pair.first[order] @ -turn, np.argsort(order)[pair.edges][:, shuffle]
        structures += [(pair.first, pair.edges), (pair.second, pair.edges), same]
        for x in (pair.first, pair.second) * COPIES:
            structures.append((x + 0.1 * rng.normal(size=x.shape), pair.edges))
    return Batch(structures)


def measure() -> dict:
    """Relative differences of all pairs for every host, form and number of layers."""
    pairs = all_pairs()
    x = np.random.default_rng(1).normal(size=(6, 3)) * 1.2
    cluster = Batch([(x, both(list(itertools.combinations(range(6), 2))))])
    rows = {key: {"told_apart": [], "median": []} for key in itertools.product(pairs, FORMS, HOSTS)}
    noise, moves = 0.0, {}
    tried = {n: {k: p for k, p in pairs.items() if n <= p.layers} for n in LAYERS}
    batches = {n: make_batch(tried[n]) for n in LAYERS}
    for n, form, host in itertools.product(LAYERS, FORMS, HOSTS):
        changes, lengths = [], []
        for seed in range(SEEDS):
            energy, length = batches[n].evaluate(make_model(host, form, n, seed, cluster))
            energy = energy.reshape(len(tried[n]), -1)
            spread = energy[:, 3:].std(1, keepdims=True)
            changes.append(np.abs(energy[:, 1:3] - energy[:, :1]) / spread)
            lengths.append(length)
        middle = np.median(changes, 0)
        noise = max(noise, middle[:, 1].max())
        apart = np.mean(np.array(changes)[:, :, 0] > THRESHOLD, 0)
        for k, name in enumerate(tried[n]):
            rows[name, form, host]["told_apart"].append(round(apart[k], 2))
            rows[name, form, host]["median"].append(float(f"{middle[k, 0]:.1e}"))
        moves[f"{host}, {form}, {n}"] = round(np.median(lengths), 3)
    assert noise < ROUNDING
    named = [
        dict(zip(("structures", "form", "host"), k, strict=True), **row) for k, row in rows.items()
    ]
    return {"seeds": SEEDS, "noise": noise, "mean_displacement_A": moves, "rows": named}


def cell(medians: list[float]) -> str:
    """Fewest layers that tell apart and the difference there; a faint one in brackets."""
    for limit, form in ((THRESHOLD, "{}: {:.0e}"), (ROUNDING, "({}: {:.0e})")):
        for n_layers, median in zip(LAYERS, medians, strict=True):
            if median > limit:
                return form.format(n_layers, median)
    return "-"


def report(result: dict) -> str:
    """The result as Markdown."""
    moves = [d for d in result["mean_displacement_A"].values() if d > 0.0]
    lines = [
        f"Made by `expressiveness.py`, which defines pairs and graphs; {result['seeds']} random networks each.",
        f"A cell has the fewest layers, of {LAYERS[2]} (4-chain: {LAYERS[-1]}), that tell the pair apart: median relative",
        f"difference above {THRESHOLD:.0e}, given after the colon. In brackets: faint, above {ROUNDING:.0e} only;",
        f"-: less, where noise is {result['noise']:.0e} at most. Mean |d| from two layers on:",
        f"{min(moves)} to {max(moves)} A, by host and form in the JSON file.", "",
        f"| structures | form | {' | '.join(HOSTS)} |", "| --- " * (2 + len(HOSTS)) + "|",
    ]  # fmt: skip
    groups = itertools.groupby(result["rows"], lambda row: (row["structures"], row["form"]))
    for (name, form), rows in groups:
        lines.append(f"| {name} | {form} | {' | '.join(cell(r['median']) for r in rows)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    result = measure()
    # One row a line keeps the file readable and its changes small.
    rows = ",\n".join(json.dumps(row) for row in result["rows"])
    head = json.dumps({**result, "rows": None}, indent=1)
    text = head.replace('"rows": null', f'"rows": [\n{rows}\n]') + "\n"
    for ending, content in ((".json", text), (".md", report(result))):
        with new_file(RESULTS.with_suffix(ending), overwrite=True) as partial:
            partial.write_text(content)
    print(report(result))


if __name__ == "__main__":
    main()
