"""Draws inside an objective: their precision, and the gradient that they hide."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .laws import hidden_log_prob
from .process import Process, first_tensor

State = Any
OFF: AbstractContextManager[Any] = nullcontext()


def full_precision(x_0: State) -> AbstractContextManager[Any]:
    """The mode in which the mathematics of processes runs, whatever the network's."""
    device = first_tensor(x_0).device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else OFF


def learns(process: Process) -> bool:
    """Whether a declared number requires grad."""
    modules: list[Any] = [process]
    for module in modules:
        for number in (*module._parameters.values(), *module._buffers.values()):
            if number is not None and number.requires_grad:
                return True
        modules.extend(module._modules.values())
    return False


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
