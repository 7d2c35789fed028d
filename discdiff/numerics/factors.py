r"""Batches of small matrices: products, factors and inverses, with derivatives in closed form.

All is written entry by entry, each entry for the whole batch at once: scaling a coordinate scales
results and their rounding alike, so that graded covariances keep the relative accuracy of every
entry. Results have their batch innermost in memory.

With L the lower factor of :math:`\Sigma + C C^\top`, and :math:`\bar L` the derivative of a number
by L,

.. math::
    S = L^{-\top}\, \tau(L^\top \bar L)\, L^{-1}, \qquad
    \bar\Sigma = \tfrac12 (S + S^\top), \qquad \bar C = (S + S^\top)\, C,

where :math:`\tau` takes the lower triangle with half its diagonal. All entries of
:math:`L^{-1} C` are at most one, so nothing is lost where L is graded.

References:
    | Differentiation of the Cholesky decomposition (Murray, 2016)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

LARGEST = 4  # of the sizes for which products are entry-wise
ROUNDING = 1e-13  # of a pivot, relative to its variance
TINY = 1e-300  # a standard deviation below all that occur

Rows = list[list[Tensor]]


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    first, *rest = tensors
    for tensor in rest:
        first = first + tensor
    return first


def sum_of_products(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of the products of at least one pair."""
    (left, right), *rest = pairs
    total = left * right
    for left, right in rest:
        total = torch.addcmul(total, left, right)
    return total


def recorded(*tensors: Tensor) -> bool:
    """Whether operations on these tensors are to be differentiated."""
    return torch.is_grad_enabled() and any(v.requires_grad for v in tensors)


