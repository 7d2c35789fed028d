"""Published closed forms and identities of continuous-time chains, by enumeration of two sites.

Each published loss is written as its paper writes it and held to the one integrand of the library;
what follows from it (bounds, entropies, information) is summed over all states.
"""

import itertools

import numpy as np
import pytest
import torch
from enumerated import Toy, masked, random_law, table, toys
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import discdiff as dd
from discdiff.estimates import Conditional, Data, LeaveOneOut, Posterior, Ratio
from discdiff.loss import kl_rate, sum_over_terms
from discdiff.numerics.special import bregman

pytestmark = pytest.mark.usefixtures("float64")
TOYS = toys()
K, M = 4, 3  # states of the published forms, and the mask among them
CLOCKS = {
    "log-linear": dd.clock.LogLinear(),
    "cosine": dd.clock.Cosine(),
    "linear": dd.clock.Linear(0.1, 6.0),
}


def alpha(clock, t):
    """The survival e^{-Λ} at t and its derivative, by autograd."""
    t = t.clone().requires_grad_()
    value = (-clock(t)).exp()
    (slope,) = torch.autograd.grad(value.sum(), t)
    return value.detach()[:, None], slope[:, None]


def cases(mask=False):
    """All pairs (x_0, x_t) of one site, twice side by side, at times in (0, 1), and logits."""
    torch.manual_seed(0)
    pairs = list(itertools.product(range(K), repeat=2))
    if mask:
        pairs = [(a, b) for a, b in pairs if a != M and b in (a, M)]
    one = torch.tensor(pairs).repeat(5, 1)
    other = one[torch.randperm(len(one))]
    x_0, x_t = torch.stack([one[:, 0], other[:, 0]], 1), torch.stack([one[:, 1], other[:, 1]], 1)
    t = torch.rand(len(one)) * 0.98 + 0.01
    return x_0, x_t, t, torch.randn(*x_0.shape, K)


def at(values, index):
    return values.gather(-1, index[..., None])[..., 0]


def close(found, goal, tolerance=1e-12):
    assert float(((found - goal).abs() / (1 + goal.abs())).max()) < tolerance


def uniform_law():
    return torch.full((K,), 1 / K, dtype=torch.float64)


# -- published closed forms -----------------------------------------------------------------------


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_mdlm_and_md4(clock):
    r"""-α' / (1 - α) Σ_{masked} -log μ(x_0), for every schedule."""
    x_0, x_t, t, logits = cases(mask=True)
    head = dd.heads.Posterior(lambda x, t: logits, absent=M)
    process = dd.Replace(dd.one_hot(M, K)).on(clock)
    found = dd.loss(process, head, x_0, t, x_t=x_t)
    a, slope = alpha(clock, t)
    log_mu = logits[..., :M].log_softmax(-1)
    nats = torch.where(x_t == M, -at(log_mu, x_0), 0.0)
    close(found, (-slope / (1 - a) * nats).sum(-1))


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_sedd_absorbing(clock):
    r"""β {Σ_{a ≠ m} s_a - ρ log s_{x_0} + ρ (log ρ - 1)} at masked sites, ρ = 1 / (e^σ - 1)."""
    x_0, x_t, t, log_s = cases(mask=True)
    head = dd.heads.Ratio(lambda x, t: log_s - at(log_s, x)[..., None])
    found = dd.loss(dd.Replace(dd.one_hot(M, K)).on(clock), head, x_0, t, x_t=x_t)
    log_s = log_s - log_s[..., M:]
    rho = 1 / torch.expm1(clock(t))[:, None]
    entropy = log_s[..., :M].exp().sum(-1) - rho * at(log_s, x_0) + rho * (rho.log() - 1)
    close(found, (clock.rate(t)[:, None] * torch.where(x_t == M, entropy, 0.0)).sum(-1))


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_sedd_uniform(clock):
    r"""(β/K) Σ_{y ≠ x} [s_y - r_y log s_y + r_y (log r_y - 1)], r in terms of one number ρ."""
    x_0, x_t, t, log_s = cases()
    log_s = log_s - at(log_s, x_t)[..., None]
    head = dd.heads.Ratio(lambda x, t: log_s)
    found = dd.loss(dd.Replace(uniform_law()).on(clock), head, x_0, t, x_t=x_t)
    growth = torch.expm1(clock(t))[:, None]
    rho = (growth / (growth + K))[..., None]
    data = torch.nn.functional.one_hot(x_0, K).bool()
    same = (x_0 == x_t)[..., None]
    r = torch.where(same, rho, torch.where(data, 1 / rho, torch.ones(())))
    each = log_s.exp() - r * log_s + r * (r.log() - 1)
    each = each.scatter(-1, x_t[..., None], 0.0).sum(-1)
    close(found, (clock.rate(t)[:, None] / K * each).sum(-1))


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_udlm(clock):
    r"""α'/(Kα) [K/x̄_z - K/x̂_z - Σ_j (x̄_j/x̄_z) log(x̂_z x̄_j / (x̂_j x̄_z))], leave-one-out."""
    x_0, z, t, logits = cases()
    head = dd.heads.LeaveOneOut(lambda x, t: logits)
    found = dd.loss(dd.Replace(uniform_law()).on(clock), head, x_0, t, x_t=z)
    a, slope = alpha(clock, t)
    bar = K * a[..., None] * torch.nn.functional.one_hot(x_0, K) + 1 - a[..., None]
    hat = K * a[..., None] * logits.softmax(-1) + 1 - a[..., None]
    bar_z, hat_z = at(bar, z), at(hat, z)
    logs = bar / bar_z[..., None] * (hat_z[..., None] * bar / (hat * bar_z[..., None])).log()
    close(found, (slope / (K * a) * (K / bar_z - K / hat_z - logs.sum(-1))).sum(-1))
    as_posterior = dd.heads.Posterior(lambda x, t: logits)
    other = dd.loss(dd.Replace(uniform_law()).on(clock), as_posterior, x_0, t, x_t=z)
    assert float((other - found).abs().max()) > 0.1  # the same logits, another meaning


