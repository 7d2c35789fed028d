r"""Cumulants: from moments, and the numbers that closed forms of them are made of."""

from __future__ import annotations

import math

import torch

from ..numerics.transcendental import zeta


def orders(order: int) -> range:
    """1, …, n."""
    return range(1, order + 1)


def zeta_at(n: int) -> float:
    r""":math:`\zeta(n)`, n > 1."""
    return float(zeta(torch.tensor(float(n), dtype=torch.float64)))


def bernoulli(n: int) -> float:
    r""":math:`B_n` with :math:`B_1 = 0`, by :math:`2 n! \zeta(n) / (2\pi)^n` for even n."""
    if n % 2:
        return 0.0
    sign = -1.0 if n % 4 == 0 else 1.0
    return sign * 2 * math.factorial(n) * zeta_at(n) / (2 * math.pi) ** n


def cumulants_from(moments: list[float]) -> list[float]:
    """Cumulants from raw moments: m_n = Σ_k C(n−1, k−1) κ_k m_{n−k}."""
    m, cumulants = [1.0, *moments], [0.0]
    for n in range(1, len(m)):
        rest = (math.comb(n - 1, k - 1) * cumulants[k] * m[n - k] for k in range(1, n))
        cumulants.append(m[n] - math.fsum(rest))
    return cumulants[1:]
