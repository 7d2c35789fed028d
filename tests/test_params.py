"""Learned numbers: gradients, constraints, engines that follow, unbiased gradients of losses."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import biject_to, constraints, transform_to

import discdiff as dd
from discdiff.likelihood import prior_kl
from discdiff.numerics.quadrature import gauss_legendre
from discdiff.params import declare, increasing, probabilities, rate_matrix

F64 = torch.float64
Q3 = [[-1.2, 1.0, 0.2], [0.3, -0.8, 0.5], [0.6, 0.1, -0.7]]


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    torch.set_warn_always(True)  # torch warns of numbers read off a graph once per program
    torch.manual_seed(0)
    yield
    torch.set_warn_always(False)
    torch.set_default_dtype(before)


def numbers(*values):
    return torch.tensor(values, dtype=F64)


# -- gradients of log-probabilities against central differences -----------------------------------

CATS = torch.tensor(
    [[[0, 1], [2, 1], [0, 0], [1, 2]], [[0, 2], [1, 1], [0, 2], [1, 1]], [[1, 2], [1, 0]] * 2]
)
MASKED = torch.tensor(
    [[[0, 1], [1, 1], [0, 0]], [[0, 2], [2, 1], [0, 2]], [[2, 2], [2, 1], [0, 2]]]
)
ALIVE = torch.tensor([[[3.0, 5], [4, 2]], [[3.0, 3], [3, 2]], [[2.0, 1], [1, 0]]], dtype=F64)
COUNTS = torch.tensor([[[3.0, 5], [0, 2]], [[3.0, 6], [1, 1]], [[2.0, 6], [1, 0]]], dtype=F64)
PAIRS = torch.tensor([[[3.0, 1], [4, 0]], [[1.0, 2], [2, 1]], [[1.0, 2], [0, 2]]], dtype=F64)
REALS = torch.tensor(
    [[[0.3, -1], [2, 0.5]], [[0.1, -0.4], [1, 0.7]], [[0.5, 0.2], [-0.3, 1]]], dtype=F64
)


def laws_of(process, states, s=0.2, t=0.7):
    """Log-probabilities of a transition and of a bridge at given states (x_0, x_s, x_t)."""
    x_0, x_s, x_t = states
    yield process.transition(x_0, s, t).log_prob(x_t).sum()
    yield process.bridge(x_0, x_t, s, t).log_prob(x_s).sum()


def with_limit(process, states):
    yield from laws_of(process, states)
    yield process.limit(states[0].shape).log_prob(states[0]).sum()


def rates(v):
    return transform_to(rate_matrix)(v.log())


def unit(w):
    return w / w.sum()


def gaussian(w):
    return dd.Linear(w[0], w[1]) + dd.Noise(w[2])


def varying(w):
    drift = dd.Linear(lambda t: w[0] * (1 + t), lambda t: w[1] * t)
    return drift + dd.Noise(lambda t: w[2] * (2 - t).sqrt())


def linear_network(w):
    turn, come = dd.Reaction([-1, 1], w[0]), dd.Reaction([1, 0], w[1])
    return turn + come + w[2] * dd.Reaction([0, -1], 1.0)


def pairing(w):
    meet = dd.Reaction([-2, 1], lambda n: w[0] * n[..., 0] * (n[..., 0] - 1))
    return meet + w[1] * dd.Reaction([2, -1], lambda n: n[..., 1])


def mask():
    return dd.Replace(dd.one_hot(2, 3))


VP = dd.Linear(-0.5) + dd.Noise(1.0)
SIX = numbers(1.0, 0.2, 0.3, 0.5, 0.6, 0.1)
ENDS = numbers(0.1, 3.0)
GRADIENTS = {
    "Q": (SIX, lambda v: with_limit(dd.RateMatrix(rates(v)), CATS)),
    "Q, t infinite": (
        SIX,
        lambda v: laws_of(dd.RateMatrix(rates(v)).on(dd.clock.LogLinear()), CATS, 0.3, 1.0),
    ),
    "Q(t)": (
        numbers(1.0, 0.4),
        lambda v: laws_of(dd.RateMatrix(lambda t: rates(v * (1 + t[:, None]))), CATS.clamp(max=1)),
    ),
    "pi": (numbers(0.5, 0.2, 0.3), lambda w: with_limit(dd.Replace(unit(w)), CATS)),
    "pi, t infinite": (
        numbers(0.5, 0.2, 0.3),
        lambda w: laws_of(dd.Replace(unit(w)).on(dd.clock.LogLinear()), CATS, 0.3, 1.0),
    ),
    "pi with a zero": (
        numbers(0.5, 0.2),
        lambda w: laws_of(
            dd.Replace(torch.cat([unit(w), numbers(0.0)])), MASKED[:1].expand(3, 3, 2)
        ),
    ),
    "scale of a mask": (numbers(1.3), lambda w: laws_of(w[0] * mask(), MASKED)),
    "scales of a sum": (
        numbers(1.3, 0.4),
        lambda w: laws_of(w[0] * mask() + w[1] * dd.Replace([1 / 3] * 3), MASKED),
    ),
    "scale of death": (numbers(1.3), lambda w: laws_of(w[0] * dd.Death(), ALIVE)),
    "immigration": (
        numbers(1.3, 0.4),
        lambda w: with_limit(dd.Death() + dd.Immigration(w), COUNTS),
    ),
    "immigration, t infinite": (
        numbers(1.3),
        lambda w: laws_of(
            (dd.Death() + dd.Immigration(w[0])).on(dd.clock.LogLinear()), COUNTS, 0.3, 1.0
        ),
    ),
    "birth, death, immigration": (
        numbers(0.4, 0.7, 1.3),
        lambda w: with_limit(w[0] * dd.Birth() + w[1] * dd.Death() + dd.Immigration(w[2]), COUNTS),
    ),
    "Ehrenfest": (numbers(0.4, 0.7), lambda w: with_limit(dd.Ehrenfest(8, w[0], w[1]), COUNTS)),
    "linear reactions": (numbers(0.4, 0.5, 0.7), lambda w: laws_of(linear_network(w), COUNTS)),
    "nonlinear reactions": (numbers(0.1, 0.3), lambda w: laws_of(pairing(w), PAIRS)),
    "a jump of one's own": (numbers(0.4), lambda w: laws_of(Leap(w[0]) + dd.Death(), COUNTS)),
    "A, b, B": (numbers(-0.6, 0.3, 1.2), lambda w: with_limit(gaussian(w), REALS)),
    "A = 0": (numbers(0.0, 0.3, 1.2), lambda w: laws_of(gaussian(w), REALS)),
    "diagonal A, b, B": (
        torch.tensor([[-0.6, -0.2], [0.3, 0.1], [1.2, 0.5]], dtype=F64),
        lambda w: with_limit(gaussian(w), REALS),
    ),
    "A(t), b(t), B(t)": (numbers(-0.6, 0.3, 1.2), lambda w: laws_of(varying(w), REALS)),
    "A, b, B, t infinite": (
        numbers(-0.6, 0.3, 1.2),
        lambda w: laws_of(gaussian(w).on(dd.clock.Cosine()), REALS, 0.3, 1.0),
    ),
    "b0, b1": (ENDS, lambda w: laws_of(VP.on(dd.clock.Linear(*w)), REALS)),
    "rate": (numbers(0.8), lambda w: laws_of(dd.RateMatrix(Q3).on(dd.clock.Constant(w[0])), CATS)),
    "s0, s1": (ENDS, lambda w: laws_of(dd.Noise(1.0).on(dd.clock.Geometric(*w)), REALS)),
    "c": (numbers(5.0), lambda w: laws_of(dd.Death().on(dd.clock.Logistic(w[0])), ALIVE)),
    "c of a mask": (numbers(5.0), lambda w: laws_of(mask().on(dd.clock.Logistic(w[0])), MASKED)),
    "c, t infinite": (
        numbers(5.0),
        lambda w: laws_of(
            dd.Death().on(dd.clock.Logistic(w[0])),
            ALIVE * numbers(1, 1, 0)[:, None, None],
            0.3,
            1.0,
        ),
    ),
    "table of a clock": (
        numbers(1.0, 2.0),
        lambda w: laws_of(
            VP.on(dd.clock.Tabulated([0.0, 0.5, 1.0], torch.stack([0 * w[0], w[0], w.sum()]))),
            REALS,
        ),
    ),
    "prior of a mask": (
        numbers(1.3),
        lambda w: [
            prior_kl(dd.Replace([0.5, 0.5, 0.0]).on(dd.clock.Constant(w[0])), MASKED[0]).sum()
        ],
    ),
    "prior of Q": (
        SIX,
        lambda v: [prior_kl(dd.RateMatrix(rates(v)).on(dd.clock.Constant(1.0)), CATS[0]).sum()],
    ),
    "prior of A, b, B": (
        numbers(-0.6, 0.3, 1.2),
        lambda w: [prior_kl(gaussian(w).on(dd.clock.Linear(0.1, 5.0)), REALS[0]).sum()],
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_central_differences(name):
    values, f = GRADIENTS[name]
    free = values.clone().requires_grad_()
    h = 1e-5  # the error of the difference is about h² f''' / 6 + 1e-16 |f| / h
    for k, out in enumerate(f(free)):
        (found,) = torch.autograd.grad(out, free, retain_graph=True)
        for i in range(values.numel()):
            e = torch.zeros_like(values)
            e.view(-1)[i] = h
            up, down = (list(f(values + sign * e))[k] for sign in (1, -1))
            difference = float(up - down) / (2 * h)
            assert float(found.view(-1)[i]) == pytest.approx(difference, rel=1e-6, abs=1e-6)


# -- learn ----------------------------------------------------------------------------------------

SPARSE = [[-1.0, 1.0, 0.0], [0.3, -0.8, 0.5], [0.0, 0.0, 0.0]]
PATHS = torch.tensor([[[0, 1], [1, 0]], [[1, 1], [0, 1]], [[2, 2], [0, 1]]])  # what SPARSE can do
LEARNED = {
    "rates": (lambda: dd.RateMatrix(Q3), CATS, 6),
    "rates with zeros": (lambda: dd.RateMatrix(SPARSE), PATHS, 3),
    "factor": (lambda: 2.0 * dd.RateMatrix(SPARSE), PATHS, 4),
    "pi": (lambda: dd.Replace([0.2, 0.5, 0.3]), CATS, 3),
    "uniform pi": (lambda: dd.Replace([0.25] * 4), CATS, 4),
    "pi with zeros": (lambda: dd.Replace([0.2, 0.8, 0.0]), CATS.clamp(max=1), 2),
    "mask": (lambda: mask().on(dd.clock.Logistic(5.0)), MASKED, 1),
    "sum": (lambda: 0.5 * mask() + 2.0 * dd.Replace([0.2, 0.5, 0.3]), CATS, 5),
    "death": (lambda: (2.0 * dd.Death()).on(dd.clock.Linear(0.0, 3.0)), ALIVE, 2),
    "immigration": (lambda: dd.Death() + dd.Immigration([0.7, 0.0]), ALIVE, 1),
    "Ehrenfest": (lambda: dd.Ehrenfest(9, 0.5), COUNTS, 2),
    "VP": (lambda: (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 9.0)), REALS, 4),
    "diagonal": (lambda: dd.Linear([-0.5, 0.0], [0.0, 1.0]) + dd.Noise([1.0, 2.0]), REALS, 4),
    "VE": (lambda: dd.Noise(1.0).on(dd.clock.Geometric(0.1, 5.0)), REALS, 3),
    "table": (lambda: mask().on(dd.clock.Tabulated([0, 0.5, 1], [0, 1.0, 4])), MASKED, 2),
    "pinned": (lambda: mask().on(dd.clock.Learned(dd.clock.Constant(3.0), 4)), MASKED, 4),
    "network": (lambda: dd.RateMatrix(Rates(3)), CATS, 12),
    "own jump": (lambda: Leap(0.4) + dd.Death(), COUNTS, 1),
    "reactions": (lambda: 0.5 * linear_network(numbers(0.4, 0.5, 0.7)), COUNTS, 6),
}


class Rates(nn.Module):
    """Rates that a network gives."""

    def __init__(self, size):
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.rand(size * (size - 1))) for _ in range(2))

    def forward(self, t):
        return transform_to(rate_matrix)(self.first + t[:, None] * self.second)


class Leap(dd.terms.CountJump):
    """Two units arrive together."""

    arg_constraints = {"rate": constraints.positive}

    def __init__(self, rate):
        super().__init__()
        declare(self, "rate", rate)

    def out(self, x):
        return (x + 2)[..., None], self.rate.expand(x.shape)[..., None]

    def into(self, x):
        return (x - 2)[..., None], torch.where(x > 1, self.rate, 0.0)[..., None]


def walk(process, steps=5, rate=0.4):
    """An optimiser's steps in some direction."""
    optimiser = torch.optim.Adam(process.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.stack(
            [(torch.randn(p.shape) * p).sum() for p in process.parameters()]
        ).sum().backward()
        optimiser.step()


def declared(process):
    """The declared numbers, learned or not."""
    for prefix, module in process.named_modules():
        for name in module.__dict__.get("_declared", ()):
            yield f"{prefix}.{name}", getattr(module, name).detach().clone()


@pytest.mark.parametrize("name", LEARNED)
def test_learn_keeps_values_and_structure(name):
    build, states, count = LEARNED[name]
    process = build()
    before, text = dict(declared(process)), repr(process)
    old = [law.detach() for law in laws_of(process, states)]
    assert dd.learn(process) is process
    assert sum(p.numel() for p in process.parameters() if p.requires_grad) == count
    assert repr(process) == text
    for key, value in declared(process):
        torch.testing.assert_close(value, before[key], rtol=1e-15, atol=0)
    new = [law.detach() for law in laws_of(process, states)]
    torch.testing.assert_close(new, old, rtol=1e-12, atol=1e-12)
    dd.learn(process)  # a second call finds nothing to do
    assert sum(p.numel() for p in process.parameters()) == count


@pytest.mark.parametrize("name", LEARNED)
def test_constraints_hold_after_steps(name):
    process = dd.learn(LEARNED[name][0]())
    before = dict(declared(process))
    walk(process)
    moved = dict(declared(process))
    assert all(torch.equal(before[k] == 0, moved[k] == 0) for k in moved)
    assert all(torch.equal(before[k].sign(), moved[k].sign()) for k in moved)
    for module in process.modules():
        if isinstance(module, dd.RateMatrix) and module.function is None:
            torch.testing.assert_close(module.Q.sum(1), torch.zeros(3), rtol=0, atol=1e-14)
        if isinstance(module, dd.Replace):
            assert float(module.pi.detach().sum()) == pytest.approx(1, abs=1e-14)
        if isinstance(module, dd.Clock):
            u = module(torch.linspace(0, 0.999, 200)).detach()
            assert float(u[0]) == 0 and bool((u.diff() > 0).all())


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("grad", [True, False])
def test_engines_follow_the_numbers(name, grad):
    """What a learned process says after some steps is what a new one with these numbers says."""
    build, states, _ = LEARNED[name]
    process = build()
    list(laws_of(process, states))  # an engine was planned before the numbers are learned
    dd.learn(process)
    fresh = dd.learn(build())
    with torch.set_grad_enabled(grad):
        list(laws_of(process, states))  # and tables, with and without a graph
        with torch.enable_grad():
            walk(process, steps=8)
        fresh.load_state_dict(process.state_dict())
        for mine, its in zip(laws_of(process, states), laws_of(fresh, states), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


def test_slower_rates_get_their_squarings():
    chain = dd.learn(dd.RateMatrix(Q3))
    chain.limit((1,))
    slow = torch.tensor(Q3) * numbers(1.0, 1e-6, 1e-6)[:, None]
    chain.Q = slow
    x, tau = torch.arange(3), numbers(1e5, 1e6, 1e7)
    expected = torch.linalg.matrix_exp(slow * tau[:, None, None])[torch.arange(3), x]
    torch.testing.assert_close(
        chain.transition(x, 0.0, tau).probs, expected, rtol=1e-7, atol=1e-12
    )
    balance = chain.limit((1,)).probs @ slow
    torch.testing.assert_close(balance, torch.zeros(1, 3), rtol=0, atol=1e-12)


def test_the_limit_follows():
    process = dd.learn(dd.Linear(-0.5) + dd.Noise(1.0))
    process.terms[0].A = numbers(-2.0)[0]
    assert float(process.limit((1,)).variance.detach()) == pytest.approx(0.25)
    chain = dd.learn(dd.RateMatrix([[-1.0, 1.0], [2.0, -2.0]]))
    chain.Q = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    torch.testing.assert_close(chain.limit((1,)).probs, torch.full((1, 2), 0.5))


def test_a_learned_law_is_drawn_from():
    """A chi² statistic with 2 degrees of freedom; it exceeds 28 in one seed out of a million."""
    process = dd.learn(dd.Replace([1 / 3] * 3))
    process.engine.draw((1,), torch.device("cpu"))
    process.pi = numbers(0.7, 0.2, 0.1)
    with torch.no_grad():
        drawn = process.limit((30_000,)).sample()
    expected = 30_000 * numbers(0.7, 0.2, 0.1)
    assert float(((drawn.bincount(minlength=3) - expected) ** 2 / expected).sum()) < 28


def test_state_dict_changes_the_engine():
    process, other = dd.RateMatrix(Q3), dd.RateMatrix(SPARSE)
    x = torch.arange(3)
    process.transition(x, 0.0, 1.0)
    process.load_state_dict(other.state_dict())
    found, expected = (p.transition(x, 0.0, 1.0).probs for p in (process, other))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["factor", "VP", "sum"])
def test_copies_and_casts(name):
    build, states, _ = LEARNED[name]
    process = dd.learn(build())
    list(laws_of(process, states))
    twin = copy.deepcopy(process)
    walk(process)
    old, new = ([law.detach() for law in laws_of(p, states)] for p in (dd.learn(build()), process))
    torch.testing.assert_close([law.detach() for law in laws_of(twin, states)], old)
    assert all(float((a - b).abs()) > 1e-3 for a, b in zip(old, new, strict=True))
    assert all(p.dtype == F64 for p in process.half().parameters())
    assert all(p.dtype == F64 for p in process.to(torch.float32).parameters())


def test_what_is_not_learned():
    assert not list(dd.learn(mask()).parameters())
    assert not list(dd.learn(dd.Death()).parameters())
    assert not list(dd.learn(dd.RateMatrix(torch.zeros(2, 2))).parameters())
    assert not list(dd.learn(dd.Linear(0.0)).parameters())
    clock = dd.clock.Learned(dd.clock.Constant(3.0), 4)
    assert [name for name, _ in dd.learn(clock).named_parameters()] == ["logits"]
    process = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 9.0))
    dd.learn(process.clock)
    assert [name.split(".")[0] for name, _ in process.named_parameters()] == ["clock", "clock"]


