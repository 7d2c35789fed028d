r"""The laws that a walk with increments of any shape is held to.

What its noise adds up to is seen in characteristic functions, which multiply. With :math:`\Phi`
that of the noise between two indices, forward and backward

.. math::
    \Phi_{0,t}(u) = \Phi_{0,s}(a u)\, \Phi_{s,t}(u), \quad a^2 = \bar\alpha_t / \bar\alpha_s,
    \qquad \Phi_{0,s}(u) = \Phi_{0,t}(g u)\, \Phi_{s | 0, t}(u).

They are integrated on a grid, so that kinks and jumps of densities cost up to `ROUGH`, or are
averaged over draws where a law has atoms. Stable laws, whose tails are powers, are seen in the
arsinh of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..process import Chain
from ..solve import Unsolved
from ..steps import require_resolved
from ..walks import Contracting, FixedReversal, StableIncrements, Steps
from .report import Row, index_pairs, measured, within

ROUGH = 2e-3
STEEP, SINGULAR = 0.02, 20.0  # mass at one point, density of a bridge
SINGLE = 1e-6  # parameters may be single precision
GRID, WIDE = 40_001, 40.0  # points, and standard deviations to either side
FAR, FAST = 30.0, 300.0  # in the arsinh of states; where waves are still seen on its grid
DRAWS = 20_000
QUANTILE = 5.5
WAVES = (0.4, 0.8, 1.3)  # in standard deviations of the noise

Law = Callable[[Tensor], Distribution]


def walk_rows(chain: Chain, steps: Steps) -> list[Row]:
    """The laws of the noise between the indices of a walk."""
    pairs = index_pairs(len(chain.times))
    backward = isinstance(steps, FixedReversal)
    of = lambda error: lambda: max(error(chain, steps, s, t) for s, t in pairs)
    return [
        measured("one step", "", SINGLE, lambda: _one_step(chain, steps)),
        measured("moments", "", 10 * ROUGH, of(_moments)),
        measured("sums of noise", "", ROUGH, of(_backward if backward else _forward)),
        measured("bridge", "", ROUGH, of(_bridge)),
        measured("agreement", "", QUANTILE, of(_agreement)),
    ]


def stable_rows(chain: Chain, steps: StableIncrements) -> list[Row]:
    """The laws of the noise between the indices of a stable walk."""
    pairs = index_pairs(len(chain.times))
    of = lambda error: lambda: max(error(chain, steps, s, t) for s, t in pairs)
    return [
        measured("one step", "", 1e-8, lambda: _one_step(chain, steps)),
        measured("sums of noise", "", 1e-6, of(_stable_sums)),
        measured("bridge", "", 1e-4, of(_stable_bridge)),
        measured("agreement", "", QUANTILE, of(_stable_agreement)),
    ]


def _wide(law: Law, center: float, width: float) -> tuple[Tensor, Tensor]:
    """Points and weights of the law of one number, in the arsinh of its distance to a center."""
    z = torch.linspace(-FAR, FAR, GRID, dtype=torch.float64)
    y = center + width * z.sinh()
    return y, law(y).log_prob(y.unsqueeze(1)).exp() * width * z.cosh() * (z[1] - z[0])


def _stable_sums(chain: Chain, steps: StableIncrements, s: int, t: int) -> float:
    """Scales of the noise add up by their powers, and its law is the declared one."""
    alpha, kept = steps.increment.alpha, _kept(steps, s, t)
    y, p = _wide(lambda y: _at(lambda x: chain.transition(x, s, t), 0.0, len(y)), 0.0, 1.0)
    u = torch.tensor(WAVES, dtype=torch.float64)
    near = y.abs() < FAST  # beyond, the waves outrun the grid
    tail = float(p[~near].sum())
    gap = _wave(y[near], p[near], u) - steps.increment.cf((1 - kept) ** (1 / alpha) * u)
    return max(0.0, float(gap.abs().max()) - 2 * tail, abs(float(p.sum()) - 1))


def _stable_bridge(chain: Chain, steps: StableIncrements, s: int, t: int) -> float:
    """Its density integrates to one."""
    within(s)
    x_0, x_t = 0.2, 2.6

    def law(y: Tensor) -> Distribution:
        start, end = (torch.full((len(y), 1), v, dtype=torch.float64) for v in (x_0, x_t))
        return chain.bridge(start, end, s, t)

    y, p = _wide(law, x_0, 0.3)
    return abs(float(p.sum()) - 1)


def _stable_agreement(chain: Chain, steps: StableIncrements, s: int, t: int) -> float:
    """Draws of the noise and of the bridge follow their densities (Kolmogorov–Smirnov)."""

    def bridge(y: Tensor) -> Distribution:
        start, end = (torch.full((len(y), 1), v, dtype=torch.float64) for v in (0.2, 2.6))
        return chain.bridge(start, end, s, t)

    marginal = lambda y: _at(lambda x: chain.marginal(x, t), 0.0, len(y))
    seen = _farthest(*_wide(marginal, 0.0, 1.0), marginal, 5000)
    return seen if s == 0 else max(seen, _farthest(*_wide(bridge, 0.2, 0.3), bridge, 500))


def _farthest(y: Tensor, p: Tensor, law: Law, count: int) -> float:
    """√n times the largest gap of the distribution functions, in units of 0.4."""
    draws = law(torch.zeros(count)).sample()[:, 0].sort().values
    cdf = p.cumsum(0)
    at = cdf[(torch.searchsorted(y, draws, right=True) - 1).clamp(min=0)]
    empirical = torch.arange(1, count + 1) / count
    return float((at - empirical).abs().max()) * math.sqrt(count) / 0.4


def _at(law: Callable[[Tensor], Distribution], x: float, count: int) -> Distribution:
    return law(torch.full((count, 1), x, dtype=torch.float64))


def _seen(law: Law, center: float, width: float, draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    """Points and weights of the law of one number: of its density, or draws where it has atoms."""
    y = center + width * torch.linspace(-WIDE, WIDE, GRID, dtype=torch.float64)
    try:
        p = law(y).log_prob(y.unsqueeze(1)).exp() * (y[1] - y[0])
    except Unsolved:
        p = torch.ones(1)  # it can be drawn from only
    if abs(float(p.sum()) - 1) < ROUGH and float(p.max()) < STEEP:
        return y, p
    y = law(torch.zeros(draws)).sample()[:, 0]
    return y, torch.full_like(y, 1 / draws)


def _kept(steps: Contracting, s: int, t: int) -> float:
    log_kept = steps.log_kept.detach()
    return float((log_kept[t] - log_kept[s]).exp())


def _noise(chain: Chain, steps: Steps, s: int, t: int) -> tuple[Tensor, Tensor, float]:
    """The noise from s to t, points and weights, and its standard deviation."""
    law = (lambda x: chain.marginal(x, t)) if s == 0 else (lambda x: chain.transition(x, s, t))
    width = math.sqrt(1 - _kept(steps, s, t))
    zero = lambda y: _at(law, 0.0, len(y))
    return *_seen(zero, 0.0, width), width


def _wave(y: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """The characteristic function at frequencies u."""
    return (torch.exp(1j * u.unsqueeze(1) * y) * p).sum(1)


def _allowed(*seen: Tensor) -> float:
    """How many times `ROUGH` a difference may be: more where laws were drawn from."""
    return (
        max(1.0, QUANTILE / math.sqrt(DRAWS) / ROUGH * math.sqrt(3))
        if any(len(y) == DRAWS for y in seen)
        else 1.0
    )


def _one_step(chain: Chain, steps: Contracting) -> float:
    """Neighbouring indices are a declared step apart."""
    worst = 0.0
    x = torch.linspace(-1, 1, 5, dtype=torch.float64).unsqueeze(1)
    for k in {1, len(chain.times) // 2, len(chain.times)} - {0}:
        declared = steps.step(x, torch.full((5,), float(k), dtype=torch.float64))
        y = declared.sample()
        gap = declared.log_prob(y) - chain.transition(x, k - 1, k).log_prob(y)
        worst = max(worst, float(gap.abs().max()))
    return worst


def _moments(chain: Chain, steps: Steps, s: int, t: int) -> float:
    """Mean and variance are DDPM's."""
    worst = 0.0
    for k in {s, t} - {0}:
        kept, x = _kept(steps, 0, k), 0.7
        center, width = math.sqrt(kept) * x, math.sqrt(1 - kept)
        y, p = _seen(lambda y: _at(lambda v: chain.marginal(v, k), x, len(y)), center, width)  # noqa: B023
        mean = float((y * p).sum())
        variance = float(((y - mean).square() * p).sum())
        gaps = abs(mean - center) / width, abs(variance / width**2 - 1)
        worst = max(worst, max(gaps) / _allowed(y))
    return worst


