"""Bounds are bounds, heads mean what they say, and the entropy identity holds.

Expectations are sums over all states and times are integrated by quadrature: there is no Monte
Carlo here. The model of a head is a Markov chain, so that its exact law at t = 0 follows from the
Kolmogorov equation of `dd.reverse(process, head).rates`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy
import torch
from torch import nn

import discdiff as dd
from discdiff import laws
from discdiff.estimates import Data
from discdiff.expectation import divergence_at_end, entropy_gap, expected_path_kl
from discdiff.heads import Exact
from discdiff.likelihood import prior_kl
from discdiff.loss import integrand, sum_over_terms

pytestmark = pytest.mark.usefixtures("float64")

fast = dd.clock.LogLinear()


def chain(size, seed, sites=()):
    generator = torch.Generator().manual_seed(seed)
    Q = 2 * torch.rand(size, size, generator=generator, dtype=torch.float64)
    Q = Q - Q.diag().diag()
    return dd.RateMatrix(Q - Q.sum(1).diag(), sites=sites)


class Net(nn.Module):
    """A random network of a state and a time: two layers, never trained."""

    def __init__(self, entries, outputs, shape, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(entries + 1, 32), nn.Tanh(), nn.Linear(32, outputs))
        self.shape = shape

    def forward(self, x, t):
        flat = torch.cat([x.reshape(len(x), -1).double() / 2, t[:, None]], -1)
        return 2 * self.layers(flat).reshape(len(x), *self.shape)


# -- bounds on enumerable spaces ------------------------------------------------------------------


def enumerable():
    """name: (process, head, all states that the model can produce, all states)."""
    three, pairs = torch.arange(3), torch.cartesian_prod(torch.arange(3), torch.arange(3))
    tokens = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    masked = dd.Replace(dd.one_hot(3, 4)).on(fast)
    uniform = dd.Replace(torch.full((3,), 1 / 3)).on(fast)
    heads = dd.heads
    sites = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    count = torch.arange(6.0)
    return {
        "masked": (masked, heads.Posterior(Net(2, 8, (2, 4)), absent=3), tokens),
        "uniform": (uniform, heads.LeaveOneOut(Net(2, 6, (2, 3))), pairs),
        "chain": (chain(3, 1).on(fast), heads.LeaveOneOut(Net(1, 3, (3,))), three),
        "coupled sites": (
            chain(6, 2, (2, 3)).on(fast),
            heads.LeaveOneOut(Net(2, 6, (6,))),
            sites,
        ),
        "ehrenfest": (
            dd.Ehrenfest(5).on(dd.clock.Constant(1.5)),
            Exact(
                dd.Ehrenfest(5).on(dd.clock.Constant(1.5)),
                torch.tensor([0.0, 2.0]),
                torch.tensor([0.3, 0.7]).double(),
            ),
            count,
        ),
    }


def bound(process, head, x, **options):
    """The expected bound on log p(x), by enumeration."""
    return -(prior_kl(process, x) + expected_path_kl(process, head, x, **options))


def model_law(process, head, states, steps=600):
    """The law of the model at t = 0 on all states, by RK4 in z down the reverse equation."""
    clock = process.clock
    end = float(clock.z(torch.tensor(1.0))) if float(clock(torch.tensor(1.0))) < 40 else 36.0
    z = torch.linspace(min(end, 36.0), -36.0, 2 * steps + 1)
    times = clock.from_z(z).detach()
    back = dd.reverse(process, head)
    law = process.prior(states.shape).log_prob(states).exp()
    law = law / law.sum()
    drift = [flow(back, states, t, clock) for t in times]
    h = float(z[0] - z[2])
    for k in range(steps):
        a, b, c = drift[2 * k : 2 * k + 3]
        k1 = law @ a
        k2 = (law + h / 2 * k1) @ b
        k3 = (law + h / 2 * k2) @ b
        law = law + h / 6 * (k1 + 2 * k2 + 2 * k3 + (law + h * k3) @ c)
    return law


def flow(back, states, t, clock):
    """The reverse generator on all states per unit of z."""
    size = len(states)
    full = t.expand(size)
    points, rates = back.rates(states, full)
    generator = torch.zeros(size, size)
    index = {tuple(s.reshape(-1).tolist()): i for i, s in enumerate(states)}
    (term, *_) = next(iter(back.process.leaves(full))).core.terms
    sites = 1 if term.event_axes or states.dim() == 1 else states.shape[1]
    for i, x in enumerate(states):
        for d in range(sites):
            p = points[i, d] if sites > 1 else points[i]
            r = rates[i, d] if sites > 1 else rates[i]
            for m in range(r.shape[-1]):
                y = x.clone()
                if sites > 1:
                    y[d] = p[m]
                else:
                    y = p[m]
                j = index.get(tuple(y.reshape(-1).tolist()))
                if j is not None and j != i and r[m] > 0:
                    generator[i, j] += float(r[m])
    slope = clock.rate(t) / -torch.expm1(-clock(t))
    return (generator - generator.sum(1).diag()) / slope


@pytest.mark.parametrize("name", enumerable())
def test_bounds_are_below_the_law_of_the_model(name):
    process, head, states = enumerable()[name]
    with torch.no_grad():
        value = bound(process, head, states, nodes=121)
        law = model_law(process, head, states)
    print(name, "sum of exp(bound):", float(value.exp().sum()))
    assert float(value.exp().sum()) <= 1 + 1e-6
    assert abs(float(law.sum()) - 1) < 1e-6
    gap = law.log() - value
    print(name, "log p - bound:", gap)
    assert float(gap.min()) > -1e-6


class Counted(NamedTuple):
    """A model on counts, and what it is by hand.

    ``flow(u)`` is the matrix of its reverse rates on the lattice at own time u; what leads out of
    the lattice is lost, so that the law that follows is at most the model's.
    """

    process: dd.Process
    head: dd.heads.Head
    states: Any
    lattice: Any
    flow: Any
    start: Any
    end: float
    stop: float = 0.0


def softplus(v):
    return np.logaddexp(0, v.detach().numpy())


def at(net, x, t):
    return net(x, torch.full((len(x),), float(t)))


def ladder(up, down):
    """The generator of steps by one on 0 … N, also out of it at N."""
    rates = np.diag(up[:-1], 1) + np.diag(down[1:], -1)
    return rates - np.diag(up + down)


def blackout():
    """Births at p softplus(net)."""
    process, net, x = dd.Death().on(fast), Net(1, 1, ()), torch.arange(25.0)

    def flow(u):
        return ladder(np.exp(-u) * softplus(at(net, x, -np.expm1(-u))), 0 * x.numpy())

    start = (x == 0).numpy() * 1.0
    return Counted(process, dd.heads.Missing(net), x, x, flow, start, 40.0)


def exact_blackout(error=1.0):
    """Births at p E[D | x] / (1 - p), for two data points, whose bounds are tight."""
    process, atoms = dd.Death().on(fast), torch.tensor([2.0, 5.0])
    weights, x = np.array([0.3, 0.7]), torch.arange(6.0)
    head = Exact(process, atoms, torch.from_numpy(weights))

    def flow(u):
        p, q = np.exp(-u), -np.expm1(-u)
        with np.errstate(divide="ignore"):
            tails = scipy.stats.binom.logpmf(x[:, None], atoms, p) + np.log(weights)
        mean = (scipy.special.softmax(tails, 1) * (atoms.numpy() - x.numpy()[:, None])).sum(1)
        return ladder(error * p / q * mean, 0 * mean)

    start = (x == 0).numpy() * 1.0
    return Counted(process, head, atoms, x, flow, start, 40.0)


def immigration():
    """Births at p softplus(a) + ν (1 - p), deaths at softplus(b)."""
    process = (dd.Death() + dd.Immigration(1.5)).on(dd.clock.Constant(3.0))
    net, x = Net(1, 2, (2,)), torch.arange(40.0)

    def flow(u):
        lost, gained = softplus(at(net, x, u / 3)).T
        return ladder(np.exp(-u) * lost - 1.5 * np.expm1(-u), np.where(x > 0, gained, 0))

    start = scipy.stats.poisson.pmf(x, 1.5)
    return Counted(process, dd.heads.Turnover(net), x[:16], x, flow, start, 3.0)


def births():
    """Deaths at (x - 1 + μ) E[q(x - 1 | x_0) / q(x | x_0)], of data up to 4; q is geometric."""
    process = (dd.Birth() + dd.Immigration(0.5)).on(dd.clock.Constant(0.7))
    net, x, data = Net(1, 5, (5,)), torch.arange(50.0), np.arange(5.0)

    def flow(u):
        n, m = x.numpy()[:, None], data + 0.5
        here, below = (scipy.stats.nbinom.pmf(k - data, m, np.exp(-u)) for k in (n, n - 1))
        logits = np.where(here > 0, at(net, x, u / 0.7).detach().numpy(), -np.inf)
        ratio = (scipy.special.softmax(logits, 1) * below / np.where(here > 0, here, 1)).sum(1)
        return ladder(0 * ratio, np.maximum(x.numpy() - 0.5, 0) * ratio)

    start = scipy.stats.nbinom.pmf(x, 0.5, np.exp(-0.7))
    states = torch.arange(5.0)
    return Counted(process, dd.heads.Posterior(net), states, x, flow, start, 0.7, stop=0.01)


def table():
    """A count and a category, each with a head that sees both."""
    death, uniform = dd.Death().on(fast), dd.Replace(torch.full((3,), 1 / 3)).on(fast)
    process, net = dd.Product(n=death, c=uniform), Net(2, 4, (4,))

    def columns(x, t):
        out = net(torch.stack([x["n"], x["c"].double()], -1), t)
        return {"n": out[:, 0] / 2, "c": out[:, 1:]}

    cells = torch.cartesian_prod(torch.arange(16.0), torch.arange(3.0))
    head = dd.heads.Product(columns, n=dd.heads.Missing, c=dd.heads.LeaveOneOut)

    def flow(u):
        out = at(net, cells, -np.expm1(-u)).detach()
        up = np.exp(-u) * softplus(out[:, 0] / 2)
        marginal = np.exp(-u) * out[:, 1:].softmax(1).numpy() - np.expm1(-u) / 3
        swap = marginal / np.take_along_axis(marginal, cells[:, 1:].long().numpy(), 1) / 3
        rates = np.zeros((len(cells), len(cells)))
        for i, (n, c) in enumerate(cells.long().tolist()):
            rates[i, 3 * n : 3 * n + 3] = swap[i]
            rates[i, i] = -swap[i].sum() + swap[i, c] - up[i]
            if n < 15:
                rates[i, i + 3] = up[i]
        return rates

    start = (cells[:, 0] == 0).numpy() / 3
    states = {"n": cells[:, 0], "c": cells[:, 1].long()}
    return Counted(process, head, states, cells, flow, start, 40.0)


COUNTED = {f.__name__: f for f in (blackout, exact_blackout, immigration, births, table)}


def hand_law(model):
    """The law of the model at the stop: the master equation in z, du = (1 - e^-u) dz."""
    last = float(model.process.clock(torch.tensor(model.stop))) if model.stop else 1e-12
    first, last = (np.log(np.expm1(u)) for u in (model.end, last))

    def slope(back, law):
        u = np.logaddexp(0, first - back)
        return -np.expm1(-u) * (law @ model.flow(u))

    run = scipy.integrate.solve_ivp(
        slope, (0.0, first - last), model.start, method="LSODA", rtol=1e-10, atol=1e-18
    )
    assert run.success, run.message
    return run.y[:, -1]


def hand_bound(model):
    """The bound of every state, and the law at 0, both after the decoder if there is one."""
    value = bound(model.process, model.head, model.states, stop=model.stop, nodes=121)
    law = hand_law(model)
    if not model.stop:
        of = {tuple(s): k for k, s in enumerate(model.lattice.reshape(len(law), -1).tolist())}
        rows = model.states if isinstance(model.states, torch.Tensor) else model.lattice
        return value, torch.tensor(
            [law[of[tuple(s)]] for s in rows.reshape(len(rows), -1).tolist()]
        )
    t = torch.full((len(law),), model.stop)
    decoder = model.head.net(model.lattice, t).log_softmax(-1)
    noisy = [model.process.marginal(model.states[k].expand(len(law)), t).log_prob(model.lattice)
             for k in range(len(model.states))]  # fmt: skip
    value = value + (torch.stack(noisy, 1).exp() * decoder).sum(0)
    return value, torch.from_numpy(law) @ decoder.exp()


@pytest.mark.parametrize("name", COUNTED)
def test_bounds_on_counts_and_tables(name):
    """Σ exp(bound) ≤ 1, and no bound is above the law that follows from rates written by hand."""
    with torch.no_grad():
        model = COUNTED[name]()
        value, law = hand_bound(model)
    gap = law.log() - value
    print(f"{name}: Σ exp(bound) {float(value.exp().sum()):.4f}, Σ law {float(law.sum()):.6f}")
    print(f"{name}: log p - bound from {float(gap.min()):.1e} to {float(gap.max()):.2f}")
    assert 0.01 < float(value.exp().sum()) <= 1 + 1e-6
    assert 0.5 < float(law.sum()) < 1 + 1e-6
    assert float(gap.min()) > -1e-6
    if name == "exact_blackout":
        assert float(gap.abs().max()) < 1e-6


@pytest.mark.parametrize("error", [0.99, 1.01])
def test_rates_off_by_one_percent_break_the_bound(error):
    """The comparison is sharp: a model with other rates than the head's is below a bound."""
    with torch.no_grad():
        value, law = hand_bound(exact_blackout(error))
    assert float((law.log() - value).min()) < -1e-4


