r"""Each stepper converges with the order that it declares.

There is no Monte Carlo: a step is a map of laws. Where a stepper has a law, its matrix on all
states is read. Where it draws, the source of chance is replaced by each of its outcomes in turn,
so that the code of the step itself is followed, weighted with the chance of the outcome. A
Gaussian law stays one under steps that are linear in state and noise.

The grid is n = 16, 32, …, 256 equal steps from 1 to 0: of t for discrete states, of √t for real
ones, where equal steps of t cost ancestral steps a factor log n. Runs start from the marginal at
1, so that nothing but the steps is in error. Data have mass everywhere, so that no rate is
infinite at 0. The order is the slope of log error against log n.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch
from torch.distributions import Poisson

import discdiff as dd
from discdiff import steppers
from discdiff.heads import Exact

pytestmark = pytest.mark.usefixtures("float64")

STEPS = (16, 32, 64, 128, 256)
NEAR = 0.15
LEAPS = 10  # more jumps in one step are not looked at


def times(n):
    return torch.linspace(1, 0, n + 1, dtype=torch.float64)


def slope(errors, steps=STEPS):
    """The fitted order of errors at the numbers of steps."""
    x, y = torch.tensor(steps).double().log(), torch.tensor(errors).log()
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


# -- real states ----------------------------------------------------------------------------------

MEAN, STD = 0.7, 0.5
VP = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 4.0))


class Conditional:
    """E[x_0 | x_t] of Gaussian data, times a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, x, t):
        phi = (-VP.clock(t) / 2).exp()
        variance = phi**2 * STD**2 + 1 - phi**2
        return self.factor * (MEAN + phi * STD**2 / variance * (x - phi * MEAN))


def gaussian_error(stepper, n, monkeypatch, factor=1.0):
    """How far mean and standard deviation of the samples are from those of the data."""
    head = dd.heads.Mean(Conditional(factor))
    law = VP.marginal(torch.full((1,), MEAN), 1.0)
    mean, variance = (
        float(law.mean),
        float(law.variance + (-VP.clock(torch.ones(1))).exp() * STD**2),
    )
    grid, x = times(n) ** 2, torch.tensor([0.0, 1.0, 0.0])
    noise = torch.tensor([0.0, 0.0, 1.0])
    monkeypatch.setattr(torch, "randn_like", lambda v: noise)
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: noise)
    for t, s in itertools.pairwise(grid):
        t, s = t.expand(3), s.expand(3)
        if isinstance(stepper, steppers.Ancestral):
            law = stepper.law(VP, head(x, t), x, t, s)
            y, jump = law.mean, float(law.variance[0])
        else:
            y, _ = stepper.step(VP, head, x, t, s, None)
            jump = float(y[2] - y[0]) ** 2
        a, b = float(y[1] - y[0]), float(y[0])
        mean, variance = a * mean + b, a**2 * variance + jump
    return abs(mean - MEAN) + abs(variance**0.5 - STD)


REAL = {
    "Euler": steppers.Euler(),
    "Heun": steppers.Heun(),
    "Ancestral": steppers.Ancestral(),
    "Ancestral, eta = 0": steppers.Ancestral(eta=0.0),
}


@pytest.mark.parametrize("name", REAL)
def test_order_on_the_line(name, monkeypatch):
    stepper = REAL[name]
    errors = [gaussian_error(stepper, n, monkeypatch) for n in STEPS]
    print(f"{name}: order {slope(errors):.3f}, declared {stepper.order}, errors {errors}")
    assert abs(slope(errors) - stepper.order) < NEAR


def test_a_wrong_head_has_no_order(monkeypatch):
    """The fit is no formality: with a mean 2 % too large the error does not vanish."""
    errors = [gaussian_error(steppers.Heun(), n, monkeypatch, 1.02) for n in STEPS]
    print("order with a wrong head:", slope(errors))
    assert slope(errors) < 0.5


