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


@pytest.mark.parametrize("betas", [(0.1, 0.3), (0.3, 1e-3)])
@pytest.mark.parametrize("gap", [1.0, 1e-1, 1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_bridge_of_gamma_marginals_stays_between_its_ends(betas, gap, mirrored):
    """The noise of both steps is bounded below, so that x_1 is at most ``gap`` above it."""
    law, sign = td.Gamma(3.0, 1.0), 1.0
    if mirrored:
        law, sign = td.TransformedDistribution(law, [td.AffineTransform(0.0, -1.0)]), -1.0
    chain = dd.MarginalWalk(law, list(betas))
    early, late = math.sqrt(betas[0]), math.sqrt(1 - (1 - betas[0]) * (1 - betas[1]))
    kept, root = math.sqrt(1 - betas[1]), math.sqrt(3)
    low = math.sqrt(1 - betas[0]) * 0.4 - early * root  # times the sign
    start = -(late - kept * early) * root  # the least noise of the second step, its atom
    both = torch.tensor([0.4, kept * (low + gap) + start], dtype=torch.float64)
    x_0, x_2 = (sign * both).repeat(2000, 1).unsqueeze(-1).unbind(1)
    bridge = chain.bridge(x_0, x_2, 1, 2).base_dist
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    width = kept * early / root  # that of the jumps of the second step
    density = gamma_jumps(3, (1 - u) * gap * kept / width, kept * early / late) / width
    density = density * td.Gamma(3.0, root / early).log_prob(u * gap).exp()
    whole = density.mean() * gap
    atom = td.Gamma(3.0, root / early).log_prob(torch.tensor(gap).double()).exp()
    atom = atom * (kept * early / late) ** 3 / kept
    goal = float((atom + (density * u).mean() * gap) / (atom + whole))
    shares = (sign * bridge.mean - low) / gap
    slack = 1e-3 + 1e-14 / gap
    assert float((shares - goal).abs().max()) < slack
    drawn = (sign * bridge.sample() - low) / gap
    assert float(drawn.min()) > -slack and float(drawn.max()) < 1 + slack


def gamma_jumps(shape, z, rho):
    """The density of Γ(N), N negative binomial with ``shape`` successes of chance ρ, at z."""
    n = torch.arange(1, 200, dtype=torch.float64)
    log_chance = (n + shape).lgamma() - n.lgamma() - n.log() - math.lgamma(shape)
    log_chance = log_chance + shape * math.log(rho) + n * math.log1p(-rho)
    each = td.Gamma(n, torch.ones_like(n)).log_prob(z.unsqueeze(-1))
    return (log_chance + each).exp().sum(-1)
