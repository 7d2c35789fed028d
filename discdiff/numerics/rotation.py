r"""The factor R of a covariance in which a deterministic flow stands still.

Let :math:`\Sigma' = A \Sigma + \Sigma A^\top + G`. Every factor :math:`\Sigma = R R^\top` serves
for draws, but only

.. math:: R' = \big(A + \tfrac12 G \Sigma^{-1}\big) R

makes the probability flow from one datum exactly :math:`y_t = \Phi y_0 + m + R_t \varepsilon` with
a constant :math:`\varepsilon`. With L the lower Cholesky factor, :math:`R = L O` and O orthogonal,

.. math:: O' = N O, \qquad N = U - U^\top, \qquad
          U = \operatorname{triu}_1\big(L^{-1} A L + \tfrac12 L^{-1} G L^{-\top}\big),

because :math:`L^{-1} L'` is lower triangular. Where noise travels along a chain of coordinates O
turns for ever as :math:`\tau \to 0`, at a constant speed in :math:`\log \tau`, and where the
system rotates it does so as :math:`\tau \to \infty`, at a constant speed in τ. Both are covered by

.. math:: z = \log(e^{\varrho \tau} - 1),

in which N is analytic; :math:`\varrho` is the size of A. So O is tabulated in z.

References:
    | gDDIM: Generalized denoising diffusion implicit models (Zhang et al., 2023)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .factors import lower_inverse, product
from .quadrature import gauss_legendre
from .special import log1pexp, logexpm1
from .systems import powers, series

FIRST, LAST = -60.0, 68.0  # in z; at −60 a standard deviation is 1e-13 of what it is at 0
PANELS, NODES = 256, 8  # up to LAST
_UNIT = gauss_legendre(NODES, -1.0, 1.0)[0]
_POWERS = torch.linalg.inv(torch.linalg.vander(_UNIT))  # from values at the nodes to coefficients


def angular(A: Tensor, G: Tensor, L: Tensor) -> Tensor:
    r"""The skew matrix N of :math:`O' = N O`, for A, G and L of shape (*batch, k, k)."""
    inverse = lower_inverse(L)
    both = product(product(inverse, A), L) + product(product(inverse, G), inverse.mT) / 2
    upper = both.triu(1)
    return upper - upper.mT


def extent(size: Tensor, end: float) -> tuple[float, int]:
    """The width of a panel in z and the number of panels, for a size of A and an end."""
    last = float(logexpm1(size.detach() * end)) if end < torch.inf else LAST
    panels = max(PANELS, math.ceil((last - FIRST) * PANELS / (LAST - FIRST)))
    return (last - FIRST) / panels, panels


class Rotation:
    r"""The orthogonal factor O at all times :math:`\tau > 0`, up to a constant on its right.

    On each of 256 panels of z, or more where the end asks for them, N has the polynomial through
    its values at eight Gauss nodes, and O a power series. Below z = −60, where Σ has vanished to
    rounding, O stands; without an end N is taken as constant beyond z = 68, as it is for stable
    systems.

    Arguments:
        system: A function of increasing times (n,) that returns A, G and L there, each of shape
            (n or 1, *sides, k, k).
        size: The number :math:`\varrho > 0`, of shape ().
        end: The time at which the table ends; without one it ends at z = 68.

    Example:
        >>> def system(tau):  # two coordinates that turn without a change of their law
        ...     A = torch.tensor([[[-0.5, 1.0], [-1.0, -0.5]]]).double()
        ...     L = (-torch.expm1(-tau)).sqrt()[:, None, None] * torch.eye(2).double()
        ...     return A, torch.eye(2).double()[None], L
        >>> O = Rotation(system, torch.tensor(1.0).double())(torch.tensor([1.0, 2.0]).double())
        >>> turned = O[1] @ O[0].mT
        >>> torch.allclose(turned[0, 0], torch.tensor(1.0).double().cos())
        True
    """

    def __init__(
        self,
        system: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
        size: Tensor,
        end: float = torch.inf,
    ) -> None:
        self.size = size
        self.width, self.panels = extent(size, end)
        edges = torch.arange(self.panels, dtype=size.dtype, device=size.device)
        edges = FIRST + self.width * edges
        z = edges.unsqueeze(-1) + self.width / 2 * (1 + _UNIT.to(edges))
        values = self._speed(system, z.reshape(-1)).unflatten(0, z.shape)
        self._series = self._solve(values)
        ends = torch.tensor([[-1.0], [1.0]], dtype=z.dtype, device=z.device).expand(2, self.panels)
        left, right = (self._inside(v, torch.arange(self.panels, device=z.device)) for v in ends)
        turned = [
            torch.eye(values.shape[-1], dtype=z.dtype, device=z.device).expand(left[0].shape)
        ]
        for step in product(right, left.mT).unbind():
            turned.append(product(step, turned[-1]))
        self._starts = product(left.mT, torch.stack(turned[:-1]))
        self._final = values[-1, -1]

    def _speed(
        self, system: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], z: Tensor
    ) -> Tensor:
        """N per unit of z."""
        A, G, L = system(log1pexp(z) / self.size)
        N = angular(A.expand(L.shape), G.expand(L.shape), L)
        return N * (z.sigmoid() / self.size).reshape(-1, *(1,) * (N.dim() - 1))

    def _solve(self, values: Tensor) -> Tensor:
        """The coefficients of O on each panel, from the identity at its middle."""
        N = torch.einsum("jn,pn...->jp...", _POWERS.to(values), values)
        still = torch.zeros_like(N[0, ..., 0])
        half = torch.full(N[0].shape[:-2], self.width / 2, dtype=N.dtype, device=N.device)
        return series(list(N), [still], [torch.zeros_like(N[0])], half).phi

    def _inside(self, v: Tensor, panel: Tensor) -> Tensor:
        """O from the middle of a panel to v in [−1, 1]."""
        weights = powers(v, self._series.shape[0])
        return torch.einsum("bn,nb...->b...", weights, self._series[:, panel])

    def __call__(self, tau: Tensor) -> Tensor:
        """O at times of shape (B,), with shape (B, *sides, k, k); any at infinity."""
        z = logexpm1(self.size * tau).clamp(min=FIRST)
        place = (z - FIRST) / self.width
        panel = place.detach().floor().clamp(max=self.panels - 1)
        inside = (2 * (place - panel) - 1).clamp(max=1.0)
        index = panel.long()
        turned = product(self._inside(inside, index), self._starts[index])
        beyond = (z - (FIRST + self.panels * self.width)).clamp(min=0.0)
        beyond = torch.where(z.isinf(), 0.0, beyond).reshape(-1, *(1,) * (turned.dim() - 1))
        return product(torch.matrix_exp(beyond * self._final), turned)