def test_scaled_after_learning():
    chain = dd.learn(dd.RateMatrix(Q3))
    torch.testing.assert_close((2.0 * chain).matrix(), 2.0 * torch.tensor(Q3))
    with pytest.raises(ValueError, match="scale first"):
        2.0 * dd.learn(3.0 * dd.RateMatrix(Q3))


def test_bad_values_are_refused():
    chain = dd.learn(dd.RateMatrix(Q3))
    with pytest.raises(ValueError, match="rate_matrix"):
        chain.Q = torch.eye(3)
    with pytest.raises(ValueError, match="rate_matrix"):
        chain.Q = torch.tensor(SPARSE)  # a zero where there was none
    with pytest.raises(ValueError, match="Q of RateMatrix requires grad already"):
        dd.learn(dd.RateMatrix(torch.tensor(Q3, requires_grad=True)))
    half = dd.RateMatrix(Q3) + dd.RateMatrix(torch.tensor(Q3, requires_grad=True))
    with pytest.raises(ValueError, match="requires grad already"):
        dd.learn(half)
    assert not list(half.parameters())  # and nothing was changed
    wrong = Leap(0.0)
    with pytest.raises(ValueError, match="rate must be"):
        dd.learn(wrong)
    declare(wrong, "keys", 1.0)
    wrong.rate += 1
    with pytest.raises(ValueError, match="'keys'"):
        dd.learn(wrong)
    with pytest.raises(ValueError, match=r"Q must .* learn"):
        dd.RateMatrix(nn.Parameter(torch.tensor(Q3)))
    with pytest.raises(ValueError, match=r"pi must .* learn"):
        dd.Replace(nn.Parameter(torch.full((3,), 1 / 3)))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31))
