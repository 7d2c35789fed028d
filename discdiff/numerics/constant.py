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

from .factors import factored, factored_adjoint, leading, recorded, times, times_vector, trailing
from .systems import Flow

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
        places: Where the numbers stand in the equation, if it is known already.

    Example:
        >>> A = torch.tensor([[-0.5]], dtype=torch.float64)
        >>> flows = Constant(A, torch.zeros(1).double(), -2 * A, True, digits(A, True))
        >>> flow = flows(torch.tensor([2.0]).double())
        >>> flow.phi.squeeze(), flow.cov.squeeze()
        (tensor(0.3679, dtype=torch.float64), tensor(0.8647, dtype=torch.float64))
    """

    def __init__(
        self,
        A: Tensor,
        b: Tensor,
        G: Tensor,
        stable: bool,
        sizes: tuple[int, ...],
        places: Places | None = None,
    ) -> None:
        self.step, self.stable, self.sizes = step_of(A), stable, sizes
        places = places or Places(A.shape[-1], A.device)
        terms = _taylor(self.step * places.generator(A, b, G))
        self._start = places.start
        self._series = (terms @ self._start)[..., :-1]
        self._digits = [Orbit(terms.sum(-3), self._start)]
        self.end = math.prod(sizes)
        if not recorded(terms):
            self._table(len(sizes) - 1, sizes[-1])

    def _table(self, digit: int, count: int) -> Tensor:
        """The flows over the first multiples of a digit's unit, (≥ count, *sides, d)."""
        while len(self._digits) <= digit:
            last = len(self._digits) - 1
            self._digits.append(Orbit(self._digits[last].step(self.sizes[last]), self._start))
        return self._digits[digit].rows(count)[..., :-1]

    def __call__(self, tau: Tensor) -> Flow:
        """The flows over times of shape (B,), with shapes (B, *sides, …)."""
        return self.law(tau)[0]

    def law(
        self, tau: Tensor, start: Tensor | None = None, singular: bool = False
    ) -> tuple[Flow, Tensor]:
        r"""The flows over times of shape (B,), and lower factors of the covariance.

        Arguments:
            tau: The times.
            start: A factor C of the covariance at the start, (k, n); none by default. The factor
                at the end is that of :math:`\Sigma + \Phi C C^\top \Phi^\top`.
            singular: Whether :math:`\Sigma` may be singular to rounding, as for `cholesky`.
        """
        steps = tau / self.step
        inside = steps.clamp(max=self.end * (1 - 2**-53))
        whole = inside.detach().floor()
        u = inside - whole
        if not self.stable:
            u = u.masked_fill(steps >= self.end, torch.nan)
        short, long = self._short(u), self._long(whole.long())
        start = self._start[:0].reshape(short.shape[1], 0) if start is None else start
        law = _Law.apply if recorded(short, long, start) else _law
        *flow, factor = law(short, long, start, singular)  # type: ignore[misc]
        return Flow(*flow), factor

    def _long(self, index: Tensor) -> Tensor:
        """The flows over whole steps, (2 k + 1, k, B, *sides)."""
        most, unit = self._most(index), 1
        long: Tensor | None = None
        for digit, size in enumerate(self.sizes):
            value = index if digit == 0 else index.div(unit, rounding_mode="floor")
            value = value.remainder(size) if most > unit * size else value
            rows = self._table(digit, min(-(-most // unit), size)).index_select(0, value)
            long = _blocks(rows) if long is None else _joined(long, _blocks(rows))
            unit *= size
            if most <= unit:
                break
        assert long is not None
        return long

    def _most(self, index: Tensor) -> int:
        """A number above all indices; not looked for where to look would be to wait."""
        if index.device.type != "cpu" or torch.compiler.is_compiling() or not len(index):
            return self.end
        return int(index.max()) + 1

    def _short(self, u: Tensor) -> Tensor:
        """The flows over u steps, (2 k + 1, k, B, *sides)."""
        entries = self._series.mT
        flat = entries.reshape(-1, SHORT) @ powers(u)
        return _blocks(flat.unflatten(0, entries.shape[:-1]).movedim(-1, 0))


def _blocks(entries: Tensor) -> Tensor:
    """The columns of flows, (2 k + 1, k, B, *sides), from entries (B, *sides, d)."""
    size = math.isqrt(entries.shape[-1] // 2)
    leading = entries.movedim(-1, 0).contiguous()
    return leading.view(2 * size + 1, size, *leading.shape[1:])


# -- tables ---------------------------------------------------------------------------------------


class Places:
    r"""The equation :math:`w' = K w` of the columns of a flow, and where they start.

    For column c of :math:`(\Phi, \Sigma, m)` it is :math:`w_c' = A w_c + r_c`, with :math:`r_c`
    column c of :math:`(0, \Sigma A^\top + G, b)`. So an entry of K is the sum of two numbers of
    A, G and b, or zeros, and K is found by looking them up.

    Arguments:
        size: The number k of coordinates.
        device: Where the numbers are.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        k, columns = size, 2 * size + 1
        eye = torch.eye(columns, dtype=torch.long)
        A = 1 + torch.arange(k * k).reshape(k, k)  # zero stands at 0, then A, G and b
        each = eye[:, None, :, None] * A[:, None]
        right = pad(A, (k, 1, k, 1))[:, None, :, None] * eye[:k, None, :k]
        drive = pad(1 + k * k + torch.arange(k * k + k), (k * k, 0)).unsqueeze(-1)
        both = torch.stack([v.flatten(2).flatten(0, 1) for v in (each, right)])
        rows = torch.cat([both, torch.stack([drive, 0 * drive])], -1)
        self._index = pad(rows, (0, 0, 0, 1)).flatten().to(device)
        self._side = columns * k + 1
        start = torch.cat([eye[:k, :k].flatten(), torch.zeros(k * k + k), torch.ones(1)])
        self.start = start.to(device, torch.float64)

    def generator(self, A: Tensor, b: Tensor, G: Tensor) -> Tensor:
        """The matrix K, shape (*sides, d + 1, d + 1)."""
        numbers = torch.cat([A.flatten(-2), G.mT.flatten(-2), b], -1)
        found = pad(numbers, (1, 0)).index_select(-1, self._index)
        return found.unflatten(-1, (2, self._side, self._side)).sum(-3)


def _taylor(matrix: Tensor) -> Tensor:
    """The matrices :math:`M^n / n!` for n < SHORT, (*sides, SHORT, d, d), found as one column."""
    size = matrix.shape[-1]
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    column, power = torch.cat([eye.expand(matrix.shape), matrix], -2), matrix
    while column.shape[-2] < SHORT * size:
        power = power @ power
        column = torch.cat([column, column @ power], -2)
    count = torch.arange(SHORT, dtype=matrix.dtype, device=matrix.device)
    factorial = count.clamp(min=1).cumprod(0)
    return column.unflatten(-2, (SHORT, size)) / factorial.reshape(-1, 1, 1)


class Orbit:
    """The vectors :math:`M^j w`, doubled as far as they are asked for.

    Arguments:
        step: M, shape (*sides, d, d).
        start: w, shape (d,).
    """

    def __init__(self, step: Tensor, start: Tensor) -> None:
        self._rows, self._step = start.expand(1, *step.shape[:-1]), step

    def rows(self, count: int) -> Tensor:
        """At least the first vectors, as many as a power of two, (n, *sides, d)."""
        while len(self._rows) < count:
            more = times_vector(self._step, self._rows)
            self._rows, self._step = torch.cat([self._rows, more]), self._step @ self._step
        return self._rows

    def step(self, size: int) -> Tensor:
        """The matrix :math:`M^n` of a power of two n."""
        self.rows(size)
        return self._step


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


def _joined(short: Tensor, long: Tensor) -> Tensor:
    """The columns of the flow over a long time and then over a short one."""
    size, (moved, cov) = short.shape[1], _moved(short, long)
    return torch.cat([moved[:size], cov, moved[-1:] + short[-1:]])


def _moved(short: Tensor, long: Tensor) -> tuple[Tensor, Tensor]:
    """The columns over a long time, carried on over a short one, and the covariance then."""
    size = short.shape[1]
    turn = short[:size]
    moved = times(long, turn)
    return moved, times(moved[size:-1].transpose(0, 1), turn) + short[size:-1]


def _law(short: Tensor, long: Tensor, start: Tensor, singular: bool) -> tuple[Tensor, ...]:
    """Φ, m and Σ over a long time and then a short one, and the factor with the start's."""
    moved, cov = _moved(short, long)
    phi = moved[: short.shape[1]].transpose(0, 1)
    factor = factored(cov, _carried(phi, start), singular)
    return trailing(phi), (moved[-1] + short[-1]).movedim(0, -1), trailing(cov), trailing(factor)


def _carried(phi: Tensor, start: Tensor) -> Tensor | None:
    """The columns of the start's factor at the end, (k, n, B, *sides)."""
    return times(phi, _same(start, phi)) if start.shape[1] else None


def _same(start: Tensor, phi: Tensor) -> Tensor:
    """A matrix (k, n) that is the same for all (k, k, B, *sides)."""
    return start.reshape(*start.shape, *(1,) * (phi.dim() - 2))


class _Law(Function):
    r"""`_law`, with its adjoint.

    Let Z be the matrix of :math:`\Phi, \Sigma, m` over the long time side by side, :math:`Y =
    \Phi_u Z` over the short one, and :math:`\Sigma = Y_\Sigma \Phi_u^\top + \Sigma_u`. Then

    .. math::
        \bar Y_\Sigma = \bar\Sigma\, \Phi_u, \qquad \bar Z = \Phi_u^\top \bar Y, \qquad
        \bar\Phi_u = \bar Y Z^\top + \bar\Sigma^\top Y_\Sigma .
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(short: Tensor, long: Tensor, start: Tensor, singular: bool) -> tuple[Tensor, ...]:
        return _law(short, long, start, singular)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:3], output[0], output[3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        short, long, start, phi, L = ctx.saved_tensors
        by_phi, by_cov, by_factor = (leading(grads[i]) for i in (0, 2, 3))
        phi, by_start = leading(phi), None
        more, by_carried = factored_adjoint(by_factor, leading(L), _carried(phi, start))
        by_cov = by_cov + more
        if by_carried is not None:
            by_phi = by_phi + times(
                by_carried, start.mT.reshape(*start.mT.shape, *(1,) * (phi.dim() - 2))
            )
            if ctx.needs_input_grad[2]:
                by_start = times(phi.transpose(0, 1), by_carried).flatten(2).sum(-1)
        by_columns = _by_columns(short, long, by_phi, by_cov, grads[1].movedim(-1, 0))
        return *by_columns, by_start, None


def _by_columns(
    short: Tensor, long: Tensor, by_phi: Tensor, by_cov: Tensor, by_mean: Tensor
) -> tuple[Tensor, Tensor]:
    """The derivatives by the columns over the short and the long time."""
    size, by_mean = short.shape[1], by_mean.unsqueeze(0)
    turn = short[:size]
    by_moved = torch.cat([by_phi.transpose(0, 1), times(turn, by_cov.transpose(0, 1)), by_mean])
    by_turn = times(long.transpose(0, 1), by_moved) + times(times(long[size:-1], turn), by_cov)
    return torch.cat([by_turn, by_cov, by_mean]), times(by_moved, turn.transpose(0, 1))
