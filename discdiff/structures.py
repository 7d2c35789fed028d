r"""Chains on finitely many states whose rates have structure: no K×K matrix is written down.

| term | moves | per token |
|---|---|---|
| `Increments`, `Ring` | x → x + j on a ring, at rates by j alone | a row of K numbers per time |
| `Reflecting` | to a neighbour, and not beyond the ends | a row of 2K numbers per time |
| `BirthDeath` | to a neighbour, towards a given law | a dense table, once |
| `Clusters` | to anywhere in the same cluster, at several levels | one draw of a level |
| `LowRank` | to a feature and on to a state that has it | a few draws of features |
| `Masking`, `Killing` | to a mask, beside any other chain | as the other chain |
| `Kronecker` | in one factor of the state at a time | as the factors |
| `Interpolate` | to a draw of a law that varies in time | one draw of that law |
| `Sparse` | along the edges of a graph | simulated, where K is large |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .numerics.autodiff import slope
from .params import declare, nonnegative, probabilities, stochastic
from .process import Generator
from .terms import (
    FiniteJump,
    Function,
    Jump,
    Numbers,
    require_function,
    require_nonnegative,
    require_simplex,
)
from .validation import require, shown


def _size(K: Any, least: int) -> int:
    whole = isinstance(K, int) and not isinstance(K, bool) and least <= K
    require(whole, f"K must be an integer ≥ {least}; it is {K!r}")
    return int(K)


class Increments(FiniteJump):
    r"""Jumps on a ring whose rates depend on the increment alone.

    .. math:: (L f)(x) = \sum_j r_j \, (f(x + j \bmod K) - f(x))

    Arguments:
        K: The number of states.
        rates: The rates :math:`r_j` of x → x + j mod K, shape (K,); :math:`r_0` does not count.

    Raises:
        ValueError: If the shape is not (K,) or a rate is negative.

    Example:
        >>> turn = Increments(4, [0.0, 1.0, 0.0, 0.0])
        >>> turn.transition(torch.tensor([3]), 0.0, 0.5).probs
        tensor([[0.3034, 0.0758, 0.0126, 0.6081]])
    """

    arg_constraints = {"rates": nonnegative}
    rates: Tensor

    def __init__(self, K: int, rates: Numbers) -> None:
        super().__init__()
        self.size = _size(K, 2)
        declare(self, "rates", rates)
        shape = tuple(self.rates.shape)
        require(shape == (K,), f"rates must have the shape ({K},); it is {shape}")
        require_nonnegative(self.rates, "rates")
        moves = self.rates.detach() > 0
        moves[0] = False
        self.steps = tuple(moves.nonzero().squeeze(-1).tolist())

    def _jumps(self, x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        steps = torch.tensor(self.steps, dtype=torch.int64, device=x.device)
        points = (x.unsqueeze(-1) + sign * steps) % self.size
        return points, self.rates[steps].expand(points.shape)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._jumps(x, 1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._jumps(x, -1)

    def extra_repr(self) -> str:
        return f"{self.size}, {len(self.steps)} increments"


class Ring(Increments):
    """The walk on a ring of K states, at unit rate to each of the two neighbours.

    Arguments:
        K: The number of states, at least 3.

    Example:
        >>> Ring(5).limit((1,)).probs
        tensor([[0.2000, 0.2000, 0.2000, 0.2000, 0.2000]])
    """

    def __init__(self, K: int) -> None:
        K = _size(K, 3)
        rates = torch.zeros(K, dtype=torch.float64)
        rates[1] = rates[-1] = 1.0
        super().__init__(K, rates)

    def extra_repr(self) -> str:
        return f"{self.size}"


class Neighbours(FiniteJump):
    """Jumps to x + 1 and x − 1 on 0 … K−1; at an end the one outward does not occur."""

    def up(self) -> Tensor:
        """The rates of x → x + 1 for x = 0 … K−2, shape (K − 1,)."""
        raise NotImplementedError

    def down(self) -> Tensor:
        """The rates of x + 1 → x for x = 0 … K−2, shape (K − 1,)."""
        raise NotImplementedError

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._points(x), self._rates(x, self.up(), self.down())

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._points(x), self._rates(x, self.down(), self.up())

    def _points(self, x: Tensor) -> Tensor:
        both = torch.stack([x + 1, x - 1], -1)
        return both.clamp(0, self.size - 1)  # beyond an end it is x itself, which is no jump

    def _rates(self, x: Tensor, above: Tensor, below: Tensor) -> Tensor:
        """The rates on the edge above x and on the edge below it."""
        zero = above.new_zeros(1)
        padded = torch.cat([zero, below]), torch.cat([above, zero])
        return torch.stack([padded[1][x], padded[0][x]], -1)


class Reflecting(Neighbours):
    """The walk on 0 … K−1, at unit rate to each neighbour: ordinal noise.

    Arguments:
        K: The number of states.

    Example:
        >>> Reflecting(3).transition(torch.tensor([0]), 0.0, 0.5).probs
        tensor([[0.6738, 0.2590, 0.0673]])
    """

    def __init__(self, K: int) -> None:
        super().__init__()
        self.size = _size(K, 2)

    def up(self) -> Tensor:
        return torch.ones(self.size - 1, dtype=torch.float64, device=self.scale.device)

    down = up

    def extra_repr(self) -> str:
        return f"{self.size}"


class BirthDeath(Neighbours):
    r"""The walk to neighbours that is reversible with respect to a given law.

    .. math:: r(i \to i + 1) = \sqrt{\pi_{i+1} / \pi_i}, \qquad
              r(i + 1 \to i) = \sqrt{\pi_i / \pi_{i+1}}

    With a discretised Gaussian it is ordinal noise that forgets towards the middle.

    Arguments:
        pi: The law, positive probabilities of shape (K,).

    Raises:
        ValueError: If an entry is not positive or the sum is not one.

    References:
        | A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022)

    Example:
        >>> BirthDeath([0.2, 0.5, 0.3]).limit((1,)).probs
        tensor([[0.2000, 0.5000, 0.3000]])
    """

    arg_constraints = {"pi": probabilities}
    pi: Tensor

    def __init__(self, pi: Numbers) -> None:
        super().__init__()
        pi = torch.as_tensor(pi, dtype=torch.float64)
        require_simplex(pi.detach(), "pi")
        require(bool((pi > 0).all()), f"pi must be positive everywhere; it is {shown(pi, 8)}")
        require(len(pi) > 1, "pi must have at least two states")
        declare(self, "pi", pi)
        self.size = len(pi)

    def up(self) -> Tensor:
        return (self.pi[1:] / self.pi[:-1]).sqrt()

    def down(self) -> Tensor:
        return (self.pi[:-1] / self.pi[1:]).sqrt()

    def extra_repr(self) -> str:
        return f"{self.size}"


class Clusters(FiniteJump):
    r"""Redraws within nested clusters: a tree of similarity.

    .. math:: (L f)(x) = \sum_l \Big( \frac{1}{|C_l(x)|} \sum_{y \in C_l(x)} f(y) - f(x) \Big)

    Every level redraws a state uniformly within its cluster, at unit rate. Levels of other rates
    are sums, ``0.1 * Clusters([all_one]) + Clusters([groups])``, as long as they are nested.

    Arguments:
        levels: Labels of shape (L, K), coarse to fine: states of one cluster have one label.

    Raises:
        ValueError: If labels are no integers, or a cluster does not lie within one of the level
            before.

    Example:
        >>> tree = Clusters([[0, 0, 0, 0], [0, 0, 1, 1]])
        >>> tree.transition(torch.tensor([0]), 0.0, 1.0).probs
        tensor([[0.4096, 0.2743, 0.1580, 0.1580]])
    """

    labels: Tensor

    def __init__(self, levels: Sequence[Any] | Tensor) -> None:
        super().__init__()
        each = [torch.as_tensor(level) for level in levels]
        require(len(each) > 0, "levels must hold at least one vector of labels")
        shapes = [tuple(level.shape) for level in each]
        same = len(set(shapes)) == 1 and len(shapes[0]) == 1
        found = ", ".join(map(str, shapes[:4])) + (", …" if len(shapes) > 4 else "")
        require(same, f"levels must be vectors (K,) of one length; their shapes are {found}")
        for k, level in enumerate(each):
            whole = bool((level == level.long()).all())
            require(whole, f"levels must hold integer labels; level {k} is {shown(level, 8)}")
        labels = torch.stack([level.long() for level in each])
        self.register_buffer("labels", refined(labels))
        self.size = labels.shape[1]

    def rows(self, x: Tensor) -> Tensor:
        """The rates from x to every state, shape (*x.shape, K)."""
        counts = sizes(self.labels)
        total = torch.zeros(*x.shape, self.size, dtype=torch.float64, device=x.device)
        for label, count in zip(self.labels, counts, strict=True):
            total = total + (label[x].unsqueeze(-1) == label) / count[label[x]].unsqueeze(-1)
        return total

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.states(x), self.rows(x)

    into = out  # rates are symmetric

    def extra_repr(self) -> str:
        return f"{len(self.labels)} levels of {self.size} states"


def refined(labels: Tensor) -> Tensor:
    """Labels (L, K) numbered 0, 1, … at each level, after it was checked that they are nested."""
    found = [level.unique(return_inverse=True)[1] for level in labels]
    for k, (coarse, fine) in enumerate(zip(found[:-1], found[1:], strict=True)):
        first = torch.zeros(int(fine.max()) + 1, dtype=torch.int64).scatter(0, fine, coarse)
        bad = (first[fine] != coarse).nonzero().flatten().tolist()
        require(
            not bad,
            f"levels must be nested, coarse to fine: the cluster of state {bad[:1]} at level "
            f"{k + 1} has states of several clusters of level {k}",
        )
    return torch.stack(found)


def sizes(labels: Tensor) -> Tensor:
    """How many states have each label, (L, K) float64, by label."""
    ones = torch.ones(labels.shape, dtype=torch.float64, device=labels.device)
    return torch.zeros_like(ones).scatter_add(1, labels, ones)


class LowRank(FiniteJump):
    r"""Two hops, from a state to a feature and on to a state that has it, at unit rate.

    .. math:: Q = U W^\top - I

    Arguments:
        U: The law of the feature of each state, shape (K, r); rows sum to one.
        W: The law of the state for each feature, shape (K, r); columns sum to one.

    Raises:
        ValueError: If shapes differ, an entry is negative or a law does not sum to one.

    Example:
        >>> U = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
        >>> W = [[0.5, 0.0], [0.5, 0.2], [0.0, 0.8]]
        >>> LowRank(U, W).transition(torch.tensor([0]), 0.0, 1.0).probs
        tensor([[0.6432, 0.2916, 0.0651]])
    """

    arg_constraints = {"U": stochastic, "V": stochastic}
    U: Tensor
    V: Tensor  # the transpose of W, so that laws are rows

    def __init__(self, U: Numbers, W: Numbers) -> None:
        super().__init__()
        rounding = max(_eps(U), _eps(W))
        U, W = (torch.as_tensor(v, dtype=torch.float64) for v in (U, W))
        shapes = tuple(U.shape), tuple(W.shape)
        require(
            len(shapes[0]) == 2 and shapes[0] == shapes[1],
            f"U and W must have one shape (K, r); their shapes are {shapes[0]} and {shapes[1]}",
        )
        for name, value, sums in (("U", U, U.sum(1)), ("W", W, W.sum(0))):
            require_nonnegative(value.detach(), name)
            worst = float((sums.detach() - 1).abs().max())
            axis = "rows" if name == "U" else "columns"
            off = worst > max(1e-6, rounding * len(U) ** 0.5)
            require(not off, f"{axis} of {name} must sum to one; they are off by {worst:g}")
        declare(self, "U", U / U.sum(1, keepdim=True))
        declare(self, "V", (W / W.sum(0)).T)
        self.size, self.rank = shapes[0]

    @property
    def W(self) -> Tensor:
        """The law of the state for each feature, shape (K, r)."""
        return self.V.mT

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.states(x), self.U[x] @ self.V

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.states(x), self.W[x] @ self.U.mT

    def extra_repr(self) -> str:
        return f"{self.size} states, {self.rank} features"


def _eps(value: Any) -> float:
    """The rounding of the numbers of a tensor."""
    single = isinstance(value, Tensor) and value.is_floating_point()
    return torch.finfo(value.dtype).eps if single else 0.0


class Masking(FiniteJump):
    r"""Every token is masked at a rate of its own; the mask K is the last of K + 1 states.

    .. math:: (L f)(x) = w_x \, (f(K) - f(x)), \qquad x < K

    Arguments:
        rates: The rates :math:`w_x`, shape (K,); or a function of own time (B,) that returns the
            integrated rates :math:`\int_0^t w_x`, shape (B, K), as a clock per token does.

    Raises:
        ValueError: If a rate is negative, or the function does not start at 0 or decreases.

    References:
        | Simplified and Generalized Masked Diffusion for Discrete Data (Shi et al., 2024)

    Example:
        >>> Masking([1.0, 3.0]).transition(torch.tensor([0, 1, 2]), 0.0, 0.5).probs
        tensor([[0.6065, 0.0000, 0.3935],
                [0.0000, 0.2231, 0.7769],
                [0.0000, 0.0000, 1.0000]])
    """

    arg_constraints = {"rates": nonnegative}
    rates: Tensor

    def __init__(self, rates: Numbers | Function) -> None:
        super().__init__()
        self.function = rates if callable(rates) else None
        if self.function is None:
            declare(self, "rates", rates)
            require_nonnegative(self.rates, "rates")
            first = self.rates.unsqueeze(0)
        else:
            first = _from_zero(self.function)
        require(
            first.dim() == 2, f"rates must be a vector (K,); its shape is {tuple(first.shape)}"
        )
        self.size = first.shape[-1] + 1

    def varies(self) -> bool:
        return self.function is not None

    def integrated(self, t: Tensor) -> Tensor:
        """The integrated rates at own times (B,), shape (B, K)."""
        return t.unsqueeze(-1) * self.rates if self.function is None else self.function(t)

    def frozen(self, t: Tensor) -> Jump:
        if self.function is None:
            return self
        clone = self._copy()
        vars(clone).update(function=None, rates=slope(self.function, t))
        return clone

    def _rate(self, x: Tensor) -> Tensor:
        """The rate of x itself, zero at the mask."""
        rates = torch.nn.functional.pad(self.rates, (0, 1))
        return rates[x] if rates.dim() == 1 else _by_batch(rates, x)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(x, self.size - 1).unsqueeze(-1), self._rate(x).unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rates = torch.nn.functional.pad(self.rates, (0, 1))
        if rates.dim() > 1:
            rates = rates.reshape(len(rates), *(1,) * (x.dim() - 1), self.size)
        masked = (x == self.size - 1).unsqueeze(-1)
        return self.states(x), torch.where(masked, rates, 0.0).expand(*x.shape, self.size)

    def extra_repr(self) -> str:
        return f"{self.size - 1} tokens"


def _from_zero(function: Function) -> Tensor:
    """The first value of integrated rates, after it was checked that they start and grow well."""
    first = require_function(function, "rates")
    require(not bool(first.ne(0).any()), f"integrated rates must start at 0; {shown(first, 4)}")
    t = torch.linspace(0, 4, 65, dtype=torch.float64)
    require(bool((function(t).diff(dim=0) >= 0).all()), "integrated rates must not decrease")
    return first


def _by_batch(table: Tensor, x: Tensor) -> Tensor:
    """Entries x of a vector per batch element, (B, K) and (B, *sites) to (B, *sites)."""
    return table.gather(1, x.reshape(len(x), -1)).reshape(x.shape)


def jumps_of(terms: Sequence[Any], verb: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The points and rates of all jumps of a sum, into x or out of it."""
    points, rates = [], []
    for term in terms:
        y, rate = getattr(term, verb)(x)
        points.append(y)
        rates.append(term.scale * rate.expand(y.shape))
    return torch.cat(points, -1), torch.cat(rates, -1)


