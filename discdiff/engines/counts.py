r"""Counts of independent units: pure death, and death with immigration.

With :math:`p = e^{-\delta t}` the chance that a unit survives and :math:`\nu = \mu / \delta`,

.. math::
    x_t \mid x_0 &\sim \mathrm{Binomial}(x_0, p) * \mathrm{Poisson}(\nu (1 - p)), \\
    r(x + 1) &= \delta \Big[ \mathbb{E}[\text{lost}]\, \frac{p}{1 - p} + \nu (1 - p) \Big], \qquad
    r(x - 1) = \delta\, \frac{\mathbb{E}[\text{gained}]}{1 - p},

where, with A the survivors, :math:`x_0 - A` units are lost and :math:`x_t - A` are gained. These
two latent counts are the statistic that closes the heads; for pure death nothing is gained, and
the lost units are the missing ones, :math:`D = x_0 - x_t`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Data, Estimate, Mean, Missing, Posterior, Ratio, Turnover
from ..numerics.special import bregman_log, log1mexp, log_sum, safe_log
from ..shapes import along, span
from ..solve import Engine, Score, Tempo, Unsolved, solves
from ..terms import Death, Immigration


class _Units(Engine):
    """What pure death and death with immigration share: times as log-survivals."""

    technique = "closed form, independent units"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.deaths = [term for term in terms if isinstance(term, Death)]

    @property
    def rate(self) -> Tensor:
        r"""The death rate :math:`\delta`."""
        if len(self.deaths) == 1:
            return self.deaths[0].scale
        return torch.stack([term.scale for term in self.deaths]).sum(0)

    def log_p(self, t: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return along(-self.rate * t, x, dtype)

    def log_q(self, t: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return along(log1mexp(self.rate * t), x, dtype)

    def thinned(self, count: Tensor, s: Tensor, t: Tensor) -> laws.Thinned:
        """The law of the survivors from s to t."""
        tau, wide = span(s, t), torch.float64
        return laws.Thinned(count, self.log_p(tau, count, wide), self.log_q(tau, count, wide))

    def log_birth_share(self, x: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\log r` and :math:`\log(1 - r)` for :math:`r = (p_s - p_t)/(1 - p_t)`."""
        u_s, u_t = self.rate * s, self.rate * t
        none = u_t == 0
        q_t = log1mexp(torch.where(none, torch.ones_like(u_t), u_t))
        log_r = -u_s + log1mexp(self.rate * span(s, t)) - q_t
        log_kept = log1mexp(u_s) - q_t
        log_r = torch.where(none, torch.full_like(log_r, -torch.inf), log_r)
        log_kept = torch.where(none, torch.zeros_like(log_kept), log_kept)
        return along(log_r, x), along(log_kept, x)

    def coefficient(self, t: Tensor) -> Tensor:
        r""":math:`\delta p / (1 - p)`."""
        u = self.rate * t
        return self.rate * (-u - log1mexp(u)).exp()

    def survival(self, t: Tensor) -> Tensor:
        return (-self.rate * t).exp()

    def tempo(self) -> Tempo:
        rate = float(self.rate.detach())
        return Tempo(rate, rate) if 0 < rate < math.inf else Tempo()

    def starts_at_infinity(self, head: Any) -> bool:
        return head.kind is not Ratio


