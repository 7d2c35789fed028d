r"""Replacement by draws of a law that varies in time.

With :math:`m_t = (1 - e^{-t})\, \pi_t` the mass of each state that is not the datum,

.. math:: P_{s,t} = e^{-(t-s)} I + \mathbf{1} \big(m_t - e^{-(t-s)} m_s\big)^\top .
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..shapes import span
from ..solve import Engine, Unsolved, solves
from ..structures import Interpolate
from ..validation import require, shown, values_are_checked
from .finite import Finite
from .kernels import RankOne, Structured

ROUNDING = -1e-9  # of a difference of probabilities


@solves(Interpolate)
class Interpolated(Structured):
    """Replacement by draws of a law that varies in time."""

    technique = "closed form, no K×K matrix"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        return (
            cls(terms)
            if len(terms) == 1 and float(terms[0].scale.detach()) == 1
            else Finite(terms)
        )

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        (self.term,) = terms

    def branch(self) -> str:
        return f"{self.size} states, π varies"

    def _mixed(self, t: Tensor) -> Tensor:
        """The mass of each state that is not the datum, (B, K)."""
        return -torch.expm1(-t).unsqueeze(-1) * self.term.function(t)

    def kernel(self, s: Tensor, t: Tensor) -> RankOne:
        stay = (-span(s, t)).exp()
        law = self._mixed(t) - stay.unsqueeze(-1) * self._mixed(s)
        if values_are_checked(law):
            low = law.detach().amin(-1) < ROUNDING
            require(not bool(low.any()), f"pi leaves no law at the own times {shown(t[low])}")
        return RankOne(stay, law.clamp(min=0))  # below 0 by rounding alone

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        end = torch.full((1,), torch.inf, dtype=torch.float64, device=self.term.scale.device)
        probs = self.term.function(end)[0]
        if not bool(probs.isfinite().all()):
            raise Unsolved("there is no limit law: pi has no value at t = ∞")
        return self.spread(shape, probs)
