r"""Normal laws on the last axis, :math:`\mathcal{N}(m, L L^\top)`, with one factor for many.

Where noise comes through a chain along no axis, entries of L are equal to rounding, and the law
keeps its digits in turned coordinates: it is :math:`\mathcal{N}(m, T L L^\top T^\top)` then.

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
    r"""The law of :math:`m + T L \varepsilon` with :math:`\varepsilon` standard normal.

    Torch's multivariate normal law treats every entry of a broadcast factor by itself; here one
    factor serves all entries of a batch element.

    Arguments:
        loc: m, shape (B, *event, k).
        lower: L, lower triangular, float64 of shape (B, *sides, k, k), sides broadcasting
            against the event. Its inverse is taken in float64 and cast.
        dense: Whether there is a density but for coordinates that are certain. If not, one
            coordinate is a function of others, and there are draws only.
        turn: T, orthogonal of shape (k, k); None for the unit matrix.
    """

    has_rsample = True

    def __init__(
        self, loc: Tensor, lower: Tensor, dense: bool = True, turn: Tensor | None = None
    ) -> None:
        self.loc, self.lower, self.dense, self.turn = loc, lower, dense, turn
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def factor(self) -> Tensor:
        """T L."""
        return self.lower if self.turn is None else self.turn @ self.lower

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariances, shape (B, *event, k, k)."""
        factor = self.factor
        cov = (factor @ factor.mT).to(self.loc.dtype)
        return cov.expand(*self.loc.shape, self.loc.shape[-1])

    @property
    def variance(self) -> Tensor:
        return self.covariance_matrix.diagonal(dim1=-2, dim2=-1)

    def stretched(self, alpha: Tensor) -> Correlated:
        r"""The law of :math:`\alpha y`, with factors of shape (B,)."""
        size = alpha.abs().to(self.lower).reshape(alpha.shape + (1,) * (self.lower.dim() - 1))
        loc = along(alpha, self.loc) * self.loc
        return Correlated(loc, size * self.lower, self.dense, self.turn)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        shape = Size(sample_shape) + self.loc.shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + act(self.factor.to(self.loc.dtype), noise)

    def _draw(self, shape: Size) -> Tensor:
        return self.rsample(shape)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        require_density(self.dense)
        white = self.whitened(x - self.loc)
        certain = self._certain()
        off = (certain & (white != 0)).any(-1)
        value = -white.square().masked_fill(certain, 0.0).sum(-1) / 2 - self.log_det()
        value = value - self.loc.shape[-1] / 2 * math.log(2 * math.pi)
        # Summed over the event, one coordinate that is off outweighs all that are not.
        event = tuple(range(1 - self.loc.dim() + 1, 0))
        missed = off.any(event, keepdim=True) if event else off
        peak = torch.where(missed, value, torch.inf)
        value = torch.where(certain.any(-1), peak, value)
        return value.masked_fill(off, -torch.inf)

    def whitened(self, gap: Tensor) -> Tensor:
        r""":math:`L^{-1} T^\top` times vectors (*samples, B, *event, k)."""
        inverse = self.inverse() if self.turn is None else self.inverse() @ self.turn.mT
        return act(inverse.to(gap.dtype), gap)

    def _certain(self) -> Tensor:
        """Which coordinates are certain, shape (B, *sides, k)."""
        return self.lower.diagonal(dim1=-2, dim2=-1) == 0

    def inverse(self) -> Tensor:
        """The inverse of L, in which certain coordinates stay themselves."""
        certain = torch.diag_embed(self._certain().to(self.lower))
        return lower_inverse(self.lower + certain)

    def log_det(self) -> Tensor:
        """The logarithm of the determinant of L, but for certain coordinates."""
        pivots = self.lower.diagonal(dim1=-2, dim2=-1) + self._certain()
        return pivots.log().sum(-1).to(self.loc.dtype)

    def seen_from(self, other: Correlated) -> Tensor:
        """The lower factor in the coordinates of another law; not lower if they differ."""
        if self.turn is other.turn:
            return self.lower
        return self.factor if other.turn is None else other.turn.mT @ self.factor


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
    gap = p.loc - q.loc
    spread = (q.inverse() @ p.seen_from(q)).square().sum((-2, -1)).to(gap.dtype)
    shift = q.whitened(gap).square().sum(-1)
    known, certain = p._certain(), q._certain()
    size = (~certain).sum(-1).to(gap.dtype)
    value = (spread + shift - size) / 2 + q.log_det() - p.log_det()
    apart = (known != certain).any(-1) | (certain & (gap != 0)).any(-1)
    return value.masked_fill(apart, torch.inf) if p.dense else torch.full_like(value, torch.inf)
