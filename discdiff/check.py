r"""The certificate: does what is derived agree with what is declared?

`check` holds a process to the laws that every Markov process obeys. None of them needs an oracle:
they tie the transition law to the generator (Dynkin), to itself (Chapman–Kolmogorov), to the
bridge, the limit, the draws and the score, and the loss to the entropy of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from . import estimates, laws
from .engines.finite import Finite
from .engines.truncated import Truncated
from .estimates import Data
from .expectation import entropy_gap, points
from .heads import Exact, Head
from .loss import integrand, kl_rate, sum_over_terms
from .process import Leaf, Process, batch_size, first_tensor, map_state
from .solve import Unsolved
from .steppers import Ancestral
from .terms import Diffusion, Drift, FiniteJump, Jump

State = Any
ROWS = 6  # states of the example that are looked at
DRAWS = 4000
RETURNS = 600  # states that are sent forward and back
SOON = 1e-9  # an own time at which next to nothing has happened
QUANTILE = 5.5  # normal quantile of the statistical laws: a failure rate of 4e-8 each


@dataclass(frozen=True)
class Row:
    """One law: its name, the part it was held against, the error, and the tolerance.

    ``error`` is None where the law does not apply; ``note`` then says why.
    """

    law: str
    part: str
    error: float | None
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the law holds, or does not apply."""
        return self.error is None or self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """All laws of a process. Truthy if all hold; prints as a table."""

    process: str
    rows: list[Row] = field(default_factory=list)

    def __bool__(self) -> bool:
        return all(row.holds for row in self.rows)

    @property
    def failures(self) -> list[Row]:
        """The laws that do not hold."""
        return [row for row in self.rows if not row.holds]

    def __str__(self) -> str:
        lines = [f"check of {self.process}"]
        for row in self.rows:
            mark = "–" if row.error is None else ("✓" if row.holds else "✗ FAILS")
            error = "" if row.error is None else f"{row.error:9.1e} ≤ {row.tolerance:.0e}"
            part = f"[{row.part}]" if row.part else ""
            lines.append(f"  {row.law:<20}{part:<12}{error:>20}  {mark:<2} {row.note}".rstrip())
        lines.append("all laws hold" if self else f"{len(self.failures)} laws FAIL")
        return "\n".join(lines)

    __repr__ = __str__


def check(process: Process, x: State, head: Head | None = None) -> Report:
    r"""Holds a process to its laws.

    Arguments:
        process: The process.
        x: Example states, (B, *event) or a dict; a few are enough. They are taken for data.
        head: A head to be held against the exact one of these data, if given: its entropy gap
            must not be negative, and is reported.

    Returns:
        A `Report`: truthy if every law holds, printable as a table. Laws that do not apply give
        their reason. Statistical laws use a fixed seed and fail by chance once in 10⁷ checks.

    Example:
        >>> from discdiff import Death, clock
        >>> bool(check(Death().on(clock.LogLinear()), torch.tensor([[0.0], [3.0], [5.0]])))
        True
    """
    x = process.check_state(x, "x")
    dtype = torch.get_default_dtype()
    state = torch.random.get_rng_state()
    try:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        x = map_state(_double, map_state(lambda v: v[:ROWS], x))
        report = Report(repr(process))
        for leaf in process.leaves(torch.full((batch_size(x),), 0.5, dtype=torch.float64)):
            report.rows.extend(_leaf_rows(process, leaf, x))
        report.rows.extend(_whole_rows(process, x, head))
    finally:
        torch.set_default_dtype(dtype)
        torch.random.set_rng_state(state)
    return report


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _measured(law: str, part: str, tolerance: float, error: Callable[[], Any]) -> Row:
    """A row from a function that returns the error, or (error, note)."""
    try:
        found = error()
    except Unsolved as reason:
        return Row(law, part, None, tolerance, f"not applicable: {str(reason).split('. ')[0]}")
    except (ValueError, IndexError) as reason:  # a law of NaNs names no state
        return Row(law, part, torch.inf, tolerance, str(reason))
    value, note = found if isinstance(found, tuple) else (found, "")
    value = float(value)
    return Row(law, part, torch.inf if value != value else value, tolerance, note)


