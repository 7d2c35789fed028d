"""Posterior sampling on walks: exact for finite data, else a projection of measured error.

Data are two normal numbers and one linear combination of them is seen. What is expected given the
state and what was seen is found by quadrature over both.
"""

from __future__ import annotations

import math
from functools import cache

import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td

import discdiff as dd
from discdiff import heads, inverse, steppers

pytestmark = pytest.mark.usefixtures("float64")

LAWS = {
    "laplace": td.Laplace(0.0, 1.0),
    "logistic": pyro.Logistic(0.0, 1.0),
    "gamma": td.Gamma(3.0, 1.0),
}
MEAN = torch.tensor([0.5, -1.0]).double()
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double()
A, Y, STD = torch.tensor([[1.0, 0.5]]).double(), torch.tensor([1.5]).double(), 0.4
LINE = torch.linspace(-6, 6, 201).double()
PLANE = torch.cartesian_prod(LINE + MEAN[0], LINE + MEAN[1])


def equal_steps(kind, name, count):
    """A walk of equal steps that keeps e^{−0.7} of the variance."""
    return kind(LAWS[name], [-math.expm1(-0.7 / count)] * count)


def expected(walk, x, k, seen):
    """E[x_0 | x_k], and given y where ``seen``, by quadrature."""
    log_p = td.MultivariateNormal(MEAN, COVARIANCE).log_prob(PLANE)
    if seen:
        log_p = log_p - (Y - PLANE @ A.T)[:, 0] ** 2 / (2 * STD**2)
    found = []
    for row in x:
        each = (
            walk.marginal((LINE + MEAN[d]).unsqueeze(1), k).log_prob(row[d].expand(len(LINE), 1))
            for d in (0, 1)
        )
        first, second = each
        noise = (first.unsqueeze(1) + second).flatten()
        found.append((log_p + noise).softmax(0) @ PLANE)
    return torch.stack(found)


@cache
def errors(kind, name, count):
    """Root mean squares over states at the last step: guided, not guided, and planted errors."""
    torch.manual_seed(1)
    walk = equal_steps(kind, name, count)
    x_0 = td.MultivariateNormal(MEAN, COVARIANCE).sample((200,))
    x = walk.marginal(x_0, count).sample()
    mean, goal = (expected(walk, x, count, seen) for seen in (False, True))

    def error(covariance, y=Y, std=STD):
        spread = inverse.Covariance(covariance)
        head = heads.Mean(lambda *_: mean)
        head = inverse.Observed(head, walk.process, A, y, std, spread)
        return float((head(x, torch.ones(len(x))).value - goal).square().mean().sqrt())

    planted = error(2 * COVARIANCE), error(COVARIANCE, -Y), error(COVARIANCE, std=2 * STD)
    return error(COVARIANCE), float((mean - goal).square().mean().sqrt()), min(planted)


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("laplace", (0.17, 0.085, 0.035, 0.011)),
        ("logistic", (0.11, 0.05, 0.017, 0.005)),
        ("gamma", (0.5, 0.23, 0.09, 0.04)),
    ],
)
def test_guidance_of_a_walk_is_right_in_the_limit_of_many_steps(name, bounds):
    """As its noise becomes normal, from which it is guessed: symmetric noise sooner."""
    found = [errors(dd.Walk, name, count) for count in (1, 4, 16, 64)]
    guided, unguided, _ = zip(*found, strict=True)
    assert all(error < bound for error, bound in zip(guided, bounds, strict=True)), guided
    assert all(b < a / 1.9 for a, b in zip(guided, guided[1:], strict=False)), guided
    assert all(a < b for a, b in zip(guided, unguided, strict=True)), found


@pytest.mark.parametrize("name", LAWS)
def test_planted_errors_are_seen_above_what_is_left(name):
    """A doubled covariance, what was seen with the other sign, and σ doubled."""
    guided, _, planted = errors(dd.Walk, name, 64)
    assert planted > 1.7 * guided


