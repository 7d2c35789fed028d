r"""Walks on a ring, and the reflecting walk, which is one that is folded.

With :math:`g_\tau` the law of the displacement on the ring,

.. math::
    \text{ring: } P(x, y) = g_\tau(y - x), \qquad
    \text{reflecting: } P(x, y) = g_\tau(y - x) + g_\tau(y + x + 1) \text{ on a ring of } 2K.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..numerics.ring import Convolved, convolve_each
from ..solve import Unsolved, solves
from ..structures import Increments, Reflecting
from .kernels import Kernel, Tabled, elapsed, inverse_cdf

FEW = 4  # increments up to which a displacement is drawn as a sum of Poisson numbers


class Cyclic(Kernel):
    """A walk on a ring.

    Arguments:
        walk: Knows the law of the displacement.
        tau: Times, (B or 1,).
        batch: B.
    """

    def __init__(self, walk: Convolved, tau: Tensor, batch: int) -> None:
        self.walk, self.tau, self.batch = walk, tau, batch
        self.size = len(walk.step)
        self._g: Tensor | None = None

    @property
    def g(self) -> Tensor:
        """The law of the displacement, (B, K)."""
        if self._g is None:
            self._g = self.walk(self.tau).expand(self.batch, -1)
        return self._g

    def read(self, displacement: Tensor) -> Tensor:
        """The chance of displacements (B, …)."""
        index = displacement % self.size
        return self.cast(self.g).gather(1, index.reshape(len(index), -1)).reshape(index.shape)

    def row(self, x: Tensor) -> Tensor:
        return self.read(torch.arange(self.size, device=x.device) - x.unsqueeze(-1))

    def column(self, x: Tensor) -> Tensor:
        return self.read(x.unsqueeze(-1) - torch.arange(self.size, device=x.device))

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda y: self.read(y - x.unsqueeze(-1))

    def times(self, v: Tensor) -> Tensor:
        return convolve_each(v, self.g.to(v))

    def moved(self, x: Tensor) -> Tensor:
        if len(self.walk.moves) > FEW:
            return (x + inverse_cdf(self.g, x)) % self.size
        mean = self.walk.expected(self.tau).expand(self.batch, -1)
        for move, each in zip(self.walk.moves, mean.unsqueeze(-1).unbind(1), strict=True):
            x = x + move * torch.poisson(each.expand(x.shape)).long()
        return x % self.size


@solves(Increments)
class Circulant(Tabled):
    """Walks on a ring whose rates depend on the increment alone."""

    technique = "convolutions on the ring: a row per time"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.steps = {step for term in terms for step in term.steps}

    def branch(self) -> str:
        return f"{self.size} states on a ring, {len(self.steps)} increments"

    def tabulate(self) -> Convolved:
        rates = torch.stack([term.scale * term.rates for term in self.terms]).sum(0)
        return Convolved(rates, sorted(self.steps))

    def kernel(self, s: Tensor, t: Tensor) -> Cyclic:
        return Cyclic(self.table(), elapsed(s, t), len(t))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        common = gcd(*self.steps, self.size)
        if common > 1:
            raise Unsolved(f"the limit depends on the start: all increments share {common}")
        return self.uniform(shape)


class Folded(Kernel):
    """A reflecting walk.

    Arguments:
        ring: The walk on the ring of 2K on which it is unfolded.
    """

    def __init__(self, ring: Cyclic) -> None:
        self.ring, self.size = ring, ring.size // 2

    def _read(self, x: Tensor, y: Tensor) -> Tensor:
        return self.ring.read(y - x) + self.ring.read(y + x + 1)

    def row(self, x: Tensor) -> Tensor:
        return self._read(x.unsqueeze(-1), torch.arange(self.size, device=x.device))

    column = row  # the walk is symmetric

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda y: self._read(x.unsqueeze(-1), y)

    def times(self, v: Tensor) -> Tensor:
        return self.ring.times(torch.cat([v, v.flip(-1)], -1))[..., : self.size]

    def moved(self, x: Tensor) -> Tensor:
        y = self.ring.moved(x)
        return torch.minimum(y, 2 * self.size - 1 - y)


@solves(Reflecting)
class Reflected(Tabled):
    """The reflecting walk, as a walk on a ring that is folded."""

    technique = "convolutions on a ring, folded: a row per time"

    def branch(self) -> str:
        return f"{self.size} states on a line"

    def tabulate(self) -> Convolved:
        rates = torch.zeros(2 * self.size, dtype=torch.float64, device=self.rate.device)
        rates[1] = rates[-1] = 1.0
        return Convolved(rates, [1, 2 * self.size - 1])

    def kernel(self, s: Tensor, t: Tensor) -> Folded:
        return Folded(Cyclic(self.table(), self.rate * elapsed(s, t), len(t)))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        return self.uniform(shape)
