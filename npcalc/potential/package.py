"""Ahead-of-time compilation: one package per potential and machine, for structures of any size.

The triple of energy, gradient and dipole is traced once with symbolic sizes, exported, and
compiled by AOTInductor to a shared library. It is kept in a cache folder, ``NPCALC_CACHE``, else
``npcalc`` in ``XDG_CACHE_HOME``, else in ``~/.cache``, so that compilation is paid for once.
"""

import hashlib
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from .._version import __version__
from .compiled import (
    check_agreement,
    compiler_available,
    example_inputs,
    trace_module,
    warn_failed,
    warn_no_compiler,
)
from .derivatives import PotentialModule

Package = Callable[..., list[Tensor]]

SOURCES = Path(__file__).parents[1]


def cache_folder() -> Path:
    """Where compiled potentials are kept."""
    given = os.environ.get("NPCALC_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "npcalc"


def _processor(device: torch.device) -> str:
    """What machine code is made for: the GPU, or the model and instructions of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text().splitlines()
    return "\n".join(
        sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
    )


def package_path(sha256: str, dtype: str, device: torch.device) -> Path:
    """File of the package of a potential on this machine.

    Its name has a hash of all that the machine code depends on: potential, precision, processor,
    threads, torch, and the code that is compiled.

    Args:
        sha256: Hash of the potential.
        dtype: Precision.
        device: Where it runs.
    """
    digest = hashlib.sha256()
    facts = (sha256, dtype, device.type, torch.get_num_threads(), torch.__version__, __version__)
    for fact in (*facts, platform.machine(), _processor(device)):
        digest.update(f"{fact}\n".encode())
    for part in ("model.py", "nn", "potential"):
        source = SOURCES / part
        for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(path.read_bytes())
    return cache_folder() / f"{digest.hexdigest()[:32]}.pt2"


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
        torch._inductor.aoti_compile_and_package(export_program(module), package_path=part)
        _check(module, part)
        os.replace(part, path)


def _check(module: PotentialModule, path: str) -> None:
    """Compares a package with the network on a made-up structure."""
    inputs = example_inputs(module)
    with torch.enable_grad():
        expected = [t.detach() for t in module(*inputs).values()]
    with torch.no_grad():
        found = _load(Path(path), module.reference.device)(*inputs)
    check_agreement(found, expected)


def load_package(module: PotentialModule, sha256: str, dtype: str) -> Package | None:
    """The compiled potential from the cache, compiled now if it is not there yet.

    Args:
        module: Potential in evaluation mode.
        sha256: Hash of the potential.
        dtype: Its precision.

    Returns:
        A function from the arguments of ``module`` to its outputs in their order; None, with a
        warning, where it cannot be compiled.
    """
    device = module.reference.device
    path = package_path(sha256, dtype, device)
    if path.exists():
        try:
            return _load(path, device)
        except Exception:  # damaged, or of a system that has changed: made anew below
            path.unlink(missing_ok=True)
    if not compiler_available():
        warn_no_compiler()
        return None
    try:
        compile_package(module, path)
        return _load(path, device)
    except Exception as error:
        warn_failed(error)
        return None


def _load(path: Path, device: torch.device) -> Package:
    index = -1 if device.index is None else device.index
    return torch._inductor.aoti_load_package(str(path), device_index=index)
