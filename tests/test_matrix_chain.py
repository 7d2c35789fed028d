"""Chains by their one-step kernels, against products and sums over all states in numpy alone."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from market import CHAINS

import discdiff as dd
from discdiff import laws
from discdiff.engines.products import Products
from discdiff.estimates import Data
from discdiff.process import batch_size, map_state
from discdiff.solve import Unsolved
from discdiff.testing import matrix_chains

pytestmark = pytest.mark.usefixtures("float64")


def kernels(count, size, seed=0, zeros=0):
    """Random one-step kernels, with some entries zero."""
    Q = np.random.default_rng(seed).uniform(0.1, 1.0, (count, size, size))
    Q.reshape(count, -1)[:, 1 : 1 + zeros] = 0
    return Q / Q.sum(-1, keepdims=True)


def product(Q, s, t):
    """The transition matrix from s to t."""
    return np.linalg.multi_dot([np.eye(Q.shape[-1]), np.eye(Q.shape[-1]), *Q[s:t]])


Q = kernels(5, 3)
CHAIN = dd.MatrixChain(torch.tensor(Q))
STATES = torch.tensor(list(itertools.product(range(3), repeat=2)))


# -- laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [(0, 0), (0, 5), (2, 3), (1, 4), (3, 3)], ids=str)
def test_transitions_are_products(pair):
    P = product(Q, *pair)
    for y in STATES:
        found = CHAIN.transition(STATES, *pair).log_prob(y.expand(9, 2)).exp()
        goal = P[STATES[:, 0], y[0]] * P[STATES[:, 1], y[1]]
        assert np.abs(found.numpy() - goal).max() < 1e-15


def test_every_row_has_its_own_pair_of_times():
    s, t = torch.tensor([0, 1, 2, 0, 3]), torch.tensor([4, 3, 5, 0, 5])
    x, y = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([2, 2, 0, 1, 1])
    found = CHAIN.transition(x, s, t).log_prob(y).exp()
    goal = [
        product(Q, *p)[a, b] for *p, a, b in zip(*(v.tolist() for v in (s, t, x, y)), strict=True)
    ]
    assert np.abs(found.numpy() - goal).max() < 1e-15


def test_products_are_made_once():
    engine = CHAIN.process.process.engine
    assert isinstance(engine, Products)
    s, t = torch.tensor([1, 2]), torch.tensor([3, 4])
    CHAIN.transition(STATES[:2], s, t)
    before = {key: table.data_ptr() for key, table in engine._kept.items()}
    CHAIN.transition(STATES[:2], s, t)
    assert before == {key: table.data_ptr() for key, table in engine._kept.items()}
    assert CHAIN.process.process.engine is engine


@pytest.mark.parametrize("site", [0, 1])
def test_bridges_of_all_estimates_are_bayes_rule(site):
    """q(x_s = b | x_t) = Σ_a μ(a) P(0→s)(a, b) P(s→t)(b, x) / P(0→t)(a, x)."""
    s, t = 2, 4
    early, late, whole = product(Q, 0, s), product(Q, s, t), product(Q, 0, t)
    x_t, x_0 = STATES, STATES.flip(0)
    logits = torch.randn(9, 2, 3)
    weights = torch.tensor([0.5, 0.2, 0.3]).log().expand(9, 3)
    atoms = torch.tensor([[0, 1], [2, 2], [1, 0]])
    one = np.eye(3)[x_0[:, site]]
    some = logits.softmax(-1)[:, site].numpy()
    against = some * whole[:, x_t[:, site]].T
    mixed = np.exp(weights.numpy()) @ np.eye(3)[atoms[:, site]]
    estimates = [
        (dd.estimates.Data(x_0), one),
        (dd.estimates.Posterior(logits), some),
        (dd.estimates.LeaveOneOut(logits), against / against.sum(1, keepdims=True)),
        (dd.estimates.Atoms(weights, atoms), mixed),
    ]
    for estimate, mu in estimates:
        goal = ((mu / whole[:, x_t[:, site]].T) @ early) * late[:, x_t[:, site]].T
        law = CHAIN.bridge(estimate, x_t, s, t)
        other = 1 - site
        found = np.zeros((9, 3))
        for y in STATES:
            p = law.log_prob(y.expand(9, 2)).exp().numpy()
            found[:, y[site]] += p  # the other site is summed over
        assert np.abs(found - goal).max() < 1e-14, (type(estimate).__name__, other)


def test_the_limit_is_what_all_steps_leave_as_it_is():
    pi = np.array([0.2, 0.3, 0.5])
    betas = np.linspace(0.05, 0.9, 6)
    replace = [(1 - b) * np.eye(3) + b * np.tile(pi, (3, 1)) for b in betas]
    chain = dd.MatrixChain(torch.tensor(np.array(replace)))
    assert np.abs(chain.limit((1,)).probs.numpy() - pi).max() < 1e-12
    one = dd.MatrixChain(torch.tensor(Q[0]), steps=3)
    left = np.linalg.matrix_power(Q[0], 200)[0]
    assert np.abs(one.limit((4, 2)).base_dist.probs.numpy() - left).max() < 1e-12
    assert torch.equal(one.prior((1,)).probs, one.limit((1,)).probs)
    with pytest.raises(Unsolved, match="as it is by every step"):
        CHAIN.limit((1,))
    goal = product(Q, 0, 5)[0]
    assert np.abs(CHAIN.prior((1,)).log_prob(torch.tensor([1])).exp().numpy() - goal[1]) < 1e-14
    for swap in ([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]):
        with pytest.raises(Unsolved, match="depends on the start"):
            dd.MatrixChain(torch.tensor(swap), steps=4).limit((1,))


def test_ninety_nine_steps_of_ddpms_betas_keep_their_digits():
    """D3PM's uniform kernels in closed form: (1 − β̄) I + β̄ / K."""
    betas = np.linspace(1e-4, 0.02, 99)
    eye, even = np.eye(8), np.full((8, 8), 1 / 8)
    chain = dd.MatrixChain(torch.tensor(np.array([(1 - b) * eye + b * even for b in betas])))
    x = torch.arange(8)
    stay = np.cumprod(1 - betas)
    for k in (1, 50, 99):
        found = chain.transition(x, 0, k).log_prob((x + 1) % 8).exp().numpy()
        assert np.abs(found / ((1 - stay[k - 1]) / 8) - 1).max() < 1e-12


