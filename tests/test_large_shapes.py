"""Gamma noise of large shape, as that of DDGM: digits that cancel are not lost."""

import mpmath
import pytest
import torch

import discdiff as dd
from discdiff.increments import GammaShare, VarianceGamma

WALK = dd.zoo.ddgm()
KEPT = (1 - WALK.betas).cumprod(0)


def number(x):
    return torch.tensor(x, dtype=torch.float64)


def log_gamma_density(x, x_0, k):
    """Of the shifted gamma law, in 60 digits."""
    mpmath.mp.dps = 60
    a = mpmath.mpf(float(KEPT[k - 1]))
    shape = (1 / a - 1) * mpmath.mpf(10) ** 6
    scale = mpmath.sqrt(a) / 1000
    g = (mpmath.mpf(x) - mpmath.sqrt(a) * x_0) / scale + shape
    log_f = (shape - 1) * mpmath.log(g) - g - mpmath.loggamma(shape) - mpmath.log(scale)
    return float(log_f)


@pytest.mark.parametrize("k", [1, 10, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_density_of_gamma_noise(k, dtype):
    """The shape is 2.5e10 at the end, where log Γ has no digit left in float32."""
    x_0 = torch.full((5, 1), 0.5, dtype=dtype)
    z = torch.tensor([[-2.0], [-0.7], [0.0], [0.9], [3.0]], dtype=dtype)
    x = KEPT[k - 1].sqrt().to(dtype) * x_0 + (1 - KEPT[k - 1]).sqrt().to(dtype) * z
    found = WALK.marginal(x_0, k).log_prob(x).double()
    goal = number([log_gamma_density(v, 0.5, k) for v in x[:, 0].tolist()])
    single = dtype == torch.float32
    assert found.sub(goal).abs().max() < (1e-5 if single else 1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_of_gamma_noise_fill_the_line(dtype):
    """Distances to the end of the support have steps of 1/64 in float32; those to the mean not."""
    torch.manual_seed(0)
    x = WALK.marginal(torch.zeros(20000, 1, dtype=dtype), 1000).sample()
    assert x.dtype == dtype
    assert x.unique().numel() > 19000
    assert abs(float(x.mean())) < 4 / 20000**0.5
    assert abs(float(x.var()) - 1) < 4 * (2 / 20000) ** 0.5


@pytest.mark.parametrize("k", [2, 30, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bridge_of_gamma_noise(k, dtype):
    """Bayes' rule of three densities in 60 digits; draws have their mean and variance."""
    mpmath.mp.dps = 60
    a_s, a_t = (mpmath.mpf(float(KEPT[i])) for i in (k - 2, k - 1))
    x_0 = torch.full((4, 1), 0.5, dtype=dtype)
    x = torch.full(
        (4, 1), float(mpmath.sqrt(a_t)) * 0.5 + float(1 - KEPT[k - 1]) ** 0.5, dtype=dtype
    )
    law = WALK.bridge(x_0, x, k - 1, k)
    variance = float(WALK.betas[k - 1] * (1 - KEPT[k - 2]) / (1 - KEPT[k - 1]))
    y = law.mean + variance**0.5 * torch.tensor([[-1.5], [0.0], [0.4], [2.0]], dtype=dtype)
    early, late = ((1 / a - 1) * 10**6 for a in (a_s, a_t))
    units = (mpmath.mpf(float(x[0])) / mpmath.sqrt(a_t) - 0.5) * 1000 + late

    def goal(v):
        g = (mpmath.mpf(v) / mpmath.sqrt(a_s) - 0.5) * 1000 + early
        b = g / units
        log_f = (early - 1) * mpmath.log(b) + (late - early - 1) * mpmath.log(1 - b)
        log_beta = mpmath.loggamma(early) + mpmath.loggamma(late - early) - mpmath.loggamma(late)
        return float(log_f - log_beta - mpmath.log(units / 1000 * mpmath.sqrt(a_s)))

    found = law.log_prob(y).double()
    single = dtype == torch.float32
    allowed = 2e-3 if single else 1e-8  # of states that are rounded themselves
    assert found.sub(number([goal(v) for v in y[:, 0].tolist()])).abs().max() < allowed
    torch.manual_seed(1)
    many = (v[:1].expand(20000, 1) for v in (x_0, x))
    drawn = WALK.bridge(*many, k - 1, k).sample().double()
    share = early / late * (1 - early / late) / (late + 1)
    exact = float((units / 1000 * mpmath.sqrt(a_s)) ** 2 * share)
    z = (drawn - law.mean[0].double()) / exact**0.5
    assert abs(float(z.mean())) < 4 / 20000**0.5
    assert abs(float(z.var()) - 1) < 4 * (2 / 20000) ** 0.5
    assert z.unique().numel() > 10000


def test_shares_of_few_units_are_those_of_beta():
    """Below the border the law is Beta itself; on both sides of it the formulas agree."""
    mpmath.mp.dps = 40
    for a, b in ((0.7, 2.5), (63.9, 63.9), (64.1, 64.1), (64.1, 1e4)):
        law = GammaShare(number(a), number(b), number(2.0), torch.zeros(3, dtype=torch.float64))
        p, deviation = a / (a + b), float(law.variance[0]) ** 0.5
        x = torch.tensor([-0.5, 0.1, 1.0], dtype=torch.float64) * deviation
        for at, found in zip(x.tolist(), law.log_prob(x).tolist(), strict=True):
            v = mpmath.mpf(p) + mpmath.mpf(at) / 2
            goal = (a - 1) * mpmath.log(v) + (b - 1) * mpmath.log(1 - v)
            goal = goal - mpmath.log(mpmath.beta(a, b)) - mpmath.log(2)
            assert abs(found - float(goal)) < 1e-11


def test_laplace_process_in_single_precision():
    """At τ = 24 777 its density is the difference of numbers of the size of 2e5."""
    x = torch.linspace(-400, 400, 9)
    single = VarianceGamma(torch.zeros(9), torch.ones(9), torch.full((9,), 24777.0)).log_prob(x)
    mpmath.mp.dps = 40
    a = mpmath.mpf(24777) - 0.5
    for at, found in zip(x.tolist(), single.tolist(), strict=True):
        z = max(abs(at), 1e-30) * mpmath.sqrt(2)
        goal = a * mpmath.log(z / 2) + mpmath.log(mpmath.besselk(a, z)) - mpmath.loggamma(a + 0.5)
        goal = goal - mpmath.log(mpmath.pi) / 2 + mpmath.log(2) / 2
        assert abs(found - float(goal)) < 2e-6


def test_gradients_reach_the_numbers():
    k = torch.tensor([3.0, 500.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.2, 0.3], dtype=torch.float64, requires_grad=True)

    def log_density(k, x):
        return dd.increments.ShiftedGamma(k, k.rsqrt(), -k.sqrt()).log_prob(x)

    assert torch.autograd.gradcheck(log_density, (k, x))
