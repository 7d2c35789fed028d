r"""Thinning: jump processes run backwards exactly, by candidates that are kept or dropped.

Let :math:`b` bound the rate at which an entry leaves its state, at all times of a cell. Candidates
come at rate b; one at time t, for an entry at x, becomes a jump with the chance
:math:`\hat r_t(x) / b`, to a point drawn in proportion to its rate. What is left are exactly the
jumps at the rates :math:`\hat r_t` of the head, however these vary in time.

The bound holds for whatever a head says of :math:`x_0`: with Q the rates and :math:`P_t` the
transition matrix, the reversal given :math:`x_0 = a` leaves x at the rate

.. math:: b_a(t, x) = \sum_{y \ne x} Q(y, x)\, \frac{P_t(a, y)}{P_t(a, x)},

of which the head's rate is a mean over a. By :math:`P_{t + v} = P_v P_t` both sums of
:math:`b_a(t + v, x)` are means over a of those at t, so that :math:`\max_a b_a(t, x)` falls in t:
its value at the end of a cell nearest to the data bounds the cell. It grows there like 1/t, so
cells shrink by :math:`\sqrt{2}` towards t = 0, down to an own time of 1e-9; what is left is one
draw from the posterior of each entry, wrong with a chance of that order at most where the head
decays at 0. The jumps of a head that does not (see `path_kl`) never end; there that draw is its
decoder, as in `enumeration.log_prob`.

References:
    | Simulation of nonhomogeneous Poisson processes by thinning (Lewis and Shedler, 1979)
    | On Lewis' simulation method for point processes (Ogata, 1981)
    | Convergence Analysis of Discrete Diffusion Model: Exact Implementation through
      Uniformization (Chen and Ying, 2024)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..clock import LAST
from ..estimates import Atoms, Data, Estimate, LeaveOneOut, Posterior
from ..laws import entrywise
from ..process import Leaf, Process, batch_size, first_tensor
from ..solve import Unsolved
from ..stepper import Model, State, Stepper
from ..terms import FiniteJump
from ..validation import require, require_finite
from .analytic import site_law
from .jumps import jumps_of, reversal, take

NEAR = 1e-9  # the own time from which one draw leads to the data
LARGEST = 2048  # states of a space whose bound is found by a dense matrix


@dataclass(frozen=True)
class Cells:
    """Bounds of the rate of leaving a state, for one leaf in cells of its own time.

    Arguments:
        edges: Own times (C + 1,), decreasing.
        table: Bounds (C, K) for each state, or (C, 1) for all.
    """

    edges: Tensor
    table: Tensor

    def at(self, y: Tensor) -> Tensor:
        """The bounds of entries (B, n), shape (B, C, n)."""
        if self.table.shape[1] == 1:
            return self.table.expand(y.shape[0], -1, y.shape[1])
        return self.table[:, y].movedim(0, 1)


@dataclass(frozen=True)
class Thinning(Stepper):
    """A stepper that draws candidates and keeps some of them."""

    bound: float | None = None

    def __post_init__(self) -> None:
        positive = self.bound is None or self.bound > 0
        require(positive, f"bound must be > 0; it is {self.bound}")

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        same = bool((t == t[0]).all()) and bool((s == s[0]).all())
        require(same, "the batch must be at one time, as in sample")
        kind = model(x, t.clamp(max=LAST)) if self.bound is None else None
        cells = [
            cells_of(leaf, goal, None if kind is None else leaf.read(kind), self.bound)
            for leaf, goal in zip(process.leaves(t), process.leaves(s), strict=True)
        ]
        x, excess = self.thinned(process, model, x, cells)
        require_finite(excess, "the rates of leaving a state")
        require(
            float(excess) <= 1 + 1e3 * torch.finfo(torch.get_default_dtype()).eps,
            f"an entry leaves its state at {float(excess):.3g} times the bound on its rate: "
            "what was drawn is wrong. Give a larger bound",
        )
        for k, cell in enumerate(cells):
            if bool(cell.edges[-1] > list(process.leaves(s))[k].time[0]):
                x = _landed(process, model, x, k, cell.edges[-1], s)
        return x, memory

    @abstractmethod
    def thinned(
        self, process: Process, model: Model, x: State, cells: list[Cells]
    ) -> tuple[State, Tensor]:
        """The state at the end of the cells, and the largest share of a rate in its bound."""


@dataclass(frozen=True)
class Uniformization(Thinning):
    r"""Candidates at the largest bound of any state: exact for the rates of the head.

    All candidate times of a step are drawn first; the network is called at each of them. For a
    replacement chain of D entries these are about :math:`1.2\, D \log(\Lambda_t / \Lambda_s)`
    calls, with :math:`\Lambda_s \ge 10^{-9}`, and D per unit of own time beyond one. Where
    :math:`\Lambda = \infty` at t = 1 a run starts at the last number before 1.

    Arguments:
        bound: A bound on the rate of leaving of any one entry, per unit of own time, at all times
            of the run. By default one that holds for all heads that say what :math:`x_0` is
            (posterior, leave-one-out, exact), on finite chains whose rates do not vary.

    Raises:
        ValueError: If a rate was above the bound. Nothing is returned then.
        Unsolved: If no bound is known, as for ratios and counts, and none is given.

    References:
        | Convergence Analysis of Discrete Diffusion Model: Exact Implementation through
          Uniformization (Chen and Ying, 2024)

    Example:
        >>> from discdiff import Exact, Replace, clock, sample
        >>> coin = Replace(torch.full((2,), 0.5)).on(clock.Constant(2.0))
        >>> exact = Exact(coin, torch.tensor([[0, 0], [1, 1]]))
        >>> sample(coin, exact, (3, 2), steps=1, stepper=Uniformization()).shape
        torch.Size([3, 2])
    """

    def thinned(
        self, process: Process, model: Model, x: State, cells: list[Cells]
    ) -> tuple[State, Tensor]:
        times, leaf, site, bound = self._candidates(process, x, cells)
        excess = torch.zeros((), dtype=torch.float64, device=times.device)
        for k in range(times.shape[1]):
            live = times[:, k] > 0
            now = torch.where(live, times[:, k], times[:, k].max())  # others are asked in vain
            x, share = attempt(process, model, x, now, leaf[:, k], site[:, k], bound[:, k], live)
            excess = torch.maximum(excess, share)
        return x, excess

    def _candidates(
        self, process: Process, x: State, cells: list[Cells]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Times (B, N), latest first, 0 where there is none, with leaf, entry and bound."""
        found = []
        for k, (leaf, cell) in enumerate(zip(_leaves(process, x), cells, strict=True)):
            count = entries(leaf, leaf.get(x)).shape[1]
            found.append(_poisson_times(leaf, cell, k, count, batch_size(x)))
        times, leaf, site, bound = (torch.cat(v, 1) for v in zip(*found, strict=True))
        times, order = times.sort(1, descending=True)
        most = int((times > 0).sum(1).max()) if times.numel() else 0
        rest = (v.gather(1, order)[:, :most] for v in (leaf, site, bound))
        return times[:, :most], *rest  # type: ignore[return-value]


