r"""Steps back with fresh stable noise that keep the marginals.

With c the scale of the noise from the data and :math:`r = x_t - \varphi_t \hat x_0`

.. math::
    x_s = \varphi_s \hat x_0 + \Big( \frac{c_s^\alpha - \sigma^\alpha}{c_t^\alpha}
        \Big)^{1/\alpha} r + \sigma \varepsilon, \qquad
    \sigma^\alpha = \eta^\alpha c_s^\alpha \frac{c_{t|s}^\alpha}{c_t^\alpha}.

In small steps of :math:`dX = aX\,dt + dL` the state moves back by
:math:`(-a x - (1 + \eta^\alpha)\, v)\,dt` and noise :math:`\eta\,dL`, where
:math:`v = r / (\alpha c_t^\alpha)`, in the mean over the data, is what carries the law forward:

.. math::
    -(-\Delta)^{\alpha/2} p = -\nabla \cdot (v\, p), \qquad
    \mathbb{E}[r \mid x_t] = \alpha c_t^\alpha\, v(x_t)

for noise of scale one. So the mean of the data alone determines the reversal, at each η; v is
minus the fractional score of LIM. LIM moves by :math:`-\alpha v` with all of the noise, which is
of this family, and keeps the marginals, at :math:`\alpha = 2` only.

References:
    | Score-based Generative Models with Lévy Processes (Yoon et al., 2023)
    | Denoising Lévy Probabilistic Models (Shariatian et al., 2025)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..shapes import along
from ..solve import Unsolved
from .gaussian import Moments
from .renewed import carried
from .walk import WalkEngine


class RenewedStable(WalkEngine):
    """Stable noise whose scales are known between all times."""

    alpha: float
    deterministic = True

    @property
    def normal(self) -> bool:  # type: ignore[override]
        return self.alpha == 2

    def moments(self, x: Tensor, t: Tensor) -> Moments:
        self.require_variance()
        own = super().moments(x, t)
        return replace(own, variance=2 * self.increment.scale**2 * own.variance)  # type: ignore

    def require_variance(self) -> None:
        if not self.normal:
            raise Unsolved(
                f"{self.alpha:g}-stable noise has no variance to project on. Way out: a walk "
                "given its latent variances, walk.mixed(walk.mixing(shape)), whose noise is "
                "normal; on finitely many data inverse.Reweighted, exactly"
            )

    @abstractmethod
    def grown(self, s: Tensor, t: Tensor) -> Tensor:
        """The scale of the noise from s to t, (B,), in units of that of the law."""

    def renewed(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, eta: float) -> Distribution:
        """A step to s with fresh noise, η times that of the reversal with all of it."""
        j, k = self.index(s), self.index(t)
        x_0, zero = self.mean(estimate, x, k), torch.zeros_like(k)
        if not bool(j.any()):
            return laws.point(x_0)
        early, whole = self.grown(zero, j), self.grown(zero, k)
        late = torch.where(j > 0, (self.grown(j, k) / whole) ** self.alpha, 0.0)
        gain = early / whole * carried(eta, late, self.alpha) ** (1 / self.alpha)
        a_s, a_t = (along((self.left(i) / 2).exp(), x) for i in (j, k))
        loc = a_s * x_0 + along(gain, x) * (x - a_t * x_0)
        if eta == 0:
            return laws.point(loc)
        scale = along(eta * early * late ** (1 / self.alpha), x).expand_as(loc)
        return self.increment.law(loc, scale.to(loc.dtype)).to_event(x.dim() - 1)  # type: ignore

    def step(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, eta: float) -> Distribution:
        """Without noise; with some of the bridge's it is no known law: see `renewed`."""
        if eta != 0:
            raise self.unsolved("a step with some of the noise, eta neither 0 nor 1,")
        return self.renewed(estimate, x, s, t, 0.0)