# -- laws of one sum of terms ------------------------------------------------------------------


def _leaf_rows(process: Process, leaf: Leaf, x: State) -> list[Row]:
    """The laws of one leaf, in its own time."""
    start = _leaf_at(process, leaf.name, torch.zeros(batch_size(x), dtype=torch.float64))
    at = Site(leaf, start.get(x))
    rows = [
        _measured("Dynkin", leaf.name, 1e-6, at.dynkin),
        _measured("Chapman–Kolmogorov", leaf.name, 1e-8, at.chapman_kolmogorov),
        _measured("normalisation", leaf.name, 1e-8, at.normalisation),
        _measured("limit", leaf.name, 1e-7, at.limit),
        _measured("bridge", leaf.name, 1e-8, at.bridge),
        _measured("agreement", leaf.name, QUANTILE, at.agreement),
        _measured("score", leaf.name, 1e-6, at.score),
        _measured("heads", leaf.name, 1e-6, at.heads),
        _measured("decoder", leaf.name, 1e-6, at.decoder),
        _measured("additivity", leaf.name, 1e-8, at.additivity),
        _measured("consistency", leaf.name, 1e-8, at.consistency),
    ]
    if leaf.clock is not None:
        rows.append(_measured("clock", leaf.name, 1e-6, lambda: clock_error(leaf.clock)))
    return rows


def _leaf_at(process: Process, name: str, t: Tensor) -> Leaf:
    return next(leaf for leaf in process.leaves(t) if leaf.name == name)


