"""Machine code that nothing uses any more goes, and nothing else does."""

import os
import time

import torch
from systems import make_potential

from npcalc.cache import mark_used, remove_unused
from npcalc.potential import package

OLD, NEW = "0" * 32 + ".pt2", "1" * 32 + ".pt2"


def make(folder, name, days):
    path = folder / name
    path.write_bytes(b"code")
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then))
    return path


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_old_code_is_removed(tmp_path):
    operators = f"operators-{'a' * 32}.so"
    stay = [NEW, "notes.pt2", f"{'0' * 31}.pt2", "old.so"]
    for name in (OLD, operators, *stay[1:]):
        make(tmp_path, name, days=91)
    make(tmp_path, NEW, days=89)
    (tmp_path / ("2" * 32 + ".pt2")).mkdir()  # cannot be removed as a file is: no error
    os.utime(tmp_path / ("2" * 32 + ".pt2"), (0, 0))
    remove_unused(tmp_path)
    assert names(tmp_path) == {*stay, "2" * 32 + ".pt2"}


def test_code_in_use_stays(tmp_path):
    path = make(tmp_path, OLD, days=91)
    mark_used(path)
    remove_unused(tmp_path)
    assert path.exists()
    mark_used(tmp_path / "gone")  # no error


def test_what_compiles_removes(tmp_path, monkeypatch):
    make(tmp_path, OLD, days=91)
    module = make_potential().module

    def compiler(program, package_path, inductor_configs):
        with open(package_path, "wb") as file:
            file.write(b"code")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compiler)
    monkeypatch.setattr(package, "_load", lambda path, module, fused: module)
    monkeypatch.setattr(package, "_check", lambda module, run: None)
    package.compile_package(module, tmp_path / NEW)
    assert names(tmp_path) == {NEW}


def test_what_loads_notes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NPCALC_CACHE", str(tmp_path))
    potential = make_potential()
    fused = package.ops.operators_serve(potential.module.edge_potential.model)
    path = package.package_path(potential.sha256, potential.dtype, potential.device, fused)
    make(tmp_path, path.name, days=91)
    monkeypatch.setattr(package, "_load", lambda path, module, fused: module)
    assert package.load_package(potential.module, potential.sha256, potential.dtype) is not None
    remove_unused(tmp_path)
    assert path.exists()
