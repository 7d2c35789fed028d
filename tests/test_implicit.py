"""Implicit score matching against the loss, and reversals of noise that depends on the state."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

import discdiff as dd
from discdiff.reverse import bend, drift_of

pytestmark = pytest.mark.usefixtures("float64")

MALDA_Q = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
SYSTEMS = {  # A, B and the variance of the auxiliaries; None: the data are the whole state
    "scalar": ([[-0.5]], [[1.0]], None),
    "CLD": ([[0.0, 4.0], [-1.0, -4.0]], [[0.0], [2**0.5]], 0.01),
    "vector": ([[-0.3, 1.0], [-0.5, -1.0]], [[0.7, 0.0], [0.2, 1.0]], None),
    "MALDA": (
        (-(MALDA_Q + torch.diag(torch.tensor([0.0, 2.0, 2.0])))).tolist(),
        [[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]],
        0.04,
    ),
}


def declared(A, B, V):
    """The process: the numbers themselves if they are 1 × 1, else matrices, lifted or not."""
    if len(A) == 1:
        return dd.Linear(A[0][0]) + dd.Noise(B[0][0])
    process = dd.Linear(A) + dd.Noise(B)
    if V is None:
        return process
    return process.lift(torch.distributions.Normal(torch.zeros(()), torch.tensor(V) ** 0.5))


def moments(A, B, V, time):
    """Φ, and Σ given the data, by one exponential of twice the size (Van Loan)."""
    A, B = np.array(A), np.array(B)
    k, G = len(A), np.array(B) @ np.array(B).T
    block = expm(time * np.block([[-A, G], [np.zeros((k, k)), A.T]]))
    phi = block[k:, k:].T
    cov = phi @ block[:k, k:]
    if V is not None:
        cov = cov + V * phi[:, 1:] @ phi[:, 1:].T
    return torch.tensor(phi), torch.tensor(cov), torch.tensor(G)


def hermite(count, dims):
    """Nodes (n, dims) and weights of a product rule for standard normal laws."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    x = torch.tensor(list(itertools.product(nodes, repeat=dims)))
    w = torch.tensor([math.prod(p) for p in itertools.product(weights, repeat=dims)])
    return x, w / (2 * math.pi) ** (dims / 2)


def wrong_score(x, t):
    """A score of no law: its Jacobian is not symmetric."""
    mixed = x if x.shape[-1] == 1 else x.roll(1, -1)
    return torch.sin(x + 0.3) - 0.7 * x + 0.2 * torch.cos(2 * mixed) * x


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("time", [1e-3, 0.5])
def test_implicit_and_explicit_loss_differ_by_what_no_head_changes(name, time):
    """E over x_t of the loss is E of the implicit one + tr(G Σ⁻¹)/2 (identities 16 and 19)."""
    A, B, V = SYSTEMS[name]
    process, k = declared(A, B, V), len(A)
    phi, cov, G = moments(A, B, V, time)
    eps, w = hermite(48 if k < 3 else 28, k)
    x_0 = torch.full((len(eps),), 0.8) if V is not None else torch.full((len(eps), k), 0.8)
    start = torch.zeros(k) + 0.8 if V is None else torch.eye(k)[0] * 0.8
    x_t = phi @ start + eps @ torch.linalg.cholesky(cov).T
    head = dd.heads.Score(wrong_score)
    explicit = dd.loss(process, head, x_0, time, x_t=x_t)
    implicit = dd.implicit_score_matching(process, head, x_0, time, x_t=x_t)
    constant = float((G @ torch.linalg.inv(cov)).trace() / 2)
    gap = float((w * (explicit - implicit)).sum()) - constant
    assert abs(gap) < 1e-12 * max(1.0, constant) + 1e-11
    quadratic = 0.5 * (wrong_score(x_t, None) @ torch.tensor(B)).square().sum(-1)
    assert abs(float((w * (explicit - quadratic)).sum()) - constant) > 1e-2  # without divergence


