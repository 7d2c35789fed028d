r"""Analytic steps: the exact law of each site at s given the state at t, site by site.

With :math:`\pi(a) = q(x_0^d = a \mid x_t^{\setminus d})`, :math:`\mu` the posterior of
:math:`x_0^d` given all of :math:`x_t = x`, and :math:`v(y) = p_t(x^d = y \mid x^{\setminus d})`,

.. math::
    p(x_s^d = y \mid x) \;\propto\; [\pi P_{0,s}](y)\, P_{s,t}(y, x^d)
    \;=\; \sum_a \mu(a)\, q(y \mid x^d, a)
    \;\propto\; [v P_{s,t}^{-1}](y)\, P_{s,t}(y, x^d).

All three are one law, for exact heads; the last is the staggered, or Tweedie, step of ratios. It
is exact for one site at any step size. Several sites are moved as if they were independent, an
error of first order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Conditional, Data, Estimate, LeaveOneOut, Posterior, Ratio
from ..numerics.special import safe_log
from ..process import Leaf, Process
from ..solve import Unsolved
from ..stepper import ByLeaf, State, finite_span, only_leaf
from .jumps import jumps_of


@dataclass(frozen=True)
class Analytic(ByLeaf):
    r"""A draw of each site from its exact law at the end of the step, given the state.

    A posterior, a leave-one-out law or the exact head may leave :math:`\Lambda = \infty`; ratios
    and conditionals need a finite own time, as the inverse of :math:`P_{s,t}` grows like
    :math:`e^{\Lambda_t - \Lambda_s}`. Where a head is not exact its ratios may give a state a
    negative weight, which then counts as 0.

    Raises:
        Unsolved: In a run of a process that does not only jump, or with a head that does not say
            where a site comes from.

    References:
        | Score-based Continuous-time Discrete Diffusion Models (Sun et al., 2023)
        | Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et
          al., 2024)

    Example:
        >>> from discdiff import Exact, Replace, clock, sample
        >>> coin = Replace(torch.full((2,), 0.5)).on(clock.Constant(2.0))
        >>> exact = Exact(coin, torch.tensor([[0, 0], [1, 1]]))
        >>> sample(coin, exact, (3, 2), steps=4, stepper=Analytic()).shape
        torch.Size([3, 2])
    """

    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        return site_law(leaf, goal, estimate, x).sample()

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        leaf, goal = only_leaf(process, x, t, s)
        return site_law(leaf, goal, leaf.read(estimate), x)


def site_law(leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Distribution:
    """The law of a leaf at the goal's time, independent over sites."""
    engine = leaf.core.engine
    if len(jumps_of(leaf)) < len(leaf.core.terms):
        raise Unsolved(f"{leaf.core!r} does not only jump: use Ancestral")
    if isinstance(estimate, Atoms):
        estimate = engine.convert(estimate, x, leaf.time, Posterior)
    leaf.core.check_estimate(estimate, x)
    if isinstance(estimate, Posterior | LeaveOneOut | Data):
        return engine.bridge(estimate, x, goal.time, leaf.time)
    staggered = getattr(engine, "staggered", None)
    if staggered is None or not isinstance(estimate, Ratio | Conditional):
        name = type(estimate).__name__
        raise Unsolved(f"{name} does not give {leaf.core!r} an analytic step: use Euler")
    finite_span(goal, leaf)
    ratios = engine.convert(estimate, x, leaf.time, Ratio).log_ratio
    joint = staggered(ratios.softmax(-1), x, goal.time, leaf.time).clamp(min=0)
    log_probs = safe_log(joint / joint.sum(-1, keepdim=True)).to(ratios.dtype)
    sides = getattr(leaf.core.terms[0], "sites", ())
    if sides:
        law: Distribution = laws.Indexed(log_probs, sides, torch.int64)
        return law.to_event(x.dim() - 2)  # type: ignore[attr-defined]
    return laws.Table(log_probs, torch.int64).to_event(x.dim() - 1)  # type: ignore[attr-defined]
