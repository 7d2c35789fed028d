r"""Blackout diffusion: identities of counting processes, each against a derivation of its own.

The laws, reversals, losses and steppers of the library are compared with matrix exponentials of
the declared rates, Bayes' rule on tables, quadrature and autograd. Wrong rates, signs and priors
are shown to fail the same comparisons. Everything runs in float64 on the counts 0 … 15, unless
said otherwise; p = e^{-t} is the chance that a unit survives.

References:
    | Blackout Diffusion: Generative Diffusion Models in Discrete-State Spaces (Santos et al.,
      2023)
"""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch

import discdiff as dd
from discdiff import estimates, laws
from discdiff.likelihood import prior_kl, quadrature
from discdiff.loss import kl_rate, sum_over_terms

F64 = torch.float64
LAST = 15
UNITS = torch.arange(LAST + 1, dtype=F64)
DATA = np.random.default_rng(0).dirichlet(np.ones(LAST + 1))  # a law of counts, all possible


@pytest.fixture(autouse=True)
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


# -- derivations that know nothing of the library ------------------------------------------------


def chain(rate, step, size):
    """The rate matrix [from, to] of jumps n → n + step at rate(n) on 0 … size − 1."""
    Q = np.zeros((size, size))
    for n in range(size):
        if 0 <= n + step < size:
            Q[n, n + step] += rate(n)
    return Q - np.diag(Q.sum(1))


def deaths(size=LAST + 1):
    return chain(lambda n: n, -1, size)


def expm(Q, t, terms=30):
    """e^{tQ} by sums and products of positive numbers, so that small entries are accurate too."""
    lift = -Q.diagonal().min()
    halvings = max(0, math.ceil(math.log2(max(lift * t, 1e-300))))
    A = (Q + lift * np.eye(len(Q))) * t / 2**halvings
    P = sum(np.linalg.matrix_power(A, k) / math.factorial(k) for k in range(terms))
    P = P * math.exp(-lift * t / 2**halvings)
    for _ in range(halvings):
        P = P @ P
    return P


def binomial(n, p):
    """The law of the survivors of n units, on 0 … 15."""
    return scipy.stats.binom.pmf(np.arange(LAST + 1), n, p)


def posterior(prior, P):
    """P(x_0 | x_t) as a matrix [x_t, x_0], from the transition matrix to t."""
    joint = prior[:, None] * P
    return (joint / joint.sum(0)).T


def bayes(early, late, whole):
    """The bridge [x_0, x_t, x_s] = p(x_s | x_0) p(x_t | x_s) / p(x_t | x_0), 0 where undefined."""
    joint = early[:, None, :] * late.T[None]
    possible = whole > 0
    return np.where(possible[..., None], joint / np.where(possible, whole, 1)[..., None], 0)


def total_variation(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).sum() / 2)


# -- readings of the library ---------------------------------------------------------------------


def states(*sizes):
    """All combinations of 0 … size − 1, one tensor per size."""
    every = np.array(list(itertools.product(*(range(size) for size in sizes))), dtype=float)
    return torch.from_numpy(every).unbind(-1)


def matrix(law, rows=LAST + 1, columns=LAST + 1):
    """The probabilities [x, y] of ``law(x)``, a law for a batch of states."""
    x, y = states(rows, columns)
    return law(x).log_prob(y).exp().reshape(rows, columns).numpy()


def at(t, x):
    return torch.full(x.shape[:1], float(t), dtype=F64)


def exact_head(process, prior=DATA):
    return dd.Exact(process, torch.arange(len(prior), dtype=F64), torch.from_numpy(prior))


def reverse_matrix(process, head, t, size=LAST + 1, closed=True):
    """The reverse rates [from, to] of `dd.reverse`; out of a closed space all are zero."""
    points, rates = dd.reverse(process, head).rates(torch.arange(size, dtype=F64), t)
    R = np.zeros((size, size))
    for x, y, rate in zip(range(size), points.tolist(), rates.tolist(), strict=True):
        for target, value in zip(y, rate, strict=True):
            if 0 <= target < size:
                R[x, int(target)] += value
            else:
                assert not (closed and value)
    return R


def conserve(R):
    """A rate matrix with the diagonal that makes its rows sum to zero."""
    return R - np.diag(R.sum(1))


def close(ours, theirs, rtol=0.0, atol=0.0):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, equal_nan=False)


def fails(check, *arguments):
    """The control: the same comparison must not hold."""
    with pytest.raises(AssertionError):
        check(*arguments)


class Rated(dd.Jump):
    """Deaths at a declared rate, as a user writes them."""

    def __init__(self, rate):
        super().__init__()
        self.law = rate

    def out(self, x):
        return (x - 1)[..., None], self.law(x)[..., None]

    def into(self, x):
        return (x + 1)[..., None], self.law(x + 1)[..., None]


# -- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1e-3, 0.01, 0.1, 1.0, 5.0])
def test_the_marginal_is_the_exponential_of_the_rates_and_binomial(t):
    """Identity 1."""

    def check(process):
        law = matrix(lambda x: process.marginal(x, t))
        close(law, scipy.linalg.expm(t * deaths()), atol=1e-12)
        close(law, [binomial(n, math.exp(-t)) for n in range(LAST + 1)], atol=1e-12)

    check(dd.Death())
    check(Rated(lambda n: n))
    fails(check, 1.01 * dd.Death())
    fails(check, dd.Birth())
    fails(check, dd.Death() + dd.Immigration(1e-6))


@pytest.mark.parametrize(("s", "t"), [(0.2, 0.9), (0.0, 0.9), (0.9, 0.9), (0.3, torch.inf)])
def test_thinning_is_a_semigroup(s, t):
    """Identity 2."""

    def check(first, second):
        early = matrix(lambda x: first.transition(x, 0.0, s))
        late = matrix(lambda x: second.transition(x, s, t))
        close(early @ late, [binomial(n, math.exp(-t)) for n in range(LAST + 1)], atol=1e-12)
        if t < torch.inf:
            close(late, scipy.linalg.expm((t - s) * deaths()), atol=1e-12)

    check(dd.Death(), dd.Death())
    if 0 < s < t < torch.inf:
        fails(check, dd.Death(), 1.01 * dd.Death())


def bridge_tensor(process, s, t, size=LAST + 1):
    """The library's bridges [x_0, x_t, x_s]; rows with x_t > x_0 are 0."""
    x_0, x_t, x_s = states(size, size, size)
    possible = x_t <= x_0
    law = process.bridge(torch.where(possible, x_0, x_t), x_t, s, t)
    probs = torch.where(possible, law.log_prob(x_s).exp(), 0.0)
    return probs.reshape(size, size, size).numpy()


