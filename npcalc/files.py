"""Files that appear only when they are complete, and never over another one by accident."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_file(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary name to write to and renames it when the block ends without an error.

    The temporary name has the ending of the file, because some writers choose the format by it.

    Args:
        path: File to make.
        overwrite: Whether it may replace an existing one.

    Yields:
        Name to write to, in the same folder.

    Raises:
        FileExistsError: The file exists.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{os.fspath(path)!r} exists: give another name; it is not overwritten"
        )
    # Of this process: another one may be writing the same file.
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    try:
        yield partial
        if overwrite:
            os.replace(partial, target)
        else:
            _place(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _place(partial: Path, target: Path) -> None:
    """Gives a file its name, unless another one has got it in the meantime."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise FileExistsError(
            f"{os.fspath(target)!r} was made by something else in the meantime: give another name; it is "
            f"not overwritten"
        ) from None
    except OSError:  # file systems without links
        os.replace(partial, target)
