"""Draws inside an objective: their precision, and the gradient that they hide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .laws import hidden_log_prob
from .process import Process, first_tensor

State = Any


def full_precision(x_0: State) -> torch.autocast:
    """The mode in which the mathematics of processes runs, whatever the network's."""
    return torch.autocast(first_tensor(x_0).device.type, enabled=False)


def learns(process: Process) -> bool:
    """Whether a declared number requires grad."""
    held = (v for m in process.modules() for v in (*m._parameters.values(), *m._buffers.values()))
    return any(v is not None and v.requires_grad for v in held)


def with_draw(process: Process, law: Distribution, x: State, value: Tensor) -> Tensor:
    r"""A value (B,) at a `draw` x of a law, with the gradient of the law as well.

    With q the law of what carries no gradient in x,

    .. math:: \nabla \mathbb{E}[v] = \mathbb{E}[\nabla v + (v - \bar v)\, \nabla \log q(x)],

    so a term of value zero is added. The baseline :math:`\bar v` of each batch element is the
    mean of the others, so that it is independent.
    """
    if not torch.is_grad_enabled() or not learns(process):
        return value
    log_prob = hidden_log_prob(law, x)
    if log_prob is None:
        return value
    fixed, count = value.detach(), value.shape[0]
    gap = fixed - (fixed.sum() - fixed) / max(count - 1, 1)
    gap = torch.where(gap.isfinite(), gap, torch.zeros_like(gap))  # an infinite value stays one
    return value + (log_prob - log_prob.detach()) * gap
