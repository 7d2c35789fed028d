"""Gradients and batches over the whole market.

The loss is differentiated with respect to what a network says, for every entry and every head
that it can be trained with, against finite differences. Losses and bridges of a batch are those of
its rows, and those of float32 states are near those of float64.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from market import MARKET
from torch.autograd.gradcheck import GradcheckError

import discdiff as dd
from discdiff.heads import Exact
from discdiff.process import batch_size, map_state

# What has a score, and with it a loss.
SCORED = {name: entry for name, entry in MARKET.items() if "score" not in entry.without}

S, T = 0.2, 0.4
CATEGORICAL = {"Posterior", "LeaveOneOut", "Conditional", "Ratio"}
STRUCTURED = (
    "Circulant Reflected Clustered TwoHops MaskedEach Killed Factored Interpolated".split()
)
HEADS = {
    **dict.fromkeys(STRUCTURED, CATEGORICAL),
    "Gaussian": {"Mean", "Epsilon", "Velocity", "Score"},
    "MatrixGaussian": {"Mean", "Epsilon", "Score"},
    "Replacement": CATEGORICAL,
    "Finite": CATEGORICAL,
    "PureDeath": {"Missing", "Posterior", "Ratio"},
    "ImmigrationDeath": {"Turnover", "Posterior", "Ratio"},
    "Arrivals": {"Posterior", "Ratio"},
    "Families": {"Posterior", "Ratio"},
    "TwoStates": {"Posterior", "Ratio"},
    "Particles": {"Ratio"},
    "Truncated": {"Posterior", "Ratio"},
}


def double(x):
    return map_state(lambda v: v.double() if v.is_floating_point() else v, x)


def single(x):
    return map_state(lambda v: v.float() if v.is_floating_point() else v, x)


def noisy(entry):
    """Data, the state at S and the state at T, in float64."""
    x_0 = double(entry.x)
    x_t = entry.process.marginal(x_0, T).sample()
    return x_0, entry.process.bridge(x_0, x_t, S, T).sample(), x_t


def plans(process):
    """Each leaf with what `dd.explain` says of it."""
    leaves = process.leaves(torch.full((1,), T, dtype=torch.float64))
    return [
        (leaf, replace(plan, heads=tuple(h for h in plan.heads if h != "Normal")))  # a head of one
        for leaf, plan in zip(leaves, dd.explain(process).plans, strict=True)
    ]


def output(leaf, kind, x):
    """A random output of a network for one leaf."""
    term = leaf.core.terms[0]
    sites = x.shape[: x.dim() - getattr(term, "event_axes", 0)]
    if kind == "Turnover":
        return torch.randn(*sites, 2)
    if kind == "Mean":
        return torch.randn(leaf.core.to_data(x).shape)
    if kind not in ("Posterior", "LeaveOneOut", "Conditional", "Ratio"):
        return torch.randn(x.shape)
    if term.categorical:
        return torch.randn(*sites, term.size)
    if kind == "Ratio":
        return torch.randn(*sites, len(getattr(leaf.core.engine, "moves", (1, -1))))
    return torch.randn(*sites, int(getattr(leaf.core.support, "upper_bound", 7)) + 1)


def spoken(process, x_t):
    """(kinds, outputs of a network, the head of a network) for every way to speak of a process.

    Tables get as many ways as their part of most heads, so that each head of a part has a turn.
    """
    found = plans(process)
    if not isinstance(x_t, dict) or "label" in x_t:
        leaf, plan = found[0]
        state = leaf.get(x_t)
        for kind in plan.heads:
            yield [kind], [output(leaf, kind, state)], getattr(dd.heads, kind)
        return
    for k in range(max(len(plan.heads) for _, plan in found)):
        kinds = {leaf.name: plan.heads[k % len(plan.heads)] for leaf, plan in found}
        values = [output(leaf, kinds[leaf.name], leaf.get(x_t)) for leaf, _ in found]
        types = {name: getattr(dd.heads, kind) for name, kind in kinds.items()}

        def product(net, types=types):
            def named(x, t):
                return dict(zip(types, net(x, t), strict=True))

            return dd.heads.Product(named, types)

        yield list(kinds.values()), values, product


def gradcheck(process, make, outputs, x_0, x_t):
    """Whether autograd agrees with finite differences of the loss in a network's outputs."""

    def loss(*values):
        head = make(lambda x, t: values[0] if len(values) == 1 else values)
        return dd.loss(process, head, x_0, T, x_t=x_t)

    assert bool(loss(*outputs).isfinite().all())
    return torch.autograd.gradcheck(loss, [v.requires_grad_() for v in outputs], atol=1e-6)


@pytest.mark.parametrize("name", SCORED)
def test_gradients_of_the_loss_in_what_a_network_says(name, float64):
    process = SCORED[name].process
    x_0, _, x_t = noisy(SCORED[name])
    heads = list(spoken(process, x_t))
    for _, outputs, make in heads:
        assert gradcheck(process, make, outputs, x_0, x_t)
    print(name, [kinds for kinds, *_ in heads])


def test_every_head_of_every_engine_is_differentiated():
    found = {}
    for entry in SCORED.values():
        for leaf, plan in plans(entry.process):
            found.setdefault(type(leaf.core.engine).__name__, set()).update(plan.heads)
    assert found == HEADS


def test_a_wrong_gradient_is_seen(float64):
    """One per cent of the output carries no gradient."""
    entry = SCORED["vp"]
    x_0, _, x_t = noisy(entry)

    def leaky(net):
        return dd.heads.Epsilon(lambda x, t: 0.99 * net(x, t) + 0.01 * net(x, t).detach())

    with pytest.raises(GradcheckError):
        gradcheck(entry.process, leaky, [torch.randn(x_t.shape)], x_0, x_t)


def measured(process, x_0, x_s, x_t):
    """The loss of the exact head of the data, and the log-probability of the bridge."""
    head = Exact(process, x_0)

    def of(rows):
        a, b, c = (map_state(lambda v: v[rows], x) for x in (x_0, x_s, x_t))
        return dd.loss(process, head, a, T, x_t=c), process.bridge(a, c, S, T).log_prob(b)

    return of


@pytest.mark.parametrize("name", SCORED)
def test_a_batch_is_its_rows(name, float64):
    states = noisy(SCORED[name])
    of = measured(SCORED[name].process, *states)
    whole = of(slice(None))
    rows = [of(slice(k, k + 1)) for k in range(batch_size(states[0]))]
    for k, together in enumerate(whole):
        torch.testing.assert_close(torch.cat([row[k] for row in rows]), together)


@pytest.mark.parametrize("name", SCORED)
def test_losses_and_bridges_of_float32_are_near_float64(name, float64):
    states = noisy(SCORED[name])
    fine = measured(SCORED[name].process, *states)(slice(None))
    torch.set_default_dtype(torch.float32)
    coarse = measured(SCORED[name].process, *map(single, states))(slice(None))
    for a, b in zip(coarse, fine, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
