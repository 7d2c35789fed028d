"""Chains: a process at given times, and D3PM's bound from it, against sums over all states."""

import numpy as np
import pytest
import torch
from enumerated import masked, table, toys

import discdiff as dd
from discdiff import laws
from discdiff.estimates import Data
from discdiff.process import map_state
from discdiff.solve import Unsolved

pytestmark = pytest.mark.usefixtures("float64")
TOYS = {**toys(), "masked": masked()}
TIMES = [0.1, 0.25, 0.5, 0.8]


def chain_of(toy, times=TIMES):
    return toy.process.at(times)


def test_index_0_is_the_data_and_index_k_the_kth_time():
    toy = TOYS["dense"]
    chain, x = chain_of(toy), toy.states
    for s, t in ((0, 1), (1, 3), (0, 4), (2, 2)):
        u = [0.0, *TIMES]
        found = chain.transition(x, s, t).log_prob(x.flip(0))
        assert torch.equal(found, toy.process.transition(x, u[s], u[t]).log_prob(x.flip(0)))
    index = torch.tensor([1, 2, 3, 4, 4, 3, 2, 1, 1])
    times = torch.tensor(TIMES)[index - 1]
    found = chain.marginal(x, index).log_prob(x)
    assert torch.equal(found, toy.process.marginal(x, times).log_prob(x))
    bridge = chain.bridge(x, x, 1, 3).log_prob(x)
    assert torch.equal(bridge, toy.process.bridge(x, x, 0.1, 0.5).log_prob(x))
    assert torch.equal(chain.limit(x.shape).log_prob(x), toy.process.limit(x.shape).log_prob(x))
    assert "times" in chain.state_dict()
    path = dd.simulate(chain, x, [0, 1, 4])
    assert torch.equal(path[0], x) and path.shape == (3, 9, 2)


def test_what_is_no_index_is_refused():
    chain, x = chain_of(TOYS["uniform"]), TOYS["uniform"].states
    for bad in (0.5, 5, -1):
        with pytest.raises(ValueError, match="t must|t contains|index"):
            chain.marginal(x, bad)
    for times in ([0.5, 0.25], [0.0, 0.5], [], [0.5, 2.0]):
        process = TOYS["uniform"].process.on(dd.clock.LogLinear())
        with pytest.raises(ValueError, match="times must increase"):
            process.at(times)
    head = dd.heads.LeaveOneOut(table(torch.zeros(9, 2, 3)))
    for bound in (dd.path_kl, dd.elbo):
        with pytest.raises(Unsolved, match=r"steps, no rates.*vlb"):
            bound(chain, head, x)
    for bad, says in ((0, "index 0 is the data"), (1.5, "index"), (5, "index")):
        with pytest.raises(ValueError, match=says):
            dd.loss(chain, head, x, bad)
    with pytest.raises(ValueError, match="no weight"):
        dd.loss(chain, head, x, 1, weight=dd.weights.Simple())
    with pytest.raises(ValueError, match="must be of dd.steppers; it is a str"):
        dd.loss(chain, head, x, 1, stepper="ancestral")
    with pytest.raises(ValueError, match="for the steps of a chain"):
        dd.loss(chain.process, head, x, 0.5, stepper=dd.steppers.Ancestral())
    with pytest.raises(ValueError, match="stop and density are for times"):
        dd.times(chain, x, stop=0.1)
    with pytest.raises(ValueError, match="times are those of the chain"):
        dd.vlb(chain, head, x, torch.tensor([1.0]))
    with pytest.raises(ValueError, match="give times"):
        dd.vlb(chain.process, head, x)
    with pytest.raises(ValueError, match="draws must be"):
        dd.vlb(chain, head, x, draws=0)


def d3pm(toy, times, said, x_0):
    """The three terms of the bound at one datum, in numpy alone, as the paper writes them.

    q(x_{k-1} | x_k, x_0) ∝ Q(x_{k-1}, x_k) Q̄_{k-1}(x_0, x_{k-1}), and the model averages the joint
    law of (x_{k-1}, x_k) given x_0 over ``said``[x_k]: (K², 2, K), what the other sites say.
    """
    states, u = toy.states.numpy(), [0.0, *times]
    q = toy.P(u[-1])[x_0]
    prior = toy.P(200.0)[0]
    full = bool((prior > 1e-3).all())
    start = sum(np.sum(_xlogx(q[d], prior)) for d in range(2)) if full else np.nan
    steps, last = 0.0, 0.0
    for k in range(1, len(u)):
        early, late, now = toy.P(u[k - 1]), toy.P(u[k] - u[k - 1]), toy.P(u[k])
        for x, p in zip(states, said, strict=True):
            weight = now[x_0[0], x[0]] * now[x_0[1], x[1]]
            if weight == 0:
                continue
            for d in range(2):
                model = (p[d] @ early) * late[:, x[d]]
                model = model / model.sum()
                if k == 1:
                    last -= weight * np.log(model[x_0[d]])
                else:
                    exact = early[x_0[d]] * late[:, x[d]] / now[x_0[d], x[d]]
                    steps += weight * np.sum(_xlogx(exact, model))
    return start, steps, last