def test_discrete_flow_matching():
    r"""-(κ'/(1 - κ)) [μ(x) - 1[x = x_1] + 1[x ≠ x_1] log μ(x_1)] is the same divergence.

    Its rates κ'/(1 - κ) μ(y) are those of the reversal for a masked source; for a uniform source
    the reversal has in addition a chain that keeps the law, so the integrands differ.
    """
    for mask in (True, False):
        x_1, x, t, logits = cases(mask)
        speed = 1 / (1 - t)[:, None]  # κ = t
        mu = logits.softmax(-1)
        published = at(mu, x) - (x == x_1).double() + (x != x_1) * at(mu, x_1).log()
        published = (-speed * published).sum(-1)
        one = torch.nn.functional.one_hot(x_1, K)
        rates, own = speed[..., None] * torch.stack([one, mu]), x.expand(2, *x.shape)[..., None]
        rates = rates.scatter(-1, own, 0.0)
        close(bregman(rates[0], rates[1]).sum((-1, -2)), published)
        if mask:
            head = dd.heads.Posterior(lambda x, t, logits=logits: logits)
            process = dd.Replace(dd.one_hot(M, K)).on(dd.clock.LogLinear())
            found = dd.loss(process, head, x_1, 1 - t, x_t=x)  # survival 1 - (1 - t) = κ
            seen = (speed * torch.where(x == M, 0.0, 1 - at(mu, x))).sum(-1)
            close(found, published - seen)  # at unmasked sites the reversal has no rates


def token_rates(weights):
    """Token i is masked at rate w_i; the last state is the mask."""
    Q = torch.diag(torch.cat([-weights, torch.zeros(1)]))
    Q[:-1, -1] = weights
    return Q


def test_genmd4_with_constant_rates():
    r"""(α'/(1 - α))ᵀ 1[x = m] (x_0 - μ + x_0 log μ(x_0)), α_i = e^{-w_i u}."""
    x_0, x_t, t, logits = cases(mask=True)
    w = torch.tensor([0.3, 1.0, 2.5])
    head = dd.heads.Posterior(lambda x, t: logits, absent=M)
    found = dd.loss(dd.RateMatrix(token_rates(w)), head, x_0, t, x_t=x_t)
    close(found, genmd4(x_0, x_t, logits, w / torch.expm1(t[:, None] * w)))


def test_genmd4_with_rates_that_vary():
    """α_i = 1 - (t/2)^{w_i}: the published schedule, each token's masked in its own way."""
    x_0, x_t, t, logits = cases(mask=True)
    w = torch.tensor([1.0, 2.0, 3.0])

    def Q(t):
        half = (t[:, None] / 2) ** w
        rates = w * (t[:, None] / 2) ** (w - 1) / (2 * (1 - half))
        return torch.stack([token_rates(row) for row in rates])

    head = dd.heads.Posterior(lambda x, t: logits, absent=M)
    found = dd.loss(dd.RateMatrix(Q).on(dd.clock.Constant(1.0)), head, x_0, t, x_t=x_t)
    close(found, genmd4(x_0, x_t, logits, w / t[:, None]), 1e-9)  # panels, to 1e-10


