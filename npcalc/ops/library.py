"""Building and loading the operators, and what torch has to know of them."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cache import cache_folder, mark_used, processor
from . import atoms, convolution

UNITS = ("messages.cpp", "convolution.cpp", "atoms.cpp", "packages.cpp")
"""What is compiled."""

SOURCES = ("common.h", "messages.h", "second.h", "convolution.h", "atoms.h", "tensors.h", *UNITS)

FLAGS = (
    "-O3", "-std=c++20", "-fPIC", "-fno-math-errno", "-ffp-contract=fast",
    "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native",
    *(() if sys.platform == "darwin" else ("-fopenmp",)),
)  # fmt: skip


def find_compiler() -> str | None:
    """The C++ compiler: ``CXX``, else the first of the usual ones that is there."""
    return next(
        filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None
    )


def library_path() -> Path:
    """File of the operators on this machine, named by all that they depend on."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for fact in (torch.__version__, processor(torch.device("cpu")), *FLAGS):
        digest.update(f"{fact}\n".encode())
    for name in SOURCES:
        digest.update((folder / name).read_bytes())
    return cache_folder() / f"operators-{digest.hexdigest()[:32]}.so"


def build(path: Path) -> None:
    """Compiles the operators; the file appears only when it is complete.

    Args:
        path: File to write.

    Raises:
        RuntimeError: There is no compiler, or it fails.
    """
    from torch.utils.cpp_extension import include_paths  # its import sets environment variables

    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler found (g++, clang++)")
    path.parent.mkdir(parents=True, exist_ok=True)
    sources, libraries = Path(__file__).parent, Path(torch.__file__).parent / "lib"
    options = [compiler, *FLAGS, *(f"-I{p}" for p in include_paths("cpu"))]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = [str(Path(folder) / f"{unit}.o") for unit in UNITS]
        # Each takes half a minute, most of it for the headers of torch.
        with ThreadPoolExecutor() as pool:
            pairs = zip(UNITS, objects, strict=True)
            calls = [[*options, "-c", str(sources / unit), "-o", to] for unit, to in pairs]
            list(pool.map(_call, calls))
        part = Path(folder) / path.name
        linking = ["-shared", *objects, "-o", str(part), f"-L{libraries}", "-ltorch_cpu", "-lc10"]
        _call([compiler, *FLAGS, *linking])
        os.replace(part, path)


def _call(command: list[str]) -> None:
    """Runs the compiler.

    Raises:
        RuntimeError: It fails.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


LOADING = threading.RLock()
"""Held while machine code is made or loaded, of which one process does one at a time."""


def load_operators() -> None:
    """Makes ``torch.ops.npcalc`` usable, compiling it where this machine has not yet.

    Raises:
        RuntimeError: It cannot be compiled.
    """
    with LOADING:
        _load_once()


@functools.cache
def _load_once() -> None:
    path = library_path()
    if path.exists():
        try:
            torch.ops.load_library(str(path))
        except OSError:  # damaged, or of a system that has changed: built anew
            path.unlink(missing_ok=True)
    if not path.exists():
        build(path)
        torch.ops.load_library(str(path))
    mark_used(path)
    fakes: dict[str, Callable[..., Any]] = {
        "reverse_edges": _shape_of_reverse,
        "pair_messages": _shape_of_messages,
        "pair_messages_backward": _shape_of_gradient,
        "pair_messages_weight_backward": _shape_of_weight_gradient,
        "pair_messages_second_backward": _shape_of_second_gradient,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"npcalc::{name}", fake)
    convolution.register()
    atoms.register()


def _shape_of_reverse(edges: Tensor, center: Tensor, neighbor: Tensor, cutoff: float) -> Tensor:
    return torch.empty_like(center)


def _shape_of_messages(
    edges: Tensor, d: Tensor, phi: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape[0], v.shape[2]), v.new_empty(v.shape)


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    """New contiguous tensors of the same shapes."""
    return tuple(t.new_empty(t.shape) for t in tensors)


def _shape_of_gradient(by_ds: Tensor, by_dv: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return _like(*arguments[:4])


def _shape_of_weight_gradient(by_ds: Tensor, by_dv: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return _like(*arguments[:4], *arguments[7:10])


def _shape_of_second_gradient(*arguments: Any) -> tuple[Tensor, ...]:
    by, shared = arguments[4:6], arguments[6:]
    return _like(*by, *shared[1:4], *shared[7:10])
