r"""Two hops at a time, from a state to a feature and on to a state that has it.

.. math::
    P = e^{-\tau} I + U \Phi W^\top, \qquad
    \Phi = \sum_{n \ge 1} e^{-\tau} \frac{\tau^n}{n!} (W^\top U)^{n - 1}

with :math:`\Phi` the law of the last feature for each first one: a block of the transition matrix
of the chain of features that first waits for a hop. Draws count hops instead: the first comes
after an exponential time, the others are Poisson.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..numerics.alias import Aliases
from ..numerics.linalg import Uniformized
from ..solve import Unsolved, solves
from ..structures import LowRank
from .kernels import Kernel, Tabled, elapsed, hazard, uniform_like


class Features:
    """The walk of features, and how states are left and found.

    Arguments:
        U: The law of the feature of each state, (K, r).
        V: The law of the state for each feature, (r, K).
    """

    def __init__(self, U: Tensor, V: Tensor) -> None:
        self.U, self.V, self.rank = U, V, U.shape[1]
        self.step = V @ U
        still = torch.eye(self.rank, dtype=U.dtype, device=U.device)
        before = torch.cat([-still, still], -1)
        after = torch.cat([torch.zeros_like(still), self.step - still], -1)
        self.chain = Uniformized(torch.cat([before, after]))

    def between(self, tau: Tensor) -> Tensor:
        """Φ at times (B,), shape (B, r, r)."""
        return self.chain.matrix(tau)[:, : self.rank, self.rank :]

    @cached_property
    def first(self) -> Aliases:
        """Draws a feature of a state."""
        return Aliases(self.U)

    @cached_property
    def last(self) -> Aliases:
        """Draws a state of a feature."""
        return Aliases(self.V)

    @cached_property
    def strides(self) -> list[Aliases]:
        """Draw the feature after 1, 2, 4, … steps, up to as many as change nothing more."""
        step, strides = self.step.detach(), []
        for _ in range(self.chain.levels + 2):
            strides.append(Aliases(step))
            step = step @ step
            step = step / step.sum(-1, keepdim=True)
        return strides

    def walked(self, feature: Tensor, mean: Tensor) -> Tensor:
        """The feature after a Poisson number of steps of these means, both (m,)."""
        most = 2.0 ** len(self.strides) - 1  # steps after which nothing changes
        steps = torch.poisson(mean.clamp(max=most)).clamp(max=most).long()
        rows = steps.nonzero().squeeze(-1)
        moved, steps = feature.index_select(0, rows), steps.index_select(0, rows)
        for j, stride in enumerate(self.strides):
            odd = ((steps >> j) & 1).nonzero().squeeze(-1)
            moved = moved.index_copy(0, odd, stride.draw(moved.index_select(0, odd)))
        return feature.index_copy(0, rows, moved)


class Hops(Kernel):
    """Two hops, any number of times.

    Arguments:
        features: The walk of features.
        tau: The expected number of hops, (B or 1,).
        batch: B.
    """

    def __init__(self, features: Features, tau: Tensor, batch: int) -> None:
        self.features, self.tau, self.batch = features, tau, batch
        self.size = len(features.U)
        self._between: Tensor | None = None

    @property
    def there(self) -> Tensor:
        """U, of shape (K, r)."""
        return self.cast(self.features.U)

    @property
    def back(self) -> Tensor:
        """V, of shape (r, K)."""
        return self.cast(self.features.V)

    @property
    def between(self) -> Tensor:
        """Φ, of shape (B, r, r)."""
        if self._between is None:
            self._between = self.features.between(self.tau)
        return self.cast(self._between).expand(self.batch, -1, -1)

    def _with_stay(self, hops: Tensor, same: Tensor) -> Tensor:
        return hops + torch.where(same, self.along((-self.tau).exp(), 2), 0.0)

    def row(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        hops = self.there[x] @ self.between @ self.back
        return self._with_stay(hops, x.unsqueeze(-1) == states)

    def column(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        hops = self.back.mT[x] @ self.between.mT @ self.there.mT
        return self._with_stay(hops, x.unsqueeze(-1) == states)

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        after, last = (self.there[x] @ self.between).unsqueeze(-2), self.back.mT
        return lambda y: self._with_stay((after * last[y]).sum(-1), x.unsqueeze(-1) == y)

    def times(self, v: Tensor) -> Tensor:
        hops = v @ self.there.to(v) @ self.between.to(v) @ self.back.to(v)
        return v * self.along((-self.tau).exp(), 2).to(v) + hops

    def moved(self, x: Tensor) -> Tensor:
        u, tau = uniform_like(x), self.tau.detach().unsqueeze(-1)
        gone = (u > (-tau).exp()).flatten().nonzero().squeeze(-1)  # the first hop comes at −log u
        left = tau.expand(x.shape).take(gone) + u.take(gone).log()
        feature = self.features.first.draw(x.take(gone))
        feature = self.features.walked(feature, left.clamp(min=0))  # of a rounding below 0
        return x.flatten().index_copy(0, gone, self.features.last.draw(feature)).reshape(x.shape)


@solves(LowRank)
class TwoHops(Tabled):
    """Two hops through features."""

    technique = "uniformization on the features"

    def branch(self) -> str:
        return f"{self.size} states, {sum(term.rank for term in self.terms)} features"

    def tabulate(self) -> Features:
        rate = self.rate
        share = 1 / torch.where(rate > 0, rate, torch.ones_like(rate))
        U = torch.cat([term.scale * share * term.U for term in self.terms], -1)
        return Features(U, torch.cat([term.V for term in self.terms]))

    def kernel(self, s: Tensor, t: Tensor) -> Hops:
        return Hops(self.table(), hazard(self.rate, elapsed(s, t)), len(t))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        features = self.table()
        rows = features.chain.limit()[: features.rank, features.rank :]
        apart = float((rows - rows[0]).detach().abs().max())
        if apart > 1e-9 or not features.chain.converged:
            raise Unsolved(f"the limit depends on the start (by up to {apart:.2g})")
        return self.spread(shape, rows[0] @ features.V)
