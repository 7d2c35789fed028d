r"""Blurring diffusion: each spatial frequency fades on a time of its own.

With :math:`u_k` the coefficients of an image in the cosine basis, of frequencies
:math:`\lambda_k = \pi^2 (i^2 / H^2 + j^2 / W^2)`,

.. math:: u_k(t) = e^{-B/2} d_k\, u_k(0) + \sqrt{1 - e^{-B}}\, \varepsilon, \qquad
          d_k = (1 - m)\, e^{-\lambda_k \tau} + m, \qquad
          \tau = \tfrac12 \sigma^2 \sin^4(\pi t / 2).

This is variance-preserving noise on its clock, a drift :math:`(\log d_k)'` and white noise of
variance :math:`-2 (\log d_k)' (1 - e^{-B})` per unit time, which keeps the noise of all
frequencies alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn
from torch.distributions import Transform, constraints

from ..clock import Clock, Constant
from ..clock import Linear as Ramp
from ..process import Process
from ..terms import Linear, Noise


def blurring(
    height: int,
    width: int,
    sigma: float = 20.0,
    least: float = 1e-3,
    clock: Clock | None = None,
) -> Process:
    r"""Blurring diffusion of images (B, *channels, H, W).

    Arguments:
        height: H.
        width: W.
        sigma: :math:`\sigma`, the width of the blur at t = 1, in pixels.
        least: m, the share that is left of every frequency.
        clock: B(t), with finite and smooth rates; :math:`\beta` linear from 0.1 to 20 by default.
            (The paper has the cosine schedule, cut off.)

    References:
        | Blurring Diffusion Models (Hoogeboom & Salimans, 2023)

    Example:
        >>> process = blurring(2, 2)
        >>> process.process.marginal(torch.ones(1, 4), 0.15).mean  # the image's mean fades last
        tensor([[0.8874, 0.2056, 0.2056, 0.0482]])
    """
    clock, fading = clock or Ramp(0.1, 20.0), Fading(height, width, sigma, least)
    noise = (Linear(-0.5) + Noise(1.0)).on(clock)
    blur = (Linear(fading) + Noise(Refilling(fading, clock))).on(Constant(1.0))
    return (noise + blur).push(CosineBasis(height, width))  # type: ignore[operator]


class Fading(nn.Module):
    r"""The drift :math:`(\log d_k)'` of all frequencies at times (n,), shape (n, HW)."""

    rates: Tensor

    def __init__(self, height: int, width: int, sigma: float, least: float) -> None:
        super().__init__()
        i, j = (torch.arange(n, dtype=torch.float64) * math.pi / n for n in (height, width))
        self.register_buffer("rates", (i[:, None] ** 2 + j**2).flatten() * sigma**2 / 2)
        self.least = least

    def remaining(self, t: Tensor) -> Tensor:
        """The share d of each frequency that is left."""
        sin = torch.sin(math.pi / 2 * t).unsqueeze(-1)
        return (1 - self.least) * (-self.rates * sin**4).exp() + self.least

    def forward(self, t: Tensor) -> Tensor:
        sin, cos = (f(math.pi / 2 * t).unsqueeze(-1) for f in (torch.sin, torch.cos))
        left = self.remaining(t)
        return -2 * math.pi * sin**3 * cos * self.rates * (left - self.least) / left


class Refilling(nn.Module):
    r"""The noise :math:`\sqrt{-2 (\log d_k)' (1 - e^{-B})}` at times (n,), shape (n, HW)."""

    def __init__(self, fading: Fading, clock: Clock) -> None:
        super().__init__()
        self.fading, self.clock = fading, clock

    def forward(self, t: Tensor) -> Tensor:
        return (2 * self.fading(t) * torch.expm1(-self.clock(t)).unsqueeze(-1)).sqrt()


class CosineBasis(Transform):
    """Images (…, H, W) from their coefficients (…, HW) in the orthonormal cosine basis (DCT-II).

    It is a rotation, so networks speak of images: see `Pushed`.

    Example:
        >>> basis = CosineBasis(2, 3)
        >>> flat = basis.inv(torch.ones(2, 3))
        >>> flat[0] ** 2, flat[1:].abs().max() < 1e-6
        (tensor(6.0000), tensor(True))
    """

    domain = constraints.real_vector
    codomain = constraints.independent(constraints.real, 2)
    bijective = True
    rotation = True

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.rows, self.columns = cosines(height), cosines(width)

    def _bases(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self.rows.to(like), self.columns.to(like)

    def _call(self, x: Tensor) -> Tensor:
        rows, columns = self._bases(x)
        return rows.mT @ x.unflatten(-1, (self.height, self.width)) @ columns

    def _inverse(self, y: Tensor) -> Tensor:
        rows, columns = self._bases(y)
        return (rows @ y @ columns.mT).flatten(-2)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros(x.shape[:-1], dtype=x.dtype, device=x.device)

    def forward_shape(self, shape: Sequence[int]) -> Size:
        return Size((*shape[:-1], self.height, self.width))

    def inverse_shape(self, shape: Sequence[int]) -> Size:
        return Size((*shape[:-2], self.height * self.width))


def cosines(size: int) -> Tensor:
    r"""The orthonormal matrix :math:`C_{kn} = c_k \cos(\pi k (n + 1/2) / N)`, float64."""
    n = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * n[:, None] * (n + 0.5)) * (2 / size) ** 0.5
    basis[0] /= 2**0.5
    return basis
