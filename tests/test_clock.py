"""Clocks against their declarations in mpmath, at times from 1e-300 to 1 − 2⁻⁵³."""

import math

import mpmath
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mpmath import mpf

from discdiff import clock
from discdiff.clock import Clock

F64 = torch.float64
SETTINGS = settings(deadline=None, max_examples=40)
LAST = 1 - 2.0**-53
TIMES = [1e-300, 1e-100, 1e-20, 1e-8, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 1 - 1e-8, LAST]


def logistic(c):
    sigmoid = lambda a: 1 / (1 + mpmath.exp(-a))
    share = lambda t: sigmoid(c * (1 - 2 * t)) - sigmoid(mpf(-c))
    return lambda t: -mpmath.log(share(t) / share(mpf(0)))


def geometric(s0, s1):
    return lambda t: mpf(s0) ** 2 * ((mpf(s1) / mpf(s0)) ** (2 * t) - 1)


def log_snr(low, high):
    gamma = lambda t: mpf(low) + (mpf(high) - mpf(low)) * t
    return lambda t: mpmath.log((1 + mpmath.exp(gamma(t))) / (1 + mpmath.exp(mpf(low))))


def table(t):
    return 2 * t if t <= 0.5 else 1 + 6 * (t - mpf(0.5))


# Each clock with its Λ, straight from the definition, in 700 digits.
CLOCKS = {
    "constant": (lambda: clock.Constant(3.0), lambda t: 3 * t),
    "linear": (
        lambda: clock.Linear(0.1, 20.0),
        lambda t: mpf(0.1) * t + (20 - mpf(0.1)) * t**2 / 2,
    ),
    "linear from zero": (lambda: clock.Linear(0.0, 20.0), lambda t: 10 * t**2),
    "linear down": (lambda: clock.Linear(5.0, 1.0), lambda t: 5 * t - 2 * t**2),
    "cosine": (clock.Cosine, lambda t: -2 * mpmath.log(mpmath.cos(mpmath.pi * t / 2))),
    "log-linear": (clock.LogLinear, lambda t: -mpmath.log(1 - t)),
    "logistic": (lambda: clock.Logistic(15.0), logistic(15)),
    "logistic, mild": (lambda: clock.Logistic(0.25), logistic(0.25)),
    "geometric": (lambda: clock.Geometric(0.01, 50.0), geometric(0.01, 50)),
    "power": (lambda: clock.Power(80.0, 2.0), lambda t: (80 * t) ** 2),
    "odds": (lambda: clock.Odds(2.0), lambda t: (t / (1 - t)) ** 2),
    "log SNR": (lambda: clock.LogSNR(-13.25, 5.0), log_snr(-13.25, 5.0)),
    "function": (lambda: clock.Function(lambda t: t + t**2), lambda t: t + t**2),
    "learned": (lambda: clock.Learned(clock.LogLinear(), 8), lambda t: -mpmath.log(1 - t)),
    "tabulated": (lambda: clock.Tabulated([0.0, 0.5, 1.0], [0.0, 1.0, 4.0]), table),
}
INFINITE = {"cosine", "log-linear", "logistic", "logistic, mild", "learned", "odds"}
every = pytest.mark.parametrize("name", CLOCKS)


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def build(name):
    return CLOCKS[name][0]()


def exact(name, t):
    with mpmath.workdps(700):
        return float(CLOCKS[name][1](mpf(t)))


def exact_rate(name, t):
    """A central difference, whose relative error is 1e-40, in 700 digits."""
    with mpmath.workdps(700):
        t = mpf(t)
        step = min(t, 1 - t) * mpf(10) ** -20
        f = CLOCKS[name][1]
        return float((f(t + step) - f(t - step)) / (2 * step))


def rate_error(subject, name):
    """The largest relative error of the rate, away from the kink of the table."""
    at = [t for t in TIMES if t != 0.5]
    truth = tensor(*[exact_rate(name, t) for t in at])
    return float(((subject.rate(tensor(*at)).detach() - truth).abs() / truth).max())


@every
def test_the_integral_is_relatively_accurate_at_both_ends(name):
    truth = tensor(*[exact(name, t) for t in TIMES])
    torch.testing.assert_close(build(name)(tensor(*TIMES)).detach(), truth, rtol=1e-12, atol=0)


