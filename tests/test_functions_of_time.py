r"""Rates that are functions of own time, held to closed forms wherever own time leads.

With :math:`a(t) = -1 - c\, e^{-((t - m) / w)^2}` and unit noise the mean is
:math:`x_0 \exp(-t - c w \sqrt\pi)` after the bump, wherever the bump stands.
"""

import math

import pytest
import torch

import discdiff as dd

X = torch.ones(1, 1, dtype=torch.float64)


def bump(middle, width):
    return lambda t: 3 * torch.exp(-(((t - middle) / width) ** 2))


def pulled(middle, width):
    return dd.Linear(lambda t: -1 - bump(middle, width)(t)) + dd.Noise(1.0)


def switching(middle, width):
    """Two states, left at rates 1 + bump and 1."""

    def Q(t):
        up, down = 1 + bump(middle, width)(t), torch.ones_like(t)
        return torch.stack([torch.stack([-up, up], -1), torch.stack([down, -down], -1)], -2)

    return dd.RateMatrix(Q)


@pytest.mark.parametrize("middle", [0.5, 5.25, 10.0, 70.6])
@pytest.mark.parametrize("width", [0.1, 0.05])
def test_a_bump_is_seen_wherever_it_stands(middle, width):
    end = middle + 1
    early = float(torch.erf(torch.tensor(middle / width)))  # of the bump, what comes before 0
    exact = math.exp(-end - 3 * width * math.sqrt(math.pi) * (1 + early) / 2)
    assert float(pulled(middle, width).marginal(X, end).mean) == pytest.approx(exact, rel=1e-9)


def test_a_clock_that_runs_to_20_reads_its_functions_there():
    on = pulled(10.0, 0.1).on(dd.clock.Constant(20.0))
    exact = math.exp(-20 - 0.3 * math.sqrt(math.pi))
    assert float(on.marginal(X, 1.0).mean) == pytest.approx(exact, rel=1e-9)


def test_laws_over_several_units_of_own_time_compose():
    process = dd.Linear(lambda t: -torch.sin(3 * t), lambda t: t) + dd.Noise(lambda t: 1 + t / 2)
    for s, r, t in ((0.25, 3.5, 7.75), (0.0, 2.0, 4.0), (1.25, 1.5, 6.0), (2.0, 2.0, 3.0)):
        early, whole = process.transition(X, s, r), process.transition(X, s, t)
        late = process.transition(early.mean, r, t)
        gain = process.transition(X, r, t).mean - process.transition(0 * X, r, t).mean
        torch.testing.assert_close(whole.mean, late.mean, rtol=1e-12, atol=1e-12)
        variance = gain**2 * early.variance + late.variance
        torch.testing.assert_close(whole.variance, variance, rtol=1e-12, atol=1e-12)


def test_a_bump_in_a_rate_matrix_is_seen_wherever_it_stands():
    x = torch.tensor([0])
    base = switching(0.5, 0.05).transition(x, 0.0, 1.5).log_prob(x)
    for start in (10.0, 90.0):
        late = switching(start + 0.5, 0.05).transition(x, start, start + 1.5).log_prob(x)
        torch.testing.assert_close(late, base, rtol=1e-6, atol=1e-6)


def test_functions_that_are_not_resolved_are_refused():
    with pytest.raises(ValueError, match=r"not smooth on \[0, 16\]"):
        pulled(10.3, 0.005).marginal(X, 11.0)
    with pytest.raises(dd.Unsolved, match="own time 16384"):
        pulled(10.0, 0.1).marginal(X, 1e5)
    with pytest.raises(dd.Unsolved, match="finite own times"):
        pulled(10.0, 0.1).marginal(X, math.inf)
    with pytest.raises(ValueError, match="own time 1024"):
        switching(10.0, 0.1).marginal(torch.tensor([0]), 5000.0)


def test_one_time_carries_its_gradient_over_the_panels():
    t = torch.tensor([3.3], dtype=torch.float64, requires_grad=True)
    process = pulled(2.0, 0.5)
    mean = process.marginal(X, t).mean
    (slope,) = torch.autograd.grad(mean.sum(), t)
    rate = process.terms[0].number("A", t.detach())
    torch.testing.assert_close(slope, (rate * mean.detach())[0], rtol=1e-10, atol=0)


class Slope(torch.nn.Module):
    """The function c t."""

    def __init__(self, slope):
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))

    def forward(self, t):
        return self.slope * t


def test_kept_moments_follow_times_and_numbers():
    """The moments of the last times asked for are kept, as long as nothing has changed."""
    slope = Slope(-1.0)
    process = dd.Linear(slope) + dd.Noise(1.0)
    x, t = torch.ones(2), torch.tensor([0.3, 0.7], dtype=torch.float64)
    left = lambda t: process.marginal(x, t).mean.double()
    assert torch.allclose(left(t), (-(t**2) / 2).exp(), rtol=1e-6)
    assert torch.allclose(left(t.clone()), (-(t**2) / 2).exp(), rtol=1e-6)
    t.mul_(0.5)
    assert torch.allclose(left(t), (-(t**2) / 2).exp(), rtol=1e-6)
    slope.slope.mul_(2.0)
    assert torch.allclose(left(t), (-(t**2)).exp(), rtol=1e-6)
    repeated = process.marginal(torch.ones(3), 0.15)
    assert torch.equal(repeated.mean[0], process.marginal(torch.ones(1), 0.15).mean[0])
    assert repeated.variance.shape == (3,)
    bridge = process.bridge(torch.ones(3), torch.zeros(3), 0.1, 0.2)
    one = process.bridge(torch.ones(1), torch.zeros(1), 0.1, 0.2)
    assert torch.allclose(bridge.mean, one.mean) and torch.allclose(bridge.variance, one.variance)
