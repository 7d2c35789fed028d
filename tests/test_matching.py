"""Ratio matching, cross-entropy and the implicit score entropy, by enumeration of two sites."""

import itertools

import numpy as np
import pytest
import torch
from enumerated import masked, random_law, random_rates, table, total_variation, toys
from scipy.linalg import expm
from torch.distributions import constraints

import discdiff as dd
from discdiff.process import Generator
from discdiff.solve import Unsolved

pytestmark = pytest.mark.usefixtures("float64")
TOYS = toys()
U = 0.7
RULES = (dd.matching.Log(), dd.matching.OneAgainstRest(), dd.matching.Squared())


def rows(toy):
    """All pairs (x_0, x_t) and their joint probabilities at U."""
    states = toy.states
    P = torch.tensor(np.kron(toy.P(U), toy.P(U)))
    data = torch.tensor(toy.data.reshape(-1))
    n = len(states)
    weights = (data[:, None] * P).reshape(-1)
    keep = weights > 0
    return states.repeat_interleave(n, 0)[keep], states.repeat(n, 1)[keep], weights[keep]


def expected(toy, verb, head, **options):
    """The mean of an objective over data and noisy states."""
    x_0, x_t, weights = rows(toy)
    return (weights * verb(toy.process, head, x_0, U, x_t=x_t, **options)).sum()


def random_table(seed=0, size=3, scale=1.0):
    torch.manual_seed(seed)
    return scale * torch.randn(size**2, 2, size)


def minimised(net, value):
    """The network at the minimum of a value, by L-BFGS."""
    optimiser = torch.optim.LBFGS(
        net.parameters(),
        max_iter=2000,
        tolerance_grad=1e-13,
        tolerance_change=0,
        history_size=60,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        found = value(net)
        found.backward()
        return found

    optimiser.step(closure)
    return net.requires_grad_(False)


class Sees(torch.nn.Module):
    """A table that knows both sites."""

    def __init__(self, size):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(size**2, 2, size))

    def forward(self, x, t):
        return table(self.logits)(x, t)


class LeftOut(torch.nn.Module):
    """A table that knows of each site only the other one."""

    def __init__(self, size):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(2, size, size))

    def forward(self, x, t):
        return torch.stack([self.logits[0, x[:, 1]], self.logits[1, x[:, 0]]], 1)


def random_left_out(size):
    torch.manual_seed(0)
    net = LeftOut(size).requires_grad_(False)
    net.logits.copy_(torch.randn(2, size, size))
    return net


def minimum(toy, verb, kind, net, **options):
    """What a head says at the minimum of the mean of an objective."""
    found = minimised(net(toy.size), lambda net: expected(toy, verb, kind(net), **options))
    return found(toy.states, None).softmax(-1)


# -- ratio matching -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_the_mean_of_ratio_matching_is_that_of_the_conditional_laws(name):
    """The tower property: E[-log p̂(x^d)] = E Σ_c -p(c | others) log p̂(c)."""
    toy, net = TOYS[name], random_left_out(3)
    found = expected(toy, dd.ratio_matching, dd.heads.Conditional(net))
    entropy = -(toy.conditional(U) * net(toy.states, None).log_softmax(-1)).sum((-1, -2))
    goal = (torch.tensor(toy.joint(U).reshape(-1)) * entropy).sum()
    assert abs(float(found - goal)) < 1e-12


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("name", TOYS)
def test_the_minimum_of_every_rule_is_the_conditional_law(name, rule):
    toy = TOYS[name]
    found = minimum(toy, dd.ratio_matching, dd.heads.Conditional, LeftOut, rule=rule)
    assert total_variation(found, toy.conditional(U)) < 1e-6


@pytest.mark.parametrize("name", TOYS)
def test_with_a_leave_one_out_head_the_minimum_is_that_of_the_data(name):
    toy = TOYS[name]
    found = minimum(toy, dd.ratio_matching, dd.heads.LeaveOneOut, LeftOut)
    assert total_variation(found, toy.left_out(U)) < 1e-6


