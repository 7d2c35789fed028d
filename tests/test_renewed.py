"""Steps back with fresh stable noise: scales, the fractional score, and runs."""

import math

import pytest
import torch

import discdiff as dd
from discdiff.steppers import Ancestral, Renewed

pytestmark = pytest.mark.usefixtures("float64")
BETAS = [0.1, 0.2, 0.3, 0.25]
ALPHA = 1.5


def one(value):
    return torch.tensor([[value]])


def chains():
    return {
        "walk": dd.StableWalk(ALPHA, BETAS),
        "lim": dd.zoo.lim(ALPHA).at([0.2, 0.4, 0.6, 0.8]),
        "no drift": dd.Levy(dd.increments.SymmetricStable(ALPHA))
        .on(dd.clock.Constant(2.0))
        .at([0.1, 0.3, 0.6, 1.0]),
    }


def law_of(stepper, chain, x_0, x, s, t):
    at = (chain.times[k - 1 : k].expand(len(x)) for k in (t, s))
    return stepper.law(chain.process, dd.estimates.Data(x_0), x, *at)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, "most"])
@pytest.mark.parametrize(("s", "t"), [(1, 2), (2, 4)])
@pytest.mark.parametrize("name", ["walk", "lim", "no drift"])
def test_scales_are_kept(name, s, t, eta):
    """The carried and the fresh noise make that of the marginal, in α-th powers of scales."""
    chain, x_0 = chains()[name], one(0.7)
    early, late = (chain.marginal(x_0, k).base_dist for k in (s, t))
    fresh = chain.transition(x_0, s, t).base_dist.scale
    most = float(late.scale / fresh)
    eta = most if eta == "most" else eta
    at = [law_of(Renewed(eta), chain, x_0, late.loc + d, s, t) for d in (0.0, 1.0)]
    torch.testing.assert_close(at[0].mean, early.loc)
    gain = at[1].mean - at[0].mean
    noise = 0.0 if eta == 0 else at[0].base_dist.scale
    power = (gain * late.scale) ** ALPHA + noise**ALPHA
    torch.testing.assert_close(power, early.scale**ALPHA, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="eta must be at most"):
        law_of(Renewed(1.001 * most), chain, x_0, late.loc, s, t)


def test_without_noise_it_is_ancestral_and_at_two_it_is_ddims():
    chain, x_0, x = chains()["lim"], one(0.4), one(-2.0)
    still = law_of(Renewed(0.0), chain, x_0, x, 2, 4)
    torch.testing.assert_close(still.mean, law_of(Ancestral(0.0), chain, x_0, x, 2, 4).mean)
    normal, ddpm = dd.StableWalk(2.0, BETAS, scale=2**-0.5), dd.zoo.ddpm_chain(BETAS)
    for eta in (0.0, 0.6, 1.0, 1.1):
        law = law_of(Renewed(eta), normal, x_0, x, 2, 4)
        goal = law_of(Ancestral(eta), ddpm, x_0, x, 2, 4)
        torch.testing.assert_close(law.mean, goal.mean)
        if eta:
            torch.testing.assert_close(law.log_prob(one(0.3)), goal.log_prob(one(0.3)))


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_small_steps_are_the_fractional_flow_and_its_noise(eta):
    r"""From the fractional heat equation by quadrature: v p = F⁻¹(|u|^α φ(u) / (iu)) of a mixture.

    Data ±1 and Cauchy-like noise; the mean of steps back is −a x − (1 + η^α) v.
    """
    process, t, h = dd.zoo.lim(ALPHA, dd.clock.Constant(1.0)), 0.5, 1e-6
    data, x = torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.3], [-2.5], [4.0]])
    u = torch.linspace(0, 60, 600_001)
    a, power = math.exp(-t / ALPHA), 1 - math.exp(-t)
    phi = (a * u).cos() * (-power * u**ALPHA).exp()  # of the mixture, real
    density = torch.trapezoid((x * u).cos() * phi, u, dim=1) / math.pi
    flow = torch.trapezoid((x * u).sin() * u ** (ALPHA - 1) * phi, u, dim=1) / math.pi
    v = flow / density
    mean = dd.Exact(process, data).as_(dd.heads.Mean)
    late, early = torch.full((3,), t), torch.full((3,), t - h)
    law = Renewed(eta).law(process, mean(x, late), x, late, early)
    moved = (law.mean - x)[:, 0] / h
    goal = x[:, 0] / ALPHA - (1 + eta**ALPHA) * v
    torch.testing.assert_close(moved, goal, rtol=2e-4, atol=2e-4)
    if eta:
        scale = law.base_dist.scale[:, 0] ** ALPHA / h
        torch.testing.assert_close(scale, torch.full((3,), eta**ALPHA), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_runs_from_the_mean_of_the_data_return(eta):
    data, weights = torch.tensor([[-1.0], [2.0]]), torch.tensor([0.3, 0.7])
    process = dd.zoo.lim(1.8)
    head = dd.Exact(process, data, weights).as_(dd.heads.Mean)
    grid = torch.linspace(0.995, 0.0, 150)
    x = dd.sample(process, head, (2000, 1), grid=grid, stepper=Renewed(eta))
    near = (x - data.T).abs().min(1).values < 0.1
    assert float(near.double().mean()) > 0.97
    assert float((x > 0.5).double().mean()) == pytest.approx(0.7, abs=0.05)


def test_lims_own_step_does_not_keep_the_marginals():
    """Its drift −α v with all of the noise adds scale (2 − α) h to the α-th power: see notes."""
    t, h = 0.5, 1e-5
    power = 1 - math.exp(-t)
    goal = 1 - math.exp(-(t - h))
    grown = math.exp(h / ALPHA)
    carried = grown - ALPHA * (grown - 1) / power
    excess = (carried**ALPHA * power + grown**ALPHA - 1 - goal) / h
    assert excess == pytest.approx(2 - ALPHA, abs=1e-3)


def test_other_processes_have_none():
    with pytest.raises(dd.Unsolved, match="Renewed is a family of steps of walks"):
        at = torch.tensor([0.5]), torch.tensor([0.4])
        Renewed().law(dd.zoo.vp(), dd.estimates.Data(one(0.0)), one(0.0), *at)
    with pytest.raises(ValueError, match="eta must be a number"):
        Renewed(-1.0)
