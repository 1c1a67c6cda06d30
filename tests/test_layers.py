"""Imports go down only, and optional or heavy libraries stay in one place each."""

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "npcalc"

# A module may import from its own layer and those before it.
LAYERS = [
    ["conventions", "_version", "errors", "files", "cache", "neighbors", "graph"],
    ["nn"],
    ["model"],
    ["ops"],
    ["potential"],
    ["builder", "data", "domain"],
    ["batches"],
    ["results"],
    ["committee", "calculator"],
    ["train", "md"],
    ["spectra"],
    ["demo"],
    ["cli", "__main__", "__init__"],
]
LEVEL = {name: k for k, names in enumerate(LAYERS) for name in names}

ONLY_IN = {
    "matscipy": {"neighbors.py"},
    "h5py": {"data/dataset.py", "md/trajectory.py"},
    "matplotlib": {"spectra/plot.py"},
    "jcamp": {"spectra/reference.py"},
    "accelerate": {"train/distributed.py"},
    "e3nn": {"nn/hosts/nequip.py", "nn/hosts/mace.py"},
    "typer": {f"cli/{name}.py" for name in ("common", "dynamics", "potentials", "spectra")},
}


def imports(path):
    """Absolute dotted names that a file imports."""
    place = ["npcalc", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = place[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            if node.module is None or module == "npcalc":
                yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(module):
    part = module.split(".")[1] if "." in module else "__init__"
    return LEVEL.get(part)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_down(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    own = LEVEL[parts[0]]
    for module in imports(path):
        if module.startswith("npcalc."):
            level = layer(module)
            assert level is None or level <= own, f"{path.name} imports {module}"
        top = module.split(".")[0]
        if top in ONLY_IN:
            assert str(path.relative_to(PACKAGE)) in ONLY_IN[top], f"{path.name} imports {top}"


def test_torchscript_is_known_in_one_file():
    users = {p.name for p in PACKAGE.rglob("*.py") if "torch.jit." in p.read_text()}
    # portable.py writes its language, archive.py makes and loads it.
    assert users == {"archive.py", "portable.py"}


def test_import_has_no_effects():
    """No default dtype, seed, threads or environment variables are changed; e3nn, which is slow, waits."""
    code = """
import os, sys, torch
before = (torch.get_default_dtype(), torch.initial_seed(), torch.get_num_threads(), dict(os.environ))
import npcalc
after = (torch.get_default_dtype(), torch.initial_seed(), torch.get_num_threads(), dict(os.environ))
assert before == after, (before, after)
npcalc.load_potential("ethanol-fast")
assert "e3nn" not in sys.modules
assert set(npcalc.__all__) >= {"NPCalculator", "load_potential", "save_potential", "__version__"}
"""
    # torch sets some of its own variables when it compiles: a test before this one may have.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TORCH", "TRITON"))}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=clean)


def test_every_package_is_installed():
    """Tests import the checkout; what setup.cfg does not name would be missing only for users."""
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    named = set(setup["options"]["packages"].split()) - {"npcalc.potentials"}
    found = {
        ".".join(p.parent.relative_to(PACKAGE.parent).parts) for p in PACKAGE.rglob("__init__.py")
    }
    assert named == found
