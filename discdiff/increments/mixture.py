r"""Increments that are finite mixtures of normal laws."""

from __future__ import annotations

import math

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from .base import REALS, Increment, doubles
from .cumulants import cumulants_from, orders
from .lattice import Lattice
from .log_cf import real_log
from .measured import entropy_and_fisher, radius_of, reach_of
from .numeric import Numeric
from .registry import standardises


class GaussianMixture(Increment):
    r"""A finite mixture of normal laws of one mean: :math:`\varphi = \sum_j w_j e^{-r_j u^2 / 2}`.

    Arguments:
        weights: w, summing to one.
        variances: r > 0, of any common scale: they are divided by their mean.
    """

    decomposable = False
    domain = REALS

    def __init__(self, weights: Tensor, variances: Tensor) -> None:
        self.weights, variances = doubles(weights), doubles(variances)
        self.variances = variances / (self.weights @ variances)
        self.name = f"mixture of {len(variances)} normal"
        self.divisible = len(self.variances.unique()) == 1
        self.reach = reach_of(self)
        self.radius = radius_of(self)
        self.entropy, self.fisher = entropy_and_fisher(
            self, math.sqrt(float(self.variances.min()))
        )

    def _log_cf(self, u: Tensor) -> Tensor:
        exponent = -self.variances * u.unsqueeze(-1) ** 2 / 2
        small = u.abs() < 0.5
        series = torch.log1p(torch.expm1(exponent) @ self.weights)
        return real_log(torch.where(small, series, (exponent + self.weights.log()).logsumexp(-1)))

    def _cumulants(self, order: int) -> list[float]:
        return cumulants_from([self._moment(n) for n in orders(order)])

    def _moment(self, n: int) -> float:
        if n % 2:
            return 0.0
        return math.prod(range(1, n, 2)) * float(self.weights @ self.variances ** (n // 2))

    def _exponents(self, e: Tensor) -> Tensor:
        return self.weights.log() + self.variances * e.unsqueeze(-1) ** 2 / 2

    def _cgf(self, e: Tensor) -> Tensor:
        return self._exponents(e).logsumexp(-1)

    def _slope(self, e: Tensor) -> Tensor:
        return e * (self._exponents(e).softmax(-1) @ self.variances)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        loc, scale = torch.broadcast_tensors(loc, scale)
        logs = self.weights.log().to(loc).expand(loc.shape + self.weights.shape)
        return self._mixed(logs, loc.unsqueeze(-1).expand_as(logs), scale)

    def _mixed(self, logits: Tensor, means: Tensor, scale: Tensor) -> Distribution:
        widths = scale.unsqueeze(-1) * self.variances.sqrt().to(scale)
        return pyro.MixtureSameFamily(
            pyro.Categorical(logits=logits, validate_args=False),
            pyro.Normal(means, widths, validate_args=False),
            validate_args=False,
        )

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        shifts = (scale * eta).unsqueeze(-1) * self.variances.to(eta)
        logits = self.weights.log().to(eta) + self.variances.to(eta) * eta.unsqueeze(-1) ** 2 / 2
        return self._mixed(logits, loc.unsqueeze(-1) + shifts, scale)

    @property
    def mixing(self) -> Distribution:
        points, group = self.variances.unique(return_inverse=True)
        weights = torch.zeros_like(points).index_add(0, group, self.weights)
        return Lattice(points, weights.log(), 0.0, 1.0)


@standardises(torch.distributions.MixtureSameFamily)
def _mixture(law: torch.distributions.MixtureSameFamily) -> Increment:
    parts = law.component_distribution
    normal = isinstance(parts, torch.distributions.Normal)
    if normal and bool((parts.loc == parts.loc[0]).all()):
        return GaussianMixture(law.mixture_distribution.probs, parts.scale**2)
    return Numeric(law)
