"""Preconditioning by the covariance of the data, and standardised inputs of vectors and lifts."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch.distributions import MultivariateNormal, Normal

import discdiff as dd
from discdiff.nn import Precondition, Standardise
from discdiff.train.timing import quiet_time

pytestmark = pytest.mark.usefixtures("float64")

A = np.array([[0.0, 4.0], [-1.0, -4.0]])
B = np.array([[0.0], [2**0.5]])
V = 0.01
VECTOR_A, VECTOR_B = np.array([[-0.5, 1.0], [-0.7, -1.0]]), np.array([[0.6, 0.0], [0.3, 1.0]])
CLD = dd.Linear(A.tolist()) + dd.Noise(B.tolist())
LIFT = CLD.lift(Normal(*torch.tensor([0.0, V**0.5], dtype=torch.float64)))
VECTOR = dd.Linear(VECTOR_A.tolist(), [0.3, -0.2]) + dd.Noise(VECTOR_B.tolist())


class Zero(torch.nn.Module):
    """Says nothing, and keeps what it is given."""

    seen = None

    def forward(self, x, t, context=None):
        self.seen = x
        return 0 * x


def van_loan(A, B, time):
    """Φ and Σ of dx = A x dt + B dW."""
    k = len(A)
    block = expm(time * np.block([[-A, B @ B.T], [np.zeros((k, k)), A.T]]))
    phi = block[k:, k:].T
    return phi, phi @ block[:k, k:]


def leftover(P, sigma, C, K):
    """Cov[x_0 − K y], whatever K is."""
    rest = np.eye(len(C)) - K @ P
    return rest @ C @ rest.T + K @ sigma @ K.T


@pytest.mark.parametrize("std", [0.5, 3.0])
def test_one_variable_is_preconditioned_as_published(std):
    """c_in, c_skip, c_out of EDM at σ = √Λ; weight · c_out² = 1 (identity 22)."""
    process = dd.Noise(1.0).on(dd.clock.Geometric(0.002, 80.0))
    t = torch.tensor([1e-3, 0.2, 0.7, 1.0])
    sigma = process.clock(t).sqrt()[:, None]
    c = Precondition(Zero(), process, 0.0, std).coefficients(torch.zeros(4, 3), t)
    both = sigma**2 + std**2
    assert torch.allclose(c.into, both**-0.5, rtol=1e-14)
    assert torch.allclose(c.skip, std**2 / both, rtol=1e-14)
    assert torch.allclose(c.out, sigma * std / both.sqrt(), rtol=1e-14)
    weight = both / (sigma * std) ** 2
    assert float((weight * c.out**2 - 1).abs().max()) < 1e-15
    # unit variance of inputs, and of targets (x_0 − c_skip y) / c_out
    assert float((c.into**2 * both - 1).abs().max()) < 1e-15
    target = ((1 - c.skip) ** 2 * std**2 + c.skip**2 * sigma**2) / c.out**2
    assert float((target - 1).abs().max()) < 1e-14


@pytest.mark.parametrize("time", [1e-4, 0.1, 2.0])
def test_a_lift_has_unit_inputs_and_targets(time):
    std, mean = 0.6, 0.4
    phi, sigma = van_loan(A, B, time)
    P, sigma = phi[:, :1], sigma + V * phi[:, 1:] @ phi[:, 1:].T
    net = Precondition(Zero(), LIFT, mean, std)
    c = net.coefficients(torch.zeros(1, 3, 2), torch.tensor([time]))
    assert np.allclose(c.centre.numpy().ravel(), mean * P.ravel(), atol=1e-14)
    into, K = c.into.numpy().reshape(1, 2), c.skip.numpy().reshape(1, 2)
    whole = std**2 * P @ P.T + sigma
    assert np.allclose(into @ whole @ into.T, 1, atol=1e-11)
    left = leftover(P, sigma, np.array([[std**2]]), K)
    assert np.allclose(c.out.numpy().ravel() ** 2, left, rtol=1e-8)
    # no other K leaves less, and what is left is uncorrelated with the input
    assert np.allclose(std**2 * P.T - K @ whole, 0, atol=1e-12)


@pytest.mark.parametrize("time", [0.01, 0.5, 3.0])
def test_a_lift_is_seen_through_its_guess_alone(time):
    """Atoms have the posterior under normal noise of precision J around the scaled guess."""
    atoms, std = torch.tensor([[-1.0], [0.2], [0.9]]), 0.6
    phi, sigma = van_loan(A, B, time)
    P, sigma = phi[:, :1], sigma + V * phi[:, 1:] @ phi[:, 1:].T
    J = float((P.T @ np.linalg.solve(sigma, P)).item())
    net = Zero()
    y, t = LIFT.marginal(atoms, time).sample(), torch.full((3,), time)
    Precondition(net, LIFT, 0.0, std)(y, t)
    scaled = net.seen * (std**2 + 1 / J) ** 0.5  # the guess has variance C_0² J / (1 + C_0 J)
    weights = Normal(scaled, J**-0.5).log_prob(atoms[:, 0]).softmax(-1)
    found = dd.Exact(LIFT, atoms)(y, t).log_weights.exp()
    assert torch.allclose(found, weights, atol=1e-9)


@pytest.mark.parametrize(
    "process",
    [
        (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 10.0)),
        CLD.on(dd.clock.Constant(2.0)).lift(Normal(0.0, V**0.5)),
        VECTOR.on(dd.clock.Constant(2.0)),
    ],
    ids=["vp", "cld", "vector"],
)
def test_the_growth_of_what_is_left_is_the_path_kl_of_normal_data(process):
    """Half the growth of log R / C_0, against draws of the loss: five standard errors."""
    torch.manual_seed(0)
    x = 0.4 + 0.7 * torch.randn(20_000, 2)
    net = Precondition(Zero(), process, 0.4, 0.7)
    head, stop = dd.heads.Mean(net), 0.05
    kl = dd.path_kl(process, head, x, stop=stop) - dd.likelihood.prior_kl(process, x)
    y = torch.zeros(process.state_shape((1, 2)))
    early, late = net.log_left(y, torch.tensor([stop, 1.0]))
    growth = 2 * float(late - early) / 2
    assert abs(float(kl.mean()) - growth) < 5 * float(kl.std()) / 20_000**0.5


class Bent(torch.nn.Module):
    """A poor network: what it says depends on what it sees alone."""

    def forward(self, x, t, context=None):
        return 0.7 * torch.sin(3 * x) - 0.2


def test_the_bound_of_a_lift_depends_on_the_range_of_the_precision_alone():
    r"""Every lift integrates ½ ‖x_0 − x̂_0‖² over dJ, J from 10⁴ to 0, also for a poor network."""
    torch.manual_seed(0)
    x, values = torch.tensor([[0.9], [-0.4]]).repeat(4000, 1), []
    clock = dd.clock.Linear(0.1, 60.0)
    for process in (dd.zoo.vp(clock), dd.zoo.cld(clock=clock), dd.zoo.alda(clock=clock)):
        net = Precondition(Bent(), process, 0.0, 1.0)
        stop = quiet_time(partial(net.log_left, torch.zeros(process.state_shape((1, 1)))))
        kl = dd.path_kl(process, dd.heads.Mean(net), x, stop=stop, nodes=32)
        values.append((float(kl.mean()), float(kl.std()) / len(kl) ** 0.5))
    assert values[0][0] > math.log(100) + 0.5  # that of the best affine guess
    for mean, error in values[1:]:
        assert abs(mean - values[0][0]) < 5 * math.hypot(error, values[0][1])


@pytest.mark.parametrize("coupled", [False, True])
def test_vectors_have_unit_inputs_and_targets(coupled):
    C = np.array([[0.5, 0.3], [0.3, 2.0]]) if coupled else np.diag([0.04, 2.25])
    options = {"covariance": torch.tensor(C)} if coupled else {"std": torch.tensor([0.2, 1.5])}
    mean = torch.tensor([1.0, -1.0])
    net = Precondition(Zero(), VECTOR, mean, **options)
    phi, sigma = van_loan(VECTOR_A, VECTOR_B, 0.3)
    c = net.coefficients(torch.zeros(1, 2), torch.tensor([0.3]))
    into, K, out = (v.numpy().reshape(2, 2) for v in (c.into, c.skip, c.out))
    assert np.allclose(into @ (phi @ C @ phi.T + sigma) @ into, np.eye(2), atol=1e-13)
    assert np.allclose(out @ out.T, leftover(phi, sigma, C, K), atol=1e-14)
    assert np.allclose(C @ phi.T - K @ (phi @ C @ phi.T + sigma), 0, atol=1e-14)
    start = VECTOR.marginal(mean[None], 0.3).mean
    assert torch.allclose(c.centre, start, atol=1e-14)


def test_a_network_that_says_zero_is_exact_for_normal_data():
    """log p of the data, by the probability flow of lifted and of vector processes."""
    x = 0.4 + 0.7 * torch.randn(32)
    lift = CLD.on(dd.clock.Constant(8.0)).lift(Normal(0.0, V**0.5))
    head = dd.heads.Mean(Precondition(Zero(), lift, 0.4, 0.7))
    # 8 units of time leave e^{−16} of the data: the prior is the limit
    error = dd.log_prob(lift, head, x) - Normal(0.4, 0.7).log_prob(x)
    assert float(error.abs().mean()) < 1e-5
    law = MultivariateNormal(torch.tensor([1.0, -1.0]), torch.tensor([[0.5, 0.3], [0.3, 2.0]]))
    vector = VECTOR.on(dd.clock.Constant(25.0))
    head = dd.heads.Mean(Precondition(Zero(), vector, law.mean, covariance=law.covariance_matrix))
    x = law.sample((32,))
    assert float((dd.log_prob(vector, head, x) - law.log_prob(x)).abs().mean()) < 1e-5


def test_moments_per_entry_of_images_under_a_lift():
    mean, std = torch.randn(3, 4), torch.rand(3, 4) + 0.5
    x_0 = mean + std * torch.randn(50_000, 3, 4)
    t = torch.full((50_000,), 0.2)
    y = LIFT.marginal(x_0, t).sample()
    for wrapper in (Precondition, Standardise):
        net = Zero()
        wrapper(net, LIFT, mean, std)(y, t)
        # 50 000 draws of 24 entries: five standard errors of a mean are 0.022, of a variance 0.032
        assert float(net.seen.mean(0).abs().max()) < 0.025
        assert float((net.seen.var(0) - 1).abs().max()) < 0.035
    white = net.seen  # of Standardise: position and velocity stay correlated
    assert abs(float((white[..., 0] * white[..., 1]).mean())) > 0.05


def test_moments_of_vectors_are_those_of_their_sums():
    mean, std = torch.tensor([1.0, -1.0]), torch.tensor([0.2, 1.5])
    net = Standardise(Zero(), VECTOR, mean, std)
    phi, sigma = van_loan(VECTOR_A, VECTOR_B, 0.3)
    found, variance = net.moments(torch.zeros(5, 2), torch.full((5,), 0.3))
    assert torch.allclose(found, VECTOR.marginal(mean.expand(5, 2), 0.3).mean)
    truth = np.diag(phi @ np.diag(std.numpy() ** 2) @ phi.T + sigma)
    assert np.allclose(variance.numpy(), truth)


def test_a_covariance_needs_a_process_of_vectors():
    process = dd.Linear(-0.5) + dd.Noise(1.0)
    net = Precondition(Zero(), process, covariance=torch.eye(2))
    with pytest.raises(ValueError, match="processes of vectors"):
        net(torch.zeros(1, 2), torch.ones(1))
