"""Stable noise in continuous time."""

from __future__ import annotations

from ..clock import Clock, Cosine
from ..increments import SymmetricStable
from ..levy import Levy
from ..process import Process
from ..terms import Linear


def lim(alpha: float = 1.8, clock: Clock | None = None) -> Process:
    r"""Lévy–Itō models: an Ornstein–Uhlenbeck process of α-stable noise.

    .. math:: dX = -\tfrac{1}{\alpha} X\, d\Lambda + dL^\alpha_\Lambda, \qquad
              x_t \mid x_0 \sim e^{-\Lambda / \alpha} x_0
              + (1 - e^{-\Lambda})^{1/\alpha} \varepsilon

    Here each coordinate has noise of its own; the paper's is isotropic. Steps back are drawn from
    the exact bridges.

    Arguments:
        alpha: α, in (0, 2).
        clock: :math:`e^{-\Lambda} = \cos^2(\pi t / 2)` by default.

    References:
        | Score-based Generative Models with Lévy Processes (Yoon et al., 2023)

    Example:
        >>> import torch
        >>> law = lim(1.5).marginal(torch.ones(1, 1), 0.5).base_dist
        >>> law.loc, law.scale  # 2^(−2/3) both
        (tensor([[0.6300]]), tensor([[0.6300]]))
    """
    return (Linear(-1 / alpha) + Levy(SymmetricStable(alpha))).on(clock or Cosine())
