"""Potential: a trained model with its card, on a device, ready to evaluate graphs."""

import functools
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._version import __version__
from ..graph import AtomGraph
from ..ops.library import LOADING
from ..ops.pairs import one_of_each_pair
from . import derivatives
from .archive import ArchiveError, Script, build_module, load_script, read_archive, write_archive
from .blocks import evaluate_in_blocks
from .card import Card
from .compiled import check_outputs, example_inputs
from .derivatives import OUTPUTS, PER_SYSTEM
from .package import Package, foreign_source, load_package
from .registry import find_potential

EDGES_AT_ONCE = 20_000
"""Edges up to which a graph is evaluated in one piece; with more, blocks that fit the caches are faster."""

EDGES_AT_ONCE_BOUNDED = 10_000_000
"""The same for a script that has blocks of its own, at some 0.2 kB for each edge."""

EDGES_FOR_THREADS = 1024
"""Edges from which on more than one thread is used: with fewer, waking them takes longer than they save."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@contextmanager
def _worthwhile_threads(n_edges: int) -> Iterator[None]:
    """Keeps what is done with few edges to one thread.

    A thread of Python that first uses torch meanwhile has one for good, until it sets another number.
    """
    threads = torch.get_num_threads()
    alone = threads > 1 and n_edges < EDGES_FOR_THREADS
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(threads)


class Potential:
    """A trained potential.

    Args:
        card: Its card.
        weights: Parameters of its network by name.
        device: ``cpu``, ``cuda`` or ``auto``.
        dtype: ``float32`` or ``float64``; that of the card by default.

    Raises:
        ValueError: The dtype is neither of the two, or the device is not there.

    Attributes:
        card: The card.
        device: Where it runs.
        dtype: In which precision.
        module: The function that it evaluates.
        source: Name or path that `load_potential` finds it by, if it was loaded.
    """

    def __init__(
        self,
        card: Card,
        weights: dict[str, Tensor],
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        name = dtype or card.dtype
        if name not in DTYPES:
            raise ValueError(f"unknown dtype {name!r}: expected float32 or float64")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.split(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"unknown device {device!r}: expected cpu, cuda or auto")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {device!r} is asked for, but torch finds no CUDA device here")
        self.card = card
        self.dtype = name
        self.device = torch.device(device)
        self.module = build_module(card, weights, DTYPES[name]).to(self.device)
        self.source: str | None = None
        self._script: Script | None = None
        self._bounded = False
        # The cell last evaluated by compiled code, its version, and that with an empty system behind it.
        self._cells: tuple[Tensor, int, Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles, for other processes, what it is made of; compiled code stays in the cache."""
        weights = {k: v.detach().cpu() for k, v in self.weights.items()}
        return _again, (self.card, weights, str(self.device), self.dtype, self.source)

    @property
    def sha256(self) -> str:
        """Hash of weights and card, which tells two potentials apart whatever their names."""
        # Settings at their defaults stay out: a new one must not change what a potential is.
        model = self.card.model
        digest = hashlib.sha256(model.host.name.encode())
        digest.update(model.model_dump_json(exclude_defaults=True).encode())
        card = self.card
        constants = (card.scale, card.reference_energies)
        digest.update(repr((constants, card.property_scales, card.property_references)).encode())
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters of the network by name."""
        return dict(self.module.edge_potential.model.named_parameters())

    def evaluate(self, graph: AtomGraph) -> dict[str, Tensor]:
        """All first-order quantities of a batch, see `PotentialModule.forward`.

        Graphs of very many edges are evaluated in blocks, see `blocks`.

        Args:
            graph: Structures on the potential's device.

        Returns:
            Tensors by name in the units of `npcalc.conventions`.
        """
        # Tensors of inference mode are of no use to who differentiates by other things.
        return {k: v.clone() if v.is_inference() else v for k, v in self._run(graph).items()}

    def _run(self, graph: AtomGraph) -> dict[str, Tensor]:
        """As `evaluate`, but tensors may be such of inference mode."""
        n_edges = graph.edge_index.shape[1]
        if n_edges > EDGES_AT_ONCE and not self._serves_at_once(graph):
            return evaluate_in_blocks(self.module, graph)
        if self._script is not None:
            # Scripts have their gradients written out and need nothing of what autograd keeps of views and
            # of results that are written over, which for few atoms takes time.
            with _worthwhile_threads(n_edges), torch.inference_mode():
                return self._script(*graph)
        with torch.enable_grad():
            return {k: v.detach() for k, v in self.module(*graph).items()}

    def _serves_at_once(self, graph: AtomGraph) -> bool:
        """Whether the script needs little memory for a graph of many edges."""
        if not self._bounded or graph.edge_index.shape[1] > EDGES_AT_ONCE_BOUNDED:
            return False
        return len(one_of_each_pair(graph.edge_index, graph.shifts)) > 0

    def use_script(self, script: Script) -> None:
        """Evaluates by a script of the same function, which is faster than the network and its gradient.

        Args:
            script: From the file of this potential, see `archive.load_script`.
        """
        self._script = script
        # Scripts of older files have no such attribute.
        self._bounded = getattr(script, "bounded", False)
        if self.device.type == "cpu":
            # GNU's C library returns freed memory to the system at each call, which then fetches it again,
            # until it has seen a program free as much at once. This is never written to.
            torch.empty(31 * 2**20, dtype=torch.uint8)

    def compile(self) -> bool:
        """Compiles the potential, or loads what was compiled before, see `package`.

        Returns:
            Whether it could be.
        """
        return self._package is not None

    def runs_in_parallel(self, compile: bool = False) -> bool:
        """Whether several threads of Python that evaluate at once do not wait for each other.

        Args:
            compile: Whether they run compiled code, which is compiled now if need be.
        """
        if self.device.type != "cpu":
            return False
        return not compile or self._package is None or self._package.parallel

    @functools.cached_property
    def _package(self) -> Package | None:
        with LOADING:
            return load_package(self.module, self.sha256, self.dtype)

    def evaluate_compiled(self, graph: AtomGraph) -> dict[str, Tensor]:
        """The same as `evaluate` through compiled code, which serves structures of all sizes.

        The first call takes a minute where the potential has not been compiled on this machine
        yet. Without a compiler, for graphs of a single atom or edge, and for those of more edges
        than the package takes at once, it is `evaluate`.

        Args:
            graph: Structures on the potential's device.

        Returns:
            As `evaluate`.
        """
        raw = self._run_package(graph)
        if raw is None:
            return self.evaluate(graph)
        n = graph.n_systems
        return {k: v[:n] if k in PER_SYSTEM else v for k, v in zip(OUTPUTS, raw, strict=True)}

    def arrays(self, graph: AtomGraph, compile: bool = False) -> dict[str, NDArray[np.float64]]:
        """As `evaluate`, or `evaluate_compiled`, with NumPy arrays: the shortest way to them.

        Args:
            graph: Structures on the potential's device.
            compile: Whether to run compiled code.

        Returns:
            Arrays by name.
        """
        raw = self._run_package(graph) if compile else None
        if raw is None:
            return {k: v.cpu().numpy() for k, v in self._run(graph).items()}
        out = {k: v.cpu().numpy() for k, v in zip(OUTPUTS, raw, strict=True)}
        for name in PER_SYSTEM:
            out[name] = out[name][: graph.n_systems]
        return out

    def _run_package(self, graph: AtomGraph) -> list[Tensor] | None:
        """Outputs of the compiled code, for two or more systems; None where it does not serve."""
        n_edges = graph.edge_index.shape[1]
        if graph.n_atoms < 2 or n_edges < 2 or self._package is None:
            return None
        if n_edges > self._package.edges_at_once:
            return None
        if graph.n_systems == 1:  # compiled for two or more: one without atoms
            cell, known = graph.cell, self._cells
            if known is None or known[0] is not cell or known[1] != cell._version:
                known = (cell, cell._version, torch.cat([cell, torch.zeros_like(cell)]))
                self._cells = known
            graph = graph._replace(cell=known[2])
        with _worthwhile_threads(n_edges), torch.no_grad():
            # Machine code trusts the strides of its arguments to be those of the example.
            return self._package.run(*[t.contiguous() for t in graph])

    def born_effective_charges(self, graph: AtomGraph) -> Tensor:
        """Atomic polar tensors in e, see `derivatives.born_effective_charges`."""
        with torch.enable_grad():
            return derivatives.born_effective_charges(self.module, graph)

    def hessian(self, graph: AtomGraph) -> Tensor:
        """Second derivatives in eV/A^2, see `derivatives.hessian`."""
        with torch.enable_grad():
            return derivatives.hessian(self.module, graph)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Writes the potential.

        Args:
            path: File to write.
            overwrite: Whether an existing file may be replaced.

        Raises:
            FileExistsError: The file exists.
        """
        write_archive(path, self.card, self.module.edge_potential.model, overwrite)


