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

from .analytic import Analytic
from .cached import Cached
from .corrector import Corrector
from .estimates import Atoms, Estimate, Missing
from .exponential import Exponential, prepared
from .families import Renewed, Shift, Tilt
from .first_hitting import FirstHitting
from .jumps import (
    add_jumps,
    euler_chance,
    exits,
    expected,
    jump_once,
    jumps_of,
    law_of_one_jump,
    leap_chance,
    reversal,
)
from .numerics.special import log1pexp, logexpm1
from .process import Leaf, Process, first_tensor, over_atoms
from .reverse import drift_of
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
from .terms import Diffusion, Drift
from .thinning import Gillespie, Uniformization
from .trapezoidal import Trapezoidal
from .validation import require

__all__ = [
    "Analytic",
    "Ancestral",
    "Cached",
    "Churn",
    "Corrector",
    "Euler",
    "Exponential",
    "FirstHitting",
    "Gillespie",
    "Heun",
    "Nearest",
    "Renewed",
    "Rounding",
    "Shift",
    "Splitting",
    "Stepper",
    "Stochastic",
    "TauLeaping",
    "Tilt",
    "Trapezoidal",
    "Uniformization",
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
        leaf, *others = process.leaves(t)
        if others:
            raise Unsolved(f"Nearest rounds the counts of one sum of terms, not of {process!r}")
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
            no noise), on any grid. More than 1 is allowed up to where all noise of the step is
            new, :math:`\sigma^2 = v_s`: at :math:`\eta^2 = v_t / v_{t|s}`, the more the finer the
            grid. The marginals are kept for each.
        rounding: How missing units are rounded on counts.

    Raises:
        ValueError: If eta is negative, or in a step so large that no noise keeps the marginals.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | Denoising Diffusion Implicit Models (Song et al., 2021)
    """

    eta: float = 1.0
    rounding: Rounding = Stochastic()

    def __post_init__(self) -> None:
        number = isinstance(self.eta, float | int)
        rule = "eta must be a number, at least 0 and finite"
        require(number and 0 <= self.eta < math.inf, f"{rule}; it is {self.eta!r}")

    def prepared(self, process: Process, times: Tensor) -> Stepper:
        run = prepared(self, process, times, self.eta)
        if run is not self or self.eta != 1 or not isinstance(self.rounding, Stochastic):
            return run
        late, early = list(process.leaves(times[:-1])), list(process.leaves(times[1:]))
        if any(leaf.moving or not leaf.steady for leaf in late):
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

    So have jumps, with the rates :math:`\hat r_\lambda` of `jumps`. An entry with
    :math:`\Lambda` jumps expected in a step jumps with the chance :math:`\min(\Lambda, 1)`, to
    one of its points in proportion to their rates. The run must start at a finite own time.

    Arguments:
        noise: :math:`\lambda`: 1 is the reversal, 0 the probability flow, which draws no noise,
            or the jumps that are the fewest.

    Raises:
        ValueError: If noise is negative.

    Example:
        >>> Euler(noise=0.0)
        Euler(noise=0.0)
    """

    noise: float = 1.0

    def __post_init__(self) -> None:
        require(self.noise >= 0, f"noise must be ≥ 0; it is {self.noise}")

    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        tau = finite_span(goal, leaf)
        if jumps_of(leaf):
            total, draw = exits(leaf, estimate, x, self.noise)
            return jump_once(x, draw, euler_chance(expected(total, tau)))
        if not any(isinstance(term, Drift | Diffusion) for term in leaf.core.terms):
            raise Unsolved(f"{leaf.core!r} has no rates to follow: take Ancestral")
        drift = drift_of(leaf, estimate, x, math.sqrt(self.noise))
        step = along(tau, x)
        moved = x if drift is None else x + step * drift
        noise = fresh_noise(leaf, x) if self.noise else None
        return moved if noise is None else moved + (self.noise * step).sqrt() * noise

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        leaf, goal = only_leaf(process, x, t, s)
        if not jumps_of(leaf):
            raise Unsolved("a step of Euler has a law here where it jumps: use path_kl")
        jumps = reversal(leaf, estimate, x, self.noise)
        chance = euler_chance(expected(jumps.total, finite_span(goal, leaf)))
        return law_of_one_jump(leaf, x, jumps, chance)


@dataclass(frozen=True)
class TauLeaping(ByLeaf):
    r"""Poisson numbers :math:`n_y` of jumps at the rates of the start of the step.

    Where states are numbers, an entry moves by the sum :math:`\sum_y n_y (y - x)` of its jumps,
    cut off at the ends of its space (at 0 for counts without an upper end). Where they are names,
    an entry that would jump more than once stays: with :math:`\Lambda` jumps expected it jumps
    with the chance :math:`\Lambda e^{-\Lambda}`. Pure death, whose rates may be infinite at the
    end, leaps by the mean of the bridge.

    Arguments:
        maximum: Counts are cut off at it, if given.
        noise: The :math:`\lambda` of `Euler`; pure death has one reversal only.
        ordinal: Whether categories are numbers, as the levels of a pixel are. Counts are.

    Raises:
        ValueError: If noise is negative.
        Unsolved: In a run of a process with diffusions.

    References:
        | A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022)

    Example:
        >>> TauLeaping(ordinal=True)
        TauLeaping(maximum=None, noise=1.0, ordinal=True)
    """

    maximum: float | None = None
    noise: float = 1.0
    ordinal: bool = False

    def __post_init__(self) -> None:
        require(self.noise >= 0, f"noise must be ≥ 0; it is {self.noise}")

    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        leap = getattr(leaf.core.engine, "leap", None)
        if leap is not None:
            moved = leap(estimate, x, goal.time, leaf.time).sample()
        else:
            moved = self._moved(leaf, estimate, x, finite_span(goal, leaf))
        return moved if self.maximum is None else moved.clamp(max=self.maximum)

    def _moved(self, leaf: Leaf, estimate: Estimate, x: Tensor, tau: Tensor) -> Tensor:
        if not jumps_of(leaf):
            raise Unsolved(f"a leap is made of jumps, and {leaf.core!r} has none: use Euler")
        if self._named(leaf):
            total, draw = exits(leaf, estimate, x, self.noise)
            return jump_once(x, draw, leap_chance(expected(total, tau)))
        return add_jumps(leaf, x, reversal(leaf, estimate, x, self.noise), tau)

    def _named(self, leaf: Leaf) -> bool:
        """Whether the states of a leaf are names."""
        return leaf.core.dtype is not None and not self.ordinal

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        late, early = only_leaf(process, x, t, s)
        leap = getattr(late.core.engine, "leap", None)
        if leap is not None and self.maximum is None:
            return leap(estimate, x, early.time, late.time)
        if leap is not None or not self._named(late):
            raise Unsolved(
                "a leap has a law where states are names, and for pure death without a maximum"
            )
        jumps = reversal(late, estimate, x, self.noise)
        chance = leap_chance(expected(jumps.total, finite_span(early, late)))
        return law_of_one_jump(late, x, jumps, chance)


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
