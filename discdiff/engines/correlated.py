r"""Normal laws on the last axis, :math:`\mathcal{N}(m, L L^\top)`, with one factor for many."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints, register_kl

from ..laws import _Law
from ..numerics.factors import lower_inverse
from ..shapes import act, along


class Correlated(_Law):
    r"""The law of :math:`m + L \varepsilon` with :math:`\varepsilon` standard normal.

    Torch's multivariate normal law treats every entry of a broadcast factor by itself; here one
    factor serves all entries of a batch element.

    Arguments:
        loc: m, shape (B, *event, k).
        factor: L, lower triangular, float64 of shape (B, *sides, k, k), sides broadcasting
            against the event. Its inverse is taken in float64 and cast.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor) -> None:
        self.loc, self.factor = loc, factor
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariances, shape (B, *event, k, k)."""
        cov = (self.factor @ self.factor.mT).to(self.loc.dtype)
        return cov.expand(*self.loc.shape, self.loc.shape[-1])

    @property
    def variance(self) -> Tensor:
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    def stretched(self, alpha: Tensor) -> Correlated:
        r"""The law of :math:`\alpha y`, with factors of shape (B,)."""
        factor = alpha.abs().to(self.factor).reshape(alpha.shape + (1,) * (self.factor.dim() - 1))
        return Correlated(along(alpha, self.loc) * self.loc, factor * self.factor)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        shape = Size(sample_shape) + self.loc.shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + act(self.factor.to(self.loc.dtype), noise)

    def _draw(self, shape: Size) -> Tensor:
        return self.rsample(shape)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        inverse = lower_inverse(self.factor).to(self.loc.dtype)
        white = act(inverse, x - self.loc)
        constant = self.loc.shape[-1] / 2 * math.log(2 * math.pi)
        return -white.square().sum(-1) / 2 - self._log_det() - constant

    def _log_det(self) -> Tensor:
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).to(self.loc.dtype)


@register_kl(Correlated, Correlated)
def _kl_correlated(p: Correlated, q: Correlated) -> Tensor:
    inverse = lower_inverse(q.factor)
    spread = (inverse @ p.factor).square().sum((-2, -1)).to(p.loc.dtype)
    gap = p.loc - q.loc
    shift = act(inverse.to(gap.dtype), gap).square().sum(-1)
    return (spread + shift - p.loc.shape[-1]) / 2 + q._log_det() - p._log_det()
