"""Reference energies of a run: given, fitted to structures, or those of the potential it starts from."""

from ase.data import chemical_symbols

from ..data import DataSet, fit_reference_energies
from ..errors import naming
from .config import TrainConfig
from .start import Start


def reference_energies(
    config: TrainConfig, data: DataSet, elements: list[int], start: Start | None
) -> list[float]:
    """Energies above which the network learns what is left.

    Args:
        config: The run.
        data: Training structures.
        elements: Atomic numbers that the model knows.
        start: What the run starts from.

    Returns:
        Energy in eV of each of the elements; zeros where energies are not trained and none are known.

    Raises:
        ValueError: They cannot be fitted, one is missing among those given, or there are two of each.
    """
    given = config.data.reference_energies
    if given != "fit":
        if start is not None and "energy" in start.card.properties:
            raise ValueError(
                "data.reference_energies beside start_from: the weights know those of the potential; leave "
                "them out"
            )
        missing = [chemical_symbols[z] for z in elements if chemical_symbols[z] not in given]
        if missing:
            raise ValueError(f"data.reference_energies has no value for {', '.join(missing)}")
        return [given[chemical_symbols[z]] for z in elements]
    if config.loss.energy == 0.0:
        return [0.0] * len(elements) if start is None else list(start.card.reference_energies)
    with naming(config.data.train):
        if start is not None:
            return start.reference_energies(data)
        fitted = fit_reference_energies(data, config.model.cutoff)
    unknown = [chemical_symbols[z] for z in elements if z not in fitted]
    if unknown:
        raise ValueError(
            f"model.elements has {', '.join(unknown)}, which no training structure with an energy has: "
            f"there is nothing to fit a reference energy to. Add structures of it to those of data.train "
            f"(of a random split, with another data.split_seed), or leave it out"
        )
    return [fitted[z] for z in elements]
