"""The bound of a lift that stops at a small time, on normal data where every term is known.

With the exact head the reversal on [s, 1] is exact, and all that the bound lacks in the mean over
data is what the decoder lacks, E KL(p(x_0 | y_s) ‖ decoder). Moments are exponentials in 40
digits: at small times Σ holds entries from 1e-11 to 1e-2, and its inverse loses what float64 has.
"""

import math
from functools import cache

import pytest
import torch
from mpmath import expm, log, matrix, mp
from torch.distributions import Normal

import discdiff as dd
from discdiff.engines.correlated import Correlated
from discdiff.likelihood import stop_for
from discdiff.times import rule

pytestmark = pytest.mark.usefixtures("float64")

V, STD = 0.01, 0.7  # of the auxiliary (variance) and the data (standard deviation)
CLOCK = dd.clock.Linear(0.1, 10.0)
NODES = 60
TRUTH = -(math.log(2 * math.pi * STD**2) + 1) / 2  # E log p(x_0)


def process():
    """Critically damped Langevin dynamics of mass one, lifted."""
    core = dd.Linear([[0.0, 1.0], [-1.0, -2.0]]) + dd.Noise([[0.0], [2.0]])
    return core.on(CLOCK).lift(Normal(*torch.tensor([0.0, V**0.5])))


@cache
def moments(time):
    """P and Σ given the data at an own time, in 40 digits."""
    with mp.workdps(40):
        block = matrix([[0, -1, 0, 0], [1, 2, 0, 4], [0, 0, 0, -1], [0, 0, 1, -2]])
        whole = expm(block * mp.mpf(time))
        phi = whole[2:4, 2:4].T
        start = matrix([[0, 0], [0, mp.mpf(V**0.5) ** 2]])
        return phi[:, 0], phi * whole[0:2, 2:4] + phi * start * phi.T


def own(t):
    return float(CLOCK(torch.as_tensor(t)))


def precision(time):
    """J = Pᵀ Σ⁻¹ P."""
    with mp.workdps(40):
        P, sigma = moments(time)
        return (P.T * sigma**-1 * P)[0]


def rate(time):
    """E of the loss of the exact head: ½ tr G (Σ⁻¹ − C⁻¹) = ½ R |Bᵀ Σ⁻¹ P|², R = Var[x_0 | y]."""
    with mp.workdps(40):
        P, sigma = moments(time)
        seen = (sigma**-1 * P)[1] * 2
        return float(seen**2 * remaining(time) / 2)


def remaining(time):
    """Var[x_0 | y]."""
    return STD**2 / (1 + STD**2 * precision(time))


def ending():
    """E KL(q(y_1 | x_0) ‖ p_1) over data: the information that y_1 has of x_0."""
    return float(log(1 + STD**2 * precision(own(1.0))) / 2)


def bound(stop, J):
    """E of the bound over data, from its parts: prior, path, decoder of precision J."""
    t, w = rule(CLOCK, NODES, stop)
    rates = torch.tensor([rate(own(s)) for s in t])
    path = float((w * CLOCK.rate(t) * rates).sum())
    with mp.workdps(40):
        decoded = float((log(J / (2 * mp.pi)) - J * remaining(own(stop))) / 2)
    return decoded - ending() - path


def decoder_precision(stop):
    """1 / variance of the package's decoder at a time."""
    (leaf,) = process().leaves(torch.full((1,), stop))
    law = leaf.core.engine.decode(dd.estimates.Mean(torch.zeros(1)), torch.zeros(1, 2), leaf.time)
    return 1 / float(law.variance)


@pytest.mark.parametrize("stop", [1e-1, 1e-2, 1e-3])
def test_what_the_decoder_lacks(stop):
    """½ (J R − 1 − log J R) ≥ 0 with J the decoder's precision and R = Var[x_0 | y] (identity 17).

    With 1/R for J, which the second derivatives of log p_t would give, nothing is lacking.
    """
    J, R = decoder_precision(stop), remaining(own(stop))
    assert J == pytest.approx(float(precision(own(stop))), rel=1e-9)
    gap = TRUTH - bound(stop, J)
    lacking = float((J * R - 1 - log(J * R)) / 2)
    assert 0 <= lacking < 1e-8
    assert gap == pytest.approx(lacking, abs=1e-10)
    assert abs(TRUTH - bound(stop, 1 / R)) < 1e-10
    # Negative control: half the precision lacks ½ (½ − 1 + log 2) = 0.097 nats more.
    assert TRUTH - bound(stop, J / 2) - gap == pytest.approx((math.log(2) - 0.5) / 2, abs=1e-4)