# -- discrete states ------------------------------------------------------------------------------


class Space(NamedTuple):
    """A process, its states, and the probabilities of the data on them."""

    process: dd.Process
    states: torch.Tensor
    weights: torch.Tensor

    def exact(self):
        return Exact(self.process, self.states, self.weights)

    def marginal(self, t):
        size = len(self.states)
        law = self.process.marginal(self.states.repeat_interleave(size, 0), t)
        every = self.states.repeat((size,) + (1,) * (self.states.dim() - 1))
        return self.weights @ law.log_prob(every).exp().reshape(size, size)

    def index(self, y):
        """Where states stand."""
        same = (y.unsqueeze(1) == self.states).reshape(len(y), len(self.states), -1).all(-1)
        assert bool(same.any(1).all()), f"a step leaves the space: {y[~same.any(1)]}"
        return same.long().argmax(1)


def by_law(space, stepper, head, n):
    """The matrices of all steps, from their laws."""
    size, grid = len(space.states), times(n)
    x = space.states.repeat((n,) + (1,) * (space.states.dim() - 1))
    t, s = (v.repeat_interleave(size) for v in (grid[:-1], grid[1:]))
    law = stepper.law(space.process, head(x, t), x, t, s)
    goal = [law.log_prob(y.expand(x.shape)).exp() for y in space.states]
    return torch.stack(goal, 1).reshape(n, size, size)


def by_outcome(space, stepper, head, n, monkeypatch):
    """The matrices of all steps, one after the other, from all outcomes of what they draw."""
    full = times(n)[:, None].expand(-1, len(space.states))
    for t, s in itertools.pairwise(full):
        yield of_outcomes(space, stepper, head, t, s, monkeypatch)


def of_outcomes(space, stepper, head, t, s, monkeypatch):
    """The matrix of one step; its outcomes stand side by side in one batch."""
    size = len(space.states)
    kinds = dd.reverse(space.process, head).rates(space.states, t)[1].shape[-1]
    outcomes = torch.cartesian_prod(*[torch.arange(LEAPS)] * kinds).reshape(-1, kinds)
    outcomes = outcomes[outcomes.sum(1) < LEAPS]
    drawn, chance = outcomes.repeat_interleave(size, 0), []

    def poisson(rate):
        number = drawn.reshape(rate.shape).to(rate)
        log_prob = Poisson(rate, validate_args=False).log_prob(number)
        chance.append(log_prob.reshape(len(drawn), -1).sum(1).exp())
        return number

    monkeypatch.setattr(torch, "poisson", poisson)
    x = space.states.repeat(len(outcomes))
    t, s = (v[:1].expand(len(x)) for v in (t, s))
    y, _ = stepper.step(space.process, head, x, t, s, None)
    monkeypatch.undo()
    (weight,) = chance
    possible = weight > 0
    start = torch.arange(size).repeat(len(outcomes))[possible]
    matrix = torch.zeros(size, size)
    goal = space.index(y[possible])
    return matrix.index_put((start, goal), weight[possible], accumulate=True)


def discrete_error(space, matrices):
    """The total variation between the samples and the data."""
    law = space.marginal(1.0)
    for matrix in matrices:
        # No posterior is defined where the run cannot be: of blackout at t = 1 all but 0.
        matrix = torch.where(law[:, None] > 0, matrix, 0.0)
        assert float((matrix.sum(1) - 1)[law > 0].abs().max()) < 1e-7
        law = law @ matrix
    return float((law - space.weights).abs().sum() / 2)


def chain():
    Q = [[-1.0, 0.7, 0.3], [0.2, -0.6, 0.4], [1.1, 0.5, -1.6]]
    process = dd.RateMatrix(Q).on(dd.clock.Constant(1.5))
    return Space(process, torch.arange(3), torch.tensor([0.5, 0.2, 0.3]))


