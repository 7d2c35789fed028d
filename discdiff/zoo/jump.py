"""Counts that are thinned from a Poisson law of the data."""

from __future__ import annotations

from ..clock import Clock, LogLinear
from ..process import Process
from ..terms import Death


def jump(clock: Clock | None = None) -> Process:
    r"""Learning to jump: counts whose mean is the data, thinned by a clock.

    .. math:: z_0 \mid x \sim \operatorname{Poisson}(\lambda x), \qquad
              z_t \mid z_0 \sim \operatorname{Binomial}(z_0, e^{-\Lambda}), \qquad
              z_t \mid x \sim \operatorname{Poisson}(\lambda e^{-\Lambda} x)

    This is the death process of the counts :math:`z_0`; to go from non-negative data x to counts
    draw ``torch.poisson(rate * x)``, and divide by the rate to come back. Given x the step back
    adds :math:`\operatorname{Poisson}(\lambda (e^{-\Lambda(s)} - e^{-\Lambda(t)}) x)`, which
    is the step of `dd.heads.Missing` at the mean :math:`\lambda (1 - e^{-\Lambda(t)}) x`; the
    loss is the paper's relative entropy.

    Arguments:
        clock: :math:`e^{-\Lambda} = 1 - t` by default.

    References:
        | Learning to Jump: Thinning and Thickening Latent Counts for Generative Modeling (Chen &
          Zhou, 2023)

    Example:
        >>> import torch
        >>> jump().marginal(torch.full((2,), 100.0), torch.tensor([0.1, 0.5])).mean
        tensor([90., 50.])
    """
    return Death().on(clock or LogLinear())
