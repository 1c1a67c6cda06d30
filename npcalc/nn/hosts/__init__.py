"""Host models: one file each, all behind the contract of `base`."""

from .base import EdgeGeometry, Host, HostLayer, PointSpec
from .egnn import EGNN, EGNNConfig
from .et import ET, ETConfig
from .mace import MACE, MACEConfig
from .nequip import NequIP, NequIPConfig
from .painn import PaiNN, PaiNNConfig
from .tensornet import TensorNet, TensorNetConfig

HOSTS = {
    "painn": (PaiNNConfig, PaiNN),
    "nequip": (NequIPConfig, NequIP),
    "egnn": (EGNNConfig, EGNN),
    "et": (ETConfig, ET),
    "tensornet": (TensorNetConfig, TensorNet),
    "mace": (MACEConfig, MACE),
}
"""Name of each host in a configuration file, its configuration and its class."""

HostConfig = PaiNNConfig | NequIPConfig | EGNNConfig | ETConfig | TensorNetConfig | MACEConfig


def make_host(spec: PointSpec, config: HostConfig) -> Host:
    """Builds the host that the configuration names.

    Args:
        spec: What the host is built for.
        config: Configuration of one of `HOSTS`.

    Returns:
        The network with new random weights.
    """
    return HOSTS[config.name][1](spec, config)


__all__ = ["HOSTS", "EdgeGeometry", "Host", "HostConfig", "HostLayer", "PointSpec", "make_host"]
