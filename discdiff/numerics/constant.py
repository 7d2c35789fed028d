r"""Flows of linear systems whose numbers do not depend on time, found at many times at once.

The columns of :math:`\Phi`, :math:`\Sigma` and m, one after the other and a one behind them, solve
one linear equation :math:`w' = K w`. With a step h and :math:`\tau = (j + u) h`, :math:`u \in
[0, 1)`, the flow over :math:`\tau` is composed of two,

.. math::
    w(h u) = \sum_n u^n\, \frac{(h K)^n}{n!}\, w_0, \qquad w(j h) = (e^{h K})^j\, w_0,

a power series and a row of a table that is doubled from its first row. Longer times have more
digits, a table for each.

References:
    | Computing integrals involving the matrix exponential (Van Loan, 1978)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from .factors import recorded, times_vector
from .systems import Flow, compose

SHORT, STEP = 16, 1 / 4  # terms of a series over a step in units of 1/‖A‖: what is left is < 1e-22
RADIX = 64
FIRST, FRESH = 2048, 256  # rows of the first table: if it is built once, and if at every call
FORGOTTEN = 1e-18  # entries of Φ below which nothing is left of the start
EXPLODED = 1e100  # entries of Φ beyond which no time is tabulated
LEVELS = 4  # digits of a time for systems that neither forget nor explode
MAX_LEVELS = 7  # all the steps that a float64 can count


def digits(A: Tensor, stable: bool, spare: int = 0) -> tuple[int, ...]:
    """The sizes of the tables that a system needs, lowest digit first; looks at values, once.

    A stable system is tabulated until its slowest mode is forgotten, however stiff it is, an
    unstable one until its fastest mode explodes.

    Arguments:
        A: Shape (*sides, k, k), float64.
        stable: Whether all eigenvalues have negative real parts.
        spare: Digits more than are needed, for numbers that will change.

    Example:
        >>> digits(torch.tensor([[-1.0]]).double(), True)
        (256,)
    """
    A = A.detach()
    phi, sizes = torch.matrix_exp(A * step_of(A)), []
    most = MAX_LEVELS if stable else LEVELS
    while len(sizes) < most:
        size, whole = 1, RADIX if sizes else FRESH if spare else FIRST
        while size < whole and bool((phi.abs() < EXPLODED).all()):
            if stable and bool((phi.abs() < FORGOTTEN).all()):
                break
            phi, size = phi @ phi, 2 * size
        sizes.append(size)
        if size < whole or (stable and bool((phi.abs() < FORGOTTEN).all())):
            break
    if not spare:
        return tuple(sizes)
    whole = (FRESH, *[RADIX] * (len(sizes) - 1))
    return (*whole, *[RADIX] * (min(spare, MAX_LEVELS - len(sizes)) if stable else 0))


def step_of(A: Tensor) -> Tensor:
    """The step that makes the series short: any number would do, so it has no gradient."""
    size = A.detach().abs().sum(-1).max()
    return torch.where(size > 0, STEP / size, 1.0)


class Constant:
    r"""The flows of a system with constant numbers.

    Beyond the last digit a stable system has forgotten its start to rounding and stands at its
    limit; of any other the result is nan there.

    Arguments:
        A: Shape (*sides, k, k), float64.
        b: Shape (*sides, k).
        G: Shape (*sides, k, k), positive semi-definite.
        stable: Whether all eigenvalues of A have negative real parts.
        sizes: The sizes of the tables, from `digits`.

    Example:
        >>> A = torch.tensor([[-0.5]], dtype=torch.float64)
        >>> flows = Constant(A, torch.zeros(1).double(), -2 * A, True, digits(A, True))
        >>> flow = flows(torch.tensor([2.0]).double())
        >>> flow.phi.squeeze(), flow.cov.squeeze()
        (tensor(0.3679, dtype=torch.float64), tensor(0.8647, dtype=torch.float64))
    """

    def __init__(
        self, A: Tensor, b: Tensor, G: Tensor, stable: bool, sizes: tuple[int, ...]
    ) -> None:
        self.step, self.stable, self.sizes = step_of(A), stable, sizes
        terms = _taylor(self.step * _generator(A, b, G))
        self._start = _start(A)
        self._series = (terms @ self._start)[..., :-1]
        self._next = terms.sum(0)  # the matrix over the unit of the digit after the tables
        self._tables: list[Tensor] = []
        self.end = math.prod(sizes)

    def _table(self, digit: int) -> Tensor:
        """The flows over multiples of a digit's unit, (size, *sides, d); made when asked for."""
        while len(self._tables) <= digit:
            rows, self._next = _orbit(self._next, self._start, self.sizes[len(self._tables)])
            self._tables.append(rows[..., :-1])
        return self._tables[digit]

    def __call__(self, tau: Tensor) -> Flow:
        """The flows over times of shape (B,), with shapes (B, *sides, …)."""
        steps = tau / self.step
        inside = steps.clamp(max=self.end * (1 - 2**-53))
        whole = inside.detach().floor()
        u = inside - whole
        if not self.stable:
            u = u.masked_fill(steps >= self.end, torch.nan)
        index = whole.long()
        several = len(self.sizes) > 1 and self._reaches(index)
        lowest = index.remainder(self.sizes[0]) if several else index
        flow = Flow(*_composed(self._short(u), _long(self._table(0), lowest)))
        if several:
            for digit in range(1, len(self.sizes)):
                index = index.div(self.sizes[digit - 1], rounding_mode="floor")
                rows = _long(self._table(digit), index.remainder(self.sizes[digit]))
                flow = compose(_flow(rows), flow)
        return flow

    def _reaches(self, index: Tensor) -> bool:
        """Whether a time is beyond the first digit; where to look would be to wait, it may be."""
        if index.device.type != "cpu" or torch.compiler.is_compiling():
            return True
        return bool((index >= self.sizes[0]).any())

    def _short(self, u: Tensor) -> Tensor:
        """The flows over u steps, (2 k + 1, k, B, *sides)."""
        series = self._series.flatten(1)
        return _blocks((series.mT @ powers(u)).unflatten(0, self._series.shape[1:]).movedim(-1, 0))


