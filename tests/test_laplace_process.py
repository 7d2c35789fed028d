"""The Laplace process given both ends: exact draws, Bayes' rule, closed moments."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import Laplace

import discdiff as dd
from discdiff.increments import LaplaceShare, VarianceGamma

COUNT = 40_000
CASES = [
    (0.3, 0.7, 1.3),
    (0.15, 0.4, 0.2),
    (0.1, 0.3, 3.0),
    (2.5, 6.0, -4.0),
    (0.6, 8.0, -1e-3),
    (0.5, 1.2, 0.0),
    (40.0, 100.0, 5.0),
    (0.11, 0.23, 1e-4),
]


def number(v):
    return torch.as_tensor(v, dtype=torch.float64)


def share(s, t, d, count=1, dtype=torch.float64):
    return LaplaceShare(torch.full((count,), d, dtype=dtype), number(s), number(t))


def log_density(y, tau):
    """Of the process at τ, by SciPy's Bessel function."""
    z = math.sqrt(2) * np.abs(y)
    a = tau - 0.5
    if a > 1:  # SciPy's function overflows at small z, where it is Γ(a) (z/2)^{−a} / 2
        least = 1e-2 if a > 5 else 1e-4
        near, small, z = z < least, z, np.maximum(z, least)
        small = special.gammaln(a) - math.log(2) - small**2 / (4 * (a - 1))
        value = np.where(near, small, a * np.log(z / 2) + np.log(special.kve(a, z)) - z)
    else:
        value = a * np.log(z / 2) + np.log(special.kve(a, z)) - z
    return value - special.gammaln(tau) - 0.5 * math.log(math.pi / 2)


def quadrature(s, t, d):
    """Points of the line with the density and the distribution function there.

    Nodes crowd at both singular points, 0 and d, whose distances are kept apart.
    """
    far = np.exp(np.linspace(-120, math.log(60 + 20 * math.sqrt(t)), 12_001))
    side = np.concatenate([-far[::-1], far])
    pairs = [(side, d - side), (d - side, side)] if d else [(side, -side)]
    y, rest = (np.concatenate(each) for each in zip(*pairs, strict=True))
    good = (y != 0) & (rest != 0)
    y, rest = y[good], rest[good]
    order = np.lexsort((-rest, y))
    y, rest = y[order], rest[order]
    f = np.exp(log_density(y, s) + log_density(rest, t - s))
    step = np.where(np.abs(np.diff(y)) > 0, np.diff(y), -np.diff(rest))
    cdf = np.concatenate([[0], np.cumsum((f[1:] + f[:-1]) / 2 * step)])
    return y, f, cdf


def gap(drawn, s, t, d):
    """√n times the greatest distance of distribution functions, off the singular points."""
    y, _, cdf = quadrature(s, t, d)
    at = np.quantile(drawn, np.linspace(0.005, 0.995, 199))
    at = at[(np.abs(at) > 1e-12) & (np.abs(at - d) > 1e-12)]
    found = np.searchsorted(np.sort(drawn), at, side="right") / len(drawn)
    return np.abs(found - np.interp(at, y, cdf / cdf[-1])).max() * math.sqrt(len(drawn))


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_density(case):
    torch.manual_seed(0)
    assert gap(share(*case, COUNT).sample().numpy(), *case) < 1.95


def test_another_time_is_told_apart():
    drawn = share(0.3, 0.7, 1.3, COUNT).sample().numpy()
    assert gap(drawn, 0.33, 0.7, 1.3) > 3
    assert gap(drawn, 0.3, 0.75, 1.3) > 3
    assert gap(drawn, 0.3, 0.7, 1.4) > 3


@pytest.mark.parametrize("case", CASES)
def test_mean_and_variance_are_integrals(case):
    y, f, cdf = quadrature(*case)
    law = share(*case)
    mean = integrate.trapezoid(y * f, y) / cdf[-1]
    variance = integrate.trapezoid((y - mean) ** 2 * f, y) / cdf[-1]
    assert float(law.mean) == pytest.approx(mean, abs=2e-4 * math.sqrt(variance))
    assert float(law.variance) == pytest.approx(variance, rel=5e-4)


@pytest.mark.parametrize("case", CASES)
def test_densities_are_bayes_rule(case):
    s, t, d = case
    y = np.array([-1.7, -0.02, 0.03, 0.9, 6.0])
    goal = log_density(y, s) + log_density(d - y, t - s)
    goal = goal - (log_density(d, t) if d else math.log(quadrature(*case)[2][-1]))
    found = share(*case, len(y)).log_prob(number(y))
    np.testing.assert_allclose(found.numpy(), goal, atol=1e-9 if d else 1e-4)


def test_zero_is_certain_where_the_whole_is_crowded_there():
    law = share(0.2, 0.4, 0.0, 100)
    assert not bool(law.sample().any()) and not bool(law.variance.any())
    assert law.log_prob(number([0.0, 0.3, *[1.0] * 98])).tolist() == [math.inf, *[-math.inf] * 99]
    near = share(0.2, 0.4, 1e-60, 4000)
    assert float((near.sample().abs() < 1e-9).double().mean()) > 0.98
    assert float((share(0.2, 0.4, 1e-3, 4000).sample().abs() < 1e-9).double().mean()) < 0.5


