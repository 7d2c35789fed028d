r"""The Gumbel increment, its tilts and its innovation."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions import Gumbel as TorchGumbel
from torch.nn.functional import logsigmoid

from ..numerics.transcendental import EULER, log_gamma_ratio
from .base import Increment
from .cumulants import orders, zeta_at
from .draws import Reparameterised, log_gamma_draws, tensors, uniform_draws
from .registry import standardises


class NegativeLogGamma(Reparameterised):
    r"""The law of :math:`m - s \log G` with :math:`G \sim \Gamma(a, 1)`.

    The tilted Gumbel law; a = 1 is the Gumbel law itself.

    Arguments:
        loc: m.
        scale: s > 0.
        a: The right tail decays like :math:`e^{-a z}`.
    """

    def __init__(self, loc: Any, scale: Any, a: Any) -> None:
        self.loc, self.scale, self.a = tensors(loc, scale, a)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc - self.scale * torch.digamma(self.a)

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * torch.polygamma(1, self.a)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        return self.loc - self.scale * log_gamma_draws(self.a, Size(sample_shape))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        z = (x - self.loc) / self.scale
        return -self.a * z - (-z).exp() - torch.lgamma(self.a) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        g = (-(value - self.loc) / self.scale).exp()
        return torch.special.gammaincc(*torch.broadcast_tensors(self.a, g))


class GumbelInnovation(Reparameterised):
    r"""What is added to ρ times a Gumbel variable to make a Gumbel one: :math:`\rho \log S_\rho`.

    S is positive and ρ-stable, :math:`\mathbb{E} e^{-\lambda S} = e^{-\lambda^\rho}`. With U
    uniform on (0, π) and G standard Gumbel (Kanter's representation)

    .. math::
        \rho \log S_\rho = b(U) + (1 - \rho) G, \quad
        b(u) = (1 - \rho) \log \sin((1 - \rho) u) + \rho \log \sin(\rho u) - \log \sin u,

    so that density and distribution function are integrals over u, by the trapezoidal rule in the
    logit of u / π.

    Arguments:
        loc: Added to it.
        scale: The scale of the Gumbel law.
        rho: ρ, in (0, 1).

    References:
        | Stable densities under change of scale and total variation inequalities (Kanter, 1975)
    """

    def __init__(self, loc: Any, scale: Any, rho: Any) -> None:
        self.loc, self.scale, self.rho = tensors(loc, scale, rho)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + EULER * self.scale * (1 - self.rho)

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * (math.pi**2 / 6) * (1 - self.rho**2)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        u = uniform_draws(Size(sample_shape) + self.batch_shape, self.loc).to(self.loc.dtype)
        g = -torch.empty_like(u).exponential_().log()
        return self.loc + self.scale * (self._b(u, 1 - u, self.rho) + (1 - self.rho) * g)

    @staticmethod
    def _b(part: Tensor, rest: Tensor, rho: Tensor) -> Tensor:
        """b at π · part, where part + rest = 1."""
        sine = (math.pi * torch.minimum(part, rest)).sin()
        left = torch.xlogy(1 - rho, (math.pi * (1 - rho) * part).sin())  # 0 at ρ = 1
        return left + rho * (math.pi * rho * part).sin().log() - sine.log()

    def _rule(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(y − b(u)) / (1 − ρ) at the nodes, the logarithms of their weights, and 1 − ρ."""
        y, rho = torch.broadcast_tensors((value - self.loc) / self.scale, self.rho)
        least = float((1 - self.rho).min())
        v = torch.linspace(-45.0, 45.0, int(360 / least) + 1, dtype=y.dtype, device=y.device)
        rho, y = rho.unsqueeze(-1), y.unsqueeze(-1)
        weights = logsigmoid(v) + logsigmoid(-v) + math.log(90.0 / (len(v) - 1))
        return (y - self._b(v.sigmoid(), (-v).sigmoid(), rho)) / (1 - rho), weights, 1 - rho

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        z, weights, rest = self._rule(x)
        value = (weights - z - (-z).exp()).logsumexp(-1)
        return value - rest[..., 0].log() - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        z, weights, _ = self._rule(value)
        return (weights - (-z).exp()).logsumexp(-1).exp()


@standardises(TorchGumbel)
class Gumbel(Increment):
    r"""The Gumbel law, centred: :math:`\xi = c (g - \gamma)`, :math:`c = \sqrt{6} / \pi`.

    .. math:: \log \varphi(u) = \log \Gamma(1 - i c u) - i \gamma c u
    """

    name, divisible, decomposable = "Gumbel", True, True
    c = math.sqrt(6) / math.pi
    reach, radius, fisher = 32.0, 1 / c, math.pi**2 / 6
    domain = (-math.inf, 1 / c)
    entropy = math.log(c) + 1 + EULER

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return log_gamma_ratio(torch.complex(torch.zeros_like(u), self.c * u))

    def _cumulants(self, order: int) -> list[float]:
        return [
            0.0 if n == 1 else math.factorial(n - 1) * zeta_at(n) * self.c**n
            for n in orders(order)
        ]

    def _cgf(self, e: Tensor) -> Tensor:
        w = self.c * e
        return torch.lgamma(1 - w) - EULER * w

    def _slope(self, e: Tensor) -> Tensor:
        return -self.c * (torch.digamma(1 - self.c * e) + EULER)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        width = self.c * scale
        return pyro.Gumbel(loc - EULER * width, width, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        width = self.c * scale
        return NegativeLogGamma(loc - EULER * width, width, 1 - self.c * eta)

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        width = self.c * scale
        return GumbelInnovation(loc - EULER * width * (1 - rho), width, rho)
