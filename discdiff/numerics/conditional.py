r"""A normal vector given a later one.

With :math:`y \sim \mathcal{N}(0, L L^\top)` and :math:`z = \Phi y + R \xi`, the law of y given z
has the mean W z and a covariance :math:`F F^\top`. An array is turned into a lower triangle,

.. math::
    \begin{pmatrix} R & \Phi L \\ 0 & L \end{pmatrix} U =
    \begin{pmatrix} E & 0 \\ W E & F \end{pmatrix},

and W is found from its first columns, to what rounding W itself leaves: errors of E and of W E
are one and the same. Its last columns give F as accurately as a row of it relative to one of L.
Where noise is in every direction, :math:`N = R^{-1} \Phi L` and the lower triangle X with
:math:`X^\top X = I + N^\top N` give

.. math:: F = L X^{-1},

in which scaling a coordinate scales rows of L, R and F alike, however unequal they are. Rounding N
and X changes the whitened law by no more than its unit times `rounding`: the largest entry of

.. math:: |R^{-1}|\, |\Phi|\, |L|\, |X^{-1}| \qquad \text{or} \qquad
          \textstyle \sum_j \|X_{\cdot j}\|\, |X^{-1}|_{jk} .

It is large where the law of y is known from coordinates that say nearly the same.

References:
    | Linear Estimation (Kailath, Sayed and Hassibi, 2000), chapter 12
"""

from __future__ import annotations

import torch
from torch import Tensor

from .factors import add_columns, lower_inverse, triangular


def conditioned(
    L: Tensor, phi: Tensor, noise: Tensor, full: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""W, the lower factor F and how rounding grows in it, of shape (\*batch,).

    The last is None where noise is not in every direction.

    Arguments:
        L: The factor of the covariance of y, lower triangular, of shape (\*batch, k, k).
        phi: :math:`\Phi`, of the same shape.
        noise: R, lower triangular, of the same shape.
        full: Whether R is regular. Else z must have a density all the same.

    Example:
        >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
        >>> W, F, _ = conditioned(one, one, one, True)  # two looks at a number, each of variance 1
        >>> round(W.item(), 12), round(F.item() ** 2, 12)
        (0.5, 0.5)
    """
    size, moved = L.shape[-1], phi @ L
    above, below = torch.cat([noise, moved], -1), torch.cat([torch.zeros_like(L), L], -1)
    array = triangular(torch.cat([above, below], -2))
    end, (gain, left) = array[..., :size, :size], array[..., size:, :].split(size, -1)
    gain = gain @ lower_inverse(end)
    if not full:
        return gain, left, None
    white = lower_inverse(noise)
    seen = white @ moved
    eye = torch.eye(size, dtype=L.dtype, device=L.device).expand(seen.shape)
    reverse = add_columns(eye, seen.mT.flip(-2))  # lower, of coordinates in reverse order
    X = reverse.flip(-2, -1).mT
    inverse = lower_inverse(X)
    with torch.no_grad():
        rounding = _rounding(white.abs() @ phi.abs() @ L.abs(), X, inverse.abs())
    return gain, L @ inverse, rounding


def _rounding(terms: Tensor, X: Tensor, inverse: Tensor) -> Tensor:
    """The larger of two bounds, from absolute values of what is multiplied."""
    columns = torch.linalg.vector_norm(X, dim=-2, keepdim=True)
    return torch.cat([terms @ inverse, columns @ inverse], -2).amax((-2, -1))
