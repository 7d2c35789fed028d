r"""Functions less the first terms of their series, accurate at small arguments."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .transcendental import horner


def cos_less(v: Tensor) -> Tensor:
    """cos v − 1, accurate at small v."""
    return -2 * (v / 2).sin() ** 2


def sin_less(v: Tensor) -> Tensor:
    """sin v − v, accurate at small v."""
    small = v.abs() < 0.3
    near = torch.where(small, v, 0.0)
    series = near**3 * horner(
        tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(1, 9)), near**2
    )
    return torch.where(small, series, v.sin() - v)


def atan_less(v: Tensor) -> Tensor:
    """atan v − v, accurate at small v."""
    small = v.abs() < 0.1
    near, far = torch.where(small, v, 0.0), torch.where(small, 1.0, v)
    series = torch.zeros_like(v)
    for n in range(19, 1, -2):
        series = (series + (-1) ** (n // 2) / n) * near**2
    return torch.where(small, series * near, torch.atan(far) - far)


def expm1_less(v: Tensor) -> Tensor:
    """e^v − 1 − v, accurate at small v."""
    small = v.abs() < 0.3
    near, far = torch.where(small, v, 0.0), torch.where(small, 1.0, v)
    series = near**2 * horner(tuple(1 / math.factorial(k) for k in range(2, 18)), near)
    return torch.where(small, series, torch.expm1(far) - far)


def log1m_less(v: Tensor) -> Tensor:
    """−log(1 − v) − v for v < 1, accurate at small v."""
    small = v.abs() < 0.1
    near, far = torch.where(small, v, 0.0), torch.where(small, -1.0, v)
    series = torch.zeros_like(v)
    for n in range(18, 1, -1):
        series = (series + 1 / n) * near
    return torch.where(small, series * near, -torch.log1p(-far) - far)
