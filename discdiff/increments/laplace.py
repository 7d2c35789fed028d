r"""The Laplace increment and its innovation.

.. math::
    \mathrm{KL}(\mathrm{Laplace}_b(d) \| \mathrm{Laplace}_b(0)) = r + e^{-r} - 1,
    \quad r = |d| / b
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, register_kl

from ..laws import Still, _RealLaw
from ..numerics.transcendental import horner
from .base import Increment
from .cumulants import orders
from .draws import tensors, uniform_draws
from .laplace_process import LaplaceShare, VarianceGamma
from .log_cf import real_log
from .registry import standardises


class SpikedLaplace(_RealLaw):
    r"""The law that is m with probability w, else Laplace(m, b).

    ``log_prob`` is against Lebesgue's measure plus one atom at m.

    Arguments:
        loc: m.
        scale: b > 0.
        weight: w, in [0, 1].
    """

    def __init__(self, loc: Any, scale: Any, weight: Any) -> None:
        self.loc, self.scale, self.weight = tensors(loc, scale, weight)
        self.slab = pyro.Laplace(self.loc, self.scale, validate_args=False)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return 2 * (1 - self.weight) * self.scale**2

    def _draw(self, shape: Size) -> Tensor:
        x = self.slab.sample(shape)
        return torch.where(uniform_draws(x.shape, x) < self.weight, self.loc, x)

    @property
    def still(self) -> Still:
        return Still(self.loc, self.weight.log())

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        slab = self.slab.log_prob(x) + torch.log1p(-self.weight)
        return torch.where(x == self.loc, self.weight.log(), slab)

    def cdf(self, value: Tensor) -> Tensor:
        step = (value >= self.loc).to(self.loc.dtype)
        return self.weight * step + (1 - self.weight) * self.slab.cdf(value)


@standardises(torch.distributions.Laplace)
class Laplace(Increment):
    r"""The Laplace law of scale :math:`b = 1/\sqrt{2}`, :math:`\varphi = 1 / (1 + u^2/2)`."""

    name, divisible, decomposable = "Laplace", True, True
    reach, radius, fisher = 28.0, math.sqrt(2), 2.0
    domain = (-math.sqrt(2), math.sqrt(2))
    entropy = 1 + math.log(math.sqrt(2))

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return real_log(-torch.log1p(u**2 / 2))

    def _cumulants(self, order: int) -> list[float]:
        return [0.0 if n % 2 else 2 * math.factorial(n - 1) / 2 ** (n / 2) for n in orders(order)]

    def _cgf(self, e: Tensor) -> Tensor:
        return -torch.log1p(-(e**2) / 2)

    def _slope(self, e: Tensor) -> Tensor:
        return e / ((1 - e / math.sqrt(2)) * (1 + e / math.sqrt(2)))

    def _natural(self, m: Tensor) -> Tensor:
        return 2 * m / (1 + (1 + 2 * m**2).sqrt())

    def crowding(self, tau: float) -> float:
        return 2 * tau

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return pyro.Laplace(loc, scale / math.sqrt(2), validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        left, right = 1 / (math.sqrt(2) + eta), 1 / (math.sqrt(2) - eta)
        width, skew = scale * (left * right).sqrt(), (left / right).sqrt()
        return pyro.AsymmetricLaplace(loc, width, skew, validate_args=False)

    def _log_mgf(self, z: Tensor) -> Tensor:
        return -torch.log(1 - z**2 / 2)

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return SpikedLaplace(loc, scale / math.sqrt(2), rho**2)

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return LaplaceShare(total, s, t)

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return VarianceGamma(loc, scale, tau)

    @property
    def mixing(self) -> Distribution:
        return pyro.Exponential(torch.ones((), dtype=torch.float64))


@register_kl(pyro.Laplace, pyro.Laplace)
def _kl_laplace(p: pyro.Laplace, q: pyro.Laplace) -> Tensor:
    """As torch's rule, without its cancellation where the laws are near each other."""
    r = (p.loc - q.loc).abs() / p.scale
    near = r < 0.5
    small = torch.where(near, r, torch.zeros_like(r))
    coefficients = tuple((-1) ** k / math.factorial(k) for k in range(2, 18))
    series = small**2 * horner(coefficients, small)
    h = torch.where(near, series, r + torch.expm1(-r))
    ratio = p.scale / q.scale
    return ratio * h + (ratio - 1 - ratio.log())


@register_kl(pyro.Uniform, pyro.Laplace)
def _kl_uniform_laplace(p: pyro.Uniform, q: pyro.Laplace) -> Tensor:
    w, b = (p.high - p.low) / 2, q.scale
    d = ((p.high + p.low) / 2 - q.loc).abs()
    spread = torch.where(d <= w, (w**2 + d**2) / (2 * w), d)
    return (b / w).log() + spread / b
