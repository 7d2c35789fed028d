"""Walks whose noise shares one variance, against SciPy, quadrature and Bayes' rule over it."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import Gumbel, Laplace, Normal, StudentT

import discdiff as dd
from discdiff.increments import InverseGaussian

pytestmark = pytest.mark.usefixtures("float64")
BETAS = [0.1, 0.3, 0.2]
KEPT = np.cumprod(1 - np.array(BETAS))
LAWS = {"normal": Normal(0.0, 1.0), "student": StudentT(5.0), "laplace": Laplace(0.0, 1.0)}


def density(name):
    """The density of A by hand: of mean one."""
    if name == "student":
        return stats.invgamma(2.5, scale=1.5).pdf
    return stats.expon().pdf


def over(name, value):
    """The integral of p(A) times a function of A."""
    inner = lambda log_a: density(name)(math.exp(log_a)) * math.exp(log_a) * value(math.exp(log_a))
    return integrate.quad(inner, -30, 30, limit=400, epsabs=1e-13)[0]


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("name", ["student", "laplace"])
def test_marginals_are_mixtures_over_one_variance(name, dim):
    walk, x_0 = dd.SharedWalk(LAWS[name], BETAS), torch.full((1, dim), 0.7)
    x = torch.linspace(-0.4, 1.3, dim).reshape(1, dim)
    mean, v = math.sqrt(KEPT[1]) * 0.7, 1 - KEPT[1]
    q = float(((x - mean) ** 2).sum()) / v
    goal = over(name, lambda a: (2 * math.pi * v * a) ** (-dim / 2) * math.exp(-q / (2 * a)))
    found = walk.marginal(x_0, 2).log_prob(x)
    assert found.shape == (1,)
    assert float(found) == pytest.approx(math.log(goal), abs=1e-8)


def test_students_marginal_is_scipys():
    walk, x = dd.SharedWalk(StudentT(5.0), BETAS), torch.randn(4, 3)
    shape = (1 - KEPT[2]) * 3 / 5 * np.eye(3)
    goal = stats.multivariate_t(np.zeros(3), shape, df=5).logpdf(x.numpy())
    found = walk.marginal(torch.zeros(4, 3), 3).log_prob(x)
    torch.testing.assert_close(found, torch.tensor(goal))


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("name", ["student", "laplace", "normal"])
@pytest.mark.parametrize(("s", "t"), [(1, 2), (1, 3)])
def test_bridges_are_bayes_rule_over_the_variance(name, dim, s, t):
    walk = dd.SharedWalk(LAWS[name], BETAS)
    x_0 = torch.full((1, dim), 0.4)
    x, y = (torch.linspace(*ends, dim).reshape(1, dim) for ends in ((-1.0, 0.8), (0.9, -0.3)))
    a_s, a_t, v_s, v_t = KEPT[s - 1], KEPT[t - 1], 1 - KEPT[s - 1], 1 - KEPT[t - 1]
    ratio = math.sqrt(a_t / a_s)
    late = 1 - a_t / a_s
    q = lambda z, m, v: float(((z - m) ** 2).sum()) / v

    def joint(a):
        """p(x_s | x_0, A) p(x_t | x_s, A)."""
        first = -q(y, math.sqrt(a_s) * x_0, v_s) - q(x, ratio * y, late)
        return (2 * math.pi * a) ** -dim * (v_s * late) ** (-dim / 2) * math.exp(first / (2 * a))

    def whole(a):
        size = (2 * math.pi * a * v_t) ** (-dim / 2)
        return size * math.exp(-q(x, math.sqrt(a_t) * x_0, v_t) / (2 * a))

    goal = joint(1.0) / whole(1.0) if name == "normal" else over(name, joint) / over(name, whole)
    found = walk.bridge(x_0, x, s, t).log_prob(y)
    assert float(found) == pytest.approx(math.log(goal), abs=1e-7)


def test_the_students_bridge_is_the_notes():
    """Student of ν + d, scale (ν' + δ)/(ν + d) times DDPM's, here of unit variance."""
    walk, d, df = dd.SharedWalk(StudentT(5.0), BETAS), 3, 5
    x_0, x, y = torch.randn(3, 1, d)
    law = walk.bridge(x_0, x, 1, 2)
    r = x - math.sqrt(KEPT[1]) * x_0
    distance = float((r**2).sum()) / ((1 - KEPT[1]) * (df - 2) / df)
    variance = (1 - KEPT[0]) * 0.3 / (1 - KEPT[1]) * (df - 2) / df
    shape = (df + distance) / (df + d) * variance * np.eye(d)
    goal = stats.multivariate_t(law.mean[0].numpy(), shape, df=df + d).logpdf(y[0].numpy())
    assert float(law.log_prob(y)) == pytest.approx(float(goal), abs=1e-10)


@pytest.mark.parametrize("p", [1.0, 0.5, -0.5, -3.0, -30.0])
@pytest.mark.parametrize("v", [1e-3, 1.0, 50.0])
def test_generalised_inverse_gaussian_draws(p, v):
    law = InverseGaussian(torch.tensor(p), torch.tensor(2.0), torch.tensor(v))
    omega = math.sqrt(2 * v)
    goal = stats.geninvgauss(p, omega, scale=math.sqrt(v / 2))
    draws = law.sample((4000,)).numpy()
    grid = np.exp(np.linspace(np.log(draws.min()) - 1, np.log(draws.max()) + 1, 4001))
    dens = goal.pdf(grid) * grid
    cdf = integrate.cumulative_trapezoid(dens, np.log(grid), initial=0)
    found = np.interp(draws, grid, cdf / cdf[-1])
    assert stats.kstest(found, "uniform").pvalue > 1e-4
    log_k = math.log(special.kve(p, omega)) - omega
    norm = math.log(2) + p / 2 * math.log(v / 2) + log_k
    assert float(law.log_norm()) == pytest.approx(norm, abs=1e-10)


@pytest.mark.parametrize("name", LAWS)
def test_the_certificate_holds(name):
    report = dd.check(dd.SharedWalk(LAWS[name], BETAS), torch.tensor([[0.3], [-0.8], [1.5]]))
    assert report, report
    told = {row.law for row in report.rows if row.error is not None}
    assert told >= {"carried marginals", "agreement", "likelihood ratio"}
    assert "steps through steps" not in told  # a state does not tell of A what later ones told


def test_of_a_normal_law_it_is_ddpm():
    walk, ddpm = dd.SharedWalk(Normal(0.0, 1.0), BETAS), dd.zoo.ddpm_chain(BETAS)
    x_0, x, y = torch.randn(3, 4, 2)
    for law, goal in (
        (walk.marginal(x_0, 2), ddpm.marginal(x_0, 2)),
        (walk.bridge(x_0, x, 1, 3), ddpm.bridge(x_0, x, 1, 3)),
    ):
        torch.testing.assert_close(law.log_prob(y), goal.log_prob(y))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.2])
@pytest.mark.parametrize("name", ["student", "laplace"])
def test_every_share_of_noise_keeps_the_marginals(name, eta):
    """Radii of steps back from draws at 3 are those of draws at 2 (two-sample KS)."""
    walk, x_0 = dd.SharedWalk(LAWS[name], BETAS), torch.full((20_000, 3), 0.5)
    late = walk.marginal(x_0, 3).sample()
    at = (v.expand(20_000) for v in (walk.times[2:3], walk.times[1:2]))
    data = dd.estimates.Data(x_0)
    x = dd.steppers.Ancestral(eta=eta).law(walk.process, data, late, *at).sample()
    goal = walk.marginal(x_0, 2).sample()
    radius = lambda x: (x - math.sqrt(KEPT[1]) * 0.5).norm(dim=1).numpy()
    assert stats.ks_2samp(radius(x), radius(goal)).pvalue > 1e-4


def test_entries_share_their_tails_and_runs_return():
    walk = dd.SharedWalk(StudentT(3.0), dd.linear_betas(60, 1e-3, 0.2))
    x = walk.marginal(torch.zeros(50_000, 2), 60).sample().abs()
    far = x > 4
    both, one = float(far.all(1).double().mean()), float(far[:, 0].double().mean())
    assert both > 10 * one**2  # independent entries would give one²
    data = torch.tensor([[-1.0, 0.0], [2.0, 1.0]])
    exact = dd.Exact(walk.process, data, torch.tensor([0.3, 0.7]))
    for head, eta in ((exact, 1.0), (exact.as_(dd.heads.Mean), 0.0)):
        x = dd.sample(walk, head, (2000, 2), stepper=dd.steppers.Ancestral(eta=eta))
        assert float((x[:, 0] > 0.5).double().mean()) == pytest.approx(0.7, abs=0.05)
    value = dd.vlb(walk, exact.as_(dd.heads.Mean), data)
    assert bool(value.nats.isfinite().all())


REFUSED = {
    "law": (lambda: dd.SharedWalk(Gumbel(0.0, 1.0), BETAS), dd.Unsolved, "Gumbel"),
    "beta": (lambda: dd.SharedWalk(Normal(0.0, 1.0), [1.0]), ValueError, "betas must be numbers"),
    "transition": (
        lambda: dd.SharedWalk(Normal(0.0, 1.0), BETAS).transition(torch.zeros(1, 1), 1, 2),
        dd.Unsolved,
        "no Markov chain",
    ),
    "more noise": (
        lambda: dd.SharedWalk(StudentT(5.0), BETAS).process._bridge(
            dd.estimates.Data(torch.zeros(1, 1)),
            torch.zeros(1, 1),
            torch.tensor([1 / 3]),
            torch.tensor([2 / 3]),
            3.0,
        ),
        ValueError,
        "eta must be at most",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()
