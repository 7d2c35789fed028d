"""Mirror images of increments: against SciPy's reflected laws, quadrature, and draws of walks."""

import math

import numpy as np
import pytest
import torch
import torch.distributions as td
from scipy import integrate, stats

import discdiff as dd
from discdiff.increments import Mirror, Mirrored, increment


def number(x):
    return torch.tensor(x, dtype=torch.float64)


def turned(law, factor=-2.0):
    return td.TransformedDistribution(law, [td.AffineTransform(1.0, factor)])


LAWS = {
    "gumbel": (td.Gumbel(number(0.0), number(1.0)), stats.gumbel_r(), 0.5),
    "gamma": (td.Gamma(number(3.0), number(1.0)), stats.gamma(3.0), 0.7),
    "exponential": (td.Exponential(number(1.0)), stats.expon(), 0.4),
}


@pytest.mark.parametrize("name", LAWS)
def test_numbers_are_those_of_the_reflected_law(name):
    law, known, eta = LAWS[name]
    xi, mean, deviation = increment(turned(law)), known.mean(), known.std()
    pdf = lambda x: deviation * known.pdf(mean - deviation * x)
    x = np.array([-4.0, -1.0, 0.3, 0.9])
    assert xi.log_prob(number(x)).exp().numpy() == pytest.approx(pdf(x), rel=1e-11)
    below = known.sf(mean - deviation * x)
    assert xi.cdf(number(x)).numpy() == pytest.approx(below, rel=1e-9)
    low, high = (mean - known.ppf(1 - 1e-15)) / deviation, (mean - known.ppf(1e-15)) / deviation
    over = lambda f: integrate.quad(f, low - 40, high, limit=400, epsabs=1e-13)[0]
    for u in (0.4, 2.0):
        real = over(lambda v, u=u: pdf(v) * np.cos(u * v))
        imag = over(lambda v, u=u: pdf(v) * np.sin(u * v))
        assert complex(xi.cf(u)) == pytest.approx(complex(real, imag), abs=1e-9)
    assert float(xi.cumulants(3)[2]) == pytest.approx(-known.stats("s"), rel=1e-9)
    assert float(increment(law).cumulants(3)[2]) == pytest.approx(float(known.stats("s")))
    weight = over(lambda v: pdf(v) * math.exp(-eta * v))
    slope = over(lambda v: v * pdf(v) * math.exp(-eta * v)) / weight
    assert float(xi.cgf(-eta)) == pytest.approx(math.log(weight), abs=1e-9)
    assert float(xi.slope(-eta)) == pytest.approx(slope, abs=1e-8)
    assert float(xi.natural(slope)) == pytest.approx(-eta, abs=1e-6)
    tilted = xi.tilted(number(0.5), number(2.0), number(-eta))
    exact = pdf((x - 0.5) / 2) * np.exp(-eta * (x - 0.5) / 2) / weight / 2
    assert tilted.log_prob(number(x)).exp().numpy() == pytest.approx(exact, rel=1e-8)
    assert xi.cgf(-xi.base.domain[1] * 1.01) == math.inf > xi.cgf(xi.base.domain[1] * 1.01)


def test_signs_are_counted_and_symmetric_laws_are_themselves():
    gumbel = td.Gumbel(0.0, 1.0)
    twice = td.TransformedDistribution(
        gumbel, [td.AffineTransform(0, -1), td.AffineTransform(3, -2)]
    )
    assert not isinstance(increment(twice), Mirrored)
    assert isinstance(increment(turned(gumbel)), Mirrored)
    assert type(increment(turned(td.Laplace(0.0, 1.0)))) is type(increment(td.Laplace(0.0, 1.0)))
    bit = increment(turned(td.Bernoulli(0.2)))
    assert bit.points.tolist() == pytest.approx([-2.0, 0.5])


@pytest.mark.parametrize("law", [td.Gumbel(0.0, 1.0), td.Gamma(3.0, 1.0)])
@pytest.mark.parametrize("kind", [dd.Walk, dd.MarginalWalk, dd.ReverseWalk])
def test_walks_are_mirror_images(kind, law):
    """Of mirrored increments from −x_0 the walk is the mirrored one: laws, bridges, draws."""
    there, back = kind(turned(law), [0.3, 0.4]), kind(law, [0.3, 0.4])
    x_0, x_1, x_2 = (number([[v]]) for v in (0.3, -0.2, -0.6))
    for k, x in ((1, x_1), (2, x_2)):
        found = there.marginal(x_0, k).log_prob(x)
        assert float(found) == pytest.approx(float(back.marginal(-x_0, k).log_prob(-x)), abs=1e-8)
        wrong = back.marginal(x_0, k).log_prob(x)
        assert abs(float(found - wrong)) > 1e-3
    found = there.bridge(x_0, x_2, 1, 2).log_prob(x_1)
    goal = back.bridge(-x_0, -x_2, 1, 2).log_prob(-x_1)
    assert float(found) == pytest.approx(float(goal), abs=1e-8)
    if kind is dd.Walk:
        report = dd.check(there, torch.tensor([[0.3], [-0.5]]))
        assert report, report