class Killing(FiniteJump):
    r"""Any chain of tokens, each of which is masked at a common rate.

    .. math:: (L f)(x) = (L_{\text{chain}} f)(x) + w \, (f(K) - f(x)), \qquad x < K

    The mask K is the last of K + 1 states, and stays.

    Arguments:
        chain: A chain on K states: a term, or a sum of terms.
        rate: The rate w.

    Raises:
        ValueError: If the chain has other than a finite number of states, or the rate is negative.

    Example:
        >>> Killing(Reflecting(3)).transition(torch.tensor([0]), 0.0, 0.5).probs
        tensor([[0.4087, 0.1571, 0.0408, 0.3935]])
    """

    arg_constraints = {"rate": nonnegative}
    chain: Generator
    rate: Tensor

    def __init__(self, chain: Generator, rate: float | Tensor = 1.0) -> None:
        super().__init__()
        self.chain = _chain(chain, "chain")
        declare(self, "rate", rate)
        require(
            self.rate.dim() == 0, f"rate must be a number; its shape is {tuple(self.rate.shape)}"
        )
        require_nonnegative(self.rate, "rate")
        self.size = chain.terms[0].size + 1

    def varies(self) -> bool:
        return any(term.varies() for term in self.chain.terms)

    def frozen(self, t: Tensor) -> Jump:
        if not self.varies():
            return self
        clone = self._copy()
        vars(clone)["held"] = [term.frozen(t) for term in self.chain.terms]
        return clone

    @property
    def _terms(self) -> Sequence[Any]:
        return vars(self).get("held", self.chain.terms)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        masked, rate = x == self.size - 1, self.rate.expand(x.shape)
        points, rates = self._inner("out", x)
        points = torch.cat([points, torch.full_like(x, self.size - 1).unsqueeze(-1)], -1)
        rates = torch.cat([rates, torch.where(masked, 0.0, rate).unsqueeze(-1)], -1)
        return points, rates

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        masked = (x == self.size - 1).unsqueeze(-1)
        points, rates = self._inner("into", x)
        tokens = self.states(x)[..., :-1]
        deaths = torch.where(masked, self.rate, 0.0).expand(tokens.shape)
        return torch.cat([points, tokens], -1), torch.cat([rates, deaths], -1)

    def _inner(self, verb: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """The jumps of the chain; none at the mask."""
        masked = x == self.size - 1
        token = torch.where(masked, torch.zeros_like(x), x)
        points, rates = jumps_of(self._terms, verb, token)
        masked = masked.unsqueeze(-1)
        return torch.where(masked, x.unsqueeze(-1), points), torch.where(masked, 0.0, rates)

    def extra_repr(self) -> str:
        return f"{self.chain!r}, {float(self.rate.detach()):g}"


def _chain(chain: Any, name: str) -> Any:
    """A sum of finite jumps, after it was checked that it is one."""
    terms = chain.terms if isinstance(chain, Generator) else ()
    finite = len(terms) > 0 and all(isinstance(term, FiniteJump) for term in terms)
    require(finite, f"{name} must be a chain on finitely many states; it is {chain!r}")
    require(
        not any(getattr(term, "sites", ()) for term in terms),
        f"{name} must have one state per site; {chain!r} couples sites",
    )
    return chain


class Kronecker(FiniteJump):
    r"""Independent chains in the factors of one state, such as octave and pitch class.

    .. math:: x = \sum_i x_i \prod_{j > i} K_j, \qquad L = \sum_i L_i, \qquad
              P = P_1 \otimes P_2 \otimes \cdots

    Arguments:
        chains: The chains of the factors, most significant first.

    Example:
        >>> note = Kronecker(Reflecting(2), Ring(3))
        >>> note.size
        6
    """

    def __init__(self, *chains: Generator) -> None:
        super().__init__()
        require(len(chains) > 1, "a Kronecker product needs at least two chains")
        self.chains = torch.nn.ModuleList([_chain(c, f"chain {i}") for i, c in enumerate(chains)])
        self.sides = tuple(c.terms[0].size for c in chains)
        self.size = torch.Size(self.sides).numel()

    @property
    def strides(self) -> tuple[int, ...]:
        """How far a step of each factor leads."""
        return tuple(torch.Size(self.sides[i + 1 :]).numel() for i in range(len(self.sides)))

    def parts(self, x: Tensor) -> list[Tensor]:
        """The factors of states."""
        each = zip(self.strides, self.sides, strict=True)
        return [x.div(stride, rounding_mode="floor") % side for stride, side in each]

    def varies(self) -> bool:
        return any(term.varies() for chain in self._factors for term in chain.terms)

    def frozen(self, t: Tensor) -> Jump:
        if not self.varies():
            return self
        clone = self._copy()
        vars(clone)["held"] = [[term.frozen(t) for term in c.terms] for c in self._factors]
        return clone

    @property
    def _factors(self) -> list[Any]:
        return list(self.chains)

    def _jumps(self, verb: str, x: Tensor) -> tuple[Tensor, Tensor]:
        points, rates = [], []
        held = vars(self).get("held", [c.terms for c in self._factors])
        for terms, stride, part in zip(held, self.strides, self.parts(x), strict=True):
            y, rate = jumps_of(terms, verb, part)
            points.append(x.unsqueeze(-1) + stride * (y - part.unsqueeze(-1)))
            rates.append(rate)
        return torch.cat(points, -1), torch.cat(rates, -1)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._jumps("out", x)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._jumps("into", x)

    def extra_repr(self) -> str:
        return ", ".join(repr(c) for c in self.chains)


class Interpolate(FiniteJump):
    r"""A state that is still the datum, or a draw of a law that varies in time.

    .. math:: q(x_t \mid x_0) = e^{-t} \delta_{x_0} + (1 - e^{-t})\, \pi_t

    This is replacement at unit rate by draws of :math:`v_t = \pi_t + (1 - e^{-t})\, \pi_t'`, so it
    is a process if and only if :math:`v_t \ge 0`. With :math:`\pi` constant it is `Replace`.

    Arguments:
        pi: A function of own times (B,), differentiable, that returns :math:`\pi_t`, shape (B, K).

    Raises:
        ValueError: If :math:`\pi_t` is no law, or :math:`v_t < 0` at a time that is looked at: 257
            survivals :math:`e^{-t}` between 0 and 1.

    References:
        | Generalized Interpolating Discrete Diffusion (von Rütte et al., 2025)

    Example:
        >>> def pi(t):
        ...     share = (-t).exp().unsqueeze(-1)
        ...     return torch.cat([0.5 * share, 1 - 0.5 * share], -1)
        >>> Interpolate(pi).transition(torch.tensor([0]), 0.0, 1.0).probs
        tensor([[0.4842, 0.5158]])
    """

    def __init__(self, pi: Function) -> None:
        super().__init__()
        require(callable(pi), f"pi must be a function of own time; it is {pi!r}")
        self.function = pi
        if isinstance(pi, torch.nn.Module):
            self.add_module("pi_of_time", pi)
        first = require_function(pi, "pi")
        require(first.dim() == 2, f"pi must return (B, K); at one time it is {tuple(first.shape)}")
        self.size = first.shape[-1]
        survival = torch.linspace(1, 2**-40, 257, dtype=torch.float64)
        t = -survival.log()
        for law in pi(t).detach()[::64]:
            require_simplex(law, "pi")
        v = self.replacement(t).detach()
        bad = v < -1e-9
        at, state = bad.nonzero()[0].tolist() if bool(bad.any()) else (0, 0)
        require(
            not bool(bad.any()),
            f"pi + (1 − e^(−t)) pi' must be ≥ 0 for a process to exist; at own time "
            f"{float(t[at]):.3g} it is {float(v[at, state]):.3g} in state {state}",
        )

    def varies(self) -> bool:
        return True

    def replacement(self, t: Tensor) -> Tensor:
        """The law :math:`v_t` of a replacement at own times (B,), shape (B, K)."""
        return self.function(t) - torch.expm1(-t).unsqueeze(-1) * slope(self.function, t)

    def frozen(self, t: Tensor) -> Jump:
        clone = self._copy()
        vars(clone)["law"] = self.replacement(t)
        return clone

    def _law(self, x: Tensor) -> Tensor:
        """The replacement law at the frozen time, against states."""
        require("law" in vars(self), "the rates of Interpolate vary: freeze them at a time")
        law = vars(self)["law"]
        return law.reshape(len(law), *(1,) * (x.dim() - 1), self.size)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.states(x), self._law(x).expand(*x.shape, self.size)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        law = self._law(x).expand(*x.shape, self.size).gather(-1, x.unsqueeze(-1))
        return self.states(x), law.expand(*x.shape, self.size)

    def extra_repr(self) -> str:
        return f"{self.size} states"


class Sparse(FiniteJump):
    r"""Jumps along the edges of a graph, such as nearest neighbours of token embeddings.

    .. math:: (L f)(x) = \sum_y Q_{xy} \, (f(y) - f(x))

    While the graph is small its chain is solved densely. Beyond, it is simulated: it trains by
    `ratio_matching` or implicit scores, which need states at time t and no transition law.

    Arguments:
        Q: Rates of x → y, shape (K, K), sparse (COO or CSR) or dense; the diagonal is ignored.

    Raises:
        ValueError: If Q is not square or a rate is negative.

    Example:
        >>> Sparse(torch.tensor([[0.0, 1.0], [2.0, 0.0]])).out(torch.tensor([1]))
        (tensor([[0]]), tensor([[2.]], dtype=torch.float64))
    """

    arg_constraints = {"rates": nonnegative}
    rates: Tensor

    def __init__(self, Q: Tensor) -> None:
        super().__init__()
        require(isinstance(Q, Tensor), f"Q must be a tensor; it is a {type(Q).__name__}")
        square = Q.dim() == 2 and Q.shape[0] == Q.shape[1]
        require(square, f"Q must be a square matrix; its shape is {tuple(Q.shape)}")
        edges = (Q if Q.layout == torch.sparse_coo else Q.to_sparse_coo()).double().coalesce()
        here, there = edges.indices()
        keep = (here != there) & (edges.values() != 0)
        self.size = Q.shape[0]
        declare(self, "rates", edges.values()[keep])
        require_nonnegative(self.rates, "Q")
        for name, value in (("here", here[keep]), ("there", there[keep])):
            self.register_buffer(name, value)
        for name, ends in (("leaving", here[keep]), ("arriving", there[keep])):
            self.register_buffer(name, _padded(ends, self.size))

    def _jumps(self, x: Tensor, edges: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        index = edges[x]
        missing = index == len(self.rates)
        points = torch.cat([ends, ends.new_zeros(1)])[index]
        rates = torch.cat([self.rates, self.rates.new_zeros(1)])[index]
        return torch.where(missing, x.unsqueeze(-1), points), rates

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._jumps(x, self.leaving, self.there)  # type: ignore[arg-type]

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._jumps(x, self.arriving, self.here)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"{self.size} states, {len(self.rates)} edges"


def _padded(ends: Tensor, size: int) -> Tensor:
    """The edges that end at each state, (K, most), filled up with the number of edges."""
    order = ends.argsort(stable=True)
    counts = torch.bincount(ends, minlength=size)
    place = torch.arange(len(ends)) - (counts.cumsum(0) - counts)[ends[order]]
    table = torch.full((size, int(counts.max()) if len(ends) else 0), len(ends))
    table[ends[order], place] = order
    return table