@pytest.mark.parametrize("kind", [dd.heads.Mean, dd.heads.Epsilon, dd.heads.Velocity])
def test_bounds_on_the_line_integrate_to_at_most_one(kind):
    """The integral stops at 0.02 and the normalised Gaussian decoder takes over."""
    process = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
    head, stop = kind(Net(1, 1, ())), 0.02
    x = torch.linspace(-9.0, 9.0, 181)
    with torch.no_grad():
        value = -(
            prior_kl(process, x) + expected_path_kl(process, head, x, stop=stop, nodes=91, grid=81)
        )
        value = value + decoded(process, head, x, stop)
    total = float(value.exp().sum() * (x[1] - x[0]))
    print(kind.__name__, "integral of exp(bound):", total)
    assert 0 < total <= 1 + 1e-4


def decoded(process, head, x, stop, grid=81):
    """E log p(x_0 | x_stop) of the decoder, by quadrature."""
    t = torch.full(x.shape, stop)
    noisy = process.marginal(x, t)
    u = torch.linspace(-8.0, 8.0, grid)
    weight = (-(u**2) / 2).exp()
    weight = weight / weight.sum()
    points = noisy.mean + noisy.variance.sqrt() * u[:, None]
    (leaf,) = process.leaves(t.repeat(grid))
    estimate = head(points.reshape(-1), t.repeat(grid))
    law = leaf.core.engine.decode(estimate, points.reshape(-1), leaf.time)
    return (weight[:, None] * law.log_prob(x.repeat(grid)).reshape(grid, -1)).sum(0)


