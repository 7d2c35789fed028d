"""Denoising diffusion probabilistic models and their cosine schedule."""

from __future__ import annotations

import torch

from ..clock import Cosine, Tabulated
from ..process import Process
from ..terms import Linear, Noise


def ddpm(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Process:
    r"""The chain of DDPM, as a diffusion that agrees with it at the times k / T.

    .. math:: x_k = \sqrt{1 - \beta_k}\, x_{k-1} + \sqrt{\beta_k}\, \varepsilon_k, \qquad
              \beta_k \text{ linear}, \qquad \Lambda(k / T) = -\sum_{j \le k} \log(1 - \beta_j)

    Its ancestral sampler with the posterior variance is ``sample(..., steps=T)``.

    Arguments:
        steps: T.
        first: :math:`\beta_1`.
        last: :math:`\beta_T`.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)

    Example:
        >>> ddpm().marginal(torch.ones(2), torch.tensor([0.5, 1.0])).mean
        tensor([0.2803, 0.0064])
    """
    beta = torch.linspace(first, last, steps, dtype=torch.float64)
    integral = torch.nn.functional.pad(-torch.log1p(-beta).cumsum(0), (1, 0))
    times = torch.arange(steps + 1, dtype=torch.float64) / steps
    return (Linear(-0.5) + Noise(1.0)).on(Tabulated(times, integral))


def cosine() -> Process:
    r"""The cosine schedule, :math:`x_t = \cos(\pi t / 2)\, x_0 + \sin(\pi t / 2)\, \varepsilon`.

    It is variance-preserving with :math:`\Lambda = -2 \log \cos(\pi t / 2)`, infinite at t = 1;
    and so also white noise on the clock :math:`\tan^2(\pi t / 2)`, scaled by the cosine. The
    paper's offset and clipping serve its discrete steps, and are left out.

    References:
        | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021)

    Example:
        >>> law = cosine().marginal(torch.ones(3), torch.tensor([0.0, 0.5, 1.0]))
        >>> law.mean, law.variance
        (tensor([1.0000, 0.7071, 0.0000]), tensor([0.0000, 0.5000, 1.0000]))
    """
    return (Linear(-0.5) + Noise(1.0)).on(Cosine())
