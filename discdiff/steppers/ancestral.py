r"""Draws from bridges: exact steps for a guess of the data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..estimates import Atoms, Estimate, Missing
from ..process import Leaf, Process, first_tensor
from ..solve import Unsolved
from ..stepper import ByLaw, Model, State, Stepper
from ..validation import require
from .exponential import prepared


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
        Unsolved: If eta is not 1 and the process has no part that reads it.

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
        if self.eta != 1 and not any(at.core.engine.deterministic for at in process.leaves(times)):
            raise Unsolved(
                f"eta = {self.eta:g} is the noise of Gaussian parts, and {process!r} has none: "
                "leave it at 1"
            )
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
