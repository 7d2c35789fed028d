"""Moments of linear systems against 60-digit arithmetic, ODE solvers and central differences."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import Normal

import discdiff as dd
from discdiff import laws
from discdiff.numerics.constant import Constant, digits
from discdiff.numerics.factors import add_columns, cholesky, lower_inverse, triangular
from discdiff.numerics.staircase import reached, staircase
from discdiff.numerics.systems import Varying, compose, lyapunov

pytestmark = pytest.mark.usefixtures("float64")

# name: (Q, D, S) of the published processes
PROCESSES = {
    "VP": ([[0.0]], [[0.5]], [[1.0]]),
    "CLD": ([[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]),
    "CLD, M = 1/4": ([[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]], [[1.0, 0], [0, 0.25]]),
    "PSLD": (
        [[0.0, -0.5], [0.5, 0.0]],
        [[0.005, 0.0], [0.0, 0.5 * 0.25 * 4.01]],
        [[1.0, 0.0], [0.0, 0.25]],
    ),
    "MALDA": (
        [[0.0, -1.0, -1.0], [1.0, 0.0, -1.0], [1.0, 1.0, 0.0]],
        [[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    ),
    "ALDA": (
        [[0.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    ),
}
TIMES = (1e-5, 1e-3, 0.1, 1.0)
B0, B1 = 0.1, 10.0


def exact_factor(Q, D, S, t, start):
    """Φ and the lower factor of Σ(t | 0) + Φ diag(start) Φᵀ by Van Loan in 60 digits."""
    with mp.workdps(60):
        Q, D, S = (mp.matrix(v) for v in (Q, D, S))
        A, G = -(Q + D) * S**-1, 2 * D
        t, b0, b1 = mp.mpf(t), mp.mpf(B0), mp.mpf(B1)
        phi, noise = van_loan(A, G, t * (b0 + (b1 - b0) / 2 * t))
        cov = noise + phi * mp.diag(start) * phi.T
        return phi, mp.cholesky(cov)


def worst(found, exact, entrywise=True):
    """The largest relative error over entries, or of off-diagonal ones relative to their row."""
    error = 0.0
    for i in range(found.shape[0]):
        row = mp.sqrt(sum(exact[i, j] ** 2 for j in range(i + 1)))
        for j in range(i + 1):
            goal = exact[i, j]
            size = abs(goal) if entrywise or i == j else row
            if abs(goal) > mp.mpf(10) ** -50:
                error = max(error, float(abs(mp.mpf(float(found[i, j])) - goal) / size))
    return error


@pytest.mark.parametrize("name", PROCESSES)
def test_factors_are_accurate_entry_by_entry(name):
    """From t = 1e-5, where entries are as small as 1e-31, to 1; given all, or the data only."""
    Q, D, S = PROCESSES[name]
    process = dd.Langevin(Q, D, S).on(dd.clock.Linear(B0, B1))
    single = double = 0.0
    for variance in (None, 0.01, 0.04)[: 1 if len(Q) == 1 else 3]:
        whole = process if variance is None else process.lift(Normal(0.0, math.sqrt(variance)))
        start = [0, *[mp.mpf(variance or 0)] * (len(Q) - 1)]
        for t in TIMES:
            law = whole.marginal(torch.zeros(1, *() if variance else (len(Q),)), t)
            factor = law.factor.reshape(len(Q), len(Q))
            _, exact = exact_factor(Q, D, S, t, start)
            double = max(double, worst(factor, exact, entrywise=False))
            single = max(single, worst(factor.float(), exact))
    print(f"{name}: float64 {double:.1e}, cast to float32 {single:.1e}")
    assert double < 2e-12
    assert single < 5e-6


DENSE = {
    "one source, dense Q and S": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.7]],
    "one source in two coordinates": [[0.0, 0.0, 0.0], [0.0, 0.25, 0.5], [0.0, 0.5, 1.0]],
}


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("learned", [False, True])
def test_noise_that_arrives_along_no_axis(name, learned):
    """Where what noise reaches first is oblique, the factor is found in other coordinates.

    Of the volume of the law the declared numbers, which are rounded, leave six digits at t = 1e-5.
    """
    Q = [[0.0, -0.54, 0.94], [0.54, 0.0, -1.7], [-0.94, 1.7, 0.0]]
    S, D = [[1.0, 0.2, 0.0], [0.2, 0.8, 0.1], [0.0, 0.1, 1.5]], DENSE[name]
    root = torch.tensor(Q, requires_grad=learned)
    process = dd.Langevin(root, D, S).on(dd.clock.Linear(B0, B1))
    for variance in (None, 0.04):
        whole = process if variance is None else process.lift(Normal(0.0, math.sqrt(variance)))
        start = [0, *[mp.mpf(variance or 0)] * 2]
        for t in TIMES:
            law = whole.marginal(torch.zeros(1, *() if variance else (3,)), t)
            _, exact = exact_factor(Q, D, S, t, start)
            cov, goal = law.covariance_matrix.detach().reshape(3, 3), exact * exact.T
            for i in range(3):
                for j in range(3):
                    size = mp.sqrt(goal[i, i] * goal[j, j])
                    assert abs(mp.mpf(float(cov[i, j])) - goal[i, j]) < 1e-12 * size
            volume = float(sum(mp.log(exact[i, i]) for i in range(3)))
            assert abs(float(law.log_det().sum().detach()) - volume) < 1e-6


CHAINED = {  # the noise of a system of k coordinates, whose drift couples all of them
    "three, no axis": [0.8, -0.5, 1.1],
    "three, the last": [0.0, 0.0, 1.0],
    "four, no axis": [0.8, -0.5, 1.1, 0.4],
    "four, the last": [0.0, 0.0, 0.0, 1.0],
}
COUPLED = [
    [-1.9, 0.6, -0.8, 0.5],
    [0.3, -1.4, 1.2, -0.7],
    [-0.9, 0.4, -2.1, 1.3],
    [1.1, -0.6, 0.7, -1.6],
]


@pytest.mark.parametrize("learned", [False, True])
def test_a_time_repeated_is_the_time_by_itself(learned):
    """A kept kernel of a lift is the lift's own, whose basis leaves data on their axis."""
    D = torch.full((2, 2), 4.0, requires_grad=learned)
    core = dd.Langevin([[0.0, 1.0], [-1.0, 0.0]], D, [[1.0, 0.0], [0.0, 2.0]])
    A = torch.tensor([[-4.0, -2.5], [-3.0, -2.0]])
    block = torch.cat([torch.cat([A, 2 * D.detach()], 1), torch.cat([0 * A, -A.T], 1)])
    top = torch.linalg.matrix_exp(0.05 * block.expand(2, 4, 4))[0, :2]
    aux = top[:, 1:2] @ top[:, 1:2].T
    exact = (0.09 * aux + top[:, 2:] @ top[:, :2].T).diagonal()
    lifted, x = core.lift(Normal(0.0, 0.3)), torch.zeros(3)
    for _ in range(2):  # the second time from what was kept
        repeated = lifted.marginal(x, 0.05).variance
        apart = lifted.marginal(x, torch.tensor([0.05, 0.1, 0.2])).variance
        assert torch.allclose(repeated, exact.expand(3, 2), rtol=1e-12)
        assert torch.allclose(apart[0], exact, rtol=1e-12)