def _xlogx(p, q):
    some = p > 0
    return p[some] * np.log(p[some] / q[some])


def random_said(toy, seed=0):
    torch.manual_seed(seed)
    said = torch.randn(len(toy.states), 2, toy.size)
    if toy is TOYS["masked"]:
        said[..., -1] = -torch.inf
    return said


@pytest.mark.parametrize("name", TOYS)
def test_the_bound_is_d3pms(name):
    """Four fields, each within four standard errors of the sum over all noisy states."""
    toy, count = TOYS[name], 20000
    said, x_0 = random_said(toy), [0, 2]
    head = dd.heads.LeaveOneOut(table(said))
    data = torch.tensor([x_0]).expand(count, 2)
    start, steps, last = d3pm(toy, TIMES, said.softmax(-1).numpy(), x_0)
    torch.manual_seed(1)
    for draws in (None, 2):
        found = dd.vlb(chain_of(toy), head, data, draws=draws)
        assert found.nats.shape == (count,)
        assert torch.equal(found.nats, found.prior + found.steps + found.reconstruction)
        if name != "masked":
            assert abs(float(found.prior[0]) - start) < 1e-12
        for value, goal in ((found.steps, steps), (found.reconstruction, last)):
            assert abs(float(value.mean()) - goal) < 4 * float(value.std()) / count**0.5 + 1e-12


def exact_bound(toy, times, said, weights):
    """Steps and reconstruction over all data and noisy states, through the laws of the chain.

    Arguments:
        said: From own time to what the other sites say of each, (K², 2, K).
        weights: The probabilities of the data, (K²,).
    """
    chain, states, total = toy.process.at(times), toy.states, 0.0
    count = len(states)
    x_0, x_t = states.repeat_interleave(count, 0), states.repeat(count, 1)
    for k in range(1, len(times) + 1):
        p = weights.repeat_interleave(count) * chain.marginal(x_0, k).log_prob(x_t).exp()
        estimate = dd.estimates.LeaveOneOut(said(times[k - 1]).log().repeat(count, 1, 1))
        exact = chain.bridge(Data(x_0), x_t, k - 1, k)
        model = chain.bridge(estimate, x_t, k - 1, k)
        total = total + (p * laws.kl(exact, model)).sum()
    return float(total)


@pytest.mark.parametrize("name", ["uniform", "replaced", "dense"])
def test_summed_over_all_states_it_is_d3pms_to_rounding(name):
    toy = TOYS[name]
    said = random_said(toy).softmax(-1)
    _, steps, last = d3pm(toy, TIMES, said.numpy(), [1, 2])
    only = torch.nn.functional.one_hot(torch.tensor(5), 9).double()
    assert abs(exact_bound(toy, TIMES, lambda u: said, only) - steps - last) < 1e-12


@pytest.mark.parametrize("name", ["uniform", "dense"])
def test_with_more_steps_the_bound_tends_to_the_entropy_like_one_over_their_number(name):
    """With the exact head its limit is H(p_0) less the information at the end."""
    toy, end = TOYS[name], 2.0
    p_0, p_T = toy.data, toy.joint(end)
    kernel = np.kron(toy.P(end), toy.P(end))
    known = (p_0.reshape(-1, 1) * kernel * np.log(kernel / p_T.reshape(-1))).sum()
    limit = -(p_0 * np.log(p_0)).sum() - known
    gaps = []
    for count in (50, 100, 200):
        grid = torch.linspace(0, end, count + 1)[1:].tolist()
        found = exact_bound(toy, grid, toy.left_out, torch.tensor(p_0.reshape(-1)))
        gaps.append(count * (found - limit))
    assert gaps[0] > 0 and abs(gaps[2] / gaps[1] - 1) < 0.02 and abs(gaps[1] / gaps[0] - 1) < 0.04


