"""Bridges are asked for between states that a path joins, and others are refused."""

import pytest
import torch

import discdiff as dd

pytestmark = pytest.mark.usefixtures("float64")

ONE_WAY = torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
IMPOSSIBLE = {
    "mask": (lambda: dd.Replace(dd.one_hot(2, 3)), 0, 1),
    "masks of their own": (lambda: dd.Masking([1.0, 2.0]), 0, 1),
    "killing": (lambda: dd.Killing(dd.Reflecting(3)), 3, 1),
    "dense": (lambda: dd.RateMatrix(ONE_WAY), 1, 0),
    "sites": (lambda: dd.RateMatrix(ONE_WAY, sites=(3, 1)), [1, 0], [0, 0]),
    "tree": (lambda: dd.Clusters([[0, 0, 1, 1]]), 0, 3),
    "low rank": (lambda: dd.LowRank([[1.0], [1.0]], [[0.0], [1.0]]), 1, 0),
    "factors": (lambda: dd.Kronecker(dd.RateMatrix(ONE_WAY), dd.Ring(3)), 3, 0),
    "death": (lambda: dd.Death(), 1.0, 3.0),
    "birth": (lambda: 0.5 * dd.Birth() + dd.Immigration(0.0), 3.0, 1.0),
}


def states(value, count=2):
    return torch.tensor([value] * count).reshape(count, 1, *torch.tensor(value).shape)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_bridges_of_impossible_pairs_are_refused(name):
    make, start, end = IMPOSSIBLE[name]
    x_0, x_t = states(start), states(end)
    with pytest.raises(ValueError, match=r"must have p\(x_t \| x_0\) > 0 .*; x_t contains"):
        make().bridge(x_0, x_t, 0.2, 0.5)
    with pytest.raises(ValueError, match=r"p\(x_t \| x_0\) > 0"):
        make().on(dd.clock.Constant(2.0)).bridge(x_0, x_t, 0.2, 0.5)
    law = make().bridge(x_0, x_0, 0.2, 0.5)
    assert bool(law.sample().isfinite().all())


@pytest.mark.parametrize("make", [lambda: dd.Reflecting(4), lambda: dd.Replace([0.5, 0.5])])
def test_what_is_possible_later_is_impossible_at_once(make):
    x_0, x_t = states(0), states(1)
    with pytest.raises(ValueError, match=r"x_t contains \[1, 1\] where x_0 is \[0, 0\]"):
        make().bridge(x_0, x_t, 0.0, 0.0)
    assert torch.equal(make().bridge(x_0, x_t, 0.0, 0.5).sample(), x_0)


def test_the_column_of_a_table_is_named():
    table = dd.Product(a=dd.Ring(3), b=dd.Replace(dd.one_hot(2, 3)))
    x_0, x_t = ({"a": states(0), "b": states(b)} for b in (0, 1))
    with pytest.raises(ValueError, match="x_0 and x_t of 'b' must have"):
        table.bridge(x_0, x_t, 0.2, 0.5)


def test_known_entries_stay_also_where_all_others_are_masked():
    """At Λ = ∞ every token is the mask, but for those that are given."""
    masked = dd.Killing(dd.Reflecting(2)).on(dd.clock.LogLinear())
    x_0, x_t = torch.tensor([[1, 0]]), torch.tensor([[1, 2]])
    process = masked.given((x_0, torch.tensor([[True, False]])))
    assert int(process.bridge(x_0, x_t, 0.5, 1.0).log_prob(x_0).isfinite().sum()) == 1
    for asked, state in ((masked, x_t), (process, x_0)):
        with pytest.raises(ValueError, match=r"at own times \[inf\]"):
            asked.bridge(x_0, state, 0.5, 1.0)


def test_what_was_never_touched_is_the_datum_also_at_infinity():
    """The bridge at Λ = ∞ is the limit of those from earlier, for replacement and for death."""
    for process, x in ((dd.Replace(dd.one_hot(2, 3)), states(1)), (dd.Death(), states(2.0))):
        law = process.bridge(x, x, 0.5, torch.inf)
        assert torch.equal(law.sample(), x)
        with pytest.raises(ValueError, match=r"p\(x_t \| x_0\) > 0"):
            process.bridge(x - 1, x, 0.5, torch.inf)


def test_estimates_and_unchecked_values_cost_nothing(monkeypatch):
    """Sampling steps bridge from estimates, and nothing of a chance is computed for them."""
    process = dd.Reflecting(4).on(dd.clock.Constant(2.0))
    asked = []
    kind = type(process.process.engine)
    monkeypatch.setattr(kind, "log_chance", lambda *args: asked.append(args))
    head = dd.heads.LeaveOneOut(lambda x, t: torch.zeros(*x.shape, 4))
    dd.sample(process, head, (3, 2), steps=4)
    process.bridge(head(states(1), torch.full((2,), 0.5)), states(1), 0.2, 0.5)
    exact = dd.Exact(process, torch.tensor([[0], [1]]))
    dd.sample(process, exact, (3, 1), steps=4)
    assert not asked
    dd.set_validation(False)
    try:
        process.bridge(states(0), states(3), 0.2, 0.5)
    finally:
        dd.set_validation(True)
    assert not asked
    process.bridge(states(0), states(3), 0.2, 0.5)
    assert len(asked) == 1
