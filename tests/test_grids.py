"""Observation times against the papers that published them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from discdiff import Linear, Mixture, Noise, clock, grids, heads, sample, zoo
from discdiff.sample import grid_times

F64 = torch.float64
SETTINGS = settings(deadline=None, max_examples=30)


@pytest.fixture
def blackout():
    """t_1 … t_T of Santos et al. (2023), in own time."""
    return grids.UniformLogit(1000, 15.0).own_times()[:-1].flip(0)


@pytest.mark.parametrize(
    ("k", "time", "digits"),
    [
        (1, 3.05902e-7, 6),
        (2, 3.15228e-7, 6),
        (500, 0.68567, 5),
        (501, 0.70068, 5),
        (999, 14.970, 5),
        (1000, 15.0, 12),
    ],
)
def test_official_blackout_times(blackout, k, time, digits):
    assert blackout.shape == (1000,)
    assert float(blackout[k - 1]) == pytest.approx(time, rel=10.0 ** (1 - digits))


def test_the_blackout_grid_is_that_of_the_formula(blackout):
    c = math.log(math.expm1(15))
    for k in (1, 2, 250, 500, 501, 777, 1000):
        exact = math.log1p(math.exp(c * (2 * (k - 1) / 999 - 1)))
        assert float(blackout[k - 1]) == pytest.approx(exact, rel=1e-12)


def test_blackout_survivals_are_symmetric(blackout):
    survival = (-blackout).exp()
    torch.testing.assert_close(survival + survival.flip(0), torch.ones(1000, dtype=F64))


def test_another_end_is_not_the_official_grid():
    other = grids.UniformLogit(1000, 15.15).own_times()[:-1].flip(0)
    assert float(other[0]) != pytest.approx(3.05902e-7, rel=1e-2)


@pytest.mark.parametrize("subject", [clock.Logistic(15.0), clock.LogLinear(), clock.Cosine()])
def test_a_clock_reads_own_times(subject):
    grid = grids.UniformLogit(50, 15.0)
    t = grid.times(subject)
    torch.testing.assert_close(subject(t), grid.own_times(), rtol=1e-7, atol=0)


CLOCKS = st.sampled_from(
    [
        clock.Constant(20.0),
        clock.Linear(0.1, 40.0),
        clock.Linear(0.0, 40.0),
        clock.Geometric(0.01, 50.0),
        clock.LogLinear(),
        clock.Cosine(),
        clock.Logistic(15.0),
        clock.Learned(clock.Constant(20.0), 4),
    ]
)
GRIDS = st.sampled_from([grids.UniformTime, grids.UniformLogit, grids.Karras])


@SETTINGS
@given(CLOCKS, GRIDS, st.integers(2, 200))
def test_grids_fall_to_zero(subject, grid, steps):
    t = grid(steps).times(subject)
    assert t.dtype == F64
    assert t.shape == (steps + 1,)
    assert not t.requires_grad
    assert bool((t.diff() < 0).all())
    assert float(t[-1]) == 0
    assert float(t[0]) <= 1


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("subject", [clock.Linear(0.1, 20.0), clock.Geometric(0.1, 5.0)])
def test_equal_steps(steps, subject):
    t = grids.UniformTime(steps).times(subject)
    torch.testing.assert_close(t.diff(), torch.full((steps,), -1 / steps, dtype=F64))
    t = grids.UniformIntegral(steps).times(subject)
    assert (float(t[0]), float(t[-1])) == (1, 0)
    step = -float(subject(torch.ones((), dtype=F64))) / steps
    torch.testing.assert_close(subject(t).diff(), torch.full((steps,), step, dtype=F64))


def test_karras_levels():
    """Equation 5 of Karras et al. (2022), ρ = 7."""
    subject, n = clock.Constant(20.0), 18
    t = grids.Karras(n).times(subject)
    sigma = torch.expm1(subject(t)).sqrt()
    for i in range(n):
        root = 80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
        assert float(sigma[i]) == pytest.approx(root**7, rel=1e-10)
    assert float(sigma[-1]) == 0


@pytest.mark.parametrize(
    "process",
    [
        (Linear(-0.5) + Noise(1.0)).on(clock.Linear(0.1, 20.0)),
        zoo.edm(80.0),
        zoo.edm(200.0),
        zoo.rectified_flow(),
    ],
    ids=["vp", "edm", "longer edm", "rectified flow"],
)
def test_karras_levels_are_noise_to_signal_ratios(process):
    t = grid_times(process, None, grids.Karras(18))
    zero, one = torch.zeros(18), torch.ones(18)
    law, end = process.marginal(zero, t[:-1]), process.marginal(one, t[:-1])
    found = (law.variance.sqrt() / (end.mean - law.mean)).double()
    goal = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 18).double() ** 7
    torch.testing.assert_close(found, goal, rtol=2e-4, atol=0)


def test_a_run_starts_from_the_law_at_its_first_time():
    """Where noise spreads it is not that at t = 1, nor that of a mixture's first part."""
    seen = []
    edm, both = zoo.edm(200.0), Mixture([0.0, 1.0], zoo.edm(5.0), zoo.edm(200.0))
    sample(edm, heads.Mean(lambda x, t: seen.append(x) or 0 * x), (4000, 1), grid=[0.4, 0.0])
    head = heads.Mean(lambda x, t: seen.append(x["state"]) or 0 * x["state"])
    sample(both, head, {"state": (4000, 1)}, grid=[0.4, 0.0])
    for x in seen:
        assert float(x.std()) == pytest.approx(80.0, rel=0.05)


@pytest.mark.parametrize(
    ("grid", "subject", "named"),
    [
        (grids.UniformIntegral(4), clock.LogLinear(), "∞"),
        (grids.UniformLogit(4), clock.Constant(2.0), "before 15"),
        (grids.Karras(9), clock.Constant(2.0), "sigma_max"),
    ],
)
def test_clocks_that_end_too_early_are_refused(grid, subject, named):
    with pytest.raises(ValueError, match=named):
        grid.times(subject)
