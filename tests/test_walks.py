"""Walks: every law, closure and construction against quadrature, and the limits of many steps."""

import math

import numpy as np
import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td
from scipy import stats

import discdiff as dd
from discdiff.numerics.fourier import tabulate

BETAS = [0.1, 0.2, 0.3, 0.25, 0.4, 0.5]
LAWS = {
    "normal": td.Normal(1.0, 2.0),
    "laplace": td.Laplace(0.0, 1.0),
    "logistic": pyro.Logistic(0.0, 1.0),
    "uniform": td.Uniform(0.0, 1.0),
    "student": td.StudentT(5.0),
    "gamma": td.Gamma(3.0, 1.0),
    "gumbel": td.Gumbel(0.0, 1.0),
}
WALKS = {"steps": dd.Walk, "clock": dd.LevyWalk, "marginals": dd.MarginalWalk}
MARGINALS = {"normal", "laplace", "logistic", "gumbel", "gamma"}  # with a closed innovation
CASES = [
    (closure, name)
    for closure in WALKS
    for name in LAWS
    if closure == "steps"
    or name in (MARGINALS if closure == "marginals" else set(LAWS) - {"uniform"})
]


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def walk_of(closure: str, name: str) -> dd.Chain:
    return WALKS[closure](LAWS[name], BETAS)


def integral(f, low: float, high: float, count: int = 100_001) -> float:
    """A trapezoid on many points: kinks and jumps cost it 1e-5 at most."""
    y = torch.linspace(low, high, count)
    return float(torch.trapezoid(f(y), y))


def density(law_at, x: float, y: torch.Tensor) -> torch.Tensor:
    law = law_at(torch.full((len(y), 1), x))
    return law.log_prob(y.unsqueeze(1)).exp()


@pytest.mark.parametrize(("closure", "name"), CASES)
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_marginals_are_laws_with_the_moments_of_ddpm(closure, name, k):
    walk, x = walk_of(closure, name), 0.7
    kept = math.prod(1 - b for b in BETAS[:k])
    atoms = closure == "marginals" and name in ("laplace", "gamma")  # innovations, not marginals
    del atoms
    p = lambda y: density(lambda v: walk.marginal(v, k), x, y)
    low, high = -60.0, 60.0
    assert integral(p, low, high) == pytest.approx(1, abs=2e-4)
    mean = integral(lambda y: y * p(y), low, high)
    assert mean == pytest.approx(math.sqrt(kept) * x, abs=2e-3)
    variance = integral(lambda y: (y - mean) ** 2 * p(y), low, high)
    assert variance == pytest.approx(1 - kept, rel=3e-3)


@pytest.mark.parametrize(("closure", "name"), CASES)
def test_draws_have_the_density(closure, name):
    walk, x = walk_of(closure, name), torch.full((4000, 1), 0.3)
    for k in (1, 2, 5):
        law = walk.marginal(x, k)
        y = torch.linspace(-12, 12, 8001)
        cdf = torch.cumulative_trapezoid(density(lambda v: walk.marginal(v, k), 0.3, y), y)  # noqa: B023
        found = np.interp(law.sample()[:, 0].numpy(), y[1:].numpy(), cdf.numpy())
        assert stats.kstest(found, "uniform").pvalue > 1e-4, k


@pytest.mark.parametrize(("closure", "name"), CASES)
def test_chapman_kolmogorov(closure, name):
    """Against the characteristic functions, which multiply."""
    walk = walk_of(closure, name)
    u = torch.linspace(0.3, 2.0, 3)

    def cf(s: int, t: int) -> torch.Tensor:
        """E exp(iu x_t) given x_s = 0, by draws of the law's density on a grid."""
        x = walk.transition(torch.zeros(100_000, 1), s, t).sample()
        return torch.exp(1j * u * x).mean(0)

    ratio = math.sqrt(math.prod(1 - b for b in BETAS[3:5]))
    whole, early, late = cf(1, 5), cf(1, 3), cf(3, 5)
    x = walk.transition(torch.zeros(100_000, 1), 1, 3).sample()
    early = torch.exp(1j * u * ratio * x).mean(0)
    assert (whole - early * late).abs().max() < 1.6e-2  # five standard errors