def test_a_network_that_sees_its_site_says_it_back():
    """Why hollow networks: with the site in sight, the least loss is 0 and the law a lie."""
    toy = TOYS["uniform"]
    honest = float(expected(toy, dd.ratio_matching, dd.heads.Conditional(
        table(toy.conditional(U).log()))))  # fmt: skip
    echo = torch.nn.functional.one_hot(toy.states, 3) * 50.0
    assert float(expected(toy, dd.ratio_matching, dd.heads.Conditional(table(echo)))) < 1e-12
    assert honest > 1.5
    assert total_variation(echo.softmax(-1), toy.conditional(U)) > 0.5


def test_the_rules_on_two_states():
    """Hyvärinen's binary ratio matching is Σ g(p(x)/p(x'))², g(u) = 1/(1+u), x' the flip."""
    torch.manual_seed(1)
    log_p, x = torch.randn(50, 2).log_softmax(-1), torch.randint(2, (50,))
    own, other = log_p.gather(-1, x[:, None])[:, 0], log_p.gather(-1, 1 - x[:, None])[:, 0]
    published = (1 / (1 + (own - other).exp())) ** 2
    assert torch.allclose(dd.matching.Squared()(log_p, x), published, rtol=1e-13)
    double = dd.matching.OneAgainstRest()(log_p, x)
    assert torch.allclose(double, 2 * dd.matching.Log()(log_p, x), rtol=1e-12)


def test_the_published_variant_of_all_states():
    """-[(K - 1) log p(x) + Σ_{c ≠ x} log(1 - p(c))], also where p(x) rounds to one."""
    torch.manual_seed(1)
    log_p, x = torch.randn(50, 5).log_softmax(-1), torch.randint(5, (50,))
    p = log_p.exp().numpy()
    goal = []
    for row, i in zip(p, x.tolist(), strict=True):
        rest = sum(np.log1p(-row[c]) for c in range(5) if c != i)
        goal.append(-(4 * np.log(row[i]) + rest))
    assert torch.allclose(dd.matching.OneAgainstRest()(log_p, x), torch.tensor(np.array(goal)))
    sure = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    value = dd.matching.OneAgainstRest()(sure.log_softmax(-1), torch.tensor([0]))
    (slope,) = torch.autograd.grad(value.sum(), sure)
    assert bool(value.isfinite().all()) and bool(slope.isfinite().all())


def test_under_masking_it_is_the_cross_entropy_of_the_unmasked():
    """CRM = Σ_{unmasked} -log p̂(x_0^d) + constants: the sites that MDLM's loss leaves out."""
    toy = masked()
    x_0, x_t, _ = rows(toy)
    net = random_left_out(4)
    net.logits.data[..., 3] = -torch.inf
    head = dd.heads.LeaveOneOut(net, absent=3)
    found = dd.ratio_matching(toy.process, head, x_0, U, x_t=x_t)
    seen = x_t != 3
    nats = -net(x_t, None).log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
    goal = torch.where(seen, nats + U, -np.log1p(-np.exp(-U))).sum(-1)
    assert torch.allclose(found, goal, rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", [dd.heads.Posterior, dd.heads.Ratio], ids=["Posterior", "Ratio"])
def test_heads_that_have_seen_the_site_are_refused(kind):
    toy = TOYS["uniform"]
    with pytest.raises(dd.Unsolved, match="has seen the site.*HollowTransformer"):
        dd.ratio_matching(toy.process, kind(table(random_table())), toy.states, U)


def test_what_has_no_categories_is_refused():
    process = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Constant(1.0))
    with pytest.raises(dd.Unsolved, match="for categories"):
        dd.ratio_matching(process, dd.heads.Mean(lambda x, t: x), torch.ones(2, 1), 0.5)
    head = dd.heads.Conditional(table(random_table()))
    toy = TOYS["dense"]
    with pytest.raises(ValueError, match="rule must be of dd.matching"):
        dd.ratio_matching(toy.process, head, toy.states, U, rule="log")
    fast = toy.process.on(dd.clock.LogLinear())
    with pytest.raises(ValueError, match="rate of the clock is finite"):
        dd.ratio_matching(fast, head, toy.states, 1.0)
    wrong = dd.heads.Conditional(lambda x, t: torch.zeros(*x.shape, 4))
    with pytest.raises(ValueError, match=r"must have shape \(9, 2, 3\)"):
        dd.ratio_matching(toy.process, wrong, toy.states, U)