# -- heads mean what they say ---------------------------------------------------------------------


def spoken():
    heads = dd.heads
    real = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Cosine())
    finite = (heads.Posterior, heads.LeaveOneOut, heads.Conditional, heads.Ratio)
    codes = torch.tensor([[0, 1], [2, 1], [0, 2]])
    return {
        "vp": (real, torch.tensor([-1.0, 0.5, 2.0]),
               (heads.Mean, heads.Epsilon, heads.Velocity, heads.Score)),
        "uniform": (dd.Replace(torch.full((3,), 1 / 3)).on(fast), codes, finite),
        "chain": (chain(3, 3).on(fast), codes, finite),
        "death": (dd.Death().on(fast), torch.tensor([1.0, 4.0, 5.0]),
                  (heads.Missing, heads.Ratio, heads.Posterior)),
        "immigration": ((dd.Death() + dd.Immigration(1.0)).on(fast), torch.tensor([1.0, 4.0, 5.0]),
                        (heads.Turnover, heads.Ratio, heads.Posterior)),
    }  # fmt: skip


@pytest.mark.parametrize("name", spoken())
@pytest.mark.parametrize("t", [1e-3, 0.4, 0.95])
def test_all_heads_of_the_exact_one_agree(name, t):
    """They give the same loss, and the same reverse rates or drift."""
    process, x_0, kinds = spoken()[name]
    exact = Exact(process, x_0)
    x_t = process.marginal(x_0, t).sample()
    reference = dd.loss(process, exact, x_0, t, x_t=x_t)
    back = dd.reverse(process, exact)
    move = back.drift(x_t, t) if name == "vp" else back.rates(x_t, t)[1]
    for kind in kinds:
        head = exact.as_(kind)
        found = dd.loss(process, head, x_0, t, x_t=x_t)
        torch.testing.assert_close(found, reference, rtol=1e-6, atol=1e-9)
        other = dd.reverse(process, head)
        again = other.drift(x_t, t) if name == "vp" else other.rates(x_t, t)[1]
        torch.testing.assert_close(again, move, rtol=1e-6, atol=1e-9)


