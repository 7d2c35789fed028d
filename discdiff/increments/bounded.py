r"""Increments of bounded densities on an interval: uniform and triangular, and their tilts."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ..numerics.special import expm1_ratio
from ..numerics.transcendental import horner, langevin, log_sinhc
from ..validation import require
from .base import REALS, Increment
from .cumulants import bernoulli, orders
from .draws import Reparameterised, tensors, uniform_draws
from .log_cf import log_signed_sinc, real_log
from .registry import standardises


class TruncatedExponential(Reparameterised):
    r"""The law of :math:`m + w v` on :math:`|v| \le 1` with density :math:`\propto e^{a v}`.

    Arguments:
        centre: m.
        half_width: w > 0.
        tilt: a, of either sign; 0 gives the uniform law.
    """

    def __init__(self, centre: Any, half_width: Any, tilt: Any) -> None:
        self.centre, self.half_width, self.tilt = tensors(centre, half_width, tilt)
        super().__init__(self.centre.shape)

    @property
    def mean(self) -> Tensor:
        return self.centre + self.half_width * langevin(self.tilt)

    @property
    def variance(self) -> Tensor:
        a = torch.where(self.tilt.abs() < 1e-2, torch.ones_like(self.tilt), self.tilt)
        small = 1 / 3 - self.tilt**2 / 15 + 2 * self.tilt**4 / 189  # next: a⁶/675 < 2e-15
        exact = (1 / a) ** 2 - torch.exp(-2 * a.abs()) * (2 / -torch.expm1(-2 * a.abs())) ** 2
        return self.half_width**2 * torch.where(self.tilt.abs() < 1e-2, small, exact)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        u = uniform_draws(Size(sample_shape) + self.batch_shape, self.centre)
        return self.icdf(u.to(self.centre.dtype))

    def icdf(self, value: Tensor) -> Tensor:
        # On [0, 1] with density ∝ e^{ay}, 1 − y has the tilt −a: only a ≤ 0 need be solved.
        a = -2 * self.tilt.abs()
        u = torch.where(self.tilt > 0, 1 - value, value)
        small = a > -1e-4
        far = torch.where(small, torch.full_like(a, -1.0), a)
        y = torch.log1p(u * torch.expm1(far)) / far
        near = u + a * u * (1 - u) / 2 + a**2 * u * (1 - u) * (1 - 2 * u) / 6
        y = torch.where(small, near, y)
        y = torch.where(self.tilt > 0, 1 - y, y)
        return self.centre + self.half_width * (2 * y - 1)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        v = (x - self.centre) / self.half_width
        value = self.tilt * v - log_sinhc(self.tilt) - (2 * self.half_width).log()
        # draws are rounded: one at an end may lie beyond it by that much
        inside = v.abs() <= 1 + 8 * torch.finfo(v.dtype).eps
        return torch.where(inside, value, torch.full_like(value, -torch.inf))

    def cdf(self, value: Tensor) -> Tensor:
        y = (((value - self.centre) / self.half_width + 1) / 2).clamp(0, 1)  # no mass outside
        a = -2 * self.tilt.abs()
        y = torch.where(self.tilt > 0, 1 - y, y)
        below = expm1_ratio(a, y) / expm1_ratio(a, torch.ones_like(y))
        return torch.where(self.tilt > 0, 1 - below, below)


@standardises(torch.distributions.Uniform)
class Uniform(Increment):
    r"""The uniform law on [−√3, √3], :math:`\varphi = \sin z / z` with z = √3 u."""

    name, divisible, decomposable = "uniform", False, False
    reach, radius, fisher, domain = math.sqrt(3), math.pi / math.sqrt(3), math.inf, REALS
    entropy, means = math.log(2 * math.sqrt(3)), (-math.sqrt(3), math.sqrt(3))

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return log_signed_sinc(math.sqrt(3) * u)

    def _cumulants(self, order: int) -> list[float]:
        return [bernoulli(n) * 12 ** (n / 2) / n for n in orders(order)]

    def _cgf(self, e: Tensor) -> Tensor:
        return log_sinhc(math.sqrt(3) * e)

    def _slope(self, e: Tensor) -> Tensor:
        return math.sqrt(3) * langevin(math.sqrt(3) * e)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        half = math.sqrt(3) * scale
        return pyro.Uniform(loc - half, loc + half, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return TruncatedExponential(loc, math.sqrt(3) * scale, math.sqrt(3) * eta)


class Triangular(Reparameterised):
    r"""The law of :math:`m + w v` on :math:`|v| \le 1`, density :math:`\propto (1 - |v|) e^{a v}`.

    Arguments:
        loc: m.
        half_width: w > 0.
        tilt: a; 0 gives the triangular law.

    Example:
        >>> Triangular().cdf(torch.tensor([-0.5, 0.0, 0.5]))
        tensor([0.1250, 0.5000, 0.8750], dtype=torch.float64)
    """

    def __init__(self, loc: Any = 0.0, half_width: Any = 1.0, tilt: Any = 0.0) -> None:
        self.loc, self.half_width, self.tilt = tensors(loc, half_width, tilt)
        # the mean of two independent laws of half the tilt each
        self.half = TruncatedExponential(torch.zeros_like(self.loc), 1.0, self.tilt / 2)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.half_width * self.half.mean

    @property
    def variance(self) -> Tensor:
        return self.half_width**2 * self.half.variance / 2

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        v = self.half.rsample(sample_shape) + self.half.rsample(sample_shape)
        return self.loc + self.half_width * v / 2

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        v = (x - self.loc) / self.half_width
        inside = v.abs() < 1
        safe = torch.where(inside, v, torch.zeros_like(v))
        value = torch.log1p(-safe.abs()) + self.tilt * safe
        value = value - 2 * log_sinhc(self.tilt / 2) - self.half_width.log()
        return torch.where(inside, value, torch.full_like(value, -torch.inf))

    def cdf(self, value: Tensor) -> Tensor:
        v = ((value - self.loc) / self.half_width).clamp(-1, 1)  # no mass outside
        v, a = torch.broadcast_tensors(v, self.tilt)
        # ∫_{−1}^{v} (1 + w) e^{aw} dw = e^{−a} y² Σ_n (a y)^n / (n! (n + 2)), y = 1 + v ≤ 1
        left, right = _ramp(1 - v.abs(), a), _ramp(1 - v.abs(), -a)
        norm = -2 * log_sinhc(a / 2)
        return torch.where(v > 0, 1 - (right + norm + a).exp(), (left + norm - a).exp())


def _ramp(y: Tensor, a: Tensor) -> Tensor:
    r""":math:`\log \int_0^y w e^{a w} \, dw`."""
    z = a * y
    small = z.abs() < 1
    near = torch.where(small, z, torch.zeros_like(z))
    series = horner(tuple(1 / (math.factorial(n) * (n + 2)) for n in range(20)), near).log()
    far = torch.where(small, torch.ones_like(z), z)
    # (1 + (z − 1) e^z) / z², with e^z in front where it is large
    above, below = far.clamp(min=0), far.clamp(max=0)
    up = above + (above - 1 + (-above).exp()).log()
    low = torch.log1p((below - 1) * below.exp())
    large = torch.where(far > 0, up, low) - 2 * far.abs().log()
    return torch.where(small, series, large) + 2 * y.log()


@standardises(Triangular)
class Tent(Increment):
    r"""The triangular law on [−√6, √6]: the sum of two uniform increments, over √2."""

    name, divisible, decomposable = "triangular", False, False
    reach, radius = math.sqrt(6), math.pi * math.sqrt(2 / 3)
    fisher, domain, entropy = math.inf, REALS, 0.5 + math.log(math.sqrt(6))
    means = (-math.sqrt(6), math.sqrt(6))
    _uniform = Uniform()

    def __init__(self, law: Triangular | None = None) -> None:
        plain = law is None or float(law.tilt) == 0
        require(plain, "a tilted triangular law is no increment: declare the untilted one")

    def _log_cf(self, u: Tensor) -> Tensor:
        return real_log(2 * self._uniform.log_cf(u / math.sqrt(2)).real)

    def _cumulants(self, order: int) -> list[float]:
        each = self._uniform.cumulants(order).tolist()
        return [2 ** (1 - n / 2) * k for n, k in zip(orders(order), each, strict=True)]

    def _cgf(self, e: Tensor) -> Tensor:
        return 2 * log_sinhc(math.sqrt(1.5) * e)

    def _slope(self, e: Tensor) -> Tensor:
        return math.sqrt(6) * langevin(math.sqrt(1.5) * e)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Triangular(loc, math.sqrt(6) * scale)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return Triangular(loc, math.sqrt(6) * scale, math.sqrt(6) * eta)