def pair():
    process = dd.Replace(torch.full((2,), 0.5)).on(dd.clock.Constant(2.0))
    states = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    return Space(process, states, torch.tensor([0.4, 0.1, 0.2, 0.3]))


def urn():
    weights = torch.tensor([0.3, 0.1, 0.1, 0.3, 0.2])
    return Space(dd.Ehrenfest(4).on(dd.clock.Constant(1.0)), torch.arange(5.0), weights)


def blackout():
    weights = torch.tensor([0.3, 0.1, 0.1, 0.3, 0.2])
    return Space(dd.Death().on(dd.clock.LogLinear()), torch.arange(5.0), weights)


BY_LAW = {
    "chain, Euler": (chain, steppers.Euler(), None),
    "urn, Euler": (urn, steppers.Euler(), None),
    "chain, leaps": (chain, steppers.TauLeaping(), None),
    "two sites, analytic": (pair, steppers.Analytic(), None),
    "two sites, ancestral": (pair, steppers.Ancestral(), dd.heads.Posterior),
    "blackout, ancestral": (blackout, steppers.Ancestral(), dd.heads.Missing),
}
BY_OUTCOME = {
    "urn, leaps": (urn, steppers.TauLeaping(maximum=4)),
    "blackout, leaps": (blackout, steppers.TauLeaping(maximum=4)),
}
EXACT = {
    "chain, ancestral": (chain, steppers.Ancestral(), None),
    "chain, ancestral, posterior": (chain, steppers.Ancestral(), dd.heads.Posterior),
    "two sites, ancestral": (pair, steppers.Ancestral(), None),
    "urn, ancestral": (urn, steppers.Ancestral(), None),
    "blackout, ancestral": (blackout, steppers.Ancestral(), dd.heads.Posterior),
    "blackout, churned": (blackout, steppers.Churn(), None),
    "blackout, churned, posterior": (blackout, steppers.Churn(), dd.heads.Posterior),
}


@pytest.mark.parametrize("name", BY_LAW)
def test_order_of_laws(name):
    make, stepper, kind = BY_LAW[name]
    space = make()
    head = space.exact() if kind is None else space.exact().as_(kind)
    errors = [discrete_error(space, by_law(space, stepper, head, n)) for n in STEPS]
    print(f"{name}: order {slope(errors):.3f}, declared {stepper.order}, errors {errors}")
    assert abs(slope(errors) - stepper.order) < NEAR


@pytest.mark.parametrize("name", BY_OUTCOME)
def test_order_of_draws(name, monkeypatch):
    make, stepper = BY_OUTCOME[name]
    space = make()
    errors = [
        discrete_error(space, by_outcome(space, stepper, space.exact(), n, monkeypatch))
        for n in STEPS
    ]
    print(f"{name}: order {slope(errors):.3f}, declared {stepper.order}, errors {errors}")
    assert abs(slope(errors) - stepper.order) < NEAR


@pytest.mark.parametrize("name", EXACT)
def test_exact_steps_are_exact_on_any_grid(name):
    """With the posterior of the whole state there is no error to have an order."""
    make, stepper, kind = EXACT[name]
    space = make()
    head = space.exact() if kind is None else space.exact().as_(kind)
    for n in (1, 3, 16):
        assert discrete_error(space, by_law(space, stepper, head, n)) < 1e-9


def test_churn_with_a_mean_is_of_order_one_half():
    """Every step renews a share of about t of the units, so that n t²/2 renewals lie below t.

    The run forgets what came before t = n^(-1/2), where the mean, in place of the law of what is
    missing, is wrong by that much.
    """
    space, many = blackout(), (128, 256, 512, 1024, 2048)
    stepper, head = steppers.Churn(eta=1.0), space.exact().as_(dd.heads.Missing)
    errors = [discrete_error(space, by_law(space, stepper, head, n)) for n in many]
    print(f"churn with a mean: order {slope(errors, many):.3f}, errors {errors}")
    assert abs(slope(errors, many) - stepper.order) < NEAR
