r"""What can be said of a linear diffusion from its numbers alone.

For :math:`dy = A y\, dt + B\, dW` in its own time,

* the law is stationary in the end iff the spectral abscissa
  :math:`\max \operatorname{Re} \lambda(A)` is negative, and its covariance solves
  :math:`A S + S A^\top + B B^\top = 0`;
* noise reaches coordinate i through the drift: with m the least power for which row i of
  :math:`A^m B` is not zero, :math:`\Sigma_{ii} \sim c\, t^{2 m + 1}`;
* noise reaches all directions iff :math:`(B, A B, …, A^{k - 1} B)` has rank k (Kalman).

References:
    | Contributions to the theory of optimal control (Kalman, 1960)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from . import laws
from .clock import LAST
from .numerics.systems import lyapunov
from .process import Leaf, LiftedSum
from .solve import Unsolved
from .terms import LinearDrift, WhiteNoise

TINY = 1e-12  # what rounding may leave of a zero, relative to the norms of the factors


@dataclass(frozen=True)
class Diagnosis:
    r"""What is known of a linear diffusion; None where it does not apply.

    Arguments:
        abscissa: The spectral abscissa of A; None for functions of time.
        stationary: The stationary covariance S, (k, k).
        orders: For each coordinate the power of own time with which its variance grows at first;
            None for one that noise does not reach.
        rank: The rank of the controllability matrix, k if noise reaches every direction.
        lift: The largest share of the stationary variance with which an auxiliary starts.
        settled: Whether auxiliaries start from their stationary law.
        end: :math:`\Lambda(1)`; None in own time.
        left: :math:`P_{11}`, what is left at t = 1 of a first coordinate of one.
        variance: :math:`\Sigma_{11}`, the variance of the first coordinate there.
        prior_kl: The divergence from the prior at t = 1, for data that are all one, in nats per
            entry of the data.
    """

    abscissa: float | None = None
    stationary: Tensor | None = None
    orders: tuple[int | None, ...] | None = None
    rank: int | None = None
    lift: float | None = None
    settled: bool | None = None
    end: float | None = None
    left: float | None = None
    variance: float | None = None
    prior_kl: float | None = None

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the table of `explain`, by name."""
        found = (
            ("drift", self._drift()),
            ("noise", self._noise()),
            ("lift", self._lift()),
            ("end", self._end()),
        )
        return [(name, text) for name, text in found if text]

    def _drift(self) -> str:
        if self.abscissa is None:
            return ""
        verdict = "stable" if self.stationary is not None else "not stable, nothing is stationary"
        return f"spectral abscissa {self.abscissa:.4g}: {verdict}"

    def _noise(self) -> str:
        if self.orders is None:
            return ""
        if len(self.orders) == 1:
            return "enters as Λ" if self.orders[0] else "there is none"
        groups: dict[int | None, list[str]] = {}
        for i, order in enumerate(self.orders):
            groups.setdefault(order, []).append(str(i + 1))
        parts = [
            f"{_several(where)} {'as Λ' + _power(order) if order else 'never'}"
            for order, where in groups.items()
        ]
        size = len(self.orders)
        kind = "controllable" if self.rank == size else "not controllable"
        return f"enters {', '.join(parts)}; {kind} (rank {self.rank} of {size})"

    def _lift(self) -> str:
        if self.settled is None:
            return ""
        if self.settled:
            return "auxiliaries start from their stationary law"
        if self.lift is None:
            return "auxiliaries start from a law of their own"
        return f"auxiliaries start with at most {self.lift:.4g} of their stationary variance"

    def _end(self) -> str:
        if self.end is None:
            return ""
        end = "∞" if math.isinf(self.end) else f"{self.end:.4g}"
        kept = f"Λ(1) = {end}: {self.left:.2g} x_0 in noise of variance {self.variance:.4g}"
        return f"{kept}; KL to the prior {self.prior_kl:.2g} nats per entry"


def diagnose(leaf: Leaf) -> Diagnosis | None:
    """The diagnosis of a leaf; None where its terms are no linear drifts and white noise.

    Example:
        >>> from discdiff import zoo
        >>> (leaf,) = zoo.alda().leaves(torch.ones(1))
        >>> diagnose(leaf).orders
        (5, 3, 1)
    """
    terms = leaf.core.terms
    if not all(isinstance(term, LinearDrift | WhiteNoise) for term in terms):
        return None
    at_end = _at_end(leaf)
    if any(term.varies() for term in terms):
        return Diagnosis(**at_end)
    A, B = numbers(terms)
    if A.dim() != 2 or B.dim() != 2:
        return Diagnosis(**at_end)
    orders = noise_orders(A, B)
    if None in orders and at_end:
        at_end["prior_kl"] = math.inf  # where noise does not reach, different starts never meet
    abscissa = float(torch.linalg.eigvals(A).real.max())
    S = lyapunov(A, B @ B.mT) if abscissa < 0 else None
    return Diagnosis(
        abscissa=abscissa,
        stationary=S,
        orders=orders,
        rank=controllability_rank(A, B),
        **_of_lift(leaf, S),
        **at_end,
    )


