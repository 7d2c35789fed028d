"""Walks whose noise has heavy tails."""

from __future__ import annotations

from torch import Tensor

from ..walks import StableWalk, linear_betas


def dlpm(alpha: float = 1.7, betas: Tensor | list[float] | None = None) -> StableWalk:
    r"""Denoising Lévy probabilistic models: DDPM with symmetric α-stable noise.

    .. math:: x_k \mid x_0 \sim \bar\alpha_k^{1/\alpha} x_0
              + (1 - \bar\alpha_k)^{1/\alpha} \varepsilon, \qquad
              \mathbb{E} e^{iu\varepsilon} = e^{-|u|^\alpha}

    A run of the paper draws the latent variances first, and then steps normally given them:
    ``walk.mixed(walk.mixing(shape))`` is that chain. With the data's shape each coordinate has
    variances of its own; with (B, 1, …, 1) all of a datum share theirs, and the noise is
    isotropic, as the paper's is by default.

    Arguments:
        alpha: α, in (1, 2] for noise that has a mean.
        betas: :math:`\beta_1 \dots \beta_T`; DDPM's 1000 by default.

    References:
        | Denoising Lévy Probabilistic Models (Shariatian et al., 2025)

    Example:
        >>> import torch
        >>> walk = dlpm()
        >>> walk.mixed(walk.mixing((3,))).marginal(torch.zeros(2, 3), 1000).mean
        tensor([[0., 0., 0.],
                [0., 0., 0.]])
    """
    return StableWalk(alpha, linear_betas(1000) if betas is None else betas)
