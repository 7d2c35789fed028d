r"""Times for training: importance-sampled in the natural variable, stratified over the batch.

Loss integrands live on the scale of :math:`z = \log(e^{c \Lambda} - 1)`, with c the rate at which
the process forgets (one, if noise replaces the data at unit rate), or :math:`z = \log \Lambda`
where noise spreads for ever. So a process that is declared k times as fast has the same law of its
own time on a clock that is k times as slow. A density in z, tabulated per process, is
turned into one in t; the weight is its inverse, so that ``(w * loss).mean()`` is unbiased for the
time integral.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from . import laws
from .clock import LAST, Clock, OwnTime, Paced, Spread
from .numerics.quadrature import gauss_legendre
from .params import Versions
from .process import (
    Chain,
    Generator,
    Leaf,
    Process,
    batch_size,
    first_tensor,
    map_state,
    require_process,
)
from .solve import Engine, Tempo, Unsolved
from .validation import require, require_tensor, values_are_checked

Natural = Clock | OwnTime | Paced | Spread

REACH = 300.0  # |z| of one clock while another is within its own half width
HALF_WIDTH = 40.0  # densities beyond |z| = 40 are below e^-40 of the whole
CELLS = 640
LEFT = 1e-6  # nats per entry that integrals over (0, 1) may lack
ROWS = 4  # data at which that is looked at
KEPT = 16  # densities of one process


def natural(leaf: Leaf) -> Clock | OwnTime | Spread:
    """The clock of a leaf, in the natural variable of its engine."""
    if not _engine(leaf.core).forgets:
        return Spread(leaf.clock)
    return leaf.clock or OwnTime()


def paced(leaf: Leaf) -> Natural:
    """The natural variable in units of the rate at which the leaf forgets."""
    clock, pace = natural(leaf), tempo_of(leaf).slow
    return clock if pace == 1 or isinstance(clock, Spread) else Paced(clock, pace)


def natural_clocks(process: Process) -> dict[Any, Natural]:
    """The clocks of all leaves in their natural variables, by `clock_key`."""
    leaves = process.leaves(process.instant(1.0))
    return {clock_key(leaf): paced(leaf) for leaf in leaves}


def clock_key(leaf: Leaf) -> tuple[Any, bool, float]:
    """What leaves have in common whose time integrals are one."""
    return leaf.clock, _engine(leaf.core).forgets, tempo_of(leaf).slow


def tempo_of(leaf: Leaf) -> Tempo:
    """How fast data fade; found once, and again where numbers change."""
    return Tempo(*_tempo(leaf.core))


@torch.compiler.assume_constant_result
def _tempo(core: Generator) -> tuple[float, float]:
    """The rates of a tempo; in a compiled graph as they were when it was compiled."""
    engine = _engine(core)
    numbers = [v for term in engine.terms for v in (*term.parameters(), *term.buffers())]
    known = _tempos.get(engine)
    if known is None or not known[0].hold(numbers):
        with torch.inference_mode(False), torch.no_grad():
            known = _tempos[engine] = Versions(numbers), engine.tempo()
    return known[1].slow, known[1].fast


class Density:
    r"""A density of times, piecewise constant in z.

    Arguments:
        clock: Turns z into t.
        profile: An unnormalised density of z.
        stop: The density is that of t in (stop, end).
        end: The last time.
    """

    def __init__(
        self, clock: Natural, profile: Any, stop: float = 0.0, end: float | None = None
    ) -> None:
        self.clock, device = clock, clock.instant(0.0).device
        low, high = z_range(clock, stop, end)
        self.edges = torch.linspace(low, high, CELLS + 1, dtype=torch.float64, device=device)
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        mass = profile(middle)
        self.mass = mass / mass.sum()
        self.cdf = torch.cat([torch.zeros_like(mass[:1]), self.mass.cumsum(0)])
        self.width = (high - low) / CELLS

    def quantile(self, u: Tensor) -> Tensor:
        """The time below which a share u of the mass lies."""
        u = u.to(self.cdf.device)
        cell = (torch.searchsorted(self.cdf, u, right=True) - 1).clamp(0, CELLS - 1)
        inside = ((u - self.cdf[cell]) / self.mass[cell]).clamp(0, 1)
        return self.clock.from_z(self.edges[cell] + inside * self.width)

    def __call__(self, t: Tensor) -> Tensor:
        """The density at t."""
        z = self.clock.z(t)
        cell = ((z - self.edges[0]) / self.width).floor().long().clamp(0, CELLS - 1)
        return self.mass[cell] / self.width * self.clock.slope(t)


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


@dataclass
class Known:
    """What is known of a process as long as its numbers stay the same.

    Arguments:
        numbers: Its numbers.
        reached: Whether integrals over (0, 1) were found to lack nothing.
        densities: Its own densities of times, by stop and device.
    """

    numbers: Versions
    reached: bool = False
    densities: dict[tuple[float, torch.device], Blend | Density] = field(default_factory=dict)


_known: WeakKeyDictionary[Process, Known] = WeakKeyDictionary()
_tempos: WeakKeyDictionary[Engine, tuple[Versions, Tempo]] = WeakKeyDictionary()


def known_of(process: Process) -> Known:
    """What is known of a process with its numbers as they are now; a graph keeps nothing."""
    numbers = [*process.parameters(), *process.buffers()]
    if torch.compiler.is_compiling():
        return Known(Versions(numbers))
    known = _known.get(process)
    if known is None or not known.numbers.hold(numbers):
        known = _known[process] = Known(Versions(numbers))
    return known


@torch.no_grad()
def times(
    process: Process,
    x_0: Any,
    *,
    stop: float = 0.0,
    density: Blend | Density | None = None,
) -> tuple[Tensor, Tensor]:
    r"""A time per sample from the process's own density, and one over that density.

    Arguments:
        process: The process, or a chain.
        x_0: Data; their batch size and device are read.
        stop: Times are drawn from (stop, 1), or (stop, ∞) without a clock.
        density: A density to use instead of the process's own.

    Returns:
        Times and weights, float64 of shape (B,). Times are stratified over the batch: one in each
        of B cells of equal mass, in random order of cells. They carry no gradient: how times are
        drawn has no part in the integral, also where a clock is learned. Of a chain, indices k
        uniform on 1 … T, int64, and weights T: the mean of weight times `loss` is then that of
        the sum of the bound's terms.

    Raises:
        ValueError: If stop is negative, or not before the end, if much of the path lies between
            the last time that float64 knows and the end of the clock, or if stop or density are
            given with a chain.
    """
    require_process(process)
    require_tensor(first_tensor(x_0), "x_0")
    batch, device = batch_size(x_0), first_tensor(x_0).device
    u = (torch.rand(batch, dtype=torch.float64) + torch.randperm(batch)) / batch
    if isinstance(process, Chain):
        own = stop == 0 and density is None
        require(own, "a chain has indices 1 … T, all of one share: stop and density are for times")
        k, count = _indices(u, len(process.times))
        return k.to(device), count.to(device)
    require_reach(process, x_0)
    density = density or time_density(process, stop)
    t = density.quantile(u)
    return t.to(device), (1 / density(t)).to(device)


def _indices(u: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices 1 … T, uniform where u is uniform on [0, 1), and for how many each stands."""
    k = 1 + (u * count).long().clamp(max=count - 1)  # u may round to 1
    return k, torch.full_like(u, count)


