"""Increments: every number of a law is found again from its density, its draws or SciPy."""

import math

import numpy as np
import pyro.distributions as pyro
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

import discdiff as dd
from discdiff import increments
from discdiff.increments import increment
from discdiff.numerics import transcendental
from discdiff.numerics.quadrature import composite


def number(x):
    return torch.tensor(x, dtype=torch.float64)


def mixture(means):
    parts = pyro.Normal(number(means), number([0.5, 2.0]))
    return pyro.MixtureSameFamily(pyro.Categorical(number([0.3, 0.7])), parts)


R3, R6 = math.sqrt(3), math.sqrt(6)
# name: (law, left and right end of the standardised support, kinks)
LAWS = {
    "normal": (pyro.Normal(1.0, 2.0), -math.inf, math.inf, ()),
    "laplace": (pyro.Laplace(3.0, 2.0), -math.inf, math.inf, (0.0,)),
    "logistic": (pyro.Logistic(3.0, 2.0), -math.inf, math.inf, ()),
    "uniform": (pyro.Uniform(3.0, 5.0), -R3, R3, ()),
    "t5": (pyro.StudentT(5.0, 1.0, 3.0), -math.inf, math.inf, ()),
    "t30": (pyro.StudentT(30.0), -math.inf, math.inf, ()),
    "gamma": (pyro.Gamma(4.0, 2.0), -2.0, math.inf, ()),
    "exponential": (pyro.Exponential(3.0), -1.0, math.inf, ()),
    "gumbel": (pyro.Gumbel(3.0, 2.0), -math.inf, math.inf, ()),
    "power 1.5": (increments.GeneralisedNormal(1.5, 3.0, 2.0), -math.inf, math.inf, (0.0,)),
    "power 4": (increments.GeneralisedNormal(4.0), -math.inf, math.inf, ()),
    "power 0.7": (increments.GeneralisedNormal(0.7), -math.inf, math.inf, (0.0,)),
    "triangular": (increments.Triangular(3.0, 2.0), -R6, R6, (0.0,)),
    "mixture": (mixture([1.0, 1.0]), -math.inf, math.inf, ()),
    "noisy jumps": (
        increments.CompoundPoisson(2.0, pyro.Laplace(number(0.5), number(0.7)), 0.5),
        -math.inf,
        math.inf,
        (),
    ),
    "noisy normal jumps": (
        increments.CompoundPoisson(2.0, pyro.Normal(number(0.5), number(0.7)), 0.5),
        -math.inf,
        math.inf,
        (),
    ),
    "beta": (pyro.Beta(number(2.0), number(3.0)), -2.0, 3.0, ()),
    "two means": (mixture([1.0, 5.0]), -math.inf, math.inf, ()),
}
LATTICE = {
    "rademacher": increments.Rademacher(1.0, 2.0),
    "three-point": increments.ThreePoint(1.0, 2.0),
    "poisson": pyro.Poisson(number(3.0)),
}
TILTS = [n for n in LAWS if n not in ("t5", "t30", "power 0.7", "beta", "two means")]
ETAS = number([-1.1, -0.4, 0.0, 1e-7, 0.3, 0.6])
FREQUENCIES = number([0.0, 1e-3, 0.2, 0.29, 0.31, 1.0, 2.7, 9.0, -4.0])


def rule(name, increment_):
    """Nodes and weights of Gauss-Legendre on panels that are fine near kinks and ends."""
    _, low, high, kinks = LAWS[name]
    if name.startswith("noisy"):
        return composite(torch.linspace(-16, 24, 161, dtype=torch.float64), 6)
    reach = max(increment_.reach, 200.0) if increment_.reach < 100 else 3e5
    low, high = max(low, -reach), min(high, reach)
    fine = 2.0 ** -np.arange(0, 44)
    edges = [np.sinh(np.linspace(-14, 14, 301)), np.arange(-60, 60, 0.25)]
    edges += [k + s * fine for k in (*kinks, low, high) for s in (-1, 1)]
    edges = np.unique(np.concatenate([*edges, [*kinks, low, high]]))
    return composite(number(edges[(edges >= low) & (edges <= high)]), 20)


class Known(dict):
    """Increment, nodes and probability weights of a law with a density, when asked for."""

    def __missing__(self, name):
        each = increment(LAWS[name][0])
        x, w = rule(name, each)
        self[name] = each, x, w * each.log_prob(x).exp()
        return self[name]


@pytest.fixture(scope="module")
def known():
    return Known()


