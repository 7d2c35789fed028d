"""Guided heads speak of the laws that they say they do, on spaces that are enumerated."""

from __future__ import annotations

import pytest
import torch

import discdiff as dd
from discdiff import enumeration, guidance, heads, steppers
from discdiff.estimates import Ratio
from discdiff.heads import Exact

pytestmark = pytest.mark.usefixtures("float64")

K, GAMMA, T = 3, 2.5, 0.4


def replaced():
    return dd.Replace(torch.full((K,), 1 / K)).on(dd.clock.Constant(2.0))


def masked():
    return dd.Replace(dd.one_hot(K, K + 1)).on(dd.clock.LogLinear())


def law(seed, size):
    weights = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (weights + 0.05) / (weights + 0.05).sum()


def atoms(sites):
    return torch.cartesian_prod(*[torch.arange(K)] * sites).reshape(-1, sites)


class Labelled(heads.Head):
    """What is exact given a label, and without one, as one head that reads a context."""

    def __init__(self, without, given, kind):
        super().__init__()
        self.without, self.given = without.as_(kind), given.as_(kind)
        self.kind = kind.kind

    def forward(self, x, t, context=None):
        return (self.without if context is None else self.given)(x, t)


def pair(make, kind, sites):
    """A head with a context, the joint law of data and label, and the process."""
    process, data, label = make(), law(0, K**sites), law(1, K**sites) / law(1, K**sites).max()
    given = data * label / (data * label).sum()
    without = Exact(process, atoms(sites), data)
    return process, Labelled(without, Exact(process, atoms(sites), given), kind), data, label


def noisy(process, data, sites, t):
    states = enumeration.states(process, (sites,))
    each = process.marginal(atoms(sites).repeat(len(states), 1), t)
    table = each.log_prob(states.repeat_interleave(K**sites, 0)).exp()
    return states, table.reshape(len(states), -1) @ data


@pytest.mark.parametrize("kind", [heads.Posterior, heads.LeaveOneOut])
def test_classifier_free_guidance_of_one_site_is_the_posterior_of_tilted_data(kind):
    process, head, data, label = pair(replaced, kind, 1)
    guided = guidance.ClassifierFree(head, GAMMA)
    tilted = data * label**GAMMA
    goal = Exact(process, atoms(1), tilted / tilted.sum()).as_(kind)
    x, t = torch.arange(K)[:, None], torch.full((K,), T)
    found = guided(x, t, "label").log_probs
    torch.testing.assert_close(found, goal(x, t).log_probs, rtol=1e-12, atol=1e-12)
    sampled = enumeration.marginal(
        process, guided, (1,), steppers.Analytic(), steps=4, context="label"
    )
    assert abs(float(sampled.probs.sum()) - 1) < 1e-9


@pytest.mark.parametrize("kind", [heads.Ratio, heads.Conditional])
def test_classifier_free_guidance_of_ratios_belongs_to_the_tilted_noisy_law(kind):
    process, head, data, label = pair(replaced, kind, 2)
    states, p = noisy(process, data, 2, T)
    _, given = noisy(process, data * label / (data * label).sum(), 2, T)
    tilted = (given**GAMMA * p ** (1 - GAMMA)).log()
    t = torch.full((K * K,), T)
    said = guidance.ClassifierFree(head, GAMMA)(states, t, "label")
    ratios = process.convert(said, states, T, Ratio).log_ratio
    goal = changed(states, tilted) - tilted[:, None, None]
    torch.testing.assert_close(ratios, goal, rtol=1e-11, atol=1e-11)


def changed(states, values):
    """Values of the states with one site changed, (N, 2, K)."""
    first = values.reshape(K, K)[:, states[:, 1]].T
    second = values.reshape(K, K)[states[:, 0]]
    return torch.stack([first, second], 1)


class Truth:
    """log p_t(label | x), by its table; counts the states it is asked for."""

    def __init__(self, process, data, label, sites):
        self.process, self.data, self.label, self.sites = process, data, label, sites
        self.asked = 0

    def __call__(self, x, t, context=None):
        self.asked += len(x)
        _, p = noisy(self.process, self.data, self.sites, float(t[0]))
        _, joint = noisy(self.process, self.data * self.label, self.sites, float(t[0]))
        size = round(len(p) ** (1 / self.sites))
        strides = size ** torch.arange(self.sites - 1, -1, -1)
        return (joint / p).log()[x @ strides]


