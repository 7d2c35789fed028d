r"""Compound Poisson increments: a random number of jumps, and Gaussian noise if wanted.

.. math::
    S = \sum_{j \le N} J_j + \sigma G, \quad N \sim \mathrm{Poisson}(\lambda), \qquad
    \log \mathbb{E} e^{z S} = \lambda (M_J(z) - 1) + \frac{\sigma^2 z^2}{2}.

The increment is :math:`\xi = (S - \lambda \mathbb{E} J) / \sqrt{V}` with
:math:`V = \lambda \mathbb{E} J^2 + \sigma^2`. Without noise S has an atom at 0, of mass
:math:`e^{-\lambda}`, and densities are against Lebesgue's measure plus that atom. With noise and
normal jumps S is a mixture of normal laws; with other jumps its density is an inverse transform
along the line through the saddle point,

.. math::
    f(x) = \frac{1}{2 \pi} \int e^{K(c + iv) - (c + iv) x} \, \mathrm{d}v, \qquad K'(c) = x,

which keeps its relative accuracy in the tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import (
    AffineTransform,
    Distribution,
    TransformedDistribution,
)

from ..laws import _RealLaw, mean_and_variance
from ..numerics.autodiff import slope
from ..numerics.inverse import increasing_inverse
from ..numerics.special import log_poisson_pmf
from ..solve import Unsolved
from ..validation import require
from .base import NOWHERE, Increment
from .draws import tensors
from .measured import entropy_and_fisher, reach_of
from .normal import Normal
from .registry import increment, standardises

TOGETHER = 512  # entries whose sums over numbers of jumps stay in a cache


class CompoundPoisson(_RealLaw):
    r"""The law of :math:`m + s (J_1 + \dots + J_N + \sigma G)`, N ~ Poisson(λ).

    Without noise ``log_prob`` is against Lebesgue's measure plus one atom at m.

    Arguments:
        rate: λ > 0.
        jump: The law of J, one real law that has an increment.
        noise: σ ≥ 0.
        loc: m.
        scale: s > 0.

    Raises:
        ValueError: If the rate is not positive or the noise negative, or J has no finite variance.

    Example:
        >>> CompoundPoisson(2.0, pyro.Normal(1.0, 1.0)).variance
        tensor(4., dtype=torch.float64)
    """

    def __init__(
        self, rate: Any, jump: Distribution, noise: Any = 0.0, loc: Any = 0.0, scale: Any = 1.0
    ) -> None:
        self.rate, self.noise, self.loc, self.scale = tensors(rate, noise, loc, scale)
        require(bool((self.rate > 0).all()), f"rate must be positive; it is {rate}")
        require(bool((self.noise >= 0).all()), f"noise must not be negative; it is {noise}")
        self.jump = jump
        self.jumps = increment(jump)
        self.jump_mean, self.jump_deviation = _mean_and_deviation(jump)
        self.smooth = bool((self.noise > 0).all())
        require(
            self.smooth or bool((self.noise == 0).all()),
            "noise must be positive everywhere or nowhere",
        )
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.rate * self.jump_mean

    @property
    def variance(self) -> Tensor:
        square = self.jump_mean**2 + self.jump_deviation**2
        return self.scale**2 * (self.rate * square + self.noise**2)

    def _draw(self, shape: Size) -> Tensor:
        count = torch.poisson(self.rate.expand(shape + self.batch_shape))
        jumps = self.jump.sample(Size((int(count.max()) if count.numel() else 0,)) + count.shape)
        return self.loc + self.scale * (
            total(jumps.to(count), count) + self.noise * torch.randn_like(count)
        )

    def _parts(self, rate: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Distribution]:
        """log P(N = n) and the law of S given N = n, on a last axis n = 1, 2, …"""
        most = float(rate.max()) if rate.numel() else 0.0
        n = torch.arange(1.0, 41.0 + int(most + 12 * math.sqrt(most)), dtype=torch.float64)
        log_weights = log_poisson_pmf(n, rate.unsqueeze(-1))
        mean, deviation = n * self.jump_mean, self.jump_deviation
        if isinstance(self.jumps, Normal):
            spread = (n * deviation**2 + noise.unsqueeze(-1) ** 2).sqrt()
            return log_weights, mean, pyro.Normal(torch.zeros(1), spread, validate_args=False)
        law = None if self.smooth else self.jumps.levy(n, deviation)
        if law is None:
            raise Unsolved(
                f"sums of {self.jumps.name} jumps have no density in closed form; those of "
                "normal, Laplace or gamma jumps have, or use the characteristic function"
            )
        return log_weights, mean, law

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        s = (x.double() - self.loc) / self.scale
        inverted = self.smooth and not isinstance(self.jumps, Normal)
        value = self._in_parts(self._inverted if inverted else self._mixed, s)
        if not self.smooth:  # an atom has no Jacobian
            atom = self.scale.double().log() - self.rate.double()
            value = torch.where(x == self.loc, atom, value)
        return (value - self.scale.double().log()).to(self.loc.dtype)

    def _mixed(self, s: Tensor, rate: Tensor, noise: Tensor) -> Tensor:
        """The log-density off the atom, a sum over numbers of jumps."""
        log_weights, mean, law = self._parts(rate, noise)
        value = (log_weights + law.log_prob(s.unsqueeze(-1) - mean)).logsumexp(-1)
        if not self.smooth:
            return value
        calm = pyro.Normal(0.0, noise, validate_args=False).log_prob(s)
        return torch.logaddexp(value, calm - rate)

    def cdf(self, value: Tensor) -> Tensor:
        s = (value.double() - self.loc) / self.scale
        inverted = self.smooth and not isinstance(self.jumps, Normal)
        return self._in_parts(self._below if inverted else self._mixed_below, s).to(self.loc.dtype)

    def _mixed_below(self, s: Tensor, rate: Tensor, noise: Tensor) -> Tensor:
        log_weights, mean, law = self._parts(rate, noise)
        below = (log_weights.exp() * law.cdf(s.unsqueeze(-1) - mean)).sum(-1)
        step = torch.special.ndtr(s / noise) if self.smooth else (s >= 0).double()
        return below + (-rate).exp() * step

    def _k(self, z: Tensor, rate: Tensor, noise: Tensor) -> Tensor:
        """log E exp(zS), of real or complex z."""
        log_jump = self.jumps._log_mgf(self.jump_deviation * z) + self.jump_mean * z
        return rate * torch.expm1(log_jump) + noise**2 * z**2 / 2

    def _mean_at(self, c: Tensor, rate: Tensor, noise: Tensor) -> Tensor:
        """The derivative of log E exp(cS)."""
        log_jump = self.jumps._cgf(self.jump_deviation * c) + self.jump_mean * c
        mean = self.jump_mean + self.jump_deviation * self.jumps._slope(self.jump_deviation * c)
        return rate * mean * log_jump.exp() + noise**2 * c

    def _saddle(self, s: Tensor, rate: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The saddle point of every s, and the deviation of the law tilted there."""
        low, high = (end / self.jump_deviation for end in self.jumps.domain)

        def mean_at(c: Tensor) -> Tensor:
            return self._mean_at(c, rate, noise)

        with torch.no_grad():
            c = increasing_inverse(mean_at, s.detach(), (low, high))
            return c, slope(mean_at, c).sqrt()

    def _along(
        self, s: Tensor, c: Tensor, step: Tensor, numbers: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """K(z) − zs at c, then on the line through c less that, and z itself."""
        count = int((9 / (numbers[1] * step)).max()) + 1 if s.numel() else 1
        nodes = torch.arange(-count, count + 1, dtype=torch.float64)
        z = torch.complex(c.unsqueeze(-1).expand(*c.shape, len(nodes)), step.unsqueeze(-1) * nodes)
        top = self._k(torch.complex(c, torch.zeros_like(c)), *numbers).real - c * s
        on = self._k(z, *(v.unsqueeze(-1) for v in numbers)) - z * s.unsqueeze(-1)
        return top, on - top.unsqueeze(-1), z

    def _in_parts(self, f: Callable[[Tensor, Tensor, Tensor], Tensor], s: Tensor) -> Tensor:
        """f of s, the rate and the noise, so many entries at once as stay in a cache."""
        each = torch.broadcast_tensors(s, self.rate.double(), self.noise.double())
        order = each[0].reshape(-1).argsort()  # neighbours need equally many nodes
        parts = zip(*(v.reshape(-1)[order].split(TOGETHER) for v in each), strict=True)
        return torch.cat([f(*part) for part in parts])[order.argsort()].reshape(each[0].shape)

    def _inverted(self, s: Tensor, rate: Tensor, noise: Tensor) -> Tensor:
        """The log-density; the trapezoidal rule repeats it with a period of 80 deviations."""
        numbers = rate, noise
        c, deviation = self._saddle(s, *numbers)
        step = 2 * math.pi / (80 * deviation)
        top, on, _ = self._along(s, c, step, numbers)
        return top + (on.exp().real.sum(-1) * step / (2 * math.pi)).log()

    def _below(self, s: Tensor, rate: Tensor, noise: Tensor) -> Tensor:
        r""":math:`P(S \le s)`: the integral of :math:`e^{K(z) - zs} / (2 \pi z)` on a line.

        It is P(S > s) where the line crosses the axis at c > 0, and −P(S ≤ s) where at c < 0.
        """
        numbers = rate, noise
        c, deviation = self._saddle(s, *numbers)
        low, high = (abs(end) / (2 * self.jump_deviation) for end in self.jumps.domain)
        right = c >= 0
        least = torch.where(right, torch.full_like(c, high), torch.full_like(c, low))
        far = torch.maximum(c.abs(), torch.minimum(0.5 / deviation, least))
        c = torch.where(right, far, -far)  # clear of the pole at 0
        step = torch.minimum(2 * math.pi / (80 * deviation), 2 * math.pi * far / 40)
        top, on, z = self._along(s, c, step, numbers)
        part = top.exp() * ((on.exp() / z).real.sum(-1) * step / (2 * math.pi))
        return torch.where(right, 1 - part, -part)


def total(jumps: Tensor, count: Tensor) -> Tensor:
    """The sum of the first ``count`` of jumps, which are stacked on the first axis."""
    index = torch.arange(len(jumps), device=count.device).reshape((-1,) + (1,) * count.dim())
    return torch.where(index < count, jumps, torch.zeros_like(jumps)).sum(0)


def _mean_and_deviation(law: Distribution) -> tuple[float, float]:
    mean, variance = mean_and_variance(law)
    return float(mean), math.sqrt(float(variance))


class TiltedCompound(_RealLaw):
    r"""The law of :math:`m + s \xi` with :math:`\xi \sim f(\xi) e^{\eta \xi - K(\eta)}`.

    The tilt of every jump, more of them, and a shift of the noise.
    """

    def __init__(self, law: Compound, loc: Tensor, scale: Tensor, eta: Tensor) -> None:
        self.increment, self.loc, self.scale, self.eta = law, loc, scale, eta
        self.norm = law.cgf(eta)
        super().__init__(loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.increment.slope(self.eta).to(self.loc)

    def _draw(self, shape: Size) -> Tensor:
        return self.loc + self.scale * self.increment.tilted_draws(self.eta, shape)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        xi = (x.double() - self.loc) / self.scale
        value = self.increment.law(self.loc.double(), self.scale.double()).log_prob(x.double())
        return (value + self.eta * xi - self.norm).to(self.loc.dtype)


@standardises(CompoundPoisson)
class Compound(Increment):
    r"""The increment of a `CompoundPoisson` law.

    Arguments:
        law: Its ``rate``, ``jump`` and ``noise`` are kept.
    """

    divisible, decomposable = True, False

    def __init__(self, law: CompoundPoisson) -> None:
        self.rate, self.noise = float(law.rate), float(law.noise)
        self.jump, self.jumps = law.jump, law.jumps
        self.jump_mean, self.jump_deviation = law.jump_mean, law.jump_deviation
        self.root = math.sqrt(
            self.rate * (self.jump_mean**2 + self.jump_deviation**2) + self.noise**2
        )
        self.name = f"compound Poisson ({self.rate:g}, {self.jumps.name} jumps)"
        self.lattice = self.noise == 0
        self.domain = NOWHERE
        if self.jumps.domain != NOWHERE:
            ends = (end * self.root / self.jump_deviation for end in self.jumps.domain)
            self.domain = (next(ends), next(ends))
        # log φ is analytic where the transform of a jump is, which has no poles inside
        self.radius = min(abs(end) for end in self.domain)
        self.reach = reach_of(self) if self.domain != NOWHERE else self._find_reach()
        self.entropy, self.fisher = -math.inf, math.inf
        if self.noise > 0:
            self.entropy, self.fisher = entropy_and_fisher(self, self.noise / self.root)

    def mirrored(self) -> Compound:
        r""":math:`-\xi`: the increment of jumps the other way."""
        jump = TransformedDistribution(self.jump, [AffineTransform(0.0, -1.0)])
        return Compound(CompoundPoisson(self.rate, jump, self.noise))

    def _find_reach(self) -> float:
        """The sum of n jumps exceeds r only if one exceeds r / n."""
        most = self.rate + 12 * math.sqrt(self.rate) + 40
        return most * self.jumps.reach * self.jump_deviation / self.root

    def _log_cf(self, u: Tensor) -> Tensor:
        v = u / self.root
        log_jump = self.jumps.log_cf(self.jump_deviation * v)
        less = torch.expm1(log_jump + 1j * self.jump_mean * v) - 1j * self.jump_mean * v
        return self.rate * less - (self.noise * v) ** 2 / 2

    def _cumulants(self, order: int) -> list[float]:
        central = self.jumps.cumulants(order).tolist()
        scaled = [self.jump_deviation ** (n + 1) * k for n, k in enumerate(central)]
        scaled[0] = self.jump_mean
        moments = [1.0]
        for n in range(1, order + 1):
            moments.append(
                sum(
                    math.comb(n - 1, k - 1) * scaled[k - 1] * moments[n - k]
                    for k in range(1, n + 1)
                )
            )
        return [self.rate * m / self.root ** (n + 1) for n, m in enumerate(moments[1:])]

    def _log_jump(self, c: Tensor) -> Tensor:
        return self.jumps._cgf(self.jump_deviation * c) + self.jump_mean * c

    def _cgf(self, e: Tensor) -> Tensor:
        c = e / self.root
        less = torch.expm1(self._log_jump(c)) - self.jump_mean * c
        return self.rate * less + (self.noise * c) ** 2 / 2

    def _slope(self, e: Tensor) -> Tensor:
        c = e / self.root
        each = self.jump_mean + self.jump_deviation * self.jumps._slope(self.jump_deviation * c)
        mean = self.rate * (each * self._log_jump(c).exp() - self.jump_mean)
        return (mean + self.noise**2 * c) / self.root

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        start = loc - scale * (self.rate * self.jump_mean / self.root)
        return CompoundPoisson(self.rate, self.jump, self.noise, start, scale / self.root)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return TiltedCompound(self, loc, scale, eta)

    def tilted_draws(self, eta: Tensor, shape: Size) -> Tensor:
        """Draws of the standardised law tilted by η, of a shape followed by that of η."""
        c = eta / self.root
        count = torch.poisson((self.rate * self._log_jump(c).exp()).expand(shape + c.shape))
        jump = self.jumps.tilted(self.jump_mean, self.jump_deviation, self.jump_deviation * c)
        jumps = jump.sample(Size((int(count.max()),)) + shape)
        noise = self.noise * (self.noise * c + torch.randn_like(count))
        return (total(jumps, count) + noise - self.rate * self.jump_mean) / self.root

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        tau = tau.clamp(min=torch.finfo(tau.dtype).tiny)  # nothing has moved at 0
        start = loc - scale * tau * (self.rate * self.jump_mean / self.root)
        width, noise = scale / self.root, self.noise * tau.sqrt()
        return CompoundPoisson(self.rate * tau, self.jump, noise, start, width)
