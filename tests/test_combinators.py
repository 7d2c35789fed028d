"""Bounds of processes seen through combinators: those of the process inside, where they agree."""

import math
from dataclasses import replace

import pytest
import torch

import discdiff as dd
from discdiff.likelihood import prior_kl

VP = (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 3.0))
BLACKOUT = dd.Death().on(dd.clock.Logistic(15.0))
QUEUE = (dd.Death() + dd.Immigration(1.0)).on(dd.clock.Constant(2.0))
X = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
N = torch.tensor([[1.0, 2.0, 5.0], [0.0, 4.0, 5.0]], dtype=torch.float64)
MASK = torch.tensor([False, False, True])


@pytest.mark.parametrize(("process", "x"), [(VP, X), (QUEUE, N)], ids=["reals", "counts"])
def test_known_entries_cost_nothing_at_the_end(process, x):
    given = process.given((x[0], MASK))
    free = prior_kl(process, x[:, :2])
    torch.testing.assert_close(prior_kl(given, x), free, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("process", "x"), [(VP, X), (QUEUE, N)], ids=["reals", "counts"])
def test_a_label_costs_its_information_at_the_end(process, x):
    other = process.process.on(dd.clock.Constant(1.0))
    mixture = dd.Mixture([0.25, 0.75], process, other)
    state = {"label": torch.tensor([0, 1]), "state": x}
    inside = torch.stack([prior_kl(process, x)[0], prior_kl(other, x)[1]])
    label = torch.tensor([-math.log(0.25), -math.log(0.75)], dtype=torch.float64)
    found = prior_kl(mixture, state)
    torch.testing.assert_close(found.double(), inside + label, rtol=1e-6, atol=1e-6)


def test_probabilities_of_pushed_counts_sum_to_one():
    pushed = BLACKOUT.push(torch.distributions.AffineTransform(0.0, 0.5))
    points = torch.arange(6.0, dtype=torch.float64).unsqueeze(1) / 2
    law = pushed.marginal(torch.full((6, 1), 2.5, dtype=torch.float64), 0.5)
    assert abs(float(law.log_prob(points).exp().sum()) - 1) < 1e-12


def test_a_bound_through_times_ends_at_the_end():
    head = dd.Exact(BLACKOUT, N)
    for times in ([0.1, 0.5], [], [0.5, 1.5]):
        with pytest.raises(ValueError, match="end at 1"):
            dd.vlb(BLACKOUT, head, N, times)


def test_columns_may_have_any_name():
    names = {"n.x": BLACKOUT, "a b": VP}
    table = dd.Product(names)
    heads = {"n.x": dd.heads.Missing, "a b": dd.heads.Epsilon}
    net = lambda x, t: {k: torch.zeros_like(v) for k, v in x.items()}
    x = {"n.x": N, "a b": X}
    assert bool(dd.elbo(table, dd.heads.Product(net, heads), x).isfinite().all())
    assert set(dd.reverse(table, dd.Exact(table, x)).rates(x, 0.5)) == {"n.x"}
    clash = dd.Product({"a.b": BLACKOUT, "a": dd.Product(b=BLACKOUT)})
    y = {"a.b": N, "a": {"b": N}}
    with pytest.raises(ValueError, match="two parts have one name"):
        clash.score(y, y, 0.5)


def test_other_coordinates_are_refused():
    scaled = VP.scaled(lambda t: 1 / (1 + t))
    with pytest.raises(dd.Unsolved, match="ask the process"):
        scaled.score(X, X, 0.5)
    with pytest.raises(dd.Unsolved, match="ask the process"):
        dd.reverse(scaled, dd.Exact(scaled, X))
    with pytest.raises(ValueError, match="only real states"):
        BLACKOUT.scaled(lambda t: 1 / (1 + t))


def test_a_changed_number_is_seen():
    chain = dd.RateMatrix([[-1.0, 1.0], [2.0, -2.0]])
    x = torch.tensor([0, 1])
    before = chain.transition(x, 0.0, 1.0).probs
    chain.Q.copy_(2 * chain.Q)
    torch.testing.assert_close(chain.transition(x, 0.0, 0.5).probs, before, rtol=1e-12, atol=1e-12)


def test_a_diagonal_has_every_weight():
    process = (dd.Linear([-1.0, -2.0, -0.5]) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 3.0))
    for weight in (dd.weights.Simple(), dd.weights.MinSNR(5.0), dd.weights.Blackout()):
        loss = dd.loss(process, dd.heads.Epsilon(lambda x, t: x), X, 0.5, weight=weight)
        assert loss.shape == (2,)


def test_bounds_are_the_same_under_autocast():
    head = dd.heads.Posterior(lambda x, t: torch.zeros(*x.shape, 3))
    chain = dd.RateMatrix([[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]])
    process, x = chain.on(dd.clock.Constant(3.0)), torch.tensor([[0, 1], [2, 1]])
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append(dd.elbo(process, head, x))
    assert torch.equal(*values)


@pytest.mark.parametrize(
    "head",
    [dd.heads.Mean(lambda x, t: x), dd.heads.Missing(lambda x, t: x[:, :0])],
    ids=["wrong kind", "wrong shape"],
)
def test_check_fails_a_head_that_the_process_refuses(head):
    report = dd.check(BLACKOUT, N[:, :1], head=head)
    assert not report and "refused" in str(report)


