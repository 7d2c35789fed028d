r"""Moments of linear stochastic systems, entry by entry accurate at every time.

For :math:`dy = (A y + b)\, dt + B\, dW` with :math:`G = B B^\top`,

.. math::
    y_t \mid y_s \sim \mathcal{N}(\Phi y_s + m, \Sigma), \qquad
    \Phi' = A \Phi, \quad m' = A m + b, \quad \Sigma' = A \Sigma + \Sigma A^\top + G .

Noise that enters at the end of a chain of k coordinates reaches the first as
:math:`\Sigma_{11} \sim t^{2k - 1}`, which matrix exponentials lose to absolute errors. Here a
short time is spanned by a power series in t, whose coefficients have exact zeros where noise has
not yet arrived; longer times are composed,

.. math::
    \Phi = \Phi_2 \Phi_1, \qquad m = \Phi_2 m_1 + m_2, \qquad
    \Sigma = \Phi_2 \Sigma_1 \Phi_2^\top + \Sigma_2,

where covariances are only added. Factors are taken entry by entry, and a covariance that is known
by its factor is added by rotations, never by squares.

References:
    | Computing integrals involving the matrix exponential (Van Loan, 1978)
    | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .linalg import NODES, POWERS

TERMS = 24  # of a series over a step of length 1/2 in units of 1/‖A‖: what is left is below 1e-23
SHORT, STEP = 14, 1 / 8  # of one over a shorter step: what is left is below 1e-19
RADIX = 64
FIRST, FRESH = 4096, 512  # nodes of the first table: if it is built once, and if at every call
FORGOTTEN = 1e-18  # entries of Φ below which nothing is left of the start
EXPLODED = 1e100  # entries of Φ beyond which no time is tabulated
LEVELS = 4  # digits of a time for systems that neither forget nor explode
ROUNDING = 1e-13  # of a pivot, relative to its variance
MAX_LEVELS = 7  # all the steps that a float64 can count
TINY = 1e-300  # a variance below all that occur


class Flow(NamedTuple):
    r"""The affine Gaussian map :math:`y \mapsto \mathcal{N}(\Phi y + m, \Sigma)`.

    Arguments:
        phi: :math:`\Phi`, shape (*batch, k, k).
        mean: :math:`m`, shape (*batch, k).
        cov: :math:`\Sigma`, shape (*batch, k, k).
    """

    phi: Tensor
    mean: Tensor
    cov: Tensor


def compose(first: Flow, then: Flow) -> Flow:
    """The map that applies one flow and then another."""
    return Flow(
        product(then.phi, first.phi),
        times_vector(then.phi, first.mean) + then.mean,
        product(product(then.phi, first.cov), then.phi.mT) + then.cov,
    )


def running(steps: Flow) -> Flow:
    """The flows from the start to the end of each step, from consecutive steps (n, …)."""
    flow, reach = steps, 1
    while reach < flow.phi.shape[0]:
        before, after = (Flow(*(v[i] for v in flow)) for i in (slice(-reach), slice(reach, None)))
        pairs = zip(flow, compose(before, after), strict=True)
        flow = Flow(*(torch.cat([v[:reach], w]) for v, w in pairs))
        reach *= 2
    return flow


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrices (*batch, n, k) times matrices (*batch, k, m); batches of small ones entry-wise."""
    if a.shape[-1] > 4:
        return a @ b
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)


