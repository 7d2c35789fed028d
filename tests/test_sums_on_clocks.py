r"""Sums of terms on different clocks, :math:`\Lambda_a' L_a + \Lambda_b' L_b`."""

import copy
import math

import pytest
import torch

import discdiff as dd
from discdiff.clock import Clock

pytestmark = pytest.mark.usefixtures("float64")
F64 = torch.float64
X = torch.tensor([[1.0, 0.5], [-2.0, 0.3], [0.1, 4.0]], dtype=F64)
TIMES = torch.tensor([1e-6, 0.4, 1.0], dtype=F64)
BETA = dd.clock.Linear(0.1, 20.0)


class Lagging(Clock):
    r""":math:`\Lambda = B - (1 - e^{-2B}) / 2`: the noise of sub-VP for a VP clock B."""

    def forward(self, t):
        return BETA(t) + torch.expm1(-2 * BETA(t)) / 2

    def rate(self, t):
        return -BETA.rate(t) * torch.expm1(-2 * BETA(t))

    def inverse(self, u):
        raise NotImplementedError


def same(found, truth, rtol=1e-12):
    for a, b in ((found.mean, truth[0]), (found.variance, truth[1])):
        torch.testing.assert_close(a, b.expand(a.shape), rtol=rtol, atol=1e-300)


def column(v):
    return v[:, None]


def test_sub_vp():
    process = dd.Linear(-0.5).on(BETA) + dd.Noise(1.0).on(Lagging())
    B = column(BETA(TIMES))
    same(process.marginal(X, TIMES), ((-B / 2).exp() * X, torch.expm1(-B) ** 2))
    s = TIMES / 3
    A = column(BETA(s))
    bridge = (A - B).exp()
    spread = torch.expm1(-B) ** 2 - bridge * torch.expm1(-A) ** 2
    same(process.transition(X, s, TIMES), (((A - B) / 2).exp() * X, spread), rtol=1e-9)


def test_drift_and_noise_on_constant_clocks():
    r"""The clocks 2t and 3t with drift −1/2, shift 1/4 and noise 1 make rates −1, 1/2 and 3."""
    process = dd.Linear(-0.5, 0.25).on(dd.clock.Constant(2.0)) + dd.Noise(1.0).on(
        dd.clock.Constant(3.0)
    )
    t = column(TIMES)
    mean = (-t).exp() * X - torch.expm1(-t) / 2
    same(process.marginal(X, TIMES), (mean, -1.5 * torch.expm1(-2 * t)))


def test_noise_on_two_clocks_adds_up():
    clocks = dd.clock.Geometric(0.1, 3.0), dd.clock.Power(2.0, 2.0)
    process = dd.Noise(1.0).on(clocks[0]) + (2.0 * dd.Noise(0.5)).on(clocks[1])
    variance = column(clocks[0](TIMES) + clocks[1](TIMES) / 2)
    same(process.marginal(X, TIMES), (X, variance))


def test_diagonals_and_a_third_clock():
    parts = [
        dd.Linear([-0.5, -1.0]).on(dd.clock.Constant(1.0)),
        dd.Linear([0.25, 0.0]).on(dd.clock.Constant(2.0)),
        dd.Noise([1.0, 2.0]).on(dd.clock.Constant(3.0)),
    ]
    process = parts[0] + parts[1] + parts[2]
    t = column(TIMES)
    mean = torch.cat([0 * t, -t], 1).exp() * X
    same(process.marginal(X, TIMES), (mean, torch.cat([3 * t, -6 * torch.expm1(-2 * t)], 1)))


