"""Bridges of noise with ends, where its density jumps or is infinite: against quadrature."""

import math

import mpmath
import pytest
import torch
import torch.distributions as td
from scipy import stats

import discdiff as dd
from discdiff.engines.walk_bridge import BoundedBridge, Bridge
from discdiff.increments import increment

BETAS, X_0, X_2 = (0.3, 0.4), 0.3, -0.2


def number(v):
    return torch.tensor(v, dtype=torch.float64)


# name: law, and the logarithm of its density at a distance u from its start and r from its end
LAWS = {
    "gamma 0.25": (td.Gamma(number(0.25), number(1.0)), lambda u, r: -0.75 * mpmath.log(u) - u),
    "gamma 0.5": (td.Gamma(number(0.5), number(1.0)), lambda u, r: -0.5 * mpmath.log(u) - u),
    "exponential": (td.Exponential(number(1.0)), lambda u, r: -u),
    "gamma 1.5": (td.Gamma(number(1.5), number(1.0)), lambda u, r: 0.5 * mpmath.log(u) - u),
    "uniform": (td.Uniform(number(0.0), number(1.0)), lambda u, r: mpmath.mpf(0)),
    "beta": (
        td.Beta(number(0.6), number(0.7)),
        lambda u, r: -0.4 * mpmath.log(u) - 0.3 * mpmath.log(r),
    ),
}


def exact(name):
    """Start and width of the bridge's interval, and its density over shares of it."""
    law, log_f = LAWS[name]
    keep = [mpmath.sqrt(1 - b) for b in BETAS]
    scale = [mpmath.sqrt(b) / mpmath.sqrt(float(law.variance)) for b in BETAS]  # of the law as is
    mean = float(law.mean)
    bounded = name in ("uniform", "beta")
    first = keep[0] * X_0 - scale[0] * mean
    last = (X_2 + scale[1] * mean) / keep[1]
    low, high = first, last
    if bounded:
        low = max(first, (X_2 - scale[1] * (1 - mean)) / keep[1])
        high = min(last, keep[0] * X_0 + scale[0] * (1 - mean))
    width = high - low

    def density(v):
        """At low + width · v; distances from ends are kept apart from those from the other."""
        u = (low - first + width * v) / scale[0]
        w = (last - high + width * (1 - v)) * keep[1] / scale[1]
        r_u = (keep[0] * X_0 + scale[0] * (1 - mean) - high + width * (1 - v)) / scale[0]
        r_w = (keep[1] * low + scale[1] * (1 - mean) - X_2 + keep[1] * width * v) / scale[1]
        return mpmath.exp(log_f(u, r_u) + log_f(w, r_w))

    return float(low), float(width), density


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", LAWS)
def test_means_and_draws_are_those_of_the_density(name, dtype):
    low, width, density = exact(name)
    whole = mpmath.quad(density, [0, 0.5, 1])
    mean = float(mpmath.quad(lambda v: v * density(v), [0, 0.5, 1]) / whole)
    ends = (torch.full((4000, 1), v, dtype=dtype) for v in (X_0, X_2))
    torch.manual_seed(0)
    law = dd.Walk(LAWS[name][0], BETAS).bridge(*ends, 1, 2)
    assert law.mean.dtype == law.sample().dtype == dtype
    error = 3e-5 if name in ("beta", "gamma 0.25") else 1e-7  # what rounds onto an end
    assert (float(law.mean[0]) - low) / width == pytest.approx(mean, abs=error)
    shares = ((law.sample().double() - low) / width).flatten()
    assert float(shares.min()) > -1e-6 and float(shares.max()) < 1 + 1e-6
    cells = [float(mpmath.quad(density, [k / 8, (k + 1) / 8]) / whole) for k in range(8)]
    found = torch.histc(shares.clamp(0, 1), 8, 0.0, 1.0)
    goal = 4000 * number(cells) / sum(cells)
    assert stats.chisquare(found.double().numpy(), goal.numpy()).pvalue > 1e-3


def test_even_grids_would_miss_what_is_infinite():
    """So the means above are no accident: an even grid is off by a tenth of the interval."""
    low, width, density = exact("gamma 0.5")
    engine = dd.Walk(LAWS["gamma 0.5"][0], BETAS).steps.engine
    ends = [number([[v]]) for v in (X_0, X_2)]
    times = torch.tensor([1]), torch.tensor([2])
    even, odd = (kind(engine, *ends, *times).mean for kind in (Bridge, BoundedBridge))
    assert abs(float(even - odd)) > 0.02 * width


def test_what_float64_does_not_tell_apart_is_refused():
    chain = dd.Walk(td.Gamma(number(0.1), number(1.0)), BETAS)
    with pytest.raises(dd.Unsolved, match="nearer to one point than float64"):
        chain.bridge(number([[0.3]]), number([[-0.2]]), 1, 2)


def test_a_density_says_how_it_crowds_at_its_ends():
    assert increment(LAWS["beta"][0]).crowding(1.0) == pytest.approx(0.6, abs=1e-6)
    assert increment(td.Beta(number(2.0), number(3.0))).crowding(1.0) == math.inf
