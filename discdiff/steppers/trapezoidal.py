r"""The trapezoidal rule for jumps: two stages of frozen rates, of second order.

With :math:`M_x` the generator of reverse rates that are frozen at x, and :math:`L` the reversal,
a step over a time :math:`\Delta` draws

.. math::
    x^* \sim e^{\theta \Delta M_x}, \qquad
    y \sim e^{(1 - \theta) \Delta N}, \quad N = a_1 M^*_{x^*} - a_2 M_x,

where :math:`M^*` has the rates of the time between the stages. In the expansion of
:math:`\mathbb{E} f(y)` the terms in :math:`\Delta^2` are

.. math::
    \big[\tfrac{\theta^2}{2} + \tfrac{(1 - \theta)^2}{2} - a_2\, \theta (1 - \theta)\big] M_x^2 f
    + a_1\, \theta (1 - \theta) (L^2 + \dot L) f,

which must be :math:`\tfrac12 (L^2 + \dot L) f`, and this, with the first order, determines

.. math::
    a_1 = \frac{1}{2 \theta (1 - \theta)}, \qquad
    a_2 = \frac{\theta^2 + (1 - \theta)^2}{2 \theta (1 - \theta)}, \qquad a_1 - a_2 = 1 .

The rates of :math:`N` may be negative. Cut off at 0, as published, they leave an error of first
order: a jump has happened in the first stage with a chance of order :math:`\Delta`, and then the
rates are wrong by a constant. Within an entry this is avoided here: an entry jumps once at most
per stage, and one that has jumped goes on with the rates :math:`a_1 M^*` alone; the terms of one
entry are then those of :math:`L^2`. Between entries it is not: no rate may fall below
:math:`a_2 / a_1 = \theta^2 + (1 - \theta)^2` times itself by a jump of *another* entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..process import Leaf, Process, batch_size, map_state
from ..shapes import along
from ..solve import Unsolved
from ..stepper import Model, State, Stepper, finite_span, law_matrix, only_leaf
from ..validation import require
from .jumps import (
    Jumps,
    exits_of,
    expected,
    frozen_chance,
    jump_once,
    jumps_of,
    law_of_one_jump,
    reversal,
)


@dataclass(frozen=True)
class Trapezoidal(Stepper):
    r"""Two stages of one jump at most per entry, of second order; two calls of the network.

    The order is 2 for one entry, and for several where no jump of one entry takes a rate of
    another below :math:`\theta^2 + (1 - \theta)^2` times itself, a half for
    :math:`\theta = \tfrac12`. Where entries exclude each other more than that, negative rates are
    cut off at 0 and the order falls to 1. So it does in equal steps to t = 0 where rates grow like
    1/t there, as they do from states that data do not take: masks, of which more are left
    than by `Euler`. To any t > 0 the order is 2 there, too. The run must start at a finite own
    time.

    Arguments:
        theta: The share of the step before the second call, in (0, 1).

    Raises:
        ValueError: If theta lies outside (0, 1).
        Unsolved: In a run of a process that does not only jump.

    References:
        | Fast Solvers for Discrete Diffusion Models: Theory and Applications of High-Order
          Algorithms (Ren et al., 2025)
        | A weak trapezoidal method for a class of stochastic differential equations (Anderson and
          Mattingly, 2011)

    Example:
        >>> Trapezoidal()
        Trapezoidal(theta=0.5)
    """

    order: ClassVar[float] = 2

    theta: float = 0.5

    def __post_init__(self) -> None:
        require(0 < self.theta < 1, f"theta must lie in (0, 1); it is {self.theta}")

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        between = t + self.theta * (s - t)
        stages = list(_stages(process, t, between, s))
        estimate, guess, first = model(x, t), x, []
        for late, middle, _ in stages:
            y = late.get(x)
            jumps = reversal(late, late.read(estimate), y)
            first.append(jumps)
            guess = middle.put(guess, _jumped(y, jumps, _first(late, middle, jumps)))
        estimate, moved = model(guess, between), guess
        for (late, middle, early), jumps in zip(stages, first, strict=True):
            y = middle.get(guess)
            rates = reversal(middle, middle.read(estimate), y)
            rates, chance = _second(late, middle, early, jumps, rates, late.get(x), y)
            moved = early.put(moved, _jumped(y, rates, chance))
        return moved, memory

    def kernel(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, states: State
    ) -> Tensor:
        """The probabilities (B, N) that a step leads from B states to each of N."""
        size, count = batch_size(x), batch_size(states)
        between = t + self.theta * (s - t)
        only_leaf(process, x, t, s)
        ((late, middle, _),) = _stages(process, t, between, s)
        jumps = reversal(late, late.read(model(x, t)), x)
        first = law_of_one_jump(late, x, jumps, _first(late, middle, jumps))
        to_guess = law_matrix(first, states, size)
        row, goal = (to_guess > 0).nonzero(as_tuple=True)
        ((late, middle, early),) = _stages(process, t[row], between[row], s[row])
        before = Jumps(jumps.points[row], jumps.rates[row], jumps.axes)
        guess = map_state(lambda v: v[goal], states)
        rates = reversal(middle, middle.read(model(guess, between[row])), guess)
        rates, chance = _second(late, middle, early, before, rates, x[row], guess)
        second = law_matrix(law_of_one_jump(middle, guess, rates, chance), states, len(row))
        paths = to_guess[row, goal].unsqueeze(1) * second
        return torch.zeros(size, count, dtype=paths.dtype).index_add(0, row, paths)


def _stages(process: Process, t: Tensor, between: Tensor, s: Tensor) -> Iterator[Any]:
    """Each leaf at the ends of a step and between its stages."""
    each = (list(process.leaves(v)) for v in (t, between, s))
    for leaves in zip(*each, strict=True):
        core = leaves[0].core
        if len(jumps_of(leaves[0])) < len(core.terms):
            raise Unsolved(f"{core!r} does not only jump: use Heun or Exponential")
        finite_span(leaves[2], leaves[0])
        yield leaves


def _jumped(x: Tensor, jumps: Jumps, chance: Tensor) -> Tensor:
    return jump_once(x, exits_of(jumps)[1], chance)


def _first(late: Leaf, middle: Leaf, jumps: Jumps) -> Tensor:
    """The chance of a jump in the first stage, per entry."""
    return frozen_chance(expected(jumps.total, finite_span(middle, late)))


def _second(
    late: Leaf, middle: Leaf, early: Leaf, old: Jumps, new: Jumps, x: Tensor, guess: Tensor
) -> tuple[Jumps, Tensor]:
    """The rates of the second stage, and the chances of a jump at them."""
    before, after = finite_span(middle, late), finite_span(early, middle)
    theta = before / (before + after)  # of own time, which may not be that of the clock
    a_1 = 1 / (2 * theta * (1 - theta))
    a_2 = (theta.square() + (1 - theta).square()) * a_1
    stayed = (guess == x).all(-1) if new.axes else guess == x
    gained = along(a_1, new.rates) * new.rates
    lost = torch.where(stayed.unsqueeze(-1), along(a_2, old.rates) * old.rates, 0.0)
    rates = Jumps(new.points, (gained - lost).clamp(min=0), new.axes)
    return rates, frozen_chance(expected(rates.total, after))
