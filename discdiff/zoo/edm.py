"""White noise whose standard deviation is the time."""

from __future__ import annotations

from ..clock import Power
from ..process import Process
from ..terms import Noise


def edm(sigma_max: float = 80.0) -> Process:
    r"""White noise of standard deviation :math:`\sigma(t) = \sigma_{\max} t`.

    .. math:: x_t = x_0 + \sigma_{\max} t\, \varepsilon

    The paper's time is :math:`\sigma` itself, here counted in units of the largest. Its
    probability flow in that time is :math:`dx / d\sigma = \hat\varepsilon`, and
    ``Ancestral(eta=0.0)`` takes Euler's steps along it. Its preconditioning of the network is
    `dd.nn.Standardise`.

    Arguments:
        sigma_max: The standard deviation at t = 1.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)

    Example:
        >>> import torch
        >>> edm().marginal(torch.zeros(2), torch.tensor([0.025, 1.0])).variance.sqrt()
        tensor([ 2., 80.])
    """
    return Noise(1.0).on(Power(sigma_max, 2.0))
