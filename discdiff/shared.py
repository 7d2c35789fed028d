r"""Walks whose noise has one random variance for a whole run: isotropic heavy tails.

With one A for all steps and all entries of a batch element, and :math:`W` DDPM's normal noise,

.. math::
    x_k = \sqrt{\bar\alpha_k}\, x_0 + \sqrt{A}\, W_k, \qquad
    x_k \mid x_0 \sim \sqrt{\bar\alpha_k}\, x_0 + \sqrt{1 - \bar\alpha_k}\, \sqrt{A}\, G,

an elliptical law of the same shape at all times: Student's for A of inverse gamma law. Given the
data and a state, A has a law of its own, and the steps are normal given it,

.. math::
    x_s \mid x_0, x_t \sim \text{DDPM's mean} + \tilde\sigma \sqrt{A'}\, G, \qquad
    A' \sim p(A \mid \| x_t - \sqrt{\bar\alpha_t} x_0 \|).

All states tell of A, so that the walk is no Markov chain, forward or backward. A run backward
that draws :math:`A'` anew in each step, given the state alone, has the same law at each time, as
every process of DDIM's family has; the bound is that of such runs, which are Markov.

References:
    | Heavy-Tailed Diffusion Models (Pandey et al., 2025)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .chains import Stepped, every
from .given_data import GivenData
from .increments import increment
from .increments.elliptical import mixing
from .process import Chain
from .walks import Contracting


class SharedIncrements(Contracting, GivenData):
    """Normal steps of one random variance, as a term in the number of the step."""

    center, markov, backward = 0.0, False, False

    def __init__(self, law: Distribution, betas: Tensor | list[float]) -> None:
        super().__init__(betas)
        self.law, self.increment = law, increment(law)
        mixing(self.increment, torch.zeros(1))  # or it is refused

    def extra_repr(self) -> str:
        return f"{self.increment.name}, {self.betas.shape[0]} steps"


class SharedWalk(Chain):
    r"""A walk of elliptical noise: one random variance for all entries and all steps.

    Its marginals given the data have the law's shape as isotropic vectors, at all times; it has
    bridges, also with any share of their noise (`steppers.Ancestral`). `transition` is
    `Unsolved`: earlier steps tell of the variance of later ones.

    Arguments:
        law: Normal, Laplace or Student's t of more than two degrees of freedom; standardised.
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).

    Raises:
        ValueError: If a β lies elsewhere, or the law has no finite variance.
        Unsolved: For other laws.

    References:
        | Heavy-Tailed Diffusion Models (Pandey et al., 2025)

    Example:
        >>> from torch.distributions import StudentT
        >>> walk = SharedWalk(StudentT(5.0), [0.1, 0.2, 0.3])
        >>> walk.marginal(torch.ones(1, 2), 3).variance  # 1 − 0.9 · 0.8 · 0.7
        tensor([[0.4960, 0.4960]])
    """

    def __init__(self, law: Distribution, betas: Tensor | list[float]) -> None:
        term = SharedIncrements(law, betas)
        super().__init__(Stepped(term), every(term.count))

    @property
    def steps(self) -> Any:
        """The walk as a term in the number of the step."""
        return self.process.process  # type: ignore[union-attr]

    @property
    def betas(self) -> Tensor:
        return self.steps.betas

    def __repr__(self) -> str:
        return f"SharedWalk({self.steps.extra_repr()})"
