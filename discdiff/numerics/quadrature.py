r"""Quadrature rules, as float64 nodes and weights.

.. math:: \int f \approx \sum_i w_i f(u_i)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def gauss_legendre(n: int, a: float, b: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [a, b], exact for polynomials of degree 2n − 1.

    Example:
        >>> u, w = gauss_legendre(3, 0.0, 1.0)
        >>> torch.allclose((w * u**4).sum(), torch.tensor(0.2, dtype=torch.float64))
        True
    """
    nodes, weights = _legendre(n).unbind()
    return a + (b - a) / 2 * (nodes + 1), (b - a) / 2 * weights


@torch.compiler.assume_constant_result
def _legendre(n: int) -> Tensor:
    """Nodes and weights on [−1, 1], shape (2, n); constants of a compiled graph."""
    return torch.from_numpy(np.stack(np.polynomial.legendre.leggauss(n)))


def gauss_hermite(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the standard normal law.

    Example:
        >>> u, w = gauss_hermite(8)
        >>> torch.allclose((w * u**4).sum(), torch.tensor(3.0, dtype=torch.float64))
        True
    """
    u, w = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(u), torch.from_numpy(w / np.sqrt(2 * np.pi))


def real_line(n: int, half_width: float) -> tuple[Tensor, Tensor]:
    """The trapezoidal rule on the real line, for analytic functions that decay exponentially.

    Its error falls exponentially in the step; the tails beyond ±half_width are left out.

    Example:
        >>> z, w = real_line(81, 40.0)
        >>> float((w * torch.sigmoid(z) * torch.sigmoid(-z)).sum())
        1.0000...
    """
    nodes = torch.linspace(-half_width, half_width, n, dtype=torch.float64)
    return nodes, torch.full_like(nodes, 2 * half_width / (n - 1))


def tail_integrals(n: int) -> Tensor:
    r"""The matrix :math:`C_{ij} = \int_{u_i}^1 \ell_j` of the Legendre nodes :math:`u` on [0, 1].

    With :math:`\ell_j` the Lagrange polynomials, :math:`\sum_j C_{ij} f(u_j)` is the integral of f
    from a node to the right end, as accurate as the quadrature itself.

    Example:
        >>> u, _ = gauss_legendre(6, 0.0, 1.0)
        >>> torch.allclose(tail_integrals(6) @ u**2, (1 - u**3) / 3)
        True
    """
    x, w = np.polynomial.legendre.leggauss(n)
    values = np.polynomial.legendre.legvander(x, n - 1)
    degree = np.arange(n)
    coefficients = values * w[:, None] * (2 * degree + 1) / 2  # Legendre series of each ℓ_j
    integrals = np.stack([np.polynomial.legendre.legint(c) for c in coefficients])
    at_end = np.polynomial.legendre.legval(1.0, integrals.T)
    at_nodes = np.polynomial.legendre.legval(x, integrals.T)
    return torch.from_numpy((at_end[:, None] - at_nodes).T / 2)


def panels(
    f: Callable[[Tensor], Tensor], edges: Tensor, tolerance: float, limit: int = 40
) -> Tensor:
    """Edges of panels on which fifteen Gauss-Legendre nodes integrate f, by bisection.

    A panel is halved until the rule agrees with that of its halves, or ``limit`` times.

    Example:
        >>> kink = lambda u: (u - 0.3).abs()
        >>> u, w = composite(panels(kink, torch.tensor([-1.0, 1.0]).double(), 1e-15))
        >>> (w * kink(u)).sum()
        tensor(1.0900, dtype=torch.float64)
    """
    waiting, done = torch.stack([edges[:-1], edges[1:]], -1), []
    for _ in range(limit):
        left, right = waiting.unbind(-1)
        middle = (left + right) / 2
        halves = torch.stack(
            [torch.stack([left, middle], -1), torch.stack([middle, right], -1)], 1
        )
        whole = _integrals(f, waiting)
        parts = _integrals(f, halves.reshape(-1, 2)).reshape(-1, 2).sum(-1)
        agrees = (whole - parts).abs() <= tolerance * (1 + parts.abs())
        done.append(waiting[agrees])
        waiting = halves[~agrees].reshape(-1, 2)
        if not len(waiting):
            break
    return torch.cat([torch.cat([*done, waiting])[:, 0], edges[-1:]]).sort().values


def composite(edges: Tensor, n: int = 15) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on every panel between edges."""
    u, w = gauss_legendre(n, 0.0, 1.0)
    width = edges.diff().unsqueeze(-1)
    return (edges[:-1].unsqueeze(-1) + width * u).flatten(), (width * w).flatten()


def _integrals(f: Callable[[Tensor], Tensor], ends: Tensor) -> Tensor:
    u, w = gauss_legendre(15, 0.0, 1.0)
    width = ends[:, 1:] - ends[:, :1]
    return (width * w * f(ends[:, :1] + width * u)).sum(-1)
