"""Bad input: an error that names the argument, its shape, the rule and the values, and no change.

Everything here also holds after a first ``torch.compile``, which turns torch's own argument
checks off for the whole process.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from market import MARKET

import discdiff as dd
from discdiff.process import map_state

K, MASK = 4, 3
X = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.3]])
W = torch.tensor([[0, 1, 2], [2, 2, 0]])
N = torch.tensor([[1.0, 2.0, 0.0], [0.0, 5.0, 3.0]])
NAN, INF = float("nan"), float("inf")

VP = (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0))
TO_INFINITY = (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.LogLinear())
MASKED = dd.Replace(dd.one_hot(MASK, K)).on(dd.clock.LogLinear())
BLACKOUT = dd.Death().on(dd.clock.Logistic(15.0))
PER_ENTRY = dd.Linear(-torch.eye(2).expand(3, 2, 2)) + dd.Noise(torch.ones(3, 2, 1))
MATRIX = dd.Langevin([[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]], torch.eye(2))
LOST = (dd.Linear(-torch.eye(2)) + dd.Noise([[0.0], [1.0]])).on(dd.clock.Constant(2.0))
TABLE = dd.Product(income=VP, job=MASKED)


def zeros(x, t):
    return torch.zeros(x.shape)


def logits(x, t):
    return torch.zeros(*x.shape, K)


EPSILON, MEAN, MISSING = dd.heads.Epsilon(zeros), dd.heads.Mean(zeros), dd.heads.Missing(zeros)
POSTERIOR = dd.heads.Posterior(logits, absent=MASK)
RATIO = dd.heads.Ratio(logits)


def without(x, value):
    """The tensor with one bad entry."""
    x = x.clone()
    x[0, 1] = value
    return x


@dataclass(frozen=True)
class Case:
    """A call that must fail, and what the message must hold."""

    call: Any
    says: tuple[str, ...]
    error: type[Exception] = ValueError


def case(call, *says, error=ValueError):
    return Case(call, says, error)


DECLARED = {
    "row sum": case(
        lambda: dd.RateMatrix([[-1.0, 1.0], [2.0, -1.5]]),
        "rows of Q",
        "sum to zero",
        "row 1",
        "0.5",
    ),
    "negative rate": case(
        lambda: dd.RateMatrix([[1.0, -1.0], [2.0, -2.0]]), "Q[0, 1] = -1", "negative rate"
    ),
    "not square": case(lambda: dd.RateMatrix(torch.zeros(2, 3)), "Q", "square", "(2, 3)"),
    "NaN rate": case(lambda: dd.RateMatrix([[NAN, 1.0], [2.0, -2.0]]), "Q", "finite", "nan"),
    "kernel row sum": case(
        lambda: dd.MatrixChain([[[0.5, 0.5], [0.3, 0.6]]]),
        "rows of kernels must sum to one",
        "row 1 of kernel 0 (step 1)",
        "0.9",
        "[0.3, 0.6]",
    ),
    "negative kernel": case(
        lambda: dd.MatrixChain([[1.5, -0.5], [0.0, 1.0]], steps=2), "kernels[0, 1] is -0.5", "≥ 0"
    ),
    "NaN kernel": case(
        lambda: dd.MatrixChain([[NAN, 1.0], [0.0, 1.0]], 2), "kernels[0, 0]", "nan"
    ),
    "kernels not square": case(
        lambda: dd.MatrixChain(torch.ones(4, 2, 3) / 3), "(K, K) or (T, K, K)", "(4, 2, 3)"
    ),
    "kernel without steps": case(lambda: dd.MatrixChain(torch.eye(2)), "needs steps="),
    "no steps": case(lambda: dd.MatrixChain(torch.eye(2), 0), "steps", "≥ 1", "0"),
    "kernels and steps": case(
        lambda: dd.MatrixChain(torch.eye(2).expand(3, 2, 2), 4), "their number, 3", "leave out"
    ),
    "a faster chain": case(
        lambda: 2.0 * dd.MatrixChain(torch.eye(2), 3).process.process, "steps, no rate"
    ),
    "law sums to 0.9": case(lambda: dd.Replace([0.5, 0.4]), "pi", "sum to one", "0.9"),
    "negative probability": case(lambda: dd.Replace([1.5, -0.5]), "pi", "≥ 0", "-0.5"),
    "law of two axes": case(lambda: dd.Replace(torch.ones(2, 2)), "pi", "vector", "(2, 2)"),
    "mask outside": case(lambda: dd.one_hot(5, 3), "index", "[0, 2]", "5"),
    "table of arrivals": case(lambda: dd.Immigration([[1.0]]), "rate", "vector", "(1, 1)"),
    "flips of their own rate": case(lambda: dd.Ehrenfest(2, [1.0, 2.0]), "up", "number", "(2,)"),
    "factor per entry": case(
        lambda: torch.ones(2) * dd.Death(), "factor of a term must be a number", "(2,)"
    ),
    "a birth rate": case(lambda: dd.Birth(0.3), "Birth takes no number", "2.0 * Birth()", "0.3"),
    "a death rate": case(lambda: dd.Death(0.3), "Death takes no number", "2.0 * Death()", "0.3"),
    "negative arrivals": case(lambda: dd.Immigration(-1.0), "rate", "≥ 0", "-1"),
    "negative factor": case(lambda: -2.0 * dd.Death(), "rate", "≥ 0", "-2"),
    "half a unit": case(lambda: dd.Ehrenfest(2.5), "size", "positive integer", "2.5"),
    "negative reaction": case(lambda: dd.Reaction([-1], -1.0), "rate", "≥ 0", "-1"),
    "table of reactions": case(lambda: dd.Reaction([-1], [1.0]), "rate", "number or a function"),
    "no change": case(lambda: dd.Reaction([0, 0], lambda n: n[..., 0]), "change", "not all zero"),
    "infinite noise": case(lambda: dd.Noise(INF), "B", "finite", "inf"),
    "drift that returns no tensor": case(lambda: dd.Linear(lambda t: -0.5), "A", "tensor", "-0.5"),
    "noise that returns no tensor": case(lambda: dd.Noise(lambda t: 2.0), "B", "tensor", "2.0"),
    "rates that return no tensor": case(lambda: dd.RateMatrix(lambda t: []), "Q", "tensor", "[]"),
    "a word for a number": case(lambda: dd.Linear("a"), "A", "number", "'a'"),
    "spaces that differ": case(lambda: dd.Death() + dd.Noise(1.0), "one state space", "Death"),
    "two clocks": case(lambda: VP.on(dd.clock.LogLinear()), "already runs on a clock"),
    "a word for a clock": case(lambda: dd.Death().on("linear"), "clock", "str"),
    "sum over clocks": case(lambda: MASKED + BLACKOUT, "different clocks", error=dd.Unsolved),
    "clock rate 0": case(lambda: dd.clock.Constant(0.0), "rate", "positive", "0"),
    "negative clock": case(lambda: dd.clock.Linear(-1.0, 2.0), "b0", "≥ 0", "-1"),
    "clock backwards": case(lambda: dd.clock.Geometric(2.0, 1.0), "s1", "larger than s0 = 2", "1"),
    "falling clock": case(lambda: dd.clock.Function(lambda t: -t), "f must increase"),
    "clock rates": case(lambda: dd.clock.Constant(torch.ones(2)), "rate", "number", "(2,)"),
    "word for a rate": case(lambda: dd.clock.Constant("a"), "rate", "number", "'a'"),
    "NaN clock": case(lambda: dd.clock.Linear(NAN, 1.0), "b0", "finite", "nan"),
    "endless clock": case(lambda: dd.clock.Linear(0.0, INF), "b1", "finite", "inf"),
    "clocks of a vector": case(lambda: dd.clock.Linear(torch.ones(2), 1.0), "b0", "(2,)"),
    "variance beyond all": case(lambda: dd.clock.Geometric(1.0, INF), "s1", "finite", "inf"),
    "variance overflows": case(lambda: dd.clock.Geometric(1.0, 1e200), "float64", "1e+200"),
    "logit overflows": case(lambda: dd.clock.Logistic(1e3), "c must be ≤ 700", "1000"),
    "log-ratio of a vector": case(lambda: dd.clock.LogSNR(0.0, torch.ones(2)), "high", "(2,)"),
    "infinite log-ratio": case(lambda: dd.clock.LogSNR(-INF, 1.0), "low", "finite", "-inf"),
    "power of a vector": case(lambda: dd.clock.Power(1.0, torch.ones(2)), "power", "(2,)"),
    "clock that is no function": case(lambda: dd.clock.Function(3.0), "f", "function", "3.0"),
    "clock of one value": case(lambda: dd.clock.Function(lambda t: t.sum()), "f", "(129,)", "()"),
    "base that is no clock": case(lambda: dd.clock.Learned("a"), "base", "Clock", "str"),
    "half a panel": case(lambda: dd.clock.Learned(panels=2.5), "panels", "integer", "2.5"),
    "NaN in a table": case(
        lambda: dd.clock.Tabulated([0.0, 1.0], [0.0, NAN]), "integral", "finite", "nan"
    ),
    "tables of two sizes": case(
        lambda: dd.clock.Tabulated([0.0, 1.0], [0.0, 1.0, 2.0]), "one size", "(2,)", "(3,)"
    ),
    "empty tables": case(lambda: dd.clock.Tabulated([], []), "size ≥ 2", "(0,)"),
    "empty product": case(lambda: dd.Product(), "at least one part"),
    "part that is no process": case(lambda: dd.Product(a=3), "processes", "'a': 'int'"),
    "mixture weights": case(lambda: dd.Mixture([0.5, 0.6], VP, VP), "weights", "sum to 1", "0.6"),
    "float mask": case(lambda: VP.given((X, X)), "mask", "boolean", "float32"),
    "scale that starts at 2": case(lambda: VP.scaled(lambda t: 2 + t), "alpha(0) must be 1", "2"),
    "push that is no transform": case(lambda: VP.push(torch.exp), "push", "invertible"),
    "eta below 0": case(lambda: dd.steppers.Ancestral(eta=-2.0), "eta", "at least 0", "-2"),
    "eta of more noise than there is": case(
        lambda: dd.steppers.Ancestral(eta=2.0).law(
            VP, dd.estimates.Data(X), X, torch.full((len(X),), 0.9), torch.full((len(X),), 0.1)
        ),
        "eta must be at most 1.",
        "it is 2.0",
    ),
    "exact weights": case(
        lambda: dd.Exact(VP, X, weights=torch.tensor([0.5, 0.6])), "weights", "sum to one", "1.1"
    ),
    "exact data": case(lambda: dd.Exact(MASKED, W + 3), "data", "(2, 3)", "[4, 5, 5, 5]"),
}

DATA = {
    "half a count": case(
        lambda: BLACKOUT.marginal(N / 2, 0.5), "x_0", "(2, 3)", "[0.5, 2.5, 1.5]"
    ),
    "counts beyond float32": case(
        lambda: BLACKOUT.marginal(without(N, 2.0**24), 0.5), "x_0", "1.67772e+07", "use float64"
    ),
    "data that are absent": case(
        lambda: dd.loss(MASKED, dd.heads.Posterior(zeros, absent=0), W, 0.5),
        *("x_0 contains", "cannot take", "absent=(0,)"),
    ),
    "negative count": case(lambda: BLACKOUT.marginal(-N, 0.5), "x_0", "lower_bound=0", "-5"),
    "int counts": case(lambda: BLACKOUT.marginal(N.long(), 0.5), "x_0", "floating", "int64"),
    "NaN count": case(lambda: BLACKOUT.marginal(without(N, NAN), 0.5), "x_0", "nan"),
    "infinite count": case(lambda: BLACKOUT.marginal(without(N, INF), 0.5), "x_0", "inf"),
    "float categories": case(lambda: MASKED.marginal(W.float(), 0.5), "x_0", "int64", "float32"),
    "state outside": case(
        lambda: MASKED.marginal(W + 2, 0.5), "x_0", "(2, 3)", "upper_bound=3", "[4, 4, 4]"
    ),
    "NaN reals": case(lambda: dd.loss(VP, EPSILON, without(X, NAN), 0.5), "x_0", "Real", "nan"),
    "infinite reals": case(lambda: dd.loss(VP, EPSILON, without(X, INF), 0.5), "x_0", "inf"),
    "int reals": case(lambda: dd.elbo(VP, EPSILON, W), "x_0", "floating", "int64"),
    "no tensor": case(lambda: VP.marginal([1.0], 0.5), "x_0", "tensor", "list"),
    "no batch": case(lambda: VP.marginal(torch.tensor(1.0), 0.5), "x_0", "batch", "()"),
    "last axis": case(
        lambda: (dd.Linear([-1.0, -2.0]) + dd.Noise(1.0)).marginal(X, 0.5),
        "last axis of x_0 must have size 2",
        "A",
        "(2, 3)",
    ),
    "noise for other vectors": case(
        lambda: dd.Linear([[0.0, 1.0], [-1.0, -1.0]]) + dd.Noise(torch.ones(3, 1)),
        "one size of the last axis",
        "A of Linear(<2×2>) asks for 2",
        "B of Noise(<3×1>) asks for 3",
    ),
    "diagonals of two sizes": case(
        lambda: dd.Linear([-1.0, -2.0]) + dd.Noise([1.0, 1.0, 1.0]),
        "A of Linear([-1, -2]) asks for 2",
        "B of Noise([1, 1, 1]) asks for 3",
    ),
    "a function for other vectors": case(
        lambda: dd.Noise([[1.0], [0.0]]) + dd.Linear(lambda t: -torch.eye(3) * t[..., None, None]),
        "A of Linear(…) asks for 3",
        "B of Noise(<2×1>) asks for 2",
    ),
    "matrices per entry of two shapes": case(
        lambda: dd.Linear(-torch.eye(2).expand(3, 2, 2)) + dd.Noise(torch.ones(4, 2, 1)),
        "states of one shape",
        "A of Linear(<3×2×2>) is for (3,)",
        "B of Noise(<4×2×1>) is for (4,)",
    ),
    "matrices per entry of other states": case(
        lambda: PER_ENTRY.marginal(torch.ones(5, 4, 2), 0.5),
        "x_0 must have shape (B, 3, 2)",
        "A has one matrix per entry",
        "(5, 4, 2)",
    ),
    "one state of many entries": case(
        lambda: PER_ENTRY.marginal(torch.ones(5, 1, 2), 0.5), "(B, 3, 2)", "(5, 1, 2)"
    ),
    "a batch size for data": case(lambda: dd.times(VP, 512), "x_0", "tensor", "int"),
    "a shift of other vectors": case(
        lambda: dd.Linear([[0.0, 1.0], [-1.0, -1.0]], [1.0, 2.0, 3.0]),
        "b must be a number or have one entry for each coordinate of A",
        "{'A': 2, 'b': 3}",
    ),
    "clamped entries of vectors": case(
        lambda: MATRIX.given((X[0, :2], torch.tensor([True, False]))), "Langevin", "sample(known=)"
    ),
    "push over a lift": case(
        lambda: dd.zoo.cld().scaled(lambda t: 1 - t / 2).push(dd.reals.Logistic()),
        "lifted process cannot be pushed",
        "log_abs_det_jacobian",
    ),
    "outside a push": case(
        lambda: VP.push(torch.distributions.ExpTransform()).marginal(X, 0.5), "x_0", "-1"
    ),
    "x_t of another shape": case(
        lambda: dd.loss(VP, EPSILON, X, 0.5, x_t=X[:1]), "x_t", "(2, 3)", "(1, 3)"
    ),
    "x_t outside": case(lambda: dd.loss(BLACKOUT, MISSING, N, 0.5, x_t=-N), "x_t", "-5"),
    "x_t that deaths cannot reach": case(
        lambda: dd.loss(BLACKOUT, MISSING, N, 0.5, x_t=N + 1),
        "x_t must be a state that x_0 can lead to",
        "[2, 3, 1, 1, …]",
        "[1, 2, 0, 0, …]",
    ),
    "x_t that masking cannot reach": case(
        lambda: dd.loss(MASKED, POSTERIOR, W, 0.5, x_t=torch.where(W == 0, 1, W)),
        "x_t must be a state that x_0 can lead to",
        "where it is [1, 1] and x_0 is [0, 0]",
    ),
    "x_t of a part": case(
        lambda: dd.loss(
            TABLE,
            dd.Exact(TABLE, {"income": X, "job": W}),
            {"income": X, "job": W},
            0.5,
            x_t={"income": X, "job": W.flip(1)},
        ),
        "part 'job'",
        "where it is [2, 0, 0, 2] and x_0 is [0, 2, 2, 0]",
    ),
    "empty batch": case(lambda: VP.marginal(X[:0], 0.5), "x_0", "not be empty", "(0, 3)"),
    "empty event": case(lambda: dd.loss(VP, EPSILON, X[:, :0], 0.5), "x_0", "empty", "(2, 0)"),
    "empty column": case(
        lambda: TABLE.marginal({"income": X[:0], "job": W[:0]}, 0.5), "x_0['income']", "empty"
    ),
    "times of no data": case(lambda: dd.times(VP, X[:0]), "x_0", "not be empty", "(0, 3)"),
    "missing column": case(
        lambda: TABLE.marginal({"income": X}, 0.5), "x_0", "['income', 'job']", "['income']"
    ),
    "no dict": case(lambda: TABLE.marginal(X, 0.5), "x_0", "dict", "['income', 'job']"),
    "dict for a tensor": case(lambda: VP.marginal({"a": X}, 0.5), "x_0", "tensor", "dict"),
    "columns of two lengths": case(
        lambda: TABLE.marginal({"income": X, "job": W[:1]}, 0.5), "batch size", "'job': 1"
    ),
    "column outside": case(
        lambda: TABLE.marginal({"income": X, "job": W + 2}, 0.5), "x_0['job']", "[4, 4, 4]"
    ),
    "validate": case(lambda: dd.validate(BLACKOUT, N / 2), "x_0", "(2, 3)", "[0.5, 2.5, 1.5]"),
    "check": case(lambda: dd.check(BLACKOUT, N / 2), "x of shape (2, 3)", "[0.5, 2.5, 1.5]"),
    "explain": case(lambda: dd.explain(3), "process", "int"),
}

TIMES = {
    "s > t": case(lambda: VP.transition(X, 0.7, 0.3), "s ≤ t", "0.7", "0.3"),
    "one s > t": case(lambda: VP.transition(X, torch.tensor([0.1, 0.9]), 0.3), "s ≤ t", "[0.9]"),
    "bridge backwards": case(lambda: VP.bridge(X, X, 0.7, 0.3), "s ≤ t"),
    "shape of t": case(lambda: VP.marginal(X, torch.ones(3) / 4), "t must", "() or (2,)", "(3,)"),
    "negative t": case(lambda: VP.marginal(X, -0.1), "t must be a time ≥ 0", "-0.1"),
    "NaN t": case(
        lambda: VP.marginal(X, torch.tensor([0.1, NAN])), "t must hold times ≥ 0", "nan"
    ),
    "t beyond the clock": case(lambda: VP.marginal(X, 1.5), "t must lie in [0, 1]", "1.5"),
    "t as a word": case(lambda: VP.marginal(X, "0.5"), "t must be a number", "'0.5'"),
    "loss at 0": case(lambda: dd.loss(VP, EPSILON, X, 0.0), "t > 0"),
    "loss at Λ = ∞": case(lambda: dd.loss(BLACKOUT, MISSING, N, 1.0), "t < 1 on this clock"),
    "loss beyond 1": case(lambda: dd.loss(VP, EPSILON, X, 1.5), "t must lie in [0, 1]", "1.5"),
    "paths backwards": case(lambda: dd.simulate(VP, X, [0.5, 0.1]), "times", "[0.5, 0.1]"),
    "paths beyond 1": case(lambda: dd.simulate(VP, X, [0.5, 1.5]), "times", "[0, 1]", "1.5"),
    "rising grid": case(
        lambda: dd.sample(VP, MEAN, (2, 3), grid=[0.0, 0.5, 1.0]),
        "grid must decrease",
        "[0, 0.5, 1]",
    ),
    "grid beyond 1": case(lambda: dd.sample(VP, MEAN, (2, 3), grid=[2.0, 0.0]), "grid", "[2, 0]"),
    "grid of one": case(lambda: dd.sample(VP, MEAN, (2, 3), grid=[1.0]), "at least two times"),
    "grid and steps": case(
        lambda: dd.sample(VP, MEAN, (2, 3), grid=[1.0, 0.0], steps=3), "either steps or grid"
    ),
    "no steps": case(lambda: dd.sample(VP, MEAN, (2, 3), steps=0), "steps", "≥ 1", "0"),
    "stop beyond": case(lambda: dd.elbo(VP, EPSILON, X, stop=2.0), "stop must lie in [0, 1)", "2"),
    "stop = 0": case(
        lambda: dd.path_kl(VP, EPSILON, X, stop=0), "stop", "diverges", "Epsilon", "decays"
    ),
    "stop = 0 with the mask left in": case(
        lambda: dd.elbo(MASKED, dd.heads.Posterior(logits), W, stop=0), "stop", "diverges"
    ),
    "no nodes": case(lambda: dd.path_kl(VP, EPSILON, X, nodes=0), "nodes", "≥ 1", "0"),
    "vlb backwards": case(
        lambda: dd.vlb(VP, MEAN, X, torch.tensor([0.5, 0.2, 1.0])), "times must increase", "0.2"
    ),
}

NOWHERE = (dd.Linear(1.0) + dd.Noise(1.0)).on(dd.clock.LogLinear())
GROWING = dd.Birth().on(dd.clock.LogLinear())

AT_INFINITY = {
    "limit of an unstable drift": case(
        lambda: NOWHERE.limit((2, 3)), "no limit law", "finite end", error=dd.Unsolved
    ),
    "prior of an unstable drift": case(
        lambda: NOWHERE.prior((2, 3)), "[inf, inf]", "clock.Constant", error=dd.Unsolved
    ),
    "unstable drift at infinity": case(
        lambda: NOWHERE.marginal(X, 1.0), "[inf, inf]", "clock.Constant", error=dd.Unsolved
    ),
    "bound of an unstable drift": case(
        lambda: dd.elbo(NOWHERE, MEAN, X), "no law exists", error=dd.Unsolved
    ),
    "samples of an unstable drift": case(
        lambda: dd.sample(NOWHERE, MEAN, (2, 3)), "no law exists", error=dd.Unsolved
    ),
    "variance that explodes to infinity": case(
        lambda: dd.Noise(1.0).on(dd.clock.Cosine()).prior((2, 3)), "[inf, inf]", error=dd.Unsolved
    ),
    "births for ever": case(
        lambda: GROWING.marginal(N, 1.0), "births", "clock.Constant", error=dd.Unsolved
    ),
    "paths to infinity": case(lambda: dd.simulate(NOWHERE, X, [1.0]), "times", "finite"),
}

NOISELESS = {
    "noise in one coordinate": case(
        lambda: (dd.Linear(-1.0) + dd.Noise([1.0, 0.0])).marginal(X[:, :2], 0.5),
        "no noise reaches coordinates [1]",
        "Product",
        error=dd.Unsolved,
    ),
    "loss without noise": case(
        lambda: dd.loss(dd.Linear(-1.0) + dd.Noise(0.0), EPSILON, X, 0.5),
        "no noise is declared",
        "certain",
        error=dd.Unsolved,
    ),
    "samples where nothing moves": case(
        lambda: dd.elbo((0 * dd.Death()).on(dd.clock.Constant(1.0)), MISSING, N),
        "nothing moves",
        error=dd.Unsolved,
    ),
    "limit where nothing moves": case(
        lambda: dd.Ehrenfest(4, 0.0, 0.0).limit((2, 3)), "nothing moves", error=dd.Unsolved
    ),
}

SLOW = (0.1 * dd.Death()).on(dd.clock.LogLinear())

TOO_SLOW = {
    "times of a slow process": case(
        lambda: dd.times(SLOW, N), "0.1 * Death() is too slow", "1e-06", "(10 * process).on(clock)"
    ),
    "bound of a slow process": case(lambda: dd.elbo(SLOW, MISSING, N), "too slow for its clock"),
    "bound of a slow part": case(
        lambda: dd.path_kl(
            dd.Product(income=VP, n=SLOW),
            dd.Exact(dd.Product(income=VP, n=SLOW), {"income": X, "n": N}),
            {"income": X, "n": N},
            nodes=8,
        ),
        "0.1 * Death() is too slow",
    ),
    "slow masking": case(
        lambda: dd.times((0.1 * dd.Replace(dd.one_hot(MASK, K))).on(dd.clock.Cosine()), W),
        "too slow for its clock",
    ),
    "slow diffusion": case(
        lambda: dd.times((0.1 * TO_INFINITY.process).on(dd.clock.LogLinear()), X),
        "too slow for its clock",
    ),
}

HEADS = {
    "epsilon for tokens": case(
        lambda: dd.loss(MASKED, EPSILON, W, 0.5), "Epsilon", "Posterior", error=dd.Unsolved
    ),
    "mean for deaths": case(
        lambda: dd.loss(BLACKOUT, MEAN, N, 0.5), "Mean", "Missing", error=dd.Unsolved
    ),
    "posterior for reals": case(
        lambda: dd.loss(VP, POSTERIOR, X, 0.5), "Posterior", "Epsilon", error=dd.Unsolved
    ),
    "a network": case(lambda: dd.loss(VP, zeros, X, 0.5), "head", "heads.Epsilon", "function"),
    "a mean that would be broadcast": case(
        lambda: dd.loss(VP, dd.heads.Mean(lambda x, t: x[:, 0]), X[:, :1], 0.5),
        "must have shape (2, 1)",
        "its shape is (2,)",
    ),
    "a mean of another shape in a run": case(
        lambda: dd.sample(VP, dd.heads.Mean(lambda x, t: x[:, 0]), (4, 1), steps=2),
        "must have shape (4, 1)",
    ),
    "a mean of the auxiliaries": case(
        lambda: dd.sample(dd.zoo.cld(), dd.heads.Mean(lambda x, t: x), (2, 2), steps=2),
        "must have shape (2, 2)",
        "(2, 2, 2)",
    ),
    "a mean of the auxiliaries in a loss": case(
        lambda: dd.loss(dd.zoo.cld(), dd.heads.Mean(lambda x, t: x), X[:, :2], 0.5),
        "must have shape (2, 2)",
        "(2, 2, 2)",
    ),
    "noise that never reaches a direction": case(
        lambda: dd.loss(LOST, EPSILON, X[:, :2], 0.5), "noise does not reach", error=dd.Unsolved
    ),
    "noise that never reaches the data of a lift": case(
        lambda: dd.elbo(LOST.lift(torch.distributions.Normal(0.0, 1.0)), EPSILON, X[:, 0]),
        "noise does not reach",
        error=dd.Unsolved,
    ),
    "a word": case(lambda: dd.sample(VP, "epsilon", (2, 3)), "head", "str"),
    "a network for elbo": case(lambda: dd.elbo(VP, torch.nn.Identity(), X), "head", "Identity"),
    "a network to reverse": case(lambda: dd.reverse(VP, zeros), "head", "function"),
    "output shape": case(
        lambda: dd.loss(VP, dd.heads.Epsilon(lambda x, t: x[:, :1]), X, 0.5), "(2, 3)", "(2, 1)"
    ),
    "number of logits": case(
        lambda: dd.loss(MASKED, dd.heads.Posterior(lambda x, t: torch.zeros(2, 3, 7)), W, 0.5),
        "Posterior must have shape (2, 3, 4)",
        "(2, 3, 7)",
    ),
    "logits per row": case(
        lambda: dd.sample(MASKED, dd.heads.LeaveOneOut(lambda x, t: torch.zeros(2, K)), (2, 3)),
        "LeaveOneOut must have shape (2, 3, 4)",
        "(2, 4)",
    ),
    "absent state": case(
        lambda: dd.loss(MASKED, dd.heads.Posterior(logits, absent=9), W, 0.5), "[9]", "[0, 3]"
    ),
    "column without a head": case(
        lambda: dd.loss(
            TABLE,
            dd.heads.Product(lambda x, t: x, income=dd.heads.Epsilon),
            {"income": X, "job": W},
            0.5,
        ),
        "says nothing of 'job'",
    ),
    "column without output": case(
        lambda: dd.loss(
            TABLE,
            dd.heads.Product(
                lambda x, t: {"income": x["income"]},
                income=dd.heads.Epsilon,
                job=dd.heads.Posterior,
            ),
            {"income": X, "job": W},
            0.5,
        ),
        "dict",
        "['income', 'job']",
    ),
    "no head for a product": case(
        lambda: dd.loss(TABLE, dd.heads.Epsilon(lambda x, t: x), {"income": X, "job": W}, 0.5),
        "Epsilon",
        "heads.Product",
    ),
    "epsilon from Λ = ∞": case(
        lambda: dd.sample(TO_INFINITY, EPSILON, (2, 3)), "Epsilon", "Λ = ∞", error=dd.Unsolved
    ),
    "ratio from Λ = ∞": case(
        lambda: dd.sample(MASKED, RATIO, (2, 3)), "Ratio", "Λ = ∞", error=dd.Unsolved
    ),
    "Euler from Λ = ∞": case(
        lambda: dd.sample(BLACKOUT, MISSING, (2, 3), stepper=dd.steppers.Euler()), "Λ = ∞", "grid"
    ),
    "Heun on tokens": case(
        lambda: dd.sample(MASKED, POSTERIOR, (2, 3), stepper=dd.steppers.Heun(), grid=[0.9, 0.0]),
        "continuous",
        error=dd.Unsolved,
    ),
    "flow of tokens": case(
        lambda: dd.log_prob(MASKED, POSTERIOR, W), "probability flow", "elbo", error=dd.Unsolved
    ),
}

OPTIONS = {
    "no clock to sample": case(lambda: dd.sample(dd.Death(), MISSING, (2, 3)), "clock", ".on("),
    "no clock for a bound": case(lambda: dd.elbo(dd.Death(), MISSING, N), "clock", ".on("),
    "shape of a table": case(
        lambda: dd.sample(TABLE, EPSILON, (2, 3)), "shape must be a dict", "['income', 'job']"
    ),
    "a word for a stepper": case(
        lambda: dd.sample(VP, MEAN, (2, 3), stepper="heun"), "stepper", "dd.steppers", "str"
    ),
    "a word for a weight": case(
        lambda: dd.loss(VP, EPSILON, X, 0.5, weight="simple"), "weight", "dd.weights", "str"
    ),
    "start of another kind": case(
        lambda: dd.sample(VP, MEAN, (2, 3), start=W), "start", "floating", "int64"
    ),
    "start of another shape": case(
        lambda: dd.sample(VP, MEAN, (2, 3), start=X[:1]), "start", "(2, 3)", "(1, 3)"
    ),
    "known without a mask": case(
        lambda: dd.sample(MASKED, POSTERIOR, (2, 3), known=W), "known", "(values, mask)", "Tensor"
    ),
    "known with a float mask": case(
        lambda: dd.sample(MASKED, POSTERIOR, (2, 3), known=(W, X)), "known", "boolean", "float32"
    ),
    "known outside": case(
        lambda: dd.sample(MASKED, POSTERIOR, (2, 3), known=(W + 9, W == 0)), "known", "[9, 9]"
    ),
    "known of another shape": case(
        lambda: dd.sample(MASKED, POSTERIOR, (2, 3), known=(W[:, :2], W[:, :2] == 0)),
        "known",
        "(2, 3)",
        "(2, 2)",
    ),
    "unknown keyword": case(
        lambda: dd.loss(VP, EPSILON, X, 0.5, wieght=dd.weights.Simple()), "wieght", error=TypeError
    ),
    "unknown option of sample": case(
        lambda: dd.sample(VP, MEAN, (2, 3), num_steps=5), "num_steps", error=TypeError
    ),
    "unknown option of a clock": case(
        lambda: dd.clock.Linear(b0=1.0, b2=3.0), "b2", error=TypeError
    ),
}

MIXED = dd.Mixture([0.3, 0.7], VP, VP)
LABELS = torch.tensor([0, 1])


def walk(betas):
    return dd.Walk(torch.distributions.Laplace(0.0, 1.0), betas)


def noise(value):
    """A head whose network returns this."""
    return dd.heads.Epsilon(lambda x, t: value)


NEWCOMER = {
    "learn a number": case(lambda: dd.learn(3), "process, a term or a clock", "int"),
    "learn a network": case(lambda: dd.learn(torch.nn.Linear(2, 2)), "process", "Linear"),
    "process and head swapped": case(lambda: dd.elbo(EPSILON, VP, X), "process", "Epsilon"),
    "loss of a number": case(lambda: dd.loss(3, EPSILON, X, 0.5), "process", "int"),
    "sample of a number": case(lambda: dd.sample(3, EPSILON, (2, 3)), "process", "int"),
    "paths of data": case(lambda: dd.simulate(X, VP, [0.5]), "process", "Tensor"),
    "check of a number": case(lambda: dd.check(3, X), "process", "int"),
    "check of a function": case(lambda: dd.check(VP, X[:, :1], head=zeros), "head", "function"),
    "exact without a process": case(lambda: dd.Exact(3, X), "process", "int"),
    "reversal of a number": case(lambda: dd.reverse(3, MEAN), "process", "int"),
    "flow of a number": case(lambda: dd.log_prob(3, MEAN, X), "process", "int"),
    "validate a number": case(lambda: dd.validate(3, X), "process", "int"),
    "shape that is a number": case(lambda: dd.sample(VP, MEAN, 4), "shape", "(B, *event)", "4"),
    "negative shape": case(lambda: dd.sample(VP, MEAN, (-2, 3)), "integers ≥ 1", "(-2, 3)"),
    "shape of another width": case(
        lambda: (dd.Linear([-1.0, -2.0]) + dd.Noise(1.0)).limit((2, 3)), "size 2", "(2, 3)"
    ),
    "half a step": case(lambda: dd.sample(VP, MEAN, (2, 3), steps=2.5), "steps", "≥ 1", "2.5"),
    "steps backwards": case(lambda: dd.sample(VP, MEAN, (2, 3), steps=-1), "steps", "≥ 1", "-1"),
    "steps in words": case(lambda: dd.sample(VP, MEAN, (2, 3), steps="3"), "steps", "'3'"),
    "grid in words": case(lambda: dd.sample(VP, MEAN, (2, 3), grid="abc"), "grid", "'abc'"),
    "NaN in a grid": case(
        lambda: dd.sample(VP, MEAN, (2, 3), grid=[1.0, NAN, 0.0]), "grid", "nan"
    ),
    "grid that stands": case(
        lambda: dd.sample(VP, MEAN, (2, 3), grid=[1.0, 0.5, 0.5, 0.0]), "grid must decrease"
    ),
    "no Euler steps": case(
        lambda: dd.simulate(VP, X, [0.5], steps=0), "steps must be an integer ≥ 1", "0"
    ),
    "no times": case(lambda: dd.simulate(VP, X, []), "times", "vector"),
    "half a node": case(lambda: dd.elbo(VP, MEAN, X, nodes=2.5), "nodes", "2.5"),
    "NaN stop": case(lambda: dd.elbo(VP, MEAN, X, stop=NAN), "stop must lie in [0, 1)", "nan"),
    "label that is missing": case(
        lambda: dd.loss(MIXED, MEAN, X, 0.5), "x_0", "'label' and 'state'"
    ),
    "labels of another batch": case(
        lambda: dd.loss(MIXED, MEAN, {"label": LABELS[:1], "state": X}, 0.5), "(2,)", "(1,)"
    ),
    "labels in a list": case(
        lambda: dd.loss(MIXED, MEAN, {"label": [0, 1], "state": X}, 0.5), "x_0['label']", "list"
    ),
    "mixture of two spaces": case(lambda: dd.Mixture([0.5, 0.5], VP, MASKED), "one space"),
    "mixture with a number": case(lambda: dd.Mixture([1.0], 3), "processes", "int"),
    "sum of a number": case(lambda: dd.Sum(3), "terms", "3"),
    "product in a list": case(lambda: dd.Product([VP]), "dict", "list"),
    "prior of entries": case(
        lambda: dd.elbo(VP, MEAN, X, prior=torch.distributions.Normal(torch.zeros(2, 3), 1.0)),
        "prior must have batch shape (2,)",
        ".to_event(1)",
    ),
    "prior that is a number": case(
        lambda: dd.sample(VP, MEAN, (2, 3), prior=3), "prior must be a distribution", "int"
    ),
    "known of another width": case(
        lambda: VP.given((torch.zeros(1, 2), torch.ones(1, 2) > 0)).marginal(X, 0.5),
        "x_0 of shape (2, 3)",
        "(1, 2)",
    ),
    "known without mask": case(lambda: VP.given(X), "(values, mask)", "Tensor"),
    "known in lists": case(lambda: VP.given(([0.0], [True])), "pair of tensors", "list"),
    "known tokens that are floats": case(
        lambda: MASKED.given((X, X > 0)), "what is known", "int64", "float32"
    ),
    "known tokens outside": case(lambda: MASKED.given((W + 9, W == 0)), "what is known", "[9, 9]"),
    "known NaN": case(lambda: VP.given((X * NAN, X > 0)), "what is known", "nan"),
    "known of a table": case(lambda: TABLE.given((X, X > 0)), "parts of a product"),
    "sampled with unknown lists": case(
        lambda: dd.sample(VP, MEAN, (2, 3), known=([0.0], [True])), "pair of tensors", "list"
    ),
    "network that says nothing": case(
        lambda: dd.loss(VP, noise(None), X, 0.5), "Epsilon must return shape (2, 3)", "None"
    ),
    "network that says integers": case(
        lambda: dd.loss(VP, noise(torch.zeros(2, 3).long()), X, 0.5), "floating", "int64"
    ),
    "walk without variance": case(
        lambda: dd.Walk(torch.distributions.Cauchy(0.0, 1.0), [0.1]),
        "Cauchy has no finite variance",
    ),
    "beta of zero": case(lambda: walk([0.0, 0.2]), "betas must be numbers in (0, 1)", "[0, 0.2]"),
    "no betas": case(lambda: walk([]), "betas must be numbers in (0, 1)"),
    "increments of a batch": case(
        lambda: dd.Walk(torch.distributions.Laplace(torch.zeros(3), 1.0), [0.1]),
        "one law on the reals",
        "(3,)",
    ),
    "clock of what is not divisible": case(
        lambda: dd.LevyWalk(torch.distributions.Uniform(0.0, 1.0), [0.1]), "infinitely divisible"
    ),
    "walk beyond its end": case(
        lambda: walk([0.1, 0.2]).marginal(X, 3), "index of the chain, 0 … 2"
    ),
    "walk between its steps": case(
        lambda: walk([0.1, 0.2]).marginal(X, 0.5), "index of the chain"
    ),
    "noise beyond DDPM's": case(
        lambda: dd.ReverseWalk(torch.distributions.Laplace(0.0, 1.0), [0.1], eta=2.0),
        "eta must lie in (0, 1]",
    ),
    "chain in a table": case(
        lambda: dd.Product(a=walk([0.1])), "parts in continuous time", "['a']"
    ),
    "network that says NaN": case(
        lambda: dd.loss(VP, noise(X * NAN), X, 0.5), "network of Epsilon returned NaN", "[0, 1]"
    ),
    "tokens from NaN": case(
        lambda: dd.sample(MASKED, dd.heads.Posterior(lambda x, t: logits(x, t) * NAN), (2, 3)),
        "network of Posterior returned NaN",
    ),
    "units from NaN": case(
        lambda: dd.sample(BLACKOUT, dd.heads.Missing(lambda x, t: x * NAN), (2, 3)),
        "network of Missing returned NaN",
    ),
    "posterior of nothing": case(
        lambda: dd.loss(MASKED, dd.heads.Posterior(lambda x, t: None), W, 0.5), "tensor", "None"
    ),
    "network without time": case(
        lambda: dd.heads.Epsilon(torch.nn.Linear(3, 3)), "net must take (x, t)", "Linear"
    ),
    "network that is a class": case(lambda: dd.heads.Epsilon(torch.nn.Linear), "net", "class"),
    "head of a head": case(lambda: dd.heads.Epsilon(MEAN), "net must be a network", "Mean"),
    "context for two arguments": case(
        lambda: dd.loss(VP, EPSILON, X, 0.5, context=X), "cannot be called with a context"
    ),
    "absent by name": case(lambda: dd.heads.Posterior(logits, absent="mask"), "absent", "'mask'"),
    "all absent": case(
        lambda: dd.sample(MASKED, dd.heads.Posterior(logits, absent=(0, 1, 2, 3)), (2, 3)), "all 4"
    ),
    "partial of no head": case(
        lambda: dd.heads.Product(zeros, a=partial(dict, absent=3)), "'a'", "dd.heads"
    ),
    "head by name": case(lambda: dd.heads.Product(zeros, a="epsilon"), "'a'", "dd.heads"),
    "kind by name": case(lambda: dd.Exact(VP, X).as_("mean"), "dd.heads", "'mean'"),
    "estimate by name": case(lambda: VP.convert(X, X, 0.5, "mean"), "dd.estimates", "'mean'"),
    "data of another shape": case(
        lambda: VP.bridge(X[:1], X, 0.2, 0.5), "x_t", "(1, 3)", "(2, 3)"
    ),
    "reversal at 0": case(lambda: dd.reverse(VP, EPSILON).drift(X, 0.0), "t > 0"),
    "field that is a number": case(lambda: dd.Field(3), "velocity", "function", "3"),
    "field of another shape": case(
        lambda: dd.simulate(dd.Field(lambda x, t: x[:, :1]) + dd.Noise(1.0), X, [0.5]),
        "velocity(x, t)",
        "(2, 3)",
        "(2, 1)",
    ),
    "field that says nothing": case(
        lambda: dd.simulate(dd.Field(lambda x, t: None) + dd.Noise(1.0), X, [0.5]), "None"
    ),
    "field that explodes": case(
        lambda: dd.simulate(dd.Field(lambda x, t: x * NAN) + dd.Noise(1.0), X, [0.5]),
        "left the finite numbers",
        "more steps",
    ),
    "noise of another shape": case(
        lambda: dd.simulate(dd.Linear(-1.0) + dd.StateNoise(lambda x, t: torch.ones(7)), X, [0.5]),
        "g(x, t)",
        "(7,)",
    ),
    "law of auxiliaries": case(
        lambda: (dd.Linear([[0.0, 1.0], [-1.0, -1.0]]) + dd.Noise(1.0)).lift(0.1), "law", "float"
    ),
    "scale by a number": case(lambda: VP.scaled(2.0), "alpha", "function", "2.0"),
    "scale of no tensor": case(lambda: VP.scaled(lambda t: 1.0), "alpha", "tensor", "1.0"),
    "infinite factor": case(lambda: INF * dd.Noise(1.0), "rate", "finite", "inf"),
    "rates without time": case(
        lambda: dd.RateMatrix(lambda t: torch.zeros(3, 3)), "(1, K, K)", "(3, 3)"
    ),
    "rates that become negative": case(
        lambda: dd.RateMatrix(
            lambda t: (1 - 4 * t)[:, None, None] * torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
        ).marginal(torch.tensor([0]), 0.9),
        "rates ≥ 0 and finite at all own times",
    ),
    "sites by name": case(lambda: dd.RateMatrix(torch.zeros(6, 6), sites="ab"), "sites", "'ab'"),
    "ragged rates": case(lambda: dd.RateMatrix([[0.0, 1.0], [1.0]]), "Q must be a number"),
    "law of nothing": case(lambda: dd.Replace(None), "pi", "None"),
    "endless units": case(lambda: dd.Ehrenfest(INF), "size", "positive integer", "inf"),
    "units by name": case(lambda: dd.Ehrenfest("a"), "size", "'a'"),
    "change of nothing": case(lambda: dd.Reaction(None, 1.0), "change", "None"),
    "propensity per species": case(
        lambda: dd.Reaction([-1, 0], lambda n: n).out(N[:, :2]), "one rate per state", "(2, 2)"
    ),
    "a clock without brackets": case(
        lambda: dd.Death().on(dd.clock.Logistic), "the class Logistic", "call it"
    ),
    "a head without brackets": case(
        lambda: dd.loss(VP, dd.heads.Epsilon, X, 0.5), "the class Epsilon", "call it"
    ),
    "a stepper without brackets": case(
        lambda: dd.sample(VP, EPSILON, (2, 3), stepper=dd.steppers.Heun), "the class Heun"
    ),
    "a weight without brackets": case(
        lambda: dd.loss(VP, EPSILON, X, 0.5, weight=dd.weights.Simple), "the class Simple"
    ),
    "half an index": case(lambda: dd.one_hot(1.5, 3), "integers", "1.5"),
    "matrices that do not fit": case(
        lambda: dd.stationary([[-1.0, 0.0]], [[1.0]]), "A must be (k, k)", "(1, 2)"
    ),
    "sparse data": case(lambda: VP.marginal(X.to_sparse(), 0.5), "x_0", "dense", "sparse"),
    "validation by name": case(lambda: dd.set_validation("off"), "True or False", "'off'"),
}

CASES = {
    **NEWCOMER,
    **DECLARED,
    **DATA,
    **TIMES,
    **AT_INFINITY,
    **NOISELESS,
    **TOO_SLOW,
    **HEADS,
    **OPTIONS,
}


def fails_as_said(bad):
    with pytest.raises(bad.error) as caught:
        bad.call()
    message = str(caught.value)
    for part in bad.says:
        assert part in message, message


def inputs():
    return [v.clone() for v in (X, W, N)]


@pytest.mark.parametrize("name", list(CASES))
def test_the_message_names_argument_shape_rule_and_values(name):
    before, generator = inputs(), torch.random.get_rng_state()
    fails_as_said(CASES[name])
    for old, new in zip(before, (X, W, N), strict=True):
        assert torch.equal(old, new), "an input was changed"
    if name in {**DECLARED, **DATA, **TIMES}:
        assert torch.equal(generator, torch.random.get_rng_state()), "noise was drawn"


def test_no_input_is_mutated_by_good_calls():
    before = inputs()
    for process, head, x in ((VP, MEAN, X), (MASKED, POSTERIOR, W), (BLACKOUT, MISSING, N)):
        t, w = dd.times(process, x)
        seen = t.clone(), w.clone()
        dd.loss(process, head, x, t)
        dd.elbo(process, head, x)
        dd.simulate(process, x, [0.2, 0.6])
        known = x, torch.ones_like(x, dtype=torch.bool)
        dd.sample(
            process, head, x.shape, steps=2, start=process.prior(x.shape).sample(), known=known
        )
        dd.check(process, x[:, :1])
        assert torch.equal(seen[0], t) and torch.equal(seen[1], w)
    for old, new in zip(before, (X, W, N), strict=True):
        assert torch.equal(old, new)


def test_a_declared_number_is_not_the_callers_tensor():
    Q = torch.tensor([[-1.0, 1.0], [2.0, -2.0]], dtype=torch.float64)
    chain = dd.RateMatrix(Q)
    Q[0, 1] = 7.0
    assert float(chain.Q[0, 1]) == 1.0


@pytest.fixture(scope="module")
def compiled():
    """A first compilation in this process, as a user's training loop would do."""
    torch._dynamo.reset()
    double = torch.compile(lambda x: 2 * x, backend="eager")
    assert torch.equal(double(X), 2 * X)


