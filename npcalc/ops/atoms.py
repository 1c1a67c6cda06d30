"""What `PaiNN` does on each atom by itself as the operators of ``atoms.cpp``."""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..nn.hosts.painn import PaiNNLayer
from .packing import pack, pack_bias
from .replace import replace_modules


class FusedPerceptron(nn.Module):
    """The same function as linear, SiLU, linear, on the CPU, with first derivatives by its argument.

    Args:
        perceptron: What it stands for; its weights are packed now, and are those of later calls too.
    """

    def __init__(self, perceptron: nn.Sequential) -> None:
        super().__init__()
        first, last = layers_of(perceptron)
        self.weights = torch.cat(packed_perceptron(perceptron))
        self.hidden, self.outputs = first.out_features, last.out_features

    def forward(self, x: Tensor) -> Tensor:
        """From (n, inputs) to (n, outputs)."""
        return torch.ops.npcalc.perceptron(x, self.weights, self.hidden, self.outputs)[0]


class FusedUpdate:
    """The update block of a `PaiNNLayer`, on the CPU, with first derivatives by its arguments.

    Args:
        layer: The layer; its weights are packed now, and are those of later calls too.
    """

    def __init__(self, layer: PaiNNLayer) -> None:
        mix = layer.mix.weight.detach()
        parts = (pack(mix.T).flatten(), pack(mix).flatten(), *packed_perceptron(layer.update))
        self.weights = torch.cat(parts)
        self.epsilon = layer.epsilon

    def __call__(self, x: Tensor, ds: Tensor, dv: Tensor) -> Tensor:
        """New state (n_atoms, 4 c).

        Args:
            x: State of scalars and, behind them, vectors, shape (n_atoms, 4 c).
            ds: Messages to scalars, shape (n_atoms, c).
            dv: Messages to vectors, shape (n_atoms, 3, c).
        """
        return torch.ops.npcalc.painn_update(x, ds, dv, self.weights, self.epsilon)[0]


def layers_of(perceptron: nn.Sequential) -> tuple[nn.Linear, nn.Linear]:
    """Its linear parts."""
    first, _, last = perceptron
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return first, last


def packed_perceptron(perceptron: nn.Sequential) -> tuple[Tensor, ...]:
    """Weights and biases of both layers, and the transposes of the weights, packed and flat."""
    first, last = layers_of(perceptron)
    w0, w1 = first.weight.detach(), last.weight.detach()
    b0, b1 = pack_bias(first.bias.detach()), pack_bias(last.bias.detach())
    parts = (pack(w0.T), b0, pack(w1.T), b1, pack(w0), pack(w1))
    return tuple(part.flatten() for part in parts)


def is_perceptron(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether a module is linear, SiLU, linear, of sizes that the operator can do."""
    if type(module) is not nn.Sequential or len(module) != 3:
        return False
    first, activation, last = module
    return (
        # Classes derived from these may be another function.
        type(first) is nn.Linear
        and type(activation) is nn.SiLU
        and type(last) is nn.Linear
        and isinstance(first.bias, Tensor)
        and isinstance(last.bias, Tensor)
        and first.out_features % 16 == 0
    )


def fuse_perceptrons(model: nn.Module) -> None:
    """Puts the operator in place of all perceptrons of a model, whose weights are to stay what they are."""
    replace_modules(model, lambda m: FusedPerceptron(m) if is_perceptron(m) else None)


def register() -> None:
    """Tells torch shapes and derivatives of the operators, once they are loaded."""
    library = torch.library
    library.register_fake("npcalc::perceptron", _shape_of_perceptron)
    library.register_fake("npcalc::perceptron_backward", _shape_of_gradient)
    library.register_fake("npcalc::painn_update", _shape_of_update)
    library.register_fake("npcalc::painn_update_backward", _shape_of_update_gradient)
    library.register_autograd(
        "npcalc::perceptron", _perceptron_backward, setup_context=_save_perceptron
    )
    library.register_autograd("npcalc::painn_update", _update_backward, setup_context=_save_update)
    for name in ("perceptron", "painn_update"):
        library.register_autograd(f"npcalc::{name}_backward", _no_second)


def _shape_of_perceptron(
    x: Tensor, weights: Tensor, hidden: int, outputs: int
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], outputs), x.new_empty(x.shape[0], hidden)


def _shape_of_gradient(by_y: Tensor, h: Tensor, weights: Tensor, inputs: int) -> Tensor:
    return h.new_empty(h.shape[0], inputs)


def _shape_of_update(
    x: Tensor, ds: Tensor, dv: Tensor, weights: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], 9 * ds.shape[1])


def _shape_of_update_gradient(by: Tensor, *rest: Any) -> Tensor:
    return by.new_empty(by.shape)


def _save_perceptron(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weights, *_ = inputs
    ctx.inputs = x.shape[1]
    ctx.save_for_backward(output[1], weights)
    ctx.mark_non_differentiable(output[1])


def _perceptron_backward(ctx: Any, by_y: Tensor, by_h: Tensor) -> tuple[Tensor | None, ...]:
    by_x = torch.ops.npcalc.perceptron_backward(by_y, *ctx.saved_tensors, ctx.inputs)
    return by_x, None, None, None


def _save_update(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.epsilon = inputs[4]
    ctx.save_for_backward(output[1], inputs[3])
    ctx.mark_non_differentiable(output[1])


def _update_backward(ctx: Any, by: Tensor, by_kept: Tensor) -> tuple[Tensor | None, ...]:
    by_x = torch.ops.npcalc.painn_update_backward(by, *ctx.saved_tensors, ctx.epsilon)
    c = by_x.shape[1] // 4
    return by_x, by_x[:, :c], by_x[:, c:].unflatten(1, (3, c)), None, None


def _no_second(ctx: Any, *by: Tensor) -> tuple[Tensor, ...]:
    raise RuntimeError(
        "operators on atoms have no second derivatives: use the network without operators"
    )