@dataclass(frozen=True)
class Gillespie(Thinning):
    """Candidates at the bounds of the present states, drawn anew after each: exact as well.

    There are fewer of them than of `Uniformization` where states differ in how fast they can be
    left: a token that is unmasked is never looked at. Each call of the network serves the next
    candidate of every batch element.

    Arguments:
        bound: As for `Uniformization`.

    Raises:
        ValueError: If a rate was above the bound. Nothing is returned then.
        Unsolved: If no bound is known, as for ratios and counts, and none is given.

    References:
        | Exact stochastic simulation of coupled chemical reactions (Gillespie, 1977)

    Example:
        >>> from discdiff import Exact, Replace, clock, one_hot, sample
        >>> masked = Replace(one_hot(2, 3)).on(clock.LogLinear())
        >>> exact = Exact(masked, torch.tensor([[0, 1, 0]]))
        >>> sample(masked, exact, (1, 3), steps=1, stepper=Gillespie())
        tensor([[0, 1, 0]])
    """

    def thinned(
        self, process: Process, model: Model, x: State, cells: list[Cells]
    ) -> tuple[State, Tensor]:
        leaves = _leaves(process, x)
        own = [cell.edges[0].expand(batch_size(x)) for cell in cells]
        excess = torch.zeros((), dtype=torch.float64, device=first_tensor(x).device)
        while True:
            found = [_next(*each, x) for each in zip(leaves, cells, own, strict=True)]
            times, site, bound = (torch.stack(v, 1) for v in zip(*found, strict=True))
            now, leaf = times.max(1)
            live = now > 0
            if not bool(live.any()):
                return x, excess
            pick = leaf.unsqueeze(1)
            own = [  # rows that are done stay done: they are at the end of their cells
                torch.where(live, _own(each, now), cell.edges[-1])
                for each, cell in zip(leaves, cells, strict=True)
            ]
            site, bound = (v.gather(1, pick).squeeze(1) for v in (site, bound))
            asked = torch.where(live, now, now.max())  # others are asked in vain
            x, share = attempt(process, model, x, asked, leaf, site, bound, live)
            excess = torch.maximum(excess, share)