@pytest.mark.parametrize(("s", "t"), [(0.3, 1.1), (0.0, 1.1), (1e-6, 15.0), (0.5, torch.inf)])
def test_the_bridge_is_a_binomial_of_the_missing_units(s, t):
    """Identity 3."""
    p_s, p_t = math.exp(-s), math.exp(-t)
    r = (p_s - p_t) / (1 - p_t)

    def check(process):
        law = bridge_tensor(process, s, t)
        for x_0, x_t in itertools.product(range(LAST + 1), repeat=2):
            if x_t <= x_0:
                births = scipy.stats.binom.pmf(np.arange(LAST + 1) - x_t, x_0 - x_t, r)
                close(law[x_0, x_t], births, atol=1e-12)
        if t < torch.inf:
            Q = deaths()
            close(law, bayes(expm(Q, s), expm(Q, t - s), expm(Q, t)), atol=1e-12)

    check(dd.Death())
    if 0 < s < t < torch.inf:
        fails(check, 1.01 * dd.Death())


def test_bridges_compose():
    """Identity 4."""
    u, s, t = 0.1, 0.6, 1.7

    def check(first, second):
        to_s, to_u = bridge_tensor(first, s, t), bridge_tensor(second, u, s)
        whole = bridge_tensor(dd.Death(), u, t)
        close(np.einsum("ots,osu->otu", to_s, to_u), whole, atol=1e-12)

    check(dd.Death(), dd.Death())
    fails(check, dd.Death(), 1.01 * dd.Death())


# -- reversal ------------------------------------------------------------------------------------


def test_the_rate_given_the_data_is_that_of_the_missing_units():
    """Identity 5."""
    t, Q = 0.8, deaths()
    p, P = math.exp(-t), expm(deaths(), t)

    def check(process):
        for x_0 in range(1, LAST + 1):
            x_t = torch.arange(x_0, dtype=F64)
            head = dd.Exact(process, torch.tensor([float(x_0)]))
            points, rates = dd.reverse(process, head).rates(x_t, t)
            close(points[:, 0], x_t + 1)
            m = np.arange(x_0)
            close(rates[:, 0], Q[m + 1, m] * P[x_0, m + 1] / P[x_0, m], rtol=1e-10)
            close(rates[:, 0], (x_0 - m) * p / (1 - p), rtol=1e-10)
            ratio = process.score(x_t, torch.full_like(x_t, x_0), t).log_ratio(points)
            close(ratio[:, 0].exp(), P[x_0, m + 1] / P[x_0, m], rtol=1e-10)

    check(dd.Death())
    check(Rated(lambda n: n))
    fails(check, 1.01 * dd.Death())


def test_the_rate_is_that_of_the_mean_missing_units():
    """Identity 6, the discrete Tweedie formula."""
    t = 0.8
    p, P = math.exp(-t), expm(deaths(), t)
    marginal, guess = DATA @ P, posterior(DATA, P) @ np.arange(LAST + 1)
    m = np.arange(LAST)
    ratio = (m + 1) * marginal[m + 1] / marginal[m]

    def check(process, head):
        R = reverse_matrix(process, head, t)
        close(R[m, m + 1], ratio, rtol=1e-9)
        close(R[m, m + 1], (guess[m] - m) * p / (1 - p), rtol=1e-9)
        assert R[LAST].sum() == 0

    death = dd.Death()
    exact = exact_head(death)
    check(death, exact)
    for kind in (dd.heads.Missing, dd.heads.Ratio, dd.heads.Posterior):
        check(death, exact.as_(kind))
    close(ratio * (1 - p) / p, guess[m] - m, rtol=1e-9)
    fails(check, death, exact_head(death, DATA[::-1].copy()))
    fails(check, death, exact_head(1.01 * death))
    with pytest.raises(dd.Unsolved, match="cancels"):
        dd.reverse(death, dd.heads.Mean(lambda x, t: x)).rates(UNITS, t)


def test_the_reversal_keeps_the_marginal_and_turns_every_edge_round():
    """Identity 7."""
    t, Q = 0.8, deaths()
    P_t = DATA @ expm(Q, t)

    def check(process, head):
        R = reverse_matrix(process, head, t)
        close((Q + conserve(R)).T @ P_t, np.zeros(LAST + 1), atol=1e-12)
        flux = P_t[:, None] * (Q - np.diag(Q.diagonal()))
        close(P_t[:, None] * R, flux.T, atol=1e-12)
        assert np.all((R > 0) == ((Q > 0).T))

    check(dd.Death(), exact_head(dd.Death()))
    check(Rated(lambda n: n), exact_head(Rated(lambda n: n)))
    fails(check, 1.01 * dd.Death(), exact_head(1.01 * dd.Death()))
    fails(check, dd.Death(), exact_head(dd.Death(), DATA[::-1].copy()))


def test_the_reverse_of_the_reverse_is_the_process():
    """Identity 8: the reversal's own rates as a rate matrix, reversed at the same marginal."""
    t, Q = 0.8, deaths()
    P_t = DATA @ expm(Q, t)
    head = exact_head(dd.Death())

    def check(log_marginal):
        back = dd.RateMatrix(conserve(reverse_matrix(dd.Death(), head, t)))
        table = torch.from_numpy(log_marginal)
        ratio = dd.heads.Ratio(lambda x, t: table - table[x].unsqueeze(-1))
        points, rates = dd.reverse(back, ratio).rates(torch.arange(LAST + 1), t)
        close(points, np.tile(np.arange(LAST + 1), (LAST + 1, 1)))
        close(rates, Q - np.diag(Q.diagonal()), atol=1e-10)

    check(np.log(P_t))
    fails(check, -np.log(P_t))
    fails(check, np.log(DATA))


def kernel(process, head, s, t, rows=LAST + 1, columns=LAST + 1):
    """The library's reverse kernel [x_t, x_s] for an exact head."""
    return matrix(lambda x: process.bridge(head(x, at(t, x)), x, s, t), rows, columns)


@pytest.mark.parametrize(("s", "t"), [(0.3, 1.1), (0.0, 1.1), (1e-6, 12.0)])
def test_the_exact_kernel_is_bayes_rule(s, t):
    """Identity 9."""
    Q = deaths()
    to_s, to_t, late = expm(Q, s), expm(Q, t), expm(Q, t - s)
    P_s, P_t = DATA @ to_s, DATA @ to_t
    rule = (P_s[:, None] * late / P_t).T
    mixed = np.einsum("xo,oxs->xs", posterior(DATA, to_t), bayes(to_s, late, to_t))

    def check(process, head):
        K = kernel(process, head, s, t)
        close(K, rule, atol=1e-12)
        close(K, mixed, atol=1e-12)
        close(P_t @ K, P_s, atol=1e-12)
        close(K.sum(1), np.ones(LAST + 1), atol=1e-12)

    death = dd.Death()
    check(death, exact_head(death))
    check(death, exact_head(death).as_(dd.heads.Posterior))
    fails(check, death, exact_head(death, DATA[::-1].copy()))
    fails(check, death, exact_head(death).as_(dd.heads.Missing))  # its mean is not its law
    if s > 0:
        fails(check, 1.01 * death, exact_head(1.01 * death))


