r"""Linear birth, death and immigration: independent families.

With birth rate :math:`\beta`, death rate :math:`\delta`, immigration rate :math:`\mu` and
:math:`g = (e^{(\beta - \delta)\tau} - 1)/(\beta - \delta)`, the family of one unit is extinct with
probability :math:`a = \delta g / (1 + \beta g)`, else geometric with parameter
:math:`b = \beta g / (1 + \beta g)`, so that

.. math:: K \sim \mathrm{Binomial}(x, 1 - a), \qquad
          X - K \mid K \sim \mathrm{NegativeBinomial}(K + \mu / \beta, b).

The same file holds the bounded case: N units of two states each (Ehrenfest).
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from .. import laws
from ..numerics.special import expm1_ratio, log_sum, safe_log
from ..shapes import along, span
from ..solve import Tempo, Unsolved, solves
from ..terms import Birth, Death, Ehrenfest, Immigration
from ..validation import values_are_checked
from .boxes import Pointwise


class Family(laws._Law):
    r"""The law of the descendants of x units, with immigrants.

    Arguments:
        x: Units at the start.
        log_alive: :math:`\log (1 - a)`.
        log_extinct: :math:`\log a`.
        b: The parameter of the geometric law, in [0, 1).
        extra: :math:`\mu / \beta`.
    """

    def __init__(
        self, x: Tensor, log_alive: Tensor, log_extinct: Tensor, b: Tensor, extra: Tensor
    ) -> None:
        self.alive = laws.Thinned(x, log_alive, log_extinct)
        self.b, self.extra = b.expand(x.shape), extra.expand(x.shape)
        super().__init__(x.shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        odds = self.b / (1 - self.b)
        return self.alive.mean * (1 + odds) + self.extra * odds

    @property
    def variance(self) -> Tensor:
        odds = self.b / (1 - self.b)
        spread = (self.alive.mean + self.extra) * odds * (1 + odds)
        return spread + self.alive.variance * (1 + odds) ** 2

    def _draw(self, shape: Size) -> Tensor:
        families = self.alive.sample(shape)
        size = families + self.extra
        gamma = pyro.Gamma(size.clamp(min=torch.finfo(size.dtype).tiny), 1.0, validate_args=False)
        odds = self.b / (1 - self.b)
        mean = torch.where(size > 0, gamma.sample() * odds, torch.zeros_like(size))
        return families + torch.poisson(mean)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        most = int(torch.minimum(x, self.alive.count).detach().max()) if x.numel() else 0
        k = torch.arange(max(most, 0) + 1, dtype=x.dtype, device=x.device)
        k = k.reshape((-1,) + (1,) * x.dim())
        born, size = x - k, k + self.extra
        inside = (born >= 0) & (x >= 0)
        born = torch.where(inside, born, torch.zeros_like(born))
        joint = self.alive.log_prob(k.expand(born.shape)) + _log_negative_binomial(
            born, size, self.b
        )
        joint = torch.where(inside, joint, torch.full_like(joint, -torch.inf))
        return log_sum(joint, 0)


def _log_negative_binomial(j: Tensor, size: Tensor, b: Tensor) -> Tensor:
    r""":math:`\log \Gamma(m + j) / (\Gamma(m)\, j!)\, (1 - b)^m b^j`, certain of 0 at m = 0."""
    none = size <= 0
    m = torch.where(none, torch.ones_like(size), size)
    value = torch.lgamma(m + j) - torch.lgamma(m) - torch.lgamma(j + 1)
    value = value + m * torch.log1p(-b) + torch.xlogy(j, b)
    certain = torch.where(j == 0, torch.zeros_like(value), torch.full_like(value, -torch.inf))
    return torch.where(none, certain, value)


@solves(Birth, Death, Immigration)
class Families(Pointwise):
    """Linear birth–death–immigration, in closed form."""

    technique = "closed form, independent families"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        if not any(isinstance(term, Birth) for term in terms):
            raise Unsolved("immigration alone has no limit: add Death")

    def branch(self) -> str:
        return (
            "births and deaths" if any(isinstance(t, Death) for t in self.terms) else "no deaths"
        )

    def rate(self, kind: type) -> Tensor:
        """The total rate of the terms of one kind."""
        total = torch.zeros((), dtype=torch.float64, device=self.terms[0].scale.device)
        for term in self.terms:
            if isinstance(term, kind):
                total = total + term.scale * (term.rate if kind is Immigration else 1.0)
        return total

    def tempo(self) -> Tempo:
        birth, death = (float(self.rate(kind).detach()) for kind in (Birth, Death))
        return Tempo(death - birth, death + birth) if 0 <= birth < death else Tempo()

    def entrywise(self, x: Tensor, s: Tensor, t: Tensor) -> TorchDistribution:
        tau = span(s, t)
        birth, death = self.rate(Birth), self.rate(Death)
        if values_are_checked(tau) and bool((tau == torch.inf).any()):
            self._require_decline(birth, death)
        growth = expm1_ratio(birth - death, tau)
        whole = 1 + birth * growth
        # 1 − a = e^{(β−δ)τ} / (1 + βg), the form without cancellation.
        log_alive = (birth - death) * tau - whole.log()
        log_extinct = safe_log(death * growth / whole)
        b = birth * growth / whole
        extra = (self.rate(Immigration) / birth).to(x.dtype)
        log_alive, log_extinct, b = (along(v, x) for v in (log_alive, log_extinct, b))
        return Family(x, log_alive, log_extinct, b, extra)

    def _require_decline(self, birth: Tensor, death: Tensor) -> None:
        """Raises unless families die out faster than they grow, so that laws tend to a limit."""
        if not bool(death.detach() > birth.detach()):
            raise Unsolved(
                "there is no limit law: births are not rarer than deaths. Way out: a clock with a "
                "finite end, such as clock.Constant, and an explicit prior"
            )

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        birth, death = self.rate(Birth), self.rate(Death)
        self._require_decline(birth, death)
        size = (self.rate(Immigration) / birth).to(torch.get_default_dtype()).expand(shape)
        if not bool((size > 0).any()):
            return laws.point(torch.zeros(shape))
        odds = (birth / death).to(size.dtype)
        law = pyro.NegativeBinomial(size, probs=odds, validate_args=False)
        return law.to_event(len(shape) - 1)


@solves(Immigration)
class Arrivals(Pointwise):
    r"""Immigration alone: :math:`x_t = x_s + \mathrm{Poisson}(\mu (t - s))`."""

    technique = "closed form, a Poisson process"
    forgets = False

    def entrywise(self, x: Tensor, s: Tensor, t: Tensor) -> TorchDistribution:
        tau = span(s, t)
        if values_are_checked(tau) and bool((tau == torch.inf).any()):
            raise self._boundless()
        rate = torch.stack([term.scale * term.rate for term in self.terms]).sum(0)
        mean = (along(tau, x, torch.float64) * rate).to(x.dtype).expand(x.shape)
        stays = laws.Thinned(x, torch.zeros_like(x), torch.full_like(x, -torch.inf))
        return laws.Convolution(stays, laws.Poisson(mean, validate_args=False))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        raise self._boundless()

    def _boundless(self) -> Unsolved:
        return Unsolved(
            "there is no limit law: units arrive and none leaves. Way out: a clock with a finite "
            "end, such as clock.Constant"
        )


@solves(Ehrenfest)
class TwoStates(Pointwise):
    """N units of two states each: sums of two binomials."""

    technique = "closed form, independent units"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        sizes = {term.size for term in terms}
        if len(sizes) > 1:
            raise ValueError(f"Ehrenfest terms of different size in one sum: {sorted(sizes)}")
        (self.size,) = sizes
        self.bounded = (self.size + 1,)

    def branch(self) -> str:
        return f"{self.size} units"

    def tempo(self) -> Tempo:
        rate = float(torch.stack(self._rates()).sum().detach())
        return Tempo(rate, rate) if 0 < rate < math.inf else Tempo()

    def _rates(self) -> tuple[Tensor, Tensor]:
        up = torch.stack([term.scale * term.up for term in self.terms]).sum(0)
        return up, torch.stack([term.scale * term.down for term in self.terms]).sum(0)

    def entrywise(self, x: Tensor, s: Tensor, t: Tensor) -> TorchDistribution:
        up, down = self._rates()
        tau = (up + down) * span(s, t)
        share, moved = up / (up + down), -torch.expm1(-tau)
        log_up, log_down = safe_log(share * moved), safe_log((1 - share) * moved)
        stay_up, stay_down = safe_log(1 - (1 - share) * moved), safe_log(1 - share * moved)
        risen = laws.Thinned(self.size - x, along(log_up, x), along(stay_down, x))
        return laws.Convolution(laws.Thinned(x, along(stay_up, x), along(log_down, x)), risen)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        up, down = self._rates()
        count = torch.full(shape, float(self.size))
        share = (up / (up + down)).to(count.dtype)
        law = laws.Thinned(count, share.log(), torch.log1p(-share))
        return law.to_event(len(shape) - 1)