@solves(Death)
class PureDeath(_Units):
    """Pure death: blackout diffusion."""

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.dies = bool(self.rate.detach() > 0)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self.thinned(x, s, t).to_event(x.dim() - 1)

    def log_chance(self, x_0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        # That some are left at t = ∞ has no chance, but a bridge: the limit of those from earlier.
        return torch.where(x > x_0, -torch.inf, torch.zeros_like(x))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        if not self.dies:
            raise Unsolved("there is no limit law: the death rate is 0")
        return laws.point(torch.zeros(shape, device=self.rate.device))

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        shares = self.log_birth_share(x, s, t)
        return laws.Shifted(self.births(estimate, x, t, *shares), x).to_event(x.dim() - 1)

    def births(
        self, estimate: Estimate, x: Tensor, t: Tensor, log_r: Tensor, log_1mr: Tensor
    ) -> Distribution:
        """The law of the missing units that return, each with probability r."""
        if isinstance(estimate, Data):
            return laws.Thinned(estimate.value - x, log_r, log_1mr)
        if isinstance(estimate, Posterior):
            return _mixed_births(estimate, x, log_r, log_1mr)
        return laws.Rounded(self.missing_of(estimate, x, t), log_r, log_1mr)

    def churn(
        self, estimate: Estimate, x: Tensor, s: Tensor, t: Tensor, eta: float
    ) -> Distribution:
        r"""A step that lets living units die, and more missing ones return, at equal marginals.

        .. math:: x_s = \mathrm{Binomial}(x_t, 1 - \sigma) + \mathrm{Binomial}(D, \beta), \qquad
            \beta = \frac{p_s - (1 - \sigma) p_t}{1 - p_t}, \quad
            \sigma = \eta \min(1, (1 - p_s) / p_t)
        """
        p_s, p_t = self.survival(s), self.survival(t)
        q_s, q_t, gap = (-torch.expm1(-self.rate * u) for u in (s, t, span(s, t)))
        sigma = eta * torch.where(p_t > q_s, q_s / p_t, torch.ones_like(p_t))
        # p_s − p_t = p_s (1 − e^{−δ(t−s)}), so that β is 1 at s = 0; the clamp meets rounding.
        beta = ((p_s * gap + sigma * p_t) / q_t).clamp(max=1)
        stay, gone, come, wait = (
            along(safe_log(v), x) for v in (1 - sigma, sigma, beta, 1 - beta)
        )
        kept, births = laws.Thinned(x, stay, gone), self.births(estimate, x, t, come, wait)
        return laws.Convolution(kept, births).to_event(x.dim() - 1)

    def leap(self, estimate: Estimate, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """Poisson births with the mean of the bridge."""
        mean = self.missing_of(estimate, x, t) * self.log_birth_share(x, s, t)[0].exp()
        births = laws.Poisson(mean, validate_args=False)
        return laws.Shifted(births, x).to_event(x.dim() - 1)

    # -- scores and estimates ------------------------------------------------------------------

    def missing_of(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\mathbb{E}[D \mid x_t]`, the statistic."""
        return self.log_missing_of(estimate, x, t).exp()

    def log_missing_of(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        if isinstance(estimate, Missing):
            return estimate.log_value + self.log_q(t, x)
        if isinstance(estimate, Data):
            return safe_log(estimate.value - x)
        if isinstance(estimate, Atoms):
            # Summed gap by gap: the difference of the mean and x would cancel. Atoms below x have
            # no weight.
            gaps = (estimate.atoms - x.unsqueeze(1)).clamp(min=0)
            weights = estimate.log_weights.exp().to(x.dtype)
            return safe_log(torch.einsum("bn,bn...->b...", weights, gaps))
        if isinstance(estimate, Posterior):
            table, gaps = _possible(estimate, x)
            return safe_log((table.exp() * gaps).sum(-1))
        if isinstance(estimate, Ratio):
            up = estimate.log_ratio[..., 0]
            return up + (x + 1).log() + self.log_q(t, x) - self.log_p(t, x)
        if isinstance(estimate, Mean):
            raise Unsolved(
                "Mean does not determine E[x_0 − x_t | x_t]: the difference cancels; use Missing"
            )
        raise Unsolved(
            f"{type(estimate).__name__} does not determine the missing units; Missing, Ratio, "
            "Posterior and Exact do"
        )

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        """The ratio to x + 1; the others do not enter the reversal of a pure death process."""
        log_missing = self.log_missing_of(estimate, x, t)
        up = log_missing + self.log_p(t, x) - self.log_q(t, x) - (x + 1).log()

        def log_ratio(y: Tensor) -> Tensor:
            ratio = up.unsqueeze(-1).expand(y.shape)
            return torch.where(y == x.unsqueeze(-1) + 1, ratio, torch.full_like(ratio, torch.nan))

        return Score(log_ratio=log_ratio)

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        if kind is Missing:
            return Missing(self.log_missing_of(estimate, x, t) - self.log_q(t, x))
        if kind is Ratio:
            up = self.score(estimate, x, t).log_ratio((x + 1).unsqueeze(-1))
            return Ratio(torch.cat([up, torch.full_like(up, torch.nan)], -1))
        if kind is Posterior and isinstance(estimate, Atoms):
            return Posterior(count_log_table(estimate))
        raise self.unsolved(f"conversion to {kind.__name__}")

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        if isinstance(estimate, Posterior):
            return laws.Table(estimate.log_probs, x.dtype).to_event(x.dim() - 1)
        lost = laws.Poisson(self.missing_of(estimate, x, t), validate_args=False)
        return laws.Shifted(lost, x).to_event(x.dim() - 1)

    def kl_rate(
        self, target: Any, estimate: Any, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor | None] | None:
        if isinstance(target, Data):
            missing = target.value - x
        else:
            missing = self.missing_of(target, x, t)
        loss = bregman_log(missing, self.log_missing_of(estimate, x, t))
        return loss, None

    def decays(self, head: Any) -> bool:
        return head.kind in (Atoms, Data, Missing)


@solves(Death, Immigration)
class ImmigrationDeath(_Units):
    """Death with immigration: the M/M/∞ queue, with a Poisson limit."""

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        if not self.deaths:
            raise Unsolved("immigration without death: add Death, or a Birth term")
        self.arrivals = [term for term in terms if isinstance(term, Immigration)]

    @property
    def intensity(self) -> Tensor:
        r""":math:`\nu = \mu / \delta`, the mean of the limit."""
        return sum(term.scale * term.rate for term in self.arrivals) / self.rate

    def nu(self, x: Tensor) -> Tensor:
        return self.intensity.to(x.dtype)

    def _arrived(self, t: Tensor, x: Tensor) -> Tensor:
        r""":math:`\nu (1 - p)`, without a gradient where nothing arrives."""
        nu = self.nu(x)
        mean = nu * self.log_q(t, x).exp().expand(x.shape)
        return torch.where(nu > 0, mean, torch.zeros_like(mean))

    def _law(self, x: Tensor, s: Tensor, t: Tensor) -> laws.Convolution:
        arrived = laws.Poisson(self._arrived(span(s, t), x), validate_args=False)
        return laws.Convolution(self.thinned(x, s, t), arrived)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self._law(x, s, t).to_event(x.dim() - 1)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        like = torch.zeros(shape, device=self.rate.device)
        mean = self.nu(like).expand(shape)
        return laws.Poisson(mean, validate_args=False).to_event(len(shape) - 1)

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        if isinstance(estimate, Data):
            return self._data_bridge(estimate.value, x, s, t).to_event(x.dim() - 1)
        if isinstance(estimate, Posterior):
            return self._mixed_bridge(estimate, x, s, t).to_event(x.dim() - 1)
        lost, gained = self.turnover_of(estimate, x, t)
        gained = torch.minimum(gained, x)
        back = laws.Rounded(lost, *self.log_birth_share(x, s, t))
        gone = laws.Rounded(gained, *self._late_share(x, s, t))
        passing = laws.Poisson(self._passing(x, s, t), validate_args=False)
        arrive = laws.Convolution(back, passing)
        return _Exchange(x, gone, arrive).to_event(x.dim() - 1)

    def _late_share(self, x: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log-chances that a unit gained by t came after s, and before."""
        tau = self.rate * span(s, t)
        q_t = log1mexp(torch.where(t == 0, torch.ones_like(t), self.rate * t))
        after = log1mexp(tau) - q_t
        before = -tau + log1mexp(self.rate * s) - q_t
        none = t == 0
        after = torch.where(none, torch.full_like(after, -torch.inf), after)
        return along(after, x), along(torch.where(none, torch.zeros_like(before), before), x)

    def _passing(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The mean number of units that came before s and died before t."""
        return self._arrived(s, x) * self.log_q(span(s, t), x).exp()

    def _data_bridge(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> laws.Formula:
        zero = torch.zeros_like(s)

        def draw() -> Tensor:
            k, weight = self._law(x_0, zero, t).splits(x)
            kept = laws.draw_categories(weight.movedim(0, -1)).to(x.dtype)
            back = laws.Thinned(x_0 - kept, *self.log_birth_share(x, s, t)).sample()
            gone = laws.Thinned(x - kept, *self._late_share(x, s, t)).sample()
            return x - gone + back + torch.poisson(self._passing(x, s, t))

        def log_prob(y: Tensor) -> Tensor:
            many = y.shape.numel() // x.shape.numel()
            flat, goal = y.reshape(-1, *x.shape[1:]), x.expand(y.shape).reshape(-1, *x.shape[1:])
            late = self._law(flat, s.repeat(many), t.repeat(many)).log_prob(goal)
            joint = self._law(x_0, zero, s).log_prob(y) + late.reshape(y.shape)
            return joint - self._law(x_0, zero, t).log_prob(x)

        return laws.Formula(x.shape, draw, log_prob)

    def _mixed_bridge(self, estimate: Posterior, x: Tensor, s: Tensor, t: Tensor) -> laws.Mixed:
        """The exact mixture of bridges over a posterior."""
        table = estimate.log_probs
        every = all_counts(table.shape[-1], x)
        bridges = self._data_bridge(every, x.unsqueeze(1).expand(every.shape), s, t)

        def chosen(index: Tensor) -> laws.Formula:
            return self._data_bridge(index.to(x.dtype), x, s, t)

        def log_prob(y: Tensor) -> Tensor:
            axis = y.dim() - x.dim()  # behind the batch, where `all_counts` has the data
            return bridges.log_prob(y.movedim(-1, axis)).movedim(axis, -1)

        each = laws.Formula(table.shape, bridges.sample, log_prob)
        return laws.Mixed(table, chosen, each)

    # -- scores and estimates ------------------------------------------------------------------

    def turnover_of(self, estimate: Estimate, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Expected units lost and gained, the statistic."""
        if isinstance(estimate, Turnover):
            value = estimate.log_value.exp() * self.log_q(t, x).exp().unsqueeze(-1)
            return value[..., 0], value[..., 1]
        if isinstance(estimate, Data):
            return self._split(estimate.value, x, t)
        if isinstance(estimate, Atoms):
            return self._atom_turnover(estimate, x, t)
        if isinstance(estimate, Posterior):
            return self._posterior_turnover(estimate, x, t)
        if isinstance(estimate, Ratio):
            return self._turnover_of_ratio(estimate, x, t)
        raise Unsolved(
            f"{type(estimate).__name__} does not determine the units lost and gained; Turnover, "
            "Ratio, Posterior and Exact do"
        )

    def _split(self, x_0: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\mathbb{E}[x_0 - A]` and :math:`\mathbb{E}[x - A]` given both; shapes broadcast.

        Summed gap by gap: the difference of the means would cancel.
        """
        x_0, x = torch.broadcast_tensors(x_0, x)
        k, weight = self._law(x_0, torch.zeros_like(t), t).splits(x)
        possible = (weight > -torch.inf).any(0)  # without arrivals, x cannot exceed x_0
        share = torch.where(possible, torch.where(possible, weight, 0.0).softmax(0), 0.0)
        return tuple((share * (end - k).clamp(min=0)).sum(0) for end in (x_0, x))  # type: ignore

    def _atom_turnover(self, estimate: Atoms, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        batch, count = estimate.log_weights.shape
        atoms = estimate.atoms.repeat((batch,) + (1,) * (estimate.atoms.dim() - 1))
        states = x.repeat_interleave(count, 0)
        both = self._split(atoms, states, t.repeat_interleave(count))
        weights = estimate.log_weights.exp().to(x.dtype)
        each = (v.reshape(batch, count, *x.shape[1:]) for v in both)
        return tuple(torch.einsum("bn,bn...->b...", weights, v) for v in each)  # type: ignore

    def _posterior_turnover(
        self, estimate: Posterior, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        mu = estimate.log_probs.exp().movedim(-1, 1)
        both = self._split(all_counts(mu.shape[1], x), x.unsqueeze(1), t)
        return tuple((mu * v).sum(1) for v in both)  # type: ignore[return-value]

    def _turnover_of_ratio(self, estimate: Ratio, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        up, down = estimate.log_ratio[..., 0].exp(), estimate.log_ratio[..., 1].exp()
        p, q = self.log_p(t, x).exp(), self.log_q(t, x).exp()
        gained = torch.where(x > 0, down * self.nu(x) * q, torch.zeros_like(x))
        lost = ((x + 1) * up - self.nu(x) * q) * q / p
        return lost.clamp(min=0), gained  # a ratio below the immigrants' share is no law's

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        up, down = self._log_ratios(estimate, x, t)

        def log_ratio(y: Tensor) -> Tensor:
            higher = y == x.unsqueeze(-1) + 1
            lower = y == x.unsqueeze(-1) - 1
            nan = torch.full_like(y, torch.nan)
            return torch.where(
                higher, up.unsqueeze(-1), torch.where(lower, down.unsqueeze(-1), nan)
            )

        return Score(log_ratio=log_ratio)

    def _log_ratios(self, estimate: Estimate, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(estimate, Ratio):
            return estimate.log_ratio[..., 0], estimate.log_ratio[..., 1]
        lost, gained = self.turnover_of(estimate, x, t)
        log_q, odds = self.log_q(t, x), (self.log_p(t, x) - self.log_q(t, x)).exp()
        up = (lost * odds + self.nu(x) * log_q.exp()).log() - (x + 1).log()
        nu = self.nu(x)
        arrive = nu > 0  # where none arrives, none is gained, and no ratio leads down
        down = safe_log(gained) - log_q - torch.where(arrive, nu, torch.ones_like(nu)).log()
        return up, torch.where(arrive, down, torch.full_like(down, -torch.inf))

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        if kind is Turnover:
            both = torch.stack(self.turnover_of(estimate, x, t), -1)
            return Turnover(safe_log(both.clamp(min=0)) - self.log_q(t, x).unsqueeze(-1))
        if kind is Ratio:
            return Ratio(torch.stack(self._log_ratios(estimate, x, t), -1))
        if kind is Posterior and isinstance(estimate, Atoms):
            return Posterior(count_log_table(estimate))
        raise self.unsolved(f"conversion to {kind.__name__}")

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        if isinstance(estimate, Posterior):
            return laws.Table(estimate.log_probs, x.dtype).to_event(x.dim() - 1)
        lost, gained = self.turnover_of(estimate, x, t)
        # Each unit at t is a survivor with the same chance, and the lost ones are Poisson.
        share = (1 - gained / x.clamp(min=1)).clamp(0, 1)
        kept = laws.Thinned(x, safe_log(share), safe_log(1 - share))
        return laws.Convolution(kept, laws.Poisson(lost)).to_event(x.dim() - 1)

    def settles(self, head: Any) -> bool:
        return head.kind not in (Ratio, Turnover)  # in the end all units of x were gained

    def decays(self, head: Any) -> bool:
        return head.kind in (Atoms, Data, Turnover)


class _Exchange(laws._Law):
    """The law of x − gone + come, entry by entry."""

    def __init__(self, x: Tensor, gone: Distribution, come: Distribution) -> None:
        self.x, self.gone, self.come = x, gone, come
        super().__init__(x.shape)

    def _draw(self, shape: torch.Size) -> Tensor:
        return self.x - self.gone.sample(shape) + self.come.sample(shape)

    def log_prob(self, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        most = int(self.x.max()) if self.x.numel() else 0
        k = torch.arange(most + 1, dtype=y.dtype, device=y.device)
        k = k.reshape((-1,) + (1,) * y.dim())
        come = y - self.x + k
        inside = (come >= 0) & (k <= self.x)
        joint = self.gone.log_prob(k.expand(come.shape)) + self.come.log_prob(come.clamp(min=0))
        return log_sum(torch.where(inside, joint, torch.full_like(joint, -torch.inf)), 0)


def all_counts(size: int, x: Tensor) -> Tensor:
    """The counts 0 … size−1 for every entry of x, shape (B, size, *event).

    They stand behind the batch, so that rates on the last axis of the state fit.
    """
    every = torch.arange(size, dtype=x.dtype, device=x.device)
    every = every.reshape((1, size) + (1,) * (x.dim() - 1))
    return every.expand(x.shape[0], size, *x.shape[1:])


def _possible(estimate: Posterior, x: Tensor) -> tuple[Tensor, Tensor]:
    """The posterior on counts that can have led to x, and the units missing from each."""
    every = torch.arange(estimate.logits.shape[-1], dtype=x.dtype, device=x.device)
    gaps = every - x.unsqueeze(-1)
    logits = torch.where(gaps >= 0, estimate.masked_logits, -torch.inf)
    return logits.log_softmax(-1), gaps.clamp(min=0)


def _mixed_births(estimate: Posterior, x: Tensor, log_r: Tensor, log_1mr: Tensor) -> laws.Mixed:
    """The exact mixture of binomial bridges over a posterior."""
    table, gaps = _possible(estimate, x)

    def chosen(index: Tensor) -> laws.Thinned:
        return laws.Thinned(index.to(x.dtype) - x, log_r, log_1mr)

    each = laws.Thinned(gaps, log_r.unsqueeze(-1), log_1mr.unsqueeze(-1))
    return laws.Mixed(table, chosen, each)


def count_log_table(estimate: Atoms) -> Tensor:
    """The log-posterior per entry of a finite law on counts, shape (B, *event, K)."""
    size = int(estimate.atoms.max()) + 1
    one_hot = torch.nn.functional.one_hot(estimate.atoms.long(), size)
    return safe_log(estimate.average(one_hot.to(torch.get_default_dtype())))
