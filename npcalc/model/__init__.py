"""The network with neural polarization, and what configures it."""

from .config import ModelConfig, PropertyConfig
from .network import ModelOutput, PolarizedModel

__all__ = ["ModelConfig", "ModelOutput", "PolarizedModel", "PropertyConfig"]
