"""Sums of terms whose entries can be enumerated: every law, point by point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..engines.finite import Finite
from ..engines.gaussian import Gaussian
from ..engines.matrix import MatrixGaussian
from ..engines.truncated import Truncated
from ..estimates import Data
from ..expectation import points
from ..heads import Exact
from ..solve import Unsolved
from ..terms import Diffusion, Drift, FiniteJump, Jump
from .site import DRAWS, Site, apart, of_entries, size_of

SOON = 1e-9  # an own time at which next to nothing has happened


class Entries(Site):
    """Laws that are enumerated entry by entry."""

    def noisy(self, x_0: Tensor, t: Tensor) -> Distribution:
        return self.core._transition(x_0, torch.zeros_like(t), t)

    def law(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """The transition law with entries as batch dimensions."""
        return of_entries(self.core._transition(x, s, t), self.axes)

    def bridge_law(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """The bridge with entries as batch dimensions."""
        return of_entries(self.core._bridge(Data(x_0), x, s, t), self.axes)

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
        y, _ = self.points(of_entries(self.core._transition(self.x, self.zero, self.t), self.axes))
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
            worst = max(worst, size_of((slope - moved) / scale))
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
        return max(size_of(self.points(p)[1].exp().sum(0) - 1) for p in both)

    def limit(self) -> tuple[float, str]:
        law = of_entries(self.core._limit(tuple(self.x.shape)), self.axes)
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
            return max(size_of(v) for v in fits)
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
            worst = max(worst, size_of(torch.where(allowed, error, 0.0)))
        return worst

    def decoder(self) -> float:
        x_t = self.core._transition(self.x, self.zero, self.t).sample()
        law = of_entries(self._decoded(x_t, self.t), self.axes)
        error = size_of(self.points(law)[1].exp().sum(0) - 1)
        soon = torch.full_like(self.t, SOON)
        if self.core.support.is_discrete:
            return max(error, size_of(self._decoded(self.x, soon).log_prob(self.x)))
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


def _exp(log_p: Tensor) -> Tensor:
    """exp with a zero gradient at −∞."""
    none = log_p == -torch.inf
    return torch.where(none, torch.zeros_like(log_p), torch.where(none, 0.0, log_p).exp())


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
