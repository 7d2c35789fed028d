"""Products, factors, inverses and laws of small matrices: derivatives against plain ones."""

import math

import pytest
import torch
from torch.distributions import Normal

import discdiff as dd
from discdiff.numerics.constant import Constant, digits
from discdiff.numerics.factors import add_columns, cholesky, lower_inverse, product, triangular

pytestmark = pytest.mark.usefixtures("float64")
SIZES = [1, 2, 3, 4, 5]
BATCH = 3


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def covariances(size):
    C = draw(BATCH, size, 2 * size)
    return C @ C.mT / size


def symmetric(function):
    """The function of the symmetric part: derivatives of functions of covariances are that."""
    return lambda S, *others: function((S + S.mT) / 2, *others)


CASES = {
    "product": lambda k: (product, (draw(BATCH, k, k), draw(BATCH, k, 2, seed=1))),
    "product of one and many": lambda k: (product, (draw(k, k), draw(BATCH, k, k, seed=1))),
    "cholesky": lambda k: (symmetric(cholesky), (covariances(k),)),
    "add_columns": lambda k: (
        lambda L, C: add_columns(L.tril(), C),
        (torch.linalg.cholesky(covariances(k)), draw(BATCH, k, 2, seed=2)),
    ),
    "triangular": lambda k: (triangular, (draw(BATCH, k, k + 1, seed=3),)),
    "inverse": lambda k: (lambda L: lower_inverse(L.tril()), (covariances(k),)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_derivatives_of_both_orders(name, size):
    function, values = CASES[name](size)
    inputs = [v.clone().requires_grad_(True) for v in values]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("size", SIZES)
def test_derivatives_are_those_of_the_plain_factor(size):
    """By autograd through LAPACK, also under `torch.func`."""
    S, C = covariances(size), draw(BATCH, size, 2, seed=4)

    def plain(S, C):
        return torch.linalg.cholesky(S + C @ C.mT).sin().sum()

    def ours(S, C):
        return add_columns(cholesky(S), C).sin().sum()

    goal = torch.func.grad(plain, argnums=(0, 1))(S, C)
    for found, wanted in zip(torch.func.grad(ours, argnums=(0, 1))(S, C), goal, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    each = torch.func.vmap(torch.func.grad(ours, argnums=(0, 1)))(S, C)
    for found, wanted in zip(each, goal, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_derivatives_of_singular_factors_are_finite():
    S = torch.zeros(2, 2, 2, requires_grad=True)
    C = torch.tensor([[[0.0], [0.3]]]).expand(2, 2, 1).clone().requires_grad_(True)
    for L in (cholesky(S), add_columns(cholesky(S), C)):
        slopes = torch.autograd.grad(L.sum(), (S, C), allow_unused=True)
        assert all(bool(v.isfinite().all()) for v in slopes if v is not None)
    (slope,) = torch.autograd.grad(add_columns(cholesky(S), C)[:, 1, 1].sum(), C)
    assert slope.flatten().tolist() == [0.0, 1.0, 0.0, 1.0]


def test_entries_that_a_triangle_lacks_have_no_derivative():
    """Also where the derivative by them is no number, as that of a logarithm at zero."""
    S = covariances(3).requires_grad_(True)
    for function in (cholesky, lambda S: lower_inverse(cholesky(S))):
        (slope,) = torch.autograd.grad(function(S).abs().log().nan_to_num(neginf=0.0).sum(), S)
        assert bool(slope.isfinite().all())


@pytest.mark.parametrize("name", CASES)
def test_batches_may_have_sides_or_none(name):
    function, values = CASES[name](3)
    if name == "product of one and many":
        values = [v.expand(BATCH, 3, 3) for v in values]
    many = function(*values)
    for n in range(BATCH):
        torch.testing.assert_close(function(*(v[n] for v in values)), many[n], rtol=0, atol=0)
    sides = [v.unsqueeze(1).expand(BATCH, 2, *v.shape[1:]) for v in values]
    torch.testing.assert_close(function(*sides)[:, 1], many, rtol=0, atol=0)


# -- laws over many times -------------------------------------------------------------------------


def system(size):
    A = draw(size, size, seed=5) - 3 * torch.eye(size)
    B = draw(size, size, seed=6).tril()
    return A, draw(size, seed=7), B @ B.mT, draw(size, 1, seed=8)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(256,), (2, 2, 256)])
def test_laws_have_derivatives_of_both_orders(size, sizes):
    """By numbers, times and the start, with one digit and with three."""
    tau = torch.tensor([0.02, 0.9])

    def law(A, b, G, start, tau):
        flow, factor = Constant(A, b, (G + G.mT) / 2, True, sizes).law(tau, start)
        return (*flow, factor)

    inputs = [v.clone().requires_grad_(True) for v in (*system(size), tau)]
    assert torch.autograd.gradcheck(law, inputs, eps=1e-7, atol=1e-5)
    assert torch.autograd.gradgradcheck(law, inputs, eps=1e-7, atol=1e-3, rtol=1e-3)


def test_laws_do_not_depend_on_the_digits():
    A, b, G, start = system(3)
    tau = torch.tensor([0.0, 1e-3, 0.4, 2.0, 11.0])
    goal, goal_factor = Constant(A, b, G, True, (1024,)).law(tau, start)
    for sizes in ((256, 64), (2, 2, 4, 64), (64, 64, 64)):
        flow, factor = Constant(A, b, G, True, sizes).law(tau, start)
        for found, wanted in zip((*flow, factor), (*goal, goal_factor), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-14)
    carried = goal.phi @ start
    both = goal.cov + carried @ carried.mT
    torch.testing.assert_close(goal_factor @ goal_factor.mT, both, rtol=1e-12, atol=1e-14)


def test_tables_grow_as_far_as_times_reach():
    """Derivatives too: by a table that was asked twice, for a short time and then a long one."""
    A, b, G, _ = system(2)

    def value(A):
        flows = Constant(A, b, G, True, digits(A, True, 1))
        return flows(torch.tensor([0.01])).cov + flows(torch.tensor([5.0, math.inf])).cov

    assert torch.autograd.gradcheck(value, [A.clone().requires_grad_(True)])


# -- kernels of a training step -------------------------------------------------------------------


def damped(variance):
    Q, D = [[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]
    process = dd.Langevin(Q, D, torch.eye(2)).on(dd.clock.Linear(0.1, 10.0))
    return process.lift(Normal(0.0, variance**0.5))


def kernels(process, t):
    """Of a batch of times and then of the end, as a training step asks for them."""
    laws = [process.marginal(torch.ones(len(t)), time) for time in (t, 1.0)]
    return [v for law in laws for v in (law.loc, law.factor)]


def test_the_end_that_is_found_with_a_batch_is_the_end():
    """Step after step, while the numbers change; against a process that was never asked before."""
    t = torch.tensor([0.01, 0.3, 0.99])
    process = damped(0.04)
    dd.learn(process.process)
    optimiser = torch.optim.SGD(process.parameters(), 1e-2)
    for _ in range(4):
        fresh = damped(0.04)
        dd.learn(fresh.process).load_state_dict(process.process.state_dict())
        pair = [kernels(p, t) for p in (process, fresh)]
        for found, wanted in zip(*pair, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-15)
        slopes = []
        for p, values in zip((process, fresh), pair, strict=True):
            p.zero_grad()
            sum(v.square().sum() for v in values).backward()
            slopes.append([v.grad for v in p.parameters() if v.grad is not None])
        for found, wanted in zip(*slopes, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
        optimiser.step()


def test_kept_kernels_know_their_auxiliaries_and_their_mode():
    """Two lifts of one process, in inference mode and out of it, and a number that is assigned."""
    first, second = damped(0.04), damped(0.25)
    core = first.process
    other = core.lift(Normal(0.0, 0.5))
    with torch.inference_mode():
        first.marginal(torch.ones(2), 0.1)
    x = torch.ones(2, requires_grad=True)
    for process, goal in ((first, damped(0.04)), (other, second), (first, damped(0.04))):
        law = process.marginal(x, 0.1)
        torch.testing.assert_close(law.factor, goal.marginal(x, 0.1).factor, rtol=0, atol=0)
        law.log_prob(torch.zeros(2, 2)).sum().backward()
    first.std.fill_(0.5)
    goal = other.marginal(x, 0.1).factor
    torch.testing.assert_close(first.marginal(x, 0.1).factor, goal, rtol=0, atol=0)