def test_masking_in_steps_weighs_the_cross_entropy():
    r"""A step costs (α_s - α_t) / (1 - α_t) times -log μ(x_0) at each masked site."""
    process = dd.Replace(dd.one_hot(3, 4)).on(dd.clock.LogLinear())
    chain = process.at([0.25, 0.5, 1.0])
    said = torch.randn(2, 2, 4)
    x_0, x_t = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[3, 1], [3, 3]])
    estimate = dd.estimates.Posterior(said, absent=(3,))
    for k, share in ((2, 0.25 / 0.5), (3, 0.5 / 1.0)):
        exact, model = (chain.bridge(e, x_t, k - 1, k) for e in (Data(x_0), estimate))
        nats = -estimate.log_probs.gather(-1, x_0[..., None])[..., 0]
        goal = share * torch.where(x_t == 3, nats, 0.0).sum(-1)
        assert torch.allclose(laws.kl(exact, model), goal, rtol=1e-12)


def test_chains_are_sampled_on_their_own_times():
    toy = TOYS["uniform"]
    process = toy.process.on(dd.clock.Constant(6.0))
    seen = []

    def net(x, t):
        seen.append(float(t[0]))
        return table(torch.tensor(toy.left_out(6.0 * float(t[0])).numpy()).log())(x, t)

    head = dd.heads.LeaveOneOut(net)
    torch.manual_seed(0)
    x = dd.sample(process.at(torch.linspace(0, 1, 81)[1:]), head, (20000, 2))
    assert len(seen) == 80 and seen[0] == 1.0 and seen[-1] == pytest.approx(1 / 80)
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9) / 20000
    assert float((counts - torch.tensor(toy.data.reshape(-1))).abs().sum()) / 2 < 0.05
    with pytest.raises(ValueError, match="steps of a chain are its own"):
        dd.sample(process.at([0.5, 1.0]), head, (2, 2), steps=3)


def test_a_chain_that_ends_early_starts_from_its_own_law():
    """Without a limit the prior is the law at the last time from 0; tables mix both kinds."""
    noise = dd.Noise(1.0)
    chain = noise.at([0.5, 2.0])
    assert torch.allclose(chain.prior((1, 1)).variance, torch.tensor([[2.0]]))
    both = dd.Product(a=noise, b=TOYS["uniform"].process).at([0.5, 2.0])
    prior = both.prior({"a": (1, 1), "b": (1, 2)})
    x = {"a": torch.zeros(1, 1), "b": torch.zeros(1, 2, dtype=torch.int64)}
    goal = -0.5 * np.log(2 * np.pi * 2) - 2 * np.log(3)
    assert abs(float(prior.log_prob(x)) - goal) < 1e-12
    head = dd.heads.Product(
        lambda x, t: {"a": x["a"], "b": torch.zeros(*x["b"].shape, 3)},
        a=dd.heads.Epsilon,
        b=dd.heads.LeaveOneOut,
    )
    found = dd.vlb(both, head, x)
    assert bool(found.nats.isfinite().all()) and float(found.prior) > 0


# -- one term at a time ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_terms_summed_over_all_states_are_d3pms(name):
    """Every index and every noisy state in one call, each row with an index of its own."""
    toy, chain, x_0 = TOYS[name], chain_of(TOYS[name]), [0, 2]
    said = random_said(toy)
    _, steps, last = d3pm(toy, TIMES, said.softmax(-1).numpy(), x_0)
    k = torch.arange(1, 5).repeat_interleave(len(toy.states))
    x_t = toy.states.repeat(4, 1)
    data = torch.tensor([x_0]).expand(len(x_t), 2)
    p = chain.marginal(data, k).log_prob(x_t).exp()
    k, x_t, data, p = (v[p > 0] for v in (k, x_t, data, p))
    head = dd.heads.LeaveOneOut(table(said))
    for stepper in (None, dd.steppers.Ancestral()):
        terms = p * dd.loss(chain, head, data, k, x_t=x_t, stepper=stepper)
        assert terms.shape == k.shape
        assert abs(float(terms[k > 1].sum()) - steps) < 1e-12
        assert abs(float(terms[k == 1].sum()) - last) < 1e-12
        one = dd.loss(chain, head, data[k == 3], 3, x_t=x_t[k == 3], stepper=stepper)
        assert torch.allclose((p[k == 3] * one).sum(), terms[k == 3].sum(), rtol=1e-12)


def linear(x, t):
    return 0.3 * x


VP = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
DAMPED = dd.Linear([[0.0, 4.0], [-1.0, -4.0]]) + dd.Noise([[0.0], [2**0.5]])
LIFTED = DAMPED.on(dd.clock.Constant(4.0)).lift(torch.distributions.Normal(0.0, 0.1))
TOKENS = dd.Replace(dd.one_hot(3, 4)).on(dd.clock.LogLinear())
BOTH = dd.Product(a=VP, b=TOKENS)
EXP = torch.distributions.transforms.ExpTransform()


