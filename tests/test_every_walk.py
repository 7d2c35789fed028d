"""Every increment law in every walk: the certificate holds, or the declaration is refused."""

import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td

import discdiff as dd
from discdiff.engines.sums import Clocked, ForwardSteps
from discdiff.increment_laws import GeneralisedNormal, Rademacher, ThreePoint, Triangular

BETAS = [0.5, 0.4]
X = torch.tensor([[0.3], [-0.5]])
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
CASES = [(walk, name) for name in LAWS for walk in WALKS]


@pytest.mark.parametrize(("walk", "name"), CASES)
def test_every_walk_is_certified_or_refused(walk, name):
    law, refused = LAWS[name]
    if walk in refused:
        with pytest.raises(ValueError, match="needs|need"):
            WALKS[walk](law, BETAS)
        return
    report = dd.check(WALKS[walk](law, BETAS), X)
    assert report, report


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


@pytest.mark.parametrize("error", PLANTED)
def test_planted_errors_are_found(monkeypatch, error):
    walk, law, kind, wrong = PLANTED[error]
    right = kind.noise
    monkeypatch.setattr(kind, "noise", lambda *at: wrong(right, *at))
    assert not dd.check(walk(law, BETAS), X)
