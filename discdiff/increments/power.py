r"""The generalised normal increment, of density like exp(−|x|^p), and its tilts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ..laws import _RealLaw
from ..validation import require
from .base import NOWHERE, REALS, Increment, doubles
from .cumulants import cumulants_from, orders
from .draws import Reparameterised, log_gamma_draws, log_gamma_rule, tensors
from .laplace import Laplace
from .log_cf import real_log, signed_log
from .measured import radius_of
from .normal import Normal
from .registry import standardises


class GeneralisedNormal(Reparameterised):
    r"""The law with density :math:`\propto e^{-|z|^p}`, :math:`z = (x - m) / b`.

    p = 1 is Laplace's, p = 2 normal (of variance b²/2), p → ∞ uniform.

    Arguments:
        power: p > 0.
        loc: m.
        scale: b > 0.

    Raises:
        ValueError: If the power is not positive.

    Example:
        >>> GeneralisedNormal(4.0).variance
        tensor(0.3380, dtype=torch.float64)
    """

    def __init__(self, power: Any, loc: Any = 0.0, scale: Any = 1.0) -> None:
        self.power, self.loc, self.scale = tensors(power, loc, scale)
        require(bool((self.power > 0).all()), f"power must be positive; it is {power}")
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * (torch.lgamma(3 / self.power) - torch.lgamma(1 / self.power)).exp()

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        z = (log_gamma_draws(1 / self.power, Size(sample_shape)) / self.power).exp()
        sign = torch.where(torch.rand_like(z) < 0.5, -1.0, 1.0).to(z)
        return self.loc + self.scale * sign * z

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        z = ((x - self.loc) / self.scale).abs()
        norm = math.log(2) + torch.lgamma(1 + 1 / self.power) + self.scale.log()
        return -(z**self.power) - norm

    def cdf(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        shape, far = torch.broadcast_tensors(1 / self.power, z.abs() ** self.power)
        tail = torch.special.gammaincc(shape, far) / 2
        return torch.where(z > 0, 1 - tail, tail)

    def entropy(self) -> Tensor:
        norm = math.log(2) + torch.lgamma(1 + 1 / self.power) + self.scale.log()
        return 1 / self.power + norm


class TiltedGeneralisedNormal(_RealLaw):
    r"""The law with density :math:`e^{-|z|^p + a z} / Z`, :math:`z = (x - m) / b`, for p > 1.

    Draws are exact, by rejection from :math:`f(x) \le f(c) \min(1, e^{1 - f(c) |x - c|})`, which
    holds for every log-concave density f of mode c and accepts one in four.

    Arguments:
        power: p > 1.
        loc: m.
        scale: b > 0.
        tilt: a.
        log_norm: :math:`\log Z`, against dz.

    References:
        | A simple algorithm for generating random variates with a log-concave density
          (Devroye, 1984)
    """

    def __init__(self, power: float, loc: Any, scale: Any, tilt: Any, log_norm: Any) -> None:
        self.power = power
        self.loc, self.scale, self.tilt, self.log_norm = tensors(loc, scale, tilt, log_norm)
        super().__init__(self.loc.shape)

    def _log_density(self, z: Tensor) -> Tensor:
        return -(z.abs() ** self.power) + self.tilt * z - self.log_norm

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._log_density((x - self.loc) / self.scale) - self.scale.log()

    def _draw(self, shape: Size) -> Tensor:
        size = (self.tilt.abs() / self.power) ** (1 / (self.power - 1))
        mode = (self.tilt.sign() * size).expand(shape + self.batch_shape)
        top = self._log_density(mode)
        z, waiting = mode.clone(), torch.ones_like(mode, dtype=torch.bool)
        while bool(waiting.any()):
            side = 4 * torch.rand_like(z) - 2
            beyond = side.abs() > 1
            far = 1 + torch.empty_like(z).exponential_()
            step = torch.where(beyond, side.sign() * far, side)
            log_envelope = torch.where(beyond, 1 - far, torch.zeros_like(far))
            new = mode + step * (-top).exp()
            level = torch.empty_like(z).exponential_()
            accepted = self._log_density(new) - top - log_envelope > -level
            z = torch.where(waiting & accepted, new, z)
            waiting = waiting & ~accepted
        return self.loc + self.scale * z


class Power(Increment):
    r"""The generalised normal law, :math:`f \propto e^{-|x / b|^p}`, of variance 1.

    .. math::
        b^2 = \frac{\Gamma(1/p)}{\Gamma(3/p)}, \qquad
        I = \frac{p^2 \Gamma(2 - 1/p)}{b^2 \Gamma(1/p)}, \qquad
        \varphi(u) = \frac{p}{\Gamma(1/p)} \mathrm{Re} \int_0^\infty e^{-y^p + i b u y} \mathrm{d}y

    The path of the last integral is turned into the complex plane until neither factor
    oscillates. For p ≤ 1 it is a mixture of Laplace laws, which is infinitely divisible; for
    p < 1 it has no exponential moments.

    Arguments:
        power: p, neither 1 nor 2.
    """

    decomposable = False

    def __init__(self, power: float) -> None:
        self.power = p = power
        self.width = math.exp((math.lgamma(1 / p) - math.lgamma(3 / p)) / 2)
        self.name = f"generalised normal ({p:g})"
        self.divisible = p < 1  # e^{−|z|^p} mixes Laplace laws then, as it is completely monotone
        if not self.divisible:
            self.indivisible = (
                "tails lighter than e^{−x log x} but normal ones have no root of every order, "
                "so generalised normal laws are for p ≤ 1 and p = 2 only"
            )
        self.domain = REALS if p > 1 else NOWHERE
        information = p > 0.5
        self.fisher = math.inf
        if information:
            logs = math.lgamma(2 - 1 / p) - math.lgamma(1 / p)
            self.fisher = p**2 * math.exp(logs) / self.width**2
        self.entropy = float(GeneralisedNormal(p, 0.0, self.width).entropy())
        self.reach = self.width * self._quantile(1e-17)
        self.radius = radius_of(self) if p > 1 else 0.0

    def _quantile(self, tail: float) -> float:
        """Beyond it |z| has this probability: the tail is below e^{−g} (1 + g)^{1/p}."""
        g = -math.log(tail)
        for _ in range(20):
            g = -math.log(tail) + math.log1p(g) * max(0.0, 1 / self.power - 1)
        return g ** (1 / self.power)

    def _log_cf(self, u: Tensor) -> Tensor:
        flat = u.abs().reshape(-1)
        parts = [self._log_cf_part(part) for part in flat.split(2048)]
        return torch.cat(parts).reshape(u.shape) if parts else real_log(u)

    def _log_cf_part(self, u: Tensor) -> Tensor:
        near = 0.3 if self.power > 1 else 0.05
        small = u < near
        s, weights = log_gamma_rule(torch.tensor(1 / self.power, dtype=torch.float64))
        y = self.width * (s / self.power).exp()
        part = torch.where(small, u, torch.zeros_like(u)).unsqueeze(-1)
        series = torch.log1p(-2 * (weights * (part * y / 2).sin() ** 2).sum(-1))
        value = self._turned(torch.where(small, torch.ones_like(u), u))
        return signed_log(torch.where(small, series, value.abs().log()), value + 2.0 * small)

    def _turned(self, u: Tensor) -> Tensor:
        p, w = self.power, (self.width * u).unsqueeze(-1)
        angle = min(math.pi / (2 * p), math.pi) / 2
        n = int(450 * max(p, 1.0))
        v = torch.linspace(-45.0, 0.0, n, dtype=torch.float64, device=u.device)
        decays = (45 / math.cos(p * angle)) ** (1 / p) if p > 0.5 else math.inf
        end = (45 / (w * math.sin(angle))).clamp(max=decays)
        y = end * v.exp() * complex(math.cos(angle), math.sin(angle))
        power = (p * (end.log() + v)).exp() * complex(math.cos(p * angle), math.sin(p * angle))
        total = ((-power + 1j * w * y).exp() * y).sum(-1) * 45 / (n - 1)
        return p * math.exp(-math.lgamma(1 / p)) * total.real

    def _cumulants(self, order: int) -> list[float]:
        return cumulants_from([self._moment(n) for n in orders(order)])

    def _moment(self, n: int) -> float:
        if n % 2:
            return 0.0
        return self.width**n * math.exp(
            math.lgamma((n + 1) / self.power) - math.lgamma(1 / self.power)
        )

    def _weights(self, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Nodes z > 0 and the logarithms of :math:`e^{-z^p \pm a z}` times their weights."""
        p, a = self.power, (self.width * e).unsqueeze(-1)
        size = a.detach().abs()
        peak = (size / p) ** (1 / (p - 1))
        high = (2 * size) ** (1 / (p - 1)) + 90 ** (1 / p)
        height = (1 - 1 / p) * size * peak
        low = torch.where(height > 60, (height - 45) / size, math.exp(-45.0))
        unit = torch.linspace(0.0, 1.0, 2400, dtype=torch.float64, device=e.device)
        s = low.log() + (high.log() - low.log()) * unit
        z = s.exp()
        base = s - (p * s).exp() + ((high.log() - low.log()) / 2399).log()
        return z, base + a * z, base - a * z

    def _cgf(self, e: Tensor) -> Tensor:
        _, plus, minus = self._weights(e)
        total = torch.logaddexp(plus, minus).logsumexp(-1)
        return total - math.log(2) - math.lgamma(1 + 1 / self.power)

    def _slope(self, e: Tensor) -> Tensor:
        z, plus, minus = self._weights(e)
        shares = torch.logaddexp(plus, minus).softmax(-1)
        return self.width * (shares * z * torch.tanh((plus - minus) / 2)).sum(-1)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return GeneralisedNormal(self.power, loc, self.width * scale)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        log_norm = self._cgf(doubles(eta)) + math.log(2) + math.lgamma(1 + 1 / self.power)
        tilt, width = self.width * eta, self.width * scale
        return TiltedGeneralisedNormal(self.power, loc, width, tilt, log_norm.to(eta))


@standardises(GeneralisedNormal)
def _generalised_normal(law: GeneralisedNormal) -> Increment:
    closed = {1.0: Laplace, 2.0: Normal}.get(float(law.power))
    return closed() if closed is not None else Power(float(law.power))