def _again(
    card: Card, weights: dict[str, Tensor], device: str, dtype: str, source: str | None
) -> Potential:
    """A potential from what it is made of, with the script of the file that it is from if that is there."""
    potential = Potential(card, weights, device, dtype)
    potential.source = source
    with suppress(OSError, ArchiveError):
        loaded = None if source is None else load_potential(source, device, dtype)
        if loaded is not None and loaded._script and loaded.sha256 == potential.sha256:
            potential.use_script(loaded._script)
    return potential


def load_potential(
    name_or_path: str | os.PathLike[str], device: str = "auto", dtype: str | None = None
) -> Potential:
    """Loads a potential.

    Its TorchScript is a program, which runs when the potential is used, and here where the file is of another
    version of npcalc: load files of people that you trust.

    Args:
        name_or_path: Name of a bundled potential, or path of a file.
        device: ``cpu``, ``cuda`` or ``auto``.
        dtype: ``float32`` or ``float64``; that of the card by default.

    Returns:
        The potential.

    Raises:
        FileNotFoundError: There is no such potential; the message lists those that exist.
        ArchiveError: The file is not a potential, damaged, or of a newer format.
    """
    path = find_potential(name_or_path)
    card, weights = read_archive(path)
    potential = Potential(card, weights, device, dtype)
    own_file = Path(name_or_path).is_file()
    potential.source = str(path.resolve()) if own_file else os.fspath(name_or_path)
    # The script of older formats is the network with autograd: no faster, and without properties.
    if card.format >= 3:
        changed = foreign_source(potential.module) or card.versions.get("npcalc") != __version__
        same_dtype = potential.dtype == card.dtype
        script = _script_of(path, potential.device) if same_dtype or changed else None
        if script is not None and same_dtype:
            potential.use_script(script)
        if script is not None and changed:
            _compare(potential, script)
    return potential


