r"""Sums of waves, :math:`\sum_j w_j e^{i u x_j}`, at many frequencies.

On equidistant frequencies :math:`u = (a B + b) h` each wave is a product of one of about
:math:`\sqrt n` coarse and one of as many fine ones, so that the sums are a matrix product, in
pieces that stay in a processor's cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PIECE = 1 << 16  # numbers at a time
FEW = 64  # frequencies that are summed one by one


def waves(u: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    r""":math:`\sum_j w_j e^{i u x_j}`, complex128.

    Arguments:
        u: Frequencies (n,), float64.
        x: Points (m,), float64.
        weights: One for each, real or complex.

    Example:
        >>> u = torch.linspace(0.0, 9.0, 200).double()
        >>> x, w = torch.tensor([-1.0, 1.0]).double(), torch.tensor([0.5, 0.5]).double()
        >>> torch.allclose(waves(u, x, w).real, u.cos(), rtol=0, atol=1e-14)
        True
    """
    if len(u) > FEW and _equidistant(u):
        return _ladder(len(u), float(u[-1]) / (len(u) - 1), x, weights)
    rows = max(1, PIECE // len(x))
    return torch.cat([_each(part, x, weights) for part in u.split(rows)])


def _each(u: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return _turned(u, x) @ weights.to(torch.complex128)


def _equidistant(u: Tensor) -> bool:
    """Whether they are 0, h, 2h, … but for rounding."""
    ideal = torch.linspace(0.0, float(u[-1]), len(u), dtype=torch.float64)
    return bool(((u - ideal).abs() <= 1e-15 * ideal[-1]).all())


def _ladder(count: int, h: float, x: Tensor, weights: Tensor) -> Tensor:
    """At 0, h, 2h, …."""
    fine = math.isqrt(count - 1) + 1
    low = h * torch.arange(fine, dtype=torch.float64)
    high = fine * h * torch.arange(-(-count // fine), dtype=torch.float64)
    total = torch.zeros(len(high), fine, dtype=torch.complex128)
    size = max(1, PIECE // fine)
    for at, w in zip(x.split(size), weights.split(size), strict=True):
        total += (_turned(high, at) * w) @ _turned(low, at).T
    return total.flatten()[:count]


def _turned(u: Tensor, x: Tensor) -> Tensor:
    turn = u.unsqueeze(-1) * x
    return torch.complex(turn.cos(), turn.sin())
