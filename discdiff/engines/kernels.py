r"""Chains on finitely many states, seen through their transition matrices.

With :math:`P_{s,t}` the transition matrices, at :math:`x_t = x` and a posterior :math:`\mu` of
:math:`x_0`,

.. math::
    p(x_s = b \mid x) = \sum_a \mu(a) \frac{P_{0,s}(a, b)\, P_{s,t}(b, x)}{P_{0,t}(a, x)}, \qquad
    \frac{p_t(y)}{p_t(x)} = \sum_a \mu(a) \frac{P_{0,t}(a, y)}{P_{0,t}(a, x)}.

Rows, columns, products and single entries of P are all that any verb reads. A `Kernel` knows
them, from a dense table or from structure, and `FiniteChain` is the engine made of them. Ratios of
transition probabilities are what everything reads, so a kernel has small *relative* error.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, register_kl

from .. import laws
from ..estimates import Atoms, Conditional, Data, Estimate, LeaveOneOut, Logits, Posterior, Ratio
from ..laws import _Law, draw_categories
from ..numerics.special import safe_log, xlogx_ratio
from ..params import changes
from ..shapes import one_time, span
from ..solve import Engine, Score, Tempo
from ..structures import jumps_of
from ..validation import require
from .replacement import (
    Exits,
    Replacement,
    atom_log_table,
    conditional_log_probs,
    log_ratio_table,
    no_posterior,
    positive_log,
    require_before_infinity,
)

FEWEST, MOST, ENTRIES = 4, 32, 1 << 13  # states from which, and entries at which, tempos are read
OCTAVES = 30  # of time in which they are looked for
LEFT = 1 / 64  # of the distance from the limit, where all is as good as forgotten


class Kernel(ABC):
    """Transition matrices P between two times per batch element, on K states.

    States have shape (B, *sites). A kernel itself sees them flattened, as (B, n). It speaks in
    the default dtype, or in the one that it was turned `to`.
    """

    size: int
    dtype: torch.dtype | None = None

    def to(self, dtype: torch.dtype) -> Any:
        """The same matrices, made of the same parts, in numbers of another dtype."""
        same = copy.copy(self)
        same.dtype = dtype
        for name, part in vars(self).items():
            if isinstance(part, Kernel):
                setattr(same, name, part.to(dtype))
        return same

    def like(self, v: Tensor) -> Any:
        """The same matrices, in numbers at least as fine as those of v."""
        return self.to(torch.promote_types(v.dtype, torch.get_default_dtype()))

    def cast(self, v: Tensor) -> Tensor:
        """Numbers in the dtype of the kernel."""
        return v.to(self.dtype or torch.get_default_dtype())

    def along(self, v: Tensor, more: int = 1) -> Tensor:
        """Numbers (B,) in the dtype of the kernel, against (B, n, …)."""
        return self.cast(v).reshape(v.shape + (1,) * more)

    def rows(self, x: Tensor) -> Tensor:
        """The rows P(x, ·), shape (*x.shape, K)."""
        return self.row(flat(x)).reshape(*x.shape, self.size)

    def columns(self, x: Tensor) -> Tensor:
        """The columns P(·, x), shape (*x.shape, K)."""
        return self.column(flat(x)).reshape(*x.shape, self.size)

    def apply(self, v: Tensor) -> Tensor:
        """The products v P of vectors on the last axis, (B, *sites, K)."""
        return self.times(v.reshape(len(v), -1, self.size)).reshape(v.shape)

    def entries(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The function y ↦ P(x, y) of states y of shape (*x.shape, *more)."""
        entry, count = self.entry(flat(x)), x[0].numel()
        return lambda y: entry(y.reshape(len(x), count, -1)).reshape(y.shape)

    def draw(self, x: Tensor, shape: Size = Size()) -> Tensor:
        """Draws of the state after x, shape (*shape, *x.shape)."""
        many = x.expand(shape + x.shape).movedim(len(shape), 0)
        return self.moved(flat(many)).reshape(many.shape).movedim(0, len(shape))

    @abstractmethod
    def row(self, x: Tensor) -> Tensor:
        """As `rows`, from (B, n) to (B, n, K)."""

    @abstractmethod
    def column(self, x: Tensor) -> Tensor:
        """As `columns`, from (B, n) to (B, n, K)."""

    @abstractmethod
    def times(self, v: Tensor) -> Tensor:
        """As `apply`, from (B, n, K) to the same."""

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """As `entries`, for x of shape (B, n) and y of shape (B, n, m)."""
        rows = self.row(x)
        return lambda y: rows.gather(-1, y)

    def moved(self, x: Tensor) -> Tensor:
        """As `draw`, one draw each, from (B, n) to the same."""
        return draw_categories(safe_log(self.row(x)))


