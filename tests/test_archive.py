"""The file of a potential: contents, use without npcalc, and what is wrong with bad files."""

import json
import shutil
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch
from ase import Atoms
from systems import HOSTS, crystal, ethanol, evaluate, make_graph, make_potential
from torch.utils.cpp_extension import include_paths, library_paths

import npcalc
from npcalc.graph import collate
from npcalc.nn.hosts.painn import PaiNN
from npcalc.potential import ArchiveError
from npcalc.potential.archive import CARD, WEIGHTS
from npcalc.potential.card import FORMAT


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    potential = make_potential("painn", "geometry")
    path = tmp_path_factory.mktemp("written") / "p.pt"
    potential.save(path)
    return potential, path


@pytest.fixture
def saved(written, tmp_path):
    """A potential and a file of it that a test may spoil."""
    potential, path = written
    return potential, shutil.copy(path, tmp_path / "p.pt")


STRUCTURES = [ethanol(), crystal(), Atoms("C"), Atoms("OH", [[0, 0, 0], [0, 0, 9.0]])]
"""A molecule, a periodic structure, an atom, and atoms out of each other's reach."""

# Each network is traced anew, so not all forms with all hosts.
SOME = [("painn", f) for f in ("none", "geometry", "nodes-same")]
SOME += [
    ("egnn", "none"),
    ("painn", "heads-4"),
    ("painn", "shifts-2"),
    ("painn", "products-2"),
    ("mace", "shifts-2"),
    ("et", "heads-4"),
    ("et", "products-2"),
    ("tensornet", "nodes-same"),
    ("mace", "geometry"),
    ("nequip", "geometry-4"),
    ("nequip-both", "nodes-all-2"),
    ("painn", "nodes-all-2"),
]


@pytest.mark.parametrize(("host", "form"), SOME)
def test_round_trip_and_torchscript(host, form, tmp_path):
    potential = make_potential(host, form)
    npcalc.save_potential(potential, tmp_path / "p.pt")
    again = npcalc.load_potential(tmp_path / "p.pt", dtype="float64")
    assert again.card == potential.card
    a, b = evaluate(potential, ethanol()), evaluate(again, ethanol())
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    scripted = npcalc.load_potential(tmp_path / "p.pt")  # float32, evaluated by TorchScript
    for structure in STRUCTURES:
        for _ in range(3):  # the profiling executor changes its mind after the first calls
            out = evaluate(scripted, structure)
        expected = evaluate(potential, structure)
        assert set(out) == set(expected)
        for name in expected:
            scale = np.abs(expected[name]).max(initial=0.0) + 1e-3
            assert np.abs(out[name] - expected[name]).max(initial=0.0) < 1e-4 * scale, name


def test_round_trip_of_the_degree_that_is_as_wide_as_the_example(tmp_path):
    """l = 3 has seven components, as many as what is traced has atoms."""
    host = {**HOSTS["nequip"], "l_max": 3, "n_layers": 2, "channels": 2}
    potential = make_potential(host, "geometry", dtype="float32")
    potential.save(tmp_path / "p.pt")
    loaded = npcalc.load_potential(tmp_path / "p.pt")
    expected = evaluate(potential, ethanol())
    for name, value in evaluate(loaded, ethanol()).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-3, err_msg=name)


def test_code_that_has_changed_since_is_warned_of(monkeypatch, tmp_path):
    potential = make_potential(
        "painn", "geometry", dtype="float32", card={"versions": {"npcalc": "0"}}
    )
    potential.save(tmp_path / "p.pt")
    npcalc.load_potential(tmp_path / "p.pt")  # another version, but the same function
    real = PaiNN.energy
    monkeypatch.setattr(PaiNN, "energy", lambda self, states: 1.1 * real(self, states))
    with pytest.warns(UserWarning, match="has changed since its file was written: energies"):
        npcalc.load_potential(tmp_path / "p.pt")