def test_the_kernel_of_a_short_step_is_one_plus_the_rates():
    """Identity 10."""
    t, death = 0.8, dd.Death()
    head = exact_head(death)
    R = conserve(reverse_matrix(death, head, t))

    def ratios(generator):
        steps = (0.02, 0.01, 0.005)
        errors = [
            np.abs((kernel(death, head, t - h, t) - np.eye(LAST + 1)) / h - generator).max()
            for h in steps
        ]
        return np.array(errors[:-1]) / np.array(errors[1:])

    assert np.all((ratios(R) > 1.8) & (ratios(R) < 2.2))
    assert np.all(ratios(1.01 * R) < 1.8)


def run(kernels, start=None):
    """The law after a list of kernels, from 0 unless a law is given."""
    law = np.eye(len(kernels[0]))[0] if start is None else start
    for K in kernels:
        possible = law > 0
        law = law[possible] @ K[possible]
    return law


def test_the_exact_chain_ends_in_the_data():
    """Identity 11: 26 logit steps from p = 0."""
    process = dd.Death().on(dd.clock.Logistic(15.0))
    grid = dd.grids.UniformTime(26).times(process.clock).tolist()
    assert float(process.clock.survival(torch.tensor(grid[0]))) == 0

    def check(process, head, start=None):
        law = run([kernel(process, head, s, t) for t, s in itertools.pairwise(grid)], start)
        close(law, DATA, atol=1e-10)

    check(process, exact_head(process))
    fails(check, process, exact_head(process, DATA[::-1].copy()))
    fails(check, process, exact_head(dd.Death().on(dd.clock.Cosine())))
    short = dd.Death().on(dd.clock.Constant(5.0))  # its law at 1 is not quite that of 0
    check(short, exact_head(short), DATA @ expm(deaths(), 5.0))
    fails(check, short, exact_head(short))


def test_draws_of_the_exact_chain_are_data():
    """Identity 11, drawn: a chi-square test fails by chance at a rate of 1e-4."""
    process = dd.Death().on(dd.clock.Logistic(15.0))
    draws = dd.sample(process, exact_head(process), (8_000,), steps=26)
    counts = np.bincount(draws.long().numpy(), minlength=LAST + 1)

    def check(law):
        assert scipy.stats.chisquare(counts, law * counts.sum()).pvalue > 1e-4

    check(DATA)
    fails(check, DATA[::-1])


# -- likelihood ----------------------------------------------------------------------------------


def trapezoidal(nodes=400, half_width=45.0):
    """Own times and weights: the trapezoidal rule in z = log(e^t − 1), where dt = (1 − p) dz."""
    z = torch.linspace(-half_width, half_width, nodes)
    t = torch.nn.functional.softplus(z, threshold=50)
    return t, -torch.expm1(-t) * (2 * half_width / (nodes - 1))


def integrated_loss(process, head, rule, survival=lambda t: (-t).exp()):
    """∫ E[loss] dt for each x_0, the expectation by enumeration."""
    x_0, x_t = states(LAST + 1, LAST + 1)
    x_0, x_t = (v[x_t <= x_0] for v in (x_0, x_t))
    times, weights = (v.repeat_interleave(len(x_0)) for v in rule)
    ends, now = x_0.repeat(len(rule[0])), x_t.repeat(len(rule[0]))
    rate = weights * dd.loss(process, head, ends, times, x_t=now)
    pmf = scipy.stats.binom.pmf(now.numpy(), ends.numpy(), survival(times).numpy())
    total = np.zeros(LAST + 1)
    np.add.at(total, ends.long().numpy(), np.where(pmf > 0, pmf * rate.numpy(), 0))
    return total


def test_the_integral_of_the_loss_is_the_likelihood():
    """Identity 12: for every x_0; the mean over the data is their entropy."""
    death = dd.Death()

    def check(head):
        nats = integrated_loss(death, head, trapezoidal())
        close(nats, -np.log(DATA), atol=1e-5)
        close(DATA @ nats, scipy.stats.entropy(DATA), atol=1e-5)

    check(exact_head(death))
    check(exact_head(death).as_(dd.heads.Missing))
    wrong = DATA[::-1].copy()
    fails(check, exact_head(death, wrong))
    # With another model's head the integral is that model's likelihood.
    own = integrated_loss(death, exact_head(death, wrong), trapezoidal())
    close(own, -np.log(wrong), atol=1e-5)
    poor = dd.heads.Missing(lambda x, t: torch.ones_like(x))
    assert DATA @ integrated_loss(death, poor, trapezoidal()) > scipy.stats.entropy(DATA)


@pytest.mark.parametrize("clock", [dd.clock.Logistic(15.0), dd.clock.LogLinear()], ids=repr)
def test_the_rule_of_path_kl_needs_121_nodes(clock):
    """Identity 12 with the library's own nodes on a clock."""
    process = dd.Death().on(clock)
    head = exact_head(process)

    def error(nodes):
        ((part, rule),) = quadrature(process, 0.0, nodes)
        return np.abs(integrated_loss(process, head, rule, clock.survival) + np.log(DATA)).max()

    assert error(121) < 1e-7
    assert error(16) > 1e-3


def centred(nats):
    """The mean over the data is their entropy: |z| < 4.5, a rate of 7e-6 to fail by chance."""
    nats = nats.reshape(LAST + 1, -1).numpy()
    scatter = math.sqrt((DATA**2 * nats.var(1)).sum() / nats.shape[1])
    assert abs(DATA @ nats.mean(1) - scipy.stats.entropy(DATA)) < 4.5 * scatter


def test_path_kl_draws_the_likelihood_and_refuses_wrong_priors():
    """Identity 12, drawn: by importance-sampled times, and by the rule of 121 nodes."""
    process = dd.Death().on(dd.clock.Logistic(15.0))
    head = exact_head(process)
    x_0 = UNITS.repeat_interleave(2000)

    def check(**options):
        centred(dd.path_kl(process, head, x_0, **options))
        centred(-dd.elbo(process, head, x_0, **options))

    check()
    poisson = torch.distributions.Poisson(torch.full(x_0.shape, 0.5))
    fails(lambda: check(prior=poisson))
    centred(dd.path_kl(process, head, UNITS.repeat_interleave(100), nodes=121))
    assert bool((prior_kl(process, x_0) == 0).all())
    short = dd.Death().on(dd.clock.Constant(3.0))  # x_1 may be 1, the prior says 0
    limit = short.limit((LAST,))
    assert bool(dd.path_kl(short, exact_head(short), UNITS[1:], prior=limit).isinf().all())


