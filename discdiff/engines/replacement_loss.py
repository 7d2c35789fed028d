r"""The closed loss of replacement by a law that has no zeros.

At :math:`x_t = x` with data :math:`x_0`, per unit rate and site, with the odds
:math:`o = \alpha / (1 - \alpha)` that a site was not touched and
:math:`\rho = (1 + o / \pi_x)^{-1}`, the reverse rates are

.. math::
    r(y) = \pi_y\, s + o'\, 1[y = x_0], \qquad \hat r(y) = \pi_y\, w_y, \qquad
    (s, o') = \begin{cases} (\rho, 0) & x = x_0 \\ (1, o) & x \ne x_0 \end{cases}

for :math:`y \ne x`. All that is of the vocabulary's size is a mean of logarithms,

.. math::
    \sum_{y \ne x} D(r(y) \| \hat r(y)) = -s \sum_{y \ne x} \pi_y \log w_y - o' \log w_{x_0}
    + \sum_{y \ne x} \pi_y w_y + c,

with c free of the model. The leave-one-out law p has :math:`w_y = (1 + u_y) / (1 + u_x)`, the
posterior :math:`\mu` has :math:`w_y = h + u_y`, :math:`h = 1 - \mu_x (1 - \rho)`, where
:math:`u_y = o\, p_y / \pi_y` (with :math:`\mu` for p).

References:
    | Simple Guidance Mechanisms for Discrete Diffusion Models (Schiff et al., 2025): uniform π and
      the leave-one-out law
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Scrambled(ABC):
    r"""The pieces of the loss that depend on what the head says.

    Arguments:
        logits: Shape (B, *sites, K).
        x: The state, (B, *sites).
        x_0: The data, likewise.
        tau: :math:`-\log \alpha > 0`, float64, aligned with x.
        pi: The replacement law, float64, (K,).
        uniform: Whether all its entries are equal.
    """

    def __init__(
        self, logits: Tensor, x: Tensor, x_0: Tensor, tau: Tensor, pi: Tensor, uniform: bool
    ) -> None:
        self.logits, self.x, self.x_0, self.pi, self.uniform = logits, x, x_0, pi, uniform
        self.odds = 1 / torch.expm1(tau)
        self.pi_x, self.pi_0 = pi[x], pi[x_0]
        self.rho = 1 / (1 + self.odds / self.pi_x)

    @abstractmethod
    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        r""":math:`\sum \pi_y \log w_y` and :math:`\sum \pi_y w_y` over y ≠ x, and
        :math:`\log w_{x_0}` in the middle; each per site, in float64."""

    def loss(self) -> Tensor:
        """The sum of divergences per unit rate and site, of the logits' dtype."""
        logs, at_data, total = self.pieces()
        same = self.x == self.x_0
        share = torch.where(same, self.rho, 1.0)
        extra = torch.where(same, 0.0, self.odds)
        rest = 1 - self.pi_x
        kept = rest * self.rho * (self.rho.log() - 1)
        moved = (self.pi_0 + self.odds) * torch.log1p(self.odds / self.pi_0) - rest - self.odds
        constant = torch.where(same, kept, moved)
        return (total - share * logs - extra * at_data + constant).to(self.logits.dtype)

    def scaled(self, probs: Tensor) -> Tensor:
        """u: the probabilities times the odds over π."""
        pi = self.pi[:1] if self.uniform else self.pi
        return probs * (self.odds.unsqueeze(-1) / pi).to(probs.dtype)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values of the vocabulary's size under π."""
        if self.uniform:
            return values.mean(-1).double()
        return (values @ self.pi.to(values.dtype)).double()


class OthersSay(Scrambled):
    """What a leave-one-out law contributes."""

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        logs = torch.log1p(self.scaled(self.logits.softmax(-1)))
        both = logs.gather(-1, torch.stack([self.x, self.x_0], -1)).double()
        at_x, at_data = both.unbind(-1)
        total = (1 + self.odds) * (-at_x).exp() - self.pi_x
        return self.mean(logs) - at_x, at_data - at_x, total


class AllSay(Scrambled):
    """What a posterior contributes."""

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        others = self.logits.softmax(-1).scatter(-1, self.x.unsqueeze(-1), 0.0)
        moved = others.sum(-1).double()  # 1 − μ(x), which one minus it would not give exactly
        h = moved + (1 - moved) * self.rho
        logs = (self.scaled(others) + h.unsqueeze(-1).to(others)).log()
        at_data = logs.gather(-1, self.x_0.unsqueeze(-1)).squeeze(-1).double()
        total = (1 - self.pi_x) * h + self.odds * moved
        return self.mean(logs) - self.pi_x * h.log(), at_data, total
