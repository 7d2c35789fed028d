"""Every increment law in every walk: the certificate holds, or the declaration is refused."""

import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td

import discdiff as dd
from discdiff.engines.sums import Clocked, ForwardSteps
from discdiff.increments import (
    CompoundPoisson,
    GeneralisedNormal,
    Rademacher,
    ThreePoint,
    Triangular,
)
from discdiff.zoo import ddpm_chain

BETAS = [0.5, 0.4]
X = torch.tensor([[0.3], [-0.5]])


def normals(means, deviations):
    weights = td.Categorical(torch.tensor([0.3, 0.7]))
    return td.MixtureSameFamily(weights, td.Normal(torch.tensor(means), torch.tensor(deviations)))


WALKS = {
    "steps": dd.Walk,
    "clock": dd.LevyWalk,
    "marginals": dd.MarginalWalk,
    "reverse": dd.ReverseWalk,
}
LAWS = {  # a law, and the walks that refuse it
    "normal": (td.Normal(1.0, 2.0), ()),
    "laplace": (td.Laplace(0.0, 1.0), ()),
    "logistic": (pyro.Logistic(0.0, 1.0), ()),
    "uniform": (td.Uniform(0.0, 1.0), ("clock", "marginals")),
    "student": (td.StudentT(5.0), ()),
    "gamma": (td.Gamma(3.0, 1.0), ()),
    "exponential": (td.Exponential(1.0), ()),
    "triangular": (Triangular(), ("clock", "marginals")),
    "generalised normal": (GeneralisedNormal(4.0), ("clock", "marginals")),
    "rademacher": (Rademacher(), ("clock", "marginals")),
    "three points": (ThreePoint(), ("clock", "marginals")),
    "poisson": (td.Poisson(3.0), ("marginals",)),
}
LAWS |= {
    "gumbel": (td.Gumbel(0.0, 1.0), ()),
    "gamma of shape 1.5": (td.Gamma(1.5, 1.0), ()),
    "jumps and noise": (CompoundPoisson(2.0, td.Normal(0.0, 1.0), 0.5), ("marginals",)),
    "jumps": (CompoundPoisson(2.0, td.Laplace(0.0, 1.0)), ("marginals",)),
    "mixture": (normals([0.0, 0.0], [0.5, 2.0]), ("clock", "marginals")),
}
SLOW = {  # a density by quadrature, or one sum for each number of jumps: see below
    ("steps", "jumps"),
    ("steps", "jumps and noise"),
    ("marginals", "gumbel"),
    ("clock", "jumps"),
    ("reverse", "jumps"),
}
CASES = [(walk, name) for name in LAWS for walk in WALKS if (walk, name) not in SLOW]


@pytest.mark.parametrize(("walk", "name"), CASES)
def test_every_walk_is_certified_or_refused(walk, name):
    law, refused = LAWS[name]
    if walk in refused:
        with pytest.raises(ValueError, match="needs|need"):
            WALKS[walk](law, BETAS)
        return
    report = dd.check(WALKS[walk](law, BETAS), X)
    assert report, report


def through(walk, x_0, x_2, y, weight):
    """The density at index 2 by way of all states at index 1."""
    early = walk.marginal(torch.full((len(y), 1), x_0), 1).log_prob(y[:, None])
    late = walk.transition(y[:, None], 1, 2).log_prob(torch.full((len(y), 1), x_2))
    return weight @ (early + late).exp()


@pytest.mark.parametrize(
    ("walk", "name"), [("marginals", "gumbel"), ("steps", "mixture"), ("clock", "gumbel")]
)
def test_two_steps_are_the_integral_over_what_lies_between(walk, name):
    torch.set_default_dtype(torch.float64)
    try:
        chain = WALKS[walk](LAWS[name][0], BETAS)
        y = torch.linspace(-12, 12, 2001)
        weight = torch.full_like(y, float(y[1] - y[0]))
        for x_2 in (-1.4, -0.2, 0.9):
            whole = float(
                chain.marginal(torch.tensor([[0.3]]), 2).log_prob(torch.tensor([[x_2]])).exp()
            )
            assert float(through(chain, 0.3, x_2, y, weight)) == pytest.approx(whole, rel=1e-6)
            assert float(through(chain, 0.9, x_2, y, weight)) != pytest.approx(whole, rel=1e-3)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("walk", ["clock", "reverse"])
