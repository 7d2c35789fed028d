"""Numbers in an interval, multiplied by Beta variables."""

from __future__ import annotations

import torch
from torch import Tensor

from ..beta_chain import BetaChain


def beta_diffusion(
    steps: int = 200,
    concentration: float = 1e4,
    kept: Tensor | list[float] | None = None,
    center: float = 0.8,
) -> BetaChain:
    r"""Beta diffusion: the data shrink, and lie in (0, 1) at all times.

    .. math:: z_t \mid x_0 \sim \mathrm{Beta}(\eta \alpha_t x_0, \eta (1 - \alpha_t x_0)), \qquad
              z_s = z_t + (1 - z_t)\, p, \quad p \mid x_0 \sim \mathrm{Beta}(\eta (\alpha_s -
              \alpha_t) x_0, \eta (1 - \alpha_s x_0))

    The paper scales its data to [0.6, 0.99]. Its training loss is the divergence of the step with
    the arguments swapped; the bound on the likelihood is `vlb`.

    Arguments:
        steps: T; 200 in the paper.
        concentration: η.
        kept: :math:`\alpha_1 \dots \alpha_T`; by default the paper's sigmoid schedule,
            :math:`\operatorname{logit} \alpha_t` linear from 10 to −13.
        center: The datum from whose law at the last step runs start: the mean of the data.

    References:
        | Beta Diffusion (Zhou et al., 2023)

    Example:
        >>> beta_diffusion().marginal(torch.full((1, 1), 0.8).double(), 100).mean
        tensor([[0.1459]], dtype=torch.float64)
    """
    if kept is None:
        time = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        kept = (10 - 23 * time).sigmoid()
    return BetaChain(kept, concentration, center)
