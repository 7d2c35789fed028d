"""Which law catches which mistake: mutants of every verb of every engine, held to `dd.check`.

A mutant is one small error in one verb: a factor of 1.01, a wrong sign, exchanged times, a
transposed rate matrix, the wrong end of a clock. Run as a script, this file writes the table to
``benchmarks/results/mutations.csv``.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import discdiff as dd
from discdiff import estimates
from discdiff.clock import Clock
from discdiff.process import Generator
from discdiff.solve import Score

NUDGE = 1.01


def processes():
    """A small process for every engine, with example states."""
    letters = torch.tensor([0, 1, 2])
    counts = torch.tensor([1.0, 3.0])
    swap = dd.Reaction([-1, 1], lambda n: n[..., 0])
    leave = dd.Reaction([0, -1], lambda n: 0.7 * n[..., 1])
    fast = dd.clock.LogLinear()
    chain = [[-1.0, 1.0, 0.0], [0.5, -1.0, 0.5], [0.0, 2.0, -2.0]]
    short = dd.clock.Constant(1.0)
    pairs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    return {
        "Gaussian": ((dd.Linear(-0.5, 0.3) + dd.Noise(1.0)).on(short), torch.tensor([-1.0, 2.0])),
        "Replacement": (dd.Replace(torch.tensor([0.1, 0.2, 0.7])).on(fast), letters),
        "Replacement, mask": (dd.Replace(dd.one_hot(3, 4)).on(fast), letters),
        "Finite": (dd.RateMatrix(chain).on(fast), letters),
        "PureDeath": (dd.Death().on(fast), counts),
        "ImmigrationDeath": ((dd.Death() + dd.Immigration(1.0)).on(fast), counts),
        "Families": ((dd.Birth() + 2.0 * dd.Death() + dd.Immigration(1.0)).on(short), counts),
        "TwoStates": (dd.Ehrenfest(4, 0.5, 1.5).on(fast), counts),
        "Particles": ((swap + leave).on(fast), pairs),
        "Truncated": (Pair().on(fast), counts),
    }


class Pair(dd.Jump):
    """At unit rate, two units leave together."""

    def out(self, x):
        return (x - 2).unsqueeze(-1), torch.where(x > 1, 1.0, 0.0).to(x).unsqueeze(-1)

    def into(self, x):
        return (x + 2).unsqueeze(-1), torch.ones_like(x).unsqueeze(-1)


# -- the mutants: each takes the sound verb and its arguments --------------------------------------


def late(verb, x, s, t):
    """The later time is 1 % late."""
    return verb(x, s, s + NUDGE * (t - s))


def shifted(verb, x, s, t):
    """The end of the clock is read at the wrong place: from 0 instead of from s."""
    return verb(x, torch.zeros_like(s), t)


def exchanged(verb, x, s, t):
    """The earlier and the later time are exchanged where both are positive."""
    return verb(x, torch.zeros_like(s), torch.where(s > 0, s, t))


def moved(verb, x, s, t):
    """The wrong sign or place: a real state is reflected, another one is one step off."""
    return verb(-x if x.is_floating_point() and bool((x < 0).any()) else _off(x), s, t)


def _off(x):
    return torch.where(x == 0, x, x - 1)


def bridge_late(verb, estimate, x, s, t):
    return verb(estimate, x, NUDGE * s, t)


def bridge_short(verb, estimate, x, s, t):
    """The wrong end: the bridge is pinned at a later time."""
    return verb(estimate, x, s, NUDGE * t)


def bridge_exchanged(verb, estimate, x, s, t):
    """s and t − s are exchanged."""
    return verb(estimate, x, t - s, t)


def bridge_turned(verb, estimate, x, s, t):
    """x_0 and x_t are exchanged: a transposed transition matrix."""
    if not isinstance(estimate, estimates.Data):
        return verb(estimate, x, s, t)
    return verb(estimates.Data(x), estimate.value, s, t)


def limit_early(verb, shape):
    """The law at time 5 stands for the limit."""
    engine = verb.__self__
    dtype = torch.int64 if engine.terms[0].categorical else torch.float64
    x, zero = torch.zeros(shape, dtype=dtype), torch.zeros(shape[0], dtype=torch.float64)
    return engine.transition(x, zero, zero + 5)


def _scores(change):
    def mutant(verb, estimate, x, t):
        score = verb(estimate, x, t)
        gradient = score._gradient
        ratio = score._log_ratio
        return Score(
            None if gradient is None else change(gradient),
            None if ratio is None else (lambda y: change(ratio(y))),
        )

    return mutant


score_nudged = _scores(lambda v: NUDGE * v)
score_turned = _scores(lambda v: -v)


def score_late(verb, estimate, x, t):
    return verb(estimate, x, NUDGE * t)


def convert_nudged(verb, estimate, x, t, kind):
    return verb(estimate, x, t, kind).map(lambda v: NUDGE * v)


def convert_turned(verb, estimate, x, t, kind):
    return verb(estimate, x, t, kind).map(lambda v: -v)


def convert_late(verb, estimate, x, t, kind):
    return verb(estimate, x, NUDGE * t, kind)


def rate_nudged(verb, target, estimate, x, t):
    found = verb(target, estimate, x, t)
    return found and (NUDGE * found[0], found[1])


def rate_turned(verb, target, estimate, x, t):
    found = verb(target, estimate, x, t)
    return found and (-found[0], found[1])


def rate_late(verb, target, estimate, x, t):
    return verb(target, estimate, x, NUDGE * t)


def decode_nudged(verb, estimate, x, t):
    return verb(_known(estimate).map(lambda v: NUDGE * v), x, t)


def decode_turned(verb, estimate, x, t):
    return verb(_known(estimate).map(lambda v: -v), x, t)


def decode_late(verb, estimate, x, t):
    return verb(estimate, x, NUDGE * t)


def _known(estimate):
    """The number in an estimate that a wrong factor hits: weights of atoms, data, logits."""
    return estimate


MUTANTS = [
    ("transition", "×1.01", late),
    ("transition", "sign or place", moved),
    ("transition", "s ↔ t", exchanged),
    ("transition", "wrong clock end", shifted),
    ("bridge", "×1.01", bridge_late),
    ("bridge", "s ↔ t", bridge_exchanged),
    ("bridge", "transposed", bridge_turned),
    ("bridge", "wrong clock end", bridge_short),
    ("limit", "wrong clock end", limit_early),
    ("score", "×1.01", score_nudged),
    ("score", "sign", score_turned),
    ("score", "wrong clock end", score_late),
    ("convert", "×1.01", convert_nudged),
    ("convert", "sign", convert_turned),
    ("convert", "wrong clock end", convert_late),
    ("kl_rate", "×1.01", rate_nudged),
    ("kl_rate", "sign", rate_turned),
    ("kl_rate", "wrong clock end", rate_late),
    ("decode", "×1.01", decode_nudged),
    ("decode", "sign", decode_turned),
    ("decode", "wrong clock end", decode_late),
]

# Mutants that change nothing, with the reason.
EQUIVALENT = {}


def mutate(process, verb, mutant):
    """Plants a mutant in the engine of a process with one leaf; True if the engine has the verb."""
    (leaf,) = process.leaves(torch.full((1,), 0.5, dtype=torch.float64))
    engine = leaf.core.engine
    sound = getattr(engine, verb)
    setattr(engine, verb, lambda *args, **kwargs: mutant(sound, *args, **kwargs))


def plant_matrix(process):
    """Transposed rates in the engine of a dense chain, of which the declaration knows nothing."""
    (leaf,) = process.leaves(torch.full((1,), 0.5, dtype=torch.float64))
    turned = leaf.core.matrix().mT
    turned = turned - turned.sum(1).diag()
    sound = leaf.core
    leaf.core.__dict__["_engine"] = (
        (type(sound),),
        dd.RateMatrix(turned).engine,
    )


class Fast(Clock):
    """A clock with one verb replaced."""

    def __init__(self, base, **verbs):
        super().__init__()
        self.base, self.verbs = base, verbs

    def _verb(self, name, t):
        return self.verbs.get(name, getattr(self.base, name))(t)

    def forward(self, t):
        return self._verb("forward", t)

    def rate(self, t):
        return self._verb("rate", t)

    def inverse(self, u):
        return self._verb("inverse", u)


def clock_mutants():
    """A clock with a rate 1 % off, the inverse of another clock, Λ(1 − t), an own start."""
    base = dd.clock.Linear(0.1, 3.0)
    return {
        "rate ×1.01": Fast(base, rate=lambda t: NUDGE * base.rate(t)),
        "rate of the other sign": Fast(base, rate=lambda t: -base.rate(t)),
        "inverse of another clock": Fast(base, inverse=dd.clock.Constant(1.5).inverse),
        "wrong end: Λ(1 − t)": Fast(base, forward=lambda t: base(1 - t)),
        "Λ(0) ≠ 0": Fast(base, forward=lambda t: base(t) + 0.01),
        "Λ ×1.01": Fast(base, forward=lambda t: NUDGE * base(t)),
    }


def caught(process, x):
    """The names of the laws that a mutant breaks; an exception counts as a law of its own."""
    report = dd.check(process, x)
    return sorted({row.law for row in report.failures})
