r"""Scaled processes whose clock ends at infinity, and time integrals of noise that spreads.

The straight line :math:`x_t = (1 - t) x_0 + t \varepsilon` is white noise on the clock
:math:`(t / (1 - t))^2`, times 1 − t. Its laws are known in closed form at all times.
"""

import math

import pytest
import torch
from pyro.distributions import Normal

import discdiff as dd
from discdiff.expectation import entropy_gap

pytestmark = pytest.mark.usefixtures("float64")
X = torch.tensor([[-1.0, 0.5], [2.0, 1.0], [0.3, -2.0]], dtype=torch.float64)
ATOMS = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def line():
    return dd.Noise(1.0).on(dd.clock.Odds(2.0)).scaled(lambda t: 1 - t)


def circle():
    angle = math.pi / 2
    clock = dd.clock.Function(lambda t: torch.tan(angle * t) ** 2)
    return dd.Noise(1.0).on(clock).scaled(lambda t: torch.cos(angle * t))


def agrees(draws, truth):
    error = draws.std() / math.sqrt(draws.numel())
    assert abs(float(draws.mean() - truth)) <= 5 * float(error)


def moments(law):
    return law.mean, law.variance


@pytest.mark.parametrize("t", [1e-8, 0.1, 0.5, 0.9, 1 - 1e-9, 1.0])
def test_the_line_has_its_closed_form_at_all_times(t):
    mean, variance = moments(line().marginal(X, t))
    assert torch.allclose(mean, (1 - t) * X, rtol=1e-12, atol=1e-15)
    assert torch.allclose(variance, torch.full_like(X, t**2), rtol=1e-12)


def test_the_end_is_noise_alone():
    for law in (line().marginal(X, 1.0), line().transition(X, 0.3, 1.0), line().prior((3, 2))):
        mean, variance = moments(law)
        assert float(mean.abs().max()) < 1e-15
        assert float((variance - 1).abs().max()) < 1e-15
    assert float(dd.likelihood.prior_kl(line(), X).abs().max()) < 1e-30


@pytest.mark.parametrize("make", [line, circle])
@pytest.mark.parametrize("s", [1e-6, 0.3, 0.8])
def test_the_bridge_from_the_end_forgets_the_noise(make, s):
    x_1 = torch.randn(3, 2)
    mean, variance = moments(make().bridge(X, x_1, s, 1.0))
    alone = make().marginal(X, s)
    assert torch.allclose(mean, alone.mean, rtol=1e-12, atol=1e-14)
    assert torch.allclose(variance, alone.variance, rtol=1e-12)


def test_the_bridge_is_bayes_rule():
    s, t, x_t, x_s = 0.3, 0.8, torch.randn(3, 2), torch.randn(3, 2)
    process = line()
    joint = process.marginal(X, s).log_prob(x_s) + process.transition(x_s, s, t).log_prob(x_t)
    bridge = process.bridge(X, x_t, s, t).log_prob(x_s)
    assert torch.allclose(joint, process.marginal(X, t).log_prob(x_t) + bridge, rtol=1e-12)


def test_the_circle_is_variance_preserving():
    vp = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Cosine())
    x_t = torch.randn(3, 2)
    for s, t in [(0.1, 0.4), (0.5, 0.9), (0.2, 1.0)]:
        pairs = (
            (circle().transition(X, s, t), vp.transition(X, s, t)),
            (circle().bridge(X, x_t, s, t), vp.bridge(X, x_t, s, t)),
        )
        for a, b in pairs:
            for found, truth in zip(moments(a), moments(b), strict=True):
                assert torch.allclose(found, truth, rtol=1e-11, atol=1e-14)


def test_ddim_is_eulers_step_along_the_velocity():
    """x_s = x_t + (s − t) (ε̂ − x̂_0), also from t = 1."""
    process, x_t, x_0 = line(), torch.randn(3, 2), X
    for s, t in [(0.2, 0.7), (0.6, 1.0)]:
        epsilon = (x_t - (1 - t) * x_0) / t
        law = process._bridge(dd.estimates.Mean(x_0), x_t, *_at(s, t), 0.0)
        expected = x_t + (s - t) * (epsilon - x_0)
        assert torch.allclose(law.mean, expected, rtol=1e-12, atol=1e-14)


def _at(*times):
    return [torch.full((3,), t, dtype=torch.float64) for t in times]


def test_heads_mean_what_they_say_about_the_scaled_state():
    t = torch.tensor([0.2, 0.5, 0.9])
    column = t[:, None]
    x_t = line().marginal(X, t).sample()
    epsilon = (x_t - (1 - column) * X) / column
    data = dd.estimates.Data(X)
    said = {
        kind: line().convert(data, x_t, t, kind).value
        for kind in (dd.estimates.Epsilon, dd.estimates.Velocity, dd.estimates.Score)
    }
    assert torch.allclose(said[dd.estimates.Epsilon], epsilon, rtol=1e-12)
    velocity = (1 - column) * epsilon - column * X
    assert torch.allclose(said[dd.estimates.Velocity], velocity, rtol=1e-12, atol=1e-14)
    assert torch.allclose(said[dd.estimates.Score], -epsilon / column, rtol=1e-12)
    for kind, value in said.items():
        back = line().convert(kind(value), x_t, t, dd.estimates.Mean).value
        assert torch.allclose(back, X, rtol=1e-10), kind