def test_the_divergences_of_exact_steps_sum_to_the_likelihood():
    """Identity 13: on any grid."""
    process = dd.Death().on(dd.clock.Logistic(15.0))

    def nats(head, times):
        ends = [*times, 1.0]
        total = prior_kl(process, UNITS).numpy()
        for s, t in itertools.pairwise([0.0, *ends]):
            x_0, x_t = states(LAST + 1, LAST + 1)
            possible = x_t <= x_0
            if t == 1.0:
                possible = x_t == 0
            x_0, x_t = x_0[possible], x_t[possible]
            model = process.bridge(head(x_t, at(t, x_t)), x_t, s, t)
            step = laws.kl(process.bridge(x_0, x_t, s, t), model)
            weight = process.marginal(x_0, t).log_prob(x_t).exp()
            np.add.at(total, x_0.long().numpy(), (weight * step).numpy())
        return total

    def check(head, times):
        close(nats(head, times), -np.log(DATA), atol=1e-9)

    exact = exact_head(process)
    rng = np.random.default_rng(1)
    for times in ([], [0.5], np.sort(rng.uniform(0.2, 0.8, 5)), [1e-3, 0.99]):
        check(exact, times)
        check(exact.as_(dd.heads.Posterior), times)
    fails(check, exact_head(process, DATA[::-1].copy()), [0.5])
    fails(check, exact.as_(dd.heads.Missing), [0.5])
    assert DATA @ nats(exact_head(process, DATA[::-1].copy()), [0.5]) > scipy.stats.entropy(DATA)


def test_vlb_is_the_sum_of_the_steps():
    """Identity 13 by `dd.vlb`: exact for one step, else drawn."""
    process, times = dd.Death().on(dd.clock.Logistic(15.0)), [0.3, 0.5, 1.0]
    head, x_0 = exact_head(process), UNITS.repeat_interleave(500)
    close(dd.vlb(process, head, UNITS, [1.0]).nats, -np.log(DATA), atol=1e-9)
    terms = dd.vlb(process, head, x_0, times)
    assert bool((terms.prior == 0).all())
    centred(terms.nats)
    few = []
    for stepper in (dd.steppers.Ancestral(), dd.steppers.Churn(0.0)):  # the same law, twice
        torch.manual_seed(1)
        few.append(dd.vlb(process, head, UNITS.repeat(9), times, stepper).nats)
    close(*few, atol=1e-9)

    # Two pixels: the steps are joint laws, and their divergence is that of a draw.
    both = torch.stack([x_0, x_0.flip(0)], -1)
    atoms = torch.stack([UNITS, UNITS.flip(0)], -1)
    centred(dd.vlb(process, dd.Exact(process, atoms, torch.from_numpy(DATA)), both, times).nats)


def test_only_poisson_steps_bound_the_likelihood_from_a_mean():
    """Binomial steps cannot bring more units than the rounded mean: their bound is infinite."""
    process, times = dd.Death().on(dd.clock.Logistic(15.0)), [0.3, 0.5, 1.0]
    head = exact_head(process).as_(dd.heads.Missing)
    x_0 = UNITS.repeat_interleave(500)
    nats = dd.vlb(process, head, x_0, times, dd.steppers.TauLeaping()).nats
    nats = DATA @ nats.reshape(LAST + 1, -1).mean(1).numpy()
    assert scipy.stats.entropy(DATA) < nats < math.inf
    assert bool(dd.vlb(process, head, x_0, times).nats.isinf().any())
    with pytest.raises(dd.Unsolved, match="maximum"):
        dd.vlb(process, head, x_0, times, dd.steppers.TauLeaping(maximum=15.0))
    table, pair = dd.Product(a=process, b=process), {"a": UNITS, "b": UNITS}
    with pytest.raises(dd.Unsolved, match="one sum of terms"):
        dd.vlb(table, dd.Exact(table, pair), pair, [1.0], dd.steppers.Churn())


# -- losses --------------------------------------------------------------------------------------


def test_the_poisson_step_and_the_rate_have_one_loss():
    """Identity 14: both are a factor times y − D log y and a constant, least at the mean."""
    s, t, death = 0.4, 0.9, dd.Death()
    p_s, p_t = math.exp(-s), math.exp(-t)
    r = (p_s - p_t) / (1 - p_t)
    x_0, x_t = states(LAST + 1, LAST + 1)
    x_0, x_t = (v[x_t <= x_0] for v in (x_0, x_t))
    missing = x_0 - x_t

    def guess(y):
        value = (torch.as_tensor(y) / (1 - p_t)).log().expand(x_t.shape)
        return estimates.Missing(value)

    def core(y):
        return y - missing * math.log(y)

    def step_loss(y):
        """E −log Poisson(x_s − x_t; r y) over the bridge, by enumeration."""
        leap = dd.steppers.TauLeaping().law(death, guess(y), x_t, at(t, x_t), at(s, x_t))
        nats = torch.zeros_like(x_t)
        for births in range(LAST + 1):
            weight = torch.from_numpy(scipy.stats.binom.pmf(births, missing.numpy(), r))
            nats = nats - torch.where(weight > 0, weight * leap.log_prob(x_t + births), 0.0)
        return nats

    def rate_loss(y, rule=kl_rate):
        (leaf,) = death.leaves(at(t, x_t))
        return rule(leaf, estimates.Data(x_0), guess(y), x_t)

    def check(loss, factor):
        for y, other in ((0.7, 3.0), (2.5, 0.1)):
            close(loss(y) - loss(other), factor * (core(y) - core(other)), rtol=1e-10, atol=1e-10)

    check(step_loss, r)
    check(rate_loss, p_t / (1 - p_t))
    check(lambda y: rate_loss(y, sum_over_terms), p_t / (1 - p_t))
    close(rate_loss(0.7), rate_loss(0.7, sum_over_terms), rtol=1e-10, atol=1e-12)
    fails(check, step_loss, 1.01 * r)
    fails(check, rate_loss, r)


def test_the_loss_is_least_at_the_exact_head():
    """Identity 14: the gradient at y = E[D | x_t] is zero for every x_t, by autograd."""
    t, death = 0.9, dd.Death()
    p = math.exp(-t)
    weight = posterior(DATA, expm(deaths(), t))
    mean = torch.from_numpy(weight @ np.arange(LAST + 1)) - UNITS
    x_t, x_0 = states(LAST, LAST + 1)
    possible = x_0 >= x_t
    x_t, x_0 = x_t[possible], x_0[possible]
    chance = torch.from_numpy(weight[:LAST])[x_t.long(), x_0.long()]

    def gradient(factor):
        y = (factor * mean / (1 - p)).clamp(min=1e-9)
        raw = torch.log(torch.expm1(y)).requires_grad_()  # softplus of it is y
        head = dd.heads.Missing(lambda x, t: raw[x.long()])
        nats = (chance * dd.loss(death, head, x_0, t, x_t=x_t)).sum()
        return torch.autograd.grad(nats, raw)[0][:LAST]

    close(gradient(1.0), np.zeros(LAST), atol=1e-10)
    assert bool((gradient(1.01) > 1e-4).all())
    assert bool((gradient(0.99) < -1e-4).all())


