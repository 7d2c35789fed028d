r"""The Poisson increment, and the thinning that is its Lévy bridge."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ..laws import _RealLaw
from ..numerics.less import cos_less, expm1_less, sin_less
from ..numerics.special import log_binomial_pmf, log_poisson_pmf
from .base import REALS, Increment
from .cumulants import orders
from .draws import tensors
from .measured import reach_of
from .registry import standardises


def nearest_count(x: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The n for which loc + scale · n is nearest to x, and whether it is x up to rounding."""
    n = (x - loc) / scale
    near = n.detach().round()
    slack = 16 * torch.finfo(n.dtype).eps * (1 + near.abs() + (loc / scale).abs())
    return near, (n - near).abs() <= slack


class ShiftedPoisson(_RealLaw):
    r"""The law of :math:`m + s N`, :math:`N \sim \mathrm{Poisson}(\lambda)`, a lattice.

    Arguments:
        rate: λ.
        loc: m.
        scale: s > 0.
    """

    atoms = True

    def __init__(self, rate: Any, loc: Any, scale: Any) -> None:
        self.rate, self.loc, self.scale = tensors(rate, loc, scale)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.rate

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * self.rate

    def _draw(self, shape: Size) -> Tensor:
        count = torch.poisson(self.rate.expand(shape + self.batch_shape))
        return torch.addcmul(self.loc, self.scale, count)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        near, hit = nearest_count(x, self.loc, self.scale)
        value = log_poisson_pmf(near, self.rate)
        return torch.where(hit, value, torch.full_like(value, -torch.inf))

    def cdf(self, value: Tensor) -> Tensor:
        near, hit = nearest_count(value, self.loc, self.scale)
        below = torch.where(hit, near, ((value - self.loc) / self.scale).floor())
        rate, most = torch.broadcast_tensors(self.rate, below + 1)
        inside = most > 0
        safe = torch.where(inside, most, torch.ones_like(most))
        return torch.where(inside, torch.special.gammaincc(safe, rate), torch.zeros_like(rate))


class ThinnedCount(_RealLaw):
    r"""The law of :math:`m + s K`, :math:`K \sim \mathrm{Binomial}(n, p)`, a lattice.

    Arguments:
        count: n, up to rounding; where it is no count ≥ 0 draws are NaN and the log-probability
            is −∞.
        chance: p, in (0, 1).
        loc: m.
        scale: s > 0.

    Example:
        >>> ThinnedCount(3.0, 0.5, 1.0, 2.0).log_prob(torch.tensor([3.0, 4.0])).exp()
        tensor([0.3750, 0.0000])
    """

    atoms = True

    def __init__(self, count: Any, chance: Any, loc: Any, scale: Any) -> None:
        count, self.chance, self.loc, self.scale = tensors(count, chance, loc, scale)
        self.count = count.round()
        slack = 1e-3 if count.dtype == torch.float32 else 1e-6
        self.possible = ((count - self.count).abs() <= slack * (1 + count.abs())) & (count > -0.5)
        self.count = torch.where(self.possible, self.count, 0.0)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.count * self.chance

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * self.count * self.chance * (1 - self.chance)

    def _draw(self, shape: Size) -> Tensor:
        shape = shape + self.batch_shape
        drawn = torch.binomial(self.count.expand(shape), self.chance.expand(shape))
        return torch.where(self.possible, self.loc + self.scale * drawn, math.nan)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        k = (x - self.loc) / self.scale
        near = k.detach().round()
        hit = self.possible & ((k - near).abs() <= 1e-3) & (near >= 0) & (near <= self.count)
        inside = torch.where(hit, near, 0.0)
        value = log_binomial_pmf(inside, self.count, self.chance.log(), (-self.chance).log1p())
        return torch.where(hit, value, -math.inf)


@standardises(torch.distributions.Poisson)
class Poisson(Increment):
    r"""The Poisson law, :math:`\xi = (N - \lambda) / \sqrt{\lambda}`, a lattice law.

    Arguments:
        law: A Poisson law; its ``rate`` is λ.
    """

    divisible, decomposable, lattice = True, False, True
    radius, fisher, domain, entropy = math.inf, math.inf, REALS, -math.inf

    def __init__(self, law: torch.distributions.Poisson) -> None:
        self.rate = float(law.rate)
        self.root = math.sqrt(self.rate)
        self.name = f"Poisson ({self.rate:g})"
        self.means = (-self.root, math.inf)
        self.reach = reach_of(self)

    def _log_cf(self, u: Tensor) -> Tensor:
        v = u / self.root
        return self.rate * torch.complex(cos_less(v), sin_less(v))

    def _cumulants(self, order: int) -> list[float]:
        return [self.rate ** (1 - n / 2) for n in orders(order)]

    def _cgf(self, e: Tensor) -> Tensor:
        return self.rate * expm1_less(e / self.root)

    def _slope(self, e: Tensor) -> Tensor:
        return self.root * torch.expm1(e / self.root)

    def _natural(self, m: Tensor) -> Tensor:
        return self.root * torch.log1p(m / self.root)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return self._shifted(loc.new_tensor(self.rate), loc, scale)

    def _shifted(self, rate: Tensor, loc: Tensor, scale: Tensor) -> Distribution:
        return ShiftedPoisson(rate, loc - scale * self.root, scale / self.root)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return self._shifted(self.rate * (eta / self.root).exp(), loc, scale)

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r"""Given how many units have come, each has come before s with chance s / t."""
        s, t = s.to(total), t.to(total)
        count = self.root * total + self.rate * t
        return ThinnedCount(count, s / t, -self.root * s, 1 / self.root)

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        start = loc - scale * self.root * tau
        return ShiftedPoisson(self.rate * tau, start, scale / self.root)
