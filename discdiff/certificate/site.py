"""What is looked at: one sum of terms at example states, in its own time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import estimates, laws
from ..estimates import Data
from ..heads import Exact
from ..loss import kl_rate, sum_over_terms
from ..process import Leaf, batch_size, map_state
from ..solve import Unsolved

State = Any
DRAWS = 4000

KINDS = (
    estimates.Mean,
    estimates.Epsilon,
    estimates.Velocity,
    estimates.Score,
    estimates.Normal,
    estimates.Missing,
    estimates.Turnover,
    estimates.Posterior,
    estimates.LeaveOneOut,
    estimates.Conditional,
    estimates.Ratio,
)


@dataclass
class Site(ABC):
    """A leaf at example data and at two times, and the laws it is held to in its own time."""

    leaf: Leaf
    x: Tensor
    when: tuple[float, float] = (0.3, 0.7)

    def __post_init__(self) -> None:
        self.core, self.engine = self.leaf.core, self.leaf.core.engine
        self.axes = max(getattr(term, "event_axes", 0) for term in self.core.terms)
        self.s, self.t = (self._own(t) for t in self.when)
        self.zero = torch.zeros_like(self.s)

    def _own(self, t: float) -> Tensor:
        time = torch.tensor(t, dtype=torch.float64)
        if self.leaf.clock is not None:
            time = self.leaf.clock(time).detach()
        return time.expand(self.x.shape[0]).clone()

    @abstractmethod
    def noisy(self, x_0: Tensor, t: Tensor) -> Distribution:
        """The law of the noisy state given data."""

    @abstractmethod
    def dynkin(self) -> float:
        r"""∂_t E[f(X_t)|x] = E[(Lf)(X_t)|x]."""

    @abstractmethod
    def chapman_kolmogorov(self) -> float:
        r"""p(0→t) = ∫ p(0→s) p(s→t)."""

    @abstractmethod
    def normalisation(self) -> float:
        """Probabilities sum to one."""

    @abstractmethod
    def limit(self) -> tuple[float, str]:
        """The limit is invariant, and is what the process tends to."""

    @abstractmethod
    def bridge(self) -> float:
        r"""p(x_s|x_0) p(x_t|x_s) = p(x_t|x_0) bridge(x_s|x_0, x_t)."""

    @abstractmethod
    def agreement(self) -> float:
        """Draws agree with log-probabilities: the largest standardised difference."""

    @abstractmethod
    def score(self) -> float:
        """The score of data on atoms is the derivative, or the ratios, of their mixture law."""

    @abstractmethod
    def decoder(self) -> float:
        """The decoder is a law; it finds the datum where almost no noise was added."""

    @abstractmethod
    def consistency(self) -> tuple[float, str]:
        """A batch of one is a batch of many; the special engine is the general one."""

    def heads(self) -> tuple[float, str]:
        """All heads taken from the exact one give the same loss."""
        exact = Exact(self.core, self.x)
        x_t = self.noisy(self.x, self.t).sample()
        leaf = _seen_at(self.core, self.t)
        target, atoms = Data(self.x), exact(x_t, self.t)
        reference = kl_rate(leaf, target, atoms, x_t)
        worst, spoken = 0.0, []
        for kind in KINDS:
            try:
                estimate = self.engine.convert(atoms, x_t, self.t, kind)
                rate = kl_rate(leaf, target, estimate, x_t)
            except Unsolved:
                continue
            spoken.append(kind.__name__)
            worst = max(worst, apart(rate, reference))
        return worst, ", ".join(spoken)

    def additivity(self) -> float:
        """The integrand is the sum over terms, and is not negative."""
        exact = Exact(self.core, self.x)
        x_t = self.noisy(self.x, self.t).sample()
        leaf = _seen_at(self.core, self.t)
        target, estimate = Data(self.x), exact(x_t, self.t)
        whole = kl_rate(leaf, target, estimate, x_t)
        parts = sum_over_terms(leaf, target, estimate, x_t)
        return max(apart(whole, parts), size_of((-whole).clamp(min=0)))

    def _log_marginal(self, x: Tensor) -> Tensor:
        count = self.x.shape[0]
        each = [
            self.noisy(self.x[n : n + 1].expand(self.x.shape), self.t).log_prob(x)
            for n in range(count)
        ]
        return torch.logsumexp(torch.stack(each), 0)

    def _slope_error(self) -> float:
        """How far the score's gradient is from the derivative of the mixture law."""
        x_t = self.noisy(self.x, self.t).sample()
        score = self.engine.score(Exact(self.core, self.x)(x_t, self.t), x_t, self.t)
        x_t = x_t.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self._log_marginal(x_t).sum(), x_t)
        return apart(score.gradient.detach(), slope)

    def _decoded(self, x: Tensor, t: Tensor) -> Distribution:
        """What the decoder makes of the exact posterior, site by site where it wants that."""
        atoms = Exact(self.core, self.x)(x, t)
        try:
            return self.engine.decode(atoms, x, t)
        except Unsolved:
            return self.engine.decode(self.engine.convert(atoms, x, t, estimates.Posterior), x, t)

    def _left(self) -> str:
        if self.leaf.clock is None:
            return ""
        one = self._own(1.0)
        try:
            shape = self.core.state_shape(tuple(self.x.shape))
            left = laws.kl(self.noisy(self.x, one), self.core._limit(shape))
        except (NotImplementedError, ValueError):
            return ""
        return f"KL left at t = 1: {float(left.detach().mean()):.1e} nats"


def _seen_at(core: Any, t: Tensor) -> Leaf:
    (leaf,) = core.leaves(t)
    return leaf


def apart(a: Tensor, b: Tensor, slack: Tensor | float = 0.0) -> float:
    """The largest difference relative to one plus the size, beyond a slack."""
    gap = (((a - b).abs() - slack).clamp(min=0) / (1 + b.abs())).detach()
    return float(torch.where(a == b, torch.zeros_like(gap), gap).nan_to_num(torch.inf).max())


def size_of(values: Tensor) -> float:
    """The largest absolute value; infinite if one is NaN, which ``max`` would pass over."""
    return float(values.detach().abs().nan_to_num(torch.inf).max())


def tensors(x: State) -> list[Tensor]:
    """The tensors of a state."""
    return [t for v in x.values() for t in tensors(v)] if isinstance(x, dict) else [x]


def few(x: State, count: int) -> State:
    """At most so many distinct examples."""
    keep: list[int] = []
    for n in range(batch_size(x)):
        new = all(not all(bool((a[n] == a[m]).all()) for a in tensors(x)) for m in keep)
        if new and len(keep) < count:
            keep.append(n)
    return map_state(lambda v: v[keep], x)


def returned(x: State, data: State) -> Tensor:
    """How often each datum (N, *event) is among states (B, *event), shape (N,)."""
    seen = torch.zeros(batch_size(data), dtype=torch.float64)
    for n in range(len(seen)):
        agree = [
            (v - d[n]).abs().reshape(len(v), -1).max(1).values < 1e-6
            for v, d in zip(tensors(x), tensors(data), strict=True)
        ]
        seen[n] = torch.stack(agree).all(0).sum()
    return seen


def of_entries(law: Distribution, axes: int) -> Distribution:
    return law if len(law.event_shape) == axes else law.base_dist  # type: ignore[attr-defined]
