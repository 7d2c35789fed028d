r"""Logarithms of real characteristic functions, whose phase is 0 or π."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..numerics.transcendental import log_sinc


def real_log(log: Tensor) -> Tensor:
    """A logarithm of phase 0, as a complex number."""
    return torch.complex(log, torch.zeros_like(log))


def signed_log(log: Tensor, value: Tensor) -> Tensor:
    """The logarithm of a real number of this modulus and sign."""
    half_turn = torch.full_like(log, math.pi)
    return torch.complex(log, torch.where(value < 0, half_turn, torch.zeros_like(log)))


def log_signed_sinc(z: Tensor) -> Tensor:
    """log(sin z / z) for real z of any size."""
    small = z.abs() < 1
    far = torch.where(small, torch.ones_like(z), z)
    value = far.sin() / far
    near = log_sinc(torch.where(small, z, torch.zeros_like(z)))
    return signed_log(torch.where(small, near, value.abs().log()), value)
