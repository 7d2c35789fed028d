"""Walks whose increments have atoms: what is exact is offered, what is not is refused."""

import math

import pyro.distributions as pyro
import pytest
import torch

import discdiff as dd
from discdiff.increments import CompoundPoisson, Rademacher, ThreePoint

pytestmark = pytest.mark.usefixtures("float64")
BETAS = [0.1, 0.2, 0.3, 0.25]
X = torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)
LATTICES = {"coin": Rademacher(), "three": ThreePoint(0.0, 1.0)}


@pytest.mark.parametrize("name", LATTICES)
def test_one_step_is_a_lattice(name):
    walk = dd.Walk(LATTICES[name], BETAS)
    law = walk.transition(X, 1, 2)
    y = law.sample()
    step = walk.steps.step(X, torch.full((3,), 2.0))
    assert torch.equal(law.log_prob(y), step.log_prob(y))
    noise = (y - math.sqrt(0.8) * X) / math.sqrt(0.2)
    assert set(noise.abs().round(decimals=9).flatten().tolist()) <= {0.0, 1.0, 1.732050808}


@pytest.mark.parametrize("name", LATTICES)
def test_several_steps_are_drawn(name):
    """Characteristic functions multiply; five standard errors."""
    walk, count = dd.Walk(LATTICES[name], BETAS), 40_000
    law = walk.marginal(torch.zeros(count, 1), 4)
    x, u = law.sample()[:, 0], torch.tensor([0.5, 1.0, 2.0])
    c = walk.steps.engine.coefficients(0, 4)
    goal = walk.steps.increment.cf(c[:, None] * u).prod(0).real
    assert float(((u[:, None] * x).cos().mean(1) - goal).abs().max()) < 5 / math.sqrt(count)
    kept = math.prod(1 - b for b in BETAS)
    assert float(law.variance[0, 0]) == pytest.approx(1 - kept, rel=1e-12)
    assert float(x.var()) == pytest.approx(1 - kept, rel=0.05)


@pytest.mark.parametrize("name", LATTICES)
def test_densities_and_bridges_are_refused_with_the_reason(name):
    walk = dd.Walk(LATTICES[name], BETAS)
    with pytest.raises(dd.Unsolved, match="has no density: its atoms double"):
        walk.marginal(X, 2).log_prob(X)
    with pytest.raises(dd.Unsolved, match="as many atoms as there are paths"):
        walk.bridge(X, X, 1, 2)
    (plan,) = dd.explain(walk).plans
    assert plan.branch.endswith("; atoms: several steps are drawn only")


def test_rows_of_a_batch_have_their_own_steps():
    walk = dd.Walk(Rademacher(), BETAS)
    law = walk.marginal(torch.zeros(2, 1), torch.tensor([2, 4]))
    kept = (1 - torch.tensor(BETAS)).cumprod(0)
    assert torch.allclose(law.variance[:, 0], 1 - kept[[1, 3]])


def test_the_bridge_of_a_poisson_clock_thins():
    """(C8) Bayes' rule on the lattice, and all its probability."""
    walk, x_0 = dd.LevyWalk(pyro.Poisson(4.0), BETAS), torch.zeros(1, 1)
    kept = (1 - torch.tensor(BETAS)).cumprod(0)
    tau = 1 / kept - 1
    x_t = kept[3].sqrt() * (5 - 4 * tau[3]) / 2  # five units have come
    x_s = kept[1].sqrt() * (torch.arange(7.0) - 4 * tau[1]) / 2
    many, ends = x_s[:, None], x_t.expand(7, 1)
    law = walk.bridge(x_0.expand(7, 1), ends, 2, 4)
    early = walk.marginal(torch.zeros(7, 1), 2).log_prob(many)
    late = walk.transition(many, 2, 4).log_prob(ends)
    whole = walk.marginal(x_0, 4).log_prob(ends[:1])
    found = law.log_prob(many).exp()
    assert float((found - (early + late - whole).exp()).abs().max()) < 1e-12
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    share = float(tau[1] / tau[3])
    assert float(found[2]) == pytest.approx(math.comb(5, 2) * share**2 * (1 - share) ** 3)
    draws = walk.bridge(x_0.expand(20_000, 1), x_t.expand(20_000, 1), 2, 4).sample()
    assert float(draws.mean()) == pytest.approx(float(law.mean[0]), abs=0.01)


def test_a_compound_poisson_clock_has_an_atom_and_no_bridge():
    walk = dd.LevyWalk(CompoundPoisson(3.0, pyro.Laplace(0.0, 1.0)), BETAS)
    tau = 1 / math.prod(1 - b for b in BETAS) - 1
    atom = walk.marginal(torch.zeros(1, 1), 4).log_prob(torch.zeros(1, 1))
    assert float(atom) == pytest.approx(-3 * tau, rel=1e-9)
    with pytest.raises(dd.Unsolved, match="mixes atoms and a density"):
        walk.bridge(X, X, 1, 4)


@pytest.mark.parametrize("walk", [dd.Walk(Rademacher(), BETAS)], ids=["coin"])
def test_check_holds_what_there_is(walk):
    report = dd.check(walk, X)
    assert report, str(report)
    assert {row.law for row in report.rows if row.error is not None} >= {"one step", "moments"}
