"""Compiled packages: the same numbers for all sizes and hosts, kept, and safe without a compiler."""

import importlib
import shutil

import numpy as np
import pytest
import torch
from ase import Atoms
from systems import crystal, dimer, ethanol, make_graph, make_potential

import npcalc
from npcalc import NPCalculator
from npcalc.graph import AtomGraph, collate
from npcalc.ops import library
from npcalc.potential import Potential, bundled_potentials, package
from npcalc.potential.compiled import compile_graph, example_inputs, trace
from npcalc.potential.derivatives import OUTPUTS

NAMES = ("energy", "forces", "dipole", "charges", "energies")


@pytest.mark.parametrize(
    ("host", "form"),
    [
        # painn and nequip are compiled below
        ("egnn", "nodes-same"),
        ("et", "none"),
        ("tensornet", "geometry"),
        ("mace", "static"),
    ],
)
def test_exported_program_serves_other_sizes(host, form):
    potential = make_potential(host, form)
    program = package.export_program(potential.module).module()
    pair = collate([make_graph(potential, atoms) for atoms in (crystal(), ethanol())])
    single = make_graph(potential, ethanol())
    single = single._replace(cell=single.cell.repeat(2, 1, 1))
    for graph in (pair, single):
        for name, value in zip(OUTPUTS, program(*graph), strict=True):
            expected = potential.evaluate(graph)[name]
            np.testing.assert_allclose(value, expected, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("name", "channels"), [("painn", 8), ("painn", 16), ("nequip", 16)])
def test_compiled_equals_eager(monkeypatch, name, channels):
    """One compilation serves every structure, and the next process finds it.

    With 16 channels it uses our own operators, with 8 it cannot.
    """
    host = {"name": name, "channels": channels, "n_layers": 2, "n_basis": 6}
    potential = make_potential(host, charges="increments")
    fused = package.with_operators(potential.module) is not potential.module
    assert fused == (channels == 16)
    compiled, eager = NPCalculator(potential, compile=True), NPCalculator(potential)
    for atoms in (dimer(1.2), ethanol(), crystal(), Atoms("O"), dimer(9.0)):
        names = (*NAMES, "stress") if atoms.cell.rank == 3 else NAMES
        for name in names:
            np.testing.assert_allclose(
                compiled.get_property(name, atoms), eager.get_property(name, atoms), atol=1e-9
            )
    graphs = [make_graph(potential, atoms) for atoms in (ethanol(), crystal())]
    batch = collate(graphs)
    strided = batch._replace(edge_index=batch.edge_index.T.contiguous().T)
    found = potential.evaluate_compiled(strided)
    for name, value in potential.evaluate(batch).items():
        np.testing.assert_allclose(found[name], value, atol=1e-9, err_msg=name)
    # Several threads of Python may run it at once.
    torch.set_num_threads(2)
    frames = [ethanol(seed=k) for k in range(40)]
    results = npcalc.evaluate(potential, frames, compile=True, edges_per_batch=200)
    for one, atoms in zip(results, frames, strict=True):
        np.testing.assert_allclose(one["forces"], eager.get_forces(atoms), atol=1e-9)
    torch.set_num_threads(1)
    monkeypatch.setattr(package, "compile_package", None)
    same = Potential(potential.card, potential.weights, "cpu", "float64")
    again = NPCalculator(same, compile=True)
    np.testing.assert_array_equal(again.get_forces(ethanol()), compiled.get_forces(ethanol()))


@pytest.mark.parametrize("name", bundled_potentials())
def test_structure_to_compare_with_is_one_that_trained_networks_bear(name):
    potential = npcalc.load_potential(name)
    inputs = example_inputs(potential.module)
    positions, (center, neighbor) = inputs[0], inputs[3]
    lengths = (positions[neighbor] - positions[center]).norm(dim=1) / potential.card.model.cutoff
    assert lengths.min() > 0.4
    assert lengths.max() < 0.9
    out = potential.evaluate(AtomGraph(*inputs))
    assert all(v.isfinite().all() for v in out.values())
    assert out["forces"].abs().max() > 1e-3


