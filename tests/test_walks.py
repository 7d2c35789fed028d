"""Walks: every law, closure and construction against its definition, and the limits of many steps.

What noise adds up to is compared in characteristic functions, written down here from that of one
increment and the schedule alone.
"""

import math

import mpmath
import numpy as np
import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td
from scipy import stats

import discdiff as dd
from discdiff.engines.marginals import Marginals
from discdiff.engines.sums import Clocked, ForwardSteps
from discdiff.estimates import Mean
from discdiff.increments import Rademacher, increment
from discdiff.numerics.fourier import tabulate

BETAS = [0.5, 0.4, 0.3, 0.45]
LAWS = {
    "normal": td.Normal(1.0, 2.0),
    "laplace": td.Laplace(0.0, 1.0),
    "logistic": pyro.Logistic(0.0, 1.0),
    "uniform": td.Uniform(0.0, 1.0),
    "student": td.StudentT(5.0),
    "gamma": td.Gamma(3.0, 1.0),
    "gumbel": td.Gumbel(0.0, 1.0),
}
WALKS = {
    "steps": dd.Walk,
    "clock": dd.LevyWalk,
    "marginals": dd.MarginalWalk,
    "reverse": dd.ReverseWalk,
}
ALLOWED = {
    "steps": set(LAWS),
    "clock": set(LAWS) - {"uniform"},
    "marginals": set(LAWS) - {"uniform", "student"},  # with a closed innovation
    "reverse": set(LAWS),
}
CASES = [(closure, name) for closure in WALKS for name in LAWS if name in ALLOWED[closure]]
FORWARD = [case for case in CASES if case[0] != "reverse"]
ATOMS = {("marginals", "laplace"), ("marginals", "gamma")}  # transitions that may stay
SMOOTH = [case for case in CASES if case not in ATOMS]
SLOW = {("marginals", "gumbel"), ("clock", "laplace")}  # densities by quadrature, point by point


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def walk_of(closure: str, name: str) -> dd.Chain:
    return WALKS[closure](LAWS[name], BETAS)


def kept(s: int, t: int, betas=BETAS) -> float:
    return math.prod(1 - b for b in betas[s:t])


def log_noise(closure: str, name: str, s: int, t: int, u: torch.Tensor) -> torch.Tensor:
    """The logarithm of the characteristic function of the noise from s to t, by definition."""
    log_cf = increment(LAWS[name]).log_cf
    if closure == "steps":
        scales = [math.sqrt(BETAS[i - 1] * kept(i, t)) for i in range(s + 1, t + 1)]
        return sum(log_cf(c * u) for c in scales)
    if closure == "clock":
        tau = 1 / kept(0, t) - 1 / kept(0, s)
        return tau * log_cf(math.sqrt(kept(0, t)) * u)
    if closure == "marginals":
        early, late = (math.sqrt(1 - kept(0, k)) for k in (s, t))
        return log_cf(late * u) - log_cf(math.sqrt(kept(s, t)) * early * u)
    assert s == 0
    scales, carried = [], 1.0  # r_t = σ ξ + g r_{t+1}, and so on to the end
    for k in range(t, len(BETAS)):
        v, w = 1 - kept(0, k), 1 - kept(0, k + 1)
        sigma2 = BETAS[k] * v / w
        scales.append(carried * math.sqrt(sigma2))
        carried *= math.sqrt((v - sigma2) / w)
    scales.append(carried * math.sqrt(1 - kept(0, len(BETAS))))
    return sum(log_cf(c * u) for c in scales)


def line(closure: str, name: str) -> torch.Tensor:
    """Points that resolve kinks and jumps where there are some."""
    fine = name in ("laplace", "uniform") and (closure, name) not in SLOW
    return torch.linspace(-30, 30, 30_001 if fine else 3001)


def density(law_at, x: float, y: torch.Tensor) -> torch.Tensor:
    return law_at(torch.full((len(y), 1), x)).log_prob(y.unsqueeze(1)).exp()


def law_from(walk: dd.Chain, s: int, t: int):
    return (lambda x: walk.marginal(x, t)) if s == 0 else (lambda x: walk.transition(x, s, t))


