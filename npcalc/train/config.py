"""The training configuration: typed, checked, and helpful about misspelt keys."""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..model import ModelConfig, PropertyConfig
from ..nn.hosts import find_host
from ..potential.archive import read_archive
from ..potential.registry import find_potential


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Where the structures come from.

    Attributes:
        train: File of training (and, if ``validation`` is not given, validation) structures.
        validation: File of validation structures.
        test: File of test structures, evaluated once at the end.
        n_train: How many of ``train`` to train on, isolated atoms apart, all of which are trained on; by
            default all that are not validated on.
        n_validation: How many of ``train`` to validate on, without a ``validation`` file.
        split_seed: Seed of the random split.
        split_file: Text file with indices to train on, one a line, instead of a random split, and isolated
            atoms besides; the structures it does not name are validated on, ``n_validation`` of them at most.
        keys: Key of each label in the files, such as ``{energy: REF_energy, forces: REF_forces}``; labels
            that are not named are not read then. By default they have their own names (npz: rMD17's).
        units: Units of ``energy``, ``length`` and ``dipole`` in files that do not say them: npz
            (kcal/mol, A, e*A by default) and what ASE reads (eV, A, e*A by default); and of ``forces``,
            such as ``hartree/bohr``, where it is not that of energy over that of length.
        reference_energies: ``fit`` (the energies of isolated atoms in the file of training structures, and
            least squares for other elements; with a single composition their sum is free and is finally
            set by the mean error on the validation structures, whose printed energy error is the smaller
            for it where they are few), or the energy of each isolated atom in eV by symbol, above which
            the network has to learn the energies of all bonds: it does so slowly, which pays where
            molecules fall apart.
    """

    train: Path
    validation: Path | None = None
    test: Path | None = None
    n_train: int | None = Field(None, ge=1)
    n_validation: int = Field(50, ge=1)
    split_seed: int = 0
    split_file: Path | None = None
    keys: dict[str, str] | None = None
    units: dict[str, str] | None = None
    reference_energies: Literal["fit"] | dict[str, float] = "fit"

    def file_of(self, split: str) -> Path:
        """The file that ``train``, ``validation`` or ``test`` structures come from."""
        files = {"validation": self.validation, "test": self.test}
        return files.get(split) or self.train

    @model_validator(mode="after")
    def _one_way_to_split(self) -> "DataConfig":
        if self.split_file is not None and (
            self.validation is not None or self.n_train is not None
        ):
            raise ValueError(
                "split_file names the structures to train on; leave out validation and n_train, "
                "or leave out split_file"
            )
        return self


class LossConfig(_Section):
    """Weights of the terms; a weight of 0 leaves the label out.

    The energy enters per atom; forces, dipoles and centroids by component, in eV/A, e*A and A;
    molecular properties in units of their standard deviation.

    Attributes:
        energy: Weight of the energy term.
        forces: Weight of the force term.
        dipole: Weight of the dipole term.
        centroids: Weight of the electron centroids, which trains the displacements themselves.
        properties: Weight of each of ``model.properties``, 1 where not given; what is not to be
            trained does not belong into the model.
        form: ``mse``, ``mae`` or ``huber``.
        delta: Where ``huber`` turns linear, in the units of each error.
    """

    energy: float = Field(1.0, ge=0.0)
    forces: float = Field(1.0, ge=0.0)
    dipole: float = Field(1.0, ge=0.0)
    centroids: float = Field(0.0, ge=0.0)
    properties: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    form: Literal["mse", "mae", "huber"] = "mse"
    delta: float = Field(0.01, gt=0.0)

    def weight_of(self, name: str) -> float:
        """Weight of a molecular property."""
        return self.properties.get(name, 1.0)


class OptimizerConfig(_Section):
    """How the weights are found.

    Attributes:
        epochs: Passes over the training structures.
        batch_size: Structures of a step, over all processes.
        learning_rate: Largest learning rate; by default one that served the host well on small molecules.
            Where training diverges it is halved, three times at most.
        final_learning_rate: At the end of the cosine, as a fraction of the largest.
        warmup_steps: Steps of linear increase.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient.
        ema: Decay of the moving average of the weights, which is what is validated and exported.
        seed: Of initial weights and the order of structures.
        compile: ``auto`` (where a compiler is found) or false.
        validate_every: Epochs between validations.
        checkpoint_every: Epochs between checkpoints.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads, all by default.
    """

    epochs: int = Field(500, ge=1)
    batch_size: int = Field(10, ge=1)
    learning_rate: float | None = Field(None, gt=0.0)
    final_learning_rate: float = Field(0.01, ge=0.0, le=1.0)
    warmup_steps: int = Field(200, ge=0)
    weight_decay: float = Field(0.0, ge=0.0)
    clip: float = Field(1.0, gt=0.0)
    ema: float = Field(0.999, ge=0.0, lt=1.0)
    seed: int = 0
    compile: Literal["auto", False] = "auto"
    validate_every: int = Field(5, ge=1)
    checkpoint_every: int = Field(5, ge=1)
    device: str = "auto"
    threads: int | None = Field(None, ge=1)


class CardText(_Section):
    """What the card of the exported potential says beside what can be measured."""

    description: str = ""
    level_of_theory: str = ""
    data_origin: str = ""
    license: str = ""
    citation: str = ""


class TrainConfig(_Section):
    """A whole training run.

    Attributes:
        name: Name of the potential; it is exported as ``<output>/<name>.pt``.
        output: Folder of checkpoints, logs and the potential.
        start_from: Potential, by name or path, to start from: its network, weights and reference energies,
            these moved to where the new energies count from. Leave ``model`` and
            ``data.reference_energies`` out then; the learning rate is a tenth of the host's where none is
            given. A dipole without labels (``loss.dipole: 0``) is not among the results any more.
        model: The network.
        data: The structures.
        loss: The loss.
        training: The optimizer.
        card: Text of the card.
    """

    name: str = Field("potential", pattern=r"^[^/\\]+$")
    output: Path
    start_from: str | None = None
    model: ModelConfig
    data: DataConfig
    loss: LossConfig = LossConfig()
    training: OptimizerConfig = OptimizerConfig()
    card: CardText = CardText()

    @property
    def trains_energy(self) -> bool:
        """Whether energies or forces have a weight."""
        return self.loss.energy > 0.0 or self.loss.forces > 0.0

    @property
    def trains_dipole(self) -> bool:
        """Whether something trains the dipole with its direction."""
        loss, model = self.loss, self.model
        formal = model.electron_weight == "formal" and model.charges != "increments"
        return loss.dipole > 0.0 or (loss.centroids > 0.0 and formal)

    @property
    def trains_dipole_norm(self) -> bool:
        """Whether a molecular property trains the length of the dipole."""
        return any(p.readout == "dipole_norm" for p in self.model.properties.values())

    @model_validator(mode="after")
    def _known_properties(self) -> "TrainConfig":
        unknown = [name for name in self.loss.properties if name not in self.model.properties]
        if unknown:
            known = ", ".join(self.model.properties) or "none"
            raise ValueError(
                f"loss.properties has {unknown[0]!r}, but model.properties has: {known}"
            )
        return self


class ConfigError(ValueError):
    """The configuration is not valid; the message lists each problem and how to mend it."""


def load_config(path: str | os.PathLike[str]) -> TrainConfig:
    """Reads a YAML configuration.

    Relative paths of data and of a potential to start from are relative to the folder of the file; the
    output folder is relative to the working directory.

    Args:
        path: File to read.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: There is no such file, or no potential to start from.
        ConfigError: It is not valid.
        ArchiveError: What it starts from is not a potential.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"no configuration {os.fspath(path)!r}")
    try:
        raw = yaml.safe_load(source.read_text())
    except yaml.YAMLError as error:
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source} is not valid YAML{where}: {problem or error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} holds no mapping of keys to values")
    base = source.parent
    start = raw.get("start_from")
    if isinstance(start, str) and (base / start).is_file():
        raw = raw | {"start_from": str(base / start)}
    config = parse_config(raw, str(source))
    data = config.data
    moved = {
        key: base / value
        for key in ("train", "validation", "test", "split_file")
        if (value := getattr(data, key)) is not None
    }
    return config.model_copy(update={"data": data.model_copy(update=moved)})