def test_few_edges_have_one_thread(monkeypatch):
    """Waking another thread takes longer than what it does for a molecule."""
    potential = make_potential()
    seen = []

    def run(*arguments):
        seen.append(torch.get_num_threads())
        if len(seen) > 2:
            raise RuntimeError("no memory")
        with torch.enable_grad():
            return [t.detach() for t in potential.module(*arguments).values()]

    monkeypatch.setitem(vars(potential), "_package", package.Package(run, 10_000, True))
    small, large = make_graph(potential, ethanol()), make_graph(potential, crystal().repeat(3))
    torch.set_num_threads(2)
    try:
        potential.evaluate_compiled(small)
        potential.evaluate_compiled(large)
        with pytest.raises(RuntimeError, match="no memory"):
            potential.evaluate_compiled(small)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [1, 2, 1]


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    calculator = NPCalculator(make_potential(), compile=True)
    with pytest.warns(UserWarning, match="no C.. compiler found"):
        forces = calculator.get_forces(ethanol())
    np.testing.assert_array_equal(forces, NPCalculator(make_potential()).get_forces(ethanol()))


def test_damaged_package_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("NPCALC_CACHE", str(tmp_path))
    potential = make_potential()
    path = package.package_path(potential.sha256, potential.dtype, potential.device)
    path.write_bytes(b"no package")

    def fail(module, target):
        assert target == path
        raise RuntimeError("no memory")

    monkeypatch.setattr(package, "compile_package", fail)
    with pytest.warns(UserWarning, match="compilation failed .no memory"):
        NPCalculator(potential, compile=True).get_forces(ethanol())


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    """A package there that does not load is one warning, and the network serves."""
    monkeypatch.setenv("NPCALC_CACHE", str(tmp_path))
    potential = make_potential()
    path = package.package_path(potential.sha256, potential.dtype, potential.device)
    path.write_bytes(b"no package")

    def refuse(*arguments, **_):
        raise OSError(30, "Read-only file system")

    for name in ("unlink", "mkdir"):
        monkeypatch.setattr(f"pathlib.Path.{name}", refuse)
    with pytest.warns(UserWarning, match="compilation failed .*Read-only"):
        NPCalculator(potential, compile=True).get_forces(ethanol())
    assert path.read_bytes() == b"no package"


def test_energies_are_compared_above_those_of_the_atoms():
    """A thousandth of which would hide any fault."""
    potential = make_potential(card={"reference_energies": [-13.0, -1030.0, -2040.0]})
    module, inputs = potential.module, example_inputs(potential.module)
    expected = [value.detach() for value in module(*inputs).values()]
    package.check_outputs(module, inputs, expected, expected)
    wrong = [expected[0] + 0.3, *expected[1:]]
    with pytest.raises(RuntimeError, match=r"result 0 is off by 0\.3"):
        package.check_outputs(module, inputs, wrong, expected)


@pytest.mark.parametrize("channels", [8, 16])
def test_positions_that_are_no_numbers_give_none(channels):
    """With our own operators and without."""
    potential = make_potential({"name": "painn", "channels": channels, "n_layers": 2, "n_basis": 6})
    graph = make_graph(potential, ethanol())
    graph.positions[3] = float("nan")
    for evaluate in (potential.evaluate, potential.evaluate_compiled):
        assert evaluate(graph)["forces"].isnan().all(1).any()


def test_memory_bounds_what_is_evaluated_at_once(monkeypatch):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 << 20}
    monkeypatch.setattr("os.sysconf", sizes.__getitem__)
    assert package.edges_at_once() == 8 * 2**30 // 3 // package.BYTES_OF_EDGE

    def unknown(name):
        raise ValueError(name)

    monkeypatch.setattr("os.sysconf", unknown)
    assert package.edges_at_once() > 10_000