def test_of_small_parts_the_late_one_is_not_rounded_away():
    """B is near 1 to rounding, and what the noise still does is of size √(1 − B)."""
    s, t = 0.9, 0.92
    drawn = (1.0 - share(s, t, 1.0, COUNT).sample()).abs()
    y = np.exp(np.linspace(math.log(1e-14), math.log(1e-3), 4001))
    f = np.exp(log_density(1 - y, s) + log_density(y, t - s)) * 2  # on both sides alike
    between = integrate.trapezoid(f * y, np.log(y)) / math.exp(log_density(1.0, t))
    found = float(((drawn > 1e-14) & (drawn < 1e-3)).double().mean())
    assert found == pytest.approx(between, abs=5 * math.sqrt(between / COUNT) + 2e-3)


@pytest.mark.parametrize("t", [1e3, 1e5])
def test_late_times_are_nearly_normal(t):
    law = share(0.4 * t, t, math.sqrt(t), COUNT)
    scaled = (law.sample() - law.mean) / law.variance.sqrt()
    assert stats.kstest(scaled.numpy(), "norm").pvalue > 1e-4
    assert stats.kstest(1.05 * scaled.numpy(), "norm").pvalue < 1e-4
    assert float(law.variance[0]) == pytest.approx(0.24 * t, rel=3 / t)
    at = law.mean[:1] + torch.tensor([-2.0, 0.0, 1.5]).double() * law.variance[0].sqrt()
    normal = torch.distributions.Normal(law.mean[0], law.variance[0].sqrt())
    found = share(0.4 * t, t, math.sqrt(t), 3).log_prob(at)
    torch.testing.assert_close(found, normal.log_prob(at), atol=20 / t + 1e-7, rtol=0)


def test_single_precision_and_samples():
    law, wide = share(0.3, 0.7, 1.3, COUNT, torch.float32), share(0.3, 0.7, 1.3, 2)
    assert law.sample().dtype == law.mean.dtype == law.variance.dtype == torch.float32
    assert gap(law.sample().double().numpy(), 0.3, 0.7, float(np.float32(1.3))) < 1.95
    y = torch.tensor([0.4, -2.0])
    found = share(0.3, 0.7, 1.3, 2, torch.float32).log_prob(y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wide.log_prob(y.double()).float())
    many = wide.sample(torch.Size([5000]))
    assert many.shape == (5000, 2) and not torch.equal(many[:, 0], many[:, 1])
    assert float(many.mean()) == pytest.approx(1.3 * 3 / 7, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["walk", "noise"])
def test_bridges_of_draws_have_the_early_law(kind, dtype):
    """x_0 → x_t → x_s: Kolmogorov–Smirnov against the marginal at s; and Bayes' rule."""
    torch.manual_seed(1)
    if kind == "walk":
        process, s, t = dd.LevyWalk(Laplace(0.0, 1.0), [0.3, 0.4, 0.2]), 1, 3
    else:
        process, s, t = 0.6 * dd.Levy(Laplace(0.0, 1.7)), 0.3, 1.1
    x_0 = torch.full((COUNT // 8, 2), 0.8, dtype=dtype)
    x_t = process.marginal(x_0, t).sample()
    bridge, early = process.bridge(x_0, x_t, s, t), process.marginal(x_0, s)
    x_s = bridge.sample()
    assert x_s.dtype == dtype and isinstance(bridge.base_dist.law, LaplaceShare)
    u = early.base_dist.cdf(x_s).double().reshape(-1).numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    shifted = early.base_dist.cdf(x_s + 0.1 * x_s.std()).double().reshape(-1).numpy()
    assert stats.kstest(shifted, "uniform").pvalue < 1e-4
    late = process.transition(x_s, s, t).log_prob(x_t) - process.marginal(x_0, t).log_prob(x_t)
    found, goal = bridge.log_prob(x_s), early.log_prob(x_s) + late
    close = (found - goal).abs() < (1e-9 if dtype == torch.float64 else 1e-3)
    assert float(close.double().mean()) > 0.99  # in float32 not where a cusp is near


def test_walks_of_the_laplace_law_are_certified():
    x_0 = torch.tensor([[-1.0, 0.5], [0.2, 1.0]])
    report = dd.check(dd.LevyWalk(Laplace(0.0, 1.0), [0.1] * 3), x_0)
    assert report, report


def test_the_mean_carries_gradients():
    d = torch.tensor([1.0, -2.0], requires_grad=True)
    law = LaplaceShare(d, number(0.3), number(0.7))
    (slope,) = torch.autograd.grad(law.mean.sum(), d)
    torch.testing.assert_close(slope, torch.full((2,), 3 / 7))
    wide = VarianceGamma(0.0, 1.0, number(0.7))
    (score,) = torch.autograd.grad(law.log_prob(torch.tensor([0.2, 0.2])).sum(), d)
    at = d.detach().double().requires_grad_()
    late = VarianceGamma(0.0, 1.0, number(0.4)).log_prob(at - 0.2) - wide.log_prob(at)
    (goal,) = torch.autograd.grad(late.sum(), at)
    torch.testing.assert_close(score.double(), goal, rtol=1e-5, atol=1e-5)