@pytest.mark.parametrize(("closure", "name"), CASES)
def test_noise_has_the_characteristic_function_of_its_declaration(closure, name):
    """So it has all its moments as well. Jumps of a density cost the quadrature most."""
    walk, x = walk_of(closure, name), 0.7
    pairs = [(0, 1), (0, 2), (0, 4)] + ([(1, 3), (2, 3)] if closure != "reverse" else [])
    y = line(closure, name)
    for s, t in pairs:
        if s and (closure, name) in ATOMS:
            continue
        p = density(law_from(walk, s, t), x, y)
        u = torch.linspace(0.0, 3.0, 7) / math.sqrt(1 - kept(s, t))
        found = torch.trapezoid(p * torch.exp(1j * u.unsqueeze(1) * y), y)
        goal = (1j * u * math.sqrt(kept(s, t)) * x + log_noise(closure, name, s, t, u)).exp()
        rough = name == "uniform" and (t - s == 1 or (closure, t) == ("reverse", 4))
        assert (found - goal).abs().max() < (2e-3 if rough else 2e-5), (s, t)


def test_mean_and_variance_are_ddpms():
    for closure, name in CASES:
        law = walk_of(closure, name).marginal(torch.full((1, 1), 0.7), 3)
        assert float(law.mean) == pytest.approx(0.7 * math.sqrt(kept(0, 3)), abs=1e-6), closure
        assert float(law.variance) == pytest.approx(1 - kept(0, 3), rel=1e-6), (closure, name)


@pytest.mark.parametrize(("closure", "name"), SMOOTH)
def test_draws_have_the_density(closure, name):
    walk = walk_of(closure, name)
    for s, t in ((0, 1), (0, 3)) + (((1, 3),) if closure != "reverse" else ()):
        y = line(closure, name)
        cdf = torch.cumulative_trapezoid(density(law_from(walk, s, t), 0.3, y), y)
        x = law_from(walk, s, t)(torch.full((4000, 1), 0.3)).sample()[:, 0]
        found = np.interp(x.numpy(), y[1:].numpy(), cdf.numpy())
        assert stats.kstest(found, "uniform").pvalue > 1e-4, (s, t)


@pytest.mark.parametrize(("closure", "name"), sorted(ATOMS))
def test_transitions_that_may_stay(closure, name):
    walk, x = walk_of(closure, name), torch.full((100_000, 1), 0.3)
    moved = walk.transition(x, 1, 3).sample() - math.sqrt(kept(1, 3)) * x
    u = torch.linspace(0.3, 2.0, 3)
    gap = torch.exp(1j * u * moved).mean(0) - log_noise(closure, name, 1, 3, u).exp()
    assert gap.abs().max() < 5.5 / math.sqrt(len(x))


@pytest.mark.parametrize(("closure", "name"), [case for case in SMOOTH if case not in SLOW])
def test_bridges_have_mass_one_and_their_draws_the_density(closure, name):
    """Mass one is Chapman and Kolmogorov's equation: both factors are densities of their own."""
    walk, (s, t) = walk_of(closure, name), (1, 3)
    bridge = lambda one: walk.bridge(0.2 * one, 0.9 * one, s, t)
    y = torch.linspace(-8, 8, 8001).unsqueeze(1)
    p = bridge(torch.ones_like(y)).log_prob(y).exp()
    cdf = torch.cumulative_trapezoid(p, y[:, 0])
    rough = name == "uniform" and closure == "steps"
    assert float(cdf[-1]) == pytest.approx(1, abs=2e-3 if rough else 2e-5)
    x = bridge(torch.ones(250, 1)).sample()[:, 0]
    found = np.interp(x.numpy(), y[1:, 0].numpy(), cdf.numpy())
    assert stats.kstest(found, "uniform").pvalue > 1e-4


def test_bridges_of_gamma_clocks_are_beta():
    """(C8) against Bayes' rule on a grid."""
    walk, y = walk_of("clock", "gamma"), torch.linspace(-3, 3, 60_001).unsqueeze(1)
    one = torch.ones_like(y)
    for s, t in ((1, 2), (2, 4)):
        bayes = walk.marginal(0.2 * one, s).log_prob(y) + walk.transition(y, s, t).log_prob(one)
        bayes = bayes.exp() / walk.marginal(0.2 * one, t).log_prob(one).exp()
        closed = walk.bridge(0.2 * one, one, s, t).log_prob(y).exp()
        assert torch.trapezoid((closed - bayes).abs(), y[:, 0]) < 1e-13


