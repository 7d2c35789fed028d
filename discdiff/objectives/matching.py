r"""Ratio matching: what the other sites of a noisy state say of one.

The reversal of a chain whose sites jump one at a time needs :math:`p_t(x^d = c \mid
x^{\setminus d})`. A proper scoring rule S learns these laws from noisy states alone,

.. math:: \mathbb{E}_{x_t} \sum_d S\big(\hat p(\cdot \mid x_t^{\setminus d}),\, x_t^d\big),

because by the tower property its mean is that of
:math:`\mathbb{E}[S(\hat p, x^d) \mid x^{\setminus d}]`, least at the truth. No transition law is
needed: a simulation will do. The network must not see the site that it speaks of, else it says
the state back: so heads that see it are refused.

References:
    | Score-based Continuous-time Discrete Diffusion Models (Sun et al., 2023)
    | Some extensions of score matching (Hyvärinen, 2007)
    | Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting & Raftery, 2007)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..estimates import Atoms, Conditional, Estimate, LeaveOneOut
from ..heads import Head
from ..numerics.special import log1mexp
from ..process import Leaf, Process
from ..shapes import sum_event
from ..solve import Unsolved
from ..validation import require_kind
from ..weights import Weight
from .objective import categories, noisy_state, prepared, summed

State = Any


class Rule(ABC):
    """A strictly proper scoring rule of categorical laws, to be made small."""

    @abstractmethod
    def __call__(self, log_p: Tensor, x: Tensor) -> Tensor:
        """The score of laws, logarithms (..., K), where the state is x (...)."""


@dataclass(frozen=True)
class Log(Rule):
    r"""The pseudo-likelihood, :math:`-\log \hat p(x)`: categorical ratio matching.

    Example:
        >>> Log()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1]))
        tensor([0.2877])
    """

    def __call__(self, log_p: Tensor, x: Tensor) -> Tensor:
        return -log_p.gather(-1, x.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class OneAgainstRest(Rule):
    r"""The log-scores of all questions *is it c?*, and K − 2 more of the true one.

    .. math:: -(K - 1) \log \hat p(x) - \sum_{c \ne x} \log(1 - \hat p(c))

    Example:
        >>> OneAgainstRest()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1]))  # 2 · Log
        tensor([0.5754])
    """

    def __call__(self, log_p: Tensor, x: Tensor) -> Tensor:
        index = x.unsqueeze(-1)
        others = log1mexp((-log_p).scatter(-1, index, torch.inf)).sum(-1)
        return -(log_p.shape[-1] - 1) * log_p.gather(-1, index).squeeze(-1) - others


@dataclass(frozen=True)
class Squared(Rule):
    r"""Half the squared distance to certainty; on two states :math:`(1 - \hat p(x))^2`.

    .. math:: \tfrac12 \sum_c \big( \hat p(c) - 1[c = x] \big)^2

    Example:
        >>> Squared()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1]))
        tensor([0.0625])
    """

    def __call__(self, log_p: Tensor, x: Tensor) -> Tensor:
        return (log_p.exp() - one_hot(x, log_p.shape[-1])).square().sum(-1) / 2


def ratio_matching(
    process: Process,
    head: Head,
    x_0: State,
    t: float | Tensor,
    *,
    rule: Rule | None = None,
    weight: Weight | None = None,
    context: Any = None,
    x_t: State | None = None,
    steps: int = 64,
) -> Tensor:
    r"""The score of the laws of single sites at one noisy state, summed over sites.

    Arguments:
        process: A process of categories.
        head: `heads.Conditional`, or `heads.LeaveOneOut` where the transition law is known:
            :math:`\hat p = p\, P_t`.
        x_0: Data, shape (B, *event) or a dict.
        t: Times, a number or of shape () or (B,); `times` draws them.
        rule: `matching.Log` by default, or another rule of this module.
        weight: A `weights` object; by default each time counts by the clock's rate, as in `loss`,
            with `weights.Flat` all count alike.
        context: Handed to the network.
        x_t: The noisy state; drawn from the marginal if not given, or simulated where none is
            known.
        steps: Euler–Maruyama steps from 0 to t, where :math:`x_t` is simulated.

    Returns:
        Shape (B,), in nats (for the rules with logarithms) per unit of clock time, times the
        weight.

    Raises:
        ValueError: If data lie outside the support, a shape does not fit or the rule is none.
        Unsolved: If the head does not say, or sees, what a site is given the others.

    Example:
        >>> import discdiff as dd
        >>> process = dd.Replace(torch.full((4,), 1 / 4)).on(dd.clock.Constant(2.0))
        >>> head = dd.heads.Conditional(lambda x, t: torch.zeros(*x.shape, 4))
        >>> ratio_matching(process, head, torch.tensor([[0, 3]]), 0.5)  # 2 sites · log 4 · rate
        tensor([5.5452])
    """
    rule = rule or Log()
    require_kind(rule, Rule, "rule must be of dd.matching")
    x_0, t, weight = prepared(process, head, x_0, t, weight)
    x, law = noisy_state(process, x_0, t, x_t, steps)
    estimate = head(x, t, context)

    def score(leaf: Leaf) -> Tensor:
        y = leaf.get(x)
        log_p = conditional(leaf, leaf.read(estimate), y)
        return sum_event(leaf.still(rule(log_p, categories(leaf, y)), x))

    return summed(process, x, t, weight, score, law)


def conditional(leaf: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
    """The log-laws of the sites of a leaf given the others, shape (B, *sites, K).

    Raises:
        Unsolved: If the leaf has no categories, or the estimate does not say it or saw the site.
    """
    if leaf.core.dtype is None:
        raise Unsolved(f"ratio matching is for categories; {leaf.core!r} has none. Use loss")
    leaf.core.check_estimate(estimate, x)
    if isinstance(estimate, LeaveOneOut | Atoms):
        estimate = leaf.core.engine.convert(estimate, x, leaf.time, Conditional)
    if not isinstance(estimate, Conditional):
        raise Unsolved(
            f"{type(estimate).__name__} has seen the site that it would speak of, so ratio "
            "matching would teach it to say the state back: use heads.Conditional or "
            "heads.LeaveOneOut around a network that leaves each site out, such as "
            "nn.HollowTransformer, nn.Masked or nn.Energy"
        )
    return estimate.log_probs
