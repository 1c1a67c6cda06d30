"""Ahead-of-time compilation: one package per potential and machine, for structures of any size.

The triple of energy, gradient and dipole is traced once with symbolic sizes, exported, and
compiled by AOTInductor to a shared library. It is kept in a cache folder, see `npcalc.cache`, so
that compilation is paid for once. On the CPU, layers that have an operator of our own use it, see
`npcalc.ops`.
"""

import copy
import hashlib
import inspect
import logging
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import Dim

from .. import ops
from .._version import __version__
from ..cache import cache_folder, mark_used, processor, remove_unused
from .compiled import (
    check_outputs,
    compiler_available,
    example_inputs,
    trace_module,
    warn_failed,
    warn_no_compiler,
)
from .derivatives import PotentialModule

LOG = logging.getLogger(__name__)

BYTES_OF_EDGE = 14_000
"""Memory that compiled code takes for each edge of a graph that it is given in one piece."""

EDGES_AT_ONCE_FUSED = 10_000_000
"""Edges up to which it is given in one piece where an operator of `npcalc.ops` does all that is done on them,
at some 0.5 kB for each."""


RUNS_AT_ONCE = 64
"""Threads that may run a package at once; a further one waits."""


class Package(NamedTuple):
    """A compiled potential.

    Attributes:
        run: From the arguments of `PotentialModule.forward` to its outputs in their order.
        edges_at_once: How many edges it may be given.
        parallel: Whether several threads of Python may run it at once.
    """

    run: Callable[..., list[Tensor]]
    edges_at_once: int
    parallel: bool


SOURCES = Path(__file__).parents[1]


def foreign_source(module: PotentialModule) -> str:
    """Source of a host that is not of this package, and of its layers; empty for those that are."""
    host = module.edge_potential.model.host
    classes = {c for part in host.modules() for c in type(part).__mro__}
    names = {f"{c.__module__}.{c.__qualname__}": c for c in classes}
    found = []
    for name, cls in sorted(names.items()):
        if name.split(".")[0] in ("npcalc", "torch", "e3nn", "builtins"):
            continue
        try:
            found.append(inspect.getsource(cls))
        except (OSError, TypeError):  # defined where there is no file: by its byte code
            methods = [f for f in vars(cls).values() if inspect.isfunction(f)]
            found += [f"{name} {_facts_of(f.__code__)}" for f in methods]
    return "\n".join(found)


def _facts_of(code: CodeType) -> str:
    """What a function does, and what it does it to, without the addresses of functions inside it."""
    return f"{code.co_code!r} {code.co_names} {[_fact_of(c) for c in code.co_consts]}"


def _fact_of(constant: object) -> str:
    if isinstance(constant, CodeType):
        return _facts_of(constant)
    # The order of sets is another one in each session.
    return str(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)


def package_path(
    sha256: str, dtype: str, device: torch.device, fused: bool = False, source: str = ""
) -> Path:
    """File of the package of a potential on this machine.

    Its name has a hash of what the machine code depends on: potential, precision, processor, torch, and the
    code that is compiled. Functions that a host of one's own calls are not in it, see `load_package`.

    Args:
        sha256: Hash of the potential.
        dtype: Precision.
        device: Where it runs.
        fused: Whether it uses the operators of `npcalc.ops`.
        source: What `foreign_source` says of its host.
    """
    digest = hashlib.sha256(source.encode())
    facts = (sha256, dtype, device.type, fused, torch.__version__, __version__)
    for fact in (*facts, platform.machine(), processor(device)):
        digest.update(f"{fact}\n".encode())
    for part in ("model", "nn", "ops", "potential"):
        for path in sorted((SOURCES / part).rglob("*")):
            if path.suffix in (".py", ".h", ".cpp"):
                digest.update(path.read_bytes())
    return cache_folder() / f"{digest.hexdigest()[:32]}.pt2"