@pytest.mark.parametrize("kind", [dd.LevyWalk, dd.MarginalWalk])
def test_noise_that_keeps_its_shape_keeps_the_error(kind):
    """The docstring says so: it is no error of steps."""
    first, second = errors(kind, "laplace", 1)[0], errors(kind, "laplace", 16)[0]
    assert second == pytest.approx(first, rel=1e-3) and first > 0.1


# -- runs -----------------------------------------------------------------------------------------

LOC, SEEN, WIDTH = 0.5, 2.0, 0.5  # of one number N(LOC, 1), seen as SEEN with noise of WIDTH
VARIANCE = 1 / (1 + 1 / WIDTH**2)
GOAL = VARIANCE * (LOC + SEEN / WIDTH**2)


class Table(heads.Mean):
    """E[x_0 | x_k] of N(LOC, 1) at all steps, on a grid by quadrature."""

    def __init__(self, walk):
        data, x = torch.linspace(LOC - 6, LOC + 6, 241), torch.linspace(-9, 9, 361)
        prior, count = td.Normal(LOC, 1.0).log_prob(data).unsqueeze(1), len(walk.betas)
        tables = [torch.zeros_like(x)]
        for k in range(1, count + 1):
            at = walk.marginal(data.repeat_interleave(len(x)).unsqueeze(1), k)
            noise = at.log_prob(x.repeat(len(data)).unsqueeze(1)).reshape(len(data), -1)
            tables.append(data @ (noise + prior).softmax(0))

        def read(v, t):
            table = tables[round(float(t[0]) * count)]
            at = ((v - x[0]) / (x[1] - x[0])).clamp(0, len(x) - 1.001)
            return torch.lerp(table[at.long()], table[at.long() + 1], at.frac())

        super().__init__(read)


def drawn(name, count, std=WIDTH):
    torch.manual_seed(0)
    walk = dd.Walk(LAWS[name], dd.log_snr_betas(count, 2e-3, 0.999))
    spread, value = inverse.Covariance(torch.ones(1)), torch.tensor([SEEN])
    head = inverse.Observed(Table(walk), walk.process, torch.eye(1), value, std, spread)
    x = dd.sample(walk, head, (20_000, 1), stepper=steppers.Shift())
    return float(x.mean()), float(x.var())


@pytest.mark.parametrize("name", ["laplace", "logistic"])
def test_runs_tend_to_the_posterior(name):
    """Variances 0.31 and 0.22 at 16 and 64 steps, of 0.2; 0.20 at 256."""
    coarse, fine = drawn(name, 16), drawn(name, 64)
    assert fine[0] == pytest.approx(GOAL, abs=0.02)
    assert fine[1] == pytest.approx(VARIANCE, rel=0.16)
    assert abs(fine[1] - VARIANCE) < abs(coarse[1] - VARIANCE) / 3


def test_a_doubled_noise_shows_in_a_run():
    mean, variance = drawn("laplace", 16, 2 * WIDTH)
    assert abs(mean - GOAL) > 0.3 and variance > 3 * VARIANCE


# -- finitely many data ---------------------------------------------------------------------------

DATA = torch.tensor([[-1.0, 0.0], [0.5, 1.0], [0.5, -1.0], [1.5, 0.5]]).double()
PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
FINITE = {
    "walk": lambda: dd.Walk(LAWS["laplace"], dd.log_snr_betas(4, 0.1, 0.95)),
    "marginals": lambda: dd.MarginalWalk(LAWS["gamma"], dd.log_snr_betas(4, 0.1, 0.95)),
    "reverse": lambda: dd.ReverseWalk(LAWS["laplace"], dd.log_snr_betas(4, 0.1, 0.95)),
    "stable": lambda: dd.StableWalk(1.5, dd.log_snr_betas(4, 0.1, 0.95)),
}


def of_data(y=Y, std=STD):
    """P(x_0 | y), by Bayes' rule."""
    return (PRIOR.log() - (y - DATA @ A.T)[:, 0] ** 2 / (2 * std**2)).softmax(0)