def whitened_error(found, exact):
    r"""The largest entry of :math:`L^{-1} C L^{-\top} - I` for the factor of a found C."""
    white = mp.cholesky(exact) ** -1 * mp.matrix(found.tolist())
    gap = white * white.T - mp.eye(len(exact))
    return float(max(abs(v) for v in gap))


def exact_moments(A, B, t):
    """Φ and Σ by Van Loan, in the digits that are set."""
    B = mp.matrix(B.tolist())
    return van_loan(mp.matrix(A.tolist()), B * B.T, t)


def van_loan(A, G, t):
    """Φ and Σ of matrices of mpmath."""
    size = len(A)
    block = mp.zeros(2 * size)
    for i in range(size):
        for j in range(size):
            block[i, j], block[i, size + j] = A[i, j] * t, G[i, j] * t
            block[size + i, size + j] = -A[j, i] * t
    both = mp.expm(block)
    phi = both[:size, :size]
    return phi, both[:size, size:] * phi.T


def turned_system(A, B):
    """A and G in the coordinates of the noise, to which laws are exact, and the turn."""
    stairs = staircase(A, B @ B.T)
    return *(mp.matrix(v.tolist()) for v in stairs.systems(A, B @ B.T)), stairs.turn


@pytest.mark.parametrize("name", CHAINED)
@pytest.mark.parametrize("share", [1e-5, 1 / 3, 0.95, 1 - 1e-6])
@pytest.mark.parametrize("variance", [None, 0.04])
def test_bridges_of_noise_through_a_chain(name, share, variance):
    """Whitened, against 150 digits, from t = 1e-7."""
    B = torch.tensor(CHAINED[name]).unsqueeze(1)
    size = len(B)
    A, y = torch.tensor(COUPLED)[:size, :size], torch.linspace(-1, 1, size).unsqueeze(0)
    process, lift = dd.Linear(A) + dd.Noise(B), variance is not None
    whole = process.lift(Normal(0.0, math.sqrt(variance))) if lift else process
    drift, G, turn = turned_system(A, B)
    x, errors = torch.zeros(1) if lift else y, {}
    for t in (1e-7, 1e-5, 1e-3, 1e-1, 1.0):
        s = share * t
        law = whole.bridge(x, y, s, t)
        assert torch.equal(law.turn, turn)
        with mp.workdps(150):
            start = mp.diag([0, *[mp.mpf(variance or 0)] * (size - 1)])
            T = mp.matrix(turn.tolist())
            start = T.T * start * T
            (before, early), (after, late) = van_loan(drift, G, s), van_loan(drift, G, t)
            early, late = early + before * start * before.T, late + after * start * after.T
            phi, _ = van_loan(drift, G, mp.mpf(t) - mp.mpf(s))
            exact = early - early * phi.T * late**-1 * phi * early
            errors[t] = whitened_error(law.lower.reshape(size, size), exact)
            if not lift:
                lower = whole.marginal(x, t).lower.reshape(size, size)
                assert whitened_error(lower, late) < 1e-11
    print(f"{name}, s = {share:.6f} t: {errors}")
    # What is left of auxiliaries at s is one to rounding if nothing else is known of it.
    assert all(
        error < (2e-14 * (share * t) ** -1.5 if lift else 0) + 1e-9 for t, error in errors.items()
    )


def chain_of(size):
    """A and B of a chain along axes: noise in the last coordinate alone, each hears the next."""
    Q = torch.diag(torch.ones(size - 1), 1)
    D = torch.diag(torch.eye(size)[-1])
    return -(Q.T - Q + D), (2 * D).sqrt()