@torch.no_grad()
def require_reach(process: Process, x_0: Any) -> None:
    r"""Raises where integrals over (0, 1) lack a part of the path.

    Where :math:`\Lambda(1) = \infty`, the last float64 time before 1 has a finite
    :math:`\Lambda`, 36.7 for `clock.LogLinear`, at which a slow process has not come to rest.
    What integrals lack is of the size of :math:`\mathrm{KL}(q(x_1 | x_0) \| q(x_{last} | x_0))`.
    It is looked at once for each process, and again where its numbers change.

    Raises:
        ValueError: If it exceeds 1e-6 nats per entry.
    """
    if not values_are_checked(first_tensor(x_0)):
        return
    known = known_of(process)
    if known.reached:
        return
    some = map_state(lambda v: v[:ROWS], x_0)
    zero = torch.zeros(batch_size(some), dtype=torch.float64)
    each = (process.leaves(zero + t) for t in (0.0, LAST, 1.0))
    for start, late, end in zip(*each, strict=True):
        if bool(end.time.isinf().all()):
            with torch.random.fork_rng(devices=[]):  # the laws may draw to see a shape
                left = _left(start.get(some), late, end)
            require(
                left <= LEFT,
                f"{late.core!r} is too slow for its clock: between the last float64 time and 1 "
                f"lie {left:.1e} nats per entry that no integral over t sees (at most {LEFT:g} "
                "may). Way out: make it faster, (10 * process).on(clock), which is only another "
                "schedule, or take a clock with a finite end, such as clock.Constant",
            )
    known.reached = True