# -- bounds --------------------------------------------------------------------------------------


def cells_of(leaf: Leaf, goal: Leaf, said: Estimate | None, bound: float | None) -> Cells:
    """The cells of a step of one leaf, and its bounds in them."""
    assert leaf.clock is not None
    last = leaf.clock(torch.tensor(LAST, dtype=torch.float64, device=leaf.time.device)).detach()
    start, end = leaf.time[0].detach().minimum(last), goal.time[0].detach()
    if len(jumps_of(leaf)) < len(leaf.core.terms):
        raise Unsolved(f"{leaf.core!r} does not only jump")
    if bound is not None:
        return Cells(torch.stack([start, end]), torch.full((1, 1), bound).to(start))
    require_bounded(leaf, said)
    end = end.clamp(min=NEAR).minimum(start)
    number = max(1, int((2 * torch.log2(start / end)).ceil()))
    edges = (start / 2 ** (torch.arange(number + 1).to(start) / 2)).maximum(end)
    edges[-1] = end
    return Cells(edges, exit_bounds(leaf, edges[1:]))


def require_bounded(leaf: Leaf, said: Estimate | None) -> None:
    """Raises unless the reversal given any datum, and so any mean of them, has a known bound.

    Raises:
        Unsolved: If rates vary in time, the space is not finite, or the head says no law of x_0.
    """
    terms = leaf.core.terms
    steady = all(isinstance(v, FiniteJump) and v.frozen(leaf.time) is v for v in terms)
    if steady and isinstance(said, Posterior | LeaveOneOut | Atoms | Data):
        return
    raise Unsolved(
        f"no bound on the rates of {leaf.core!r} under {type(said).__name__} is known: give one, "
        "the most at which an entry leaves its state per unit of own time"
    )


def exit_bounds(leaf: Leaf, times: Tensor) -> Tensor:
    r""":math:`\max_a \sum_{y \ne x} Q(y, x) P_t(a, y) / P_t(a, x)`, shape (times, K)."""
    engine = leaf.core.engine
    closed = getattr(engine, "exit_bounds", None)
    if closed is not None:
        return closed(times)
    Q = torch.stack([term.matrix() for term in leaf.core.terms]).sum(0).detach()
    size = Q.shape[0]
    if size > LARGEST:
        raise Unsolved(f"the bound of {size} states is not looked for: give one")
    return torch.cat([_bounds_at(engine, Q - Q.diagonal().diag(), t) for t in times.split(1)])


def _bounds_at(engine: Any, rates: Tensor, t: Tensor) -> Tensor:
    """The bounds (1, K) at one time (1,), by the matrix of that time."""
    every = torch.arange(len(rates), device=t.device)
    sides = getattr(engine, "sites", ())
    points = torch.stack(torch.unravel_index(every, sides), -1) if sides else every
    law = entrywise(engine.transition(points.unsqueeze(0), torch.zeros_like(t), t))
    goals = points.reshape(len(rates), 1, 1, *points.shape[1:])
    goals = goals.expand(-1, 1, *points.shape)
    P = law.log_prob(goals).double().exp()[:, 0].mT
    flux = P @ rates.to(P)
    return torch.where(P > 0, flux / torch.where(P > 0, P, 1.0), 0.0).amax(0, keepdim=True)


# -- candidates ----------------------------------------------------------------------------------


def _leaves(process: Process, x: State) -> list[Leaf]:
    t = torch.full((batch_size(x),), 0.5, dtype=torch.float64, device=first_tensor(x).device)
    return list(process.leaves(t))


def _own(leaf: Leaf, t: Tensor) -> Tensor:
    """The own time of a leaf at clock times."""
    assert leaf.clock is not None
    return leaf.clock(t)


def _clock_time(leaf: Leaf, own: Tensor) -> Tensor:
    assert leaf.clock is not None
    return leaf.clock.inverse(own)


def entries(leaf: Leaf, y: Tensor) -> Tensor:
    """The states of a leaf entry by entry, (B, n); joint indices where sites are coupled."""
    index = getattr(leaf.core.engine, "index", None)
    return (index(y) if index is not None else y).reshape(len(y), -1)


