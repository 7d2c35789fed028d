r"""Chains with structure: kernels that need no K×K matrix.

.. math::
    \text{ring: } & P(x, y) = g_\tau(y - x) \\
    \text{reflecting: } & P(x, y) = g_\tau(y - x) + g_\tau(y + x + 1) \quad
        \text{on a ring of } 2K \\
    \text{clusters: } & P(x, y) = w_0 \delta_{xy} + \sum_l w_l\, 1[y \in C_l(x)] / |C_l(x)|,
        \quad w_l = (1 - e^{-b_l}) \prod_{m < l} e^{-b_m} \\
    \text{two hops: } & P = e^{-\tau} I + U \Phi W^\top, \quad
        \Phi = \sum_{n \ge 1} e^{-\tau} \frac{\tau^n}{n!} (W^\top U)^{n - 1} \\
    \text{masks: } & P(x, y) = e^{-w\tau} P_{\text{tokens}}(x, y), \quad
        P(x, \text{mask}) = 1 - e^{-w\tau} \\
    \text{Kronecker: } & P = P_1 \otimes P_2 \otimes \cdots

Every one is a sum of products of non-negative numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..estimates import Posterior
from ..numerics.linalg import Uniformized
from ..numerics.ring import Convolved, convolve_each
from ..params import changes
from ..shapes import one_time, span
from ..solve import Engine, Unsolved, solves
from ..structures import (
    Clusters,
    Increments,
    Interpolate,
    Killing,
    Kronecker,
    LowRank,
    Masking,
    Reflecting,
    refined,
    sizes,
)
from .finite import Finite
from .kernels import Chain, Kernel, Moved
from .replacement import Replacement


def _cast(v: Tensor) -> Tensor:
    return v.to(torch.get_default_dtype())


def _numbers(v: Tensor, more: int = 1) -> Tensor:
    """Numbers (B,) in the default dtype against (B, n, …)."""
    return _cast(v).reshape(v.shape + (1,) * more)


def _uniform(x: Tensor) -> Tensor:
    return torch.rand(x.shape, dtype=torch.float64, device=x.device)


def inverse_cdf(probs: Tensor, x: Tensor) -> Tensor:
    """Draws from one law per batch element, (B or 1, K), as many as x (B, n) has entries."""
    cdf = probs.detach().double().cumsum(-1)
    cdf = cdf.expand(len(x), -1).contiguous() if len(cdf) > 1 else cdf[0]
    return torch.searchsorted(cdf, _uniform(x) * cdf[..., -1:], right=True)


class Stateful(Chain):
    """A chain whose table is kept while no declared number changes."""

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self._kept: Any = None
        self.changes = changes(*terms)

    def table(self) -> Any:
        """What depends on the declared numbers alone."""
        if self.changes:
            return self.tabulate()
        if self._kept is None:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = self.tabulate()
        return self._kept

    def tabulate(self) -> Any:
        """The table, made anew."""
        raise NotImplementedError

    def spread(self, shape: tuple[int, ...], probs: Tensor) -> Distribution:
        """The law of states that are drawn from one law, (K,), each."""
        x = torch.zeros(shape, dtype=torch.int64, device=probs.device)
        stay = torch.zeros(1, dtype=torch.float64, device=probs.device)
        return Moved(x, RankOne(stay, probs.unsqueeze(0))).to_event(len(shape) - 1)


def over_times(make: Callable[[Tensor], Tensor], s: Tensor, t: Tensor) -> Tensor:
    """A table per batch element, of the time from s to t; made once where all times are one."""
    tau = span(one_time(s, t), one_time(t, s))
    table = make(tau)
    return table.expand(len(t), *table.shape[1:])


def total_rate(terms: tuple[Any, ...]) -> Tensor:
    """The sum of the factors of terms."""
    return torch.stack([term.scale for term in terms]).sum()


# -- translation-invariant ------------------------------------------------------------------------


@dataclass
class Cyclic(Kernel):
    """g: the law of the displacement on a ring, (B, K)."""

    g: Tensor

    def __post_init__(self) -> None:
        self.size = self.g.shape[-1]

    def _read(self, displacement: Tensor) -> Tensor:
        index = displacement % self.size
        return _cast(self.g).gather(1, index.reshape(len(index), -1)).reshape(index.shape)

    def row(self, x: Tensor) -> Tensor:
        return self._read(torch.arange(self.size, device=x.device) - x.unsqueeze(-1))

    def column(self, x: Tensor) -> Tensor:
        return self._read(x.unsqueeze(-1) - torch.arange(self.size, device=x.device))

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda y: self._read(y - x.unsqueeze(-1))

    def times(self, v: Tensor) -> Tensor:
        return convolve_each(v, self.g.to(v))

    def moved(self, x: Tensor) -> Tensor:
        return (x + inverse_cdf(self.g, x)) % self.size


@solves(Increments)
class Circulant(Stateful):
    """Walks on a ring whose rates depend on the increment alone."""

    technique = "convolutions on the ring: a row per time"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.size = _one_size(terms)
        self.steps = {step for term in terms for step in term.steps}

    def branch(self) -> str:
        return f"{self.size} states on a ring, {len(self.steps)} increments"

    def tabulate(self) -> Convolved:
        return Convolved(torch.stack([term.scale * term.rates for term in self.terms]).sum(0))

    def kernel(self, s: Tensor, t: Tensor) -> Cyclic:
        return Cyclic(over_times(self.table(), s, t))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        common = gcd(*self.steps, self.size)
        if common > 1:
            raise Unsolved(f"the limit depends on the start: all increments share {common}")
        rates = self.terms[0].rates
        return self.spread(shape, torch.full_like(rates, 1 / self.size))


def _one_size(terms: tuple[Any, ...]) -> int:
    found = {term.size for term in terms}
    if len(found) > 1:
        raise ValueError(f"chains on different numbers of states in one sum: {sorted(found)}")
    return found.pop()


@dataclass
class Folded(Kernel):
    """g: the law of the displacement on the ring of 2K on which the walk is unfolded."""

    g: Tensor

    def __post_init__(self) -> None:
        self.size = self.g.shape[-1] // 2
        self.ring = Cyclic(self.g)

    def _read(self, x: Tensor, y: Tensor) -> Tensor:
        return self.ring._read(y - x) + self.ring._read(y + x + 1)

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
class Reflected(Stateful):
    """The reflecting walk, as a walk on a ring that is folded."""

    technique = "convolutions on a ring, folded: a row per time"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.size = _one_size(terms)

    def branch(self) -> str:
        return f"{self.size} states on a line"

    def tabulate(self) -> Convolved:
        rates = torch.zeros(2 * self.size, dtype=torch.float64, device=self.terms[0].scale.device)
        rates[1] = rates[-1] = 1.0
        return Convolved(rates)

    def kernel(self, s: Tensor, t: Tensor) -> Folded:
        rate = total_rate(self.terms)
        return Folded(over_times(lambda tau: self.table()(rate * tau), s, t))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        probs = torch.full((self.size,), 1 / self.size, dtype=torch.float64)
        return self.spread(shape, probs.to(self.terms[0].scale.device))


# -- clusters -------------------------------------------------------------------------------------


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
        chances = _cast(self.weights)
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
        stay = _numbers(self.stay, 2)
        return lambda y: self._together(x, y) + torch.where(x == y, stay, 0.0)

    def times(self, v: Tensor) -> Tensor:
        total = v * _numbers(self.stay, 2)
        for level, label in enumerate(self.clusters.labels):
            count = self.clusters.counts[level].to(v)
            sums = v.new_zeros(*v.shape[:2], len(count)).index_add(-1, label, v)
            weight = _cast(self.weights)[:, level].reshape(-1, 1, 1)
            total = total + weight * (sums / count.clamp(min=1))[..., label]
        return total

    def moved(self, x: Tensor) -> Tensor:
        """A level, and a place in its cluster: states of one cluster lie side by side."""
        edges = torch.cat([self.stay.unsqueeze(-1), self.weights], -1).detach().cumsum(-1)
        u = _uniform(x)
        level = torch.searchsorted(edges, u, right=True).clamp(max=edges.shape[-1] - 1)
        found = x
        place = torch.rand(x.shape, dtype=torch.float64, device=x.device)
        flat_start, flat_count = self.clusters.starts.flatten(), self.clusters.lengths.flatten()
        index = (level - 1).clamp(min=0) * self.size + x
        drawn = flat_start[index] + (place * flat_count[index]).long()
        found = self.clusters.order[drawn]
        return torch.where(level == 0, x, found)


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
        self.starts = first.gather(1, labels)
        self.lengths = self.counts.gather(1, labels)


@solves(Clusters)
class Clustered(Stateful):
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
        self.size = _one_size(terms)
        labels = torch.cat([term.labels for term in terms])
        self.owner = [n for n, term in enumerate(terms) for _ in term.labels]
        by_count = labels.amax(1).argsort(stable=True)
        self.owner = [self.owner[i] for i in by_count.tolist()]
        self.clusters = Nested(refined(labels[by_count]))
        self.whole = int(self.clusters.labels[0].max()) == 0

    def branch(self) -> str:
        counts = [int(label.max()) + 1 for label in self.clusters.labels]
        return f"{self.size} states in {' ⊃ '.join(map(str, counts))} clusters"

    def kernel(self, s: Tensor, t: Tensor) -> Tree:
        rates = torch.stack([self.terms[i].scale for i in self.owner])
        # 0 · ∞ at τ = ∞ for a level of rate 0, which is never redrawn
        hazard = torch.where(rates > 0, rates * span(s, t).unsqueeze(-1), 0.0)
        coarser = torch.nn.functional.pad(hazard.cumsum(-1)[..., :-1], (1, 0))
        weights = -torch.expm1(-hazard) * (-coarser).exp()
        return Tree((-hazard.sum(-1)).exp(), weights, self.clusters)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        if not self.whole:
            raise Unsolved("the limit depends on the start: no cluster holds all states")
        probs = torch.full((self.size,), 1 / self.size, dtype=torch.float64)
        return self.spread(shape, probs.to(self.clusters.labels.device))


# -- low rank -------------------------------------------------------------------------------------


@dataclass
class Hops(Kernel):
    """Two hops, any number of times.

    Arguments:
        stay: The chance of no hop, (B,).
        between: The law of the last feature for each first one, (B, r, r), times the chance of a
            hop.
        U: The law of features of states, (K, r).
        V: The law of states of features, (r, K).
    """

    stay: Tensor
    between: Tensor
    U: Rows
    V: Rows

    def __post_init__(self) -> None:
        self.size = len(self.U.table)
        self.stay, self.between = _cast(self.stay), _cast(self.between)
        self.there, self.back = _cast(self.U.table), _cast(self.V.table)

    def _with_stay(self, hops: Tensor, same: Tensor) -> Tensor:
        return hops + torch.where(same, _numbers(self.stay, 2), 0.0)

    def row(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        hops = self.there[x] @ self.between @ self.back
        return self._with_stay(hops, x.unsqueeze(-1) == states)

    def column(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        hops = self.back.mT[x] @ self.between.mT @ self.there.mT
        return self._with_stay(hops, x.unsqueeze(-1) == states)

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        after = (self.there[x] @ self.between).unsqueeze(-2)
        V = self.back.mT
        return lambda y: self._with_stay((after * V[y]).sum(-1), x.unsqueeze(-1) == y)

    def times(self, v: Tensor) -> Tensor:
        hops = v @ self.there.to(v) @ self.between.to(v) @ self.back.to(v)
        return v * self.stay.to(v).reshape(-1, 1, 1) + hops

    def moved(self, x: Tensor) -> Tensor:
        gone = (_uniform(x) >= self.stay.unsqueeze(-1)).flatten().nonzero().squeeze(-1)
        batch = torch.div(gone, x.shape[1], rounding_mode="floor")
        first = pick(self.U.cdf, x.flatten()[gone])
        between = self.between.detach().double().cumsum(-1)
        last = pick(between.flatten(0, 1), batch * between.shape[-1] + first)
        return x.flatten().index_copy(0, gone, pick(self.V.cdf, last)).reshape(x.shape)


class Rows:
    """A table of laws, (R, K), and their distribution functions in float64."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.cdf = table.detach().cumsum(-1)