def exact_bridge(A, B, variance, s, t):
    """The gain and the covariance of the bridge, and the factor of the law at t."""
    start = mp.diag([0, *[variance] * (len(A) - 1)])
    (early, now), (late, then) = exact_moments(A, B, s), exact_moments(A, B, t)
    phi, _ = exact_moments(A, B, mp.mpf(t) - mp.mpf(s))
    now, then = now + early * start * early.T, then + late * start * late.T
    gain = now * phi.T * then**-1
    return gain, now - gain * phi * now, mp.cholesky(then)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("share", [1e-5, 1 / 3, 0.95, 1 - 1e-6])
@pytest.mark.parametrize("variance", [None, 0.04])
def test_bridges_of_a_chain_along_axes(size, share, variance):
    """Against 120 digits. Noise is smaller than auxiliaries by ten orders, and s is next to t.

    The mean is as good as float64 lets it be: with the exact gain, rounded, it is hardly better.
    """
    A, B = chain_of(size)
    process = dd.Linear(A) + dd.Noise(B)
    lift = variance is not None
    whole = process.lift(Normal(0.0, math.sqrt(variance))) if lift else process
    x, y = torch.zeros(1, *() if lift else (size,)), torch.eye(size).unsqueeze(1)
    for t in (1e-3, 1.0) if lift and size == 4 else (1e-5, 1e-3, 1.0):
        s = share * t
        if lift and size == 4 and s < 1e-4:
            continue  # refused, see below
        law = whole.bridge(x.expand(size, *x.shape[1:]), y.squeeze(1), s, t)
        with mp.workdps(120):
            gain, cov, late = exact_bridge(A, B, variance or 0, s, t)
            white = mp.cholesky(cov) ** -1
            rounded = mp.matrix([[mp.mpf(float(v)) for v in row] for row in gain.tolist()])
            gap = mp.matrix(law.mean.mT.tolist()) - gain
            gaps = [white * v * late for v in (gap, rounded - gain)]
            error = whitened_error(law.factor[0], cov)
        mean, floor = (max(float(abs(v)) for v in each) for each in gaps)
        assert error < 1e-8
        assert mean < 1e3 * floor + 1e-12


def test_bridges_next_to_a_lift_of_four_are_refused():
    A, B = chain_of(4)
    whole = (dd.Linear(A) + dd.Noise(B)).lift(Normal(0.0, 0.2))
    with pytest.raises(dd.Unsolved, match="one to rounding"):
        whole.bridge(torch.zeros(1), torch.ones(1, 4), 3e-6, 1e-5)


