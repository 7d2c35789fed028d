"""Masked diffusion models in continuous time."""

from __future__ import annotations

from ..clock import Clock
from ..process import Process
from .d3pm import d3pm_absorbing


def mdlm(size: int, mask: int, clock: Clock | None = None) -> Process:
    r"""Masked diffusion language models: tokens survive unmasked with chance :math:`1 - t`.

    Its loss is `dd.loss` with ``heads.Posterior(net, absent=mask)``: a cross-entropy of the masked
    tokens, weighted by 1 / t.

    Arguments:
        size: The number of tokens, the mask included.
        mask: The index of the mask.
        clock: Survival 1 − t by default.

    References:
        | Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024)

    Example:
        >>> import torch
        >>> from discdiff import heads, loss
        >>> head = heads.Posterior(lambda x, t: torch.zeros(*x.shape, 5), absent=4)
        >>> masked = torch.tensor([[4, 1]])
        >>> loss(mdlm(5, mask=4), head, torch.tensor([[0, 1]]), 0.25, x_t=masked)  # log(4) / t
        tensor([5.5452])
    """
    return d3pm_absorbing(size, mask, clock)


def md4(size: int, mask: int, clock: Clock | None = None) -> Process:
    r"""Masked discrete diffusion with a schedule: the process of `mdlm`, named by its other paper.

    Arguments:
        size: The number of tokens, the mask included.
        mask: The index of the mask.
        clock: Survival 1 − t by default; ``clock.Cosine()`` is the paper's other choice.

    References:
        | Simplified and Generalized Masked Diffusion for Discrete Data (Shi et al., 2024)

    Example:
        >>> import torch
        >>> md4(3, mask=2).transition(torch.tensor([0, 2]), 0.5, 0.75).probs
        tensor([[0.5000, 0.0000, 0.5000],
                [0.0000, 0.0000, 1.0000]])
    """
    return d3pm_absorbing(size, mask, clock)
