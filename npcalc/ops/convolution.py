"""Sums of `npcalc.nn.tensor_product` as the operator of ``convolution.cpp``."""

from typing import Any

import torch
from torch import Tensor, nn

from ..nn.tensor_product import BlockSum, TensorProduct
from .replace import replace_modules

N_ARGUMENTS = 8
"""Arguments that the operators share: three to differentiate by, two of edges, three of the table."""


class FusedTensorProduct(nn.Module):
    """The same function as a `TensorProduct`, on the CPU, with first and second derivatives.

    Args:
        product: What it stands for.
    """

    def __init__(self, product: TensorProduct) -> None:
        super().__init__()
        table = product.table.reshape(product.shape).permute(1, 2, 0)  # (Q, d_in, n_harmonics)
        entries = table.nonzero()  # in the order of its columns
        values = table[tuple(entries.T)]
        counts = [dim for n, dim in zip(product.paths, product.dims, strict=True) for _ in range(n)]
        paths = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self.entries: Tensor
        self.values: Tensor
        self.paths: Tensor
        self.register_buffer("entries", entries, persistent=False)
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("paths", paths, persistent=False)

    def forward(
        self, weight: Tensor, harmonics: Tensor, x: Tensor, center: Tensor, neighbor: Tensor
    ) -> Tensor:
        """As `TensorProduct.forward`."""
        table = (self.entries, self.values, self.paths)
        return torch.ops.npcalc.convolution(weight, harmonics, x, center, neighbor, *table)


def can_fuse_products(model: nn.Module) -> bool:
    """Whether a model has tensor products, and the operator can do all of them."""
    products = [m for m in model.modules() if isinstance(m, TensorProduct)]
    # Classes derived from these may be another function.
    return bool(products) and all(
        type(p) in (TensorProduct, BlockSum) and p.channels % 16 == 0 for p in products
    )


def fuse_products(model: nn.Module) -> None:
    """Puts the operator in place of the tensor products of a model."""
    replace_modules(
        model, lambda m: FusedTensorProduct(m) if isinstance(m, TensorProduct) else None
    )


def register() -> None:
    """Tells torch shapes and derivatives of the operators, once they are loaded."""
    library = torch.library
    library.register_fake("npcalc::convolution", _shape)
    library.register_fake("npcalc::convolution_backward", _shape_of_gradient)
    library.register_fake("npcalc::convolution_second_backward", _shape_of_second_gradient)
    library.register_autograd("npcalc::convolution", _backward, setup_context=_save)
    library.register_autograd("npcalc::convolution_backward", _second, setup_context=_save)
    library.register_autograd("npcalc::convolution_second_backward", _third)


def _shape(w: Tensor, y: Tensor, x: Tensor, *rest: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], rest[-1].shape[0], x.shape[2])


def _shape_of_gradient(g: Tensor, *shared: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in shared[:3])


def _shape_of_second_gradient(*arguments: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in arguments[3:7])


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    found = torch.ops.npcalc.convolution_backward(g, *ctx.saved_tensors)
    return (*found, *[None] * (N_ARGUMENTS - 3))


def _second(ctx: Any, *along: Tensor) -> tuple[Tensor | None, ...]:
    found = torch.ops.npcalc.convolution_second_backward(*along, *ctx.saved_tensors)
    return (*found, *[None] * (N_ARGUMENTS - 3))


def _third(ctx: Any, *by: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError(
        "npcalc::convolution_second_backward has no derivatives: they would be third ones"
    )
