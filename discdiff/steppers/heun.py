r"""The probability flow by Heun's steps, plain and with noise added on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..estimates import Atoms, Estimate
from ..numerics.special import log1pexp, logexpm1
from ..process import Leaf, Process, over_atoms
from ..reverse import drift_of
from ..shapes import along
from ..solve import Unsolved
from ..stepper import Model, State, Stepper, finite_span, only_leaf
from ..terms import Diffusion, Drift
from ..validation import require


@dataclass(frozen=True)
class Churn(Stepper):
    r"""A step that also noises anew what is already there, at equal marginals.

    On counts living units die (attrition) and more missing ones return. As with `Ancestral`, a
    posterior or the exact head gives the exact mixture, `Missing` stochastic rounding. With the
    exact mixture a step is exact for one entry. With a mean number, renewals of a share of t per
    step forget what was before :math:`t \sim n^{-1/2}`, so the order in 1/n is a half.

    On real states noise is added by the forward process, and a step of `Heun` takes away that
    noise and the step's own. With :math:`z = \log(e^\Lambda - 1)` the state is noised from z to
    :math:`z + \min(\eta\, (z_t - z_s), \log 2)`: :math:`e^\Lambda - 1`, the square of the noise
    level :math:`\sigma` of a variance-preserving process, at most doubles, as in EDM. This is of
    order 2, and tends to the reversal of noise level :math:`\lambda = \eta`; see `Euler`.

    Arguments:
        eta: On counts, the share of the most attrition that keeps the marginals; on real states,
            how far to go back, in steps. In [0, 1].

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    """

    eta: float = 0.5
    order: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, f"eta must lie in [0, 1]; it is {self.eta}")

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        leaves = list(process.leaves(t))
        if all(_continuous(leaf) for leaf in leaves):
            later = self._later(leaves, t, s)
            x = process._transition(x, t, later).sample()
            return Heun().step(process, model, x, later, s, memory)
        return self.law(process, model(x, t), x, t, s).sample(), memory

    def _later(self, leaves: list[Leaf], t: Tensor, s: Tensor) -> Tensor:
        """The time up to which the state is noised."""
        clock = leaves[0].clock
        if clock is None or any(leaf.clock is not clock for leaf in leaves):
            raise Unsolved("Churn noises all parts up to one time: they must share one clock")
        z = logexpm1(clock(t))
        more = (self.eta * (z - logexpm1(clock(s)))).clamp(max=math.log(2))
        later = torch.minimum(clock.inverse(log1pexp(z + more)), torch.ones_like(t))
        return torch.maximum(later, t) if self.eta else t

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        late, early = only_leaf(process, x, t, s)
        churn = getattr(late.core.engine, "churn", None)
        if churn is None:
            raise Unsolved(f"the law of a Churn step is not known for {late.core!r}")
        if isinstance(estimate, Atoms):
            step = lambda *at: churn(*at, self.eta)
            return over_atoms(step, estimate, x, early.time, late.time)
        return churn(estimate, x, early.time, late.time, self.eta)


@dataclass(frozen=True)
class Heun(Stepper):
    """The probability flow by Heun's method, of second order; draws no noise."""

    order: ClassVar[float] = 2

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        late, early = list(process.leaves(t)), list(process.leaves(s))
        slopes = self._slopes(late, model(x, t), x)
        guess = x
        for leaf, goal, slope in zip(late, early, slopes, strict=True):
            y = leaf.get(x)
            guess = goal.put(guess, y + along(finite_span(goal, leaf), y) * slope)
        if bool((s == 0).all()):  # the score is not defined at 0: the last step is Euler's
            return guess, memory
        ahead = self._slopes(early, model(guess, s), guess)
        moved = x
        for leaf, goal, a, b in zip(late, early, slopes, ahead, strict=True):
            y = leaf.get(x)
            moved = goal.put(moved, y + along(finite_span(goal, leaf), y) * (a + b) / 2)
        return moved, memory

    def _slopes(self, leaves: list[Leaf], estimate: Estimate, x: State) -> list[Tensor]:
        found = [drift_of(leaf, leaf.read(estimate), leaf.get(x), noise=0.0) for leaf in leaves]
        if any(slope is None for slope in found):
            raise Unsolved("Heun follows the probability flow: every part must be continuous")
        return found  # type: ignore[return-value]


def _continuous(leaf: Leaf) -> bool:
    return all(isinstance(term, Drift | Diffusion) for term in leaf.core.terms)
