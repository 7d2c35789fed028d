r"""Bridges of walks from the laws of their noise, entry by entry, where no closed form is known.

.. math:: p(x_s \mid x_0, x_t) = \frac{p(x_s \mid x_0)\, p(x_t \mid x_s)}{p(x_t \mid x_0)}
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import laws
from ..shapes import along

POINTS, ZOOMS = 513, 2  # of the grid of a bridge, and how often it is narrowed
MANY = 1 << 20  # numbers at once
STEEP = 3.2  # how far the grid of noise with ends goes: to shares of 1e-17 of its interval
Grid = tuple[Tensor, Tensor, Tensor]  # points, their places v, and the density along v


class Bridge(laws._RealLaw):
    r"""The law of :math:`x_s` given both ends, entry by entry, from the laws of the noise.

    Its density is exact. Draws invert a distribution function on `POINTS` points of the interval
    where the density is within :math:`e^{-40}` of its largest value. An atom a of the noise is one
    of the bridge, at :math:`(x_t - a) / \sqrt{\bar\alpha_t / \bar\alpha_s}`.
    """

    def __init__(self, engine: Any, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> None:
        self.engine, self.x_0, self.x, self.s, self.t = engine, x_0, x, s, t
        self.ratio = along((engine.kept(s, t) / 2).exp(), x)
        self.atom = engine.still(x, s, t)
        super().__init__(x.shape)

    def _joint(self, y: Tensor) -> Tensor:
        r""":math:`\log p(y \mid x_0)\, p(x_t \mid y)`, for y of shape (*any, *x.shape)."""
        early = self.engine._from(self.x_0, torch.zeros_like(self.s), self.s).log_prob(y)
        late = self.engine.noise(torch.zeros_like(self.x), self.s, self.t)
        return early + late.log_prob(self.x - self.ratio * y)

    def _log_whole(self) -> Tensor:
        zero = torch.zeros_like(self.s)
        return self.engine._from(self.x_0, zero, self.t).log_prob(self.x)

    def log_prob(self, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        density = self._joint(y) - self._log_whole()
        if self.atom is None:
            return density
        end, size = self._end(), (self.x.abs() + self.atom.at.abs()) / self.ratio
        there = (y - end).abs() <= 4 * torch.finfo(y.dtype).eps * size
        return torch.where(there, self._log_atom(), density)

    def still(self) -> Tensor | float:
        """The probability that the noise from s to t is at its atom, given both ends."""
        return 0.0 if self.atom is None else self._log_atom().exp()

    def _end(self) -> Tensor:
        """Where the bridge has its atom."""
        assert self.atom is not None
        return (self.x - self.atom.at) / self.ratio

    def _log_atom(self) -> Tensor:
        """The log-probability that the noise from s to t is at its atom, given both ends."""
        assert self.atom is not None
        zero = torch.zeros_like(self.s)
        start = self.engine._from(self.x_0, zero, self.s).log_prob(self._end())
        return start + self.atom.log_prob - self.ratio.log() - self._log_whole()

    def _range(self) -> tuple[Tensor, Tensor]:
        """Where both factors have mass."""
        e = self.engine
        zero = torch.zeros_like(self.s)
        center = along((e.kept(zero, self.s) / 2).exp(), self.x) * self.x_0
        width = along(e.width(zero, self.s), self.x)
        wide = along(e.width(self.s, self.t), self.x)
        first, last = (along(v, self.x) for v in e.ends(zero, self.s))
        least, most = (along(v, self.x) for v in e.ends(self.s, self.t))
        low = torch.maximum(
            center + torch.maximum(first, -width),
            (self.x - torch.minimum(most, wide)) / self.ratio,
        )
        high = torch.minimum(
            center + torch.minimum(last, width),
            (self.x - torch.maximum(least, -wide)) / self.ratio,
        )
        return low, torch.maximum(low, high)

    def _alive(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The interval of mass, looked for at these shares of it, which rise."""
        low, high = self._range()
        one = torch.ones_like(shares[:1])
        outer = torch.cat([0 * one, shares, one])  # one further out on either side
        at = shares.reshape(-1, *(1,) * low.dim())
        for _ in range(ZOOMS):
            width = high - low
            log_p = self._joint(low + width * at)
            alive = (log_p > log_p.amax(0) - 40).long()
            first, last = alive.argmax(0), len(shares) + 1 - alive.flip(0).argmax(0)
            low, high = low + width * outer[first], low + width * outer[last]
        return low, high

    def _grid(self) -> Grid:
        shares = torch.linspace(0, 1, POINTS, dtype=self.x.dtype, device=self.x.device)
        low, high = self._alive(shares)
        y = low + (high - low) * shares.reshape(-1, *(1,) * low.dim())
        log_p = self._joint(y)
        return y, y, (log_p - log_p.amax(0)).exp()

    @property
    def mean(self) -> Tensor:
        y, v, p = self._grid()
        step, whole = y - y[:1], torch.trapezoid(p, v, dim=0)
        mean = torch.trapezoid(step * p, v, dim=0) / whole
        mean = y[0] + torch.where(whole > 0, mean, step[-1] / 2)  # 0 where rounding leaves a point
        if self.atom is None:
            return mean
        return torch.lerp(mean, self._end(), self._log_atom().exp())

    def _draw(self, shape: torch.Size) -> Tensor:
        if shape:
            raise NotImplementedError("draw once per batch element; repeat the batch for more")
        some = max(1, MANY * len(self.x) // (POINTS * self.x.numel()))
        drawn = torch.cat(
            [self._rows(k, k + some)._at_once() for k in range(0, len(self.x), some)]
        )
        if self.atom is None:
            return drawn
        still = torch.rand_like(drawn) < self._log_atom().exp()
        return torch.where(still, self._end(), drawn)

    def _rows(self, first: int, last: int) -> Bridge:
        """The law of some batch elements."""
        rows = (v[first:last] for v in (self.x_0, self.x, self.s, self.t))
        return type(self)(self.engine, *rows)

    def _at_once(self) -> Tensor:
        """Draws of all entries, of the part without atom."""
        y, v, p = (part.movedim(0, -1).double().contiguous() for part in self._grid())
        h = v.diff(dim=-1)
        cells = h * (p[..., 1:] + p[..., :-1]) / 2
        cdf = cells.cumsum(-1)
        u = torch.rand_like(h[..., :1]) * cdf[..., -1:]
        cell = torch.searchsorted(cdf, u).clamp(max=cells.shape[-1] - 1)
        rest = u - cdf.gather(-1, cell) + cells.gather(-1, cell)
        left, right = p.gather(-1, cell), p.gather(-1, cell + 1)
        rest = rest / h.gather(-1, cell)  # = left w + (right − left) w² / 2
        root = (left**2 + 2 * (right - left) * rest).clamp(min=0).sqrt()
        w = (2 * rest / (left + root)).nan_to_num(0.5).clamp(0, 1)
        drawn = y.gather(-1, cell) + y.diff(dim=-1).gather(-1, cell) * w
        return drawn.squeeze(-1).to(self.x.dtype)


class LinearBridge(Bridge):
    r"""A bridge whose mean is that of its engine, `linear`.

    So it is for a Lévy process, :math:`\mathbb{E}[L_s \mid L_t] = L_t\, s / t`, atoms included, as
    its increments over equal times are exchangeable.
    """

    @property
    def mean(self) -> Tensor:
        return self.engine.linear(self.x_0, self.x, self.s, self.t)


class BoundedBridge(Bridge):
    r"""A bridge of noise with ends, where its density may have a jump or be infinite.

    .. math:: x = l + (h - l)\, \sigma(\pi \sinh v), \qquad
              q(v) = p(x)\, (h - l)\, \pi \cosh v\; \sigma(\pi \sinh v)\, \sigma(-\pi \sinh v)

    Along v the density is smooth and falls doubly exponentially, whatever power p grows by at an
    end, so that sums over equal steps of v are integrals of p. All is float64.

    References:
        | Double Exponential Formulas for Numerical Integration (Takahasi and Mori, 1974)
    """

    def _wide(self) -> BoundedBridge:
        return type(self)(self.engine, self.x_0.double(), self.x.double(), self.s, self.t)

    def _grid(self) -> Grid:
        if self.x.dtype != torch.float64:
            return self._wide()._grid()
        inside = (torch.arange(POINTS, dtype=torch.float64, device=self.x.device) + 0.5) / POINTS
        low, high = self._alive(inside)
        v = torch.linspace(-STEEP, STEEP, POINTS, dtype=torch.float64, device=self.x.device)
        v = v.reshape(-1, *(1,) * low.dim())
        turn = math.pi * v.sinh()
        left, right = turn.sigmoid(), (-turn).sigmoid()
        y = torch.where(v < 0, low + (high - low) * left, high - (high - low) * right)
        log_q = self._joint(y) + v.cosh().log() + left.log() + right.log()
        log_q = torch.where(log_q < torch.inf, log_q, -torch.inf)  # at an end, where y is rounded
        return y, v.expand_as(y), (log_q - log_q.amax(0)).exp()

    @property
    def mean(self) -> Tensor:
        return super().mean.to(self.x.dtype)
