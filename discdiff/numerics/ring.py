r"""Convolution semigroups on a ring, with entrywise relative accuracy.

The law of the displacement after a time τ, for jumps by j at rate :math:`r_j` and
:math:`\lambda = \sum_j r_j`, with * the convolution on the ring,

.. math::
    g_\tau = \sum_{n \ge 0} e^{-\lambda\tau} \frac{(\lambda\tau)^n}{n!} \,(r / \lambda)^{*n},
    \qquad g_{2\tau} = g_\tau * g_\tau .

As for `linalg.Uniformized` only sums and products of non-negative numbers occur. A Fourier
transform would be shorter, but is accurate only relative to the largest entry.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .linalg import TERMS, poisson

BLOCK = 1 << 22  # numbers of a circulant matrix that are written out at once


class Convolved:
    r"""Laws :math:`g_\tau` of the displacement at many times, shape (B, N).

    Arguments:
        rates: The rates :math:`r_j`, float64 of shape (N,); :math:`r_0` counts for nothing.
        moves: Those j at which a rate is not zero; all by default.

    Example:
        >>> one_way = Convolved(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
        >>> one_way(torch.tensor([0.0, torch.inf], dtype=torch.float64))
        tensor([[1.0000, 0.0000, 0.0000],
                [0.3333, 0.3333, 0.3333]], dtype=torch.float64)
    """

    def __init__(self, rates: Tensor, moves: list[int] | None = None) -> None:
        rates = torch.cat([torch.zeros_like(rates[:1]), rates[1:]])
        total = rates.sum()
        self.rate = torch.where(total > 0, total, torch.ones_like(total))  # any serves no jumps
        self.moves = list(range(1, len(rates))) if moves is None else moves
        jump = rates / self.rate
        still = torch.zeros_like(jump)
        still[0] = 1.0
        self.step = torch.where(total > 0, jump, still)
        powers = [still]
        for _ in range(TERMS - 1):
            powers.append(convolve(powers[-1].unsqueeze(0), self.step)[0])
        self.powers = torch.stack(powers)
        self.squares = self._squares(poisson(torch.ones_like(self.rate)) @ self.powers)

    def _squares(self, first: Tensor) -> list[Tensor]:
        """The laws at 2^j / λ, up to one that squaring leaves as it is."""
        squares = [first / first.sum()]
        # The slowest mode of N states relaxes within N² jumps or not at all.
        for _ in range(2 * math.ceil(math.log2(len(first))) + 8):
            double = convolve(squares[-1].unsqueeze(0), squares[-1])[0]
            squares.append(double / double.sum())
        return squares

    def __call__(self, tau: Tensor) -> Tensor:
        """The law after times (B,), shape (B, N)."""
        scaled = self._jumps(tau)
        whole = scaled.detach().floor()
        g = poisson(scaled - whole) @ self.powers
        for j, square in enumerate(self.squares):
            chosen = (whole / 2.0**j).floor().remainder(2) == 1
            g = torch.where(chosen.unsqueeze(-1), convolve(g, square), g)
        return g

    def _jumps(self, tau: Tensor) -> Tensor:
        """The expected number of jumps in times (B,); beyond some number nothing changes."""
        return (self.rate * tau).clamp(max=math.nextafter(2.0 ** len(self.squares), 0.0))

    def expected(self, tau: Tensor) -> Tensor:
        """The expected number of jumps of each move in times (B,), shape (B, len(moves))."""
        return self._jumps(tau).detach().unsqueeze(-1) * self.step[self.moves].detach()


def convolve(v: Tensor, g: Tensor) -> Tensor:
    r""":math:`(v * g)_j = \sum_i v_i\, g_{j - i}` on a ring, for v of shape (B, N) and g (N,).

    Example:
        >>> convolve(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([0.0, 1.0, 0.0]))
        tensor([[0., 1., 2.]])
    """
    size = len(g)
    twice = torch.cat([g, g])
    shift = torch.arange(size, device=g.device)
    width = max(1, BLOCK // size)
    blocks = [twice[size + part - shift.unsqueeze(1)] for part in shift.split(width)]
    return torch.cat([v @ block for block in blocks], -1)


def convolve_each(v: Tensor, g: Tensor) -> Tensor:
    """As `convolve`, for v of shape (B, n, N) and a g of shape (B, N) for each of B."""
    if len(g) == 1 or g.stride(0) == 0:
        return convolve(v.reshape(-1, v.shape[-1]), g[0]).reshape(v.shape)
    size = g.shape[-1]
    shift = torch.arange(size, device=g.device)
    index = (shift - shift.unsqueeze(1)) % size
    count = max(1, BLOCK // size**2)
    parts = zip(v.split(count), g.split(count), strict=True)
    return torch.cat([part @ each[:, index] for part, each in parts])