def test_parts_of_a_product_are_summed_with_a_network_that_couples_them():
    table = dd.Product(a=dd.Linear(-0.5) + dd.Noise(1.0), b=dd.Linear(-1.0) + dd.Noise(0.5))
    table = table.on(dd.clock.Constant(2.0))
    net = lambda x, t: {"a": torch.sin(x["a"] + x["b"]), "b": x["a"] * x["b"]}
    head = dd.heads.Product(net, a=dd.heads.Score, b=dd.heads.Score)
    x = {"a": torch.tensor([[0.3], [1.0]]), "b": torch.tensor([[-0.7], [0.4]])}
    a, b = x["a"][:, 0], x["b"][:, 0]
    expected = 2 * (torch.sin(a + b) ** 2 / 2 + torch.cos(a + b))
    expected = expected + 2 * 0.25 * ((a * b) ** 2 / 2 + a)
    value = dd.implicit_score_matching(table, head, x, 0.5, x_t=x)
    assert torch.allclose(value, expected, atol=1e-14)


@pytest.mark.parametrize("head", [dd.heads.Epsilon, dd.heads.Mean, dd.heads.Score])
def test_every_head_of_a_solved_process_will_do(head):
    process = declared(*SYSTEMS["CLD"])
    atoms = torch.tensor([[0.5], [-1.0]])
    exact = dd.Exact(process, atoms)
    x_0, t = torch.tensor([[0.5], [-1.0]]), torch.tensor([0.3, 0.8])
    x_t = process.marginal(x_0, t).sample()
    values = [
        dd.implicit_score_matching(process, h, x_0, t, x_t=x_t) for h in (exact, exact.as_(head))
    ]
    assert torch.allclose(*values, rtol=1e-9)


def test_clamped_entries_count_for_nothing():
    process = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Constant(1.0))
    known = torch.tensor([0.5, 0.0]), torch.tensor([True, False])
    x = torch.tensor([[0.5, 2.0]])
    head = dd.heads.Score(lambda x, t: -(x**2))
    value = dd.implicit_score_matching(process.given(known), head, x, 0.5, x_t=x)
    assert torch.allclose(value, torch.tensor([16 / 2 - 4.0]))


def test_hutchinson_probes_are_unbiased_and_reach_the_parameters():
    process, count = dd.Linear(-0.5) + dd.Noise(1.0), 20_000
    weight = torch.tensor([[0.5, 1.0], [-0.3, 0.2]], requires_grad=True)
    head = dd.heads.Score(lambda x, t: x @ weight)
    x = torch.tensor([[1.0, -1.0]]).expand(count, 2)
    exact = dd.implicit_score_matching(process, head, x[:1], 0.5, x_t=x[:1])
    drawn = dd.implicit_score_matching(process, head, x, 0.5, x_t=x, probes=1)
    # of vᵀ W v the off-diagonal part 0.7 v₁v₂ is random: standard deviation 0.7
    assert abs(float((drawn.mean() - exact).detach())) < 5 * 0.7 / count**0.5
    (slope,) = torch.autograd.grad(exact.sum(), weight)
    by_hand = torch.outer(x[0], (x[:1] @ weight)[0]) + torch.eye(2)
    assert torch.allclose(slope, by_hand.detach())


def test_a_field_needs_no_law_where_states_are_given():
    solved = dd.Linear(-0.5) + dd.Noise(1.0)
    field = dd.Field(lambda x, t: -x / 2) + dd.Noise(1.0)
    head, x = dd.heads.Score(wrong_score), torch.randn(7, 3)
    t = torch.rand(7)
    both = [dd.implicit_score_matching(p, head, x, t, x_t=x) for p in (solved, field)]
    assert torch.equal(*both)
    with pytest.raises(dd.Unsolved, match="implicit score matching"):
        dd.loss(field, head, x, t)
    with pytest.raises(dd.Unsolved):
        dd.implicit_score_matching(field, dd.heads.Epsilon(wrong_score), x, t)


