"""Putting modules in place of others."""

from collections.abc import Callable

from torch import nn


def replace_modules(model: nn.Module, substitute: Callable[[nn.Module], nn.Module | None]) -> None:
    """Puts other modules in place of some below a model, wherever they are.

    Args:
        model: The model, which changes.
        substitute: What to put in place of a module, None where it stays.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            other = substitute(child)
            if other is not None:
                setattr(parent, name, other)
