r"""The implicit score entropy: the loss of a jump process without any law.

With ratios :math:`s(x)_y = p_t(y) / p_t(x)`, the cross term of the loss is a mean over jumps
*out of* the noisy state,

.. math::
    \mathbb{E} \sum_y R(y, x) \big[ \hat s(x)_y - s(x)_y \log \hat s(x)_y \big]
    = \mathbb{E} \sum_y \big[ R(y, x)\, \hat s(x)_y - R(x, y) \log \hat s(y)_x \big],

because :math:`\sum_x p(x) R(y, x) p(y) / p(x)` is a sum over y of the states that x jumps to. The
left side is the loss but for a constant, :math:`\mathbb{E} \sum_y R(y, x)\, s (\log s - 1)` with
the conditional ratios of the data for s; the right side needs states and rates alone.

References:
    | Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
      2024)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..laws import draw_categories
from ..loss import jumps_into, reverse_log_rates
from ..process import Leaf
from ..shapes import sum_event
from ..solve import Score
from ..terms import Jump

State = Any


def score_entropy(leaf: Leaf, score: Callable[[Tensor], Score], x: State, draws: int) -> Tensor:
    """The implicit score entropy of a leaf at x per unit of its own time, shape (B,).

    Arguments:
        leaf: A sum of jumps.
        score: What the head makes of a state of the leaf.
        x: The state of the whole.
        draws: How many jumps out of x are drawn; 0: all are summed, one network call each.
    """
    y = leaf.get(x)
    here, total = score(y), torch.zeros(len(y)).to(leaf.time)
    for term in leaf.core.terms:
        rates = reverse_log_rates(here, *jumps_into(term, y, leaf.time)).exp().sum(-1)
        total = total + sum_event(leaf.still(rates, x))
    jumps = Jumps(leaf, x)
    if draws == 0:
        each = (torch.full((len(y),), j, device=y.device) for j in range(jumps.rates.shape[1]))
        return total - sum(jumps.term(score, j, jumps.rate_of(j)) for j in each)
    exits = jumps.rates.sum(-1)
    for _ in range(draws):
        some = torch.where((exits > 0).unsqueeze(-1), jumps.rates, 1.0)
        total = total - jumps.term(score, draw_categories(some.log()), exits / draws)
    return total


class Jumps:
    """All jumps out of a state of a leaf: sites times points.

    Arguments:
        leaf: A sum of jumps.
        x: The state of the whole.
    """

    def __init__(self, leaf: Leaf, x: State) -> None:
        self.y = y = leaf.get(x)
        self.axes = leaf.core.terms[0].event_axes
        found = [jumps_out(term, y, leaf.time) for term in leaf.core.terms]
        points = torch.cat([points for points, _ in found], -1 - self.axes)
        rates = leaf.still(torch.cat([rates for _, rates in found], -1), x)
        self.width, batch = rates.shape[-1], len(y)
        self.own = y.shape[y.dim() - self.axes :]
        self.rates = rates.reshape(batch, -1)
        self.points = points.reshape(batch, self.rates.shape[1], *self.own)
        self.rows = torch.arange(batch, device=y.device)

    def rate_of(self, jump: Tensor) -> Tensor:
        """The rates of some jumps, one per batch element, (B,)."""
        return self.rates[self.rows, jump]

    def term(self, score: Callable[[Tensor], Score], jump: Tensor, rate: Tensor) -> Tensor:
        r""":math:`R \log \hat s(y)_x` for a jump to y per batch element, at a given rate R."""
        allowed, site = self.rate_of(jump) > 0, jump // self.width
        flat = self.y.reshape(len(self.y), -1, *self.own)
        own = flat[self.rows, site]
        wide = allowed.reshape(allowed.shape + (1,) * self.axes)
        target = torch.where(wide, self.points[self.rows, jump], own)
        moved = flat.index_put((self.rows, site), target).reshape(self.y.shape)
        back = score(moved).log_ratio(self.y.unsqueeze(-1 - self.axes))
        log_ratio = back.reshape(len(self.y), -1)[self.rows, site]
        return torch.where(allowed, rate * torch.where(allowed, log_ratio, 0.0), 0.0)


def jumps_out(term: Jump, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The points that x jumps to and their rates in float64, 0 at x itself."""
    points, rates = term.frozen(t).out(x)
    own = points == x.unsqueeze(-1 - term.event_axes)
    own = own.all(-1) if term.event_axes else own
    return points, torch.where(own, 0.0, term.scale * rates.double())
