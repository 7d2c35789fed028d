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

where covariances are only added. Factors are taken of equilibrated matrices, and a covariance
that is known by its factor is added by rotations, never by squares.

References:
    | Computing integrals involving the matrix exponential (Van Loan, 1978)
    | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .linalg import NODES, POWERS

TERMS = 24  # of a series over a step of length 1/2 in units of 1/‖A‖: what is left is below 1e-23
SHORT, STEP = 12, 1 / 8  # of one over a shorter step: what is left is below 1e-16
TINY = 1e-300  # a variance below all that occur
# Numbers of nodes of a table, and of multiples of its length: built once, or at every call.
ONCE, EVERY = (4096, 1024), (512, 128)


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

    def at(self, u: Tensor) -> Flow:
        """The flow at u of shape (B,), with the dimensions of the coefficients behind."""
        size = self.phi.shape[0]
        flat = torch.cat([c.reshape(size, -1) for c in self], -1)
        sizes = [c[0].numel() for c in self]
        parts = (powers(u, size) @ flat).split(sizes, -1)
        shaped = [p.reshape(u.shape + c.shape[1:]) for p, c in zip(parts, self, strict=True)]
        return Flow(*shaped)

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


def sum_of(tensors: object) -> Tensor:
    """The sum of at least one tensor."""
    first, *rest = tensors  # type: ignore[misc]
    for tensor in rest:
        first = first + tensor
    return first


class Constant:
    r"""Flows of a system whose numbers do not depend on time.

    The entries of :math:`\Phi`, m and :math:`\Sigma` solve one linear equation :math:`w' = K w`.
    It is tabulated at :math:`\tau_j = j h` with its Taylor coefficients there,

    .. math:: w(\tau_j + h u) = \sum_n u^n\, \frac{(h K)^n}{n!}\, w_j, \qquad u \in [0, 1),

    so that a time costs one row of a table and one short product. Times beyond the table are
    composed with multiples of its length. Beyond the last of those a stable system has forgotten
    its start, and stands at its limit; of one that has not the result is nan.

    Arguments:
        A: Shape (*sides, k, k), float64.
        b: Shape (*sides, k).
        G: Shape (*sides, k, k), positive semi-definite.
        stable: Whether all eigenvalues of A have negative real parts.
        sized: Whether to look at values, to find how large the tables must be.

    Example:
        >>> A = torch.tensor([[-0.5]], dtype=torch.float64)
        >>> flow = Constant(A, torch.zeros(1).double(), -2 * A, True)(torch.tensor([2.0]).double())
        >>> flow.phi.squeeze(), flow.cov.squeeze()
        (tensor(0.3679, dtype=torch.float64), tensor(0.8647, dtype=torch.float64))
    """

    def __init__(self, A: Tensor, b: Tensor, G: Tensor, stable: bool, sized: bool = True) -> None:
        size = A.detach().abs().sum(-1).max()
        # The step is any number that makes the series short, and is not differentiated.
        self.step = torch.where(size > 0, STEP / size.clamp(min=1e-300), torch.ones_like(size))
        self.size = A.shape[-1]
        generator, start = _generator(A, b, G)
        taylor = _taylor(self.step * generator)
        enough = self._forgotten if sized and stable else None
        fine, coarse = ONCE if sized else EVERY
        rows, step = _orbit(taylor.sum(-3), start, fine, enough)
        # (nodes, *sides, terms, d): the Taylor coefficients at every node
        self._table = torch.einsum("...tij,n...j->n...ti", taylor[..., :-1, :], rows)
        self.fine = rows.shape[0]
        self._coarse, self._end = None, self.fine
        if enough is None or not enough(times_vector(step, start)):
            rows = _orbit(step, start, coarse, None)[0]
            self._coarse, self._end = self._flow(rows[..., :-1]), self.fine * coarse
        gone = (rows[-1, ..., : self.size**2].detach().abs().max() < 1e-14) & stable
        self._beyond = torch.where(gone, 0.0, torch.nan).to(A)

    def _forgotten(self, row: Tensor) -> bool:
        return bool((row[..., : self.size**2].abs() < 1e-18).all())

    def _flow(self, entries: Tensor) -> Flow:
        k = self.size
        phi, mean, cov = entries.split([k * k, k, k * k], -1)
        square = (*entries.shape[:-1], k, k)
        return Flow(phi.reshape(square), mean, cov.reshape(square))

    def __call__(self, tau: Tensor) -> Flow:
        """The flows over times of shape (B,), with shapes (B, *sides, …)."""
        steps = tau / self.step
        inside = steps.clamp(max=self._end * (1 - 2**-53))
        whole = inside.detach().floor()
        digit = whole if self._coarse is None else whole.remainder(self.fine)
        rows = self._table.index_select(0, digit.long())
        u = inside - whole + torch.where(steps >= self._end, self._beyond, 0.0)
        u = powers(u, SHORT).reshape(-1, *(1,) * (rows.dim() - 3), 1, SHORT)
        flow = self._flow((u @ rows).squeeze(-2))
        if self._coarse is None:
            return flow
        digit = (whole / self.fine).long()
        return compose(Flow(*(v.index_select(0, digit) for v in self._coarse)), flow)


