r"""Walks of elliptical noise: normal given one variance, whose law is known given a state.

.. math::
    x_s \mid x_0, x_t \sim \sqrt{\bar\alpha_s} x_0 + \sqrt{\frac{v_s - \sigma^2}{v_t}}\, r
        + \sigma \sqrt{A'}\, G, \qquad A' \sim p(A \mid \|r\|^2 / v_t), \qquad
    r = x_t - \sqrt{\bar\alpha_t} x_0, \quad v = 1 - \bar\alpha

with :math:`\sigma = \eta` times the bridge's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..increments import Elliptical
from ..increments.elliptical import mixing, squares
from ..shapes import along
from ..shared import SharedIncrements
from ..solve import Unsolved, solves
from .renewed import carried
from .walk import WalkEngine


@solves(SharedIncrements)
class SharedVariance(WalkEngine):
    """One variance for a run, of known law given a state."""

    technique = "closed form: elliptical, one variance for all"
    deterministic = True

    def marginal(self, x_0: Tensor, t: Tensor) -> Distribution:
        k = self.index(t)
        width, a = (-torch.expm1(self.left(k))).sqrt(), along((self.left(k) / 2).exp(), x_0)
        if _certain(k == 0):
            return laws.point(x_0)
        return Elliptical(a * x_0, width, mixing(self.increment, width))

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        raise Unsolved(
            "the variance of these steps is that of the steps before: without the data the walk "
            "is no Markov chain, and has marginals and bridges only"
        )

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self.step(estimate, x, s, t, 1.0)

    def step(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, eta: float) -> Distribution:
        j, k = self.index(s), self.index(t)
        x_0 = self.mean(estimate, x, k)
        if _certain((j == 0) | (j == k)):
            return laws.point(torch.where(along(j, x) > 0, x, x_0))
        v_s, v_t = (-torch.expm1(self.left(i)) for i in (j, k))
        late = torch.where(j > 0, -torch.expm1(self.kept(j, k)) / v_t, 0.0)
        a_s, a_t = (along((self.left(i) / 2).exp(), x) for i in (j, k))
        rest = x - a_t * x_0
        loc = a_s * x_0 + along((carried(eta, late) * v_s / v_t).sqrt(), x) * rest
        if eta == 0:
            return laws.point(loc)
        seen = mixing(self.increment, v_t).after(squares(rest) / v_t, rest[0].numel())
        return Elliptical(loc, eta * (v_s * late).sqrt(), seen)

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        k = self.index(t)
        width = (torch.expm1(-self.left(k))).sqrt()
        return Elliptical(self.mean(estimate, x, k), width, mixing(self.increment, width))

    def shifted(
        self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, matched: bool
    ) -> Distribution:
        raise self.unsolved("a shifted step")


def _certain(rows: Tensor) -> bool:
    """Whether all rows are certain; a law of a vector is one of points or has a density.

    Raises:
        Unsolved: If some rows are certain and others not.
    """
    if bool(rows.any()) and not bool(rows.all()):
        raise Unsolved("some of these states are certain, so have no density: ask them apart")
    return bool(rows.all())
