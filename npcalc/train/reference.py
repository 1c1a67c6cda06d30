"""All keys of a configuration with their meaning, from the docstrings that say it."""

import inspect
import re
import textwrap
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ..model import ModelConfig, PropertyConfig
from ..nn.hosts import find_host, host_names
from .config import CardText, DataConfig, LossConfig, OptimizerConfig, TrainConfig


def reference() -> str:
    """Each key with its default and meaning, section after section."""
    parts = [_describe(TrainConfig, "", without=("model", "data", "loss", "training", "card"))]
    sections: dict[str, type[BaseModel]] = {
        "data": DataConfig,
        "model": ModelConfig,
        "model.properties.NAME": PropertyConfig,
        "loss": LossConfig,
        "training": OptimizerConfig,
        "card": CardText,
    }
    parts += [_describe(section, f"{name}.") for name, section in sections.items()]
    for name in host_names():
        config = find_host(name)[0]
        parts.append(
            f"model.host.name: {name}\n" + _describe(config, "model.host.", without=("name",))
        )
    return "\n\n".join(parts)


def _describe(section: type[BaseModel], prefix: str, without: tuple[str, ...] = ()) -> str:
    meaning = _attributes(section)
    lines = []
    for name, field in section.model_fields.items():
        if name in without:
            continue
        default: Any = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            default = default.model_dump()
        given = "" if field.is_required() else f" = {default!r}"
        choices = ""
        if get_origin(field.annotation) is Literal:
            choices = f"    ({' | '.join(str(c) for c in get_args(field.annotation))})"
        lines.append(f"{prefix}{name}{given}{choices}")
        if meaning.get(name):
            lines.append(textwrap.indent(textwrap.fill(meaning[name], 96), "    "))
    return "\n".join(lines)


def _attributes(section: type[BaseModel]) -> dict[str, str]:
    """Meaning of each key, from the part ``Attributes`` of Google's style."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        text = inspect.cleandoc(owner.__dict__.get("__doc__") or "")
        _, _, block = text.partition("Attributes:\n")
        block = re.split(r"\n(?=\S)", block)[0]  # without sections that follow
        for entry in re.split(r"\n(?=    \w)", block.rstrip()):
            name, colon, meaning = entry.partition(":")
            if colon:
                found[name.strip()] = " ".join(meaning.split())
    return found
