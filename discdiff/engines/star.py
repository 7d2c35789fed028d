r"""Star-shaped diffusion, in its tail statistic.

Normal stars add up: with :math:`S_k = \sum_{i \ge k} \bar\alpha_i / (1 - \bar\alpha_i)`

.. math:: G_k \mid x_0 \sim N(S_k x_0, S_k), \qquad
          G_s \mid G_t, x_0 \sim N(G_t + (S_s - S_t) x_0, S_s - S_t),

so that :math:`G_k / \sqrt{S_k (1 + S_k)}` is DDPM's state of the signal-to-noise ratio
:math:`S_k`. A sum of logits of Beta variables has no density in closed form, but a density against
the law from the center c:

.. math:: \log \frac{dP_{x_0}}{dP_c}(G_k) = (x_0 - c)\, G_k - \sum_{i \ge k} (n_i(x_0) - n_i(c)),
          \qquad n_i(x_0) = \log B(\nu_i \mu_i, \nu_i (1 - \mu_i)).

References:
    | Star-Shaped Denoising Diffusion Probabilistic Models (Okhotin et al., 2023)
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Beta, Distribution, kl_divergence, register_kl

from .. import laws
from ..increments import LogitBeta
from ..increments.draws import log_gamma_draws
from ..shapes import along
from ..solve import Unsolved, solves
from ..star import BetaStar, NormalStar
from .beta_chain import Risen
from .given_data import GivenDataEngine


@solves(NormalStar)
class NormalTails(GivenDataEngine):
    """Tail statistics of normal states, which are normal."""

    technique = "closed form: normal"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        ratio = self.term.kept / (1 - self.term.kept)
        self.tails = ratio.flip(0).cumsum(0).flip(0)

    def possible(self, x_0: Tensor) -> tuple[Tensor, str]:
        return x_0.isfinite(), "be finite"

    def noisy(self, x_0: Tensor, k: Tensor) -> Distribution:
        size = along(self.tails[k - 1], x_0).expand_as(x_0)
        return pyro.Normal(size * x_0, size.sqrt(), validate_args=False)

    def between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        size = along(self.tails[s - 1] - self.tails[t - 1], x).expand_as(x)
        return pyro.Normal(x + size * x_0, size.sqrt(), validate_args=False)

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        r""":math:`N(\hat x_0, 1 / S_t)`."""
        x_0, width = self.mean(estimate), along(self.tails[self.index(t) - 1].rsqrt(), x)
        return pyro.Normal(x_0, width.expand_as(x), validate_args=False).to_event(x.dim() - 1)


class Tail(laws._RealLaw):
    r"""The law of :math:`m + \sum_{k \le i \le l} a_i T(x_i)` given the data, entry by entry.

    Of one summand ``log_prob`` is a density on the line. Of a marginal, where m = 0, it is the
    logarithm of the density against the law from the center; other sums are drawn only.

    Arguments:
        star: The states' laws.
        x_0: The data, float64.
        loc: m.
        first: k, (B,).
        last: l ≥ k, (B,).
        whole: Whether this is a marginal.
    """

    def __init__(
        self, star: BetaStar, x_0: Tensor, loc: Tensor, first: Tensor, last: Tensor, whole: bool
    ) -> None:
        self.star, self.x_0, self.loc = star, x_0, loc
        self.first, self.last, self.whole = first, last, whole
        super().__init__(x_0.shape)

    def _over(self, value: Any) -> Tensor:
        """The sum over the summands of each row of a function of the number of a step."""
        total = torch.zeros_like(self.x_0)
        for i in range(int(self.first.min()), int(self.last.max()) + 1):
            among = (self.first <= i) & (i <= self.last)
            total = total + torch.where(along(among, total, torch.bool), value(i), 0.0)
        return total

    def _beta(self, i: int) -> Beta:
        a, b = self.star.shapes(self.x_0, torch.tensor(i))
        return Beta(a, b, validate_args=False)

    @property
    def mean(self) -> Tensor:
        each = lambda i: self.star.weights[i - 1] * LogitBeta(0.0, 1.0, *self._shapes(i)).mean
        return self.loc + self._over(each).to(self.loc)

    @property
    def variance(self) -> Tensor:
        each = lambda i: (
            self.star.weights[i - 1] ** 2 * LogitBeta(0.0, 1.0, *self._shapes(i)).variance
        )
        return self._over(each).to(self.loc)

    def _shapes(self, i: int) -> tuple[Tensor, Tensor]:
        return self.star.shapes(self.x_0, torch.tensor(i))

    def _draw(self, shape: Size) -> Tensor:
        def each(i: int) -> Tensor:
            a, b = self._shapes(i)
            return self.star.weights[i - 1] * (
                log_gamma_draws(a, Size()) - log_gamma_draws(b, Size())
            )

        count = shape.numel()
        drawn = torch.stack([self._over(each) for _ in range(count)]).reshape(
            shape + self.x_0.shape
        )
        return self.loc + drawn.to(self.loc)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.whole:
            center = torch.full_like(self.x_0, self.star.center)
            norms = self._over(lambda i: self._norm(self.x_0, i) - self._norm(center, i))
            return ((self.x_0 - center) * x.double() - norms).to(self.loc)
        if not bool((self.first == self.last).all()):
            raise Unsolved(
                "a sum of several logits of Beta variables has no density in closed form: it can "
                "be drawn from; take single steps"
            )
        a, b = self.star.shapes(self.x_0, along(self.first, self.x_0, torch.int64))
        scale = along(self.star.weights[self.first - 1], self.x_0)
        law = LogitBeta(self.loc.double(), scale, a, b)
        return law.log_prob(x.double()).to(self.loc)

    def _norm(self, x_0: Tensor, i: int) -> Tensor:
        r""":math:`n_i(x_0)`."""
        a, b = self.star.shapes(x_0, torch.tensor(i))
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


@register_kl(Tail, Tail)
def _kl_tails(p: Tail, q: Tail) -> Tensor:
    """The sum of those of the states, for which the statistic is sufficient."""
    same = bool((p.loc == q.loc).all() and (p.first == q.first).all() and (p.last == q.last).all())
    if not same or not (p.whole or bool((p.first == p.last).all())):
        raise NotImplementedError("tails of other states have no divergence in closed form")
    return p._over(lambda i: kl_divergence(p._beta(i), q._beta(i))).to(p.loc)


@solves(BetaStar)
class BetaTails(GivenDataEngine):
    """Tail statistics of Beta states: sums of logits, and their exact likelihood ratios."""

    technique = "closed form: Beta, by likelihood ratios; marginals are drawn state by state"

    def possible(self, x_0: Tensor) -> tuple[Tensor, str]:
        return (x_0 >= 0) & (x_0 <= 1), "lie in [0, 1]"

    def noisy(self, x_0: Tensor, k: Tensor) -> Distribution:
        last = torch.full_like(k, self.count)
        return Tail(self.term, x_0.double(), torch.zeros_like(x_0), k, last, True)

    def between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return Tail(self.term, x_0.double().expand(x.shape), x, s, t - 1, False)

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        r""":math:`\mathrm{Beta}(\nu_1 \hat\mu_1, \nu_1 (1 - \hat\mu_1))`, as wide as the noise."""
        x_0 = self.mean(estimate).double()
        a, b = self.term.shapes(x_0, along(self.index(t), x, torch.int64))
        return Risen(torch.zeros_like(x), a, b).to_event(x.dim() - 1)
