r"""Numbers of an increment that have no closed form: found by search and by sums over grids."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..numerics.waves import waves
from .base import Increment


def reach_of(law: Increment) -> float:
    """Chernoff's bound: P(±ξ > r) ≤ exp(K(±e) − er) < e^{−40}/2 for every e."""
    reach = 0.0
    for end, sign in ((law.domain[1], 1.0), (-law.domain[0], -1.0)):
        e = torch.logspace(-3, 3, 400, dtype=torch.float64)
        e = end * (1 - 1 / (1 + e)) if math.isfinite(end) else e
        reach = max(reach, float(((law.cgf(sign * e) + 41) / e).min()))
    return reach


def radius_of(law: Increment) -> float:
    r"""A lower bound: :math:`|\varphi(z) - 1| \le e^{K(|z|)} - 1 < 1` in the disc, so φ ≠ 0.

    For symmetric laws; for others both signs are taken.
    """
    low, high = 0.0, min(law.domain[1], 64.0)
    for _ in range(60):
        middle = (low + high) / 2
        both = torch.tensor([middle, -middle], dtype=torch.float64)
        below = float((law.cgf(both).exp() - 1).sum()) < 1
        low, high = (middle, high) if below else (low, middle)
    return low


def fisher_of(log_density: Callable[[Tensor], Tensor], nodes: Tensor, weights: Tensor) -> float:
    """The mean square of the score, at nodes of positive weight."""
    with torch.enable_grad():
        x = nodes[weights > 0].detach().requires_grad_()
        (score,) = torch.autograd.grad(log_density(x).sum(), x)
    return float(weights[weights > 0] @ score**2)


def entropy_and_fisher(law: Increment, narrowest: float) -> tuple[float, float]:
    """Of a density that holds normal laws of this width: by sums over grids of x and u."""
    step = math.pi / law.reach  # the sum over u repeats f with a period of twice the reach
    u = step * torch.arange(1, 2 + int(9 / (narrowest * step)), dtype=torch.float64)
    count = int(8 * law.reach / narrowest)
    x = torch.linspace(0.0, 2 * law.reach, 2 * count + 1, dtype=torch.float64)  # from −reach on
    signs = 1.0 - 2.0 * (torch.arange(1, len(u) + 1) % 2)  # e^{−i u reach}
    weights = law.cf(u).conj() * signs * step / math.pi
    f = waves(x, u, weights).real + step / (2 * math.pi)
    slope = waves(x, u, 1j * u * weights).real
    seen = f > 1e-13  # f is a sum of numbers of size 1, so below that it is rounding
    f, slope, width = f[seen], slope[seen], law.reach / count
    return -float((f * f.log()).sum()) * width, float((slope**2 / f).sum()) * width