def test_atoms_are_mirrored():
    """An atom beside a density, and a lattice: the distribution function takes them in."""
    law = increment(turned(td.Gamma(3.0, 1.0))).innovation(number(0.5), number(1.0))
    at = law.still.at
    chance = float(law.still.log_prob.exp())
    assert chance == pytest.approx(0.125)  # ρ^k
    below, here = law.cdf(at - 1e-9), law.cdf(at)
    assert float(here) == pytest.approx(1) and float(here - below) == pytest.approx(
        0.125, abs=1e-6
    )
    torch.manual_seed(0)
    assert float((law.sample((20_000,)) == at).double().mean()) == pytest.approx(0.125, abs=0.012)
    counts = Mirror(increment(td.Poisson(number(4.0))).law(number(0.0), number(2.0)))
    z = number([-3.0, -1.0, 0.0, 4.0])  # counts 7, 5, 4 and 0 and all that are more
    exact = stats.poisson(4.0).sf(np.array([7.0, 5.0, 4.0, 0.0]) - 1)
    assert counts.cdf(z).numpy() == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_centred_gamma_noise_in_continuous_time(sign):
    """Centred by an affine image of either sign: moments, and without drift a gamma law."""
    image = [td.AffineTransform(-3.0 * sign, sign)]
    noise = dd.Levy(td.TransformedDistribution(td.Gamma(number(3.0), number(1.0)), image))
    law = (dd.Linear(-0.5) + noise).marginal(number([[0.4]]), 2.0)
    assert float(law.mean) == pytest.approx(0.4 * math.exp(-1))
    assert float(law.variance) == pytest.approx(3 * (1 - math.exp(-2)))
    y = torch.linspace(-16, 16, 64_001, dtype=torch.float64)
    base = law.base_dist
    density = torch.stack([base.log_prob(v.reshape(1, 1)) for v in y[::32]]).exp().flatten()
    third = float((density * (y[::32] - law.mean.flatten()) ** 3).sum() * 0.0005 * 32)
    assert third == pytest.approx(sign * 2 * 3 * (1 - math.exp(-3)) / 1.5, rel=1e-3)
    free = noise.marginal(number([[0.4]]), 2.0)
    x = np.array([-2.0, 0.3, 1.9])
    exact = stats.gamma(6.0).logpdf(6.0 + sign * (x - 0.4))
    found = [float(free.log_prob(number([[v]]))) for v in x]
    assert found == pytest.approx(exact, rel=1e-9)
    with pytest.raises(ValueError, match="must have mean 0"):
        dd.Levy(td.TransformedDistribution(td.Gamma(3.0, 1.0), [td.AffineTransform(-2.9, 1.0)]))


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_jumps_the_other_way(noise):
    """A compound Poisson law of a negative factor: its own kind, so that its jumps are drawn."""
    law = dd.increments.CompoundPoisson(2.0, td.Exponential(number(1.0)), noise)
    xi, eta = increment(turned(law)), increment(law)
    assert type(xi) is type(eta)
    u, e, x = number([0.4, 2.0]), number([-0.6, 0.3]), number([-1.2, 0.5])
    assert torch.allclose(xi.cf(u), eta.cf(-u), rtol=0, atol=1e-14)
    assert torch.allclose(xi.cgf(-e), eta.cgf(e), rtol=0, atol=1e-13)
    assert torch.allclose(xi.log_prob(-x), eta.log_prob(x), rtol=0, atol=1e-9)
    torch.manual_seed(0)
    draws = xi.sample((40_000,))
    assert float((draws**3).mean()) == pytest.approx(float(xi.cumulants(3)[2]), abs=0.12)
    assert float(xi.cumulants(3)[2]) == pytest.approx(-float(eta.cumulants(3)[2]))


@pytest.mark.parametrize("law", [td.Gumbel(0.0, 1.0), td.Gamma(3.0, 1.0)], ids=["gumbel", "gamma"])
def test_levy_walks_are_mirror_images(law):
    there, back = dd.LevyWalk(turned(law), [0.3, 0.4]), dd.LevyWalk(law, [0.3, 0.4])
    x_0, x_1, x_2 = (number([[v]]) for v in (0.3, -0.2, -0.6))
    for k, x in ((1, x_1), (2, x_2)):
        found = there.marginal(x_0, k).log_prob(x)
        assert float(found) == pytest.approx(float(back.marginal(-x_0, k).log_prob(-x)), abs=1e-8)
        assert abs(float(found - back.marginal(x_0, k).log_prob(x))) > 1e-3
    found = there.bridge(x_0, x_2, 1, 2).log_prob(x_1)
    assert float(found) == pytest.approx(
        float(back.bridge(-x_0, -x_2, 1, 2).log_prob(-x_1)), abs=1e-8
    )
    report = dd.check(there, torch.tensor([[0.3], [-0.5]]))
    assert report, report
