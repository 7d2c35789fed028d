r"""Steppers: one step of a reverse run, from time t to an earlier time s.

A stepper is a pair ``(init, step)`` with explicit state, so that multistep methods and guidance
compose. ``step`` is handed the model as a function of (x, t) and returns the new state of the
run. A stepper whose step is a law also has ``law``, and with it a finite-step bound (`vlb`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from . import laws
from .estimates import Atoms, Estimate, Missing
from .process import Leaf, Process, over_atoms
from .reverse import drift_of, rates_of
from .shapes import along, span
from .solve import Unsolved
from .terms import Jump
from .validation import require

State = Any
Model = Callable[[State, Tensor], Estimate]


class Stepper(ABC):
    """One step of a reverse run."""

    order: ClassVar[float] = 1

    def init(self, process: Process, x: State) -> Any:
        """The stepper's own state at the start of a run; None if it keeps none."""
        return None

    @abstractmethod
    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        """The state at s and the stepper's own state, from those at t."""

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        """The law of the state at s, where the step is one."""
        raise Unsolved(f"a step of {type(self).__name__} has no law: use path_kl")


class _ByLaw(Stepper):
    """A stepper whose step is a draw from its law."""

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        return self.law(process, model(x, t), x, t, s).sample(), memory


class _ByLeaf(Stepper):
    """A stepper that moves each leaf by itself."""

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        estimate = model(x, t)
        late, early = list(process.leaves(t)), list(process.leaves(s))
        moved = x
        for leaf, goal in zip(late, early, strict=True):
            y = self.move(leaf, goal, leaf.read(estimate), leaf.get(x))
            moved = goal.put(moved, y)
        return moved, memory

    @abstractmethod
    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        """The state of a leaf at the goal's time."""


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
class Ancestral(_ByLaw):
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

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        if not isinstance(self.rounding, Stochastic):
            estimate = self.rounding(estimate, process, x, t)
        return process._bridge(estimate, x, s, t, self.eta)


@dataclass(frozen=True)
class Churn(_ByLaw):
    r"""A step that also noises anew what is already there, at equal marginals.

    On counts living units die (attrition) and more missing ones return. As with `Ancestral`, a
    posterior or the exact head gives the exact mixture, `Missing` stochastic rounding. With the
    exact mixture a step is exact for one entry. With a mean number, renewals of a share of t per
    step forget what was before :math:`t \sim n^{-1/2}`, so the order in 1/n is a half.

    Arguments:
        eta: Share of the most attrition that keeps the marginals, in [0, 1].
    """

    eta: float = 0.5
    order: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, f"eta must lie in [0, 1]; it is {self.eta}")

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        late, early = _only_leaf(process, x, t, s)
        churn = getattr(late.core.engine, "churn", None)
        if churn is None:
            raise Unsolved(f"Churn is not known for {late.core!r}")
        if isinstance(estimate, Atoms):
            step = lambda *at: churn(*at, self.eta)
            return over_atoms(step, estimate, x, early.time, late.time)
        return churn(estimate, x, early.time, late.time, self.eta)


@dataclass(frozen=True)
class Euler(_ByLeaf):
    """Euler–Maruyama for diffusions, one jump at most per entry for jump processes.

    The run must start at a finite own time.
    """

    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        tau = _finite_span(goal, leaf)
        if any(isinstance(term, Jump) for term in leaf.core.terms):
            return _jump_once(leaf, estimate, x, tau)
        drift = drift_of(leaf, estimate, x)
        step = along(tau, x)
        moved = x if drift is None else x + step * drift
        noise = _noise(leaf, x)
        return moved if noise is None else moved + step.sqrt() * noise


@dataclass(frozen=True)
class TauLeaping(_ByLeaf):
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
            moved = _leap(leaf, estimate, x, _finite_span(goal, leaf))
        return moved if self.maximum is None else moved.clamp(max=self.maximum)

    def law(
        self, process: Process, estimate: Estimate, x: State, t: Tensor, s: Tensor
    ) -> Distribution:
        late, early = _only_leaf(process, x, t, s)
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
            guess = goal.put(guess, y + along(_finite_span(goal, leaf), y) * slope)
        if bool((s == 0).all()):  # the score is not defined at 0: the last step is Euler's
            return guess, memory
        ahead = self._slopes(early, model(guess, s), guess)
        moved = x
        for leaf, goal, a, b in zip(late, early, slopes, ahead, strict=True):
            y = leaf.get(x)
            moved = goal.put(moved, y + along(_finite_span(goal, leaf), y) * (a + b) / 2)
        return moved, memory

    def _slopes(self, leaves: list[Leaf], estimate: Estimate, x: State) -> list[Tensor]:
        found = [drift_of(leaf, leaf.read(estimate), leaf.get(x), noise=0.0) for leaf in leaves]
        if any(slope is None for slope in found):
            raise Unsolved("Heun follows the probability flow: every part must be continuous")
        return found  # type: ignore[return-value]


def _only_leaf(process: Process, x: State, t: Tensor, s: Tensor) -> tuple[Leaf, Leaf]:
    """The leaf of a process that is one sum of terms, at t and at s."""
    late, early = list(process.leaves(t)), list(process.leaves(s))
    if len(late) != 1 or late[0].moving or late[0].get(x) is not x:
        raise Unsolved(f"the law of this step is known for one sum of terms, not for {process!r}")
    return late[0], early[0]


def _finite_span(goal: Leaf, leaf: Leaf) -> Tensor:
    tau = span(goal.time, leaf.time)
    require(
        bool(tau.isfinite().all()),
        "the run starts at Λ = ∞, where no finite step leads: give a grid that starts below 1, or "
        "use Ancestral",
    )
    return tau


def _noise(leaf: Leaf, x: Tensor) -> Tensor | None:
    """Noise of all diffusions of a leaf, per square root of own time."""
    parts = [
        term.scale.sqrt().to(x.dtype) * term.mix(term.white(x), x, leaf.time)
        for term in leaf.core.terms
        if hasattr(term, "mix")
    ]
    return torch.stack(parts).sum(0) if parts else None


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
