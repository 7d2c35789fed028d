r"""Inverses of increasing functions, differentiable.

.. math:: f(x) = y, \qquad \frac{\partial x}{\partial y} = \frac{1}{f'(x)}
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .autodiff import slope


def increasing_inverse(
    f: Callable[[Tensor], Tensor], y: Tensor, domain: tuple[float, float]
) -> Tensor:
    r"""The x with f(x) = y, for an increasing f on an open interval that contains 0.

    Bisection on a scale that is fine near 0 and near both ends, then Newton's steps. The last
    of them is differentiable, so that the gradient is :math:`1 / f'(x)`.

    Example:
        >>> increasing_inverse(torch.sinh, torch.tensor([0.0, 2.0]).double(), (-9.0, 9.0))
        tensor([0.0000, 1.4436], dtype=torch.float64)
    """
    low, high = domain
    with torch.no_grad():
        left, right = torch.full_like(y, -36.0), torch.full_like(y, 36.0)
        for _ in range(40):
            middle = (left + right) / 2
            below = f(_stretched(middle, low, high)) < y
            left, right = torch.where(below, middle, left), torch.where(below, right, middle)
        x = _stretched((left + right) / 2, low, high)
        for _ in range(2):
            better = x - (f(x) - y) / slope(f, x)
            inside = (better > low) & (better < high)
            x = torch.where(inside, better, x)
    if not y.requires_grad:
        return x
    return x - (f(x).detach() - y) / slope(f, x).detach()


def _stretched(v: Tensor, low: float, high: float) -> Tensor:
    """An increasing map of the reals onto an interval, with 0 at 0."""
    above = torch.sinh(v) if math.isinf(high) else -high * torch.expm1(-v.clamp(min=0))
    under = torch.sinh(v) if math.isinf(low) else -low * torch.expm1(v.clamp(max=0))
    return torch.where(v > 0, above, under)