def test_path_depends_on_the_source_of_a_host_of_ones_own(tmp_path, monkeypatch):
    potential = make_potential("painn", "geometry")
    assert package.foreign_source(potential.module) == ""
    found = []
    for factor in (1.0, 2.0):
        code = f"""
from npcalc.nn.hosts.painn import PaiNN
class Mine(PaiNN):
    def energy(self, states):
        return {factor} * super().energy(states)
"""
        (tmp_path / f"mine{int(factor)}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        module = importlib.import_module(f"mine{int(factor)}")
        potential.module.edge_potential.model.host.__class__ = module.Mine
        found.append(package.foreign_source(potential.module))
    assert "1.0 * super" in found[0]
    assert "2.0 * super" in found[1]
    paths = {package.package_path("", "float32", potential.device, source=s) for s in found}
    assert len(paths) == 2


def test_code_without_a_file_is_known_by_what_it_does():
    """As in a notebook: by names and constants too, and in each session alike."""

    def method_of(body):
        space = {}
        exec(f"def energy(states):\n    return {body}", space)
        return package._facts_of(space["energy"].__code__)

    bodies = (
        "sum(states)",
        "max(states)",
        "sum(states) + 1",
        "sum(s + 1 for s in states)",
        "sum(s + 2 for s in states)",
    )
    assert len({method_of(body) for body in bodies}) == len(bodies)
    assert method_of(bodies[3]) == method_of(bodies[3])
    # Sets have no order of their own.
    one, other = (package._fact_of(frozenset(text)) for text in ("abcdefgh", "hgfedcba"))
    assert one == other


def test_kept_code_of_a_host_that_calls_other_code_now_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("NPCALC_CACHE", str(tmp_path))
    potential = make_potential("egnn", "geometry")
    monkeypatch.setattr(package, "foreign_source", lambda module: "class Mine: ...")
    other = make_potential("egnn", "geometry", card={"scale": 2.0}).module
    made = []

    def compile_package(module, path):
        made.append(path)
        path.write_text("new")

    def load(path, module, fused):
        function = module if path.read_text() == "new" else other

        def run(*inputs):
            with torch.enable_grad():
                return [t.detach() for t in function(*inputs).values()]

        return run

    monkeypatch.setattr(package, "compile_package", compile_package)
    monkeypatch.setattr(package, "_load", load)
    path = package.package_path(
        potential.sha256, potential.dtype, potential.device, source="class Mine: ..."
    )
    path.write_text("old")
    for _ in range(2):
        package.load_package(potential.module, potential.sha256, potential.dtype)
    assert made == [path]


def test_path_depends_on_what_is_compiled():
    a, b = make_potential(seed=0), make_potential(seed=1)
    paths = {package.package_path(p.sha256, p.dtype, p.device) for p in (a, b, a)}
    paths.add(package.package_path(a.sha256, "float32", a.device))
    # The constants of the card are in the machine code as well.
    for card in ({"scale": 9.0}, {"reference_energies": (0.0, 1.0, 2.0)}):
        other = make_potential(card=card)
        paths.add(package.package_path(other.sha256, other.dtype, other.device))
    assert len(paths) == 5


def test_path_depends_on_the_code_that_is_compiled(tmp_path, monkeypatch):
    """Whoever changes a file of these folders gets another package and not the old one."""
    shutil.copytree(package.SOURCES, tmp_path / "npcalc", ignore=shutil.ignore_patterns("*.pyc"))
    monkeypatch.setattr(package, "SOURCES", tmp_path / "npcalc")
    changed = ["model/network.py", "nn/hosts/painn.py", "ops/common.h", "potential/derivatives.py"]
    paths = set()
    for name in changed:
        paths.add(package.package_path("", "float32", torch.device("cpu")))
        with (tmp_path / "npcalc" / name).open("a") as file:
            file.write("\n")
    paths.add(package.package_path("", "float32", torch.device("cpu")))
    assert len(paths) == 1 + len(changed)


@pytest.mark.parametrize("wrong", ["result", "gradient"])
def test_wrong_machine_code_is_not_used(monkeypatch, wrong):
    """A compiler that makes other results, or another gradient, is noticed."""
    graph = trace(lambda x: (x * x).sum(), torch.ones(3))

    def faulty(function, **_):
        if wrong == "result":
            return lambda x: 1.01 * function(x)
        return lambda x: function(x).detach() + 0.99 * (function(x) - function(x).detach())

    monkeypatch.setattr(torch, "compile", faulty)
    monkeypatch.setattr("npcalc.potential.compiled.compiler_available", lambda: True)
    example = torch.arange(3.0).requires_grad_()
    with pytest.warns(UserWarning, match="the compiler made wrong code"):
        assert compile_graph(graph, [example]) is graph
