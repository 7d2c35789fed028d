r"""Walks with stable increments, by themselves and given their latent variances.

Scales add up by their α-th powers. Given both ends the noise is shared, in the mean, by these:
with :math:`r = x_t - \bar\gamma_t x_0`

.. math::
    \mathbb{E}[x_s \mid x_0, x_t] = \bar\gamma_s x_0
        + \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}
          \Big( \frac{\bar\gamma_t}{\bar\gamma_s} \Big)^{\alpha - 1} r.

Given the latent variances A all is normal, with :math:`\Sigma_{s,t} = \sum_{s < i \le t}
(\bar\gamma_t / \bar\gamma_i)^2 \sigma_i^2 A_i` and :math:`\Sigma_t = \Sigma_{0,t}`:

.. math::
    x_s \mid x_0, x_t, A \sim \mathcal{N} \Big( \bar\gamma_s x_0
        + \frac{\bar\gamma_t}{\bar\gamma_s} \frac{\Sigma_s}{\Sigma_t} r,\;
        \frac{\Sigma_s \Sigma_{s,t}}{\Sigma_t} \Big).

References:
    | Denoising Lévy Probabilistic Models (Shariatian et al., 2025)
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Score as ScoreEstimate
from ..numerics.stable import width
from ..shapes import along
from ..solve import Score, Unsolved, solves
from ..walks import MixedIncrements, StableIncrements
from .gaussian import Moments
from .renewed import carried
from .renewed_stable import RenewedStable
from .walk import WalkEngine
from .walk_bridge import Grid, LinearBridge

POINTS, REACH = 769, 15.0  # of the grid of a bridge around each of its two peaks, in arsinh


class _ScaledByPowers(WalkEngine):
    r"""Steps :math:`x_t = (\bar\alpha_t / \bar\alpha_s)^{1/\alpha} x_s` and noise."""

    deterministic = True

    def __init__(self, terms: tuple[Any, ...]) -> None:
        self.alpha: float = terms[0].increment.alpha
        super().__init__(terms)

    def _kept_now(self) -> Tensor:
        return self.term.log_kept * (2 / self.alpha)  # twice the logarithm of the factor

    @property
    def log_left(self) -> Tensor:
        r""":math:`\log \bar\alpha_k`, of which `log_kept` is a multiple here."""
        return self.log_kept * (self.alpha / 2)

    def grown(self, s: Tensor, t: Tensor) -> Tensor:
        """The scale of the noise from s to t, (B,), in units of the increment's."""
        return (-torch.expm1(self.log_left[t] - self.log_left[s])) ** (1 / self.alpha)

    def spread(self, k: Tensor, x: Tensor) -> Tensor:
        return along(self.grown(torch.zeros_like(k), k), x)

    def factors(self, x: Tensor, *indices: Tensor) -> list[Tensor]:
        r"""The :math:`\bar\gamma` of indices, against x."""
        return [along((self.log_kept[k] / 2).exp(), x) for k in indices]

    def tilted(
        self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, posterior: bool
    ) -> Distribution:
        raise Unsolved(
            "a stable law has no exponential moments, so it cannot be tilted: take Shift or "
            "Ancestral"
        )


