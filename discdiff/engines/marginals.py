r"""Walks whose marginals have one shape: self-decomposable laws.

.. math:: \frac{x_t - \sqrt{\bar\alpha_t} x_0}{\sqrt{1 - \bar\alpha_t}}
          \overset{d}{=} \rho\, \frac{x_s - \sqrt{\bar\alpha_s} x_0}{\sqrt{1 - \bar\alpha_s}}
          + n, \qquad \varphi_n(u) = \frac{\varphi(u)}{\varphi(\rho u)}, \quad
          \rho^2 = \frac{\bar\alpha_t}{\bar\alpha_s} \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..laws import Still
from ..shapes import along
from ..solve import Engine, solves
from ..walks import FixedMarginals
from .normal_walk import NormalWalk, is_normal
from .walk import WalkEngine


@solves(FixedMarginals)
class Marginals(WalkEngine):
    """Marginals of one shape, with the innovation of a self-decomposable law."""

    technique = "closed form: one shape at all times"
    draws_forward = True
    jumps = True

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        return NormalWalk(terms) if is_normal(terms) else cls(terms)

    def rho(self, s: Tensor, t: Tensor) -> Tensor:
        """How much of the noise at t is that at s."""
        early, whole = torch.expm1(self.log_kept[s]), torch.expm1(self.log_kept[t])
        return (self.kept(s, t).exp() * early / whole).sqrt()

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Distribution:
        width = (-torch.expm1(self.log_kept[t])).sqrt()
        scale = along(width, loc)
        first = s == 0
        if bool(first.all()):
            return self.increment.law(loc, scale)
        rho = torch.where(first, 0.5, self.rho(s, t))  # from the data there is no innovation
        late = self.increment.innovation(along(rho, loc), scale, loc)
        if not bool(first.any()):
            return late
        return laws.Either(along(first, loc, torch.bool), self.increment.law(loc, scale), late)

    def still(self, x: Tensor, s: Tensor, t: Tensor) -> Still | None:
        law = self.increment.innovation(along(self.rho(s, t), x), self.spread(t, x))
        return getattr(law, "still", None)

    def single(self, k: Tensor) -> bool:
        return True

    def width(self, s: Tensor, t: Tensor) -> Tensor:
        return self.increment.reach * (-torch.expm1(self.log_kept[t])).sqrt()

    def crowding(self, s: Tensor, t: Tensor) -> float:
        return self.increment.crowding(1.0)

    def ends(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\sqrt{1 - \bar\alpha_t}\, (1 - \rho)` times the ends of the increment."""
        late = -torch.expm1(self.log_kept[t])
        early = torch.where(s > 0, -torch.expm1(self.log_kept[s]), 1.0)
        carried = torch.where(s > 0, (self.kept(s, t).exp() * early).sqrt(), 0.0)
        total = -torch.expm1(self.kept(s, t)) / (late.sqrt() + carried)  # their difference
        return self.ends_times(total)
