r"""The logistic increment, its tilts, its innovation and its mixing law.

.. math::
    \mathrm{KL}(\mathrm{logistic}_s(d) \| \mathrm{logistic}_s(0)) = z \coth(z / 2) - 2,
    \quad z = d / s
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.nn.functional import logsigmoid

from .. import laws
from ..laws import _Law
from ..numerics.quadrature import real_line
from ..numerics.transcendental import (
    circular_langevin,
    horner,
    incomplete_beta,
    inverse_circular_langevin,
    log_sinc,
    log_sinhc,
)
from .base import Increment
from .cumulants import orders, zeta_at
from .draws import Reparameterised, log_gamma_draws, tensors, uniform_draws
from .log_cf import real_log
from .registry import standardises

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)

_COTH = tuple(2 * b / math.factorial(2 * k + 2) for k, b in enumerate(_BERNOULLI))


class LogitBeta(Reparameterised):
    r"""The law of :math:`m + s \log(B / (1 - B))` with :math:`B \sim \mathrm{Beta}(a, b)`.

    The tilted logistic law; a = b = 1 is the logistic law itself.

    Arguments:
        loc: m.
        scale: s > 0.
        a: Of the right tail's opposite: the left tail decays like :math:`e^{a z}`.
        b: The right tail decays like :math:`e^{-b z}`.
    """

    def __init__(self, loc: Any, scale: Any, a: Any, b: Any) -> None:
        self.loc, self.scale, self.a, self.b = tensors(loc, scale, a, b)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * (torch.digamma(self.a) - torch.digamma(self.b))

    @property
    def variance(self) -> Tensor:
        both = torch.polygamma(1, self.a) + torch.polygamma(1, self.b)
        return self.scale**2 * both

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        shape = Size(sample_shape)
        return self.loc + self.scale * (
            log_gamma_draws(self.a, shape) - log_gamma_draws(self.b, shape)
        )

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        z = (x - self.loc) / self.scale
        norm = torch.lgamma(self.a) + torch.lgamma(self.b) - torch.lgamma(self.a + self.b)
        return self.a * logsigmoid(z) + self.b * logsigmoid(-z) - norm - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        return incomplete_beta(self.a, self.b, ((value - self.loc) / self.scale).sigmoid())


class LogisticInnovation(Reparameterised):
    r"""What is added to :math:`\rho` times a logistic variable to make a logistic one.

    .. math::
        f(y) = \frac{\sin \pi \rho}{2 \pi \rho (\cosh y + \cos \pi \rho)}, \qquad
        F(y) = \frac{1}{2} + \frac{1}{\pi \rho} \arctan(\tan(\pi \rho / 2) \tanh(y / 2))

    Arguments:
        loc: Its median.
        scale: The scale of the logistic law.
        rho: ρ, in (0, 1).
    """

    def __init__(self, loc: Any, scale: Any, rho: Any) -> None:
        self.loc, self.scale, self.rho = tensors(loc, scale, rho)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * (math.pi**2 / 3) * (1 - self.rho**2)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        u = uniform_draws(Size(sample_shape) + self.batch_shape, self.loc)
        return self.icdf(u).to(self.loc.dtype)

    def icdf(self, value: Tensor) -> Tensor:
        # tanh(y/2) = tan(πρ(u−½)) / tan(πρ/2) = sin(A−B)/sin(A+B)… as a log-ratio of sines:
        # y = log sin(πρu) − log sin(πρ(1−u)), exact in both tails
        angle = math.pi * self.rho
        y = (angle * value).sin().log() - (angle * (1 - value)).sin().log()
        return self.loc + self.scale * y

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = ((x - self.loc) / self.scale).abs()
        angle = math.pi * self.rho
        # 2(cosh y + cos a) = e^y ((1 − e^{−y})² + 4 e^{−y} cos²(a/2))
        inner = torch.expm1(-y) ** 2 + 4 * (-y).exp() * torch.cos(angle / 2) ** 2
        return angle.sin().log() - angle.log() - y - inner.log() - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        angle = math.pi * self.rho
        # the inverse of `icdf`: with the smaller tail p, tan(πρp) = sin(a) / (e^{|y|} + cos(a))
        tail = torch.atan2(angle.sin() * (-y.abs()).exp(), 1 + angle.cos() * (-y.abs()).exp())
        tail = tail / angle
        return torch.where(y > 0, 1 - tail, tail)


class KolmogorovSquare(_Law):
    r"""The law of :math:`\sum_{k \ge 1} \frac{6}{\pi^2 k^2} E_k`, all E exponential: mean 1.

    :math:`12 / \pi^2` times the square of Kolmogorov's variable; the variances that mix normal
    laws to a logistic one.

    .. math::
        P(A \le a) = \sum_{k \in \mathbb{Z}} (-1)^k e^{-k^2 z}
        = 2 \sqrt{\pi / z} \sum_{k \ge 1} e^{-(2k - 1)^2 \pi^2 / (4 z)}, \qquad
        z = \frac{\pi^2 a}{6}
    """

    _TERMS = 12

    def __init__(self) -> None:
        super().__init__(Size())

    @property
    def support(self) -> Any:
        return constraints.positive

    @property
    def mean(self) -> Tensor:
        return torch.ones((), dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        return torch.full((), 0.4, dtype=torch.float64)  # (6/π²)² ζ(4)

    def _split(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z = math.pi**2 / 6 * a
        small = z < 2
        k = torch.arange(1, self._TERMS, dtype=z.dtype, device=z.device)
        near = torch.where(small & (z > 0), z, torch.ones_like(z)).unsqueeze(-1)
        return small, near, torch.where(small, torch.full_like(z, 3.0), z).unsqueeze(-1), k

    def cdf(self, value: Tensor) -> Tensor:
        small, near, far, k = self._split(value)
        low = (-((2 * k - 1) ** 2) * math.pi**2 / (4 * near)).exp().sum(-1)
        low = 2 * (math.pi / near[..., 0]).sqrt() * low
        high = 1 + 2 * ((-1) ** k * (-(k**2) * far).exp()).sum(-1)
        value = torch.where(value > 0, torch.where(small, low, high), torch.zeros_like(low))
        return value.clamp(0, 1)  # rounding

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        small, near, far, k = self._split(x)
        c = (2 * k - 1) ** 2 * math.pi**2 / 4
        low = ((-(c - c[0]) / near).exp() * (c / near - 0.5)).sum(-1).log() - c[0] / near[..., 0]
        low = low + math.log(2 * math.sqrt(math.pi)) - 1.5 * near[..., 0].log()
        high = (2 * (-1) ** (k + 1) * k**2 * (-(k**2 - 1) * far).exp()).sum(-1).log() - far[..., 0]
        value = torch.where(small, low, high) + math.log(math.pi**2 / 6)
        return torch.where(x > 0, value, torch.full_like(value, -torch.inf))

    def _draw(self, shape: Size) -> Tensor:
        u = uniform_draws(shape, torch.zeros((), dtype=torch.float64))
        left, right = torch.full_like(u, 1e-3), torch.full_like(u, 60.0)  # F is 0 and 1 there
        for _ in range(60):
            middle = (left + right) / 2
            below = self.cdf(middle) < u
            left, right = torch.where(below, middle, left), torch.where(below, right, middle)
        return (left + right) / 2


@standardises(pyro.Logistic)
class Logistic(Increment):
    r"""The logistic law of scale :math:`\sqrt{3}/\pi`, :math:`\varphi = z / \sinh z`, z = √3 u."""

    name, divisible, decomposable = "logistic", True, True
    reach, radius, fisher = 22.5, math.pi / math.sqrt(3), math.pi**2 / 9
    domain = (-math.pi / math.sqrt(3), math.pi / math.sqrt(3))
    entropy = 2 + math.log(math.sqrt(3) / math.pi)

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return real_log(-log_sinhc(math.sqrt(3) * u))

    def _cumulants(self, order: int) -> list[float]:
        s = math.sqrt(3) / math.pi
        return [
            0.0 if n % 2 else 2 * math.factorial(n - 1) * zeta_at(n) * s**n for n in orders(order)
        ]

    def _cgf(self, e: Tensor) -> Tensor:
        return -log_sinc(math.sqrt(3) * e)

    def _slope(self, e: Tensor) -> Tensor:
        return math.sqrt(3) * circular_langevin(math.sqrt(3) * e)

    def _natural(self, m: Tensor) -> Tensor:
        return inverse_circular_langevin(m / math.sqrt(3)) / math.sqrt(3)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return laws.Logistic(loc, math.sqrt(3) / math.pi * scale, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        s = math.sqrt(3) / math.pi
        return LogitBeta(loc, s * scale, 1 + s * eta, 1 - s * eta)

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return LogisticInnovation(loc, math.sqrt(3) / math.pi * scale, rho)

    @property
    def mixing(self) -> Distribution:
        return KolmogorovSquare()


@register_kl(pyro.Logistic, pyro.Logistic)
def _kl_logistic(p: pyro.Logistic, q: pyro.Logistic) -> Tensor:
    r"""Closed where the scales agree; else the trapezoidal rule, exact to rounding."""
    if p.scale is q.scale or torch.equal(p.scale, q.scale):
        z = (p.loc - q.loc) / p.scale
        small = z.abs() < 0.5
        near = torch.where(small, z, torch.zeros_like(z)) ** 2
        # z coth(z/2) − 2 = Σ_k 2 B_{2k} z^{2k} / (2k)!
        series = near * horner(_COTH, near)
        far = torch.where(small, torch.ones_like(z), z)
        return torch.where(small, series, far / torch.tanh(far / 2) - 2)
    z, w = (v.to(p.loc) for v in real_line(321, 40.0))
    ratio = (p.scale / q.scale).unsqueeze(-1)
    y = ((p.loc - q.loc) / q.scale).unsqueeze(-1) + ratio * z
    density = torch.sigmoid(z) * torch.sigmoid(-z)
    cost = -logsigmoid(y) - logsigmoid(-y)
    return (w * density * cost).sum(-1) - ratio[..., 0].log() - 2