@pytest.mark.parametrize("kind", [heads.Ratio, heads.Posterior, heads.LeaveOneOut])
def test_the_true_classifier_makes_the_conditional_model(kind):
    """Exactly, with D·K calls per state."""
    process, head, data, label = pair(replaced, kind, 2)
    truth = Truth(process, data, label, 2)
    guided = guidance.Classifier(head, truth, 1.0, process)
    states, t = enumeration.states(process, (2,)), torch.full((9,), T)
    given = data * label / (data * label).sum()
    goal = Exact(process, atoms(2), given).as_(heads.Ratio)(states, t)
    torch.testing.assert_close(guided(states, t).log_ratio, goal.log_ratio, rtol=1e-11, atol=1e-11)
    assert truth.asked == 9 * 2 * K


def test_the_true_classifier_of_a_masked_process_is_exact_as_it_is_filled():
    process, head, data, label = pair(masked, heads.Posterior, 2)
    truth = Truth(process, data, label, 2)
    guided = guidance.Classifier(head, truth, 1.0, process)
    given = Exact(process, atoms(2), data * label / (data * label).sum()).as_(heads.Posterior)
    x, t = torch.tensor([[K, K], [K, 1], [2, K]]), torch.full((3,), T)
    found, goal = guided(x, t).log_probs, given(x, t).log_probs
    hidden = x == K
    torch.testing.assert_close(found[hidden], goal[hidden], rtol=1e-11, atol=1e-11)
    torch.manual_seed(0)
    samples = dd.sample(process, guided, (300, 2), stepper=steppers.FirstHitting())
    assert bool((samples < K).all())


# -- counts ---------------------------------------------------------------------------------------


COUNTS = torch.cartesian_prod(torch.arange(4), torch.arange(4)).double()


def dying():
    return dd.Death().on(dd.clock.Logistic(15.0))


def arriving():
    return (dd.Death() + dd.Immigration(1.5)).on(dd.clock.Constant(1.0))


class CountTruth:
    """log p_t(label | x) of counts with a label that each item has with a chance of its own."""

    def __init__(self, process, data, label):
        self.process, self.data, self.label = process, data, label

    def __call__(self, x, t, context=None):
        many = COUNTS.repeat(len(x), 1)
        law = self.process.marginal(many, t.repeat_interleave(len(COUNTS)))
        p = law.log_prob(x.repeat_interleave(len(COUNTS), 0)).exp().reshape(len(x), -1)
        return (p @ (self.data * self.label) / (p @ self.data)).log()


def counted(make):
    """A process, its data without and with the label as exact heads, and the true classifier."""
    process, data, label = make(), law(0, 16), law(1, 16) / law(1, 16).max()
    given = Exact(process, COUNTS, data * label / (data * label).sum())
    return process, Exact(process, COUNTS, data), given, CountTruth(process, data, label)


@pytest.mark.parametrize("kind", [heads.Missing, heads.Posterior, heads.Ratio])
def test_the_true_classifier_of_counts_makes_the_conditional_model(kind):
    process, without, given, truth = counted(dying)
    guided = guidance.Classifier(without.as_(kind), truth, 1.0, process)
    t = torch.full((len(COUNTS),), 0.5)
    found = process.convert(guided(COUNTS, t), COUNTS, 0.5, heads.Missing.kind).log_value
    goal = given.as_(heads.Missing)(COUNTS, t).log_value
    torch.testing.assert_close(found, goal, rtol=1e-10, atol=1e-10)


def test_the_true_classifier_of_counts_with_arrivals_makes_the_conditional_model():
    process, without, given, truth = counted(arriving)
    x, t = torch.cat([COUNTS, COUNTS + 3]), torch.full((2 * len(COUNTS),), 0.5)
    goal = given.as_(heads.Ratio)(x, t).log_ratio
    for kind in (heads.Turnover, heads.Posterior, heads.Ratio):
        guided = guidance.Classifier(without.as_(kind), truth, 1.0, process)
        found = guided(x, t).log_ratio
        torch.testing.assert_close(found, goal, rtol=1e-9, atol=1e-9)


