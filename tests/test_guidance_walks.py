"""Guidance under noise that is not normal, against densities that are written down here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributions as td

import discdiff as dd
from discdiff import guidance, heads, inverse, steppers
from discdiff.estimates import Data, Score

pytestmark = pytest.mark.usefixtures("float64")

DATA = torch.tensor([-1.5, -0.5, 0.5, 1.5]).double()
PRIOR, LABEL = (torch.tensor(v).double() for v in ([0.1, 0.4, 0.3, 0.2], [0.9, 0.2, 0.5, 0.05]))
BETAS = [0.3, 0.4]
LAPLACE, GAMMA = td.Laplace(0.0, 1.0), td.Gamma(3.0, 1.0)


def laplace(width):
    """The log-density of Laplace noise of this standard deviation."""
    b = width / math.sqrt(2)
    return lambda z: -z.abs() / b - math.log(2 * b)


def two_laplaces(one, two):
    """That of a sum of two, by partial fractions of 1 / (1 + a²u²)(1 + b²u²)."""
    a, b = one**2 / 2, two**2 / 2
    return lambda z: ((a * laplace(one)(z).exp() - b * laplace(two)(z).exp()) / (a - b)).log()


def gamma(width):
    """That of centred noise of shape 3."""
    root = math.sqrt(3)
    return lambda z: td.Gamma(3.0, root / width).log_prob(z + width * root)


KEPT = (1 - BETAS[0]) * (1 - BETAS[1])
WALKS = {  # a walk, and the noise after its two steps
    "steps": (dd.Walk(LAPLACE, BETAS),
              two_laplaces(math.sqrt(BETAS[0] * (1 - BETAS[1])), math.sqrt(BETAS[1]))),
    "marginals": (dd.MarginalWalk(LAPLACE, BETAS), laplace(math.sqrt(1 - KEPT))),
    "gamma": (dd.MarginalWalk(GAMMA, BETAS), gamma(math.sqrt(1 - KEPT))),
}  # fmt: skip
X = torch.linspace(0.05, 2.2, 8).double().unsqueeze(1)  # where all of DATA lead, one-sided or not
T = torch.ones(8)


def log_p(noise, x, weights):
    """The log of Σ w p(x | a) over the data, of states (B, 1)."""
    return (noise(x - math.sqrt(KEPT) * DATA) + weights.log()).logsumexp(1)


def slope(value, x):
    at = x.clone().requires_grad_(True)
    return torch.autograd.grad(value(at).sum(), at)[0]


def exact(walk, weights=PRIOR):
    return dd.Exact(walk.process, DATA.unsqueeze(1), weights / weights.sum())


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("name", WALKS)
def test_a_classifier_of_noisy_states_tilts_the_noisy_law(name, scale):
    walk, noise = WALKS[name]
    truth = lambda x, t=None: log_p(noise, x, PRIOR * LABEL) - log_p(noise, x, PRIOR)
    goal = slope(lambda x: log_p(noise, x, PRIOR) + scale * truth(x), X)
    for head in (exact(walk), exact(walk).as_(heads.Score)):
        found = guidance.Classifier(head, truth, scale, walk.process)(X, T)
        assert isinstance(found, Score)
        torch.testing.assert_close(found.value, goal, rtol=1e-6, atol=1e-6)
    other = guidance.Classifier(head, truth, scale + 0.1, walk.process)(X, T).value
    assert float((other - goal).abs().max()) > 1e-2  # a planted error


@pytest.mark.parametrize("name", WALKS)
def test_the_true_classifier_makes_the_conditional_model(name):
    walk, noise = WALKS[name]
    truth = lambda x, t: log_p(noise, x, PRIOR * LABEL) - log_p(noise, x, PRIOR)
    found = guidance.Classifier(exact(walk), truth, 1.0, walk.process)(X, T).value
    goal = exact(walk, PRIOR * LABEL).as_(heads.Score)(X, T).value
    torch.testing.assert_close(found, goal, rtol=1e-6, atol=1e-6)


class Labelled(heads.Head):
    """Exact heads without and with the label, as one that reads a context."""

    def __init__(self, walk, kind):
        super().__init__()
        self.both, self.kind = (
            (exact(walk).as_(kind), exact(walk, PRIOR * LABEL).as_(kind)),
            kind.kind,
        )

    def forward(self, x, t, context=None):
        return self.both[context is not None](x, t)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("name", WALKS)
def test_classifier_free_scores_belong_to_the_tilted_noisy_law(name, scale):
    walk, noise = WALKS[name]
    found = guidance.ClassifierFree(Labelled(walk, heads.Score), scale)(X, T, "label").value
    both = PRIOR, PRIOR * LABEL
    goal = slope(
        lambda x: scale * log_p(noise, x, both[1]) + (1 - scale) * log_p(noise, x, both[0]), X
    )
    torch.testing.assert_close(found, goal, rtol=1e-6, atol=1e-6)


def tempered(walk, scale):
    """The score of the tilted law, and what guided means would say of it were noise normal."""
    mean, score = (
        guidance.ClassifierFree(Labelled(walk, kind), scale)(X, T, "label").value
        for kind in (heads.Mean, heads.Score)
    )
    return score, (math.sqrt(KEPT) * mean - X) / (1 - KEPT)


def test_guided_means_are_linear_in_the_score_of_normal_noise_only():
    """So the docstring says it; the process refuses to make a score of other means."""
    score, said = tempered(dd.Walk(td.Normal(0.0, 1.0), BETAS), 2.5)
    torch.testing.assert_close(said, score, rtol=1e-9, atol=1e-9)
    walk = WALKS["steps"][0]
    score, said = tempered(walk, 2.5)
    assert float((said - score).abs().max()) > 0.3
    guided = guidance.ClassifierFree(Labelled(walk, heads.Mean), 2.5)
    with pytest.raises(dd.Unsolved, match="the score from Mean"):
        walk.process.convert(guided(X, T, "label"), X, T, Score)


# -- runs -----------------------------------------------------------------------------------------

CENTERS, WIDTH = (-1.0, 1.0), 0.5  # of two classes, each with a chance of one half


class Classes:
    """Two normal classes on a walk: logarithms of both noisy laws, on a grid by quadrature."""

    def __init__(self, walk):
        self.x, self.count = torch.linspace(-9, 9, 601), len(walk.betas)
        data = torch.linspace(-4, 4, 161)
        prior = [td.Normal(c, WIDTH).log_prob(data).log_softmax(0) for c in CENTERS]
        self.tables = []
        for k in range(1, self.count + 1):
            at = walk.marginal(data.repeat_interleave(len(self.x)).unsqueeze(1), k)
            noise = at.log_prob(self.x.repeat(len(data)).unsqueeze(1)).reshape(len(data), -1)
            each = [(noise + p.unsqueeze(1)).logsumexp(0) for p in prior]
            self.tables.append(torch.stack(each))

    def log_p(self, x, t):
        """Of both classes, (2, *x.shape), linear between points."""
        table = self.tables[round(float(t[0]) * self.count) - 1]
        at = ((x - self.x[0]) / (self.x[1] - self.x[0])).clamp(0, len(self.x) - 1.001)
        return torch.lerp(table[:, at.long()], table[:, at.long() + 1], at.frac())

    def score(self, x, t):
        with torch.enable_grad():
            return slope(lambda y: self.log_p(y, t).logsumexp(0), x)

    def label(self, x, t):
        return self.log_p(x, t).log_softmax(0)[1].sum(-1)


def run(count, sign=1.0):
    """Mean and variance of draws given the second class."""
    torch.manual_seed(0)
    walk = dd.Walk(LAPLACE, dd.log_snr_betas(count, 5e-3, 0.995))
    classes = Classes(walk)
    label = lambda x, t: sign * classes.label(x, t)
    head = guidance.Classifier(heads.Score(classes.score), label, 1.0, walk.process)
    x = dd.sample(walk, head, (20_000, 1), stepper=steppers.Shift())
    return float(x.mean()), float(x.var())


def test_runs_by_the_true_classifier_tend_to_the_conditional_law():
    """N(1, 1/4), to first order in the steps, as a score is read: 0.60 and 0.258 are drawn."""
    coarse, fine = run(48), run(192)
    errors = [abs(m - CENTERS[1]) + abs(v - WIDTH**2) for m, v in (coarse, fine)]
    assert errors[1] < 0.03 and errors[1] < errors[0] / 4, (coarse, fine)
    assert run(48, sign=-1.0)[0] < 0  # a planted error


@pytest.mark.parametrize("kind", [dd.LevyWalk, dd.MarginalWalk])
def test_scores_are_refused_where_steps_jump(kind):
    walk = kind(LAPLACE, BETAS)
    head = heads.Score(lambda x, t: -x)
    with pytest.raises(dd.Unsolved, match="rare jumps.*right in the limit"):
        dd.sample(walk, head, (2, 1), stepper=steppers.Shift())
    normal = kind(td.Normal(0.0, 1.0), BETAS)
    assert bool(dd.sample(normal, head, (2, 1), stepper=steppers.Shift()).isfinite().all())


def off(kind, count):
    """How far the mean of a step, per unit of its variance, is from what the score says of it."""
    walk = kind(LAPLACE, [-math.expm1(-1.0 / count)] * count)
    engine, k = walk.steps.engine, count // 2 + 1
    x_0, x = torch.full((6, 1), 0.3), torch.tensor([[-2.0], [-1.0], [-0.5], [0.6], [1.5], [2.5]])
    s, t = torch.full((6,), k - 1), torch.full((6,), k)
    score = engine.score(Data(x_0), x, t).gradient
    mean = engine.step_mean(Data(x_0), x, s, t)
    beta = float(walk.betas[0])
    first = (x + beta * score) / math.sqrt(1 - beta)
    return float(((mean - first) / beta).abs().max())


def test_the_score_says_the_mean_of_small_steps_unless_they_jump():
    """What is refused would not vanish with the steps, in which it is exact for a single datum."""
    assert off(dd.Walk, 64) < off(dd.Walk, 8) / 2
    for kind in (dd.LevyWalk, dd.MarginalWalk):
        assert off(kind, 64) > off(kind, 8) > 3


# -- known entries --------------------------------------------------------------------------------

PAIRS = torch.tensor([[-1.0, 0.0], [0.5, 1.0], [0.5, -1.0], [0.5, 0.5], [1.5, 0.5]]).double()
CHANCES = torch.tensor([0.3, 0.1, 0.25, 0.15, 0.2]).double()
SEEN = PAIRS[:, 0] == 0.5


@pytest.mark.parametrize("kind", [dd.Walk, dd.MarginalWalk, dd.ReverseWalk])
def test_known_entries_of_a_walk_are_infilled_exactly(kind):
    """The known entry stands still, and runs end in the other with its law given the first."""
    torch.manual_seed(0)
    walk = kind(LAPLACE, dd.log_snr_betas(4, 0.1, 0.95))
    mask = torch.tensor([True, False])
    held = walk.process.given((torch.tensor([0.5, 0.0]), mask))
    goal = CHANCES[SEEN] / CHANCES[SEEN].sum()
    head, chain = dd.Exact(held, PAIRS[SEEN], goal), held.at(walk.times)
    start = held.marginal(PAIRS[SEEN][torch.multinomial(goal, 4000, replacement=True)], 1.0)
    x = dd.sample(chain, head, (4000, 2), start=start.sample(), stepper=steppers.Ancestral())
    assert bool((x[:, 0] == 0.5).all())
    found = (torch.cdist(x, PAIRS[SEEN]) < 1e-9).double().mean(0)
    assert bool(((found - goal).abs() < 4 * (goal * (1 - goal) / 4000).sqrt()).all()), found
    uniform = torch.full((3,), 1 / 3)
    assert float(((found - uniform).abs() / (2 / 9 / 4000) ** 0.5).max()) > 8


def test_what_is_seen_with_little_noise_is_known():
    """Reweighted data tend to those that agree with the known entry."""
    walk = dd.Walk(LAPLACE, dd.log_snr_betas(4, 0.1, 0.95))
    seen = torch.tensor([[1.0, 0.0]]), torch.tensor([0.5]), 1e-3
    head = inverse.Reweighted(dd.Exact(walk.process, PAIRS, CHANCES), *seen)
    torch.manual_seed(0)
    x, t = torch.randn(6, 2), torch.full((6,), 0.5)
    agreed = dd.Exact(walk.process, PAIRS[SEEN], CHANCES[SEEN] / CHANCES[SEEN].sum())
    found = head(x, t).log_weights.exp()
    torch.testing.assert_close(found[:, SEEN], agreed(x, t).log_weights.exp())
    assert float(found[:, ~SEEN].max()) < 1e-12
