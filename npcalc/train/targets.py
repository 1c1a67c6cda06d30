"""Molecular properties as training targets: reference values, scales and what is left to learn."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import DataSet
from ..model import ModelConfig
from ..potential.molecular import MolecularProperties

Array = NDArray[np.float64]


class PropertyFit(NamedTuple):
    """What is known of the molecular properties before training.

    Attributes:
        config: The model.
        references: Contribution of each element, least squares on the training structures, shape
            (n_elements, n_properties); zero for ``dipole_norm``.
        scales: Value of one unit of the network's contribution, shape (n_properties,).
        spreads: Standard deviation of what the references leave over, shape (n_properties,).
    """

    config: ModelConfig
    references: Array
    scales: Array
    spreads: Array

    def labels(
        self, data: DataSet, species: NDArray[np.int64]
    ) -> tuple[Array, NDArray[np.bool_], Array]:
        """Properties above their references, zero where absent, and which of them are present.

        Args:
            data: Structures.
            species: Index of each atom's element.

        Returns:
            Values and presence, both (n_structures, n_properties), and the
            weight of each atom in each property, (n_atoms_total, n_properties).
        """
        measures = _measures(self.config, data, species)
        values, present = _stacked(data, list(self.config.properties))
        known = np.add.reduceat(measures * self.references[species], data.offsets[:-1])
        return np.where(present, values - known, 0.0), present, measures


def fit_properties(config: ModelConfig, data: DataSet, species: NDArray[np.int64]) -> PropertyFit:
    """Fits the references of the elements and measures what is left.

    Args:
        config: The model, with its elements.
        data: Training structures.
        species: Index of each atom's element.

    Returns:
        The fit.

    Raises:
        ValueError: No structure has one of the properties, or it never varies.
    """
    names = list(config.properties)
    values, present = _stacked(data, names)
    measures = _measures(config, data, species)
    references = np.zeros((len(config.elements), len(names)))
    scales, spreads = np.ones(len(names)), np.ones(len(names))
    rows = np.repeat(np.arange(len(data)), data.n_atoms)
    for k, name in enumerate(names):
        data.require(name)
        if config.properties[name].readout == "extent" and data.pbc.any():
            raise ValueError(
                f"property {name!r}: an extent is that of molecules, not of periodic data"
            )
        use = present[:, k]
        residual = values[use, k]
        if config.properties[name].readout != "dipole_norm":
            design = np.zeros((len(data), len(config.elements)))
            np.add.at(design, (rows, species), measures[:, k])
            references[:, k] = np.linalg.lstsq(design[use], values[use, k], rcond=None)[0]
            residual = residual - design[use] @ references[:, k]
            lengths = np.add.reduceat(measures[:, k] ** 2, data.offsets[:-1])[use]
            scales[k] = residual.std() / np.sqrt(lengths.mean())
        spreads[k] = residual.std()
        if not spreads[k] > 1e-12 * max(np.abs(values[use, k]).max(), 1e-300):
            raise ValueError(
                f"property {name!r} follows from the composition in all training structures: there "
                f"is nothing to learn"
            )
    return PropertyFit(config, references, scales, spreads)


def _stacked(data: DataSet, names: list[str]) -> tuple[Array, NDArray[np.bool_]]:
    values = np.zeros((len(data), len(names)))
    present = np.zeros((len(data), len(names)), dtype=bool)
    for k, name in enumerate(names):
        if name in data.labels:
            values[:, k] = np.nan_to_num(data.labels[name].values)
            present[:, k] = data.labels[name].present
    return values, present


def _measures(config: ModelConfig, data: DataSet, species: NDArray[np.int64]) -> Array:
    n = len(config.properties)
    module = MolecularProperties(config, (1.0,) * n, [[0.0] * n for _ in config.elements])
    batch = np.repeat(np.arange(len(data)), data.n_atoms)
    positions, index, system = (torch.as_tensor(a) for a in (data.positions, species, batch))
    return module.measures(positions, index, system, len(data)).numpy()
