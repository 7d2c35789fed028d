r"""Increments of finitely many values: bits, counts out of n, categories, any table of chances.

With values :math:`v_j`, standardised, of chances :math:`p_j`

.. math::
    \varphi(u) = \sum_j p_j e^{i u v_j}, \qquad K(\eta) = \log \sum_j p_j e^{\eta v_j}, \qquad
    \kappa_m \text{ from } \mathbb{E} \xi^m = \sum_j p_j v_j^m,

so that all an increment is asked for are finite sums.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..validation import require
from .base import REALS, Increment
from .cumulants import cumulants_from
from .lattice import Lattice
from .measured import radius_of
from .registry import standardises

TURN = 0.02  # of waves in which the phase is followed, over the largest value


class Finite(Increment):
    r"""A law of finitely many values, a lattice law: densities of its sums are not known.

    Arguments:
        points: The values, (J,), of any location and scale.
        log_probs: The logarithms of their chances, (J,).

    Raises:
        ValueError: If all mass is at one value.

    Example:
        >>> from discdiff import increment
        >>> increment(torch.distributions.Bernoulli(0.2)).cumulants(4)  # 0.6 / 0.4, 0.04 / 0.16
        tensor([0.0000, 1.0000, 1.5000, 0.2500], dtype=torch.float64)
    """

    divisible, decomposable, lattice = False, False, True
    fisher, domain, entropy = math.inf, REALS, -math.inf

    def __init__(self, points: Tensor, log_probs: Tensor, name: str) -> None:
        chances = log_probs.double().softmax(-1)
        points, order = points.double()[chances > 0].sort()
        chances = chances[chances > 0][order]
        mean = chances @ points
        deviation = (chances @ (points - mean) ** 2).sqrt()
        require(float(deviation) > 0, f"an increment must have two values; {name} has one")
        self.name = f"{name} ({len(points)} values)"
        self.points: Tensor = (points - mean) / deviation
        self.log_probs: Tensor = chances.log()
        self.means = (float(self.points[0]), float(self.points[-1]))
        self.reach = max(-self.means[0], self.means[1])
        self.radius = radius_of(self)

    def _less(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""Real and imaginary part of :math:`\varphi(u) - 1`, accurate at small u."""
        v = u.unsqueeze(-1) * self.points
        p = self.log_probs.exp()
        return -2 * (v / 2).sin() ** 2 @ p, v.sin() @ p

    def _log_cf(self, u: Tensor) -> Tensor:
        flat = u.reshape(-1)
        if not flat.numel():
            return torch.complex(u, u)
        most = float(flat.abs().max())
        grid = torch.linspace(0.0, most, 2 + int(most * self.reach / TURN), dtype=torch.float64)
        real, imag = self._less(grid)
        coarse = torch.complex(1 + real, imag)
        phase = torch.cat([torch.zeros(1).double(), (coarse[1:] / coarse[:-1]).angle().cumsum(0)])
        real, imag = self._less(flat.abs())
        near = (flat.abs() / (grid[1] if most else 1.0)).round().long().clamp(max=len(grid) - 1)
        turned = (torch.complex(1 + real, imag) / coarse[near]).angle()
        size = torch.log1p(2 * real + real**2 + imag**2) / 2
        return torch.complex(size, (phase[near] + turned) * flat.sign()).reshape(u.shape)

    def _cumulants(self, order: int) -> list[float]:
        p = self.log_probs.exp()
        return cumulants_from([float(p @ self.points**n) for n in range(1, order + 1)])

    def _exponents(self, e: Tensor) -> Tensor:
        return self.log_probs + e.unsqueeze(-1) * self.points

    def _cgf(self, e: Tensor) -> Tensor:
        return self._exponents(e).logsumexp(-1)

    def _slope(self, e: Tensor) -> Tensor:
        return self._exponents(e).softmax(-1) @ self.points

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Lattice(self.points, self.log_probs, loc, scale)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        logs = self.log_probs.to(eta) + eta.unsqueeze(-1) * self.points.to(eta)
        return Lattice(self.points, logs.log_softmax(-1), loc, scale)


@standardises(Lattice)
def _lattice(law: Lattice) -> Finite:
    return Finite(law.points, law.log_probs, type(law).__name__)


@standardises(torch.distributions.Categorical)
def _categorical(law: torch.distributions.Categorical) -> Finite:
    """Of the categories as numbers; logits would give what cannot be a chance of 1e-7."""
    points = torch.arange(law.probs.shape[-1])
    return Finite(points, law.probs.log(), type(law).__name__)


@standardises(torch.distributions.Bernoulli, torch.distributions.Binomial, pyro.BetaBinomial)
def _enumerated(law: Any) -> Finite:
    """Of a law that lists its values."""
    points = law.enumerate_support()
    return Finite(points, law.log_prob(points), type(law).__name__)
