"""Increments of finitely many values: their numbers against SciPy's, sums and draws."""

import math

import numpy as np
import pyro.distributions as pyro
import pytest
import torch
from scipy import stats

import discdiff as dd
from discdiff.increments import Lattice, Rademacher, ThreePoint, increment


def number(x):
    return torch.tensor(x, dtype=torch.float64)


LAWS = {
    "bit": (pyro.Bernoulli(number(0.2)), stats.bernoulli(0.2)),
    "count": (pyro.Binomial(5, number(0.3)), stats.binom(5, 0.3)),
    "shared count": (pyro.BetaBinomial(number(2.0), number(3.0), 6), stats.betabinom(6, 2.0, 3.0)),
    "category": (
        pyro.Categorical(number([0.2, 0.0, 0.5, 0.3])),
        stats.rv_discrete(values=([0, 2, 3], [0.2, 0.5, 0.3])),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_numbers_are_scipys(name):
    law, known = LAWS[name]
    xi = increment(law)
    values = np.arange(known.support()[0], known.support()[1] + 1)
    p, v = known.pmf(values), (values - known.mean()) / known.std()
    goal = [(p * v**3).sum(), (p * v**4).sum() - 3]
    assert xi.cumulants(4)[2:].tolist() == pytest.approx(goal, abs=1e-12)
    u = number([0.0, 1e-4, 0.3, 2.0, -7.0, 31.0])
    exact = (p * np.exp(1j * u.numpy()[:, None] * v)).sum(1)
    assert np.abs(xi.cf(u).numpy() - exact).max() < 1e-12
    e = number([-3.0, -0.2, 0.0, 0.4, 5.0])
    weights = p * np.exp(e.numpy()[:, None] * v)
    assert xi.cgf(e).numpy() == pytest.approx(np.log(weights.sum(1)), abs=1e-12)
    mean = (weights * v).sum(1) / weights.sum(1)
    assert xi.slope(e).numpy() == pytest.approx(mean, abs=1e-12)
    assert xi.natural(number(mean)).numpy() == pytest.approx(e.numpy(), abs=1e-8)
    assert xi.cdf(number(v + 0.01)).numpy() == pytest.approx(known.cdf(values), abs=1e-12)
    assert xi.reach == pytest.approx(np.abs(v[p > 0]).max(), abs=1e-5)


def test_the_logarithm_is_continuous():
    """The phase of a lopsided bit turns round zero many times."""
    u = torch.linspace(0.0, 60.0, 60_001, dtype=torch.float64)
    steps = increment(LAWS["bit"][0]).log_cf(u).imag.diff().abs()
    assert float(steps.max()) < 0.01
    assert float(increment(LAWS["bit"][0]).log_cf(u).imag.abs().max()) > 2 * math.pi


@pytest.mark.parametrize("law", [Rademacher(), ThreePoint()])
def test_tables_of_known_laws_are_these(law):
    table = increment(Lattice(law.points, law.log_probs, 3.0, 2.0))
    known, u = increment(law), torch.linspace(-5, 5, 41, dtype=torch.float64)
    assert float((table.cf(u) - known.cf(u)).abs().max()) < 1e-14
    assert float((table.cgf(u) - known.cgf(u)).abs().max()) < 1e-13
    tilt = number(0.7)
    x = law.points
    a, b = (one.tilted(0.0, 1.0, tilt).log_prob(x) for one in (table, known))
    assert float((a - b).abs().max()) < 1e-14


def test_steps_of_a_walk_of_bits():
    """A step is known, sums are drawn, and the law is held to."""
    walk = dd.Walk(LAWS["bit"][0], [0.3, 0.2, 0.4])
    x = torch.zeros(3, 1, dtype=torch.float64)
    at = 0.3**0.5 * number([[-0.5], [2.0], [1.0]])  # (0 − 0.2) / 0.4, (1 − 0.2) / 0.4
    assert walk.marginal(x, 1).log_prob(at).exp().tolist() == pytest.approx([0.8, 0.2, 0.0])
    torch.manual_seed(0)
    drawn = walk.marginal(torch.zeros(20_000, 1), 3).sample()
    assert drawn.unique().numel() == 8
    assert abs(float(drawn.var()) / (1 - 0.7 * 0.8 * 0.6) - 1) < 0.05
    with pytest.raises(dd.Unsolved, match="atoms double"):
        walk.marginal(x, 3).log_prob(at)
    with pytest.raises(ValueError, match="infinitely divisible"):
        dd.LevyWalk(pyro.Bernoulli(0.2), [0.3])


def test_one_value_is_no_increment():
    with pytest.raises(ValueError, match="two values"):
        increment(pyro.Categorical(torch.tensor([0.0, 1.0, 0.0])))


def test_walks_of_bits_hold_their_laws():
    torch.manual_seed(0)
    assert dd.check(dd.Walk(pyro.Bernoulli(0.2), [0.2, 0.3]), torch.randn(4, 1).double())


@pytest.mark.parametrize(
    ("concentration", "exact"),
    [(0.2, stats.genpareto(0.2)), (0.0, stats.genpareto(0.0)), (-0.4, stats.genpareto(-0.4))],
)
def test_generalised_pareto_laws(concentration, exact):
    """torch's own density takes single precision only."""
    xi = increment(torch.distributions.GeneralizedPareto(1.0, 2.0, concentration))
    y = number([-0.6, 0.1, 0.9, 2.0])
    goal = exact.logpdf(y.numpy() * exact.std() + exact.mean()) + math.log(exact.std())
    assert xi.log_prob(y).numpy() == pytest.approx(goal, abs=1e-6)
    with pytest.raises(ValueError, match="no finite variance"):
        increment(torch.distributions.GeneralizedPareto(0.0, 1.0, 0.6))


def test_transforms_that_know_their_inverse():
    """They hold each other, round and round."""
    inverse = torch.distributions.ExpTransform().inv
    there = torch.distributions.transforms.ComposeTransform([inverse.inv, inverse])
    base = torch.distributions.Normal(0.0, 1.0)
    law = torch.distributions.TransformedDistribution(base, [there.parts[0], inverse, inverse.inv])
    xi, y = increment(law), number([-0.5, 0.0, 1.0])
    exact = stats.lognorm(1.0)
    goal = exact.logpdf(y.numpy() * exact.std() + exact.mean()) + math.log(exact.std())
    assert xi.log_prob(y).numpy() == pytest.approx(goal, abs=1e-6)
