"""The inverse of 1/z − cot z against mpmath with 60 digits, from 0 to the poles."""

import math

import mpmath
import pytest
import torch

from discdiff.numerics.transcendental import circular_langevin, inverse_circular_langevin

F64 = torch.float64
MIDDLE = torch.linspace(0.5, 3.1, 200, dtype=F64)
NEAR = torch.logspace(-12, 0, 50, dtype=F64)
FAR = math.pi - torch.logspace(-1, -9, 80, dtype=F64)  # the poles are at ±π


def exact(z):
    """1/z − cot z and its derivative."""
    with mpmath.workdps(60):
        at = [mpmath.mpf(v) for v in z.tolist()]
        values = [float(1 / v - mpmath.cot(v)) for v in at]
        slopes = [float(1 / mpmath.sin(v) ** 2 - 1 / v**2) for v in at]
    return torch.tensor(values, dtype=F64), torch.tensor(slopes, dtype=F64)


@pytest.mark.parametrize("z", [NEAR, MIDDLE, FAR], ids=["near 0", "between", "near π"])
def test_inverse(z):
    y, slope = exact(z)
    y.requires_grad_()
    found = inverse_circular_langevin(y)
    assert float(((found.detach() - z) / z).abs().max()) < 1e-15
    assert torch.equal(inverse_circular_langevin(-y), -found)
    (inverse,) = torch.autograd.grad(found.sum(), y)
    rounding = 4e-15 / (math.pi - z)  # of z, against the distance to the pole
    assert bool(((inverse * slope - 1).abs() < 1e-13 + rounding).all())


def test_the_ends_are_never_reached():
    y = torch.tensor([1e15, 1e17, 1e300, math.inf], dtype=F64)
    found = inverse_circular_langevin(torch.cat([y, -y]))
    assert bool((found.abs() < math.pi).all())
    assert torch.allclose(found.abs(), torch.full_like(found, math.pi), rtol=1e-15, atol=0)
    assert bool(inverse_circular_langevin(torch.tensor([math.nan], dtype=F64)).isnan())


def test_there_and_back():
    z = torch.linspace(-3, 3, 61, dtype=F64)
    back = inverse_circular_langevin(circular_langevin(z))
    assert float((back - z).abs().max()) < 2e-15
    wrong = inverse_circular_langevin(1.0001 * circular_langevin(z))
    assert float((wrong - z).abs().max()) > 1e-6
