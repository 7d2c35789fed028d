r"""Von Mises' increment: an angle, read as a number between −π and π."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import VonMises, constraints

from .base import Increment
from .numeric import Numeric
from .registry import standardises


class Angle(VonMises):
    r"""The law of an angle less its mean direction, :math:`f \propto e^{\kappa \cos x}`, |x| ≤ π.

    Arguments:
        concentration: κ > 0.

    Example:
        >>> Angle(torch.tensor(2.0)).support.upper_bound
        3.141592653589793
    """

    support: Any = constraints.interval(-math.pi, math.pi)

    def __init__(self, concentration: Any) -> None:
        super().__init__(torch.zeros_like(concentration), concentration, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density. Torch's own rests on a Bessel function that is off by up to 3e-7."""
        kappa = self.concentration
        norm = 2 * math.pi * torch.special.i0e(kappa)  # e^{−κ} I₀
        return kappa * (value.cos() - 1) - norm.log()


@standardises(torch.distributions.VonMises)
def _von_mises(law: VonMises) -> Increment:
    return Numeric(Angle(law.concentration))
