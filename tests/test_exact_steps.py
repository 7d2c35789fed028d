r"""Exact reverse simulation, against the law of the model by the forward equation of its rates.

The heads are networks that were never trained, so that nothing but exactness for *their* rates
makes draws and law agree. The total variation of the draws is compared with that of as many draws
from the law itself, and χ² may lie 4 standard deviations above its mean.
"""

from __future__ import annotations

import pytest
import torch

import discdiff as dd
from discdiff import enumeration, heads, steppers
from discdiff.enumeration import marginal
from discdiff.heads import Exact

pytestmark = pytest.mark.usefixtures("float64")

K, DRAWS = 4, 100_000


class Net:
    """Logits of a site from the other sites and the time; counts its calls."""

    def __init__(self, size, timed=True):
        generator = torch.Generator().manual_seed(5)
        self.table = 1.5 * torch.randn(size, size, generator=generator, dtype=torch.float64)
        self.timed, self.calls = timed, 0

    def __call__(self, x, t):
        self.calls += 1
        rows = self.table[x]
        others = rows.sum(1, keepdim=True) - rows
        return others * (1 + t[:, None, None]) if self.timed else others


def replaced():
    return dd.Replace(torch.full((K,), 1 / K)).on(dd.clock.Constant(4.0))


def tilted():
    return dd.Replace(torch.tensor([0.4, 0.3, 0.2, 0.1])).on(dd.clock.LogLinear())


def masked():
    return dd.Replace(dd.one_hot(K - 1, K)).on(dd.clock.Cosine())


def walk():
    Q = torch.diag(torch.ones(K - 1), 1) + torch.diag(torch.ones(K - 1), -1)
    return dd.RateMatrix(Q - Q.sum(1).diag()).on(dd.clock.Linear(0.5, 8.0))


def standard_deviations(x, law, draws):
    """How far χ² lies above its mean; the total variation is printed beside that of the law."""
    seen = torch.bincount(law.index(x), minlength=len(law.probs))
    own = torch.bincount(torch.multinomial(law.probs, draws, True), minlength=len(law.probs))
    tv = [float((k / draws - law.probs).abs().sum() / 2) for k in (seen, own)]
    kept = law.probs > 1e-12
    assert int(seen[~kept].sum()) == 0
    mean, freedom = draws * law.probs[kept], int(kept.sum()) - 1
    excess = float(((seen[kept] - mean) ** 2 / mean).sum() - freedom) / (2 * freedom) ** 0.5
    print(f"total variation {tv[0]:.4f}, floor {tv[1]:.4f}; χ² {excess:.2f} deviations")
    return excess


THINNED = {
    "uniform": (replaced, heads.LeaveOneOut, {}),
    "uniform, bound": (replaced, heads.LeaveOneOut, {"bound": 60.0}),
    "not uniform, from infinity": (tilted, heads.LeaveOneOut, {}),
    "masked": (masked, lambda net: heads.Posterior(net, absent=K - 1), {}),
}


@pytest.mark.parametrize("name", THINNED)
@pytest.mark.parametrize("kind", [steppers.Uniformization, steppers.Gillespie])
def test_thinning_is_exact_for_the_rates_of_the_head(kind, name):
    torch.manual_seed(1)
    make, head, options = THINNED[name]
    process, net = make(), Net(K)
    law = marginal(process, head(net), (2,))
    most = name == "uniform" and kind is steppers.Uniformization
    net.calls, draws = 0, DRAWS if most else 2000 if options else 10_000
    x = dd.sample(process, head(net), (draws, 2), steps=1, stepper=kind(**options))
    print(f"{kind.__name__}, {name}: {net.calls} calls")
    assert standard_deviations(x, law, draws) < 4


@pytest.mark.parametrize("kind", [steppers.Uniformization, steppers.Gillespie])
def test_thinning_of_a_dense_chain(kind):
    torch.manual_seed(2)
    process, net = walk(), Net(K)
    law = marginal(process, heads.LeaveOneOut(net), (2,))
    x = dd.sample(process, heads.LeaveOneOut(net), (3000, 2), steps=2, stepper=kind())
    assert standard_deviations(x, law, 3000) < 4


