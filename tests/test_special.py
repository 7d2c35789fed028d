"""Special functions against mpmath with 60 digits and SciPy, at both ends of their domains."""

import math

import mpmath
import pytest
import scipy.stats
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import discdiff as dd
from discdiff.numerics import special

F64 = torch.float64
SETTINGS = settings(deadline=None, max_examples=60)
SIZES = st.floats(-300, math.log10(700)).map(lambda e: 10.0**e)


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def value_and_slope(f, *arguments):
    leaves = [tensor(a).requires_grad_() for a in arguments]
    value = f(*leaves)
    slopes = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    return float(value.detach()), [float(s) for s in slopes]


def close(found, exact, rtol=1e-13, atol=0.0):
    return float(found) == pytest.approx(float(exact), rel=rtol, abs=atol)


@SETTINGS
@given(SIZES)
@example(math.log(2))
@example(0.6931)
def test_logarithms_of_exponentials(x):
    with mpmath.workdps(400):
        e = mpmath.exp(x)
        assert close(special.log1mexp(tensor(x)), mpmath.log(1 - 1 / e))
        assert close(special.logexpm1(tensor(x)), mpmath.log(e - 1), atol=1e-15)
        for z in (x, -x):
            assert close(special.log1pexp(tensor(z)), mpmath.log(1 + mpmath.exp(z)))
            exact = mpmath.log(mpmath.log(1 + mpmath.exp(z)))
            assert close(special.log_softplus(tensor(z)), exact, atol=1e-15)


@SETTINGS
@given(st.floats(-200, 200))
@example(0.0)
@example(-15.0)
@example(50.0)
def test_slopes_of_logarithms_of_exponentials(z):
    with mpmath.workdps(200):
        sigmoid = 1 / (1 + mpmath.exp(-z))
        softplus = mpmath.log(1 + mpmath.exp(z))
    _, (slope,) = value_and_slope(special.log1pexp, z)
    assert close(slope, sigmoid)
    _, (slope,) = value_and_slope(special.log_softplus, z)
    assert close(slope, sigmoid / softplus, rtol=1e-12)
    if z:
        x = abs(z)
        _, (slope,) = value_and_slope(special.log1mexp, x)
        assert close(slope, 1 / mpmath.expm1(x))
        _, (slope,) = value_and_slope(special.logexpm1, x)
        assert close(slope, 1 + 1 / mpmath.expm1(x))


def test_limits_of_logarithms_of_exponentials():
    ends = tensor(0.0, math.inf)
    assert special.log1mexp(ends).tolist() == [-math.inf, 0.0]
    assert special.logexpm1(ends).tolist() == [-math.inf, math.inf]
    assert special.log1pexp(tensor(-math.inf, math.inf)).tolist() == [0.0, math.inf]
    assert special.log_softplus(tensor(-math.inf, math.inf)).tolist() == [-math.inf, math.inf]


def test_the_naive_form_fails_where_log1mexp_holds():
    x = 1e-12
    assert not close((1 - tensor(-x).exp()).log(), math.log(x), rtol=1e-7)
    assert close(special.log1mexp(tensor(x)), math.log(x))


@SETTINGS
@given(st.floats(-30, 30), SIZES.filter(lambda tau: tau < 20))
@example(0.0, 3.0)
@example(1e-4, 1.0)
@example(-9.99e-5, 1.0)
def test_expm1_ratio(a, tau):
    with mpmath.workdps(700):
        z = mpmath.mpf(a) * tau
        exact = mpmath.expm1(z) / a if a else mpmath.mpf(tau)
        slope = (tau * mpmath.exp(z) - exact) / a if a else mpmath.mpf(tau) ** 2 / 2
        value, slopes = value_and_slope(special.expm1_ratio, a, tau)
        assert close(value, exact)
        assert close(slopes[0], slope, rtol=1e-10, atol=1e-300)
        assert close(slopes[1], mpmath.exp(z), atol=1e-15)


def test_expm1_ratio_at_infinity():
    value, slopes = value_and_slope(special.expm1_ratio, -2.0, math.inf)
    assert (value, slopes) == (0.5, [0.25, 0.0])
    infinite = special.expm1_ratio(tensor(0.0, 1.0), tensor(math.inf, math.inf))
    assert infinite.tolist() == [math.inf, math.inf]


RATES = st.floats(1e-10, 1e10)


@SETTINGS
@given(RATES, RATES)
@example(1.0, 1.0)
def test_bregman_divergence(r, r_hat):
    with mpmath.workdps(60):
        exact = r * mpmath.log(mpmath.mpf(r) / r_hat) - mpmath.mpf(r) + r_hat
    size = 1e-15 * (r * (30 + abs(math.log(r)) + abs(math.log(r_hat))) + r_hat)
    found, slopes = value_and_slope(special.bregman, r, r_hat)
    assert close(found, exact, atol=size)
    assert close(slopes[0], math.log(r / r_hat), rtol=1e-12, atol=1e-13)
    assert close(slopes[1], 1 - r / r_hat, rtol=1e-12, atol=1e-14)
    assert close(special.bregman_log(tensor(r), tensor(r_hat).log()), exact, atol=100 * size)


