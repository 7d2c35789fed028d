"""Noise that crowds at one point: what is lost as states are rounded, and what is refused."""

import math

import pytest
import torch
import torch.distributions as td

import discdiff as dd
from discdiff.increments import increment

LAWS = {"gamma": td.Gamma(1.5, 1.0), "laplace": td.Laplace(0.0, 1.0)}
X = torch.tensor([[-1.0, 0.5], [0.2, 1.0]])


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("tau", [0.05, 0.3])
def test_the_chance_near_a_point_is_the_power_that_is_said(name, tau):
    """From the distribution function, at two distances from the point."""
    law = increment(LAWS[name])
    e = law.crowding(tau)
    noise = law.levy(torch.tensor([tau]).double(), torch.ones(1).double())
    point = torch.tensor([0.0 if name == "laplace" else -law.root * tau]).double()
    near = [noise.cdf(point + r) - noise.cdf(point - r) for r in (1e-4, 1e-6)]
    found = float((near[0] / near[1]).log()) / math.log(100)
    assert found == pytest.approx(e, abs=5e-3)


@pytest.mark.parametrize("name", LAWS)
def test_a_bound_that_rounding_decides_is_refused(name):
    """As 40 % of the noise and more are lost in float32; larger steps lose nothing to speak of."""
    head = dd.heads.Epsilon(lambda x, t: torch.zeros_like(x))
    k = torch.tensor([2, 3])
    crowded, wide = (dd.LevyWalk(LAWS[name], [beta] * 3) for beta in (0.01, 0.3))
    law = crowded.marginal(torch.full((4000, 1), 0.5), 1)
    assert (
        float((law.sample() == (law.mean - law.mean + law.sample().mode(0)[0])).float().mean())
        > 0.2
    )
    with pytest.raises(dd.Unsolved, match="of the noise of a step is lost"):
        dd.loss(crowded, head, X, k)
    with pytest.raises(dd.Unsolved, match="larger steps"):
        dd.vlb(crowded, head, X)
    assert bool(dd.loss(wide, dd.Exact(wide.process, X), X, k).isfinite().all())


def test_single_precision_is_refused_before_double_is():
    law, head = td.Gamma(1.5, 1.0), dd.heads.Epsilon(lambda x, t: torch.zeros_like(x))
    chain = dd.LevyWalk(law, [0.15] * 3)  # shape 0.26
    with pytest.raises(dd.Unsolved, match="float32"):
        dd.loss(chain, head, X.float(), 2)
    exact = dd.Exact(chain.process, X.double())
    assert bool(dd.loss(chain, exact, X.double(), 2).isfinite().all())


@pytest.mark.parametrize(
    ("name", "beta"), [("gamma", 1e-3), ("gamma", 0.01), ("gamma", 0.1), ("laplace", 0.01)]
)
def test_walks_of_crowded_noise_are_certified_for_what_they_answer(name, beta):
    report = dd.check(dd.LevyWalk(LAWS[name], [beta] * 3), X.double())
    assert report, report


@pytest.mark.parametrize("name", LAWS)
def test_states_on_a_datum_belong_to_it(name):
    """Small steps of Lévy processes draw states that are rounded onto where the data would be."""
    torch.manual_seed(0)
    walk = dd.LevyWalk(LAWS[name], dd.log_snr_betas(8))
    data = torch.tensor([[-1.0, 0.5], [0.5, 0.5], [1.0, -1.0]])
    weights = torch.tensor([0.5, 0.3, 0.2])
    exact = dd.Exact(walk.process, data, weights)
    source = torch.multinomial(weights, 4000, replacement=True)
    x = walk.marginal(data[source], 1).sample()
    on = walk.marginal(data[source], 1).log_prob(x) == torch.inf
    assert bool(on.any()) or name == "gamma"  # whose end is not a datum
    said = exact(x, walk.times[0].expand(len(x))).log_weights.exp()
    assert bool(said.isfinite().all())
    assert said.argmax(1)[on].tolist() == source[on].tolist()
    found = dd.sample(walk, exact, (6000, 2))
    near = torch.cdist(found, data)
    assert float(near.amin(1).max()) < 1e-5
    share = torch.bincount(near.argmin(1), minlength=3) / 6000
    assert float(((share - weights) / (weights * (1 - weights) / 6000).sqrt()).abs().max()) < 4
