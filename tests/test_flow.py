"""The likelihood of the probability flow against exact densities."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal
from torch.distributions.transforms import SigmoidTransform

import discdiff as dd

pytestmark = pytest.mark.usefixtures("float64")

CLD = dd.Linear([[0.0, 4.0], [-1.0, -4.0]]) + dd.Noise([[0.0], [2**0.5]])
VP = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
GENERAL = {
    "VP": (VP, [0.3, 2.0, 0.8]),
    "CLD with its auxiliary": (CLD.on(dd.clock.Constant(4.0)), [0.2, 1.5]),
    "k = 2": (
        (dd.Linear([[-0.5, 1.0], [-0.7, -1.0]]) + dd.Noise([[0.6, 0.0], [0.3, 1.0]])).on(
            dd.clock.Linear(0.1, 12.0)
        ),
        [0.2, 1.5],
    ),
    "k = 3": (
        dd.Langevin(
            [[0.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]], torch.eye(3) / 2, torch.eye(3)
        ).on(dd.clock.Constant(6.0)),
        [0.2, 1.5, 0.6],
    ),
}


def turned(scales, seed=0):
    """A covariance with these standard deviations along random axes."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(len(scales), len(scales), generator=generator))[0]
    return axes @ torch.diag(torch.tensor(scales) ** 2) @ axes.T


class GaussianData:
    """The law at all times of data N(m, C): its moments are read off the process at points."""

    def __init__(self, process, mean, cov):
        self.process, self.m, self.C = process, mean, cov
        self.eye = torch.eye(len(mean))

    def moments(self, t):
        """P, E[x_t] and Cov[x_t] at one time."""
        law = self.process.marginal(torch.cat([0 * self.eye[:1], self.eye]), t)
        load = (law.mean[1:] - law.mean[0]).T
        noise = law.stddev[0].square().diag() if hasattr(law, "base_dist") else None
        noise = law.covariance_matrix[0] if noise is None else noise
        return load, law.mean[0] + load @ self.m, load @ self.C @ load.T + noise

    def score(self, x, t):
        _, mean, cov = self.moments(float(t[0]))
        return -(x - mean) @ torch.linalg.inv(cov)

    def mean(self, x, t):
        load, mean, cov = self.moments(float(t[0]))
        return self.m + (x - mean) @ (self.C @ load.T @ torch.linalg.inv(cov)).T

    def law(self, t):
        _, mean, cov = self.moments(t)
        return MultivariateNormal(mean, cov)


@pytest.mark.parametrize("kind", ["score", "mean"])
@pytest.mark.parametrize("name", GENERAL)
def test_anisotropic_gaussian_data_to_a_hundred_thousandth(name, kind):
    process, scales = GENERAL[name]
    mean = torch.linspace(-0.5, 1.0, len(scales))
    data = GaussianData(process, mean, turned(scales))
    truth = MultivariateNormal(mean, data.C)
    x_0 = truth.sample((16,))
    head = {"score": dd.heads.Score, "mean": dd.heads.Mean}[kind](getattr(data, kind))
    found = dd.log_prob(process, head, x_0, prior=data.law(1.0))
    error = (found - truth.log_prob(x_0)).abs()
    assert float(error.mean()) <= 1e-5
    # Negative control: the flow of a broader law does not give the data's density.
    wide = GaussianData(process, mean, 1.1 * data.C)
    wrong = dd.log_prob(process, dd.heads.Score(wide.score), x_0, prior=data.law(1.0))
    assert float((wrong - truth.log_prob(x_0)).abs().mean()) > 1e-2


def lifted(mean, std, V=0.01):
    """CLD lifted, and the exact score of data N(m, s²), by the joint moments."""
    process = CLD.on(dd.clock.Constant(4.0))
    joint = GaussianData(process, torch.tensor([mean, 0.0]), torch.diag(torch.tensor([std**2, V])))

    def score(y, t):
        return joint.score(y, t)

    return process.lift(Normal(0.0, V**0.5)), score, joint


@pytest.mark.parametrize("stop", [1e-5, 1e-3])
def test_a_lift_with_the_exact_score_has_the_density_of_the_data_at_every_draw(stop):
    process, score, joint = lifted(0.4, 0.7)
    end = joint.law(1.0)
    x_0 = 0.4 + 0.7 * torch.randn(64)
    found = dd.log_prob(process, dd.heads.Score(score), x_0, prior=end, stop=stop)
    error = (found - Normal(0.4, 0.7).log_prob(x_0)).abs()
    assert float(error.mean()) <= 1e-5


def test_before_the_lift_it_is_the_density_of_data_and_auxiliaries():
    process, score, joint = lifted(0.4, 0.7, V=0.2)
    y = joint.law(0.0).sample((16,))
    found = dd.log_prob(process.process, dd.heads.Score(score), y, prior=joint.law(1.0))
    assert float((found - joint.law(0.0).log_prob(y)).abs().mean()) <= 1e-5


def test_under_a_lift_any_head_is_a_normalised_model():
    """E over draws of exp(log_prob) is a density of x, which integrates to one.

    It is estimated by 48 draws at each of 161 points: the standard error of the integral is
    0.0024.
    """
    process = CLD.on(dd.clock.Constant(1.0)).lift(Normal(0.0, 0.5))
    S = torch.tensor([1.0, 0.25])  # of the stationary law
    head = dd.heads.Score(lambda y, t: -y / S + 0.3 * torch.sin(2 * y.flip(-1)))
    x = torch.linspace(-8, 8, 161)
    found = dd.log_prob(process, head, x.repeat_interleave(48), stop=1e-2, rtol=1e-4, atol=1e-4)
    density = found.reshape(161, 48).exp().mean(1)
    assert float(density.sum() / 10) == pytest.approx(1, abs=0.012)
    bound = found.reshape(161, 48).mean(1)
    assert bool((bound <= density.log()).all())


