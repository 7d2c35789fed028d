"""Chains that are Markov given the data: Beta diffusion and stars, against Bayes' rule."""

import math

import pyro.distributions as pyro
import pytest
import torch
from scipy import integrate, stats

import discdiff as dd
from discdiff.beta_chain import BetaChain
from discdiff.engines.beta_chain import BetaDiffusion, Risen
from discdiff.engines.star import NormalTails
from discdiff.star import BetaStar, NormalStar, StarChain

pytestmark = pytest.mark.usefixtures("float64")
KEPT, ETA = [0.9, 0.5, 0.1], 10.0
MIXED, NU = [0.1, 0.3, 0.7], [20.0, 10.0, 4.0]
SEEN = torch.tensor([[0.3], [0.6], [0.8]], dtype=torch.float64)


def one(value):
    return torch.tensor([[value]])


# -- Beta diffusion -------------------------------------------------------------------------------


def test_beta_marginals_are_scipys():
    chain, z = BetaChain(KEPT, ETA), torch.tensor([0.01, 0.2, 0.5, 0.97])
    law = chain.marginal(torch.full((4, 1), 0.8), 2)
    goal = stats.beta(ETA * 0.4, ETA * 0.6)
    torch.testing.assert_close(law.log_prob(z[:, None]), torch.tensor(goal.logpdf(z.numpy())))
    found = law.base_dist.cdf(z[:, None])[:, 0]
    torch.testing.assert_close(found, torch.tensor(goal.cdf(z.numpy())))


@pytest.mark.parametrize(("s", "t"), [(1, 2), (1, 3), (2, 3)])
def test_beta_steps_back_are_bayes_rule_of_the_declared_factors(s, t):
    r"""z_t = z_s π, π ~ Beta(η α_t x_0, η (α_s − α_t) x_0), multiplied out by hand."""
    chain, x_0, z_t = BetaChain(KEPT, ETA), 0.8, 0.05
    early, late = KEPT[s - 1], KEPT[t - 1]
    start = stats.beta(ETA * early * x_0, ETA * (1 - early * x_0))
    factor = stats.beta(ETA * late * x_0, ETA * (early - late) * x_0)
    joint = lambda z: start.pdf(z) * factor.pdf(z_t / z) / z
    whole = stats.beta(ETA * late * x_0, ETA * (1 - late * x_0)).pdf(z_t)
    for z in (0.06, 0.2, 0.5, 0.9):
        found = chain.bridge(one(x_0), one(z_t), s, t).log_prob(one(z))
        assert float(found) == pytest.approx(math.log(joint(z) / whole), abs=1e-11)
    assert integrate.quad(joint, z_t, 1)[0] == pytest.approx(whole, rel=1e-6)


def test_beta_divergence_is_its_integral():
    start = one(0.3)
    p, q = Risen(start, one(2.5), one(4.0)), Risen(start, one(3.0), one(3.5))
    ratio = lambda z: float((p.log_prob(one(z)) - q.log_prob(one(z))) * p.log_prob(one(z)).exp())
    goal = integrate.quad(ratio, 0.3, 1.0)[0]
    assert float(torch.distributions.kl_divergence(p, q)) == pytest.approx(goal, abs=1e-9)
    other = Risen(one(0.4), one(2.5), one(4.0))
    assert float(torch.distributions.kl_divergence(p, other)) == math.inf


def test_a_runs_end_is_the_papers_and_its_shares_are_kept_in_float64():
    chain = dd.zoo.beta_diffusion()
    kept = chain.steps.kept
    assert len(kept) == 200
    assert float(kept[-1].logit()) == pytest.approx(-13, abs=1e-9)
    assert float(kept[99].logit()) == pytest.approx(10 - 11.5, abs=1e-9)
    z = chain.marginal(torch.full((20_000, 1), 0.8), 200).sample()
    a = torch.tensor(1e4 * float(kept[-1]) * 0.8)
    goal = float(a.digamma() - torch.tensor(1e4).digamma())
    assert float(z.log().mean()) == pytest.approx(goal, rel=0.05)


