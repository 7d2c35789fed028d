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

where covariances are only added. For numbers that are functions of time the flows over panels of
unit time are composed in a binary tree, so that long times cost few compositions.

References:
    | Computing integrals involving the matrix exponential (Van Loan, 1978)
    | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .factors import product, sum_of, times_vector
from .linalg import NODES, POWERS, spanning

TERMS = 24  # of a series over a step of length 1/2 in units of 1/‖A‖: what is left is below 1e-23
CHUNK = 1 << 16  # entries of A in all panels that are taken at once


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
            flow = _in_pairs(flow)
        return Flow(*(v[0] for v in flow))

    def units(self, count: int, device: torch.device) -> Flow:
        """The flows over [0, 1], [1, 2], …, with their number in front."""
        edges = torch.arange(count + 1, dtype=torch.float64, device=device)
        most = max(1, CHUNK // (self.panels * self.system(edges[:1])[0].numel()))
        pairs = zip(edges[:-1].split(most), edges[1:].split(most), strict=True)
        parts = [self(s, t) for s, t in pairs]
        return Flow(*map(torch.cat, zip(*parts, strict=True)))

    def _polynomial(self, values: Tensor, shape: torch.Size) -> list[Tensor]:
        """The coefficients in u on each panel, from values at the nodes of all panels."""
        values = values.expand(shape.numel(), *values.shape[1:]).reshape(*shape, *values.shape[1:])
        return list(torch.einsum("jn,pbn...->jpb...", POWERS.to(values), values).unbind())


class Units:
    r"""Flows over many units of time: to the next edge, over whole units, from the last edge.

    Whole units are at most :math:`2 \log_2 n` nodes of a binary tree of compositions. Times beyond
    the n units give nan; no verb looks at the values of a tensor.

    Arguments:
        step: The flows between times at most one unit apart.
        units: The flows over the n units, a power of two; see `Varying.units`.

    Example:
        >>> def system(t):
        ...     return -t[:, None, None], 0 * t[:, None], torch.ones(1, 1, 1, dtype=t.dtype)
        >>> step, (s, t) = Varying(system, 4), torch.tensor([[0.5], [3.25]]).double()
        >>> flow = Units(step, step.units(4, s.device))(s, t)
        >>> torch.allclose(flow.phi, ((s**2 - t**2) / 2).exp(), rtol=1e-12)
        True
    """

    def __init__(self, step: Callable[[Tensor, Tensor], Flow], units: Flow) -> None:
        self.step, self.count = step, len(units.phi)
        self._nodes = _tree(units)

    def __call__(self, s: Tensor, t: Tensor) -> Flow:
        """The flows from s to t, each of shape (B,)."""
        first, last = s.detach().ceil(), t.detach().floor().clamp(max=self.count)
        within = first > last  # both times lie in one unit
        t = torch.where(t <= self.count, t, torch.nan)
        starts = torch.cat([s, torch.where(within, t, last)])
        ends = torch.cat([torch.where(within, t, first), t])
        steps = self.step(starts, ends)
        flow, end = (Flow(*(v.tensor_split(2)[i] for v in steps)) for i in (0, 1))
        for node in spanning(first, last, self.count):
            flow = compose(flow, Flow(*(v[node] for v in self._nodes)))
        return compose(flow, end)


def _in_pairs(flow: Flow) -> Flow:
    """The compositions of an even number of consecutive flows, two by two."""
    return compose(*(Flow(*(v[i::2] for v in flow)) for i in (0, 1)))


def _tree(units: Flow) -> Flow:
    """The identity, the composition of all units, those of both halves, …, the units."""
    level = tree = units
    while len(level.phi) > 1:
        level = _in_pairs(level)
        tree = Flow(*(torch.cat(pair) for pair in zip(level, tree, strict=True)))
    still = Flow(*map(torch.zeros_like, level))
    still = still._replace(phi=still.phi + torch.eye(level.phi.shape[-1]).to(level.phi))
    return Flow(*(torch.cat(pair) for pair in zip(still, tree, strict=True)))


def lyapunov(A: Tensor, G: Tensor) -> Tensor:
    r"""The solution S of :math:`A S + S A^\top + G = 0`, for A and G of shape (*sides, k, k)."""
    A, G = torch.broadcast_tensors(A, G)
    left, right = _left_and_right(A)
    S = torch.linalg.solve(left + right, -G.flatten(-2).unsqueeze(-1)).reshape(G.shape)
    return (S + S.mT) / 2


def _left_and_right(A: Tensor) -> tuple[Tensor, Tensor]:
    r"""The matrices of :math:`X \mapsto A X` and :math:`X \mapsto X A^\top`, row by row."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    left = torch.einsum("...ij,mn->...imjn", A, eye)
    right = torch.einsum("ij,...mn->...imjn", eye, A)
    return left.flatten(-2).flatten(-3, -2), right.flatten(-2).flatten(-3, -2)