def test_rate_matrices_and_free_reals(size, seed):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(3, size * (size - 1), generator=generator, dtype=F64)
    transform = transform_to(rate_matrix)
    assert biject_to(rate_matrix).bijective
    Q = transform(u)
    assert Q.shape == transform.forward_shape(u.shape) == (3, size, size)
    assert transform.inverse_shape(Q.shape) == u.shape
    assert bool(rate_matrix.check(Q).all())
    torch.testing.assert_close(transform.inv(Q), u, rtol=1e-12, atol=1e-12)
    jacobian = transform.log_abs_det_jacobian(u, Q)
    torch.testing.assert_close(jacobian, transform.inv(Q).exp().log().sum(-1))
    keep = torch.rand(size, size, generator=generator, dtype=F64) < 0.5
    one = torch.where(keep, Q[0], 0.0)
    one = one - one.sum(1).diag() + (one.diagonal() - one.diagonal()).diag()
    one = one - (one.sum(1)).diag()
    at = rate_matrix.at(one)
    if at is not None:
        sparse = transform_to(at)
        torch.testing.assert_close(sparse(sparse.inv(one)), one, rtol=1e-12, atol=1e-12)


def test_increasing_and_probabilities():
    v = numbers(0.0, 0.5, 4.0)
    transform = transform_to(increasing)
    torch.testing.assert_close(transform(transform.inv(v)), v)
    assert bool(increasing.check(v)) and not bool(increasing.check(v.flip(0)))
    assert transform.inverse_shape(v.shape) == (2,) and transform.forward_shape((2,)) == v.shape
    assert probabilities.at(dd.one_hot(0, 3)) is None


