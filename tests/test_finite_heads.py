"""What logits mean on finite spaces: every conversion by enumeration, and what a mix-up costs."""

import itertools
from functools import partial

import pytest
import torch
from enumerated import masked, total_variation, toys

import discdiff as dd
from discdiff import estimates
from discdiff.numerics.special import safe_log

pytestmark = pytest.mark.usefixtures("float64")
TOYS = toys()
KINDS = ("Posterior", "LeaveOneOut", "Conditional", "Ratio")
EXACT = 2e-13  # what the inverse of P leaves at u = 2.5; 1e-15 elsewhere


def truth(toy, kind, u):
    """The logarithm of what a head of this kind says at every state."""
    laws = toy.posterior, toy.left_out, toy.conditional, toy.ratio
    tables = dict(zip(KINDS, laws, strict=True))
    return safe_log(tables[kind](u))


def said(kind, values):
    return getattr(estimates, kind)(values)


def values_of(estimate):
    if isinstance(estimate, estimates.Ratio):
        return estimate.log_ratio.exp()
    return estimate.log_probs.exp()


@pytest.mark.parametrize("u", [0.05, 0.6, 2.5])
@pytest.mark.parametrize(("source", "goal"), list(itertools.product(KINDS, KINDS)))
@pytest.mark.parametrize("name", TOYS)
def test_every_conversion_is_the_enumerated_one(name, source, goal, u):
    toy = TOYS[name]
    estimate = said(source, truth(toy, source, u))
    found = toy.process.convert(estimate, toy.states, u, getattr(estimates, goal))
    assert type(found).__name__ == goal
    assert torch.allclose(values_of(found), truth(toy, goal, u).exp(), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("goal", KINDS)
@pytest.mark.parametrize("source", ["LeaveOneOut", "Conditional"])
def test_conversions_of_masked_sites(source, goal):
    toy = masked()
    possible = torch.tensor(toy.joint(0.7).reshape(-1) > 0)
    states = toy.states[possible]
    estimate = said(source, truth(toy, source, 0.7)[possible])
    found = toy.process.convert(estimate, states, 0.7, getattr(estimates, goal))
    expected = truth(toy, goal, 0.7)[possible].exp()
    assert torch.allclose(values_of(found), expected, atol=1e-14)


def test_what_a_masked_posterior_says_of_others_is_refused():
    toy = masked()
    estimate = said("Posterior", torch.zeros(1, 2, 4))
    with pytest.raises(dd.Unsolved, match="zeros"):
        toy.process.convert(estimate, torch.tensor([[0, 3]]), 0.5, estimates.LeaveOneOut)


@pytest.mark.parametrize("kind", ["Conditional", "Ratio"])
@pytest.mark.parametrize("name", ["uniform", "dense"])
def test_ratios_say_nothing_of_the_data_at_the_end(name, kind):
    toy = TOYS[name]
    estimate = said(kind, truth(toy, kind, 1.0))
    with pytest.raises(dd.Unsolved, match="Λ = ∞"):
        toy.process.convert(estimate, toy.states, torch.inf, estimates.Posterior)


@pytest.mark.parametrize("kind", ["Conditional", "Ratio"])
@pytest.mark.parametrize("name", TOYS)
def test_ratios_that_no_data_have_still_make_a_law(name, kind):
    """Signed weights are cut, and what is left is normalised."""
    toy = TOYS[name]
    torch.manual_seed(0)
    estimate = said(kind, 3 * torch.randn(9, 2, 3))
    for goal in (estimates.Posterior, estimates.LeaveOneOut):
        p = toy.process.convert(estimate, toy.states, 1.0, goal).log_probs.exp()
        assert bool((p >= 0).all()) and torch.allclose(p.sum(-1), torch.ones(9, 2))
        assert bool((p == 0).any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TOYS)
def test_a_step_is_exact_for_each_site_whatever_the_head(name, kind):
    """p(x_s^d | x_t), from 0.9 to 0.2 of own time at once."""
    toy, s, u = TOYS[name], 0.2, 0.9
    law = toy.process.bridge(said(kind, truth(toy, kind, u)), toy.states, s, u)
    columns = [law.base_dist.log_prob(torch.full_like(toy.states, b)).exp() for b in range(3)]
    assert torch.allclose(torch.stack(columns, -1), toy.step(s, u), atol=1e-13)


MIXED_UP = {"uniform": 0.2075, "replaced": 0.3814, "dense": 0.1268}  # total variation


@pytest.mark.parametrize("name", TOYS)
def test_the_posterior_in_the_formula_of_the_others_is_wrong(name):
    """The published formula (p P_{0,s})(y) P_{s,t}(y, x) wants what the other sites say."""
    toy, s, u = TOYS[name], 0.2, 0.9
    early, late = torch.tensor(toy.P(s)), torch.tensor(toy.P(u - s))
    columns = late.T[toy.states]

    def plug_in(p):
        joint = (p @ early) * columns
        return joint / joint.sum(-1, keepdim=True)

    truth_s = toy.step(s, u)
    assert total_variation(plug_in(toy.left_out(u)), truth_s) < 1e-14
    wrong = total_variation(plug_in(toy.posterior(u)), truth_s)
    law = toy.process.bridge(estimates.LeaveOneOut(truth(toy, "Posterior", u)), toy.states, s, u)
    columns = [law.base_dist.log_prob(torch.full_like(toy.states, b)).exp() for b in range(3)]
    assert abs(total_variation(torch.stack(columns, -1), truth_s) - wrong) < 1e-13
    assert abs(wrong - MIXED_UP[name]) < 1e-4


@pytest.mark.parametrize("verb", ["loss", "elbo", "Ancestral", "Euler", "Analytic"])
@pytest.mark.parametrize("kind", ["Posterior", "LeaveOneOut", "Conditional", "Ratio"])
def test_networks_of_any_precision_speak_of_chains(kind, verb):
    process = dd.RateMatrix([[-1.0, 1.0, 0.0], [0.5, -1.0, 0.5], [0.0, 1.0, -1.0]])
    process, x = process.on(dd.clock.Constant(2.0)), torch.tensor([[0, 1], [2, 0]])
    head = getattr(dd.heads, kind)(lambda x, t: torch.zeros(*x.shape, 3, dtype=torch.float64))
    if verb in ("loss", "elbo"):
        found = dd.loss(process, head, x, 0.5) if verb == "loss" else dd.elbo(process, head, x)
        assert found.shape == (2,) and bool(found.isfinite().all())
    else:
        stepper = getattr(dd.steppers, verb)()
        assert dd.sample(process, head, (2, 2), grid=[0.9, 0.5, 0.1], stepper=stepper).shape == (
            2,
            2,
        )


def test_parts_of_a_table_may_be_partials_of_heads():
    def net(x, t):
        return {"job": torch.zeros(*x["job"].shape, 4)}

    x = {"job": torch.tensor([[0, 1], [3, 3]])}
    made = [
        dd.heads.Product(net, job=job)(x, torch.rand(2)).parts["job"].masked_logits
        for job in (partial(dd.heads.Posterior, absent=3), dd.heads.Posterior(absent=3))
    ]
    assert torch.equal(*made) and bool((made[0][..., 3] == -torch.inf).all())


def said_always(values, x, t):
    return values


FAR = {
    "ring": lambda: dd.Ring(40),
    "line": lambda: dd.Reflecting(128),
    "towards a law": lambda: dd.BirthDeath(torch.linspace(-3, 3, 32).square().neg().softmax(-1)),
    "killed": lambda: dd.Killing(dd.Reflecting(39)),
}


@pytest.mark.parametrize("name", FAR)
def test_posteriors_that_doubt_far_states_have_losses_in_single_precision(name):
    """Where a chance is no normal number, the mass over it was infinite, and a product with 0."""
    torch.set_default_dtype(torch.float32)
    chain = FAR[name]()
    x_0, t = torch.zeros(200, 1, dtype=torch.int64), torch.logspace(-5, 1, 200)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = chain.marginal(x_0, t * 0.02).sample()
    size = chain.terms[0].size
    law = chain.transition(torch.arange(size).expand(200, -1), 0.0, t * 0.02)
    column = law.base_dist.probs.gather(-1, x.unsqueeze(1).expand(-1, size, 1))
    assert bool((1 / size / column).isinf().any())  # as it was
    logits = torch.zeros(200, 1, size, requires_grad=True)
    head = dd.heads.Posterior(lambda x, t: logits)
    values = dd.loss(chain, head, x_0, t * 0.02, x_t=x)
    (slope,) = torch.autograd.grad(values.sum(), logits)
    assert bool(values.isfinite().all()) and bool(slope.isfinite().all())
    back = dd.reverse(chain, head).rates(x, t * 0.02)[1]
    assert bool(back.isfinite().all())
    assert bool((chain.bridge(head(x, t), x, t * 0.01, t * 0.02).log_prob(x) <= 0).all())


def _moves_of_neighbours():
    rates = torch.rand(24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Q = rates.tril(1).triu(-1)
    Q = Q - Q.diagonal().diag_embed()
    return Q - Q.sum(-1).diag_embed()


ANY = FAR | {
    "dense": lambda: dd.RateMatrix(_moves_of_neighbours()),
    "rates that vary": lambda: dd.RateMatrix(
        lambda t: (1 + t.sin()).reshape(-1, 1, 1) * _moves_of_neighbours()
    ),
    "factors": lambda: dd.Kronecker(dd.Reflecting(40), dd.Ring(3)),
    "features": lambda: dd.LowRank(torch.eye(6).softmax(-1), torch.eye(6).softmax(-1)),
}


@pytest.mark.parametrize("name", ANY)
def test_a_random_network_has_one_loss_in_both_precisions(name):
    """Losses and slopes: its doubts were cut at the smallest number of single precision."""
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        chain = ANY[name]()
        size = chain.terms[0].size
        logits = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
        logits = logits.to(dtype).expand(20, 1, size).clone().requires_grad_()
        head = dd.heads.Posterior(partial(said_always, logits))
        x_0, t = torch.full((20, 1), size // 2), torch.logspace(-4, 0.5, 20, dtype=torch.float64)
        x = (x_0 + (torch.arange(20).unsqueeze(-1) % 2)).clamp(max=size - 1)
        values = dd.loss(chain, head, x_0, t, x_t=x)
        (slope,) = torch.autograd.grad(values.sum(), logits)
        found.append((values.detach().double(), slope.double()))
    (one, one_slope), (two, two_slope) = found
    assert torch.allclose(one, two, rtol=1e-5)
    scale = two_slope.abs().amax((1, 2), keepdim=True)
    assert float(((one_slope - two_slope).abs() / scale).max()) < 1e-5


@pytest.mark.parametrize("name", FAR)
def test_near_states_are_said_as_in_double_precision(name):
    """A posterior without mass at far states loses nothing."""
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        chain = FAR[name]()
        near = torch.linspace(0, 1, 4).expand(5, 1, -1)
        far = torch.full((5, 1, chain.terms[0].size - 4), -torch.inf)
        head = dd.heads.Posterior(partial(said_always, torch.cat([near, far], -1)))
        x_0, t = torch.zeros(5, 1, dtype=torch.int64), torch.logspace(-4, 0, 5)
        found.append(dd.loss(chain, head, x_0, t, x_t=x_0 + 1).double())
    assert torch.allclose(*found, rtol=1e-4)


@pytest.mark.parametrize("u", [1e-3, 0.4, 3.0])
@pytest.mark.parametrize("kind", [dd.heads.LeaveOneOut, dd.heads.Posterior])
def test_data_that_may_be_the_mask_itself(kind, u):
    """Leave-one-out laws are posteriors at a mask only if it is no datum; as dense chains say."""
    mask = dd.Replace(dd.one_hot(2, 3))
    dense = dd.RateMatrix(mask.terms[0].matrix()) + 1e-300 * dd.Replace(torch.ones(3) / 3)
    x_0, x = torch.tensor([[0], [2]]), torch.tensor([[2], [2]])
    logits = torch.tensor([[[0.3, 1.0, -0.5]], [[-1.0, 0.2, 0.7]]])
    head = kind(lambda x, t: logits)
    values = [dd.loss(p, head, x_0, u, x_t=x) for p in (mask, dense)]
    assert torch.allclose(*values, rtol=1e-12, atol=1e-12)
    other = next(k for k in (dd.heads.LeaveOneOut, dd.heads.Posterior) if k is not kind)
    mixed_up = dd.loss(mask, other(lambda x, t: logits), x_0, u, x_t=x)
    assert float((mixed_up / values[1]).log().abs().max()) > 0.02
