"""Reactions: which ones are independent particles, and what becomes of the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

import discdiff as dd
from discdiff.simulate import _gillespie

F64 = torch.float64


def numbers(*values):
    return torch.tensor(values, dtype=F64)


def engine(process):
    return type(process.engine).__name__


def death_law(rate, last, tau):
    """P(τ) of deaths at any rate on 0 … last, by another method."""
    Q = np.zeros((last + 1, last + 1))
    for n in range(1, last + 1):
        Q[n, n - 1], Q[n, n] = rate(n), -rate(n)
    return scipy.linalg.expm(tau * Q)


# -- which reactions are independent particles ----------------------------------------------------


def test_constant_rates_are_declared_by_numbers():
    turn, die, come = (
        dd.Reaction([-1, 1], 2.0),
        dd.Reaction([0, -1], 0.5),
        dd.Reaction([1, 0], 3.0),
    )
    assert engine(turn + die + come) == "Particles"
    x = numbers(3, 4).unsqueeze(0)
    assert [float(term.propensity(x)) for term in (turn, die, come)] == [6.0, 2.0, 3.0]
    assert float(turn.propensity(numbers(0, 4).unsqueeze(0))) == 0
    for change in ([-2, 0], [-1, -1], [2, 0], [-1, 2], [1, 1]):
        assert engine(turn + dd.Reaction(change, 1.0)) == "Truncated"
    assert engine(turn + dd.Reaction([0, -1], lambda n: 0.5 * n[..., 1])) == "Truncated"


def test_mass_action_counts_the_choices_of_units():
    n = numbers(0, 1, 2, 5)
    pairs = dd.Reaction([-2], 0.5).propensity(n.unsqueeze(-1))
    assert pairs.tolist() == [0, 0, 0.5, 5.0]
    triples = dd.Reaction([-3], 1.0).propensity(n.unsqueeze(-1))
    assert triples.tolist() == [0, 0, 0, 10]
    meet = dd.Reaction([-1, -1, 1], 2.0)
    assert meet.propensity(numbers(3, 4, 9).unsqueeze(0)).tolist() == [24]
    x = numbers(6).unsqueeze(0)
    y = numbers(4).unsqueeze(0)
    own = dd.Reaction([-2], lambda n: 0.5 * n[..., 0] * (n[..., 0] - 1) / 2)
    other = dd.Reaction([-2], lambda n: 0.5 * n[..., 0] * (n[..., 0] - 1))
    law = dd.Reaction([-2], 0.5).transition(x, 0.0, 0.3).log_prob(y)
    assert torch.allclose(law, own.transition(x, 0.0, 0.3).log_prob(y), rtol=1e-12)
    assert not torch.allclose(law, other.transition(x, 0.0, 0.3).log_prob(y), rtol=1e-2)


def test_numbers_and_functions_give_one_law():
    def network(declared):
        turn = 2.0 if declared else lambda n: 2.0 * n[..., 0]
        die = 0.5 if declared else lambda n: 0.5 * n[..., 1]
        return dd.Reaction([-1, 1], turn) + dd.Reaction([0, -1], die)

    closed, truncated = network(True), network(False)
    assert (engine(closed), engine(truncated)) == ("Particles", "Truncated")
    x = numbers(3, 2).expand(36, 2)
    y = torch.cartesian_prod(torch.arange(6.0, dtype=F64), torch.arange(6.0, dtype=F64))
    a, b = (p.transition(x, 0.0, 0.7).log_prob(y).exp() for p in (closed, truncated))
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-15)
    slower = (0.9 * closed.terms[0] + closed.terms[1]).transition(x, 0.0, 0.7).log_prob(y).exp()
    assert not torch.allclose(slower, b, rtol=1e-2)


@pytest.mark.parametrize("servers", [50, 8])
def test_a_queue_with_so_many_servers_is_no_crowd_of_particles(servers):
    """Its rates are those of particles up to the number of servers, and no further."""
    queue = dd.Reaction([-1], lambda n: n[..., 0].clamp(max=servers))
    assert engine(queue) == "Truncated"
    y = torch.arange(101.0, dtype=F64).reshape(-1, 1, 1)
    law = queue.transition(numbers(100).unsqueeze(0), 0.0, 1.0).log_prob(y).exp().flatten()
    truth = death_law(lambda n: min(n, servers), 100, 1.0)[100]
    assert np.allclose(law, truth, rtol=1e-8, atol=1e-13)
    assert not np.allclose(law, death_law(lambda n: n, 100, 1.0)[100], atol=1e-3)
    assert float((law * y.flatten()).sum()) > 100 - servers - 1e-6


def test_a_catalyst_that_is_absent_catalyses_nothing():
    turn = dd.Reaction([-1, 0], lambda n: n[..., 0] * (n[..., 1] > 0))
    fade = dd.Reaction([0, -1], lambda n: n[..., 1])
    x = numbers(5, 0).unsqueeze(0)
    law = (turn + fade).transition(x, 0.0, 1.0)
    assert float(law.log_prob(x)) == 0
    free = dd.Reaction([-1, 0], 1.0) + dd.Reaction([0, -1], 1.0)
    assert float(free.transition(x, 0.0, 1.0).log_prob(x)) == pytest.approx(-5.0)


def test_arrivals_that_stop_at_a_limit_stop_there():
    def network(arrive):
        return dd.Reaction([1], arrive) + dd.Reaction([-1], lambda n: 0.01 * n[..., 0])

    x = numbers(59).unsqueeze(0)
    above = torch.arange(61.0, 64.0, dtype=F64).reshape(-1, 1, 1)
    closed = network(lambda n: 5.0 * (n[..., 0] < 60))
    law = closed.transition(x, 0.0, 1.0)
    assert bool((law.log_prob(above) == -torch.inf).all())
    at = law.log_prob(torch.arange(61.0, dtype=F64).reshape(-1, 1, 1)).exp().sum()
    assert float(at) == pytest.approx(1.0, abs=1e-9)
    start = torch.full((500, 1), 59.0)
    assert float(dd.simulate(closed, start, [1.0, 20.0]).max()) == 60
    opened = dd.Reaction([1], 5.0) + dd.Reaction([-1], 0.01)
    assert float(opened.transition(x, 0.0, 1.0).log_prob(above).exp().sum()) > 0.1
    assert float(dd.simulate(opened, start, [1.0, 20.0]).max()) > 60


def test_functions_of_many_units_are_refused_before_a_space_is_made():
    x = torch.tensor([[5000.0]])
    with pytest.raises(dd.Unsolved, match="more than 4096 states.*declare their rates as numbers"):
        dd.Reaction([-1], lambda n: n[..., 0]).transition(x, 0.0, 1.0)
    assert float(dd.Reaction([-1], 1.0).transition(x, 0.0, 1.0).mean) == pytest.approx(
        5000 / math.e
    )


# -- rates that are none --------------------------------------------------------------------------


BAD = {
    "negative": lambda n: -n[..., 0],
    "negative from 3 on": lambda n: 2 - n[..., 0],
    "nan": lambda n: n[..., 0] * torch.nan,
    "infinite at 2": lambda n: 1 / (n[..., 0] - 2).abs(),
}


@pytest.mark.parametrize("name", BAD)
def test_a_propensity_that_is_no_rate_is_refused_by_its_state(name):
    x = torch.tensor([[3.0], [2.0], [1.0]])
    rule = r"propensity of .*must be ≥ 0 and finite; at the state \[\d\]"
    bad = dd.Reaction([-1], BAD[name])
    for call in (
        lambda p: p.transition(x, 0.0, 1.0),
        lambda p: p.propensity(x),
        lambda p: p.out(x),
        lambda p: p.into(x),
        lambda p: dd.simulate(p, x, [1.0]),
        lambda p: _gillespie(p.terms, x, torch.ones(3, dtype=F64)),
    ):
        with pytest.raises(ValueError, match=rule):
            call(bad)
        call(dd.Reaction([-1], lambda n: n[..., 0]))


def test_without_checks_the_truncated_space_still_refuses_negative_rates():
    dd.set_validation(False)
    try:
        with pytest.raises(ValueError, match=r"at the state \[3\] one is -1"):
            dd.Reaction([-1], BAD["negative from 3 on"]).transition(numbers(3)[None], 0.0, 1.0)
    finally:
        dd.set_validation(True)


def test_a_function_is_not_judged_where_the_reaction_cannot_occur():
    pair = dd.Reaction([-2], lambda n: n[..., 0] - 1)  # −1 at 0, where no pair is
    assert pair.propensity(numbers(0, 1, 4).unsqueeze(-1)).tolist() == [0, 0, 3]


# -- simulation -----------------------------------------------------------------------------------


def test_jump_by_jump_the_law_is_that_of_the_truncated_space():
    """Also where some units can no longer react while others can."""
    turn = dd.Reaction([-1, 0], lambda n: n[..., 0] * (n[..., 1] > 0))
    fade = dd.Reaction([0, -1], lambda n: n[..., 1])
    process, size = turn + fade, 20000
    x = torch.tensor([[2.0, 1.0]]).expand(size, 2)
    y = _gillespie(process.terms, x, torch.ones(size, dtype=F64))
    law = process.transition(torch.tensor([[2.0, 1.0]]), 0.0, 1.0)
    free = dd.Reaction([-1, 0], 1.0) + dd.Reaction([0, -1], 1.0)
    wrong = free.transition(torch.tensor([[2.0, 1.0]]), 0.0, 1.0)
    apart = 0.0
    for a in range(3):
        for b in range(2):
            at = torch.tensor([[float(a), float(b)]])
            seen = float((y == at).all(-1).double().mean())
            p = float(law.log_prob(at).exp())
            assert abs(seen - p) < 5 * math.sqrt(p * (1 - p) / size)
            apart = max(apart, abs(seen - float(wrong.log_prob(at).exp())))
    assert apart > 0.05
    still = torch.tensor([[5.0, 0.0], [0.0, 0.0], [5.0, 3.0]])
    moved = _gillespie(process.terms, still, torch.full((3,), 100.0, dtype=F64))
    assert torch.equal(moved[:2], still[:2]) and float(moved[2, 1]) == 0


# -- arrivals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", [0.0, 1e-9, 0.3, 5e3, 2e4, 1e8, 1e15])
def test_arrivals_are_exact_however_fast_units_die(death):
    queue = dd.Reaction([1], 1.0) + dd.Reaction([-1], death)
    tau = numbers(0.0, 1e-6, 1.0, 300.0)
    truth = -torch.expm1(-death * tau) / death if death else tau
    mean = queue.engine.arrived(tau)[:, 0]
    assert torch.allclose(mean, truth, rtol=1e-13, atol=0)
    more = dd.Reaction([1], 1.001) + dd.Reaction([-1], death)
    assert not torch.allclose(more.engine.arrived(tau)[:, 0], truth, rtol=1e-4, atol=0)


def test_arrivals_in_a_stiff_network():
    """Against the exponential of the block matrix of Van Loan."""
    A = np.array([[-1.3, 0.8, 0.2], [0.05, -2e4, 3.0], [0.1, 0.0, -0.1]])
    arrive = np.array([0.7, 0.0, 2.0])
    process = None
    for i in range(3):
        row = [(j, A[i, j]) for j in range(3) if j != i and A[i, j]]
        row += [(None, max(0.0, -A[i].sum()))]
        for j, rate in row:
            change = [-int(k == i) + int(k == j) for k in range(3)]
            term = dd.Reaction(change, rate)
            process = term if process is None else process + term
        process = process + dd.Reaction([int(k == i) for k in range(3)], arrive[i])
    block = np.zeros((4, 4))
    block[0, 1:], block[1:, 1:] = arrive, A
    for tau in (1e-3, 1.0):
        truth = scipy.linalg.expm(tau * block)[0, 1:]
        mean = process.engine.arrived(numbers(tau))[0].numpy()
        assert np.allclose(mean, truth, rtol=1e-10, atol=0)
        assert not np.allclose(mean, scipy.linalg.expm(1.001 * tau * block)[0, 1:], rtol=1e-4)


def test_arrivals_up_to_infinity_or_over_too_many_jumps_are_refused():
    queue = dd.Reaction([1], 1.0) + dd.Reaction([-1], 1.0)
    with pytest.raises(dd.Unsolved, match="finite times"):
        queue.engine.arrived(numbers(torch.inf))
    with pytest.raises(dd.Unsolved, match="jumps"):
        queue.engine.arrived(numbers(1e305))
    assert float(queue.engine.arrived(numbers(1e290))) == pytest.approx(1.0, rel=1e-12)


def test_arrivals_are_differentiable_in_rates_and_times():
    def mean(w, tau):
        queue = dd.Reaction([1, 0], w[0]) + dd.Reaction([-1, 1], w[1]) + dd.Reaction([0, -1], w[2])
        return queue.engine.arrived(tau)

    w, tau = numbers(0.7, 1.3, 40.0).requires_grad_(), numbers(0.2, 3.0).requires_grad_()
    assert torch.autograd.gradcheck(mean, (w, tau))


def test_rates_of_mass_action_are_learned():
    turn = dd.learn(dd.Reaction([-1, 1], 2.0))
    x = numbers(3, 0).unsqueeze(0)
    (u,) = turn.parameters()
    law = turn.transition(x, 0.0, 1.0).log_prob(numbers(1, 2).unsqueeze(0)).sum()
    (slope,) = torch.autograd.grad(law, u)
    kept = math.exp(-2.0)  # log p = log kept + 2 log (1 − kept), and ∂k/∂u = k
    assert float(slope) == pytest.approx(2.0 * (-1 + 2 * kept / (1 - kept)), rel=1e-8)
    assert not list(dd.learn(dd.Reaction([-1, 1], lambda n: n[..., 0])).parameters())