def test_the_published_weights():
    """The rate's p / (1 − p), the published code's 1 − p times it, and none."""
    process, t = dd.Death().on(dd.clock.Logistic(15.0)), 0.4
    head = dd.heads.Missing(lambda x, t: torch.ones_like(x))
    x_0, x_t = UNITS + 3, UNITS
    time = torch.tensor(t)
    p = process.clock.survival(time)
    speed = process.clock.rate(time)
    y = (1 - p) * math.log1p(math.e)
    nats = torch.xlogy(torch.tensor(3.0), 3 / y) - 3 + y
    every = {
        dd.weights.NLL(): p / (1 - p) * speed,
        dd.weights.Blackout(): p * speed,
        dd.weights.Simple(): 1.0,
    }
    for weight, factor in every.items():
        loss = dd.loss(process, head, x_0, t, x_t=x_t, weight=weight)
        close(loss, np.full(LAST + 1, float(factor * nats)), rtol=1e-12)


# -- finite steps --------------------------------------------------------------------------------


def moments(K):
    """Mean and variance of the increments of a kernel [x_t, x_s]."""
    gain = np.arange(K.shape[1]) - np.arange(K.shape[0])[:, None]
    mean = (K * gain).sum(1)
    return mean, (K * gain**2).sum(1) - mean**2


def test_the_moments_of_increments():
    """Identity 15: r E[D] and r (1 − r) E[D] + r² Var D; rounding keeps the mean."""
    s, t, death = 0.3, 1.1, dd.Death()
    p_s, p_t = math.exp(-s), math.exp(-t)
    r = (p_s - p_t) / (1 - p_t)
    weight = posterior(DATA, expm(deaths(), t))
    gap = np.arange(LAST + 1) - np.arange(LAST + 1)[:, None]
    mean = (weight * gap).sum(1)
    variance = (weight * gap**2).sum(1) - mean**2
    head = exact_head(death)

    def check(r, spread):
        ours = moments(kernel(death, head, s, t))
        close(ours[0], r * mean, atol=1e-10)
        close(ours[1], r * (1 - r) * mean + r**2 * spread, atol=1e-10)

    check(r, variance)
    fails(check, 1.01 * r, variance)
    fails(check, r, np.zeros_like(variance))

    part = mean - np.floor(mean)
    rounded = death.bridge(head.as_(dd.heads.Missing)(UNITS, at(t, UNITS)), UNITS, s, t)
    K = matrix(lambda x: death.bridge(head.as_(dd.heads.Missing)(x, at(t, x)), x, s, t))
    for ours in (moments(K), ((rounded.mean - UNITS).numpy(), rounded.variance.numpy())):
        close(ours[0], r * mean, atol=1e-10)
        close(ours[1], r * (1 - r) * mean + r**2 * part * (1 - part), atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("s", "t"), [(0.3, 1.1), (1.5, 2.0), (0.0, 0.7), (0.6, torch.inf)])
def test_attrition_keeps_the_marginals(eta, s, t):
    """Identity 16: living units die, more missing ones return (`steppers.Churn`)."""
    p_s, p_t = math.exp(-s), math.exp(-t)
    sigma = eta * min(1.0, (1 - p_s) / p_t if p_t else 1.0)
    beta = (p_s - (1 - sigma) * p_t) / (1 - p_t)
    death, size = dd.Death(), LAST + 1
    x_0, x_t, x_s = states(size, size, size)
    possible = (x_t <= x_0) & (x_t < 1 if t == torch.inf else x_t < size)

    def table(step, process=death):
        law = step.law(
            process, estimates.Data(torch.maximum(x_0, x_t)), x_t, at(t, x_t), at(s, x_t)
        )
        probs = torch.where(possible, law.log_prob(x_s).exp(), 0.0)
        return probs.reshape(size, size, size).numpy()

    def check(churned):
        seen = np.array([binomial(n, p_t) for n in range(size)])
        goal = [binomial(n, p_s) for n in range(size)]
        close(np.einsum("ot,ots->os", seen, churned), goal, atol=1e-12)

    ours = table(dd.steppers.Churn(eta))
    check(ours)
    for n, m in itertools.product(range(size), repeat=2):
        if m <= n and (t < torch.inf or m == 0):
            stay, come = binomial(m, 1 - sigma), binomial(n - m, beta)
            close(ours[n, m], np.convolve(stay, come)[:size], atol=1e-12)
    if s > 0:
        fails(check, table(dd.steppers.Churn(eta), 1.01 * death))


def test_churned_chains_of_an_exact_head_end_in_the_data():
    """Identity 16, run: the exact mixture of churned steps keeps every marginal."""
    process = dd.Death().on(dd.clock.Logistic(15.0))
    grid = dd.grids.UniformTime(6).times(process.clock).tolist()

    def end(step, head):
        def kernel_of(s, t):
            return matrix(lambda x: step.law(process, head(x, at(t, x)), x, at(t, x), at(s, x)))

        return run([kernel_of(s, t) for t, s in itertools.pairwise(grid)])

    head = exact_head(process)
    for eta in (0.0, 0.5, 1.0):
        close(end(dd.steppers.Churn(eta), head), DATA, atol=1e-10)
        close(end(dd.steppers.Churn(eta), head.as_(dd.heads.Posterior)), DATA, atol=1e-10)
    assert total_variation(end(dd.steppers.Churn(0.5), head.as_(dd.heads.Missing)), DATA) > 1e-3


# -- other processes -----------------------------------------------------------------------------


def test_immigration_and_death():
    """Identity 17: the marginal, and both reverse rates; the space is cut off at 80 units."""
    mu, t, size, shown = 2.0, 0.7, 81, 24
    p = math.exp(-t)
    Q = deaths(size) + chain(lambda n: mu, 1, size)
    prior = np.random.default_rng(2).dirichlet(np.ones(7))
    P = expm(Q, t)
    P_t = prior @ P[:7]
    m = np.arange(shown)

    # By the law of survivors A and arrivals B, all pairs.
    A, B = np.arange(7)[:, None], np.arange(size)
    pair = sum(w * scipy.stats.binom.pmf(A, n, p) for n, w in enumerate(prior))
    lost = sum(w * (n - A) * scipy.stats.binom.pmf(A, n, p) for n, w in enumerate(prior))
    come = scipy.stats.poisson.pmf(B, mu * (1 - p))

    def mean(first, second):
        """Σ_{A + B = m} first(A) second(B)."""
        return np.convolve(first[:, 0], second)[:shown]

    density = mean(pair, come)
    up = mean(lost, come) / density * p / (1 - p) + mu * (1 - p)
    down = mean(pair, come * B) / density / (1 - p)

    def check(process, head):
        law = matrix(lambda x: process.marginal(x, t), 7, shown)
        close(law, P[:7, :shown], atol=1e-10)
        for n in range(7):
            arrived = scipy.stats.poisson.pmf(m, mu * (1 - p))
            kept = scipy.stats.binom.pmf(np.arange(shown), n, p)
            close(law[n], np.convolve(kept, arrived)[:shown], atol=1e-10)
        R = reverse_matrix(process, head, t, shown + 1, closed=False)
        close(R[m, m + 1], up, rtol=1e-10)
        close(R[m, m + 1], (m + 1) * P_t[m + 1] / P_t[m], rtol=1e-10)
        close(R[m[1:], m[1:] - 1], down[1:], rtol=1e-10)
        close(R[m[1:], m[1:] - 1], mu * P_t[m[1:] - 1] / P_t[m[1:]], rtol=1e-10)

    def heads(process, prior=prior):
        exact = exact_head(process, prior)
        kinds = (dd.heads.Turnover, dd.heads.Ratio, dd.heads.Posterior)
        return [exact, *(exact.as_(kind) for kind in kinds)]

    process = dd.Death() + dd.Immigration(mu)
    for head in heads(process):
        check(process, head)
    fails(check, 1.01 * process, heads(1.01 * process)[0])
    fails(check, dd.Death() + dd.Immigration(1.01 * mu), heads(process)[0])
    fails(check, process, heads(process, prior[::-1].copy())[0])
    close(process.limit((1,)).mean, [mu])