def times_vector(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices (*batch, n, k) times vectors (*batch, k)."""
    if matrix.dim() == 2:
        return vector @ matrix.mT
    return (matrix * vector.unsqueeze(-2)).sum(-1)


class Series(NamedTuple):
    """Coefficients of a flow as a power series of u on [0, 1], stacked on dimension 0."""

    phi: Tensor
    mean: Tensor
    cov: Tensor

    def end(self) -> Flow:
        """The flow at u = 1."""
        return Flow(*(c.sum(0) for c in self))


def powers(u: Tensor, size: int) -> Tensor:
    """The powers 0 … size − 1 of u on a new last axis."""
    table = torch.stack([torch.ones_like(u), u], -1)
    while table.shape[-1] < size:
        table = torch.cat([table, table * (table[..., -1:] * u.unsqueeze(-1))], -1)
    return table[..., :size]


def series(A: list[Tensor], b: list[Tensor], G: list[Tensor], h: Tensor) -> Series:
    r"""The power series over a step of length h on which A, b and G are polynomials of u.

    .. math:: (n + 1)\, \Phi_{n + 1} = h \sum_j A_j \Phi_{n - j}, \quad \text{etc.}

    Arguments:
        A: Coefficients of A(u), each of shape (*batch, k, k).
        b: Coefficients of b(u), each (*batch, k).
        G: Coefficients of G(u), each (*batch, k, k).
        h: The length, of shape () or (*batch,).
    """
    eye = torch.eye(A[0].shape[-1], dtype=A[0].dtype, device=A[0].device).expand(A[0].shape)
    phi, mean, cov = [eye], [torch.zeros_like(b[0])], [torch.zeros_like(A[0])]
    h1 = h.unsqueeze(-1) if h.dim() else h
    h2 = h1.unsqueeze(-1) if h.dim() else h
    for n in range(TERMS - 1):
        drift = sum_of(A[j] @ phi[n - j] for j in range(min(len(A), n + 1)))
        pull = sum_of(times_vector(A[j], mean[n - j]) for j in range(min(len(A), n + 1)))
        half = sum_of(A[j] @ cov[n - j] for j in range(min(len(A), n + 1)))
        spread = half + half.mT
        if n < len(b):
            pull, spread = pull + b[n], spread + G[n]
        phi.append(h2 * drift / (n + 1))
        mean.append(h1 * pull / (n + 1))
        cov.append(h2 * spread / (n + 1))
    return Series(torch.stack(phi), torch.stack(mean), torch.stack(cov))


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    first, *rest = tensors
    for tensor in rest:
        first = first + tensor
    return first


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
        (512,)
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
    return torch.where(size > 0, STEP / size.clamp(min=1e-300), torch.ones_like(size))


class Constant:
    r"""Flows of a system whose numbers do not depend on time.

    The entries of :math:`\Phi`, m and :math:`\Sigma` solve one linear equation :math:`w' = K w`.
    It is tabulated at :math:`\tau_j = j h` with its Taylor coefficients there,

    .. math:: w(\tau_j + h u) = \sum_n u^n\, \frac{(h K)^n}{n!}\, w_j, \qquad u \in [0, 1),

    so that a time costs one row of a table and one short product. Longer times have more digits:
    the flow of the lowest is composed with a tabulated flow for each of the others. Beyond the
    last digit a stable system has forgotten its start to rounding and stands at its limit; of any
    other the result is nan there.

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
        self.step, self.stable, self.size = step_of(A), stable, A.shape[-1]
        generator, start = _generator(A, b, G)
        taylor = _taylor(self.step * generator)
        rows, step = _orbit(taylor.sum(-3), start, sizes[0])
        # (nodes, *sides, terms, d): the Taylor coefficients at every node
        self._table = torch.einsum("...tij,n...j->n...ti", taylor[..., :-1, :], rows)
        self._digits: list[tuple[int, Flow]] = []  # where each counts from, and its flows
        self.end = sizes[0]
        for size in sizes[1:]:
            rows, step = _orbit(step, start, size)
            self._digits.append((self.end, self._flow(rows[..., :-1])))
            self.end *= size

    def _flow(self, entries: Tensor) -> Flow:
        k = self.size
        phi, mean, cov = entries.split([k * k, k, k * k], -1)
        square = (*entries.shape[:-1], k, k)
        return Flow(phi.reshape(square), mean, cov.reshape(square))

    def __call__(self, tau: Tensor) -> Flow:
        """The flows over times of shape (B,), with shapes (B, *sides, …)."""
        steps = tau / self.step
        inside = steps.clamp(max=self.end * (1 - 2**-53))
        whole = inside.detach().floor()
        lowest = whole.remainder(len(self._table)) if self._digits else whole
        rows = self._table.index_select(0, lowest.long())
        u = inside - whole
        if not self.stable:
            u = u.masked_fill(steps >= self.end, torch.nan)
        u = powers(u, SHORT).reshape(-1, *(1,) * (rows.dim() - 3), 1, SHORT)
        flow = self._flow((u @ rows).squeeze(-2))
        for unit, table in self._digits:
            digit = (whole / unit).floor().remainder(len(table.phi)).long()
            flow = compose(Flow(*(v.index_select(0, digit) for v in table)), flow)
        return flow


def _generator(A: Tensor, b: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """The linear equation for the entries (Φ, m, Σ, 1), row by row, and its start."""
    k, sides = A.shape[-1], A.shape[:-2]
    eye = torch.eye(k, dtype=A.dtype, device=A.device)
    left, right = _left_and_right(A)
    wide = 2 * k * k + k + 1

    def rows(before: int, *blocks: Tensor) -> Tensor:
        middle = torch.cat(blocks, -1)
        return torch.nn.functional.pad(middle, (before, wide - before - middle.shape[-1]))

    drive = torch.cat([b.new_zeros(*sides, k, k * k), b.unsqueeze(-1)], -1)
    spread = torch.cat([left + right, G.flatten(-2).unsqueeze(-1)], -1)
    parts = [rows(0, left), rows(k * k, A, drive), rows(k * k + k, spread)]
    matrix = torch.cat([*parts, b.new_zeros(*sides, 1, wide)], -2)
    start = torch.cat([eye.flatten(), b.new_zeros(k + k * k), b.new_ones(1)])
    return matrix, start.expand(*sides, wide)


def _left_and_right(A: Tensor) -> tuple[Tensor, Tensor]:
    r"""The matrices of :math:`X \mapsto A X` and :math:`X \mapsto X A^\top`, row by row."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    left = torch.einsum("...ij,mn->...imjn", A, eye)
    right = torch.einsum("ij,...mn->...imjn", eye, A)
    return left.flatten(-2).flatten(-3, -2), right.flatten(-2).flatten(-3, -2)


def _taylor(matrix: Tensor) -> Tensor:
    """The matrices :math:`M^n / n!` for n < SHORT, on dimension −3."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    terms = [eye.expand(matrix.shape)]
    for n in range(1, SHORT):
        terms.append(terms[-1] @ matrix / n)
    return torch.stack(terms, -3)


def _orbit(step: Tensor, start: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The vectors M^j w for j < n, a power of two, by doubling, (n, *sides, d), and M^n."""
    rows = start.unsqueeze(0)
    while rows.shape[0] < size:
        rows, step = torch.cat([rows, times_vector(step, rows)]), step @ step
    return rows, step


class Varying:
    r"""Flows of a system whose numbers are functions of time, which need not commute.

    Each of N equal panels between s and t has the polynomials through the values at six Gauss
    nodes, and a power series for those: the error is of order twelve. Panels are composed in
    pairs.

    Arguments:
        system: A function of times (n,) that returns A, b and G with n in front.
        panels: The number N, a power of two.
    """

    def __init__(
        self, system: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], panels: int
    ) -> None:
        self.system, self.panels = system, panels

    def __call__(self, s: Tensor, t: Tensor) -> Flow:
        """The flows from s to t, each of shape (B,), with shapes (B, *sides, …)."""
        edges = torch.arange(self.panels, dtype=s.dtype, device=s.device).unsqueeze(1)
        h = ((t - s) / self.panels).expand(self.panels, *s.shape)
        nodes = (s + edges * h).unsqueeze(-1) + h.unsqueeze(-1) * NODES.to(s)
        A, b, G = (self._polynomial(v, nodes.shape) for v in self.system(nodes.reshape(-1)))
        length = h.reshape(h.shape + (1,) * (b[0].dim() - 3))
        flow = series(A, b, G, length.expand(b[0].shape[:-1])).end()
        while flow.phi.shape[0] > 1:
            odd, even = (Flow(*(v[i::2] for v in flow)) for i in (0, 1))
            flow = compose(odd, even)
        return Flow(*(v[0] for v in flow))

    def _polynomial(self, values: Tensor, shape: torch.Size) -> list[Tensor]:
        """The coefficients in u on each panel, from values at the nodes of all panels."""
        values = values.expand(shape.numel(), *values.shape[1:]).reshape(*shape, *values.shape[1:])
        return list(torch.einsum("jn,pbn...->jpb...", POWERS.to(values), values).unbind())


# -- factors --------------------------------------------------------------------------------------


def cholesky(cov: Tensor, singular: bool = False) -> Tensor:
    r"""The lower factor L of :math:`\Sigma = L L^\top`, accurate in each entry of a graded Σ.

    Entry by entry: scaling coordinates scales results and their rounding alike. A zero on the
    diagonal of Σ gives a row of zeros.

    Arguments:
        cov: Shape (*batch, k, k), float64.
        singular: Whether Σ is known to be positive semi-definite and may be singular: pivots
            that are rounding errors are zero then.

    Returns:
        The same shape; nan where Σ is not positive semi-definite.
    """
    rows: list[list[Tensor]] = []
    for i in range(cov.shape[-1]):
        row: list[Tensor] = []
        for j in range(i):
            row.append(_less(cov[..., i, j], row, rows[j]) / _nonzero(rows[j][j]))
        variance = cov[..., i, i]
        rest = _less(variance, row, row)
        if singular:
            rest = torch.where(rest < ROUNDING * variance, 0.0, rest)
        rows.append([*row, _root(rest)])
    return _lower(rows)


def _less(value: Tensor, a: list[Tensor], b: list[Tensor]) -> Tensor:
    """A number minus the product of two vectors, as far as both reach."""
    for left, right in zip(a, b, strict=False):
        value = value - left * right
    return value


def add_columns(L: Tensor, columns: Tensor) -> Tensor:
    r"""The lower factor of :math:`L L^\top + C C^\top`, by rotations.

    Arguments:
        L: Lower factor, shape (*batch, k, k).
        columns: C, shape (*batch, k, n).
    """
    size = L.shape[-1]
    rows = [[L[..., i, j] for j in range(i + 1)] for i in range(size)]
    for c in range(columns.shape[-1]):
        w = [columns[..., i, c] for i in range(size)]
        for j in range(size):
            pivot = rows[j][j]
            rows[j][j] = radius = _root(pivot.square() + w[j].square())
            if j == size - 1:
                break
            none = radius == 0  # nothing is turned then
            cos, sin = (pivot + none) / (radius + none), w[j] / (radius + none)
            for i in range(j + 1, size):
                a, v = rows[i][j], w[i]
                rows[i][j], w[i] = cos * a + sin * v, cos * v - sin * a
    return _lower(rows)


def triangular(columns: Tensor) -> Tensor:
    r"""The lower factor of :math:`C C^\top` for C of shape (*batch, k, n)."""
    size = columns.shape[-2]
    return add_columns(columns.new_zeros(*columns.shape[:-1], size), columns)


def lower_inverse(L: Tensor) -> Tensor:
    """The inverse of lower triangular matrices, by forward substitution."""
    size = L.shape[-1]
    if size > 4:
        eye = torch.eye(size, dtype=L.dtype, device=L.device).expand(L.shape)
        return torch.linalg.solve_triangular(L, eye, upper=False)
    rows: list[list[Tensor]] = []
    for i in range(size):
        pivot = 1 / L[..., i, i]
        row = [-pivot * sum_of(L[..., i, m] * rows[m][j] for m in range(j, i)) for j in range(i)]
        rows.append([*row, pivot])
    return _lower(rows)


class Stairs(NamedTuple):
    r"""Coordinates :math:`y' = T^\top y` in which noise arrives block after block.

    Arguments:
        turn: T, orthogonal, shape (k, k).
        ranks: The sizes of the blocks, the one that noise enters first.
    """

    turn: Tensor
    ranks: tuple[int, ...]

    def systems(self, A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """A and G in these coordinates, with zeros where noise has not arrived."""
        block = torch.repeat_interleave(torch.arange(len(self.ranks)), torch.tensor(self.ranks))
        row, column = block.to(A.device).unsqueeze(1), block.to(A.device)
        turned = self.turn.mT @ A @ self.turn, self.turn.mT @ G @ self.turn
        late = row > column + 1, (row > 0) | (column > 0)
        # What rounding leaves there is taken away; its derivatives are not.
        A, G = (v - torch.where(z, v, 0.0).detach() for v, z in zip(turned, late, strict=True))
        return A, G

    def aligned(self) -> bool:
        """Whether every block is spanned by unit vectors, so that nothing is won by turning."""
        size = torch.tensor(self.ranks).sum()
        parts = self.turn[:, :size].split(self.ranks, -1)
        return all(bool(((p @ p.mT).round() - p @ p.mT).abs().max() < 1e-9) for p in parts)


def staircase(A: Tensor, G: Tensor, ranks: tuple[int, ...] | None = None) -> Stairs:
    r"""The staircase form of (A, G): the range of G, what A makes of it beyond, and so on.

    A covariance over a short time t has the size :math:`t^{2 i + 1}` in block i. Where the blocks
    are not spanned by unit vectors, its entries in the old coordinates are nearly dependent, and
    their factor is found in the new ones.

    Arguments:
        A: Shape (k, k).
        G: Shape (k, k).
        ranks: The sizes of the blocks; found if not given, which looks at values.
    """
    A, G = A.detach(), G.detach()
    rest, block, found, basis = torch.eye(len(A)).to(A), G, [], []
    while rest.shape[1] and (ranks is None or len(found) < len(ranks)):
        U, sizes, _ = torch.linalg.svd(rest.mT @ block)
        most = torch.linalg.matrix_norm(block)
        rank = int((sizes > 1e-9 * most).sum()) if ranks is None else ranks[len(found)]
        if rank == 0:
            rank = rest.shape[1]  # noise never arrives there
        basis.append(rest @ U[:, :rank])
        rest, block = rest @ U[:, rank:], A @ basis[-1]
        found.append(rank)
    return Stairs(torch.cat(basis, -1), tuple(found))


def lyapunov(A: Tensor, G: Tensor) -> Tensor:
    r"""The solution S of :math:`A S + S A^\top + G = 0`, for A and G of shape (*sides, k, k)."""
    A, G = torch.broadcast_tensors(A, G)
    left, right = _left_and_right(A)
    S = torch.linalg.solve(left + right, -G.flatten(-2).unsqueeze(-1)).reshape(G.shape)
    return (S + S.mT) / 2


def _root(value: Tensor) -> Tensor:
    """The square root, zero at zero with a zero gradient."""
    return (value + TINY).sqrt() * (value != 0)


def _nonzero(value: Tensor) -> Tensor:
    """The number, or one for zero: what is divided by it is zero, too."""
    return value + (value == 0)


def _lower(rows: list[list[Tensor]]) -> Tensor:
    size, zero = len(rows), torch.zeros_like(rows[0][0])
    full = [entry for row in rows for entry in [*row, *[zero] * (size - len(row))]]
    return torch.stack(full, -1).reshape(*zero.shape, size, size)