def test_it_is_the_chain_of_a_rate_matrix_at_equal_times():
    rates = torch.tensor([[-1.0, 1.0, 0.0], [0.5, -1.0, 0.5], [0.0, 2.0, -2.0]])
    process = dd.RateMatrix(rates).on(dd.clock.Constant(2.0))
    other, chain = (
        process.at([0.25, 0.5, 0.75, 1.0]),
        dd.MatrixChain(torch.linalg.matrix_exp(rates / 2), steps=4),
    )
    head = dd.heads.LeaveOneOut(lambda x, t: torch.stack([x + t[:, None], 0 * x, -x], -1))
    x, k = STATES, torch.tensor([1, 2, 3, 4, 4, 3, 2, 1, 2])
    x_t = STATES.flip(1)
    found = [dd.loss(c, head, x, k, x_t=x_t) for c in (chain, other)]
    assert torch.allclose(*found, rtol=1e-9)
    both = [c.limit(x.shape).log_prob(x) for c in (chain, other)]
    assert torch.allclose(*both, rtol=1e-9)


# -- the whole model ------------------------------------------------------------------------------


def grid_laws(points, shape, variance):
    """Rows ∝ a density of x_k − sqrt(a) x_{k−1} on a grid."""
    a, scale = 1 - variance, math.sqrt(variance)
    z = (points[None, :] - math.sqrt(a) * points[:, None]) / scale
    log_p = {"laplace": -math.sqrt(2) * np.abs(z), "normal": -(z**2) / 2}[shape]
    p = np.exp(log_p)
    return p / p.sum(1, keepdims=True)


GRID = np.linspace(-3.0, 3.0, 25)
BETAS = [0.1, 0.2, 0.3, 0.4, 0.5]
LAPLACE = np.array([grid_laws(GRID, "laplace", b) for b in BETAS])
DATA = np.exp(-((GRID - 1) ** 2) / 0.18) + 0.7 * np.exp(-((GRID + 1.2) ** 2) / 0.3)
DATA = DATA / DATA.sum()


def bounds(Q, prior, reverse):
    """The bound on −log p(x_0) for every x_0, term by term, (T + 1, K): sums in numpy alone."""
    count, size = len(Q), Q.shape[-1]
    last = product(Q, 0, count)
    terms = [(last * np.log(last / prior)).sum(1)]
    for k in range(1, count + 1):
        early, late, now = product(Q, 0, k - 1), Q[k - 1], product(Q, 0, k)
        term = np.zeros(size)
        for x_0 in range(size):
            exact = early[x_0][:, None] * late / now[x_0]  # (x_{k−1}, x_k)
            log = np.log(np.where(exact > 0, exact / reverse[k - 1].T, 1.0))
            term[x_0] = (now[x_0] * (exact * log).sum(0)).sum()
        terms.append(term)
    return np.array(terms)