def genmd4(x_0, x_t, logits, speed):
    """The published integrand, with speed -α'/(1 - α), (B, K - 1)."""
    mu, one = logits[..., :M].softmax(-1), torch.nn.functional.one_hot(x_0, M)
    each = one - mu + one * mu.log()
    nats = -(speed[:, None] * each).sum(-1)
    return torch.where(x_t == M, nats, 0.0).sum(-1)


# -- laws and reversals ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_transitions_compose(name):
    toy, x = TOYS[name], torch.arange(3)
    rows = lambda s, t: toy.process.transition(x, s, t).probs
    assert torch.allclose(rows(0.1, 0.4) @ rows(0.4, 1.5), rows(0.1, 1.5), atol=1e-14)
    assert torch.allclose(rows(0.1, 1.5), torch.tensor(expm(1.4 * toy.Q)), atol=1e-14)


@pytest.mark.parametrize("name", ["uniform", "replaced"])
def test_the_bridge_of_replacement_has_three_atoms(name):
    """Mass on x_t, on x_0 and on π, in proportions that need no sum over states."""
    toy, s, t = TOYS[name], 0.3, 0.9
    x_0, x_t = toy.states[:, 0], toy.states[:, 1]
    pi = toy.process.pi
    a_s, a_t, both = np.exp(-s), np.exp(-t), np.exp(-(t - s))
    to_x = a_t * (x_0 == x_t) + (1 - a_s) * both * pi[x_t]
    to_data, to_pi = a_s * (1 - both) * pi[x_t], (1 - a_s) * (1 - both) * pi[x_t]
    mass = (to_x + to_data + to_pi)[:, None]
    one = lambda x: torch.nn.functional.one_hot(x, 3)
    goal = to_x[:, None] * one(x_t) + to_data[:, None] * one(x_0) + to_pi[:, None] * pi
    law = toy.process.bridge(x_0, x_t, s, t)
    found = torch.stack([law.log_prob(torch.full_like(x_0, b)).exp() for b in range(3)], -1)
    assert torch.allclose(found, goal / mass, atol=1e-14)


def flat(x):
    return 3 * x[..., 0] + x[..., 1]


def reverse_generator(toy, head, u):
    """The reverse rate matrix of both sites, from `dd.reverse`."""
    points, rates = dd.reverse(toy.process, head).rates(toy.states, u)
    G = np.zeros((9, 9))
    for i, x in enumerate(toy.states):
        for d, c in itertools.product(range(2), range(3)):
            y = x.clone()
            y[d] = points[i, d, c]
            if not torch.equal(x, y):
                G[i, int(flat(y))] += float(rates[i, d, c])
    return G - np.diag(G.sum(1))


def exact_head(toy):
    """What the other sites say at every time: perfect."""
    return dd.heads.LeaveOneOut(lambda x, t: table(toy.left_out(float(t[0])).log())(x, t))


@pytest.mark.parametrize("name", TOYS)
def test_the_reversal_undoes_the_flow_of_the_law(name):
    """p_t R̂_t = -p_t R_t."""
    toy, u = TOYS[name], 0.6
    p = toy.joint(u).reshape(-1)
    found = p @ reverse_generator(toy, exact_head(toy), u)
    assert np.abs(found + p @ toy.generator()).max() < 1e-14


@pytest.mark.parametrize("name", TOYS)
def test_a_step_of_one_site_from_its_score(name):
    """[s P_{s,t}^{-1}](y) P_{s,t}(y, x) = p(x_s = y | x_t = x): no x_0 in it."""
    toy, s, t = TOYS[name], 0.4, 1.1
    p_0 = np.array([0.2, 0.5, 0.3])
    p_s, p_t, late = p_0 @ toy.P(s), p_0 @ toy.P(t), toy.P(t - s)
    x = torch.arange(3)
    score = torch.tensor(p_t / p_t[:, None])
    tweedie = (score @ torch.tensor(np.linalg.inv(late))) * torch.tensor(late.T)
    truth = torch.tensor((p_s[:, None] * late / p_t).T)
    assert torch.allclose(tweedie, truth, atol=1e-13)
    law = toy.process.bridge(Ratio(score.log()), x, s, t)
    found = torch.stack([law.log_prob(torch.full_like(x, b)).exp() for b in range(3)], -1)
    assert torch.allclose(found, truth, atol=1e-13)


