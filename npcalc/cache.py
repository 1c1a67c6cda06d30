"""Where machine code is kept, and what it depends on."""

import os
import platform
import re
import time
from contextlib import suppress
from pathlib import Path

import torch

OWN_NAME = re.compile(r"[0-9a-f]{32}\.pt2|operators-[0-9a-f]{32}\.so")
"""Names of files in the folder that are of this package."""

DAYS_KEPT = 90
"""Days without use after which machine code goes; it is made again where it is needed."""


def cache_folder() -> Path:
    """Folder of compiled code: ``NPCALC_CACHE``, else ``npcalc`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    given = os.environ.get("NPCALC_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "npcalc"


def mark_used(path: Path) -> None:
    """Notes that machine code is in use, where the folder may be written to."""
    with suppress(OSError):
        os.utime(path)


def remove_unused(folder: Path) -> None:
    """Removes machine code of potentials, versions and machines that nothing has used for long.

    Args:
        folder: Folder of compiled code; other files in it stay.
    """
    earliest = time.time() - DAYS_KEPT * 24 * 3600
    found: list[Path] = []
    with suppress(OSError):
        found = list(folder.iterdir())
    for path in found:
        if not OWN_NAME.fullmatch(path.name):
            continue
        with suppress(OSError):  # gone meanwhile, or somebody else's
            times = path.stat()
            if max(times.st_atime, times.st_mtime) < earliest:
                path.unlink()


def processor(device: torch.device) -> str:
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
