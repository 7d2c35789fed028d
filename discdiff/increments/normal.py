r"""The normal increment."""

from __future__ import annotations

import math

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from .base import REALS, Increment
from .log_cf import real_log
from .registry import standardises


@standardises(torch.distributions.Normal)
class Normal(Increment):
    r"""The standard normal law, :math:`\log \varphi = -u^2 / 2`."""

    name, divisible, decomposable = "normal", True, True
    reach, radius, fisher, domain = 8.65, math.inf, 1.0, REALS
    entropy = 0.5 * math.log(2 * math.pi * math.e)

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return real_log(-(u**2) / 2)

    def _cumulants(self, order: int) -> list[float]:
        return [0.0, 1.0] + [0.0] * (order - 2)

    def _cgf(self, e: Tensor) -> Tensor:
        return e**2 / 2

    def _slope(self, e: Tensor) -> Tensor:
        return e

    def _natural(self, m: Tensor) -> Tensor:
        return m

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return laws.Normal(loc, scale, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return self._law(loc + scale * eta, scale)

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return self._law(loc, scale * ((1 - rho) * (1 + rho)).sqrt())

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return self._law(loc, scale * tau.sqrt())

    @property
    def mixing(self) -> Distribution:
        return pyro.Delta(torch.ones((), dtype=torch.float64))
