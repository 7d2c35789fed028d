"""Lévy noise in continuous time, and Tweedie's formula for it, against closed forms."""

import math

import pyro.distributions as pyro
import pytest
import torch

import discdiff as dd
from discdiff import zoo
from discdiff.increments import CompoundPoisson, SymmetricStable
from discdiff.numerics.quadrature import composite
from discdiff.tweedie import noise_mean

pytestmark = pytest.mark.usefixtures("float64")
JUMPS = CompoundPoisson(2.0, pyro.Laplace(0.0, 1.0), 0.5)
NORMAL = CompoundPoisson(2.0, pyro.Normal(0.0, 1.0), 0.5)
DIFFUSION = dd.Linear(-0.7) + dd.Levy(JUMPS)


def column(x, count):
    return torch.full((count, 1), x, dtype=torch.float64)


def density(law_at, x, y):
    return law_at(column(x, len(y))).log_prob(y).exp()


def integral(p, y):
    return float(torch.trapezoid(p, y[:, 0]))


def test_the_law_of_a_jump_diffusion():
    y = torch.linspace(-60, 60, 12_001)[:, None]
    p = density(lambda x: DIFFUSION.transition(x, 0.0, 1.3), 0.3, y)
    left, tau = math.exp(-0.7 * 1.3), 1.3
    assert integral(p, y) == pytest.approx(1, abs=1e-12)
    assert integral(y[:, 0] * p, y) == pytest.approx(0.3 * left, abs=1e-10)
    variance = (2 * 2 + 0.25) * (1 - math.exp(-1.4 * tau)) / 1.4
    second = (y[:, 0] - 0.3 * left) ** 2 * p
    assert integral(second, y) == pytest.approx(variance, rel=1e-9)


def test_without_drift_it_is_the_mixture_of_normal_laws():
    y = torch.linspace(-6, 6, 101)[:, None]
    goal = CompoundPoisson(2.6, pyro.Normal(0.0, 1.0), 0.5 * 1.3**0.5).log_prob(y[:, 0] - 0.3)
    found = dd.Levy(NORMAL).transition(column(0.3, 101), 0.0, 1.3).log_prob(y)
    assert float((found.exp() - goal.exp()).abs().max()) < 1e-12


def test_chapman_kolmogorov_and_bayes():
    z = torch.linspace(-40, 40, 8_001)[:, None]
    early = DIFFUSION.transition(column(0.3, 8_001), 0.0, 0.4).log_prob(z)
    for y in (0.1, 2.0):
        late = DIFFUSION.transition(z, 0.4, 1.3).log_prob(column(y, 8_001))
        whole = DIFFUSION.transition(column(0.3, 1), 0.0, 1.3).log_prob(column(y, 1))
        assert integral((early + late).exp(), z) == pytest.approx(float(whole.exp()), rel=1e-10)
        bridge = DIFFUSION.bridge(column(0.3, 8_001), column(y, 8_001), 0.4, 1.3).log_prob(z)
        assert float((bridge - (early + late - whole)).abs().nan_to_num(0).max()) < 1e-9


def test_draws_and_limit():
    draws = DIFFUSION.transition(column(0.3, 40_000), 0.0, 1.3).sample()[:, 0]
    kept = math.exp(-0.91)
    variance = 4.25 * (1 - math.exp(-1.82)) / 1.4
    assert float(draws.mean()) == pytest.approx(0.3 * kept, abs=5 * (variance / 4e4) ** 0.5)
    assert float(draws.var()) == pytest.approx(variance, rel=0.05)
    law = DIFFUSION.limit((1, 1)).base_dist
    assert float(law.variance) == pytest.approx(4.25 / 1.4, rel=1e-12)
    with pytest.raises(dd.Unsolved, match="nothing is forgotten"):
        dd.Levy(JUMPS).limit((1, 1))


def test_stable_noise_under_a_drift_is_a_stable_walk():
    process = dd.Linear(-1 / 1.5) + dd.Levy(SymmetricStable(1.5))
    walk, x, y = dd.StableWalk(1.5, [0.1, 0.2]), column(0.3, 3), column(1.4, 3)
    s, t = -math.log(0.9), -math.log(0.72)
    torch.testing.assert_close(process.marginal(x, t).log_prob(y), walk.marginal(x, 2).log_prob(y))
    ours, theirs = process.bridge(x, y, s, t), walk.bridge(x, y, 1, 2)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.base_dist.mean, theirs.base_dist.mean)


