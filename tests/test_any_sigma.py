"""Steps of DDIM's family with every sigma that keeps the marginals, and no other."""

import math

import pytest
import torch
from torch.distributions import Laplace, Normal

import discdiff as dd

pytestmark = pytest.mark.usefixtures("float64")
BETAS = [0.1, 0.2, 0.15, 0.3]


def one(value):
    return torch.tensor([[value]])


def chain_and_times(name):
    """A chain, and the process and times of an index of it."""
    if name == "ddpm":
        return dd.zoo.ddpm_chain(BETAS)
    if name == "walk":
        return dd.Walk(Normal(0.0, 1.0), BETAS)
    if name == "given variances":
        latent = torch.tensor([[2.0], [0.5], [7.0], [1.0]])
        return dd.StableWalk(1.5, BETAS).mixed(latent)
    drift = dd.Linear([-0.5]) + dd.Noise([0.8])
    return drift.on(dd.clock.Linear(0.1, 5.0)).at([0.3, 0.5, 0.7, 1.0])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, "between", "most"])
@pytest.mark.parametrize(("s", "t"), [(1, 2), (2, 4), (3, 4)])
@pytest.mark.parametrize("name", ["ddpm", "walk", "given variances", "diagonal"])
def test_marginals_are_kept(name, s, t, share):
    """x_t of its marginal becomes x_s of its own, in mean and variance."""
    chain, x_0 = chain_and_times(name), one(0.7)
    early, late = (chain.marginal(x_0, k) for k in (s, t))
    fresh = chain.transition(x_0, s, t).variance
    most = float((late.variance / fresh).sqrt())
    eta = {"between": (1 + most) / 2, "most": most}.get(share, share)
    stepper = dd.steppers.Ancestral(eta=eta)
    process, times = chain.process, chain.times

    def step(x):
        at = times[t - 1].expand(1), times[s - 1].expand(1)
        return stepper.law(process, dd.estimates.Data(x_0), x, *at)

    low, high = step(late.mean), step(late.mean + 1)
    torch.testing.assert_close(low.mean, early.mean, rtol=1e-12, atol=1e-12)
    gain = high.mean - low.mean
    variance = gain**2 * late.variance + low.variance
    torch.testing.assert_close(variance, early.variance, rtol=1e-11, atol=1e-12)
    if share == "most":
        assert float(gain.abs()) < 1e-6
    bridge = chain.bridge(x_0, late.mean, s, t).variance
    torch.testing.assert_close(low.variance, eta**2 * bridge, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["ddpm", "walk", "given variances", "diagonal"])
def test_more_is_refused(name):
    chain, x_0 = chain_and_times(name), one(0.7)
    late, fresh = chain.marginal(x_0, 4).variance, chain.transition(x_0, 3, 4).variance
    most = float((late / fresh).sqrt())
    stepper = dd.steppers.Ancestral(eta=1.0001 * most)
    with pytest.raises(ValueError, match=f"eta must be at most {str(most)[:5]}"):
        stepper.law(chain.process, dd.estimates.Data(x_0), x_0, chain.times[3:4], chain.times[2:3])
    with pytest.raises(ValueError, match="eta must be a number, at least 0"):
        dd.steppers.Ancestral(eta=-0.1)


def test_the_notes_equation_with_sigma():
    """(36) of the lecture notes, at the variance beta_t of the wider choice of DDPM."""
    chain, t = dd.zoo.ddpm_chain(BETAS), 3
    kept = torch.cumprod(1 - torch.tensor(BETAS), 0)
    a_s, a_t, beta = kept[t - 2], kept[t - 1], torch.tensor(BETAS[t - 1])
    sigma = beta.sqrt()
    eta = float(sigma / (beta * (1 - a_s) / (1 - a_t)).sqrt())
    assert eta > 1
    x, x_0 = one(1.3), one(0.4)
    goal = (
        a_s.sqrt() * x_0 + (1 - a_s - sigma**2).sqrt() * (x - a_t.sqrt() * x_0) / (1 - a_t).sqrt()
    )
    at = chain.times[t - 1 : t], chain.times[t - 2 : t - 1]
    law = dd.steppers.Ancestral(eta=eta).law(chain.process, dd.estimates.Data(x_0), x, *at)
    torch.testing.assert_close(law.mean, goal)
    torch.testing.assert_close(law.stddev, sigma.reshape(1, 1))


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.25])
@pytest.mark.parametrize("name", ["ddpm", "vp"])
def test_runs_with_more_noise_return_to_the_data(name, eta):
    """A prepared run on a fine grid, with the exact mean; its last step draws no noise."""
    data, weights = torch.tensor([[-1.0], [2.0]]), torch.tensor([0.3, 0.7])
    process = dd.zoo.ddpm() if name == "ddpm" else dd.zoo.vp()
    head = dd.Exact(process, data, weights).as_(dd.heads.Mean)
    x = dd.sample(process, head, (3000, 1), steps=200, stepper=dd.steppers.Ancestral(eta=eta))
    assert float((x - data.T).abs().min(1).values.mean()) < 0.05
    assert float((x > 0.5).double().mean()) == pytest.approx(0.7, abs=0.04)


def test_vectors_with_more_noise_are_refused():
    cld = dd.zoo.cld()
    x = torch.zeros(1, 1, 2)
    at = torch.tensor([0.6]), torch.tensor([0.5])
    with pytest.raises(dd.Unsolved, match="more noise than the bridge's"):
        dd.steppers.Ancestral(eta=1.1).law(cld, dd.estimates.Data(x[..., 0]), x, *at)


def test_steps_back_of_a_walk_with_more_noise():
    """Their moments stay DDPM's up to where all noise would be new."""
    kept = torch.cumprod(1 - torch.tensor(BETAS), 0)
    most = float((torch.tensor(BETAS)[1:] / (1 - kept[1:])).max().rsqrt())
    walk = dd.ReverseWalk(Laplace(0.0, 1.0), BETAS, eta=0.97 * most)
    assert 0.97 * most > 1
    assert dd.check(walk, torch.tensor([[-1.0], [0.5]]))
    law = walk.marginal(one(0.5), 1)
    assert float(law.variance) == pytest.approx(BETAS[0], rel=1e-9)
    with pytest.raises(ValueError, match=rf"eta must lie in \(0, {str(most)[:5]}"):
        dd.ReverseWalk(Laplace(0.0, 1.0), BETAS, eta=1.01 * most)
    assert math.isfinite(float(law.log_prob(one(0.3))))


def test_noise_that_no_part_reads_is_refused():
    """Less noise than the bridge's is known of Gaussian parts; without one it would be ignored."""
    walk = dd.Walk(torch.distributions.Laplace(0.0, 1.0), [0.2, 0.4])
    head = dd.Exact(walk.process, torch.tensor([[-1.0], [1.0]]))
    with pytest.raises(dd.Unsolved, match="noise of Gaussian parts"):
        dd.sample(walk, head, (4, 1), stepper=dd.steppers.Ancestral(eta=0.0))
    assert dd.sample(walk, head, (4, 1)).shape == (4, 1)
