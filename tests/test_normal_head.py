"""`heads.Normal`: the variance of the data given the state, and what follows for reverse steps."""

import pytest
import torch

import discdiff as dd
from discdiff import estimates, heads, steppers
from discdiff.solve import Unsolved

pytestmark = pytest.mark.usefixtures("float64")

VP = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
SHIFTED = (dd.Linear(-0.7, 0.4) + dd.Noise(1.3)).on(dd.clock.Constant(2.0))
DIAGONAL = (dd.Linear([-0.5, -1.0]) + dd.Noise([1.0, 0.6])).on(dd.clock.Constant(2.0))
S, LATE = torch.tensor([0.0, 0.2, 0.4]), torch.tensor([0.3, 0.5, 0.9])


def normal_of(x, t):
    return heads.Normal(heads.Mean(lambda x, t: x.sin()), lambda x, t: 0.3 + 0.1 * t)(x, t)


@pytest.mark.parametrize("process", [VP, SHIFTED, DIAGONAL], ids=["vp", "shifted", "diagonal"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_averages_the_bridge_over_the_law_of_the_data(process, eta):
    """By Gauss–Hermite quadrature over x_0 of the first two moments, entry by entry."""
    x = torch.randn(3, 2)
    said = normal_of(x, LATE)
    found = steppers.Ancestral(eta).law(process, said, x, LATE, S)
    nodes = torch.tensor([-(3**0.5), 0.0, 3**0.5])
    weights = torch.tensor([1 / 6, 2 / 3, 1 / 6])
    data = said.mean.value + said.variance.sqrt() * nodes[:, None, None]
    laws = [steppers.Ancestral(eta).law(process, estimates.Data(x_0), x, LATE, S) for x_0 in data]
    mean = sum(w * law.mean for w, law in zip(weights, laws, strict=True))
    square = sum(w * (law.mean**2 + law.variance) for w, law in zip(weights, laws, strict=True))
    assert torch.allclose(found.mean, mean, rtol=1e-12)
    assert torch.allclose(found.variance, square - mean**2, rtol=1e-9, atol=1e-13)
    assert torch.allclose(found.variance[0], said.variance[0])  # at t = 0 it is the law itself


def test_without_variance_it_is_the_plug_in_and_with_that_of_the_noise_the_forward_step():
    x, s, t = torch.randn(3, 4), torch.tensor([0.1, 0.2, 0.4]), LATE
    step = lambda w: steppers.Ancestral().law(
        VP, heads.Normal(heads.Epsilon(lambda x, t: x.cos()), w)(x, t), x, t, s
    )
    plain = steppers.Ancestral().law(VP, estimates.Epsilon(x.cos()), x, t, s)
    same = step(lambda x, t: torch.zeros_like(x))
    assert torch.equal(same.mean, plain.mean)
    assert torch.allclose(same.variance, plain.variance, rtol=1e-14)
    forward = step(lambda x, t: VP.marginal(torch.zeros(len(t)), t).variance)
    assert torch.allclose(forward.mean, plain.mean)
    assert torch.allclose(forward.variance, VP.transition(x, s, t).variance, rtol=1e-12)


@pytest.mark.parametrize("speak", [heads.Mean, heads.Epsilon, heads.Velocity, heads.Score])
def test_loss_and_score_are_those_of_the_head_inside(speak):
    x_0, t = torch.randn(5, 2), torch.rand(5)
    x_t = torch.randn(5, 2)
    plain = speak(lambda x, t: x.tanh())
    said = heads.Normal(plain, lambda x, t: 1 + x**2)
    nats = [dd.loss(VP, head, x_0, t, x_t=x_t) for head in (plain, said)]
    assert torch.equal(*nats)
    scores = [VP.score(x_t, head(x_t, t), t).gradient for head in (plain, said)]
    assert torch.equal(*scores)


def test_the_exact_head_says_the_moments_of_its_atoms():
    data = torch.tensor([[-1.0], [0.5], [2.0]])
    exact = dd.Exact(VP, data, torch.tensor([0.2, 0.5, 0.3]))
    x, t = torch.linspace(-2, 2, 9)[:, None], torch.full((9,), 0.4)
    said = exact.as_(heads.Normal)(x, t)
    share = exact(x, t).log_weights.exp()
    mean = share @ data
    assert torch.allclose(said.mean.value, mean)
    assert torch.allclose(said.variance, share @ data**2 - mean**2, atol=1e-15)
    times = torch.linspace(0, 1, 33)[1:]
    x_0 = data.repeat_interleave(4000, 0)
    bounds = []
    for head in (exact.as_(heads.Mean), exact.as_(heads.Normal)):
        torch.manual_seed(0)
        bounds.append(dd.vlb(VP, head, x_0, times).steps.mean())
    assert bounds[1] < bounds[0] - 0.3  # the plug-in's steps are too narrow


def test_a_scaled_process_reads_it_and_a_network_learns_it_by_the_bound():
    scaled = VP.scaled(lambda t: 1 + t)
    law = steppers.Ancestral().law(
        scaled, normal_of(torch.ones(3, 1), LATE), torch.ones(3, 1), LATE, S
    )
    inner = VP.bridge(
        estimates.Normal(estimates.Mean(torch.ones(3, 1).sin()), (0.3 + 0.1 * LATE)[:, None]),
        1 / (1 + LATE)[:, None],
        S,
        LATE,
    )
    assert torch.allclose(law.variance, (1 + S)[:, None] ** 2 * inner.variance)
    log_w = torch.nn.Parameter(torch.zeros(()))
    head = heads.Normal(heads.Mean(lambda x, t: 0 * x), lambda x, t: log_w.exp().expand(len(x)))
    dd.vlb(VP.at([0.5, 1.0]), head, torch.randn(8, 2)).nats.mean().backward()
    assert float(log_w.grad.abs()) > 0


def test_a_mixture_reads_it_and_explain_lists_it():
    both = dd.Mixture([0.5, 0.5], VP, VP).at([0.5, 1.0])
    zero = heads.Mean(lambda x, t: torch.zeros_like(x["state"]))
    head = heads.Normal(zero, lambda x, t: torch.ones(len(t)))
    x_0 = {"label": torch.tensor([0, 1]), "state": torch.zeros(2, 3)}
    assert bool(dd.vlb(both, head, x_0).nats.isfinite().all())
    assert "Score, Normal, Exact" in str(dd.explain(VP))
    assert "Normal" not in str(dd.explain(dd.zoo.cld())).split("heads")[1].split("\n")[0]


def test_a_run_may_start_where_its_inside_may():
    endless = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Cosine())
    known, noise = heads.Mean(lambda x, t: 0 * x), heads.Epsilon(lambda x, t: x)
    wide = lambda x, t: torch.ones(len(x))
    assert dd.sample(endless, heads.Normal(known, wide), (4, 1), steps=3).shape == (4, 1)
    with pytest.raises(Unsolved, match="cannot step from"):
        dd.sample(endless, heads.Normal(noise, wide), (4, 1), steps=3)


def test_what_makes_no_sense_is_refused():
    mean = heads.Mean(lambda x, t: x)
    x, t = torch.zeros(3, 2), torch.full((3,), 0.5)
    with pytest.raises(ValueError, match="says no mean"):
        heads.Normal(heads.Missing(lambda x, t: x), lambda x, t: t)
    with pytest.raises(ValueError, match="around a network"):
        heads.Normal(lambda x, t: x, lambda x, t: t)
    with pytest.raises(ValueError, match="must be ≥ 0"):
        heads.Normal(mean, lambda x, t: -t)(x, t)
    for bad in (torch.ones(2), torch.ones(3, 1), 1.0):
        with pytest.raises(ValueError, match="variance of Normal must have shape"):
            heads.Normal(mean, lambda x, t: bad)(x, t)  # noqa: B023
    told = heads.Normal(heads.Mean(lambda x, t, c: x + c[:, None]), lambda x, t, c: c)
    assert float(told(x, t, torch.full((3,), 2.0)).variance[0, 0]) == 2
    parts = heads.Product(lambda x, t: x, a=heads.Normal(mean, lambda x, t: t))
    with pytest.raises(ValueError, match="no part of a Product"):
        parts({"a": x}, t)
    cld = dd.zoo.cld()
    with pytest.raises(Unsolved, match="Normal does not determine"):
        dd.sample(cld, heads.Normal(mean, lambda x, t: t), (3,), steps=2)