def test_matrices_on_two_equal_clocks_are_one_system():
    A, B = [[0.0, 4.0], [-1.0, -4.0]], [[0.0], [2**0.5]]
    clock, again = dd.clock.Linear(0.1, 6.0), dd.clock.Linear(0.1, 6.0)
    split = dd.Linear(A).on(clock) + dd.Noise(B).on(again)
    whole = (dd.Linear(A) + dd.Noise(B)).on(clock)
    for t in (1e-3, 0.3, 1.0):
        a, b = split.marginal(X, t), whole.marginal(X, t)
        torch.testing.assert_close(a.mean, b.mean, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(a.variance, b.variance, rtol=1e-11, atol=0)


def test_langevin_and_noise_on_another_clock():
    r"""With D = I and Q = 0 each coordinate has :math:`v' = 2 a' (1 - v) + b'`."""
    slow, fast = dd.clock.Constant(1.0), dd.clock.Constant(3.0)
    zero, eye = torch.zeros(2, 2), torch.eye(2)
    process = dd.Langevin(zero, eye, eye).on(slow) + dd.Noise(eye).on(fast)
    t = column(TIMES)
    same(process.marginal(X, TIMES), ((-t).exp() * X, -2.5 * torch.expm1(-2 * t)), rtol=1e-11)


def test_every_law_holds():
    process = dd.Linear(-0.5).on(BETA) + dd.Noise(1.0).on(Lagging())
    report = dd.check(process, torch.tensor([-1.0, 2.0]))
    assert report, str(report)


def test_clocks_and_numbers_can_be_learned():
    clock = dd.clock.Constant(2.0)
    process = dd.learn(dd.Linear(-0.5).on(clock) + dd.Noise(1.0).on(dd.clock.Constant(3.0)))
    law = process.marginal(X, 0.5)
    law.log_prob(X).sum().backward()
    grads = {n: float(p.grad) for n, p in process.named_parameters() if p.grad is not None}
    assert len([g for g in grads.values() if g != 0]) >= 4, grads
    names = set(process.state_dict())
    assert any("clock" in name for name in names) and any("term" in name for name in names)
    again = copy.deepcopy(process)
    again.load_state_dict(process.state_dict())
    torch.testing.assert_close(again.marginal(X, 0.5).mean, law.mean)


def test_the_loss_reads_the_rates():
    process = dd.Linear(-0.5).on(BETA) + dd.Noise(1.0).on(Lagging())
    t = torch.tensor([0.1, 0.5, 0.9])
    head = dd.heads.Mean(lambda x, t: torch.zeros_like(x))
    B = BETA(t)
    g2, v, phi = -BETA.rate(t) * torch.expm1(-2 * B), torch.expm1(-B) ** 2, (-B / 2).exp()
    expected = g2 / 2 * phi**2 / v**2 * X.square().sum(1)
    torch.testing.assert_close(dd.loss(process, head, X, t), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: dd.Noise(1.0).on(dd.clock.Cosine()), "Cosine.. is infinite"),
        (lambda: dd.Noise(1.0).on(dd.clock.Power(1.0, 0.5)), "is infinite"),
        (lambda: dd.Noise(1.0).on(dd.clock.Learned(BETA)), "has kinks"),
        (lambda: dd.Noise(1.0).on(dd.clock.Tabulated([0, 0.5, 1], [0, 1, 4])), "has kinks"),
        (lambda: dd.Noise(1.0).on(dd.clock.Constant(1.0)).scaled(lambda t: 1 + t), "unsupported"),
        (lambda: (dd.Field(lambda x, t: -x)).on(dd.clock.Constant(1.0)), "Field"),
    ],
)
def test_rates_that_no_quadrature_resolves_are_refused(make, named):
    with pytest.raises((dd.Unsolved, TypeError), match=named):
        dd.Linear(-0.5).on(BETA) + make()


def test_functions_of_own_time_need_a_finite_end():
    process = (dd.Linear(lambda t: -1 - t) + dd.Noise(1.0)).on(dd.clock.Cosine())
    with pytest.raises(dd.Unsolved, match="finite end"):
        process.marginal(X, 1.0)
    assert bool(process.marginal(X, 0.5).mean.isfinite().all())


def test_functions_that_need_more_nodes_get_them():
    r"""A rate with a bump of width 1/20: ∫ a is known by the error function."""
    bump = lambda t: -(-(((t - 0.5) * 20) ** 2)).exp()
    process = dd.Linear(bump).on(dd.clock.Constant(1.0)) + dd.Noise(1.0).on(dd.clock.Constant(2.0))
    inside = math.sqrt(math.pi) / 20 * math.erf(10.0)
    mean = process.marginal(X, 1.0).mean
    torch.testing.assert_close(mean, math.exp(-inside) * X, rtol=1e-10, atol=0)