def _poisson_times(
    leaf: Leaf, cells: Cells, number: int, count: int, batch: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Candidates of a leaf for n entries alike: times, leaf, entry and bound, (B, N) each."""
    top, widths = cells.table.amax(1), -cells.edges.diff()
    mass = torch.cat([widths.new_zeros(1), (count * top * widths).cumsum(0)])
    number_of = torch.poisson(mass[-1].expand(batch))
    most = int(number_of.max())
    at = torch.rand(batch, most, dtype=mass.dtype, device=mass.device) * mass[-1]
    cell = (torch.searchsorted(mass, at, right=True) - 1).clamp(0, len(widths) - 1)
    rate = top[cell]
    own = cells.edges[cell] - (at - mass[cell]) / (count * rate)
    here = torch.arange(most, device=mass.device) < number_of.unsqueeze(1)
    times = torch.where(here, _clock_time(leaf, own), 0.0)
    site = torch.randint(max(count, 1), (batch, most), device=mass.device)
    return times, torch.full_like(site, number), site, rate


def _next(leaf: Leaf, cells: Cells, own: Tensor, x: State) -> tuple[Tensor, Tensor, Tensor]:
    """The next candidate of a leaf after own times (B,): its time, or 0, its entry and bound."""
    each = cells.at(entries(leaf, leaf.get(x)))  # (B, C, n)
    rate = each.sum(-1)
    start = cells.edges[:-1].minimum(own.unsqueeze(1))
    mass = (rate * (start - cells.edges[1:]).clamp(min=0)).cumsum(1)
    wait = torch.empty_like(own).exponential_().unsqueeze(1)
    cell = torch.searchsorted(mass, wait)
    found = cell.squeeze(1) < mass.shape[1]
    cell = cell.clamp(max=mass.shape[1] - 1)
    before = torch.where(cell > 0, mass.gather(1, (cell - 1).clamp(min=0)), 0.0)
    pace = rate.gather(1, cell)
    at = start.gather(1, cell) - (wait - before) / torch.where(pace > 0, pace, 1.0)
    at = torch.where(found, at.squeeze(1), cells.edges[-1])
    times = torch.where(found, _clock_time(leaf, at), 0.0)
    bounds = each[torch.arange(len(own), device=own.device), cell.squeeze(1)]
    cdf = bounds.cumsum(1)
    u = torch.rand_like(wait) * cdf[:, -1:]
    site = torch.searchsorted(cdf, u, right=True).clamp(max=cdf.shape[1] - 1)
    return times, site.squeeze(1), bounds.gather(1, site).squeeze(1)


def attempt(
    process: Process,
    model: Model,
    x: State,
    t: Tensor,
    leaf: Tensor,
    site: Tensor,
    bound: Tensor,
    live: Tensor,
) -> tuple[State, Tensor]:
    """One candidate per row: the state after it, and the largest share of a rate in its bound."""
    estimate, moved = model(x, t), x
    excess = torch.zeros((), dtype=torch.float64, device=t.device)
    row = torch.arange(len(t), device=t.device)
    for k, part in enumerate(process.leaves(t)):
        mine, y = live & (leaf == k), part.get(x)
        jumps = reversal(part, part.read(estimate), y)
        sites = jumps.rates.shape[1:-1]
        where = torch.where(mine, site, 0)
        at = (row, *torch.unravel_index(where, sites)) if sites else (row,)
        rates = part.still(jumps.rates, x)[at].double()
        cdf = rates.cumsum(-1)
        excess = torch.maximum(excess, torch.where(mine, cdf[:, -1] / bound, 0.0).max())
        u = torch.rand_like(bound) * bound
        jumped = mine & (u < cdf[:, -1])
        index = torch.searchsorted(cdf, u.unsqueeze(1), right=True).squeeze(1)
        goal = take(jumps.points[at], index.clamp(max=rates.shape[1] - 1), jumps.axes)
        goal = torch.where(jumped.unsqueeze(1) if jumps.axes else jumped, goal, y[at])
        moved = part.put(moved, y.index_put(at, goal))
    return moved, excess


def _landed(
    process: Process, model: Model, x: State, number: int, own: Tensor, s: Tensor
) -> State:
    """The state with one leaf drawn from its posteriors at the data, from a small own time."""
    t = _clock_time(_leaves(process, x)[number], own).expand(s.shape)
    leaf, goal = (list(process.leaves(v))[number] for v in (t, s))
    law = site_law(leaf, goal, leaf.read(model(x, t)), leaf.get(x))
    return goal.put(x, law.sample())
