r"""The laws that a chain is held to at its indices, where nothing moves in between.

.. math::
    q(x_t | x_0) = \sum_{x_s} q(x_s | x_0)\, q(x_t | x_s), \qquad
    q(x_s | x_0)\, q(x_t | x_s) = q(x_t | x_0)\, q(x_s | x_0, x_t),

and a chain that is declared by its steps moves by these. With the exact reverse kernels the bound
on :math:`-\log p(x_0)` is tight up to the prior, so that over data :math:`p_0`

.. math:: \mathbb{E}[\text{bound}] = H(p_0) + \mathrm{KL}(q(x_T) \| \text{prior}),

and it is more for any other head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..chains import Stepwise
from ..estimates import Data
from ..expectation import noisy_states
from ..given_data import GivenData
from ..heads import Exact, Head
from ..lattice_walk import LatticeSteps
from ..likelihood import vlb
from ..loss import loss
from ..process import Chain, Leaf, Process, Product, batch_size, map_state
from ..solve import Unsolved
from ..steps import has_density, require_resolved
from ..times import times
from ..walks import StableIncrements, Steps
from .entries import Entries, chi_square
from .given_laws import given_rows
from .lattice_laws import lattice_rows
from .report import Row, measured, within
from .site import Site, apart, few, returned
from .sites import site
from .walk_laws import stable_rows, walk_rows

State = Any
TAIL = 1e-5  # of exponential tails, outside the grid of an expectation
RETURNS = 600  # states that are sent forward and back
ON_EDGE = 0.01  # the share of draws that may be rounded to the edge of a support
DRAWS = 600  # terms of the bound that are drawn
PAIRS = 6  # neighbouring indices that are looked at
LIMIT = 4_000_000  # pairs of states of one bound
CLOSE = 1e-5  # at the end of a support rounding moves a density
SINGLE = 1e-6  # laws are often declared in float32
QUANTILE = 5.5  # normal quantile of the statistical laws: a failure rate of 4e-8 each


def chain_rows(chain: Chain, x: State, head: Head | None) -> list[Row]:
    """The laws of a chain, leaf by leaf and as a whole."""
    zero = torch.zeros(batch_size(x), dtype=torch.float64)
    rows: list[Row] = []
    walks = any(isinstance(leaf.core.terms[0], Steps) for leaf in chain.process.leaves(zero))
    for leaf in chain.process.leaves(zero):
        term = leaf.core.terms[0]
        if isinstance(term, GivenData):
            rows.extend(given_rows(chain, leaf.get(x)))
        elif isinstance(term, LatticeSteps):
            rows.extend(lattice_rows(chain, term))
        elif isinstance(term, Steps):
            rows.extend(walk_rows(chain, term))
        elif isinstance(term, StableIncrements):
            rows.extend(stable_rows(chain, term))
        else:
            rows.extend(_leaf_rows(chain, leaf, leaf.get(x)))
    data = few(x, 3)
    rows += [
        measured("indices", "", CLOSE if walks else 1e-8, lambda: _indices(chain, x)),
        measured("reversal", "", QUANTILE, lambda: _reversal(chain, data)),
        measured("bound", "", 1e-8, lambda: _bound(chain, data, None)),
        measured("loss", "", QUANTILE, lambda: _loss(chain, data)),
        measured("prior", "", SINGLE, lambda: _prior(chain, x)),
    ]
    if head is not None:
        rows.append(measured("given head", "", 1e-8, lambda: _bound(chain, data, head)))
    return rows


# -- laws of one sum of terms ------------------------------------------------------------------


def _leaf_rows(chain: Chain, leaf: Leaf, x: Tensor) -> list[Row]:
    """The laws of one leaf between two indices, the worst over several pairs of them."""
    u = [0.0, *chain.times.tolist()]
    sites = [site(leaf, x, (u[i], u[j])) for i, j in _pairs(len(chain.times))]

    def over(law: str, tolerance: float, error: Any) -> Row:
        return measured(law, leaf.name, tolerance, lambda: max(map(error, sites)))

    def between(law: str, tolerance: float, error: Any) -> Row:
        """That of a law between two noisy states, of which a single step has one."""

        def judged(at: Any) -> Any:
            within(len(chain.times) - 1 if not leaf.core.support.is_discrete else 1)
            return error(at)

        return over(law, tolerance, judged)

    local = all(term.local for term in leaf.core.terms)
    seen = 1e-8 if local else TAIL
    rows = [
        between("Chapman–Kolmogorov", seen, lambda at: at.chapman_kolmogorov()),
        over("normalisation", seen, lambda at: at.normalisation()),
    ]
    if not local:  # Bayes' rule is held to in `_indices`
        return rows
    rows += [
        over("limit", 1e-7, _limit),
        between("bridge", 1e-8, lambda at: at.bridge()),
        over("agreement", QUANTILE, lambda at: at.agreement()),
        over("consistency", 1e-8, lambda at: at.consistency()[0]),
    ]
    if isinstance(leaf.core.terms[0], Stepwise):
        return [over("one step", 1e-8, _one_step), *rows]
    return [over("Dynkin", 1e-6, lambda at: at.dynkin()), *rows]


def _pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of indices: neighbours, some of them where there are many, and the ends."""
    some = {round(k) for k in torch.linspace(1, count, min(count, PAIRS)).tolist()}
    near = [(k - 1, k) for k in sorted(some) if k > 1]
    return near + ([(1, count)] if count > 2 else []) or [(0, 1)]


