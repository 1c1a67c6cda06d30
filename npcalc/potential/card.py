"""The card of a potential: what it is, what it knows, how good it is."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..model import ModelConfig

FORMAT = 4
"""Version of the file format: 2 added molecular properties, 3 TorchScript without autograd, 4 distances."""


class Card(BaseModel):
    """Everything about a potential that is not a weight; stored as JSON in its file.

    Attributes:
        format: Version of the file format.
        name: Name of the potential.
        model: Configuration of the network.
        scale: Energy in eV of one unit of the network's readout.
        reference_energies: Energy of each isolated atom in eV, in the order of ``model.elements``.
        properties: ASE properties it can give.
        property_scales: Value of one unit of the network's contribution to each of
            ``model.properties``, in their order.
        property_references: Contribution of each element to each of them.
        dtype: Data type of the weights.
        units: Unit of each quantity.
        composition: Chemical formula, if all training structures have the same, else empty.
        displacement_range: Largest |d| in Angstrom on the training structures, by element.
        nearest_range: Smallest and largest distance in Angstrom from an atom to the nearest atom of
            each element and of ``any``, on the training structures, by element of the atom.
        errors: Errors by split: MAE and RMSE of energy (eV per structure), forces (eV/A) and
            dipole (e*A), the last two by component.
        data: Origin, number of structures, periodic directions, elements of isolated atoms, hash and level of
            theory of the training data.
        description: For people.
        license: Licence of weights and data.
        citation: What to cite.
        versions: npcalc and torch that wrote the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: str
    model: ModelConfig
    scale: float
    reference_energies: tuple[float, ...]
    properties: tuple[str, ...]
    property_scales: tuple[float, ...] = ()
    property_references: tuple[tuple[float, ...], ...] = ()
    dtype: str = "float32"
    units: dict[str, str] = {}
    composition: str = ""
    displacement_range: dict[str, float] = {}
    nearest_range: dict[str, dict[str, tuple[float, float | None]]] = {}
    errors: dict[str, dict[str, float | None]] = {}
    data: dict[str, Any] = {}
    description: str = ""
    license: str = ""
    citation: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    def error_lines(self) -> list[str]:
        """Mean absolute errors for people, a line for each split."""
        lines = []
        for split, errors in self.errors.items():
            parts = []
            for key, value in errors.items():
                name = key.removesuffix("_mae")
                if name == key or value is None:
                    continue
                known = self.model.properties.get(name)
                unit = self.units.get(name, "") if known is None else known.unit
                parts.append(f"{name} {value:.4g} {unit}".rstrip())
            lines.append(f"{split}: mean absolute errors: {', '.join(parts) or 'no labels'}")
        return lines

    @property
    def formal_charges(self) -> list[float]:
        """Formal charge of each element in e; zeros without a charge model."""
        given = self.model.formal_charges if self.model.charges != "none" else {}
        return [given.get(e, 0.0) for e in self.model.elements]


def properties_of(
    config: ModelConfig, energy: bool = True, dipole: bool | None = None
) -> tuple[str, ...]:
    """ASE properties that a model of this configuration can give.

    Args:
        config: The network.
        energy: Whether energies or forces have trained it.
        dipole: Whether something has trained the direction of its dipole; by default, whether it
            has one.
    """
    with_dipole = config.dipole if dipole is None else dipole
    names = ["energy", "free_energy", "energies", "forces", "stress"] if energy else []
    if with_dipole:
        names += ["dipole", "born_effective_charges"]
    if config.charges == "formal" or (config.charges == "increments" and with_dipole):
        names.append("charges")
    return tuple(names)
