r"""Steppers: draws from bridges, Euler steps, leaps, the probability flow and its noisy kin.

See `stepper` for what a stepper is, `exponential` and `splitting` for those of linear diffusions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from . import laws
from .estimates import Atoms, Estimate, Missing
from .exponential import Exponential, prepared
from .numerics.special import log1pexp, logexpm1
from .process import Leaf, Process, first_tensor, over_atoms
from .reverse import drift_of, rates_of
from .shapes import along
from .solve import Unsolved
from .splitting import Splitting
from .stepper import (
    ByLaw,
    ByLeaf,
    Model,
    State,
    Stepper,
    finite_span,
    fresh_noise,
    only_leaf,
)
from .terms import Diffusion, Drift, Jump
from .validation import require

__all__ = [
    "Ancestral",
    "Churn",
    "Euler",
    "Exponential",
    "Heun",
    "Nearest",
    "Rounding",
    "Splitting",
    "Stepper",
    "Stochastic",
    "TauLeaping",
]


class Rounding(ABC):
    """How a mean number of missing units becomes a number."""

    @abstractmethod
    def __call__(self, estimate: Estimate, process: Process, x: State, t: Tensor) -> Estimate:
        """The estimate as the step is to read it."""


@dataclass(frozen=True)
class Stochastic(Rounding):
    """Up with the chance of the fractional part: unbiased."""

    def __call__(self, estimate: Estimate, process: Process, x: State, t: Tensor) -> Estimate:
        return estimate


@dataclass(frozen=True)
class Nearest(Rounding):
    """To the nearest integer, half to even, as the published blackout code does.

    Its bias does not vanish with more steps: on Bernoulli(0.3) data every sample is 0.

    Arguments:
        maximum: Counts above it are cut off, if given.
    """

    maximum: float | None = None

    def __call__(self, estimate: Estimate, process: Process, x: State, t: Tensor) -> Estimate:
        (leaf,) = process.leaves(t)
        y = leaf.get(x)
        missing = leaf.core.engine.convert(leaf.read(estimate), y, leaf.time, Missing)
        log_q = leaf.core.engine.log_q(leaf.time, y)  # type: ignore[attr-defined]
        whole = (missing.log_value + log_q).exp().round()
        if self.maximum is not None:
            whole = torch.minimum(whole, self.maximum - y)
        return Missing(whole.log() - log_q)


@dataclass(frozen=True)
class Ancestral(ByLaw):
    r"""A draw from the bridge, averaged over what the head says of :math:`x_0`.

    Arguments:
        eta: The noise of Gaussian parts, times the bridge's: 1 is ancestral, 0 is DDIM (and draws
            no noise), on any grid.
        rounding: How missing units are rounded on counts.

    Raises:
        ValueError: If eta is negative or above 1.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | Denoising Diffusion Implicit Models (Song et al., 2021)
    """

    eta: float = 1.0
    rounding: Rounding = Stochastic()

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, f"eta must lie in [0, 1]; it is {self.eta}")

    def prepared(self, process: Process, times: Tensor) -> Stepper:
        run = prepared(self, process, times, self.eta)
        plain = run is self and self.eta == 1 and isinstance(self.rounding, Stochastic)
        late, early = list(process.leaves(times[:-1])), list(process.leaves(times[1:]))
        if not plain or any(leaf.moving or not leaf.steady for leaf in late):
            return run
        return BridgeRun(self, list(zip(late, early, strict=True)))

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        if not isinstance(self.rounding, Stochastic):
            estimate = self.rounding(estimate, process, x, t)
        return process._bridge(estimate, x, s, t, self.eta)


class BridgeRun(Stepper):
    """The ancestral steps of one run, with the clock of each leaf read once.

    What a head says of all leaves at once (`Exact`) is left to the stepper itself.
    """

    def __init__(self, stepper: Stepper, leaves: list[tuple[Leaf, Leaf]]) -> None:
        self.stepper = stepper
        self.leaves = [late for late, _ in leaves]
        self.engines = [late.core.engine for late, _ in leaves]
        self.times = [(early.time, late.time) for late, early in leaves]

    def init(self, process: Process, x: State) -> Any:
        batch = first_tensor(x).shape[0]
        spread = lambda t: t.unsqueeze(1).expand(-1, batch).unbind()
        steps = [list(zip(*map(spread, pair), strict=True)) for pair in self.times]
        return 0, steps, self.stepper.init(process, x)

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        k, steps, own = memory
        estimate, moved = model(x, t), x
        if isinstance(estimate, Atoms):
            moved, own = self.stepper.step(process, lambda *_: estimate, x, t, s, own)
            return moved, (k + 1, steps, own)
        for leaf, engine, times in zip(self.leaves, self.engines, steps, strict=True):
            said, y = leaf.read(estimate), leaf.get(x)
            leaf.core.check_estimate(said, y)
            moved = leaf.put(moved, engine.bridge(said, y, *times[k]).sample())
        return moved, (k + 1, steps, own)


@dataclass(frozen=True)
class Churn(Stepper):
    r"""A step that also noises anew what is already there, at equal marginals.

    On counts living units die (attrition) and more missing ones return. As with `Ancestral`, a
    posterior or the exact head gives the exact mixture, `Missing` stochastic rounding. With the
    exact mixture a step is exact for one entry. With a mean number, renewals of a share of t per
    step forget what was before :math:`t \sim n^{-1/2}`, so the order in 1/n is a half.

    On real states noise is added by the forward process, and a step of `Heun` takes away that
    noise and the step's own. With :math:`z = \log(e^\Lambda - 1)` the state is noised from z to
    :math:`z + \min(\eta\, (z_t - z_s), \log 2)`: :math:`e^\Lambda - 1`, the square of the noise
    level :math:`\sigma` of a variance-preserving process, at most doubles, as in EDM. This is of
    order 2, and tends to the reversal of noise level :math:`\lambda = \eta`; see `Euler`.

    Arguments:
        eta: On counts, the share of the most attrition that keeps the marginals; on real states,
            how far to go back, in steps. In [0, 1].

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    """

    eta: float = 0.5
    order: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, f"eta must lie in [0, 1]; it is {self.eta}")

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        leaves = list(process.leaves(t))
        if all(_continuous(leaf) for leaf in leaves):
            later = self._later(leaves, t, s)
            x = process._transition(x, t, later).sample()
            return Heun().step(process, model, x, later, s, memory)
        return self.law(process, model(x, t), x, t, s).sample(), memory

    def _later(self, leaves: list[Leaf], t: Tensor, s: Tensor) -> Tensor:
        """The time up to which the state is noised."""
        clock = leaves[0].clock
        if clock is None or any(leaf.clock is not clock for leaf in leaves):
            raise Unsolved("Churn noises all parts up to one time: they must share one clock")
        z = logexpm1(clock(t))
        more = (self.eta * (z - logexpm1(clock(s)))).clamp(max=math.log(2))
        later = torch.minimum(clock.inverse(log1pexp(z + more)), torch.ones_like(t))
        return torch.maximum(later, t) if self.eta else t

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        late, early = only_leaf(process, x, t, s)
        churn = getattr(late.core.engine, "churn", None)
        if churn is None:
            raise Unsolved(f"the law of a Churn step is not known for {late.core!r}")
        if isinstance(estimate, Atoms):
            step = lambda *at: churn(*at, self.eta)
            return over_atoms(step, estimate, x, early.time, late.time)
        return churn(estimate, x, early.time, late.time, self.eta)


@dataclass(frozen=True)
class Euler(ByLeaf):
    r"""Euler–Maruyama for diffusions, one jump at most per entry for jump processes.

    Diffusions have a family of reversals with the same marginals, of noise level
    :math:`\lambda \ge 0`, here in reverse time r:

    .. math:: dy = \big[-A y + \tfrac{1 + \lambda}{2}\, G\, \nabla \log p_t\big]\, dr
              + \sqrt{\lambda}\, B\, dW

    The run must start at a finite own time.

    Arguments:
        noise: :math:`\lambda`: 1 is the reversal, 0 the probability flow, which draws no noise.

    Raises:
        ValueError: If noise is negative, or other than 1 in a run of a jump process.

    Example:
        >>> Euler(noise=0.0)
        Euler(noise=0.0)
    """

    noise: float = 1.0

    def __post_init__(self) -> None:
        require(self.noise >= 0, f"noise must be ≥ 0; it is {self.noise}")

    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        tau = finite_span(goal, leaf)
        if any(isinstance(term, Jump) for term in leaf.core.terms):
            require(self.noise == 1, f"jumps have one reversal: noise = {self.noise} must be 1")
            return _jump_once(leaf, estimate, x, tau)
        drift = drift_of(leaf, estimate, x, math.sqrt(self.noise))
        step = along(tau, x)
        moved = x if drift is None else x + step * drift
        noise = fresh_noise(leaf, x) if self.noise else None
        return moved if noise is None else moved + (self.noise * step).sqrt() * noise


@dataclass(frozen=True)
class TauLeaping(ByLeaf):
    """Poisson numbers of jumps at the rates of the start of the step.

    On counts the state moves by the sum of its jumps; on categories an entry that would jump more
    than once stays. Pure death, whose rates may be infinite at the end, leaps by the mean of the
    bridge.

    Arguments:
        maximum: Counts are cut off at it, if given.
    """

    maximum: float | None = None

    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        leap = getattr(leaf.core.engine, "leap", None)
        if leap is not None:
            moved = leap(estimate, x, goal.time, leaf.time).sample()
        else:
            moved = _leap(leaf, estimate, x, finite_span(goal, leaf))
        return moved if self.maximum is None else moved.clamp(max=self.maximum)

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        late, early = only_leaf(process, x, t, s)
        leap = getattr(late.core.engine, "leap", None)
        if leap is None or self.maximum is not None:
            raise Unsolved("a leap has a law for pure death and without a maximum only")
        return leap(estimate, x, early.time, late.time)


@dataclass(frozen=True)
class Heun(Stepper):
    """The probability flow by Heun's method, of second order; draws no noise."""

    order: ClassVar[float] = 2

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        late, early = list(process.leaves(t)), list(process.leaves(s))
        slopes = self._slopes(late, model(x, t), x)
        guess = x
        for leaf, goal, slope in zip(late, early, slopes, strict=True):
            y = leaf.get(x)
            guess = goal.put(guess, y + along(finite_span(goal, leaf), y) * slope)
        if bool((s == 0).all()):  # the score is not defined at 0: the last step is Euler's
            return guess, memory
        ahead = self._slopes(early, model(guess, s), guess)
        moved = x
        for leaf, goal, a, b in zip(late, early, slopes, ahead, strict=True):
            y = leaf.get(x)
            moved = goal.put(moved, y + along(finite_span(goal, leaf), y) * (a + b) / 2)
        return moved, memory

    def _slopes(self, leaves: list[Leaf], estimate: Estimate, x: State) -> list[Tensor]:
        found = [drift_of(leaf, leaf.read(estimate), leaf.get(x), noise=0.0) for leaf in leaves]
        if any(slope is None for slope in found):
            raise Unsolved("Heun follows the probability flow: every part must be continuous")
        return found  # type: ignore[return-value]


