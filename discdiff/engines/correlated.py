r"""Normal laws on the last axis, :math:`\mathcal{N}(m, L L^\top)`, with one factor for many.

A row of zeros in L, as at time 0, is a coordinate that is certain: the law is a point mass there.
Its density is :math:`+\infty` where all certain coordinates of the event have their values, and
zero elsewhere; of two such laws the divergence is finite only if the same coordinates have the
same values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints, register_kl

from ..laws import _Law
from ..numerics.factors import lower_inverse
from ..shapes import act, along
from ..solve import Unsolved


class Correlated(_Law):
    r"""The law of :math:`m + L \varepsilon` with :math:`\varepsilon` standard normal.

    Torch's multivariate normal law treats every entry of a broadcast factor by itself; here one
    factor serves all entries of a batch element.

    Arguments:
        loc: m, shape (B, *event, k).
        factor: L, lower triangular, float64 of shape (B, *sides, k, k), sides broadcasting
            against the event. Its inverse is taken in float64 and cast.
        dense: Whether there is a density but for coordinates that are certain. If not, one
            coordinate is a function of others, and there are draws only.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor, dense: bool = True) -> None:
        self.loc, self.factor, self.dense = loc, factor, dense
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
        return Correlated(along(alpha, self.loc) * self.loc, factor * self.factor, self.dense)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        shape = Size(sample_shape) + self.loc.shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + act(self.factor.to(self.loc.dtype), noise)

    def _draw(self, shape: Size) -> Tensor:
        return self.rsample(shape)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        require_density(self.dense)
        white = act(self._inverse(), x - self.loc)
        certain = self._certain()
        off = (certain & (white != 0)).any(-1)
        value = -white.square().masked_fill(certain, 0.0).sum(-1) / 2 - self._log_det()
        value = value - self.loc.shape[-1] / 2 * math.log(2 * math.pi)
        # Summed over the event, one coordinate that is off outweighs all that are not.
        event = tuple(range(1 - self.loc.dim() + 1, 0))
        missed = off.any(event, keepdim=True) if event else off
        peak = torch.where(missed, value, torch.inf)
        value = torch.where(certain.any(-1), peak, value)
        return value.masked_fill(off, -torch.inf)

    def _certain(self) -> Tensor:
        """Which coordinates are certain, shape (B, *sides, k)."""
        return self.factor.diagonal(dim1=-2, dim2=-1) == 0

    def _inverse(self) -> Tensor:
        """The inverse of the factor, in which certain coordinates stay themselves."""
        certain = torch.diag_embed(self._certain().to(self.factor))
        return lower_inverse(self.factor + certain).to(self.loc.dtype)

    def _log_det(self) -> Tensor:
        """The logarithm of the determinant, but for certain coordinates."""
        pivots = self.factor.diagonal(dim1=-2, dim2=-1) + self._certain()
        return pivots.log().sum(-1).to(self.loc.dtype)


def require_density(dense: bool) -> None:
    """Raises ``Unsolved`` where a law has no density."""
    if not dense:
        raise Unsolved(
            "noise does not reach every direction of the last axis: the law has no density there. "
            "Way out: noise or a drift that reaches it, a .lift with random auxiliaries, or "
            "simulate the process"
        )


@register_kl(Correlated, Correlated)
def _kl_correlated(p: Correlated, q: Correlated) -> Tensor:
    require_density(q.dense)
    inverse, gap = q._inverse(), p.loc - q.loc
    spread = (inverse.to(p.factor) @ p.factor).square().sum((-2, -1)).to(gap.dtype)
    shift = act(inverse.to(gap.dtype), gap).square().sum(-1)
    known, certain = p._certain(), q._certain()
    size = (~certain).sum(-1).to(gap.dtype)
    value = (spread + shift - size) / 2 + q._log_det() - p._log_det()
    apart = (known != certain).any(-1) | (certain & (gap != 0)).any(-1)
    return value.masked_fill(apart, torch.inf) if p.dense else torch.full_like(value, torch.inf)