@every
def test_the_rate_is_the_derivative(name):
    assert rate_error(build(name), name) < 1e-12


@every
def test_the_rate_is_the_derivative_by_autograd(name):
    subject = build(name)
    t = tensor(0.01, 0.2, 0.45, 0.5001, 0.8, 0.99).requires_grad_()
    (slope,) = torch.autograd.grad(subject(t).sum(), t)
    torch.testing.assert_close(subject.rate(t), slope, rtol=1e-10, atol=0, check_dtype=True)


def test_a_rate_that_is_one_percent_off_is_seen():
    class Wrong(clock.Clock):
        def forward(self, t):
            return 3 * t

        def rate(self, t):
            return torch.full_like(t, 3.03)

        def inverse(self, u):
            return u / 3

    assert rate_error(Wrong(), "constant") == pytest.approx(0.01)


@every
def test_both_ends(name):
    subject = build(name)
    start, end = subject(tensor(0.0, 1.0)).tolist()
    assert start == 0
    finite = math.inf if name in INFINITE else exact(name, 1.0)
    assert end == (math.inf if name in INFINITE else pytest.approx(finite, rel=1e-14))
    back = subject.inverse(tensor(0.0, end)).detach()
    torch.testing.assert_close(back, tensor(0.0, 1.0), rtol=0, atol=1e-15)
    if name in INFINITE:
        assert subject.survival(tensor(1.0)).item() == 0
        assert subject.from_z(tensor(math.inf)).item() == 1


@every
@SETTINGS
@given(st.one_of(st.floats(0, 1), st.floats(-140, 0).map(lambda e: 10.0**e)))
@example(0.5)
@example(LAST)
def test_inverses(name, t):
    if 0 < t < 1e-140:
        t = 0.0
    subject = build(name)
    absolute = 1e-29 if name == "function" else 0.0
    back = subject.inverse(subject(tensor(t))).item()
    assert back == pytest.approx(t, rel=1e-12, abs=absolute)
    if 0 < t < 1 and name != "function":
        z = subject.z(tensor(t))
        assert subject.from_z(z).item() == pytest.approx(t, rel=1e-12)
        survival = subject.survival(tensor(t)).detach()
        torch.testing.assert_close(survival, torch.sigmoid(-z).detach(), rtol=1e-12, atol=1e-300)


@every
@SETTINGS
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_clocks_increase(name, times):
    subject = build(name)
    values = subject(tensor(*sorted(times)))
    steps = values[1:] - torch.where(
        values[:-1].isinf(), torch.zeros_like(values[1:]), values[:-1]
    )
    assert bool((steps >= 0).all())
    assert bool((subject.rate(tensor(*times)) >= 0).all())


DECLARED = {
    "constant": (lambda r: clock.Constant(r), (3.0,)),
    "linear": (lambda a, b: clock.Linear(a, b), (0.1, 20.0)),
    "logistic": (lambda c: clock.Logistic(c), (5.0,)),
    "geometric": (lambda a, b: clock.Geometric(a, b), (0.1, 5.0)),
    "power": (lambda c: clock.Power(c, 2.0), (3.0,)),
    "log SNR": (lambda a, b: clock.LogSNR(a, b), (-4.0, 5.0)),
    "tabulated": (lambda v: clock.Tabulated([0.0, 0.4, 1.0], tensor(0, 1, 3) * v), (1.5,)),
}


@pytest.mark.parametrize("name", DECLARED)
def test_gradients_in_declared_numbers(name):
    make, numbers = DECLARED[name]
    t, u, z = tensor(0.2, 0.5, 0.83), tensor(0.1, 0.7, 1.2), tensor(-1.0, 0.0, 0.2)
    leaves = [tensor(n)[0].requires_grad_() for n in numbers]
    for verb in ("__call__", "rate"):
        assert torch.autograd.gradcheck(lambda *n, v=verb: getattr(make(*n), v)(t), leaves)
    assert torch.autograd.gradcheck(lambda *n: make(*n).inverse(u), leaves)
    assert torch.autograd.gradcheck(lambda *n: make(*n).from_z(z), leaves)
    assert torch.autograd.gradcheck(make(*numbers).from_z, z.requires_grad_())
    ends = make(*leaves)(tensor(0.0, 1.0)).sum()
    assert all(bool(g.isfinite()) for g in torch.autograd.grad(ends, leaves))


