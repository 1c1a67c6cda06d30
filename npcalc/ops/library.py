"""Building and loading the operators, and what torch has to know of them."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cache import cache_folder, processor

SOURCES = ("common.h", "messages.h", "messages.cpp")

FLAGS = (
    "-O3", "-std=c++20", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=fast",
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
    library = Path(torch.__file__).parent / "lib"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        command = [
            compiler, *FLAGS, *(f"-I{p}" for p in include_paths("cpu")),
            str(Path(__file__).parent / "messages.cpp"), "-o", str(part),
            f"-L{library}", "-ltorch_cpu", "-lc10",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        os.replace(part, path)


@functools.cache
def load_operators() -> None:
    """Makes ``torch.ops.npcalc`` usable, compiling it where this machine has not yet.

    Raises:
        RuntimeError: It cannot be compiled.
    """
    path = library_path()
    if path.exists():
        try:
            torch.ops.load_library(str(path))
        except OSError:  # damaged, or of a system that has changed: built anew
            path.unlink()
    if not path.exists():
        build(path)
        torch.ops.load_library(str(path))
    torch.library.register_fake("npcalc::reverse_edges", _shape_of_reverse)
    torch.library.register_fake("npcalc::pair_messages", _shape_of_messages)
    torch.library.register_fake("npcalc::pair_messages_backward", _shape_of_gradient)


def _shape_of_reverse(edges: Tensor, center: Tensor, neighbor: Tensor) -> Tensor:
    return torch.empty_like(center)


def _shape_of_messages(
    edges: Tensor, d: Tensor, phi: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape[0], v.shape[2]), v.new_empty(v.shape)


def _shape_of_gradient(
    by_ds: Tensor, by_dv: Tensor, edges: Tensor, d: Tensor, phi: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (edges, d, phi, v))


N_TENSORS = 12
"""Arguments of ``pair_messages`` that are tensors; they come first."""


class PairMessages(torch.autograd.Function):
    """``pair_messages`` with its first derivative.

    An autograd function and not a rule for the operator: traced graphs then hold the operators
    alone, and running them costs no visit to Python.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Messages, see ``messages.cpp`` for the arguments."""
        ctx.save_for_backward(*arguments[:N_TENSORS])
        ctx.settings = arguments[N_TENSORS:]
        return torch.ops.npcalc.pair_messages(*arguments)

    @staticmethod
    def backward(ctx: Any, *by_messages: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient by edges, displacements and features."""
        tensors = (*by_messages, *ctx.saved_tensors)
        found = torch.ops.npcalc.pair_messages_backward(*tensors, *ctx.settings)
        return (*found, *[None] * (N_TENSORS - len(found) + len(ctx.settings)))