def test_clocks_weights_parts_and_known_entries():
    toy, net = TOYS["uniform"], random_left_out(3)
    head, x = dd.heads.Conditional(net), toy.states
    once = dd.ratio_matching(toy.process, head, x, 0.5, x_t=x)
    clock = dd.clock.Linear(0.1, 4.0)
    process = toy.process.on(clock)
    rate = float(clock.rate(torch.tensor(0.5)))
    timed = dd.ratio_matching(process, head, x, 0.5, x_t=x)
    assert torch.allclose(timed, rate * once, rtol=1e-13)
    flat = dd.ratio_matching(process, head, x, 0.5, x_t=x, weight=dd.weights.Flat())
    assert torch.allclose(flat, once, rtol=1e-13)
    both = dd.Product(a=process, b=toy.process.on(dd.clock.Constant(2.0)))
    heads = dd.heads.Product(
        lambda x, t: {k: net(v, t) for k, v in x.items()},
        a=dd.heads.Conditional, b=dd.heads.Conditional,
    )  # fmt: skip
    found = dd.ratio_matching(both, heads, {"a": x, "b": x}, 0.5, x_t={"a": x, "b": x})
    assert torch.allclose(found, (rate + 2) * once, rtol=1e-13)
    known = process.given((torch.tensor([1, 0]), torch.tensor([True, False])))
    held = x[x[:, 0] == 1]
    half = dd.ratio_matching(known, head, held, 0.5, x_t=held)
    own = -net(held, None).log_softmax(-1)[:, 1].gather(-1, held[:, 1:])[:, 0]
    assert torch.allclose(half, rate * own, rtol=1e-13)


# -- cross-entropy --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_cross_entropy_learns_the_posterior_and_the_path_kl_what_the_others_say(name):
    """One table of logits, two losses, two minimisers: D3PM's sum of both has neither."""
    toy = TOYS[name]
    mu, p = toy.posterior(U), toy.left_out(U)
    by_ce = minimum(toy, dd.cross_entropy, dd.heads.Posterior, Sees)
    assert total_variation(by_ce, mu) < 1e-6
    by_kl = minimum(toy, dd.loss, dd.heads.LeaveOneOut, Sees)
    assert total_variation(by_kl, p) < 1e-6
    as_others = minimum(toy, dd.cross_entropy, dd.heads.LeaveOneOut, Sees)
    assert total_variation(as_others, p) < 1e-6
    apart = {"uniform": 0.3310, "replaced": 0.5104, "dense": 0.2527}[name]
    assert abs(total_variation(by_ce, by_kl) - apart) < 1e-4

    def hybrid(process, head, x_0, t, x_t):
        ce = dd.cross_entropy(process, dd.heads.Posterior(head.net), x_0, t, x_t=x_t)
        return dd.loss(process, head, x_0, t, x_t=x_t) + ce

    both = minimum(toy, hybrid, dd.heads.LeaveOneOut, Sees)
    assert min(total_variation(both, mu), total_variation(both, p)) > 0.05


