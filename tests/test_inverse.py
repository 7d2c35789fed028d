"""What was seen through a matrix and noise: exact for normal data, an approximation elsewhere."""

from __future__ import annotations

import pytest
import torch

import discdiff as dd
from discdiff import guidance, heads, inverse, steppers

pytestmark = pytest.mark.usefixtures("float64")

MEAN = torch.tensor([0.5, -1.0, 2.0]).double()
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.4, 0.3, 0.5]]).double()
COVARIANCE = ROOT @ ROOT.T
A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.5, -1.0]]).double()
Y, STD = torch.tensor([1.0, -0.5]).double(), torch.tensor([0.3, 0.7]).double()
TIMES = (0.05, 0.3, 0.6, 1.0)


def vp():
    return (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))


def drifting():
    """Another rate on every coordinate, and a mean that moves."""
    drift = dd.Linear(torch.tensor([-0.5, -1.0, -0.2]), torch.tensor([1.0, 0.0, -1.0]))
    return (drift + dd.Noise(torch.tensor([1.0, 0.5, 2.0]))).on(dd.clock.Constant(2.0))


def affine(process, t):
    r"""The numbers φ, m and v of x_t, each (3,)."""
    ends = torch.stack([torch.zeros(3), torch.ones(3)]).double()
    law = process.marginal(ends, t)
    return law.mean[1] - law.mean[0], law.mean[0], law.variance[0]


def normal_head(process, kind=heads.Score):
    """The exact score of normal data, as what another head says."""

    def score(x, t):
        phi, mean, variance = affine(process, float(t[0]))
        total = phi[:, None] * COVARIANCE * phi + variance.diag()
        return torch.linalg.solve(total, (phi * MEAN + mean - x).T).T

    if kind is heads.Score:
        return heads.Score(score)
    said = lambda x, t: process.convert(heads.Score.kind(score(x, t)), x, t, kind.kind).value
    return kind(said)


def expected(process, x, t):
    """E[x_0 | x_t, y] by conditioning on both together."""
    phi, mean, variance = affine(process, t)
    seen = torch.cat([phi.diag(), A])
    noise = torch.cat([variance, STD**2]).diag()
    gain = COVARIANCE @ seen.T @ torch.linalg.inv(seen @ COVARIANCE @ seen.T + noise)
    both = torch.cat([x - mean, Y.expand(len(x), 2)], 1)
    return MEAN + (both - MEAN @ seen.T) @ gain.T