def says_little(x, t):
    return {"a": 0.3 * x["a"], "b": torch.zeros(*x["b"].shape, 4)}


REAL = torch.tensor([0.5, -1.0], dtype=torch.float64)
RUNS = {
    "gaussian": (VP, dd.heads.Epsilon(linear), REAL, dd.steppers.Ancestral(0.7)),
    "lifted": (LIFTED, dd.heads.Epsilon(linear), REAL, None),
    "pushed": (VP.push(EXP), dd.heads.Epsilon(linear), REAL.exp(), None),
    "exact": (VP, dd.Exact(VP, torch.tensor([[0.5, -1.0], [0.0, 2.0]]).double()), REAL, None),
    "counts": (
        (dd.Death() + dd.Immigration(2.0)).on(dd.clock.Constant(2.0)),
        dd.heads.Posterior(lambda x, t: torch.zeros(*x.shape, 6)),
        torch.tensor([2.0, 5.0], dtype=torch.float64),
        None,
    ),
    "table": (
        BOTH,
        dd.heads.Product(says_little, a=dd.heads.Epsilon, b=dd.heads.Posterior(absent=3)),
        {"a": REAL[:1], "b": torch.tensor([1])},
        None,
    ),
}


@pytest.mark.parametrize("times", [[0.2, 0.5, 0.8, 1.0], [1.0]], ids=["four steps", "one step"])
@pytest.mark.parametrize("name", RUNS)
def test_terms_at_random_indices_have_the_mean_of_the_bound(name, times):
    process, head, datum, stepper = RUNS[name]
    chain, count = process.at(times), 120 if name == "counts" else 2000
    x_0 = map_state(lambda v: v.expand(count, *v.shape), datum)
    whole = dd.vlb(chain, head, x_0, stepper=stepper)
    k, w = dd.times(chain, x_0)
    found = whole.prior + w * dd.loss(chain, head, x_0, k, stepper=stepper)
    error = (found.var() / count + whole.nats.var() / count).sqrt()
    assert found.shape == (count,) and bool(found.isfinite().all())
    assert abs(float(found.mean() - whole.nats.mean())) < 4 * float(error) + 1e-12


def test_indices_are_stratified_over_the_batch():
    chain, x = VP.at(torch.arange(1, 11) / 10), torch.zeros(40, 2)
    k, w = dd.times(chain, x)
    assert k.dtype == torch.int64 and w.dtype == torch.float64
    assert torch.equal(torch.bincount(k, minlength=11), torch.tensor([0] + [4] * 10))
    assert torch.equal(w, torch.full((40,), 10.0))
    assert not torch.equal(k, k.sort().values)


def test_gradients_of_terms_are_numbers_at_every_index():
    scale = torch.tensor(0.3, requires_grad=True)
    head = dd.heads.Epsilon(lambda x, t: scale * x)
    for k in (torch.tensor([1, 2, 3]), 1, 3):
        (slope,) = torch.autograd.grad(
            dd.loss(VP.at([0.2, 0.5, 1.0]), head, torch.ones(3, 2), k).sum(), scale
        )
        assert bool(slope.isfinite()) and float(slope) != 0


def test_terms_of_a_learned_chain_have_an_unbiased_gradient():
    """The derivative of the sum over all states, within four standard errors."""
    x_0, k, count = torch.tensor([[0, 2]]), 2, 20000

    def term(rate, x_t, data):
        process = rate * dd.Replace(torch.tensor([0.2, 0.3, 0.5]))
        head = dd.heads.LeaveOneOut(lambda x, t: torch.eye(3)[(x + 1) % 3])
        return process.at(TIMES), dd.loss(process.at(TIMES), head, data, k, x_t=x_t)

    rate = torch.tensor(1.5, requires_grad=True)
    states = TOYS["uniform"].states
    chain, value = term(rate, states, x_0.expand(9, 2))
    p = chain.marginal(x_0.expand(9, 2), k).log_prob(states).exp()
    (goal,) = torch.autograd.grad((p * value).sum(), rate)
    rates = torch.tensor(1.5, requires_grad=True)
    each = []
    for _ in range(20):
        _, value = term(rates, None, x_0.expand(count // 20, 2))
        each.append(torch.autograd.grad(value.mean(), rates)[0])
    each = torch.stack(each)
    assert abs(float(each.mean() - goal)) < 4 * float(each.std()) / 20**0.5