def test_immigration_and_death_bridges():
    """Identity 17: bridges and exact kernels by Bayes' rule, and a chi-square test of draws."""
    mu, s, t, size, shown = 2.0, 0.4, 1.0, 60, 18
    Q = deaths(size) + chain(lambda n: mu, 1, size)
    early, late, whole = expm(Q, s), expm(Q, t - s), expm(Q, t)
    prior = np.random.default_rng(2).dirichlet(np.ones(7))
    process = dd.Death() + dd.Immigration(mu)
    rule = bayes(early[:7], late, whole[:7])[:, :shown, :shown]

    x_0, x_t, x_s = states(7, shown, shown)
    ours = process.bridge(x_0, x_t, s, t).log_prob(x_s).exp()
    close(ours.reshape(7, shown, shown), rule, atol=1e-10)

    mixed = np.einsum("xo,oxs->xs", posterior(prior, whole[:7])[:shown], rule)
    exact = exact_head(process, prior)
    close(kernel(process, exact, s, t, shown, shown), mixed, atol=1e-10)
    soft = exact.as_(dd.heads.Posterior)
    close(kernel(process, soft, s, t, shown, shown), mixed, atol=1e-10)
    wrong = exact_head(process, prior[::-1].copy())
    fails(lambda: close(kernel(process, wrong, s, t, shown, shown), mixed, atol=1e-10))

    x_0, x_t = torch.full((40_000,), 4.0), torch.full((40_000,), 3.0)
    for law, truth in (
        (process.bridge(x_0, x_t, s, t), rule[4, 3]),
        (process.bridge(soft(x_t, at(t, x_t)), x_t, s, t), mixed[3]),
    ):
        counts = np.bincount(law.sample().long().numpy(), minlength=10)[:10]
        counts[-1] += 40_000 - counts.sum()
        goal = 40_000 * np.append(truth[:9], 1 - truth[:9].sum())
        assert scipy.stats.chisquare(counts, goal).pvalue > 1e-4  # fails by chance at 1e-4


@pytest.mark.parametrize("t", [1e-3, 0.4, 6.0])
def test_bounded_counts(t):
    """Identity 18: units that go up and down (Ehrenfest); the reversal by Bayes' rule."""
    N, a, b = LAST, 0.7, 1.6
    Q = chain(lambda n: a * (N - n), 1, N + 1) + chain(lambda n: b * n, -1, N + 1)
    theta, e = a / (a + b), math.exp(-(a + b) * t)
    stay, rise = theta + (1 - theta) * e, theta * (1 - e)

    def check(process):
        law = matrix(lambda x: process.marginal(x, t))
        close(law, scipy.linalg.expm(t * Q), atol=1e-12)
        for n in range(N + 1):
            two = np.convolve(binomial(n, stay), binomial(N - n, rise))[: N + 1]
            close(law[n], two, atol=1e-12)

    check(dd.Ehrenfest(N, up=a, down=b))
    fails(check, dd.Ehrenfest(N, up=1.01 * a, down=b))
    fails(check, dd.Ehrenfest(N, up=b, down=a))
    process = dd.Ehrenfest(N, up=a, down=b)
    limit = process.limit((N + 1,)).log_prob(UNITS).exp()
    close(limit, binomial(N, theta), atol=1e-12)
    P_t = DATA @ expm(Q, t)
    R = reverse_matrix(process, exact_head(process), t)
    flux = P_t[:, None] * (Q - np.diag(Q.diagonal()))
    close(P_t[:, None] * R, flux.T, atol=1e-12)


RATES = {
    "constant": lambda n: (n > 0) * 3.0,
    "squared": lambda n: n**2 / 4.0,
    "root": lambda n: n.clip(min=0) ** 0.5,
}


@pytest.mark.parametrize("name", RATES)
def test_arbitrary_death_rates(name):
    """Identity 19: as a user's `Jump` and as a `Reaction`, on the truncated engine."""
    rate, t = RATES[name], 0.6
    jump = Rated(rate)
    reaction = dd.Reaction(-1, lambda n: rate(n[..., 0]))
    Q = chain(lambda n: float(rate(np.array(float(n)))), -1, LAST + 1)
    P_t = DATA @ expm(Q, t)
    m = np.arange(LAST)

    def check(process):
        assert type(process.engine).__name__ == "Truncated"
        head = exact_head(process)
        close(matrix(lambda x: process.marginal(x, t)), scipy.linalg.expm(t * Q), atol=1e-12)
        R = reverse_matrix(process, head, t)
        close((Q + conserve(R)).T @ P_t, np.zeros(LAST + 1), atol=1e-12)
        death = np.array([Q[n + 1, n] for n in m])
        close(R[m, m + 1], death * P_t[m + 1] / P_t[m], rtol=1e-10)

    check(jump)
    fails(check, 1.01 * jump)
    fails(check, Rated(lambda n: rate(n) + 0.01 * (n > 3)))

    x, y = (v[:, None] for v in states(LAST + 1, LAST + 1))
    law = reaction.marginal(x, t).log_prob(y).exp().reshape(LAST + 1, LAST + 1)
    close(law, scipy.linalg.expm(t * Q), atol=1e-12)
    assert type(reaction.engine).__name__ == "Truncated"


