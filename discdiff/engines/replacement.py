r"""Replacement by draws from a fixed law: rank-one chains at any vocabulary size.

With :math:`\alpha = e^{-\tau}` the chance that a site was not touched,

.. math:: P_\tau = \alpha I + (1 - \alpha)\, \mathbf{1} \pi^\top,

so that nothing of size K×K is ever formed. With :math:`\mu` the posterior of :math:`x_0`, at
:math:`x_t = x`, and :math:`\rho_x = (1 - \alpha)\pi_x / (\alpha + (1 - \alpha) \pi_x)` the chance
that a site that agrees with the data was touched, the reverse rates and the step to s are

.. math::
    r(y) &= \pi_y \,[1 - \mu(x) (1 - \rho_x)] + \mu(y)\, \frac{\alpha}{1 - \alpha}, \\
    p(x_s = b) &= \kappa \,[\alpha_s\, \mu(b) + (1 - \alpha_s)\, \pi_b\, h], \quad
    \kappa = \frac{1 - \alpha_{t|s}}{1 - \alpha_t}, \quad h = 1 - \mu(x)(1 - \rho_x)

for y, b other than x. A site whose state :math:`\pi` cannot produce was never touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, register_kl

from .. import estimates
from ..estimates import Atoms, Conditional, Data, Estimate, LeaveOneOut, Posterior, Ratio, remove
from ..laws import _Law
from ..numerics.special import log1mexp, log_add, safe_log, times_log, xlogx_ratio
from ..shapes import along, one_time, span
from ..solve import Engine, Score, Tempo, Unsolved, solves
from ..terms import Replace
from ..validation import require_numbers, values_are_checked
from .belief import Belief, Certain, Spread
from .replacement_loss import AllSay, OthersSay, RatiosSay

SCRAMBLED = {Posterior: AllSay, LeaveOneOut: OthersSay, Conditional: RatiosSay, Ratio: RatiosSay}

Exits = tuple[Tensor, Callable[[tuple[Tensor, ...]], Tensor]]


class Replaced(_Law):
    r"""The law :math:`\alpha \delta_x + (1 - \alpha) \pi`, entry by entry.

    Arguments:
        x: Where the mass α stays, int64.
        tau: :math:`-\log \alpha`, float64, aligned with x.
        engine: Knows π and how to draw from it.
    """

    def __init__(self, x: Tensor, tau: Tensor, engine: Replacement) -> None:
        self.x, self.tau, self.engine = x, tau, engine
        super().__init__(x.shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.engine.size - 1)

    @property
    def probs(self) -> Tensor:
        """All probabilities, shape (*x.shape, K)."""
        states = torch.arange(self.engine.size, device=self.x.device)
        x, tau = self.x.unsqueeze(-1), self.tau.unsqueeze(-1)
        stay = torch.where(states == x, (-tau).exp(), torch.zeros_like(tau))
        return (stay - torch.expm1(-tau) * self.engine.pi).to(torch.get_default_dtype())

    def _draw(self, shape: Size) -> Tensor:
        shape = shape + self.x.shape
        chance = -torch.expm1(-self.tau).to(torch.get_default_dtype())
        touched = torch.rand(shape, device=self.x.device) < chance
        if self.engine.target is not None:
            return exchange(self.x, touched, self.engine.target)
        return exchange(self.x, touched, self.engine.draw(shape, self.x.device))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        pi = self.engine.log_pi_at(x) + log1mexp(self.tau)
        stay = torch.where(x == self.x, -self.tau, torch.full_like(self.tau, -torch.inf))
        return log_add(stay, pi).to(torch.get_default_dtype())


def exchange(x: Tensor, touched: Tensor, other: Tensor | int) -> Tensor:
    """Integers x, others where touched.

    A processor guesses wrong at every second entry of a random mask; arithmetic does not guess.
    """
    if not x.is_cpu:
        return torch.where(touched, other, x)
    return (other - x.expand(touched.shape)).mul_(touched).add_(x)


@register_kl(Replaced, Replaced)
def _kl_replaced(p: Replaced, q: Replaced) -> Tensor:
    """In closed form where q is the replacement law itself; only the kept state differs."""
    if p.engine.size <= 64 or bool((q.tau < torch.inf).any()):
        states = torch.arange(p.engine.size, device=p.x.device)
        states = states.reshape((-1,) + (1,) * p.x.dim()).expand(-1, *p.x.shape)
        return xlogx_ratio(p.log_prob(states), q.log_prob(states)).sum(0)
    log_touched, pi = log1mexp(p.tau), p.engine.pi[p.x]
    log_pi = safe_log(pi)
    log_same = log_add(-p.tau, log_touched + log_pi)
    kept = xlogx_ratio(log_same, log_pi)
    rest = times_log((1 - pi) * log_touched.exp(), log_touched)
    return (kept + rest).to(torch.get_default_dtype())


class Restored(_Law):
    """The law of x_s given x_t and a belief about x_0, entry by entry.

    Arguments:
        x: The state at t.
        belief: The posterior of x_0; sites whose state cannot be a replacement stay.
        s, t: Own times, aligned with x.
        engine: Knows π and how to draw from it.
    """

    def __init__(
        self, x: Tensor, belief: Belief, s: Tensor, t: Tensor, engine: Replacement
    ) -> None:
        self.x, self.belief, self.s, self.t, self.engine = x, belief, s, t, engine
        super().__init__(x.shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.engine.size - 1)

    def _kappa(self) -> Tensor:
        """κ, the chance that a touched site was touched between s and t."""
        share = torch.expm1(self.s - self.t) / torch.expm1(-self.t)
        # 0/0 at t = 0 and ∞ − ∞ at s = t = ∞: in both cases nothing happens between s and t.
        return share.nan_to_num(0.0)

    def _draw(self, shape: Size) -> Tensor:
        if shape:
            raise NotImplementedError("draw once per batch element; repeat the batch for more")
        # 1 − κ α_s, the chance that a touched site shows no datum at s; 0/0 at t = 0 restores none
        hides = torch.expm1(-self.s) / torch.expm1(-self.t)
        u = torch.rand(self.x.shape, dtype=hides.dtype, device=self.x.device)
        may = self.engine.can_be(self.x)
        restores = (u >= hides) & may
        result = self._restored(restores)
        if self.engine.target is not None:
            return result  # a second touch returns the mask, which x is
        other = ~restores & may & (u >= hides - self._kappa() * self._again())
        return torch.where(other, self.engine.draw(self.x.shape, self.x.device), result)

    def _restored(self, restores: Tensor) -> Tensor:
        """The state with draws of the data at some sites."""
        rows = restores.reshape(-1).nonzero().squeeze(1)
        drawn = self.x.flatten().index_copy(0, rows, self.belief.draw(rows))
        return drawn.view(self.x.shape)

    def _again(self) -> Tensor:
        """(1 − α_s) h: the share of the touched that was touched before s as well."""
        return -torch.expm1(-self.s) * self.engine.log_h(self.belief, self.x, self.t).exp()

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        table = self.log_table().expand(*x.shape, self.engine.size)
        return table.gather(-1, x.unsqueeze(-1)).squeeze(-1)

    def log_table(self) -> Tensor:
        """All log-probabilities, shape (*x.shape, K)."""
        mu = self.belief.log_table(self.engine.size).exp().to(self.t)
        again, kappa = self._again(), (self._kappa() * self.engine.can_be(self.x)).unsqueeze(-1)
        pi = self.engine.pi.to(self.t)
        moved = kappa * ((-self.s).exp().unsqueeze(-1) * mu + again.unsqueeze(-1) * pi)
        moved = moved.scatter(-1, self.x.unsqueeze(-1), 0.0)
        stays = (1 - moved.sum(-1, keepdim=True)).clamp(min=0)  # rounding of a sum that is ≤ 1
        moved = moved.scatter(-1, self.x.unsqueeze(-1), stays)
        return safe_log(moved).to(torch.get_default_dtype())


@register_kl(Restored, Restored)
def _kl_restored(p: Restored, q: Restored) -> Tensor:
    return xlogx_ratio(p.log_table(), q.log_table()).sum(-1)


@solves(Replace)
class Replacement(Engine):
    """Rank-one chains: closed forms at any vocabulary size."""

    technique = "closed form, no K×K matrix"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        sizes = {term.size for term in terms}
        if len(sizes) > 1:
            raise ValueError(f"replacement laws of different sizes in one sum: {sorted(sizes)}")
        (self.size,) = sizes
        with torch.enable_grad():
            pi = self.pi
        learned, pi = pi.requires_grad, pi.detach()  # zeros of π stay zeros, its values may change
        top = pi.max(0)
        self.target = int(top.indices) if float(top.values) == 1.0 and not learned else None
        self.uniform = bool((pi == pi[0]).all()) and not learned
        self.full = bool((pi > 0).all())

    def branch(self) -> str:
        if self.target is not None:
            return f"one-hot π: state {self.target} is the mask"
        return "uniform π" if self.uniform else "general π"

    @property
    def rate(self) -> Tensor:
        if len(self.terms) == 1:
            return self.terms[0].scale
        return torch.stack([term.scale for term in self.terms]).sum(0)

    @property
    def pi(self) -> Tensor:
        """The replacement law of the sum: the mean of the laws by their rates."""
        if len(self.terms) == 1:
            return self.terms[0].pi
        return sum(term.scale * term.pi for term in self.terms) / self.rate

    @property
    def log_pi(self) -> Tensor:
        return safe_log(self.pi)

    def log_pi_at(self, x: Tensor) -> Tensor:
        return self.log_pi[x]

    def can_be(self, x: Tensor) -> Tensor:
        """Where a state can be a replacement."""
        if self.target is not None:
            return x == self.target
        return torch.ones_like(x, dtype=torch.bool) if self.full else self.pi[x] > 0

    def draw(self, shape: Size, device: torch.device) -> Tensor:
        """Draws from π, in float64 where they go through its distribution function."""
        if self.uniform:
            return torch.randint(self.size, shape, device=device)
        cdf = self.pi.detach().cumsum(0)
        u = torch.rand(shape, dtype=torch.float64, device=device) * cdf[-1]
        return torch.searchsorted(cdf, u, right=True).clamp(max=self.size - 1)

    def log_h(self, belief: Belief, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\log (1 - \mu(x) + \mu(x) \rho_x)`: the chance that a site was touched.

        t is :math:`-\log \alpha`, aligned with x; nothing cancels at either end.
        """
        again = log1mexp(t) + self.log_pi_at(x)
        log_rho = again - log_add(-t, again)
        log_rho = torch.where(again == -torch.inf, again, log_rho)
        return log_add(belief.log_other(x).to(t), belief.log_at(x).to(t) + log_rho)

    # -- laws ----------------------------------------------------------------------------------

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        tau = along(self.rate * span(s, t), x, torch.float64)
        return Replaced(x, tau, self).to_event(x.dim() - 1)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        x = torch.zeros(shape, dtype=torch.int64, device=self.pi.device)
        tau = torch.full((1,) * len(shape), torch.inf, dtype=torch.float64, device=x.device)
        return Replaced(x, tau, self).to_event(len(shape) - 1)

    def log_chance(self, x_0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        # An untouched site at t = ∞ has no chance, but a bridge: the limit of those from earlier.
        finite = torch.where(t == torch.inf, torch.ones_like(t), self.rate * t)
        return Replaced(x_0, along(finite, x, torch.float64), self).log_prob(x)

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        belief, rate = self.belief(estimate, x, t), self.rate
        s, t = along(rate * s, x, torch.float64), along(rate * t, x, torch.float64)
        return Restored(x, belief, s, t, self).to_event(x.dim() - 1)

    def exits(self, estimate: Estimate, x: Tensor, t: Tensor) -> Exits | None:
        r"""How fast the reversal leaves x, and draws of where it goes; None for ratios.

        .. math:: \sum_{y \ne x} r(y) = (1 - \pi_x)\, h + \frac{\alpha}{1 - \alpha} (1 - \mu(x))
        """
        if not isinstance(estimate, Posterior | LeaveOneOut):
            return None
        logits = estimate.masked_logits.detach()
        if isinstance(estimate, LeaveOneOut):
            logits = self._seen(logits, x, t, 1)
        tau = along(self.rate * one_time(t), x, torch.float64)
        touched = -torch.expm1(-tau)
        rate, pi = self.rate, self.pi
        pi_x = pi[:1] if self.uniform else pi[x]
        left = 1 - pi_x
        rho = (touched * pi_x / (1 - touched * left)).to(logits.dtype)
        odds = (rate * (1 - touched) / touched).to(logits.dtype)
        others = logits.softmax(-1).scatter_(-1, x.unsqueeze(-1), 0.0)
        other = others.sum(-1)
        h = (other + (1 - other) * rho) * rate.to(rho.dtype)
        total = torch.addcmul(left.to(h.dtype) * h, odds, other)
        if not self.full:
            total = torch.where(self.can_be(x), total, 0.0)

        def draw(where: tuple[Tensor, ...]) -> Tensor:
            weight = odds.expand(x.shape)[where].unsqueeze(-1) * others[where]
            weight = weight + h[where].unsqueeze(-1) * pi.to(h.dtype)
            cdf = weight.scatter(-1, x[where].unsqueeze(-1), 0.0).double().cumsum(-1)
            u = torch.rand_like(cdf[:, :1]) * cdf[:, -1:]
            return torch.searchsorted(cdf, u, right=True).squeeze(-1)

        return total, draw

    def exit_bounds(self, times: Tensor) -> Tensor:
        r"""The most at which the reversal given any datum leaves each state, shape (times, K).

        .. math:: (1 - (1 - \alpha)\, \pi_x) / (1 - \alpha), \quad 0 \text{ where } \pi_x = 0
        """
        touched = -torch.expm1(-self.rate * times).unsqueeze(1)
        bound = self.rate * (1 - touched * self.pi) / touched
        return torch.where(self.pi > 0, bound, 0.0).detach()

    def staggered(self, v: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`[v P_{s,t}^{-1}](y)\, P_{s,t}(y, x)` for all y, from v of shape (B, *sites, K).

        .. math:: P^{-1} = \alpha^{-1} (I - (1 - \alpha)\, \mathbf{1} \pi^\top)
        """
        tau = along(self.rate * span(s, t), x, torch.float64).unsqueeze(-1)
        v, pi, changed = v.double(), self.pi, -torch.expm1(-tau)
        before = v - changed * pi * v.sum(-1, keepdim=True)  # times 1/α, which a law drops
        own = torch.arange(self.size, device=x.device) == x.unsqueeze(-1)
        return before * (own * (-tau).exp() + changed * pi[x].unsqueeze(-1))

    # -- scores and estimates ------------------------------------------------------------------

    def belief(self, estimate: Estimate, x: Tensor, t: Tensor) -> Belief:
        """The posterior of x_0 that an estimate determines."""
        if isinstance(estimate, Data):
            return Certain(estimate.value)
        if isinstance(estimate, Atoms):
            return Spread(atom_log_table(estimate, self.size))
        if isinstance(estimate, Posterior):
            return Spread(estimate.logits, estimate.absent, type(estimate).__name__)
        if isinstance(estimate, LeaveOneOut):
            return Spread(self._seen(estimate.masked_logits, x, t, 1))
        if isinstance(estimate, Conditional | Ratio):
            return Spread(self._seen(self._left_out(estimate, x, t), x, t, 1))
        raise no_posterior(estimate)

    def _left_out(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r"""The logarithm of the leave-one-out law of :math:`x_0`.

        A conditional c is that law after the transition, :math:`c = \alpha p + (1 - \alpha) \pi`.
        """
        if isinstance(estimate, LeaveOneOut):
            return estimate.log_probs
        if isinstance(estimate, Conditional | Ratio):
            require_before_infinity(estimate, t)
            given = conditional_log_probs(estimate, x)
            tau = along(self.rate * t, x, torch.float64).unsqueeze(-1)
            signed = given.double().exp() + torch.expm1(-tau) * self.pi
            return positive_log(signed).to(given.dtype)
        if not self.full:
            raise Unsolved("leave-one-out laws are not determined where π has zeros")
        table = self.belief(estimate, x, t).log_table(self.size)
        return self._seen(table, x, t, -1).log_softmax(-1)

    def _seen(self, logits: Tensor, x: Tensor, t: Tensor, sign: int) -> Tensor:
        r"""Logits times :math:`P_t(a, x)^{\pm 1}`: from leave-one-out to posterior and back.

        A state that cannot be a replacement is the datum itself, whatever the logits say.
        """
        log_stay = along(self.rate * t, x, torch.float64)
        other = log1mexp(log_stay) + self.log_pi_at(x)
        same = log_add(-log_stay, other)
        certain = (other == -torch.inf).unsqueeze(-1)
        gain = (sign * (same - other)).to(logits.dtype).unsqueeze(-1).masked_fill(certain, 0.0)
        own = torch.arange(self.size, device=x.device) == x.unsqueeze(-1)
        known = torch.zeros_like(logits).masked_fill(~own, -torch.inf)
        return torch.where(certain, known, torch.where(own, logits + gain, logits))

    def log_rates(self, belief: Belief, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\log r(y)` for all y, per unit own time of a unit-rate chain; −∞ at x itself."""
        tau = along(self.rate * t, x, torch.float64)
        table = belief.log_table(self.size)
        h = self.log_h(belief, x, tau).unsqueeze(-1)
        odds = (-tau - log1mexp(tau)).unsqueeze(-1)
        rates = log_add(h + self.log_pi, odds + table.to(tau))
        own = torch.arange(self.size, device=x.device) == x.unsqueeze(-1)
        silent = own | ~self.can_be(x).unsqueeze(-1)
        return rates.masked_fill(silent, -torch.inf).to(table.dtype)

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        if isinstance(estimate, LeaveOneOut):
            estimate = self.convert(estimate, x, t, Conditional)
        if isinstance(estimate, Conditional | Ratio):
            return Score(log_ratio=ratio_from_table(log_ratio_table(estimate, x)))
        return Score(log_ratio=ratio_from_table(self._ratio_table(estimate, x, t)))

    def _ratio_table(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        """Log-ratios to all states; a site that π cannot produce is untouched."""
        belief = self.belief(estimate, x, t)
        rates = self.log_rates(belief, x, t)
        tau = along(self.rate * t, x, torch.float64)
        untouched = (log1mexp(tau) + tau).unsqueeze(-1) + self.log_pi
        touched = rates.double() - self.log_pi_at(x).unsqueeze(-1)
        table = torch.where(self.can_be(x).unsqueeze(-1), touched, untouched)
        own = torch.arange(self.size, device=x.device) == x.unsqueeze(-1)
        return table.masked_fill(own, 0.0).to(rates.dtype)

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        if kind is Ratio:
            score = self.score(estimate, x, t)
            states = torch.arange(self.size, device=x.device).expand(*x.shape, self.size)
            return Ratio(score.log_ratio(states))
        if kind is Posterior:
            return Posterior(self.belief(estimate, x, t).log_table(self.size))
        if kind is LeaveOneOut:
            return LeaveOneOut(self._left_out(estimate, x, t))
        if kind is not Conditional:
            raise self.unsolved(f"conversion to {kind.__name__}")
        if isinstance(estimate, Conditional | Ratio):
            return Conditional(conditional_log_probs(estimate, x))
        return Conditional(self._mixed(self._left_out(estimate, x, t), x, t))

    def _mixed(self, left_out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\log (\alpha p + (1 - \alpha) \pi)`, from logarithms to logarithms."""
        tau, dtype = along(self.rate * t, x, torch.float64).unsqueeze(-1), left_out.dtype
        if not self.full:
            other = (log1mexp(tau) + self.log_pi).to(dtype)
            return log_add(left_out - tau.to(dtype), other)
        other = (-torch.expm1(-tau) * self.pi).to(dtype)
        return (left_out.exp() * (-tau).exp().to(dtype) + other).log()

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        table = self.belief(estimate, x, t).log_table(self.size)
        law = pyro.Categorical(logits=table, validate_args=False)
        return law.to_event(x.dim() - 1)

    # -- loss ----------------------------------------------------------------------------------

    def kl_rate(
        self, target: Any, estimate: Any, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor | None] | None:
        logits = isinstance(estimate, Posterior | LeaveOneOut)
        if self.target is not None and logits and isinstance(target, Data):
            if isinstance(estimate, LeaveOneOut) and self.target not in estimate.absent:
                estimate = Posterior(self._seen(estimate.masked_logits, x, t, 1))
            return self._masked_loss(target.value, estimate, x), None
        kind = next((v for k, v in SCRAMBLED.items() if isinstance(estimate, k)), None)
        if kind is None or not self.full or not isinstance(target, Data):
            return None
        table = estimate.log_ratio if isinstance(estimate, Ratio) else estimate.masked_logits
        tau = along(self.rate * t, x, torch.float64)
        values = kind(table, x, target.value, tau, self.pi, self.uniform).loss()
        return values, self.rate.expand(t.shape)

    def _masked_loss(self, x_0: Tensor, estimate: Any, x: Tensor) -> Tensor:
        r""":math:`-\log \mu(x_0) - \mu(\mathrm{mask})` at masked sites, 0 elsewhere.

        A site whose datum is the mask itself never moves: it costs :math:`1 - \mu(\mathrm{mask})`.
        On the CPU only the masked rows are touched; elsewhere, and while compiling, all are and
        the others are thrown away, which needs no synchronisation.
        """
        hidden = x == self.target
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            loss = self._row_loss(estimate.masked_logits, estimate.absent, x_0)
            return torch.where(hidden, loss, torch.zeros_like(loss))
        rows = hidden.reshape(-1).nonzero().squeeze(-1)
        logits = estimate.logits.reshape(-1, self.size).index_select(0, rows)
        logits = remove(logits, estimate.absent)
        loss = self._row_loss(logits, estimate.absent, x_0.reshape(-1).index_select(0, rows))
        if values_are_checked(loss):
            require_numbers(estimate.logits, type(estimate).__name__, loss)
        zeros = torch.zeros(x.numel(), dtype=loss.dtype)
        return zeros.index_put((rows,), loss).reshape(x.shape)

    def _row_loss(self, logits: Tensor, absent: tuple[int, ...], x_0: Tensor) -> Tensor:
        table = logits.log_softmax(-1)
        loss = -table.gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
        if self.target in absent:
            return torch.where(x_0 == self.target, torch.ones_like(loss), loss)
        stays = table[..., self.target]
        return torch.where(x_0 == self.target, -torch.expm1(stays), loss - stays.exp())

    def coefficient(self, t: Tensor) -> Tensor:
        tau = self.rate * t
        return self.rate * (-tau).exp() / -torch.expm1(-tau)

    def survival(self, t: Tensor) -> Tensor:
        return (-self.rate * t).exp()

    def tempo(self) -> Tempo:
        rate = float(self.rate.detach())
        return Tempo(rate, rate) if 0 < rate < math.inf else Tempo()

    def decays(self, head: Any) -> bool:
        if head.kind in (Atoms, Data, LeaveOneOut):
            return True
        return head.kind is Posterior and self.target is not None and self.target in head.absent

    def starts_at_infinity(self, head: Any) -> bool:
        return head.kind not in (Ratio, Conditional)


def atom_log_table(estimate: Atoms, size: int) -> Tensor:
    """The log-posterior per site of a finite law, shape (B, *sites, K)."""
    atoms = estimate.atoms.reshape(estimate.atoms.shape[0], -1)
    index = atoms.T.expand(estimate.log_weights.shape[0], -1, -1)
    weights = estimate.log_weights.exp().unsqueeze(1).expand(index.shape)
    table = torch.zeros(*index.shape[:2], size, dtype=weights.dtype, device=index.device)
    table = table.scatter_add(-1, index, weights)
    shape = (index.shape[0], *estimate.atoms.shape[1:], size)
    return table.reshape(shape).log().to(torch.get_default_dtype())


def log_ratio_table(estimate: Estimate, x: Tensor) -> Tensor:
    """Log-ratios to all states from a conditional or a ratio head, zero at the state itself."""
    if isinstance(estimate, Conditional):
        table = estimate.log_probs
    elif isinstance(estimate, estimates.Ratio):
        table = estimate.log_ratio
    else:
        raise Unsolved(f"{type(estimate).__name__} holds no ratios")
    return table - table.gather(-1, x.unsqueeze(-1))


def conditional_log_probs(estimate: Estimate, x: Tensor) -> Tensor:
    r""":math:`\log p_t(x^d = y \mid x_t^{\setminus d})` from a conditional or a ratio head."""
    if isinstance(estimate, Conditional):
        return estimate.log_probs
    return log_ratio_table(estimate, x).log_softmax(-1)


def positive_log(signed: Tensor) -> Tensor:
    """The logarithm of the positive part of a signed table, normalised on the last axis.

    What ratios of a law of data lead to is never negative; what those of a network lead to may
    be, and is cut.
    """
    return safe_log(signed.clamp(min=0)).log_softmax(-1)


def require_before_infinity(estimate: Estimate, t: Tensor) -> None:
    """Raises where ratios are asked what x_0 was although nothing of it is left."""
    if values_are_checked(t) and bool((t == torch.inf).any()):
        raise Unsolved(f"{type(estimate).__name__} does not say what x_0 is at Λ = ∞")


def no_posterior(estimate: Estimate) -> Unsolved:
    return Unsolved(
        f"{type(estimate).__name__} does not determine the posterior of x_0; Posterior, "
        "LeaveOneOut, Exact and, short of Λ = ∞, Conditional and Ratio do"
    )


def ratio_from_table(table: Tensor) -> Any:
    """The function y ↦ log p(y)/p(x) for points of shape (B, *sites, M)."""
    return lambda y: table.gather(-1, y)