@pytest.mark.parametrize("t", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
def test_bridges_of_three_along_axes(t):
    """Data in the middle of a chain: noise, data, and an auxiliary that hears the data alone."""
    A = torch.tensor([[0.0, 0.125, -5.0], [-0.125, 0.0, 0.0], [1.25, 0.0, -3.0]])
    B = torch.tensor([[0.0], [0.0], [1.5]])
    whole = (dd.Linear(A) + dd.Noise(B)).lift(Normal(0.0, 0.3))
    with mp.workdps(120):
        _, cov, _ = exact_bridge(A, B, mp.mpf(0.3) ** 2, t / 3, t)
        found = whole.bridge(torch.zeros(1), torch.zeros(1, 3), t / 3, t).factor[0]
        assert whitened_error(found, cov) < 1e-10 + 1e-16 * t**-1.5


@pytest.mark.parametrize("t", [1e-5, 1e-6, 1e-9])
def test_scores_of_a_lift_of_three(t):
    """Its directions come close to one as time to the power 3/2, and so do digits of the score."""
    A, B = chain_of(3)
    whole = (dd.Linear(A) + dd.Noise(B)).lift(Normal(0.0, 0.3))
    with mp.workdps(120):
        _, _, late = exact_bridge(A, B, mp.mpf(0.3) ** 2, t / 3, t)
        x = late * mp.matrix([1, -1, 1])
        x = torch.tensor([[float(v) for v in x]])
        exact = -((late * late.T) ** -1) * mp.matrix(x[0].tolist())
        found = whole.score(x, dd.estimates.Data(torch.zeros(1)), t).gradient[0]
        gap = late.T * (mp.matrix(found.tolist()) - exact)
    assert max(float(abs(v)) for v in gap) < 2e-15 * t**-1.5


@pytest.mark.parametrize("lift", [False, True])
@pytest.mark.parametrize("clock", [False, True])
def test_bridges_of_no_time_are_points(lift, clock):
    A, B = chain_of(3)
    process = dd.Linear(A) + dd.Noise(B)
    process = process.on(dd.clock.Linear(B0, B1)) if clock else process
    process = process.lift(Normal(0.0, 0.2)) if lift else process
    x, y = torch.zeros(1, *() if lift else (3,)), torch.tensor([[0.3, -0.2, 0.1]])
    law = process.bridge(x, y, 0.5, 0.5)
    assert torch.equal(law.mean, y) and torch.equal(law.sample(), y)
    assert law.log_prob(y) == torch.inf and law.log_prob(y + 0.1) == -torch.inf


def test_bridges_where_noise_is_in_some_directions_only():
    """Auxiliaries that nothing pushes, against the form for full noise with little of it."""
    A = torch.tensor([[-1.0, 1.0, 0.5], [0.0, -0.5, 0.0], [0.0, 0.0, -2.0]])
    x, y = torch.ones(1), torch.tensor([[0.4, 0.3, -0.2]])

    def bridge(little):
        B = torch.diag(torch.tensor([1.0, little, little]))
        process = (dd.Linear(A) + dd.Noise(B)).lift(Normal(0.0, 1.0))
        return process.bridge(x, y, 0.2, 0.7)

    none, some = bridge(0.0), bridge(1e-4)
    torch.testing.assert_close(none.mean, some.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(none.covariance_matrix, some.covariance_matrix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CHAINED)
@pytest.mark.parametrize("t", [1e-9, 1e-4, 0.1])
def test_the_loss_of_noise_through_a_chain(name, t):
    r"""With a head that says nothing its mean is half the trace of :math:`G \Sigma^{-1}`."""
    B = torch.tensor(CHAINED[name]).unsqueeze(1)
    size = len(B)
    A, x = torch.tensor(COUPLED)[:size, :size], torch.zeros(100_000, size)
    process = dd.Linear(A) + dd.Noise(B)
    found = dd.loss(process, dd.heads.Epsilon(lambda y, t: 0 * y), x, torch.full((len(x),), t))
    with mp.workdps(150):
        drift, G, _ = turned_system(A, B)
        exact = G * van_loan(drift, G, t)[1] ** -1 / 2
    trace = float(sum(exact[i, i] for i in range(size)))
    assert abs(float(found.mean()) / trace - 1) < 0.025  # five standard errors
    (leaf,) = process.leaves(torch.tensor([t]))
    assert abs(float(leaf.core.engine.coefficient(leaf.time)) / trace - 1) < 1e-10


def test_the_loss_of_a_lift_outlives_its_scores():
    r"""Noise in the last of four coordinates sees :math:`L_{44}` alone, which has its digits."""
    A, B = chain_of(4)
    whole = (dd.Linear(A) + dd.Noise(B)).lift(Normal(0.0, 0.2))
    x, t = torch.zeros(100_000), torch.full((100_000,), 1e-7)
    with pytest.raises(dd.Unsolved, match="one to rounding"):
        whole.score(torch.zeros(100_000, 4), dd.estimates.Data(x), t)
    found = dd.loss(whole, dd.heads.Epsilon(lambda y, t: 0 * y), x, t).mean()
    with mp.workdps(120):
        _, _, factor = exact_bridge(A, B, mp.mpf("0.04"), 5e-8, 1e-7)
        exact = factor[3, 3] ** -2  # G / 2 = 1
    assert abs(float(found) / float(exact) - 1) < 0.025  # five standard errors


def test_functions_of_time_that_have_no_digits_left_are_refused():
    """Laws in all four coordinates; paths go on. With constant numbers they keep them."""
    B, A = torch.tensor(CHAINED["four, no axis"]).unsqueeze(1), torch.tensor(COUPLED)
    process, x = dd.Linear(lambda t: A.expand(*t.shape, 4, 4)) + dd.Noise(B), torch.ones(1, 4)
    constant = dd.Linear(A) + dd.Noise(B)
    for law in (
        lambda process: process.marginal(x, 1e-5),
        lambda process: process.transition(x, 1.0, 1.0 + 1e-5),
        lambda process: process.bridge(x, x, 1e-5, 1.0),
    ):
        with pytest.raises(dd.Unsolved, match="one to rounding"):
            law(process)
        assert law(constant).log_prob(x).isfinite()
    for each in (process, constant):
        assert torch.allclose(each.marginal(x, 0.0).mean, x)
        assert each.bridge(x, x, 0.0, 1.0).factor.abs().max() == 0
        assert each.bridge(x, x, 0.5, 1.0).factor.isfinite().all()


def test_gradients_of_noise_that_arrives_along_no_axis():
    """Also in directions that leave the structure: a second source of noise."""
    Q = torch.tensor([[0.0, -0.54, 0.94], [0.54, 0.0, -1.7], [-0.94, 1.7, 0.0]])
    B = torch.tensor([[0.0], [0.5], [1.0]], requires_grad=True)
    A = (Q.T - torch.eye(3)).requires_grad_(True)

    def value(A, B):
        law = (dd.Linear(A) + dd.Noise(B)).transition(torch.ones(1, 3), 0.0, 0.3)
        return law.mean, law.factor

    assert torch.autograd.gradcheck(value, [A, B], atol=1e-6)


@pytest.mark.parametrize("verb", ["loss", "weight", "drift"])
def test_gradients_in_a_singular_square_of_the_noise(verb):
    """A singular D has no differentiable root; what depends on D itself has a gradient."""
    S, x = torch.eye(2), torch.tensor([0.3, -0.8])
    y, t = torch.tensor([[0.2, 0.5], [-0.4, 0.1]]), torch.tensor([0.3, 0.7])
    head = dd.heads.Score(lambda y, t: -y)

    def value(D):
        core = dd.Langevin([[0.0, 1.0], [-1.0, 0.0]], (D + D.T) / 2, S).on(dd.clock.Constant(1.0))
        if verb == "drift":
            return dd.reverse(core, head).drift(y, 0.5)
        lift = core.lift(Normal(0.0, 0.5))
        weight = None if verb == "loss" else dd.weights.Simple()
        return dd.loss(lift, head, x, t, x_t=y, weight=weight)

    r, into = torch.tensor([1.0, 2.0]), torch.tensor([[0.6, -0.2], [-0.2, 0.9]])
    D = torch.outer(r, r).requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(D).sum(), D)
    with torch.no_grad():  # D may only grow: one-sided differences of order 2
        f = [value(D + n * 1e-5 * into).sum() for n in range(3)]
    exact = (-3 * f[0] + 4 * f[1] - f[2]) / 2e-5
    assert torch.allclose((gradient * into).sum(), exact, rtol=1e-6)


def test_learning_noise_that_is_singular_along_no_axis_is_refused():
    core = dd.Langevin([[0.0, -1.0], [1.0, 0.0]], [[1.0, 2.0], [2.0, 4.0]], torch.eye(2))
    with pytest.raises(ValueError, match="that directions without noise are axes"):
        dd.learn(core)


def test_singular_noise_has_a_factor():
    u = torch.tensor([0.2, 0.5, 1.0])
    process = dd.Langevin(torch.zeros(3, 3), torch.outer(u, u) + 0.0, torch.eye(3))
    noise = process.terms[1].matrix(torch.zeros(1), 3)[0]
    torch.testing.assert_close(noise @ noise.T, 2 * torch.outer(u, u))


@pytest.mark.parametrize("name", PROCESSES)
def test_batch_of_one_is_batch_of_many(name):
    """Bit for bit: `matrix_exp` picks another degree for a lone matrix."""
    process = dd.Langevin(*PROCESSES[name])
    size = len(PROCESSES[name][0])
    t = torch.tensor([1e-4, 1e-6, 0.3, 5.0])
    many = process.transition(torch.zeros(4, size), 0.0, t).factor
    for n in range(4):
        alone = process.transition(torch.zeros(1, size), 0.0, t[n]).factor
        assert bool((alone.reshape(size, size) == many[n].reshape(size, size)).all())


def test_negative_control_matrix_exp_of_one_loses_small_blocks():
    """What the series is there for: the same number by `torch.linalg.matrix_exp`."""
    A, G = drift_of("ALDA"), 2 * torch.tensor(PROCESSES["ALDA"][1])
    tau = 1e-4
    block = torch.cat([torch.cat([A, G], 1), torch.cat([0 * A, -A.T], 1)]) * tau
    both = torch.linalg.matrix_exp(block)
    naive = float((both[:3, 3:] @ both[:3, :3].T)[0, 0])
    flow = Constant(A, torch.zeros(3), G, True, digits(A, True))(torch.tensor([tau]))
    goal = tau**5 / 20 * 2  # to leading order, ∫ (u² / 2)² G du
    assert abs(float(flow.cov[0, 0, 0]) / goal - 1) < 2e-4
    assert abs(naive / goal - 1) > 1e-2


def drift_of(name):
    Q, D, S = (torch.tensor(v, dtype=torch.float64) for v in PROCESSES[name])
    return -(Q + D) @ torch.linalg.inv(S)


# -- systems that vary in time --------------------------------------------------------------------


def random_system(size, seed):
    """Smooth A(t), b(t), B(t) that do not commute with themselves at other times."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    A0, A1, A2 = (draw(size, size) for _ in range(3))
    b0, b1, B0_, B1_ = draw(size), draw(size), draw(size, size), draw(size, size)

    def A(t):
        t = t[..., None, None]
        return A0 + 2 * t * A1 + torch.sin(3 * t) * A2

    def b(t):
        return b0 + torch.cos(2 * t[..., None]) * b1

    def B(t):
        return B0_ + t[..., None, None] * B1_

    return A, b, B


def reference(A, b, B, s, t, size):
    """Φ, m and Σ by DOP853 at 1e-12."""

    def slope(u, y):
        u = torch.tensor(u, dtype=torch.float64)
        drift, push, noise = (f(u).numpy() for f in (A, b, B))
        phi, mean, cov = np.split(y, [size**2, size**2 + size])
        phi, cov = phi.reshape(size, size), cov.reshape(size, size)
        spread = drift @ cov + cov @ drift.T + noise @ noise.T
        return np.concatenate([(drift @ phi).ravel(), drift @ mean + push, spread.ravel()])

    start = np.concatenate([np.eye(size).ravel(), np.zeros(size + size**2)])
    y = solve_ivp(slope, (s, t), start, "DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    phi, mean, cov = (torch.tensor(v) for v in np.split(y, [size**2, size**2 + size]))
    return phi.reshape(size, size), mean, cov.reshape(size, size)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_varying_systems_against_an_ode(size, seed):
    """Mean and covariance to 1e-8 where exp(∫A) is wrong by more than 1e-2."""
    A, b, B = random_system(size, seed)
    process = dd.Linear(A, b) + dd.Noise(B)
    x = torch.linspace(-1, 2, size).unsqueeze(0)
    for s, t in ((0.0, 1.0), (0.2, 0.7), (0.0, 1e-3)):
        phi, mean, cov = reference(A, b, B, s, t, size)
        law = process.transition(x, s, t)
        scale = 1 + cov.abs().max()
        assert float((law.mean[0] - (phi @ x[0] + mean)).abs().max() / scale) < 1e-8
        assert float((law.covariance_matrix[0] - cov).abs().max() / scale) < 1e-8
    nodes, weights = np.polynomial.legendre.leggauss(20)
    u = torch.tensor((nodes + 1) / 2)
    integral = torch.einsum("n,nij->ij", torch.tensor(weights) / 2, A(u))
    phi, _, _ = reference(A, b, B, 0.0, 1.0, size)
    assert float((torch.linalg.matrix_exp(integral) - phi).abs().max()) > 1e-2


def test_varying_systems_converge_at_order_twelve():
    """Six Gauss nodes per panel."""
    A, b, B = random_system(3, 5)

    def system(t):
        return A(t), b(t), B(t) @ B(t).mT

    zero = torch.zeros(1)
    goal = Varying(system, 64)(zero, zero + 1).cov
    errors = [float((Varying(system, n)(zero, zero + 1).cov - goal).abs().max()) for n in (1, 2)]
    assert math.log2(errors[0] / errors[1]) > 9


def test_a_varying_system_on_a_clock_and_composed():
    """p(0 → 1) = p(0 → s) p(s → 1) for functions of own time under a clock."""
    A, b, B = random_system(2, 3)
    process = (dd.Linear(A, b) + dd.Noise(B)).on(dd.clock.Constant(1.0))
    engine = next(process.leaves(torch.zeros(1))).core.engine
    zero, half, one = torch.zeros(1), torch.full((1,), 0.37), torch.ones(1)
    both = compose(engine.flow(zero, half), engine.flow(half, one))
    for found, goal in zip(both, engine.flow(zero, one), strict=True):
        torch.testing.assert_close(found, goal, rtol=1e-10, atol=1e-10)


def test_functions_that_are_not_smooth_are_refused():
    kink = lambda t: torch.where(t < 0.31, 1.0, -1.0)[..., None, None] * torch.eye(2).double()
    with pytest.raises(ValueError, match="not smooth"):
        dd.Noise(1.0).__add__(dd.Linear(kink)).transition(torch.zeros(1, 2), 0.0, 1.0)


# -- stiff, defective, unstable and singular systems ----------------------------------------------


def in_60_digits(A, G, tau, stable):
    """Φ and Σ: by Van Loan, or as S − Φ S Φᵀ where the larger exponential would overflow."""
    with mp.workdps(60):
        size = len(A)
        A, G = mp.matrix(A.tolist()) * mp.mpf(tau), mp.matrix(G.tolist()) * mp.mpf(tau)
        block = mp.zeros(2 * size)
        block[:size, :size], block[:size, size:], block[size:, size:] = A, G, -A.T
        if stable and mp.norm(A) > 50:
            both = mp.zeros(size**2)
            for i, j, m in np.ndindex(size, size, size):
                both[i * size + j, m * size + j] += A[i, m]
                both[i * size + j, i * size + m] += A[j, m]
            flat = mp.matrix([-G[i, j] for i in range(size) for j in range(size)])
            found = mp.lu_solve(both, flat)
            S = mp.matrix(size, size)
            for i, j in np.ndindex(size, size):
                S[i, j] = found[i * size + j]
            phi = mp.expm(A)
            cov = S - phi * S * phi.T
        else:
            both = mp.expm(block)
            phi = both[:size, :size]
            cov = both[:size, size:] * phi.T
        return (torch.tensor([[float(v) for v in row] for row in m.tolist()]) for m in (phi, cov))


SYSTEMS = {
    "defective (critically damped)": ([[0.0, 1.0], [-1.0, -2.0]], [[0.0, 0.0], [0.0, 4.0]]),
    "Jordan block of size three": (
        [[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, -1.0]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    ),
    "stiff": ([[-1e6, 1.0], [0.0, -1.0]], [[1.0, 0.0], [0.0, 1.0]]),
    "stiff, coupled": ([[0.0, 1.0], [-1.0, -1e4]], [[0.0, 0.0], [0.0, 2e4]]),
    "unstable": ([[0.3, 1.0], [0.0, -0.5]], [[1.0, 0.0], [0.0, 0.5]]),
    "pure integrators": (
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    ),
    "variance exploding": ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.5], [0.5, 2.0]]),
    "rotation without friction": ([[0.0, 3.0], [-3.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]),
}


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("tau", [1e-6, 0.01, 1.0, 9.0])
def test_difficult_systems(name, tau):
    A, G = (torch.tensor(v, dtype=torch.float64) for v in SYSTEMS[name])
    stable = bool((torch.linalg.eigvals(A).real < 0).all())
    flow = Constant(A, torch.zeros(len(A)), G, stable, digits(A, stable))(torch.tensor([tau]))
    phi, cov = in_60_digits(A, G, tau, stable)
    rounding = 2**-53 * tau * float(A.abs().sum(-1).max())  # of the many steps of a stiff system
    close = {"rtol": 1e-12 + 8 * rounding, "atol": 1e-15 * float(cov.abs().max().clamp(min=1))}
    torch.testing.assert_close(flow.phi[0], phi, **close)
    torch.testing.assert_close(flow.cov[0], cov, **close)
    L = cholesky(flow.cov)[0]
    torch.testing.assert_close(L @ L.T, cov, **close)


@pytest.mark.parametrize("learned", [False, True])
def test_a_stiff_system_reaches_its_limit(learned):
    """Slow and fast rates that differ by 10⁹: at ∞ the slow one too is forgotten."""
    A = torch.tensor([[-1e6, 1.0], [0.0, -1e-3]], requires_grad=learned)
    process = dd.Linear(A) + dd.Noise([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[1.0, 2.0]])
    limit = process.limit((1, 2)).covariance_matrix
    for t in (1e5, math.inf):
        law = process.transition(x, 0.0, t)
        torch.testing.assert_close(law.covariance_matrix, limit, rtol=2e-7, atol=0)
        assert float(law.mean.detach().abs().max()) < 1e-15


def test_no_time_and_all_time():
    for name, (Q, D, S) in PROCESSES.items():
        process, size = dd.Langevin(Q, D, S), len(Q)
        x = torch.linspace(-1, 2, size).unsqueeze(0)
        still = process.transition(x, 0.0, 0.0)
        assert bool((still.mean == x).all()) and not bool(still.factor.any()), name
        assert bool((still.sample() == x).all()), name
        far = process.transition(x, 0.0, torch.inf)
        S = torch.tensor(S)
        torch.testing.assert_close(far.mean, torch.zeros(1, size), rtol=0, atol=1e-12)
        torch.testing.assert_close(far.covariance_matrix[0], S, rtol=1e-12, atol=1e-12, msg=name)
        again = process.transition(x, torch.inf, torch.inf)
        assert bool((again.mean == x).all()), name


def test_unstable_systems_have_no_law_at_infinity():
    process = dd.Linear([[0.0, 1.0], [0.0, 0.0]]) + dd.Noise([[0.0], [1.0]])
    with pytest.raises(dd.Unsolved, match="no limit"):
        process.limit((1, 2))
    law = process.transition(torch.zeros(1, 2), 0.0, torch.inf)
    assert not bool(law.mean.isfinite().any())


# -- factors --------------------------------------------------------------------------------------


def graded(size, count, seed):
    """Positive definite matrices whose entries span twenty orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    C = torch.randn(count, size, 2 * size, generator=generator, dtype=torch.float64)
    scale = 10.0 ** (-10 * torch.rand(count, size, 1, generator=generator, dtype=torch.float64))
    return scale * C


def test_factors_and_rotations():
    for size in (1, 2, 3, 4):
        C = graded(size, 50, size)
        cov = C @ C.mT
        std = cov.diagonal(dim1=-2, dim2=-1).sqrt()
        unit = std.unsqueeze(-1) * std.unsqueeze(-2)
        for L in (cholesky(cov), triangular(C), add_columns(triangular(C[..., :1]), C[..., 1:])):
            assert not bool(L.triu(1).any())
            assert bool((L.diagonal(dim1=-2, dim2=-1) > 0).all())
            assert float(((L @ L.mT - cov) / unit).abs().max()) < 1e-13
        inverse = lower_inverse(cholesky(cov))
        eye = torch.eye(size).expand(cov.shape)
        torch.testing.assert_close(inverse @ cholesky(cov), eye, rtol=0, atol=1e-9)


def test_a_singular_covariance_has_a_factor_and_an_indefinite_one_has_none():
    L = cholesky(torch.tensor([[0.0, 0.0], [0.0, 4.0]]))
    assert L.tolist() == [[0.0, 0.0], [0.0, 2.0]]
    assert bool(cholesky(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).isnan().any())


def test_lyapunov_solves_its_equation():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(5, 4, 4, generator=generator, dtype=torch.float64) - 6 * torch.eye(4)
    G = torch.randn(5, 4, 4, generator=generator, dtype=torch.float64)
    G = G @ G.mT
    S = lyapunov(A, G)
    assert float((A @ S + S @ A.mT + G).abs().max()) < 1e-12


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1e-3, 0.4, 7.0])
def test_gradients_against_central_differences(tau):
    """Of Φ, m and the factor with respect to A, b, B and the time."""
    generator = torch.Generator().manual_seed(1)
    A = drift_of("CLD")
    b = torch.randn(2, generator=generator, dtype=torch.float64)
    B = torch.tensor([[0.3, 0.0], [0.2, 1.5]])
    time = torch.tensor([tau])

    def value(A, b, B, time):
        flow = Constant(A, b, B @ B.mT, True, digits(A, True))(time)
        return flow.phi, flow.mean, cholesky(flow.cov)

    inputs = [v.clone().requires_grad_(True) for v in (A, b, B, time)]
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6 * min(1, 10 * tau), atol=1e-6)