def test_draws_of_jumps_have_the_declared_moments(walk):
    torch.manual_seed(0)
    law, count = LAWS["jumps"][0], 50_000
    chain = WALKS[walk](law, BETAS)
    x = chain.marginal(torch.full((count, 1), 0.3, dtype=torch.float64), 2).sample()
    kept = (1 - BETAS[0]) * (1 - BETAS[1])
    noise = (x - kept**0.5 * 0.3) / (1 - kept) ** 0.5
    assert abs(float(noise.mean())) < 5 / count**0.5
    spread = float(noise.square().std()) / count**0.5
    assert abs(float(noise.square().mean()) - 1) < 5 * spread < 0.1


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5, 2.0])
def test_every_stable_walk_is_certified(alpha):
    report = dd.check(dd.StableWalk(alpha, BETAS), X)
    assert report, report


def wide(noise, self, loc, s, t):
    law = noise(self, torch.zeros_like(loc), s, t)
    return dd.laws.Affine(law, loc, torch.full_like(loc, 1.01))


def turned(noise, self, loc, s, t):
    """The mirror image of the noise: a skew of the other sign."""
    law = noise(self, torch.zeros_like(loc), s, t)
    return dd.laws.Affine(law, loc, -torch.ones_like(loc))


PLANTED = {
    "1 % in scale, steps": (dd.Walk, td.Laplace(0.0, 1.0), ForwardSteps, wide),
    "1 % in scale, clock": (dd.LevyWalk, td.Gamma(3.0, 1.0), Clocked, wide),
    "skew, steps": (dd.Walk, td.Gamma(3.0, 1.0), ForwardSteps, turned),
}


def wider_prior(self, shape):
    return td.Independent(td.Normal(torch.zeros(shape), torch.full(shape, 1.01)), len(shape) - 1)


def prior_of_data(self, shape):
    """The law at the end, but not from zero."""
    return self.marginal(torch.full(shape, 0.01), len(self.times))


@pytest.mark.parametrize("wrong", [wider_prior, prior_of_data])
@pytest.mark.parametrize("walk", [dd.Walk, dd.ReverseWalk])
def test_a_wrong_prior_is_found(monkeypatch, walk, wrong):
    monkeypatch.setattr(walk, "prior", wrong)
    report = dd.check(walk(td.Laplace(0.0, 1.0), BETAS), X)
    assert [row.law for row in report.rows if row.holds is False] == ["prior"], report


@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_found(monkeypatch, error):
    walk, law, kind, wrong = PLANTED[error]
    right = kind.noise
    monkeypatch.setattr(kind, "noise", lambda *at: wrong(right, *at))
    assert not dd.check(walk(law, BETAS), X)


SINGLE = [*WALKS.values(), dd.SharedWalk, lambda law, betas: dd.StableWalk(1.5, betas)]
SINGLE += [lambda law, betas: ddpm_chain(betas)]
SINGLE += [lambda law, betas: dd.StableWalk(1.5, betas).mixed(torch.ones(1, 1))]


@pytest.mark.parametrize("declare", SINGLE)
def test_chains_of_one_step_are_certified(declare):
    report = dd.check(declare(td.Laplace(0.0, 1.0), [0.5]), X)
    assert report, report
    judged = [row for row in report.rows if row.error is not None]
    assert len(judged) >= 5, report


@pytest.mark.parametrize("error", [error for error in PLANTED if "steps" in error])
def test_planted_errors_are_found_in_one_step(monkeypatch, error):
    walk, law, kind, wrong = PLANTED[error]
    right = kind.noise
    monkeypatch.setattr(kind, "noise", lambda *at: wrong(right, *at))
    assert not dd.check(walk(law, [0.5]), X)