# -- gradients of losses: what a draw of a discrete state hides -----------------------------------


class Table(nn.Module):
    """A fixed network: a table of outputs per state, a little different at every time."""

    def __init__(self, states, outputs):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("table", torch.randn(states, outputs, generator=generator, dtype=F64))

    def forward(self, x, t):
        return self.table[x.long()] * (1 + t).reshape((-1,) + (1,) * x.dim())


class Few(nn.Module):
    def __init__(self, states):
        super().__init__()
        self.inner = Table(states, 1)

    def forward(self, x, t):
        return self.inner(x, t).squeeze(-1)


DISCRETE = {
    "rates": (
        lambda: dd.RateMatrix(Q3).on(dd.clock.Constant(1.5)),
        lambda: dd.heads.Posterior(Table(3, 3)),
        torch.tensor([0]),
        torch.arange(3),
    ),
    "mask": (
        lambda: mask().on(dd.clock.Logistic(2.0)),
        lambda: dd.heads.Posterior(Table(3, 3), absent=2),
        torch.tensor([1]),
        torch.arange(3),
    ),
    "pi": (
        lambda: dd.Replace([0.2, 0.5, 0.3]).on(dd.clock.Constant(1.5)),
        lambda: dd.heads.LeaveOneOut(Table(3, 3)),
        torch.tensor([2]),
        torch.arange(3),
    ),
    "blackout": (
        lambda: dd.Death().on(dd.clock.Logistic(2.0)),
        lambda: dd.heads.Missing(Few(6)),
        numbers(5.0),
        torch.arange(6.0, dtype=F64),
    ),
}