FULL = [
    ("steps", "laplace"),
    ("clock", "gamma"),
    ("marginals", "logistic"),
    ("marginals", "laplace"),
    ("reverse", "uniform"),
]


@pytest.mark.parametrize(("closure", "name"), [*FULL, *((c, "normal") for c in WALKS)])
def test_every_law_holds(closure, name):
    report = dd.check(WALKS[closure](LAWS[name], BETAS[:2]), torch.tensor([[0.3], [-0.5]]))
    assert report, report


def wide(noise, self, loc, s, t):
    law = noise(self, torch.zeros_like(loc), s, t)
    return dd.laws.Affine(law, loc, torch.full_like(loc, 1.01))


def from_the_other_end(scales, self, s, t):
    """Of the same variance: only the shape is wrong."""
    return (self.term.betas[s:t] * (self.log_kept[s:t] - self.log_kept[s]).exp()).sqrt()


ERRORS = {
    "noise 1 % too wide": ("steps", "laplace", ForwardSteps, "noise", wide),
    "marginals 1 % too wide": ("marginals", "logistic", Marginals, "noise", wide),
    "s and t swapped": ("steps", "logistic", ForwardSteps, "coefficients", from_the_other_end),
    "another share of the noise": (
        "marginals",
        "logistic",
        Marginals,
        "rho",
        lambda rho, *at: 0.98 * rho(*at),
    ),
    "a clock that starts late": (
        "clock",
        "gamma",
        Clocked,
        "tau",
        lambda tau, self, s, t: tau(self, s, t) * (1 - 0.02 * (s == 0)),
    ),
}


@pytest.mark.parametrize("error", ERRORS)
def test_planted_errors_are_found(monkeypatch, error):
    closure, name, kind, verb, wrong = ERRORS[error]
    right = getattr(kind, verb)
    monkeypatch.setattr(kind, verb, lambda *at: wrong(right, *at))
    assert not dd.check(WALKS[closure](LAWS[name], BETAS[:2]), torch.tensor([[0.3], [-0.5]]))


# -- many steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAWS)
def test_steps_back_of_one_shape_keep_mean_and_variance(name):
    """(C6) of every marginal of a thousand, by the coefficients of data and increments."""
    betas = dd.linear_betas(1000)
    engine = dd.ReverseWalk(LAWS[name], betas, eta=0.7).steps.engine
    cumulated = (1 - betas).cumprod(0)
    if name == "normal":
        assert "normal" not in type(engine).__name__.lower()  # η < 1: a walk of its own
    for k in (1, 2, 10, 500, 999, 1000):
        scales = engine.coefficients(k, 1001)
        assert float(scales.square().sum()) == pytest.approx(
            1 - float(cumulated[k - 1]), rel=1e-12
        )
        one = torch.ones(1, 1)
        x = math.sqrt(float(cumulated[k - 1])) * one  # on the mean of x_k the mean of x_{k−1}
        start = 1.0 if k == 1 else math.sqrt(float(cumulated[k - 2]))
        back = engine.linear(one, x, torch.tensor([k - 1]), torch.tensor([k]))
        assert float(back) == pytest.approx(start, abs=1e-15)


def test_a_walk_that_is_declared_backward_has_no_transition():
    walk = walk_of("reverse", "laplace")
    with pytest.raises(dd.Unsolved, match="transition"):
        walk.transition(torch.zeros(1, 1), 1, 2)


EFFECTIVE = (  # numbers of steps that count, as known to two decimals, one or none
    (dd.Walk, {1: 1.0, 2: 1.98, 5: 4.80, 10: 9.16}, 0.005),
    (dd.Walk, {50: 40.1, 100: 76.4, 200: 139.7, 500: 189.7, 1000: 101.5}, 0.05),
    (dd.ReverseWalk, {1: 2.9, 2: 4.8, 10: 16.6, 100: 117.8, 500: 172.7, 900: 32.6, 1000: 1}, 0.05),
)