class Timeless(torch.nn.Module):
    """A small network as a score, the same at all times."""

    def __init__(self):
        super().__init__()
        linear = torch.nn.Linear
        self.net = torch.nn.Sequential(linear(2, 8), torch.nn.Tanh(), linear(8, 2))

    def forward(self, x, t):
        return self.net(x) - x


@pytest.mark.parametrize("process", [CLD.on(dd.clock.Constant(1.0)), VP])
def test_the_adjoint_has_the_gradient_of_the_solver(process):
    head = dd.heads.Score(Timeless())
    slopes, values = [], []
    for adjoint in (False, True):
        x_0 = torch.tensor([[0.5, -0.3], [1.0, 0.2]], requires_grad=True)
        value = dd.log_prob(process, head, x_0, adjoint=adjoint)
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value.sum(), [x_0, *head.parameters()]))
    assert torch.equal(*values)
    for a, b in zip(*slopes, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert float(slopes[0][0].abs().max()) > 0.1


def test_probes_are_unbiased_and_know_their_error():
    head = dd.heads.Score(Timeless().requires_grad_(False))
    x_0 = torch.randn(400, 2)
    exact = dd.probability_flow(VP, head, x_0)
    assert torch.equal(exact.error, torch.zeros(400))
    drawn = dd.probability_flow(VP, head, x_0, probes=16)
    z = (drawn.log_prob - exact.log_prob) / drawn.error
    # 400 Student values of 15 degrees of freedom: variance 15/13
    assert abs(float(z.mean())) < 5 * (15 / 13 / 400) ** 0.5
    assert 0.8 < float(z.square().mean()) / (15 / 13) < 1.25
    assert torch.allclose(drawn.end, exact.end, atol=1e-5)
    one = dd.probability_flow(VP, head, x_0[:2], probes=1)
    assert bool(one.error.isinf().all()) and bool(one.log_prob.isfinite().all())


def test_one_probe_is_exact_where_entries_do_not_mix():
    head = dd.heads.Score(lambda x, t: -torch.tanh(x))
    x_0 = torch.randn(5, 3)
    both = [dd.log_prob(VP, head, x_0, probes=n) for n in (0, 1)]
    assert torch.allclose(*both, atol=1e-7)


def test_a_pushed_process_has_the_density_of_its_image():
    pushed, T = VP.push(SigmoidTransform()), SigmoidTransform()
    head = dd.heads.Score(lambda y, t: -y + 0.3 * torch.sin(y))
    seen = dd.heads.Score(lambda x, t: head.net(T.inv(x), t))
    y = torch.randn(6, 2)
    inner = dd.log_prob(VP, head, y) - T.log_abs_det_jacobian(y, T(y)).sum(-1)
    assert torch.allclose(dd.log_prob(pushed, seen, T(y)), inner, atol=1e-8)


def test_noise_that_depends_on_the_state():
    """log x of a geometric Brownian motion is a Brownian motion: all laws are log-normal."""
    sigma, start = 0.5, 0.3
    process = dd.Field(lambda x, t: 0 * x) + dd.StateNoise(lambda x, t: sigma * x)
    process = process.on(dd.clock.Constant(1.0))

    def law(t):
        return torch.distributions.LogNormal(-(sigma**2) * t / 2, (start**2 + sigma**2 * t) ** 0.5)

    def score(x, t):
        t = float(t[0])
        return -((x.log() + sigma**2 * t / 2) / (start**2 + sigma**2 * t) + 1) / x

    x_0 = law(0.0).sample((16, 1))
    end = torch.distributions.Independent(law(torch.ones(1)), 1)
    found = dd.log_prob(process, dd.heads.Score(score), x_0, prior=end)
    assert torch.allclose(found, law(0.0).log_prob(x_0)[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("process", "error", "match"),
    [
        (dd.Linear(-0.5) + dd.Noise(1.0), ValueError, "clock"),
        ((dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Cosine()), ValueError, "finite end"),
        (VP.scaled(lambda t: 1 + t), dd.Unsolved, "sums of terms"),
        (dd.Product(a=VP), dd.Unsolved, "product"),
    ],
)
def test_flows_that_are_refused(process, error, match):
    x = {"a": torch.zeros(2, 1)} if isinstance(process, dd.Product) else torch.zeros(2, 1)
    with pytest.raises(error, match=match):
        dd.log_prob(process, dd.heads.Score(lambda x, t: -x), x)


def test_standard_normal_data_in_float32_with_the_default_tolerances():
    x_0 = torch.randn(8, 4, dtype=torch.float32)
    found = dd.log_prob(
        VP,
        dd.heads.Epsilon(lambda x, t: x * (1 - (-VP.clock(t)).exp()).sqrt().float()[:, None]),
        x_0,
    )
    assert found.dtype == torch.float32
    truth = -(x_0.square().sum(-1) + 4 * math.log(2 * math.pi)) / 2
    assert torch.allclose(found, truth, atol=1e-4)
