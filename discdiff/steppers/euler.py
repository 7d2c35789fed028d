r"""Euler steps: rates and drifts held for one step, and leaps of many jumps at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Distribution

from ..estimates import Estimate
from ..process import Leaf, Process
from ..reverse import drift_of
from ..shapes import along
from ..solve import Unsolved
from ..stepper import ByLeaf, State, finite_span, fresh_noise, only_leaf
from ..terms import Diffusion, Drift
from ..validation import require
from .jumps import (
    add_jumps,
    euler_chance,
    exits,
    expected,
    jump_once,
    jumps_of,
    law_of_one_jump,
    leap_chance,
    reversal,
)


@dataclass(frozen=True)
class Euler(ByLeaf):
    r"""Euler–Maruyama for diffusions, one jump at most per entry for jump processes.

    Diffusions have a family of reversals with the same marginals, of noise level
    :math:`\lambda \ge 0`, here in reverse time r:

    .. math:: dy = \big[-A y + \tfrac{1 + \lambda}{2}\, G\, \nabla \log p_t\big]\, dr
              + \sqrt{\lambda}\, B\, dW

    So have jumps, with the rates :math:`\hat r_\lambda` of `jumps`. An entry with
    :math:`\Lambda` jumps expected in a step jumps with the chance :math:`\min(\Lambda, 1)`, to
    one of its points in proportion to their rates. The run must start at a finite own time.

    Arguments:
        noise: :math:`\lambda`: 1 is the reversal, 0 the probability flow, which draws no noise,
            or the jumps that are the fewest.

    Raises:
        ValueError: If noise is negative.

    Example:
        >>> Euler(noise=0.0)
        Euler(noise=0.0)
    """

    noise: float = 1.0

    def __post_init__(self) -> None:
        require(self.noise >= 0, f"noise must be ≥ 0; it is {self.noise}")

    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        tau = finite_span(goal, leaf)
        if jumps_of(leaf):
            total, draw = exits(leaf, estimate, x, self.noise)
            return jump_once(x, draw, euler_chance(expected(total, tau)))
        if not any(isinstance(term, Drift | Diffusion) for term in leaf.core.terms):
            raise Unsolved(f"{leaf.core!r} has no rates to follow: take Ancestral")
        drift = drift_of(leaf, estimate, x, math.sqrt(self.noise))
        step = along(tau, x)
        moved = x if drift is None else x + step * drift
        noise = fresh_noise(leaf, x) if self.noise else None
        return moved if noise is None else moved + (self.noise * step).sqrt() * noise

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        leaf, goal = only_leaf(process, x, t, s)
        if not jumps_of(leaf):
            raise Unsolved("a step of Euler has a law here where it jumps: use path_kl")
        jumps = reversal(leaf, estimate, x, self.noise)
        chance = euler_chance(expected(jumps.total, finite_span(goal, leaf)))
        return law_of_one_jump(leaf, x, jumps, chance)


@dataclass(frozen=True)
class TauLeaping(ByLeaf):
    r"""Poisson numbers :math:`n_y` of jumps at the rates of the start of the step.

    Where states are numbers, an entry moves by the sum :math:`\sum_y n_y (y - x)` of its jumps,
    cut off at the ends of its space (at 0 for counts without an upper end). Where they are names,
    an entry that would jump more than once stays: with :math:`\Lambda` jumps expected it jumps
    with the chance :math:`\Lambda e^{-\Lambda}`. Pure death, whose rates may be infinite at the
    end, leaps by the mean of the bridge.

    Arguments:
        maximum: Counts are cut off at it, if given.
        noise: The :math:`\lambda` of `Euler`; pure death has one reversal only.
        ordinal: Whether categories are numbers, as the levels of a pixel are. Counts are.

    Raises:
        ValueError: If noise is negative.
        Unsolved: In a run of a process with diffusions.

    References:
        | A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022)

    Example:
        >>> TauLeaping(ordinal=True)
        TauLeaping(maximum=None, noise=1.0, ordinal=True)
    """

    maximum: float | None = None
    noise: float = 1.0
    ordinal: bool = False

    def __post_init__(self) -> None:
        require(self.noise >= 0, f"noise must be ≥ 0; it is {self.noise}")

    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        leap = getattr(leaf.core.engine, "leap", None)
        if leap is not None:
            moved = leap(estimate, x, goal.time, leaf.time).sample()
        else:
            moved = self._moved(leaf, estimate, x, finite_span(goal, leaf))
        return moved if self.maximum is None else moved.clamp(max=self.maximum)

    def _moved(self, leaf: Leaf, estimate: Estimate, x: Tensor, tau: Tensor) -> Tensor:
        if not jumps_of(leaf):
            raise Unsolved(f"a leap is made of jumps, and {leaf.core!r} has none: use Euler")
        if self._named(leaf):
            total, draw = exits(leaf, estimate, x, self.noise)
            return jump_once(x, draw, leap_chance(expected(total, tau)))
        return add_jumps(leaf, x, reversal(leaf, estimate, x, self.noise), tau)

    def _named(self, leaf: Leaf) -> bool:
        """Whether the states of a leaf are names."""
        return leaf.core.dtype is not None and not self.ordinal

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        late, early = only_leaf(process, x, t, s)
        leap = getattr(late.core.engine, "leap", None)
        if leap is not None and self.maximum is None:
            return leap(estimate, x, early.time, late.time)
        if leap is not None or not self._named(late):
            raise Unsolved(
                "a leap has a law where states are names, and for pure death without a maximum"
            )
        jumps = reversal(late, estimate, x, self.noise)
        chance = leap_chance(expected(jumps.total, finite_span(early, late)))
        return law_of_one_jump(late, x, jumps, chance)
