r"""The laws that a chain is held to that is Markov given the data only.

Its steps back carry its marginals to each other, and go through states between:

.. math::
    \int q(x_t | x_0)\, q(x_s | x_t, x_0)\, dx_t = q(x_s | x_0), \qquad
    \int q(x_s | x_t, x_0)\, q(x_r | x_s, x_0)\, dx_s = q(x_r | x_t, x_0),

which is seen in draws, whose means and variances are compared. Its likelihood ratios are those of
probabilities, :math:`\int q(x_t | x_0) \cdot q(x_t | a) / q(x_t | x_0)\, dx_t = 1`, and an average
of the logarithm of one is a divergence. What can be said of a chain by draws is said: each error
is in standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..process import Chain
from ..solve import Unsolved
from .report import Row, index_pairs, measured, within

DRAWS = 20_000
QUANTILE = 5.5  # normal quantile of the statistical laws: a failure rate of 4e-8 each

Law = Callable[[int], Distribution]


def given_rows(chain: Chain, x: Tensor) -> list[Row]:
    """The laws of the steps back of a chain, given the data."""
    data = x.flatten()[:2].reshape(2, 1).double()
    pairs = index_pairs(len(chain.times))
    of = lambda error: lambda: max(error(chain, data, s, t) for s, t in pairs)
    return [
        measured("carried marginals", "", QUANTILE, of(_carried)),
        measured("steps through steps", "", QUANTILE, of(_through)),
        measured("agreement", "", QUANTILE, of(_agreement)),
        measured("likelihood ratio", "", QUANTILE, of(_ratio)),
        measured("divergence", "", QUANTILE, of(_divergence)),
    ]


def _wide(x: Tensor) -> Tensor:
    return x[:1].expand(DRAWS, 1)


def _apart(one: Tensor, other: Tensor) -> float:
    """Means and variances of two samples, in standard errors."""
    worst = 0.0
    for a, b in ((one, other), ((one - one.mean()) ** 2, (other - other.mean()) ** 2)):
        error = (a.var() / len(a) + b.var() / len(b)).sqrt()
        worst = max(worst, float((a.mean() - b.mean()).abs() / error.clamp(min=1e-300)))
    return worst


def _carried(chain: Chain, data: Tensor, s: int, t: int) -> float:
    """Steps back from draws at t are draws at s."""
    x_0 = _wide(data)
    late = chain.marginal(x_0, t).sample()
    return _apart(chain.bridge(x_0, late, s, t).sample(), chain.marginal(x_0, s).sample())


def _through(chain: Chain, data: Tensor, s: int, t: int) -> float:
    """A step back over several indices is one step after the other."""
    (leaf,) = chain.process.leaves(chain.times[:1])
    if not leaf.core.terms[0].markov:
        raise Unsolved("given the data a state does not tell what later ones told")
    x_0 = _wide(data)
    late = chain.marginal(x_0[:1], t).sample().expand(DRAWS, 1)
    at = late
    for k in range(t, s, -1):
        at = chain.bridge(x_0, at, k - 1, k).sample()
    return _apart(at, chain.bridge(x_0, late, s, t).sample())


def _agreement(chain: Chain, data: Tensor, s: int, t: int) -> float:
    """Draws have the mean and the variance of their law."""
    x_0 = _wide(data)
    late = chain.marginal(x_0[:1], t).sample().expand(DRAWS, 1)
    worst = 0.0
    for law in (chain.marginal(x_0, t), chain.bridge(x_0, late, s, t)):
        y, mean, variance = law.sample(), law.mean[:1], law.variance[:1]
        for value, goal in ((y, mean), ((y - mean) ** 2, variance)):
            error = value.std() / math.sqrt(DRAWS)
            worst = max(worst, float((value.mean() - goal).abs() / error))
    return worst


def _ratio(chain: Chain, data: Tensor, s: int, t: int) -> float:
    """The likelihood ratio of two near data has mean one, at each end and in a step."""
    x_0 = _wide(data)
    near = x_0 + 0.02 * (_wide(data.flip(0)) - x_0)
    late = chain.marginal(x_0[:1], t).sample().expand(DRAWS, 1)
    pairs = [(chain.marginal(near, t), chain.marginal(x_0, t))]
    if s > 0:
        pairs += [(chain.marginal(near, s), chain.marginal(x_0, s))]
        pairs += [(chain.bridge(near, late, t - 1, t), chain.bridge(x_0, late, t - 1, t))]
    worst = 0.0
    for other, own in pairs:
        y = own.sample()
        ratio = (other.log_prob(y) - own.log_prob(y)).exp()
        error = ratio.std() / math.sqrt(DRAWS)
        worst = max(worst, float((ratio.mean() - 1).abs() / error.clamp(min=1e-12)))
    return worst


def _divergence(chain: Chain, data: Tensor, s: int, t: int) -> float:
    """The divergence of two steps is the mean of the logarithm of their ratio."""
    within(s)
    x_0 = _wide(data)
    near = x_0 + 0.02 * (_wide(data.flip(0)) - x_0)
    late = chain.marginal(x_0[:1], t).sample().expand(DRAWS, 1)
    own, other = (chain.bridge(a, late, t - 1, t) for a in (x_0, near))
    y = own.sample()
    ratio = own.log_prob(y) - other.log_prob(y)
    error = ratio.std() / math.sqrt(DRAWS)
    try:
        goal = laws.kl(own, other)[0]
    except NotImplementedError as reason:
        raise Unsolved(f"the divergence is that of a draw: {reason}") from reason
    return float((ratio.mean() - goal).abs() / error.clamp(min=1e-12))