def pick(cdf: Tensor, rows: Tensor) -> Tensor:
    """One draw from each of some rows of a table of distribution functions, (R, K), (n,) to (n,).

    By bisection, all draws at once.
    """
    size = cdf.shape[-1]
    flat, start = cdf.flatten(), rows * size
    u = torch.rand(rows.shape, dtype=torch.float64, device=rows.device) * flat[start + size - 1]
    low, high = torch.zeros_like(rows), torch.full_like(rows, size - 1)
    for _ in range((size - 1).bit_length()):
        middle = (low + high) // 2
        right = flat[start + middle] <= u
        low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
    return low


@solves(LowRank)
class Features(Stateful):
    """Two hops through features."""

    technique = "uniformization on the features"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.size = _one_size(terms)
        self.rank = sum(term.rank for term in terms)

    def branch(self) -> str:
        return f"{self.size} states, {self.rank} features"

    def tabulate(self) -> tuple[Rows, Rows, Uniformized]:
        rate = total_rate(self.terms)
        share = 1 / torch.where(rate > 0, rate, torch.ones_like(rate))
        U = torch.cat([term.scale * share * term.U for term in self.terms], -1)
        V = torch.cat([term.V for term in self.terms])
        still = torch.eye(self.rank, dtype=U.dtype, device=U.device)
        none = torch.zeros_like(still)
        # Before the first hop, and from then on: a feature waits for it, then walks.
        before, after = torch.cat([-still, still], -1), torch.cat([none, V @ U - still], -1)
        return Rows(U), Rows(V), Uniformized(torch.cat([before, after]))

    def kernel(self, s: Tensor, t: Tensor) -> Hops:
        U, V, chain = self.table()
        rate, r = total_rate(self.terms), self.rank
        between = over_times(lambda tau: chain.matrix(rate * tau)[:, :r, r:], s, t)
        return Hops((-_times(rate, span(s, t))).exp(), between, U, V)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        _, V, chain = self.table()
        rows = chain.limit()[: self.rank, self.rank :]
        apart = float((rows - rows[0]).detach().abs().max())
        if apart > 1e-9 or not chain.converged:
            raise Unsolved(f"the limit depends on the start (by up to {apart:.2g})")
        return self.spread(shape, rows[0] @ V.table)


