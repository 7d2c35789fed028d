r"""Pure walks of a lattice: equal steps without contraction.

.. math:: x_k = x_{k-1} + \sigma \xi_k

With the increments of a coin, or of any law on equidistant points, all that is reached from
:math:`x_0` lies on one lattice, and laws are probabilities of its points: binomial for the coin,
with hypergeometric bridges. A contracting walk has as many atoms as there are paths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .chains import Stepped, Stepwise, every
from .increments import Lattice, increment
from .process import Chain
from .solve import Unsolved
from .validation import require, require_count

EQUAL = 1e-12  # to which the distances of points are


class LatticeSteps(Stepwise):
    r""":math:`x_k = x_{k-1} + \sigma \xi_k`, as a term in the number of the step."""

    def __init__(self, law: Distribution, steps: int, size: float = 1.0) -> None:
        super().__init__()
        self.increment = increment(law)
        unit = self.increment.law(0.0, 1.0)
        if not isinstance(unit, Lattice):
            raise Unsolved(
                f"the {self.increment.name} law does not lie on finitely many points: a walk of "
                "it is a Walk or a LevyWalk"
            )
        gaps = unit.points.double().diff()
        even = bool(((gaps / gaps[0] - 1).abs() < EQUAL).all())
        require(even, f"points of the law must be equidistant; they are {unit.points.tolist()}")
        require(size > 0, f"size must be positive; it is {size}")
        self.count, self.size_of_step = require_count(steps, "steps"), float(size)
        self.first, self.gap = float(unit.points[0]), float(gaps[0])
        self.register_buffer("log_probs", unit.log_probs.double())
        self.register_buffer("points", unit.points.double())

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        scale = torch.full_like(x, self.size_of_step)
        points: Any = self.points
        log_probs: Any = self.log_probs
        return Lattice(points, log_probs, x, scale).to_event(x.dim() - 1)

    def extra_repr(self) -> str:
        return f"{self.increment.name}, {self.count} steps of {self.size_of_step:g}"


class LatticeWalk(Chain):
    r"""A walk of equal steps on a lattice, without contraction: variance :math:`k \sigma^2`.

    Heads: the law of the data (`Exact`), or for the coin, step by step, their mean, as the chance
    that the last step was up is linear in them,

    .. math:: P(\xi_t = 1 \mid x_0, x_t) = \frac{1}{2} + \frac{x_t - x_0}{2 t \sigma}.

    Arguments:
        law: A law of finitely many equidistant points, such as `increments.Rademacher` or
            `increments.ThreePoint`; it is standardised.
        steps: T.
        size: :math:`\sigma`, the standard deviation of a step.

    Raises:
        ValueError: If the points are not equidistant, or a number is not positive.
        Unsolved: If the law has infinitely many points, or a density.

    Example:
        >>> import torch
        >>> from discdiff.increments import Rademacher
        >>> walk = LatticeWalk(Rademacher(), 4)
        >>> walk.marginal(torch.zeros(1, 1), 4).log_prob(torch.tensor([[2.0]])).exp()  # 4 / 16
        tensor([0.2500])
    """

    def __init__(self, law: Distribution, steps: int, size: float = 1.0) -> None:
        term = LatticeSteps(law, steps, size)
        super().__init__(Stepped(term), every(term.count))

    @property
    def steps(self) -> LatticeSteps:
        """The walk as a term in the number of the step."""
        return self.process.process  # type: ignore[union-attr,return-value]

    def __repr__(self) -> str:
        return f"LatticeWalk({self.steps.extra_repr()})"
