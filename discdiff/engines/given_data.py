r"""What engines of chains share that are Markov given the data only.

Steps back from a mean of the data are those from a datum at that mean, the plug-in of DDPM; from a
finite law of the data they are mixed exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Data, Mean
from ..solve import Engine, Unsolved
from ..validation import require, shown, values_are_checked

NEAR = 1e-6  # a time is the number of a step up to what a division by T loses


def number_of_step(t: Tensor, count: int) -> Tensor:
    """The number of the step that a time is, int64.

    Raises:
        ValueError: If a time is none, or lies beyond the last.
    """
    k = t.round()
    if values_are_checked(t):
        bad = ((t - k).abs() > NEAR) | (k > count)
        rule = f"the chain is known at its steps 0 … {count}"
        require(not bool(bad.any()), f"{rule}; the time contains {shown(t[bad])}")
    return k.long()


class GivenDataEngine(Engine):
    """A chain of one term; an engine says its marginals and its steps back."""

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        if len(terms) != 1:
            raise self.unsolved("a sum with other terms")
        self.term: Any = terms[0]
        self.count: int = self.term.count

    def branch(self) -> str:
        return f"{self.count} steps"

    def index(self, t: Tensor) -> Tensor:
        """The number of the step.

        Raises:
            ValueError: If a time is none, or lies beyond the last.
        """
        return number_of_step(t, self.count)

    @abstractmethod
    def noisy(self, x_0: Tensor, k: Tensor) -> Any:
        """The law at step k ≥ 1 given the data, entry by entry."""

    @abstractmethod
    def between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Any:
        """The law at step s ≥ 1 given the data and the state at t, entry by entry."""

    @abstractmethod
    def possible(self, x_0: Tensor) -> tuple[Tensor, str]:
        """Which entries are data, and the rule for them."""

    def marginal(self, x_0: Tensor, t: Tensor) -> Distribution:
        k = self.index(t)
        self._require_data(x_0, "x_0")
        if not bool((k > 0).any()):
            return laws.point(x_0)
        self._require_later(k)
        return self.noisy(x_0, k).to_event(x_0.dim() - 1)

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        x_0, k = self.mean(estimate), self.index(s)
        if not bool((k > 0).any()):
            return laws.point(x_0)
        self._require_later(k)
        return self.between(x_0, x, k, self.index(t)).to_event(x.dim() - 1)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        raise Unsolved(
            "the steps of this chain depend on the data: it has marginals and bridges, and no law "
            "of a state given an earlier one alone"
        )

    def mean(self, estimate: Any) -> Tensor:
        """The data, or what is said of their mean.

        Raises:
            ValueError: If these are no data.
            Unsolved: If an estimate says no mean.
        """
        if isinstance(estimate, Atoms):
            return estimate.average(estimate.atoms)
        if not isinstance(estimate, Data | Mean):
            raise self.unsolved(f"the data from {type(estimate).__name__}")
        name = "x_0" if isinstance(estimate, Data) else "what the head says of x_0"
        self._require_data(estimate.value, name)
        return estimate.value

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        if kind is Mean:
            return Mean(self.mean(estimate))
        raise self.unsolved(f"conversion to {kind.__name__}")

    def _require_data(self, x_0: Tensor, name: str) -> None:
        if not values_are_checked(x_0):
            return
        possible, rule = self.possible(x_0.detach())
        some = shown(x_0.detach()[~possible])
        found = f"{name} of shape {tuple(x_0.shape)} must {rule}; it contains {some}"
        require(bool(possible.all()), found)

    def _require_later(self, k: Tensor) -> None:
        if not bool((k > 0).all()):
            raise Unsolved("data are certain, and their law no density: ask index 0 by itself")