def covariance(t):
    """Cov[y_t] at times (B,), which is well conditioned, by torch's exponential."""
    block = torch.tensor([[0.0, -1, 0, 0], [1, 2, 0, 4], [0, 0, 0, -1], [0, 0, 1, -2]])
    whole = torch.linalg.matrix_exp(block * CLOCK(t)[:, None, None])
    phi = whole[:, 2:, 2:].mT
    return phi @ torch.diag(torch.tensor([STD**2, V])) @ phi.mT + phi @ whole[:, :2, 2:]


class ExactScore(dd.heads.Score):
    """The score of the state's law, N(0, Cov[y_t])."""

    def forward(self, y, t, context=None):
        return dd.estimates.Score(-torch.linalg.solve(covariance(t), y))


@pytest.mark.parametrize("stop", [1e-1, 1e-2])
def test_the_estimate_has_this_mean(stop):
    """20 000 draws and five standard errors: fails by chance once in 10⁶ runs."""
    count = 20_000
    x_0, head = STD * torch.randn(count), ExactScore()
    factor = torch.linalg.cholesky(covariance(torch.ones(2)))[:1]
    prior = Correlated(torch.zeros(count, 2), factor.expand(count, 2, 2))
    values = dd.elbo(process(), head, x_0, stop=stop, prior=prior)
    values = values - Normal(0.0, STD).log_prob(x_0)  # the data are drawn, too
    error = float(values.std()) / count**0.5
    assert abs(float(values.mean()) - bound(stop, decoder_precision(stop)) + TRUTH) < 5 * error
    assert error < 0.1


def test_laws_of_species_have_moments():
    pair = dd.Reaction([-1, 1], 1.0) + dd.Reaction([-1, -1], lambda n: n[..., 0] * n[..., 1])
    law = pair.marginal(torch.tensor([[3.0, 1.0]], dtype=torch.float64), 0.5)
    probs = law.probs.reshape(law.box)
    rows, columns = (torch.arange(n).double() for n in law.box)
    each = torch.stack([(probs.sum(1) * rows).sum(), (probs.sum(0) * columns).sum()])
    torch.testing.assert_close(law.mean[0], each)
    square = (probs.sum(1) * rows**2).sum() - each[0] ** 2
    torch.testing.assert_close(law.variance[0, 0], square)


def test_a_limit_is_refused_where_mass_leaves_every_box():
    arrive, leave = dd.Reaction([1], lambda n: 20 + 0 * n[..., 0]), dd.Reaction([-1], 1.0)
    with pytest.raises(dd.Unsolved, match="mass leaves each box"):
        (arrive + leave).limit((1, 1))
    with pytest.raises(dd.Unsolved, match="depends on the start"):
        (dd.Reaction([-2], lambda n: n[..., 0]) + 0.0 * leave).limit((1, 1))


@pytest.mark.parametrize("name", ["cld", "alda", "malda", "psld"])
def test_bounds_of_lifts_stop_where_float32_sees_their_noise(name):
    """At t = 1e-3 the decoder of third-order noise is 1e-10 wide: single bounds were −10⁶ nats."""
    process, head = getattr(dd.zoo, name)(), dd.heads.Epsilon(lambda x, t: 0 * x)
    stop = stop_for(process, head, None)
    (leaf,) = process.leaves(torch.tensor([stop], dtype=torch.float64))
    assert float(leaf.core.engine.snr(leaf.time)) <= 1.001e4
    x = torch.randn(64, 1)
    bounds = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        bounds.append(dd.elbo(process, head, x.to(dtype)).double())
    assert all(bool((bound > -1e4).all()) for bound in bounds)
