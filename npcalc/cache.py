"""Where machine code is kept, and what it depends on."""

import os
import platform
from pathlib import Path

import torch


def cache_folder() -> Path:
    """Folder of compiled code: ``NPCALC_CACHE``, else ``npcalc`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    given = os.environ.get("NPCALC_CACHE")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "npcalc"


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