@pytest.mark.parametrize(("kind", "counts", "half"), EFFECTIVE)
def test_kurtosis_of_many_steps(kind, counts, half):
    """(C5) κ₄ / n_eff, with DDPM's numbers of steps that count; the variance is DDPM's."""
    betas = dd.linear_betas(1000)
    walk, left = kind(LAWS["laplace"], betas), 1 - (1 - betas).cumprod(0)
    for k, count in counts.items():
        c = walk.steps.engine.coefficients(*((0, k) if kind is dd.Walk else (k, 1001)))
        assert float(c.square().sum()) == pytest.approx(float(left[k - 1]), abs=1e-14)
        effective = float(c.square().sum() ** 2 / c.pow(4).sum())
        assert effective == pytest.approx(count, abs=half)
        if k not in (10, 1000) or effective < 2:
            continue
        y = torch.linspace(-20, 20, 20_001) * float(c.square().sum().sqrt())
        p = density(lambda x: walk.marginal(x, k), 0.0, y)  # noqa: B023
        second, fourth = (float(torch.trapezoid(p * y**n, y)) for n in (2, 4))
        assert fourth / second**2 - 3 == pytest.approx(3 / effective, rel=5e-8)


@pytest.mark.parametrize(
    ("k", "ratio", "jump"), [(5, 0.989, 0.014), (10, 0.992, 0.0075), (100, 0.998, 9e-4)]
)
def test_noise_after_few_steps_is_not_normal(k, ratio, jump):
    """(C5) Kolmogorov's distance from the normal law, and over what the kurtosis predicts."""
    walk = dd.Walk(LAWS["laplace"], dd.linear_betas(1000))
    c = walk.steps.engine.coefficients(0, k)
    width, effective = c.square().sum().sqrt(), float(c.square().sum() ** 2 / c.pow(4).sum())
    y = torch.linspace(-5, 5, 10_001).unsqueeze(1)
    cdf = walk.marginal(torch.zeros_like(y), k).base_dist.cdf(width * y)
    distance = float((cdf - torch.special.ndtr(y)).abs().max())
    assert distance == pytest.approx(jump, rel=0.02)
    assert distance * 24 * effective / (3 * 0.55059) == pytest.approx(ratio, abs=6e-4)


def test_a_steady_walk_counts_its_last_steps():
    """(C5) Of equal β, n_eff tends to (2 − β) / β."""
    c = dd.Walk(LAWS["laplace"], [0.01] * 3000).steps.engine.coefficients(0, 3000)
    assert float(c.square().sum() ** 2 / c.pow(4).sum()) == pytest.approx(199, rel=1e-12)


def table(name: str, scales: torch.Tensor):
    """Points of the grid and the tabulated density of a sum of increments, some of them."""
    c, one = scales.unsqueeze(1), increment(LAWS[name])
    grid = tabulate(lambda u: one.log_cf(c * u.double()).sum(0), 40.0)
    y = grid.low + grid.step * torch.arange(len(grid.cdf))
    near = (y.abs() < 8).nonzero()[:, 0]
    some = near[torch.linspace(0, len(near) - 1, 61).long()]
    return [mpmath.mpf(v) for v in y[some].tolist()], grid.density[0][some].tolist()


def worst(goal, found) -> float:
    return max(abs(float(a - b)) for a, b in zip(goal, found, strict=True))


@pytest.mark.parametrize("n", [3, 5, 20])
def test_tables_against_variance_gamma(n):
    """(C7) The sum of equal Laplace increments."""
    y, found = table("laplace", torch.full((n,), math.sqrt(1 / n)))
    b, order = mpmath.sqrt(mpmath.mpf(1) / n / 2), mpmath.mpf(2 * n - 1) / 2
    whole = mpmath.sqrt(mpmath.pi) * mpmath.gamma(n) * b

    def density(a):
        z = max(a / b, mpmath.mpf(10) ** -9)
        return (z / 2) ** order * mpmath.besselk(order, z) / whole

    with mpmath.workdps(30):
        assert worst([density(abs(v)) for v in y], found) < 1e-15