def test_a_clock_is_a_change_of_time():
    """Identity 20: β(t) = 0.3 + t; the law by an ODE solver, −p' by a finite difference."""
    t, h, Q = 0.8, 1e-5, deaths()
    p = lambda t: math.exp(-0.3 * t - t**2 / 2)
    solution = scipy.integrate.solve_ivp(
        lambda u, P: (0.3 + u) * (P @ Q), (0, t), DATA, rtol=1e-11, atol=1e-14
    )
    P_t = solution.y[:, -1]
    m = np.arange(LAST)
    guess = posterior(DATA, expm(Q, -math.log(p(t)))) @ np.arange(LAST + 1)

    def check(process):
        R = reverse_matrix(process, exact_head(process), t)
        close(R[m, m + 1], (0.3 + t) * (m + 1) * P_t[m + 1] / P_t[m], rtol=1e-6)
        speed = (p(t - h) - p(t + h)) / (2 * h) / (1 - p(t))
        close(R[m, m + 1], (guess[m] - m) * speed, rtol=1e-6)
        close(DATA @ matrix(lambda x: process.marginal(x, t)), P_t, rtol=1e-6)

    check(dd.Death().on(dd.clock.Linear(0.3, 1.3)))
    check(dd.Death().on(dd.clock.Function(lambda t: 0.3 * t + t**2 / 2)))
    fails(check, dd.Death().on(dd.clock.Linear(1.3, 0.3)))
    fails(check, (1.01 * dd.Death()).on(dd.clock.Linear(0.3, 1.3)))


def test_two_correlated_pixels():
    """Identity 21: each pixel's rate comes from the mean given both."""
    size, t = 5, 0.7
    prior = np.random.default_rng(3).dirichlet(np.full(size**2, 0.5))
    one = deaths(size)
    Q = np.kron(one, np.eye(size)) + np.kron(np.eye(size), one)
    P_t = prior @ expm(Q, t)
    every = torch.stack(states(size, size), -1)
    death, p = dd.Death(), math.exp(-t)

    def read(head):
        """Rates [pixel, from, to] on the joint space."""
        points, rates = dd.reverse(death, head).rates(every, t)
        R = np.zeros((2, size**2, size**2))
        for i, d in itertools.product(range(size**2), range(2)):
            target = every[i].clone()
            target[d] = points[i, d, 0]
            if target[d] < size:
                R[d, i, int(target[0] * size + target[1])] = rates[i, d, 0]
            else:
                assert rates[i, d, 0] == 0
        return R

    def check(head):
        R = read(head)
        close((Q + conserve(R.sum(0))).T @ P_t, np.zeros(size**2), atol=1e-10)
        flux = P_t[:, None] * (Q - np.diag(Q.diagonal()))
        close(P_t[:, None] * R.sum(0), flux.T, atol=1e-10)
        mean = posterior(prior, expm(Q, t)) @ every.numpy()
        missing = np.stack([R[d].sum(1) for d in range(2)], -1) * (1 - p) / p
        close(missing, mean - every.numpy(), atol=1e-10)

    exact = dd.Exact(death, every, torch.from_numpy(prior))
    check(exact)
    check(exact.as_(dd.heads.Missing))
    alone = np.outer(prior.reshape(size, size).sum(1), prior.reshape(size, size).sum(0))
    fails(check, dd.Exact(death, every, torch.from_numpy(alone.reshape(-1))))

    def joint(t):
        a, b = (v.long() for v in torch.cartesian_prod(*[torch.arange(size**2)] * 2).T)
        law = death.marginal(every[a], t).log_prob(every[b]).exp()
        return prior @ law.reshape(size**2, size**2).numpy()

    h = 1e-5
    slope = (joint(t + h) - joint(t - h)) / (2 * h)
    close(joint(t), P_t, atol=1e-12)
    close(slope, -conserve(read(exact).sum(0)).T @ P_t, atol=1e-6)


def test_a_network_of_two_species():
    """Identity 22: A ⇌ B and both die; particles move by themselves."""
    total, t = 7, 0.6
    there, back, dies_a, dies_b = 1.3, 0.4, 0.9, 0.2
    moves = [((-1, 1), there, 0), ((1, -1), back, 1), ((-1, 0), dies_a, 0), ((0, -1), dies_b, 1)]
    every = [(a, b) for a in range(total + 1) for b in range(total + 1 - a)]
    where = {n: i for i, n in enumerate(every)}
    Q = np.zeros((len(every), len(every)))
    for n, (change, rate, source) in itertools.product(every, moves):
        after = (n[0] + change[0], n[1] + change[1])
        if n[source] > 0:
            Q[where[n], where[after]] += rate * n[source]
    Q = Q - np.diag(Q.sum(1))

    def network(there):
        rates = [there, back, dies_a, dies_b]
        terms = [
            dd.Reaction(list(change), r) for (change, _, _), r in zip(moves, rates, strict=True)
        ]
        return terms[0] + terms[1] + terms[2] + terms[3]

    points = torch.tensor(every, dtype=F64)
    prior = np.random.default_rng(4).dirichlet(np.full(len(every), 0.5))
    P_t = prior @ expm(Q, t)

    one = np.array(
        [[-there - dies_a, there, dies_a], [back, -back - dies_b, dies_b], [0.0, 0.0, 0.0]]
    )
    single = scipy.linalg.expm(t * one)

    def scattered(n):
        """All ways in which the particles of both species end, by the one-particle chances."""
        law = np.zeros(len(every))
        ways = [[(i, j, k - i - j) for i in range(k + 1) for j in range(k + 1 - i)] for k in n]
        for first, second in itertools.product(*ways):
            chance = scipy.stats.multinomial.pmf(first, n[0], single[0])
            chance = chance * scipy.stats.multinomial.pmf(second, n[1], single[1])
            law[where[first[0] + second[0], first[1] + second[1]]] += chance
        return law

    def check(process):
        assert type(process.engine).__name__ == "Particles"
        a, b = torch.cartesian_prod(*[torch.arange(len(every))] * 2).T
        law = process.marginal(points[a], t).log_prob(points[b]).exp()
        law = law.reshape(len(every), -1)
        close(law, scipy.linalg.expm(t * Q), atol=1e-12)
        for n in ((3, 4), (5, 0), (0, 0)):
            close(law[where[n]], scattered(n), atol=1e-12)
        head = dd.Exact(process, points, torch.from_numpy(prior))
        targets, rates = dd.reverse(process, head).rates(points, t)
        R = np.zeros_like(Q)
        for i, m in itertools.product(range(len(every)), range(len(moves))):
            target = tuple(int(v) for v in targets[i, m])
            if target in where:
                R[i, where[target]] += float(rates[i, m])
            elif min(target) < 0:
                assert float(rates[i, m]) == 0
        close((Q + conserve(R)).T @ P_t, np.zeros(len(every)), atol=1e-12)
        flux = P_t[:, None] * (Q - np.diag(Q.diagonal()))
        close(P_t[:, None] * R, flux.T, atol=1e-12)

    check(network(there))
    fails(check, network(1.01 * there))