def parse_config(raw: dict[str, Any], origin: str = "configuration") -> TrainConfig:
    """Checks a configuration given as nested dictionaries.

    Args:
        raw: Keys and values.
        origin: Where they are from, for messages.

    Returns:
        The configuration.

    Raises:
        ConfigError: It is not valid; unknown keys are named with the nearest known key.
        FileNotFoundError: There is no potential to start from.
        ArchiveError: What it starts from is not a potential.
    """
    start = raw.get("start_from")
    if isinstance(start, (str, os.PathLike)):
        model = read_archive(find_potential(start))[0].model.model_dump(mode="json")
        if raw.get("model", model) != model:  # the same is what is stored with a run
            raise ConfigError(f"{origin}: the model is that of start_from: leave model out")
        raw = raw | {"start_from": os.fspath(start), "model": model}
    try:
        config = TrainConfig.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(e, raw) for e in error.errors()]
        raise ConfigError(f"{origin}: " + "; ".join(problems)) from error
    problems = _given_idle_keys(config)
    if problems:
        raise ConfigError(f"{origin}: " + "; ".join(problems))
    return config


def idle_keys(config: TrainConfig) -> dict[str, str]:
    """Keys that do nothing in a configuration, each with the reason."""
    model, loss, data = config.model, config.loss, config.data
    idle = {f"model.{name}": reason for name, reason in _idle_model_keys(model).items()}
    if loss.form != "huber":
        idle["loss.delta"] = "without form: huber"
    if data.validation is not None:
        idle["data.n_validation"] = "beside a file of validation structures"
        if data.n_train is None:
            idle["data.split_seed"] = "where all of data.train is trained on"
    if data.split_file is not None:
        idle["data.split_seed"] = "beside data.split_file, which names the structures"
    return idle