def edges_at_once() -> int:
    """Edges up to which compiled code takes a graph in one piece without an operator: a third of memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        memory = 8 << 30
    return max(memory // 3 // BYTES_OF_EDGE, 10_000)


def export_program(module: PotentialModule) -> torch.export.ExportedProgram:
    """The potential as a plain graph of operators for two or more atoms, edges and systems.

    Args:
        module: Potential in evaluation mode.

    Returns:
        A program from the arguments of ``module`` to its outputs as a tuple.
    """
    inputs = example_inputs(module)
    graph = trace_module(module)
    atoms, edges, systems = (Dim(f"n_{name}", min=2) for name in ("atoms", "edges", "systems"))
    sizes = ({0: atoms}, {0: systems}, {0: atoms}, {1: edges}, {0: edges}, {0: atoms})
    with torch.no_grad():
        return torch.export.export(graph, inputs, dynamic_shapes=sizes, strict=False)


def with_operators(module: PotentialModule) -> PotentialModule:
    """A copy of a potential that uses our own operators, or itself where they do not serve it.

    Args:
        module: Potential in evaluation mode.
    """
    if not ops.operators_serve(module.edge_potential.model):
        return module
    fused = copy.deepcopy(module)
    ops.fuse(fused.edge_potential.model)
    return fused


def compile_package(module: PotentialModule, path: Path) -> None:
    """Compiles a potential; the file appears only when it is complete.

    Args:
        module: Potential in evaluation mode.
        path: File to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its internals
        part = str(Path(folder) / path.name)
        chosen = with_operators(module)
        program = export_program(chosen)
        # Loops over atoms on one thread: waking others takes longer than most of them. The operators
        # for edges and products of matrices use all.
        settings = {"cpp.threads": 1}
        torch._inductor.aoti_compile_and_package(
            program, package_path=part, inductor_configs=settings
        )
        _check(module, _load(Path(part), module, fused=chosen is not module))
        os.replace(part, path)
    remove_unused(path.parent)


def _check(module: PotentialModule, run: Callable[..., list[Tensor]]) -> None:
    """Compares a package with the network on a made-up structure.

    Raises:
        RuntimeError: It is another function.
    """
    inputs = example_inputs(module)
    with torch.enable_grad():
        expected = [t.detach() for t in module(*inputs).values()]
    with torch.no_grad():
        found = run(*inputs)
    check_outputs(module, inputs, found, expected)


def load_package(module: PotentialModule, sha256: str, dtype: str) -> Package | None:
    """The compiled potential from the cache, compiled now if it is not there yet.

    That of a host of one's own is compared with the network: what the host calls may have changed.

    Args:
        module: Potential in evaluation mode.
        sha256: Hash of the potential.
        dtype: Its precision.

    Returns:
        The package; None, with a warning, where it cannot be compiled.
    """
    device = module.reference.device
    model = module.edge_potential.model
    fused = ops.operators_serve(model)
    foreign = foreign_source(module)
    path = package_path(sha256, dtype, device, fused, foreign)
    limit = EDGES_AT_ONCE_FUSED if fused and ops.can_fuse_messages(model) else edges_at_once()
    if path.exists():
        # What fails is damaged, or of code or a system that has changed: made anew below, and replaced then.
        with suppress(Exception):
            run = _load(path, module, fused)
            if foreign:
                _check(module, run)
            mark_used(path)
            return Package(run, limit, fused)
    if not compiler_available():
        warn_no_compiler()
        return None
    LOG.info("compiling the potential for this machine, once, which takes a minute or more")
    try:
        compile_package(module, path)
        return Package(_load(path, module, fused), limit, fused)
    except Exception as error:
        warn_failed(error)
        return None


def _load(path: Path, module: PotentialModule, fused: bool) -> Callable[..., list[Tensor]]:
    """Opens a package.

    Args:
        path: File of the package.
        module: The potential.
        fused: Whether it uses the operators of `npcalc.ops`, which are loaded then.
    """
    device = module.reference.device
    if fused:
        package = torch.classes.npcalc.Package(str(path), RUNS_AT_ONCE)
        with torch.no_grad():
            package.run(
                list(example_inputs(module))
            )  # what is done once is done before threads come
        return lambda *inputs: package.run(list(inputs))
    index = -1 if device.index is None else device.index
    try:
        # What torch's own function calls in the end, after importing the whole compiler and trying out
        # the processor, which takes two seconds; the name of the file has the processor already.
        loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, index)
    except AttributeError:
        loader = torch._inductor.aoti_load_package(str(path), device_index=index).loader
    # Not the loaded package itself, which parses the form of its arguments anew at every call.
    return lambda *inputs: loader.boxed_run(list(inputs))
