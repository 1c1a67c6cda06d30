"""Whether data and configuration fit: each label that is asked for is there, and nothing is untrained."""

from ..data import LABELS, DataSet
from ..errors import naming
from ..model import PolarizedModel
from ..nn.polarization import Displacement
from .config import TrainConfig


def check_labels(config: TrainConfig, splits: dict[str, DataSet]) -> None:
    """Refuses a run whose labels do not train what its potential would report.

    Args:
        config: The run.
        splits: Its data.

    Raises:
        ValueError: A label with a weight is in no structure, nothing has a weight, or the dipole
            would be untrained.
    """
    loss, model = config.loss, config.model
    wanted = [name for name in LABELS if getattr(loss, name) > 0.0]
    wanted += list(model.properties)
    if not wanted:
        raise ValueError("loss: all weights are 0, so there is nothing to train on")
    if loss.dipole > 0.0 and not model.dipole:
        if config.start_from is not None:
            raise ValueError(
                "loss.dipole > 0, but the potential that training starts from has no dipole: set it to 0"
            )
        raise ValueError("loss.dipole > 0 needs model.dipole: true; set one of them")
    if loss.centroids > 0.0 and not (model.dipole and model.polarization == "moving"):
        raise ValueError(
            "loss.centroids > 0 needs model.dipole: true and model.polarization: moving"
        )
    learned = model.polarization == "moving" or model.charges == "increments"
    has_one = model.dipole or model.charges == "increments"
    trained = config.trains_dipole or config.trains_dipole_norm
    # What starts from a potential with a dipole goes on without one where there are no labels.
    if has_one and learned and not trained and config.start_from is None:
        raise ValueError(
            "loss.dipole is 0, so nothing trains the dipole and charges of this model, and a "
            "potential must not report them: set model.dipole: false and no charge increments, "
            "or give dipole labels and a weight"
        )
    more = "" if config.start_from is not None else " and model.dipole: false"
    hints = {"dipole": f"; to train without dipoles set loss.dipole: 0{more}"}
    for name in wanted:
        keys = config.data.keys
        if keys and name not in keys:
            raise ValueError(
                f"data.keys names the labels that are read, {', '.join(keys)}, and not {name!r}, which "
                f"has a weight: add it, or set its weight to 0"
            )
        with naming(config.data.train):
            splits["train"].require(name, hints.get(name, ""))
    validation = splits["validation"].labels
    if not any(n in validation and validation[n].present.any() for n in wanted):
        raise ValueError(
            f"no structure to validate on has one of the labels that are trained "
            f"({', '.join(wanted)}): the best weights could not be told"
        )


def check_movement(polarization: str, model: PolarizedModel) -> None:
    """Refuses moving points that nothing would move: their dipole would be zero.

    Args:
        polarization: What the configuration asks for.
        model: The network.

    Raises:
        ValueError: There is no layer that moves them.
    """
    moves = any(isinstance(update, Displacement) for update in model.updates)
    if polarization == "moving" and not moves:
        raise ValueError(
            "model.polarization: moving, but nothing would move the points: the host as configured has no "
            "vectors in its layers, but for the last one, which only a dipole makes use of; give it vectors "
            "(l_max, l_hidden) and two layers or more, or polarization: static or none"
        )
