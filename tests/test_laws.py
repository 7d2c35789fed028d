"""Every process of the market, and random ones, pass every law."""

from __future__ import annotations

import os
import re

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from market import CHAINS, MARKET, Entry

import discdiff as dd
from discdiff import solve
from discdiff.process import map_state
from discdiff.testing import clocks, processes, rate_matrices, simplexes, times, vectors

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", MARKET)
def test_market(name):
    entry = MARKET[name]
    report = dd.check(entry.process, entry.x)
    assert report, str(report)
    silent = {row.law for row in report.rows if row.error is None}
    unstarted = set() if entry.process.timed else {"prior"}
    assert silent == set(entry.without) | unstarted, (
        f"these laws were left out: {silent}\n{report}"
    )


@pytest.mark.parametrize("start", range(10))
def test_random_processes(start):
    """Ten runs of twenty, which differ more from each other than two hundred of one run."""

    @seed(start)
    @settings(SETTINGS, derandomize=False, max_examples=20)
    @given(processes())
    def laws_hold(drawn):
        process, x = drawn
        report = dd.check(process, x)
        assert report, f"{process!r} at {x}\n{report}"

    laws_hold()


@pytest.mark.parametrize("start", range(int(os.environ.get("VECTOR_RUNS", "2"))))
def test_random_vectors(start):
    """Twenty systems (Q, D, S) each, of up to four coordinates; VECTOR_RUNS=10 holds 200."""

    @seed(start)
    @settings(SETTINGS, derandomize=False, max_examples=20)
    @given(vectors())
    def laws_hold(drawn):
        process, x = drawn
        report = dd.check(process, x)
        assert report, f"{process!r} at {x}\n{report}"

    laws_hold()


BRANCHES = {
    "Gaussian": ["scalar, stable", "scalar, no limit", "diagonal, stable", "diagonal, no limit",
                 "rates vary.*"],
    "MatrixGaussian": [r"k = \d, stable", r"k = \d, no limit", r"functions of time: \d+ panels.*"],
    "Replacement": ["one-hot π.*", "uniform π", "general π"],
    "Finite": [r"\d+ states, \d+ squarings", r"\d+ states = sites .*, \d+ squarings",
               r"\d+ states, rates vary.*"],
    "Circulant": [r"\d+ states on a ring, \d increments"],
    "Reflected": [r"\d+ states on a line"],
    "Clustered": [r"\d+ states in .* clusters"],
    "TwoHops": [r"\d+ states, \d+ features"],
    "MaskedEach": [r"state \d+ is the mask"],
    "Killed": [r"state \d+ is the mask; tokens: .*"],
    "Factored": [r"\d+ × \d+ states: .*"],
    "Interpolated": [r"\d+ states, π varies"],
    "Still": [""],
    "Motion": [""],
    "PureDeath": [""],
    "ImmigrationDeath": [""],
    "Arrivals": [""],
    "Families": ["no deaths", "births and deaths"],
    "TwoStates": [r"\d+ units"],
    "Particles": [r"\d+ species, no arrivals", r"\d+ species, with arrivals"],
    "Products": [r"\d+ steps of one kernel, \d+ states", r"\d+ steps of a kernel each, .*"],
    "NormalWalk": [r"\d+ steps, normal"],
    "ForwardSteps": [r"\d+ steps, Laplace"],
    "BackwardSteps": [r"\d+ steps, Laplace"],
    "Marginals": [r"\d+ steps, logistic"],
    "Clocked": [r"\d+ steps, .*, closed form", r"\d+ steps, .*, Fourier table"],
    "LevyNoise": ["stable"],
    "BetaDiffusion": [r"\d+ steps"],
    "BetaTails": [r"\d+ steps"],
    "NormalTails": [r"\d+ steps"],
    "LatticeSums": [r"\d+ steps, .*"],
    "SharedVariance": [r"\d+ steps, .*"],
    "StableSteps": [r"\d+ steps, .*"],
    "GivenVariances": [r".*"],
    "Truncated": ["one entry at a time", r"\d+ species"],
}  # fmt: skip


def engines():
    """Name and branch of every engine in the market."""
    t = torch.full((1,), 0.5, dtype=torch.float64)
    chains = [entry.process.process for entry in CHAINS.values()]
    for process in [*(entry.process for entry in MARKET.values()), *chains]:
        for leaf in process.leaves(t):
            engine = leaf.core.engine
            yield type(engine).__name__, engine.branch()


def test_market_is_complete():
    """Every registered engine and every branch that one reports has an entry, and no other."""
    found = set(engines())
    assert set(BRANCHES) == {name for name, _ in found}
    assert set(BRANCHES) >= {engine.__name__ for engine in solve._engines}
    for name, patterns in BRANCHES.items():
        for pattern in patterns:
            assert any(n == name and re.fullmatch(pattern, b) for n, b in found), (name, pattern)
    for name, branch in found:
        assert any(re.fullmatch(p, branch) for p in BRANCHES[name]), f"new branch {name}: {branch}"


def test_market_has_every_combinator():
    wanted = {"Sum", "Timed", "Product", "Mixture", "Pushed", "Scaled", "Given", "Lifted"}
    kinds = {type(m).__name__ for e in MARKET.values() for m in e.process.modules()}
    assert wanted <= kinds
    assert any(
        getattr(m, "scale", 1.0) != 1.0 for e in MARKET.values() for m in e.process.modules()
    )


def single(x):
    return x.float() if x.is_floating_point() else x


@pytest.mark.parametrize("name", MARKET)
def test_float32_is_near_float64(name):
    """Laws of float32 states, with float32 as the default, differ by rounding only."""
    entry: Entry = MARKET[name]
    x, t = map_state(lambda v: v.double() if v.is_floating_point() else v, entry.x), 0.6
    dtype = torch.get_default_dtype()
    try:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        y = entry.process.marginal(x, t).sample()
        fine = entry.process.marginal(x, t).log_prob(y)
        torch.set_default_dtype(torch.float32)
        coarse = entry.process.marginal(map_state(single, x), t).log_prob(map_state(single, y))
    finally:
        torch.set_default_dtype(dtype)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse.double(), fine.double(), rtol=1e-4, atol=1e-4)


@settings(SETTINGS, max_examples=60)
@given(rate_matrices(4), simplexes(4), clocks(), times(), times())
def test_strategies(Q, pi, clock, s, t):
    """What is drawn is what it says; laws are proper at all times, also 0, 1e-8 and the end."""
    s, t = sorted((s, t))
    x = torch.arange(4)
    for process in (dd.RateMatrix(Q).on(clock), dd.Replace(pi).on(clock)):
        law = process.transition(x, s, t)
        total = torch.stack([law.log_prob(torch.full((4,), k)) for k in range(4)]).exp().sum(0)
        torch.testing.assert_close(total, torch.ones(4), rtol=0, atol=1e-6)
        if s == t:
            assert bool((law.sample() == x).all())
