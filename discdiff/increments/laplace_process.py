r"""The Laplace process: its law at a time, which is variance gamma, and between two times.

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
from torch.nn.functional import softplus

from ..laws import _RealLaw
from ..numerics.inverse_gaussian import inverse_gaussian_draws
from ..numerics.transcendental import log_bessel_k
from .draws import Reparameterised, gamma_draws, log_gamma_draws, log_gamma_rule, tensors


class VarianceGamma(Reparameterised):
    r"""The law of :math:`m + s (g_1 - g_2) / \sqrt{2}`, both g independent draws of Γ(τ, 1).

    The Laplace process at time τ: its variance is :math:`s^2 \tau`, its characteristic function
    :math:`e^{ium} (1 + s^2 u^2 / 2)^{-\tau}`.

    Arguments:
        loc: m.
        scale: s > 0.
        time: τ > 0.
    """

    def __init__(self, loc: Any, scale: Any, time: Any) -> None:
        self.loc, self.scale, self.time = tensors(loc, scale, time)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale**2 * self.time

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        time = self.time.expand(Size(sample_shape) + self.batch_shape)
        deviation = gamma_draws(time).sqrt()
        return torch.addcmul(self.loc, self.scale, deviation * torch.randn_like(deviation))

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        r"""The log-density, +∞ at the centre if :math:`\tau \le 1/2`; found in float64."""
        if x.dtype != torch.float64:  # what cancels is of the size of τ log τ
            wide = VarianceGamma(self.loc.double(), self.scale.double(), self.time.double())
            return wide.log_prob(x.double()).to(self.loc.dtype)
        a, b = self.time - 0.5, self.scale / math.sqrt(2)
        if self._whole():
            z = (x - self.loc).abs() / b
            k, weights = self._mixture()
            terms = weights + torch.xlogy(k - 1, z.unsqueeze(-1)) - torch.lgamma(k)
            return terms.logsumexp(-1) - z - b.log()
        a, z, b = torch.broadcast_tensors(a, (x - self.loc).abs() / b, b)
        small = z < 1e-18
        safe = torch.where(small, torch.ones_like(z), z)
        value = a * (safe / 2).log() + log_bessel_k(a, safe)
        middle = torch.where(a > 0, torch.lgamma(a.clamp(min=1e-300)) - math.log(2), torch.inf)
        value = torch.where(small, middle, value)
        return value - torch.lgamma(a + 0.5) - 0.5 * math.log(math.pi) - b.log()

    def cdf(self, value: Tensor) -> Tensor:
        if self._whole():
            z = (value - self.loc) / (self.scale / math.sqrt(2))
            k, weights = self._mixture()
            k, far, weights = torch.broadcast_tensors(k, z.abs().unsqueeze(-1), weights)
            tail = (weights.exp() * torch.special.gammaincc(k, far)).sum(-1)
            return torch.where(z > 0, 1 - tail, tail)
        # a normal law of variance s²A, A ~ Γ(τ, 1): trapezoidal in log A. What the rule leaves
        # out at the left, A < e^{−100}, is all but at the centre.
        x, time = torch.broadcast_tensors((value - self.loc) / self.scale, self.time)
        log_a, weights = log_gamma_rule(time)
        inner = (weights * torch.special.ndtr(-x.abs().unsqueeze(-1) * (-log_a / 2).exp())).sum(-1)
        centre = (1 - weights.sum(-1)).clamp(min=0) / 2  # weights add up to 1 within rounding
        tail = inner + torch.where(x == 0, centre, torch.zeros_like(x))
        return torch.where(x > 0, 1 - tail, tail)

    def _whole(self) -> bool:
        """Whether all times are small whole numbers: then Bessel's functions are finite sums."""
        if self.time.requires_grad:
            return False
        return bool(((self.time == self.time.round()) & (self.time <= 96)).all())

    def _mixture(self) -> tuple[Tensor, Tensor]:
        r"""|z| at time n is Γ(k), of chance :math:`2^{k + 1 - 2n} \binom{2n - k - 1}{n - k}`.

        The numbers k, and half the chances in logarithms, on a last axis.
        """
        n = self.time.unsqueeze(-1)
        most = int(n.max()) if n.numel() else 1
        k = torch.arange(1, most + 1, dtype=n.dtype, device=n.device)
        inside = k <= n
        low = torch.where(inside, n - k, torch.zeros_like(n))
        weights = torch.lgamma(low + n) - torch.lgamma(n) - torch.lgamma(low + 1)
        weights = weights + (k - 2 * n) * math.log(2)
        return k, torch.where(inside, weights, torch.full_like(weights, -torch.inf))


class LaplaceShare(_RealLaw):
    r"""The law of :math:`L_s` given :math:`L_t = d`, of the Laplace process of variance t.

    Its density is Bayes' rule of three (`VarianceGamma`), and draws are exact. For
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