@pytest.mark.parametrize("make", [replaced, walk])
def test_thinning_decodes_a_head_that_does_not_decay(make):
    """At an own time of 1e-9, as the likelihood does there; the limit of the rates is another."""
    torch.manual_seed(2)
    process, head = make(), heads.Posterior(Net(K))
    stop = float(process.clock.inverse(torch.tensor(dd.steppers.thinning.NEAR).double()))
    space = marginal(process, head, (2,))
    law = enumeration.log_prob(process, head, space.states, stop=stop).exp()
    decoded = enumeration.Enumerated(space.states, law, space.strides)
    x = dd.sample(process, head, (3000, 2), steps=1, stepper=steppers.Gillespie())
    assert standard_deviations(x, decoded, 3000) < 4
    assert standard_deviations(x, space, 3000) > 20


@pytest.mark.parametrize("kind", [steppers.Uniformization, steppers.Gillespie])
def test_thinning_of_a_table(kind):
    """Two parts on different clocks, and a head that sees both."""
    torch.manual_seed(3)
    process = dd.Product(a=replaced(), b=dd.Replace(dd.one_hot(2, 3)).on(dd.clock.LogLinear()))

    def net(x, t):
        seen = x["a"].double() - x["b"]
        return {"a": (seen[:, None] * torch.linspace(-1, 1, K)).exp(),
                "b": torch.sin(seen[:, None] + torch.arange(3.0) + t[:, None])}  # fmt: skip

    head = heads.Product(net, a=heads.LeaveOneOut, b=heads.Posterior(absent=2))
    law = marginal(process, head, {"a": (), "b": ()})
    x = dd.sample(process, head, {"a": (8000,), "b": (8000,)}, steps=2, stepper=kind())
    assert standard_deviations(x, law, 8000) < 4


@pytest.mark.parametrize("kind", [steppers.Uniformization, steppers.Gillespie])
def test_a_bound_that_is_too_low_raises(kind):
    head = heads.LeaveOneOut(Net(K))
    with pytest.raises(ValueError, match="times the bound on its rate"):
        dd.sample(replaced(), head, (200, 2), steps=4, stepper=kind(bound=0.4))
    with pytest.raises(ValueError, match="bound must be > 0"):
        kind(bound=-1.0)


def test_thinning_needs_a_bound_for_ratios():
    exact = Exact(replaced(), torch.tensor([[0, 1], [2, 3]]))
    start = torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(dd.Unsolved, match="Ratio"):
        dd.sample(replaced(), exact.as_(heads.Ratio), (3, 2), stepper=steppers.Gillespie(),
                  start=start)  # fmt: skip
    urn = dd.Ehrenfest(4).on(dd.clock.Constant(1.0))
    counts = Exact(urn, torch.arange(5.0), torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1]))
    with pytest.raises(dd.Unsolved, match="no bound"):
        dd.sample(urn, counts, (3,), stepper=steppers.Uniformization())
    torch.manual_seed(0)
    x = dd.sample(urn, counts, (5000,), steps=1, stepper=steppers.Uniformization(bound=25.0))
    assert standard_deviations(x, marginal(urn, counts, ()), 5000) < 4


@pytest.mark.parametrize("make", [replaced, tilted, masked, walk])
def test_the_bound_is_the_largest_rate_of_any_datum(make):
    process, t = make(), torch.tensor([0.3, 0.6]).double()
    (leaf,) = process.leaves(t)
    x = torch.arange(K)
    found = steppers_bounds(leaf)
    for k, time in enumerate(t):
        (at,) = process.leaves(time.expand(K))
        worst = torch.zeros(K)
        for datum in range(K):
            given = dd.estimates.Data(torch.full((K,), datum))
            possible = process.marginal(torch.full((K,), datum), float(time)).log_prob(x) > -99
            rates = dd.steppers.jumps.reversal(at, given, x).rates.sum(-1)
            worst = torch.maximum(worst, torch.where(possible, rates, 0.0))
        torch.testing.assert_close(found[k], worst, rtol=1e-12, atol=1e-13)


def steppers_bounds(leaf):
    return dd.steppers.thinning.exit_bounds(leaf, leaf.time)


# -- first hitting --------------------------------------------------------------------------------


@pytest.mark.parametrize("timed", [True, False])
def test_first_hitting_is_exact_with_one_call_per_site(timed):
    torch.manual_seed(4)
    process, net = masked(), Net(K, timed)
    head = heads.Posterior(net, absent=K - 1)
    law = marginal(process, head, (3,))
    net.calls = 0
    x = dd.sample(process, head, (DRAWS, 3), stepper=steppers.FirstHitting())
    assert net.calls == 3
    assert standard_deviations(x, law, DRAWS) < 4