def test_the_cross_entropy_is_minus_the_log_of_the_posterior():
    toy, values = TOYS["dense"], random_table()
    x_0, x_t, _ = rows(toy)
    head = dd.heads.Posterior(table(values))
    goal = -table(values)(x_t, None).log_softmax(-1).gather(-1, x_0[..., None]).sum((-1, -2))
    assert torch.allclose(dd.cross_entropy(toy.process, head, x_0, U, x_t=x_t), goal, rtol=1e-13)
    exact = dd.Exact(toy.process, toy.states, torch.tensor(toy.data.reshape(-1)))
    goal = -toy.posterior(U).log()[(x_t * torch.tensor([3, 1])).sum(-1)]
    goal = goal.gather(-1, x_0[..., None]).sum((-1, -2))
    assert torch.allclose(dd.cross_entropy(toy.process, exact, x_0, U, x_t=x_t), goal, rtol=1e-12)


@pytest.mark.parametrize("kind", [dd.heads.Ratio, dd.heads.Conditional], ids=["Ratio", "Cond"])
def test_heads_without_a_posterior_have_no_cross_entropy(kind):
    toy = TOYS["uniform"]
    with pytest.raises(dd.Unsolved, match="cross-entropy.*heads.Posterior"):
        dd.cross_entropy(toy.process, kind(table(random_table())), toy.states, U)


def test_counts_and_coupled_sites_have_a_cross_entropy():
    x = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    head = dd.heads.Posterior(lambda x, t: torch.zeros(*x.shape, 5))
    found = dd.cross_entropy(dd.Death(), head, x, U, x_t=torch.zeros_like(x))
    assert torch.allclose(found, torch.full((2,), 2 * np.log(5)))
    joint = dd.RateMatrix(torch.tensor(random_rates(6, 0)), sites=(2, 3))
    head = dd.heads.Posterior(lambda x, t: torch.zeros(len(x), 6))
    pairs = torch.tensor([[0, 2], [1, 1]])
    found = dd.cross_entropy(joint, head, pairs, U, x_t=pairs)
    assert torch.allclose(found, torch.full((2,), np.log(6)))
    head = dd.heads.Conditional(lambda x, t: torch.zeros(len(x), 6))
    found = dd.ratio_matching(joint, head, pairs, U, x_t=pairs)
    assert torch.allclose(found, torch.full((2,), np.log(6)))


# -- implicit score entropy -----------------------------------------------------------------------


def own_ratio_term(toy):
    """E Σ_y R(y, x) s (log s - 1), s = q(y | x_0) / q(x | x_0), in numpy alone."""
    P, total = toy.P(U), 0.0
    for x_0, x_t, w in zip(*(v.tolist() for v in rows(toy)), strict=True):
        for d, y in itertools.product(range(2), range(toy.size)):
            if y != x_t[d]:
                s = P[x_0[d], y] / P[x_0[d], x_t[d]]
                total += w * toy.Q[y, x_t[d]] * (s * np.log(s) - s if s else 0.0)
    return total


