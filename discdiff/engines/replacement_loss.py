r"""The closed loss of replacement by a law that has no zeros.

At :math:`x_t = x` with data :math:`x_0`, per unit rate and site, with the odds
:math:`o = \alpha / (1 - \alpha)` that a site was not touched, the reverse rates are

.. math::
    r(y) = \pi_y\, s + o\, 1[y = x_0 \ne x], \qquad \hat r(y) = \pi_y\, w_y, \qquad
    s = \begin{cases} \rho = (1 + o / \pi_x)^{-1} & x = x_0 \\ 1 & x \ne x_0 \end{cases}

for :math:`y \ne x`. What is of the vocabulary's size is one mean of logarithms, over the states
other than x and :math:`x_0`, with :math:`\Pi` their mass under :math:`\pi`,

.. math::
    \sum_{y \ne x} D(r(y) \| \hat r(y)) = \Pi\, s\, (\log s - 1) - s \sum_y \pi_y \log w_y
    + \sum_y \pi_y w_y + 1[x \ne x_0]\, (\pi_{x_0} + o)\, (\ell + e^{-\ell} - 1),

and :math:`\ell = \log r(x_0) / \hat r(x_0)`. With :math:`u_y = o\, p_y / \pi_y`, a leave-one-out
law p has :math:`w_y = (1 + u_y) / (1 + u_x)`, a posterior p has :math:`w_y = h + u_y`,
:math:`h = 1 - p_x (1 - \rho)`, ratios have :math:`w_y = s_y \pi_x / \pi_y`. Probabilities near one
are read as one minus the others, so that :math:`\ell` keeps its digits where the network is sure
of the data.

References:
    | Simple Guidance Mechanisms for Discrete Diffusion Models (Schiff et al., 2025): uniform π and
      the leave-one-out law
    | Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
      2024): uniform π and ratios
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..numerics.rest import rest_sums


class Scrambled(ABC):
    r"""The loss of one head, site by site.

    Arguments:
        table: What the head says, (B, *sites, K).
        x: The state, (B, *sites).
        x_0: The data, likewise.
        tau: :math:`-\log \alpha > 0`, float64, aligned with x.
        pi: The replacement law, float64, (K,).
        uniform: Whether all its entries are equal.
    """

    def __init__(
        self, table: Tensor, x: Tensor, x_0: Tensor, tau: Tensor, pi: Tensor, uniform: bool
    ) -> None:
        self.table, self.both = table, torch.stack([x, x_0], -1)
        self.odds, self.differs = 1 / torch.expm1(tau), x != x_0
        self.pi, self.pi_x, self.pi_0 = pi, pi[x], pi[x_0]
        self.uniform = uniform
        self.rho = 1 / (1 + self.odds / self.pi_x)

    @abstractmethod
    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        r""":math:`\sum \pi_y \log w_y` and :math:`\sum \pi_y w_y` over y other than x and
        :math:`x_0`, and :math:`\ell`, per site, in float64."""

    def loss(self) -> Tensor:
        """The sum of divergences per unit rate and site, of the logits' dtype."""
        logs, total, gap = self.pieces()
        share = torch.where(self.differs, 1.0, self.rho)
        spread = self.mass() * share * (share.log() - 1) - share * logs + total
        to_data = (self.pi_0 + self.odds) * (gap + torch.expm1(-gap))
        return (spread + self.at_data(to_data)).to(self.table.dtype)

    def at_data(self, values: Tensor) -> Tensor:
        """Values of the datum where it is not the state itself, else 0."""
        return torch.where(self.differs, values, 0.0)

    def mass(self) -> Tensor:
        """The mass under π of the states other than x and the datum."""
        return 1 - self.pi_x - self.at_data(self.pi_0)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values of the vocabulary's size under π."""
        if self.uniform:
            return values.mean(-1).double()
        return (values @ self.pi.to(values.dtype)).double()


class Said(Scrambled):
    """The loss of logits of laws of the data."""

    def read(self, k: Tensor | None = None) -> Tensor:
        """Reads the law; the sum of π log(1 + u / h) over y other than x and the datum."""
        probs, pi = self.table.softmax(-1), self.pi[:1] if self.uniform else self.pi
        # Odds below 1e-30 change no digit of what is added to 1.
        odds = self.odds.expand(self.pi_x.shape).clamp(min=1e-30).to(probs.dtype)
        pi = pi.to(probs.dtype)
        k = None if k is None else k.to(probs.dtype)
        found = (v.double() for v in rest_sums(probs, self.both, odds, pi, k))
        marked, self.rest, _, logs = found  # rest is p(y) of all y but x and x_0
        p_x, p_0 = marked.unbind(-1)
        self.p_x = torch.where(p_x > 0.5, 1 - self.rest - self.at_data(p_0), p_x)
        self.p_0 = torch.where(p_0 > 0.5, 1 - self.rest - self.at_data(p_x), p_0)
        self.u_x, self.u_0 = (self.odds * v for v in (self.p_x / self.pi_x, self.p_0 / self.pi_0))
        self.lack = self.odds * (self.p_x + self.rest) / self.pi_0  # u_0 of the data, less u_0
        return logs


class OthersSay(Said):
    """The loss of a leave-one-out law."""

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        logs, own = self.read(), torch.log1p(self.u_x)
        total = (self.mass() + self.odds * self.rest) / (1 + self.u_x)
        return logs - self.mass() * own, total, torch.log1p(self.lack / (1 + self.u_0)) + own


class AllSay(Said):
    """The loss of a posterior."""

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        leaves = 1 / (1 + self.pi_x / self.odds)  # 1 - ρ
        stays = torch.stack([self.rho, self.differs.to(leaves)], -1)
        logs = self.read(torch.stack([stays, torch.stack([leaves, 1 - stays[..., 1]], -1)]))
        h = self.rest + self.at_data(self.p_0) + self.p_x * self.rho
        total = self.mass() * h + self.odds * self.rest
        gap = (self.p_x * (1 - self.rho) + self.lack) / (h + self.u_0)
        logs = logs + self.mass() * h.detach().log()  # whose slope `rest_sums` gives
        return logs, total, torch.log1p(gap)


class RatiosSay(Scrambled):
    """The loss of log-ratios, or of logits of a conditional law: their differences are ratios."""

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        at_x, at_0 = self.table.gather(-1, self.both).unbind(-1)
        log_s = self.table - at_x.unsqueeze(-1)
        others = log_s.exp().scatter(-1, self.both, 0.0).sum(-1).double()
        log_pi, log_pi_x = self.pi.log(), self.pi_x.log()
        spread = (self.pi * log_pi).sum() - self.pi_x * log_pi_x
        spread = spread - self.at_data(self.pi_0 * self.pi_0.log())
        logs = self.mean(log_s.scatter(-1, self.both, 0.0)) + self.mass() * log_pi_x - spread
        gap = (self.pi_0 + self.odds).log() - log_pi_x - (at_0.double() - at_x.double())
        return logs, self.pi_x * others, gap
