"""Walks on a lattice against SciPy, enumeration of all paths, and their own bound."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch.distributions import Laplace, Poisson

import discdiff as dd
from discdiff.engines.lattice_walk import LatticeSums
from discdiff.increments import Rademacher, ThreePoint

pytestmark = pytest.mark.usefixtures("float64")
LAWS = {"coin": Rademacher(), "three": ThreePoint()}


def one(value):
    return torch.tensor([[value]])


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_coins_are_binomial_and_their_bridges_hypergeometric(n):
    walk, size = dd.LatticeWalk(Rademacher(), n, 0.5), 0.5
    ups = torch.arange(n + 1.0)
    x = (size * (2 * ups - n)).unsqueeze(1)
    found = walk.marginal(torch.zeros_like(x), n).log_prob(x)
    goal = torch.tensor(stats.binom(n, 0.5).logpmf(ups.numpy()))
    torch.testing.assert_close(found, goal, rtol=1e-11, atol=1e-11)
    if n > 1:
        s, total = n // 2, n // 3
        end = one(size * (2 * total - n) + 3.0)
        i = torch.arange(s + 1.0)
        y = (3.0 + size * (2 * i - s)).unsqueeze(1)
        law = walk.bridge(one(3.0).expand(y.shape), end.expand(y.shape), s, n)
        goal = torch.tensor(stats.hypergeom(n, total, s).logpmf(i.numpy()))
        torch.testing.assert_close(law.log_prob(y), goal, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("s", "t"), [(1, 2), (2, 5), (1, 5)])
@pytest.mark.parametrize("name", LAWS)
def test_laws_are_those_of_all_paths(name, s, t):
    law = LAWS[name]
    points, chances = law.points.tolist(), law.log_probs.exp().tolist()
    whole, early = {}, {}
    for path in itertools.product(range(len(points)), repeat=t):
        p = math.prod(chances[j] for j in path)
        at = [k * points[0] + sum(path[:k]) * (points[1] - points[0]) for k in (s, t)]
        whole[at[1]] = whole.get(at[1], 0) + p
        early[tuple(at)] = early.get(tuple(at), 0) + p
    walk = dd.LatticeWalk(law, 5)
    for z, p in whole.items():
        found = walk.marginal(one(0.0), t).log_prob(one(z))
        assert float(found.exp()) == pytest.approx(p, rel=1e-9)
        mean = sum(y * q for (y, end), q in early.items() if end == z) / p
        assert float(walk.bridge(one(0.0), one(z), s, t).mean) == pytest.approx(mean, abs=1e-8)
        assert mean == pytest.approx(s / t * z, abs=1e-8)
    for (y, z), p in early.items():
        found = walk.bridge(one(0.0), one(z), s, t).log_prob(one(y))
        assert float(found.exp()) == pytest.approx(p / whole[z], rel=1e-9)


def test_moments_and_the_central_limit():
    """(C4) the weak error of the coin is −2 / 24n of the fourth derivative: exactly cosⁿ(1/√n)."""
    for n in (16, 64, 256):
        walk = dd.LatticeWalk(Rademacher(), n, n**-0.5)
        law = walk.marginal(one(0.0), n).base_dist
        assert float(law.variance) == pytest.approx(1.0, rel=1e-10)
        x = torch.arange(-n, n + 1, 2.0).unsqueeze(1) / math.sqrt(n)
        wave = (walk.marginal(torch.zeros_like(x), n).log_prob(x).exp() * x[:, 0].cos()).sum()
        assert float(wave) == pytest.approx(math.cos(n**-0.5) ** n, rel=1e-10)
        assert float(wave - math.exp(-0.5)) == pytest.approx(-2 / 24 / n * math.exp(-0.5), rel=0.1)


def test_the_mean_of_the_data_says_the_coins_step_back():
    """Exact's law of one step back is that of its mean, which no other law grants."""
    data, weights = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([0.2, 0.5, 0.3])
    walk = dd.LatticeWalk(Rademacher(), 6, 0.5)
    exact = dd.Exact(walk.process, data, weights)
    x, t = one(1.0), walk.times[3:4]
    goal = walk.bridge(exact(x, t), x, 3, 4)
    found = walk.bridge(exact.as_(dd.heads.Mean)(x, t), x, 3, 4)
    for y in (0.5, 1.5):
        assert float(found.log_prob(one(y))) == pytest.approx(float(goal.log_prob(one(y))))


