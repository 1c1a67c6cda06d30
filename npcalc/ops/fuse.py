"""Which models our operators serve, and how they are put into them."""

import warnings

from ..model import PolarizedModel
from . import library
from .convolution import can_fuse_products, fuse_products
from .painn import can_fuse_messages, fuse_messages


def can_fuse(model: PolarizedModel) -> bool:
    """Whether there is an operator for the messages of a model."""
    return can_fuse_messages(model) or can_fuse_products(model.host)


def operators_serve(model: PolarizedModel) -> bool:
    """Whether the operators can do the messages of a model here; loads them, builds them if need be.

    Warns where a compiler is there and cannot build them.

    Args:
        model: The model.
    """
    if model.isolated_energy.device.type != "cpu" or not can_fuse(model):
        return False
    try:
        library.load_operators()
    except (RuntimeError, OSError) as error:
        if library.find_compiler() is not None:
            lines = str(error).strip().splitlines()
            warnings.warn(
                f"the operators of npcalc could not be built ({lines[0]}): compiling without them, "
                f"which makes slower code",
                stacklevel=3,
            )
        return False
    return True


def fuse(model: PolarizedModel, constant: bool = True) -> None:
    """Makes the messages of a model the operator's.

    Args:
        model: The model.
        constant: Whether its weights will stay what they are now, as they do outside training.

    Raises:
        ValueError: `can_fuse` does not hold.
    """
    if can_fuse_messages(model):
        fuse_messages(model, constant)
    elif can_fuse_products(model.host):
        fuse_products(model.host)
    else:
        raise ValueError("the model has no layers that the operators can do; see can_fuse")
