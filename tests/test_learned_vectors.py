"""Learned Langevin diffusions: constraints, structure, gradients and what can be identified."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import discdiff as dd
from discdiff.likelihood import prior_kl
from discdiff.params import semidefinite, skew
from discdiff.steps import reconstruction

pytestmark = pytest.mark.usefixtures("float64")

Q = [[0.0, -1.0, 0.0], [1.0, 0.0, -0.7], [0.0, 0.7, 0.0]]
D = [[0.0, 0.0, 0.0], [0.0, 0.4, 0.1], [0.0, 0.1, 1.0]]
S = [[1.0, 0.2, 0.0], [0.2, 0.8, 0.1], [0.0, 0.1, 1.5]]


def declared():
    start = MultivariateNormal(torch.tensor([0.1, 0.0]), torch.tensor([[0.3, 0.1], [0.1, 0.2]]))
    return dd.Langevin(Q, D, S).on(dd.clock.Linear(0.1, 5.0)).lift(start)


def head():
    torch.manual_seed(3)
    layer = torch.nn.Linear(3, 3).double()
    return dd.heads.Epsilon(lambda x, t: torch.tanh(layer(x)) * t.unsqueeze(-1))


def recipe(process):
    return process.process.process.recipe


def bound(process, x):
    torch.manual_seed(7)  # common random numbers
    return dd.elbo(process, head(), x, nodes=3).mean()


def test_constraints_and_structure_are_kept():
    process, x = dd.learn(declared()), torch.randn(16)
    optimiser = torch.optim.Adam(process.parameters(), 0.05)
    before = [p.detach().clone() for p in process.parameters()]
    for _ in range(5):
        optimiser.zero_grad()
        (-bound(process, x)).backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in
                   process.parameters())  # fmt: skip
        optimiser.step()
    assert all(bool((a != p).any()) for a, p in zip(before, process.parameters(), strict=True))
    found = recipe(process)
    assert bool(skew.check(found.Q)) and bool(semidefinite.check(found.D))
    assert float(torch.linalg.eigvalsh(found.S.detach())[0]) > 0
    assert bool((found.Q[torch.tensor(Q) == 0] == 0).all())
    assert bool((found.D[0] == 0).all()) and bool((found.D[:, 0] == 0).all())
    assert float(process.process.clock(torch.zeros(())).detach()) == 0
    assert float(process.factor.detach().diagonal().min()) > 0
    limit = process.limit((1,)).covariance_matrix[0]
    torch.testing.assert_close(limit, found.S, rtol=1e-10, atol=1e-10)
    assert dd.check(process, torch.tensor([-1.0, 0.5]))


def test_a_diagonal_matrix_stays_diagonal():
    process = dd.learn(dd.Langevin(Q, torch.diag(torch.tensor([0.0, 1.0, 2.0])), torch.eye(3)))
    shapes = {n.split(".")[-2]: p.shape.numel() for n, p in process.named_parameters()}
    assert shapes == {"Q": 2, "D": 2, "S": 3}


def test_state_dict_round_trip():
    process, x = dd.learn(declared()), torch.randn(4)
    with torch.no_grad():
        for p in process.parameters():
            p.add_(0.1 * torch.randn_like(p))
    other = dd.learn(declared())
    other.load_state_dict(process.state_dict())
    y = process.marginal(x, 0.4).sample()
    a, b = (p.marginal(x, 0.4).log_prob(y) for p in (process, other))
    assert bool((a == b).all())


def at_fixed_times(process, x):
    """Every summand of the bound, at times that do not move when the clock is learned."""
    total = -prior_kl(process, x) + reconstruction(process, head(), x, 1e-2)
    for t in (0.02, 0.2, 0.7):
        total = total - dd.loss(process, head(), x, t) / 3
    return total


def at_nodes(process, x):
    return dd.elbo(process, head(), x, nodes=3)


@pytest.mark.parametrize("bound_of", [at_fixed_times, at_nodes])
def test_gradients_are_central_differences(bound_of):
    """Of every free number of Q, D, S and the initial law, to 1e-6; of the clock at fixed times.

    Where a quadrature puts its nodes depends on the clock, and is no part of the integral.
    """
    process, x = dd.learn(declared()), torch.tensor([0.3, -1.2, 0.8])

    def value():
        torch.manual_seed(7)
        return bound_of(process, x).mean()

    process.zero_grad()
    value().backward()
    worst, h = 0.0, 1e-3
    for name, p in process.named_parameters():
        if "clock" in name and bound_of is at_nodes:
            continue
        for i in range(p.numel()):
            flat, kept = p.data.reshape(-1), float(p.data.reshape(-1)[i])
            values = []
            for k in (-2, -1, 1, 2):
                flat[i] = kept + k * h
                values.append(float(value().detach()))
            flat[i] = kept
            slope = (values[0] - values[3] + 8 * (values[2] - values[1])) / (12 * h)
            worst = max(worst, abs(float(p.grad.reshape(-1)[i]) - slope) / (1 + abs(slope)))
    print(f"{bound_of.__name__}: {worst:.1e}")
    assert worst < 1e-6


def turned(angle):
    turn = torch.eye(3)
    turn[1:, 1:] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return dd.Langevin(*(turn @ torch.tensor(M) @ turn.T for M in (Q, D, S)))


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
def test_invariants_do_not_see_the_gauge(angle):
    """Nor do data: their marginals agree, though Q and D differ."""
    plain, other = dd.Langevin(Q, D, S), turned(angle)
    assert float((plain.recipe.Q - other.recipe.Q).abs().max()) > 0.1
    torch.testing.assert_close(plain.invariants(), other.invariants(), rtol=1e-10, atol=1e-10)
    x, clock = torch.randn(5), dd.clock.Linear(0.1, 5.0)
    a, b = (p.on(clock).lift(Normal(0.0, 0.3)).marginal(x, 0.5) for p in (plain, other))
    torch.testing.assert_close(a.mean[:, 0], b.mean[:, 0])
    torch.testing.assert_close(a.covariance_matrix[:, 0, 0], b.covariance_matrix[:, 0, 0])


def test_invariants_of_what_varies_are_refused():
    process = dd.Langevin(lambda t: t[:, None, None] * torch.tensor(Q), D, S)
    with pytest.raises(dd.Unsolved, match="vary in time"):
        process.invariants()


def test_invariants_carry_gradients():
    process = dd.learn(dd.Langevin(Q, D, S))
    (-process.invariants().real.max()).backward()
    assert float(process.recipe.parametrizations.Q.original.grad.abs().max()) > 0
