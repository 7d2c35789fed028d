r"""Engines: the exact solution of a sum of generator terms, found by the kinds of its terms.

An engine knows, for generators :math:`L = \sum_i L_i` whose terms are of certain kinds, the law
of :math:`X_t` given :math:`X_s`, the bridge, the limit and the conditional score. It is handed
the terms and keeps the structure it finds in them (scalar or diagonal, one-hot, rank, number of
squarings) as plain Python values.

The registry is keyed by the types that engines hand to it, and knows no term itself. A set of
kinds is *covered* by an engine if each kind is a subclass of one of the engine's; among covering
engines the most specific is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from .estimates import Data
from .laws import draw

State = Any
_engines: list[type[Engine]] = []
_chosen: dict[frozenset[type], type[Engine]] = {}


class Unsolved(NotImplementedError):
    """No exact solution is known; the message lists what is solvable and the nearest way out."""


class Score:
    r"""The conditional score of a law :math:`p_t` at a state :math:`x`, in two readings.

    Arguments:
        gradient: :math:`\nabla \log p_t(x)` of the state's shape, where the state is continuous.
        log_ratio: The function :math:`y \mapsto \log p_t(y) / p_t(x)`, entry by entry, for points
            ``y`` of shape (B, *event, M), where the state is discrete.
    """

    def __init__(
        self,
        gradient: Tensor | None = None,
        log_ratio: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._gradient = gradient
        self._log_ratio = log_ratio

    @property
    def gradient(self) -> Tensor:
        if self._gradient is None:
            raise Unsolved("the law of a discrete state has ratios, but no gradient")
        return self._gradient

    def log_ratio(self, y: Tensor) -> Tensor:
        if self._log_ratio is None:
            raise Unsolved("the law of a continuous state has a gradient, but no ratios")
        return self._log_ratio(y)


@dataclass(frozen=True)
class Tempo:
    r"""How fast data fade, per unit of own time.

    What the noise changes first it changes at the fast rate; what is forgotten last fades like
    :math:`e^{-ct}` with c the slow one. Both grow with the rates of the process.

    Arguments:
        slow: The rate c of what is forgotten last.
        fast: The rate of the first changes.
    """

    slow: float = 1.0
    fast: float = 1.0

    @property
    def breadth(self) -> float:
        """For how long, in units of log t, the data fade."""
        return max(0.0, math.log(self.fast / self.slow))


class Engine:
    r"""An exact solution for one family of sums of terms.

    Times are float64 tensors of shape (B,), in the own time of the generator; states and
    estimates are aligned by the caller. A verb that an engine does not define is `Unsolved`.
    """

    kinds: ClassVar[tuple[type, ...]] = ()
    technique: ClassVar[str] = ""
    deterministic: ClassVar[bool] = False  # whether steps with less noise than the bridge exist
    draws_forward: bool = False  # whether a state before another is cheaper drawn than after it
    forgets: bool = True  # whether the data fade like e^{−t}, not like 1/t as under white noise

    def __init__(self, terms: tuple[Any, ...]) -> None:
        self.terms = terms

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        """The engine for these terms; one that finds a simpler structure may hand them on."""
        return cls(terms)

    def branch(self) -> str:
        """What was found in the declared numbers, in words, for `explain`."""
        return ""

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r"""The law :math:`p(x_t \mid x_s)`."""
        raise self.unsolved("transition")

    def lifted(self, mean: Tensor, factor: Tensor) -> Engine:
        """The engine of the same terms with auxiliaries integrated in, of this initial law."""
        raise self.unsolved("lift")

    def marginal(self, x_0: Tensor, t: Tensor) -> Distribution:
        r"""The law :math:`p(x_t \mid x_0)` given the data."""
        return self.transition(x_0, torch.zeros_like(t), t)

    def perturb(self, x_0: Tensor, t: Tensor) -> tuple[Tensor, Any]:
        """A draw of the noisy state, and the training target: what the data say at it."""
        return draw(self.marginal(x_0, t)), Data(x_0)

    def log_chance(self, x_0: Tensor, x: Tensor, t: Tensor) -> Tensor | None:
        r""":math:`\log p(x_t \mid x_0)`, entry by entry; None where every pair is possible."""
        return None

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r"""The law :math:`p(x_s \mid x_0, x_t)`, averaged over the estimate of x_0."""
        raise self.unsolved("bridge")

    def step(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, eta: float) -> Distribution:
        r"""A step to s with :math:`\eta` times the bridge's noise and the same marginals."""
        raise self.unsolved("step with less noise than the bridge")

    def require_resolved(self, s: Tensor, t: Tensor, dtype: torch.dtype) -> None:
        """Raises `Unsolved` where noise from s to t is lost as states are rounded to a dtype."""

    def require_covering(self, estimate: Any, verb: str, options: tuple[Any, ...]) -> None:
        """Raises `Unsolved` where steps back leave out states of the process's own, for certain.

        Then their bound is infinite. The steps are those of a verb of the engine.
        """

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        r"""The law of :math:`X_t` as :math:`t \to \infty`."""
        raise self.unsolved("limit")

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        r"""The score of :math:`p_t` at x that the estimate determines."""
        raise self.unsolved("score")

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        """The same knowledge in the form of another kind of estimate."""
        raise self.unsolved(f"conversion to {kind.__name__}")

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        r"""A normalised law of :math:`x_0` given :math:`x_t`, for a small time t."""
        raise self.unsolved("decoder")

    def kl_rate(
        self, target: Any, estimate: Any, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor | None] | None:
        """The closed form of the loss integrand: per entry, and a factor of shape (B,) apart.

        No factor stands for `coefficient`. None where there is no such form: the sum over terms
        is used.
        """
        return None

    def coefficient(self, t: Tensor) -> Tensor:
        """The factor of the closed integrand that depends on time alone, of shape (B,)."""
        raise self.unsolved("weight that equalises the times")

    def survival(self, t: Tensor) -> Tensor:
        r"""The part :math:`e^{-\Lambda}` of the data that is left, of shape (B,)."""
        return (-t).exp()

    def decays(self, head: Any) -> bool:
        """Whether the loss integral is finite down to t = 0 for this head."""
        return False

    def starts_at_infinity(self, head: Any) -> bool:
        r"""Whether a head says what x_0 is even where nothing of it is left."""
        return True

    def settles(self, head: Any) -> bool:
        r"""Whether the loss integral is finite up to :math:`\Lambda = \infty` for this head.

        There the target is known exactly, and so must be what the head says, at every state.
        """
        return self.starts_at_infinity(head)

    def tempo(self) -> Tempo:
        """How fast data fade; looks at values."""
        return Tempo()

    def profile(self, z: Tensor, breadth: float = 0.0) -> Tensor:
        r"""An unnormalised density of :math:`z = \log(e^{ct} - 1)` from which times are drawn.

        It is flat where the data fade, :math:`-b \le z \le 0`, with c and the breadth b those of
        `tempo`, and falls beyond.
        """
        away = z.clamp(min=0) + (-breadth - z).clamp(min=0)
        return (-(away / 1.25)).exp() * (1 + away)

    def unsolved(self, verb: str) -> Unsolved:
        names = " + ".join(type(term).__name__ for term in self.terms)
        return Unsolved(f"{verb} of {names} is not known to {type(self).__name__}. {solvable()}")


