r"""Times for training: importance-sampled in the natural variable, stratified over the batch.

Loss integrands live on the scale of :math:`z = \log(e^{\Lambda} - 1)`. A density in z, tabulated
per process, is turned into one in t; the weight is its inverse, so that ``(w * loss).mean()`` is
unbiased for the time integral.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .clock import Clock
from .numerics.special import log1pexp, logexpm1
from .process import Process, batch_size, first_tensor
from .validation import require

HALF_WIDTH = 40.0  # densities beyond |z| = 40 are below e^-40 of the whole
CELLS = 640


class OwnTime:
    r"""The clock of a process without one: :math:`\Lambda(t) = t` on [0, ∞)."""

    def __call__(self, t: Tensor) -> Tensor:
        return t

    def z(self, t: Tensor) -> Tensor:
        return logexpm1(t)

    def from_z(self, z: Tensor) -> Tensor:
        return log1pexp(z)

    def rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class Density:
    r"""A density of times, piecewise constant in z.

    Arguments:
        clock: Turns z into t.
        profile: An unnormalised density of z.
        stop: The density is that of t in (stop, end).
        end: The last time.
    """

    def __init__(
        self, clock: Clock | OwnTime, profile: Any, stop: float = 0.0, end: float | None = None
    ) -> None:
        self.clock = clock
        low, high = _range(clock, stop, end)
        self.edges = torch.linspace(low, high, CELLS + 1, dtype=torch.float64)
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        mass = profile(middle)
        self.mass = mass / mass.sum()
        self.cdf = torch.cat([torch.zeros(1, dtype=torch.float64), self.mass.cumsum(0)])
        self.width = (high - low) / CELLS

    def quantile(self, u: Tensor) -> Tensor:
        """The time below which a share u of the mass lies."""
        cell = (torch.searchsorted(self.cdf, u, right=True) - 1).clamp(0, CELLS - 1)
        inside = ((u - self.cdf[cell]) / self.mass[cell]).clamp(0, 1)
        return self.clock.from_z(self.edges[cell] + inside * self.width)

    def __call__(self, t: Tensor) -> Tensor:
        """The density at t."""
        z = self.clock.z(t)
        cell = ((z - self.edges[0]) / self.width).floor().long().clamp(0, CELLS - 1)
        # dz/dt = Λ' / (1 − e^{-Λ})
        slope = self.clock.rate(t) / -torch.expm1(-self.clock(t))
        return self.mass[cell] / self.width * slope


class Blend:
    """An equal mixture of densities."""

    def __init__(self, parts: list[Density]) -> None:
        self.parts = parts

    def quantile(self, u: Tensor) -> Tensor:
        """Times whose law is the mixture, for u uniform on [0, 1)."""
        scaled = u * len(self.parts)
        which = scaled.long().clamp(max=len(self.parts) - 1)
        each = torch.stack([part.quantile((scaled - which).clamp(0, 1)) for part in self.parts])
        return each.gather(0, which.unsqueeze(0))[0]

    def __call__(self, t: Tensor) -> Tensor:
        return torch.stack([part(t) for part in self.parts]).mean(0)


def times(
    process: Process,
    x_0: Any,
    *,
    stop: float = 0.0,
    density: Blend | Density | None = None,
) -> tuple[Tensor, Tensor]:
    r"""A time per sample from the process's own density, and one over that density.

    Arguments:
        process: The process.
        x_0: Data; their batch size and device are read.
        stop: Times are drawn from (stop, 1), or (stop, ∞) without a clock.
        density: A density to use instead of the process's own.

    Returns:
        Times and weights, float64 of shape (B,). Times are stratified over the batch: one in each
        of B cells of equal mass, in random order of cells.

    Raises:
        ValueError: If stop is negative, or not before the end.
    """
    batch, device = batch_size(x_0), first_tensor(x_0).device
    density = density or time_density(process, stop)
    u = torch.rand(batch, dtype=torch.float64) + torch.randperm(batch)
    t = density.quantile(u / batch)
    return t.to(device), (1 / density(t)).to(device)


def time_density(process: Process, stop: float = 0.0) -> Blend | Density:
    """The process's own density of times: an equal mixture over its leaves."""
    require(stop >= 0, f"stop must be ≥ 0; it is {stop}")
    parts: dict[Any, Density] = {}
    for leaf in process.leaves(torch.ones(1, dtype=torch.float64)):
        engine = leaf.core.engine
        key = (id(leaf.clock), type(engine))
        if key not in parts:
            parts[key] = Density(leaf.clock or OwnTime(), engine.profile, stop)
    densities = list(parts.values())
    return densities[0] if len(densities) == 1 else Blend(densities)


def _range(clock: Clock | OwnTime, stop: float, end: float | None) -> tuple[float, float]:
    with torch.no_grad():
        first = clock.z(torch.tensor(stop, dtype=torch.float64)) if stop > 0 else -torch.inf
        if end is None and isinstance(clock, OwnTime):
            last = torch.inf
        else:
            last = clock.z(torch.tensor(1.0 if end is None else end, dtype=torch.float64))
    low, high = max(float(first), -HALF_WIDTH), min(float(last), HALF_WIDTH)
    require(low < high, f"stop = {stop} must come before the end of time")
    return low, high
