"""Which generalised normal laws run on a Lévy clock, and what their walk is."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import Uniform

import discdiff as dd
from discdiff.increments import GeneralisedNormal, Rademacher

pytestmark = pytest.mark.usefixtures("float64")
BETAS = [0.3, 0.4, 0.2]


@pytest.mark.parametrize("power", [0.6, 0.8])
def test_heavy_powers_run_on_the_clock(power):
    r"""The law at step 3 against φ^τ, with φ of the mixture of Laplace laws by quadrature."""
    walk, kept = dd.LevyWalk(GeneralisedNormal(power), BETAS), 0.7 * 0.6 * 0.8
    tau, width = 1 / kept - 1, math.sqrt(math.gamma(1 / power) / math.gamma(3 / power))

    def cf(u):
        """By parts: (1 / u) ∫ sin(ux) d(−f), f the density on x > 0."""
        s = np.linspace(-60, math.log(60), 40_001)
        x = width * np.exp(s / power)
        slope = np.exp(s) * np.exp(-np.exp(s))
        each = np.sin(u * x) / (u * x) * x * slope
        return integrate.trapezoid(each, s) / (width * special.gamma(1 + 1 / power))

    u = np.linspace(1e-6, 400, 40_001)
    phi = np.array([cf(v) for v in u[::20]])
    phi = np.interp(u, u[::20], phi) ** tau
    law, scale = walk.marginal(torch.zeros(1, 1), 3), math.sqrt(kept)
    for y in (1.5, 3.0, 6.0):
        goal = integrate.trapezoid(np.cos(u * y / scale) * phi, u) / math.pi / scale
        assert float(law.log_prob(torch.tensor([[y]])).exp()) == pytest.approx(goal, abs=2e-3)
    assert float(law.variance) == pytest.approx(1 - kept, rel=1e-9)


def test_what_is_refused_once_is_refused_again():
    """A table that could not be made leaves no place behind that points to another."""
    walk, x = dd.LevyWalk(GeneralisedNormal(0.8), BETAS), torch.zeros(1, 1)
    for _ in range(2):
        with pytest.raises(dd.Unsolved, match="does not resolve a law this sharp"):
            walk.transition(x, 2, 3)
    late = walk.marginal(x, 3).log_prob(x + 0.4)
    with pytest.raises(dd.Unsolved, match="does not resolve a law this sharp"):
        walk.transition(x, 2, 3).log_prob(x)
    torch.testing.assert_close(walk.marginal(x, 3).log_prob(x + 0.4), late)


def test_no_other_power_does():
    """Roots of the law of p = 1.5 are no laws: φ^{1/2} has a negative density somewhere."""
    with pytest.raises(ValueError, match="p ≤ 1 and p = 2 only"):
        dd.LevyWalk(GeneralisedNormal(1.5), BETAS)
    for power in (1.0, 2.0, 0.5):
        assert dd.increment(GeneralisedNormal(power)).divisible
    u = np.linspace(0, 12, 4001)
    phi = dd.increment(GeneralisedNormal(4.0)).log_cf(torch.tensor(u))
    assert float(phi.exp().real.min()) < 0  # infinitely divisible laws have no zeros
    assert stats.gennorm(1.5).sf(10) > 0


@pytest.mark.parametrize("law", [Uniform(-1.0, 1.0), Rademacher()])
def test_bounded_laws_do_not(law):
    with pytest.raises(ValueError, match="bounded interval"):
        dd.LevyWalk(law, BETAS)
