r"""Sums of terms at example states, and the laws that each is held to in its own time.

`Entries` looks at laws whose entries can be enumerated: probabilities are summed over the points
of a lattice, densities over a grid on the line. `Vectors` looks at linear diffusions of vectors,
with auxiliaries or without, whose densities are exponentials of quadratic forms: mean and
covariance are read from the density itself, by its derivatives, and expectations are sums over
the nodes of a Gauss–Hermite rule, exact for the polynomials that occur. No law consults the
engine's own moments.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import estimates, laws
from ..engines.finite import Finite
from ..engines.gaussian import Gaussian
from ..engines.matrix import MatrixGaussian
from ..engines.truncated import Truncated
from ..estimates import Data
from ..expectation import points
from ..heads import Exact
from ..loss import kl_rate, sum_over_terms
from ..numerics.factors import cholesky
from ..numerics.quadrature import gauss_hermite
from ..numerics.systems import Varying
from ..process import Leaf, LiftedSum, batch_size, map_state
from ..solve import Unsolved
from ..terms import Diffusion, Drift, FiniteJump, Jump

State = Any
DRAWS = 4000
ROUNDINGS = 32  # of a state, as it is moved, turned and subtracted by matrices
EPS = 2.0**-53
SOON = 1e-9  # an own time at which next to nothing has happened
LOG_2PI = math.log(2 * math.pi)


def site(leaf: Leaf, x: Tensor, when: tuple[float, float] = (0.3, 0.7)) -> Site:
    """A leaf at example data, (B, *event), that is looked at at two times."""
    vectors = isinstance(leaf.core.engine, MatrixGaussian)
    return Vectors(leaf, x, when) if vectors else Entries(leaf, x, when)


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
        return max(apart(whole, parts), _size((-whole).clamp(min=0)))

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


class Entries(Site):
    """Laws that are enumerated entry by entry."""

    def noisy(self, x_0: Tensor, t: Tensor) -> Distribution:
        return self.core._transition(x_0, torch.zeros_like(t), t)

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

    def dynkin(self) -> float:
        t = self.t.clone().requires_grad_(True)
        law = self.law(self.x, self.zero, t)
        y, _ = self.points(_entries(self.core._transition(self.x, self.zero, self.t), self.axes))
        y = y.detach()
        log_p, weight = law.log_prob(y), self._measure(y)
        worst = 0.0
        for f in self.tests():
            value = f(y.double())
            mean = (_exp(log_p) * weight * value).sum(0)
            slope = torch.zeros_like(t)
            if mean.requires_grad:  # it is not where nothing moves
                (slope,) = torch.autograd.grad(mean.sum(), t, retain_graph=True)
            moved = (_exp(log_p) * weight * self.generator(f, y)).sum(0).detach()
            moved = moved.reshape(moved.shape[0], -1).sum(1)
            scale = 1 + moved.abs() + mean.detach().abs().reshape(len(slope), -1).sum(1)
            worst = max(worst, _size((slope - moved) / scale))
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
            worst = max(worst, apart(whole, goal.log_prob(z).exp()))
        return worst

    def _targets(self, law: Distribution, count: int = 4) -> list[Tensor]:
        return [law.sample() for _ in range(count)]

    def normalisation(self) -> float:
        both = [self.law(self.x, self.zero, self.t), self.law(self.x, self.s, self.t)]
        return max(_size(self.points(p)[1].exp().sum(0) - 1) for p in both)

    def limit(self) -> tuple[float, str]:
        law = _entries(self.core._limit(tuple(self.x.shape)), self.axes)
        y, log_w = self.points(law)
        goal = self.law(
            y.reshape(-1, *y.shape[2:]), self.spread(self.zero, y), self.spread(self.t, y)
        )
        worst = 0.0
        moves = any(isinstance(term, FiniteJump) and term.varies() for term in self.core.terms)
        for z in [] if moves else self._targets(law):  # rates that vary leave no law as it is
            many = z.unsqueeze(0).expand(y.shape).reshape(-1, *y.shape[2:])
            step = goal.log_prob(many).reshape(log_w.shape)
            worst = max(
                worst, apart(torch.logsumexp(log_w + step, 0).exp(), law.log_prob(z).exp())
            )
        far = self.law(self.x, self.zero, torch.full_like(self.t, 1e6))
        z = law.sample()
        worst = max(worst, apart(far.log_prob(z).exp(), law.log_prob(z).exp()))
        return worst, self._left()

    def bridge(self) -> float:
        x_t = self.law(self.x, self.zero, self.t).sample()
        y, log_w = self.points(self.law(self.x, self.zero, self.s))
        early = self.law(self.x, self.zero, self.s).log_prob(y)
        flat = y.reshape(-1, *y.shape[2:])
        late = self.law(flat, self.spread(self.s, y), self.spread(self.t, y))
        many = x_t.unsqueeze(0).expand(y.shape).reshape(-1, *y.shape[2:])
        joint = early + late.log_prob(many).reshape(log_w.shape)
        whole = self.law(self.x, self.zero, self.t).log_prob(x_t)
        bridge = self.bridge_law(self.x, x_t, self.s, self.t)
        return apart((joint - whole).exp(), bridge.log_prob(y).exp())

    def agreement(self) -> float:
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

        return max(self._discrepancy(law(1), _draws(law)) for law in (again, bridge))

    def _discrepancy(self, law: Distribution, draws: Tensor) -> float:
        if not self.core.support.is_discrete:
            if not bool(law.variance.any()):
                return 0.0 if bool((draws == law.mean).all()) else torch.inf
            u = (draws - law.mean) / law.variance.sqrt().clamp(min=1e-300)
            fits = [u.mean(0) * DRAWS**0.5, (u.square().mean(0) - 1) * (DRAWS / 2) ** 0.5]
            return max(_size(v) for v in fits)
        y, log_p = self.points(law)
        p = log_p.detach().exp()[:, 0]
        same = draws.unsqueeze(0) == y
        same = same.all(-1) if self.axes else same
        seen = same.double().sum(1)
        return chi_square(seen.reshape(len(p), -1), p.reshape(len(p), -1))

    def score(self) -> float:
        jumps = [term for term in self.core.terms if isinstance(term, Jump)]
        if not jumps:
            return self._slope_error()
        exact = Exact(self.core, self.x)
        x_t = self.core._transition(self.x, self.zero, self.t).sample()
        score = self.engine.score(exact(x_t, self.t), x_t, self.t)
        return max(self._ratio_error(term, score, x_t) for term in jumps)

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
            worst = max(worst, _size(torch.where(allowed, error, 0.0)))
        return worst

    def decoder(self) -> float:
        x_t = self.core._transition(self.x, self.zero, self.t).sample()
        law = _entries(self._decoded(x_t, self.t), self.axes)
        error = _size(self.points(law)[1].exp().sum(0) - 1)
        soon = torch.full_like(self.t, SOON)
        if self.core.support.is_discrete:
            return max(error, _size(self._decoded(self.x, soon).log_prob(self.x)))
        x = self.x.detach().requires_grad_(True)
        forward = self.core._transition(x, self.zero, soon)
        (phi,) = torch.autograd.grad(forward.mean.sum(), x)
        peak = forward.log_prob(forward.mean).detach() + phi.log().reshape(len(x), -1).sum(1)
        found = self.engine.decode(Data(self.x), forward.mean.detach(), soon).log_prob(self.x)
        return max(error, apart(found, peak))

    def consistency(self) -> tuple[float, str]:
        law = self.core._transition(self.x, self.zero, self.t)
        y = law.sample()
        whole = law.log_prob(y)
        alone = self.core._transition(self.x[:1], self.zero[:1], self.t[:1]).log_prob(y[:1])
        error = apart(alone.exp(), whole[:1].exp())
        other = self._general()
        if other is None:
            return error, ""
        try:
            both = other.transition(self.x, self.zero, self.t).log_prob(y)
        except ValueError as reason:  # rates that vary too steeply for panels
            if not getattr(other, "varying", False):
                raise
            return error, f"{type(other).__name__} refuses: {str(reason).split(':')[0]}"
        return max(error, apart(both.exp(), whole.exp())), f"= {type(other).__name__}"

    def _general(self) -> Any:
        terms = self.core.terms
        if all(isinstance(term, FiniteJump) for term in terms):
            most = 8 if any(term.varies() for term in terms) else 64
            special = not isinstance(self.engine, Finite) and self.core.terms[0].size <= most
            return Finite(terms) if special else None
        jumps = all(isinstance(term, Jump) for term in terms)
        alike = not self.axes and not any(term.widths() for term in terms)
        if jumps and alike and not isinstance(self.engine, Finite | Truncated):
            return Truncated(terms)
        diagonal = isinstance(self.engine, Gaussian) and self.engine.diagonal
        return MatrixGaussian(terms) if diagonal else None


class Vectors(Site):
    """Normal laws of vectors, read from their log-densities."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.size = self.core.state_shape(tuple(self.x.shape))[-1]
        self.lift: Any = self.core.whole if isinstance(self.core, LiftedSum) else None

    def noisy(self, x_0: Tensor, t: Tensor) -> Distribution:
        return self.core._marginal(x_0, t)

    def given(self, t: Tensor) -> Distribution:
        """The law of the noisy state given the examples, with entries as batch dimensions."""
        return _entries(self.noisy(self.x, t), 1)

    def law(self, y: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """The transition law from states (B, …) or (G·B, …), entries as batch dimensions."""
        many = y.shape[0] // self.x.shape[0]
        return _entries(self.core._transition(y, s.repeat(many), t.repeat(many)), 1)

    def dynkin(self) -> float:
        x, t = self.given(self.s).sample(), self.t.clone().requires_grad_(True)
        mean, cov = moments(self.law(x, self.s, self.t))
        y, w = nodes(mean, cholesky(cov))
        y = y.detach().requires_grad_(True)
        w = w.reshape((-1,) + (1,) * (y.dim() - 1))
        std = cov.diagonal(dim1=-2, dim2=-1).sqrt()
        u, log_p = (y - mean) / std, self.law(x, self.s, t).log_prob(y)
        drift, spread = self._generator(y)
        velocity, spread = drift / std, spread / (std.unsqueeze(-1) * std.unsqueeze(-2))
        worst = 0.0
        for i in range(self.size):
            for j in range(-1, i + 1):
                other = u[..., j] if j >= 0 else torch.ones_like(u[..., i])
                f, moved = u[..., i] * other, velocity[..., i] * other
                if j >= 0:
                    moved = moved + u[..., i] * velocity[..., j] + spread[..., i, j]
                (slope,) = torch.autograd.grad((w[..., 0] * f * log_p).sum(), t, create_graph=True)
                goal = (w[..., 0] * moved).sum(0).reshape(len(slope), -1).sum(1)
                floats = _by_rounding(slope, y).sum(0).reshape(len(slope), -1).sum(1)
                worst = max(worst, apart(slope, goal, floats))
        return worst

    def _generator(self, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""The drift at points (G, B, …, k), and the matrices :math:`B B^\top`, (B, …, k, k)."""
        flat, t = y.reshape(-1, *y.shape[2:]), self.t.repeat(y.shape[0])
        drift, spread = torch.zeros_like(y), torch.zeros(*y.shape[1:], self.size).to(y)
        eye = torch.eye(self.size).to(y)
        for term in self.core.terms:
            if isinstance(term, Drift):
                drift = drift + term.scale * term.velocity(flat, t).reshape(y.shape)
            else:
                units = [e.expand(y.shape[1:]) for e in eye]
                rows = [term.mix(term.unmix(e, y[0], self.t), y[0], self.t) for e in units]
                spread = spread + term.scale * torch.stack(rows, -2)
        return drift, spread

    def chapman_kolmogorov(self) -> float:
        goal = moments(self.given(self.t))
        mean, cov = moments(self.given(self.s))
        starts = [(mean, cholesky(cov), self.s), (*self._start(), self.zero)]
        return max(_unlike(self._pushed(m, L, s, self.t), goal) for m, L, s in starts)

    def _start(self) -> tuple[Tensor, Tensor]:
        """The mean and the factor of the state at time 0: the data, and auxiliaries of a lift."""
        if self.lift is None:
            return self.x, torch.zeros(*self.x.shape, self.size).to(self.x)
        mean = torch.cat([self.x.unsqueeze(-1), self.lift.mean.expand(*self.x.shape, -1)], -1)
        factor = torch.nn.functional.pad(self.lift.factor, (1, 0, 1, 0))
        return mean, factor.expand(*mean.shape, -1)

    def _pushed(self, mean: Tensor, factor: Tensor, s: Tensor, t: Tensor) -> Moments:
        """The moments at t of a normal law at s, by the transition law from its nodes."""
        y, w = nodes(mean, factor)
        m, cov = moments(self.law(y.reshape(-1, *y.shape[2:]), s, t))
        m, cov = m.reshape(y.shape), cov.reshape(*y.shape, self.size)
        whole = torch.einsum("g,g...->...", w, m)
        rest = m - whole
        both = cov + rest.unsqueeze(-1) * rest.unsqueeze(-2)
        return whole, torch.einsum("g,g...->...", w, both)

    def normalisation(self) -> float:
        x = self.given(self.s).sample()
        return max(_excess(p) for p in (self.given(self.t), self.law(x, self.s, self.t)))

    def limit(self) -> tuple[float, str]:
        shape = self.core.state_shape(tuple(self.x.shape))
        law = _entries(self.core._limit(shape), 1)
        goal = moments(law)
        start = goal[0], cholesky(goal[1])
        late = torch.full_like(self.t, 1e6)
        far = [
            self._pushed(*start, self.zero, self.t),
            moments(self.law(start[0] + 1, self.zero, late)),
        ]
        return max(_excess(law), *(_unlike(found, goal) for found in far)), self._left()

    def bridge(self) -> float:
        x_t, whole = self.noisy(self.x, self.t).sample(), self.given(self.t)
        early = self.given(self.s)
        mean, cov = moments(early)
        y, _ = nodes(mean, cholesky(cov))
        y, x_t = y.detach().requires_grad_(True), x_t.detach().requires_grad_(True)
        many = x_t.unsqueeze(0).expand(y.shape)
        late = self.law(y.reshape(-1, *y.shape[2:]), self.s, self.t)
        late = late.log_prob(many.reshape(-1, *y.shape[2:])).reshape(y.shape[:-1])
        bridge = _entries(self.core._bridge(Data(self.x), x_t, self.s, self.t), 1)
        pairs = ((early.log_prob(y), y), (late, many), (bridge.log_prob(y), y))
        floats = sum(_by_rounding(log_p, state) for log_p, state in pairs)
        last = whole.log_prob(x_t)
        floats = floats + _by_rounding(last, x_t)
        goal = pairs[0][0] + late - last
        return max(apart(pairs[2][0], goal, floats), _excess(bridge))

    def agreement(self) -> float:
        x_t = self.noisy(self.x, self.t).sample()
        x_s = self.noisy(self.x, self.s).sample()
        found = (
            self.noisy(self.x, self.t),
            self.core._transition(x_s, self.s, self.t),
            self.core._bridge(Data(self.x), x_t, self.s, self.t),
        )
        return max(_discrepancy(_entries(law, 1)) for law in found)

    def score(self) -> float:
        return self._slope_error()

    def decoder(self) -> float:
        x_t = self.noisy(self.x, self.t).sample()
        law = self._decoded(x_t, self.t)
        if self.lift is None:
            error = _excess(_entries(law, 1))
        else:
            error = _size(points(_entries(law, 0), law.support)[1].exp().sum(0) - 1)
        soon = self.s  # where the curvature is well conditioned; what is tested holds at all times
        x = self.x.detach().requires_grad_(True)
        forward = self.noisy(x, soon)
        y = forward.mean.detach()
        (slope,) = torch.autograd.grad(forward.log_prob(y).sum(), x, create_graph=True)
        parts = [slope.unsqueeze(-1)] if self.lift else slope.unsqueeze(-1).split(1, -2)
        bend = [torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v in parts]
        fisher = -(bend[0][..., None, None] if self.lift else torch.stack(bend, -2))
        size = fisher.diagonal(dim1=-2, dim2=-1)  # entries may differ by many orders of magnitude
        unit = fisher / (size.unsqueeze(-1) * size.unsqueeze(-2)).sqrt()
        peak = unit.logdet() + (size / (2 * math.pi)).log().sum(-1)
        peak = peak.reshape(len(x), -1).sum(1) / 2
        found = self.engine.decode(Data(self.x), y, soon).log_prob(self.x)
        return max(error, apart(found, peak))

    def consistency(self) -> tuple[float, str]:
        law = self.noisy(self.x, self.t)
        y, one = law.sample(), slice(0, 1)
        alone = self.noisy(self.x[one], self.t[one]).log_prob(y[one])
        error = apart(alone, law.log_prob(y)[one])
        engine: Any = self.engine
        A, _, _ = engine._system(self.t)
        steps = 2 * _size(A.abs().sum(-1).amax() * (self.t - self.s))
        if steps > 1024:
            return error, "too stiff for panels"
        panels = 2 * max(engine.panels(self.t), 1 << max(3, math.ceil(math.log2(steps + 1))))
        flow = Varying(engine._system, panels)(self.s, self.t)
        mean = engine._apply(flow.phi, y) + engine._fit(flow.mean, y, 1)
        cov = engine._align(flow.cov, y, 2).expand(*y.shape, -1)
        found = moments(self.law(y, self.s, self.t))
        return max(error, _unlike(found, (mean, cov))), f"= {panels} panels"


Moments = tuple[Tensor, Tensor]


def moments(law: Distribution) -> Moments:
    r"""The mean and the covariance that a log-density of vectors says.

    .. math:: \Sigma = (-\nabla^2 \log p)^{-1}, \qquad m = y + \Sigma \nabla \log p(y)
    """
    with torch.enable_grad():
        y = law.mean.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(law.log_prob(y).sum(), y, create_graph=True)
        parts = slope.unbind(-1)
        bend = [torch.autograd.grad(v.sum(), y, retain_graph=True)[0] for v in parts]
    cov = torch.linalg.inv_ex(-torch.stack(bend, -2)).inverse
    cov = (cov + cov.mT) / 2
    return y.detach() + (cov @ slope.detach().unsqueeze(-1)).squeeze(-1), cov


def nodes(mean: Tensor, factor: Tensor, count: int = 3) -> tuple[Tensor, Tensor]:
    """Nodes (G, *mean.shape) and weights (G,) of a normal law, exact up to degree 2 count − 1."""
    u, w = gauss_hermite(count)
    size = mean.shape[-1]
    each = torch.cartesian_prod(*[u] * size).reshape(-1, size)
    weights = torch.cartesian_prod(*[w] * size).reshape(-1, size).prod(-1)
    each = each.reshape((-1,) + (1,) * (mean.dim() - 1) + (size,))
    return mean + (factor @ each.unsqueeze(-1)).squeeze(-1), weights


def _unlike(found: Moments, goal: Moments) -> float:
    """The largest difference of moments, in standard deviations of the goal."""
    std = goal[1].diagonal(dim1=-2, dim2=-1).sqrt()
    unit = std.unsqueeze(-1) * std.unsqueeze(-2)
    gaps = (found[0] - goal[0]) / std, (found[1] - goal[1]) / unit
    return max(_size(gap.nan_to_num(torch.inf)) for gap in gaps)


def _excess(law: Distribution) -> float:
    """How far a density is from the normal law that its moments name, which has mass one."""
    mean, cov = moments(law)
    factor = cholesky(cov)
    y, _ = nodes(mean, factor)
    white = torch.linalg.solve_triangular(factor, (y - mean).unsqueeze(-1), upper=False)
    peak = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + y.shape[-1] / 2 * LOG_2PI
    return apart(law.log_prob(y), -white.squeeze(-1).square().sum(-1) / 2 - peak)


def _discrepancy(law: Distribution) -> float:
    """The largest standardised difference of the moments of draws from those of the density."""
    mean, cov = moments(law)
    rest = (law.sample(torch.Size([DRAWS])) - mean).unsqueeze(-1)
    white = torch.linalg.solve_triangular(cholesky(cov), rest, upper=False)
    eye = torch.eye(cov.shape[-1]).to(cov)
    spread = (white * white.mT).mean(0) - eye
    worst = spread.abs() / (1 + eye).sqrt() * DRAWS**0.5
    return max(_size(white.mean(0)) * DRAWS**0.5, _size(worst))


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


def _seen_at(core: Any, t: Tensor) -> Leaf:
    (leaf,) = core.leaves(t)
    return leaf


def _entries(law: Distribution, axes: int) -> Distribution:
    return law if len(law.event_shape) == axes else law.base_dist  # type: ignore[attr-defined]


def _exp(log_p: Tensor) -> Tensor:
    """exp with a zero gradient at −∞."""
    none = log_p == -torch.inf
    return torch.where(none, torch.zeros_like(log_p), torch.where(none, 0.0, log_p).exp())


def apart(a: Tensor, b: Tensor, slack: Tensor | float = 0.0) -> float:
    """The largest difference relative to one plus the size, beyond a slack."""
    gap = (((a - b).abs() - slack).clamp(min=0) / (1 + b.abs())).detach()
    return float(torch.where(a == b, torch.zeros_like(gap), gap).nan_to_num(torch.inf).max())


def _by_rounding(values: Tensor, states: Tensor) -> Tensor:
    """By how much the rounding of states to float64 moves numbers that are made of them."""
    (slope,) = torch.autograd.grad(values.sum(), states, retain_graph=True)
    return ROUNDINGS * EPS * (slope * states.detach()).abs().sum(-1)


def few(x: State, count: int) -> State:
    """At most so many distinct examples."""
    keep: list[int] = []
    for n in range(batch_size(x)):
        new = all(not all(bool((a[n] == a[m]).all()) for a in tensors(x)) for m in keep)
        if new and len(keep) < count:
            keep.append(n)
    return map_state(lambda v: v[keep], x)


def tensors(x: State) -> list[Tensor]:
    """The tensors of a state."""
    return [t for v in x.values() for t in tensors(v)] if isinstance(x, dict) else [x]


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


def _size(values: Tensor) -> float:
    """The largest absolute value; infinite if one is NaN, which ``max`` would pass over."""
    return float(values.detach().abs().nan_to_num(torch.inf).max())


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


def chi_square(seen: Tensor, p: Tensor, least: float = 5.0) -> float:
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
        excess = (chi - freedom) / (2 * freedom) ** 0.5 / 2
        worst = max(worst, float(torch.as_tensor(excess).nan_to_num(torch.inf)))
    return worst