def _one_step(at: Site) -> float:
    """The laws of neighbouring times are the declared steps."""
    assert isinstance(at, Entries)
    (term,) = at.core.terms
    worst = 0.0
    for k in range(round(float(at.s[0])) + 1, round(float(at.t[0])) + 1):
        late = torch.full_like(at.t, k)
        law = at.law(at.x, late - 1, late)
        y, _ = at.points(law)
        declared = term.step(at.x, late)
        goal = getattr(declared, "base_dist", declared).log_prob(y)
        worst = max(worst, apart(law.log_prob(y).exp(), goal.exp()))
    return worst


def _limit(at: Site) -> float:
    """The limit is left as it is, and of a term in continuous time it is what is reached."""
    if not isinstance(at.core.terms[0], Stepwise):
        return at.limit()[0]
    assert isinstance(at, Entries)
    law = at.core._limit(tuple(at.x.shape))
    law = getattr(law, "base_dist", law)
    y, log_w = at.points(law)
    late = at.law(y.reshape(-1, *y.shape[2:]), at.spread(at.s, y), at.spread(at.t, y))
    worst = 0.0
    for z in y:
        many = z.unsqueeze(0).expand(y.shape).reshape(-1, *y.shape[2:])
        whole = torch.logsumexp(log_w + late.log_prob(many).reshape(log_w.shape), 0)
        worst = max(worst, apart(whole.exp(), law.log_prob(z).exp()))
    return worst


# -- laws of the whole -------------------------------------------------------------------------


def _indices(chain: Chain, x: State) -> float:
    """The laws at indices are those of the process at their times, and obey Bayes' rule."""
    process, worst, batch = chain.process, 0.0, batch_size(x)
    law, dense = chain.marginal(x, 1), has_density(process)
    if dense and isinstance(getattr(law, "base_dist", law), Delta):
        raise Unsolved("a state that is certain has no density")
    for i, j in _pairs(len(chain.times)):
        s, t = (chain.time(torch.full((batch,), k)) for k in (i, j))
        if i == 0 and dense:
            raise Unsolved("a single step leads from data, which have no density")
        require_resolved(process, s, t, x)
        x_s = laws.draw(chain.marginal(x, i))
        x_t = laws.draw(chain.transition(x_s, i, j))
        chain.check_state(x_s, "x_s")
        chain.check_state(x_t, "x_t")
        early, whole = chain.marginal(x, i).log_prob(x_s), chain.marginal(x, j).log_prob(x_t)
        late = chain.transition(x_s, i, j).log_prob(x_t)
        law = chain.bridge(x, x_t, i, j)
        if getattr(getattr(law, "base_dist", law), "atom", None) is not None:
            raise Unsolved("a law with atoms has no density that Bayes' rule could multiply")
        bridge = law.log_prob(x_s)
        worst = max(worst, apart(bridge, early + late - whole))
        worst = max(worst, apart(whole, process._marginal(x, t).log_prob(x_t)))
        worst = max(worst, apart(late, process._transition(x_s, s, t).log_prob(x_t)))
    return worst


def _reversal(chain: Chain, data: State) -> tuple[float, str]:
    """Forward, then back through all indices with the exact head: the data law returns."""
    process, count = chain.process, batch_size(data)
    require_resolved(process, torch.zeros_like(chain.times[:1]), chain.times[:1], data)
    exact, copies = Exact(chain, data), RETURNS // count
    size = copies * count
    many = map_state(lambda v: v.repeat((copies,) + (1,) * (v.dim() - 1)), data)
    last = len(chain.times)
    x = laws.draw(chain.marginal(many, last))
    for k in range(last, 0, -1):
        t = chain.time(torch.full((size,), k))
        x = chain.bridge(exact(x, t), x, k - 1, k).sample()
    seen = returned(process.to_data(x), data)
    lost = size - float(seen.sum())
    if lost:
        return torch.inf, f"{lost:.0f} of {size} returned to no datum"
    return chi_square(seen[:, None], torch.full((count, 1), 1 / count)), ""


def _bound(chain: Chain, data: State, head: Head | None) -> tuple[float, str]:
    """E[bound] = H(p_0) + KL(q(x_T) ‖ prior) for the exact head, more for any other."""
    if has_density(chain.process):
        raise Unsolved("continuous states are not enumerated: a decoder ends their bound")
    left = _prior_kl(chain, data)
    if left == math.inf:
        raise Unsolved("the prior cannot have produced x_T: the bound is +∞")
    said, count = head or Exact(chain, data), batch_size(data)
    with torch.no_grad():
        each = [float(expected_terms(chain, said, data, n).sum()) for n in _every(data)]
    mean = sum(each) / count
    gap = mean - math.log(count) - left
    if head is None:
        return abs(gap), f"{mean:.4f} nats"
    return max(-gap, 0.0), f"{gap:.2e} nats above the exact head"