def moments_hold(each, x, p):
    """Whether a density has mass 1, mean 0, variance 1, and its own cf."""
    cf = torch.stack([(p * (1j * u * x).exp()).sum() for u in FREQUENCIES])
    errors = [
        float((p.sum() - 1).abs()),
        float((p @ x).abs()),
        float((p @ x**2 - 1).abs()),
        float((cf - each.cf(FREQUENCIES)).abs().max()),
    ]
    return max(errors) < 2e-9, errors


@pytest.mark.parametrize("name", LAWS)
def test_mass_mean_variance_and_characteristic_function(known, name):
    holds, errors = moments_hold(*known[name])
    assert holds, errors


class Wide(increments.Increment):
    """A Laplace increment whose density is 1 % too wide."""

    name, divisible, decomposable = "wide", False, False
    reach, radius, fisher, domain, entropy = 28.0, 1.0, 2.0, (-1.0, 1.0), 1.0

    def _log_cf(self, u):
        return increments.Laplace().log_cf(u)

    def _cumulants(self, order):
        return [0.0, 1.0] + [0.0] * order

    def _law(self, loc, scale):
        return pyro.Laplace(loc, 1.01 * scale / math.sqrt(2))


def test_a_scale_that_is_one_percent_wrong_is_seen(known):
    _, x, p = known["laplace"]
    assert moments_hold(increments.Laplace(), x, p)[0]
    w = p / increments.Laplace().log_prob(x).exp()
    assert not moments_hold(Wide(), x, w * Wide().log_prob(x).exp())[0]


def test_densities_are_those_of_scipy(known):
    k, c = 4.0, math.sqrt(6) / math.pi
    width = stats.gennorm(1.5).std()
    theirs = {
        "t5": stats.t(5, scale=math.sqrt(3 / 5)),
        "gamma": stats.gamma(k, loc=-math.sqrt(k), scale=1 / math.sqrt(k)),
        "gumbel": stats.gumbel_r(loc=-np.euler_gamma * c, scale=c),
        "power 1.5": stats.gennorm(1.5, scale=1 / width),
        "triangular": stats.triang(0.5, loc=-R6, scale=2 * R6),
        "logistic": stats.logistic(scale=R3 / math.pi),
    }
    x = torch.linspace(-1.9, 6.0, 50, dtype=torch.float64)
    for name, law in theirs.items():
        inside = torch.from_numpy(law.pdf(x.numpy())) > 0
        ours = known[name][0]
        gap = (ours.log_prob(x) - torch.from_numpy(law.logpdf(x.numpy())))[inside]
        assert float(gap.abs().max()) < 1e-12, name
        assert np.abs(ours.cdf(x).numpy() - law.cdf(x.numpy())).max() < 1e-13, name


@pytest.mark.parametrize("name", [*LAWS, *LATTICE])
def test_log_cf_is_the_continuous_logarithm(known, name):
    each = known[name][0] if name in LAWS else increment(LATTICE[name])
    u = torch.linspace(0, 9, 4001, dtype=torch.float64)
    log = each.log_cf(u)
    away = each.cf(u).abs() > 1e-6
    assert float((log.exp() - each.cf(u)).abs().max()) < 1e-14
    steps = log.imag.diff().abs()[away[1:] & away[:-1]]
    real = float(log.imag.remainder(math.pi).minimum(-log.imag.remainder(-math.pi)).max()) < 1e-12
    assert real or float(steps.max()) < 0.05
    small = number([1e-7, 1e-5])  # −u²/2 to a relative error, not to an absolute one
    if name != "t5":
        gap = (each.log_cf(small).real / (-(small**2) / 2) - 1).abs()
        assert float(gap.max()) < 1e-8, gap


@pytest.mark.parametrize("name", [*LAWS, *LATTICE])
def test_cumulants(known, name):
    """From the moments of the density, or from log φ on a circle (Cauchy's formula)."""
    if name in LATTICE:
        each = increment(LATTICE[name])
        x = torch.arange(-400.0, 400.0, dtype=torch.float64)
        law = LATTICE[name]
        x = law.loc + law.scale * law.points if hasattr(law, "points") else x[x >= 0]
        x = (x - law.mean) / law.stddev
        p = each.log_prob(x).exp()
        assert float((p.sum() - 1).abs()) < 1e-14
    else:
        each, x, p = known[name]
    order = 4 if name in ("t5",) else 6
    if name == "t5":
        with pytest.raises(dd.Unsolved):
            each.cumulants(5)
    m = [float(p @ x**n) for n in range(order + 1)]
    theirs = [0.0, m[2], m[3], m[4] - 3 * m[2] ** 2]
    if order == 6:
        theirs += [
            m[5] - 10 * m[3] * m[2],
            m[6] - 15 * m[4] * m[2] - 10 * m[3] ** 2 + 30 * m[2] ** 3,
        ]
    rough = 2e-3 if name == "t5" else 1e-7
    for ours, other in zip(each.cumulants(order).tolist(), theirs, strict=True):
        assert abs(ours - other) < rough * (1 + abs(ours)), (ours, other)


