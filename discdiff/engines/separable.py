r"""Low rank in a rate matrix: :math:`Q = c\,(U W^\top - I)` with laws in the rows of U and of W'.

The rank and c come from a cross of rows R and columns C, found by complete pivoting in a block
that does not meet the diagonal, :math:`M_{xx} = Q_{xC} Q_{RC}^{-1} Q_{Rx} = Q_{xx} + c`. Rows of
:math:`M = Q + cI` sum to c, so that they lie on a simplex. If its corners are rows of M (or those
of its columns are columns), successive projection finds them, and all others are their mixtures.
Factors that are not negative are found in this case alone: in general that is a hard problem, and
nothing is proposed.

References:
    | The Successive Projections Algorithm for Variable Selection (Araújo et al., 2001)
    | Fast and Robust Recursive Algorithms for Separable Nonnegative Matrix Factorization (Gillis
      and Vavasis, 2014)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..process import Generator
from ..structures import LowRank

NOTHING = 1e-12  # of the largest entry: what is left when a rank is exhausted
CHEAPER = 4  # states per feature from which features are cheaper than a dense table


def low_rank(Q: Tensor) -> Iterator[Generator]:
    """What a rate matrix of low rank and a diagonal may be."""
    cross = _cross(Q)
    if cross is None:
        return
    rows, columns = cross
    rest = torch.ones(len(Q), dtype=torch.bool)
    rest[rows] = rest[columns] = False
    (others,) = rest.nonzero(as_tuple=True)
    inner = torch.linalg.solve(Q[rows][:, columns], Q[rows][:, others])
    rate = ((Q[others][:, columns] * inner.T).sum(1) - Q.diagonal()[others]).median()
    if not float(rate) > 0:
        return
    M = (Q / rate + torch.eye(len(Q), dtype=Q.dtype)).clamp(min=0)
    corners = _corners(M, len(rows))
    yield from _proposed(rate, _mixtures(M, corners), M[corners])
    mass = M.sum(0)
    known = mass > 0
    laws = torch.where(known, M / torch.where(known, mass, 1.0), 0.0).T
    corners = _corners(laws, len(rows))
    shares = _mixtures(laws, corners).T * mass  # M = laws of the corners, mixed by these
    yield from _proposed(rate, laws[corners].T * shares.sum(1), shares)


def _proposed(rate: Tensor, U: Tensor, V: Tensor) -> Iterator[Generator]:
    """The chain of these factors, if they are laws."""
    totals = U.sum(1), V.sum(1)
    if all(bool((v >= 0).all()) for v in (U, V)) and bool((totals[1] > 0).all()):
        if float((totals[0] - 1).abs().max()) < 1e-9:
            yield rate * LowRank(U, (V / totals[1].unsqueeze(1)).T)


def _cross(Q: Tensor) -> tuple[Tensor, Tensor] | None:
    """Rows and columns that span a block beside the diagonal; None if they are many."""
    even, odd = (torch.arange(start, len(Q), 2) for start in (0, 1))
    left = Q[even][:, odd].clone()
    top, rows, columns = float(left.abs().max()), [], []
    while float(left.abs().max()) > NOTHING * top:
        if CHEAPER * (len(rows) + 1) > len(Q):
            return None
        i, j = divmod(int(left.abs().argmax()), left.shape[1])
        rows.append(int(even[i]))
        columns.append(int(odd[j]))
        left = left - torch.outer(left[:, j], left[i]) / left[i, j]
    return (torch.tensor(rows), torch.tensor(columns)) if rows else None


def _corners(rows: Tensor, count: int) -> Tensor:
    """The rows of which all are mixtures, if there are such: the farthest, again and again."""
    left, found = rows.clone(), []
    for _ in range(count):
        far = int(left.square().sum(1).argmax())
        found.append(far)
        axis = left[far] / left[far].norm().clamp(min=1e-300)
        left = left - torch.outer(left @ axis, axis)
    return torch.tensor(found)


def _mixtures(rows: Tensor, corners: Tensor) -> Tensor:
    """The shares of the corners in each row; what is rounding of zero is zero."""
    shares = torch.linalg.lstsq(rows[corners].T, rows.T).solution.T
    return torch.where(shares.abs() < NOTHING, 0.0, shares)