@pytest.mark.parametrize("name", FINITE)
def test_reweighted_data_are_the_posterior_of_each_state(name):
    """By all pairs of data and state, enumerated; also as weights of the exact head."""
    torch.manual_seed(0)
    walk = FINITE[name]()
    exact = dd.Exact(walk.process, DATA, PRIOR)
    head = inverse.Reweighted(exact, A, Y, STD)
    x, t = walk.marginal(DATA.repeat(5, 1), 3).sample(), torch.full((20,), 0.75)
    joint = [
        walk.marginal(a.expand(20, 2), 3).log_prob(x) + p.log()
        for a, p in zip(DATA, of_data(), strict=True)
    ]
    goal = torch.stack(joint, 1).softmax(1)
    torch.testing.assert_close(head(x, t).log_weights.exp(), goal, rtol=1e-9, atol=1e-12)
    other = dd.Exact(walk.process, DATA, of_data())(x, t).log_weights.exp()
    torch.testing.assert_close(other, goal, rtol=1e-9, atol=1e-12)
    assert float((exact(x, t).log_weights.exp() - goal).abs().max()) > 0.1


def frequencies(walk, head, law, count=4000):
    """How often each datum ends a run that starts from the noisy law of data of this law."""
    torch.manual_seed(2)
    x_0 = DATA[torch.multinomial(law, count, replacement=True)]
    start = walk.marginal(x_0, len(walk.times)).sample()
    x = dd.sample(walk, head, (count, 2), start=start, stepper=steppers.Ancestral())
    return (torch.cdist(x, DATA) < 1e-9).double().mean(0)


@pytest.mark.parametrize("name", ["walk", "marginals", "reverse"])
def test_ancestral_runs_draw_from_the_exact_posterior(name):
    """From the law at the end given y: no error of steps, so four deviations of the counts."""
    walk = FINITE[name]()
    head = inverse.Reweighted(dd.Exact(walk.process, DATA, PRIOR), A, Y, STD)
    found, goal = frequencies(walk, head, of_data()), of_data()
    assert float(found.sum()) == pytest.approx(1.0)
    assert bool(((found - goal).abs() < 4 * (goal * (1 - goal) / 4000).sqrt() + 1e-3).all()), found


@pytest.mark.parametrize("wrong", [(-Y, STD), (Y, 2 * STD)])
def test_errors_of_what_was_seen_show_in_frequencies(wrong):
    walk, goal = FINITE["walk"](), of_data()
    head = inverse.Reweighted(dd.Exact(walk.process, DATA, PRIOR), A, *wrong)
    found = frequencies(walk, head, goal)
    assert float(((found - goal).abs() / (goal * (1 - goal) / 4000).sqrt()).max()) > 8


def test_values_of_each_row_and_of_categories():
    """What is seen may differ over a batch; the process may be of any kind."""
    process, data = dd.Replace(torch.ones(3) / 3).on(dd.clock.Constant(1.0)), torch.arange(3)
    exact = dd.Exact(process, data.unsqueeze(1))
    seen = torch.tensor([[0.0], [2.0]])
    head = inverse.Reweighted(exact, torch.eye(1), seen, 0.5)
    found = head(torch.tensor([[1], [1]]), torch.full((2,), 9.0)).log_weights
    goal = (-((seen - data) ** 2) / (2 * 0.5**2)).log_softmax(1)
    torch.testing.assert_close(found, goal, rtol=0, atol=2e-3)  # of x, e⁻⁹ is left


# -- normal noise of a stable walk, and refusals --------------------------------------------------


def test_a_stable_walk_given_its_variances_is_guided_exactly():
    """Normal data, and noise that is normal given the latent variances, one for each entry."""
    torch.manual_seed(0)
    walk = dd.StableWalk(1.5, [0.2, 0.3, 0.4])
    mixed = walk.mixed(walk.mixing((2,)))
    ends = mixed.marginal(torch.stack([torch.zeros(2), torch.ones(2)]), 3)
    phi, v = ends.mean[1] - ends.mean[0], ends.variance[0]
    total = phi[:, None] * COVARIANCE * phi + v.diag()
    gain = COVARIANCE * phi @ torch.linalg.inv(total)
    head = heads.Mean(lambda x, t: MEAN + (x - phi * MEAN) @ gain.T)
    x, both = torch.randn(5, 2), torch.cat([phi.diag(), A])
    noise = torch.cat([v, torch.tensor([STD**2])]).diag()
    whole = COVARIANCE @ both.T @ torch.linalg.inv(both @ COVARIANCE @ both.T + noise)
    goal = MEAN + (torch.cat([x, Y.expand(5, 1)], 1) - MEAN @ both.T) @ whole.T
    found = inverse.Observed(head, mixed.process, A, Y, STD)(x, torch.ones(5)).value
    torch.testing.assert_close(found, goal, rtol=1e-10, atol=1e-10)