class Misread(dd.heads.Head):
    """The exact logits of one meaning, read with another."""

    def __init__(self, exact, said, read):
        super().__init__()
        self.source, self.kind = exact.as_(said), read.kind

    def forward(self, x, t, context=None):
        return self.kind(self.source(x, t).logits)


@pytest.mark.parametrize("swap", [1, -1])
def test_a_head_of_the_wrong_type_is_seen(swap):
    """Posterior logits read as leave-one-out, and the reverse, cost more than 0.05 nats."""
    process = dd.Replace(torch.full((3,), 1 / 3)).on(fast)
    data = torch.tensor([[0, 0], [1, 1], [2, 0]])
    exact = Exact(process, data)
    said, read = (dd.heads.Posterior, dd.heads.LeaveOneOut)[::swap]
    gap = float(entropy_gap(process, Misread(exact, said, read), data))
    print(f"{said.__name__} read as {read.__name__}: {gap:.3f} nats")
    assert gap > 0.05
    report = dd.check(process, data, head=Misread(exact, said, read))
    assert any(0.05 < float(row.note.split()[0]) for row in report.rows if "nats" in row.note
               and row.law == "given head")  # fmt: skip


# -- the entropy identity -------------------------------------------------------------------------


def identities():
    codes, count = torch.tensor([[0, 1], [2, 1], [0, 2]]), torch.tensor([0.0, 2.0, 5.0])
    vp = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
    mask = dd.Replace(dd.one_hot(3, 4)).on(fast)
    table = dd.Product(income=vp, job=mask, visits=dd.Death().on(fast))
    rows = {"income": torch.tensor([-1.0, 0.5]), "job": torch.tensor([0, 2]),
            "visits": torch.tensor([0.0, 3.0])}  # fmt: skip
    chains = {
        f"chain of {K} states": (chain(K, K).on(clock), torch.arange(min(K, 3)), {"nodes": 301})
        for K, clock in ((2, fast), (3, dd.clock.Cosine()), (5, dd.clock.Constant(2.0)), (8, fast))
    }
    return {
        **chains,
        "coupled sites": (chain(6, 0, (2, 3)).on(fast), torch.tensor([[0, 1], [1, 2], [0, 2]]),
                          {"nodes": 301}),
        "coupled sites, 8 states": (chain(8, 9, (2, 4)).on(dd.clock.Constant(1.0)),
                                    torch.tensor([[0, 1], [1, 3], [0, 2]]), {"nodes": 301}),
        "death": (dd.Death().on(dd.clock.Logistic(15.0)), count, {}),
        "immigration and death": ((dd.Death() + dd.Immigration(2.0)).on(fast), count, {}),
        "masked": (mask, codes, {}),
        "vp": (vp, torch.tensor([-1.0, 0.5, 2.0]), {}),
        "three columns": (table, rows, {"nodes": 181, "grid": 81}),
    }  # fmt: skip