def numbers(terms: tuple) -> tuple[Tensor, Tensor]:
    """A and B of a sum of terms, (k, k) and (k, r), or with dimensions of entries in front."""
    zero = torch.zeros(1, dtype=torch.float64)
    size = max((n for term in terms for n in term.widths().values()), default=1)
    A, columns = torch.zeros(size, size, dtype=torch.float64), []
    for term in terms:
        if isinstance(term, LinearDrift):
            A = A + (term.scale * term.system(zero, size)[0][0]).detach()
        else:
            columns.append((term.scale.sqrt() * term.matrix(zero, size)[0]).detach())
    wide = {c.dim() for c in columns}
    if not columns or wide != {2}:
        return A, columns[0] if columns else torch.zeros(size, 1, dtype=torch.float64)
    return A, torch.cat(columns, -1)


def noise_orders(A: Tensor, B: Tensor) -> tuple[int | None, ...]:
    r"""The power 2m + 1 for each coordinate: m is the length of its way to the noise.

    Example:
        >>> noise_orders(torch.tensor([[0.0, 1.0], [-1.0, -2.0]]), torch.tensor([[0.0], [1.0]]))
        (3, 1)
    """
    orders: list[int | None] = [None] * len(A)
    least = TINY * B.abs().max()
    for m in range(len(A)):
        reached = (B.abs() > least).any(-1).tolist()
        pairs = zip(orders, reached, strict=True)
        orders = [2 * m + 1 if old is None and new else old for old, new in pairs]
        B, least = A @ B, least * A.abs().sum(-1).max()
    return tuple(orders)


def controllability_rank(A: Tensor, B: Tensor) -> int:
    """The rank of (B, A B, …, A^{k−1} B), with A of norm one."""
    size = A.abs().sum(-1).max()
    A, blocks = A / size if float(size) > 0 else A, [B]
    for _ in range(len(A) - 1):
        blocks.append(A @ blocks[-1])
    return int(torch.linalg.matrix_rank(torch.cat(blocks, -1)))


def _of_lift(leaf: Leaf, S: Tensor | None) -> dict:
    """How the auxiliaries start, against the stationary law."""
    if not isinstance(leaf.core, LiftedSum):
        return {}
    lift: Any = leaf.core.whole
    covariance = (lift.factor @ lift.factor.mT).detach()
    if S is None:
        return {"settled": False}
    rest = S[1:, 1:]
    centred = not bool(lift.mean.detach().any())
    settled = centred and torch.allclose(rest, covariance, rtol=1e-9, atol=1e-12)
    share = float((covariance.diagonal() / rest.diagonal()).max())
    return {"settled": settled, "lift": share}


def _at_end(leaf: Leaf) -> dict:
    """What is left of the data at t = 1, and the divergence from the prior there."""
    if leaf.clock is None:
        return {}
    core, lifted = leaf.core, isinstance(leaf.core, LiftedSum)
    shape = (1, *sides(core.terms)) if lifted else shape_of(core.terms)
    end = leaf.clock(leaf.clock.instant(1.0)).detach()
    # Noise that spreads for ever has no law at Λ = ∞, but one just before.
    late = leaf.clock(leaf.clock.instant(LAST)).detach()
    one, zero = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    first = zero.clone()
    first[..., 0] = 1.0
    try:
        law, origin = core._marginal(one, late), core._marginal(zero, late)
        left = (core._marginal(first, late).mean - origin.mean).detach().reshape(-1)[0]
        kl = math.inf  # of data that differ where noise never comes
        if getattr(core.engine, "reached", True):
            gap = laws.kl(law, _prior(leaf, origin)).detach().sum() / math.prod(shape)
            kl = float(gap.nan_to_num(torch.inf, posinf=torch.inf))
    except Unsolved:
        return {}
    variance = _variance(leaf, zero, end)
    return {"end": float(end), "left": float(left), "variance": variance, "prior_kl": kl}


def _variance(leaf: Leaf, origin: Tensor, end: Tensor) -> float:
    """The variance of the first coordinate at the end, infinite where there is no law."""
    try:
        variance = leaf.core._marginal(origin, end).variance.detach().reshape(-1)[0]
    except Unsolved:
        return math.inf
    return float(variance.nan_to_num(torch.inf, posinf=torch.inf))


def shape_of(terms: tuple) -> tuple[int, ...]:
    """The shape of one state of the fewest entries."""
    for term in terms:
        if term.event is not None:
            return (1, *term.event)
    widths = {size for term in terms for size in term.widths().values()}
    vectors = any(getattr(term, "event_axes", 0) for term in terms)
    return (1, *sides(terms), *(widths or {1} if vectors else widths))


def sides(terms: tuple) -> tuple[int, ...]:
    """The sides of the entries that have matrices of their own."""
    zero = torch.zeros(1, dtype=torch.float64)
    size = max((n for term in terms for n in term.widths().values()), default=1)
    found = [
        (term.system(zero, size)[0] if isinstance(term, LinearDrift) else term.matrix(zero, size))
        for term in terms
        if isinstance(term, LinearDrift | WhiteNoise)
    ]
    return tuple(torch.broadcast_shapes(*(value.shape[1:-2] for value in found)))


def _prior(leaf: Leaf, origin: Distribution) -> Distribution:
    """The limit law if there is one, else the law at the end from zero."""
    try:
        return leaf.core._limit(tuple(origin.mean.shape))
    except Unsolved:
        return origin


def _several(where: list[str]) -> str:
    return f"coordinate{'s' if where[1:] else ''} {', '.join(where)}"


def _power(order: int) -> str:
    return "" if order == 1 else "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(d)] for d in str(order))