class Turned(guidance.Changes):
    """A planted error: one unit less where one more is asked for."""

    def __call__(self, log_prob, x, size):
        return guidance.EveryChange()(log_prob, x, 2).flip(-1)[..., :size]


def test_a_wrong_change_of_counts_is_caught():
    process, without, given, truth = counted(dying)
    guided = guidance.Classifier(without.as_(heads.Missing), truth, 1.0, process, Turned())
    x, t = COUNTS[COUNTS.sum(-1) == 2], torch.full((3,), 0.5)
    found, goal = guided(x, t).log_value, given.as_(heads.Missing)(x, t).log_value
    assert float((found - goal).abs().max()) > 0.05


def test_guided_counts_leave_infinity_and_reach_the_conditional_data():
    process, without, given, truth = counted(dying)
    guided = guidance.Classifier(without.as_(heads.Missing), truth, 1.0, process)
    torch.manual_seed(0)
    shape, grid = (4000, 2), torch.linspace(1 - 1e-9, 0, 61)
    start = process.prior(shape).sample()
    x = dd.sample(process, guided, shape, grid=grid, start=start)
    goal = dd.sample(process, given.as_(heads.Missing), shape, grid=grid, start=start)
    laws = [torch.bincount((4 * v[:, 0] + v[:, 1]).long(), minlength=16) / 4000 for v in (x, goal)]
    assert float((laws[0] - laws[1]).abs().sum() / 2) < 0.05
    assert float((laws[0] - without.weights).abs().sum() / 2) > 0.1


def test_a_maximum_changes_nothing_that_is_exact_and_holds_what_runs_away():
    process, without, given, _ = counted(dying)
    exact, t = given.as_(heads.Missing), torch.full((len(COUNTS),), 0.5)
    cut = guidance.AtMost(exact, 3, process)(COUNTS, t).log_value
    torch.testing.assert_close(cut, exact(COUNTS, t).log_value, rtol=1e-12, atol=1e-12)
    net = lambda x, t, c=None: x.new_full(x.shape, 1.0 if c is None else 3.0)
    wild = guidance.ClassifierFree(heads.Missing(net), 9.0)
    torch.manual_seed(0)
    draw = lambda head: dd.sample(process, head, (200, 2), steps=50, context=torch.ones(200))
    assert float(draw(wild).max()) > 1000
    tame = draw(guidance.AtMost(wild, 3, process))
    assert float((tame > 3).double().mean()) < 0.01 and float(tame.mean()) > 2.5


def test_first_order_guidance_of_counts_is_exact_for_a_linear_classifier():
    weights = torch.tensor([0.5, -2.0], dtype=torch.float64)
    process, without, *_ = counted(arriving)
    linear = lambda x, t: x @ weights
    t = torch.full((len(COUNTS),), 0.5)
    exact = guidance.Classifier(without.as_(heads.Ratio), linear, GAMMA)
    taylor = guidance.Classifier(
        without.as_(heads.Ratio), linear, GAMMA, changes=guidance.FirstOrder()
    )
    torch.testing.assert_close(taylor(COUNTS, t).log_ratio, exact(COUNTS, t).log_ratio)


@pytest.mark.parametrize(
    ("make", "kind"), [(dying, heads.Missing), (arriving, heads.Ratio), (arriving, heads.Turnover)]
)
def test_classifier_free_guidance_of_counts_belongs_to_the_tilted_noisy_law(make, kind):
    process, without, given, truth = counted(make)
    head = Labelled(without, given, kind)
    x = COUNTS[(COUNTS < 3).all(-1)]
    t = torch.full((len(x),), 0.5)
    said = guidance.ClassifierFree(head, GAMMA, process=process)(x, t, "label")
    found = process.convert(said, x, 0.5, Ratio).log_ratio[..., 0]
    alone = process.convert(without(x, t), x, 0.5, Ratio).log_ratio[..., 0]
    more = guidance.EveryChange()(lambda y: truth(y, torch.full((len(y),), 0.5)), x, 1)
    torch.testing.assert_close(found, alone + GAMMA * more[..., 0], rtol=1e-9, atol=1e-9)