UNREACHED = [[-1.0, 0.7, 0.3, 0], [0.4, -0.4, 0, 0], [0, 0.2, -0.2, 0], [1, 1, 1, -3]]
ENUMERATED = DISCRETE | {
    "rates with zeros": (
        lambda: dd.RateMatrix(UNREACHED).on(dd.clock.Constant(1.5)),
        lambda: dd.heads.LeaveOneOut(Table(4, 4)),
        torch.tensor([0]),
        torch.arange(4),
    ),
    "pi with a zero": (
        lambda: dd.Replace([0.3, 0.7, 0.0]).on(dd.clock.Constant(1.5)),
        lambda: dd.heads.Posterior(Table(3, 3)),
        torch.tensor([2]),
        torch.arange(3),
    ),
    "sum": (
        lambda: (0.5 * mask() + 2.0 * dd.Replace([0.2, 0.5, 0.3])).on(dd.clock.Constant(0.5)),
        lambda: dd.heads.Posterior(Table(3, 3)),
        torch.tensor([1]),
        torch.arange(3),
    ),
    "ratios": (
        lambda: dd.RateMatrix(Q3).on(dd.clock.Geometric(0.5, 2.0)),
        lambda: dd.heads.Ratio(Table(3, 3)),
        torch.tensor([0]),
        torch.arange(3),
    ),
    "turnover": (
        lambda: (1.5 * dd.Death() + dd.Immigration(0.8)).on(dd.clock.Linear(0.4, 2.0)),
        lambda: dd.heads.Turnover(Table(40, 2)),
        numbers(4.0),
        torch.arange(40.0, dtype=F64),
    ),
    "posterior of a count": (
        lambda: (0.3 * dd.Birth() + 1.5 * dd.Death()).on(dd.clock.Constant(0.7)),
        lambda: dd.heads.Posterior(Table(40, 6)),
        numbers(4.0),
        torch.arange(40.0, dtype=F64),
    ),
    "Ehrenfest": (
        lambda: dd.Ehrenfest(6, 0.5, 1.5).on(dd.clock.Constant(0.7)),
        lambda: dd.heads.Ratio(Table(7, 2)),
        numbers(4.0),
        torch.arange(7.0, dtype=F64),
    ),
    "reals": (
        lambda: (dd.Linear(-0.5, 0.3) + dd.Noise(1.2)).on(dd.clock.Linear(0.4, 2.0)),
        lambda: dd.heads.Mean(lambda x, t: 0.3 * x),
        numbers(0.5),
        numbers(-1.0, 0.2, 1.4),
    ),
}


