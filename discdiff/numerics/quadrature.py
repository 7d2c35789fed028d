r"""Quadrature rules, as float64 nodes and weights.

.. math:: \int f \approx \sum_i w_i f(u_i)
"""

from __future__ import annotations

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
    u, w = np.polynomial.legendre.leggauss(n)
    nodes, weights = torch.from_numpy(u), torch.from_numpy(w)
    return a + (b - a) / 2 * (nodes + 1), (b - a) / 2 * weights


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