def gap(process, head, t):
    """How far a head is from what is expected given x_t and y."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = head(x, torch.full((4,), t)).value
    return float((found - expected(process, x, t)).abs().max())


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("kind", [heads.Score, heads.Mean, heads.Epsilon, heads.Velocity])
def test_normal_data_are_guided_exactly(kind, t):
    process = vp()
    for spread in (inverse.Tweedie(), inverse.Covariance(COVARIANCE)):
        head = normal_head(process, kind)
        observed = inverse.Observed(head, process, A, Y, STD, spread)
        assert gap(process, observed, t) < 1e-10, spread


@pytest.mark.parametrize("t", TIMES)
def test_normal_data_are_guided_exactly_on_a_diagonal(t):
    process = drifting()
    assert gap(process, inverse.Observed(normal_head(process), process, A, Y, STD), t) < 1e-10


@pytest.mark.parametrize("t", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("kind", [heads.Score, heads.Mean, heads.Epsilon, heads.Velocity])
def test_normal_walks_are_guided_exactly(kind, t):
    """DDPM as it was published, declared by its βs."""
    process = dd.Walk(torch.distributions.Normal(0.0, 1.0), [0.1, 0.3, 0.01, 0.5, 0.2]).process
    for spread in (inverse.Tweedie(), inverse.Covariance(COVARIANCE)):
        head = normal_head(process, kind)
        observed = inverse.Observed(head, process, A, Y, STD, spread)
        assert gap(process, observed, t) < 1e-10, spread


def test_a_walk_draws_from_the_closed_posterior():
    """500 steps back of a DDPM: mean and covariance within four deviations of 20 000 draws."""
    torch.manual_seed(0)
    chain = dd.Walk(torch.distributions.Normal(0.0, 1.0), dd.log_snr_betas(500, 1e-5, 0.99999))
    spread = inverse.Covariance(COVARIANCE)
    head = inverse.Observed(normal_head(chain.process), chain.process, A, Y, STD, spread)
    x = dd.sample(chain, head, (20_000, 3))
    mean, covariance = posterior()
    deviation = covariance.diagonal().sqrt()
    assert bool(((x.mean(0) - mean).abs() < 4 * deviation / 20_000**0.5 + 0.01 * deviation).all())
    wide = deviation.unsqueeze(0) * deviation.unsqueeze(1)
    assert (
        float(((torch.cov(x.T) - covariance) / wide).abs().max()) < 4 * (2 / 20_000) ** 0.5 + 0.02
    )


def test_other_walks_and_chains_are_refused():
    walk = dd.Walk(torch.distributions.Laplace(0.0, 1.0), [0.1, 0.3])
    lattice = dd.LatticeWalk(dd.increments.Rademacher(), 4)
    for process, match in ((lattice.process, "for walks, not for"), (walk, "chain.process")):
        with pytest.raises(dd.Unsolved, match=match):
            inverse.Observed(heads.Score(lambda x, t: -x), process, A, Y, STD)


class Unscaled(inverse.Tweedie):
    """A planted error: the derivative itself in place of the covariance."""

    def __call__(self, guess, x, moments, matrix):
        mean, seen = super().__call__(guess, x, moments, matrix)
        return mean, seen * (moments.phi / moments.variance)[:, None, None]


@pytest.mark.parametrize(
    "spread", [Unscaled(), inverse.Covariance(torch.ones(3)), inverse.Covariance(2 * COVARIANCE)]
)
def test_a_wrong_spread_is_caught(spread):
    process = vp()
    head = inverse.Observed(normal_head(process), process, A, Y, STD, spread)
    assert gap(process, head, 0.3) > 1e-2


def posterior():
    """The mean and the covariance of normal data given y."""
    gain = COVARIANCE @ A.T @ torch.linalg.inv(A @ COVARIANCE @ A.T + (STD**2).diag())
    return MEAN + gain @ (Y - A @ MEAN), COVARIANCE - gain @ A @ COVARIANCE


def pushed(process, head, steps):
    """Mean and covariance of what the flow makes of the law at 1 given y: its map is affine."""
    phi, _, variance = affine(process, 1.0)
    mean, covariance = posterior()
    root = torch.linalg.cholesky(phi**2 * covariance + variance.diag())
    start = phi * mean + torch.cat([torch.zeros(1, 3), root.T]).double()
    ends = dd.sample(
        process, head, (4, 3), steps=steps, start=start, stepper=steppers.Exponential(2)
    )
    slopes = (ends[1:] - ends[0]).T
    return ends[0], slopes @ slopes.T


def test_a_run_tends_to_the_closed_posterior():
    """At order two, from the law at time 1 given y."""
    process = vp()
    head = inverse.Observed(normal_head(process), process, A, Y, STD)
    goals, errors = posterior(), []
    for steps in (20, 80, 320):
        found = pushed(process, head, steps)
        errors.append(max(float((a - b).abs().max()) for a, b in zip(found, goals, strict=True)))
    assert errors[1] < errors[0] / 8 and errors[2] < errors[1] / 8 and errors[2] < 1e-4, errors


def test_draws_by_the_reversal_have_the_closed_posterior():
    process = vp()
    head = inverse.Observed(normal_head(process, heads.Epsilon), process, A, Y, STD)
    torch.manual_seed(0)
    x = dd.sample(process, head, (4000, 3), steps=200)
    mean, covariance = posterior()
    assert float((x.mean(0) - mean).abs().max()) < 0.04
    assert float((x.T.cov() - covariance).abs().max()) < 0.04
    unguided = dd.sample(process, head.head, (4000, 3), steps=200)
    assert float((unguided.mean(0) - mean).abs().max()) > 0.5


def test_values_may_differ_over_a_batch_and_forgotten_states_need_a_covariance():
    process = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Cosine())
    head = heads.Mean(lambda x, t: MEAN.expand(x.shape))
    spread = inverse.Covariance(COVARIANCE)
    many = torch.stack([Y, Y + 1])
    x, t = torch.zeros(2, 3), torch.ones(2)
    found = inverse.Observed(head, process, A, many, STD, spread)(x, t).value
    torch.testing.assert_close(found[0], posterior()[0])
    assert float((found[1] - found[0]).abs().max()) > 0.1
    with pytest.raises(ValueError, match="Tweedie knows no spread"):
        inverse.Observed(head, process, A, Y, STD)(x, t)


def test_data_that_are_not_normal_are_only_guided_nearly():
    """Two points: an exact head, and still a gap, as the docstring says."""
    process, points = vp(), torch.tensor([[-1.0], [1.0]]).double()
    exact, seen, std = dd.Exact(process, points), torch.tensor([0.3]), 0.5
    observed = inverse.Observed(exact, process, torch.eye(1), seen, std)
    weights = (-((seen - points[:, 0]) ** 2) / (2 * std**2)).softmax(0)
    x, t = torch.tensor([[0.1], [-0.4]]).double(), torch.full((2,), 0.3)
    goal = dd.Exact(process, points, weights).as_(heads.Mean)(x, t).value
    assert float((observed(x, t).value - goal).abs().max()) > 0.1


# -- categories and counts ------------------------------------------------------------------------


def test_the_likelihood_is_the_normal_law_of_its_moments():
    process = dd.Death().on(dd.clock.Logistic(15.0))
    head = heads.Missing(lambda x, t: x + 1)
    seen = inverse.Likelihood(head, process, A, Y, STD)
    x, t = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]).double(), torch.full((2,), 0.4)
    lost = (head(x, t).log_value.exp() * -torch.expm1(-process.clock(t))[:, None]).double()
    covariance = A * lost[:, None] @ A.T + (STD**2).diag()
    goal = torch.distributions.MultivariateNormal((x + lost) @ A.T, covariance).log_prob(Y)
    torch.testing.assert_close(seen(x, t), goal)


def test_the_likelihood_takes_values_of_each_row_to_all_its_changes():
    process = dd.Death().on(dd.clock.Logistic(15.0))
    head = heads.Missing(lambda x, t: x + 1)
    x, t = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]).double(), torch.full((2,), 0.4)
    many = torch.stack([Y, Y + 1])
    both, first, second = (
        guidance.Classifier(head, inverse.Likelihood(head, process, A, y, STD), 1.0, process)
        for y in (many, Y, Y + 1)
    )
    found = both(x, t).log_value
    torch.testing.assert_close(found[0], first(x, t).log_value[0])
    torch.testing.assert_close(found[1], second(x, t).log_value[1])


@pytest.mark.parametrize("kind", [heads.Posterior, heads.LeaveOneOut])
def test_what_a_masked_process_shows_is_known(kind):
    process = dd.Replace(dd.one_hot(2, 3)).on(dd.clock.LogLinear())
    head = kind(lambda x, t: torch.zeros(*x.shape, 3), absent=2)
    levels = torch.tensor([-1.0, 1.0, 0.0])
    seen = inverse.Likelihood(head, process, torch.ones(1, 2), torch.ones(1), 1.0, levels)
    found = seen(torch.tensor([[0, 1], [2, 1], [2, 2]]), torch.full((3,), 0.5))
    mean, variance = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 2.0, 3.0])
    goal = torch.distributions.Normal(mean, variance.sqrt()).log_prob(torch.ones(3))
    torch.testing.assert_close(found, goal)


@pytest.mark.parametrize(
    ("changes", "tolerance"), [(guidance.EveryChange(), 0.3), (guidance.FirstOrder(), 1.0)]
)
def test_counts_are_drawn_to_what_was_seen(changes, tolerance):
    """Four Poisson counts of mean 2, their sum seen as 14 with noise of 1: 13.3 is expected."""
    process = dd.Death().on(dd.clock.Logistic(15.0))
    two = torch.log(torch.expm1(torch.tensor(2.0)))
    head = heads.Missing(lambda x, t: two.expand(x.shape).to(x))
    seen = inverse.Likelihood(head, process, torch.ones(1, 4), torch.tensor([14.0]), 1.0)
    guided = guidance.Classifier(head, seen, 1.0, process, changes)
    torch.manual_seed(0)
    x = dd.sample(process, guided, (1000, 4), steps=100)
    assert abs(float(x.sum(1).mean()) - (8 * 1 + 14 * 8) / 9) < tolerance
    assert float(x.sum(1).var()) < 2.5


def test_categories_are_drawn_to_what_was_seen():
    process = dd.Replace(dd.one_hot(4, 5)).on(dd.clock.LogLinear())
    head = heads.Posterior(lambda x, t: torch.zeros(*x.shape, 5), absent=4)
    seen = inverse.Likelihood(head, process, torch.ones(1, 6), torch.tensor([15.0]), 0.5)
    guided = guidance.Classifier(head, seen, 1.0, process)
    torch.manual_seed(0)
    x = dd.sample(process, guided, (500, 6), steps=40, stepper=steppers.Ancestral())
    assert abs(float(x.sum(1).double().mean()) - 14.6) < 0.5


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: dict(matrix=A[0]), r"matrix must have shape \(m, n\)"),
        (lambda: dict(values=Y[:1]), "values must end in the 2 rows"),
        (lambda: dict(std=0.0), "std must be > 0"),
        (lambda: dict(std=torch.ones(3)), "std must be a number"),
    ],
)
def test_what_does_not_fit_is_refused(make, match):
    process = vp()
    asked = dict(matrix=A, values=Y, std=1.0) | make()
    with pytest.raises(ValueError, match=match):
        inverse.Observed(normal_head(process), process, **asked)


def test_other_processes_and_spreads_are_refused():
    process = vp()
    with pytest.raises(dd.Unsolved, match="Observed is known for one scalar"):
        counts = dd.Death().on(dd.clock.Logistic(15.0))
        inverse.Observed(heads.Missing(lambda x, t: x), counts, A, Y, 1.0)
    with pytest.raises(dd.Unsolved, match="use Tweedie"):
        spread = inverse.Covariance(COVARIANCE)
        gap(
            drifting(),
            inverse.Observed(normal_head(drifting()), drifting(), A, Y, 1.0, spread),
            0.5,
        )
    with pytest.raises(ValueError, match="matrix has 3 columns"):
        inverse.Observed(heads.Score(lambda x, t: -x), process, A, Y, 1.0)(
            torch.zeros(1, 2), torch.ones(1)
        )
    for table in (-torch.eye(3), torch.ones(2, 3), ROOT):
        with pytest.raises(ValueError, match="covariance must"):
            inverse.Covariance(table)
    turnover = heads.Turnover(lambda x, t: torch.zeros(*x.shape, 2))
    categories = dd.Replace(dd.one_hot(4, 5)).on(dd.clock.LogLinear())
    seen = inverse.Likelihood(turnover, categories, torch.ones(1, 2), torch.ones(1), 1.0)
    with pytest.raises(dd.Unsolved, match="says too little"):
        seen(torch.zeros(1, 2), torch.ones(1))


def test_directions_in_which_no_covariance_is_implied_are_not_guided():
    """A head that falls where its state rises says nothing that a covariance could."""
    process = vp()
    head = heads.Mean(lambda x, t: x * torch.tensor([1.0, -1.0, -1.0]))
    x, t = torch.tensor([[0.2, 0.3, -0.4]]), torch.full((1,), 0.3)
    found = inverse.Observed(head, process, torch.eye(3), torch.ones(3), 0.5)(x, t).value
    unguided = head(x, t).value
    torch.testing.assert_close(found[:, 1:], unguided[:, 1:])
    assert float((found - unguided)[0, 0]) > 0.01