def _script_of(path: Path, device: torch.device) -> Script | None:
    """The script of a file; none, with a warning, where this torch lacks what is in it."""
    try:
        return load_script(path, device)
    except RuntimeError as error:
        warnings.warn(
            f"the TorchScript of {os.fspath(path)!r} cannot be loaded "
            f"({str(error).strip().splitlines()[0]}): going on with the network, which is slower",
            stacklevel=3,
        )
        return None


def _compare(potential: Potential, script: Script) -> None:
    """Warns where the function of a file is not that of the network that is built from it today."""
    inputs = example_inputs(potential.module)
    with torch.enable_grad():
        expected = potential.module(*inputs)
    with torch.no_grad():
        found = script(*inputs)
    missing = [name for name in expected if name not in found]
    if missing:
        raise ArchiveError(
            f"the TorchScript of potential {potential.card.name!r} gives no {', '.join(missing)}: its file "
            f"was not written by npcalc"
        )
    values = [found[name] for name in expected]
    try:
        check_outputs(potential.module, inputs, values, list(expected.values()))
    except RuntimeError:
        warnings.warn(
            f"the code of potential {potential.card.name!r} has changed since its file was written: "
            f"energies, forces and dipoles are those of the file, but Hessians, Born charges, compiled "
            f"code and other precisions are those of today's network; go back to the code of then, or "
            f"train it anew",
            stacklevel=3,
        )


def save_potential(
    potential: Potential, path: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Writes a potential, see `Potential.save`."""
    potential.save(path, overwrite)