def test_gradients_of_varying_systems():
    A, _, B = random_system(2, 2)
    c = torch.tensor([0.7, -0.2], requires_grad=True)

    def value(c):
        def system(t):
            return c[0] * A(t), c.expand(len(t), 2), B(c[1] * t) @ B(c[1] * t).mT

        zero = torch.zeros(1)
        return tuple(Varying(system, 8)(zero, zero + 1))

    assert torch.autograd.gradcheck(value, [c])


def test_gradients_where_noise_has_not_arrived():
    """At τ = 0 the factor is zero, and its derivatives are finite numbers or zero."""
    A = drift_of("CLD").requires_grad_(True)
    G = torch.diag(torch.tensor([0.0, 2.0]))
    flow = Constant(A, torch.zeros(2), G, True, digits(A, True))(torch.zeros(1))
    (slope,) = torch.autograd.grad(cholesky(flow.cov).sum() + flow.phi.sum(), A)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize(
    ("A", "B", "all_of_them"),
    [
        ([[0.0, 1.0], [-1.0, -2.0]], [[0.0], [2.0]], True),
        ([[-1.0, 0.0], [0.0, -1.0]], [[0.0], [1.0]], False),
        ([[-1.0, 0.0], [0.0, -1.0]], [[1.0], [1.0]], False),  # equal coordinates stay equal
        ([[-1.0, 0.0], [0.0, -2.0]], [[1.0], [1.0]], True),
        ([[0.0, 1e6], [-1e6, -1.0]], [[0.0], [1e-3]], True),
        ([[0.0, 0.0], [0.0, 0.0]], [[0.0], [0.0]], False),
    ],
)
def test_where_noise_arrives(A, B, all_of_them):
    """Kalman's rank, whatever the units."""
    A, B = torch.tensor(A, dtype=torch.float64), torch.tensor(B, dtype=torch.float64)
    assert reached(A, B @ B.mT) is all_of_them
    assert reached(torch.stack([A, -torch.eye(2).double()]), torch.stack([B @ B.mT] * 2)) is False