def test_states_of_a_field_are_simulated_and_teach_the_score():
    """The minimiser over ŝ = a x is −1 / E x_t², here of an Ornstein–Uhlenbeck process.

    40 000 draws: the standard error of the second moment is 0.7 %; Euler's bias is 1 %.
    """
    process = (dd.Field(lambda x, t: -x / 2) + dd.Noise(1.0)).on(dd.clock.Constant(2.0))
    x_0, at = torch.full((40_000, 1), 2.0), 0.4
    a = torch.zeros((), requires_grad=True)
    torch.manual_seed(1)
    loss = dd.implicit_score_matching(process, dd.heads.Score(lambda x, t: a * x), x_0, at).mean()
    (first,) = torch.autograd.grad(loss, a, create_graph=True)
    assert float(first.detach()) == pytest.approx(2.0)  # the divergence alone, times the rate
    torch.manual_seed(1)
    b = torch.ones((), requires_grad=True)
    loss = dd.implicit_score_matching(process, dd.heads.Score(lambda x, t: b * x), x_0, at).mean()
    second = float(torch.autograd.grad(loss, b)[0] - first.detach())
    truth = 4 * math.exp(-0.8) + 1 - math.exp(-0.8)
    assert second / 2 == pytest.approx(truth, rel=0.04)


