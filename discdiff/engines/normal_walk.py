r"""Walks of normal increments, in which all closures agree: DDPM and DDIM.

.. math::
    x_s \mid x_0, x_t \sim N\Big( \tfrac{\sqrt{\bar\alpha_s} (1 - \bar\alpha_t / \bar\alpha_s)}
        {1 - \bar\alpha_t} x_0 + \tfrac{\sqrt{\bar\alpha_t / \bar\alpha_s} (1 - \bar\alpha_s)}
        {1 - \bar\alpha_t} x_t, \;
        \tfrac{(1 - \bar\alpha_s) (1 - \bar\alpha_t / \bar\alpha_s)}{1 - \bar\alpha_t} \Big)

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
    | Denoising Diffusion Implicit Models (Song et al., 2021)
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Score as ScoreEstimate
from ..increments import Normal
from ..shapes import along
from ..solve import Score
from .renewed import carried
from .walk import WalkEngine


def is_normal(terms: tuple[Any, ...]) -> bool:
    """Whether a walk has normal increments."""
    return isinstance(terms[0].increment, Normal)


class NormalWalk(WalkEngine):
    """Normal increments, in which all closures agree: DDPM."""

    technique = "closed form: normal"
    deterministic = True
    normal = True

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Distribution:
        scale = along((-torch.expm1(self.kept(s, t))).sqrt(), loc)
        return laws.Normal(loc, scale, validate_args=False)

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        if isinstance(estimate, ScoreEstimate):
            return Score(gradient=estimate.value)
        k = self.index(t)
        mean, kept = self.mean(estimate, x, k), self.log_kept[k]
        a, variance = along((kept / 2).exp(), x), along(-torch.expm1(kept), x)
        return Score(gradient=(a * mean - x) / variance)

    def mean(self, estimate: Any, x: Tensor, k: Tensor) -> Tensor:
        if not isinstance(estimate, ScoreEstimate):
            return super().mean(estimate, x, k)
        kept = self.log_kept[k]
        return (x + along(-torch.expm1(kept), x) * estimate.value) / along((kept / 2).exp(), x)

    def _between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Any:
        kept_s, between, whole = self.log_kept[s], self.kept(s, t), self.log_kept[t]
        variance = torch.expm1(kept_s) * torch.expm1(between) / -torch.expm1(whole)
        scale = along(variance.sqrt(), x).expand_as(x)
        return pyro.Normal(self.linear(x_0, x, s, t), scale, validate_args=False)

    def reflected(self, mean: Tensor, ratio: Tensor, s: Tensor, t: Tensor) -> Distribution:
        scale = along((-torch.expm1(self.kept(s, t))).sqrt(), mean) / ratio
        return pyro.Normal(mean, scale.expand_as(mean), validate_args=False)

    def tilted(
        self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, posterior: bool
    ) -> Distribution:
        """A tilted normal law is a shifted one; its noise may be the bridge's."""
        j, k = self.index(s), self.index(t)
        if not posterior or not bool((j > 0).all()):
            return self.shifted(estimate, x, s, t, matched=True)
        law = self._between(x, x, j, k)
        mean = self.step_mean(estimate, x, j, k)
        return pyro.Normal(mean, law.scale, validate_args=False).to_event(x.dim() - 1)

    def step(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, eta: float) -> Distribution:
        r"""DDIM: :math:`\sqrt{\bar\alpha_s} \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}
        \hat\varepsilon`, with η times the bridge's σ, on any steps."""
        j, k = self.index(s), self.index(t)
        x_0 = self.mean(estimate, x, k)
        sigma = eta * self._between(x_0, x, j, k).scale
        late = torch.where(j > 0, torch.expm1(self.kept(j, k)) / torch.expm1(self.left(k)), 0.0)
        a_s, a_t = (along((self.log_kept[i] / 2).exp(), x) for i in (j, k))
        v_s, v_t = (-torch.expm1(self.log_kept[i]) for i in (j, k))
        factor = along((carried(eta, late) * v_s / v_t).sqrt(), x)
        loc = a_s * x_0 + factor * (x - a_t * x_0)
        if eta == 0:
            return laws.point(loc)
        return pyro.Normal(loc, sigma, validate_args=False).to_event(x.dim() - 1)