@pytest.mark.parametrize("name", [*DATA, *TIMES])
def test_it_still_holds_after_a_first_compile(compiled, name):
    fails_as_said(CASES[name])


def test_the_switch_is_the_packages_own():
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        fails_as_said(DATA["negative count"])
        dd.set_validation(False)
        BLACKOUT.marginal(without(N, 1.5), 0.5)  # values are trusted, shapes and kinds are not
        fails_as_said(DATA["int counts"])
        fails_as_said(DATA["validate"])
    finally:
        dd.set_validation(True)
        torch.distributions.Distribution.set_default_validate_args(True)


@pytest.mark.parametrize("name", MARKET)
def test_an_empty_batch_is_refused_by_every_verb(name):
    entry = MARKET[name]
    process, x = entry.process, entry.x
    none, head = map_state(lambda v: v[:0], x), dd.Exact(process, x)
    noisy = map_state(lambda v: v[:0], process.marginal(x, 0.5).sample())
    shape = map_state(lambda v: v.shape, none)
    calls = [
        lambda: process.marginal(none, 0.5),
        lambda: process.transition(noisy, 0.2, 0.5),
        lambda: process.bridge(none, noisy, 0.2, 0.5),
        lambda: process.limit(shape),
        lambda: process.prior(shape),
        lambda: process.score(noisy, none, 0.5),
        lambda: dd.loss(process, head, none, 0.5),
        lambda: dd.times(process, none),
        lambda: dd.elbo(process, head, none),
        lambda: dd.log_prob(process, head, none),
        lambda: dd.simulate(process, noisy, [0.2, 0.5]),
        lambda: dd.reverse(process, head).rates(noisy, 0.5),
        lambda: dd.validate(process, none),
        lambda: dd.check(process, none),
        lambda: dd.Exact(process, none),
    ]
    if process.timed:
        calls.append(lambda: dd.sample(process, head, shape, steps=2))
    for call in calls:
        refused = "must not be empty|integers ≥ 1|coordinates of the sum"
        with pytest.raises((ValueError, dd.Unsolved), match=refused):
            call()