def test_a_script_that_this_torch_cannot_load(saved, monkeypatch):
    """The network serves in its place."""
    _, path = saved
    expected = evaluate(npcalc.load_potential(path), ethanol())

    def fail(*_, **__):
        raise RuntimeError("Unknown builtin op: aten::new_one")

    monkeypatch.setattr(torch.jit, "load", fail)
    with pytest.warns(UserWarning, match="Unknown builtin op: aten::new_one.: going on with"):
        potential = npcalc.load_potential(path)
    found = evaluate(potential, ethanol())
    np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-5)


def test_a_script_that_gives_something_else(monkeypatch, tmp_path):
    potential = make_potential(
        "painn", "geometry", dtype="float32", card={"versions": {"npcalc": "0"}}
    )
    potential.save(tmp_path / "p.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: lambda *_: {"energies": torch.zeros(7)})
    with pytest.raises(ArchiveError, match="gives no forces, virial"):
        npcalc.load_potential(tmp_path / "p.pt")


def test_script_serves_batches(written):
    """Structures of different sizes at once, one of them without edges."""
    potential, path = written
    graphs = [make_graph(potential, s) for s in STRUCTURES]
    out = npcalc.load_potential(path).evaluate(collate(graphs))
    expected = potential.evaluate(collate(graphs))
    for name in expected:
        torch.testing.assert_close(out[name], expected[name], rtol=1e-4, atol=1e-4)


def test_runs_in_a_process_without_npcalc(saved, tmp_path):
    """Energies, forces, virial, dipole, charges and displacements from torch alone."""
    potential, path = saved
    graph = make_graph(potential, ethanol())
    np.savez(tmp_path / "in.npz", *(t.numpy() for t in graph))
    script = f"""
import sys
sys.modules["npcalc"] = None  # any import of it fails
import numpy as np, torch
tensors = [torch.from_numpy(v) for v in np.load({str(tmp_path / "in.npz")!r}).values()]
out = torch.jit.load({str(path)!r})(*tensors)
np.savez({str(tmp_path / "out.npz")!r}, **{{k: v.detach().numpy() for k, v in out.items()}})
"""
    subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", script], check=True, cwd=tmp_path, timeout=300
    )
    out = np.load(tmp_path / "out.npz")
    expected = evaluate(make_potential("painn", "geometry", dtype="float32"), ethanol())
    assert {"energies", "forces", "virial", "dipole", "charges", "displacements"} <= set(out)
    for name in expected:
        scale = np.abs(expected[name]).max(initial=0.0) + 1e-9
        assert np.abs(out[name] - expected[name]).max(initial=0.0) < 1e-4 * scale, name


CPP = """
#include <torch/script.h>
#include <iostream>
int main(int, char** argv) {
  auto potential = torch::jit::load(argv[1]);
  auto graph = torch::jit::load(argv[2]);
  std::vector<torch::IValue> in;
  for (auto name : {"positions", "cell", "species", "edge_index", "shifts", "batch"})
    in.push_back(graph.attr(name));
  for (int call = 0; call < 3; ++call) {
    auto out = potential.forward(in).toGenericDict();
    std::cout << out.at("energies").toTensor().sum().item<double>() << " "
              << out.at("forces").toTensor().norm().item<double>() << " "
              << out.at("dipole").toTensor().norm().item<double>() << "\\n";
  }
}
"""


class Holder(torch.nn.Module):
    """Tensors by name, in a file that C++ can read."""

    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_runs_from_cpp(saved, tmp_path):
    potential, path = saved
    torch.jit.save(
        torch.jit.script(Holder(make_graph(potential, ethanol())._asdict())), tmp_path / "in.pt"
    )
    (tmp_path / "main.cpp").write_text(CPP)
    folders = [f"-isystem{p}" for p in include_paths()] + [f"-L{p}" for p in library_paths()]
    rpath = [f"-Wl,-rpath,{p}" for p in library_paths()]
    command = ["g++", "-std=c++20", "-O0", "main.cpp", *folders, *rpath]
    command += ["-ltorch", "-ltorch_cpu", "-lc10", "-o", "main"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=600)
    run = subprocess.run(
        ["./main", path, "in.pt"], check=True, cwd=tmp_path, timeout=300, capture_output=True
    )
    values = np.array([line.split() for line in run.stdout.decode().splitlines()], dtype=float)
    out = evaluate(make_potential("painn", "geometry", dtype="float32"), ethanol())
    expected = [out["energies"].sum(), np.linalg.norm(out["forces"]), np.linalg.norm(out["dipole"])]
    np.testing.assert_allclose(values, [expected] * 3, rtol=1e-4)