def flat(x: Tensor) -> Tensor:
    """States (B, *sites) as (B, n)."""
    return x.reshape(len(x), -1)


class Moved(_Law):
    """The law of the state after x, entry by entry.

    Arguments:
        x: States, int64 of shape (B, *sites).
        kernel: Knows where they go.
    """

    def __init__(self, x: Tensor, kernel: Kernel) -> None:
        self.x, self.kernel = x, kernel
        super().__init__(x.shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.kernel.size - 1)

    @property
    def probs(self) -> Tensor:
        """All probabilities, shape (*x.shape, K)."""
        return self.kernel.rows(self.x)

    def _draw(self, shape: Size) -> Tensor:
        return self.kernel.draw(self.x, shape)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = x.expand(torch.broadcast_shapes(x.shape, self.x.shape))
        inside = (x >= 0) & (x < self.kernel.size)
        more = tuple(range(x.dim() - self.x.dim()))  # dimensions of samples, moved to the end
        last = tuple(range(-len(more), 0))
        y = torch.where(inside, x, torch.zeros_like(x)).long().movedim(more, last)
        found = safe_log(self.kernel.entries(self.x)(y)).movedim(last, more)
        return torch.where(inside, found, torch.full_like(found, -torch.inf))


@register_kl(Moved, Moved)
def _kl_moved(p: Moved, q: Moved) -> Tensor:
    return xlogx_ratio(safe_log(p.probs), safe_log(q.probs)).sum(-1)


@register_kl(Moved, laws.Table)
def _kl_moved_table(p: Moved, q: laws.Table) -> Tensor:
    return xlogx_ratio(safe_log(p.probs), q.log_probs).sum(-1)


def as_default(v: Tensor) -> Tensor:
    """Numbers in the default dtype."""
    return v.to(torch.get_default_dtype())


def uniform_like(x: Tensor) -> Tensor:
    """Uniform numbers, float64 of the shape of x."""
    return torch.rand(x.shape, dtype=torch.float64, device=x.device)


