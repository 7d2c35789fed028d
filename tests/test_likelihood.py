"""The prior's KL where the end is the limit, and integrals that reach the end of the clock."""

import math

import pyro.distributions as pyro
import pytest
import torch

import discdiff as dd
from discdiff import laws
from discdiff.likelihood import prior_kl
from discdiff.times import LAST, require_reach

N = torch.tensor([[1.0, 2.0, 0.0], [0.0, 5.0, 3.0]])
W = torch.tensor([[0, 1, 2], [2, 2, 0]])
X = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.3]])
VP = (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 2.0))
QUEUE = (dd.Death() + dd.Immigration(2.0)).on(dd.clock.LogLinear())
ENDED = {
    "blackout": (dd.Death().on(dd.clock.Logistic(15.0)), N),
    "queue": (QUEUE, N),
    "masked": (dd.Replace(dd.one_hot(3, 4)).on(dd.clock.LogLinear()), W),
    "given": (QUEUE.given((N[0], N[0] > 1)), torch.where(N[0] > 1, N[0], N)),
}


def without_kl(*args):
    raise AssertionError("a divergence was computed")


@pytest.mark.parametrize("name", ENDED)
def test_at_infinity_the_marginal_is_the_limit(monkeypatch, name):
    process, x = ENDED[name]
    one = torch.ones(len(x), dtype=torch.float64)
    if name != "given":  # whose entries are not one family of laws
        both = process._transition(x, 0 * one, one), process.limit(x.shape)
        assert float(laws.kl(*both).abs().max()) < 1e-6
    monkeypatch.setattr(laws, "kl", without_kl)
    assert torch.equal(prior_kl(process, x), torch.zeros(len(x)))


def test_only_the_parts_that_have_not_ended_are_computed():
    table = dd.Product(income=VP, visits=QUEUE)
    end = prior_kl(VP, X)
    assert float(end.min()) > 0.01
    assert torch.equal(prior_kl(table, {"income": X, "visits": N}), end)


def test_a_prior_of_ones_own_is_compared():
    prior = torch.distributions.Poisson(torch.full((2, 3), 3.0))
    prior = torch.distributions.Independent(prior, 1)
    gap = 3 * (2 * math.log(2 / 3) + 1)  # KL(Poisson(2) ‖ Poisson(3)) = 2 log(2/3) + 1
    assert torch.allclose(prior_kl(QUEUE, N, prior), torch.full((2,), gap), atol=1e-4)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_what_an_integral_over_t_would_lack(float64, rate):
    """The path-KL of masking that is left after the last float64 time: e^{−Λr} of each token."""
    process = (rate * dd.Replace(dd.one_hot(3, 4))).on(dd.clock.LogLinear())
    last = process.clock(torch.tensor(LAST))
    left = float((-rate * last).exp())
    with pytest.raises(ValueError, match="too slow for its clock") as caught:
        require_reach(process, W)
    said = float(str(caught.value).split(" lie ")[1].split(" nats")[0])
    assert abs(said / -math.log1p(-left) - 1) < 0.05


def test_a_faster_process_is_the_way_out(float64):
    slow = (0.1 * dd.Death()).on(dd.clock.LogLinear())
    require_reach((10 * slow.process).on(slow.clock), N)
    require_reach((0.1 * dd.Death()).on(dd.clock.Constant(20.0)), N)


def test_looking_draws_nothing():
    before = torch.random.get_rng_state()
    require_reach((dd.Death() + dd.Immigration(1.5)).on(dd.clock.LogLinear()), N)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("process", "head", "x_0"),
    [
        (QUEUE, dd.heads.Turnover(lambda x, t: torch.zeros(*x.shape, 2)), N),
        (
            (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Cosine()),
            dd.heads.Epsilon(lambda x, t: x),
            torch.ones(3, 2),
        ),
        (
            dd.Replace(torch.full((3,), 1 / 3)).on(dd.clock.LogLinear()),
            dd.heads.Ratio(lambda x, t: torch.zeros(*x.shape, 3)),
            torch.zeros(3, 2, dtype=torch.int64),
        ),
    ],
    ids=["queue", "cosine", "letters"],
)
def test_a_bound_that_diverges_where_the_clock_ends_is_refused(process, head, x_0):
    with pytest.raises(ValueError, match="has no finite bound"):
        dd.path_kl(process, head, x_0)
    core = process.process.on(dd.clock.Constant(3.0))
    assert bool(dd.path_kl(core, head, x_0, stop=1e-3).isfinite().all())


@pytest.mark.parametrize(
    "process",
    [
        dd.Field(lambda x, t: -(x**3)) + dd.Noise(1.0),
        dd.Linear(-0.5) + dd.StateNoise(lambda x, t: (1 + x**2).sqrt()),
    ],
    ids=["field", "state noise"],
)
def test_without_a_law_there_are_ways_out(float64, process):
    """The bound names them, and they work."""
    process, x = process.on(dd.clock.Constant(1.0)), X[:1].double()
    head = dd.heads.Score(lambda x, t: 0 * x)
    for bound in (dd.elbo, dd.path_kl):
        with pytest.raises(dd.Unsolved, match="implicit_score_matching .* log_prob"):
            bound(process, head, x)
    with pytest.raises(dd.Unsolved, match="give prior="):
        dd.sample(process, head, (1, 3), stepper=dd.steppers.Euler())
    prior = pyro.Normal(torch.zeros(1, 3), 1.0).to_event(1)
    assert dd.log_prob(process, head, x, prior=prior, rtol=1e-3).isfinite().all()
    assert dd.implicit_score_matching(process, head, x, 0.5, steps=4).isfinite().all()
    kept = dd.sample(process, head, (1, 3), stepper=dd.steppers.Euler(), steps=4, prior=prior)
    assert kept.shape == (1, 3)