@pytest.mark.parametrize("name", identities())
def test_entropy_identity(name):
    process, data, options = identities()[name]
    gap = float(entropy_gap(process, Exact(process, data), data, **options))
    print(f"{name}: {gap:.1e} nats")
    assert abs(gap) < 1e-6


def test_entropy_identity_with_the_prior_spelt_out():
    """E[path-KL] = H(p_0) + KL(p_1 ‖ prior), both sides as they stand, also for another prior."""
    process, data = (dd.Ehrenfest(5)).on(dd.clock.Constant(0.5)), torch.tensor([0.0, 2.0, 5.0])
    weights = torch.tensor([0.2, 0.3, 0.5])
    exact = Exact(process, data, weights)
    entropy = -torch.xlogy(weights, weights).sum()
    inner = expected_path_kl(process, exact, data)
    for prior in (process.prior(data.shape), dd.Ehrenfest(5, 2.0, 1.0).limit(data.shape)):
        left = (weights * (prior_kl(process, data, prior) + inner)).sum()
        one = prior.base_dist if prior.event_shape else prior
        right = entropy + divergence_at_end(process, data, weights, _first(one))
        torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


class _first:
    """A law of equal entries at any number of states."""

    def __init__(self, law):
        self.table = torch.stack([law.log_prob(torch.full(law.batch_shape, float(k)))[0]
                                  for k in range(6)])  # fmt: skip

    def log_prob(self, x):
        return self.table[x.long()]