def exact_reverse(Q, p_0):
    """q(x_{k−1} | x_k), rows x_k, for data of this law; and the law at the end."""
    found, p = [], p_0
    for step in Q:
        joint = p[:, None] * step
        found.append((joint / joint.sum(0)).T)
        p = joint.sum(0)
    return np.array(found), p


def through_the_library(chain, head, size, prior=None):
    """The same terms through loss at every index and state, and the prior's KL."""
    x_0 = torch.arange(size).repeat_interleave(size)
    x_t = torch.arange(size).repeat(size)
    start = prior or chain.prior((size,))
    end = chain.marginal(torch.arange(size), len(chain.times))
    terms = [laws.kl(end, start)]
    for k in range(1, len(chain.times) + 1):
        p = chain.marginal(x_0, k).log_prob(x_t).exp()
        t = chain.time(torch.full_like(x_0, k))
        said = head(x_t, t)
        exact, model = (chain.bridge(e, x_t, k - 1, k) for e in (Data(x_0), said))
        kl = 0.0
        for y in range(size):
            q, r = (v.log_prob(torch.full_like(x_t, y)) for v in (exact, model))
            kl = kl + torch.where(q > -torch.inf, q.exp() * (q - r), 0.0)
        terms.append((p * kl).reshape(size, size).sum(1))
    return torch.stack(terms)


def test_with_exact_reverse_kernels_the_bound_is_the_likelihood_of_every_datum():
    """A Laplace chain on a grid, p_T = q_T: the ELBO of x_0 is log q(x_0), to 1e-10."""
    chain = dd.MatrixChain(torch.tensor(LAPLACE))
    exact = dd.Exact(chain, torch.arange(25), torch.tensor(DATA))
    _, end = exact_reverse(LAPLACE, DATA)
    prior = laws.Table(torch.tensor(end).log().expand(25, 25), torch.int64)
    terms = through_the_library(chain, exact, 25, prior)
    error = (terms.sum(0) + torch.tensor(DATA).log()).abs()
    print("largest |ELBO(x_0) - log q(x_0)|:", float(error.max()))
    assert float(error.max()) < 1e-10
    goal = bounds(LAPLACE, end, exact_reverse(LAPLACE, DATA)[0])
    assert np.abs(terms.numpy() - goal).max() < 1e-10


def test_what_the_bound_lacks_is_the_divergence_of_paths():
    """log p(x_0) − ELBO = KL(q(x_{1:T} | x_0) ‖ p(x_{1:T} | x_0)), for an arbitrary head."""
    chain, said = dd.MatrixChain(torch.tensor(Q[:3])), torch.randn(4, 3, 3)
    head = dd.heads.Posterior(lambda x, t: said[(3 * t).round().long(), x])
    x = torch.arange(3)
    reverse = np.zeros((3, 3, 3))
    for k in (1, 2, 3):
        mu = said[k].softmax(-1).numpy()
        early, late, now = product(Q, 0, k - 1), Q[k - 1], product(Q, 0, k)
        reverse[k - 1] = ((mu / now.T) @ early) * late.T
    prior = product(Q, 0, 3)[0]
    paths = np.array(list(itertools.product(range(3), repeat=4)))  # x_0 … x_3
    a, b, c, d = paths.T
    q = Q[0][a, b] * Q[1][b, c] * Q[2][c, d]
    p = prior[d] * reverse[2][d, c] * reverse[1][c, b] * reverse[0][b, a]
    terms = through_the_library(chain, head, 3)
    for x_0 in range(3):
        here = a == x_0
        likelihood = p[here].sum()
        divergence = (q[here] * np.log(q[here] / (p[here] / likelihood))).sum()
        lacks = math.log(likelihood) + float(terms[:, x_0].sum())
        assert abs(lacks - divergence) < 1e-13 and divergence > 0.01
    k = torch.tensor([1, 2, 3])
    found = [dd.loss(chain, head, x, k, x_t=(x + m) % 3) for m in range(3)]
    weight = [chain.marginal(x, k).log_prob((x + m) % 3).exp() for m in range(3)]
    total = sum(w * v for w, v in zip(weight, found, strict=True))
    assert torch.allclose(total, terms[1:].diagonal(), rtol=1e-12)


def matched(Q, shape):
    """Reverse kernels of a shape, with the mean and the variance of the exact ones."""
    exact, end = exact_reverse(Q, DATA)
    kernels = []
    for step in exact:
        mean = step @ GRID
        std = np.sqrt(step @ GRID**2 - mean**2)
        z = (GRID[None, :] - mean[:, None]) / std[:, None]
        p = np.exp(-math.sqrt(2) * np.abs(z) if shape == "laplace" else -(z**2) / 2)
        kernels.append(p / p.sum(1, keepdims=True))
    return np.array(kernels), end


