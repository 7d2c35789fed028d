r"""Processes without chance: motion along a linear drift alone, and no motion at all.

Without noise :math:`x_t = \varphi x_s + m` is certain, so the law is a point. It has no density,
hence no score, no loss and no reversal by one; given the data the state at every time is known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Data
from ..solve import Engine, Score, Unsolved, solves
from ..terms import LinearDrift
from .matrix import MatrixGaussian


@solves()
class Still(Engine):
    """Terms of rate zero alone: nothing moves."""

    technique = "nothing moves"

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return laws.point(x)

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return laws.point(x)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        raise Unsolved("there is no limit law: nothing moves, so it depends on the start")

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        raise _certain("nothing moves: all rates are zero")


@solves(LinearDrift)
class Motion(Engine):
    """A linear drift without noise: the law is the mean that it would have with noise."""

    technique = "closed form, no noise"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.mean = MatrixGaussian.plan(terms)
        self.forgets = self.mean.forgets

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return laws.point(self.mean.transition(x, s, t).mean)

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        if not isinstance(estimate, Data):
            raise _certain("no noise is declared")
        return self.transition(estimate.value, torch.zeros_like(s), s)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        return laws.point(self.mean.limit(shape).mean)

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        raise _certain("no noise is declared")


def _certain(why: str) -> Unsolved:
    return Unsolved(
        f"{why}, so the state is certain and its law has no score. Way out: add noise or jumps, "
        "or simulate the process"
    )
