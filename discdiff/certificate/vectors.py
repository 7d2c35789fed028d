"""Linear diffusions of vectors: every law by the moments that its density has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..estimates import Data
from ..expectation import points
from ..numerics.factors import cholesky
from ..numerics.quadrature import gauss_hermite
from ..numerics.systems import Varying
from ..process import LiftedSum
from ..terms import Drift
from .site import DRAWS, Site, apart, of_entries, size_of

ROUNDINGS = 32  # of a state, as it is moved, turned and subtracted by matrices

EPS = 2.0**-53

LOG_2PI = math.log(2 * math.pi)

Moments = tuple[Tensor, Tensor]


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
        return of_entries(self.noisy(self.x, t), 1)

    def law(self, y: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """The transition law from states (B, …) or (G·B, …), entries as batch dimensions."""
        many = y.shape[0] // self.x.shape[0]
        return of_entries(self.core._transition(y, s.repeat(many), t.repeat(many)), 1)

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
        law = of_entries(self.core._limit(shape), 1)
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
        bridge = of_entries(self.core._bridge(Data(self.x), x_t, self.s, self.t), 1)
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
        return max(_discrepancy(of_entries(law, 1)) for law in found)

    def score(self) -> float:
        return self._slope_error()

    def decoder(self) -> float:
        x_t = self.noisy(self.x, self.t).sample()
        law = self._decoded(x_t, self.t)
        if self.lift is None:
            error = _excess(of_entries(law, 1))
        else:
            error = size_of(points(of_entries(law, 0), law.support)[1].exp().sum(0) - 1)
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
        steps = 2 * size_of(A.abs().sum(-1).amax() * (self.t - self.s))
        if steps > 1024:
            return error, "too stiff for panels"
        panels = 2 * max(engine.panels(self.t), 1 << max(3, math.ceil(math.log2(steps + 1))))
        flow = Varying(engine._system, panels)(self.s, self.t)
        mean = engine._apply(flow.phi, y) + engine._fit(flow.mean, y, 1)
        cov = engine._align(flow.cov, y, 2).expand(*y.shape, -1)
        found = moments(self.law(y, self.s, self.t))
        return max(error, _unlike(found, (mean, cov))), f"= {panels} panels"


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
    return max(size_of(gap.nan_to_num(torch.inf)) for gap in gaps)


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
    return max(size_of(white.mean(0)) * DRAWS**0.5, size_of(worst))


def _by_rounding(values: Tensor, states: Tensor) -> Tensor:
    """By how much the rounding of states to float64 moves numbers that are made of them."""
    (slope,) = torch.autograd.grad(values.sum(), states, retain_graph=True)
    return ROUNDINGS * EPS * (slope * states.detach()).abs().sum(-1)
