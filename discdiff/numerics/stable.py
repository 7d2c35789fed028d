r"""The density of symmetric stable laws, :math:`\varphi(u) = e^{-|u|^\alpha}`, as tables.

For x ≥ 0 the path of the inverse transform is turned into the lower half plane, where both
factors decay without more than a few oscillations, whatever x:

.. math::
    f(x) = \frac{1}{\pi} \Re \int_0^\infty e^{-i u x} e^{-u^\alpha}\, du
         = \frac{1}{\pi} \Re \int_0^\infty e^{-i u x} (e^{-u^\alpha} - 1)\, du, \qquad
    u = e^{v - i \theta}.

The second form keeps its relative accuracy in the tail, :math:`f \sim x^{-1-\alpha}`; the first is
for x < 1. Both are trapezoidal rules in v, which converge exponentially. The logarithm of f is
held with two derivatives on equidistant points of :math:`z = \operatorname{arsinh}(x / w)`, where
:math:`w^2 = -f(0) / f''(0) = \Gamma(1/\alpha) / \Gamma(3/\alpha)`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

LAST, STEP = 36.0, 0.0125  # of the table, in z
DEPTH = 25.0  # how far the smallest node lies below 1 / x, in logarithms
DECAY = 40.0  # where exponentials have decayed
DIGITS = 36.0  # −log of the error of the trapezoidal rule


def width(alpha: float) -> float:
    """w, the width of the peak."""
    return math.exp((math.lgamma(1 / alpha) - math.lgamma(3 / alpha)) / 2)


@lru_cache(maxsize=32)
def log_density_table(alpha: float) -> Tensor:
    r""":math:`\log f` and its two first derivatives in z = arsinh(x / w) at 0, `STEP`, … , (3, n).

    Arguments:
        alpha: α, in (0, 2).

    Example:
        >>> log_density_table(1.0)[0, 0].exp()  # 1 / π
        tensor(0.3183, dtype=torch.float64)
    """
    z = torch.arange(0.0, LAST, STEP, dtype=torch.float64)
    x, slope = width(alpha) * z.sinh(), width(alpha) * z.cosh()
    f, g, c = torch.cat([_densities(alpha, part) for part in x.split(256)], 1)
    rate = g / f
    return torch.stack([f.log(), rate * slope, (c / f - rate**2) * slope**2 + rate * x])


def _densities(alpha: float, x: Tensor) -> Tensor:
    """f, f' and f'' at x ≥ 0, shape (3, n)."""
    angle = min(math.pi / 4, math.pi / (4 * alpha))
    high = max(
        math.log(DECAY / math.cos(alpha * angle)) / alpha, math.log(DECAY / math.sin(angle))
    )
    count = int((high + LAST + DEPTH) * DIGITS / (2 * math.pi * angle))
    v = torch.linspace(-LAST - DEPTH, high, count, dtype=torch.float64)
    log_u = torch.complex(v, torch.full_like(v, -angle))
    u, power = log_u.exp(), (alpha * log_u).exp()
    near, far = (-power).exp(), torch.expm1(-power)
    waves = (-1j * x.unsqueeze(1) * u).exp() * (u * (v[1] - v[0]) / math.pi)
    kinds = torch.where((x < 1).unsqueeze(1), near, far) * waves
    return torch.stack([(kinds * (-1j * u) ** k).sum(1).real for k in range(3)])
