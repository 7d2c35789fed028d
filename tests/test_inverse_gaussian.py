"""Draws of generalised inverse Gaussian laws against SciPy's density and plain quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from discdiff.numerics import inverse_gaussian
from discdiff.numerics.inverse_gaussian import inverse_gaussian_draws

pytestmark = pytest.mark.usefixtures("float64")
COUNT = 20_000
ORDERS = [-40.0, -2.5, -0.5, -0.01, 0.0, 0.01, 0.3, 1.0, 12.0, 1e5]
OMEGAS = [1e-8, 1e-3, 0.1, 1.0, 20.0, 1e6]


def draws(p, u, v, count=COUNT):
    return inverse_gaussian_draws(*(torch.tensor(n) for n in (p, u, v)), torch.Size([count]))


def gap(log_a, p, omega):
    """√n times the greatest distance of draws of log A from the law, at u = v = ω."""
    peak = math.asinh(p / omega)
    log_f = lambda y: p * y - omega * np.cosh(np.clip(y, -700, 700))
    y = peak + np.linspace(-1, 1, 400_001) * wide(log_f, peak)
    f = np.exp(log_f(y) - log_f(peak))
    cdf = integrate.cumulative_trapezoid(f, y, initial=0)
    u = np.sort(np.interp(log_a.numpy(), y, cdf / cdf[-1]))
    return np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max() * math.sqrt(len(u))


def wide(log_f, peak):
    """So far from the peak all is below e^{−40} of it, on both sides."""
    width = 1e-6
    while max(log_f(peak - width), log_f(peak + width)) > log_f(peak) - 40:
        width *= 1.3
    return width


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("omega", OMEGAS)
def test_draws_follow_the_density(p, omega):
    torch.manual_seed(0)
    found = draws(p, omega, omega)
    assert found.shape == (COUNT,) and found.dtype == torch.float64
    assert gap(found.log(), p, omega) < 1.95


def test_another_order_is_told_apart():
    assert gap(draws(0.4, 1.0, 1.0).log(), 0.5, 1.0) > 3
    assert gap(draws(12.0, 1.0, 1.05).log(), 12.0, 1.0) < 1.95  # hardly on v, as p is large
    assert gap(draws(12.0, 1.05, 1.0).log(), 12.0, 1.0) > 3


@pytest.mark.parametrize(("p", "u", "v"), [(0.7, 2.0, 0.3), (-1.5, 0.5, 4.0), (3.0, 10.0, 1.0)])
def test_scales_against_scipy(p, u, v):
    omega, found = math.sqrt(u * v), draws(p, u, v)
    law = stats.geninvgauss(p, omega, scale=math.sqrt(v / u))
    for q in np.quantile(found.numpy(), [0.05, 0.3, 0.6, 0.95]):
        share = float((found <= q).double().mean())
        assert share == pytest.approx(law.cdf(q), abs=4.5 * math.sqrt(0.25 / COUNT))
    mean = math.sqrt(v / u) * special.kve(p + 1, omega) / special.kve(p, omega)
    assert float(found.mean()) == pytest.approx(mean, abs=5 * float(found.std()) / COUNT**0.5)


def test_the_ends_are_gamma_laws_and_a_point():
    for p in (0.2, 1.0, 30.0):
        found = draws(p, 2.0, 0.0)
        assert stats.kstest(found.numpy(), stats.gamma(p).cdf).pvalue > 1e-4
    assert stats.kstest(draws(0.3, 2.0, 0.0).numpy(), stats.gamma(0.2).cdf).pvalue < 1e-6
    for p in (0.0, -0.3, -5.0):
        assert not bool(draws(p, 2.0, 0.0).any())
    assert float(draws(-0.3, 2.0, 1e-320).max()) < 1e-3  # 0 is the limit of these


def test_the_share_that_is_kept(monkeypatch):
    """Seven in ten at least, however extreme the law."""
    attempt, tried, kept = inverse_gaussian._attempt, [], []

    def noted(*each):
        x, good = attempt(*each)
        tried.append(len(good))
        kept.append(int(good.sum()))
        return x, good

    monkeypatch.setattr(inverse_gaussian, "_attempt", noted)
    for p in (0.0, 1e-3, 0.1, 0.5, 3.0, 1e5, 1e15):
        for v in (1e-300, 1e-9, 1.0, 1e4, 1e20):
            assert bool(draws(p, 2.0, v, 4000).isfinite().all())
            assert sum(kept) > 0.7 * sum(tried)
            tried.clear()
            kept.clear()


def test_what_is_no_number_stays_none():
    found = inverse_gaussian_draws(
        torch.tensor([0.5, 1.0]), torch.ones(2), torch.tensor([torch.nan, 1.0])
    )
    assert bool(found[0].isnan() & found[1].isfinite())