def test_the_loss_is_the_rate_of_the_signal_to_noise_ratio():
    r""":math:`-\tfrac12 \mathrm{SNR}'\, \|x_0 - \hat x_0\|^2`, with SNR = (1 − t)² / t²."""
    t = torch.tensor([1e-3, 0.5, 1 - 1e-6])
    guess = torch.tensor([[0.1, -0.2]])
    head = dd.heads.Mean(lambda x, t: guess.expand_as(x))
    found = dd.loss(line(), head, X, t)
    assert torch.allclose(found, (1 - t) / t**3 * (X - guess).square().sum(1), rtol=1e-9)


@pytest.mark.parametrize("kind", [dd.heads.Mean, dd.heads.Velocity])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_from_the_end_returns_to_the_data(kind, eta):
    head = dd.Exact(line(), ATOMS).as_(kind)
    ancestral = dd.steppers.Ancestral(eta=eta)
    x = dd.sample(line(), head, (400,), steps=20, stepper=ancestral)
    assert float((x.abs() - 1).abs().max()) < 1e-6
    agrees(x, 0.0)


def test_noise_at_the_end_says_nothing_of_the_data():
    with pytest.raises(dd.Unsolved, match="cannot step from Λ = ∞"):
        dd.sample(line(), dd.heads.Epsilon(lambda x, t: x), (2, 2))


@pytest.mark.parametrize("kind", [dd.heads.Mean, dd.heads.Velocity])
def test_the_bound_of_gaussian_data_is_their_density(kind):
    """For data N(0, 1) the exact mean is linear, and the path-KL is finite with these heads."""
    a, s = (lambda t: 1 - t[:, None]), (lambda t: t[:, None])

    def net(x, t):
        size = a(t) ** 2 + s(t) ** 2
        mean, noise = a(t) * x / size, s(t) * x / size
        return mean if kind is dd.heads.Mean else a(t) * noise - s(t) * mean

    x_0 = torch.tensor([[0.3, -1.2]])
    bound = dd.elbo(line(), kind(net), x_0.expand(400, 2), nodes=41)
    truth = Normal(0.0, 1.0).log_prob(x_0).sum()
    assert bool(bound.isfinite().all())
    agrees(bound, truth)


def test_path_kl_of_the_exact_head_is_the_entropy():
    agrees(dd.path_kl(line(), dd.Exact(line(), ATOMS), ATOMS.repeat(2000)), math.log(2))


def test_the_line_passes_every_law():
    report = dd.check(line(), ATOMS)
    assert report, str(report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_reach_the_end(dtype):
    torch.set_default_dtype(torch.float32)
    x_0 = X.to(dtype)
    head = dd.heads.Velocity(lambda x, t: -x_0)
    x = dd.sample(line(), head, (3, 2), steps=4, start=torch.randn(3, 2).to(dtype))
    assert x.dtype == dtype and bool(x.isfinite().all())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: line().process.scaled(lambda t: 2 - t), r"alpha\(0\)"),
        (lambda: dd.Noise(1.0).on(dd.clock.Constant(1.0)).scaled(lambda t: 1 - t), "ends at ∞"),
        (lambda: line().process.scaled(lambda t: 1 - 2 * t), "not 0"),
        (lambda: line().process.scaled(lambda t: 1 - t.log()), "alpha"),
    ],
)
def test_scales_that_leave_nothing_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


# -- noise that spreads ---------------------------------------------------------------------------

SPREADING = {
    "VE": dd.Noise(1.0).on(dd.clock.Geometric(0.01, 50.0)),
    "EDM": dd.Noise(1.0).on(dd.clock.Power(80.0, 2.0)),
    "line": line(),
    "two clocks of one": dd.Product(
        a=dd.Noise(1.0).on(clock := dd.clock.Power(9.0, 2.0)),
        b=(dd.Linear(-0.5) + dd.Noise(1.0)).on(clock),
    ),
}


@pytest.mark.parametrize("name", SPREADING)
def test_the_time_integral_reaches_the_end(name):
    """It once stopped at Λ = 40, where 1/40 of the signal is left under white noise."""
    process = SPREADING[name]
    data = {"a": ATOMS, "b": ATOMS} if name.startswith("two") else ATOMS
    exact = dd.Exact(process, data)
    assert abs(float(entropy_gap(process, exact, data, nodes=161))) < 1e-8
    many = {k: v.repeat(1500) for k, v in data.items()} if isinstance(data, dict) else data
    many = many if isinstance(many, dict) else many.repeat(1500)
    inside = dd.expectation.expected_path_kl(process, exact, data).mean()
    prior = dd.likelihood.prior_kl(process, data).mean()
    agrees(dd.path_kl(process, exact, many), float(inside + prior))
    # KL(p_1 ‖ prior) and the information left at 1 make up what the path-KL lacks of log 2.
    assert math.log(2) - 1e-6 < float(inside + prior) < math.log(2) + float(prior) + 1e-6
