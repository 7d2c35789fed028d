"""Uniform diffusion language models."""

from __future__ import annotations

from ..clock import Clock, LogLinear
from ..process import Process
from .d3pm import d3pm_uniform


def udlm(size: int, clock: Clock | None = None) -> Process:
    r"""Uniform diffusion in continuous time: a token is itself with chance 1 − t, else uniform.

    Its bound learns ``heads.LeaveOneOut``: what the other tokens say of one.

    Arguments:
        size: The number of tokens.
        clock: Survival 1 − t by default.

    References:
        | Simple Guidance Mechanisms for Discrete Diffusion Models (Schiff et al., 2025)

    Example:
        >>> import torch
        >>> udlm(4).marginal(torch.tensor([0]), 0.8).probs
        tensor([[0.4000, 0.2000, 0.2000, 0.2000]])
    """
    return d3pm_uniform(size, clock or LogLinear())