@dataclass
class Site:
    """A leaf at example states, and the laws it is held to in its own time."""

    leaf: Leaf
    x: Tensor

    def __post_init__(self) -> None:
        self.core, self.engine = self.leaf.core, self.leaf.core.engine
        self.axes = max(getattr(term, "event_axes", 0) for term in self.core.terms)
        self.s, self.t = self._own(0.3), self._own(0.7)
        self.zero = torch.zeros_like(self.s)

    def _own(self, t: float) -> Tensor:
        time = torch.tensor(t, dtype=torch.float64)
        if self.leaf.clock is not None:
            time = self.leaf.clock(time).detach()
        return time.expand(self.x.shape[0]).clone()

    def law(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """The transition law with entries as batch dimensions."""
        return _entries(self.core._transition(x, s, t), self.axes)

    def bridge_law(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """The bridge with entries as batch dimensions."""
        return _entries(self.core._bridge(Data(x_0), x, s, t), self.axes)

    def points(self, law: Distribution) -> tuple[Tensor, Tensor]:
        """Points and log-weights of a law of entries."""
        return points(law, self.core.support)

    def spread(self, t: Tensor, y: Tensor) -> Tensor:
        """Times for points (G, B, …) flattened to (G·B, …)."""
        return t.repeat(y.shape[0])

    def tests(self) -> list[Callable[[Tensor], Tensor]]:
        """Test functions of one entry (of all species of a site)."""
        linear = lambda y: y
        waves = lambda y: torch.sin(0.7 * y + 0.3)
        if not self.axes:
            return [linear, lambda y: y**2 / 4, waves]
        size = self.x.shape[-1]
        mix = torch.linspace(0.5, 1.5, size, dtype=torch.float64)
        return [lambda y, f=f: f((mix * y).sum(-1)) for f in (linear, waves)]

    # -- the laws --------------------------------------------------------------------------

    def dynkin(self) -> float:
        r"""∂_t E[f(X_t)|x] = E[(Lf)(X_t)|x]."""
        t = self.t.clone().requires_grad_(True)
        law = self.law(self.x, self.zero, t)
        y, _ = self.points(_entries(self.core._transition(self.x, self.zero, self.t), self.axes))
        y = y.detach()
        log_p, weight = law.log_prob(y), self._measure(y)
        worst = 0.0
        for f in self.tests():
            value = f(y.double())
            mean = (_exp(log_p) * weight * value).sum(0)
            (slope,) = torch.autograd.grad(mean.sum(), t, retain_graph=True)
            moved = (_exp(log_p) * weight * self.generator(f, y)).sum(0).detach()
            moved = moved.reshape(moved.shape[0], -1).sum(1)
            scale = 1 + moved.abs() + mean.detach().abs().reshape(len(slope), -1).sum(1)
            worst = _worst(worst, float(((slope - moved) / scale).abs().max()))
        return worst

    def _measure(self, y: Tensor) -> Tensor:
        """1 for points of a lattice, the grid's step for points on a line."""
        if self.core.support.is_discrete:
            return torch.ones((), dtype=torch.float64)
        return (y[1] - y[0]).unsqueeze(0)

    def generator(self, f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """(Lf)(y) at points (G, B, …), for a function of one entry."""
        flat = y.reshape(-1, *y.shape[2:])
        t = self.spread(self.t, y)
        shape = y.shape[: y.dim() - self.axes]
        total = torch.zeros(shape, dtype=torch.float64)
        for term in self.core.terms:
            total = total + term.scale * _act(term, f, flat, t).reshape(shape)
        return total

    def chapman_kolmogorov(self) -> float:
        r"""p(0→t) = ∫ p(0→s) p(s→t)."""
        y, log_w = self.points(self.law(self.x, self.zero, self.s))
        late = self.law(
            y.reshape(-1, *y.shape[2:]), self.spread(self.s, y), self.spread(self.t, y)
        )
        goal = self.law(self.x, self.zero, self.t)
        worst = 0.0
        for z in self._targets(goal):
            many = z.unsqueeze(0).expand(y.shape).reshape(-1, *y.shape[2:])
            step = late.log_prob(many).reshape(log_w.shape)
            whole = torch.logsumexp(log_w + step, 0).exp()
            worst = max(worst, _apart(whole, goal.log_prob(z).exp()))
        return worst

    def _targets(self, law: Distribution, count: int = 4) -> list[Tensor]:
        return [law.sample() for _ in range(count)]

    def normalisation(self) -> float:
        """Probabilities sum to one."""
        both = [self.law(self.x, self.zero, self.t), self.law(self.x, self.s, self.t)]
        return _worst(*(float((self.points(p)[1].exp().sum(0) - 1).abs().max()) for p in both))

    def limit(self) -> tuple[float, str]:
        """The limit is invariant, and is what the process tends to."""
        law = _entries(self.core._limit(tuple(self.x.shape)), self.axes)
        y, log_w = self.points(law)
        goal = self.law(
            y.reshape(-1, *y.shape[2:]), self.spread(self.zero, y), self.spread(self.t, y)
        )
        worst = 0.0
        for z in self._targets(law):
            many = z.unsqueeze(0).expand(y.shape).reshape(-1, *y.shape[2:])
            step = goal.log_prob(many).reshape(log_w.shape)
            worst = max(
                worst, _apart(torch.logsumexp(log_w + step, 0).exp(), law.log_prob(z).exp())
            )
        far = self.law(self.x, self.zero, torch.full_like(self.t, 1e6))
        z = law.sample()
        worst = max(worst, _apart(far.log_prob(z).exp(), law.log_prob(z).exp()))
        return worst, self._left()

    def _left(self) -> str:
        if self.leaf.clock is None:
            return ""
        one = self._own(1.0)
        try:
            left = laws.kl(
                self.core._transition(self.x, self.zero, one), self.core._limit(self.x.shape)
            )
        except (NotImplementedError, ValueError):
            return ""
        return f"KL left at t = 1: {float(left.mean()):.1e} nats"

    def bridge(self) -> float:
        r"""p(x_s|x_0) p(x_t|x_s) = p(x_t|x_0) bridge(x_s|x_0, x_t)."""
        x_t = self.law(self.x, self.zero, self.t).sample()
        y, log_w = self.points(self.law(self.x, self.zero, self.s))
        early = self.law(self.x, self.zero, self.s).log_prob(y)
        flat = y.reshape(-1, *y.shape[2:])
        late = self.law(flat, self.spread(self.s, y), self.spread(self.t, y))
        many = x_t.unsqueeze(0).expand(y.shape).reshape(-1, *y.shape[2:])
        joint = early + late.log_prob(many).reshape(log_w.shape)
        whole = self.law(self.x, self.zero, self.t).log_prob(x_t)
        bridge = self.bridge_law(self.x, x_t, self.s, self.t)
        return _apart((joint - whole).exp(), bridge.log_prob(y).exp())

    def agreement(self) -> float:
        """Draws agree with log-probabilities: the largest standardised difference."""
        one, zero = slice(0, 1), self.zero[:1]
        x, s, t = self.x[one], self.s[one], self.t[one]
        forward = self.law(x, zero, t)
        end = forward.sample()

        def bridge(count: int) -> Distribution:
            wide = (v.expand(count, *v.shape[1:]) for v in (x, end, s, t))
            return self.bridge_law(*wide)

        def again(count: int) -> Distribution:
            wide = (v.expand(count, *v.shape[1:]) for v in (x, zero, t))
            return self.law(*wide)

        return _worst(*(self._discrepancy(law(1), _draws(law)) for law in (again, bridge)))

    def _discrepancy(self, law: Distribution, draws: Tensor) -> float:
        if not self.core.support.is_discrete:
            u = (draws - law.mean) / law.variance.sqrt().clamp(min=1e-300)
            fits = [u.mean(0) * DRAWS**0.5, (u.square().mean(0) - 1) * (DRAWS / 2) ** 0.5]
            return _worst(*(float(v.abs().max()) for v in fits))
        y, log_p = self.points(law)
        p = log_p.exp()[:, 0]
        same = draws.unsqueeze(0) == y
        same = same.all(-1) if self.axes else same
        seen = same.double().sum(1)
        return _chi_square(seen.reshape(len(p), -1), p.reshape(len(p), -1))

    def score(self) -> float:
        """The score of data on atoms is the derivative, or the ratios, of their mixture law."""
        exact = Exact(self.core, self.x)
        x_t = self.core._transition(self.x, self.zero, self.t).sample()
        score = self.engine.score(exact(x_t, self.t), x_t, self.t)
        jumps = [term for term in self.core.terms if isinstance(term, Jump)]
        if not jumps:
            x_t = x_t.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self._log_marginal(x_t).sum(), x_t)
            return _apart(score.gradient.detach(), slope)
        return _worst(*(self._ratio_error(term, score, x_t) for term in jumps))

    def _log_marginal(self, x: Tensor) -> Tensor:
        count = self.x.shape[0]
        each = [
            self.core._transition(self.x[n : n + 1].expand(x.shape), self.zero, self.t).log_prob(x)
            for n in range(count)
        ]
        return torch.logsumexp(torch.stack(each), 0)

    def _ratio_error(self, term: Jump, score: Any, x: Tensor) -> float:
        """Ratios at the first entry that the term's jumps lead from."""
        y, rates = term.frozen(self.t).into(x)
        ratio = score.log_ratio(y).exp()
        entry = (slice(None),) + (0,) * (x.dim() - 1 - self.axes)
        here, worst = self._log_marginal(x), 0.0
        for m in range(rates.shape[-1]):
            moved = x.clone()
            moved[entry] = y.movedim(-1 - self.axes, 0)[m][entry]
            allowed = rates[(*entry, m)] > 0
            moved = torch.where(_like(allowed, moved), moved, x)
            true = (self._log_marginal(moved) - here).exp()
            error = (ratio[(*entry, m)] - true) / (1 + true)
            worst = _worst(worst, float(torch.where(allowed, error, 0.0).abs().max()))
        return worst

    def heads(self) -> tuple[float, str]:
        """All heads taken from the exact one give the same loss."""
        exact = Exact(self.core, self.x)
        x_t = self.core._transition(self.x, self.zero, self.t).sample()
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
            worst = max(worst, _apart(rate, reference))
        return worst, ", ".join(spoken)

    def decoder(self) -> float:
        """The decoder is a law; it finds the datum where almost no noise was added."""
        x_t = self.core._transition(self.x, self.zero, self.t).sample()
        law = _entries(self._decoded(x_t, self.t), self.axes)
        error = float((self.points(law)[1].exp().sum(0) - 1).abs().max())
        soon = torch.full_like(self.t, SOON)
        if self.core.support.is_discrete:
            return _worst(error, float(-self._decoded(self.x, soon).log_prob(self.x).min()))
        x = self.x.detach().requires_grad_(True)
        forward = self.core._transition(x, self.zero, soon)
        (phi,) = torch.autograd.grad(forward.mean.sum(), x)
        peak = forward.log_prob(forward.mean).detach() + phi.log().reshape(len(x), -1).sum(1)
        found = self.engine.decode(Data(self.x), forward.mean.detach(), soon).log_prob(self.x)
        return max(error, _apart(found, peak))

    def _decoded(self, x: Tensor, t: Tensor) -> Distribution:
        """What the decoder makes of the exact posterior, site by site where it wants that."""
        atoms = Exact(self.core, self.x)(x, t)
        try:
            return self.engine.decode(atoms, x, t)
        except Unsolved:
            return self.engine.decode(self.engine.convert(atoms, x, t, estimates.Posterior), x, t)

    def additivity(self) -> float:
        """The integrand is the sum over terms, and is not negative."""
        exact = Exact(self.core, self.x)
        x_t = self.core._transition(self.x, self.zero, self.t).sample()
        leaf = _seen_at(self.core, self.t)
        target, estimate = Data(self.x), exact(x_t, self.t)
        whole = kl_rate(leaf, target, estimate, x_t)
        parts = sum_over_terms(leaf, target, estimate, x_t)
        return _worst(_apart(whole, parts), float((-whole).clamp(min=0).max()))

    def consistency(self) -> tuple[float, str]:
        """A batch of one is a batch of many; the special engine is the general one."""
        law = self.core._transition(self.x, self.zero, self.t)
        y = law.sample()
        whole = law.log_prob(y)
        alone = self.core._transition(self.x[:1], self.zero[:1], self.t[:1]).log_prob(y[:1])
        error = _apart(alone.exp(), whole[:1].exp())
        other = self._general()
        if other is None:
            return error, ""
        both = other.transition(self.x, self.zero, self.t).log_prob(y)
        return max(error, _apart(both.exp(), whole.exp())), f"= {type(other).__name__}"

    def _general(self) -> Any:
        terms = self.core.terms
        if all(isinstance(term, FiniteJump) for term in terms):
            special = not isinstance(self.engine, Finite) and self.core.terms[0].size <= 64
            return Finite(terms) if special else None
        jumps = all(isinstance(term, Jump) for term in terms)
        alike = not self.axes and not any(term.widths() for term in terms)
        if jumps and alike and not isinstance(self.engine, Finite | Truncated):
            return Truncated(terms)
        return None


KINDS = (
    estimates.Mean,
    estimates.Epsilon,
    estimates.Velocity,
    estimates.Score,
    estimates.Missing,
    estimates.Turnover,
    estimates.Posterior,
    estimates.LeaveOneOut,
    estimates.Conditional,
    estimates.Ratio,
)


def _seen_at(core: Any, t: Tensor) -> Leaf:
    (leaf,) = core.leaves(t)
    return leaf


def _entries(law: Distribution, axes: int) -> Distribution:
    return law if len(law.event_shape) == axes else law.base_dist  # type: ignore[attr-defined]


def _exp(log_p: Tensor) -> Tensor:
    """exp with a zero gradient at −∞."""
    none = log_p == -torch.inf
    return torch.where(none, torch.zeros_like(log_p), torch.where(none, 0.0, log_p).exp())


def _worst(*errors: float) -> float:
    """The largest error; one that is NaN is infinite, where ``max`` would pass over it."""
    return max(torch.inf if error != error else error for error in errors)


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to one plus the size."""
    gap = ((a - b).abs() / (1 + b.abs())).detach()
    return float(torch.where(a == b, torch.zeros_like(gap), gap).nan_to_num(torch.inf).max())


def _draws(law: Callable[[int], Distribution]) -> Tensor:
    """Many draws of a law of batch one, by its sample shape or by a wide batch."""
    try:
        return law(1).sample(torch.Size([DRAWS]))[:, 0]
    except NotImplementedError:
        return law(DRAWS).sample()


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))


def _act(term: Any, f: Callable[[Tensor], Tensor], y: Tensor, t: Tensor) -> Tensor:
    """The action of one term on a function of one entry, at states (N, *event)."""
    if isinstance(term, Jump):
        moving = term.frozen(t)
        targets, rates = moving.out(y)
        here = f(y.double())
        there = f(targets.double())
        return (rates.double() * (there - here.unsqueeze(-1))).sum(-1)
    y = y.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(f(y).sum(), y, create_graph=True)
    if isinstance(term, Drift):
        return (slope * term.velocity(y, t)).detach()
    if isinstance(term, Diffusion):
        # f acts on single entries, so its Hessian is diagonal, and so is B here.
        bend = torch.zeros_like(y)
        if slope.requires_grad:
            (bend,) = torch.autograd.grad(slope.sum(), y)
        return (term.mix(term.unmix(bend, y, t), y, t) / 2).detach()
    raise Unsolved(f"{type(term).__name__} is neither a drift, a diffusion nor a jump")


def _chi_square(seen: Tensor, p: Tensor, least: float = 5.0) -> float:
    """The largest standardised χ² over columns, cells of few expected draws merged."""
    worst = 0.0
    for k, q in zip(seen.T, p.T, strict=True):
        expected = q * k.sum()
        if bool((k[expected == 0] > 0).any()):
            return torch.inf
        big = expected >= least
        cells = torch.cat([expected[big], expected[~big].sum()[None]])
        found = torch.cat([k[big], k[~big].sum()[None]])
        keep = cells > 1e-9
        freedom = int(keep.sum()) - 1
        if freedom < 1:
            continue
        chi = ((found - cells)[keep] ** 2 / cells[keep].clamp(min=1.0)).sum()
        worst = _worst(worst, float((chi - freedom) / (2 * freedom) ** 0.5) / 2)
    return worst


def clock_error(clock: Any) -> float:
    """How far Λ, its rate and its inverse are from agreeing."""
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64, requires_grad=True)
    integral = clock(t)
    (slope,) = torch.autograd.grad(integral.sum(), t)
    t = t.detach()
    rate, back = clock.rate(t).detach(), clock.inverse(integral.detach()).detach()
    start = clock(torch.zeros(1, dtype=torch.float64)).detach().abs().max()
    increases = bool((integral.detach().diff() > 0).all())
    return max(_apart(rate, slope), _apart(back, t), float(start), 0.0 if increases else torch.inf)


# -- laws of the whole -------------------------------------------------------------------------


def _whole_rows(process: Process, x: State, head: Head | None) -> list[Row]:
    """The laws that join data, marginals, reversal, loss and time."""
    data = _few(process, x)
    rows = [
        _measured("reversal", "", QUANTILE, lambda: _reversal(process, data)),
        _measured("sum over parts", "", 1e-8, lambda: _sum_over_parts(process, data)),
        _measured("entropy", "", 1e-6, lambda: _entropy(process, data, None)),
    ]
    if head is not None:
        rows.append(_measured("given head", "", 1e-6, lambda: _entropy(process, data, head)))
    return rows


def _few(process: Process, x: State, count: int = 3) -> State:
    """At most three distinct examples."""
    keep: list[int] = []
    for n in range(batch_size(x)):
        new = all(not all(bool((a[n] == a[m]).all()) for a in _tensors(x)) for m in keep)
        if new and len(keep) < count:
            keep.append(n)
    return map_state(lambda v: v[keep], x)


def _tensors(x: State) -> list[Tensor]:
    return [t for v in x.values() for t in _tensors(v)] if isinstance(x, dict) else [x]


def _reversal(process: Process, data: State) -> tuple[float, str]:
    """Forward, then back in three steps with the exact head: the data law returns."""
    exact, count = Exact(process, data), batch_size(data)
    if process.timed:
        grid = [0.9, 0.6, 0.2, 0.0]
    else:
        grid = [2.0, 0.7, 0.2, 0.0]
    copies = RETURNS // count
    many = map_state(lambda v: v.repeat((copies,) + (1,) * (v.dim() - 1)), data)
    size = copies * count
    full = [torch.full((size,), t, dtype=torch.float64) for t in grid]
    x = process._transition(many, torch.zeros_like(full[0]), full[0]).sample()
    for t, s in zip(full[:-1], full[1:], strict=True):
        x = Ancestral().law(process, exact(x, t), x, t, s).sample()
    seen = torch.zeros(count, dtype=torch.float64)
    for n in range(count):
        agree = [
            (v - d[n]).abs().reshape(size, -1).max(1).values < 1e-6
            for v, d in zip(_tensors(x), _tensors(data), strict=True)
        ]
        seen[n] = torch.stack(agree).all(0).sum()
    lost = size - float(seen.sum())
    if lost:
        return torch.inf, f"{lost:.0f} of {size} returned to no datum"
    return _chi_square(seen[:, None], torch.full((count, 1), 1 / count)), ""


def _sum_over_parts(process: Process, data: State) -> float:
    """The integrand of the whole is the sum over its leaves, each on its clock."""
    t = torch.full((batch_size(data),), 0.6, dtype=torch.float64)
    x_t = process._transition(data, torch.zeros_like(t), t).sample()
    target, estimate = Data(data), Exact(process, data)(x_t, t)
    whole = integrand(process, target, estimate, x_t, t)
    parts = [
        leaf.speed * kl_rate(leaf, leaf.read(target), leaf.read(estimate), x_t)
        for leaf in process.leaves(t)
    ]
    return _apart(whole, torch.stack(parts).sum(0))


def _entropy(process: Process, data: State, head: Head | None) -> tuple[float, str]:
    """E[path-KL] = H(p_0) + KL(p_1 ‖ prior) for the exact head, more for any other."""
    try:
        gap = float(
            entropy_gap(process, head or Exact(process, data), data, **_effort(process, data))
        )
    except ValueError as reason:
        raise Unsolved(f"{reason}") from reason
    if head is None:
        return abs(gap), f"H(p_0) = {_entropy_of(data):.4f} nats"
    return max(-gap, 0.0), f"{gap:.2e} nats above the exact head"


def _effort(process: Process, x: State) -> dict[str, Any]:
    """Nodes and grid: more of them where the noisy states are few."""
    leaves = list(process.leaves(torch.ones(1, dtype=torch.float64)))
    if len(leaves) > 1:
        return {"nodes": 200, "grid": 81}
    core = leaves[0].core
    if core.terms[0].categorical:
        return {"nodes": 361}
    if any(getattr(term, "event_axes", 0) for term in core.terms):
        return {"nodes": 145}
    plane = not core.support.is_discrete and first_tensor(x).dim() > 1
    return {"nodes": 145, "grid": 97} if plane else {}


def _entropy_of(data: State) -> float:
    return float(torch.tensor(float(batch_size(data))).log())