def flat(grads):
    return torch.cat([g.reshape(-1) for g in grads])


def gradient(process, value):
    return flat(torch.autograd.grad(value, list(process.parameters())))


def exact_loss(process, head, x_0, states, t):
    """The mean of the loss over x_t, state by state that can be reached."""
    reached = process.marginal(x_0.expand(len(states)), t).log_prob(states) > -torch.inf
    states = states[reached]
    first = x_0.expand(len(states))
    law = process.marginal(first, t)
    return (law.log_prob(states).exp() * dd.loss(process, head, first, t, x_t=states)).sum()


@pytest.mark.parametrize("name", ENUMERATED)
def test_gradients_of_the_mean_loss_equal_central_differences(name):
    build, head, x_0, states = ENUMERATED[name]
    process, head, h = dd.learn(build()), head(), 1e-5
    found = gradient(process, exact_loss(process, head, x_0, states, 0.4))
    differences = []
    for p in process.parameters():
        for i in range(p.numel()):
            value = p.detach().view(-1)
            sides = []
            for sign in (1, -2, 1):
                value[i] += sign * h
                sides.append(float(exact_loss(process, head, x_0, states, 0.4).detach()))
            differences.append((sides[0] - sides[1]) / (2 * h))
    torch.testing.assert_close(found, numbers(*differences), rtol=1e-6, atol=1e-6)


def scores(samples, exact):
    """Standard scores of the mean of independent gradients."""
    return (samples.mean(0) - exact) / (samples.std(0) / math.sqrt(len(samples)))


@pytest.mark.parametrize("name", DISCRETE)
def test_the_gradient_of_the_loss_is_unbiased(name):
    """60 independent means: |score| > 5 for one of 6 numbers has a chance of 3e-5 (Student)."""
    build, head, x_0, states = DISCRETE[name]
    process, head, t, many = dd.learn(build()), head(), 0.4, x_0.expand(600)
    exact = gradient(process, exact_loss(process, head, x_0, states, t))
    assert float(exact.abs().max()) > 1e-2
    found, naive = [], []
    for _ in range(60):
        found.append(gradient(process, dd.loss(process, head, many, t).mean()))
        x_t = process.marginal(many, t).sample()
        naive.append(gradient(process, dd.loss(process, head, many, t, x_t=x_t).mean()))
    unbiased = scores(torch.stack(found), exact)
    moving = torch.stack(found).std(0) > 1e-12
    assert bool((unbiased[moving].abs() < 5).all())
    # What autograd alone sees at given states is another number.
    assert float(scores(torch.stack(naive), exact)[moving].abs().max()) > 20


