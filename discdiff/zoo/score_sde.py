"""The three diffusions of the score-based framework in continuous time."""

from __future__ import annotations

import torch
from torch import Tensor

from ..clock import Clock, Geometric
from ..clock import Linear as Ramp
from ..process import Process
from ..terms import Linear, Noise


def vp(clock: Clock | None = None) -> Process:
    r"""The variance-preserving diffusion.

    .. math:: dx = -\tfrac12 \beta x\, dt + \sqrt{\beta}\, dW, \qquad
              x_t \mid x_0 \sim \mathcal{N}(e^{-B/2} x_0, 1 - e^{-B}), \quad B = \int_0^t \beta

    Arguments:
        clock: :math:`B(t)`; :math:`\beta` linear from 0.1 to 20 by default.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al.,
          2021)

    Example:
        >>> law = vp().marginal(torch.ones(1), 0.5)
        >>> law.mean, law.variance
        (tensor([0.2812]), tensor([0.9209]))
    """
    return (Linear(-0.5) + Noise(1.0)).on(clock or Ramp(0.1, 20.0))


def sub_vp(clock: Clock | None = None) -> Process:
    r"""The sub-variance-preserving diffusion: as `vp`, with less noise at small times.

    .. math:: dx = -\tfrac12 \beta x\, dt + \sqrt{\beta (1 - e^{-2B})}\, dW, \qquad
              x_t \mid x_0 \sim \mathcal{N}(e^{-B/2} x_0, (1 - e^{-B})^2)

    In the own time B the noise is a function of time, and the clock that of `vp`; its end must be
    finite.

    Arguments:
        clock: :math:`B(t)`; :math:`\beta` linear from 0.1 to 20 by default.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al.,
          2021)

    Example:
        >>> (sub_vp().marginal(torch.ones(1), 0.1).variance
        ...     / vp().marginal(torch.ones(1), 0.1).variance)  # 1 - e^{-B}
        tensor([0.1037])
    """
    return (Linear(-0.5) + Noise(_lagging)).on(clock or Ramp(0.1, 20.0))


def _lagging(u: Tensor) -> Tensor:
    return (-torch.expm1(-2 * u)).sqrt()


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    r"""The variance-exploding diffusion.

    .. math:: x_t \mid x_0 \sim \mathcal{N}(x_0, \sigma(t)^2 - \sigma_{\min}^2), \qquad
              \sigma(t) = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^t

    This is the law of the paper's SDE. The published code takes the variance :math:`\sigma(t)^2`,
    which at t = 0 is not zero: there, data are noisy by :math:`\sigma_{\min}` from the start.

    Arguments:
        sigma_min: :math:`\sigma(0)`.
        sigma_max: :math:`\sigma(1)`.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al.,
          2021)

    Example:
        >>> ve().marginal(torch.ones(3), torch.tensor([0.0, 0.5, 1.0])).variance.sqrt()
        tensor([ 0.0000,  0.7070, 50.0000])
    """
    return Noise(1.0).on(Geometric(sigma_min, sigma_max))