# -- laws without a density -----------------------------------------------------------------------


def certain_laws():
    """Laws at time 0, of events of three vectors, and where they stand."""
    turning = lambda t: torch.stack([-t, 1 + t, -1 - t, t - 2], -1).reshape(*t.shape, 2, 2)
    damped = dd.Linear([[0.0, 4.0], [-1.0, -4.0]]) + dd.Noise([[0.0], [2**0.5]])
    varying = dd.Linear(turning) + dd.Noise([[0.0], [1.0]])
    x = torch.randn(2, 3, 2)
    for process in (damped, varying):
        yield process.transition(x, 0.0, 0.0), x
        yield process.on(dd.clock.Constant(2.0)).marginal(x, 0.0), x
        yield process.bridge(x, x + 1, 0.0, 0.5), x
        lifted = process.on(dd.clock.Constant(1.0)).lift(Normal(0.0, 0.1)).marginal(x[..., 0], 0.0)
        yield lifted, lifted.sample()


def test_a_law_at_time_zero_is_a_point_mass():
    """+∞ where all certain coordinates have their values, −∞ elsewhere, never nan."""
    for law, x in certain_laws():
        off = x.clone()
        off[1, 2, 0] += 1e-9  # the data of one vector of one event
        assert law.log_prob(x).tolist() == [torch.inf, torch.inf]
        assert law.log_prob(off).tolist() == [torch.inf, -torch.inf]


