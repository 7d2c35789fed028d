"""Denoising diffusion probabilistic models and their cosine schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from ..clock import Cosine, Tabulated
from ..params import as_numbers
from ..process import Chain, Process
from ..terms import Linear, Noise
from ..validation import require, shown


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
    return ddpm_chain(torch.linspace(first, last, steps, dtype=torch.float64)).process


def ddpm_chain(betas: Tensor | list[float]) -> Chain:
    r"""The chain of DDPM for any variances: index k has :math:`\beta_k`, index 0 is the data.

    .. math:: x_k = \sqrt{1 - \beta_k}\, x_{k-1} + \sqrt{\beta_k}\, \varepsilon_k, \qquad
              x_k \mid x_0 \sim \mathcal{N}(\sqrt{\bar\alpha_k}\, x_0, 1 - \bar\alpha_k), \qquad
              \bar\alpha_k = \prod_{j \le k} (1 - \beta_j)

    It is a variance-preserving diffusion, ``ddpm_chain(betas).process``, at the times k / T of the
    clock :math:`\Lambda(k / T) = -\log \bar\alpha_k`, which is linear between them.

    Arguments:
        betas: :math:`\beta_1 … \beta_T`, in (0, 1).

    Raises:
        ValueError: If they are no vector of numbers in (0, 1).

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | Lecture Notes in Probabilistic Diffusion Models (Strümke & Langseth, 2023)

    Example:
        >>> chain = ddpm_chain([0.1, 0.2, 0.5])
        >>> chain.marginal(torch.ones(1), 2).variance  # 1 - 0.9 · 0.8
        tensor([0.2800])
    """
    beta = as_numbers(betas, "betas")
    inside = beta.dim() == 1 and len(beta) > 0 and bool(((beta > 0) & (beta < 1)).all())
    require(inside, f"betas must be a vector of numbers in (0, 1); they are {shown(beta, 8)}")
    integral = torch.nn.functional.pad(-torch.log1p(-beta).cumsum(0), (1, 0))
    times = torch.arange(len(beta) + 1, dtype=torch.float64) / len(beta)
    return (Linear(-0.5) + Noise(1.0)).on(Tabulated(times, integral)).at(times[1:])


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
