"""log K_a(z) against mpmath, its derivatives, and how many nodes it takes."""

import mpmath
import pytest
import torch

from discdiff.numerics import transcendental
from discdiff.numerics.transcendental import log_bessel_k

pytestmark = pytest.mark.usefixtures("float64")
ORDERS = [0.0, 1e-6, 0.01, 0.3, 0.5, 1.7, 10.0, 40.0]
ARGUMENTS = [1e-100, 1e-30, 1e-18, 1e-9, 1e-3, 0.2, 1.0, 7.0, 100.0, 1e4]


def truth(a, z):
    with mpmath.workdps(40):
        return float(mpmath.log(mpmath.besselk(mpmath.mpf(a), mpmath.mpf(z))))


def error(orders=ORDERS, arguments=ARGUMENTS):
    worst = 0.0
    for a in orders:
        found = log_bessel_k(torch.tensor(a), torch.tensor(arguments))
        for z, value in zip(arguments, found.tolist(), strict=True):
            goal = truth(a, z)
            worst = max(worst, abs(value - goal) / max(1.0, a, z, abs(goal)))
    return worst


def test_values():
    assert error() < 2e-15
    assert error([300.0], [1.0, 30.0, 300.0, 3e4]) < 2e-15


def test_fewer_nodes_would_not_do(monkeypatch):
    nodes = transcendental._nodes
    fewer = lambda a, z: (*nodes(a, z)[:2], (nodes(a, z)[2] / 3).ceil())
    monkeypatch.setattr(transcendental, "_nodes", fewer)
    assert error([0.0], [1e-9]) > 1e-11
    assert error([40.0], [7.0]) > 1e-11


@pytest.mark.parametrize("a", [1e3, 1e5])
def test_large_orders_by_recurrence(a):
    r""":math:`K_{a+1} = K_{a-1} + (2a / z) K_a`."""
    z = a * torch.tensor([0.01, 0.5, 1.0, 30.0])
    low, middle, high = (log_bessel_k(torch.tensor(a + n), z) for n in (-1, 0, 1))
    total = torch.logaddexp(low, middle + (2 * a / z).log())
    assert float(((high - total) / z.clamp(min=a)).abs().max()) < 1e-14


@pytest.mark.parametrize("a", [0.3, 2.5, 60.0])
@pytest.mark.parametrize("z", [1e-4, 0.7, 25.0])
def test_derivatives(a, z):
    """By recurrence and Bessel's equation in z, by mpmath's differences in a."""
    order, at = torch.tensor(a, requires_grad=True), torch.tensor(z, requires_grad=True)
    first = torch.autograd.grad(log_bessel_k(order, at), (order, at), create_graph=True)
    (second,) = torch.autograd.grad(first[1], at)
    with mpmath.workdps(40):
        k = [mpmath.besselk(mpmath.mpf(a) + n, mpmath.mpf(z)) for n in (-1, 0, 1)]
        slope = float(-(k[0] + k[2]) / 2 / k[1])
        by_order = float(mpmath.diff(lambda v: mpmath.log(mpmath.besselk(v, z)), mpmath.mpf(a)))
    assert first[0].item() == pytest.approx(by_order, rel=1e-12)
    assert first[1].item() == pytest.approx(slope, rel=1e-12)
    assert float(second) == pytest.approx(1 + (a / z) ** 2 - slope / z - slope**2, rel=1e-10)


def test_batches_are_what_their_entries_are():
    """Sorted by their numbers of nodes, and put back."""
    a = torch.cat([3 * torch.rand(700), torch.full((300,), 1e4)])[torch.randperm(1000)]
    z = 10 ** (4 * torch.randn(1000)).clamp(-18, 4)
    each = torch.stack([log_bessel_k(*pair) for pair in zip(a, z, strict=True)])
    scale = torch.maximum(torch.maximum(a, z), each.abs()).clamp(min=1)
    found = log_bessel_k(a.reshape(20, 50), z.reshape(20, 50)).reshape(-1)
    assert float(((found - each) / scale).abs().max()) < 2e-15


def test_ends():
    found = log_bessel_k(torch.tensor(0.5), torch.tensor([torch.nan, 0.0, 1.0]))
    assert bool(found[0].isnan() & found[1].isposinf() & found[2].isfinite())
    assert log_bessel_k(torch.tensor(0.5), torch.zeros(0, 3)).shape == (0, 3)