def test_first_hitting_on_data_finds_the_data():
    torch.manual_seed(5)
    process, atoms = masked(), torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1], [0, 0, 0, 2]])
    weights = torch.tensor([0.2, 0.5, 0.3])
    x = dd.sample(process, Exact(process, atoms, weights), (20_000, 4),
                  stepper=steppers.FirstHitting())  # fmt: skip
    seen = (x.unsqueeze(1) == atoms).all(-1).double()
    assert bool((seen.sum(1) == 1).all())
    torch.testing.assert_close(seen.mean(0), weights, rtol=0, atol=0.015)


def test_first_hitting_times_are_those_of_the_process():
    """The share that is still masked at s is (1 − α_s)/(1 − α_t)."""
    torch.manual_seed(6)
    process = masked()
    head = heads.Posterior(Net(K), absent=K - 1)
    for t, s in ((1.0, 0.6), (0.8, 0.3)):
        x = torch.full((5000, 8), K - 1)
        y = dd.sample(process, head, (5000, 8), grid=[t, s], stepper=steppers.FirstHitting(),
                      start=x)  # fmt: skip
        share = [1 - float(process.clock.survival(torch.tensor(v).double())) for v in (s, t)]
        assert abs(float((y == K - 1).double().mean()) - share[0] / share[1]) < 0.012


def test_first_hitting_of_a_prompt_and_a_table():
    torch.manual_seed(7)
    process, net = masked(), Net(K)
    head = heads.Posterior(net, absent=K - 1)
    known = torch.tensor([2, 1, 0, 0]), torch.tensor([True, True, False, False])
    x = dd.sample(process, head, (50, 4), stepper=steppers.FirstHitting(), known=known)
    assert net.calls == 2 and bool((x[:, :2] == known[0][:2]).all()) and bool((x < K - 1).all())
    table = dd.Product(a=masked(), b=dd.Replace(dd.one_hot(0, 3)).on(dd.clock.LogLinear()))
    spoken = lambda x, t: {"a": torch.zeros(*x["a"].shape, K), "b": torch.zeros(len(t), 3)}
    head = heads.Product(spoken, a=heads.Posterior(absent=K - 1), b=heads.Posterior(absent=0))
    x = dd.sample(table, head, {"a": (9, 2), "b": (9,)}, stepper=steppers.FirstHitting())
    assert bool((x["a"] < K - 1).all()) and bool((x["b"] > 0).all())


def test_first_hitting_refuses_what_is_not_masked():
    with pytest.raises(dd.Unsolved, match="does not mask all states at one rate"):
        dd.sample(replaced(), heads.LeaveOneOut(Net(K)), (2, 2), stepper=steppers.FirstHitting())
    torch.manual_seed(8)
    with pytest.raises(ValueError, match="declare the mask absent"):
        dd.sample(masked(), heads.Posterior(Net(K)), (40, 2), stepper=steppers.FirstHitting())


# -- likelihoods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform", "not uniform, from infinity", "masked"])
def test_the_bound_is_below_the_exact_likelihood(name):
    make, kind, _ = THINNED[name]
    process, head = make(), kind(Net(K))
    states = enumeration.states(process, (2,))
    law = enumeration.log_prob(process, head, states)
    assert abs(float(law.exp().sum()) - 1) < 1e-9
    kept = law > -30  # no model of masked data ends at a mask
    bound = -(dd.likelihood.prior_kl(process, states[kept])
              + dd.expectation.expected_path_kl(process, head, states[kept]))  # fmt: skip
    gap = law[kept] - bound
    print(f"{name}: gap from {float(gap.min()):.4f} to {float(gap.max()):.4f} nats")
    assert float(gap.min()) > -1e-7 and float(gap.max()) > 1e-3