def test_times_are_drawn_for_processes_without_an_engine():
    process = (dd.Field(lambda x, t: -x / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
    t, w = dd.times(process, torch.zeros(20_000, 1))
    assert bool(((t > 0) & (t < 1)).all())
    assert float((w * t).mean()) == pytest.approx(0.5, abs=0.01)  # ∫ t dt


# -- noise that depends on the state --------------------------------------------------------------

C = 0.6  # dx = −x dt + √(C (1 + x²)) dW has the stationary density (1 + x²)^{−1 − 1/C}


def student():
    noise = dd.StateNoise(lambda x, t: (C * (1 + x.square())).sqrt())
    return (dd.Field(lambda x, t: -x) + noise).on(dd.clock.Constant(3.0))


def student_score(x, t):
    return -2 * (1 + 1 / C) * x / (1 + x.square())


def test_a_stationary_reversible_diffusion_is_its_own_reversal():
    process, head = student(), dd.heads.Score(student_score)
    x = torch.linspace(-4, 4, 9)[:, None]
    assert torch.allclose(dd.reverse(process, head).drift(x, 0.5), -3 * x, atol=1e-13)
    assert torch.allclose(
        dd.reverse(process, head).noise(x, 0.5), (3 * C * (1 + x**2)).sqrt(), atol=1e-13
    )
    (leaf,) = process.leaves(torch.full((9,), 0.5))
    still = drift_of(leaf, head(x, leaf.time), x, noise=0.0)
    assert float(still.abs().max()) < 1e-13  # nothing flows where the law stands still


@pytest.mark.parametrize("t", [0.2, 0.7])
def test_the_reversal_of_geometric_brownian_motion(t):
    r"""Its density p_t is log-normal and solves ∂_t p = ∂(b p) − ½ ∂²(g² p), b the reverse drift.

    The derivatives of the density are automatic; without ∇·g² the equation fails.
    """
    mu, sigma, start = 0.1, 0.5, 0.3
    process = dd.Linear(mu) + dd.StateNoise(lambda x, t: sigma * x)

    def log_p(x, t):
        mean, var = (mu - sigma**2 / 2) * t, start**2 + sigma**2 * t
        return -((x.log() - mean) ** 2) / (2 * var) - x.log() - (2 * math.pi * var).log() / 2

    def score(x, t):
        return torch.func.grad(lambda y: log_p(y, t.reshape(-1, 1)).sum())(x)

    x, t = torch.tensor([[0.4], [1.0], [2.5]]), torch.full((3,), t)
    reversal = dd.reverse(process, dd.heads.Score(score))

    def rate(drift):
        def flux(x):
            p = lambda y: log_p(y, t.reshape(-1, 1)).exp()
            spread = torch.func.grad(lambda y: ((sigma * y) ** 2 * p(y)).sum())(x)
            return drift(x) * p(x) - spread / 2

        return torch.func.grad(lambda y: flux(y).sum())(x)

    truth = torch.func.grad(lambda s: log_p(x, s.reshape(-1, 1)).exp().sum())(t)
    assert torch.allclose(rate(lambda y: reversal.drift(y, t))[:, 0], truth, atol=1e-12)
    naive = lambda y: -mu * y + (sigma * y) ** 2 * score(y, t)
    assert float((rate(naive)[:, 0] - truth).abs().max()) > 0.05


def test_noise_of_one_entry_may_depend_on_the_others():
    """∇·(g² I) = ∇ g² = 2 x for g² = 1 + |x|²."""
    term = dd.StateNoise(lambda x, t: (1 + x.square().sum(-1, keepdim=True)).sqrt())
    x = torch.randn(5, 3)
    assert torch.allclose(bend(term, x, torch.zeros(5)), 2 * x)


class Sheared(dd.Diffusion):
    """A matrix that depends on the state: B(x) = ((x₁, 0), (x₂², 1))."""

    def mix(self, noise, x, t):
        return torch.stack([x[:, 0] * noise[:, 0], x[:, 1] ** 2 * noise[:, 0] + noise[:, 1]], -1)

    def unmix(self, vector, x, t):
        return torch.stack(
            [x[:, 0] * vector[:, 0] + x[:, 1] ** 2 * vector[:, 1], vector[:, 1]], -1
        )


def test_the_divergence_of_a_full_covariance():
    """BBᵀ = ((x₁², x₁x₂²), (x₁x₂², x₂⁴ + 1)): row divergences 2x₁ + 2x₁x₂ and x₂² + 4x₂³."""
    x = torch.randn(4, 2)
    a, b = x.unbind(-1)
    truth = torch.stack([2 * a + 2 * a * b, b**2 + 4 * b**3], -1)
    assert torch.allclose(bend(Sheared(), x, torch.zeros(4)), truth)


def test_the_reversal_returns_the_data_law():
    """Noise that grows with the state, from data of one law to another and back.

    log x is a Brownian motion with drift; 200 Euler steps leave a bias of about 1 %. 20 000 draws:
    five standard errors of a mean of log x are 0.014, of its deviation 0.01. Fails by chance once
    in 10⁶ runs. Without ∇·g² the mean is off by more than 0.1.
    """
    sigma, start = 0.5, 0.3
    process = dd.Linear(0.0) + dd.StateNoise(lambda x, t: sigma * x)
    process = process.on(dd.clock.Constant(1.0))

    def score(x, t):
        var = start**2 + sigma**2 * t.reshape(-1, 1)
        return -((x.log() + sigma**2 * t.reshape(-1, 1) / 2) / var + 1) / x

    end = (torch.randn(20_000, 1) * (start**2 + sigma**2) ** 0.5 - sigma**2 / 2).exp()
    options = {"steps": 200, "stepper": dd.steppers.Euler(), "start": end}
    data = dd.sample(process, dd.heads.Score(score), (20_000, 1), **options).log()
    assert abs(float(data.mean())) < 0.02
    assert abs(float(data.std()) - start) < 0.02


def test_implicit_loss_of_state_noise_by_quadrature():
    """At its stationary law the implicit loss of ŝ is that of s, plus ½ E g² (s − ŝ)²."""
    process = student()
    u = torch.linspace(-1, 1, 20_001)[1:-1] * math.pi / 2
    x = torch.tan(u)[:, None]
    w = (1 + x[:, 0].square()) ** (-1 / C)  # dx = (1 + x²) du
    w = w / w.sum()
    wrong = lambda x, t: torch.tanh(x) - x / (1 + x.square())
    loss = [
        float((w * dd.implicit_score_matching(process, dd.heads.Score(s), x, 0.5, x_t=x)).sum())
        for s in (student_score, wrong)
    ]
    gap = (student_score(x, None) - wrong(x, None))[:, 0].square() * C * (1 + x[:, 0] ** 2)
    assert loss[1] - loss[0] == pytest.approx(3 * float((w * gap).sum()) / 2, rel=1e-6)
