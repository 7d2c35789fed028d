r"""Predictor and corrector: after each step, moves that leave the law of the new time alone.

The process and its reversal, run at one time t together, have the generator

.. math:: L + \hat L_t: \qquad
    \text{jumps: } r(x \to y) + \hat r_t(x \to y), \qquad
    \text{diffusion: drift } B B^\top \nabla \log p_t,\; \text{noise } \sqrt{2}\, B,

which is reversible with respect to :math:`p_t`: for jumps
:math:`p_t(x) [r(x \to y) + \hat r_t(x \to y)] = r(x \to y)\, p_t(x) + r(y \to x)\, p_t(y)` is
symmetric in x and y, and for diffusions this is the Langevin equation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..estimates import Estimate
from ..process import Leaf, Process, batch_size
from ..reverse import drift_rule
from ..shapes import along, span
from ..stepper import Model, State, Stepper, carried, fresh_noise, kernel_of, law_matrix, only_leaf
from ..terms import Diffusion
from ..validation import require
from .cached import Cached
from .first_hitting import FirstHitting
from .jumps import (
    Jumps,
    euler_chance,
    exits_of,
    expected,
    forward,
    jump_once,
    jumps_of,
    law_of_one_jump,
    reversal,
)


@dataclass(frozen=True)
class Corrector(Stepper):
    r"""Each step of a predictor, then Euler steps that keep the law of the time it led to.

    Where the predictor goes to t = 0, or comes from :math:`\Lambda = \infty`, it is not corrected:
    rates may be infinite at the one, and no finite step fits the other.

    Arguments:
        predictor: Any stepper.
        steps: The number of corrector steps, each with one call of the network.
        size: The own time of a corrector step, in own times of the predictor's step.

    Raises:
        ValueError: If steps is not a number ≥ 0, or size is negative.

    References:
        | Score-based generative modeling through stochastic differential equations (Song et al.,
          2021)
        | A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022)

    Example:
        >>> from discdiff import steppers
        >>> Corrector(steppers.TauLeaping(), steps=2, size=0.5).steps
        2
    """

    predictor: Stepper
    steps: int = 1
    size: float = 1.0

    def __post_init__(self) -> None:
        kind = type(self.predictor).__name__
        require(isinstance(self.predictor, Stepper), f"predictor must be a stepper, not a {kind}")
        whole = int(self.steps) == self.steps and self.steps >= 0
        require(whole, f"steps must be an integer ≥ 0; it is {self.steps}")
        require(0 <= self.size < math.inf, f"size must be ≥ 0 and finite; it is {self.size}")

    def prepared(self, process: Process, times: Tensor) -> Stepper:
        if self.steps and isinstance(_innermost(self.predictor), FirstHitting):
            return self  # in a run by itself it goes to the last time at once
        return Corrector(self.predictor.prepared(process, times), self.steps, self.size)

    def init(self, process: Process, x: State) -> Any:
        return self.predictor.init(process, x)

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        x, memory = self.predictor.step(process, model, x, t, s, memory)
        if bool((s == 0).any()):
            return x, memory
        leaves = list(zip(process.leaves(t), process.leaves(s), strict=True))
        for _ in range(self.steps):
            estimate, moved = model(x, s), x
            for late, early in leaves:
                y = _corrected(early, early.read(estimate), early.get(x), self._tau(late, early))
                moved = early.put(moved, y)
            x = moved
        return x, memory

    def _tau(self, late: Leaf, early: Leaf) -> Tensor:
        """The own time of a corrector step; none after a step from infinity."""
        tau = span(early.time, late.time)
        return self.size * torch.where(tau.isfinite(), tau, 0.0)

    def kernel(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, states: State
    ) -> Tensor:
        """The probabilities (B, N) that a step leads from B states to each of N."""
        law = kernel_of(self.predictor, process, model, x, t, s, states)
        if bool((s == 0).any()):
            return law

        def correct(y: State) -> Tensor:
            late, early = (v[:1].expand(batch_size(y)) for v in (t, s))
            leaf, goal = only_leaf(process, y, late, early)
            jumps = _both(goal, model(y, early), y)
            chance = euler_chance(expected(jumps.total, self._tau(leaf, goal)))
            return law_matrix(law_of_one_jump(goal, y, jumps, chance), states, batch_size(y))

        for _ in range(self.steps):
            law = carried(law, states, correct)
        return law


def _innermost(stepper: Stepper) -> Stepper:
    """A stepper without those around it that only remember or correct."""
    while isinstance(stepper, Cached | Corrector):
        stepper = stepper.stepper if isinstance(stepper, Cached) else stepper.predictor
    return stepper


def _both(leaf: Leaf, estimate: Estimate, x: Tensor) -> Jumps:
    """The jumps of the process and of its reversal."""
    return reversal(leaf, estimate, x) + forward(leaf, x)


def _corrected(leaf: Leaf, estimate: Estimate, x: Tensor, tau: Tensor) -> Tensor:
    """The state after an Euler step of the process and its reversal at one time."""
    if jumps_of(leaf):
        jumps = _both(leaf, estimate, x)
        return jump_once(x, exits_of(jumps)[1], euler_chance(expected(jumps.total, tau)))
    noise = fresh_noise(leaf, x)
    if noise is None:
        return x
    score = leaf.score(estimate, x)
    terms = [term for term in leaf.core.terms if isinstance(term, Diffusion)]
    drifts = [drift_rule(term, score, 1.0, x, leaf.time) for term in terms]
    drift = torch.stack([d for d in drifts if d is not None]).sum(0)
    return x + along(tau, x) * drift + (2 * along(tau, x)).sqrt() * noise
