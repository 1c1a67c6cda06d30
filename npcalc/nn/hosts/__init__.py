"""Host models: one file each, all behind the contract of `base`."""

from typing import Any

from .base import EdgeGeometry, Host, HostConfig, HostLayer, PointSpec
from .egnn import EGNN, EGNNConfig
from .et import ET, ETConfig
from .mace import MACE, MACEConfig
from .nequip import NequIP, NequIPConfig
from .painn import PaiNN, PaiNNConfig
from .tensornet import TensorNet, TensorNetConfig

HOSTS: dict[str, tuple[type[HostConfig], type[Host]]] = {}
"""Name of each host in a configuration file, its configuration and its class."""


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
    if name in HOSTS and HOSTS[name][1].__qualname__ != host.__qualname__:
        raise ValueError(f"there is a host {name!r} already: {HOSTS[name][1].__name__}")
    HOSTS[name] = (config, host)


register_host(PaiNNConfig, PaiNN)
register_host(NequIPConfig, NequIP)
register_host(EGNNConfig, EGNN)
register_host(ETConfig, ET)
register_host(TensorNetConfig, TensorNet)
register_host(MACEConfig, MACE)


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
    if not isinstance(value, dict) or name not in HOSTS:
        raise ValueError(
            f"unknown host {name!r}: expected a mapping with one of the names {', '.join(HOSTS)}"
        )
    return HOSTS[name][0].model_validate(value)


def make_host(spec: PointSpec, config: HostConfig) -> Host:
    """Builds the host that the configuration names.

    Args:
        spec: What the host is built for.
        config: Configuration of one of `HOSTS`.

    Returns:
        The network with new random weights.
    """
    return HOSTS[config.name][1](spec, config)


__all__ = [
    "HOSTS",
    "EdgeGeometry",
    "Host",
    "HostConfig",
    "HostLayer",
    "PointSpec",
    "make_host",
    "parse_host",
    "register_host",
]
