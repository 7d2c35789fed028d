r"""Expectations without Monte Carlo, where the noisy state can be enumerated.

A discrete law is summed over its points, a density on the line over an equidistant grid (which
converges exponentially for the smooth densities here), and products over all combinations. A
vector of k coordinates is seen in the coordinates in which its noise is white: only along the
differences between the means from different data do these tell data apart, so there the grid is
fine, and across them a few Gauss–Hermite nodes are exact for the exact head. The time integral
runs over :math:`z = \log(e^\Lambda - 1)`, by the rule of `times.rule`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import Distribution

from . import laws
from .engines.correlated import Correlated
from .estimates import Data
from .heads import Head
from .loss import integrand
from .numerics.quadrature import gauss_hermite
from .process import Leaf, Process, batch_size, map_state
from .solve import Unsolved
from .times import joint_rule, last, natural_clocks
from .validation import require

State = Any
UNSEEN = 1e-150
MASS = 1e-14  # the mass of a law on counts that may lie beyond its points
ROUNDING = 1e5  # how many times that a sum may lack for the errors of its terms
LOG_2PI = math.log(2 * math.pi)
REACH = 9.5  # standard deviations on each side of a density
CHUNK = 60_000  # noisy states that are looked at together
LIMIT = 4_000_000  # the most noisy states of one expectation


def points(law: Distribution, support: Any, grid: int = 193) -> tuple[Tensor, Tensor]:
    """Points and log-weights of a law with entries as batch dimensions.

    Arguments:
        law: Batch (B, *sites), event () or one axis of coordinates.
        support: The constraint of its values.
        grid: Number of points for a density.

    Returns:
        Points (G, B, *sites[, d]) and log-weights (G, B, *sites).
    """
    if isinstance(law, laws.Indexed):
        every = torch.cartesian_prod(*(torch.arange(side) for side in law.box))
        every = every.reshape(-1, len(law.box)).to(law.value_dtype)
        shape = (len(every),) + (1,) * len(law.batch_shape) + (len(law.box),)
        every = every.reshape(shape).expand(-1, *law.batch_shape, -1)
        return every, law.log_probs.movedim(-1, 0)
    if isinstance(law, Delta) and not support.is_discrete:
        raise Unsolved("a state that is certain has no density")
    if law.event_shape:
        return _box(law)
    if not support.is_discrete:
        return _line(law, grid)
    upper = getattr(support, "upper_bound", None)
    if upper is not None:
        return _integers(law, int(upper) + 1)
    size, before = 16, torch.inf
    while True:
        every, log_w = _integers(law, size)
        least = max(MASS, 50 * torch.finfo(log_w.dtype).eps)
        beyond = float((1 - log_w.exp().sum(0)).max())
        # Rounding of the probabilities looks like mass far out, but more points do not find it.
        if beyond < least or (beyond < ROUNDING * least and before - beyond < least):
            return every, log_w
        size, before = 2 * size, beyond
        require(size <= 1 << 14, "the law has too much mass far out to be enumerated")


def _integers(law: Distribution, size: int) -> tuple[Tensor, Tensor]:
    like = law.sample()
    k = torch.arange(size, dtype=like.dtype).reshape((-1,) + (1,) * like.dim())
    k = k.expand(size, *like.shape)
    return k, law.log_prob(k)


def _line(law: Distribution, grid: int) -> tuple[Tensor, Tensor]:
    mean, std = law.mean.detach(), law.variance.detach().sqrt()
    u = torch.linspace(-REACH, REACH, grid, dtype=mean.dtype)
    u = u.reshape((-1,) + (1,) * mean.dim())
    y = mean + std * u
    step = 2 * REACH / (grid - 1)
    return y, law.log_prob(y) + (std * step).log()


def _box(law: Distribution) -> tuple[Tensor, Tensor]:
    """Points of a law on several counts, on a box that grows until it holds the mass."""
    species, side = law.event_shape[0], 8
    while True:
        every = torch.cartesian_prod(*[torch.arange(side, dtype=law.sample().dtype)] * species)
        every = every.reshape(-1, species)
        shape = (len(every),) + (1,) * len(law.batch_shape) + (species,)
        y = every.reshape(shape).expand(-1, *law.batch_shape, -1)
        log_w = law.log_prob(y)
        if float((1 - log_w.exp().sum(0)).max()) < 1e-12:
            return y, log_w
        side *= 2
        if side**species > 1 << 12:
            raise Unsolved("the law has too much mass far out to be enumerated")


def noisy_states(
    process: Process,
    x_0: State,
    t: Tensor,
    grid: int = 193,
    atoms: State | None = None,
    across: int = 3,
) -> tuple[State, Tensor]:
    """All noisy states from one datum at several times, with their log-probabilities.

    Arguments:
        process: The process.
        x_0: One datum repeated T times, (T, *event).
        t: Times (T,).
        grid: Points of each density.
        atoms: The other data, (N, *event), that vectors are to tell apart from this one.
        across: Points of vectors in directions that do not tell data apart.

    Returns:
        States (G·T, *event), slowest over G, and log-weights (G, T).
    """
    batch, zero = t.shape[0], torch.zeros_like(t)
    state, log_w = x_0, torch.zeros(1, batch, dtype=torch.float64)
    others = x_0 if atoms is None else atoms
    early = process.leaves(zero), process.leaves(torch.zeros(batch_size(others)).double())
    for i, (leaf, start, first) in enumerate(zip(process.leaves(t), *early, strict=True)):
        if any(not bool(mask(x_0).any()) for mask in leaf.moving):
            continue
        y, each = _leaf_states(leaf, start.get(x_0), grid, first.get(others), across)
        old, new = log_w.shape[0], each.shape[0]
        require(old * new * batch <= LIMIT, f"{old * new * batch} noisy states are too many")
        state = map_state(lambda v: v.repeat((new,) + (1,) * (v.dim() - 1)), state)  # noqa: B023
        wide = list(process.leaves(t.repeat(old * new)))[i]
        state = wide.put(state, y.repeat_interleave(old, 0).reshape(-1, *y.shape[2:]))
        log_w = (each.unsqueeze(1) + log_w).reshape(-1, batch)
    return state, log_w


def _leaf_states(
    leaf: Leaf, x_0: Tensor, grid: int, atoms: Tensor, across: int
) -> tuple[Tensor, Tensor]:
    """All states of one leaf, (G, T, *event), and log-weights (G, T), over all its entries."""
    core = leaf.core
    law = core.engine.marginal(x_0, leaf.time)
    axes = max(getattr(term, "event_axes", 0) for term in core.terms)
    base = law if len(law.event_shape) == axes else law.base_dist  # type: ignore[attr-defined]
    if isinstance(base, Correlated):
        others = [core.engine.marginal(a.expand(x_0.shape), leaf.time).mean for a in atoms]
        y, each = _vectors(base, torch.stack(others), grid, across)
    else:
        y, each = points(base, core.support, grid)
    possible = (each > -torch.inf).flatten(1).any(1)
    y, each = y[possible], each[possible].to(torch.float64)
    batch, *sites = base.batch_shape
    if not sites:
        return y, each
    count = torch.Size(sites).numel()
    require(len(y) ** count * batch <= LIMIT, f"{len(y)}^{count} noisy states are too many")
    index = torch.cartesian_prod(*[torch.arange(len(y))] * count).reshape(-1, count)
    y = y.reshape(len(y), batch, count, *base.event_shape)
    each = each.reshape(len(each), batch, count)
    y = torch.stack([y[index[:, e], :, e] for e in range(count)], 2)
    each = torch.stack([each[index[:, e], :, e] for e in range(count)], 2).sum(2)
    return y.reshape(len(index), batch, *sites, *base.event_shape), each


def _vectors(law: Correlated, others: Tensor, grid: int, across: int) -> tuple[Tensor, Tensor]:
    """Points of a normal law of vectors: a fine grid along the differences to other means.

    Arguments:
        law: Batch (T, *sites), event (k,).
        others: The means of the laws from other data, (N, T, *sites, k).
        grid: Points along.
        across: Points of a Gauss–Hermite rule in every other direction.
    """
    mean, factor, size = law.mean, law.factor, law.event_shape[0]
    gaps = law.whitened(others - mean).movedim(0, -1)
    turn, lengths, _ = torch.linalg.svd(gaps)
    long = lengths > 1e-9 * lengths.amax(-1, keepdim=True)
    along = max(1, int(long.reshape(-1, long.shape[-1]).any(0).sum()))
    fine, step = torch.linspace(-REACH, REACH, grid).to(mean), 2 * REACH / (grid - 1)
    few, weight = gauss_hermite(across)
    axes = [(fine, torch.full_like(fine, step).log())] * along
    axes += [(few, weight.log() + few.square() / 2 + LOG_2PI / 2)] * (size - along)
    u = torch.cartesian_prod(*[u for u, _ in axes]).reshape(-1, size)
    log_w = torch.cartesian_prod(*[w for _, w in axes]).reshape(-1, size).sum(-1)
    near = u[:, :along].square().sum(-1) <= REACH**2
    u, log_w = (v[near].reshape(-1, *[1] * (mean.dim() - 1), *v.shape[1:]) for v in (u, log_w))
    y = mean + (factor @ (turn @ u.unsqueeze(-1))).squeeze(-1)
    return y, law.log_prob(y) + law.log_det() + log_w


def expected_path_kl(
    process: Process,
    head: Head,
    data: State,
    weights: Tensor | None = None,
    *,
    stop: float = 0.0,
    nodes: int = 181,
    grid: int = 193,
    across: int = 3,
) -> Tensor:
    r"""The time integral of the loss averaged over :math:`x_t`, by quadrature, for each datum.

    The KL at time 1 is not included. Without a clock the integral runs over all own times.

    Arguments:
        process: The process.
        head: A network with a meaning.
        data: The data, (N, *event).
        weights: Unused but for their number; present for symmetry with `Exact`.
        stop: Where the integral stops.
        nodes: Nodes of the time integral.
        grid: Points of each density.
        across: Points of vectors in directions that do not tell data apart: few are exact for
            the exact head.

    Returns:
        Shape (N,), in nats.

    Raises:
        ValueError: If there are too many noisy states to enumerate.
    """

    def states(x_0: State, t: Tensor) -> tuple[State, Tensor]:
        return noisy_states(process, x_0, t, grid, data, across)

    t, w = joint_rule(list(natural_clocks(process).values()), nodes, stop)
    rates = [_mean_rate(process, head, datum, t, states) for datum in _each(data)]
    return torch.stack([(w * rate).sum() for rate in rates])


@torch.no_grad()
def _mean_rate(process: Process, head: Head, datum: State, t: Tensor, states: Any) -> Tensor:
    """The mean divergence rate per unit of time, shape (T,)."""
    size = states(datum, t[:1])[1].shape[0]
    parts = []
    for time in t.split(max(1, CHUNK // size)):
        x_0 = _repeated(datum, len(time))
        state, log_w = states(x_0, time)
        weight = log_w.exp().reshape(-1)
        # No head can speak of states that the datum does not lead to; of those that it leads to
        # with less chance than this, the way to the next one has none in float64.
        reached = weight > UNSEEN
        many = time.repeat(log_w.shape[0])[reached]
        state = map_state(lambda v: v[reached], state)  # noqa: B023
        target = Data(_repeated(datum, len(many)))
        rate = integrand(process, target, head(state, many), state, many).double()
        mass = torch.zeros_like(weight)
        mass[reached] = weight[reached] * rate
        parts.append(mass.reshape(log_w.shape).sum(0))
    return torch.cat(parts)


def _repeated(datum: State, count: int) -> State:
    """One datum as a batch of this size."""
    return map_state(lambda v: v.expand(count, *v.shape[1:]), datum)


def _each(data: State) -> Iterator[State]:
    """The data one by one, as batches of one."""
    for n in range(batch_size(data)):
        yield map_state(lambda v: v[n : n + 1], data)  # noqa: B023


@torch.no_grad()
def divergence_at_end(
    process: Process,
    data: State,
    weights: Tensor,
    prior: Distribution | None = None,
    grid: int = 193,
) -> Tensor:
    r""":math:`\mathrm{KL}(p_1 \| \text{prior})` for data with given weights, by enumeration."""
    one, means = torch.ones(1, dtype=torch.float64), []
    for datum in _each(data):
        state, log_w = noisy_states(process, datum, one, grid, data)
        log_p = _log_mixture(process, data, weights, state, one.expand(log_w.shape[0]))
        start = prior or process.prior(map_state(lambda v: v.shape, state))
        means.append(_mean(log_w[:, 0], log_p - start.log_prob(state).double()))
    return (weights * torch.stack(means)).sum()


def entropy_gap(
    process: Process,
    head: Head,
    data: State,
    weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    r"""The left minus the right side of the entropy identity, in nats.

    .. math:: \mathbb{E}[\text{path-KL}] - H(p_0) - \mathrm{KL}(p_1 \| \text{prior})

    It is zero for the exact head, positive for any other, and does not see the clock. Without a
    clock, the time at which the integral ends stands for 1.
    """
    count = batch_size(data)
    if weights is None:
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
    inner = (weights * expected_path_kl(process, head, data, weights, **options)).sum()
    grid = options.get("grid", 193)
    # KL(q(x_1|x_0) ‖ prior) on average is the KL of p_1 plus the information left at 1.
    inner = inner + _information_left(process, data, weights, grid)
    return inner + torch.xlogy(weights, weights).sum()


@torch.no_grad()
def _information_left(process: Process, data: State, weights: Tensor, grid: int) -> Tensor:
    r""":math:`\mathbb{E}\, \mathrm{KL}(q(x_1 \mid x_0) \| p_1)`, where the time integral ends."""
    clocks = list(natural_clocks(process).values())
    untimed = {clock.endless for clock in clocks}
    require(len(untimed) == 1, "parts on a clock and parts without one have no common end")
    one = torch.stack([last(clock) for clock in clocks]).max().reshape(1)
    means = []
    for datum in _each(data):
        state, log_w = noisy_states(process, datum, one, grid, data)
        size = log_w.shape[0]
        log_p = _log_mixture(process, data, weights, state, one.expand(size))
        x_0 = _repeated(datum, size)
        own = process._marginal(x_0, one.expand(size)).log_prob(state).double()
        means.append(_mean(log_w[:, 0], own - log_p))
    return (weights * torch.stack(means)).sum()


def _mean(log_w: Tensor, values: Tensor) -> Tensor:
    """The mean of values under log-weights; what has no weight counts for nothing, even ±∞."""
    mass = log_w.exp()
    return torch.where(mass > 0, mass * values, torch.zeros_like(values)).sum()


def _log_mixture(
    process: Process, data: State, weights: Tensor, state: State, t: Tensor
) -> Tensor:
    r""":math:`\log p_t(x)` for data on atoms."""
    size, each = batch_size(state), []
    for datum, weight in zip(_each(data), weights, strict=True):
        law = process._marginal(_repeated(datum, size), t)
        each.append(law.log_prob(state).double() + weight.log())
    return torch.logsumexp(torch.stack(each), 0)
