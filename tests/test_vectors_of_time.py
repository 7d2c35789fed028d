r"""Matrices that are functions of own time, held to an ODE wherever own time leads.

The moments of :math:`dy = (A(t) y + b(t))\, dt + B(t)\, dW` solve

.. math:: \Phi' = A \Phi, \quad m' = A m + b, \quad \Sigma' = A \Sigma + \Sigma A^\top + B B^\top.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import discdiff as dd
from discdiff.numerics.systems import Varying, compose

pytestmark = pytest.mark.usefixtures("float64")
F64 = torch.float64
X = torch.tensor([[1.0, -0.5]], dtype=F64)
WIDTH = 0.05


def bump(t, middle=10.0):
    """A narrow bump, (n, 1, 1)."""
    return torch.exp(-(((t - middle) / WIDTH) ** 2))[..., None, None]


def A(t):
    """Matrices at different times do not commute."""
    pull = torch.tensor([[-0.5, 1.0], [0.0, -0.7]], dtype=F64)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)
    return pull + torch.sin(2 * t)[..., None, None] * pull.mT / 2 + 6 * bump(t) * (turn - pull)


def smooth(t):
    return torch.stack([torch.cos(t), 0.3 + 0 * t], -1)


def B(t):
    """One source of noise that turns."""
    return torch.stack([torch.sin(t), 0.5 + torch.cos(t) ** 2], -1)[..., None] * (1 + bump(t))


def by_ode(s, t):
    """Φ, m and Σ by DOP853 at 1e-12, in steps that no bump is narrower than."""

    def slope(u, y):
        at = torch.tensor([u], dtype=F64)
        drift, push, noise = A(at)[0].numpy(), smooth(at)[0].numpy(), B(at)[0].numpy()
        phi, mean, cov = y[:4].reshape(2, 2), y[4:6], y[6:].reshape(2, 2)
        spread = drift @ cov + cov @ drift.T + noise @ noise.T
        return np.concatenate([(drift @ phi).ravel(), drift @ mean + push, spread.ravel()])

    y = np.concatenate([np.eye(2).ravel(), np.zeros(6)])
    y = solve_ivp(slope, (s, t), y, "DOP853", rtol=1e-12, atol=1e-14, max_step=0.05).y[:, -1]
    phi, mean, cov = (torch.tensor(v) for v in np.split(y, [4, 6]))
    return phi.reshape(2, 2), mean, cov.reshape(2, 2)


def process():
    return dd.Linear(A, smooth) + dd.Noise(B)


def held(law, goal):
    phi, mean, cov = goal
    assert float((law.mean[0] - (phi @ X[0] + mean)).abs().max()) < 1e-8
    assert float((law.covariance_matrix[0] - cov).abs().max()) < 1e-8


@pytest.mark.parametrize(
    ("s", "t"), [(0.0, 0.8), (0.0, 9.9), (0.0, 20.0), (9.97, 10.02), (3.3, 17.0), (11.0, 11.0)]
)
def test_laws_against_an_ode(s, t):
    goal = by_ode(s, t) if s < t else (torch.eye(2), torch.zeros(2), torch.zeros(2, 2))
    held(process().transition(X, s, t), goal)


def test_many_times_at_once_and_one_by_one():
    """A batch large enough that equal spans of time are found once."""
    own, n = process(), 600
    t = torch.linspace(0.01, 19.0, n)
    whole = own.marginal(X.expand(n, 2), t)
    for i in (0, 31, 317, 599):
        one = own.marginal(X, float(t[i]))
        torch.testing.assert_close(whole.mean[i], one.mean[0], rtol=1e-11, atol=1e-12)
        found, goal = whole.covariance_matrix[i], one.covariance_matrix[0]
        torch.testing.assert_close(found, goal, rtol=1e-11, atol=1e-12)


def test_a_clock_that_runs_to_20():
    held(process().on(dd.clock.Constant(20.0)).marginal(X, 1.0), by_ode(0.0, 20.0))


def test_a_diagonal_drift_far_out():
    r"""Decoupled coordinates have :math:`e^{-\int a}`, :math:`\int a = t + (1 - \cos t) / 2`."""
    drift = lambda t: (
        -torch.diag_embed((1 + torch.sin(t) / 2)[..., None] * torch.tensor([1.0, 0.1]))
    )
    own = dd.Linear(drift) + dd.Noise(torch.eye(2))
    for t in (1.0, 11.0, 20.0):
        decay = torch.exp(-(t + (1 - math.cos(t)) / 2) * torch.tensor([1.0, 0.1], dtype=F64))
        torch.testing.assert_close(own.marginal(X, t).mean[0], decay * X[0], rtol=1e-10, atol=0)


def test_langevin_of_own_time_stays_stationary():
    """Its law at rest stays, whatever Q(t) and D(t) are and wherever own time leads."""
    skew, S = torch.tensor([[0.0, -1.0], [1.0, 0.0]]), torch.diag(torch.tensor([1.0, 0.25]))
    turning = lambda t: (1 + torch.sin(t) + 5 * bump(t)[..., 0, 0])[..., None, None] * skew
    stirring = lambda t: (1.5 + torch.cos(t))[..., None, None] * torch.eye(2)
    own = dd.Langevin(turning, stirring, S)
    engine = own.engine
    for s, t in ((0.0, 20.0), (9.5, 10.5)):
        flow = engine.flow(*(torch.tensor([u]) for u in (s, t)))
        held_at = flow.phi @ S @ flow.phi.mT + flow.cov
        torch.testing.assert_close(held_at[0], S, rtol=1e-10, atol=1e-10)


def test_flows_compose_over_edges():
    engine = process().engine
    at = lambda t: torch.tensor([t])
    for s, r, t in ((0.25, 3.5, 7.75), (0.0, 2.0, 4.0), (1.25, 1.5, 6.0), (2.0, 2.0, 3.0)):
        both = compose(engine.flow(at(s), at(r)), engine.flow(at(r), at(t)))
        for found, goal in zip(both, engine.flow(at(s), at(t)), strict=True):
            torch.testing.assert_close(found, goal, rtol=1e-11, atol=1e-12)


def test_deterministic_steps_far_out():
    r"""They go along :math:`y' = A y + b + \tfrac12 G \Sigma^{-1} (y - c)`, c the centre."""
    early, late, y = 9.5, 12.0, torch.tensor([[0.4, -1.3]])
    at = lambda t: torch.tensor([t])
    step = process().engine.affine(dd.estimates.Mean, at(early), at(late), 0.0)
    phi, mean, cov = by_ode(0.0, early)

    def slope(u, z):
        drift, push, noise = (f(at(float(u)))[0].numpy() for f in (A, smooth, B))
        y, centre, cov = z[:2], z[2:4], z[4:].reshape(2, 2)
        G = noise @ noise.T
        pull = G @ np.linalg.solve(cov, y - centre) / 2
        spread = drift @ cov + cov @ drift.T + G
        return np.concatenate([drift @ y + push + pull, drift @ centre + push, spread.ravel()])

    start = torch.cat([step.centre(y, X)[0], phi @ X[0] + mean, cov.flatten()]).numpy()
    end = solve_ivp(slope, (early, late), start, "DOP853", rtol=1e-11, atol=1e-13, max_step=0.05)
    torch.testing.assert_close(torch.tensor(end.y[:2, -1]), y[0], rtol=1e-8, atol=1e-8)


def test_times_of_what_grows_without_bound():
    """Its covariance overflows at own times at which a density of times still looks."""
    grows = lambda t: (1 + t)[..., None, None] * torch.eye(2)
    t, weights = dd.times(dd.Linear(grows) + dd.Noise(torch.eye(2)), X.expand(8, 2))
    assert bool((t.isfinite() & weights.isfinite() & (t > 0)).all())


def test_functions_that_are_not_resolved_are_refused():
    own = process()
    with pytest.raises(dd.Unsolved, match="own time 16384"):
        own.marginal(X, 2e4)
    with pytest.raises(dd.Unsolved, match="finite own times"):
        own.marginal(X, math.inf)
    step = lambda t: torch.where(t < 10.31, -1.0, -2.0)[..., None, None] * torch.eye(2)
    kinked = dd.Linear(step) + dd.Noise(1.0)
    kinked.marginal(X, 7.0)
    with pytest.raises(ValueError, match=r"not smooth on \[0, 16\]"):
        kinked.marginal(X, 11.0)


class Pull(torch.nn.Module):
    """A learned strength of a drift."""

    def __init__(self, strength):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(strength))

    def forward(self, t):
        turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        return -self.strength * torch.eye(2) + torch.sin(t)[..., None, None] * turn


def test_learned_numbers_rebuild_the_tree():
    r"""The pull commutes with the turn: the mean shrinks by :math:`e^{-c t}`."""
    pull = Pull(0.1)
    own = dd.Linear(pull) + dd.Noise(torch.eye(2))
    size = lambda: own.marginal(X, 12.0).mean.norm()
    rest = math.exp(-1.2) * float(X.norm())
    (slope,) = torch.autograd.grad(size(), pull.strength)
    assert size().item() == pytest.approx(rest, rel=1e-10)
    assert float(slope) == pytest.approx(-12 * rest, rel=1e-10)
    with torch.no_grad():
        pull.strength.copy_(torch.tensor(0.2))
        assert float(size()) == pytest.approx(math.exp(-2.4) * float(X.norm()), rel=1e-10)


def test_a_tree_is_kept_while_its_numbers_stay(monkeypatch):
    made = []
    units = Varying.units
    monkeypatch.setattr(Varying, "units", lambda *a: made.append(1) or units(*a))
    own = process()
    own.marginal(X, 12.0)
    first = len(made)
    own.marginal(X, 15.0)
    own.marginal(X, 0.3)
    assert len(made) == first


def test_a_compiled_verb_answers_up_to_what_was_asked_for():
    own = process()
    own.marginal(X, 12.0)
    law = torch.compile(lambda t: own.marginal(X, t).mean, fullgraph=True, backend="eager")
    goal = own.marginal(X, 15.0).mean
    torch.testing.assert_close(law(torch.tensor([15.0])), goal, rtol=1e-11, atol=1e-12)
    assert bool(law(torch.tensor([17.0])).isnan().all())