def test_a_stable_walk_at_two_is_normal():
    """Its variance is that of DDPM at scale 2^{−1/2}."""
    both = dd.StableWalk(2.0, [0.2, 0.3], 0.5**0.5), dd.Walk(td.Normal(0.0, 1.0), [0.2, 0.3])
    x, t = torch.randn(4, 2), torch.ones(4)
    head = heads.Mean(lambda x, t: MEAN + 0.3 * x)
    found, goal = (inverse.Observed(head, w.process, A, Y, STD)(x, t).value for w in both)
    torch.testing.assert_close(found, goal, rtol=1e-12, atol=1e-12)


HEAD = heads.Mean(lambda x, t: x)


@pytest.mark.parametrize("kind", [dd.Walk, dd.LevyWalk, dd.MarginalWalk, dd.ReverseWalk])
def test_the_slope_of_the_mean_is_refused_where_noise_is_not_normal(kind):
    walk = kind(LAWS["laplace"], [0.1, 0.3])
    with pytest.raises(dd.Unsolved, match=r"normal noise only.*Covariance.*Reweighted"):
        inverse.Observed(HEAD, walk.process, A, Y, STD)


def test_the_slope_of_the_mean_is_no_covariance_of_laplace_noise():
    """What is refused would be wrong: two data, whose covariance is known."""
    walk, points = dd.Walk(LAWS["laplace"], [0.5]), torch.tensor([[-1.0], [1.0]])
    exact = dd.Exact(walk.process, points).as_(heads.Mean)
    x, t = torch.tensor([[0.3], [0.9]]), torch.ones(2)
    moments = walk.steps.engine.moments(x, t)
    guess = lambda at: exact(at, t).value
    mean, seen = inverse.Tweedie()(guess, x, moments, torch.eye(1))
    right = 1 - mean**2
    assert float((seen[:, 0] / right - 1).abs().min()) > 0.2


def test_noise_without_a_variance_and_heads_without_a_law_are_refused():
    spread = inverse.Covariance(COVARIANCE)
    for process in (
        dd.StableWalk(1.5, [0.1, 0.3]).process,
        dd.Linear(-1.0) + dd.Levy(dd.increments.SymmetricStable(1.5)),
    ):
        with pytest.raises(dd.Unsolved, match=r"no variance.*mixed.*Reweighted"):
            inverse.Observed(HEAD, process, A, Y, STD, spread)
    with pytest.raises(dd.Unsolved, match=r"heads\.Exact, not Mean"):
        inverse.Reweighted(HEAD, A, Y, STD)
    walk = FINITE["walk"]()
    narrow = inverse.Reweighted(dd.Exact(walk.process, DATA[:, :1]), A, Y, STD)
    with pytest.raises(ValueError, match="matrix has 2 columns"):
        narrow(torch.zeros(1, 1), torch.ones(1))


def test_levy_noise_in_continuous_time_is_guided():
    """At a late time the noise is nearly normal, and guidance nearly that of normal noise."""
    process = dd.Linear(-1.0) + dd.Levy(td.Laplace(0.0, 1.0))
    spread, t = inverse.Covariance(COVARIANCE), torch.full((3,), 0.5)
    x = torch.randn(3, 2)
    found = inverse.Observed(HEAD, process, A, Y, STD, spread)(x, t).value
    phi, v = math.exp(-0.5), 2 * (1 - math.exp(-1.0)) / 2
    left = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + phi**2 / v * torch.eye(2))
    gain = left @ A.T / (A @ left @ A.T + STD**2)
    torch.testing.assert_close(found, x + (Y - x @ A.T) @ gain.T, rtol=1e-6, atol=1e-6)