E = TypeVar("E", bound=type[Engine])


def solves(*kinds: type) -> Callable[[E], E]:
    """Registers an engine for sums whose terms are all of these kinds.

    Raises:
        TypeError: If another engine is registered for exactly these kinds.
    """

    def register(engine: E) -> E:
        for other in _engines:
            if set(other.kinds) == set(kinds):
                raise TypeError(f"{engine.__name__} and {other.__name__} solve the same kinds")
        engine.kinds = kinds
        _engines.append(engine)
        _chosen.clear()
        return engine

    return register


def covers(kinds: Iterable[type], by: Iterable[type]) -> bool:
    """Whether each kind is a subclass of one of ``by``."""
    by = tuple(by)
    return all(issubclass(kind, by) for kind in kinds)


def covering(kinds: Iterable[type]) -> list[type[Engine]]:
    """All engines that cover the kinds."""
    kinds = tuple(kinds)
    return [engine for engine in _engines if covers(kinds, engine.kinds)]


def engine_for(kinds: frozenset[type]) -> type[Engine]:
    """The most specific engine that covers the kinds.

    Raises:
        Unsolved: If no engine covers them.
        TypeError: If two engines do, and neither is more specific.
    """
    if kinds not in _chosen:
        able = covering(kinds)
        best = [e for e in able if all(covers(e.kinds, other.kinds) for other in able)]
        if not able:
            names = " + ".join(sorted(kind.__name__ for kind in kinds))
            raise Unsolved(f"no engine solves {names}. {solvable()}")
        if len(best) != 1:
            raise TypeError(f"ambiguous engines: {[e.__name__ for e in able]}")
        _chosen[kinds] = best[0]
    return _chosen[kinds]


def solvable() -> str:
    """The list of what is solvable, for the message of `Unsolved`."""
    solved = ", ".join(
        "{" + ", ".join(kind.__name__ for kind in engine.kinds) + "}"
        for engine in _engines
        if engine.kinds
    )
    return (
        f"Solvable sums: {solved}. Ways out: simulate the process, ratio matching, implicit score "
        "matching."
    )
