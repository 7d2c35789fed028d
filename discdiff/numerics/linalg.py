r"""Transition matrices of finite Markov chains with entrywise relative accuracy.

Row convention: Q[x, y] is the rate of x → y and rows sum to zero. With
:math:`\lambda \ge \max_x -Q_{xx}` the matrix :math:`M = I + Q / \lambda` is stochastic and

.. math::
    P(\tau) = e^{\tau Q} = \sum_{n \ge 0} e^{-\lambda\tau} \frac{(\lambda\tau)^n}{n!} M^n, \qquad
    P(\tau) = P(r)\, \prod_j P(2^j / \lambda)^{b_j}, \qquad
    \lambda\tau = \lambda r + \sum_j b_j 2^j, \quad \lambda r < 1.

For rates that vary, :math:`\partial_t P(s, t) = P(s, t)\, Q(t)`; with
:math:`P = e^{-\lambda (t - s)} R` and :math:`M(t) = I + Q(t) / \lambda`,

.. math:: \partial_t R(s, t) = \lambda\, R(s, t)\, M(t), \qquad R(s, s) = I.

Only sums and products of non-negative numbers occur, so nothing cancels: every entry, however
small, keeps the relative accuracy that ratios of transition probabilities need. An eigenbasis or a
Padé approximant has absolute accuracy only, and an eigenbasis need not exist.

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

# The terms left out sum to less than 1.03 / 41! = 3.1e-50 where λr ≤ 1, as powers of M are at most
# one: a relative 3e-20 of entries above 1e-30.
TERMS = 41
MAX_LEVELS = 64


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
        M = jumps + (1 - jumps.sum(-1)).clamp(min=0).diag_embed()  # exact sums are at most 1
        powers = [torch.eye(M.shape[0], dtype=M.dtype, device=M.device)]
        for _ in range(TERMS - 1):
            powers.append(powers[-1] @ M)
        self._powers = torch.stack(powers)
        first = _poisson(torch.ones_like(self.rate)) @ self._powers.flatten(1)
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
        return _poisson(scaled - scaled.detach().floor()).to(self.dtype)

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

    The classical Runge–Kutta method for R, whose coefficients are non-negative, divided at each
    panel by :math:`1 + z + z^2/2 + z^3/6 + z^4/24 \approx e^z` with :math:`z = \lambda h`. With
    stochastic matrices :math:`M_0, M_{1/2}, M_1` at its ends and middle, one panel is then the
    convex combination

    .. math::
        \frac{1 + \frac{z}{6} (M_0 + 4 M_{1/2} + M_1)
        + \frac{z^2}{6} (M_0 M_{1/2} + M_{1/2}^2 + M_{1/2} M_1)
        + \frac{z^3}{12} (M_0 M_{1/2}^2 + M_{1/2}^2 M_1)
        + \frac{z^4}{24} M_0 M_{1/2}^2 M_1}{1 + z + z^2/2 + z^3/6 + z^4/24}:

    a stochastic matrix itself, with no negative entry at any step and no overflow, and an error of
    order four in h. Read backwards it is the method for columns, so rows, columns and matrices
    agree to rounding. No explicit method that is monotone in this way has a larger order.

    Arguments:
        Q: A function of times of shape :math:`(B,)` that returns rates :math:`(B, K, K)`.
        rate: A bound :math:`\lambda` of all exit rates.
        panels: Number of panels between s and t, however close; see `panels_for`.

    References:
        | Contractivity of Runge–Kutta methods (Kraaijevanger, 1991)

    Example:
        >>> Q = torch.tensor([[-1.0, 1.0], [2.0, -2.0]], dtype=torch.float64)
        >>> chain = Propagator(lambda t: t[:, None, None] * Q, 2.0, 64)
        >>> s, t = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> torch.allclose(chain.matrix(s, t), Uniformized(Q).matrix(t / 2), rtol=1e-8)
        True
    """

    def __init__(self, Q: Callable[[Tensor], Tensor], rate: float, panels: int) -> None:
        self.Q = Q
        self.rate = rate
        self.panels = panels

    def matrix(self, s: Tensor, t: Tensor) -> Tensor:
        """P(s, t), of shape (B, K, K), for times of shape (B,)."""
        M = self._stochastic(s, False)
        return self._transport(torch.eye(M.shape[-1], dtype=M.dtype, device=M.device), s, t, False)

    def rows(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Rows :math:`e_x P(s, t)`: (B, *event) states to (B, *event, K)."""
        return self._gather(x, s, t, False)

    def columns(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Columns :math:`P(s, t) e_x`: (B, *event) states to (B, *event, K)."""
        return self._gather(x, t, s, True)

    def apply(self, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The law v P(s, t) at t from the law v at s: (B, *event, K) to the same."""
        return self._multiply(v, s, t, False)

    def apply_transposed(self, v: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The expectation P(s, t) v at s of a function v at t: (B, *event, K) to the same."""
        return self._multiply(v, t, s, True)

    def _stochastic(self, t: Tensor, transposed: bool) -> Tensor:
        """M(t), of shape (B, K, K); its diagonal is what unit row sums imply."""
        Q = self.Q(t)
        jumps = (Q - Q.diagonal(dim1=-2, dim2=-1).diag_embed()) / self.rate
        M = jumps + (1 - jumps.sum(-1)).diag_embed()
        return M.mT if transposed else M

    def _transport(self, v: Tensor, start: Tensor, end: Tensor, transposed: bool) -> Tensor:
        """The solution at ``end`` from v at ``start``; backwards in time with transposed rates."""
        z = (self.rate / self.panels * (end - start).abs())[:, None, None]
        mass = 1 + z * (1 + z / 2 * (1 + z / 3 * (1 + z / 4)))
        right = self._stochastic(start, transposed)
        for left, middle, right in self._panel_ends(right, start, end, transposed):
            a = v @ left
            b = (v + z / 2 * a) @ middle
            c = (v + z / 2 * b) @ middle
            d = (v + z * c) @ right
            v = (v + z / 6 * (a + 2 * b + 2 * c + d)) / mass
        return v

    def _panel_ends(
        self, first: Tensor, start: Tensor, end: Tensor, transposed: bool
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The stochastic matrices at the start, middle and end of each panel, many at a time."""
        chunk = max(1, CHUNK // first.numel())
        halves = torch.arange(1, 2 * self.panels + 1, dtype=start.dtype, device=start.device)
        span = (end - start) / (2 * self.panels)
        for some in halves.split(2 * chunk):
            times = start + some[:, None] * span
            M = self._stochastic(times.reshape(-1), transposed)
            M = M.reshape(*times.shape, *M.shape[1:])
            for middle, last in M.unflatten(0, (-1, 2)):
                yield first, middle, last
                first = last

    def _gather(self, x: Tensor, start: Tensor, end: Tensor, transposed: bool) -> Tensor:
        states = x.flatten(1) if x.dim() > 1 else x[:, None]
        M = self._stochastic(start, transposed)
        eye = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        if states.shape[1] >= M.shape[-1]:
            rows = _pick(self._transport(eye, start, end, transposed), states)
        else:
            rows = self._transport(eye[states], start, end, transposed)
        return rows.reshape(*x.shape, M.shape[-1])

    def _multiply(self, v: Tensor, start: Tensor, end: Tensor, transposed: bool) -> Tensor:
        laws = v.reshape(v.shape[0], -1, v.shape[-1])
        if laws.shape[1] > v.shape[-1]:
            eye = torch.eye(v.shape[-1], dtype=v.dtype, device=v.device)
            return (laws @ self._transport(eye, start, end, transposed)).reshape(v.shape)
        return self._transport(laws, start, end, transposed).reshape(v.shape)


def panels_for(
    Q: Callable[[Tensor], Tensor], horizon: float, tol: float = 1e-10
) -> tuple[float, int]:
    r"""The rate bound and the number of panels with which a `Propagator` is accurate to ``tol``.

    Panels are doubled until no entry above 1e-30 changes by more than a relative ``tol``, over the
    whole horizon, its start and its second half.

    Arguments:
        Q: A smooth function of times of shape :math:`(B,)` that returns rates :math:`(B, K, K)`.
        horizon: The latest time.
        tol: The largest relative change.

    Raises:
        ValueError: If :math:`2^{13}` panels do not suffice.

    Example:
        >>> panels_for(lambda t: torch.ones_like(t)[:, None, None] * torch.tensor(
        ...     [[-1.0, 1.0], [2.0, -2.0]], dtype=torch.float64), 1.0)
        (2.02, 256)
    """
    with torch.no_grad():
        grid = torch.linspace(0, horizon, 1025, dtype=torch.float64)
        exits = -Q(grid).diagonal(dim1=-2, dim2=-1)
        rate = 1.01 * float(exits.max()) or 1.0  # room for a maximum between grid points
        s, t = grid[[0, 0, 512]], grid[[1024, 64, 1024]]
        panels = max(8, 2 ** math.ceil(math.log2(1 + rate * horizon)))
        coarse = Propagator(Q, rate, panels).matrix(s, t)
        while panels < 2**13:
            panels *= 2
            fine = Propagator(Q, rate, panels).matrix(s, t)
            change = (fine - coarse).abs() / fine.clamp(min=1e-30)
            if float(change.max()) <= tol:
                return rate, panels
            coarse = fine
    raise ValueError(
        f"Q is not smooth enough on [0, {horizon:g}]: with {panels} panels entries of P still "
        f"change by a relative {float(change.max()):.1e}, above tol = {tol:g}"
    )


def _poisson(mean: Tensor) -> Tensor:
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
