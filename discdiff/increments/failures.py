r"""Increments that count failures before the r-th success: geometric and negative binomial.

With q the chance of a failure and :math:`c = q / (1 - q)`

.. math::
    P(N = n) = \frac{\Gamma(n + r)}{n!\, \Gamma(r)} q^n (1 - q)^r, \qquad
    \mathbb{E} e^{zN} = \Bigl( \frac{1 - q}{1 - q e^z} \Bigr)^r, \qquad
    \kappa_m(N) = r \sum_{k=1}^m (k - 1)!\, S(m, k)\, c^k

with Stirling's numbers S of the second kind. A tilt by :math:`\eta N` leaves r and makes
:math:`q e^\eta` of q. The Lévy process has r times its time for r, and given how many have come by
t each number before s is beta-binomial, :math:`\mathrm{BB}(N_t; rs, r(t - s))`.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ..laws import _RealLaw
from ..numerics.less import atan_less, cos_less, expm1_less, log1m_less, sin_less
from ..numerics.transcendental import incomplete_beta
from ..validation import require
from .base import Increment
from .counts import nearest_count
from .cumulants import orders
from .draws import gamma_draws, tensors
from .measured import reach_of
from .registry import standardises


class ShiftedFailures(_RealLaw):
    r"""The law of :math:`m + s N`, N the failures before the r-th success, a lattice.

    Arguments:
        successes: r > 0.
        log_chance: :math:`\log q < 0`, q the chance of a failure.
        loc: m.
        scale: s > 0.

    Example:
        >>> law = ShiftedFailures(1.0, math.log(0.5), 0.0, 2.0)
        >>> law.log_prob(torch.tensor([0.0, 1.0, 2.0])).exp()
        tensor([0.5000, 0.0000, 0.2500])
    """

    atoms = True

    def __init__(self, successes: Any, log_chance: Any, loc: Any, scale: Any) -> None:
        self.successes, self.log_chance, self.loc, self.scale = tensors(
            successes, log_chance, loc, scale
        )
        super().__init__(self.loc.shape)

    @property
    def _odds(self) -> Tensor:
        """q / (1 − q)."""
        return 1 / torch.expm1(-self.log_chance)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.successes * self._odds

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * self.successes * self._odds * (1 + self._odds)

    def _draw(self, shape: Size) -> Tensor:
        shape = shape + self.batch_shape
        rate = gamma_draws(self.successes.expand(shape)) * self._odds
        return torch.addcmul(self.loc, self.scale, torch.poisson(rate))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        near, hit = nearest_count(x, self.loc, self.scale)
        hit = hit & (near >= 0)
        n = torch.where(hit, near, 0.0).double()
        r, log_q = self.successes.double(), self.log_chance.double()
        value = n * log_q + r * (-torch.expm1(log_q)).log() + _log_ways(n, r)
        return torch.where(hit, value.to(near.dtype), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        near, hit = nearest_count(value, self.loc, self.scale)
        below = torch.where(hit, near, ((value - self.loc) / self.scale).floor())
        r, most, log_q = torch.broadcast_tensors(self.successes, below + 1, self.log_chance)
        inside = most > 0
        safe = torch.where(inside, most, 1.0)
        return torch.where(inside, incomplete_beta(r, safe, -torch.expm1(log_q)), 0.0)


class SharedCount(_RealLaw):
    r"""The law of :math:`m + s K`, :math:`K \sim \mathrm{BB}(n; a, b)`, a lattice.

    Arguments:
        count: n, up to rounding; where it is no count ≥ 0 draws are NaN and the log-probability
            is −∞.
        a, b: > 0; the mean of K is n a / (a + b).
        loc: m.
        scale: s > 0.

    Example:
        >>> SharedCount(2.0, 1.0, 1.0, 0.0, 1.0).log_prob(torch.arange(3.0)).exp()
        tensor([0.3333, 0.3333, 0.3333])
    """

    atoms = True

    def __init__(self, count: Any, a: Any, b: Any, loc: Any, scale: Any) -> None:
        count, self.a, self.b, self.loc, self.scale = tensors(count, a, b, loc, scale)
        slack = 1e-3 if count.dtype == torch.float32 else 1e-6
        near = count.round()
        self.possible = ((count - near).abs() <= slack * (1 + count.abs())) & (near >= 0)
        self.count = torch.where(self.possible, near, 0.0)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.count * self.a / (self.a + self.b)

    @property
    def variance(self) -> Tensor:
        whole = self.a + self.b
        each = self.a / whole * self.b / whole
        return self.scale**2 * self.count * each * (whole + self.count) / (whole + 1)

    def _draw(self, shape: Size) -> Tensor:
        shape = shape + self.batch_shape
        first, rest = (gamma_draws(v.expand(shape).double()) for v in (self.a, self.b))
        chance = (first / (first + rest)).nan_to_num(0.5).to(self.loc)
        drawn = torch.binomial(self.count.expand(shape), chance)
        return torch.where(self.possible, self.loc + self.scale * drawn, math.nan)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        k = (x - self.loc) / self.scale
        near = k.detach().round()
        hit = self.possible & ((k - near).abs() <= 1e-3) & (near >= 0) & (near <= self.count)
        k, n = torch.where(hit, near, 0.0).double(), self.count.double()
        a, b = self.a.double(), self.b.double()
        value = _log_ways(k, a) + _log_ways(n - k, b) - _log_ways(n, a + b)
        return torch.where(hit, value.to(near.dtype), -math.inf)


def _log_ways(n: Tensor, r: Tensor) -> Tensor:
    r""":math:`\log \Gamma(n + r) / (n!\, \Gamma(r))`, 0 at n = 0."""
    return torch.lgamma(n + r) - torch.lgamma(n + 1) - torch.lgamma(r)


class Failures(Increment):
    r"""The failures before the r-th success, standardised, a lattice law.

    Arguments:
        successes: r > 0.
        chance: q, in (0, 1), the chance of a failure.
        name: What the law is called.

    Raises:
        ValueError: If one of them lies outside.

    Example:
        >>> from discdiff import increment
        >>> increment(torch.distributions.Geometric(0.5)).cumulants(4)  # 3 / √2, 6 + 1 / 2
        tensor([0.0000, 1.0000, 2.1213, 6.5000], dtype=torch.float64)
    """

    divisible, decomposable, lattice = True, False, True
    fisher, entropy = math.inf, -math.inf

    def __init__(self, successes: float, chance: float, name: str) -> None:
        r, q = float(successes), float(chance)
        rule = f"{name} needs successes > 0 and a chance of failure in (0, 1)"
        require(r > 0 and 0 < q < 1, f"{rule}; they are {r:g} and {q:g}")
        self.r, self.q, self.odds, self.name = r, q, q / (1 - q), name
        self.log_q = math.log(q)
        self.deviation = math.sqrt(r * q) / (1 - q)
        self.mean = r * self.odds
        self.radius = -self.log_q * self.deviation
        self.domain, self.means = (-math.inf, self.radius), (-math.sqrt(r * q), math.inf)
        self.reach = reach_of(self)

    def _log_cf(self, u: Tensor) -> Tensor:
        v, q = u / self.deviation, self.q
        # |1 − q e^{iv}|² = (1 − q)² + 4 q sin²(v/2), and the phase less the mean's
        size = -torch.log1p(4 * self.odds / (1 - q) * (v / 2).sin() ** 2) / 2
        tangent = q * v.sin() / (1 - q * v.cos())
        above = (q * sin_less(v) + self.odds * q * v * cos_less(v)) / (1 - q * v.cos())
        phase = atan_less(tangent) + above  # = atan(tangent) − c v
        return self.r * torch.complex(size, phase)

    def _cumulants(self, order: int) -> list[float]:
        row, found = [1.0], []  # Stirling's numbers S(m, 1 … m)
        for m in orders(order):
            terms = (math.factorial(k) * s * self.odds ** (k + 1) for k, s in enumerate(row))
            found.append(self.r * math.fsum(terms) / self.deviation**m)
            shifted, row = [0.0, *row], [*row, 0.0]
            row = [s + (k + 1) * t for k, (s, t) in enumerate(zip(shifted, row, strict=True))]
        return found

    def _cgf(self, e: Tensor) -> Tensor:
        z = e / self.deviation  # −log(1 − w) − c z with w = c (e^z − 1)
        return self.r * (log1m_less(self.odds * torch.expm1(z)) + self.odds * expm1_less(z))

    def _slope(self, e: Tensor) -> Tensor:
        z = e / self.deviation
        more = torch.expm1(z) / -torch.expm1(z + self.log_q)
        return self.mean / self.deviation * more

    def _natural(self, m: Tensor) -> Tensor:
        more = self.deviation * m
        log = torch.log1p(more / self.mean) - torch.log1p(more / (self.r + self.mean))
        return self.deviation * log

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return self._shifted(self.r, self.log_q, loc, scale)

    def _shifted(self, r: Any, log_q: Any, loc: Tensor, scale: Tensor) -> Distribution:
        start = loc - scale * math.sqrt(self.r * self.q)
        return ShiftedFailures(r, log_q, start, scale / self.deviation)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return self._shifted(self.r, self.log_q + eta / self.deviation, loc, scale)

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        start = loc - scale * math.sqrt(self.r * self.q) * tau
        return ShiftedFailures(self.r * tau, self.log_q, start, scale / self.deviation)

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """Beta-binomial: failures fall into both parts of the time as in Pólya's urn."""
        s, t = s.to(total), t.to(total)
        count = self.deviation * total + self.mean * t
        start = -math.sqrt(self.r * self.q) * s
        return SharedCount(count, self.r * s, self.r * (t - s), start, 1 / self.deviation)


@standardises(torch.distributions.Geometric)
def _geometric(law: torch.distributions.Geometric) -> Failures:
    return Failures(1.0, 1 - float(law.probs), f"geometric ({float(law.probs):g})")


@standardises(torch.distributions.NegativeBinomial)
def _negative_binomial(law: torch.distributions.NegativeBinomial) -> Failures:
    r, q = float(law.total_count), float(law.probs)
    return Failures(r, q, f"negative binomial ({r:g}, {q:g})")


@standardises(pyro.GammaPoisson)
def _gamma_poisson(law: Any) -> Failures:
    r, q = float(law.concentration), 1 / (1 + float(law.rate))
    return Failures(r, q, f"negative binomial ({r:g}, {q:g})")