@pytest.mark.parametrize("name", LAWS)
def test_distribution_function(known, name):
    each, x, p = known[name]
    order = x.argsort()
    # at edges of panels, between nodes: the mass of all nodes to the left
    cuts = number([c for c in (-1.5, -0.5, 0.0, 0.75, 2.5) if LAWS[name][1] < c < LAWS[name][2]])
    below = torch.stack([p[order][x[order] < c].sum() for c in cuts])
    assert float((each.cdf(cuts) - below).abs().max()) < 1e-9


@pytest.mark.parametrize("name", LAWS)
def test_draws(known, name):
    """Kolmogorov-Smirnov at 1e-4 per law: a failure in 500 runs of new seeds."""
    torch.manual_seed(1)
    each = known[name][0]
    x = each.sample((4000,))
    assert x.dtype == torch.float64
    assert stats.kstest(x.numpy(), lambda v: each.cdf(torch.from_numpy(v)).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", LATTICE)
def test_draws_from_lattices(name):
    torch.manual_seed(1)
    each = increment(LATTICE[name])
    x = each.sample((20000,))
    for point in x.unique():
        chance, seen = float(each.log_prob(point).exp()), float((x == point).double().mean())
        assert abs(seen - chance) < 5 * math.sqrt(chance / 20000) + 1e-4
        assert float(each.cdf(point) - each.cdf(point - 1e-6)) == pytest.approx(chance, abs=1e-13)
    assert each.lattice and each.entropy == -math.inf


@pytest.mark.parametrize("name", [*TILTS, *LATTICE])
def test_tilts(known, name):
    if name in LATTICE:
        each, law = increment(LATTICE[name]), LATTICE[name]
        points = (
            torch.arange(0.0, 60.0).double()
            if name == "poisson"
            else law.loc + law.scale * law.points
        )
        x = (points - law.mean) / law.stddev
        p = each.log_prob(x).exp()
    else:
        each, x, p = known[name]
    e = ETAS[(ETAS > each.domain[0]) & (ETAS < each.domain[1])]
    e = e[1:] if name.startswith("noisy") else e  # their nodes end early
    weights = p * (e.unsqueeze(-1) * x).exp()
    assert float((each.cgf(e) - weights.sum(-1).log()).abs().max()) < 1e-9
    mean = (weights @ x) / weights.sum(-1)
    assert float((each.slope(e) - mean).abs().max()) < 1e-8
    assert float((each.natural(each.slope(e)) - e).abs().max()) < 1e-12
    leaf = e.clone().requires_grad_()
    (curve,) = torch.autograd.grad(each.slope(leaf).sum(), leaf)
    m = each.slope(e).requires_grad_()
    (inverse,) = torch.autograd.grad(each.natural(m).sum(), m)
    assert float((curve * inverse - 1).abs().max()) < 1e-9
    # the tilted law: its density, its mean
    law = each.tilted(0.5, 2.0, e)
    inner = x[(p > 1e-30) & (x.abs() < 12)][:: max(1, len(x) // 500)].unsqueeze(-1)
    ours = law.log_prob(0.5 + 2 * inner)
    lattice = 0.0 if each.lattice else math.log(2)
    theirs = each.log_prob(inner) + e * inner - each.cgf(e) - lattice
    assert float((ours - theirs).abs().max()) < 1e-9 * (1 + float(theirs.abs().max()))
    torch.manual_seed(2)
    draws = (law.sample((20000,)) - 0.5) / 2
    error = (draws.mean(0) - each.slope(e)) / (curve / 20000).sqrt()
    assert float(error.abs().max()) < 5  # normal: 1e-5 over all laws
    # Bregman: KL between two tilts
    a, b = e[1], e[-1]
    p_a = weights[1] / weights[1].sum()
    kl = p_a @ ((a - b) * x) + each.cgf(b) - each.cgf(a)
    formula = each.cgf(b) - each.cgf(a) - (b - a) * each.slope(a)
    assert float((kl - formula).abs()) < 1e-8


@pytest.mark.parametrize("name", ["t5", "power 0.7"])
def test_laws_without_exponential_moments_are_not_tilted(known, name):
    each = known[name][0]
    for verb in (lambda: each.cgf(0.1), lambda: each.natural(0.1), lambda: each.tilted(0, 1, 0.1)):
        with pytest.raises(dd.Unsolved, match="exponential moments"):
            verb()


INNOVATIONS = {
    # name: (support of the innovation of scale 1 and ρ, where it has an atom, its mass)
    "normal": lambda rho: (-60.0, 60.0, None, 0.0),
    "laplace": lambda rho: (-60.0, 60.0, 0.0, rho**2),
    "logistic": lambda rho: (-60.0, 60.0, None, 0.0),
    "gamma": lambda rho: (-2 * (1 - rho), 60.0, -2 * (1 - rho), rho**4),
    "gumbel": lambda rho: (-60.0, 60.0, None, 0.0),
}


@pytest.mark.parametrize("name", INNOVATIONS)
@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_innovations_complete_the_law(known, name, rho):
    each = known[name][0]
    low, high, atom, mass = INNOVATIONS[name](rho)
    assert each.decomposable
    law = each.innovation(rho, 1.0)
    fine = number(
        np.unique(
            np.concatenate(
                [
                    np.linspace(low, high, 161),
                    *(
                        s * 2.0 ** -np.arange(-3, 40) + (0.0 if atom is None else atom)
                        for s in (-1, 1)
                    ),
                    [0.0],
                ]
            )
        )
    )
    x, w = composite(fine[(fine >= low) & (fine <= high)], 20)
    p = w * law.log_prob(x).exp()
    u = FREQUENCIES
    cf = torch.stack([(p * (1j * v * x).exp()).sum() for v in u])
    if atom is not None:
        cf = cf + mass * (1j * u * atom).exp()
        assert float(law.log_prob(number(atom)).exp()) == pytest.approx(mass, rel=1e-12)
    assert float((cf * each.cf(rho * u) - each.cf(u)).abs().max()) < 1e-14
    torch.manual_seed(3)
    draws = law.sample((20000,))
    assert abs(float(draws.mean())) < 5 * math.sqrt((1 - rho**2) / 20000)
    assert float(law.variance) == pytest.approx(1 - rho**2, rel=1e-12)
    cuts = number([-1.0, -0.1, 0.4, 2.0])
    seen = (draws.unsqueeze(-1) <= cuts).double().mean(0)
    assert float((seen - law.cdf(cuts)).abs().max()) < 5 * 0.5 / math.sqrt(20000)


def test_closed_innovations_to_rounding():
    """(C19) Laplace's characteristic function, the logistic law's distribution and density."""
    u, y = (torch.linspace(-r, r, 601, dtype=torch.float64) for r in (30, 9))
    laplace, logistic, s = increments.Laplace(), increments.Logistic(), R3 / math.pi
    for rho in (0.3, 0.7, 0.9):
        spike = rho**2 + (1 - rho**2) * laplace.cf(u)
        assert float((laplace.cf(rho * u) * spike - laplace.cf(u)).abs().max()) < 1e-15
        law = logistic.innovation(rho, 1.0)
        below = 0.5 + ((y / s / 2).tanh() * math.tan(math.pi * rho / 2)).atan() / (math.pi * rho)
        assert float((law.cdf(y) - below).abs().max()) < 1e-15
        p = math.sin(math.pi * rho) / (
            2 * math.pi * rho * ((y / s).cosh() + math.cos(math.pi * rho))
        )
        assert float((law.log_prob(y).exp() * s / p - 1).abs().max()) < 1.5e-14
    for each in (increment(pyro.StudentT(5.0)), increments.Uniform(), increments.Coin()):
        with pytest.raises(dd.Unsolved):
            each.innovation(0.5, 1.0)


@pytest.mark.parametrize("name", ["normal", "laplace", "gamma", "noisy normal jumps"])
@pytest.mark.parametrize("tau", [0.7, 3.0])
def test_levy_clocks(known, name, tau):
    each = known[name][0]
    law = each.levy(tau, 1.0)
    edge = -2.0 * tau if name == "gamma" else 0.0
    fine = [
        np.linspace(-70, 70, 281),
        *(edge + s * 2.0 ** -np.arange(-3, 60.0) for s in (-1, 1)),
        [edge],
    ]
    x, w = composite(number(np.unique(np.concatenate(fine))), 20)
    inside = x > edge if name == "gamma" else torch.ones_like(x, dtype=torch.bool)
    x, p = x[inside], (w * law.log_prob(x).exp())[inside]
    u = FREQUENCIES
    cf = torch.stack([(p * (1j * v * x).exp()).sum() for v in u])
    assert float((cf - (tau * each.log_cf(u)).exp()).abs().max()) < 4e-15
    assert float(law.variance) == pytest.approx(tau, rel=1e-12)
    cuts = number([-1.1, 0.3, 1.7])
    below = torch.stack([composite_mass(law, edge, c, name == "gamma") for c in cuts])
    assert float((law.cdf(cuts) - below).abs().max()) < 1e-9


def composite_mass(law, edge, cut, one_sided):
    ends = [
        np.linspace(-70, float(cut), 281),
        *(edge + s * 2.0 ** -np.arange(-3, 60.0) for s in (-1, 1)),
    ]
    ends = np.unique(np.concatenate([*ends, [edge, float(cut)]]))
    ends = ends[ends <= float(cut)]
    x, w = composite(number(ends[ends >= edge] if one_sided else ends), 20)
    return (w * law.log_prob(x).exp()).sum()


def test_laws_without_a_levy_clock():
    for each in (increments.Uniform(), increments.Coin(), increment(pyro.StudentT(5.0))):
        assert each.levy(0.5, 1.0) is None
    poisson = increment(LATTICE["poisson"]).levy(2.0, 1.0)
    assert float(poisson.variance) == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["laplace", "logistic", "t5", "t30", "mixture", "normal"])
def test_mixing_laws(known, name):
    r"""E exp(−u² A / 2) = φ(u), and E A = 1."""
    each = known[name][0]
    u = FREQUENCIES
    if name in ("mixture", "normal"):
        a = each.mixing.points if name == "mixture" else torch.ones(1).double()
        p = each.mixing.log_probs.exp() if name == "mixture" else torch.ones(1).double()
    else:
        t, w = composite(torch.linspace(-40, 40, 801, dtype=torch.float64), 10)
        a = t.exp()
        p = w * a * each.mixing.log_prob(a).exp()
    mixed = torch.stack([(p * (-(v**2) * a / 2).exp()).sum() for v in u])
    assert float((mixed - each.cf(u)).abs().max()) < 2e-14
    assert float(p @ a) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("name", LAWS)
def test_entropy_and_fisher_information(known, name):
    each, x, p = known[name]
    log = each.log_prob(x)
    entropy = -torch.where(p > 0, p * log, torch.zeros_like(p)).sum()
    assert float(entropy) == pytest.approx(each.entropy, abs=1e-8)
    if math.isfinite(each.fisher) and name not in ("power 0.7",):
        inner = (p > 0) & (x.abs() > 1e-9)
        leaf = x[inner].clone().requires_grad_()
        (score,) = torch.autograd.grad(each.log_prob(leaf).sum(), leaf)
        assert float(p[inner] @ score**2) == pytest.approx(each.fisher, rel=1e-6)


def test_fisher_numbers():
    numbers = {"laplace": 2, "logistic": math.pi**2 / 9, "gumbel": math.pi**2 / 6, "t5": 1.25}
    for name, value in numbers.items():
        assert increment(LAWS[name][0]).fisher == pytest.approx(value, rel=1e-14)
    assert increments.Uniform().fisher == increments.Tent().fisher == math.inf


def test_ratios_of_small_divergences_are_fisher_information():
    """(C16) Of a skew law the mean over both directions is taken."""
    for name, ratio in {"laplace": 1.999, "logistic": 1.0966, "gumbel": 1.645, "t5": 1.25}.items():
        each, d = increment(LAWS[name][0]), 1e-3
        kl = [
            kl_divergence(each.law(number(s * d), 1.0), each.law(number(0.0), 1.0))
            for s in (1, -1)
        ]
        assert float(sum(kl)) / d**2 == pytest.approx(ratio, abs=1e-4), name


PAIRS = [
    ("normal", "normal"),
    ("normal", "laplace"),
    ("laplace", "laplace"),
    ("laplace", "normal"),
    ("uniform", "normal"),
    ("uniform", "laplace"),
    ("logistic", "logistic"),
    ("gumbel", "gumbel"),
    ("t5", "t5"),
    ("t30", "t5"),
]


@pytest.mark.parametrize("q, p", PAIRS)
@pytest.mark.parametrize("d, s", [(0.0, 1.0), (0.03, 1.0), (1.3, 1.0), (-2.5, 1.0), (0.4, 0.7)])
def test_divergences(q, p, d, s):
    first, second = increment(LAWS[q][0]), increment(LAWS[p][0])
    at = number(d).requires_grad_()
    ours = kl_divergence(first.law(at, s), second.law(number(0.0), 1.0))
    (slope,) = torch.autograd.grad(ours, at)
    assert math.isfinite(float(slope))
    ours = ours.detach()
    low, high = (-R3 * s + d, R3 * s + d) if q == "uniform" else (-70.0, 70.0)
    edges = [np.linspace(low, high, 281), [c for c in (0.0, d) if low < c < high]]
    if q.startswith("t"):
        edges += [s * np.geomspace(70, 1e6, 60) for s in (-1, 1)]
    x, w = composite(number(np.unique(np.concatenate(edges))), 20)
    law, other = first.law(number(d), s), second.law(number(0.0), 1.0)
    log = law.log_prob(x)
    gap = torch.where(log > -700, log - other.log_prob(x), torch.zeros_like(x))
    assert float(ours) == pytest.approx(float((w * log.exp() * gap).sum()), abs=2e-14)


def test_divergences_near_zero_keep_their_digits():
    for law in (pyro.Laplace, pyro.Logistic):
        zero, one = torch.zeros(()), torch.ones(())
        ratio = kl_divergence(law(torch.tensor(1e-4), one), law(zero, one)) / 1e-8
        information = {pyro.Laplace: 1.0, pyro.Logistic: 1 / 3}[law]
        assert float(ratio) == pytest.approx(information / 2, rel=1e-4)


# -- sums of n increments -----------------------------------------------------------------------


def sum_gap(each, n):
    """F_n − Φ and f_n − φ of the sum of n increments over √n, by inversion of φ^n."""
    u = (torch.arange(700, dtype=torch.float64) + 0.5) * 0.02
    x = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    gap = (n * each.log_cf(u / math.sqrt(n))).exp() - (-(u**2) / 2).exp()
    wave = (-1j * x.unsqueeze(-1) * u).exp()
    density = (wave * gap).real.sum(-1) * 0.02 / math.pi
    cdf = (wave * gap / (-1j * u)).real.sum(-1) * 0.02 / math.pi
    return x, cdf, density


def ratios(each, n, k):
    """KS, W1 and KL of a sum from the normal law, over what its k-th cumulant predicts."""
    x, cdf, density = sum_gap(each, n)
    normal = (-(x**2) / 2).exp() / math.sqrt(2 * math.pi)
    inner = x.abs() < 5.5
    ratio = (density / normal)[inner]
    kl = torch.trapezoid(normal[inner] * ((1 + ratio) * torch.log1p(ratio) - ratio), x[inner])
    kappa = abs(float(each.cumulants(k)[-1]))
    scale = kappa / (math.factorial(k) * n ** (k / 2 - 1))
    ks, w1 = {3: (0.39894, 0.96788), 4: (0.55059, 1.51001)}[k]
    whole = scale**2 * math.factorial(k) / 2
    return [
        float(cdf.abs().max()) / scale / ks,
        float(torch.trapezoid(cdf.abs(), x)) / scale / w1,
        float(kl) / whole,
    ]


# excess kurtosis, and Kolmogorov's distance of 128 over its prediction
SYMMETRIC = {
    "laplace": (3.0, 1.000),
    "logistic": (1.2, 0.998),
    "uniform": (-1.2, 1.002),
    "triangular": (-0.6, 1.001),
    "t6": (3.0, 0.944),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_sums_approach_the_normal_law_like_one_over_n(name):
    """(C1)-(C3) What is left of the ratios falls like 1/n; logarithms slow down t of 6."""
    each = increment(pyro.StudentT(6.0) if name == "t6" else LAWS[name][0])
    k4, ks = SYMMETRIC[name]
    assert float(each.cumulants(4)[3]) == pytest.approx(k4)
    found = ratios(each, 128, 4)
    assert found[0] == pytest.approx(ks, abs=6e-4)
    if name == "t6":
        return
    assert found[1] == pytest.approx(1, abs=0.003)
    assert found[2] == pytest.approx(1, abs=0.025)
    for one, later in zip(found, ratios(each, 512, 4), strict=True):
        assert abs(later - 1) < 0.35 * abs(one - 1) < 0.01


@pytest.mark.parametrize("name", ["exponential", "gamma", "gumbel"])
def test_skewed_sums_approach_it_like_one_over_root_n(name):
    """(C2), (C3)."""
    assert ratios(increment(LAWS[name][0]), 512, 3) == pytest.approx([1, 1, 1], abs=7e-4)


LATTICE_SUMS = {  # n: weak errors of E cos, then ratios of KS and W1
    16: (-3.2e-3, 2.0e-5, 0.985, 1.005),
    64: (-7.9e-4, 1.2e-6, 0.996, 1.001),
    256: (-2.0e-4, 7.7e-8, 0.999, 1.000),
}


def test_lattice_sums():
    """(C4) The weak error of E cos is κ_4 / (24 n), and of order 2 for the three-point law."""
    coin, three = increment(LATTICE["rademacher"]), increment(LATTICE["three-point"])
    errors = []
    for n, (error, other, ks, w1) in LATTICE_SUMS.items():
        gaps = [
            float((n * each.log_cf(1 / math.sqrt(n))).exp().real) - math.exp(-0.5)
            for each in (coin, three)
        ]
        assert gaps == [pytest.approx(error, rel=0.02), pytest.approx(other, rel=0.04)]
        errors.append(gaps)
        jump = stats.binom(n, 0.5).pmf(n // 2) / 2  # F jumps by 2/√n φ(0) at 0
        assert jump * math.sqrt(2 * math.pi * n) == pytest.approx(ks, abs=6e-4)
        x = np.linspace(-8, 8, 1_600_001)
        cdf = stats.binom(n, 0.5).cdf(np.floor((x * math.sqrt(n) + n) / 2))
        distance = np.abs(cdf - stats.norm.cdf(x)).sum() * 1e-5
        assert distance * 2 * math.sqrt(n) == pytest.approx(w1, abs=6e-4)
    slopes = np.log(np.array(errors[1]) / errors[2]) / math.log(4)
    assert slopes == pytest.approx([1, 2], abs=0.01)
    assert float((256 * coin.log_cf(math.pi / 2)).exp().real) < 1e-300


# -- looking up ---------------------------------------------------------------------------------


def test_location_and_scale_do_not_matter_but_shape_does():
    one, two = increment(pyro.Laplace(3.0, 2.0)), increment(torch.distributions.Laplace(0.0, 1.0))
    assert type(one) is type(two) is increments.Laplace
    assert increment(pyro.Gamma(4.0, 9.0)).shape == 4.0
    assert increment(pyro.StudentT(7.0)).df == 7.0
    assert type(increment(increments.GeneralisedNormal(2.0))) is increments.Normal
    uniform = torch.distributions.Uniform(0, 1)
    parts = [
        torch.distributions.SigmoidTransform().inv,
        torch.distributions.AffineTransform(1.0, 2.0),
    ]
    manual = torch.distributions.TransformedDistribution(uniform, parts)
    assert type(increment(manual)) is increments.Logistic
    shifted = torch.distributions.TransformedDistribution(pyro.Gumbel(0.0, 1.0), parts[1:])
    assert type(increment(shifted)) is increments.Gumbel


@pytest.mark.parametrize(
    "law, message",
    [
        (pyro.Cauchy(0.0, 1.0), "no finite variance"),
        (pyro.StudentT(2.0), "no finite variance"),
        (pyro.Stable(1.5, 0.0), "increments.Stable"),
        (pyro.Pareto(1.0, 1.5), "no finite variance"),
        (pyro.Normal(torch.zeros(2), 1.0), "batch shape"),
        (pyro.Normal(torch.zeros(2), 1.0).to_event(1), "event shape"),
    ],
)
def test_what_is_no_increment_is_refused(law, message):
    with pytest.raises(ValueError, match=message):
        increment(law)


def test_a_law_without_a_density_is_unsolved():
    with pytest.raises(dd.Unsolved, match="discrete"):
        increment(pyro.ZeroInflatedPoisson(torch.tensor(2.0), gate=torch.tensor(0.3)))


class Waves(torch.distributions.Distribution):
    """Periodic on all reals, so that it is the density of no law."""

    arg_constraints, support = {}, torch.distributions.constraints.real

    def log_prob(self, value):
        return -(value.sin() ** 2)

    def sample(self, sample_shape=()):
        return torch.zeros(sample_shape)


def test_a_density_that_does_not_fall_is_unsolved():
    with pytest.raises(dd.Unsolved, match="does not fall far out"):
        increment(Waves(validate_args=False))


@pytest.mark.parametrize("kappa", [0.25, 2.0, 50.0])
def test_angles_are_laws_between_minus_and_plus_pi(kappa):
    """Von Mises' law, around 0 whatever its mean direction, against SciPy's quadrature."""
    oracle = stats.vonmises(kappa)
    each = increment(torch.distributions.VonMises(1.0, kappa))
    deviation = math.sqrt(oracle.expect(lambda a: a**2, lb=-math.pi, ub=math.pi))
    fourth = oracle.expect(lambda a: a**4, lb=-math.pi, ub=math.pi) / deviation**4
    assert float(each.cumulants(4)[3]) == pytest.approx(fourth - 3, abs=1e-9)
    assert each.means == pytest.approx((-math.pi / deviation, math.pi / deviation))
    assert each.entropy == pytest.approx(float(oracle.entropy()) - math.log(deviation), abs=1e-9)
    assert each.fisher == math.inf
    u = 1.7
    real = oracle.expect(lambda a: math.cos(u * a / deviation), lb=-math.pi, ub=math.pi)
    assert complex(each.cf(u)) == pytest.approx(real, abs=1e-9)
    torch.manual_seed(0)
    draws = each.sample((20_000,))
    assert stats.kstest(deviation * draws.numpy(), oracle.cdf).pvalue > 1e-3


def test_stable_laws_scale_in_their_own_way():
    law, u = increments.Stable(1.5), torch.linspace(-4, 4, 41, dtype=torch.float64)
    rho = 0.6
    whole = law.innovation(rho, 1.0)
    rest = increments.Stable(1.5, float(whole.scale))
    assert float((law.log_cf(rho * u) + rest.log_cf(u) - law.log_cf(u)).abs().max()) < 1e-14
    assert float(law.levy(2.0, 1.0).scale) == pytest.approx(2 ** (1 / 1.5))
    torch.manual_seed(0)
    x = law.sample((20000,))
    assert abs(float((1.3 * x).cos().mean()) - float(law.cf(1.3).real)) < 0.03


def test_batches_and_dtypes():
    loc, scale = torch.zeros(3, 1), torch.ones(2)
    for name, (law, *_) in LAWS.items():
        batch = increment(law).law(loc, scale)
        assert batch.batch_shape == (3, 2), name
        x = batch.sample()
        assert x.shape == (3, 2) and x.dtype == torch.float32, name
        assert batch.log_prob(x).shape == (3, 2), name


def test_special_functions():
    mpmath = pytest.importorskip("mpmath")
    z = torch.complex(
        *(torch.linspace(a, b, 9, dtype=torch.float64) for a, b in ((0.1, 4), (-9, 60)))
    )
    for ours, at in zip(transcendental.log_gamma(z), z, strict=True):
        assert abs(complex(ours) - complex(mpmath.loggamma(complex(at)))) < 1e-13 * (1 + abs(ours))
    for order in (0.0, 0.3, 2.5, 40.0):
        x = torch.logspace(-9, 2, 9, dtype=torch.float64)
        ours = transcendental.log_bessel_k(number(order), x)
        theirs = [float(mpmath.log(mpmath.besselk(order, float(v)))) for v in x]
        assert float((ours - number(theirs)).abs().max()) < 1e-11


def test_logistic_draws_are_finite_where_uniform_numbers_are_zero(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.zeros(*a, **k))
    for dtype, least in ((torch.float32, -25 * math.log(2)), (torch.float64, -54 * math.log(2))):
        law = increment(pyro.Logistic(0.0, 1.0)).law(
            torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
        )
        draws = law.sample() * math.pi / math.sqrt(3)
        torch.testing.assert_close(draws, torch.full((3,), least, dtype=dtype))


@pytest.mark.parametrize(
    "law",
    [
        torch.distributions.Beta(torch.tensor(2.3), torch.tensor(3.1)),
        torch.distributions.Kumaraswamy(torch.tensor(2.3), torch.tensor(3.1)),
        torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.tensor([0.3, 0.7])),
            torch.distributions.Normal(torch.tensor([-1.0, 0.5]), torch.tensor([0.5, 1.0])),
        ),
    ],
    ids=["beta", "kumaraswamy", "skew mixture"],
)
def test_laws_declared_in_single_precision_have_mass_one(law):
    """Their numbers are read as float64: their own log_prob is off by what float32 rounds."""
    each = increment(law)
    assert each.error < 1e-13
    assert float(each.weights @ each.nodes.square()) == pytest.approx(1, abs=1e-12)
    assert all(v.dtype == torch.float32 for v in vars(law).values() if torch.is_tensor(v))


class Largest(TorchDispatchMode):
    """The size of the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.numbers = max(self.numbers, found.numel())
        return found


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("verb", ["log_prob", "cdf"])
def test_many_compound_densities_are_those_of_one_at_a_time(verb, noise):
    """Whatever their rates; and memory for sums over jumps does not grow with their number."""
    torch.manual_seed(0)
    count, zero = 5000, number(0.0)
    rate = number([0.5, 30.0]).repeat(count // 2)
    jump = pyro.Normal(number(0.3), number(0.7))
    law = increments.CompoundPoisson(rate, jump, torch.full_like(rate, noise))
    x = torch.where(torch.rand(count) < 0.1, zero, 4 * torch.randn(count).double())
    with Largest() as seen:
        found = getattr(law, verb)(x)
    assert seen.numbers < 60 * count  # of which all sums have 136 terms
    for n in range(0, count, 311):
        one = increments.CompoundPoisson(rate[n], jump, noise)
        assert float(getattr(one, verb)(x[n])) == pytest.approx(float(found[n]), rel=1e-13)


def test_a_density_that_is_no_number_is_refused():
    law = torch.distributions.Kumaraswamy(torch.tensor(0.5), torch.tensor(0.7))  # NaN near 1
    with pytest.raises(dd.Unsolved, match="mass nan"):
        dd.increment(law)