def _generator(A: Tensor, b: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """The linear equation for the entries (Φ, m, Σ, 1), row by row, and its start."""
    k, sides = A.shape[-1], A.shape[:-2]
    eye = torch.eye(k, dtype=A.dtype, device=A.device)
    left = torch.einsum("...ij,mn->...imjn", A, eye).flatten(-2).flatten(-3, -2)
    right = torch.einsum("ij,...mn->...imjn", eye, A).flatten(-2).flatten(-3, -2)
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


def _taylor(matrix: Tensor) -> Tensor:
    """The matrices :math:`M^n / n!` for n < SHORT, on dimension −3."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    terms = [eye.expand(matrix.shape)]
    for n in range(1, SHORT):
        terms.append(terms[-1] @ matrix / n)
    return torch.stack(terms, -3)


def _orbit(
    step: Tensor, start: Tensor, most: int, enough: Callable[[Tensor], bool] | None
) -> tuple[Tensor, Tensor]:
    """The vectors M^j w for j < n, by doubling, shape (n, *sides, d), and M^n."""
    rows = start.unsqueeze(0)
    while rows.shape[0] < most and not (enough and enough(times_vector(step, start))):
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
        parts = [self._polynomial(v, nodes.shape) for v in self.system(nodes.reshape(-1))]
        length = h.reshape(h.shape + (1,) * (parts[1][0].dim() - 3))
        flow = series(*parts, length.expand(parts[1][0].shape[:-1])).end()
        while flow.phi.shape[0] > 1:
            odd, even = (Flow(*(v[i::2] for v in flow)) for i in (0, 1))
            flow = compose(odd, even)
        return Flow(*(v[0] for v in flow))

    def _polynomial(self, values: Tensor, shape: torch.Size) -> list[Tensor]:
        """The coefficients in u on each panel, from values at the nodes of all panels."""
        values = values.expand(shape.numel(), *values.shape[1:]).reshape(*shape, *values.shape[1:])
        return list(torch.einsum("jn,pbn...->jpb...", POWERS.to(values), values).unbind())


# -- factors --------------------------------------------------------------------------------------


def cholesky(cov: Tensor) -> Tensor:
    r"""The lower factor L of :math:`\Sigma = L L^\top`, accurate in each entry of a graded Σ.

    Entry by entry: scaling coordinates scales results and their rounding alike. A pivot that is
    zero becomes 1e-150, so that roots have gradients and inverses exist.

    Arguments:
        cov: Shape (*batch, k, k), float64.

    Returns:
        The same shape; nan where Σ is not positive semi-definite.
    """
    rows: list[list[Tensor]] = []
    for i in range(cov.shape[-1]):
        row: list[Tensor] = []
        for j in range(i):
            row.append(_less(cov[..., i, j], row, rows[j]) / rows[j][j])
        rows.append([*row, (_less(cov[..., i, i], row, row) + TINY).sqrt()])
    return _lower(rows)


def _less(value: Tensor, a: list[Tensor], b: list[Tensor]) -> Tensor:
    """A number minus the product of two vectors, as far as both reach."""
    for left, right in zip(a, b, strict=False):
        value = value - left * right
    return value


def add_columns(L: Tensor, columns: Tensor) -> Tensor:
    r"""The lower factor of :math:`L L^\top + C C^\top`, by rotations.

    Arguments:
        L: Lower factor with positive diagonal, shape (*batch, k, k).
        columns: C, shape (*batch, k, n).
    """
    size = L.shape[-1]
    rows = [[L[..., i, j] for j in range(i + 1)] for i in range(size)]
    for c in range(columns.shape[-1]):
        w = [columns[..., i, c] for i in range(size)]
        for j in range(size):
            pivot = rows[j][j]
            rows[j][j] = radius = (pivot.square() + w[j].square()).sqrt()
            if j == size - 1:
                break
            cos, sin = pivot / radius, w[j] / radius
            for i in range(j + 1, size):
                a, v = rows[i][j], w[i]
                rows[i][j], w[i] = cos * a + sin * v, cos * v - sin * a
    return _lower(rows)


def triangular(columns: Tensor) -> Tensor:
    r"""The lower factor of :math:`C C^\top` for C of shape (*batch, k, n)."""
    size = columns.shape[-2]
    eye = torch.eye(size, dtype=columns.dtype, device=columns.device)
    return add_columns((TINY**0.5 * eye).expand(*columns.shape[:-1], size), columns)


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


def lyapunov(A: Tensor, G: Tensor) -> Tensor:
    r"""The solution S of :math:`A S + S A^\top + G = 0`, for A and G of shape (*sides, k, k)."""
    size = A.shape[-1]
    eye = torch.eye(size, dtype=A.dtype, device=A.device)
    left = torch.einsum("...ij,mn->...imjn", A, eye)
    right = torch.einsum("ij,...mn->...imjn", eye, A)
    both = (left + right).flatten(-2).flatten(-3, -2)
    S = torch.linalg.solve(both, -G.flatten(-2)).reshape(G.shape)
    return (S + S.mT) / 2


def _lower(rows: list[list[Tensor]]) -> Tensor:
    size, zero = len(rows), torch.zeros_like(rows[0][0])
    full = [entry for row in rows for entry in [*row, *[zero] * (size - len(row))]]
    return torch.stack(full, -1).reshape(*zero.shape, size, size)
