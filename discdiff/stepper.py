r"""What a stepper is: one step of a reverse run, from time t to an earlier time s.

A stepper is a pair ``(init, step)`` with explicit state, so that multistep methods and guidance
compose. ``step`` is handed the model as a function of (x, t) and returns the new state of the
run. A stepper whose step is a law also has ``law``, and with it a finite-step bound (`vlb`). What
depends on the times of a run alone may be worked out before it, by ``prepared``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from .estimates import Estimate
from .process import Leaf, Process, batch_size, map_state
from .shapes import span
from .solve import Unsolved
from .terms import Diffusion
from .validation import require, require_kind

State = Any
Model = Callable[[State, Tensor], Estimate]
PAIRS = 1 << 22  # pairs of states that are looked at together


class Stepper(ABC):
    """One step of a reverse run."""

    order: ClassVar[float] = 1
    ends_in_noise: ClassVar[bool] = False  # whether a step into real data has a density

    def prepared(self, process: Process, times: Tensor) -> Stepper:
        """The stepper for a run over decreasing times (n + 1,); by default itself."""
        return self

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

    def asks(self) -> tuple[str, tuple[Any, ...]]:
        """The verb of engines that says the law of a step, and its options."""
        return "bridge", ()


class ByLaw(Stepper):
    """A stepper whose step is a draw from its law."""

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        return self.law(process, model(x, t), x, t, s).sample(), memory


class ByLeaf(Stepper):
    """A stepper that moves each leaf by itself."""

    def prepared(self, process: Process, times: Tensor) -> Stepper:
        leaves = list(process.leaves(times))
        return LeafRun(self, leaves) if all(leaf.steady for leaf in leaves) else self

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        late, early = list(process.leaves(t)), list(process.leaves(s))
        return self.moved(late, early, model(x, t), x), memory

    def moved(self, late: list[Leaf], early: list[Leaf], estimate: Estimate, x: State) -> State:
        """The state after all leaves were moved."""
        moved = x
        for leaf, goal in zip(late, early, strict=True):
            y = self.move(leaf, goal, leaf.read(estimate), leaf.get(x))
            moved = goal.put(moved, y)
        return moved

    @abstractmethod
    def move(self, leaf: Leaf, goal: Leaf, estimate: Estimate, x: Tensor) -> Tensor:
        """The state of a leaf at the goal's time."""


class LeafRun(Stepper):
    """The steps of one run, leaf by leaf, with the clock of each leaf read once.

    Arguments:
        stepper: The stepper.
        leaves: The leaves at all times of the run, (n + 1,).
    """

    def __init__(self, stepper: ByLeaf, leaves: list[Leaf]) -> None:
        self.stepper, self.leaves = stepper, leaves

    def init(self, process: Process, x: State) -> Any:
        batch = batch_size(x)
        wide = lambda v: v.unsqueeze(1).expand(-1, batch).unbind()
        instants = [zip(wide(leaf.time), wide(leaf.speed), strict=True) for leaf in self.leaves]
        steps = list(zip(*instants, strict=True))
        return 1, steps, self._at(steps[0])

    def _at(self, instant: Any) -> list[Leaf]:
        """The leaves at one time."""
        pairs = zip(self.leaves, instant, strict=True)
        return [replace(leaf, time=time, speed=speed) for leaf, (time, speed) in pairs]

    def step(
        self, process: Process, model: Model, x: State, t: Tensor, s: Tensor, memory: Any
    ) -> tuple[State, Any]:
        k, steps, late = memory
        early = self._at(steps[k])
        return self.stepper.moved(late, early, model(x, t), x), (k + 1, steps, early)


def require_stepper(stepper: Stepper | None) -> None:
    """Raises ``ValueError`` unless this is a stepper, or none was given."""
    require_kind(stepper, Stepper | None, "stepper must be of dd.steppers")


def only_leaf(process: Process, x: State, t: Tensor, s: Tensor) -> tuple[Leaf, Leaf]:
    """The leaf of a process that is one sum of terms, at t and at s."""
    late, early = list(process.leaves(t)), list(process.leaves(s))
    if len(late) != 1 or late[0].moving or late[0].get(x) is not x:
        raise Unsolved(f"the law of this step is known for one sum of terms, not for {process!r}")
    return late[0], early[0]


def law_matrix(law: Distribution, goals: State, batch: int) -> Tensor:
    """The probabilities (batch, N) of N states under a law of this batch size."""
    chunk, rows = max(1, PAIRS // batch), []
    for k in range(0, batch_size(goals), chunk):
        some = map_state(lambda v: v[k : k + chunk].unsqueeze(1), goals)  # noqa: B023
        wide = map_state(lambda v: v.expand(v.shape[0], batch, *v.shape[2:]), some)
        rows.append(law.log_prob(wide).double().exp())
    return torch.cat(rows).mT


def kernel_of(
    stepper: Stepper, process: Process, model: Model, x: State, t: Tensor, s: Tensor, states: State
) -> Tensor:
    """The probabilities (B, N) that a step leads from B states to each of N.

    Raises:
        Unsolved: If the step has neither a law nor, in stages with laws, a kernel.
    """
    own = getattr(stepper, "kernel", None)
    if own is not None:
        return own(process, model, x, t, s, states)
    return law_matrix(stepper.law(process, model(x, t), x, t, s), states, batch_size(x))


def carried(law: Tensor, states: State, step: Callable[[State], Tensor]) -> Tensor:
    """Laws (B, N) after a step from states to all, (n, N); asked where there is mass only."""
    some = (law > 0).any(0)
    return law[:, some] @ step(map_state(lambda v: v[some], states))


def finite_span(goal: Leaf, leaf: Leaf) -> Tensor:
    """The own time of a step; raises if it is infinite."""
    tau = span(goal.time, leaf.time)
    require(
        bool(tau.isfinite().all()),
        "the run starts at Λ = ∞, where no finite step leads: give a grid that starts below 1, or "
        "use Ancestral",
    )
    return tau


def fresh_noise(leaf: Leaf, x: Tensor) -> Tensor | None:
    """Noise of all diffusions of a leaf, per square root of own time."""
    parts = [
        term.scale.sqrt().to(x.dtype) * term.mix(term.white(x), x, leaf.time)
        for term in leaf.core.terms
        if isinstance(term, Diffusion)
    ]
    return torch.stack(parts).sum(0) if parts else None
