"""Structured discrete diffusion: uniform and absorbing replacement.

The papers' chain of T steps is ``process.at(torch.arange(1, T + 1) / T)``, and its bound
``dd.vlb(chain, head, x_0)``. What their network predicts enters the step as a leave-one-out law:
``heads.LeaveOneOut``; under masking that is the posterior of the masked tokens.
"""

from __future__ import annotations

import torch

from ..clock import Clock, Cosine, LogLinear
from ..process import Process
from ..terms import Replace, one_hot


def d3pm_uniform(size: int, clock: Clock | None = None) -> Process:
    r"""Categories that are redrawn uniformly.

    .. math:: p(x_t \mid x_s) = e^{-(\Lambda_t - \Lambda_s)}\, [x_t = x_s]
              + (1 - e^{-(\Lambda_t - \Lambda_s)}) / K

    Arguments:
        size: The number K of categories.
        clock: The paper's for text by default, :math:`e^{-\Lambda} = \cos^2(\pi t / 2)`.

    References:
        | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021)

    Example:
        >>> d3pm_uniform(4).marginal(torch.tensor([0]), 0.5).probs
        tensor([[0.6250, 0.1250, 0.1250, 0.1250]])
    """
    return Replace(torch.full((size,), 1 / size, dtype=torch.float64)).on(clock or Cosine())


def d3pm_absorbing(size: int, mask: int, clock: Clock | None = None) -> Process:
    r"""Categories that are masked, once and for ever.

    With T steps the paper masks with probability 1 / (T − k + 1) in step k, so that the share
    :math:`e^{-\Lambda} = 1 - t` of all is unmasked at t = k / T.

    Arguments:
        size: The number of categories, the mask included.
        mask: The index of the mask.
        clock: Survival 1 − t by default.

    References:
        | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021)

    Example:
        >>> d3pm_absorbing(4, mask=3).marginal(torch.tensor([0]), 0.25).probs
        tensor([[0.7500, 0.0000, 0.0000, 0.2500]])
    """
    return Replace(one_hot(mask, size)).on(clock or LogLinear())