def _prior(chain: Chain, x: State) -> float:
    """The prior is the limit, or the law at the last index from zero, at states drawn there."""
    process, end = chain.process, chain.times[-1]
    state = laws.draw(process._marginal(x, end.expand(batch_size(x))))
    shape = map_state(lambda v: v.shape, x)
    goal = beginning(process, shape, end).log_prob(state)
    return apart(chain.prior(shape).log_prob(state), goal)


def beginning(process: Process, shape: Any, end: Tensor) -> Distribution:
    """Where sampling must start: the limit if there is one, else the law at the end from 0."""
    if isinstance(process, Product):
        parts = {name: beginning(part, shape[name], end) for name, part in process.parts.items()}
        return laws.Joint(parts)
    try:
        return process._limit(shape)
    except Unsolved:
        origin = process.origin(shape)
        return process._marginal(origin, end.expand(batch_size(origin)))


def _every(data: State) -> Iterator[int]:
    return iter(range(batch_size(data)))


def expected_terms(chain: Chain, head: Head, data: State, n: int) -> Tensor:
    """The expected terms of the bound at the n-th datum, (T + 1,): the prior's, then k = 1 … T."""
    datum = map_state(lambda v: v[n : n + 1], data)
    x, log_w = _states_at(chain, datum, len(chain.times))
    prior = chain.prior(map_state(lambda v: v.shape, x)).log_prob(x).double()
    terms = [(log_w.exp() * (log_w - prior)).sum()]
    goals = datum
    for k in range(1, len(chain.times) + 1):
        x, log_w = _states_at(chain, datum, k)
        size = batch_size(x)
        if size * batch_size(goals) * len(chain.times) > LIMIT:
            raise Unsolved(f"{size} × {batch_size(goals)} states in a step are too many")
        t = chain.times[k - 1].expand(size)
        x_0 = map_state(lambda v: v.expand(size, *v.shape[1:]), datum)  # noqa: B023
        both = (chain.bridge(said, x, k - 1, k) for said in (Data(x_0), head(x, t)))
        q, p = (_log_matrix(law, goals, size) for law in both)
        kl = torch.where(q > -torch.inf, q.exp() * (q - p), 0.0).sum(1)
        terms.append((log_w.exp() * kl).sum())
        goals = x
    return torch.stack(terms)


def _states_at(chain: Chain, datum: State, k: int) -> tuple[State, Tensor]:
    """The states (G, *event) that one datum leads to at an index, and their log-probabilities."""
    x, log_w = noisy_states(chain.process, datum, chain.times[k - 1 : k])
    some = log_w[:, 0] > -torch.inf
    return map_state(lambda v: v[some], x), log_w[some, 0]


def _log_matrix(law: Distribution, goals: State, size: int) -> Tensor:
    """The log-probabilities of states (G, *event) under laws of batch (size,), (size, G)."""
    each = []
    for g in _every(goals):
        wide = map_state(lambda v: v[g : g + 1].expand(size, *v.shape[1:]), goals)  # noqa: B023
        each.append(law.log_prob(wide).double())
    return torch.stack(each, 1)


def _prior_kl(chain: Chain, data: State) -> float:
    r""":math:`\mathrm{KL}(q(x_T) \| \text{prior})`, the data averaged over."""
    count, total = batch_size(data), 0.0
    for n in _every(data):
        datum = map_state(lambda v: v[n : n + 1], data)  # noqa: B023
        x, log_w = _states_at(chain, datum, len(chain.times))
        size, each = batch_size(x), []
        for m in _every(data):
            other = map_state(lambda v: v[m : m + 1].expand(size, *v.shape[1:]), data)  # noqa: B023
            each.append(chain.marginal(other, len(chain.times)).log_prob(x).double())
        mixed = torch.stack(each).logsumexp(0) - math.log(count)
        prior = chain.prior(map_state(lambda v: v.shape, x)).log_prob(x).double()
        total += float((log_w.exp() * (mixed - prior)).sum().detach()) / count
    return total


def _loss(chain: Chain, data: State) -> float:
    """Terms at random indices, times their number, have the mean of the bound's sum.

    Draws that rounding puts on the edge of a support, as of gamma noise, are few and left out.
    """
    exact, copies = Exact(chain, data), max(1, DRAWS // batch_size(data))
    x_0 = map_state(lambda v: v.repeat((copies,) + (1,) * (v.dim() - 1)), data)
    whole = vlb(chain, exact, x_0)
    k, w = times(chain, x_0)
    goal = whole.steps + whole.reconstruction
    gap = w * loss(chain, exact, x_0, k) - goal
    finite = gap.isfinite()
    if float((~finite).double().mean()) > ON_EDGE:
        raise Unsolved("the bound is not finite: the model's steps lack states of the process's")
    gap, goal = gap[finite], goal[finite]
    spread = gap.std() / len(gap) ** 0.5 + 1e-9 * (1 + goal.abs().max())
    return float((gap.mean().abs() / spread).detach())
