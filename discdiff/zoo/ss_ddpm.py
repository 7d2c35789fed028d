"""Noisy states that are independent given the data."""

from __future__ import annotations

import math

import torch

from ..star import BetaStar, StarChain
from ..validation import require


def ss_ddpm(
    steps: int = 1000, first: float = 300.0, last: float = 3.0, center: float = 0.5
) -> StarChain:
    r"""Star-shaped diffusion of Beta states, for data in [0, 1].

    .. math:: x_k \mid x_0 \sim \mathrm{Beta}(\nu_k \mu_k, \nu_k (1 - \mu_k)), \qquad
              \mu_k = \tfrac{1}{2} \xi_k + (1 - \xi_k) x_0, \qquad
              G_k = \sum_{i \ge k} \nu_i (1 - \xi_i) \operatorname{logit} x_i

    The chain is that of the statistics :math:`G_k`, from which the network says the data; other
    schedules and normal states are `star.StarChain`'s.

    Arguments:
        steps: T.
        first, last: :math:`\nu_1 > \nu_T > 0`, falling in equal ratios, with
            :math:`\xi_k = k / (T + 1)`. They are ours: the paper fits its schedule to that of
            DDPM.
        center: The datum from whose law at the last step runs start: the mean of the data.

    References:
        | Star-Shaped Denoising Diffusion Probabilistic Models (Okhotin et al., 2023)

    Example:
        >>> ss_ddpm(10).marginal(torch.full((1, 1), 0.5), 1).mean
        tensor([[0.]])
    """
    require(first > last > 0, f"first > last > 0 is the rule; they are {first}, {last}")
    mixed = torch.arange(1, steps + 1, dtype=torch.float64) / (steps + 1)
    high, low = math.log(first), math.log(last)
    concentrations = torch.linspace(high, low, steps, dtype=torch.float64).exp()
    return StarChain(BetaStar(mixed, concentrations, center))
