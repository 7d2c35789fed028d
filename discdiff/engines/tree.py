r"""Redraws within nested clusters: a tree.

With :math:`b_l` the hazard of level l, coarse to fine, the coarsest level that was redrawn says
where the state is,

.. math::
    P(x, y) = w_0 \, \delta_{xy} + \sum_l w_l\, \frac{1[y \in C_l(x)]}{|C_l(x)|}, \qquad
    w_l = (1 - e^{-b_l}) \prod_{m < l} e^{-b_m}, \quad w_0 = \prod_l e^{-b_l}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..shapes import span
from ..solve import Engine, Unsolved, solves
from ..structures import Clusters, refined, sizes
from .finite import Finite
from .kernels import Kernel, Structured, hazard, uniform_like


@dataclass
class Tree(Kernel):
    """Nested clusters.

    Arguments:
        stay: The chance that no level was redrawn, (B,).
        weights: The chance that a level is the coarsest that was, (B, L).
        clusters: The clusters.
    """

    stay: Tensor
    weights: Tensor
    clusters: Nested

    def __post_init__(self) -> None:
        self.size = self.clusters.labels.shape[-1]

    def _together(self, x: Tensor, y: Tensor) -> Tensor:
        """The chance of y by a redraw, for broadcasting (B, n, …)."""
        total: Any = 0.0
        chances = self.cast(self.weights)
        for level, label in enumerate(self.clusters.labels):
            same = label[x] == label[y]
            each = (1 / self.clusters.counts[level]).to(chances)[label[x]]
            weight = chances[:, level].reshape((-1,) + (1,) * (same.dim() - 1))
            total = total + torch.where(same, weight * each, 0.0)
        return total

    def row(self, x: Tensor) -> Tensor:
        return self.entry(x)(torch.arange(self.size, device=x.device).expand(1, 1, -1))

    column = row  # redraws are symmetric

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        x = x.unsqueeze(-1)
        stay = self.along(self.stay, 2)
        return lambda y: self._together(x, y) + torch.where(x == y, stay, 0.0)

    def times(self, v: Tensor) -> Tensor:
        total = v * self.along(self.stay, 2)
        for level, label in enumerate(self.clusters.labels):
            count = self.clusters.counts[level].to(v)
            sums = v.new_zeros(*v.shape[:2], len(count)).index_add(-1, label, v)
            weight = self.cast(self.weights)[:, level].reshape(-1, 1, 1)
            total = total + weight * (sums / count.clamp(min=1))[..., label]
        return total

    def moved(self, x: Tensor) -> Tensor:
        """A level, and a place in its cluster: states of one cluster lie side by side."""
        edges = torch.cat([self.stay.unsqueeze(-1), self.weights], -1).detach().cumsum(-1)
        u = uniform_like(x)
        # The last edge is 1 but for rounding, so it is no edge.
        level = torch.zeros(x.shape, dtype=torch.int8, device=x.device)
        for edge in edges[:, :-1].T.unsqueeze(-1):
            level += u >= edge
        gone = level.flatten().nonzero().squeeze(-1)
        index = (level.take(gone).long() - 1) * self.size + x.take(gone)
        found = self.clusters.draw(index)
        return x.flatten().index_copy(0, gone, found).reshape(x.shape)


class Nested:
    """Nested clusters, coarse to fine, and where their states lie in one common order.

    Arguments:
        labels: Shape (L, K), numbered 0, 1, … at each level.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels, self.counts = labels, sizes(labels)
        rank = torch.zeros_like(labels[0])
        for label in labels:  # lexicographic: coarse labels first
            rank = (rank * (int(label.max()) + 1) + label).unique(return_inverse=True)[1]
        self.order = rank.argsort(stable=True)
        where = torch.empty_like(self.order).scatter(
            0, self.order, torch.arange(len(rank), device=rank.device)
        )
        far = torch.full_like(labels, len(rank))
        first = far.scatter_reduce(1, labels, where.expand_as(labels), "amin")
        self.starts = first.gather(1, labels).flatten()
        self.lengths = self.counts.gather(1, labels).flatten()

    def draw(self, index: Tensor) -> Tensor:
        """States from the clusters of given levels and states, l K + x."""
        place = uniform_like(index) * self.lengths.take(index)
        return self.order.take(self.starts.take(index) + place.long())


@solves(Clusters)
class Clustered(Structured):
    """Redraws within nested clusters."""

    technique = "sums over the levels of a tree"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        try:
            return cls(terms)
        except ValueError:  # clusters of different terms that are not nested
            return Finite(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        labels = torch.cat([term.labels for term in terms])
        self.owner = [n for n, term in enumerate(terms) for _ in term.labels]
        by_count = labels.amax(1).argsort(stable=True)
        self.owner = [self.owner[i] for i in by_count.tolist()]
        self.clusters = Nested(refined(labels[by_count]))

    def branch(self) -> str:
        counts = [int(label.max()) + 1 for label in self.clusters.labels]
        return f"{self.size} states in {' ⊃ '.join(map(str, counts))} clusters"

    def kernel(self, s: Tensor, t: Tensor) -> Tree:
        rates = torch.stack([self.terms[i].scale for i in self.owner])
        redrawn = hazard(rates, span(s, t).unsqueeze(-1).expand(-1, len(rates)))
        coarser = torch.nn.functional.pad(redrawn.cumsum(-1)[..., :-1], (1, 0))
        weights = -torch.expm1(-redrawn) * (-coarser).exp()
        return Tree((-redrawn.sum(-1)).exp(), weights, self.clusters)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        counts = self.clusters.labels.amax(1).tolist()
        moves = [float(self.terms[i].scale.detach()) > 0 for i in self.owner]
        if not any(count == 0 and move for count, move in zip(counts, moves, strict=True)):
            raise Unsolved("the limit depends on the start: no cluster holds all states")
        return self.uniform(shape)
