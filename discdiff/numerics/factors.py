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
    return _substituted(L, L.diagonal(dim1=-2, dim2=-1).reciprocal())


def _substituted(L: Tensor, pivots: Tensor) -> Tensor:
    """The inverse of L, given the inverse of its diagonal."""
    known, rows = _entries(L), []
    for i, pivot in enumerate(pivots.unbind(-1)):
        row = [
            -pivot * sum_of_products((known[i][m], rows[m][j]) for m in range(j, i))
            for j in range(i)
        ]
        rows.append([*row, pivot])
    return _lower(rows)


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
        (grad,), (inverse,) = grads, ctx.saved_tensors
        turned = inverse.mT
        return -product(product(turned, grad), turned).tril()


# -- factors --------------------------------------------------------------------------------------


def cholesky(cov: Tensor, columns: Tensor | None = None, singular: bool = False) -> Tensor:
    r"""The lower factor L of :math:`\Sigma + C C^\top`, accurate in each entry of a graded Σ.

    Columns are added by rotations, never by squares. A zero on the diagonal of Σ gives a row of
    zeros.

    Arguments:
        cov: Shape (*batch, k, k), float64.
        columns: C, shape (*batch, k, n); none by default.
        singular: Whether Σ is known to be positive semi-definite and may be singular: pivots
            that are rounding errors are zero then.

    Returns:
        The shape of Σ; nan where Σ is not positive semi-definite.
    """
    columns = cov[..., :0] if columns is None else columns
    if recorded(cov, columns):
        return _Factor.apply(cov, columns, singular)  # type: ignore[return-value]
    return _factor(cov, columns, singular)


def add_columns(L: Tensor, columns: Tensor) -> Tensor:
    r"""The lower factor of :math:`L L^\top + C C^\top`, by rotations.

    Arguments:
        L: Lower factor, shape (*batch, k, k).
        columns: C, shape (*batch, k, n).
    """
    if recorded(L, columns):
        return _Rotated.apply(L, columns)  # type: ignore[return-value]
    return _lower(_rotated(_entries(L), columns))


def triangular(columns: Tensor) -> Tensor:
    r"""The lower factor of :math:`C C^\top` for C of shape (*batch, k, n)."""
    size = columns.shape[-2]
    return add_columns(columns.new_zeros(*columns.shape[:-1], size), columns)


def _factor(cov: Tensor, columns: Tensor, singular: bool) -> Tensor:
    return _lower(_rotated(_eliminated(_entries(cov), singular), columns))


def _eliminated(cov: Sequence[Sequence[Tensor]], singular: bool) -> Rows:
    """The rows of the factor of a covariance, from its entries."""
    rows: Rows = []
    safe: list[Tensor] = []
    for i, entries in enumerate(cov):
        row: list[Tensor] = []
        for j in range(i):
            row.append(_less(entries[j], row, rows[j]) / safe[j])
        rest = _less(entries[i], row, row)
        if singular:
            rest = torch.where(rest < ROUNDING * entries[i], 0.0, rest)
        pivot = rest.sqrt()
        rows.append([*row, pivot])
        safe.append(pivot + (pivot == 0))  # what is divided by zero is zero, too
    return rows


def _less(value: Tensor, a: list[Tensor], b: list[Tensor]) -> Tensor:
    """A number minus the product of two vectors, as far as both reach."""
    for left, right in zip(a, b, strict=False):
        value = torch.addcmul(value, left, right, value=-1)
    return value


def _rotated(rows: Sequence[Sequence[Tensor]], columns: Tensor) -> Rows:
    """The rows of a lower factor, with columns turned in one by one."""
    turned = [list(row[: i + 1]) for i, row in enumerate(rows)]
    for column in columns.unbind(-1):
        w = list(column.unbind(-1))
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


class _Factor(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(cov: Tensor, columns: Tensor, singular: bool) -> Tensor:
        return _factor(cov, columns, singular)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (columns, L) = grads, ctx.saved_tensors
        inverse = _pseudo_inverse(L)
        left = product(inverse.mT, _symmetric(L, grad))
        added = product(left, product(inverse, columns)) if ctx.needs_input_grad[1] else None
        return product(left, inverse) / 2, added, None


class _Rotated(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(L: Tensor, columns: Tensor) -> Tensor:
        return _lower(_rotated(_entries(L), columns))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (start, columns, L) = grads, ctx.saved_tensors
        inverse = _pseudo_inverse(L)
        left = product(inverse.mT, _symmetric(L, grad))
        return tuple(
            product(left, product(inverse, v)) if needed else None
            for v, needed in zip((start, columns), ctx.needs_input_grad, strict=True)
        )


def _symmetric(L: Tensor, grad: Tensor) -> Tensor:
    r"""The matrix :math:`\tau + \tau^\top`, with :math:`L^\top \bar L` in the lower triangle."""
    known, slopes, size = _entries(L), _entries(grad), L.shape[-1]
    lower = [
        [
            sum_of_products((known[m][i], slopes[m][j]) for m in range(i, size))
            for j in range(i + 1)
        ]
        for i in range(size)
    ]
    return _square([lower[max(i, j)][min(i, j)] for i in range(size) for j in range(size)])


def _pseudo_inverse(L: Tensor) -> Tensor:
    """The inverse of a factor, with zeros for the inverse of a zero on its diagonal."""
    pivots = L.diagonal(dim1=-2, dim2=-1)
    none = pivots == 0
    return _substituted(L, (pivots + none).reciprocal() * ~none)


# -- entries --------------------------------------------------------------------------------------


def _entries(matrix: Tensor) -> list[Sequence[Tensor]]:
    """The entries of square matrices, row by row, each of shape (*batch,)."""
    size = matrix.shape[-1]
    flat = matrix.flatten(-2).unbind(-1)
    return [flat[i * size : (i + 1) * size] for i in range(size)]


def _lower(rows: Rows) -> Tensor:
    """Lower triangular matrices from the rows of their entries."""
    size, zero = len(rows), torch.zeros_like(rows[0][0])
    return _square([e for row in rows for e in (*row, *[zero] * (size - len(row)))])


def _square(entries: Sequence[Tensor]) -> Tensor:
    """Square matrices (*batch, k, k) from their entries, row by row."""
    size = int(len(entries) ** 0.5)
    full = torch.stack(entries)
    return full.view(size, size, *full.shape[1:]).permute(*range(2, full.dim() + 1), 0, 1)