def _continuous(leaf: Leaf) -> bool:
    return all(isinstance(term, Drift | Diffusion) for term in leaf.core.terms)


def _own_rates(leaf: Leaf, estimate: Estimate, x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Points and rates per unit of own time, and the number of state axes of a jump."""
    found = rates_of(leaf, estimate, x)
    assert found is not None
    points, rates = found
    axes = next(term.event_axes for term in leaf.core.terms if isinstance(term, Jump))
    return points, rates / along(leaf.speed, rates), axes


def _jump_once(leaf: Leaf, estimate: Estimate, x: Tensor, tau: Tensor) -> Tensor:
    points, rates, axes = _own_rates(leaf, estimate, x)
    chance = rates * along(tau, rates)
    stay = (1 - chance.sum(-1, keepdim=True)).clamp(min=0)
    index = laws.draw_categories(torch.cat([stay, chance], -1).log())
    every = torch.cat([x.unsqueeze(-1 - axes), points], -1 - axes)
    return _take(every, index, axes)


def _take(points: Tensor, index: Tensor, axes: int) -> Tensor:
    if not axes:
        return points.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    index = index[..., None, None].expand(*index.shape, 1, points.shape[-1])
    return points.gather(-2, index).squeeze(-2)


def _leap(leaf: Leaf, estimate: Estimate, x: Tensor, tau: Tensor) -> Tensor:
    points, rates, axes = _own_rates(leaf, estimate, x)
    number = torch.poisson(rates * along(tau, rates))
    if x.is_floating_point():
        change = points - x.unsqueeze(-1 - axes)
        number = number.unsqueeze(-1) if axes else number
        return (x + (number * change).sum(-1 - axes)).clamp(min=0)
    once = number.sum(-1) == 1
    target = _take(points, number.argmax(-1), axes)
    return torch.where(once.unsqueeze(-1) if axes else once, target, x)
