"""Operators for what atoms do by themselves against the modules they stand for."""

import copy

import pytest
import torch
from torch import nn

from npcalc.nn.hosts.base import PointSpec
from npcalc.nn.hosts.painn import PaiNNConfig, PaiNNLayer
from npcalc.ops import library
from npcalc.ops.atoms import FusedPerceptron, FusedUpdate, fuse_perceptrons, is_perceptron

TOLERANCES = {torch.float64: 1e-13, torch.float32: 2e-6}
ATOMS = (0, 1, 9, 16, 23, 40)
"""None, fewer than a block, a block, and blocks with one that is not full."""


@pytest.fixture(autouse=True)
def operators():
    library.load_operators()
    torch.manual_seed(0)


def perceptron(inputs, hidden, outputs, dtype):
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    ).to(dtype)  # fmt: skip


def assert_same_function(found, expected, arguments, dtype):
    """Values, and gradients by the arguments of a random combination of them."""
    results = []
    for function in (found, expected):
        value = function(*arguments)
        weights = torch.linspace(-1.0, 1.0, value.numel(), dtype=dtype).reshape(value.shape)
        results.append((value, *torch.autograd.grad((weights * value).sum(), arguments)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=10 * TOLERANCES[dtype], atol=TOLERANCES[dtype] * 10)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("sizes", [(64, 64, 192), (5, 16, 1), (40, 48, 33)])
def test_perceptron(sizes, dtype):
    module = perceptron(*sizes, dtype)
    for n in ATOMS:
        wide = 3.0 * torch.randn(n, sizes[0] + 7, dtype=dtype)
        x = wide[:, : sizes[0]].requires_grad_()  # rows of a wider state
        assert_same_function(FusedPerceptron(module), module, (x,), dtype)


def test_exponential_over_the_whole_range():
    """Of large arguments SiLU is the argument or zero, nowhere infinite or no number."""
    module = perceptron(1, 16, 1, torch.float64)
    with torch.no_grad():
        for part in (module[0], module[2]):
            part.weight.fill_(1.0)
            part.bias.zero_()
    for dtype in TOLERANCES:
        module = module.to(dtype)
        x = torch.cat([torch.linspace(-60, 60, 2000), torch.tensor([-1e4, -800.0, 800.0, 1e4])])
        x = x.to(dtype)[:, None].requires_grad_()
        assert_same_function(FusedPerceptron(module), module, (x,), dtype)
    undefined = torch.full((1, 1), float("nan"))
    assert FusedPerceptron(module)(undefined).isnan().all()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("channels", [16, 48, 64])
def test_update_block(channels, dtype):
    spec = PointSpec(n_types=2, n_distances=1, n_directions=1, cutoff=4.0, n_neighbors=5.0)
    layer = PaiNNLayer(spec, PaiNNConfig(channels=channels), False).to(dtype)
    for n in ATOMS:
        x = torch.randn(n, 4 * channels, dtype=dtype, requires_grad=True)
        ds = torch.randn(n, channels, dtype=dtype, requires_grad=True)
        dv = torch.randn(n, 3, channels, dtype=dtype, requires_grad=True)

        def expected(x, ds, dv):
            return layer.update_block(layer.scalars(x) + ds, layer.vectors(x) + dv)

        assert_same_function(FusedUpdate(layer), expected, (x, ds, dv), dtype)


def test_threads_agree():
    module = perceptron(16, 32, 3, torch.float32)
    x, fused = torch.randn(3000, 16), FusedPerceptron(module)
    found = []
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(fused(x))
    torch.set_num_threads(1)
    assert torch.equal(*found)


def test_what_is_a_perceptron():
    linear, silu = nn.Linear(16, 16), nn.SiLU()
    assert is_perceptron(nn.Sequential(linear, silu, nn.Linear(16, 5)))
    others = [
        linear,
        nn.Sequential(linear, silu),
        nn.Sequential(linear, nn.Tanh(), linear),
        nn.Sequential(nn.Linear(16, 20), silu, nn.Linear(20, 16)),
        nn.Sequential(nn.Linear(16, 16, bias=False), silu, linear),
        nn.Sequential(linear, silu, linear, silu),
    ]
    assert not any(map(is_perceptron, others))


def test_perceptrons_are_found_wherever_they_are():
    model = nn.ModuleDict(
        {"a": nn.ModuleList([perceptron(4, 16, 2, torch.float32)]), "b": nn.SiLU()}
    )
    x = torch.randn(3, 4)
    expected = model["a"][0](x)
    fused = copy.deepcopy(model)
    fuse_perceptrons(fused)
    assert isinstance(fused["a"][0], FusedPerceptron)
    torch.testing.assert_close(fused["a"][0](x), expected)


def test_wrong_sizes_are_refused():
    fused = FusedPerceptron(perceptron(8, 16, 4, torch.float32))
    with pytest.raises(RuntimeError, match="weights has shape"):
        fused(torch.randn(3, 9))
    with pytest.raises(RuntimeError, match="multiple of 16, got 20"):
        torch.ops.npcalc.perceptron(torch.randn(3, 8), fused.weights, 20, 4)
    for name in ("ds", "dv", "x"):
        shapes = {"x": (3, 64), "ds": (3, 16), "dv": (3, 3, 16)}
        shapes[name] = (*shapes[name][:-1], 32)
        tensors = [torch.randn(shapes[k]) for k in ("x", "ds", "dv")]
        with pytest.raises(RuntimeError, match=r"painn_update: .* has shape"):
            torch.ops.npcalc.painn_update(*tensors, torch.zeros(5), 1e-8)


def test_there_are_no_second_derivatives():
    fused = FusedPerceptron(perceptron(8, 16, 4, torch.float64))
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(fused(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(gradient.sum(), x)


def test_shapes_that_the_compiler_is_told():
    """Of meta tensors and of real ones."""
    fused = FusedPerceptron(perceptron(8, 16, 4, torch.float32))
    y, h = torch.ops.npcalc.perceptron(torch.randn(3, 8), fused.weights, 16, 4)
    calls = [
        (torch.ops.npcalc.perceptron, (torch.randn(3, 8), fused.weights, 16, 4)),
        (torch.ops.npcalc.perceptron_backward, (y, h, fused.weights, 8)),
    ]
    for operation, arguments in calls:
        torch.library.opcheck(
            operation.default, arguments, test_utils=("test_schema", "test_faketensor")
        )
