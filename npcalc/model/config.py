"""What fixes the shape of a model."""

from typing import Any, Literal

from ase.calculators.calculator import all_properties
from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from ..conventions import FIELDS
from ..nn.hosts import HostConfig, parse_host


class PropertyConfig(BaseModel):
    """One molecular property, a number for each structure.

    With a contribution p_i from each atom the readouts are ``sum`` of p_i; ``mean`` of p_i (a level
    of energy, which does not grow with the molecule); ``extent``, the sum of p_i |r_i - R|^2 about
    the centre of mass R (the electronic spatial extent <r^2>; molecules only); and
    ``dipole_norm``, the length of the model's dipole in e*A, which needs no contributions.
    Sums with reference values of the elements as in K. T. Schutt et al., Schnet,
    J. Chem. Phys. 148, 241722 (2018), extent as there.

    Attributes:
        readout: How the contributions of the atoms are put together.
        unit: Unit of the property, for the card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    readout: Literal["sum", "mean", "extent", "dipole_norm"] = "sum"
    unit: str = ""


class ModelConfig(BaseModel):
    """Everything that fixes the shape of a `PolarizedModel`.

    Attributes:
        host: Host network and its sizes.
        elements: Chemical symbols the model knows, in the order of the species index.
        cutoff: Cutoff in Angstrom.
        envelope: Smooth cutoff.
        polarization: ``none`` (the host as published), ``static`` (points that never move, the
            control) or ``moving``.
        coupling: How the host sees the points: ``paired_geometry`` (every channel sees all points of both
            atoms), ``paired_shifts`` (so too, by how much they differ from the nuclei; with points at rest
            it is the host as published), ``paired_heads`` (each electron point is seen by its own part of
            the channels; `painn` and `et`), ``paired_products`` (so too, and filters also see functions of
            the nuclei's distance times the shifts of displaced pairs; `painn` and `et`) or
            ``paired_nodes`` (points are nodes).
        pairs: Which kinds of points ``paired_nodes`` connects.
        n_points: Electron points of an atom.
        d_max: Bound of the displacement in Angstrom.
        softening: Softening length of displaced pairs in Angstrom.
        dipole: Whether the model has a dipole.
        charges: Charge model: ``none``, ``formal`` (fixed per element) or ``increments``.
        formal_charges: Charge of each element in e, zero where not given.
        electron_weight: ``learned`` or ``formal``.
        formal_weights: Electron weight of each element in e, for ``formal``.
        n_neighbors: Mean number of neighbors of an atom, a normalisation; training takes that of its
            structures where none is given.
        properties: Molecular properties by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: SerializeAsAny[HostConfig]
    elements: tuple[str, ...] = ()
    cutoff: float = Field(5.0, gt=0.0)
    envelope: Literal["cosine", "polynomial"] = "cosine"
    polarization: Literal["none", "static", "moving"] = "moving"
    coupling: Literal[
        "paired_geometry", "paired_shifts", "paired_heads", "paired_products", "paired_nodes"
    ] = "paired_geometry"
    pairs: Literal["same", "all"] = "all"
    n_points: int = Field(1, ge=1)
    d_max: float = Field(0.5, gt=0.0)
    softening: float = Field(0.05, gt=0.0)
    dipole: bool = True
    charges: Literal["none", "formal", "increments"] = "none"
    formal_charges: dict[str, float] = {}
    electron_weight: Literal["learned", "formal"] = "learned"
    formal_weights: dict[str, float] = {}
    n_neighbors: float | None = Field(None, gt=0.0)
    properties: dict[str, PropertyConfig] = {}

    @field_validator("host", mode="before")
    @classmethod
    def _of_known_name(cls, value: Any) -> HostConfig:
        return parse_host(value)

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        unknown = [e for e in self.elements if e not in atomic_numbers]
        if unknown:
            raise ValueError(f"unknown chemical symbols in elements: {', '.join(unknown)}")
        if self.dipole and self.polarization != "moving" and self.charges == "none":
            raise ValueError(
                f"a dipole needs moving points or a charge model, got polarization "
                f"{self.polarization!r} with charges 'none': set charges or dipole: false"
            )
        odd = [e for e in self.formal_charges if e not in atomic_numbers]
        if odd:
            raise ValueError(f"unknown chemical symbols in formal_charges: {', '.join(odd)}")
        if self.formal_charges and self.charges == "none":
            raise ValueError("formal_charges need charges: formal or increments, got 'none'")
        if self.charges == "formal" and not self.formal_charges:
            raise ValueError("charges: formal needs formal_charges, a charge for each element")
        if self.formal_weights and self.electron_weight != "formal":
            raise ValueError("formal_weights need electron_weight: formal, got 'learned'")
        if self.electron_weight == "formal" and self.polarization == "moving":
            missing = [e for e in self.elements if e not in self.formal_weights]
            if missing:
                raise ValueError(f"formal_weights has no value for {', '.join(missing)}")
        if self.polarization != "none":
            if self.coupling == "paired_products":
                self.host.check_products()
            if self.coupling in ("paired_heads", "paired_products") and self.n_points > 1:
                self.host.check_heads(self.n_points)
            if self.coupling == "paired_shifts":
                self.host.check_relative()
        self._check_properties()
        return self

    def _check_properties(self) -> None:
        for name, section in self.properties.items():
            if name in FIELDS or name in all_properties or not name.isidentifier():
                raise ValueError(
                    f"properties: {name!r} cannot name a molecular property: take an identifier "
                    f"that is not the name of another quantity"
                )
            if section.readout == "dipole_norm" and (not self.dipole or self.formal_charges):
                raise ValueError(
                    f"properties.{name}: dipole_norm needs dipole: true and no formal_charges"
                )
            if section.readout == "dipole_norm" and section.unit != FIELDS["dipole"].unit:
                raise ValueError(
                    f"properties.{name}: dipole_norm is in {FIELDS['dipole'].unit}, got unit "
                    f"{section.unit!r}"
                )
