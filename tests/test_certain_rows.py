"""Rows of a batch in which a walk has no noise: at index 0, and from an index to itself."""

import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td

import discdiff as dd
from discdiff.increments import CompoundPoisson

BETAS = [0.2, 0.4, 0.5]
JUMPS = CompoundPoisson(2.0, td.Normal(0.0, 1.0), 0.5)
WALKS = {
    "steps, laplace": lambda: dd.Walk(td.Laplace(0.0, 1.0), BETAS),
    "steps, uniform": lambda: dd.Walk(td.Uniform(0.0, 1.0), BETAS),
    "clock, gamma": lambda: dd.LevyWalk(td.Gamma(4.0, 1.0), BETAS),
    "clock, laplace": lambda: dd.LevyWalk(td.Laplace(0.0, 1.0), BETAS),
    "clock, logistic": lambda: dd.LevyWalk(pyro.Logistic(0.0, 1.0), BETAS),
    "clock, poisson": lambda: dd.LevyWalk(td.Poisson(3.0), BETAS),
    "clock, jumps and noise": lambda: dd.LevyWalk(JUMPS, BETAS),
    "marginals, laplace": lambda: dd.MarginalWalk(td.Laplace(0.0, 1.0), BETAS),
    "marginals, gumbel": lambda: dd.MarginalWalk(td.Gumbel(0.0, 1.0), BETAS),
    "reverse, laplace": lambda: dd.ReverseWalk(td.Laplace(0.0, 1.0), BETAS),
    "reverse, half of the noise": lambda: dd.ReverseWalk(td.Gumbel(0.0, 1.0), BETAS, eta=0.5),
    "stable": lambda: dd.StableWalk(1.5, BETAS),
    "variances": lambda: dd.StableWalk(1.5, BETAS).mixed(torch.tensor([[1.0], [2.0], [3.0]])),
    "normal": lambda: dd.Walk(td.Normal(0.0, 1.0), BETAS),
}
EARLY, LATE = torch.tensor([0, 0, 2, 3, 1, 2]), torch.tensor([2, 0, 2, 3, 3, 3])
AT_DATA, AT_STATE, BETWEEN = [0, 1], [2, 3], [4, 5]


@pytest.mark.parametrize("name", WALKS)
def test_a_bridge_is_certain_at_its_ends_and_nowhere_else(name):
    torch.manual_seed(0)
    walk, x_0 = WALKS[name](), torch.full((6, 1), 0.3)
    x = walk.marginal(x_0, LATE.clamp(min=1)).sample()
    x[1] = x_0[1]
    law = walk.bridge(x_0, x, EARLY, LATE)
    for value in (law.sample(), law.mean):
        assert torch.equal(value[AT_DATA], x_0[AT_DATA])
        assert torch.equal(value[AT_STATE], x[AT_STATE])
        assert bool(value.isfinite().all())
    alone = walk.bridge(x_0[BETWEEN], x[BETWEEN], EARLY[BETWEEN], LATE[BETWEEN])
    y = alone.sample()
    whole = torch.cat([x_0[AT_DATA], x[AT_STATE], y])
    assert torch.equal(law.log_prob(whole)[BETWEEN], alone.log_prob(y))
    assert bool((law.log_prob(whole + 0.1)[AT_DATA + AT_STATE] == -torch.inf).all())


@pytest.mark.parametrize("name", WALKS)
def test_laws_forward_are_certain_where_nothing_moves(name):
    torch.manual_seed(0)
    walk, x_0 = WALKS[name](), torch.full((6, 1), 0.3)
    for law in (walk.marginal(x_0, EARLY), walk.marginal(x_0, 0)):
        assert torch.equal(law.sample()[:2], x_0[:2])
    assert bool((walk.marginal(x_0, EARLY).sample()[2:] != x_0[2:]).any())
    if name.startswith("reverse"):
        return
    moved = walk.transition(x_0, EARLY, LATE).sample()
    torch.testing.assert_close(moved[1:4], x_0[1:4])
    assert bool((moved[[0, 4, 5]] != x_0[[0, 4, 5]]).any())


@pytest.mark.parametrize("name", ["reverse, laplace", "reverse, half of the noise"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_learned_betas_of_steps_back_have_gradients(name, k):
    """Against differences of walks that are declared anew."""
    torch.set_default_dtype(torch.float64)
    try:
        x_0, x = torch.tensor([[0.3]]), torch.tensor([[-0.4]])
        law, eta = (td.Laplace(0.0, 1.0), 1.0) if "laplace" in name else (td.Gumbel(0.0, 1.0), 0.5)
        walk = dd.learn(dd.ReverseWalk(law, BETAS, eta=eta))
        (number,) = walk.parameters()
        walk.marginal(x_0, k).log_prob(x).sum().backward()
        for i in range(3):
            around = []
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    number[i] += step
                    again = dd.ReverseWalk(law, walk.betas.detach().tolist(), eta=eta)
                    around.append(float(again.marginal(x_0, k).log_prob(x)))
                    number[i] -= step
            slope = (around[0] - around[1]) / 2e-4
            assert float(number.grad[i]) == pytest.approx(slope, abs=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


def test_vectors_that_are_certain_are_asked_apart():
    walk, x_0, x = dd.SharedWalk(td.StudentT(5.0), BETAS), torch.zeros(2, 3), torch.ones(2, 3)
    for ask in (lambda s, t: walk.marginal(x_0, t), lambda s, t: walk.bridge(x_0, x, s, t)):
        with pytest.raises(dd.Unsolved, match="ask them apart"):
            ask(torch.tensor([0, 1]), torch.tensor([0, 2]))
    still = walk.bridge(x_0, x, 2, 2)
    assert torch.equal(still.sample(), x) and torch.equal(still.mean, x)
    assert torch.equal(walk.bridge(x_0, x, 0, 2).sample(), x_0)