# -- products -------------------------------------------------------------------------------------


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrices (*batch, n, k) times matrices (*batch, k, m); batches of small ones entry-wise."""
    if a.shape[-1] > LARGEST:
        return a @ b
    return _Product.apply(a, b) if recorded(a, b) else _product(a, b)  # type: ignore[return-value]


def times_vector(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices (*batch, n, k) times vectors (*batch, k)."""
    if matrix.dim() == 2:
        return vector @ matrix.mT
    return (matrix * vector.unsqueeze(-2)).sum(-1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    columns, rows = a.split(1, -1), b.split(1, -2)
    total = columns[0] * rows[0]
    for column, row in zip(columns[1:], rows[1:], strict=True):
        total = torch.addcmul(total, column, row)
    return total


class _Product(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _product(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (a, b) = grads, ctx.saved_tensors
        left, right = ctx.needs_input_grad
        return (
            product(grad, b.mT).sum_to_size(a.shape) if left else None,
            product(a.mT, grad).sum_to_size(b.shape) if right else None,
        )


# -- inverses -------------------------------------------------------------------------------------


def lower_inverse(L: Tensor) -> Tensor:
    """The inverse of lower triangular matrices, by forward substitution."""
    if L.shape[-1] > LARGEST:
        eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device).expand(L.shape)
        return torch.linalg.solve_triangular(L, eye, upper=False)
    return _Inverse.apply(L) if recorded(L) else _inverse(L)  # type: ignore[return-value]


def _inverse(L: Tensor) -> Tensor:
    rows = entries(leading(L))
    return trailing(lower(_substituted(rows, [row[i].reciprocal() for i, row in enumerate(rows)])))


def _substituted(L: Rows, pivots: Sequence[Tensor]) -> Rows:
    """The inverse of L, given the inverse of its diagonal."""
    rows: Rows = []
    for i, pivot in enumerate(pivots):
        row = [
            -pivot * sum_of_products((L[i][m], rows[m][j]) for m in range(j, i)) for j in range(i)
        ]
        rows.append([*row, pivot])
    return rows


class _Inverse(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(L: Tensor) -> Tensor:
        return _inverse(L)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        X, slopes = (entries(leading(v)) for v in (*ctx.saved_tensors, *grads))
        right = [
            [sum_of_products(zip(row[: j + 1], X[j], strict=False)) for j in range(i + 1)]
            for i, row in enumerate(slopes)
        ]
        return -trailing(lower(_turned_times(X, right)))


def _turned_times(a: Rows, b: Rows) -> Rows:
    r"""The lower triangle of :math:`A^\top B` for lower triangular A and B."""
    size = len(a)
    return [
        [sum_of_products((a[m][i], b[m][j]) for m in range(i, size)) for j in range(i + 1)]
        for i in range(size)
    ]


# -- factors --------------------------------------------------------------------------------------


def cholesky(cov: Tensor, singular: bool = False) -> Tensor:
    r"""The lower factor L of :math:`\Sigma = L L^\top`, accurate in each entry of a graded Σ.

    A zero on the diagonal of Σ gives a row of zeros.

    Arguments:
        cov: Shape (*batch, k, k), float64.
        singular: Whether Σ is known to be positive semi-definite and may be singular: pivots
            that are rounding errors are zero then.

    Returns:
        The same shape; nan where Σ is not positive semi-definite.
    """
    if recorded(cov):
        return _Cholesky.apply(cov, singular)  # type: ignore[return-value]
    return trailing(factored(leading(cov), None, singular))


def add_columns(L: Tensor, columns: Tensor) -> Tensor:
    r"""The lower factor of :math:`L L^\top + C C^\top`, by rotations.

    Arguments:
        L: Lower factor, shape (*batch, k, k).
        columns: C, shape (*batch, k, n).
    """
    if recorded(L, columns):
        return _Rotated.apply(L, columns)  # type: ignore[return-value]
    return trailing(lower(_rotated(entries(leading(L)), leading(columns))))


def triangular(columns: Tensor) -> Tensor:
    r"""The lower factor of :math:`C C^\top` for C of shape (*batch, k, n)."""
    size = columns.shape[-2]
    return add_columns(columns.new_zeros(*columns.shape[:-1], size), columns)


def factored(cov: Tensor, columns: Tensor | None = None, singular: bool = False) -> Tensor:
    r"""The lower factor of :math:`\Sigma + C C^\top`, with axes of matrices in front.

    Columns are added by rotations, never by squares.

    Arguments:
        cov: Shape (k, k, *batch).
        columns: C, shape (k, n, *batch).
        singular: As for `cholesky`.
    """
    rows = _eliminated(entries(cov), singular)
    return lower(rows if columns is None else _rotated(rows, columns))


def factored_adjoint(
    grad: Tensor, L: Tensor, columns: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The derivatives by Σ and C from that by their factor L, with axes of matrices in front."""
    left, inverse = _split_slope(grad, L)
    by_cov = times(left, inverse) / 2
    return by_cov, None if columns is None else times(left, times(inverse, columns))


def _split_slope(grad: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`L^{-\top} (\tau + \tau^\top)` and :math:`L^{-1}`, whose product is 2 Σ̄."""
    known, size = entries(L), len(L)
    half = _turned_times(known, entries(grad))
    diagonal = torch.stack([known[i][i] for i in range(size)])
    none = diagonal == 0  # its inverse is taken as zero
    pivots = (diagonal + none).reciprocal().masked_fill(none, 0.0)
    inverse = lower(_substituted(known, pivots.unbind(0)))
    both = [half[max(i, j)][min(i, j)] for i in range(size) for j in range(size)]
    return times(inverse.transpose(0, 1), square(both)), inverse


def _eliminated(cov: Rows, singular: bool) -> Rows:
    """The rows of the factor of a covariance."""
    rows: Rows = []
    safe: list[Tensor] = []
    for i, values in enumerate(cov):
        row: list[Tensor] = []
        for j in range(i):
            row.append(_less(values[j], row, rows[j]) / safe[j])
        rest = _less(values[i], row, row)
        if singular:
            rest = torch.where(rest < ROUNDING * values[i], 0.0, rest)
        pivot = rest.sqrt()
        rows.append([*row, pivot])
        safe.append(pivot + (pivot == 0))  # what is divided by zero is zero, too
    return rows


def _less(value: Tensor, a: list[Tensor], b: list[Tensor]) -> Tensor:
    """A number minus the product of two vectors, as far as both reach."""
    for left, right in zip(a, b, strict=False):
        value = torch.addcmul(value, left, right, value=-1)
    return value


def _rotated(rows: Rows, columns: Tensor) -> Rows:
    """The rows of a lower factor, with columns (k, n, *batch) turned in one by one."""
    turned = [row[: i + 1] for i, row in enumerate(rows)]
    for column in columns.unbind(1):
        w = list(column.unbind(0))
        for j in range(len(w)):
            pivot = turned[j][j] + TINY  # nothing at all is not turned
            radius = torch.hypot(pivot, w[j])
            turned[j][j] = radius - TINY
            if j + 1 == len(w):
                break
            cos, sin = pivot / radius, w[j] / radius
            for i in range(j + 1, len(w)):
                a, v = turned[i][j], w[i]
                turned[i][j] = torch.addcmul(cos * a, sin, v)
                w[i] = torch.addcmul(cos * v, sin, a, value=-1)
    return turned


class _Cholesky(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(cov: Tensor, singular: bool) -> Tensor:
        return trailing(factored(leading(cov), None, singular))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (L,) = ctx.saved_tensors
        return trailing(factored_adjoint(leading(grads[0]), leading(L))[0]), None


class _Rotated(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(L: Tensor, columns: Tensor) -> Tensor:
        return trailing(lower(_rotated(entries(leading(L)), leading(columns))))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        start, columns, L = (leading(v) for v in ctx.saved_tensors)
        left, inverse = _split_slope(leading(grads[0]), L)
        return tuple(
            trailing(times(left, times(inverse, v))) if needed else None
            for v, needed in zip((start, columns), ctx.needs_input_grad, strict=True)
        )


# -- axes of matrices in front --------------------------------------------------------------------


def leading(matrix: Tensor) -> Tensor:
    """Matrices (*batch, n, m) seen as (n, m, *batch)."""
    return matrix.movedim((-2, -1), (0, 1))


def trailing(matrix: Tensor) -> Tensor:
    """Matrices (n, m, *batch) seen as (*batch, n, m)."""
    return matrix.movedim((0, 1), (-2, -1))


def times(a: Tensor, b: Tensor) -> Tensor:
    """Matrices (n, k, *batch) times matrices (k, m, *batch)."""
    columns, rows = a.unsqueeze(2).unbind(1), b.unbind(0)
    total = columns[0] * rows[0]
    for column, row in zip(columns[1:], rows[1:], strict=True):
        total = torch.addcmul(total, column, row)
    return total


def entries(matrix: Tensor) -> Rows:
    """The entries of matrices (k, k, *batch), row by row."""
    size = len(matrix)
    flat = matrix.flatten(0, 1).unbind(0)
    return [list(flat[i * size : (i + 1) * size]) for i in range(size)]


def lower(rows: Rows) -> Tensor:
    """Lower triangular matrices (k, k, *batch) from the rows of their entries."""
    size, zero = len(rows), torch.zeros_like(rows[0][0])
    return square([e for row in rows for e in (*row, *[zero] * (size - len(row)))])


def square(flat: list[Tensor]) -> Tensor:
    """Matrices (k, k, *batch) from their entries."""
    size = math.isqrt(len(flat))
    return torch.stack(flat).unflatten(0, (size, size))