def test_the_observation_times_are_the_published_ones():
    """Identity 23: uniform in logit p; the published code finds p by bisection."""
    T, horizon = 1000, 15.0
    ours = dd.grids.UniformLogit(T, horizon).own_times()[:-1].flip(0).numpy()
    c = math.log(math.expm1(horizon))
    logit = c * (1 - 2 * np.arange(T) / (T - 1))
    p_end = math.exp(-horizon)

    def official(xtol):
        def root(z):
            ends = (p_end / 2, 1 - p_end / 2)
            return scipy.optimize.bisect(
                lambda p: math.log(p) - math.log1p(-p) - z, *ends, xtol=xtol
            )

        return -np.log([root(z) for z in logit])

    def check(times):
        close(times, official(2e-12), rtol=1e-5)
        close(np.exp(-times) + np.exp(-times[::-1]), np.ones(T), atol=1e-12)
        close(times, np.log1p(np.exp(-logit)), rtol=1e-12)

    check(ours)
    fails(check, 1.01 * ours)
    fails(check, dd.grids.UniformLogit(T, 1.01 * horizon).own_times()[:-1].flip(0).numpy())
    clock = dd.clock.Logistic(15.0)
    timed = dd.grids.UniformLogit(T, horizon).times(clock)
    close(clock(timed)[:-1].flip(0), ours, rtol=1e-7)
    assert float(timed[-1]) == 0


# -- samplers ------------------------------------------------------------------------------------


def generated(data, steps, step_law, kind=dd.heads.Missing):
    """The law of the samples of a stepper with the exact head, all steps in one batch."""
    death, size = dd.Death(), len(data)
    own = dd.grids.UniformLogit(steps, 15.0).own_times()
    k, x = states(steps, size)
    t, s = own[k.long()], own[k.long() + 1]
    exact = exact_head(death, data)
    head = exact if kind is None else exact.as_(kind)
    law = step_law(death, head(x, t), x, t, s)
    y = torch.arange(size, dtype=F64)[:, None].expand(size, len(x))
    K = law.log_prob(y).exp().T.reshape(steps, size, size).numpy().copy()
    K[..., -1] += 1 - K.sum(-1)  # clipped at the largest count
    return run(list(K))


NEAREST = dd.steppers.Ancestral(rounding=dd.steppers.Nearest(20)).law
STOCHASTIC = dd.steppers.Ancestral().law
POISSON = dd.steppers.TauLeaping().law


def negative_binomial():
    law = scipy.stats.nbinom.pmf(range(21), 0.7, 0.45)
    return law / law.sum()


def test_the_order_of_the_samplers():
    """Identity 24: stochastic rounding and Poisson leaps are of first order, rounding of none."""
    data = negative_binomial()
    steps = (50, 200, 1000)

    def distances(step_law):
        return np.array([total_variation(generated(data, T, step_law), data) for T in steps])

    stochastic, poisson, nearest = map(distances, (STOCHASTIC, POISSON, NEAREST))
    close(stochastic, [0.031, 0.0072, 0.0014], atol=5e-4)
    close(poisson, [0.017, 0.0040, 0.0008], atol=5e-4)
    close(nearest, [0.171, 0.184, 0.183], atol=5e-4)
    for errors in (stochastic, poisson):
        ratio = errors[:-1] / errors[1:]
        assert np.all(np.abs(ratio / [4, 5] - 1) < 0.1)
    assert np.all(nearest > 0.15)
    # The mixture over the posterior is exact on any grid, up to what survives at the start.
    for kind in (None, dd.heads.Posterior):
        assert total_variation(generated(data, 10, STOCHASTIC, kind), data) < 1e-6


def test_rounding_to_the_nearest_fails_on_small_counts():
    """Identity 24: on Bernoulli(0.3) it samples zeros alone; a correct sampler passes."""
    data = np.array([0.7, 0.3])

    def check(step_law):
        assert total_variation(generated(data, 200, step_law), data) < 1e-3

    check(STOCHASTIC)
    fails(check, NEAREST)
    assert total_variation(generated(data, 200, NEAREST), [1.0, 0.0]) == 0


def test_samples_of_small_counts():
    """Identity 24, drawn: a chi-square test that fails by chance at a rate of 1e-4."""
    process = dd.Death().on(dd.clock.Logistic(15.0))
    head = exact_head(process, np.array([0.7, 0.3])).as_(dd.heads.Missing)

    def check(stepper, **grid):
        draws = dd.sample(process, head, (8_000,), stepper=stepper, **grid)
        ones = float(draws.sum())
        assert set(draws.tolist()) <= {0.0, 1.0}
        assert scipy.stats.binomtest(int(ones), 8_000, 0.3).pvalue > 1e-4

    check(dd.steppers.Ancestral(), steps=10)
    check(dd.steppers.Churn(0.5), steps=10)
    check(dd.steppers.TauLeaping(maximum=1.0), grid=dd.grids.UniformLogit(100))
    fails(lambda: check(dd.steppers.Ancestral(rounding=dd.steppers.Nearest(1)), steps=10))


# -- the continuous limit ------------------------------------------------------------------------


def test_a_walk_on_a_lattice_reverses_to_andersons_drift():
    """Hop rates g²/2h² ± f/2h; the reverse drift is −f + g² ∂ log P with an error of O(h²).

    The diffusion is dx = −x dt + dW from a mixture of two normals, so P is known at every time.
    """
    g, t, means, variance = 1.0, 0.5, np.array([-1.0, 1.2]), 0.3

    def score(x, t):
        decay = math.exp(-t)
        var = variance * decay**2 + g**2 / 2 * (1 - decay**2)
        each = np.exp(-((x[:, None] - means * decay) ** 2) / (2 * var))
        return ((means * decay - x[:, None]) * each).sum(1) / each.sum(1) / var

    def error(h, sign=1.0):
        x = h * np.arange(-round(4.5 / h), round(4.5 / h) + 1)
        hop = g**2 / (2 * h**2)
        up, down = hop - x / (2 * h), hop + x / (2 * h)
        assert up.min() > 0 and down.min() > 0
        Q = np.diag(up[:-1], 1) + np.diag(down[1:], -1)
        walk = dd.RateMatrix(Q - np.diag(Q.sum(1)))
        prior = np.exp(-((x[:, None] - means) ** 2) / (2 * variance)).sum(1)
        head = dd.Exact(walk, torch.arange(len(x)), torch.from_numpy(prior / prior.sum()))
        inner = np.flatnonzero(np.abs(x) < 1.5)
        points, rates = dd.reverse(walk, head).rates(torch.from_numpy(inner), t)
        drift = (rates.numpy() * h * (points.numpy() - inner[:, None])).sum(1)
        anderson = x[inner] + sign * g**2 * score(x[inner], t)
        return np.abs(drift - anderson).max()

    errors = np.array([error(h) for h in (0.2, 0.1)])
    assert errors[1] < 0.02
    assert 3.6 < errors[0] / errors[1] < 4.4
    assert error(0.2, sign=-1.0) > 0.5