@pytest.mark.parametrize("name", TOYS)
def test_laws_of_single_sites_determine_the_joint_law(name):
    """Brook: p(a, b) / p(c, d) = p(a | b) / p(c | b) · p(b | c) / p(d | c)."""
    toy, u = TOYS[name], 0.5
    exact = dd.Exact(toy.process, toy.states, torch.tensor(toy.data.reshape(-1)))
    said = toy.process.convert(exact(toy.states, torch.full((9,), u)), toy.states, u, Conditional)
    given = said.log_probs.exp().reshape(3, 3, 2, 3).numpy()  # [a, b, site, value]
    ratio = np.zeros((3, 3))
    for a, b in itertools.product(range(3), repeat=2):
        first = given[a, b, 0, a] / given[a, b, 0, 0]
        ratio[a, b] = first * given[0, b, 1, b] / given[0, b, 1, 0]
    assert np.abs(ratio / ratio.sum() - toy.joint(u)).max() < 1e-14


# -- the closed loss of replacement ---------------------------------------------------------------


@pytest.mark.parametrize("t", [1e-8, 1e-3, 0.3, 0.9, 1 - 1e-9])
@pytest.mark.parametrize("kind", [Posterior, LeaveOneOut, Conditional])
@pytest.mark.parametrize("pi", [[0.2] * 5, [0.1, 0.3, 0.05, 0.35, 0.2]], ids=["even", "uneven"])
def test_the_closed_loss_is_the_sum_over_terms(pi, kind, t):
    """To 1e-12 in float64, to 3e-6 in float32, at every pair of states and both ends of time."""
    torch.manual_seed(0)
    process = (1.7 * dd.Replace(pi) + 0.3 * dd.Replace(pi)).on(dd.clock.LogLinear())
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5)).repeat(8, 1)
    x_0, x = pairs[:, :1], pairs[:, 1:]
    (leaf,) = process.leaves(torch.full((200,), t))
    logits = torch.randn(200, 1, 5)
    found, goal = (f(leaf, Data(x_0), kind(logits), x) for f in (kl_rate, sum_over_terms))
    close(found, goal)
    if kind is not Conditional:  # whose law has all states of the process
        rows, part = x_0[:, 0] != 2, kind(logits, (2,))
        found, goal = (f(leaf, Data(x_0), part, x)[rows] for f in (kl_rate, sum_over_terms))
        close(found, goal)
    ratios = Ratio(logits + 1.0)
    close(*(f(leaf, Data(x_0), ratios, x) for f in (kl_rate, sum_over_terms)))
    sharp = 3 * logits  # the network is sure: near the data the divergence is a difference
    goal = sum_over_terms(leaf, Data(x_0), kind(sharp), x)
    single = kl_rate(leaf, Data(x_0), kind(sharp.float()), x)
    assert single.dtype == torch.float32
    close(single, goal, 3e-6)


