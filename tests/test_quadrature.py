"""Quadrature against moments in closed form and integrals of mpmath."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from discdiff.numerics.quadrature import gauss_hermite, gauss_legendre, real_line

SETTINGS = settings(deadline=None, max_examples=30)


@SETTINGS
@given(st.integers(1, 20), st.floats(-3, 3), st.floats(0.1, 4))
def test_legendre_is_exact_up_to_its_degree(n, a, width):
    u, w = gauss_legendre(n, a, a + width)
    assert u.dtype == w.dtype == torch.float64
    assert bool((w > 0).all() and (u > a).all() and (u < a + width).all())
    centred = 2 * (u - a) / width - 1
    for degree in range(2 * n):
        exact = width / (degree + 1) if degree % 2 == 0 else 0.0
        assert float((w * centred**degree).sum()) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_legendre_misses_the_next_degree(n):
    u, w = gauss_legendre(n, -1.0, 1.0)
    assert abs(float((w * u ** (2 * n)).sum()) - 2 / (2 * n + 1)) > 1e-3


@pytest.mark.parametrize("n", [1, 4, 20, 60])
def test_hermite_has_the_moments_of_the_normal_law(n):
    u, w = gauss_hermite(n)
    for degree in range(0, min(2 * n, 30), 2):
        exact = math.prod(range(1, degree, 2))
        assert float((w * u**degree).sum()) == pytest.approx(exact, rel=1e-11)
        assert float((w * u ** (degree + 1)).sum()) == pytest.approx(0, abs=1e-9 * exact)


def test_hermite_of_an_analytic_function():
    u, w = gauss_hermite(20)
    assert float((w * u.cos()).sum()) == pytest.approx(math.exp(-0.5), rel=1e-13)


def test_the_real_line_converges_exponentially():
    """z's logistic density times a smooth function, as in a time integral."""
    density = lambda z: 1 / (4 * mpmath.cosh(z / 2) ** 2)
    exact = mpmath.quad(lambda z: density(z) * mpmath.log(1 + mpmath.exp(z)), [-60, 0, 60])
    errors = []
    for n in (21, 41, 81, 161):
        z, w = real_line(n, 40.0)
        density = torch.sigmoid(z) * torch.sigmoid(-z)
        value = (w * density * torch.nn.functional.softplus(z, threshold=50)).sum()
        errors.append(abs(float(value) - float(exact)))
    assert float(exact) == pytest.approx(1.0, abs=1e-13)  # E[Λ] for a uniform survival
    rates = [-math.log(error) for error in errors[:3]]
    assert rates[2] - rates[1] > 1.5 * (rates[1] - rates[0]) > 0
    assert errors[3] < 1e-13


def test_the_real_line_is_symmetric():
    z, w = real_line(121, 40.0)
    torch.testing.assert_close(z, -z.flip(0), rtol=1e-14, atol=1e-14)
    assert float(w.sum()) == pytest.approx(80 * 121 / 120)
