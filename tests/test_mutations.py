"""Which law catches which mistake: mutants of every verb of every engine, held to `dd.check`.

A mutant is one small error in one verb: a factor of 1.01, a wrong sign, exchanged times, a
transposed rate matrix, the wrong end of a clock. Run as a script, this file writes the table to
``benchmarks/results/mutations.csv``.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import discdiff as dd
from discdiff import estimates
from discdiff.clock import Clock
from discdiff.laws import Clamped
from discdiff.process import Given, LiftedSum, Timed
from discdiff.solve import Score

NUDGE = 1.01


def processes():
    """A small process for every engine, with example states."""
    letters = torch.tensor([0, 1, 2])
    counts = torch.tensor([1.0, 3.0])
    swap = dd.Reaction([-1, 1], 1.0)
    leave = dd.Reaction([0, -1], 0.7)
    fast = dd.clock.LogLinear()
    chain = [[-1.0, 1.0, 0.0], [0.5, -1.0, 0.5], [0.0, 2.0, -2.0]]
    short = dd.clock.Constant(1.0)
    pairs = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    damped = dd.Linear([[0.0, 4.0], [-1.0, -4.0]], [0.1, 0.0]) + dd.Noise([[0.0], [2**0.5]])
    return {
        "MatrixGaussian": (damped.on(short), torch.tensor([[-1.0, 2.0], [0.5, 1.0]])),
        "MatrixGaussian, lifted": (
            damped.on(short).lift(torch.distributions.Normal(0.2, 0.3)),
            torch.tensor([-1.0, 2.0]),
        ),
        "Gaussian": ((dd.Linear(-0.5, 0.3) + dd.Noise(1.0)).on(short), torch.tensor([-1.0, 2.0])),
        "Replacement": (dd.Replace(torch.tensor([0.1, 0.2, 0.7])).on(fast), letters),
        "Replacement, mask": (dd.Replace(dd.one_hot(3, 4)).on(fast), letters),
        "Finite": (dd.RateMatrix(chain).on(fast), letters),
        "Circulant": (dd.Ring(5).on(fast), letters),
        "Reflected": ((3.0 * dd.Reflecting(5)).on(fast), letters),
        "Clustered": (dd.Clusters([[0, 0, 0, 0], [0, 0, 1, 1]]).on(fast), letters),
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


# -- the mutants: each takes the sound verb and its arguments -------------------------------------


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
    if x.shape != estimate.value.shape:  # a lift: its auxiliaries stay
        turned = torch.cat([estimate.value.unsqueeze(-1), x[..., 1:]], -1)
        return verb(estimates.Data(x[..., 0]), turned, s, t)
    return verb(estimates.Data(x), estimate.value, s, t)


def limit_early(verb, shape):
    """The law at time 2 from state 1 stands for the limit."""
    engine = verb.__self__
    dtype = torch.int64 if engine.terms[0].categorical else torch.float64
    x, zero = torch.ones(shape, dtype=dtype), torch.zeros(shape[0], dtype=torch.float64)
    return engine.transition(x, zero, zero + 2)


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
    found = verb(target, estimate, x, NUDGE * t)
    if found is None:
        return None
    values, factor = found
    return values, verb.__self__.coefficient(NUDGE * t) if factor is None else factor


def kernel_late(verb, t):
    return verb(NUDGE * t)


def _kernels(change):
    def mutant(verb, t):
        kernel = verb(t)
        return change(kernel)

    return mutant


load_nudged = _kernels(lambda k: replace(k, load=NUDGE * k.load))
load_turned = _kernels(lambda k: replace(k, load=-k.load))
factor_nudged = _kernels(lambda k: replace(k, factor=NUDGE * k.factor))


def flow_nudged(verb, s, t):
    """Φ is 1 % too large."""
    flow, factor = verb(s, t)
    return flow._replace(phi=NUDGE * flow.phi), factor


def flow_turned(verb, s, t):
    flow, factor = verb(s, t)
    return flow._replace(phi=-flow.phi), factor


def flow_transposed(verb, s, t):
    flow, factor = verb(s, t)
    return flow._replace(phi=flow.phi.mT), factor


def flow_shifted(verb, s, t):
    return verb(torch.zeros_like(s), t)


def limit_wide(verb, shape):
    """A prior with 1 % more spread."""
    law = verb(shape)
    return type(law)(law.loc, NUDGE * law.factor)


def decode_nudged(verb, estimate, x, t):
    """The data in the estimate are 1 % too large."""
    if isinstance(estimate, estimates.Data):
        estimate = estimates.Data(NUDGE * estimate.value)
    elif isinstance(estimate, estimates.Atoms) and estimate.atoms.is_floating_point():
        estimate = estimates.Atoms(estimate.log_weights, NUDGE * estimate.atoms)
    return verb(estimate, x, t)


def decode_turned(verb, estimate, x, t):
    """Data have the wrong sign, weights belong to other atoms or states."""
    if isinstance(estimate, estimates.Atoms):
        return verb(estimates.Atoms(estimate.log_weights.flip(1), estimate.atoms), x, t)
    return verb(estimate.map(lambda v: -v), x, t)


def decode_late(verb, estimate, x, t):
    return verb(estimate, x, NUDGE * t)


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

REALS = {"Gaussian", "MatrixGaussian", "MatrixGaussian, lifted"}
VECTORS = [
    ("moments", "Φ × 1.01", flow_nudged),
    ("moments", "sign", flow_turned),
    ("moments", "transposed", flow_transposed),
    ("moments", "wrong clock end", flow_shifted),
    ("kernel", "×1.01", load_nudged),
    ("kernel", "sign", load_turned),
    ("kernel", "noise × 1.01", factor_nudged),
    ("kernel", "wrong clock end", kernel_late),
    ("limit", "×1.01", limit_wide),
]

CLOSED = {
    "MatrixGaussian",
    "MatrixGaussian, lifted",
    "Gaussian",
    "Replacement",
    "Replacement, mask",
    "PureDeath",
}  # engines with a closed integrand
NO_FORM = "there is no closed form: the sum over terms is used"
NO_TIME = "the posterior of known atoms is read, which no longer depends on the time"
NO_FACTOR = "the posterior is read state by state: there is no number to be scaled"
NO_VERB = "the engine has no such verb, and says so"


def unchanged(name, verb, what):
    """Why this mutant changes nothing, if it does not."""
    if verb == "kl_rate" and name not in CLOSED:
        return NO_FORM
    if verb == "limit" and name == "Truncated":
        return NO_VERB
    if verb == "decode":
        if name == "Particles":
            return NO_VERB
        if what == "wrong clock end" and "Gaussian" not in name:
            return NO_TIME
        if what == "×1.01" and name not in (*REALS, "PureDeath", "ImmigrationDeath"):
            return NO_FACTOR
    if (name, verb, what) == ("Truncated", "convert", "wrong clock end"):
        return NO_TIME
    return ""


def mutate(process, verb, mutant):
    """Plants a mutant in the engine of a process with one leaf."""
    lifted = isinstance(core(process), LiftedSum)
    engine = (core(process).core if lifted else core(process)).engine
    if lifted:
        vars(core(process)).pop("_engine", None)  # planned at declaration, from what is sound
    if not lifted or verb in ("transition", "limit"):
        plant(engine, verb, mutant)  # a lift copies these from the engine below
    else:
        lift = engine.lifted
        engine.lifted = lambda *law: plant(lift(*law), verb, mutant)


def plant(engine, verb, mutant):
    sound = getattr(engine, verb)
    setattr(engine, verb, lambda *args, **kwargs: mutant(sound, *args, **kwargs))
    return engine


def core(process):
    (leaf,) = process.leaves(torch.full((1,), 0.5, dtype=torch.float64))
    return leaf.core


def transpose(process):
    """Transposed rates in the engine of a dense chain, while the declaration stays."""
    chain = core(process)
    rates = chain.matrix().mT
    rates = rates - rates.diag().diag()
    wrong = dd.RateMatrix(rates - rates.sum(1).diag())
    chain.engine  # noqa: B018  planned, so that the wrong one is taken for it
    vars(chain)["_engine"].engine = wrong.engine


class Wrong(Clock):
    """A clock of which one verb is replaced."""

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


def clocks():
    """A rate 1 % off, another sign, the inverse of another clock, the wrong end, a late start."""
    base = dd.clock.Linear(0.1, 3.0)
    return {
        "×1.01": Wrong(base, rate=lambda t: NUDGE * base.rate(t)),
        "sign": Wrong(base, rate=lambda t: -base.rate(t)),
        "inverse of another clock": Wrong(base, inverse=dd.clock.Constant(1.5).inverse),
        "wrong clock end": Wrong(base, forward=lambda t: base(1 - t)),
        "late start": Wrong(base, forward=lambda t: base(t) + 0.01),
    }


def caught(process, x):
    """The names of the laws that a process breaks."""
    return sorted({row.law for row in dd.check(process, x).failures})


def table(name):
    """The rows (engine, verb, mutation, laws that catch it, why nothing changes) of one engine."""
    rows = []
    for verb, what, mutant in MUTANTS + (VECTORS if "Matrix" in name else []):
        process, x = processes()[name]
        mutate(process, verb, mutant)
        rows.append((name, verb, what, caught(process, x), unchanged(name, verb, what)))
    if name == "Finite":
        process, x = processes()[name]
        transpose(process)
        rows.append((name, "every verb", "transposed Q", caught(process, x), ""))
    return rows


def clock_table():
    x = torch.tensor([1.0, 3.0])
    found = {what: caught(dd.Death().on(clock), x) for what, clock in clocks().items()}
    return [("Clock", "clock", what, laws, "") for what, laws in found.items()]


def verify(rows):
    for name, verb, what, laws, reason in rows:
        print(f"{name:18} {verb:11} {what:25} {', '.join(laws) or 'unchanged: ' + reason}")
        assert bool(laws) != bool(reason), (name, verb, what, laws, reason)


@pytest.mark.parametrize("name", processes())
def test_mutants_are_caught(name):
    process, x = processes()[name]
    assert dd.check(process, x)
    verify(table(name))


def test_clock_mutants_are_caught():
    rows = clock_table()
    verify(rows)
    assert all("clock" in laws for *_, laws, _ in rows)


class LatePrior(Timed):
    """Starts one too far to the right."""

    def prior(self, shape):
        law = super().prior(shape)
        law = getattr(law, "base_dist", law)
        moved = torch.distributions.Normal(law.mean + 1, law.stddev)
        return torch.distributions.Independent(moved, len(shape) - 1)


class LateTransition(Timed):
    """Arrives at own times 1 % too late."""

    def _transition(self, x, s, t):
        return self.process._transition(x, self.own(s), NUDGE * self.own(t))


class LateClock(Timed):
    """Reads its clock 1 % too late, everywhere."""

    def own(self, t):
        return NUDGE * super().own(t)


class LateMarginal(Timed):
    """Shows data 1 % too late, and bridges to match."""

    def _marginal(self, x_0, t):
        return self.process._marginal(x_0, NUDGE * self.own(t))


class Forgetful(Given):
    """Does not hold what is known."""

    def _clamped(self, law):
        return law


class Fixed(Given):
    """Holds what is known, and one entry more in the bridge."""

    def _bridge(self, estimate, x, s, t, eta=1.0):
        law = self.process._bridge(estimate, x, s, t, eta)
        return Clamped(law, x, torch.ones_like(x, dtype=torch.bool))


def combinators():
    """A process, example data and the law that must see that the combinator is wrong."""
    vp, mask = dd.Linear(-0.5) + dd.Noise(1.0), dd.Replace(dd.one_hot(3, 4))
    short, endless = dd.clock.Constant(2.0), dd.clock.LogLinear()
    reals, codes = torch.tensor([-1.0, 0.5]), torch.tensor([[1, 0], [1, 2]])
    known = torch.tensor([1, 0]), torch.tensor([True, False])
    return {
        "prior": (LatePrior(vp, short), reals, "prior"),
        "prior at infinity": (LatePrior(vp, endless), reals, "prior"),
        "prior of a column": (dd.Product(a=LatePrior(vp, short)), {"a": reals}, "prior"),
        "transition": (LateTransition(vp, short), reals, "combinators"),
        "clock": (LateClock(vp, short), reals, "combinators"),
        "marginal": (LateMarginal(vp, short), reals, "combinators"),
        "known": (Forgetful(mask.on(endless), known), codes, "combinators"),
        "bridge of known": (Fixed(mask.on(endless), known), codes, "combinators"),
    }


@pytest.mark.parametrize("name", combinators())
def test_wrong_combinators_are_caught(name):
    process, x, law = combinators()[name]
    assert law in caught(process, x)


if __name__ == "__main__":
    everything = [row for name in processes() for row in table(name)] + clock_table()
    verify(everything)
    target = Path(__file__).parents[1] / "benchmarks" / "results" / "mutations.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["engine", "verb", "mutation", "caught by", "unchanged because"])
        writer.writerows((*row[:3], "; ".join(row[3]), row[4]) for row in everything)