def test_the_density_tends_to_that_of_a_point_mass():
    A, B = torch.tensor([[-1.0, 2.0], [-1.0, -3.0]]), torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    process, x = dd.Linear(A) + dd.Noise(B), torch.tensor([[1.0, -2.0]])
    for t in (1e-6, 1e-9, 1e-12):
        phi = torch.linalg.matrix_exp(A * t)
        exact = torch.distributions.MultivariateNormal(x @ phi.T, t * B @ B.T)
        for at in (x, x + 0.1):
            found, goal = process.transition(x, 0.0, t).log_prob(at), exact.log_prob(at)
            assert abs(found / goal - 1) < 1e-4
            limit = process.transition(x, 0.0, 0.0).log_prob(at)
            assert limit.sign() == goal.sign() and bool(limit.isinf())


def test_divergences_from_and_to_a_point_mass():
    process = (dd.Linear([[0.0, 4.0], [-1.0, -4.0]]) + dd.Noise([[0.0], [2**0.5]])).on(
        dd.clock.Constant(1.0)
    )
    x = torch.tensor([[1.0, -2.0], [0.5, 0.3]])
    point, moved = process.marginal(x, 0.0), process.marginal(x + 1e-9, 0.0)
    late = process.marginal(x, 0.5)
    kl = torch.distributions.kl_divergence
    assert kl(point, process.marginal(x, 0.0)).tolist() == [0.0, 0.0]
    for p, q in ((point, moved), (point, late), (late, point)):
        assert kl(p, q).tolist() == [torch.inf, torch.inf]
    lifted = process.lift(Normal(0.0, 0.1)), process.lift(Normal(0.2, 0.3))
    p, q = (whole.marginal(x[:, 0], 0.0) for whole in lifted)  # the auxiliaries' own divergence
    goal = kl(Normal(torch.tensor(0.0), 0.1), Normal(0.2, 0.3)).double()
    torch.testing.assert_close(kl(p, q), goal.expand(2), rtol=1e-6, atol=0)