def test_the_score_term_has_value_zero():
    build, head, x_0, _ = DISCRETE["rates"]
    process, head = build(), head()
    torch.manual_seed(3)
    plain = dd.loss(process, head, x_0.expand(50), 0.4)
    torch.manual_seed(3)
    torch.testing.assert_close(dd.loss(dd.learn(process), head, x_0.expand(50), 0.4), plain)


def test_gaussian_states_carry_the_gradient():
    """E‖ε̂ − ε‖² of a linear head has a closed form; scores as above."""
    process = dd.learn((dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Constant(1.5)))
    head = dd.heads.Mean(lambda x, t: 0.3 * x)
    x_0, t = numbers(0.8)[:, None], numbers(0.4)
    drift, noise = process.process.terms
    tau = 0.4 * process.clock.speed
    phi, v = (drift.A * tau).exp(), noise.B**2 * torch.expm1(2 * drift.A * tau) / (2 * drift.A)
    # x̂_0 − x_0 has mean (0.3 φ − 1) x_0 and variance 0.09 v; ε̂ − ε is φ / √v times it.
    square = ((0.3 * phi - 1) * 0.8) ** 2 + 0.09 * v
    exact = gradient(process, process.clock.speed * noise.B**2 / (2 * v) * phi**2 / v * square)
    found = [
        gradient(process, dd.loss(process, head, x_0.expand(600, 1), t[0]).mean())
        for _ in range(60)
    ]
    assert bool((scores(torch.stack(found), exact).abs() < 5).all())


class Both(nn.Module):
    """A network whose every output depends on every column."""

    def forward(self, x, t):
        logits = torch.stack([0.3 * x["real"], 0 * t, -0.5 * x["real"]], -1)
        return {
            "real": 0.3 * x["real"] + 0.4 * x["kind"],
            "kind": logits + 0.2 * x["kind"][:, None],
        }


def test_the_gradient_of_a_table_is_unbiased():
    """Reals carry the gradient, categories hide it; the exact mean is a sum over a grid."""
    real = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Constant(1.5))
    process = dd.learn(dd.Product(real=real, kind=dd.RateMatrix(Q3).on(dd.clock.Constant(1.5))))
    head = dd.heads.Product(Both(), real=dd.heads.Mean, kind=dd.heads.LeaveOneOut)
    width = 16 / 400
    grid = torch.cartesian_prod(torch.linspace(-8, 8, 401), torch.arange(3.0))
    states = {"real": grid[:, 0], "kind": grid[:, 1].long()}
    data = {"real": numbers(0.8), "kind": torch.tensor([0])}
    first = {k: v.expand(len(grid)) for k, v in data.items()}
    density = process.marginal(first, 0.4).log_prob(states).exp() * width
    exact = gradient(process, (density * dd.loss(process, head, first, 0.4, x_t=states)).sum())
    # A batch of different data: a baseline then differs from the mean at each.
    mixed = {k: torch.cat([v.expand(300), (v + 1).expand(300)]) for k, v in data.items()}
    found = [gradient(process, dd.loss(process, head, mixed, 0.4)[:300].mean()) for _ in range(60)]
    assert bool((scores(torch.stack(found), exact).abs() < 5).all())


def exact_bound(process, head, x_0, states, times):
    """The finite-step bound by enumeration of every state."""
    first, stepper = x_0.expand(len(states)), dd.steppers.Ancestral()
    total = prior_kl(process, x_0).sum()
    for s, t in zip([0.0, *times[:-1]], times, strict=True):
        full = torch.full((len(states),), t)
        weight = process.marginal(first, t).log_prob(states).exp()
        model = stepper.law(process, head(states, full), states, full, full * 0 + s)
        bridge = process.bridge(first, states, s, t)
        if s > 0:
            every = states[:, None].expand(-1, len(states))
            log_q, log_p = (
                torch.stack([law.log_prob(x) for x in every]) for law in (bridge, model)
            )
            none = log_q == -torch.inf
            gap = (log_q.exp() * torch.where(none, 0.0, log_q - log_p)).sum(0)
        else:
            gap = -model.log_prob(first)
        total = total + torch.where(weight > 0, weight * gap, 0.0).sum()
    return total


def test_the_gradient_of_the_finite_bound_is_unbiased():
    build, head, x_0, states = DISCRETE["rates"]
    process, head = dd.learn(build()), head()
    times, many = numbers(0.3, 1.0), x_0.expand(600)
    exact = exact_bound(process, head, x_0, states, [0.3, 1.0])
    values = [dd.vlb(process, head, many, times).nats.mean() for _ in range(60)]
    found = torch.stack([gradient(process, value) for value in values])
    assert bool((scores(found, gradient(process, exact)).abs() < 5).all())
    value = torch.stack(values).detach()[:, None]
    assert float(scores(value, exact.detach()).abs()) < 5