def _forward(chain: Chain, steps: Steps, s: int, t: int) -> float:
    """The noise to t is that to s, contracted, and that from s to t."""
    within(s)
    whole, early, late = (_noise(chain, steps, *k) for k in ((0, t), (0, s), (s, t)))
    u = torch.tensor(WAVES, dtype=torch.float64) / whole[2]
    goal = _wave(*early[:2], math.sqrt(_kept(steps, s, t)) * u) * _wave(*late[:2], u)
    gap = float((_wave(*whole[:2], u) - goal).abs().max())
    return gap / _allowed(whole[0], early[0], late[0])


def _backward(chain: Chain, steps: Steps, s: int, t: int) -> float:
    """The noise at s is that at t, carried, and that of the steps back."""
    within(s)
    early, whole = (_noise(chain, steps, 0, k) for k in (s, t))
    near, far = (
        chain.bridge(torch.zeros(1, 1).double(), torch.full((1, 1), x).double(), s, t).mean
        for x in (0.0, 1.0)
    )
    carried = float(far - near)
    width = math.sqrt(max(early[2] ** 2 - (carried * whole[2]) ** 2, 1e-12))

    def law(y: Tensor) -> Distribution:
        zero = torch.zeros(len(y), 1, dtype=torch.float64)
        return chain.bridge(zero, zero, s, t)

    u = torch.tensor(WAVES, dtype=torch.float64) / early[2]
    between = _seen(law, 0.0, width)
    goal = _wave(*whole[:2], carried * u) * _wave(*between, u)
    gap = float((_wave(*early[:2], u) - goal).abs().max())
    return gap / _allowed(early[0], whole[0], between[0])


