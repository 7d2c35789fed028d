"""Walks of gamma noise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Gamma

from ..walks import LevyWalk, linear_betas


def ddgm(theta: float = 1e-3, betas: Tensor | list[float] | None = None) -> LevyWalk:
    r"""Denoising diffusion gamma models: a gamma process on a clock, centred.

    .. math:: x_k = \sqrt{\bar\alpha_k}\, x_0 + g_k - \mathbb{E} g_k, \qquad
              g_k \sim \mathrm{Gamma}\Big(\text{shape } \frac{1 - \bar\alpha_k}
              {\bar\alpha_k \theta^2},\; \text{scale } \sqrt{\bar\alpha_k}\, \theta \Big)

    The noise has variance :math:`1 - \bar\alpha_k`; its skewness, :math:`2 \theta \sqrt{
    \bar\alpha_k / (1 - \bar\alpha_k)}`, is small at the paper's θ. Steps are the exact ones, by
    shares of Beta law.

    Arguments:
        theta: :math:`\theta_0 > 0`.
        betas: :math:`\beta_1 \dots \beta_T`; DDPM's 1000 by default, as in the paper.

    References:
        | Denoising Diffusion Gamma Models (Nachmani et al., 2021)

    Example:
        >>> ddgm().marginal(torch.ones(1, 1), 500).variance
        tensor([[0.9214]])
    """
    law = Gamma(torch.tensor(float(theta) ** -2, dtype=torch.float64), 1.0)
    return LevyWalk(law, linear_betas(1000) if betas is None else betas)
