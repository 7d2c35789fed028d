"""Steps that ask the network only where the state has changed since it was last asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..process import Process
from ..stepper import Model, State, Stepper, kernel_of
from ..validation import require


@dataclass(frozen=True)
class Cached(Stepper):
    """Any stepper, with the network's output kept while no entry of the batch changes.

    For networks that do not read the time, as those of masked processes need not: of many small
    steps most change nothing. A network that reads it is asked too rarely, and what comes out is
    another law.

    Arguments:
        stepper: The stepper.

    References:
        | Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024)

    Example:
        >>> from discdiff import steppers
        >>> Cached(steppers.Analytic())
        Cached(stepper=Analytic())
    """

    stepper: Stepper

    def __post_init__(self) -> None:
        kind = type(self.stepper).__name__
        require(isinstance(self.stepper, Stepper), f"stepper must be a stepper, not a {kind}")

    def prepared(self, process: Process, times: Tensor) -> Stepper:
        return Cached(self.stepper.prepared(process, times))

    def init(self, process: Process, x: State) -> Any:
        return self.stepper.init(process, x), []

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        own, seen = memory

        def remembered(x: State, t: Tensor) -> Any:
            if not seen or not _same(seen[0], x):
                seen[:] = [x, model(x, t)]
            return seen[1]

        x, own = self.stepper.step(process, remembered, x, t, s, own)
        return x, (own, seen)

    def kernel(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, states: State
    ) -> Tensor:
        """The probabilities (B, N) of the stepper that is wrapped."""
        return kernel_of(self.stepper, process, model, x, t, s, states)


def _same(a: State, b: State) -> bool:
    if isinstance(a, Mapping):
        return all(_same(a[k], b[k]) for k in a)
    return a is b or torch.equal(a, b)