def _bridge(chain: Chain, steps: Steps, s: int, t: int) -> float:
    """Its density is that of Bayes' rule, and integrates to one."""
    within(s)
    if steps.increment.lattice:
        raise Unsolved("a law of atoms alone has no density")
    x_0, x_t = 0.2, 0.6
    y = torch.linspace(-6, 6, GRID, dtype=torch.float64).unsqueeze(1)
    early, late = (chain.time(torch.tensor([k])) for k in (s, t))
    require_resolved(chain.process, early, late, y)
    start, end = torch.full_like(y, x_0), torch.full_like(y, x_t)
    p = chain.bridge(start, end, s, t).log_prob(y).exp()
    step = float(y[1] - y[0])
    if isinstance(steps, FixedReversal):
        return abs(float(p.sum()) * step - 1)
    joint = chain.marginal(start, s).log_prob(y) + chain.transition(y, s, t).log_prob(end)
    joint = joint.exp() / chain.marginal(start[:1], t).log_prob(end[:1]).exp()
    tame = (p < SINGULAR) & (joint < SINGULAR)
    gap = float(torch.where(tame, p - joint, 0.0).abs().sum()) * step / 2
    (leaf,) = chain.process.leaves(late)
    engine: Any = leaf.core.engine
    crowding = engine.crowding(torch.zeros_like(leaf.time), leaf.time)
    if not bool(tame.all()) or crowding < 1:
        return gap  # a grid does not integrate what is infinite somewhere
    law: Any = chain.bridge(start[:1], end[:1], s, t)
    still = getattr(getattr(law, "base_dist", law), "still", None)
    atom = 0.0 if still is None else float(still())
    return max(gap, abs(float(p.sum()) * step + atom - 1))


def _agreement(chain: Chain, steps: Steps, s: int, t: int) -> float:
    """Draws of the noise and of the bridge follow their densities (Kolmogorov–Smirnov)."""

    def bridge(y: Tensor) -> Distribution:
        start, end = (torch.full((len(y), 1), v, dtype=torch.float64) for v in (0.2, 0.6))
        return chain.bridge(start, end, s, t)

    width = math.sqrt(1 - _kept(steps, 0, t))
    marginal = lambda y: _at(lambda x: chain.marginal(x, t), 0.0, len(y))
    seen = _distance(marginal, 0.0, width, 5000)
    return seen if s == 0 else max(seen, _distance(bridge, 0.2, width, 500))


def _distance(law: Law, center: float, width: float, count: int) -> float:
    """√n times the largest gap of the distribution functions, in units of 0.3."""
    y, p = _seen(law, center, width, 4 * count)
    draws = law(torch.zeros(count)).sample()[:, 0].sort().values
    if len(y) != GRID:  # atoms: two samples
        y = y.sort().values
    cdf = p.cumsum(0)
    at = cdf[(torch.searchsorted(y, draws, right=True) - 1).clamp(min=0)]
    empirical = torch.searchsorted(draws, draws, right=True) / len(draws)
    size = len(draws) if len(y) == GRID else 0.8 * len(draws)  # of one sample, or of two
    return float((at - empirical).abs().max()) * math.sqrt(size) / 0.4