def worst_half_logit(n):
    """Of n coins of variance 1/n each: (log p(up) - log p(down)) / 2 sd, less the score."""
    data, weights = torch.tensor([[0.0], [1.0]]), torch.tensor([0.4, 0.6])
    walk, sd = dd.LatticeWalk(Rademacher(), n, n**-0.5), n**-0.5
    x = (sd * torch.arange(-2 * math.isqrt(n), 3 * math.isqrt(n) + 1, 2.0)).unsqueeze(1)
    said = dd.Exact(walk.process, data, weights)(x, walk.times[n - 1].expand(len(x)))
    law = walk.bridge(said, x, n - 1, n)
    found = (law.log_prob(x + sd) - law.log_prob(x - sd)) / (2 * sd)
    normal = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weights),
        torch.distributions.Normal(data.squeeze(1), 1.0),
    )
    x = x.squeeze(1).requires_grad_(True)
    (score,) = torch.autograd.grad(normal.log_prob(x).sum(), x)
    return float((found - score).abs().max())


def test_half_logits_of_coins_back_are_the_score_to_first_order():
    """The error is of the size of a step's variance: a fourth of it at four times the steps."""
    errors = [worst_half_logit(n) for n in (64, 256, 1024)]
    print(errors)
    assert errors[0] < 0.05
    for before, after in itertools.pairwise(errors):
        assert before / after == pytest.approx(4, rel=0.05)


def test_the_bound_of_the_exact_head_is_the_entropy():
    """Enumerated: E[-log p] over steps back, with the exact head, is H(p_0) at the true prior."""
    data, weights = torch.tensor([[0.0], [2.0]]), torch.tensor([0.3, 0.7])
    walk = dd.LatticeWalk(Rademacher(), 3, 1.0)
    head = dd.Exact(walk.process, data, weights).as_(dd.heads.Mean)
    x_0 = data[torch.multinomial(weights, 20_000, True)]
    grid = torch.arange(-3.0, 6.0).unsqueeze(1)
    each = [walk.marginal(a.expand(grid.shape), 3).log_prob(grid).exp() for a in data]
    last = torch.stack(each, 1)
    mixed = last @ weights
    left = weights @ torch.xlogy(last, last / mixed.clamp(min=1e-300).unsqueeze(1)).sum(0)
    found = dd.vlb(walk, head, x_0)
    rest = (found.steps + found.reconstruction).mean() + left
    entropy = -float((weights * weights.log()).sum())
    assert float(rest) == pytest.approx(entropy, abs=0.03)


@pytest.mark.parametrize("kind", ["exact", "mean"])
def test_runs_return_to_the_data(kind):
    data, weights = torch.tensor([[-1.0], [2.0]]), torch.tensor([0.3, 0.7])
    walk = dd.LatticeWalk(Rademacher(), 40, 0.5)
    exact = dd.Exact(walk.process, data, weights)
    x_0 = data[torch.multinomial(weights, 3000, True)]
    start = walk.marginal(x_0, 40).sample()
    head = exact if kind == "exact" else exact.as_(dd.heads.Mean)
    x = start
    for k in range(40, 1, -1):
        x = walk.bridge(head(x, walk.times[k - 1].expand(3000)), x, k - 1, k).sample()
    x = walk.bridge(head(x, walk.times[0].expand(3000)), x, 0, 1).sample()
    assert set(x[:, 0].tolist()) == {-1.0, 2.0}
    assert float((x > 0).double().mean()) == pytest.approx(0.7, abs=0.04)


@pytest.mark.parametrize("name", LAWS)
def test_the_certificate_holds_and_finds_errors(name, monkeypatch):
    walk = lambda: dd.LatticeWalk(LAWS[name], 5, 0.5)
    x = torch.tensor([[0.0], [1.0]])
    assert dd.check(walk(), x)
    right = LatticeSums._sums

    def spoilt(self):
        table = right(self).clone()
        table[3, :4] = table[3, :4].exp().sqrt().log()
        return table

    monkeypatch.setattr(LatticeSums, "_sums", spoilt)
    assert not dd.check(walk(), x)


REFUSED = {
    "density": (lambda: dd.LatticeWalk(Laplace(0.0, 1.0), 3), dd.Unsolved, "finitely many points"),
    "endless": (lambda: dd.LatticeWalk(Poisson(2.0), 3), dd.Unsolved, "finitely many points"),
    "steps": (lambda: dd.LatticeWalk(Rademacher(), 0), ValueError, "steps"),
    "size": (lambda: dd.LatticeWalk(Rademacher(), 3, 0.0), ValueError, "size must be positive"),
    "mean of many": (
        lambda: dd.LatticeWalk(ThreePoint(), 3).bridge(
            dd.estimates.Mean(one(0.0)), one(0.0), 1, 2
        ),
        dd.Unsolved,
        "single steps back of a coin",
    ),
    "far mean": (
        lambda: dd.LatticeWalk(Rademacher(), 3).bridge(
            dd.estimates.Mean(one(9.0)), one(0.0), 1, 2
        ),
        ValueError,
        "as near to x_t as steps lead",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()