@pytest.mark.parametrize("n", [6, 10, 16])
def test_tables_against_irwin_and_hall(n):
    """(C7) The sum of equal uniform increments: a spline of degree n − 1."""
    y, found = table("uniform", torch.full((n,), math.sqrt(1 / n)))
    with mpmath.workdps(30):
        width = 2 * mpmath.sqrt(mpmath.mpf(3) / n)

        def density(z):
            terms = [
                (-1) ** k * mpmath.binomial(n, k) * (z - k) ** (n - 1) for k in range(n) if z > k
            ]
            return sum(terms) / mpmath.factorial(n - 1) / width if 0 < z < n else mpmath.mpf(0)

        goal = [density(v / width + mpmath.mpf(n) / 2) for v in y]
        assert worst(goal, found) < 1e-15


def test_tables_against_partial_fractions():
    """(C7) Laplace increments of four scales, each 0.8 of the one before."""
    c = 0.8 ** torch.arange(4.0)
    c = c / c.square().sum().sqrt()
    y, found = table("laplace", c)
    with mpmath.workdps(30):
        b = [mpmath.mpf(v) / mpmath.sqrt(2) for v in c.tolist()]
        weights = [
            mpmath.fprod(one**2 / (one**2 - other**2) for other in b if other != one) for one in b
        ]
        terms = list(zip(weights, b, strict=True))
        goal = [sum(w * mpmath.exp(-abs(v) / one) / (2 * one) for w, one in terms) for v in y]
        assert worst(goal, found) < 1e-15


def test_laws_too_sharp_for_a_table_are_refused():
    walk = dd.LevyWalk(LAWS["logistic"], dd.linear_betas(100, 1e-5, 0.1))
    with pytest.raises(dd.Unsolved, match="sharp"):
        walk.marginal(torch.zeros(1, 1), 1)
    assert float(walk.marginal(torch.zeros(1, 1), 50).variance) < 1


def test_a_tilted_normal_law_is_a_shifted_one():
    walk, x = walk_of("clock", "normal"), torch.linspace(-1, 1, 5).unsqueeze(1)
    t, s = torch.full((5,), 0.75), torch.full((5,), 0.5)
    steppers = dd.steppers.Shift(), dd.steppers.Tilt()
    shift, tilt = (each.law(walk.process, Mean(0.5 * x), x, t, s) for each in steppers)
    assert torch.equal(shift.mean, tilt.mean) and torch.equal(shift.variance, tilt.variance)


@pytest.mark.parametrize("law", [LAWS["uniform"], Rademacher(0.0, 1.0)])
def test_means_that_no_tilt_has_are_cut_off(law):
    walk, x = dd.Walk(law, [0.2]), torch.zeros(3, 1)
    said = dd.estimates.Score(torch.tensor([[-9.0], [0.5], [9.0]]))
    tilt = dd.steppers.Tilt().law(walk.process, said, x, torch.ones(3), torch.zeros(3))
    drawn = tilt.sample()
    assert bool(drawn.isfinite().all()) and drawn[0] < drawn[2]


class Counted(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what is asked of torch, and the numbers that it makes."""

    calls, numbers = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.calls += 1
        self.numbers += found.numel() if isinstance(found, torch.Tensor) else 0
        return found


@pytest.mark.parametrize("closure", ["steps", "clock", "marginals", "reverse"])
def test_a_draw_costs_the_same_at_any_index(closure):
    """Once its table is made: no loop over steps."""
    walk = WALKS[closure](LAWS["logistic"], dd.linear_betas(10_000, 1e-3, 2e-3))
    costs = set()
    for k in (100, 9000):
        x = torch.zeros(64, 1)
        walk.marginal(x, k).sample()
        with Counted() as count:
            walk.marginal(x, k).sample()
        costs.add((count.calls, count.numbers))
    assert len(costs) == 1


def test_what_walks_lack_is_said():
    back = dd.ReverseWalk(torch.distributions.Laplace(0.0, 1.0), [0.1, 0.2])
    x = torch.zeros(2, 1)
    with pytest.raises(dd.Unsolved, match="no Markov chain.*marginal and bridge"):
        back.transition(x, 0, 1)
    with pytest.raises(dd.Unsolved, match="ends after its 2 steps"):
        back.limit((2, 1))
    head = dd.heads.Score(lambda x, t: -x)
    with pytest.raises(dd.Unsolved, match="Laplace noise Score.*steppers.Shift or Tilt"):
        dd.sample(back, head, (2, 1))
