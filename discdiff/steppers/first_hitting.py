r"""First hitting: masked processes run backwards exactly, one token per call of the network.

A masked site is unmasked at a time that does not depend on what any site shows: with
:math:`\alpha = e^{-\Lambda}` the share of sites that are untouched, a site that is masked at t was
untouched until the time u given by

.. math:: 1 - \alpha_u = U\, (1 - \alpha_t), \qquad U \sim \mathrm{Uniform}(0, 1).

So these times are drawn first. In their order, one by one, each site is then given a draw from
the posterior of its datum at that time and state, which is what the reversal does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..process import Leaf, Process, batch_size, first_tensor
from ..shapes import along
from ..solve import Unsolved
from ..stepper import Model, State, Stepper
from ..validation import require


@dataclass(frozen=True)
class FirstHitting(Stepper):
    r"""Masked sites are unmasked one by one, at their own times: exact for the head.

    A run calls the network once per masked site, whatever its grid: D times for D sites that
    start masked. All that is drawn is right for any grid, so `sample` goes through it in one step;
    what is clamped stands from the start. The time is the time of unmasking, one per batch
    element.

    Raises:
        Unsolved: In a run of a process with a part that is not masked, or with a head that says
            no posterior.
        ValueError: If the head gives the mask itself as a datum.

    References:
        | Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
          Categorical Sampling (Zheng et al., 2025)

    Example:
        >>> from discdiff import Exact, Replace, clock, one_hot, sample
        >>> masked = Replace(one_hot(2, 3)).on(clock.LogLinear())
        >>> exact = Exact(masked, torch.tensor([[0, 1, 0]]))
        >>> sample(masked, exact, (1, 3), stepper=FirstHitting())
        tensor([[0, 1, 0]])
    """

    def prepared(self, process: Process, times: Tensor) -> Stepper:
        return InOneStep(self, times[-1])

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        times, site = _hitting_times(process, x, t, s).sort(1, descending=True)
        hits = int((times > s.unsqueeze(1)).sum(1).max()) if times.numel() else 0
        now, masks = t, torch.zeros((), dtype=torch.bool, device=t.device)
        for k in range(hits):
            live = times[:, k] > s
            now = torch.where(live, times[:, k], now)  # a row that is done is asked in vain
            x, masked = _unmasked(process, model, x, now, site[:, k], live)
            masks = masks | masked
        require(
            not bool(masks),
            "the head gives the mask as a datum, which would stay masked for ever: declare the "
            "mask absent, as in heads.Posterior(net, absent=mask)",
        )
        return x, memory


class InOneStep(Stepper):
    """A run whose first step leads to its last time."""

    def __init__(self, stepper: Stepper, last: Tensor) -> None:
        self.stepper, self.last = stepper, last

    def init(self, process: Process, x: State) -> Any:
        return False, self.stepper.init(process, x)

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        done, own = memory
        if not done:
            x, own = self.stepper.step(process, model, x, t, self.last.expand(t.shape), own)
        return x, (True, own)


def _masked(leaf: Leaf) -> Any:
    """The engine of a masked leaf.

    Raises:
        Unsolved: If the leaf is not masked.
    """
    engine = leaf.core.engine
    if getattr(engine, "target", None) is None:
        raise Unsolved(
            f"{leaf.core!r} does not mask all states at one rate, as Replace(one_hot(mask, K)) "
            "does: Uniformization and Gillespie are exact there"
        )
    return engine


def _hitting_times(process: Process, x: State, t: Tensor, s: Tensor) -> Tensor:
    """The times at which sites are unmasked, (B, sites of all leaves); s for all others."""
    found = []
    for leaf in process.leaves(t):
        engine, y = _masked(leaf), leaf.get(x)
        hidden = leaf.still((y == engine.target).double(), x).reshape(len(y), -1) > 0
        touched = along(-torch.expm1(-engine.rate * leaf.time), hidden, torch.float64)
        u = torch.rand(hidden.shape, dtype=torch.float64, device=hidden.device)
        own = -torch.log1p(-u * touched) / engine.rate
        assert leaf.clock is not None
        found.append(torch.where(hidden, leaf.clock.inverse(own), s.unsqueeze(1)))
    return torch.cat(found, 1)


def _unmasked(
    process: Process, model: Model, x: State, t: Tensor, site: Tensor, live: Tensor
) -> tuple[State, Tensor]:
    """The state with one site per row at a draw from its posterior, and whether one is a mask."""
    estimate, moved = model(x, t), x
    masks, first = torch.zeros((), dtype=torch.bool, device=t.device), 0
    start = torch.arange(batch_size(x), device=first_tensor(x).device)
    for leaf in process.leaves(t):
        engine, y = _masked(leaf), leaf.get(x)
        flat, said = y.reshape(len(y), -1), leaf.read(estimate)
        leaf.core.check_estimate(said, y)
        count = flat.shape[1]
        own = site - first
        mine = live & (own >= 0) & (own < count)
        own = own.clamp(0, count - 1)
        drawn = engine.belief(said, y, leaf.time).draw(start * count + own)
        masks = masks | (mine & (drawn == engine.target)).any()
        value = torch.where(mine, drawn, flat.gather(1, own.unsqueeze(1)).squeeze(1))
        moved = leaf.put(moved, flat.scatter(1, own.unsqueeze(1), value.unsqueeze(1)).view_as(y))
        first += count
    return moved, masks
