"""A perfect network on n digits reaches log n nats, in both precisions; an imperfect one does not.

The draws are those of ``benchmarks/true_bound.py``, whose table has more of them.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

import discdiff as dd

path = Path(__file__).parents[1] / "benchmarks" / "true_bound.py"
spec = importlib.util.spec_from_file_location("true_bound", path)
true_bound = importlib.util.module_from_spec(spec)
spec.loader.exec_module(true_bound)

GROUPS = 20


def estimate(dtype, planted=False):
    """The mean, its standard error, and what is known of it."""
    digits = true_bound.training_digits(20).to(dtype)
    found, known = true_bound.draws(digits, planted, seed=1, groups=GROUPS)
    return float(found.mean()), float(found.std() / GROUPS**0.5), known


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_bound_of_a_perfect_network_is_log_n(dtype):
    """Within three standard errors: the seed is fixed, another one fails in 1 of 130 runs."""
    nats, error, known = estimate(dtype)
    print(f"{dtype}: {nats:.3f} ± {error:.3f}, log n = {known:.3f}")
    assert known == math.log(20)
    assert error <= 0.05
    assert abs(nats - known) <= 3 * error


def test_a_planted_error_moves_the_bound():
    """Five per cent too many missing units cost 0.37 nats, seen and as foretold."""
    nats, error, known = estimate(torch.float32, planted=True)
    print(f"planted: {nats:.3f} ± {error:.3f}, foretold {known:.3f}, log n = {math.log(20):.3f}")
    assert abs(nats - known) <= 3 * error
    assert nats - math.log(20) > 3 * error


def test_a_wrong_prior_moves_the_bound():
    """Blackout ends at 0 exactly; a prior of Poisson(0.01) pixels costs 0.64 nats."""
    digits = true_bound.training_digits(20)
    process = dd.Death().on(dd.clock.Logistic(15.0))
    prior = torch.distributions.Poisson(torch.full(digits.shape, 0.01).to(digits))
    prior = torch.distributions.Independent(prior, 1)
    torch.manual_seed(0)
    own = dd.path_kl(process, dd.Exact(process, digits), digits)
    torch.manual_seed(0)
    other = dd.path_kl(process, dd.Exact(process, digits), digits, prior=prior)
    torch.testing.assert_close(other - own, torch.full((20,), 0.64).to(digits))


def test_float32_and_float64_agree_on_every_draw():
    """The integrand of one noisy digit: what remains between the precisions is rounding."""
    process, digits = dd.Death().on(dd.clock.Logistic(15.0)), true_bound.training_digits(20)
    torch.manual_seed(0)
    many = digits.repeat(40, 1)
    t, w = dd.times(process, many)
    x_t = process.marginal(many, t).sample()

    def value(dtype):
        head = dd.Exact(process, digits.to(dtype))
        rate = dd.loss(process, head, many.to(dtype), t, x_t=x_t.to(dtype))
        return w * rate.double()

    gap = (value(torch.float32) - value(torch.float64)).abs()
    print(f"float32 - float64: at most {float(gap.max()):.1e}, {float(gap.mean()):.1e} on average")
    assert float(gap.mean()) < 1e-5
