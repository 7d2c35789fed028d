r"""Seven laws in the plane as 32 bits: what ``benchmarks/synthetic.py`` stands on.

The laws are the usual ones of the literature on densities, drawn anew for every batch. A number x
becomes 16 bits: its sign (0 where :math:`x \ge 0`), then the Gray code of
:math:`n = \lfloor |x| \, 2^{15} / (f + 1) \rfloor`,

.. math:: g = n \oplus \lfloor n / 2 \rfloor, \qquad f = 1 + \max |x| ,

most significant bit first, where the maximum is that of 5000 draws. Neighbouring cells differ in
one bit.

References:
    | FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
      (Grathwohl et al., 2019)
    | Score-based Continuous-time Discrete Diffusion Models (Sun et al., 2023)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 16  # per coordinate
LEVELS = 2 ** (BITS - 1)  # of |x|
WEIGHTS = 2 ** torch.arange(BITS - 2, -1, -1)
MEASURED = 5000  # draws that give the range


def ring(angle: Tensor) -> Tensor:
    """Points of the unit circle."""
    return torch.stack([angle.cos(), angle.sin()], 1)


def swissroll(n: int) -> Tensor:
    """A spiral of one turn and a half, with unit noise, shrunk by five."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n))
    return (angle.unsqueeze(1) * ring(angle) + torch.randn(n, 2)) / 5


def circles(n: int) -> Tensor:
    """Two circles, of radius 3 and 1.5."""
    radius = torch.where(torch.rand(n) < 0.5, 1.0, 0.5).unsqueeze(1)
    return 3 * (radius * ring(2 * math.pi * torch.rand(n)) + 0.08 * torch.randn(n, 2))


def moons(n: int) -> Tensor:
    """Two half circles that reach into each other."""
    upper, lower = ring(math.pi * torch.rand(n)), ring(math.pi * torch.rand(n))
    first = (torch.rand(n, 1) < 0.5).expand(n, 2)
    x = torch.where(first, upper, torch.tensor([1.0, 0.5]) - lower)
    return 2 * (x + 0.1 * torch.randn(n, 2)) - torch.tensor([1.0, 0.2])


def gaussians(n: int) -> Tensor:
    """Eight normal laws round a circle."""
    centre = 4 * ring(math.pi / 4 * torch.randint(8, (n,)))
    return (centre + 0.5 * torch.randn(n, 2)) / 1.414


def pinwheel(n: int) -> Tensor:
    """Five arms, each a narrow normal law that is turned by the exponential of its radius."""
    radius, across = 1 + 0.3 * torch.randn(n), 0.1 * torch.randn(n)
    angle = 2 * math.pi / 5 * torch.randint(5, (n,)) + 0.25 * radius.exp()
    x = torch.stack([angle.cos() * radius - angle.sin() * across,
                     angle.sin() * radius + angle.cos() * across], 1)  # fmt: skip
    return 2 * x


def spirals(n: int) -> Tensor:
    """Two spirals of one turn and a half, one the other's mirror in the origin."""
    angle = 3 * math.pi * torch.rand(n, 1).sqrt()
    arm = torch.cat([-angle.cos(), angle.sin()], 1) * angle + torch.rand(n, 2) / 2
    side = torch.where(torch.rand(n, 1) < 0.5, 1.0, -1.0)
    return side * arm / 3 + 0.1 * torch.randn(n, 2)


def checkerboard(n: int) -> Tensor:
    """Every second of the 16 squares of side 2 in [−4, 4]²."""
    x = 4 * torch.rand(n) - 2
    y = torch.rand(n) - 2 * torch.randint(2, (n,)) + x.floor() % 2
    return 2 * torch.stack([x, y], 1)


LAWS: dict[str, Callable[[int], Tensor]] = {
    "2spirals": spirals,
    "8gaussians": gaussians,
    "circles": circles,
    "moons": moons,
    "pinwheel": pinwheel,
    "swissroll": swissroll,
    "checkerboard": checkerboard,
}


@dataclass(frozen=True)
class Code:
    """Points of the plane to 32 bits and back.

    Arguments:
        limit: The number f: coordinates lie within ±(f + 1).
    """

    limit: float

    def bits(self, x: Tensor) -> Tensor:
        """The bits of points (n, 2), shape (n, 32)."""
        n = (x.double().abs() * LEVELS / (self.limit + 1)).long().clamp(max=LEVELS - 1)
        gray = n ^ (n >> 1)
        code = (gray.unsqueeze(-1) & WEIGHTS) > 0
        return torch.cat([(x < 0).unsqueeze(-1), code], -1).flatten(1).long()

    def points(self, bits: Tensor) -> Tensor:
        """The middles of the cells with some bits, shape (n, 2)."""
        sign, gray = bits.reshape(len(bits), 2, BITS).split([1, BITS - 1], -1)
        n = ((gray.cumsum(-1) % 2) * WEIGHTS).sum(-1)
        size = (n.double() + 0.5) * (self.limit + 1) / LEVELS
        return torch.where(sign.squeeze(-1) > 0, -size, size)


def measured(law: Callable[[int], Tensor]) -> Code:
    """The code whose range is that of draws."""
    return Code(1 + float(law(MEASURED).abs().max()))
