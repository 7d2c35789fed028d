"""Lévy noise without tables: closed laws, jumps drawn one by one, and runs from infinity."""

import math
import time

import pytest
import torch
from torch.distributions import Gamma, Laplace, Normal

import discdiff as dd

pytestmark = pytest.mark.usefixtures("float64")
KINDS = {
    "symmetric": dd.increments.CompoundPoisson(2.0, Laplace(0.0, 1.0), 0.5),
    "skewed": dd.increments.CompoundPoisson(3.0, Normal(0.5, 0.3), 0.4, -1.5),
}


@pytest.mark.parametrize("drift", [0.0, -0.7, 0.4])
@pytest.mark.parametrize("name", KINDS)
def test_draws_follow_the_table(name, drift):
    """Kolmogorov–Smirnov against the distribution function by inversion."""
    noise = dd.Levy(KINDS[name])
    process = 1.5 * noise if drift == 0 else dd.Linear(drift) + 1.5 * noise
    count = 20_000
    law = process.marginal(torch.full((count, 1), 0.8), 0.9)
    u = law.base_dist.cdf(law.sample())[:, 0].sort().values
    gap = (u - (torch.arange(count) + 0.5) / count).abs().max() * math.sqrt(count)
    assert float(gap) < 2.0
    one = process.marginal(torch.full((1, 1), 0.8), 0.9)
    wave = torch.exp(1j * law.sample())[:, 0].mean()
    y = torch.linspace(-30, 30, 60_001)
    p = one.log_prob(y.reshape(-1, 1, 1)).exp()[:, 0]
    assert float((wave - torch.trapezoid(torch.exp(1j * y) * p, y)).abs()) < 5 / math.sqrt(count)


def test_a_batch_of_times_is_drawn_without_tables():
    process = dd.Linear(-0.7) + dd.Levy(KINDS["symmetric"])
    t, x_0 = 0.1 + torch.rand(128), torch.zeros(128, 4)
    begin = time.perf_counter()
    law = process.marginal(x_0, t)
    law.sample()
    spent = time.perf_counter() - begin
    engine = next(iter(process.leaves(t))).core.engine
    assert not engine.book.grids
    assert spent < 1.0  # 128 tables take seconds
    assert bool(law.log_prob(x_0).isfinite().all()) and len(engine.book.grids) == 128


def test_without_drift_closed_laws_stay_closed():
    process, t = 2.0 * dd.Levy(Laplace(0.0, 1.0)), torch.tensor([0.3, 1.7])
    law = process.marginal(torch.zeros(2, 1), t)
    goal = dd.increments.VarianceGamma(0.0, math.sqrt(2), 2 * t[:, None])
    y = torch.tensor([[0.4], [-1.1]])
    torch.testing.assert_close(law.log_prob(y), goal.log_prob(y)[:, 0])
    assert not next(iter(process.leaves(t))).core.engine.book.grids
    bridge = process.bridge(torch.zeros(2, 1), y, t / 2, t).log_prob(y / 3)
    halves = dd.increments.VarianceGamma(0.0, math.sqrt(2), t[:, None])
    bayes = halves.log_prob(y / 3) + halves.log_prob(2 * y / 3) - goal.log_prob(y)
    torch.testing.assert_close(bridge, bayes[:, 0])


@pytest.mark.parametrize("process", [dd.zoo.lim(1.8), dd.zoo.lim(1.2)])
def test_runs_from_infinity_with_the_exact_head(process):
    data, weights = torch.tensor([[-1.0], [2.0]]), torch.tensor([0.3, 0.7])
    exact = dd.Exact(process, data, weights)
    x = dd.sample(process, exact, (600, 1), grid=[1.0, 0.7, 0.4, 0.1, 0.0])
    assert set(x[:, 0].tolist()) == {-1.0, 2.0}
    assert float((x > 0).double().mean()) == pytest.approx(0.7, abs=0.1)


def test_gamma_noise_must_be_centred():
    with pytest.raises(ValueError, match="must have mean 0"):
        dd.Levy(Gamma(2.0, 1.0))