# -- masks ----------------------------------------------------------------------------------------


@dataclass
class Masked(Kernel):
    """Tokens that move by a kernel and are masked, all at one rate.

    Arguments:
        stay: The chance not to be masked, (B,).
        gone: The chance to be, (B,).
        tokens: The kernel of the tokens.
    """

    stay: Tensor
    gone: Tensor
    tokens: Kernel

    def __post_init__(self) -> None:
        self.mask = self.tokens.size
        self.size = self.mask + 1

    def _token(self, x: Tensor) -> tuple[Tensor, Tensor]:
        masked = x == self.mask
        return torch.where(masked, torch.zeros_like(x), x), masked.unsqueeze(-1)

    def row(self, x: Tensor) -> Tensor:
        token, masked = self._token(x)
        alive = torch.where(masked, 0.0, self.tokens.row(token) * _numbers(self.stay, 2))
        gone = _numbers(self.gone, 2).expand(*x.shape, 1)
        return torch.cat([alive, torch.where(masked, torch.ones_like(gone), gone)], -1)

    def column(self, x: Tensor) -> Tensor:
        token, masked = self._token(x)
        alive = self.tokens.column(token) * _numbers(self.stay, 2)
        gone = _numbers(self.gone, 2).expand(alive.shape)
        return torch.cat([torch.where(masked, gone, alive), masked.to(alive)], -1)

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        token, masked = self._token(x)
        inner, stay, gone = (
            self.tokens.entry(token),
            _numbers(self.stay, 2),
            _numbers(self.gone, 2),
        )

        def read(y: Tensor) -> Tensor:
            to_mask = y == self.mask
            alive = inner(torch.where(to_mask, torch.zeros_like(y), y)) * stay
            found = torch.where(to_mask, gone, alive)
            return torch.where(masked, to_mask.to(found), found)

        return read

    def times(self, v: Tensor) -> Tensor:
        tokens, mask = v[..., :-1], v[..., -1:]
        alive = self.tokens.times(tokens) * _numbers(self.stay, 2).to(v)
        fallen = tokens.sum(-1, keepdim=True) * _numbers(self.gone, 2).to(v)
        return torch.cat([alive, mask + fallen], -1)

    def moved(self, x: Tensor) -> Tensor:
        token, masked = self._token(x)
        stays = (_uniform(x) < self.stay.unsqueeze(-1)) & ~masked.squeeze(-1)
        return torch.where(stays, self.tokens.moved(token), self.mask)