def _left(x: Tensor, late: Leaf, end: Leaf) -> float:
    """What is left of the path after the last time before 1, in nats per entry."""
    x = x.double() if x.is_floating_point() else x
    try:
        engine = late.core.engine
        both = (engine.marginal(x, time) for time in (end.time, late.time))
        return float(laws.kl(*both).max()) / max(1, x[0].numel())
    except NotImplementedError:  # no law at infinity or no rule: others say so
        return 0.0


def time_density(process: Process, stop: float = 0.0) -> Blend | Density:
    """The process's own density of times: an equal mixture over its leaves.

    It carries no gradient, and is kept while the numbers of the process stay the same.
    """
    require(stop >= 0, f"stop must be ≥ 0; it is {stop}")
    key, densities = (stop, process.instant(0.0).device), known_of(process).densities
    if key not in densities:
        if len(densities) == KEPT:
            densities.clear()
        with torch.inference_mode(False), torch.no_grad():
            densities[key] = _tabulated(process, stop)
    return densities[key]


def _tabulated(process: Process, stop: float) -> Blend | Density:
    """The process's own density of times, from its numbers as they are now."""
    parts: dict[Any, Density] = {}
    for leaf in process.leaves(process.instant(1.0)):
        engine, breadth = _engine(leaf.core), tempo_of(leaf).breadth
        key = (clock_key(leaf), breadth, type(engine))
        if key not in parts:
            profile = partial(engine.profile, breadth=breadth)
            parts[key] = Density(paced(leaf), profile, stop)
    densities = list(parts.values())
    return densities[0] if len(densities) == 1 else Blend(densities)


def _engine(core: Generator) -> Engine:
    """The engine of a sum of terms; one that knows nothing of it where none solves it."""
    try:
        return core.engine
    except Unsolved:
        return Engine(core.terms)


@torch.no_grad()
def rule(clock: Natural, nodes: int, stop: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Times and weights for integrals over t: Gauss–Legendre in u, :math:`z = 4 \sinh u`.

    Nodes are dense near z = 0, where the integrand of a process on this clock has its features.
    """
    low, high = ((z / 4).asinh() for z in z_range(clock, stop, None))
    u, w = (v.to(low) for v in gauss_legendre(nodes, 0.0, 1.0))
    u, w = low + (high - low) * u, (high - low) * w
    t = clock.from_z(4 * u.sinh())
    return t, 4 * w * u.cosh() / clock.slope(t)


@torch.no_grad()
def joint_rule(clocks: list[Natural], nodes: int, stop: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Times and weights for integrals over t whose integrand has features on several clocks.

    Gauss–Legendre in :math:`u(t) = \sum_j \operatorname{asinh}(z_j(t) / 4)`, inverted by bisection
    in logit t: dense near z = 0 of every clock.
    """
    if len(clocks) == 1:
        return rule(clocks[0], nodes, stop)

    def along_all(t: Tensor) -> Tensor:
        return torch.stack([torch.asinh(c.z(t).clamp(-REACH, REACH) / 4) for c in clocks]).sum(0)

    ends = [z_range(clock, stop, None) for clock in clocks]
    starts = torch.stack([c.from_z(e[0]) for c, e in zip(clocks, ends, strict=True)])
    # At t = 1 itself Λ may be ∞: LAST is the time before it.
    t_low = starts.min().clamp(min=stop)
    t_high = torch.stack([last(c) for c in clocks]).max().clamp(max=LAST)
    u, w = gauss_legendre(nodes, float(along_all(t_low)), float(along_all(t_high)))
    low, high = (t.logit().expand(nodes) for t in (t_low, t_high))
    for _ in range(80):
        middle = (low + high) / 2
        below = along_all(middle.sigmoid()) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    t = ((low + high) / 2).sigmoid().clamp(max=LAST)
    steepness = [c.slope(t) / (16 + c.z(t).square()).sqrt() for c in clocks]
    return t, w / torch.stack(steepness).sum(0)


def last(clock: Natural) -> Tensor:
    """The time at which `rule` ends: 1 to rounding, or where nothing that matters is left."""
    return clock.from_z(z_range(clock, 0.0, None)[1]).detach()


@torch.no_grad()
def z_range(clock: Natural, stop: float, end: float | None) -> tuple[Tensor, Tensor]:
    """The range of z between two times, of shape (); no end: the last before the clock's end."""
    low = high = clock.instant(HALF_WIDTH)[0]
    low = -low
    if stop > 0:
        low = clock.z(clock.instant(stop))[0].maximum(low)
    if end is not None or not clock.endless:
        high = clock.z(clock.instant(LAST if end is None else end))[0].minimum(high)
    if not torch.compiler.is_compiling():
        require(bool(low < high), f"stop = {stop} must come before the end of time")
    return low, high
