"""Geometric and negative binomial increments against mpmath, SciPy and enumeration."""

import math

import mpmath as mp
import numpy as np
import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td
from scipy import stats

import discdiff as dd
from discdiff.increments import SharedCount, ShiftedFailures, increment


def number(x):
    return torch.tensor(x, dtype=torch.float64)


LAWS = {  # r and q
    "geometric": (td.Geometric(number(0.3)), 1.0, 0.7),
    "negative binomial": (td.NegativeBinomial(number(2.5), number(0.4)), 2.5, 0.4),
    "nearly Poisson": (td.NegativeBinomial(number(300.0), number(0.01)), 300.0, 0.01),
    "gamma Poisson": (pyro.GammaPoisson(number(0.7), number(0.25)), 0.7, 0.8),
}


def log_mgf(r, q, z):
    """Of the standardised law, by mpmath at 40 digits or more; z may be complex."""
    with mp.workdps(max(40, mp.mp.dps)):
        r, q = mp.mpf(r), mp.mpf(q)
        mean, deviation = r * q / (1 - q), mp.sqrt(r * q) / (1 - q)
        v = mp.mpmathify(z) / deviation
        return r * (mp.log(1 - q) - mp.log(1 - q * mp.exp(v))) - mean * v


@pytest.mark.parametrize("name", LAWS)
def test_generating_functions(name):
    law, r, q = LAWS[name]
    xi = increment(law)
    for u in (1e-6, 1e-3, 0.1, 1.0, 7.0, -40.0):
        exact = log_mgf(r, q, 1j * u)
        found = xi.log_cf(u)
        assert float(found.real) == pytest.approx(float(exact.real), rel=1e-11)
        turns = (float(found.imag) - float(exact.imag)) / (2 * math.pi * r)
        assert turns == pytest.approx(0, abs=1e-12) or abs(u) > 6
        assert complex(xi.cf(u)) == pytest.approx(complex(mp.exp(exact)), abs=1e-12)
    for part in (-30.0, -1.0, -1e-5, 1e-6, 0.3, 0.9):
        e = part * (xi.domain[1] if part > 0 else 1.0)
        assert float(xi.cgf(e)) == pytest.approx(float(log_mgf(r, q, e)), rel=1e-9)
        with mp.workdps(40):
            slope = float(mp.diff(lambda z: log_mgf(r, q, z), e))
        assert float(xi.slope(e)) == pytest.approx(slope, rel=1e-10)
        assert float(xi.natural(slope)) == pytest.approx(e, rel=1e-6)
    assert float(xi.cgf(xi.domain[1] * 1.001)) == math.inf
    with mp.workdps(60):
        series = mp.taylor(lambda z: log_mgf(r, q, z), 0, 6)
    goal = [float(c * mp.factorial(n)) for n, c in enumerate(series)][1:]
    assert xi.cumulants(6).tolist() == pytest.approx(goal, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_laws_and_tilts_are_scipys(name):
    law, r, q = LAWS[name]
    xi, known = increment(law), stats.nbinom(r, 1 - q)
    n = np.arange(60)
    at = number((n - known.mean()) / known.std())
    assert xi.log_prob(at).numpy() == pytest.approx(known.logpmf(n), rel=1e-10, abs=1e-10)
    assert xi.cdf(at + 0.3 / known.std()).numpy() == pytest.approx(known.cdf(n), abs=1e-12)
    assert xi.log_prob(at + 0.3).max() == -math.inf and xi.log_prob(at[0] - 1 / known.std()) < -1e9
    assert xi.means[0] == pytest.approx(float(at[0]))
    eta = 0.4 * xi.domain[1]
    goal = known.logpmf(n) + eta * at.numpy() - float(xi.cgf(eta))
    tilted = xi.tilted(number(0.0), number(1.0), number(eta))
    assert tilted.log_prob(at).numpy() == pytest.approx(goal, rel=1e-9, abs=1e-9)
    assert float(tilted.mean) == pytest.approx(float(xi.slope(eta)))
    torch.manual_seed(0)
    drawn = xi.sample((40_000,))
    assert abs(float(drawn.mean())) < 0.025
    kurtosis = 2 + float(xi.cumulants(4)[3])
    assert abs(float(drawn.var()) - 1) < 5 * (kurtosis / 40_000) ** 0.5


def test_a_levy_process_of_failures():
    """Two steps are the sum over what lies between, and bridges are what Bayes says of them."""
    law, r, q = LAWS["negative binomial"]
    deviation, mean = (r * q) ** 0.5 / (1 - q), r * q / (1 - q)
    walk, x_0 = dd.LevyWalk(law, [0.3, 0.4]), number([[0.5]])
    tau = [1 / 0.7 - 1, 1 / 0.42 - 1]
    n = np.arange(200)
    early = stats.nbinom(r * tau[0], 1 - q).pmf(n)
    late = stats.nbinom(r * (tau[1] - tau[0]), 1 - q).pmf(n)
    state = lambda k, count: number(
        (0.7, 0.42)[k] ** 0.5 * (0.5 + (count - mean * tau[k]) / deviation)
    )
    for count in (0, 1, 7):
        joint = early[: count + 1] * late[: count + 1][::-1]
        x_2 = state(1, float(count)).reshape(1, 1)
        assert float(walk.marginal(x_0, 2).log_prob(x_2).exp()) == pytest.approx(joint.sum())
        x_1 = state(0, n[: count + 1].astype(float))
        bridge = walk.bridge(x_0, x_2, 1, 2)
        found = [float(bridge.log_prob(v.reshape(1, 1)).exp()) for v in x_1]
        assert found == pytest.approx(joint / joint.sum(), rel=1e-9)
    assert dd.check(walk, x_0)
    assert dd.check(dd.Walk(law, [0.3, 0.4]), x_0)


def test_shared_counts():
    law, known = SharedCount(number(9.0), 0.4, 1.3, 1.0, 2.0), stats.betabinom(9, 0.4, 1.3)
    k = np.arange(10)
    assert law.log_prob(number(1 + 2.0 * k)).numpy() == pytest.approx(known.logpmf(k), rel=1e-9)
    assert float(law.mean) == pytest.approx(1 + 2 * known.mean())
    assert float(law.variance) == pytest.approx(4 * known.var())
    assert SharedCount(number(9.4), 0.4, 1.3, 1.0, 2.0).log_prob(number(3.0)) == -math.inf
    torch.manual_seed(0)
    drawn = (law.sample((20_000,)) - 1) / 2
    seen = np.bincount(drawn.long().numpy(), minlength=10)
    assert stats.chisquare(seen, known.pmf(k) * 20_000).pvalue > 1e-5
    assert stats.chisquare(seen, stats.betabinom(9, 0.5, 1.3).pmf(k) * 20_000).pvalue < 1e-5


def test_what_is_no_law_is_refused():
    with pytest.raises(ValueError, match="chance of failure"):
        increment(td.Geometric(number(1.0)))
    law = ShiftedFailures(number([1.0, 2.0]), -0.5, 0.0, 1.0)
    assert law.log_prob(number([-1.0, 0.5])).tolist() == [-math.inf] * 2
