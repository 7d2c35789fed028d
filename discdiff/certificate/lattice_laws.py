r"""The laws that a walk on a lattice is held to, point by point.

.. math::
    p_{0 \to t}(y) = \sum_x p_{0 \to s}(x)\, p_{s \to t}(y - x), \qquad
    p(x_s \mid x_0)\, p(x_t \mid x_s) = p(x_t \mid x_0)\, p(x_s \mid x_0, x_t)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..lattice_walk import LatticeSteps
from ..process import Chain
from .entries import chi_square
from .report import Row, index_pairs, measured

QUANTILE, CLOSE, DRAWS = 5.5, 1e-9, 4000
MANY = 60  # steps whose points are all looked at


def lattice_rows(chain: Chain, steps: LatticeSteps) -> list[Row]:
    """The laws of a walk on a lattice."""
    pairs = index_pairs(min(steps.count, MANY))
    of = lambda error: lambda: max(error(chain, steps, s, t) for s, t in pairs)
    return [
        measured("one step", "", CLOSE, of(_one_step)),
        measured("Chapman–Kolmogorov", "", CLOSE, of(_summed)),
        measured("normalisation", "", CLOSE, of(_normalised)),
        measured("bridge", "", CLOSE, of(_bridge)),
        measured("agreement", "", QUANTILE, of(_agreement)),
    ]


def _reached(steps: LatticeSteps, k: int) -> Tensor:
    """All points that k steps lead to from 0, (n, 1)."""
    count = k * (len(steps.log_probs) - 1) + 1  # type: ignore[arg-type]
    i = torch.arange(count, dtype=torch.float64)
    return (steps.size_of_step * (k * steps.first + steps.gap * i)).unsqueeze(1)


def _chances(law: Distribution, points: Tensor) -> Tensor:
    return law.log_prob(points).exp()


def _one_step(chain: Chain, steps: LatticeSteps, s: int, t: int) -> float:
    """Neighbouring indices are a declared step apart."""
    y = _reached(steps, 1)
    zero = torch.zeros_like(y)
    declared = steps.step(zero, torch.full((len(y),), float(t)))
    gap = _chances(chain.transition(zero, t - 1, t), y) - _chances(declared, y)
    return float(gap.abs().max())


def _summed(chain: Chain, steps: LatticeSteps, s: int, t: int) -> float:
    """What is reached at t is reached through s."""
    x, y = _reached(steps, s), _reached(steps, t)
    early = _chances(chain.marginal(torch.zeros_like(x), s), x)
    whole = _chances(chain.marginal(torch.zeros_like(y), t), y)
    late = torch.stack([_chances(chain.transition(x, s, t), z.expand(x.shape)) for z in y])
    return float((late @ early - whole).abs().max())


def _normalised(chain: Chain, steps: LatticeSteps, s: int, t: int) -> float:
    y = _reached(steps, t)
    return abs(float(_chances(chain.marginal(torch.zeros_like(y), t), y).sum()) - 1)


def _bridge(chain: Chain, steps: LatticeSteps, s: int, t: int) -> float:
    """Bayes' rule, at every end."""
    x, worst = _reached(steps, s), 0.0
    zero = torch.zeros_like(x)
    early = _chances(chain.marginal(zero, s), x)
    for z in _reached(steps, t):
        end = z.expand(x.shape)
        joint = early * _chances(chain.transition(x, s, t), end)
        whole = _chances(chain.marginal(zero[:1], t), end[:1])
        gap = _chances(chain.bridge(zero, end, s, t), x) - joint / whole
        worst = max(worst, float(gap.abs().max()))
    return worst


def _agreement(chain: Chain, steps: LatticeSteps, s: int, t: int) -> float:
    """Draws follow the probabilities."""
    x, worst = _reached(steps, s), 0.0
    end = chain.marginal(torch.zeros(1, 1).double(), t).sample()
    for law in (
        lambda n: chain.marginal(torch.zeros(n, 1).double(), s),
        lambda n: chain.bridge(torch.zeros(n, 1).double(), end.expand(n, 1), s, t),
    ):
        draws = law(DRAWS).sample()
        seen = ((draws - x.T).abs() < steps.size_of_step * steps.gap / 4).double().sum(0)
        worst = max(worst, chi_square(seen[:, None], _chances(law(len(x)), x)[:, None]))
    return worst
