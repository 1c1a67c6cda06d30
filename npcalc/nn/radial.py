"""Radial bases without envelope, and envelopes of the nuclear distance.

Bases are finite from 0 to beyond the cutoff: the distance of displaced points may be larger than
that of their nuclei, and the envelope multiplies the message, not the basis.
"""

import math

import torch
from torch import Tensor, nn


class BesselBasis(nn.Module):
    """``sqrt(2 / r_c) sin(n pi r / r_c) / r`` (DimeNet, Gasteiger et al. 2020, eq. 7).

    Args:
        n_basis: Number of functions.
        cutoff: Cutoff r_c in Angstrom.
    """

    def __init__(self, n_basis: int, cutoff: float) -> None:
        super().__init__()
        self.norm = math.sqrt(2.0 / cutoff)
        n = torch.arange(1, n_basis + 1, dtype=torch.float64)
        self.frequencies: Tensor
        self.register_buffer("frequencies", n * math.pi / cutoff, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Maps distances (..., ) in Angstrom, not zero, to (..., n_basis)."""
        r = distance.unsqueeze(-1)
        return self.norm * torch.sin(self.frequencies * r) / r


class GaussianBasis(nn.Module):
    """Gaussians with evenly spaced centers from 0 to the cutoff, as wide as their spacing.

    Args:
        n_basis: Number of functions, at least 2.
        cutoff: Position of the last center in Angstrom.
    """

    def __init__(self, n_basis: int, cutoff: float) -> None:
        super().__init__()
        self.coefficient = -0.5 * ((n_basis - 1) / cutoff) ** 2
        centers = torch.arange(n_basis, dtype=torch.float64) * (cutoff / (n_basis - 1))
        self.centers: Tensor
        self.register_buffer("centers", centers, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Maps distances (..., ) in Angstrom to (..., n_basis)."""
        return torch.exp(self.coefficient * (distance.unsqueeze(-1) - self.centers) ** 2)


class ExpNormalBasis(nn.Module):
    """``exp(-b (exp(-5 r / r_c) - m)^2)`` (PhysNet, Unke and Meuwly 2019, eq. 7; its cutoff is apart).

    Args:
        n_basis: Number of functions; their centers m lie evenly between exp(-r_c) and 1, as in
            TorchMD-NET.
        cutoff: Cutoff r_c in Angstrom.
    """

    def __init__(self, n_basis: int, cutoff: float) -> None:
        super().__init__()
        lowest = math.exp(-cutoff)
        self.alpha = 5.0 / cutoff
        self.beta = (2.0 / n_basis * (1.0 - lowest)) ** -2
        self.centers: Tensor
        centers = torch.linspace(lowest, 1.0, n_basis, dtype=torch.float64)
        self.register_buffer("centers", centers, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Maps distances (..., ) in Angstrom to (..., n_basis)."""
        near = torch.exp(-self.alpha * distance.unsqueeze(-1))
        return torch.exp(-self.beta * (near - self.centers) ** 2)


class CosineEnvelope(nn.Module):
    """``(1 + cos(pi r / r_c)) / 2`` inside the cutoff, zero outside.

    Args:
        cutoff: Cutoff r_c in Angstrom.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, distance: Tensor) -> Tensor:
        """Maps distances in Angstrom to factors of the same shape."""
        # Clamping first keeps the gradient of the unused branch finite and zero.
        x = torch.clamp(distance / self.cutoff, max=1.0)
        return 0.5 * (torch.cos(math.pi * x) + 1.0)


class PolynomialEnvelope(nn.Module):
    """Polynomial with two vanishing derivatives at the cutoff (DimeNet, eq. 8), zero outside.

    Args:
        cutoff: Cutoff r_c in Angstrom.
        power: Exponent p of the leading term.
    """

    def __init__(self, cutoff: float, power: int = 6) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.power = float(power)

    def forward(self, distance: Tensor) -> Tensor:
        """Maps distances in Angstrom to factors of the same shape."""
        p = self.power
        x = torch.clamp(distance / self.cutoff, max=1.0)
        poly = (p + 1.0) * (p + 2.0) / 2.0 - p * (p + 2.0) * x + p * (p + 1.0) / 2.0 * x * x
        return 1.0 - torch.pow(x, p) * poly


def make_basis(name: str, n_basis: int, cutoff: float) -> nn.Module:
    """Builds the basis ``"bessel"`` or ``"gaussian"``."""
    return {"bessel": BesselBasis, "gaussian": GaussianBasis}[name](n_basis, cutoff)


def make_envelope(name: str, cutoff: float) -> nn.Module:
    """Builds the envelope ``"cosine"`` or ``"polynomial"``."""
    return {"cosine": CosineEnvelope, "polynomial": PolynomialEnvelope}[name](cutoff)