def test_few_steps_of_a_laplace_chain_prefer_reverse_kernels_of_its_shape():
    entropy = -(DATA * np.log(DATA)).sum()
    gaps = {}
    for shape in ("laplace", "normal"):
        reverse, end = matched(LAPLACE, shape)
        gaps[shape] = float(DATA @ bounds(LAPLACE, end, reverse).sum(0)) - entropy
    print("gap of the bound, nats:", gaps)
    assert 0 < gaps["laplace"] < gaps["normal"]


def test_samples_of_the_exact_head_have_the_law_of_the_data():
    weights = torch.tensor([0.5, 0.2, 0.3])
    data = torch.tensor([[0, 1], [2, 2], [1, 0]])
    head, count = dd.Exact(CHAIN, data, weights), 6000
    x = dd.sample(CHAIN, head, (count, 2), prior=None)
    _, end = exact_reverse(Q, np.eye(3)[0])
    assert x.shape == (count, 2) and x.dtype == torch.int64
    seen = torch.stack([(x == a).all(1).double().mean() for a in data])
    assert float(seen.sum()) == 1.0
    assert float((seen - weights).abs().max()) < 0.05 + float(np.abs(end - 1 / 3).max())


def test_verbs_of_chains_take_it():
    head = dd.heads.Posterior(lambda x, t: torch.zeros(*x.shape, 3))
    context = dd.heads.Posterior(lambda x, t, y: y[:, None, None].expand(*x.shape, 3) * 1.0)
    known = torch.tensor([2, 0]), torch.tensor([True, False])
    x = dd.sample(CHAIN, head, (50, 2), known=known)
    assert bool((x[:, 0] == 2).all())
    assert dd.sample(CHAIN, context, (4, 2), context=torch.arange(4)).shape == (4, 2)
    path = dd.simulate(CHAIN, STATES, [0, 1, 5])
    assert torch.equal(path[0], STATES) and path.shape == (3, 9, 2)
    assert bool(dd.vlb(CHAIN, head, STATES).nats.isfinite().all())
    assert "process.process.kernels" in CHAIN.state_dict()