# -- reals, and what holds everywhere -------------------------------------------------------------


def test_first_order_guidance_is_exact_for_a_linear_classifier():
    weights = torch.randn(2, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = lambda x, t: weights[torch.arange(2), x].sum(-1)
    coded = lambda code, t: (code * weights).sum((-1, -2))
    process, head, *_ = pair(replaced, heads.Ratio, 2)
    states, t = enumeration.states(process, (2,)), torch.full((9,), T)
    exact = guidance.Classifier(head, linear, GAMMA)
    taylor = guidance.Classifier(head, coded, GAMMA, changes=guidance.FirstOrder())
    torch.testing.assert_close(taylor(states, t).log_ratio, exact(states, t).log_ratio)


def test_guidance_of_real_states_moves_the_score():
    """Data N(0, 1) stay N(0, 1); a classifier of log-odds 2x shifts the law by 2γ."""
    vp = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
    x, t = torch.tensor([[-1.0], [0.5]]), torch.full((2,), 0.5)
    tilt = lambda y, t: 2 * y.sum(-1)
    score = guidance.Classifier(heads.Score(lambda y, t: -y), tilt, 0.5)
    torch.testing.assert_close(score(x, t).value, -x + 1)
    std = vp.marginal(torch.zeros(2, 1), 0.5).stddev
    epsilon = guidance.Classifier(heads.Epsilon(lambda y, t: y * std), tilt, 0.5, vp)
    torch.testing.assert_close(epsilon(x, t).value, -x + 1)
    net = lambda y, t, c=None: -y if c is None else -y + c
    for kind in (heads.Score, heads.Epsilon, heads.Velocity, heads.Mean):
        free = guidance.ClassifierFree(kind(net), 3.0)
        torch.testing.assert_close(free(x, t, 1.0).value, -x + 3)
    torch.manual_seed(0)
    phi = lambda t: (-vp.clock(t) / 2).exp()[:, None]  # data N(c, 1) are at N(φ c, 1)
    shifted = lambda y, t, c=None: -y if c is None else -y + c * phi(t)
    free = guidance.ClassifierFree(heads.Score(shifted), 3.0)
    samples = dd.sample(vp, free, (4000, 1), steps=200, context=1.0)
    assert abs(float(samples.mean()) - 3) < 0.1 and abs(float(samples.std()) - 1) < 0.1


def test_temperature_and_nucleus():
    process, head, data, _ = pair(replaced, heads.Ratio, 2)
    states, p = noisy(process, data, 2, T)
    t = torch.full((9,), T)
    cooled = guidance.Temperature(head, 0.5)(states, t).log_ratio
    goal = 2 * (changed(states, p.log()) - p.log()[:, None, None])
    torch.testing.assert_close(cooled, goal, rtol=1e-11, atol=1e-11)
    logits = torch.tensor([[0.4, 0.35, 0.15, 0.1]]).log()
    spoken = heads.Posterior(lambda x, t: logits, absent=3)
    cut = guidance.TopP(guidance.Temperature(spoken, 1.0), 0.5)
    probs = cut(torch.zeros(1).long(), torch.ones(1)).log_probs.exp()
    torch.testing.assert_close(probs, torch.tensor([[0.4, 0.35, 0, 0]]) / 0.75)
    assert cut.absent == (3,) and cut.kind is heads.Posterior.kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-3])
@pytest.mark.parametrize("kind", [heads.Posterior, heads.LeaveOneOut, heads.Conditional])
def test_at_a_low_temperature_the_likeliest_state_is_left(kind, temperature, dtype):
    """Logits beside it overflow; ties and what has no chance stay as they are."""
    logits = torch.tensor([[2.0, 1.0, -5.0, 7.0], [1, 3, 3, 0], [-3, -2, -torch.inf, 0]])
    head = kind(lambda x, t: logits.to(dtype), absent=3)
    cold = guidance.Temperature(head, temperature)(torch.zeros(3).long(), torch.ones(3))
    goal = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 1, 0, 0]])
    torch.testing.assert_close(cold.log_probs.exp(), goal.to(dtype), rtol=0, atol=0)


