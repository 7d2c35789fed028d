"""Increments that are not on the whole line: infinite bounds, and decoders that cover the data."""

import math

import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td

import discdiff as dd
from discdiff.increments import ThreePoint, Triangular, increment

BETAS = dd.log_snr_betas(5, 0.1, 0.99)
X = torch.tensor([[-1.0], [0.5], [1.0]], dtype=torch.float64)
NEARLY = dd.heads.Epsilon(lambda x, t: 0.1 * x)
SHIFT, LIKELIEST, TILT = dd.steppers.Shift(), dd.steppers.Shift(matched=False), dd.steppers.Tilt()


def bounds(walk, head, stepper=None):
    """Terms of the bound at all indices, and the bound with a prior that covers all."""
    torch.manual_seed(0)
    prior = td.Independent(td.Normal(torch.zeros(3, 1).double(), 1.0), 1)
    terms = [dd.loss(walk, head, X, k, stepper=stepper) for k in range(1, len(BETAS) + 1)]
    return torch.stack([*terms, dd.vlb(walk, head, X, stepper=stepper, prior=prior).nats])


@pytest.mark.parametrize("law", [td.Uniform(0.0, 1.0), td.Gamma(3.0, 1.0), td.Beta(2.0, 2.0)])
def test_shifted_steps_are_refused_in_bounds_not_in_runs(law):
    walk = dd.Walk(law, BETAS)
    for head in (NEARLY, dd.Exact(walk.process, X)):
        for verb in (lambda h: dd.loss(walk, h, X, 3, stepper=SHIFT),
                     lambda h: dd.vlb(walk, h, X, stepper=SHIFT)):  # fmt: skip
            with pytest.raises(dd.Unsolved, match="shifted steps is infinite.*Tilt"):
                verb(head)
    assert dd.sample(walk, NEARLY, (4, 1), stepper=SHIFT).isfinite().all()


@pytest.mark.parametrize(
    "walk",
    [
        dd.Walk(td.Uniform(0.0, 1.0), BETAS),
        dd.ReverseWalk(td.Uniform(0.0, 1.0), BETAS),
        dd.MarginalWalk(td.Gamma(3.0, 1.0), BETAS),
        dd.LevyWalk(td.Poisson(3.0), BETAS),
    ],
)
def test_steps_given_a_mean_are_refused_in_bounds(walk):
    for verb in (lambda: dd.loss(walk, NEARLY, X, 3), lambda: dd.vlb(walk, NEARLY, X)):
        with pytest.raises(dd.Unsolved, match="is infinite.*Exact"):
            verb()


@pytest.mark.parametrize(
    "walk", [dd.Walk(td.Uniform(0.0, 1.0), BETAS), dd.ReverseWalk(td.Uniform(0.0, 1.0), BETAS)]
)
def test_the_law_of_the_data_has_a_finite_bound(walk):
    assert bounds(walk, dd.Exact(walk.process, X)).isfinite().all()


@pytest.mark.parametrize("stepper", [TILT, LIKELIEST])
def test_steps_that_leave_out_nothing_have_a_finite_bound(stepper):
    """The likeliest shift of a density that jumps is none: its Fisher information is infinite."""
    assert bounds(dd.Walk(td.Uniform(0.0, 1.0), BETAS), NEARLY, stepper).isfinite().all()


def test_laws_on_the_whole_line_are_as_before():
    walk = dd.Walk(td.Laplace(0.0, 1.0), BETAS)
    for stepper in (SHIFT, LIKELIEST, TILT, None):
        assert bounds(walk, NEARLY, stepper).isfinite().all()


@pytest.mark.parametrize(
    ("law", "low", "high"),
    [
        (Triangular(), -(6**0.5), 6**0.5),
        (ThreePoint(), -(3**0.5), 3**0.5),
        (td.Poisson(4.0), -2.0, float("inf")),
        (td.Beta(2.0, 2.0), -(5**0.5), 5**0.5),  # of variance 1 / 20
        (td.Weibull(1.0, 2.0), -1.9130583802711, float("inf")),
        (td.LogNormal(0.0, 1.0), -((2.718281828459045 - 1) ** -0.5), float("inf")),
        (td.Laplace(0.0, 1.0), -float("inf"), float("inf")),
    ],
)
def test_ends_of_supports_are_known(law, low, high):
    """Of Weibull's law: −Γ(3/2) / √(1 − Γ(3/2)²)."""
    assert increment(law).means == pytest.approx((low, high), rel=1e-6)


@pytest.mark.parametrize(
    "walk",
    [
        dd.ReverseWalk(td.Uniform(0.0, 1.0), BETAS),
        dd.Walk(td.Beta(2.0, 2.0), BETAS),
        dd.MarginalWalk(td.Gamma(3.0, 1.0), BETAS),
        dd.Walk(pyro.Weibull(torch.tensor(1.0), torch.tensor(2.0)), BETAS),
    ],
)
def test_decoders_are_normalised_and_leave_out_no_data(walk):
    """Whatever the head says, here nearly nothing, and wrongly."""
    torch.manual_seed(0)
    data = torch.linspace(-1, 1, 400, dtype=torch.float64).unsqueeze(1)
    assert dd.loss(walk, other_data(walk), data, 1).isfinite().all()
    x = walk.marginal(X[:1], 1).sample()
    (leaf,) = walk.process.leaves(walk.times[:1])
    y = torch.linspace(-6, 6, 120_001, dtype=torch.float64)
    law = leaf.core.engine.decode(dd.estimates.Mean(0 * x + 0.3), x, leaf.time)
    log_p = torch.stack([law.log_prob(v.reshape(1, 1))[0] for v in y[::40]])
    assert float(log_p.exp().sum() * 40 * (y[1] - y[0])) == pytest.approx(1, abs=0.01)


def other_data(walk):
    """A finite law of the data that is not theirs, for which every bound is finite."""
    return dd.Exact(walk.process, torch.linspace(-3, 3, 31, dtype=torch.float64).unsqueeze(1))


@pytest.mark.parametrize("share", [0.3, 0.999, 1 - 1e-7, 1 - 1e-12])
def test_a_bridge_of_two_uniform_steps_is_uniform_however_narrow(share):
    """Both densities are flat, so that it is flat on what the two steps have in common."""
    first, second = 0.1, 0.3
    chain = dd.Walk(td.Uniform(0.0, 1.0), [first, second])
    kept = math.sqrt(1 - second)
    one, two = math.sqrt(3 * first), math.sqrt(3 * second)  # as far as the steps' noise goes
    x_0 = torch.tensor([[0.4]]).double()
    start = math.sqrt(1 - first) * x_0
    x_2 = kept * start + share * (kept * one + two)
    low = torch.maximum(start - one, (x_2 - two) / kept)
    law = chain.bridge(x_0.expand(2000, 1), x_2.expand(2000, 1), 1, 2)
    width = float(start + one - low)
    off = float((law.mean - low - width / 2).abs().max())
    assert off < 1e-3 * width  # half a cell of the grid
    share_of = (law.sample() - low) / width
    assert float(share_of.min()) > -1e-3 and float(share_of.max()) < 1 + 1e-3
    assert float(share_of.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 2000))