@solves(StableIncrements)
class StableSteps(_ScaledByPowers, RenewedStable):
    """Stable noise of any number of steps; bridges by Bayes' rule."""

    technique = "closed form: stable; bridges from its density"
    draws_forward = True
    jumps = True

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Distribution:
        scale = along(self.grown(s, t), loc).expand_as(loc).to(loc.dtype)
        return self.increment.law(loc, scale)

    def _between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return StableBridge(self, x_0, x, s, t)

    def linear(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        a_s, a_t = self.factors(x, s, t)
        share = torch.expm1(self.log_left[s]) / torch.expm1(self.log_left[t])
        return a_s * x_0 + along(share, x) * (a_t / a_s) ** (self.alpha - 1) * (x - a_t * x_0)

    def shifted(
        self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, matched: bool
    ) -> Distribution:
        if not matched:
            raise self.unsolved("the likeliest shift")
        return super().shifted(estimate, x, s, t, matched)


class StableBridge(LinearBridge):
    """A bridge between power tails: two peaks, each with a grid that widens away from it."""

    def _grid(self) -> Grid:
        engine: Any = self.engine
        a_s = along((engine.left(self.s) / 2).exp(), self.x)
        peak = engine.increment.scale * width(engine.alpha)
        near = peak * engine.spread(self.s, self.x)
        far = peak * along(engine.grown(self.s, self.t), self.x) / self.ratio
        z = torch.linspace(-REACH, REACH, POINTS, dtype=self.x.dtype, device=self.x.device)
        z = z.sinh().reshape(-1, *(1,) * self.x.dim())
        y = torch.cat([a_s * self.x_0 + near * z, self.x / self.ratio + far * z]).sort(0).values
        log_p = self._joint(y)
        return y, y, (log_p - log_p.amax(0)).exp()


@solves(MixedIncrements)
class GivenVariances(_ScaledByPowers):
    """Normal steps: the stable walk given its latent variances."""

    technique = "closed form: normal, given latent variances"
    normal = True

    def variance(self, s: Tensor, t: Tensor, x: Tensor) -> Tensor:
        r""":math:`\Sigma_{s,t}`, a sum of positive numbers, of the shape of x."""
        i = torch.arange(1, self.count + 1, device=s.device)
        within = (i > s.unsqueeze(1)) & (i <= t.unsqueeze(1))
        kept = (self.log_kept[t].unsqueeze(1) - self.log_kept[1:]).exp()
        weights = torch.where(within, kept, 0.0) * self.term.betas ** (2 / self.alpha)
        term: Any = self.term
        return term.summed(weights.expand(len(x), -1), x).to(x.dtype)

    def whole(self, k: Tensor, x: Tensor) -> Tensor:
        r""":math:`\Sigma_k`."""
        return self.variance(torch.zeros_like(k), k, x)

    def moments(self, x: Tensor, t: Tensor) -> Moments:
        k = self.index(t)
        phi = (self.log_kept[k] / 2).exp()
        return Moments(phi, torch.zeros_like(phi), self.whole(k, x))

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return pyro.Normal(loc, self.variance(s, t, loc).sqrt(), validate_args=False)

    def mean(self, estimate: Any, x: Tensor, k: Tensor) -> Tensor:
        if not isinstance(estimate, ScoreEstimate):
            return super().mean(estimate, x, k)
        return (x + self.whole(k, x) * estimate.value) / self.factors(x, k)[0]

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        if isinstance(estimate, ScoreEstimate):
            return Score(gradient=estimate.value)
        k = self.index(t)
        (a,) = self.factors(x, k)
        return Score(gradient=(a * self.mean(estimate, x, k) - x) / self.whole(k, x))

    def linear(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        a_s, a_t = self.factors(x, s, t)
        gain = a_t / a_s * self.whole(s, x) / self.whole(t, x)
        return a_s * x_0 + gain * (x - a_t * x_0)

    def _between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        variance = self.whole(s, x) * self.variance(s, t, x) / self.whole(t, x)
        return pyro.Normal(self.linear(x_0, x, s, t), variance.sqrt(), validate_args=False)

    def step_mean(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return self.linear(self.mean(estimate, x, t), x, s, t)

    def reflected(self, mean: Tensor, ratio: Tensor, s: Tensor, t: Tensor) -> Distribution:
        scale = self.variance(s, t, mean).sqrt() / ratio
        return pyro.Normal(mean, scale, validate_args=False)

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        k = self.index(t)
        scale = self.whole(k, x).sqrt() / self.factors(x, k)[0]
        law = pyro.Normal(self.mean(estimate, x, k), scale, validate_args=False)
        return law.to_event(x.dim() - 1)

    def step(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, eta: float) -> Distribution:
        r""":math:`\bar\gamma_s \hat x_0 + \sqrt{(\Sigma_s - \sigma^2) / \Sigma_t}\, \hat r`
        and noise of η times the bridge's σ."""
        j, k = self.index(s), self.index(t)
        x_0, (a_s, a_t) = self.mean(estimate, x, k), self.factors(x, j, k)
        early, whole = self.whole(j, x), self.whole(k, x)
        late = torch.where(early > 0, self.variance(j, k, x) / whole, 0.0)
        loc = a_s * x_0 + (early * carried(eta, late) / whole).sqrt() * (x - a_t * x_0)
        if eta == 0:
            return laws.point(loc)
        law = pyro.Normal(loc, eta * (early * late).sqrt(), validate_args=False)
        return law.to_event(x.dim() - 1)