def test_runs_return_to_the_data():
    data = torch.tensor([[-1.0], [2.0]])
    for process in (DIFFUSION.on(dd.clock.Constant(2.0)), zoo.lim(1.7, dd.clock.Constant(3.0))):
        x = dd.sample(process, dd.Exact(process, data), (100, 1), steps=4)
        assert set(x[:, 0].tolist()) == {-1.0, 2.0} and 25 < int((x > 0).sum()) < 75


def test_the_loss_of_its_chain_is_small_for_the_exact_head():
    chain = DIFFUSION.on(dd.clock.Constant(2.0)).at([0.3, 0.6, 1.0])
    x = torch.tensor([[-1.0], [2.0]])
    value = dd.loss(chain, dd.Exact(chain, x), x, 3)
    assert value.shape == (2,) and bool(value.isfinite().all())


ATOMS, WEIGHTS = torch.tensor([-1.0, 0.8], dtype=torch.float64), (0.3, 0.7)


class Positive(torch.distributions.Gamma):
    """A gamma law that is zero below zero."""

    def log_prob(self, value):
        inside = value > 0
        found = super().log_prob(torch.where(inside, value, 1.0))
        return torch.where(inside, found, -math.inf)


KINDS = {
    "jump diffusion": (NORMAL, 1.0, lambda: CompoundPoisson(2.0, pyro.Normal(0.0, 1.0), 0.5)),
    "longer": (
        NORMAL,
        1.3,
        lambda: CompoundPoisson(2.6, pyro.Normal(0.0, 1.0), 0.5 * 1.3**0.5),
    ),
    "gamma": (
        torch.distributions.Gamma(torch.tensor(6.0, dtype=torch.float64), 2.0),
        1.0,
        lambda: Positive(6.0, 2.0, validate_args=False),
    ),
    "stable": (SymmetricStable(1.5), 1.0, lambda: SymmetricStable(1.5)),
    "stable, scaled": (
        SymmetricStable(1.2, 0.0, 0.7),
        1.0,
        lambda: SymmetricStable(1.2, 0.0, 0.7),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_tweedie(name):
    """(C17) the mean noise, from Bayes' rule, and from the density of what is seen."""
    law, tau, whole = KINDS[name]
    noise = whole()

    def each(y):
        return torch.stack(
            [w * noise.log_prob(y - a).exp() for w, a in zip(WEIGHTS, ATOMS, strict=True)]
        )

    def p(y):
        return each(y).sum(0)

    y = torch.tensor([-0.5, 0.4, 1.7, 3.0])
    goal = (each(y) * (y - ATOMS[:, None])).sum(0) / p(y)
    found = noise_mean(law, p, y, tau)
    tolerance = 2e-9 if "stable" in name else 7e-15
    assert float((found - goal).abs().max()) < tolerance


SMOOTH = {
    "gamma": torch.distributions.Gamma(torch.tensor(3.0, dtype=torch.float64), 2.0),
    "gamma of shape 1": torch.distributions.Gamma(torch.tensor(1.0, dtype=torch.float64), 2.0),
    "Laplace": torch.distributions.Laplace(torch.tensor(0.0, dtype=torch.float64), 0.7),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_tweedie_to_rounding(name):
    """(C17) data from two normal laws: Bayes' rule by Gauss and Legendre, and the density."""
    law = SMOOTH[name]
    z, w = composite(torch.linspace(-28.0 if "Laplace" in name else 0.0, 28.0, 57).double())
    w = w * law.log_prob(z).exp()
    weight, mean, width = torch.tensor([[0.4, 0.6], [-1.0, 1.2], [0.4, 0.5]], dtype=torch.float64)

    def prior(x):
        u = (x.unsqueeze(-1) - mean) / width
        return (weight / width * (-(u**2) / 2).exp()).sum(-1) / math.sqrt(2 * math.pi)

    def p(y):
        flat = [(prior(each.unsqueeze(-1) - z) * w).sum(-1) for each in y.reshape(-1).split(500)]
        return torch.cat(flat).reshape(y.shape)

    y = torch.tensor([0.3, 1.7], dtype=torch.float64)
    goal = (prior(y.unsqueeze(-1) - z) * w * z).sum(-1) / p(y)
    assert float((noise_mean(law, p, y) - goal).abs().max()) < 2e-15


def test_tweedie_of_laplace_noise_is_the_smoothed_score():
    r"""(C17) :math:`\mathbb{E}[x \mid y] = y + s^2 (f * p)'(y) / p(y)`, which no score is.

    Here :math:`(f * p)' = (f * f) * p_0'` with :math:`p_0`, the law of x, normal.
    """
    b, mean, width = 0.7, 0.4, 0.9
    z, w = composite(torch.linspace(-28, 28, 113))
    once = w * (-z.abs() / b).exp() / (2 * b)
    twice = w * (1 + z.abs() / b) * (-z.abs() / b).exp() / (4 * b)
    prior = lambda x: (-(((x - mean) / width) ** 2) / 2).exp() / (width * math.sqrt(2 * math.pi))
    fall = lambda x: -(x - mean) / width**2 * prior(x)
    y = torch.tensor([-1.0, 0.2, 2.5])
    moved = y[:, None] - z
    p = (prior(moved) * once).sum(1)
    goal = (prior(moved) * moved * once).sum(1) / p
    smooth = y + 2 * b**2 * (fall(moved) * twice).sum(1) / p
    assert float((smooth - goal).abs().max()) < 7e-15
    by_score = y + 2 * b**2 * (fall(moved) * once).sum(1) / p
    assert float((by_score - goal).abs().max()) > 0.1
    law = torch.distributions.Laplace(torch.tensor(0.0), b)
    density = lambda v: (prior(v.unsqueeze(-1) - z) * once).sum(-1)
    split = lambda v: torch.cat([density(part) for part in v.reshape(-1).split(500)])
    found = noise_mean(law, lambda v: split(v).reshape(v.shape), y)
    assert float((y - found - goal).abs().max()) < 7e-15


REFUSED = {
    "mean": (lambda: dd.Levy(pyro.Gamma(2.0, 1.0)), ValueError, "must have mean 0"),
    "divisible": (lambda: dd.Levy(pyro.Uniform(-1.0, 1.0)), ValueError, "infinitely divisible"),
    "skew": (lambda: dd.Levy(pyro.Stable(1.5, 0.3)), ValueError, "must be symmetric"),
    "atom": (
        lambda: dd.Levy(CompoundPoisson(2.0, pyro.Laplace(0.0, 1.0))).marginal(
            column(0.0, 1), 1.0
        ),
        dd.Unsolved,
        "leaves an atom",
    ),
    "rough": (
        lambda: (dd.Linear(-1.0) + dd.Levy(pyro.Laplace(0.0, 1.0))).marginal(column(0.0, 1), 0.2),
        dd.Unsolved,
        "too rough",
    ),
    "drift": (
        lambda: (dd.Linear(-1.0, 2.0) + dd.Levy(JUMPS)).marginal(column(0.0, 1), 1.0),
        dd.Unsolved,
        "a drift other than",
    ),
    "reverse": (
        lambda: dd.reverse(DIFFUSION, dd.Exact(DIFFUSION, column(0.0, 1))).drift(
            column(0.0, 1), 1.0
        ),
        dd.Unsolved,
        "jumps to a continuum",
    ),
    "loss": (
        lambda: dd.loss(DIFFUSION, dd.Exact(DIFFUSION, column(0.0, 1)), column(0.0, 1), 1.0),
        dd.Unsolved,
        "a continuum of points",
    ),
    "tau": (
        lambda: noise_mean(NORMAL, torch.exp, torch.zeros(1), 0.0),
        ValueError,
        "tau must be positive",
    ),
    "unknown jumps": (
        lambda: noise_mean(pyro.Gumbel(0.0, 1.0), torch.exp, torch.zeros(1)),
        dd.Unsolved,
        "not known in closed form",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misuse(name):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()