def _long(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table, (2 k + 1, k, B, *sides)."""
    return _blocks(table.index_select(0, index))


def _blocks(entries: Tensor) -> Tensor:
    """The columns of flows, (2 k + 1, k, B, *sides), from entries (B, *sides, d)."""
    size = math.isqrt(entries.shape[-1] // 2)
    leading = entries.movedim(-1, 0).contiguous()
    return leading.view(2 * size + 1, size, *leading.shape[1:])


def _flow(blocks: Tensor) -> Flow:
    """The flow with these columns."""
    size = blocks.shape[1]
    phi, cov, mean = blocks[:size], blocks[size:-1], blocks[-1]
    return Flow(phi.movedim((1, 0), (-2, -1)), mean.movedim(0, -1), cov.movedim((1, 0), (-2, -1)))


# -- tables ---------------------------------------------------------------------------------------


def _start(A: Tensor) -> Tensor:
    """The columns of the flow over no time, and the one behind them, shape (d + 1,)."""
    k = A.shape[-1]
    eye = torch.eye(k, dtype=A.dtype, device=A.device)
    return torch.cat([eye.flatten(), A.new_zeros(k * k + k), A.new_ones(1)])


def _generator(A: Tensor, b: Tensor, G: Tensor) -> Tensor:
    r"""The matrix K, shape (*sides, d + 1, d + 1).

    For column c of :math:`(\Phi, \Sigma, m)` it is :math:`w_c' = A w_c + r_c`, with :math:`r_c`
    column c of :math:`(0, \Sigma A^\top + G, b)`.
    """
    k = A.shape[-1]
    eye = torch.eye(2 * k + 1, dtype=A.dtype, device=A.device)
    each = eye[:, None, :, None] * A[..., None, :, None, :]
    right = pad(A, (k, 1, k, 1))[..., :, None, :, None] * eye[:k, None, :k]
    matrix = (each + right).flatten(-2).flatten(-3, -2)
    drive = pad(torch.cat([G.mT, b.unsqueeze(-2)], -2), (0, 0, k, 0)).flatten(-2)
    return pad(torch.cat([matrix, drive.unsqueeze(-1)], -1), (0, 0, 0, 1))


def _taylor(matrix: Tensor) -> Tensor:
    """The matrices :math:`M^n / n!` for n < SHORT, on a new first axis."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    terms, power = torch.stack([eye.expand(matrix.shape), matrix]), matrix
    while len(terms) < SHORT:
        power = power @ power
        terms = torch.cat([terms, terms @ power])
    count = torch.arange(SHORT, dtype=matrix.dtype, device=matrix.device)
    return terms / count.clamp(min=1).cumprod(0).reshape(-1, *(1,) * matrix.dim())


def _orbit(step: Tensor, start: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The vectors M^j w for j < n, a power of two, by doubling, (n, *sides, d), and M^n."""
    rows = start.expand(1, *step.shape[:-1])
    while len(rows) < size:
        rows, step = torch.cat([rows, times_vector(step, rows)]), step @ step
    return rows, step


# -- many times -----------------------------------------------------------------------------------


def powers(u: Tensor) -> Tensor:
    """The powers of u below SHORT, on a new first axis."""
    return _Powers.apply(u) if recorded(u) else _powers(u)  # type: ignore[return-value]


def _powers(u: Tensor) -> Tensor:
    square = u * u
    fourth = square * square
    low = torch.stack([torch.ones_like(u), u, square, square * u])
    eighth = fourth * fourth
    high = torch.stack([low[0], fourth, eighth, eighth * fourth])
    return (high.unsqueeze(1) * low).flatten(0, 1)


class _Powers(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor) -> Tensor:
        return _powers(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,), (table,) = grads, ctx.saved_tensors
        count = torch.arange(1, SHORT, dtype=table.dtype, device=table.device)
        return (grad[1:].movedim(0, -1) * count * table[:-1].movedim(0, -1)).sum(-1)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """Matrices (n, k, *batch) times matrices (k, m, *batch)."""
    columns, rows = a.unsqueeze(2).unbind(1), b.unbind(0)
    total = columns[0] * rows[0]
    for column, row in zip(columns[1:], rows[1:], strict=True):
        total = torch.addcmul(total, column, row)
    return total


def _composed(short: Tensor, long: Tensor) -> Flow:
    """The flow over a long time and then over a short one, from their columns."""
    if recorded(short, long):
        return Flow(*_Composed.apply(short, long))  # type: ignore[misc]
    return _compose(short, long)


def _compose(short: Tensor, long: Tensor) -> Flow:
    size = short.shape[1]
    phi = short[:size]
    moved = _times(long, phi)
    cov = _times(moved[size:-1].transpose(0, 1), phi) + short[size:-1]
    return Flow(
        moved[:size].movedim((1, 0), (-2, -1)),
        (moved[-1] + short[-1]).movedim(0, -1),
        cov.movedim((0, 1), (-2, -1)),
    )


class _Composed(Function):
    r"""`_compose`, with its adjoint: for :math:`Y = \Phi Z` and :math:`\Sigma = Y_\Sigma \Phi^\top`,

    .. math::
        \bar Y_\Sigma = \bar\Sigma\, \Phi, \qquad \bar Z = \Phi^\top \bar Y, \qquad
        \bar\Phi = \bar Y Z^\top + \bar\Sigma^\top Y_\Sigma .
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(short: Tensor, long: Tensor) -> tuple[Tensor, ...]:
        return tuple(_compose(short, long))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        short, long = ctx.saved_tensors
        size = short.shape[1]
        phi, old = short[:size], long[size:-1]
        g_phi, g_cov = (v.movedim((-2, -1), (0, 1)) for v in (grads[0], grads[2]))
        g_mean = grads[1].movedim(-1, 0).unsqueeze(0)
        g_moved = torch.cat([g_phi.transpose(0, 1), _times(phi, g_cov.transpose(0, 1)), g_mean])
        g_long = _times(g_moved, phi.transpose(0, 1))
        spread = _times(_times(old, phi), g_cov)
        g_short = torch.cat([_times(long.transpose(0, 1), g_moved) + spread, g_cov, g_mean])
        return g_short, g_long