class ToMask(Stateful):
    """What chains that end in a mask have in common."""

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        if not self.ends:
            raise Unsolved("the limit depends on the start: not every token is masked in the end")
        probs = torch.zeros(self.size, dtype=torch.float64, device=self.terms[0].scale.device)
        probs[-1] = 1.0
        return self.spread(shape, probs)

    ends: bool


@solves(Killing)
class Killed(ToMask):
    """Any chain beside a mask."""

    technique = "the chain of the tokens, times a survival"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        inner = terms[0].chain.engine if len(terms) == 1 else None
        return cls(terms) if isinstance(inner, Chain | Replacement) else Finite(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        (self.term,) = terms
        self.size = self.term.size
        self.ends = bool((self.term.rate * self.term.scale).detach() > 0)

    def branch(self) -> str:
        engine = self.term.chain.engine
        return f"state {self.size - 1} is the mask; tokens: {type(engine).__name__}"

    def kernel(self, s: Tensor, t: Tensor) -> Masked:
        own = self.term.scale
        inner = kernel_of(self.term.chain.engine, own * s, own * t)
        hazard = _times(own * self.term.rate, span(s, t))
        return Masked((-hazard).exp(), -torch.expm1(-hazard), inner)


def _times(rate: Tensor, tau: Tensor) -> Tensor:
    """A rate times a time, 0 where the rate is 0 and the time infinite."""
    return torch.where(rate > 0, rate * tau, torch.zeros_like(tau))


@dataclass
class RankOne(Kernel):
    r""":math:`P = \alpha I + \mathbf{1} m^\top`.

    Arguments:
        stay: :math:`\alpha`, (B,).
        law: m, (B or 1, K); its sum is 1 − α.
    """

    stay: Tensor
    law: Tensor

    def __post_init__(self) -> None:
        self.size = self.law.shape[-1]

    def _law(self) -> Tensor:
        return _cast(self.law).unsqueeze(1)

    def _stays(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x == y, _numbers(self.stay, 2), 0.0)

    def row(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        return self._law() + self._stays(x.unsqueeze(-1), states)

    def column(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        law = _cast(self.law).expand(len(x), -1).gather(1, x)
        return law.unsqueeze(-1) + self._stays(x.unsqueeze(-1), states)

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        law = _cast(self.law).expand(len(x), -1)

        def read(y: Tensor) -> Tensor:
            found = law.gather(1, y.reshape(len(y), -1)).reshape(y.shape)
            return found + self._stays(x.unsqueeze(-1), y)

        return read

    def times(self, v: Tensor) -> Tensor:
        stays = v * _numbers(self.stay, 2).to(v)
        return stays + v.sum(-1, keepdim=True) * self._law().to(v)

    def moved(self, x: Tensor) -> Tensor:
        stays = _uniform(x) < self.stay.unsqueeze(-1)
        return torch.where(stays, x, inverse_cdf(self.law, x))


def kernel_of(engine: Any, s: Tensor, t: Tensor) -> Kernel:
    """The kernel of an engine of finite chains."""
    if not isinstance(engine, Replacement):
        return engine.kernel(s, t)
    tau = engine.rate * span(s, t)
    return RankOne((-tau).exp(), -torch.expm1(-tau).unsqueeze(-1) * engine.pi)


@dataclass
class Diagonal(Kernel):
    """Tokens that stand still until they are masked, each at a rate of its own.

    Arguments:
        stay: The chances not to be masked, (B, K).
        gone: The chances to be, (B, K).
    """

    stay: Tensor
    gone: Tensor

    def __post_init__(self) -> None:
        self.mask = self.stay.shape[-1]
        self.size = self.mask + 1
        self.stay = _cast(torch.nn.functional.pad(self.stay, (0, 1), value=1.0))
        self.gone = _cast(torch.nn.functional.pad(self.gone, (0, 1), value=0.0))

    def _entry(self, x: Tensor, y: Tensor) -> Tensor:
        """For x and y of one shape (B, …)."""
        index = x.reshape(len(x), -1)
        stay = self.stay.gather(1, index).reshape(x.shape)
        gone = self.gone.gather(1, index).reshape(x.shape)
        return torch.where(x == y, stay, 0.0) + torch.where(y == self.mask, gone, 0.0)

    def row(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        return self._entry(*torch.broadcast_tensors(x.unsqueeze(-1), states))

    def column(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        return self._entry(*reversed(torch.broadcast_tensors(x.unsqueeze(-1), states)))

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda y: self._entry(x.unsqueeze(-1).expand(y.shape), y)

    def times(self, v: Tensor) -> Tensor:
        alive = v * self.stay.unsqueeze(1).to(v)
        fallen = (v * self.gone.unsqueeze(1).to(v)).sum(-1, keepdim=True)
        return torch.cat([alive[..., :-1], alive[..., -1:] + fallen], -1)

    def moved(self, x: Tensor) -> Tensor:
        return torch.where(_uniform(x) < self.stay.gather(1, x), x, self.mask)


@solves(Masking)
class MaskedEach(ToMask):
    """Every token is masked at a rate of its own."""

    technique = "closed form, a survival per token"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.size = _one_size(terms)
        late = torch.full((1,), 1e3, dtype=torch.float64, device=terms[0].scale.device)
        self.ends = bool((self._hazard(torch.zeros_like(late), late).detach() > 0).all())

    def branch(self) -> str:
        return f"state {self.size - 1} is the mask"

    def _hazard(self, s: Tensor, t: Tensor) -> Tensor:
        total: Any = 0.0
        for term in self.terms:
            if term.function is None:
                total = total + _times(term.scale * term.rates, span(s, t).unsqueeze(-1))
            else:
                total = total + term.scale * span(term.integrated(s), term.integrated(t))
        return total

    def kernel(self, s: Tensor, t: Tensor) -> Diagonal:
        hazard = self._hazard(s, t)
        return Diagonal((-hazard).exp(), -torch.expm1(-hazard))

    def decays(self, head: Any) -> bool:
        at_mask = head.kind is Posterior and self.size - 1 in head.absent
        return at_mask or super().decays(head)


# -- products and mixtures ------------------------------------------------------------------------


@dataclass
class Factors(Kernel):
    """Independent factors of one state.

    Arguments:
        term: Knows how states are made of factors.
        kernels: One per factor.
    """

    term: Kronecker
    kernels: list[Kernel]

    def __post_init__(self) -> None:
        self.size = self.term.size

    def _outer(self, each: list[Tensor]) -> Tensor:
        table = each[0]
        for other in each[1:]:
            table = (table.unsqueeze(-1) * other.unsqueeze(-2)).flatten(-2)
        return table

    def row(self, x: Tensor) -> Tensor:
        pairs = zip(self.kernels, self.term.parts(x), strict=True)
        return self._outer([kernel.row(part) for kernel, part in pairs])

    def column(self, x: Tensor) -> Tensor:
        pairs = zip(self.kernels, self.term.parts(x), strict=True)
        return self._outer([kernel.column(part) for kernel, part in pairs])

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        pairs = zip(self.kernels, self.term.parts(x), strict=True)
        readers = [kernel.entry(part) for kernel, part in pairs]

        def read(y: Tensor) -> Tensor:
            each = [f(part) for f, part in zip(readers, self.term.parts(y), strict=True)]
            return torch.stack(each).prod(0)

        return read

    def times(self, v: Tensor) -> Tensor:
        shape = v.shape
        for kernel, side, stride in zip(
            self.kernels, self.term.sides, self.term.strides, strict=True
        ):
            parts = v.reshape(*shape[:2], -1, side, stride).transpose(-1, -2)
            moved = kernel.times(parts.reshape(shape[0], -1, side)).reshape(parts.shape)
            v = moved.transpose(-1, -2).reshape(shape)
        return v

    def moved(self, x: Tensor) -> Tensor:
        pairs = zip(self.kernels, self.term.parts(x), self.term.strides, strict=True)
        return torch.stack([stride * kernel.moved(part) for kernel, part, stride in pairs]).sum(0)


@solves(Kronecker)
class Factored(Stateful):
    """Independent chains in the factors of one state."""

    technique = "a kernel per factor"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        inner = [chain.engine for chain in terms[0].chains] if len(terms) == 1 else [None]
        known = all(isinstance(engine, Chain | Replacement) for engine in inner)
        return cls(terms) if known else Finite(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        (self.term,) = terms
        self.size = self.term.size

    @property
    def inner(self) -> list[Any]:
        """The engines of the factors."""
        return [chain.engine for chain in self.term.chains]

    def branch(self) -> str:
        names = " ⊗ ".join(type(engine).__name__ for engine in self.inner)
        return f"{' × '.join(map(str, self.term.sides))} states: {names}"

    def kernel(self, s: Tensor, t: Tensor) -> Factors:
        own = self.term.scale
        return Factors(self.term, [kernel_of(e, own * s, own * t) for e in self.inner])

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        each = [engine.limit((1,)).probs[0].double() for engine in self.inner]
        table = each[0]
        for other in each[1:]:
            table = torch.outer(table, other).flatten()
        return self.spread(shape, table)


@solves(Interpolate)
class Interpolated(Stateful):
    """Replacement by draws of a law that varies in time."""

    technique = "closed form, no K×K matrix"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        return cls(terms) if len(terms) == 1 and not bool(terms[0].scale != 1) else Finite(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        (self.term,) = terms
        self.size = self.term.size

    def branch(self) -> str:
        return f"{self.size} states, π varies"

    def _mixed(self, t: Tensor) -> Tensor:
        """The mass of each state that is not the datum, (B, K)."""
        return -torch.expm1(-t).unsqueeze(-1) * self.term.function(t)

    def kernel(self, s: Tensor, t: Tensor) -> RankOne:
        stay = (-span(s, t)).exp()
        law = self._mixed(t) - stay.unsqueeze(-1) * self._mixed(s)
        return RankOne(stay, law.clamp(min=0))  # v ≥ 0 was found at declaration: rounding alone

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        end = torch.full((1,), torch.inf, dtype=torch.float64, device=self.term.scale.device)
        probs = self.term.function(end)[0]
        if not bool(probs.isfinite().all()):
            raise Unsolved("there is no limit law: pi has no value at t = ∞")
        return self.spread(shape, probs)
