r"""Laws on the line from their characteristic functions, as tables.

A density f of standard deviation one that is negligible beyond :math:`\pm R` is a Fourier series,

.. math::
    f(y) = \frac{1}{2R} \sum_{|k| < K} \varphi(u_k)\, e^{-i u_k y}, \qquad u_k = \pi k / R,

up to the mass beyond R and to what :math:`|\varphi|` has beyond :math:`u_K`; so are its
derivatives, and its distribution function after the mean is split off. All are found on one grid
by fast transforms in float64, and between its points by the quintic (the distribution function:
cubic) polynomial that meets values and derivatives at both ends of a cell.

Draws go through the increasing map :math:`G = F^{-1} \circ \Phi` of normal draws, cubic in each of
`CELLS` cells of :math:`|z| \le` `TAIL`; beyond lie 3e-12 of the mass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEWTON = 5
LEAST, MOST = 32, 1 << 15  # frequencies
FINE, MANY = 8, 1 << 12  # points of the grid per frequency, where there are not many
NOTHING = 1e-17
AROUND = 8  # frequencies at which φ must be nothing: one alone may be a zero
SAMPLES = 40  # of the decade beyond the last frequency
CELLS, TAIL = 512, 7.0
SHARP = 1e-3  # error of a density, relative to its peak, beyond which there is no table
SEEN = 1e-11  # densities below are continued by their slope: rounding leaves 1e-15


class TooSharp(NotImplementedError):
    """A density that a table does not resolve."""


@dataclass(frozen=True)
class Grid:
    """A density on equidistant points, all float64.

    Arguments:
        low: The first point.
        step: The distance of points.
        density: f, f' and f'' at the points, shape (3, n).
        cdf: The distribution function at the points, from 0 to 1, non-decreasing, shape (n,).
        ends: The first and the last point where f can be read, as indices.
        error: A bound on the error of f that the frequencies left out cause.
        transport: The cubics of G in its cells, powers of w in [0, 1] from 0 to 3, (CELLS, 4).
    """

    low: float
    step: float
    density: Tensor
    cdf: Tensor
    ends: tuple[int, int]
    error: float
    transport: Tensor


def frequencies(log_cf: Callable[[Tensor], Tensor], reach: float) -> tuple[int, float]:
    """How many frequencies a law within ±reach needs, and a bound on what is left out.

    Beyond ten times the last frequency φ is taken to fall on as a power, the one by which its
    largest values fell within half a decade.
    """
    du, count = math.pi / reach, LEAST
    size = lambda u: log_cf(u).real.detach().exp()
    near = torch.linspace(1.0, 1.25, AROUND, dtype=torch.float64)
    while (last := float(size(count * du * near).max())) > NOTHING and count < MOST:
        count *= 2
    if last <= NOTHING:
        return count, 0.0
    u = count * du * torch.logspace(0, 1, SAMPLES, dtype=torch.float64)
    each = size(u)
    early, late = each.chunk(2)
    power = 2 * float((early.max() / late.max()).log10())
    if power <= 1:
        return count, math.inf
    rest = float(late.max() * u[-1]) / (power - 1)
    return count, (float(torch.trapezoid(each, u)) + rest) / math.pi


def tabulate(
    log_cf: Callable[[Tensor], Tensor],
    reach: float,
    ends: tuple[float, float] = (-math.inf, math.inf),
) -> Grid:
    r"""The law of standard deviation one with this characteristic function.

    Arguments:
        log_cf: From frequencies (n,) to :math:`\log \varphi`, complex.
        reach: R, beyond which there is no mass worth the name.
        ends: Where the support ends.

    Raises:
        TooSharp: If the density is too sharp for `MOST` frequencies.
    """
    count, error = frequencies(log_cf, reach)
    u = torch.arange(count, dtype=torch.float64) * (math.pi / reach)
    phi = log_cf(u).exp()
    size = 2 * count * (FINE if count < MANY else 2)
    step = 2 * reach / size
    y = step * torch.arange(size, dtype=torch.float64) - reach
    terms = torch.stack([phi * (-1j * u) ** k for k in range(3)])
    density = _series(terms, size) / (2 * reach)
    if error > SHARP * float(density[0].detach().max()):
        raise TooSharp(
            f"a table of {MOST} frequencies does not resolve a law this sharp: it has atoms, or "
            "nearly so; take larger first steps, or a law with a density or a closed form"
        )
    inside = (y >= ends[0]) & (y <= ends[1])
    density = torch.where(inside, density, 0.0)
    cdf = _cumulated(phi, u, y, reach)
    cdf = torch.where(y <= ends[0], 0.0, torch.where(y >= ends[1], 1.0, cdf))
    seen = (density[0] > max(SEEN, 10 * error)).nonzero()[:, 0]
    ends = (int(seen[0]), int(seen[-1]))
    return Grid(-reach, step, density, cdf, ends, error, _transport(-reach, step, density[0], cdf))


def _series(terms: Tensor, size: int) -> Tensor:
    r""":math:`\sum_{|k| < K} c_k e^{-i u_k y}` on the grid from −R, for :math:`c_{-k} = \bar c_k`.

    At :math:`y_j = -R + j h` the exponential is :math:`(-1)^k e^{-2 \pi i j k / n}`.
    """
    signs = 1.0 - 2.0 * (torch.arange(terms.shape[-1]) % 2)
    return torch.fft.irfft((terms * signs).conj(), n=size) * size


def _cumulated(phi: Tensor, u: Tensor, y: Tensor, reach: float) -> Tensor:
    """The distribution function, made to rise from 0 to 1."""
    terms = torch.where(u > 0, 1j * phi / u.clamp(min=u[1]), 0.0)
    waves = _series(terms, len(y)) / (2 * reach)
    cdf = (y + reach) / (2 * reach) + waves - waves[0]
    return cdf.clamp(0.0, 1.0).cummax(0).values


def _transport(low: float, step: float, density: Tensor, cdf: Tensor) -> Tensor:
    r"""The cubics of :math:`G = F^{-1} \circ \Phi`, from values and slopes :math:`\Phi' / f`."""
    z = torch.linspace(-TAIL, TAIL, CELLS + 1, dtype=torch.float64)
    p = torch.special.ndtr(z)
    index = (torch.searchsorted(cdf, p, right=True) - 1).clamp(0, len(cdf) - 2)
    cell = Cubic(cdf[index], cdf[index + 1], step * density[index], step * density[index + 1])
    w = cell.inverse(p)
    y = low + step * (index + w)
    slope = (-(z**2) / 2).exp() / math.sqrt(2 * math.pi) * step / cell.slope(w)
    h = 2 * TAIL / CELLS
    steepest = 3 * torch.minimum(y.diff()[:-1], y.diff()[1:]) / h  # cubics below it increase
    steepest = torch.cat([steepest[:1], steepest, steepest[-1:]])
    slope = torch.where(slope.isfinite(), slope, 0.0).clamp(min=0.0).minimum(steepest)
    return Cubic(y[:-1], y[1:], h * slope[:-1], h * slope[1:]).powers()


class Cubic:
    """The polynomials of w in [0, 1] that meet values and slopes, per cell, at both ends."""

    def __init__(self, left: Tensor, right: Tensor, g: Tensor, end: Tensor) -> None:
        self.left, self.g, self.rise = left, g, right - left
        self.k2 = 3 * self.rise - 2 * g - end
        self.k3 = g + end - 2 * self.rise

    def __call__(self, w: Tensor) -> Tensor:
        return self.left + w * (self.g + w * (self.k2 + w * self.k3))

    def slope(self, w: Tensor) -> Tensor:
        """The derivative in w."""
        return self.g + w * (2 * self.k2 + w * (3 * self.k3))

    def powers(self) -> Tensor:
        """The coefficients of 1, w, w², w³ on a last axis."""
        return torch.stack([self.left, self.g, self.k2, self.k3], -1)

    def inverse(self, value: Tensor) -> Tensor:
        """Where the polynomials, which increase, take these values, by Newton's method."""
        w = ((value - self.left) / self.rise).nan_to_num(0.5).clamp(0.0, 1.0)
        for _ in range(NEWTON):
            slope = self.slope(w)
            w = torch.where(slope > 0, w - (self(w) - value) / slope, w).clamp(0.0, 1.0)
        return w


def quintic(table: Tensor, index: Tensor, w: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Values and slopes, per unit, of the polynomial that meets f, f', f'' at both ends."""
    f0, g0, c0 = table[0, index], h * table[1, index], h**2 * table[2, index] / 2
    f1, g1, c1 = table[0, index + 1], h * table[1, index + 1], h**2 * table[2, index + 1] / 2
    a = f1 - f0 - g0 - c0
    b = g1 - g0 - 2 * c0
    c = 2 * c1 - 2 * c0
    k3 = 10 * a - 4 * b + c / 2
    k4 = -15 * a + 7 * b - c
    k5 = 6 * a - 3 * b + c / 2
    value = f0 + w * (g0 + w * (c0 + w * (k3 + w * (k4 + w * k5))))
    slope = g0 + w * (2 * c0 + w * (3 * k3 + w * (4 * k4 + w * 5 * k5)))
    return value, slope / h
