"""What the commands share: the application, options, errors in one line."""

import ctypes
import logging
import os
import select
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated

import typer

from .._version import __version__

STANDARD_OUTPUT = 1
"""Its number as a file."""

app = typer.Typer(
    help="Molecular dynamics, dipoles and infrared spectra with neural-polarization potentials.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PotentialOption = Annotated[str, typer.Option("--potential", "-p", help="Bundled name or file.")]
StructureArgument = Annotated[
    str, typer.Argument(help="Structure file, or a name such as ethanol.")
]
CompileOption = Annotated[
    bool | None, typer.Option(help="Compile the potential; by default where the run is long.")
]
ThreadsOption = Annotated[
    int, typer.Option(help="CPU threads; more than one pays from a hundred atoms on.", min=1)
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def use_threads(number: int) -> None:
    """Sets the threads of this process; steps of small molecules are fastest on one."""
    import torch

    torch.set_num_threads(number)


def keep_memory() -> None:
    """Lets the C library keep freed arrays, which the next step asks for again.

    By default GNU's returns those of more than some 100 kB to the system, and fetching them anew takes
    up to a quarter of the time of training and of potentials that are not compiled. A library must
    not set this for its user, a program may; the library only frees an array once, from which the C
    library learns something like it (`Potential.use_script`). Other C libraries stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names in malloc.h
    mallopt(mmap_threshold, 32 * 2**20)  # the largest that is allowed
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 * 2**20)


def _has_reader() -> bool:
    """Whether somebody may read what is printed: not where standard output is a pipe without another end."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(STANDARD_OUTPUT, 0)
    return not poll.poll(0)


@contextmanager
def errors(*more: type[Exception]) -> Iterator[None]:
    """Turns what a user can mend into one line on standard error and exit code 1."""
    from ase.calculators.calculator import PropertyNotImplementedError
    from pydantic import ValidationError

    from ..md import MDExploded, NotConverged

    mendable = (ValueError, OSError, ImportError, PropertyNotImplementedError)
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        typer.echo(f"npcalc: {where}: {first['msg']}, got {first['input']!r}", err=True)
        raise typer.Exit(1) from None
    except BrokenPipeError as error:
        if _has_reader():
            typer.echo(f"npcalc: {error}", err=True)
        else:  # one such as head, which has enough
            # What is left to print would fail again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), STANDARD_OUTPUT)
        raise typer.Exit(1) from None
    except (*mendable, MDExploded, NotConverged, *more) as error:
        typer.echo(f"npcalc: {error}", err=True)
        raise typer.Exit(1) from None


def must_be_free(
    *paths: Path | None,
    endings: tuple[str, ...] = (),
    instead: str = "give another name, or remove it",
) -> None:
    """Finds out before a long computation that its result could not be written.

    Args:
        paths: Files to write.
        endings: What the name of the first may end in, anything if empty.
        instead: What to do where there is one.
    """
    first = paths[0]
    if endings and first is not None and first.suffix.lower() not in endings:
        raise ValueError(f"{str(first)!r}: expected a name that ends in {' or '.join(endings)}")
    for path in paths:
        if path is not None and path.exists():
            raise FileExistsError(f"{str(path)!r} exists: {instead}")
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {str(path.parent)!r}: make it first")


def pairs(option: str, items: list[str] | None) -> dict[str, str] | None:
    """Values of a repeatable option NAME=VALUE."""
    for item in items or []:
        if not all(item.partition("=")):
            raise ValueError(f"{option} {item}: expected NAME=VALUE")
    return dict(item.split("=", 1) for item in items) if items else None


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"npcalc: warning: {message}", file=sys.stderr)


class _Echo(logging.Handler):
    """Says on standard error what the package is at, where that takes long."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"npcalc: {record.getMessage()}", err=True)


def import_first(modules: list[str]) -> None:
    """Imports modules by name, those of the working directory too, or by the path of their file.

    Args:
        modules: Names, or paths that end in ``.py``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: One cannot be imported, or another module has the name of a file.
    """
    sys.path.append(os.getcwd())
    for module in modules:
        if module.endswith(".py"):
            _import_file(Path(module).expanduser().resolve())
        else:
            import_module(module)


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r} to import")
    known = sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() != path:
            raise ImportError(
                f"{str(path)!r}: there is a module {path.stem!r} already: give the file another name"
            )
        return
    sys.path.append(str(path.parent))  # for what it imports from beside it
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{str(path)!r} cannot be imported")
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    imported: Annotated[
        list[str] | None,
        typer.Option(
            "--import", help="Module or .py file to import first, as one that registers a host."
        ),
    ] = None,
) -> None:
    """Molecular dynamics, dipoles and infrared spectra with neural-polarization potentials."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    warnings.showwarning = _show_warning
    log = logging.getLogger("npcalc")
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(_Echo())
    keep_memory()
    if imported:
        with errors():
            import_first(imported)