def test_beta_runs_return_to_the_data():
    data, weights = torch.tensor([[0.65], [0.9]]), torch.tensor([0.3, 0.7])
    chain = dd.zoo.beta_diffusion(30, concentration=500.0, center=0.83)
    exact = dd.Exact(chain.process, data, weights)
    start = chain.marginal(data[torch.multinomial(weights, 4000, True)], 30).sample()
    x = dd.sample(chain, exact, (4000, 1), start=start)
    assert float((x > 0.8).double().mean()) == pytest.approx(0.7, abs=0.04)
    x = dd.sample(chain, exact.as_(dd.heads.Mean), (4000, 1), start=start)
    assert float((x - data.T).abs().min(1).values.mean()) < 0.03


# -- stars ----------------------------------------------------------------------------------------


def test_a_tail_statistic_says_what_all_its_states_say():
    """The posterior of three data from G_k is that from the states x_k … x_T themselves."""
    chain = StarChain(BetaStar(MIXED, NU))
    xi, nu = (torch.tensor(v) for v in (MIXED, NU))
    shapes = lambda x_0: (nu * (xi / 2 + (1 - xi) * x_0), nu * (xi / 2 + (1 - xi) * (1 - x_0)))
    states = torch.distributions.Beta(*shapes(0.6)).sample((5,))
    logs = [torch.distributions.Beta(*shapes(x)).log_prob(states) for x in (0.3, 0.6, 0.8)]
    for k in (1, 2, 3):
        goal = torch.stack([each[:, k - 1 :].sum(1) for each in logs], 1).log_softmax(1)
        G = (nu * (1 - xi) * states.logit())[:, k - 1 :].sum(1, keepdim=True)
        exact = dd.Exact(chain.process, SEEN)
        found = exact(G, chain.times[k - 1].expand(5)).log_weights
        torch.testing.assert_close(found, goal, rtol=1e-10, atol=1e-10)


def test_a_normal_star_is_ddpm_of_the_summed_ratios():
    """As the paper's theorem has it: scaled, its statistics are DDPM's states."""
    kept = torch.tensor([0.9, 0.6, 0.2])
    tails = (kept / (1 - kept)).flip(0).cumsum(0).flip(0)
    whole = tails / (1 + tails)
    betas = 1 - whole / torch.cat([torch.ones(1), whole[:-1]])
    star, ddpm = StarChain(NormalStar(kept)), dd.zoo.ddpm_chain(betas)
    scale = (tails * (1 + tails)).sqrt()
    x_0, x = one(0.4), one(0.7)
    for k in (1, 2, 3):
        law, goal = star.marginal(x_0, k), ddpm.marginal(x_0, k)
        torch.testing.assert_close(law.mean / scale[k - 1], goal.mean)
        torch.testing.assert_close(law.variance / scale[k - 1] ** 2, goal.variance)
    for s, t in ((1, 2), (1, 3), (2, 3)):
        law, goal = star.bridge(x_0, scale[t - 1] * x, s, t), ddpm.bridge(x_0, x, s, t)
        torch.testing.assert_close(law.mean / scale[s - 1], goal.mean)
        torch.testing.assert_close(law.variance / scale[s - 1] ** 2, goal.variance)


def test_the_steps_of_a_stars_bound_are_divergences_of_its_states():
    chain, head = StarChain(BetaStar(MIXED, NU)), dd.heads.Mean(lambda x, t: 0 * x + 0.6)
    found = dd.vlb(chain, head, one(0.8))

    def beta(x_0, k):
        mean = MIXED[k] / 2 + (1 - MIXED[k]) * x_0
        return torch.distributions.Beta(NU[k] * mean, NU[k] * (1 - mean))

    each = [torch.distributions.kl_divergence(beta(0.8, k), beta(0.6, k)) for k in range(2)]
    assert float(found.steps) == pytest.approx(float(sum(each)), rel=1e-12)
    prior = torch.distributions.kl_divergence(beta(0.8, 2), beta(0.5, 2))
    assert float(found.prior) == pytest.approx(float(prior), rel=1e-12)
    decoded = float(-beta(0.6, 0).log_prob(torch.tensor(0.8)))
    mixed = torch.distributions.Beta(*(torch.tensor(NU[0] * v) for v in (0.59, 0.41)))
    assert float(found.reconstruction) == pytest.approx(float(-mixed.log_prob(torch.tensor(0.8))))
    assert decoded == pytest.approx(float(found.reconstruction))