# -- gradients, additivity, priors ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform", "chain", "death", "immigration", "vp"])
def test_the_exact_head_is_a_stationary_point(name):
    """Nudging any output of the exact head changes the expected loss in second order only."""
    process, data, kinds = spoken()[name]
    data = data[:, 0] if data.dim() == 2 else data
    head = Nudged(Exact(process, data).as_(kinds[0]))

    def cost(size):
        head.size = size
        return float(expected_path_kl(process, head, data, nodes=91).mean())

    slope = (cost(1e-4) - cost(-1e-4)) / 2e-4
    bend = (cost(1e-2) + cost(-1e-2) - 2 * cost(0.0)) / 1e-4
    print(name, "slope", slope, "curvature", bend)
    assert abs(slope) < 1e-6 * max(1.0, bend)
    assert bend > 1e-3


class Nudged(dd.heads.Head):
    """A head whose output is moved in a direction that depends on the state and on time."""

    def __init__(self, head):
        super().__init__()
        self.head, self.kind, self.size = head, head.kind, 0.0

    def forward(self, x, t, context=None):
        def move(v):
            field = torch.sin(1.3 * x.double() + 0.4 + 3 * t)
            field = field.reshape(field.shape + (1,) * (v.dim() - x.dim()))
            tilt = torch.linspace(1.0, 2.0, v.shape[-1]) if v.dim() > x.dim() else 1.0
            return v + self.size * field * tilt * t.reshape((-1,) + (1,) * (v.dim() - 1)) ** 2

        return self.head(x, t).map(move)


def test_integrands_add_up():
    """A sum's integrand is the sum over its terms at one marginal, a product's that over parts."""
    queue = dd.Death() + dd.Immigration(1.0)
    data, t = torch.tensor([1.0, 4.0]), torch.full((2,), 0.4)
    x_t, exact = queue.marginal(data, t).sample(), Exact(queue, data)
    (leaf,) = queue.leaves(t)
    whole = integrand(queue, Data(data), exact(x_t, t), x_t, t)
    torch.testing.assert_close(whole, sum_over_terms(leaf, Data(data), exact(x_t, t), x_t))
    assert bool((whole >= 0).all())
    table = dd.Product(a=queue.on(fast), b=dd.Replace(dd.one_hot(2, 3)).on(dd.clock.Cosine()))
    state = {"a": data, "b": torch.tensor([0, 1])}
    noisy = table.marginal(state, t).sample()
    parts = {k: Exact(p, state[k]).as_(dd.heads.Posterior) for k, p in table.parts.items()}
    head = dd.heads.Product(lambda x, t: {k: parts[k](x[k], t).logits for k in x},
                            a=dd.heads.Posterior, b=dd.heads.Posterior)  # fmt: skip
    whole = dd.loss(table, head, state, t, x_t=noisy)
    each = [dd.loss(p, parts[k], state[k], t, x_t=noisy[k]) for k, p in table.parts.items()]
    torch.testing.assert_close(whole, each[0] + each[1])


def test_a_wrong_prior_costs():
    process, data = dd.Ehrenfest(5).on(dd.clock.Constant(0.5)), torch.tensor([0.0, 2.0, 5.0])
    own = prior_kl(process, data)
    other = prior_kl(process, data, dd.Ehrenfest(5, 4.0, 1.0).limit(data.shape))
    assert float((other - own).mean()) > 0.05
    masked, codes = dd.Replace(dd.one_hot(2, 3)).on(dd.clock.Constant(1.0)), torch.tensor([0, 1])
    assert bool((prior_kl(masked, codes) == math.inf).all())  # one in e is not masked at t = 1
    uniform = dd.Replace(torch.full((3,), 1 / 3)).limit(codes.shape)
    assert bool(prior_kl(masked, codes, uniform).isfinite().all())
    assert bool((laws.kl(uniform, dd.Replace(dd.one_hot(2, 3)).limit((2,))) == math.inf).all())