class Crossed(dd.Product):
    """A product whose parts read each other's columns."""

    def leaves(self, t):
        for leaf, twin in zip(super().leaves(t), reversed(list(super().leaves(t))), strict=True):
            yield replace(leaf, get=twin.get, read=twin.read)


def test_the_parts_of_a_product_do_not_cross():
    parts = {"slow": dd.Death().on(dd.clock.Constant(1.0)), "fast": BLACKOUT}
    x = {"slow": N[:, :1], "fast": N[:, 1:2]}
    assert dd.check(dd.Product(parts), x)
    assert "sum over parts" in {row.law for row in dd.check(Crossed(parts), x).failures}


CHAIN = dd.RateMatrix([[-1.0, 1.0, 0.0], [0.5, -1.0, 0.5], [0.0, 1.0, -1.0]])
OWN_LABEL = [
    (VP, X, dd.steppers.Euler()),
    (VP, X, dd.steppers.Heun()),
    (VP, X, dd.steppers.Exponential()),
    (CHAIN.on(dd.clock.Constant(3.0)), X.long().abs(), dd.steppers.Euler()),
    (CHAIN.on(dd.clock.Constant(3.0)), X.long().abs(), dd.steppers.TauLeaping()),
    (CHAIN.on(dd.clock.Constant(3.0)), X.long().abs(), dd.steppers.Analytic()),
]


@pytest.mark.parametrize(("process", "x", "stepper"), OWN_LABEL)
def test_the_label_says_which_process_steps(process, x, stepper):
    other = process.process.on(dd.clock.Constant(0.01))
    mixture = dd.Mixture([0.5, 0.5], process, other)
    atoms = {"label": torch.tensor([0, 0, 1, 1]), "state": x.repeat(2, 1)}
    rows = x.repeat(10, 1)
    kinds = {"grid": [0.6, 0.3], "stepper": stepper}
    moved = []
    for label in (0, 1):
        start = {"label": torch.full((20,), label), "state": rows}
        torch.manual_seed(0)
        head, shape = dd.Exact(mixture, atoms), {"state": (20, 3)}
        moved.append(dd.sample(mixture, head, shape, start=start, **kinds)["state"])
    torch.manual_seed(0)
    alone = dd.sample(process, dd.Exact(process, x), (20, 3), start=rows, **kinds)
    torch.testing.assert_close(moved[0], alone)
    far, near = ((y - rows).double().abs().mean() for y in (alone, moved[1]))
    assert float(near) < float(far) / 3


def test_what_needs_one_tensor_is_refused_for_dicts():
    pair, mixed = dd.Product(a=VP, b=VP), dd.Mixture([0.5, 0.5], VP, VP)
    known = X[0], MASK
    for process in (pair, mixed, dd.Mixture([1.0], VP.process).on(VP.clock)):
        with pytest.raises(ValueError, match="scaled, not a dict: the parts of a"):
            process.scaled(lambda t: 1 + t)
        with pytest.raises(ValueError, match="pushed, not a dict"):
            process.push(torch.distributions.ExpTransform())
        with pytest.raises(ValueError, match="clamped, not a dict"):
            process.given(known)
    with pytest.raises(ValueError, match="clamp the scaled process"):
        VP.given(known).scaled(lambda t: 1 + t)


def test_what_a_mixture_cannot_do_is_named():
    mixed = dd.Mixture([0.5, 0.5], VP, VP)
    y = {"label": torch.tensor([0, 1]), "state": X}
    head = dd.heads.Epsilon(lambda x, t: torch.zeros_like(x["state"]))
    with pytest.raises(ValueError, match=r"mixture must be clamped.*\.given"):
        dd.sample(mixed, head, {"state": (2, 3)}, known={"state": (X, MASK)})
    with pytest.raises(dd.Unsolved, match="one sum of terms"):
        mixed.convert(y, y, 0.5, dd.estimates.Mean)
    counts, missing = dd.Mixture([0.5, 0.5], BLACKOUT, BLACKOUT), dd.heads.Missing
    silent = missing(lambda x, t: torch.zeros_like(x["state"]))
    nearest = dd.steppers.Ancestral(rounding=dd.steppers.Nearest())
    with pytest.raises(dd.Unsolved, match="Nearest rounds"):
        dd.sample(counts, silent, {"state": (2, 3)}, stepper=nearest)


def test_a_bound_in_steps_checks_its_options():
    head, options = dd.Exact(BLACKOUT, N), {"times": torch.tensor([0.5, 1.0])}
    with pytest.raises(ValueError, match="draws must be an integer ≥ 1"):
        dd.vlb(BLACKOUT, head, N, **options, draws=1.5)
    with pytest.raises(ValueError, match="stepper must be of dd.steppers; it is a str"):
        dd.vlb(BLACKOUT, head, N, **options, stepper="Euler")
    with pytest.raises(ValueError, match="process must be a Process"):
        dd.vlb(None, head, N, **options)


def test_known_entries_of_a_chain_that_has_no_transition():
    """A walk that is declared backward: clamped, it has the marginal of the other entries."""
    walk = dd.ReverseWalk(torch.distributions.Laplace(0.0, 1.0), [0.3, 0.4])
    held = walk.process.given((torch.tensor([0.5, 0.0]), torch.tensor([True, False])))
    x_0, x = torch.tensor([[0.5, -1.0]]).double(), torch.tensor([[0.5, 0.2]]).double()
    goal = walk.process.marginal(x_0[:, 1:], 0.5).log_prob(x[:, 1:])
    torch.testing.assert_close(held.marginal(x_0, 0.5).log_prob(x), goal)