def test_the_gradient_of_the_path_kl_is_unbiased():
    build, head, x_0, states = DISCRETE["rates"]
    process, head = dd.learn(build()), head()
    t, w = gauss_legendre(48, 0.1, 1.0)
    rate = torch.stack([exact_loss(process, head, x_0, states, at) for at in t])
    exact = prior_kl(process, x_0).sum() + (w * rate).sum()
    values = [dd.path_kl(process, head, x_0.expand(600), stop=0.1).mean() for _ in range(60)]
    found = torch.stack([gradient(process, value) for value in values])
    assert bool((scores(found, gradient(process, exact)).abs() < 5).all())
    assert float(scores(torch.stack(values).detach()[:, None], exact.detach()).abs()) < 5


# -- fits -----------------------------------------------------------------------------------------


def fit(process, log_likelihood):
    """The most likely numbers."""
    optimiser = torch.optim.LBFGS(process.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = -log_likelihood(process)
        value.backward()
        return value

    optimiser.step(closure)
    return process


def standard_errors(log_likelihood, values):
    """From the observed information at the most likely numbers."""
    information = -torch.autograd.functional.hessian(log_likelihood, values)
    return information.inverse().diagonal().sqrt()


def test_a_fit_recovers_rates():
    """Six numbers within 5 standard errors: fails for one seed in 3e5."""
    truth, x = dd.RateMatrix(Q3), torch.randint(3, (4000,))
    tau = torch.rand(4000) * 3
    y = truth.transition(x, 0.0, tau).sample()

    def log_likelihood(process):
        return process.transition(x, 0.0, tau).log_prob(y).mean()

    chain = fit(dd.learn(dd.RateMatrix(torch.ones(3, 3) - 3 * torch.eye(3))), log_likelihood)
    off = ~torch.eye(3, dtype=torch.bool)
    found = chain.Q.detach()[off]
    error = standard_errors(lambda v: 4000 * log_likelihood(dd.RateMatrix(rates(v))), found)
    assert bool(((found - torch.tensor(Q3)[off]).abs() < 5 * error).all())
    assert float(error.max()) < 0.15


def test_a_fit_recovers_a_clock():
    """Two numbers within 5 standard errors: fails for one seed in 9e5."""
    build = lambda b0, b1: VP.on(dd.clock.Linear(b0, b1))
    x, t = torch.randn(4000, 1), torch.rand(4000)
    y = build(0.5, 4.0).marginal(x, t).sample()

    def log_likelihood(process):
        return process.marginal(x, t).log_prob(y).mean()

    process = build(1.0, 1.0)
    dd.learn(process.clock)
    fit(process, log_likelihood)
    found = torch.stack([process.clock.b0, process.clock.b1]).detach()
    error = standard_errors(lambda v: 4000 * log_likelihood(build(v[0], v[1])), found)
    assert bool(((found - numbers(0.5, 4.0)).abs() < 5 * error).all())
    assert float(error.max()) < 0.4


def test_a_copy_of_a_process_whose_numbers_are_functions_of_others():
    theta = torch.tensor([0.5, 2.0], requires_grad=True)
    rate, pi = theta.exp()[0], theta.softmax(0)
    process = dd.Product(n=rate * dd.Death(), job=dd.Replace(pi)).on(dd.clock.Constant(theta[1]))
    x = {"n": torch.tensor([3.0]), "job": torch.tensor([0])}
    process.marginal(x, 0.5)  # plans engines, which no copy takes along
    clone = copy.deepcopy(process)
    assert clone is not process and clone.parts["n"] is not process.parts["n"]
    y = {"n": torch.tensor([1.0]), "job": torch.tensor([1])}
    grads = [
        torch.autograd.grad(p.marginal(x, 0.5).log_prob(y).sum(), theta, retain_graph=True)[0]
        for p in (process, clone)
    ]
    assert bool(grads[0].ne(0).all()) and torch.equal(*grads)


def test_a_saved_process_says_the_same(tmp_path):
    theta = torch.tensor(2.0, requires_grad=True)
    for process in (theta.exp() * dd.Death(), dd.learn(2.0 * dd.Death())):
        x = torch.tensor([[3.0]])
        clone = copy.deepcopy(process)
        assert torch.equal(clone.marginal(x, 0.5).mean, process.marginal(x, 0.5).mean)
    process = theta.exp() * dd.Death()
    torch.save(process, tmp_path / "process.pt")
    loaded = torch.load(tmp_path / "process.pt", weights_only=False)
    assert torch.equal(loaded.marginal(x, 0.5).mean, process.marginal(x, 0.5).mean)


def test_a_learned_process_is_looked_at_again_when_its_numbers_change():
    process = dd.learn(2.0 * dd.Death()).on(dd.clock.LogLinear())
    x = torch.tensor([[3.0]])
    dd.times(process, x)
    with torch.no_grad():
        next(process.parameters()).fill_(-3.0)
    with pytest.raises(ValueError, match="too slow for its clock"):
        dd.times(process, x)