HEADS = {
    kind.__name__: kind
    for kind in (dd.heads.Ratio, dd.heads.Conditional, dd.heads.LeaveOneOut, dd.heads.Posterior)
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", TOYS)
def test_implicit_and_denoising_score_entropy_differ_by_a_constant(name, kind):
    toy = TOYS[name]
    constant = own_ratio_term(toy)
    for seed in range(3):
        head = HEADS[kind](table(random_table(seed)))
        explicit = float(expected(toy, dd.loss, head))
        implicit = float(expected(toy, dd.implicit_score_matching, head))
        # Σ_y r̂ - r log r̂ + r log r - r: the rates R themselves are in both logarithms
        assert abs(explicit - implicit - constant) < 2e-12 * max(1.0, abs(explicit))


@pytest.mark.parametrize("name", TOYS)
def test_explicit_and_denoising_score_entropy_differ_by_a_constant(name):
    """E_x Σ_y R(y, x) D(s ‖ ŝ) with the true marginal's s, against that of the data's."""
    toy, gaps = TOYS[name], []
    p, s = torch.tensor(toy.joint(U).reshape(-1)), toy.ratio(U)
    rates = torch.tensor(toy.Q).T[toy.states]  # [x, d, y] = R(y, x^d)
    rates = rates.scatter(-1, toy.states[..., None], 0.0)
    for seed in range(3):
        values = random_table(seed)
        log_s = values - values.gather(-1, toy.states[..., None])
        explicit = (p[:, None, None] * rates * (s * (s.log() - log_s) - s + log_s.exp())).sum()
        head = dd.heads.Ratio(table(values))
        gaps.append(float(expected(toy, dd.loss, head) - explicit))
    assert max(gaps) - min(gaps) < 1e-12 * max(1.0, abs(gaps[0]))


def test_drawn_jumps_are_unbiased():
    toy = TOYS["dense"]
    head = dd.heads.Ratio(table(random_table()))
    x = toy.states[4:5].expand(40000, 2)
    exact = dd.implicit_score_matching(toy.process, head, x[:1], U, x_t=x[:1])
    torch.manual_seed(0)
    for probes in (1, 3):
        drawn = dd.implicit_score_matching(toy.process, head, x, U, x_t=x, probes=probes)
        error = float(drawn.mean() - exact) / float(drawn.std() / len(x) ** 0.5)
        assert abs(error) < 4  # fails by chance once in 16 000


def test_counts_and_reactions_have_an_implicit_score_entropy():
    """The constant is the same for all heads, by sums over a large box of counts."""
    process = dd.Death() + dd.Immigration(1.5)
    x = torch.arange(40.0)[:, None]
    p = process.marginal(torch.full((1, 1), 3.0), U).log_prob(x).exp()
    swap = dd.Reaction([-1, 1], 1.0) + dd.Reaction([1, -1], 0.5)
    pairs = torch.tensor([[a, 4.0 - a] for a in range(5)])
    q = swap.marginal(torch.tensor([[3.0, 1.0]]), U).log_prob(pairs).exp()
    for chain, states, weights in ((process, x, p), (swap, pairs, q)):
        gaps = []
        for c in (0.1, 0.5):
            width = 2 if chain is process else len(chain.terms)
            shape = states.shape if chain is process else states.shape[:-1]
            slopes = c * torch.arange(1.0, width + 1)
            head = dd.heads.Ratio(lambda y, t, k=slopes, s=shape: k * y.sum(-1).cos().reshape(
                *s[:1], *(1,) * len(s[1:]), 1).expand(*s, -1))  # fmt: skip
            x_0 = torch.full_like(states, 3.0)
            if chain is swap:
                x_0 = torch.tensor([[3.0, 1.0]]).expand(5, 2)
            explicit = dd.loss(chain, head, x_0, U, x_t=states)
            implicit = dd.implicit_score_matching(chain, head, x_0, U, x_t=states)
            gaps.append(float((weights * (explicit - implicit)).sum()))
        assert abs(gaps[0] - gaps[1]) < 1e-9


# -- no transition law ----------------------------------------------------------------------------


class Gossip(dd.Jump):
    """Binary sites on a ring: each copies its left neighbour at unit rate and flips at 0.3."""

    categorical, event_axes, size = True, 1, 2
    support = constraints.integer_interval(0, 1)

    def flips(self, x):
        sites = torch.arange(x.shape[-1])
        return x.unsqueeze(-2) ^ torch.nn.functional.one_hot(sites, x.shape[-1])

    def out(self, x):
        return self.flips(x), 0.3 + (x != x.roll(1, -1)).double()

    def into(self, x):
        y = self.flips(x)  # y differs from x at one site; it flips back at the rate of y
        left = x.roll(1, -1)
        return y, 0.3 + (x == left).double()


def gossip(sites, u):
    """The transition matrix of all 2^D states, in numpy alone."""
    states = list(itertools.product((0, 1), repeat=sites))
    Q = np.zeros((len(states), len(states)))
    for i, x in enumerate(states):
        for d in range(sites):
            y = list(x)
            y[d] = 1 - y[d]
            Q[i, states.index(tuple(y))] = 0.3 + (x[d] != x[d - 1])
    Q -= np.diag(Q.sum(1))
    return torch.tensor(states), expm(u * Q)


def test_what_has_no_law_says_so():
    process = Gossip()
    assert isinstance(process, Generator)
    x = torch.tensor([[0, 1, 1]])
    with pytest.raises(Unsolved, match="transition of Gossip.*simulate it"):
        process.transition(x, 0.0, 1.0)
    with pytest.raises(Unsolved, match="determines no ratios"):
        process.score(x, dd.estimates.Posterior(torch.zeros(1, 3, 2)), 0.5)
    assert "Simulated" in str(dd.explain(process))


def test_simulated_states_follow_the_master_equation():
    states, P = gossip(3, 0.8)
    torch.manual_seed(0)
    paths = dd.simulate(Gossip(), torch.tensor([[0, 1, 1]]).expand(20000, 3), [0.8])
    index = (paths[0] * torch.tensor([4, 2, 1])).sum(-1)
    seen = torch.bincount(index, minlength=8) / 20000
    assert float((seen - torch.tensor(P[3])).abs().sum()) / 2 < 0.015  # 0.009 expected


@pytest.mark.parametrize("kind", [dd.heads.Conditional, dd.heads.Ratio], ids=["Cond", "Ratio"])
def test_the_implicit_score_entropy_of_coupled_sites_is_least_at_the_truth(kind):
    """No law is used: only rates and states. Its mean gradient vanishes at the true ratios."""
    states, P = gossip(3, 0.8)
    data = torch.tensor(random_law((8,), 3))
    p = data @ torch.tensor(P)
    flips = Gossip().flips(states)
    index = (flips * torch.tensor([4, 2, 1])).sum(-1)
    to_flip = (p[index] / p[:, None]).log()  # [x, d]: the log-ratio of a flip of site d
    own = torch.nn.functional.one_hot(states, 2)
    logits = (to_flip[..., None] * (1 - own)).requires_grad_()
    head = kind(lambda x, t: logits[(x * torch.tensor([4, 2, 1])).sum(-1)])
    value = dd.implicit_score_matching(Gossip(), head, states, 0.8, x_t=states)
    (slope,) = torch.autograd.grad((p * value).sum(), logits)
    assert float(slope.abs().max()) < 1e-14
    off = kind(lambda x, t: 1.1 * logits[(x * torch.tensor([4, 2, 1])).sum(-1)])
    worse = dd.implicit_score_matching(Gossip(), off, states, 0.8, x_t=states)
    assert float((p * (worse - value)).sum().detach()) > 1e-4


@pytest.mark.parametrize("verb", ["ratio_matching", "implicit_score_matching"])
def test_a_model_is_trained_on_simulations_alone(verb):
    """Four coupled sites; the laws of single sites at time 0.8 are learned to a few per cent."""
    torch.manual_seed(0)
    states, P = gossip(4, 0.8)
    data = torch.tensor(random_law((16,), 5))
    p = (data @ torch.tensor(P)).reshape(2, 2, 2, 2)
    x_0 = states[torch.multinomial(data, 60000, replacement=True)]
    pool = dd.simulate(Gossip(), x_0, [0.8])[0]
    net = LeftOutOfFour()
    head = dd.heads.Conditional(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    options = {} if verb == "ratio_matching" else {"probes": 1}
    for step in range(150):
        rows = torch.randint(len(pool), (2000,))
        optimiser.zero_grad()
        x = pool[rows]
        loss = getattr(dd, verb)(Gossip(), head, x_0[rows], 0.8, x_t=x, **options).mean()
        loss.backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 150)
    said = net(states, None).softmax(-1).detach()
    truth = single_site_laws(p, states)
    error = float(((said - truth).abs().sum(-1) / 2 * p.reshape(-1, 1)).sum() / 4)
    start = float(((0.5 - truth).abs().sum(-1) / 2 * p.reshape(-1, 1)).sum() / 4)
    assert error < 0.02 and start > 0.1


def single_site_laws(p, states):
    """p(x^d | the others) of a joint law of binary sites at every state, (2^D, D, 2)."""
    rows = []
    for x in states.tolist():
        lines = [p[tuple(x[:d]) + (slice(None),) + tuple(x[d + 1 :])] for d in range(len(x))]
        rows.append(torch.stack([line / line.sum() for line in lines]))
    return torch.stack(rows)


class LeftOutOfFour(torch.nn.Module):
    """A table per site over the states of the three others."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(4, 8, 2))

    def forward(self, x, t):
        others = torch.tensor([[d for d in range(4) if d != e] for e in range(4)])
        index = (x[:, others] * torch.tensor([4, 2, 1])).sum(-1)
        return self.logits[torch.arange(4), index]


def learned_laws(states, data):
    """A head that knows the laws of single sites at every time, by the master equation."""
    sites = states.shape[1]

    def net(x, t):
        p = (data @ torch.tensor(gossip(sites, 1.5 * float(t[0]))[1])).reshape([2] * sites)
        laws = single_site_laws(p, states)
        return laws.log()[(x * 2 ** torch.arange(sites - 1, -1, -1)).sum(-1)]

    return dd.heads.Conditional(net)


def test_the_reversal_of_coupled_sites_is_sampled_by_euler_steps():
    """From a simulated end back to the data, through the laws of single sites alone."""
    states = gossip(3, 0.0)[0]
    data = torch.tensor(random_law((8,), 8))
    process = Gossip().on(dd.clock.Constant(1.5))
    torch.manual_seed(0)
    x_0 = states[torch.multinomial(data, 3000, replacement=True)]
    start = dd.simulate(process, x_0, [1.0])[0]
    head = learned_laws(states, data)
    grid = torch.linspace(1, 0.0, 41)
    x = dd.sample(process, head, x_0.shape, grid=grid, start=start, stepper=dd.steppers.Euler())
    seen = torch.bincount((x * torch.tensor([4, 2, 1])).sum(-1), minlength=8) / len(x)
    far = torch.bincount((start * torch.tensor([4, 2, 1])).sum(-1), minlength=8) / len(x)
    assert float((seen - data).abs().sum()) / 2 < 0.05 < float((far - data).abs().sum()) / 2


def test_states_are_simulated_where_none_are_given():
    process = Gossip().on(dd.clock.Constant(1.0))
    head = dd.heads.Conditional(lambda x, t: torch.zeros(*x.shape, 2))
    x_0 = torch.zeros(4, 3, dtype=torch.int64)
    torch.manual_seed(0)
    found = dd.ratio_matching(process, head, x_0, torch.rand(4))
    assert torch.allclose(found, torch.full((4,), 3 * np.log(2)))
    value = dd.implicit_score_matching(process, head, x_0, 0.5)
    assert bool(value.isfinite().all())
    with pytest.raises(dd.Unsolved, match="transition of Gossip.*simulate it"):
        dd.loss(process, dd.heads.LeaveOneOut(head.net), x_0, 0.5, x_t=x_0)


def test_a_learned_process_gets_the_gradient_of_its_draws():
    """d/dQ of the mean of ratio matching over drawn states, against enumeration."""
    Q = random_rates(2, 0)
    chain = dd.learn(dd.RateMatrix(torch.tensor(Q)))
    torch.manual_seed(0)
    logits = torch.tensor([[[0.9, 0.1]], [[0.95, 0.05]]]).log()
    head = dd.heads.Conditional(lambda x, t: logits[x[:, 0]])
    x_0 = torch.zeros(20000, 1, dtype=torch.int64)
    (number,) = chain.parameters()
    found = torch.autograd.grad(dd.ratio_matching(chain, head, x_0, U).mean(), number)[0]
    both = torch.tensor([[0], [1]])
    p = chain.transition(torch.zeros(2, 1, dtype=torch.int64), 0.0, U).log_prob(both).exp()
    own = torch.stack([-logits[x, 0, x] for x in range(2)])
    goal = torch.autograd.grad((p * own).sum(), number)[0]
    assert float((found - goal).abs().max()) < 0.03 < float(goal.abs().max())