@pytest.mark.parametrize(("closure", "name"), [c for c in CASES if c[0] != "marginals"])
def test_bridges_obey_bayes(closure, name):
    walk = walk_of(closure, name)
    x_0, x_t = torch.full((1, 1), 0.2), torch.full((1, 1), 0.9)
    for s, t in ((1, 2), (2, 5), (3, 4)):
        law = walk.bridge(x_0, x_t, s, t)
        y = torch.linspace(-8, 8, 20_001).unsqueeze(1)
        one = torch.ones_like(y)
        joint = walk.marginal(0.2 * one, s).log_prob(y) + walk.transition(y, s, t).log_prob(
            0.9 * one
        )
        joint = (joint - joint.max()).exp()
        reference = joint / torch.trapezoid(joint, y[:, 0])
        wide = walk.bridge(0.2 * one, 0.9 * one, s, t).log_prob(y).exp()
        assert torch.trapezoid((wide - reference).abs(), y[:, 0]) < 2e-3
        draws = walk.bridge(x_0.expand(4000, 1), x_t.expand(4000, 1), s, t).sample()[:, 0]
        cdf = torch.cumulative_trapezoid(reference, y[:, 0]).numpy()
        found = np.interp(draws.numpy(), y[1:, 0].numpy(), cdf)
        assert stats.kstest(found, "uniform").pvalue > 1e-4
        del law


@pytest.mark.parametrize("name", LAWS)
def test_steps_back_of_one_shape_keep_mean_and_variance(name):
    """(C6) whatever the law."""
    walk = dd.ReverseWalk(LAWS[name], dd.linear_betas(1000))
    x_0 = torch.full((200_000, 1), 0.8)
    for k in (1, 10, 500, 1000):
        kept = float((1 - walk.betas[:k]).prod())
        law = walk.marginal(x_0, k)
        x = law.sample()
        assert x.mean() == pytest.approx(
            math.sqrt(kept) * 0.8, abs=5 * math.sqrt((1 - kept) / 2e5)
        )
        assert x.var() == pytest.approx(1 - kept, rel=0.03)
    with pytest.raises(dd.Unsolved, match="transition"):
        walk.transition(x_0, 1, 2)


def test_kurtosis_of_many_steps():
    """(C5) k₄ / n_eff, with the numbers of steps that count of DDPM's schedule."""
    for kind, counts in (
        (dd.Walk, {2: 1.98, 5: 4.80, 10: 9.16, 50: 40.1, 100: 76.4, 500: 189.7, 1000: 101.5}),
        (dd.ReverseWalk, {1: 2.9, 2: 4.8, 10: 16.6, 100: 117.8, 500: 172.7, 900: 32.6}),
    ):
        engine = kind(td.Laplace(0.0, 1.0), dd.linear_betas(1000)).steps.engine
        for k, count in counts.items():
            c = engine.coefficients(*((0, k) if kind is dd.Walk else (k, 1001)))
            effective = float(c.square().sum() ** 2 / c.pow(4).sum())
            assert effective == pytest.approx(count, rel=0.02)


def test_tables_against_variance_gamma():
    """The sum of n equal Laplace increments in closed form."""
    for n in (3, 5, 20):
        c = torch.full((n, 1), math.sqrt(1 / n))
        increment = dd.Walk(td.Laplace(0.0, 1.0), [0.1]).steps.increment
        grid = tabulate(lambda u: increment.log_cf(c * u.double()).sum(0), 40.0)  # noqa: B023
        y = grid.low + grid.step * torch.arange(len(grid.cdf), dtype=torch.float64)
        law = dd.laws.VarianceGamma if hasattr(dd.laws, "VarianceGamma") else None
        del law
        b = math.sqrt(1 / n / 2)
        a = y.abs()
        near = (a > 0.3) & (a < 8)
        a = a[near].numpy()
        from_bessel = (
            (n - 0.5) * np.log(a)
            + np.log(_bessel(n - 0.5, a / b))
            - 0.5 * math.log(math.pi)
            - math.lgamma(n)
            - (n - 0.5) * math.log(2 * b)
            - math.log(b)
        )
        assert np.abs(np.exp(from_bessel) - grid.density[0][near].numpy()).max() < 1e-12


def _bessel(order: float, z: np.ndarray) -> np.ndarray:
    from scipy.special import kv

    return kv(order, z)
