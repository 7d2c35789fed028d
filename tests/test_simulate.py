"""Forward paths where no engine knows the law: Euler–Maruyama against the moments of the SDE."""

import pytest
import torch
import torchsde
from scipy import stats
from scipy.integrate import solve_ivp

import discdiff as dd
from discdiff.strong import Entrywise

A = [[0.0, 4.0], [-1.0, -4.0]]
B = [[0.0], [2**0.5]]
COUNT = 20_000


def moments(A, B, x, time):
    """Mean and covariance of dx = A x dt + B dW, by solving their differential equations."""
    A, B, x = (torch.tensor(v, dtype=torch.float64).numpy() for v in (A, B, x))
    k = len(x)

    def slope(_, y):
        mean, cov = y[:k], y[k:].reshape(k, k)
        return [*(A @ mean), *(A @ cov + cov @ A.T + B @ B.T).ravel()]

    start = [*x, *[0.0] * k**2]
    end = torch.from_numpy(solve_ivp(slope, (0, time), start, rtol=1e-10, atol=1e-12).y[:, -1])
    return end[:k], end[k:].reshape(k, k)


def field(drift):
    """Linear motion that no engine solves, as it is not said to be linear."""
    return dd.Field(lambda x, t: x @ torch.tensor(drift).to(x).mT)


@pytest.mark.parametrize(
    ("drift", "noise", "x"),
    [
        (A, B, [1.0, -0.5]),
        (A, [[0.3, 0.0], [0.5, 1.0]], [1.0, -0.5]),
        (A, [[0.3, 0.0, 0.2], [0.5, 1.0, -1.0]], [1.0, -0.5]),
        ([[-1.0]], [[0.5, 1.0]], [2.0]),
    ],
)
def test_matrices_and_any_number_of_noises(float64, drift, noise, x):
    """Fails by chance once in 10⁵ runs; 128 steps leave a bias of 1 % of the moments."""
    process = (field(drift) + dd.Noise(noise)).on(dd.clock.Constant(2.0))
    start = torch.tensor(x).expand(COUNT, 3, len(x))
    path = dd.simulate(process, start, [0.0, 0.5], steps=128)
    assert path.shape == (2, COUNT, 3, len(x)) and torch.equal(path[0], start)
    draws = path[1].reshape(-1, len(x))
    mean, cov = moments(drift, noise, x, 1.0)
    error = 5 * (cov.diagonal() / len(draws)).sqrt() + 0.01 * (1 + mean.abs())
    assert bool(((draws.mean(0) - mean).abs() < error).all()), (draws.mean(0), mean)
    assert torch.allclose(draws.T.cov().reshape(cov.shape), cov, rtol=0.04, atol=0.02)


def test_matrices_that_vary_in_time(float64):
    """∫(1 + t)² dt over [0, 1] is 7/3, in each of two directions of one source."""
    direction = torch.tensor([[1.0], [-2.0]])
    noise = dd.Noise(lambda t: (1 + t)[:, None, None] * direction)
    still = field([[0.0, 0.0], [0.0, 0.0]])
    draws = dd.simulate(still + noise, torch.zeros(COUNT, 2), [1.0], steps=128)[-1]
    assert torch.allclose(draws[:, 1], -2 * draws[:, 0])
    assert abs(float(draws[:, 0].var()) - 7 / 3) < 0.15


def test_infinite_times_are_refused():
    process = (field(A) + dd.Noise(B)).on(dd.clock.LogLinear())
    with pytest.raises(ValueError, match="times must be finite"):
        dd.simulate(process, torch.zeros(4, 2), [1.0])


def test_strong_steps_follow_geometric_brownian_motion():
    """Mean and variance of the exact law from two steps, where Euler's are off by far more."""
    drift, noise = -0.5, 0.8
    gbm = dd.Field(lambda x, t: drift * x) + dd.StateNoise(lambda x, t: noise * x)
    x = torch.ones(COUNT, 1, dtype=torch.float64)
    torch.manual_seed(0)
    (found,) = dd.simulate(gbm, x, [1.0], steps=8, strong=True).log()
    error = noise / COUNT**0.5
    assert abs(float(found.mean()) - (drift - noise**2 / 2)) < 5 * error
    assert float(found.std()) == pytest.approx(noise, rel=5 / (2 * COUNT) ** 0.5)
    with pytest.raises(dd.Unsolved, match="entry by entry"):
        dd.simulate(dd.Field(lambda x, t: -x), x, [1.0], strong=True)


def test_strong_order_of_runge_kutta_is_three_halves():
    """The mean error of paths over one Brownian motion, 8 to 32 steps."""
    start, errors = torch.ones(4000, 1, dtype=torch.float64), []
    terms = (dd.Field(lambda x, t: -0.5 * x), dd.StateNoise(lambda x, t: 0.8 * x))
    sde, ends = Entrywise(terms, start.shape), torch.tensor([0.0, 1.0], dtype=torch.float64)
    for steps in (8, 32):
        path = torchsde.BrownianInterval(
            0.0, 1.0, start.shape, torch.float64, entropy=1, levy_area_approximation="space-time"
        )
        found = torchsde.sdeint(sde, start, ends, bm=path, method="srk", dt=1 / steps)[-1]
        exact = torch.exp(-0.82 + 0.8 * path(0.0, 1.0))
        errors.append((found - exact).abs().mean().detach())
    order = float((errors[0] / errors[1]).log2() / 2)
    assert 1.3 < order < 1.8, order


def test_chains_that_are_declared_backward_are_drawn_from_their_end():
    """Given the data the noise of a step back is one increment; of marginals alone it is not."""
    torch.manual_seed(0)
    walk, size = dd.ReverseWalk(torch.distributions.Laplace(0.0, 1.0), [0.1, 0.2, 0.3]), 20_000
    x_0 = torch.full((size, 1), 0.7, dtype=torch.float64)
    path = dd.simulate(walk, x_0, [0, 1, 2, 2, 3])
    assert torch.equal(path[0], x_0) and torch.equal(path[2], path[3])
    kept, beta = [1.0, 0.9, 0.72, 0.504], 0.3
    variance = beta * (1 - kept[2]) / (1 - kept[3])
    factor = ((1 - kept[2] - variance) / (1 - kept[3])) ** 0.5

    def distance(late):
        noise = path[2] - kept[2] ** 0.5 * x_0 - factor * (late - kept[3] ** 0.5 * x_0)
        law = stats.laplace(0, (variance / 2) ** 0.5)
        return stats.kstest(noise.squeeze().numpy(), law.cdf).statistic * size**0.5

    assert distance(path[4]) < 2  # exceeded by chance once in 1500
    assert distance(walk.marginal(x_0, 3).sample()) > 10
    shared = dd.SharedWalk(torch.distributions.StudentT(5.0), [0.1, 0.2])
    with pytest.raises(dd.Unsolved, match="no Markov chain"):
        dd.simulate(shared, x_0[:2], [1, 2])