def test_a_classifier_at_scale_zero_does_not_guide():
    never = lambda x, t: torch.where(x[:, 0] == 2, -torch.inf, 0.0)
    head = heads.Ratio(lambda x, t: torch.linspace(0, 1, 3).expand(*x.shape, 3))
    x, t = torch.tensor([[0, 1], [2, 1]]), torch.tensor([0.5, 0.5])
    found = guidance.Classifier(head, never, 0.0)(x, t).log_ratio
    torch.testing.assert_close(found, head(x, t).log_ratio, rtol=0, atol=0)
    guided = guidance.Classifier(head, never, 1.0)(x[:1], t[:1]).log_ratio
    assert float(guided[0, 0, 2]) == -torch.inf and bool(guided[0, 1].isfinite().all())


def test_wrappers_compose_and_run():
    torch.manual_seed(0)
    process, head, *_ = pair(masked, heads.Posterior, 2)
    head.absent = (K,)
    guided = guidance.TopP(guidance.Temperature(guidance.ClassifierFree(head, 2.0), 0.8), 0.9)
    for stepper in (steppers.Ancestral(), steppers.Analytic(), steppers.FirstHitting()):
        x = dd.sample(process, guided, (20, 2), steps=6, stepper=stepper, context="label")
        assert bool((x < K).all())


def test_guidance_refuses_what_it_does_not_know():
    turnover = heads.Turnover(lambda x, t: torch.zeros(*x.shape, 2))
    with pytest.raises(dd.Unsolved, match="Temperature is not known for Turnover"):
        guidance.Temperature(turnover, 2.0)(torch.zeros(1), torch.ones(1))
    with pytest.raises(dd.Unsolved, match="TopP"):
        guidance.TopP(heads.Mean(lambda x, t: x), 0.5)(torch.zeros(1), torch.ones(1))
    with pytest.raises(dd.Unsolved, match="ClassifierFree"):
        guidance.ClassifierFree(turnover, 2.0)(torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="needs the process"):
        guidance.Classifier(heads.Mean(lambda x, t: x), lambda x, t: x.sum(-1))
    for make in (lambda: guidance.Temperature(turnover, 0.0), lambda: guidance.TopP(turnover, 2)):
        with pytest.raises(ValueError, match="must"):
            make()
    with pytest.raises(dd.Unsolved, match="AtMost cuts what is missing"):
        guidance.AtMost(turnover, 3, replaced())
    with pytest.raises(ValueError, match="maximum must be"):
        guidance.AtMost(turnover, -1, dying())
    with pytest.raises(ValueError, match="must say the same"):
        guidance.ClassifierFree(turnover, 2.0, unconditional=heads.Mean(lambda x, t: x))


RATIO = heads.Ratio(lambda x, t: torch.zeros(*x.shape, 3))


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (lambda: guidance.ClassifierFree(RATIO, float("nan")), "scale must be a finite number"),
        (lambda: guidance.ClassifierFree(RATIO, "2"), "scale must be a finite number; it is '2'"),
        (lambda: guidance.ClassifierFree(RATIO, 2.0, unconditional=torch.sin), "head must be"),
        (lambda: guidance.ClassifierFree(RATIO, 2.0, process=3), "process must be a Process"),
        (lambda: guidance.Classifier(RATIO, torch.sin, process="p"), "process must be a Process"),
        (lambda: guidance.Classifier(RATIO, torch.sin, changes="first"), "EveryChange"),
        (lambda: guidance.Temperature(RATIO, float("inf")), "temperature must be a finite number"),
        (lambda: guidance.Temperature(RATIO, None), "temperature must be a finite number"),
        (lambda: guidance.TopP(RATIO, "0.5"), "mass must be a finite number"),
        (lambda: guidance.Classifier(RATIO, "net"), "log_prob must be a function"),
        (lambda: guidance.Classifier(RATIO, lambda x, t: x.sum(1), float("inf")), "finite number"),
        (
            lambda: guidance.Classifier(RATIO, lambda x, t: torch.zeros(1))(
                torch.tensor([[0, 1]]), torch.tensor([0.5])
            ),
            r"shape \(6,\); it returned \(1,\)",
        ),
    ],
)
def test_wrong_guides_are_refused(wrong, rule):
    with pytest.raises(ValueError, match=rule):
        wrong()