def _given_idle_keys(config: TrainConfig) -> list[str]:
    """What is said of keys that were given and do nothing, in what is new and not in what is stored."""
    problems = []
    for key, reason in idle_keys(config).items():
        section, name = key.split(".")
        owner = getattr(config, section)
        if section == "model" and config.start_from is not None:
            continue
        if getattr(owner, name) != type(owner).model_fields[name].default:
            problems.append(f"{key} does nothing {reason}: leave it out")
    return problems


def _idle_model_keys(model: ModelConfig) -> dict[str, str]:
    idle: dict[str, str] = {}
    if model.coupling != "paired_nodes":
        idle["pairs"] = "without coupling: paired_nodes"
    if model.polarization != "moving" or not model.dipole:
        idle["electron_weight"] = "without polarization: moving and dipole: true"
    if model.polarization == "static":
        idle["d_max"] = "with polarization: static"
    if model.polarization == "none":
        points = ("coupling", "pairs", "n_points", "d_max", "softening", "electron_weight")
        idle |= dict.fromkeys(points, "with polarization: none, which has no points")
    return idle


def _explain(error: Any, raw: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"][:-1], raw)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f", the nearest known key is {near[0]!r}" if near else f"; known: {', '.join(known)}"
        return f"unknown key {where!r}{hint}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    if isinstance(error["input"], dict):  # what is wrong is how several keys go together
        return f"{where!r}: {reason_of(error)}" if where else reason_of(error)
    return f"{where!r}: {reason_of(error)}, got {error['input']!r}"


def reason_of(error: Any) -> str:
    """What one of pydantic's errors says, without what it puts before messages of our own."""
    return str(error["msg"]).removeprefix("Value error, ")


def _known_keys(parents: tuple[int | str, ...], raw: dict[str, Any]) -> list[str]:
    """Keys of the section at this place of the configuration."""
    if parents == ("model", "host"):
        return list(find_host(raw["model"]["host"]["name"])[0].model_fields)
    if parents[:2] == ("model", "properties"):
        return list(PropertyConfig.model_fields)
    section: type[BaseModel] = TrainConfig
    for part in parents:
        annotation = section.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    return list(section.model_fields)
