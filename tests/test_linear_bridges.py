"""The mean of a Lévy bridge is the share of the time that has gone."""

import pyro.distributions as pyro
import pytest
import torch

import discdiff as dd
from discdiff.engines.walk_bridge import LinearBridge
from discdiff.increments import CompoundPoisson, GeneralisedNormal

pytestmark = pytest.mark.usefixtures("float64")
JUMPS = CompoundPoisson(2.0, pyro.Laplace(0.0, 1.0), 0.5)
SKEWED = CompoundPoisson(3.0, pyro.Normal(0.5, 0.3), 0.4, -1.5)
BETAS = [0.5, 0.6, 0.5]
PROCESSES = {
    "logistic walk": (dd.LevyWalk(pyro.Logistic(0.0, 1.0), BETAS), 1, 3),
    "Gumbel walk": (dd.LevyWalk(pyro.Gumbel(0.0, 1.0), BETAS), 1, 2),
    "tabulated walk": (dd.LevyWalk(GeneralisedNormal(0.9), [0.8, 0.8, 0.8]), 2, 3),
    "jumping walk": (dd.LevyWalk(JUMPS, BETAS), 1, 3),
    "skewed jumps": (dd.LevyWalk(SKEWED, BETAS), 1, 2),
    "jumps": (1.3 * dd.Levy(JUMPS), 0.4, 1.1),
    "skewed jumps in time": (dd.Levy(SKEWED), 0.3, 0.5),
}


def integral(process, s, t, x_0, x_t):
    """The mass and the mean of the bridge from its density."""
    y = torch.linspace(-15, 15, 751)
    ends = (torch.full((len(y), 1), v) for v in (x_0, x_t))
    p = process.bridge(*ends, s, t).log_prob(y[:, None]).exp()
    return float(torch.trapezoid(p, y)), float(torch.trapezoid(p * y, y))


@pytest.mark.parametrize("name", PROCESSES)
def test_the_mean_is_the_integral_of_the_density(name):
    process, s, t = PROCESSES[name]
    for x_0, x_t in ((0.3, 1.7), (-1.0, -0.2)):
        law = process.bridge(torch.tensor([[x_0]]), torch.tensor([[x_t]]), s, t)
        assert isinstance(law.base_dist, LinearBridge)
        mass, mean = integral(process, s, t, x_0, x_t)
        assert mass == pytest.approx(1, abs=1e-4)
        assert float(law.mean) == pytest.approx(mean / mass, abs=1e-4)


def test_draws_have_that_mean():
    process, s, t = PROCESSES["skewed jumps"]
    ends = (torch.full((300, 1), v) for v in (0.3, 1.7))
    law = process.bridge(*ends, s, t)
    drawn = law.sample()
    assert float(drawn.mean()) == pytest.approx(
        float(law.mean[0]), abs=5 * float(drawn.std()) / 300**0.5
    )


def test_under_a_drift_it_is_not_linear():
    """As what came early was weakened: large jumps came late. The mean is by quadrature there."""
    process, s, t = dd.Linear(-2.0) + dd.Levy(JUMPS), 0.5, 1.0
    x_0, x_t = torch.tensor([[0.0]]), torch.tensor([[4.0]])
    law = process.bridge(x_0, x_t, s, t)
    assert not isinstance(law.base_dist, LinearBridge)
    mass, mean = integral(process, s, t, 0.0, 4.0)
    assert float(law.mean) == pytest.approx(mean / mass, abs=1e-3)
    engine = law.base_dist.engine
    linear = engine.linear(x_0, x_t, torch.tensor([s]), torch.tensor([t]))
    assert abs(float(linear) - mean / mass) > 0.05


def test_noise_of_a_fixed_shape_is_not_linear_either():
    """A walk with increments of one shape and unequal sizes is no Lévy process."""
    process = dd.Walk(pyro.Laplace(0.0, 1.0), [0.05, 0.6])
    x_0, x_t = torch.tensor([[0.0]]), torch.tensor([[3.0]])
    law = process.bridge(x_0, x_t, 1, 2)
    mass, mean = integral(process, 1, 2, 0.0, 3.0)
    assert float(law.mean) == pytest.approx(mean / mass, abs=1e-3)
    engine = law.base_dist.engine
    assert abs(float(engine.linear(x_0, x_t, torch.tensor([1]), torch.tensor([2]))) - mean) > 0.01


def test_it_carries_gradients():
    process, s, t = PROCESSES["jumps"]
    x = torch.tensor([[0.2], [1.5]], requires_grad=True)
    mean = process.bridge(torch.zeros(2, 1), x, s, t).mean
    (slope,) = torch.autograd.grad(mean.sum(), x)
    torch.testing.assert_close(slope, torch.full((2, 1), 4 / 11))