@pytest.mark.parametrize("kind", [Posterior, LeaveOneOut, Conditional, Ratio])
def test_gradients_of_the_closed_loss_are_those_of_the_sum(kind):
    torch.manual_seed(0)
    process = dd.learn(dd.Replace([0.1, 0.3, 0.05, 0.35, 0.2]).on(dd.clock.Constant(2.0)))
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    x_0, x = pairs[:, :1], pairs[:, 1:]
    logits = torch.randn(25, 1, 5, requires_grad=True)
    numbers = [logits, *process.parameters()]
    slopes = []
    for rule in (kl_rate, sum_over_terms):
        (leaf,) = process.leaves(torch.linspace(0.1, 0.9, 25))
        value = rule(leaf, Data(x_0), kind(logits), x).sum()
        slopes.append(torch.autograd.grad(value, numbers, allow_unused=True))
    for a, b in zip(*slopes, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            close(a, b)


@pytest.mark.parametrize("kind", [Posterior, LeaveOneOut])
@pytest.mark.parametrize("pi", [[0.2] * 5, [0.1, 0.3, 0.05, 0.35, 0.2]], ids=["even", "uneven"])
def test_second_derivatives_of_the_closed_loss_are_those_of_the_sum(pi, kind):
    torch.manual_seed(0)
    process = dd.Replace(pi).on(dd.clock.Constant(2.0))
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    (leaf,) = process.leaves(torch.linspace(0.1, 0.9, 25))
    logits, v = torch.randn(25, 1, 5, requires_grad=True), torch.randn(25, 1, 5)
    found = []
    for rule in (kl_rate, sum_over_terms):
        value = rule(leaf, Data(pairs[:, :1]), kind(logits), pairs[:, 1:]).sum()
        (slope,) = torch.autograd.grad(value, logits, create_graph=True)
        found.append(torch.autograd.grad((slope * v).sum(), logits)[0])
    close(*found)


def test_a_law_with_zeros_has_no_closed_loss():
    process = dd.Replace([0.4, 0.0, 0.6])
    head = dd.heads.LeaveOneOut(lambda x, t: torch.zeros(*x.shape, 3))
    x_0, x_t = torch.tensor([[1], [0]]), torch.tensor([[2], [0]])
    t = torch.tensor([0.5, 0.5])
    assert process.engine.kl_rate(Data(x_0), head(x_0, t), x_t, t) is None
    assert bool(dd.loss(process, head, x_0, t, x_t=x_t).isfinite().all())


# -- two states ahead -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_the_loss_of_two_neighbouring_states_has_the_same_mean(name):
    r"""E_{x, x̃}[Σ_y R̂(x, y) - Z(x) log R̂(x̃, x)] is the loss but for a constant.

    x̃ is where x jumps to in forward time: with one more draw than needed, and so more variance.
    """
    toy, u, x_0 = TOYS[name], 0.7, torch.tensor([[0, 2]])
    torch.manual_seed(0)
    head = dd.heads.LeaveOneOut(table(torch.randn(9, 2, 3)))
    q = toy.process.marginal(x_0.expand(9, 2), u).log_prob(toy.states).exp().numpy()
    R, back = toy.generator(), reverse_generator(toy, head, u)
    off = ~np.eye(9, dtype=bool)
    logs = np.log(np.where(back > 0, back, 1.0))
    two = (q * (back * off).sum(1)).sum() - (q[:, None] * np.where(off, R, 0) * logs.T).sum()
    truth = np.where(off, R.T * q[None, :] / q[:, None], 0)  # R̂(x, y | x_0)
    known = np.where(truth > 0, truth * (np.log(np.where(truth > 0, truth, 1)) - 1), 0)
    constant = (q[:, None] * known).sum()
    loss = dd.loss(toy.process, head, x_0.expand(9, 2), u, x_t=toy.states).numpy()
    assert abs((q * loss).sum() - two - constant) < 1e-12


# -- what the bound says --------------------------------------------------------------------------


COST = {"uniform": 0.9364, "replaced": 0.7743, "dense": 0.8657}  # nats


def nodes(end, count=80):
    """A rule on (0, end) that takes a logarithm at 0: u = end v⁴."""
    v, w = np.polynomial.legendre.leggauss(count)
    v, w = (v + 1) / 2, w / 2
    return end * v**4, end * 4 * v**3 * w


def mean_path_kl(toy, head, end, weights=None):
    """∫ E[loss] du over (0, end): per datum (9,), or its mean over the data with weights."""
    states, total = toy.states, 0.0
    x_0, x_t = states.repeat_interleave(9, 0), states.repeat(9, 1)
    for u, w in zip(*nodes(end), strict=True):
        q = toy.process.marginal(x_0, u).log_prob(x_t).exp()
        total = total + w * (q * dd.loss(toy.process, head, x_0, u, x_t=x_t)).reshape(9, 9).sum(1)
    return total.detach().numpy()


def prior_terms(toy, end, prior):
    """KL(q(x_T | x_0) ‖ prior), per datum (9,)."""
    kernel = np.kron(toy.P(end), toy.P(end))
    return (kernel * np.log(kernel / prior)).sum(1)


def entropy(p):
    p = p[p > 0]
    return -(p * np.log(p)).sum()


@pytest.mark.parametrize("name", TOYS)
def test_the_bound_of_the_exact_head_is_the_entropy_of_the_data(name):
    """E[bound] = H(p_0) + KL(p_T ‖ prior), for the right prior and for a wrong one."""
    toy, end = TOYS[name], 1.5
    integral = mean_path_kl(toy, exact_head(toy), end)
    p_0, p_T = toy.data.reshape(-1), toy.joint(end).reshape(-1)
    for prior in (p_T, random_law(9, 7)):
        bound = (p_0 * (integral + prior_terms(toy, end, prior))).sum()
        goal = entropy(p_0) + (p_T * np.log(p_T / prior)).sum()
        assert abs(bound - goal) < 4e-9


@pytest.mark.parametrize("name", TOYS)
def test_a_posterior_read_as_what_the_others_say_costs_nats(name):
    """The bound of logits trained by cross-entropy, in the formula of the leave-one-out law."""
    toy, end = TOYS[name], 1.5
    said = lambda x, t: table(toy.posterior(float(t[0])).log())(x, t)
    right, wrong = (
        (toy.data.reshape(-1) * mean_path_kl(toy, kind(said), end)).sum()
        for kind in (dd.heads.Posterior, dd.heads.LeaveOneOut)
    )
    p_0, p_T = toy.data.reshape(-1), toy.joint(end).reshape(-1)
    goal = entropy(p_0) - (p_0 * prior_terms(toy, end, p_T)).sum()
    assert abs(right - goal) < 4e-9
    assert abs(wrong - right - COST[name]) < 1e-4


@pytest.mark.parametrize("name", TOYS)
def test_the_mean_loss_is_the_rate_at_which_information_is_lost(name):
    """dI(x_0; x_t)/dt = -E[loss] at the exact head."""
    toy, u, h = TOYS[name], 0.5, 1e-4

    def information(u):
        kernel = np.kron(toy.P(u), toy.P(u))
        p_0 = toy.data.reshape(-1)
        return (p_0[:, None] * kernel * np.log(kernel / (p_0 @ kernel))).sum()

    slope = 8 * (information(u + h) - information(u - h))
    slope = (slope - information(u + 2 * h) + information(u - 2 * h)) / (12 * h)
    x_0, x_t = toy.states.repeat_interleave(9, 0), toy.states.repeat(9, 1)
    q = toy.process.marginal(x_0, u).log_prob(x_t).exp()
    q = q * torch.tensor(toy.data.reshape(-1)).repeat_interleave(9)
    mean = float((q * dd.loss(toy.process, exact_head(toy), x_0, u, x_t=x_t)).sum())
    assert abs(mean + slope) < 6e-7


@pytest.mark.parametrize("name", TOYS)
def test_the_bound_of_a_wrong_head_lies_above_its_negative_log_likelihood(name):
    """-log p_θ(x) by the master equation of the learned reversal; the law sums to one."""
    toy, end = TOYS[name], 2.0
    torch.manual_seed(2)
    values = torch.randn(9, 2, 3)
    head = dd.heads.LeaveOneOut(lambda x, t: table(values)(x, t) * (1 + t[:, None, None]))
    prior = toy.joint(end).reshape(-1)
    flow = lambda v, p: p @ reverse_generator(toy, head, end - v)
    law = solve_ivp(flow, (0, end - 1e-12), prior, method="DOP853", rtol=1e-9, atol=1e-12).y[:, -1]
    assert abs(law.sum() - 1) < 1e-9
    gaps = mean_path_kl(toy, head, end) + prior_terms(toy, end, prior) + np.log(law)
    assert gaps.min() > 0.01
    assert np.exp(-mean_path_kl(toy, head, end) - prior_terms(toy, end, prior)).sum() < 1


@pytest.mark.parametrize("kind", ["Posterior", "Ratio", "Conditional"])
def test_the_exact_reversal_returns_the_data(kind):
    """dp/du = p R̂ from the law at the end, with heads of every kind: p_0 again."""
    toy, end = TOYS["replaced"], 1.0
    tables = {"Posterior": toy.posterior, "Ratio": toy.ratio, "Conditional": toy.conditional}
    said = lambda x, t: table(tables[kind](float(t[0])).log())(x, t)
    head = getattr(dd.heads, kind)(said)
    flow = lambda v, p: p @ reverse_generator(toy, head, end - v)
    start = toy.joint(end).reshape(-1)
    law = solve_ivp(flow, (0, end - 1e-10), start, method="DOP853", rtol=1e-10, atol=1e-13)
    assert np.abs(law.y[:, -1] - toy.data.reshape(-1)).max() < 1e-7


def test_masked_toys_agree_with_their_own_enumeration():
    """The oracle itself: the marginal of a masked pair is what masking by hand gives."""
    toy: Toy = masked()
    a = np.exp(-0.7)
    p = toy.joint(0.7)
    assert np.allclose(p[:3, :3], a * a * toy.data[:3, :3], atol=1e-15)
    assert np.allclose(p[3, :3], (1 - a) * a * toy.data[:3, :3].sum(0), atol=1e-15)
    assert abs(p[3, 3] - (1 - a) ** 2) < 1e-15