@pytest.mark.parametrize("base", ["log-linear", "cosine", "linear"])
def test_gradients_and_accuracy_of_a_learned_clock(base):
    torch.manual_seed(0)
    subject = clock.Learned(build(base), 4)
    with torch.no_grad():
        subject.logits.normal_()

    def verbs(logits):
        at = lambda verb, v: torch.func.functional_call(
            _Verb(subject, verb), {"clock.logits": logits}, (v,)
        )
        t = tensor(0.1, 0.4, 0.9)
        return at("forward", t), at("rate", t), at("inverse", tensor(0.1, 0.7, 1.2))

    assert torch.autograd.gradcheck(verbs, subject.logits.detach().clone().requires_grad_())
    (grad,) = torch.autograd.grad(subject(tensor(0.0, 1.0)).sum(), subject.logits)
    assert bool(grad.isfinite().all())
    t = tensor(1e-140, 1e-20, 0.1, 0.6, 0.9, 1 - 1e-6)
    torch.testing.assert_close(subject.inverse(subject(t)), t, rtol=1e-12, atol=0)
    share = subject.logits.softmax(0).detach()
    w = tensor(1e-20 * 4 * float(share[0]), 1 - 1e-6 * 4 * float(share[-1]))
    found = subject(tensor(1e-20, 1 - 1e-6)).detach()
    torch.testing.assert_close(found, build(base)(w), rtol=1e-9, atol=0)


class _Verb(torch.nn.Module):
    def __init__(self, subject, verb):
        super().__init__()
        self.clock, self.verb = subject, verb

    def forward(self, at):
        return getattr(self.clock, self.verb)(at)


@every
@pytest.mark.parametrize("cast", ["half", "bfloat16", "float"])
def test_declared_numbers_stay_float64(name, cast):
    t = tensor(1e-20, 0.3, 0.999)
    subject = build(name)
    before = subject(t)
    getattr(subject, cast)()
    assert all(value.dtype == F64 for value in subject.state_dict().values())
    torch.testing.assert_close(subject(t), before, rtol=0, atol=0)


@every
def test_shapes_and_dtypes_are_kept(name):
    subject = build(name)
    for shape in ((), (3,), (2, 3)):
        t = torch.full(shape, 0.3, dtype=F64)
        for value in (subject(t), subject.rate(t), subject.inverse(t), subject.z(t)):
            assert value.shape == shape
            assert value.dtype == F64


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: clock.Constant(0.0), "rate"),
        (lambda: clock.Constant(math.inf), "rate"),
        (lambda: clock.Linear(-1.0, 1.0), "b0"),
        (lambda: clock.Linear(0.0, 0.0), "b1"),
        (lambda: clock.Logistic(-1.0), "c must"),
        (lambda: clock.Geometric(1.0, 0.5), "s1"),
        (lambda: clock.Geometric(0.0, 0.5), "s0"),
        (lambda: clock.Power(0.0), "scale"),
        (lambda: clock.Power(1.0, -1.0), "power"),
        (lambda: clock.Odds(0.0), "power"),
        (lambda: clock.LogSNR(1.0, 1.0), "low"),
        (lambda: clock.Function(lambda t: t + 1), r"f\(0\)"),
        (lambda: clock.Function(lambda t: t * (1 - t)), "increase"),
        (lambda: clock.Tabulated([0.0, 0.5], [0.0, 1.0]), "from 0 to 1"),
        (lambda: clock.Tabulated([0.0, 0.5, 1.0], [0.0, 1.0, 0.5]), "increase"),
        (lambda: clock.Tabulated([0.0, 1.0], [1.0, 2.0]), "start at 0"),
        (lambda: clock.Learned(panels=0), "panels"),
        (lambda: Clock(), "abstract"),
    ],
)
def test_bad_declarations_are_named(make, named):
    with pytest.raises((ValueError, TypeError), match=named):
        make()
