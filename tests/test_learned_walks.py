"""Walks whose betas are learned: at each time they are the walks of the betas of that time."""

from copy import deepcopy

import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td

import discdiff as dd

BETAS = [0.2, 0.4, 0.5]
VARIANCES = torch.tensor([[1.0], [2.0], [3.0]])
WALKS = {
    "normal": lambda b: dd.Walk(td.Normal(0.0, 1.0), b),
    "steps": lambda b: dd.Walk(td.Laplace(0.0, 1.0), b),
    "clock, a table": lambda b: dd.LevyWalk(pyro.Logistic(0.0, 1.0), b),
    "clock, closed": lambda b: dd.LevyWalk(td.Laplace(0.0, 1.0), b),
    "marginals": lambda b: dd.MarginalWalk(td.Laplace(0.0, 1.0), b),
    "reverse": lambda b: dd.ReverseWalk(td.Laplace(0.0, 1.0), b),
    "reverse, half of the noise": lambda b: dd.ReverseWalk(td.Gumbel(0.0, 1.0), b, eta=0.5),
    "stable": lambda b: dd.StableWalk(1.5, b),
    "variances": lambda b: dd.StableWalk(1.5, b).mixed(VARIANCES),
    "shared": lambda b: dd.SharedWalk(td.StudentT(5.0), b),
}
X_0, X_T, X_S = torch.tensor([[[0.3]], [[-0.4]], [[0.1]]]).double()


def laws(walk):
    each = [walk.marginal(X_0, k).log_prob(X_T) for k in (1, 2, 3)]
    each += [walk.bridge(X_0, X_T, s, 3).log_prob(X_S) for s in (1, 2)]
    return torch.cat(each)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", WALKS)
def test_laws_follow_the_betas_from_step_to_step(name):
    declare = WALKS[name]
    walk = dd.learn(declare(BETAS))
    optimizer = torch.optim.SGD(walk.parameters(), lr=0.3)
    found = [laws(walk).detach()]
    for _ in range(2):  # the graph of a step is gone at the next
        optimizer.zero_grad()
        laws(walk).sum().backward()
        optimizer.step()
        with torch.no_grad():
            now = laws(walk)
        torch.testing.assert_close(now, laws(declare(walk.betas.detach().tolist())))
        assert float((now - found[-1]).abs().max()) > 1e-3
        found.append(now)
    assert torch.equal(laws(deepcopy(walk)), now)


@pytest.mark.parametrize("name", WALKS)
def test_loaded_betas_are_those_of_the_laws(name):
    declare, other = WALKS[name], [0.3, 0.1, 0.6]
    walk = dd.learn(declare(BETAS))
    before = laws(walk).detach()
    walk.load_state_dict(dd.learn(declare(other)).state_dict())
    torch.testing.assert_close(laws(walk).detach(), laws(declare(other)))
    assert float((laws(walk).detach() - before).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["normal", "steps", "clock, closed", "reverse", "stable"])
def test_a_bound_trains_betas(name):
    torch.manual_seed(0)
    walk = dd.learn(WALKS[name](BETAS))
    head = dd.heads.Mean(lambda x, t: torch.zeros_like(x))
    optimizer = torch.optim.Adam(walk.parameters(), lr=0.1)
    x_0 = torch.full((256, 1), 1.5)
    bounds = []
    for _ in range(15):
        optimizer.zero_grad()
        bound = dd.vlb(walk, head, x_0).nats.mean()
        bound.backward()
        optimizer.step()
        bounds.append(float(bound.detach()))
    assert sum(bounds[-3:]) < sum(bounds[:3]) - 0.1


BRIDGED = {k: WALKS[k] for k in ("steps", "marginals", "reverse", "clock, a table")}
BRIDGED["uniform steps"] = lambda b: dd.Walk(td.Uniform(0.0, 1.0), b)


@pytest.mark.parametrize("name", BRIDGED)
def test_means_of_bridges_have_gradients(name):
    """Against differences of walks that are declared anew; ends of supports move too."""
    x_0, x = torch.tensor([[0.3]]).double(), torch.tensor([[0.4]]).double()
    walk = dd.learn(BRIDGED[name](BETAS))
    (number,) = walk.parameters()
    walk.bridge(x_0, x, 1, 3).mean.sum().backward()
    for i in range(3):
        around = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                number[i] += step
                again = BRIDGED[name](walk.betas.detach().tolist())
                around.append(float(again.bridge(x_0, x, 1, 3).mean))
                number[i] -= step
        slope = (around[0] - around[1]) / 2e-3
        assert float(number.grad[i]) == pytest.approx(slope, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("x_0", "x"), [(0.3, 0.4), (0.3, 0.1), (-0.7, 0.2)])
def test_the_mean_of_a_bridge_of_uniform_steps(x_0, x, dtype):
    """Its density jumps at both ends; against a sum over a fine grid."""
    walk = dd.Walk(td.Uniform(0.0, 1.0), BETAS)
    y = torch.linspace(-3, 3, 600_001, dtype=torch.float64).unsqueeze(1)
    late = torch.full_like(y, x)
    p = walk.marginal(torch.full_like(y, x_0), 1).log_prob(y)
    p = (p + walk.transition(y, 1, 3).log_prob(late)).exp()
    found = walk.bridge(torch.full((1, 1), x_0, dtype=dtype), late[:1].to(dtype), 1, 3).mean
    assert float(found) == pytest.approx(float((p * y[:, 0]).sum() / p.sum()), abs=1e-5)