def test_kernels_are_learned_and_stay_kernels():
    chain = dd.learn(dd.MatrixChain(torch.tensor(kernels(3, 3, 2, zeros=1))))
    assert [name for name, _ in chain.named_parameters()] == [
        "process.process.parametrizations.kernels.original"
    ]
    head = dd.heads.LeaveOneOut(lambda x, t: torch.zeros(*x.shape, 3))
    optimiser = torch.optim.Adam(chain.parameters(), 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        k, w = dd.times(chain, STATES)
        (w * dd.loss(chain, head, STATES, k)).mean().backward()
        optimiser.step()
    term = chain.process.process
    assert torch.allclose(term.kernels.sum(-1), torch.ones(3, 3), rtol=1e-12)
    assert float(term.kernels.detach()[0, 0, 1]) == 0.0
    assert dd.check(chain, STATES[:3])


def test_one_dtype_in_float32():
    torch.set_default_dtype(torch.float32)
    chain = dd.MatrixChain(torch.tensor(Q, dtype=torch.float32))
    head = dd.heads.Posterior(lambda x, t: torch.zeros(*x.shape, 3))
    assert dd.vlb(chain, head, STATES).nats.dtype == torch.float32
    assert dd.loss(chain, head, STATES, 2).dtype == torch.float32
    fine = product(Q, 0, 4)[0, 1]
    found = chain.transition(torch.tensor([0]), 0, 4).log_prob(torch.tensor([1])).exp()
    assert abs(float(found) / fine - 1) < 1e-6


# -- the certificate ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_the_market_pass_every_law(name):
    entry = CHAINS[name]
    report = dd.check(entry.process, entry.x)
    assert report, str(report)
    assert {row.law for row in report.rows if row.error is None} == set(entry.without), str(report)
    plan = str(dd.explain(entry.process))
    assert "steps   " in plan and "engine" in plan and "none: simulate" not in plan


@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_the_market_have_a_loss_at_every_index(name):
    entry = CHAINS[name]
    chain, x = entry.process, map_state(as_double, entry.x)
    k = 1 + torch.arange(batch_size(x)) % len(chain.times)
    value = dd.loss(chain, dd.Exact(chain, x), x, k)
    assert value.shape == k.shape and bool(value.isfinite().all())


def as_double(x):
    return x.double() if x.is_floating_point() else x


@settings(max_examples=30, derandomize=True, database=None, deadline=None)
@given(matrix_chains())
def test_random_chains_pass_every_law(drawn):
    chain, x = drawn
    report = dd.check(chain, x)
    assert report, f"{chain!r} at {x}\n{report}"


def test_atoms_that_cannot_lead_to_a_state_have_no_part_in_its_bound():
    rates = torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
    process, x = dd.RateMatrix(rates).on(dd.clock.Constant(1.5)), torch.arange(3)
    found = dd.vlb(process.at([0.2, 0.6, 1.0]), dd.Exact(process, x), x.repeat(20))
    assert bool((found.steps + found.reconstruction).isfinite().all())


def test_a_head_is_held_against_the_exact_one():
    head = dd.heads.Posterior(lambda x, t: torch.zeros(*x.shape, 3))
    report = dd.check(CHAIN, STATES[:3], head)
    (row,) = [row for row in report.rows if row.law == "given head"]
    assert report and "nats above the exact head" in row.note


def planted(change):
    """A chain whose engine makes a mistake in its products."""

    class Wrong(dd.MatrixChain):
        def __init__(self, kernels):
            super().__init__(kernels)
            engine = self.process.process.engine
            right = engine.kept
            engine.kept = lambda key, make: change(key, right(key, make))

    return Wrong(torch.tensor(Q))


def lent(P, share=0.01):
    """Rows with a share of their first entry lent to their last: they still sum to one."""
    P = P.clone()
    moved = share * P[..., 0]
    P[..., 0] -= moved
    P[..., -1] += moved
    return P


MISTAKES = {
    "steps perturbed": lambda key, P: lent(P) if key == "steps" else P,
    "from the data perturbed": lambda key, P: P if key == "steps" else lent(P),
    "all perturbed": lambda key, P: lent(P),
    "steps transposed": lambda key, P: P.mT if key == "steps" else P,
    "all transposed": lambda key, P: P.mT,
    "one step too few": lambda key, P: P.roll(1, 0) if key == "from the data" else P,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_planted_mistakes_are_caught(name):
    report = dd.check(planted(MISTAKES[name]), STATES[:3])
    assert not report, str(report)
    print(name, "caught by", [row.law for row in report.failures])


def test_a_transposed_doubly_stochastic_kernel_is_caught_by_its_declaration():
    """Its powers are transition matrices of another chain: only the declaration tells."""
    ring = torch.tensor([[0.5, 0.4, 0.1], [0.1, 0.5, 0.4], [0.4, 0.1, 0.5]])
    chain = dd.MatrixChain(ring, steps=4)
    engine = chain.process.process.engine
    right = engine.kept
    engine.kept = lambda key, make: right(key, make).mT
    report = dd.check(chain, STATES[:3])
    assert [row.law for row in report.failures] == ["one step"], str(report)


class StepShort(dd.MatrixChain):
    """A user's chain whose transition leaves out the first step."""

    def transition(self, x_s, s, t):
        return super().transition(x_s, min(s + 1, t), t)


class Backward(dd.MatrixChain):
    """A user's chain whose bridge is at the wrong index."""

    def _bridge(self, estimate, x, s, t, eta=1.0):
        return super()._bridge(estimate, x, (s - 1).clamp(min=0), t, eta)


class Late(dd.MatrixChain):
    """A user's chain whose marginal is a step late."""

    def _marginal(self, x_0, t):
        return super()._marginal(x_0, (t - 1).clamp(min=0))


@pytest.mark.parametrize("kind", [StepShort, Backward, Late])
def test_overrides_of_a_users_chain_are_on_trial(kind):
    report = dd.check(kind(torch.tensor(Q)), STATES[:3])
    assert "indices" in {row.law for row in report.failures}, str(report)


def test_a_process_in_steps_says_so():
    process, head = CHAIN.process, dd.heads.Posterior(lambda x, t: torch.zeros(*x.shape, 3))
    with pytest.raises(ValueError, match=r"its steps 0 … 5 only; it is asked for at \[1.5"):
        process.marginal(STATES, 0.3)
    with pytest.raises(Unsolved, match="check the chain"):
        dd.check(process, STATES)
    with pytest.raises(Unsolved, match=r"loss\(chain, head, x_0, k\)"):
        dd.loss(process, head, STATES, 0.4)
    for verb in (dd.path_kl, dd.elbo):
        with pytest.raises(Unsolved, match="its bound is vlb"):
            verb(CHAIN, head, STATES)
