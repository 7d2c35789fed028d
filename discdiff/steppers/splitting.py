r"""Symmetric splitting of the reversal of a linear diffusion with a limit law.

With the limit :math:`\mathcal{N}(\mu, S)`, :math:`D = G / 2` and :math:`Q = -(A S + D)`, which is
skew, the reversal is the sum of a linear diffusion, which can be solved, and of a flow that only
the difference of two scores drives, in reverse time r:

.. math::
    dy = (Q - D) S^{-1} (y - \mu)\, dr + \sqrt{2 D}\, dW
         \;+\; 2 D\, \big(\nabla \log p_t(y) - \nabla \log p_\infty(y)\big)\, dr .

The first part is the stationary process run backwards: its transition is the law of
:math:`X_s` given :math:`X_t` in the limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..process import Leaf, Process
from ..reverse import drift_rule
from ..shapes import along
from ..solve import Score, Unsolved
from ..stepper import Model, State, Stepper, finite_span
from ..terms import Diffusion
from ..validation import require


@dataclass(frozen=True)
class Splitting(Stepper):
    r"""Half a step of the stationary process backwards, a kick by the score, and half a step.

    The kick is taken at the middle of the step, over its own time
    :math:`\Lambda(t) - \Lambda(s)`; each half has the increment of the clock of its own half.
    The run must start at a finite own time.

    Arguments:
        order: 1 kicks by Euler's rule, as published; 2 by the midpoint rule, with a second call of
            the network, without which splitting in halves does not make the order 2.

    Raises:
        ValueError: If order is neither 1 nor 2.
        Unsolved: In a run of a process with a part that is no linear diffusion with a limit law.

    References:
        | Score-based generative modeling with critically-damped Langevin diffusion (Dockhorn et
          al., 2022), Algorithm 1

    Example:
        >>> from discdiff import Langevin, clock, heads, sample
        >>> from torch.distributions import Normal
        >>> Q, D = [[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]
        >>> damped = Langevin(Q, D, torch.eye(2)).on(clock.Constant(4.0)).lift(Normal(0.0, 0.1))
        >>> head = heads.Mean(lambda y, t: torch.zeros_like(y[..., 0]))
        >>> sample(damped, head, (2, 3), steps=20, stepper=Splitting()).shape
        torch.Size([2, 3])
    """

    order: int = 2  # type: ignore[misc]

    def __post_init__(self) -> None:
        require(self.order in (1, 2), f"order must be 1 or 2; it is {self.order}")

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        middle = (t + s) / 2
        late, half, early = (list(process.leaves(v)) for v in (t, middle, s))
        spans = [finite_span(goal, leaf) for leaf, goal in zip(late, early, strict=True)]
        x = _rewound(late, half, x)
        at = x
        if self.order == 2:
            at = _kicked(half, [tau / 2 for tau in spans], model, x, x, middle)
        return _rewound(half, early, _kicked(half, spans, model, at, x, middle)), memory


def _rewound(late: list[Leaf], early: list[Leaf], x: State) -> State:
    """A draw of the state at an earlier time, if it were stationary."""
    for leaf, goal in zip(late, early, strict=True):
        back = getattr(leaf.core.engine, "rewind", None)
        if back is None:
            raise Unsolved(f"Splitting is known for linear diffusions, not for {leaf.core!r}")
        x = goal.put(x, back(leaf.get(x), goal.time, leaf.time).sample())
    return x


def _kicked(
    leaves: list[Leaf], spans: list[Tensor], model: Model, at: State, x: State, t: Tensor
) -> State:
    """The state x moved by the difference of the scores at another state."""
    estimate, moved = model(at, t), x
    for leaf, tau in zip(leaves, spans, strict=True):
        engine, y, now = leaf.core.engine, leaf.get(at), leaf.get(moved)
        score = engine.score(leaf.read(estimate), y, leaf.time).gradient
        excess = Score(gradient=score - engine.limit_score(y))  # type: ignore[attr-defined]
        noises = [term for term in leaf.core.terms if isinstance(term, Diffusion)]
        kicks = [drift_rule(term, excess, 1.0, y, leaf.time) for term in noises]
        total = torch.stack([kick for kick in kicks if kick is not None]).sum(0)
        moved = leaf.put(moved, now + along(tau, now) * total)
    return moved
