"""Measured spectra in JCAMP-DX, read with the jcamp library."""

import os
from pathlib import Path

import jcamp
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def read_jcamp(path: str | os.PathLike[str]) -> tuple[Array, Array]:
    """A measured infrared spectrum.

    Args:
        path: JCAMP-DX file in 1/cm or micrometres, in absorbance or transmittance.

    Returns:
        Wavenumbers in 1/cm, ascending, and absorbance in arbitrary units, from 0 to 1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no spectrum of known units.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no spectrum {os.fspath(path)!r}")
    try:
        content = jcamp.readfile(os.fspath(path))
        x = np.asarray(content["x"], dtype=float)
        y = np.asarray(content["y"], dtype=float)
        if len(x) < 2:
            raise ValueError("it has no points")
    except Exception as error:
        raise ValueError(f"{os.fspath(path)!r} is not a JCAMP-DX spectrum: {error}") from error
    unit = str(content.get("xunits", "")).lower()
    if "micro" in unit:
        x = 1e4 / x
    elif "cm" not in unit:
        raise ValueError(
            f"{os.fspath(path)!r}: unknown x unit {unit!r}, expected 1/CM or MICROMETERS"
        )
    if "trans" in str(content.get("yunits", "")).lower():
        y = -np.log10(np.clip(y, 1e-3, None))
    order = np.argsort(x)
    y = y[order] - y.min()
    return x[order], y / max(float(y.max()), 1e-12)