def test_card_and_weights_can_be_read_with_unzip(saved):
    _, path = saved
    with zipfile.ZipFile(path) as archive:
        names = {n.rsplit("/", 1)[-1]: n for n in archive.namelist()}
        card = json.loads(archive.read(names[CARD]))
        assert WEIGHTS in names
    assert card["model"]["cutoff"] == 4.0


def test_existing_file_is_not_overwritten(saved):
    potential, path = saved
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="exists"):
        potential.save(path)
    assert path.read_bytes() == before
    potential.save(path, overwrite=True)
    assert not list(path.parent.glob("*partial*"))


def test_unknown_name_lists_what_exists():
    with pytest.raises(
        FileNotFoundError, match=r"no potential 'etanol'.*bundled potentials are: .*ethanol"
    ):
        npcalc.load_potential("etanol")


def test_file_that_is_no_potential(tmp_path):
    path = tmp_path / "x.pt"
    path.write_text("not a potential")
    with pytest.raises(ArchiveError, match="is not a potential"):
        npcalc.load_potential(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data", "1")
    with pytest.raises(ArchiveError, match=r"holds no card\.json"):
        npcalc.load_potential(path)


@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_truncated_file(saved, kept):
    _, path = saved
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ArchiveError, match="truncated"):
        npcalc.load_potential(path)


def changed_copy(path, target, change):
    """A copy of a potential with another card."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            new.writestr(name, change(raw) if name.endswith(CARD) else raw)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda raw: raw.replace(b'"format": %d' % FORMAT, b'"format": 99'),
            "format 99.*update npcalc",
        ),
        (lambda raw: b"{", "card .* cannot be read"),
        (lambda raw: raw.replace(b'"scale"', b'"skale"'), "not valid: (scale|skale)"),
        (lambda raw: raw.replace(b'"channels": 8', b'"channels": 9'), "expected shape"),
        (lambda raw: raw.replace(b'"n_layers": 2', b'"n_layers": 3'), "do not fit"),
    ],
)
def test_damaged_or_newer_card(saved, tmp_path, change, match):
    _, path = saved
    changed_copy(path, tmp_path / "other.pt", change)
    with pytest.raises(ArchiveError, match=match):
        npcalc.load_potential(tmp_path / "other.pt")


def test_unknown_dtype(saved):
    with pytest.raises(ValueError, match="expected float32 or float64"):
        npcalc.load_potential(saved[1], dtype="float16")


def test_one_wrong_bit_anywhere_is_found(saved):
    """Also in what torch reads without looking at the checksums."""
    _, path = saved
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = [e for e in archive.infolist() if e.compress_size > 100]
    assert len(entries) > 5
    for entry in entries:
        spoilt = bytearray(whole)
        # Past the header of 30 bytes, the name, and what pads it to a multiple of 64 bytes.
        start = entry.header_offset + 30 + len(entry.filename)
        start += int.from_bytes(
            whole[entry.header_offset + 28 : entry.header_offset + 30], "little"
        )
        spoilt[start + entry.compress_size // 2] ^= 4
        path.write_bytes(bytes(spoilt))
        with pytest.raises(ArchiveError, match="damaged"):
            npcalc.load_potential(path)


def test_a_compressed_entry_that_is_damaged(saved, monkeypatch):
    """Its wrong bit may be one that cannot be decompressed, and does not get as far as its checksum."""
    _, path = saved

    def fail(_):
        raise zlib.error("invalid block type")

    monkeypatch.setattr(zipfile.ZipFile, "testzip", fail)
    with pytest.raises(ArchiveError, match="damaged"):
        npcalc.load_potential(path)
