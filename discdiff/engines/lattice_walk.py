r"""Pure walks on a lattice: sums of n increments from one table of their probabilities.

A position is :math:`x_0 + \sigma (n v_0 + \delta i)` with an index i, whose chances
:math:`p_n(i)` follow from :math:`p_{n+1} = p_n * p_1`, added up in logarithms. Bridges are

.. math:: P(i_s \mid i_t) = \frac{p_s(i_s)\, p_{t-s}(i_t - i_s)}{p_t(i_t)},

hypergeometric for the coin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Data, Mean
from ..lattice_walk import LatticeSteps
from ..process import over_atoms
from ..shapes import along
from ..solve import Engine, Unsolved, solves
from ..validation import require, shown
from .given_data import number_of_step

NEAR = 1e-4  # of an index from a whole number, for the rounding of many float32 steps


class OnLattice(laws._RealLaw):
    r"""The law of :math:`m + c\, i` for whole i ≥ 0, by log-probabilities.

    Arguments:
        start: m.
        step: c > 0.
        log_probs: One row (I,) for each entry, shape (*batch, I), or (B, 1, …, 1, I).
    """

    atoms = True

    def __init__(self, start: Tensor, step: float, log_probs: Tensor) -> None:
        self.start, self.step, self.log_probs = start, step, log_probs
        super().__init__(start.shape)

    def _moments(self) -> tuple[Tensor, Tensor]:
        i = torch.arange(self.log_probs.shape[-1], dtype=torch.float64)
        p = self.log_probs.exp()
        mean = p @ i
        return mean, (p * (i - mean.unsqueeze(-1)) ** 2).sum(-1)

    @property
    def mean(self) -> Tensor:
        return self.start + (self.step * self._moments()[0]).to(self.start)

    @property
    def variance(self) -> Tensor:
        return (self.step**2 * self._moments()[1]).to(self.start).expand(self.batch_shape)

    def _draw(self, shape: Size) -> Tensor:
        total = self.log_probs.exp().cumsum(-1)
        u = torch.rand(shape + self.batch_shape, dtype=torch.float64) * total[..., -1]
        rows = total.expand(u.shape + total.shape[-1:]).contiguous()
        i = torch.searchsorted(rows, u.unsqueeze(-1), right=True).squeeze(-1)
        i = torch.where(rows[..., -1] > 0, i.double(), torch.nan)  # of no chances no draw
        return self.start + (self.step * i).to(self.start)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        at = (x.double() - self.start.double()) / self.step
        i, last = at.round(), self.log_probs.shape[-1] - 1
        inside = ((at - i).abs() < NEAR) & (i >= 0) & (i <= last)
        index = torch.where(inside, i, 0.0).long().unsqueeze(-1)
        table = self.log_probs.expand(index.shape[:-1] + self.log_probs.shape[-1:])
        found = table.gather(-1, index).squeeze(-1)
        return torch.where(inside, found, -torch.inf).to(self.start.dtype)


@solves(LatticeSteps)
class LatticeSums(Engine):
    """Sums of equal increments on a lattice."""

    technique = "probabilities of the points of a lattice"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        if len(terms) != 1:
            raise self.unsolved("a sum with other terms")
        self.term: Any = terms[0]
        self.count: int = self.term.count
        self.gap = self.term.gap * self.term.size_of_step
        self.first = self.term.first * self.term.size_of_step
        self.coin = len(self.term.log_probs) == 2
        self.table = self._sums()

    def branch(self) -> str:
        return f"{self.count} steps, {self.term.increment.name}"

    def _sums(self) -> Tensor:
        r""":math:`\log p_n(i)`, (T + 1, I), −∞ where a sum does not lead."""
        one: Tensor = self.term.log_probs
        size = self.count * (len(one) - 1) + 1
        table = torch.full((self.count + 1, size), -torch.inf, dtype=torch.float64)
        table[0, 0] = 0.0
        for n in range(self.count):
            moved = [
                torch.nn.functional.pad(table[n, : size - j], (j, 0), value=-torch.inf) + p
                for j, p in enumerate(one)
            ]
            table[n + 1] = torch.stack(moved).logsumexp(0)
        return table

    def index(self, t: Tensor) -> Tensor:
        """The number of the step."""
        return number_of_step(t, self.count)

    def _from(self, x: Tensor, s: Tensor, t: Tensor) -> OnLattice:
        n = t - s
        rows = self.table[n].reshape(n.shape + (1,) * (x.dim() - 1) + self.table.shape[1:])
        return OnLattice(x + along(self.first * n, x), self.gap, rows)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self._from(x, self.index(s), self.index(t)).to_event(x.dim() - 1)

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        j, k = self.index(s), self.index(t)
        if isinstance(estimate, Mean):
            return self._coin(estimate.value, x, j, k).to_event(x.dim() - 1)
        if not isinstance(estimate, Data):
            raise self.unsolved(f"a bridge from {type(estimate).__name__}")
        if not bool(j.any()):
            return laws.point(estimate.value)
        return self._between(estimate.value, x, j, k).to_event(x.dim() - 1)

    def _between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> OnLattice:
        """The bridge; no point has a chance where no steps lead from x_0 to x."""
        at = (x.double() - x_0.double() - along(self.first * t, x, torch.float64)) / self.gap
        i_t = at.round()
        last = along(t, x, torch.float64) * (len(self.term.log_probs) - 1)
        on = ((at - i_t).abs() < NEAR) & (i_t >= 0) & (i_t <= last)
        i = torch.arange(self.table.shape[1])
        rest = torch.where(on, i_t, -1.0).long().unsqueeze(-1) - i
        wide = lambda n: n.reshape(n.shape + (1,) * x.dim())
        later = self.table[wide(t - s), rest.clamp(min=0)]
        early = self.table[wide(s), i.expand(rest.shape)]
        log_p = torch.where(rest >= 0, early + later, -torch.inf)
        whole = log_p.logsumexp(-1, keepdim=True)
        log_p = torch.where(whole > -torch.inf, log_p - whole, -torch.inf)
        return OnLattice(x_0 + along(self.first * s, x), self.gap, log_p)

    def _coin(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> OnLattice:
        r"""One step back of the coin, from the mean of the data."""
        if not self.coin or not bool((t - s == 1).all()):
            raise Unsolved(
                "the mean of the data says single steps back of a coin; other steps need their "
                "law: Exact"
            )
        up = 0.5 + (x - x_0) / (2 * self.term.size_of_step * along(t, x))
        inside = (up >= 0) & (up <= 1)
        rule = "the mean of the data must be as near to x_t as steps lead"
        require(bool(inside.all()), f"{rule}; x_t − x_0 contains {shown((x - x_0)[~inside])}")
        log_p = torch.stack([up, 1 - up], -1).double().log()  # after a step up it was below
        return OnLattice(x - self.term.size_of_step, self.gap, log_p)

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        if kind is Mean and isinstance(estimate, Atoms):
            return Mean(estimate.average(estimate.atoms))
        raise self.unsolved(f"conversion to {kind.__name__}")

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        """The law of the data: what is said, or after one step of a coin by their mean."""
        if isinstance(estimate, Atoms):
            return over_atoms(lambda data, *_: laws.point(data.value), estimate, x, t, t)
        if isinstance(estimate, Data):
            return laws.point(estimate.value)
        return self.bridge(estimate, x, torch.zeros_like(t), t)
