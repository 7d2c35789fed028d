r"""Jumps of categories whose law is not known: no verb but the reading of ratios.

Sites that jump at rates which depend on the other sites have no transition law in closed form.
They can be simulated, and learned from simulations: by ratio matching or by the implicit score
entropy. What a network then says of one site given the others is the ratio of a jump of that
site,

.. math:: \log \frac{p_t(y)}{p_t(x)} = \log \frac{p_t(y^d \mid x^{\setminus d})}
          {p_t(x^d \mid x^{\setminus d})}, \qquad y^{\setminus d} = x^{\setminus d}.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..estimates import Conditional, Ratio
from ..solve import Engine, Score, Unsolved
from ..validation import values_are_checked
from .replacement import log_ratio_table, ratio_from_table


class Simulated(Engine):
    """Categories that can be simulated only."""

    technique = "simulated; learned by ratio matching or the implicit score entropy"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.axes = max(term.event_axes for term in terms)

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        if not isinstance(estimate, Conditional | Ratio):
            raise Unsolved(
                f"{type(estimate).__name__} determines no ratios where no transition law is "
                "known; Conditional and Ratio do"
            )
        table = log_ratio_table(estimate, x)
        if not self.axes:
            return Score(log_ratio=ratio_from_table(table))
        return Score(log_ratio=lambda y: one_site_ratio(table, x, y))

    def unsolved(self, verb: str) -> Unsolved:
        names = " + ".join(type(term).__name__ for term in self.terms)
        return Unsolved(
            f"{verb} of {names} is not known: nothing says that its sites jump by themselves "
            "(declare matrix() of a FiniteJump if they do). Ways out: simulate it, ratio "
            "matching, implicit score matching"
        )

    def starts_at_infinity(self, head: Any) -> bool:
        return False


def one_site_ratio(table: Tensor, x: Tensor, points: Tensor) -> Tensor:
    """Log-ratios to points (B, *sites, M, S) that differ from x (B, *sites, S) in one entry.

    Raises:
        Unsolved: If a point differs in several: ratios of single sites do not say them.
    """
    differs = points != x.unsqueeze(-2)
    if values_are_checked(points) and bool((differs.sum(-1) > 1).any()):
        raise Unsolved(
            "laws of single sites say the ratios of jumps of one site; these jumps change "
            "several at once"
        )
    each = table.gather(-1, points.movedim(-2, -1)).movedim(-1, -2)
    return torch.where(differs, each, 0.0).sum(-1)
