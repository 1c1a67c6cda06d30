"""Structures of similar size in batches, which are made and evaluated several at once."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from .builder import GraphBuilder
from .errors import naming
from .graph import AtomGraph, collate
from .neighbors import FEW_ATOMS
from .potential import Potential

Array = NDArray[np.float64]

EDGES_FOR_A_THREAD = 20_000
"""Edges up to which a batch has one thread, so that others may be evaluated beside it."""


class GraphBatch(NamedTuple):
    """Some structures of a list.

    Attributes:
        places: Their places in the list.
        sizes: Atoms of each.
        graph: Their graph, in this order.
        lengths: Length of each edge in Angstrom, shape (n_edges,).
    """

    places: list[int]
    sizes: list[int]
    graph: AtomGraph
    lengths: Array


def check_extent(potential: Potential, atoms: Atoms) -> None:
    """Refuses a periodic structure where the potential has a spatial extent.

    Raises:
        ValueError: It is periodic.
    """
    sections = potential.card.model.properties.values()
    if atoms.pbc.any() and any(p.readout == "extent" for p in sections):
        raise ValueError(
            "the spatial extent is that of a molecule; this structure is periodic: set "
            "atoms.pbc = False"
        )


def graph_batches(
    potential: Potential, structures: Sequence[Atoms], edges_per_batch: int
) -> Iterator[GraphBatch]:
    """Batches of structures, small ones first.

    Args:
        potential: The potential.
        structures: Any structures of elements that it knows.
        edges_per_batch: Edges of a batch; one structure may have more.

    Raises:
        ValueError: A structure cannot be evaluated; the message has its place in the list.
    """
    waiting: list[GraphBatch] = []
    n_edges = 0
    for part in _parts(potential, structures, edges_per_batch):
        if waiting and n_edges + len(part.lengths) > edges_per_batch:
            yield _joined(waiting)
            waiting, n_edges = [], 0
        waiting.append(part)
        n_edges += len(part.lengths)
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[GraphBatch]) -> GraphBatch:
    if len(parts) == 1:
        return parts[0]
    return GraphBatch(
        [place for part in parts for place in part.places],
        [size for part in parts for size in part.sizes],
        collate([part.graph for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )


def _parts(
    potential: Potential, structures: Sequence[Atoms], edges_per_batch: int
) -> Iterator[GraphBatch]:
    """Single structures, and small molecules of the same atoms together."""
    build = GraphBuilder(potential, skin=0.0)

    def kind(place: int) -> tuple[int, bytes, bool]:
        atoms = structures[place]
        alone = not 0 < len(atoms) <= FEW_ATOMS or bool(atoms.pbc.any())
        return len(atoms), atoms.numbers.tobytes(), alone

    for (size, _, alone), group in groupby(sorted(range(len(structures)), key=kind), kind):
        places = list(group)
        at_once = 1 if alone else max(edges_per_batch // max(size * (size - 1), 1), 1)
        for start in range(0, len(places), at_once):
            chosen = places[start : start + at_once]
            found = build.molecules([structures[k] for k in chosen]) if len(chosen) > 1 else None
            if found is not None:
                yield GraphBatch(chosen, [size] * len(chosen), *found)
                continue
            for place in chosen:
                with naming(f"structure {place}"):
                    check_extent(potential, structures[place])
                    graph = build(structures[place])
                    yield GraphBatch([place], [size], graph, build.lengths)


def evaluated(
    potential: Potential, batches: Iterator[GraphBatch], compile: bool
) -> Iterator[tuple[GraphBatch, dict[str, Array]]]:
    """Results of batches in their order, on the CPU several at once, a thread of torch's for each.

    Args:
        potential: The potential.
        batches: The batches; those of more than `EDGES_FOR_A_THREAD` edges have all threads.
        compile: Whether to run compiled code.
    """
    threads = torch.get_num_threads()
    pending: deque[tuple[GraphBatch, Future[dict[str, Array]]]] = deque()

    def first() -> tuple[GraphBatch, dict[str, Array]]:
        batch, future = pending.popleft()
        return batch, future.result()

    try:
        with ThreadPoolExecutor(threads, initializer=_one_thread) as pool:
            for batch in batches:
                small = len(batch.lengths) <= EDGES_FOR_A_THREAD
                if threads > 1 and small and potential.runs_in_parallel(compile):
                    torch.set_num_threads(1)
                    pending.append((batch, pool.submit(potential.arrays, batch.graph, compile)))
                    if len(pending) > 2 * threads:
                        yield first()
                    continue
                while pending:
                    yield first()
                torch.set_num_threads(threads)
                yield batch, potential.arrays(batch.graph, compile)
            while pending:
                yield first()
    finally:
        torch.set_num_threads(threads)


def _one_thread() -> None:
    """Keeps the work of a thread of Python to itself."""
    torch.get_num_threads()  # at its first use a thread takes over the number of the process
    torch.set_num_threads(1)
