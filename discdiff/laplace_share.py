r"""The Laplace process between two times, given both ends.

It is a Brownian motion at a gamma time, :math:`L_t \mid A_t \sim \mathcal{N}(0, A_t)` with
:math:`A_t \sim \Gamma(t, 1)`. So, given :math:`L_t = d`,

.. math::
    p(A_t) \propto A_t^{t - 3/2} e^{-A_t - d^2 / 2 A_t}, \qquad
    A_s = A_t B, \quad B \sim \mathrm{Beta}(s, t - s), \qquad
    L_s \sim \mathcal{N} \big( d B,\; A_t B (1 - B) \big).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from .increment_laws import VarianceGamma, log_gamma_draws
from .laws import _Law
from .numerics.inverse_gaussian import inverse_gaussian_draws
from .numerics.transcendental import log_bessel_k


class LaplaceShare(_Law):
    r"""The law of :math:`L_s` given :math:`L_t = d`, of the Laplace process of variance t.

    Its density is Bayes' rule of three (`increment_laws.VarianceGamma`), and draws are exact. For
    d = 0 and t ≤ 1/2, where :math:`L_t` has an infinite density at 0, it is the limit for d → 0,
    the point 0.

    Arguments:
        total: d, of any shape; the law's draws and densities are of its dtype.
        s: Positive, float64.
        t: Larger, float64.

    References:
        | The Variance Gamma Process and Option Pricing (Madan et al., 1998)

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> law = LaplaceShare(torch.tensor([2.0]), one, 4 * one)
        >>> law.mean, law.variance
        (tensor([0.5000]), tensor([0.7663]))
    """

    def __init__(self, total: Tensor, s: Tensor, t: Tensor) -> None:
        self.total, self.s, self.t = torch.broadcast_tensors(total, s, t)
        super().__init__(self.total.shape)

    @property
    def support(self) -> Any:
        return constraints.real

    @property
    def mean(self) -> Tensor:
        return self.total * (self.s / self.t).to(self.total.dtype)

    @property
    def variance(self) -> Tensor:
        r""":math:`(\mathbb{E}[A_t] + d^2 / t)\, s (t - s) / (t (t + 1))`."""
        d, share = self.total.double(), self.s / self.t
        spread = (self._mean_time() + d**2 / self.t) * share * (self.t - self.s) / (self.t + 1)
        return spread.to(self.total.dtype)

    def _mean_time(self) -> Tensor:
        r""":math:`\mathbb{E}[A_t] = \tfrac{z}{2} K_{t + 1/2}(z) / K_{t - 1/2}(z)`, z = √2 |d|."""
        p, z = self.t - 0.5, math.sqrt(2) * self.total.double().abs()
        small = z < 1e-100
        z = torch.where(small, 1.0, z)
        mean = z / 2 * (log_bessel_k(p + 1, z) - log_bessel_k(p, z)).exp()
        return torch.where(small, p.clamp(min=0), mean)

    def _draw(self, shape: Size) -> Tensor:
        d = self.total.double()
        time = inverse_gaussian_draws(self.t - 0.5, torch.full_like(d, 2.0), d**2, shape)
        odds = log_gamma_draws(self.s, shape) - log_gamma_draws(self.t - self.s, shape)
        root = (-(softplus(odds) + softplus(-odds)) / 2).exp()  # of B (1 − B)
        drawn = d * odds.sigmoid() + time.sqrt() * root * torch.randn_like(time)
        return drawn.to(self.total.dtype)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y, d = x.double(), self.total.double()
        log_p = lambda time, at: VarianceGamma(0.0, 1.0, time).log_prob(at)
        whole = log_p(self.t, d)
        value = log_p(self.s, y) + log_p(self.t - self.s, d - y) - whole
        point = torch.where(y == 0, torch.inf, -torch.inf)
        return torch.where(whole == torch.inf, point, value).to(self.total.dtype)
