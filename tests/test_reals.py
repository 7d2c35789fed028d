"""Integers as reals: probabilities of integers from densities, Jacobians included."""

import math

import pytest
import torch
from torch.distributions import Normal

import discdiff as dd
from discdiff.numerics.quadrature import gauss_legendre
from discdiff.train.data import Counts
from discdiff.train.declare import encoding_for
from discdiff.train.describe import Description
from discdiff.train.encoding import AsReals

pytestmark = pytest.mark.usefixtures("float64")

K = 17
MEAN, STD = 0.3, 0.8
VP = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Constant(25.0))


class NormalData(dd.heads.Mean):
    """The exact head of data whose image under T⁻¹ is N(m, s²); the network sees T(y)."""

    def __init__(self, transform):
        def net(x, t):
            y, decay = transform.inv(x), (-VP.clock(t))[:, None]
            phi, noise = (decay / 2).exp(), -torch.expm1(decay)
            return (phi * STD**2 * y + noise * MEAN) / (phi**2 * STD**2 + noise)

        super().__init__(net)


def probabilities(log_density):
    """P(k) = ∫ p((k + u) / K) du / K for each k, by Gauss–Legendre in u."""
    u, w = gauss_legendre(12, 0.0, 1.0)
    x = (torch.arange(K)[:, None] + u) / K
    return (log_density(x.reshape(-1, 1)).exp().reshape(K, -1) * w).sum(1) / K


@pytest.mark.parametrize("transform", [dd.reals.centring(), dd.reals.Logistic(0.05)])
def test_integers_have_the_mass_of_their_intervals(transform):
    """Σ_k P(k) is the mass of the unit interval, and each P(k) that of its cell."""
    process, head = VP.push(transform), NormalData(transform)
    found = probabilities(lambda x: dd.log_prob(process, head, x, rtol=1e-9, atol=1e-9))
    ends = transform.inv(torch.arange(K + 1) / K)
    truth = Normal(MEAN, STD).cdf(ends).diff()
    assert torch.allclose(found, truth, atol=1e-8)
    # Without the Jacobian the sum is another number.
    bare = probabilities(lambda x: Normal(MEAN, STD).log_prob(transform.inv(x))[:, 0])
    assert abs(float(bare.sum() - truth.sum())) > 0.05


def test_bits_per_dim_of_a_bound_are_at_least_those_of_the_density():
    transform = dd.reals.Logistic()
    process, head = VP.push(transform), NormalData(transform)
    values = torch.randint(K, (4000, 1))
    x = dd.reals.dequantise(values, K)
    bound = dd.elbo(process, head, x)
    y = transform.inv(x)
    exact = Normal(MEAN, STD).log_prob(y) - transform.log_abs_det_jacobian(y, x)
    bits = [dd.reals.bits_per_dim(v, K, 1) for v in (bound, exact[:, 0])]
    gap = bits[0] - bits[1]
    # the exact mean: what the bound lacks is the decoder's; its own draws spread
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / 4000**0.5 + 2e-3


def test_the_logit_transform_is_the_published_one():
    """s = a + (1 − 2a) x, z = log s/(1 − s), ldj = −log(s − s²) + log(1 − 2a)."""
    a, transform = 0.05, dd.reals.Logistic(0.05)
    x = torch.linspace(0, 1, 11)
    s = a + (1 - 2 * a) * x
    z = (s / (1 - s)).log()
    assert torch.allclose(transform.inv(x), z)
    jacobian = -transform.log_abs_det_jacobian(z, x)
    assert torch.allclose(jacobian, -(s - s**2).log() + math.log(1 - 2 * a))
    assert torch.allclose(transform(z), x)
    with pytest.raises(ValueError, match="margin"):
        dd.reals.Logistic(0.5)
    with pytest.raises(ValueError, match="must lie in"):
        VP.push(transform).marginal(torch.tensor([[-0.1]]), 0.5)  # nothing is clamped


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_every_integer_comes_back(low):
    values = torch.arange(K).repeat(2000)
    x = dd.reals.dequantise(values, K, low)
    assert float(x.min()) >= low and float(x.max()) < 1
    assert torch.equal(dd.reals.quantise(x, K, low), values)
    inside = (x - low) / (1 - low) * K - values  # uniform: mean 1/2, variance 1/12
    assert abs(float(inside.mean()) - 0.5) < 5 * (1 / 12 / len(x)) ** 0.5


def test_the_trainer_chooses_the_interval_by_what_the_process_accepts():
    data = Description("digits", (3,), Counts(K - 1), torch.tensor(8.0), torch.tensor(5.0))
    assert encoding_for(VP, data) == AsReals(K)
    pushed = AsReals(K, 0.0)
    assert encoding_for(VP.push(dd.reals.Logistic()), data) == pushed
    x = pushed.encode(torch.randint(K, (500, 3)))
    log_density = torch.zeros(500)  # of a uniform law on the unit cube
    bits = dd.reals.bits_per_dim(log_density, K, 3)
    assert float(bits[0]) == pytest.approx(math.log2(K))
    assert pushed.log_scale((3,)) == pytest.approx(-3 * math.log(K))
    assert float(x.min()) >= 0 and float(x.max()) < 1
