"""Host models: one file each, all behind the contract of `base`."""

from importlib import import_module
from typing import Any

from .base import EdgeGeometry, Host, HostConfig, HostLayer, PointSpec

BUILT_IN = {
    "painn": "PaiNN",
    "nequip": "NequIP",
    "egnn": "EGNN",
    "et": "ET",
    "tensornet": "TensorNet",
    "mace": "MACE",
}
"""Name of each host of the package, of its module too, and its class.

They are imported when they are asked for: importing e3nn takes as long as all of torch.
"""

_registered: dict[str, tuple[type[HostConfig], type[Host]]] = {}


def register_host(config: type[HostConfig], host: type[Host]) -> None:
    """Makes a host known, so that configurations, archives and the trainer find it by name.

    Args:
        config: Its configuration, whose ``name`` has a default.
        host: The network, made of ``(spec, config)``.

    Raises:
        ValueError: The name is missing or belongs to another host.
    """
    name = config.model_fields["name"].default
    if not isinstance(name, str):
        raise ValueError(f"{config.__name__} has no default for 'name': give the host a name")
    known = find_host(name)[1] if name in host_names() else None
    # A class may be registered again, as when a notebook cell is run twice.
    if known is not None and (known.__module__, known.__qualname__) != (
        host.__module__,
        host.__qualname__,
    ):
        raise ValueError(f"there is a host {name!r} already: {known.__name__}")
    _registered[name] = (config, host)


def host_names() -> list[str]:
    """Names of all hosts: those of the package and those that were registered."""
    return list(dict.fromkeys([*BUILT_IN, *_registered]))


def find_host(name: str) -> tuple[type[HostConfig], type[Host]]:
    """Configuration and class of a host.

    Args:
        name: One of `host_names`.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in host_names():
        raise ValueError(
            f"unknown host {name!r}: expected one of {', '.join(host_names())}; register_host makes "
            f"others known (on the command line in a module that npcalc --import takes)"
        )
    if name not in _registered:
        module, host = import_module(f".{name}", __name__), BUILT_IN[name]
        _registered[name] = (getattr(module, f"{host}Config"), getattr(module, host))
    return _registered[name]


def parse_host(value: Any) -> HostConfig:
    """The configuration of a host from a mapping with its name.

    Args:
        value: A mapping, or a configuration, which is returned.

    Raises:
        ValueError: There is no host of this name; the message lists those that are known.
        ValidationError: A value is not valid.
    """
    if isinstance(value, HostConfig):
        return value
    name = value.get("name") if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(name, str):
        raise ValueError(
            f"expected a mapping with one of the names {', '.join(host_names())}, got {value!r}"
        )
    return find_host(name)[0].model_validate(value)


def make_host(spec: PointSpec, config: HostConfig) -> Host:
    """Builds the host that the configuration names.

    Args:
        spec: What the host is built for.
        config: Configuration of a host of the package, or of one that was registered.

    Returns:
        The network with new random weights.
    """
    return find_host(config.name)[1](spec, config)


__all__ = [
    "EdgeGeometry",
    "Host",
    "HostConfig",
    "HostLayer",
    "PointSpec",
    "find_host",
    "host_names",
    "make_host",
    "parse_host",
    "register_host",
]
