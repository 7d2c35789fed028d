r"""Transition matrices of finite Markov chains with entrywise relative accuracy.

Row convention: Q[x, y] is the rate of x → y and rows sum to zero. With
:math:`\lambda \ge \max_x -Q_{xx}` the matrix :math:`M = I + Q / \lambda` is stochastic and

.. math::
    P(\tau) = e^{\tau Q} = \sum_{n \ge 0} e^{-\lambda\tau} \frac{(\lambda\tau)^n}{n!} M^n, \qquad
    P(\tau) = P(r)\, \prod_j P(2^j / \lambda)^{b_j}, \qquad
    \lambda\tau = \lambda r + \sum_j b_j 2^j, \quad \lambda r < 1.

Only sums and products of non-negative numbers occur, so nothing cancels: every entry, however
small, keeps the relative accuracy that ratios of transition probabilities need. An eigenbasis or a
Padé approximant has absolute accuracy only, and an eigenbasis need not exist.

For rates that vary, with :math:`P_i` the matrices of panels of time, multiplied in a binary tree,

.. math::
    \partial_t P(s, t) = P(s, t)\, Q(t), \qquad
    P(s, t) = P(s, s')\, \Big(\prod_{s' \le i < t'} P_i\Big)\, P(t', t),

where a power series in time, whose first terms are paths of few jumps, spans the steps from s to
the next edge s' and from the last edge t' to t.

References:
    | Computing exponentials of essentially non-negative matrices entrywise to high relative
      accuracy (Xue and Ye, 2013)
    | Markoff chains as an aid in the study of Markoff processes (Jensen, 1953)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .quadrature import gauss_legendre

# The terms left out sum to less than 1.03 / 41! = 3.1e-50 where λr ≤ 1, as powers of M are at most
# one: a relative 3e-20 of entries above 1e-30.
TERMS = 41
MAX_LEVELS = 64

# For rates that vary: Gauss nodes in [0, 1], and the map from values at the nodes to the
# coefficients of the polynomial through them.
NODES, _ = gauss_legendre(6, 0.0, 1.0)
POWERS = torch.linalg.inv(torch.linalg.vander(NODES))
MIN_PANELS, MAX_PANELS = 2**5, 2**13  # few enough to be quick, many enough to see narrow peaks
DENSITY = 2**3  # the fewest panels in a unit of time: peaks are seen wherever they stand
CHUNK = 1 << 20  # entries of the matrices of all steps that are taken at once


class Uniformized:
    r"""Transition matrices :math:`P(\tau) = e^{\tau Q}` of one rate matrix at many times.

    Powers :math:`M^n` and squares :math:`P(2^j / \lambda)`, j < J, are tabulated once. J is such
    that the last square is idempotent to rounding, so it is the limiting matrix, and every
    :math:`\tau \in [0, \infty]` is a short series times some of the squares. Results are
    differentiable in Q and τ. No verb looks at the values of a tensor.

    Only off-diagonal rates are read: the diagonal is what zero row sums imply, so gradients are
    those along rate matrices. Rows of the squares are divided by their sums, which are one up to
    rounding: left alone, that rounding would double at each squaring.

    Arguments:
        Q: Rate matrix, float64 of shape :math:`(K, K)`.
        levels: The number J of squares; found if not given, which looks at values once.

    Example:
        >>> Q = torch.tensor([[-1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
        >>> chain = Uniformized(Q)
        >>> chain.rows(torch.tensor([0, 0]), torch.tensor([1.0, torch.inf], dtype=torch.float64))
        tensor([[0.3679, 0.6321],
                [0.0000, 1.0000]], dtype=torch.float64)
    """

    def __init__(self, Q: Tensor, levels: int | None = None) -> None:
        rates = Q - Q.diagonal().diag_embed()
        top = rates.detach().sum(-1).max()
        self.rate = torch.where(top > 0, top, torch.ones_like(top))  # any rate serves Q = 0
        jumps = rates / self.rate
        stays = 1 - jumps.sum(-1)  # not negative, but for rounding, which has no gradient
        stays = stays + (stays.clamp(min=0) - stays).detach()
        M = jumps + stays.diag_embed()
        powers = [torch.eye(M.shape[0], dtype=M.dtype, device=M.device)]
        for _ in range(TERMS - 1):
            powers.append(powers[-1] @ M)
        self._powers = torch.stack(powers)
        first = poisson(torch.ones_like(self.rate)) @ self._powers.flatten(1)
        self._squares = torch.stack(_squarings(_stochastic(first.reshape(M.shape)), levels))

    @property
    def size(self) -> int:
        """The number K of states."""
        return self._powers.shape[-1]

    @property
    def levels(self) -> int:
        """The number J of squares."""
        return self._squares.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tables and of results."""
        return self._powers.dtype

    @property
    def converged(self) -> bool:
        """Whether `limit` is idempotent to rounding; looks at values."""
        return _idempotent(self._squares[-1])

    def limit(self) -> Tensor:
        """The last square, of shape (K, K): the limiting matrix if `converged`."""
        return self._squares[-1]

    def to(self, dtype: torch.dtype) -> Uniformized:
        """A copy whose tables have another dtype; times stay float64."""
        copy = object.__new__(Uniformized)
        copy.rate = self.rate
        copy._powers, copy._squares = self._powers.to(dtype), self._squares.to(dtype)
        return copy

    def matrix(self, tau: Tensor) -> Tensor:
        """P(τ), of shape (B, K, K), for times of shape (B,)."""
        return self._square(self._series(tau), tau)

    def rows(self, x: Tensor, tau: Tensor) -> Tensor:
        """Rows :math:`e_x P(τ)`: (B, *event) states and (B,) times to (B, *event, K)."""
        return self._gather(x, tau)

    def columns(self, x: Tensor, tau: Tensor) -> Tensor:
        """Columns :math:`P(τ) e_x`: (B, *event) states and (B,) times to (B, *event, K)."""
        return self._gather(x, tau, transposed=True)

    def apply(self, v: Tensor, tau: Tensor) -> Tensor:
        """The law v P(τ) after a time τ from the law v: (B, *event, K) to the same."""
        return self._multiply(v, tau)

    def apply_transposed(self, v: Tensor, tau: Tensor) -> Tensor:
        """The expectation P(τ) v of a function v of the state: (B, *event, K) to the same."""
        return self._multiply(v, tau, transposed=True)

    def _scaled(self, tau: Tensor) -> Tensor:
        # The last square L = P(u) satisfies L² = L, so eigenvalues e^{uμ} of L are 0 or 1, and
        # those that do not vanish have μ = 0: a generator has no other imaginary eigenvalue. Hence
        # P(s) L = L for all s, so P(τ) = L for τ ≥ u = 2^{J−1}/λ, and it may be read at 2^J/λ.
        return (self.rate * tau).clamp(max=math.nextafter(2.0**self.levels, 0.0))

    def _weights(self, tau: Tensor) -> Tensor:
        """Poisson weights of λr, of shape (B, TERMS)."""
        scaled = self._scaled(tau)
        return poisson(scaled - scaled.detach().floor()).to(self.dtype)

    def _series(self, tau: Tensor, transposed: bool = False) -> Tensor:
        """P(r), of shape (B, K, K)."""
        P = (self._weights(tau) @ self._powers.flatten(1)).unflatten(-1, self._powers.shape[1:])
        return P.mT if transposed else P

    def _square(self, v: Tensor, tau: Tensor, transposed: bool = False) -> Tensor:
        """v times those squares that the bits of λτ choose, for v of shape (B, …, K)."""
        whole = self._scaled(tau).detach().floor()
        for j, square in enumerate(self._squares.mT if transposed else self._squares):
            chosen = (whole / 2.0**j).floor().remainder(2) == 1
            v = torch.where(chosen.reshape((-1,) + (1,) * (v.dim() - 1)), v @ square, v)
        return v

    def _gather(self, x: Tensor, tau: Tensor, transposed: bool = False) -> Tensor:
        states = x.reshape(x.shape[0], -1)
        powers = self._powers.mT if transposed else self._powers
        if states.shape[1] >= self.size:
            P = self._square(self._series(tau, transposed), tau, transposed)
            return _pick(P, states).reshape(*x.shape, self.size)
        if states.shape[1] * TERMS >= self.size:
            v = _pick(self._series(tau, transposed), states)
        else:
            v = torch.einsum("bn,nbek->bek", self._weights(tau), powers[:, states])
        return self._square(v, tau, transposed).reshape(*x.shape, self.size)

    def _multiply(self, v: Tensor, tau: Tensor, transposed: bool = False) -> Tensor:
        laws = v.reshape(v.shape[0], -1, self.size)
        events = laws.shape[1]
        if events * (TERMS + self.levels) >= TERMS + self.levels * self.size:
            P = self._square(self._series(tau, transposed), tau, transposed)
            return (laws @ P).reshape(v.shape)
        if events * TERMS >= self.size:
            laws = laws @ self._series(tau, transposed)
        else:
            laws = self._horner(laws, tau, transposed)
        return self._square(laws, tau, transposed).reshape(v.shape)

    def _horner(self, v: Tensor, tau: Tensor, transposed: bool) -> Tensor:
        """v P(r), one product with M for each term."""
        M = self._powers[1].mT if transposed else self._powers[1]
        weights = self._weights(tau)[:, :, None, None]
        total = weights[:, -1] * v
        for n in range(TERMS - 2, -1, -1):
            total = total @ M + weights[:, n] * v
        return total


class Propagator:
    r"""Transition matrices :math:`P(s, t)` of rates :math:`Q(t)` that vary and do not commute.

    **A step.** Between two times a distance δ apart, :math:`A(u) = \lambda I + Q(s + u\delta)`,
    with λ the largest exit rate, is replaced by the polynomial :math:`\sum_{j < 6} a_j u^j` with
    its values at six Gauss nodes, and the solution for that by its power series at u = 1,

    .. math::
        P(s, s + \delta) = \frac{\sum_k r_k}{\sum_k (\lambda\delta)^k / k!}, \qquad
        r_0 = I, \quad (k + 1)\, r_{k + 1} = \delta \sum_{j < 6} r_{k - j}\, a_j.

    What is left of A is orthogonal to polynomials of degree five, so the error is of order twelve.
    Methods with positive coefficients only, like the classical Runge–Kutta method, end at order
    four and at four jumps a step: they need ten times as many panels, and miss paths of more jumps
    between close times. Here one jump is weighed by the positive weights of Gauss, and more jumps
    by integrals of products of Lagrange polynomials over ordered times, few of them negative.

    **A tree.** The horizon [0, T] is cut into :math:`2^L` panels. A binary tree holds their
    products; P(s, t) is a step from s to the next edge, at most 2L nodes of the tree, and a step
    from the last edge to t. Nodes are products of non-negative matrices, with rows divided by
    their sums, which are one up to rounding. Rates may jump or bend at edges.

    No verb looks at the values of a tensor. Times beyond the horizon give nan.

    Arguments:
        Q: A function of times of shape :math:`(B,)` that returns rates :math:`(B, K, K)`.
        horizon: The latest time T.
        panels: The number of panels, a power of two; see `panels_for`.
        device: Where times live.

    Raises:
        ValueError: If ``panels`` is not a power of two.

    References:
        | On the solution of linear differential equations in Lie groups (Iserles, Nørsett, 1999)
        | Contractivity of Runge–Kutta methods (Kraaijevanger, 1991)

    Example:
        >>> Q = torch.tensor([[-1.0, 1.0], [2.0, -2.0]], dtype=torch.float64)
        >>> chain = Propagator(lambda t: t[:, None, None] * Q, 1.0, 4)
        >>> s, t = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> torch.allclose(chain.matrix(s, t), Uniformized(Q).matrix(t / 2), rtol=1e-12)
        True
    """

    def __init__(
        self,
        Q: Callable[[Tensor], Tensor],
        horizon: float,
        panels: int,
        device: torch.device | None = None,
    ) -> None:
        if panels < 1 or panels & (panels - 1):
            raise ValueError(f"panels must be a power of two; it is {panels}")
        self.Q = Q
        self.horizon = horizon
        self.panels = panels
        self._device = device
        self._scale = panels / horizon
        self._nodes = _tree(self._full(panels))

    def matrix(self, s: Tensor, t: Tensor) -> Tensor:
        """P(s, t), of shape (B, K, K), for times of shape (B,)."""
        return self._transport(self._eye, s, t, False)

    def rows(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Rows :math:`e_x P(s, t)`: (B, *event) states to (B, *event, K)."""
        return self._gather(x, s, t, False)

    def columns(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Columns :math:`P(s, t) e_x`: (B, *event) states to (B, *event, K)."""
        return self._gather(x, s, t, True)

    def apply(self, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The law v P(s, t) at t from the law v at s: (B, *event, K) to the same."""
        return self._multiply(v, s, t, False)

    def apply_transposed(self, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The expectation P(s, t) v at s of a function v at t: (B, *event, K) to the same."""
        return self._multiply(v, s, t, True)

    @torch.no_grad()
    def error(self) -> float:
        """How far half as many panels are off, relatively in every entry, summed over panels.

        Relative errors of non-negative factors add up in products, so this bounds the relative
        error of entries above 1e-30 then; with all panels it is far smaller. Looks at values.
        """
        coarse, fine = self._full(self.panels // 2), self._nodes[self.panels // 2 : self.panels]
        change = (fine - coarse).abs() / fine.clamp(min=1e-30)
        return float(change.amax((1, 2)).sum())

    @property
    def _eye(self) -> Tensor:
        return self._nodes[0]

    def _full(self, panels: int) -> Tensor:
        """The transition matrices of all panels if there are so many, (panels, K, K)."""
        edges = torch.arange(panels + 1, dtype=torch.float64, device=self._device)
        edges = edges * (self.panels / panels)
        size = self.Q((edges[:1] + edges[1:2]) / (2 * self._scale)).shape[-1]
        eye = torch.eye(size, dtype=torch.float64, device=self._device)
        return self._step(eye, edges[:-1], edges[1:], False)

    def _transport(self, v: Tensor, s: Tensor, t: Tensor, transposed: bool) -> Tensor:
        """v P(s, t) or v P(s, t)ᵀ, for v of shape (B, …, K) or (…, K)."""
        start = s * self._scale
        end = torch.where(t <= self.horizon, t * self._scale, math.nan)
        first, last = start.detach().ceil(), end.detach().floor().clamp(max=self.panels)
        within = first > last  # both times lie in one panel: one step and one of no length
        head, tail = torch.where(within, end, first), torch.where(within, end, last)
        between = spanning(first, last, self.panels)
        if transposed:
            v = self._step(v, end, tail, True)
            for node in between.flip(0):
                v = v @ self._nodes[node].mT
            return self._step(v, head, start, True)
        v = self._step(v, start, head, False)
        for node in between:
            v = v @ self._nodes[node]
        return self._step(v, tail, end, False)

    def _step(self, v: Tensor, start: Tensor, end: Tensor, transposed: bool) -> Tensor:
        """v times the matrix between two times, in panels; backwards if for columns."""
        chunk = max(1, CHUNK // v.shape[-1] ** 2)
        v = v.expand(start.shape[0], *v.shape[-2:])
        parts = zip(v.split(chunk), start.split(chunk), end.split(chunk), strict=True)
        return torch.cat([self._series(*part, transposed) for part in parts])

    def _series(self, v: Tensor, start: Tensor, end: Tensor, transposed: bool) -> Tensor:
        span = (start - end if transposed else end - start) / self._scale
        A, rate = self._powers(start, end)
        A = (A.mT if transposed else A).flatten(1, 2) * span[:, None, None]
        total, recent = v, [v]
        for k in range(1, TERMS):
            window = torch.cat(recent, -1)
            recent = [window @ A[:, : window.shape[-1]] / k, *recent[: len(NODES) - 1]]
            total = total + recent[0]
        # What starts non-negative stays so: zero is nearer than a negative sum, which paths of
        # several jumps may have where nodes do not resolve the rates.
        wrong = (total < 0) & (v >= 0).all(-1, keepdim=True)
        return torch.where(wrong, 0.0, total) / _exponential(rate * span)[:, None, None]

    def _powers(self, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients a_j of A, of shape (B, 6, K, K), from start to end, and λ, (B,)."""
        nodes = NODES.to(start.device)
        times = (start[:, None] + nodes * (end - start)[:, None]) / self._scale
        Q = self.Q(times.flatten()).unflatten(0, times.shape)
        rates = Q - Q.diagonal(dim1=-2, dim2=-1).diag_embed()
        exits = rates.sum(-1)
        rate = exits.detach().amax((1, 2))
        A = rates + (rate[:, None, None] - exits).diag_embed()
        first, rest = A[:, :1], A - A[:, :1]  # rounding is then of the order of what varies
        rest = torch.einsum("ji,bixy->bjxy", POWERS.to(start.device), rest)
        return torch.cat([first + rest[:, :1], rest[:, 1:]], 1), rate

    def _gather(self, x: Tensor, s: Tensor, t: Tensor, transposed: bool) -> Tensor:
        states, size = x.reshape(x.shape[0], -1), self._eye.shape[-1]
        if states.shape[1] >= size:
            rows = _pick(self._transport(self._eye, s, t, transposed), states)
        else:
            rows = self._transport(self._eye[states], s, t, transposed)
        return rows.reshape(*x.shape, size)

    def _multiply(self, v: Tensor, s: Tensor, t: Tensor, transposed: bool) -> Tensor:
        laws = v.reshape(v.shape[0], -1, v.shape[-1])
        if laws.shape[1] > v.shape[-1]:
            return (laws @ self._transport(self._eye, s, t, transposed)).reshape(v.shape)
        return self._transport(laws, s, t, transposed).reshape(v.shape)


def panels_for(
    Q: Callable[[Tensor], Tensor],
    horizon: float,
    tol: float = 1e-10,
    device: torch.device | None = None,
) -> int:
    r"""The number of panels with which a `Propagator` is accurate to ``tol``.

    Panels are doubled until `Propagator.error` is at most ``tol``, from 32 or eight for a unit of
    time on.

    Arguments:
        Q: A function of times of shape :math:`(B,)` that returns rates :math:`(B, K, K)`, smooth
            but where a dyadic fraction of the horizon has passed.
        horizon: The latest time.
        tol: The largest relative change.
        device: Where times live.

    Raises:
        ValueError: If :math:`2^{13}` panels do not suffice, or leave fewer than eight for a unit.

    Example:
        >>> panels_for(lambda t: torch.ones_like(t)[:, None, None] * torch.tensor(
        ...     [[-1.0, 1.0], [2.0, -2.0]], dtype=torch.float64), 1.0)
        32
    """
    panels, error = MIN_PANELS, math.inf
    if horizon * DENSITY > MAX_PANELS:
        raise ValueError(
            f"Q as a function of time is resolved up to the own time {MAX_PANELS // DENSITY}; "
            f"{horizon:g} was asked for. Way out: a slower function on a slower clock"
        )
    while panels < horizon * DENSITY:
        panels *= 2
    with torch.no_grad():
        while panels <= MAX_PANELS:
            error = Propagator(Q, horizon, panels, device).error()
            if error <= tol:
                return panels
            panels *= 2
    raise ValueError(
        f"Q is not smooth enough on [0, {horizon:g}]: with {MAX_PANELS} panels entries of P still "
        f"change by a relative {error:.1e}, above tol = {tol:g}"
    )


def spanning(first: Tensor, last: Tensor, panels: int) -> Tensor:
    """The nodes of a binary tree over panels whose product leads from edge to edge, in order.

    Node 1 is the product of all panels and 2n, 2n + 1 are the halves of n; 0 is no panel at all.
    At the level of blocks of w panels the whole blocks from ⌈first / w⌉ to ⌊last / w⌋ are left
    over; an odd one at either end is no half of a block of the next level, so it is taken.

    Arguments:
        first: The first edges, (B,).
        last: The last edges, (B,).
        panels: The number of panels, a power of two.

    Returns:
        Shape (2L + 1, B), L the number of levels below the root.

    Example:
        >>> spanning(torch.tensor([1.0]), torch.tensor([4.0]), 4)[:, 0]
        tensor([5, 3, 0, 0, 0])
    """
    width = 2.0 ** torch.arange(panels.bit_length(), device=first.device)[:, None]
    left, right, root = (first / width).ceil(), (last / width).floor(), panels / width
    some = left < right
    rising = torch.where(some & (left.remainder(2) == 1), root + left, 0)[:-1]
    falling = torch.where(some & (right.remainder(2) == 1), root + right - 1, 0)
    return torch.cat([rising, falling.flip(0)]).long()


def _tree(panels: Tensor) -> Tensor:
    """The identity, the product of all panels, those of both halves, …, the panels: (2n, K, K)."""
    levels = [_stochastic(panels)]
    while levels[0].shape[0] > 1:
        levels.insert(0, _stochastic(levels[0][0::2] @ levels[0][1::2]))
    eye = torch.eye(panels.shape[-1], dtype=panels.dtype, device=panels.device)
    return torch.cat([eye[None], *levels])


def _exponential(z: Tensor) -> Tensor:
    """The first TERMS terms of the exponential series."""
    n = torch.arange(TERMS, dtype=z.dtype, device=z.device)
    return (z[..., None] ** n / n.clamp(min=1).cumprod(-1)).sum(-1)


def poisson(mean: Tensor) -> Tensor:
    """Poisson weights of 0 … TERMS − 1 in a last dimension."""
    n = torch.arange(TERMS, dtype=mean.dtype, device=mean.device)
    mean = mean[..., None]
    return (-mean).exp() * mean**n / n.clamp(min=1).cumprod(-1)


def _stochastic(P: Tensor) -> Tensor:
    return P / P.sum(-1, keepdim=True)


def _squarings(P: Tensor, levels: int | None) -> list[Tensor]:
    """P, P², P⁴, …: as many as asked for, else until one is idempotent."""
    squares = [P]
    while len(squares) < (MAX_LEVELS if levels is None else levels):
        if levels is None and _idempotent(squares[-1]):
            break
        squares.append(_stochastic(squares[-1] @ squares[-1]))
    return squares


def _idempotent(P: Tensor) -> bool:
    """Whether P² = P in every entry, up to the rounding of one product."""
    P = P.detach()
    rounding = (P.shape[0] + 8) * torch.finfo(P.dtype).eps
    return bool(((P @ P - P).abs() <= rounding * P + 1e-300).all())


def _pick(P: Tensor, states: Tensor) -> Tensor:
    """Rows of matrices (B, K, K) at states (B, E)."""
    return P.gather(1, states[..., None].expand(*states.shape, P.shape[-1]))