def test_bregman_divergence_of_no_rate():
    r_hat = tensor(2.0, 0.0).requires_grad_()
    value = special.bregman(tensor(0.0, 0.0), r_hat)
    assert value.tolist() == [2.0, 0.0]
    (slope,) = torch.autograd.grad(value.sum(), r_hat)
    assert slope[0] == 1 and bool(slope.isfinite().all())
    assert special.bregman(tensor(1.0), tensor(0.0)).item() == math.inf
    log_r_hat = tensor(-math.inf, 0.0).requires_grad_()
    value = special.bregman_log(tensor(0.0, 0.0), log_r_hat)
    (slope,) = torch.autograd.grad(value.sum(), log_r_hat)
    assert value.tolist() == slope.tolist() == [0.0, 1.0]


def test_the_fused_form_has_no_gradient_where_bregman_has_one():
    r_hat = tensor(2.0).requires_grad_()
    r = tensor(0.0).requires_grad_()
    fused = torch.xlogy(r, r / r_hat) - r + r_hat
    assert not all(bool(g.isfinite()) for g in torch.autograd.grad(fused, (r, r_hat)))
    (slope,) = torch.autograd.grad(special.bregman(r.detach(), r_hat), r_hat)
    assert slope.item() == 1


@SETTINGS
@given(st.integers(0, 1000), st.floats(0, 1), SIZES.filter(lambda q: q < 1))
def test_binomial_law(n, share, p):
    k = round(share * n)
    log_p, log_q = tensor(p).log(), torch.log1p(-tensor(p))
    found = special.log_binomial_pmf(tensor(float(k)), tensor(float(n)), log_p, log_q)
    with mpmath.workdps(40):
        exact = mpmath.log(mpmath.binomial(n, k)) + k * mpmath.log(p) + (n - k) * mpmath.log1p(-p)
    assert close(found, exact, rtol=1e-13, atol=1e-11)
    assert close(special.log_binomial(tensor(float(n)), tensor(float(k))).exp(),
                 math.comb(n, k), rtol=1e-11)  # fmt: skip


def test_binomial_law_at_its_ends():
    k, n = torch.arange(-1.0, 6.0, dtype=F64), tensor(4.0)
    never, sure = tensor(-math.inf), tensor(0.0)
    assert special.log_binomial_pmf(k, n, never, sure).exp().tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert special.log_binomial_pmf(k, n, sure, never).exp().tolist() == [0, 0, 0, 0, 0, 1, 0]
    probabilities = special.log_binomial_pmf(k, n, tensor(0.3).log(), tensor(0.7).log()).exp()
    torch.testing.assert_close(probabilities, torch.from_numpy(scipy.stats.binom.pmf(k, 4, 0.3)))
    log_p = never.clone().requires_grad_()
    value = special.log_binomial_pmf(tensor(0.0), n, log_p, sure)
    assert torch.autograd.grad(value.sum(), log_p)[0].item() == 0


def test_poisson_law():
    k = torch.arange(-1.0, 40.0, dtype=F64)
    found = special.log_poisson_pmf(k, tensor(7.5))
    torch.testing.assert_close(found.exp(), torch.from_numpy(scipy.stats.poisson.pmf(k, 7.5)))
    assert special.log_poisson_pmf(k, tensor(0.0)).exp().tolist() == [0, 1, *[0] * 39]
    rate = tensor(0.0).requires_grad_()
    value = special.log_poisson_pmf(tensor(0.0), rate)
    assert torch.autograd.grad(value.sum(), rate)[0].item() == -1


def test_safe_log_and_times_log_have_no_nan_gradient():
    p = tensor(0.0, 0.5).requires_grad_()
    value = special.safe_log(p)
    assert value.tolist() == [-math.inf, math.log(0.5)]
    assert torch.autograd.grad(value.exp().sum(), p)[0].tolist() == [0.0, 1.0]
    value = special.times_log(tensor(0.0, 2.0), special.safe_log(p))
    assert value.tolist() == [0.0, 2 * math.log(0.5)]
    assert torch.autograd.grad(value.sum(), p)[0].tolist() == [0.0, 4.0]


@pytest.mark.parametrize("count", [1e3, 1e5, 1e6, 1.6e7])
def test_laws_of_many_units_in_float32_are_those_of_float64(count):
    x = torch.tensor([[count]], dtype=torch.float64)
    y, z = (count / 2 + (count / 4) ** 0.5) // 1, (count + count**0.5) // 1
    half, limit = dd.Death(), (dd.Death() + dd.Immigration(count)).limit((1, 1))
    law = half.transition(x.float(), 0.0, math.log(2)).log_prob(torch.tensor([[y]]).float())
    assert float(law) == pytest.approx(scipy.stats.binom.logpmf(y, count, 0.5), rel=1e-6)
    found = limit.log_prob(torch.tensor([[z]]))
    assert float(found) == pytest.approx(scipy.stats.poisson.logpmf(z, count), rel=1e-6)
