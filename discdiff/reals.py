r"""Integers as reals: dequantisation, maps of the unit interval, bits per dimension.

For integers :math:`k < K` and u uniform on [0, 1), a density p of :math:`x = (k + u) / K` gives

.. math::
    P(k) = \int_0^1 p\big((k + u) / K\big) \frac{du}{K}, \qquad
    \log P(k) \ge \mathbb{E}_u \log p(x) - \log K,

entry by entry. The density may be that of a process on all reals, pushed to the unit interval by a
map of this file; `elbo` and `log_prob` of a pushed process count the Jacobian. For a lift, whose
state is more than the data, map the data themselves: a bound on :math:`\log p(x)` is that of
:math:`y = T^{-1}(x)` less ``T.log_abs_det_jacobian(y, x)``, summed over entries.

References:
    | A note on the evaluation of generative models (Theis et al., 2016)
    | Masked autoregressive flow for density estimation (Papamakarios et al., 2017)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import AffineTransform, Transform
from torch.nn.functional import logsigmoid

from .validation import require


def dequantise(values: Tensor, levels: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    r"""Integers below K with uniform noise, on [low, high): :math:`(k + u) / K` by default.

    Arguments:
        values: Integers from 0 to K − 1, any shape.
        levels: K.
        low: Where the interval starts.
        high: Where it ends.

    Example:
        >>> x = dequantise(torch.arange(4), 4)
        >>> quantise(x, 4)
        tensor([0, 1, 2, 3])
    """
    noise = torch.rand(values.shape, device=values.device)
    return (high - low) * (values + noise) / levels + low


def quantise(x: Tensor, levels: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The integers below K for which reals stand; the nearest of them for reals beyond the ends.

    Example:
        >>> quantise(torch.tensor([-0.1, 0.3, 1.0]), 4)
        tensor([0, 1, 3])
    """
    return ((x - low) / (high - low) * levels).floor().long().clamp(0, levels - 1)


def centring() -> Transform:
    """The map of [−1, 1] to the unit interval.

    Example:
        >>> centring().inv(torch.tensor([0.0, 0.75]))
        tensor([-1.0000,  0.5000])
    """
    return AffineTransform(0.5, 0.5)


class Logistic(Transform):
    r"""The map :math:`x = (\sigma(y) - a) / (1 - 2 a)` of the reals onto a bit more than [0, 1].

    Its inverse is the logit transform: :math:`y = \operatorname{logit}(a + (1 - 2 a) x)` is
    finite at both ends of the interval.

    Arguments:
        margin: a, between 0 and 1/2.

    Raises:
        ValueError: If the margin lies elsewhere.

    Example:
        >>> Logistic().inv(torch.tensor([0.0, 0.5, 1.0]))
        tensor([-2.9444,  0.0000,  2.9444])
    """

    domain = constraints.real
    bijective = True
    sign = +1  # type: ignore[assignment]

    def __init__(self, margin: float = 0.05) -> None:
        require(0 < margin < 0.5, f"the margin must lie in (0, 1/2); it is {margin}")
        super().__init__()
        self.margin, self.width = margin, 1 - 2 * margin

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        beyond = self.margin / self.width
        return constraints.interval(-beyond, 1 + beyond)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Logistic) and other.margin == self.margin

    def _call(self, y: Tensor) -> Tensor:
        return (y.sigmoid() - self.margin) / self.width

    def _inverse(self, x: Tensor) -> Tensor:
        return (self.margin + self.width * x).logit()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return logsigmoid(x) + logsigmoid(-x) - math.log(self.width)

    def __repr__(self) -> str:
        return f"Logistic({self.margin:g})"


def log_width(levels: int, entries: int, low: float = 0.0, high: float = 1.0) -> float:
    """What the log-density of reals lacks to the log-probability of the integers, in nats."""
    return entries * math.log((high - low) / levels)


def bits_per_dim(
    log_density: Tensor, levels: int, entries: int, low: float = 0.0, high: float = 1.0
) -> Tensor:
    r"""The bits per entry that a model needs for integers, from its log-density of the reals.

    Arguments:
        log_density: In nats, of dequantised items: what `elbo` and `log_prob` return.
        levels: K.
        entries: Number of entries of an item.
        low: Where the interval of the reals starts.
        high: Where it ends.

    Example:
        >>> bits_per_dim(torch.zeros(1), 256, 784)  # a uniform density
        tensor([8.])
    """
    return -(log_density + log_width(levels, entries, low, high)) / (entries * math.log(2))
