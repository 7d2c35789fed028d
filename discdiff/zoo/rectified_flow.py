"""The straight line from data to noise."""

from __future__ import annotations

from torch import Tensor

from ..clock import Odds
from ..process import Process
from ..terms import Noise


def rectified_flow() -> Process:
    r"""The straight line from data to noise, :math:`x_t = (1 - t) x_0 + t \varepsilon`.

    .. math:: x_t = (1 - t)\, y_t, \qquad dy = dW_\Lambda, \quad \Lambda = t^2 / (1 - t)^2

    At t = 1 the state is noise alone. Networks of this literature predict the velocity
    :math:`u = \mathbb{E}[\varepsilon - x_0 \mid x_t]`, which says the same as the mean,

    .. math:: \hat x_0 = x_t - t u, \qquad \hat\varepsilon = x_t + (1 - t) u,

    so their head is ``heads.Mean(lambda x, t: x - t[:, None] * net(x, t))`` for states (B, D).
    (``heads.Velocity`` is another quantity, :math:`(1 - t) \varepsilon - t x_0`.) Euler's step of
    the flow, :math:`x_s = x_t - (t - s) u`, is ``steppers.Ancestral(eta=0.0)``; its loss
    :math:`\|\hat u - u\|^2` is the path-KL's integrand times :math:`t / (1 - t)`, as
    :math:`\hat u - u = (x_0 - \hat x_0) / t`.

    References:
        | Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow (Liu
          et al., 2023)
        | Flow Matching for Generative Modeling (Lipman et al., 2023)

    Example:
        >>> import torch
        >>> law = rectified_flow().marginal(torch.full((2,), 3.0), torch.tensor([0.25, 1.0]))
        >>> law.mean.round(decimals=6), law.variance.sqrt()
        (tensor([2.2500, 0.0000]), tensor([0.2500, 1.0000]))
    """
    return Noise(1.0).on(Odds(2.0)).scaled(shrinking)


def shrinking(t: Tensor) -> Tensor:
    r""":math:`\alpha(t) = 1 - t`."""
    return 1 - t
