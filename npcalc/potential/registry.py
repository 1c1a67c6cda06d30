"""Where the bundled potentials lie."""

import os
from pathlib import Path


def bundled_folder() -> Path:
    """Folder of the bundled potentials: installed beside the package, or of the checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "potentials"
    return installed if installed.is_dir() else package.parent / "potentials"


def bundled_potentials() -> dict[str, Path]:
    """Path of each bundled potential by name."""
    folder = bundled_folder()
    return {p.stem: p for p in sorted(folder.glob("*/*.pt")) if p.parent.name == p.stem}


def find_potential(name_or_path: str | os.PathLike[str]) -> Path:
    """Path of a potential given by name or path.

    Args:
        name_or_path: Name of a bundled potential, or path of a file.

    Returns:
        Its path.

    Raises:
        TypeError: It is neither a name nor a path.
        IsADirectoryError: It is a folder.
        FileNotFoundError: Neither a bundled potential nor a file; the message lists what exists.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(
            f"potential: expected a name, the path of a file or a Potential, which a calculator has as "
            f"calc.potential; got {type(name_or_path).__name__}"
        )
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = bundled_potentials()
    if os.fspath(name_or_path) in known:
        return known[os.fspath(name_or_path)]
    if path.is_dir():
        inside = ", ".join(str(p) for p in sorted(path.glob("*.pt")))
        raise IsADirectoryError(
            f"{os.fspath(name_or_path)!r} is a folder: give the file of a potential"
            + (f", such as {inside}" if inside else "")
        )
    raise FileNotFoundError(
        f"no potential {os.fspath(name_or_path)!r}: there is no such file, and the bundled "
        f"potentials are: {', '.join(known) or 'none'}"
    )