@pytest.mark.parametrize("make", [replaced, walk])
def test_the_exact_head_has_the_likelihood_of_the_data(make):
    """From the marginal at 1 the reverse equation leads back to the data: to 1e-9."""
    process = make()
    states = enumeration.states(process, (2,))
    data = torch.rand(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = data / data.sum()
    exact = Exact(process, states, data)
    ends = process.marginal(states.repeat_interleave(16, 0), 1.0).log_prob(states.repeat(16, 1))

    class End:
        def log_prob(self, x):
            return (data @ ends.exp().reshape(16, 16)).log()

    law = enumeration.log_prob(process, exact, states, prior=End())
    gap = float((law - data.log()).abs().max())
    print(f"{make.__name__}: log-likelihood off by {gap:.1e}")
    assert gap < 1e-9
    identity = float(dd.expectation.entropy_gap(process, exact, states, data))
    print(f"{make.__name__}: E[path-KL] − entropy {identity:.1e}")
    assert abs(identity) < 1e-8


def test_a_head_that_does_not_decay_is_decoded():
    process, head = replaced(), heads.Posterior(Net(K))
    states = enumeration.states(process, (2,))
    law = enumeration.log_prob(process, head, states)
    assert abs(float(law.exp().sum()) - 1) < 1e-9
    torch.manual_seed(0)
    bound = torch.stack([dd.elbo(process, head, states) for _ in range(600)]).mean(0)
    assert float((law - bound).min()) > -0.1


def test_enumeration_refuses_what_is_not_finite():
    real = (dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
    with pytest.raises(dd.Unsolved, match="not finite"):
        enumeration.states(real, (2,))
    with pytest.raises(ValueError, match="too many"):
        enumeration.states(replaced(), (12,))
    with pytest.raises(dd.Unsolved, match="no law"):
        marginal(replaced(), heads.LeaveOneOut(Net(K)), (2,), steppers.Uniformization())


def test_the_law_of_a_masked_model_with_an_exact_head():
    """From a certain prior nothing moves at first: the first step must not pass t = 0."""
    masked = dd.Replace(dd.one_hot(2, 3)).on(dd.clock.LogLinear())
    pairs, p = torch.tensor([[0, 0], [0, 1], [1, 1]]), torch.tensor([0.5, 0.2, 0.3])
    law = marginal(masked, dd.Exact(masked, pairs, p.double()), (2,))
    torch.testing.assert_close(law.log_prob(pairs).exp(), p.double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("make", [masked, walk])
def test_the_law_of_a_network_in_float32(make):
    """No step errs by less than its rates are rounded, so none may be asked to."""
    kind = heads.LeaveOneOut(Net(K)) if make is walk else heads.Posterior(Net(K), absent=K - 1)
    fine, net = marginal(make(), kind, (2,)).probs, Net(K)
    net.table = net.table.float()

    def coarse(x, t):
        assert net.calls < 3000, "the steps do not end"
        return net(x, t.float())

    head = type(kind)(coarse, absent=kind.absent)
    torch.testing.assert_close(marginal(make(), head, (2,)).probs, fine, rtol=1e-5, atol=1e-9)
    torch.set_default_dtype(torch.float32)
    found = marginal(make().float(), head, (2,)).probs
    torch.testing.assert_close(found, fine, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.2, 0.02])
def test_slow_processes_are_enumerated_to_the_end_of_their_own_time(rate):
    r"""Data fade like :math:`(1 - t)^{rate}`, with a singular slope at t = 1.

    The exact head leads from the limit to the data; so does a network that says the law of one
    site, which nothing seen of it changes: closed forms both.
    """
    slow = (rate * dd.Replace(torch.full((3,), 1 / 3))).on(dd.clock.LogLinear())
    pairs, p = torch.tensor([[0, 1], [1, 1], [2, 0]]), torch.tensor([0.5, 0.2, 0.3])
    law = marginal(slow, dd.Exact(slow, pairs, p), (2,))
    torch.testing.assert_close(law.log_prob(pairs).exp(), p, rtol=1e-10, atol=0)
    said = heads.LeaveOneOut(lambda x, t: p.log().expand(*x.shape, 3))
    torch.testing.assert_close(marginal(slow, said, (1,)).probs, p, rtol=1e-10, atol=0)


def test_slow_masks_of_their_own_are_enumerated():
    slow = dd.Masking([0.2, 1.0, 1.0]).on(dd.clock.LogLinear())
    p = torch.tensor([0.5, 0.2, 0.3])
    law = marginal(slow, dd.Exact(slow, torch.tensor([[0], [1], [2]]), p), (1,))
    torch.testing.assert_close(law.probs[:3], p, rtol=1e-8, atol=0)


def test_what_is_too_slow_for_its_clock_and_asked_at_t_has_no_enumerated_law():
    slow = dd.Masking([0.2, 1.0, 1.0]).on(dd.clock.LogLinear())
    exact = dd.Exact(slow, torch.tensor([[0], [1], [2]]))
    two = dd.Product(a=slow, b=dd.Replace([0.5, 0.5]).on(dd.clock.Constant(2.0)))
    both = heads.Product(a=heads.Posterior(Net(K), absent=K - 1), b=heads.LeaveOneOut(Net(2)))
    cases = (slow, exact.as_(heads.Posterior), (1,)), (two, both, {"a": (2,), "b": (2,)})
    for process, head, shape in cases:
        with pytest.raises(ValueError, match="too slow for its clock"):
            marginal(process, head, shape)


def test_a_network_that_is_rough_in_time_is_refused(monkeypatch):
    monkeypatch.setattr(enumeration, "MOST", 40)
    rough = lambda x, t: Net(K)(x, t.float().double())
    with pytest.raises(dd.Unsolved, match="too rough in t"):
        marginal(replaced(), heads.LeaveOneOut(rough), (2,))


@pytest.mark.parametrize(
    "chain", [dd.Masking([0.5, 1.0]), dd.Killing(dd.Ring(3)), dd.Increments(4, [0, 0, 1.0, 0])]
)
def test_the_step_of_an_exact_head_has_a_law_where_atoms_exclude_each_other(chain):
    """An atom that cannot lead to a state has no bridge from there, and no weight."""
    process, data = chain.on(dd.clock.Constant(1.5)), torch.tensor([[0, 1], [1, 0]])
    exact = Exact(process, data)
    states = enumeration.states(process, (2,))
    start = torch.stack([process.marginal(a[None], 1.0).log_prob(s[None]) for s in states
                         for a in data]).reshape(-1, 2).exp().mean(1)  # fmt: skip
    space = enumeration.Enumerated(states, start, enumeration._space(process, (2,)).strides)
    law = start
    for t, s in ((1.0, 0.5), (0.5, 0.0)):
        t, s = (torch.tensor(v, dtype=torch.float64) for v in (t, s))
        law = enumeration.pushed(process, exact, steppers.Ancestral(), space, law, t, s)
    assert torch.allclose(law[space.index(data)], torch.full((2,), 0.5), atol=1e-12)


def stepped(**options):
    """The law of two analytic steps."""
    head = heads.LeaveOneOut(Net(K))
    return marginal(replaced(), head, (2,), steppers.Analytic(), steps=2, **options)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (lambda: marginal(replaced(), heads.LeaveOneOut(Net(K)), 2), "shape must be the event's"),
        (lambda: enumeration.states(replaced(), (-1,)), "shape must be the event's"),
        (lambda: marginal(replaced(), heads.LeaveOneOut(Net(K)), (2,), "Euler"), "it is a str"),
        (lambda: enumeration.total_variation(torch.ones(2), torch.ones(3)), "the same states"),
        (lambda: enumeration.total_variation([0.5, 0.5], torch.ones(2)), "p must be a law"),
        (lambda: enumeration.states(3, (2,)), "process must be a Process"),
        (lambda: enumeration.states(replaced(), (True,)), "shape must be the event's"),
        (lambda: stepped(stop=0.5), "stop belongs to the model's own law"),
        (lambda: stepped(prior=replaced().prior((16, 3))), "prior must have batch shape"),
        (lambda: stepped(prior=replaced().prior((5, 2))), "prior must have batch shape"),
        (lambda: stepped(prior=torch.ones(16) / 16), "prior must be a distribution"),
        (lambda: stepped().log_prob(torch.tensor([[0, K]])), "must be among the states"),
        (lambda: stepped().log_prob(torch.tensor([[1, -1]])), "must be among the states"),
        (lambda: stepped().index(torch.tensor([[1]])), r"states of shape \(2,\)"),
        (lambda: stepped().index(torch.tensor([0, 1])), r"states of shape \(2,\)"),
        (lambda: stepped().index({"a": torch.tensor([[0, 1]])}), "x must be a tensor"),
    ],
)
def test_enumeration_names_what_is_wrong(wrong, rule):
    with pytest.raises(ValueError, match=rule):
        wrong()