def test_a_star_returns_to_the_data():
    data = torch.tensor([[0.2], [0.9]])
    chain = dd.zoo.ss_ddpm(20)
    start = chain.marginal(data.repeat(500, 1), 20).sample()
    x = dd.sample(chain, dd.Exact(chain.process, data), (1000, 1), start=start)
    assert set(x[:, 0].tolist()) == {0.2, 0.9}
    assert 420 < int((x > 0.5).sum()) < 580


# -- certificate and refusals ---------------------------------------------------------------------

CHAINS = {
    "beta": lambda: BetaChain(KEPT, ETA),
    "normal star": lambda: StarChain(NormalStar([0.9, 0.6, 0.2])),
    "beta star": lambda: StarChain(BetaStar(MIXED, NU)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_certificate_holds(name):
    report = dd.check(CHAINS[name](), SEEN)
    assert report, report
    told = {row.law for row in report.rows if row.error is not None}
    assert told >= {"carried marginals", "agreement", "likelihood ratio", "divergence", "reversal"}


PLANTED = {
    "wider marginal": (BetaDiffusion, "noisy", lambda law: Risen(law.start, law.a / 2, law.b / 2)),
    "step too far": (
        BetaDiffusion,
        "between",
        lambda law: Risen(law.start, 1.2 * law.a, law.b),
    ),
    "normal step": (
        NormalTails,
        "between",
        lambda law: pyro.Normal(law.mean, 1.1 * law.stddev),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_found(name, monkeypatch):
    engine, verb, spoil = PLANTED[name]
    right = getattr(engine, verb)
    monkeypatch.setattr(engine, verb, lambda self, *given: spoil(right(self, *given)))
    chain = CHAINS["beta" if engine is BetaDiffusion else "normal star"]()
    assert not dd.check(chain, SEEN)


REFUSED = {
    "rising": (lambda: BetaChain([0.5, 0.6], 1.0), ValueError, "kept must fall within"),
    "concentration": (lambda: BetaChain(KEPT, 0.0), ValueError, "concentration must be positive"),
    "center": (lambda: BetaChain(KEPT, 1.0, 1.0), ValueError, "center must lie in"),
    "zero": (lambda: BetaChain(KEPT, 1.0).marginal(one(0.0), 1), ValueError, "lie in .0, 1."),
    "said": (
        lambda: BetaChain(KEPT, 1.0).bridge(dd.estimates.Mean(one(1.5)), one(0.1), 1, 2),
        ValueError,
        "what the head says of x_0",
    ),
    "score": (
        lambda: BetaChain(KEPT, 1.0).bridge(dd.estimates.Score(one(1.5)), one(0.1), 1, 2),
        dd.Unsolved,
        "the data from Score",
    ),
    "transition": (
        lambda: BetaChain(KEPT, 1.0).transition(one(0.5), 1, 2),
        dd.Unsolved,
        "depend on the data",
    ),
    "several": (
        lambda: StarChain(BetaStar(MIXED, NU)).bridge(one(0.5), one(0.0), 1, 3).log_prob(one(0.0)),
        dd.Unsolved,
        "no density in closed form",
    ),
    "as many": (lambda: BetaStar(MIXED, NU[:2]), ValueError, "3 positive numbers, one per step"),
    "mixed": (lambda: BetaStar([0.0], [1.0]), ValueError, "mixed must be numbers in"),
    "outside": (
        lambda: StarChain(BetaStar(MIXED, NU)).marginal(one(1.5), 2),
        ValueError,
        "lie in .0, 1.",
    ),
    "order": (lambda: dd.zoo.ss_ddpm(10, 1.0, 2.0), ValueError, "first > last > 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_rounded_to_the_start_is_an_atom(dtype):
    """As many draws are exactly at the start as the law says, at 0 and at 0.3."""
    for start in (0.0, 0.3):
        a = torch.tensor(0.01 if start or dtype is torch.float32 else 1e-3)
        at = torch.tensor(start, dtype=dtype)
        law = Risen(at, a, torch.tensor(5.0))
        share = float((law.sample((40_000,)) == at).double().mean())
        assert 0.2 < share < 0.9
        assert float(law.log_prob(at).exp()) == pytest.approx(share, abs=0.015)