def inverse_cdf(probs: Tensor, x: Tensor) -> Tensor:
    """Draws from one law per batch element, (B or 1, K), as many as x (B, n) has entries."""
    cdf = probs.detach().double().cumsum(-1)
    cdf = cdf.expand(len(x), -1).contiguous() if len(cdf) > 1 else cdf[0]
    return torch.searchsorted(cdf, uniform_like(x) * cdf[..., -1:], right=True)


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
        return self.cast(self.law).unsqueeze(1)

    def _stays(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x == y, self.along(self.stay, 2), 0.0)

    def row(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        return self._law() + self._stays(x.unsqueeze(-1), states)

    def column(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        law = self.cast(self.law).expand(len(x), -1).gather(1, x)
        return law.unsqueeze(-1) + self._stays(x.unsqueeze(-1), states)

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        law = self.cast(self.law).expand(len(x), -1)

        def read(y: Tensor) -> Tensor:
            found = law.gather(1, y.reshape(len(y), -1)).reshape(y.shape)
            return found + self._stays(x.unsqueeze(-1), y)

        return read

    def times(self, v: Tensor) -> Tensor:
        stays = v * self.along(self.stay, 2).to(v)
        return stays + v.sum(-1, keepdim=True) * self._law().to(v)

    def moved(self, x: Tensor) -> Tensor:
        stays = uniform_like(x) < self.stay.unsqueeze(-1)
        return torch.where(stays, x, inverse_cdf(self.law, x))


class FiniteChain(Engine, ABC):
    """An engine that knows the kernels of its chain."""

    size: int
    varying = False  # whether rates vary in time

    @abstractmethod
    def kernel(self, s: Tensor, t: Tensor) -> Kernel:
        """The transition matrices from s to t."""

    def index(self, x: Tensor) -> Tensor:
        """States as the kernel counts them."""
        return x

    def law(self, log_probs: Tensor) -> Distribution:
        """The law of states with these log-probabilities on the last axis."""
        return laws.Table(log_probs, torch.int64).to_event(log_probs.dim() - 2)

    def _to(self, t: Tensor) -> Kernel:
        return self.kernel(t.new_zeros(1).expand(t.shape), t)

    # -- laws ----------------------------------------------------------------------------------

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return Moved(x, self.kernel(s, t)).to_event(x.dim() - 1)

    def log_chance(self, x_0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return safe_log(self._to(t).entries(self.index(x_0))(self.index(x)))

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        x = self.index(x)
        early, late = self._to(s), self.kernel(s, t)
        if isinstance(estimate, Data):
            before = early.rows(self.index(estimate.value))
        else:
            weights = self._weights(estimate, x, t)
            early, late = early.like(weights), late.like(weights)
            before = early.apply(weights)
        return self.law(as_default(safe_log(before * late.columns(x)).log_softmax(-1)))

    def exits(self, estimate: Estimate, x: Tensor, t: Tensor) -> Exits | None:
        r"""How fast the reversal leaves x, and draws of where it goes; None for ratios.

        .. math:: r(y) = Q(y, x)\, v(y) / v(x), \quad v(y) = \sum_a \mu(a) P(a, y) / P(a, x)
        """
        known = isinstance(estimate, Posterior | LeaveOneOut)
        if not known or self.varying or getattr(self, "sites", ()):
            return None
        v = self._averaged(estimate, x, t)
        points, into = jumps_of(self.terms, "into", x)
        own = x.unsqueeze(-1)
        rates = into.to(v.dtype) * v.gather(-1, points) / v.gather(-1, own)
        rates = rates.masked_fill(points == own, 0.0).detach()

        def draw(where: tuple[Tensor, ...]) -> Tensor:
            cdf = rates[where].double().cumsum(-1)
            u = torch.rand_like(cdf[:, :1]) * cdf[:, -1:]
            return points[where].gather(-1, torch.searchsorted(cdf, u, right=True)).squeeze(-1)

        return rates.sum(-1), draw

    def staggered(self, v: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`[v P_{s,t}^{-1}](y)\, P_{s,t}(y, x)` for all y, v (B, *sites, K)."""
        kernel = self.kernel(s, t)
        eye = torch.eye(self.size, dtype=v.dtype, device=v.device).expand(len(s), -1, -1)
        P = kernel.apply(eye)
        flat = v.reshape(len(s), -1, self.size).to(P.dtype)
        before = torch.linalg.solve(P, flat, left=False)
        return before.reshape(v.shape) * kernel.columns(self.index(x))

    # -- time scales ---------------------------------------------------------------------------

    def leaving(self, x: Tensor) -> Tensor:
        """The rates at which states (n,), as the kernel counts them, are left."""
        own = x.unsqueeze(0)
        points, rates = jumps_of(self.terms, "out", own)
        return torch.where(points == own.unsqueeze(-1), 0.0, rates).sum(-1)[0]

    def tempo(self) -> Tempo:
        """From the rate at which states are left to that at which where one started is lost.

        The latter is read off the time at which the total variation from the limit is a small
        part φ of what it was, from the slowest of some starts: where all fades like e^{−ct}, that
        time is log(1/φ) / c.
        """
        if self.varying:
            return Tempo()
        device = self.terms[0].scale.device
        count = min(self.size, max(FEWEST, min(MOST, ENTRIES // self.size)))
        starts = torch.linspace(0, self.size - 1, count, device=device).round().long()
        fast = float(self.leaving(starts).mean())
        if not 0 < fast < math.inf:
            return Tempo()
        t = 2.0 ** (torch.arange(-4, OCTAVES * 2, dtype=torch.float64, device=device) / 2) / fast
        t = torch.cat([torch.zeros_like(t[:1]), t, torch.full_like(t[:1], torch.inf)])
        rows = self._to(t).rows(starts.expand(len(t), -1))
        apart = (rows - rows[-1]).double().abs().sum(-1)
        moves = apart[0] > 0  # starts that are their own limit say nothing
        if not bool(moves.any()):
            return Tempo()
        left = (apart[:, moves] / apart[0, moves]).amax(-1)
        late = int((left > LEFT).sum().clamp(2, len(t) - 2))  # it falls
        share = (left[late - 1] / LEFT).log() / (left[late - 1] / left[late]).log()
        end = t[late - 1] + share.clamp(0, 1) * (t[late] - t[late - 1])
        slow = -math.log(LEFT) / float(end)
        return Tempo(slow, max(slow, fast))

    # -- scores and estimates ------------------------------------------------------------------

    def _posterior(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r"""The posterior :math:`\mu`, shape (B, *sites, K)."""
        if isinstance(estimate, Data):
            index = self.index(estimate.value)
            return torch.nn.functional.one_hot(index, self.size).to(torch.get_default_dtype())
        if isinstance(estimate, Atoms):
            atoms = Atoms(estimate.log_weights, self.index(estimate.atoms))
            return atom_log_table(atoms, self.size).exp()
        if isinstance(estimate, Posterior):
            return estimate.log_probs.exp()
        if isinstance(estimate, LeaveOneOut | Conditional | Ratio):
            left_out = safe_log(self._weights(estimate, x, t))
            return (left_out + safe_log(self._to(t).columns(x))).softmax(-1)
        raise no_posterior(estimate)

    def _weights(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\mu(a) / P_{0,t}(a, x)` up to a factor; 0 for states that cannot lead to x.

        A network may say a posterior of states whose chance is far below the smallest number of
        single precision, so what it says is weighed in float64. It is restricted to states whose
        chance is a normal number there.
        """
        if isinstance(estimate, LeaveOneOut):
            return estimate.log_probs.exp()
        if isinstance(estimate, Conditional | Ratio):
            return self._unmixed(estimate, x, t)
        said = isinstance(estimate, Posterior)
        kernel = self._to(t)
        column = (kernel.to(torch.float64) if said else kernel).columns(x)
        possible = column >= torch.finfo(column.dtype).tiny
        if said:
            mu = estimate.log_probs.to(column).masked_fill(~possible, -torch.inf).softmax(-1)
        else:
            mu = self._posterior(estimate, x, t)
        return torch.where(possible, mu / torch.where(possible, column, 1.0), 0.0)

    def _averaged(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`v(y) = \sum_a w(a)\, P_{0,t}(a, y)` with the weights w, for all y."""
        weights = self._weights(estimate, x, t)
        return self._to(t).like(weights).apply(weights)

    def _unmixed(self, estimate: Conditional | Ratio, x: Tensor, t: Tensor) -> Tensor:
        r"""The leave-one-out law of which :math:`c = p P_{0,t}` is the conditional.

        The later the time, the more digits the inverse of P takes.
        """
        require_before_infinity(estimate, t)
        given = conditional_log_probs(estimate, x).exp()
        states = torch.arange(self.size, device=x.device).expand(x.shape[0], -1)
        P = self._to(t).rows(states)
        flat = given.reshape(x.shape[0], -1, self.size).to(P.dtype)
        signed = torch.linalg.solve_ex(P, flat, left=False).result.reshape(given.shape)
        return positive_log(signed).exp()

    def ratio_table(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\log p_t(y) / p_t(x)` for all y; x is a joint index."""
        if isinstance(estimate, Conditional | Ratio):
            return log_ratio_table(estimate, x)
        if isinstance(estimate, Data):
            law = self._to(t).rows(self.index(estimate.value))
        else:
            law = self._averaged(estimate, x, t)
        table = safe_log(law)
        return as_default(table - table.gather(-1, x.unsqueeze(-1)))

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        if isinstance(estimate, Data):
            return Score(log_ratio=self._ratios_of_data(self.index(estimate.value), x, t))
        table = self.ratio_table(estimate, self.index(x), t)
        return Score(log_ratio=lambda y: table.gather(-1, self.index(y)))

    def _ratios_of_data(self, x_0: Tensor, x: Tensor, t: Tensor) -> Any:
        """Only the entries that are asked for."""
        entries = self._to(t).entries(x_0)
        here = safe_log(entries(self.index(x))).unsqueeze(-1)
        return lambda y: safe_log(entries(self.index(y))) - here

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        x = self.index(x)
        if kind is Ratio:
            return Ratio(self.ratio_table(estimate, x, t))
        if kind is Posterior:
            return Posterior(safe_log(self._posterior(estimate, x, t)))
        if not issubclass(kind, Logits):
            raise self.unsolved(f"conversion to {kind.__name__}")
        if kind is Conditional and isinstance(estimate, Conditional | Ratio):
            return Conditional(conditional_log_probs(estimate, x))
        if kind is LeaveOneOut:
            weights = self._weights(estimate, x, t)
            return LeaveOneOut(as_default(safe_log(weights).log_softmax(-1)))
        given = safe_log(self._averaged(estimate, x, t))
        return Conditional(as_default(given.log_softmax(-1)))

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        return self.law(safe_log(self._posterior(estimate, self.index(x), t)))

    def decays(self, head: Any) -> bool:
        return head.kind in (Atoms, Data, LeaveOneOut)

    def starts_at_infinity(self, head: Any) -> bool:
        return head.kind not in (Ratio, Conditional)


class Structured(FiniteChain):
    """A chain on K states whose terms have a structure."""

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        sizes = {term.size for term in terms}
        require(len(sizes) == 1, f"chains of different sizes in one sum: {sorted(sizes)}")
        (self.size,) = sizes
        self.varying = any(term.varies() for term in terms)

    @property
    def rate(self) -> Tensor:
        """The sum of the factors of the terms."""
        return torch.stack([term.scale for term in self.terms]).sum()

    def spread(self, shape: tuple[int, ...], probs: Tensor) -> Distribution:
        """The law of states that are drawn from one law, (K,), each."""
        x = torch.zeros(shape, dtype=torch.int64, device=probs.device)
        stay = torch.zeros(1, dtype=torch.float64, device=probs.device)
        return Moved(x, RankOne(stay, probs.unsqueeze(0))).to_event(len(shape) - 1)

    def uniform(self, shape: tuple[int, ...]) -> Distribution:
        """The law of states of which all are equally likely."""
        probs = torch.full((self.size,), 1 / self.size, dtype=torch.float64)
        return self.spread(shape, probs.to(self.rate.device))


class Tabled(Structured, ABC):
    """A structured chain with a table that is kept while no declared number changes."""

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self._kept: Any = None
        self.changes = changes(*terms)

    def table(self) -> Any:
        """What depends on the declared numbers alone."""
        if self.changes:
            return self.tabulate()
        if torch.compiler.is_compiling():
            _keep_table(self)
        else:
            self.keep()
        return self._kept

    def keep(self) -> None:
        """Makes the table that is kept, once."""
        if self._kept is None:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = self.tabulate()

    @abstractmethod
    def tabulate(self) -> Any:
        """The table, made anew."""


@torch.compiler.assume_constant_result
def _keep_table(engine: Tabled) -> bool:
    """Makes the table before a graph that reads it is traced: it looks at numbers."""
    engine.keep()
    return True


def kernel_of(engine: Any, s: Tensor, t: Tensor) -> Kernel:
    """The kernel of an engine of finite chains."""
    if not isinstance(engine, Replacement):
        return engine.kernel(s, t)
    tau = engine.rate * span(s, t)
    return RankOne((-tau).exp(), -torch.expm1(-tau).unsqueeze(-1) * engine.pi)


def elapsed(s: Tensor, t: Tensor) -> Tensor:
    """The time between s and t, (B,), or (1,) where it is one time that was expanded."""
    return span(one_time(s, t), one_time(t, s))


def hazard(rate: Tensor, tau: Tensor) -> Tensor:
    """A rate times a time, 0 where the rate is 0 and the time infinite."""
    return torch.where(rate > 0, rate * tau, torch.zeros_like(tau))
