"""Stable laws and walks against closed forms, SciPy, quadrature and draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import discdiff as dd
from discdiff.increments import PositiveStable, Stable, SymmetricStable
from discdiff.numerics.fourier import quintic
from discdiff.numerics.stable import STEP, _densities, log_density_table, width

pytestmark = pytest.mark.usefixtures("float64")
ALPHAS = [0.5, 0.8, 1.0, 1.3, 1.7, 1.95]
BETAS = [0.1, 0.2, 0.3, 0.25]


def seen(law, center=0.0, size=1.0, count=60_001, reach=32.0):
    """Points and weights that are dense around a center and reach far."""
    z = torch.linspace(-reach, reach, count)
    y = center + size * z.sinh()
    return y, law(y[:, None]).log_prob(y[:, None]).exp() * size * z.cosh() * (z[1] - z[0])


def test_the_density_is_cauchys_and_nearly_normal():
    x = torch.tensor([0.0, 0.3, 1.0, 20.0, 1e5, 1e9])
    cauchy = -(math.pi * (1 + x**2)).log()
    assert float((SymmetricStable(1.0).log_prob(x) - cauchy).abs().max()) < 1e-9
    y = torch.tensor([0.0, 0.5, 2.0, 7.0])
    normal = torch.distributions.Normal(0.0, math.sqrt(2.0))
    assert float((SymmetricStable(2.0).log_prob(y) - normal.log_prob(y)).abs().max()) < 1e-14


@pytest.mark.parametrize("alpha", [0.5, 1.3, 1.7, 1.9])
def test_the_density_is_scipys(alpha):
    x = np.array([0.0, 0.2, 0.9, 1.4, 3.0, 12.0])
    ours = SymmetricStable(alpha).log_prob(torch.tensor(x)).exp()
    assert np.abs(ours.numpy() / stats.levy_stable.pdf(x, alpha, 0.0) - 1).max() < 1e-6


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_tail_is_its_series(alpha):
    """Convergent for α < 1, asymptotic beyond."""
    x, terms = 1e5, 30 if alpha < 1 else 4
    series = sum(
        (-1) ** (k + 1)
        * math.exp(math.lgamma(alpha * k + 1) - math.lgamma(k + 1) - (alpha * k + 1) * math.log(x))
        * math.sin(math.pi * k * alpha / 2)
        for k in range(1, terms + 1)
    )
    found = SymmetricStable(alpha).log_prob(torch.tensor(x)).exp()
    assert float(found) == pytest.approx(series / math.pi, rel=1e-8)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_table_and_score_between_the_points(alpha):
    x = (width(alpha) * (30 * torch.rand(200)).sinh()).requires_grad_()
    f, slope, _ = _densities(alpha, x.detach())
    value = SymmetricStable(alpha).log_prob(x)
    (score,) = torch.autograd.grad(value.sum(), x)
    assert float((value.detach() - f.log()).abs().max()) < 1e-9
    assert float((score / (slope / f) - 1).abs().max()) < 1e-6
    table = log_density_table(alpha)
    ends = quintic(table, torch.tensor(7), torch.tensor(1.0), torch.tensor(STEP))
    assert float(ends[0]) == pytest.approx(float(table[0, 8]), abs=1e-13)
    assert float(ends[1]) == pytest.approx(float(table[1, 8]), abs=1e-11)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_draws_have_the_characteristic_function_and_so_have_mixtures(alpha):
    """(C18) five standard errors."""
    u, count = torch.tensor([0.3, 1.0, 2.0]), 100_000
    law = Stable(alpha)
    goal = law.cf(u).real
    latent = law.mixing.sample((count,))
    for x in (law.law(0.0, 1.0).sample((count,)), latent.sqrt() * torch.randn(count)):
        assert float(((u[:, None] * x).cos().mean(1) - goal).abs().max()) < 5 / math.sqrt(count)
    kept = torch.exp(-(u[:, None] ** 2) / 2 * latent).mean(1)
    assert float((kept - goal).abs().max()) < 5 / math.sqrt(count)


def test_positive_stable_of_one_half_is_levys():
    x = torch.tensor([0.05, 0.5, 1.0, 30.0])
    goal = stats.levy.logpdf(x.numpy(), scale=0.5)
    assert float((PositiveStable(0.5).log_prob(x) - torch.tensor(goal)).abs().max()) < 1e-9


@pytest.mark.parametrize("alpha", ALPHAS)
def test_scales_add_up_by_their_powers(alpha):
    """Two noises convolve to the noise of both."""
    walk = dd.StableWalk(alpha, BETAS)
    late = walk.transition(torch.ones(1, 1), 2, 4).base_dist
    early = walk.marginal(torch.ones(1, 1), 2).base_dist
    whole = walk.marginal(torch.ones(1, 1), 4).base_dist
    ratio = (0.7 * 0.75) ** (1 / alpha)
    power = (ratio * early.scale) ** alpha + late.scale**alpha
    assert float(power) == pytest.approx(float(whole.scale) ** alpha, rel=1e-13)
    assert float(whole.loc) ** alpha + float(whole.scale) ** alpha == pytest.approx(1, rel=1e-13)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_bridges_integrate_to_one_and_have_the_shared_mean(alpha):
    walk = dd.StableWalk(alpha, BETAS)
    ends = lambda y: (torch.full_like(y, 0.2), torch.full_like(y, 2.6))
    for s, t in ((1, 2), (2, 4)):
        y, p = seen(lambda y: walk.bridge(*ends(y), s, t), 0.2, 0.3)  # noqa: B023
        mean = walk.bridge(*ends(torch.zeros(1, 1)), s, t).mean
        fine = 1e-4 if alpha < 0.7 else 1e-7  # its peaks are narrow, and the grid has one center
        assert float(p.sum()) == pytest.approx(1, abs=fine)
        assert float((y * p).sum()) == pytest.approx(float(mean), abs=fine)
        draws = walk.bridge(*ends(torch.zeros(800, 1)), s, t).sample()[:, 0]
        found = np.interp(draws.numpy(), y.numpy(), p.cumsum(0).numpy())
        assert stats.kstest(found, "uniform").pvalue > 1e-4


def test_at_two_it_is_ddpm():
    walk, ddpm = dd.StableWalk(2.0, BETAS, scale=2**-0.5), dd.zoo.ddpm_chain(BETAS)
    x_0, x = torch.tensor([[0.3]]), torch.tensor([[1.1]])
    given = walk.mixed(walk.mixing((1,)))
    for chain in (walk, given):
        law, goal = chain.marginal(x_0, 3), ddpm.marginal(x_0, 3)
        assert float((law.log_prob(x) - goal.log_prob(x)).abs()) < 1e-12
        law, goal = chain.bridge(x_0, x, 1, 3), ddpm.bridge(x_0, x, 1, 3)
        assert float((law.log_prob(x) - goal.log_prob(x)).abs()) < 1e-12


def test_the_walk_is_the_mixture_over_its_variances():
    walk, x_0 = dd.StableWalk(1.5, BETAS), torch.zeros(20_000, 1)
    x = walk.mixed(walk.mixing((20_000, 1))).marginal(x_0, 4).sample()[:, 0]
    scale = walk.marginal(x_0[:1], 4).base_dist.scale
    u = torch.tensor([0.5, 1.0, 2.0])
    goal = (-((scale * u) ** 1.5)).exp()
    assert float(((u[:, None] * x).cos().mean(1) - goal).abs().max()) < 5 / math.sqrt(20_000)


def test_gain_and_variance_are_dlpms():
    r"""Written out: Γ = 1 − γ² Σ_{t−1} / Σ_t, mean (x − Γ (x − γ̄ x_0)) / γ, variance Γ Σ_{t−1}."""
    alpha, t = 1.6, 3
    walk = dd.StableWalk(alpha, BETAS)
    A, x_0, x = walk.mixing((1,)), torch.tensor([[0.4]]), torch.tensor([[-3.0]])
    sigma = [torch.zeros(())]
    for beta, latent in zip(BETAS, A[:, 0], strict=True):
        power = 2 / alpha
        sigma.append((1 - beta) ** power * sigma[-1] + beta**power * latent)
    gamma = (1 - BETAS[t - 1]) ** (1 / alpha)
    whole = math.prod(1 - b for b in BETAS[:t]) ** (1 / alpha)
    gain = 1 - gamma**2 * sigma[t - 1] / sigma[t]
    law = walk.mixed(A).bridge(x_0, x, t - 1, t)
    mean = (x - gain * (x - whole * x_0)) / gamma
    torch.testing.assert_close(law.mean, mean)
    torch.testing.assert_close(law.variance, (gain * sigma[t - 1]).reshape(1, 1))


def test_large_latent_variances_leave_small_ones_exact():
    """Variances of later steps are sums of positive numbers, not differences."""
    walk = dd.StableWalk(1.2, BETAS)
    chain = walk.mixed(torch.tensor([[1e20], [1.0], [2.0], [3.0]]))
    law = chain.transition(torch.zeros(1, 1), 1, 2)
    assert float(law.variance) == pytest.approx(0.2 ** (2 / 1.2), rel=1e-12)


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
def test_runs_return_to_the_data(eta):
    """Runs of DLPM and of its deterministic kin, with the exact mean as network."""
    data, weights = torch.tensor([[-1.0], [2.0]]), torch.tensor([0.3, 0.7])
    walk = dd.StableWalk(1.7, dd.linear_betas(40, 1e-3, 0.25))
    head = dd.Exact(walk.process, data, weights).as_(dd.heads.Mean)
    chain = walk.mixed(walk.mixing((3000, 1)))
    x = dd.sample(chain, head, (3000, 1), stepper=dd.steppers.Ancestral(eta=eta))
    near = (x - data.T).abs().min(1).values < 0.05
    assert float(near.double().mean()) > 0.98
    assert float((x > 0.5).double().mean()) == pytest.approx(0.7, abs=0.05)


def test_exact_runs_without_latent_variances():
    data = torch.tensor([[-1.0], [2.0]])
    walk = dd.StableWalk(1.7, BETAS)
    x = dd.sample(walk, dd.Exact(walk.process, data), (100, 1))
    assert set(x[:, 0].tolist()) == {-1.0, 2.0}
    assert 25 < int((x > 0).sum()) < 75


def test_shifted_steps_have_the_mean_of_the_bridge():
    walk, x_0, x = dd.StableWalk(1.5, BETAS), torch.tensor([[0.4]]), torch.tensor([[3.0]])
    head = dd.Exact(walk.process, x_0)
    step = dd.steppers.Shift().law(
        walk.process, head(x, walk.times[2:3]), x, walk.times[2:3], walk.times[1:2]
    )
    torch.testing.assert_close(step.base_dist.mean, walk.bridge(x_0, x, 2, 3).base_dist.mean)


def test_dlpm_by_default():
    walk = dd.zoo.dlpm()
    kept = float((1 - dd.linear_betas(1000)).prod())
    law = walk.marginal(torch.ones(1, 1), 1000).base_dist
    assert walk.alpha == 1.7 and float(law.loc) == pytest.approx(kept ** (1 / 1.7))
    assert float(law.scale) == pytest.approx((1 - kept) ** (1 / 1.7))


REFUSED = {
    "alpha": (lambda: dd.StableWalk(2.5, BETAS), ValueError, "alpha must lie in"),
    "beta": (lambda: dd.StableWalk(1.5, [0.1, 1.0]), ValueError, "betas must be numbers in"),
    "scale": (lambda: dd.StableWalk(1.5, BETAS, 0.0), ValueError, "scale must be positive"),
    "rows": (
        lambda: dd.StableWalk(1.5, BETAS).mixed(torch.ones(3, 1)),
        ValueError,
        "4 rows, one for each step",
    ),
    "sign": (
        lambda: dd.StableWalk(1.5, BETAS).mixed(-torch.ones(4, 1)),
        ValueError,
        "positive and finite",
    ),
    "shape": (
        lambda: dd.StableWalk(1.5, BETAS).mixed(torch.ones(4, 2)).marginal(torch.ones(1, 3), 1),
        ValueError,
        r"fits no state of shape \(1, 3\)",
    ),
    "tilt": (
        lambda: dd.sample(
            dd.StableWalk(1.5, BETAS),
            dd.heads.Mean(lambda x, t: x),
            (2, 1),
            stepper=dd.steppers.Tilt(),
        ),
        dd.Unsolved,
        "no exponential moments",
    ),
    "some noise": (
        lambda: dd.sample(
            dd.StableWalk(1.5, BETAS),
            dd.heads.Mean(lambda x, t: x),
            (2, 1),
            stepper=dd.steppers.Ancestral(eta=0.5),
        ),
        dd.Unsolved,
        "some of the noise",
    ),
    "an increment": (
        lambda: dd.Walk(torch.distributions.Cauchy(0.0, 1.0), BETAS),
        ValueError,
        "no finite variance",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misuse(name):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()


def test_isotropic_variances_are_those_of_every_entry():
    """Sizes of one stand for entries that share a variance: laws are as if it were repeated."""
    walk = dd.StableWalk(1.6, BETAS)
    shared = walk.mixing((5, 1, 1))
    chain, wide = walk.mixed(shared), walk.mixed(shared.expand(4, 5, 2, 3))
    x_0, x = torch.randn(2, 5, 2, 3)
    for law, goal in (
        (chain.marginal(x_0, 3), wide.marginal(x_0, 3)),
        (chain.transition(x, 1, 3), wide.transition(x, 1, 3)),
        (chain.bridge(x_0, x, 1, 3), wide.bridge(x_0, x, 1, 3)),
    ):
        torch.testing.assert_close(law.log_prob(x), goal.log_prob(x))
    with pytest.raises(ValueError, match="fits no state"):
        walk.mixed(walk.mixing((5, 2, 1))).marginal(torch.zeros(5, 3, 3), 1)


def test_isotropic_noise_is_isotropic_stable():
    r"""E exp(i u·ε) = exp(−|u|^α) for vectors u: tails are shared, and one entry is as before."""
    count, alpha = 100_000, 1.5
    walk = dd.StableWalk(alpha, BETAS)
    x = walk.mixed(walk.mixing((count, 1))).marginal(torch.zeros(count, 2), 4).sample()
    scale = float(walk.marginal(torch.zeros(1, 1), 4).base_dist.scale)
    for u in ((1.0, 0.0), (0.6, 0.8), (0.7, -1.1), (2.0, 1.0)):
        u = torch.tensor(u)
        goal = float((-((scale * u.norm()) ** alpha)).exp())
        assert float((x @ u).cos().mean()) == pytest.approx(goal, abs=5 / math.sqrt(count))


@pytest.mark.parametrize("eta", [1.0, 0.0])
def test_isotropic_runs_return_to_the_data(eta):
    data, weights = torch.tensor([[-1.0, 0.0], [2.0, 1.0]]), torch.tensor([0.3, 0.7])
    walk = dd.StableWalk(1.7, dd.linear_betas(40, 1e-3, 0.25))
    chain = walk.mixed(walk.mixing((2000, 1)))

    def mean(x, t):
        """The exact posterior mean given the variances."""
        each = [chain.process.marginal(a.expand(2000, 2), t).log_prob(x) for a in data]
        posterior = (torch.stack(each, 1) + weights.log()).softmax(1)
        return posterior @ data

    x = dd.sample(chain, dd.heads.Mean(mean), (2000, 2), stepper=dd.steppers.Ancestral(eta=eta))
    assert float((x[:, 0] > 0.5).double().mean()) == pytest.approx(0.7, abs=0.05)
    near = (x.unsqueeze(1) - data).norm(dim=2).min(1).values < 0.1
    assert float(near.double().mean()) > 0.98
