"""Blackout diffusion: counts that die out."""

from __future__ import annotations

from ..clock import Clock, Logistic
from ..process import Process
from ..terms import Death


def blackout(clock: Clock | None = None) -> Process:
    r"""Pure death: every unit of brightness dies by itself.

    .. math:: x_t \mid x_0 \sim \operatorname{Binomial}(x_0, e^{-\Lambda})

    Arguments:
        clock: :math:`e^{-\Lambda}` uniform in its logit from 15 to −15 by default, as the paper's
            observation times are.

    References:
        | Blackout Diffusion: Generative Diffusion Models in Discrete-State Spaces (Santos et al.,
          2023)

    Example:
        >>> import torch
        >>> blackout().marginal(torch.full((3,), 255.0), torch.tensor([0.1, 0.5, 1.0])).mean
        tensor([254.9985, 127.5000,   0.0000])
    """
    return Death().on(clock or Logistic(15.0))