def test_what_noise_never_reaches_has_no_density():
    process = dd.Linear([[-1.0, 0.0], [0.5, -4.0]]) + dd.Noise([[0.0], [1.0]])
    x = torch.tensor([[1.0, -2.0]])
    law = process.transition(x, 0.0, 0.7)
    phi = torch.linalg.matrix_exp(torch.tensor([[-1.0, 0.0], [0.5, -4.0]]) * 0.7)
    torch.testing.assert_close(law.mean, x @ phi.T)
    assert float(law.sample()[0, 0]) == float(law.mean[0, 0])
    with pytest.raises(dd.Unsolved, match="the law has no density"):
        law.log_prob(x)
    with pytest.raises(dd.Unsolved, match="the law has no density"):
        torch.distributions.kl_divergence(law, law)


def test_numbers_at_time_zero_are_a_point_mass():
    vp = (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
    x_0 = torch.tensor([[0.5, -1.0]] * 3)
    law = vp.marginal(x_0, torch.tensor([0.0, 0.0, 0.5]))
    x = x_0.clone()
    x[1, 0] += 1
    found = law.log_prob(x)
    late = torch.distributions.Normal(law.base_dist.loc[2], law.base_dist.scale[2])
    assert found[0] == torch.inf and found[1] == -torch.inf
    torch.testing.assert_close(found[2], late.log_prob(x[2]).sum())
    same, other = (vp.marginal(v, torch.tensor([0.0, 0.1, 0.5])) for v in (x_0, x))
    assert laws.kl(law, same).tolist() == [0.0, torch.inf, 0.0]
    assert laws.kl(same, law)[1] == torch.inf
    assert laws.kl(vp.marginal(x, 0.0), vp.marginal(x_0, 0.0)).tolist() == [0.0, torch.inf, 0.0]
    normal = torch.distributions.kl_divergence(
        torch.distributions.Normal(same.base_dist.loc[1:], same.base_dist.scale[1:]),
        torch.distributions.Normal(other.base_dist.loc[1:], other.base_dist.scale[1:]),
    )
    torch.testing.assert_close(laws.kl(same, other)[1:], normal.sum(1))


def test_nothing_has_moved_at_time_zero():
    process, x = dd.Linear(-1 / 2) + dd.Noise(1.0), torch.tensor([[1.0, 2.0]])
    law = process.bridge(x, x, 0.0, 0.0)
    assert torch.equal(law.sample(), x) and law.log_prob(x).tolist() == [torch.inf]
    with pytest.raises(ValueError, match="p\\(x_t"):
        process.bridge(x, x + 1, 0.0, 0.0)
    with pytest.raises(ValueError, match="t must be > 0"):
        process.score(x, x, 0.0)
