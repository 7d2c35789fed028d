r"""Laws on finitely many points, and the increments of two and of three equidistant values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ..laws import _RealLaw, draw_categories
from .base import REALS, Increment
from .cumulants import cumulants_from, orders
from .draws import tensors
from .log_cf import real_log, signed_log
from .registry import standardises


class Lattice(_RealLaw):
    r"""A law of finitely many atoms :math:`m + s v_j`; ``log_prob`` is a log-probability.

    Arguments:
        points: The :math:`v_j`, increasing, shape (J,).
        log_probs: Shape (*batch, J), normalised.
        loc: m.
        scale: s > 0.
    """

    atoms = True

    def __init__(self, points: Tensor, log_probs: Tensor, loc: Any, scale: Any) -> None:
        loc, scale = tensors(loc, scale)
        shape = torch.broadcast_shapes(loc.shape, log_probs.shape[:-1])
        self.loc, self.scale = loc.expand(shape), scale.expand(shape)
        self.points = points.to(loc)
        self.log_probs = log_probs.to(loc).expand(shape + points.shape)
        super().__init__(shape)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * (self.log_probs.exp() @ self.points)

    @property
    def variance(self) -> Tensor:
        probs = self.log_probs.exp()
        return self.scale**2 * (probs @ self.points**2 - (probs @ self.points) ** 2)

    def _draw(self, shape: Size) -> Tensor:
        index = draw_categories(self.log_probs.expand(shape + self.log_probs.shape))
        return self.loc + self.scale * self.points[index]

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        v = (x - self.loc) / self.scale
        middles = (self.points[1:] + self.points[:-1]) / 2
        index = torch.searchsorted(middles, v.detach().contiguous())
        table = self.log_probs.expand(index.shape + self.points.shape)
        found = table.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        # loc + scale · v is rounded at the size of its summands
        size = 1 + self.points.abs().max() + (self.loc.abs() / self.scale)
        slack = 16 * torch.finfo(v.dtype).eps * size
        hit = (v - self.points[index]).abs() <= slack
        return torch.where(hit, found, torch.full_like(found, -torch.inf))

    def cdf(self, value: Tensor) -> Tensor:
        v = ((value - self.loc) / self.scale).unsqueeze(-1)
        slack = 16 * torch.finfo(v.dtype).eps * (1 + v.abs())
        return torch.where(self.points <= v + slack, self.log_probs.exp(), 0.0).sum(-1)


class Rademacher(Lattice):
    r"""The fair coin :math:`m \pm s`.

    Example:
        >>> Rademacher(1.0, 2.0).cdf(torch.tensor([-1.5, 0.0, 3.0]))
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, loc: Any = 0.0, scale: Any = 1.0) -> None:
        points = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        super().__init__(points, torch.full_like(points, 0.5).log(), loc, scale)


class ThreePoint(Lattice):
    r"""The law of :math:`m` and :math:`m \pm \sqrt{3} s`, of chances 2/3, 1/6, 1/6.

    Its moments up to the fifth are those of the normal law of mean m and standard deviation s.

    Example:
        >>> ThreePoint(0.0, 2.0).cdf(torch.tensor([-3.0, 0.0, 4.0]))
        tensor([0.1667, 0.8333, 1.0000], dtype=torch.float64)
    """

    def __init__(self, loc: Any = 0.0, scale: Any = 1.0) -> None:
        points = math.sqrt(3) * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        chances = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 6
        super().__init__(points, chances.log(), loc, scale)


@standardises(Rademacher)
class Coin(Increment):
    r"""Rademacher's law, ±1 with equal chances, :math:`\varphi = \cos u`."""

    name, divisible, decomposable, lattice = "Rademacher", False, False, True
    reach, radius, fisher, domain = 1.0, math.pi / 2, math.inf, REALS
    entropy, means = -math.inf, (-1.0, 1.0)

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        # log cos u = ½ log(1 − sin² u), accurate at small u
        return signed_log(torch.log1p(-(u.sin() ** 2)) / 2, u.cos())

    def _cumulants(self, order: int) -> list[float]:
        return cumulants_from([float(n % 2 == 0) for n in orders(order)])

    def _cgf(self, e: Tensor) -> Tensor:
        return e.abs() + torch.log1p(torch.expm1(-2 * e.abs()) / 2)

    def _slope(self, e: Tensor) -> Tensor:
        return torch.tanh(e)

    def _natural(self, m: Tensor) -> Tensor:
        return torch.atanh(m)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Rademacher(loc, scale)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        points = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=loc.device)
        log_probs = torch.nn.functional.logsigmoid(2 * eta.unsqueeze(-1) * points.to(eta.dtype))
        return Lattice(points, log_probs, loc, scale)


@standardises(ThreePoint)
class Trinomial(Increment):
    r"""0 and ±√3 with chances 2/3, 1/6, 1/6: :math:`\varphi = (2 + \cos z) / 3`, z = √3 u.

    The third and fourth cumulants are 0, so that walks of it are of weak order 2.
    """

    name, divisible, decomposable, lattice = "three-point", False, False, True
    reach, fisher, domain, entropy = math.sqrt(3), math.inf, REALS, -math.inf
    radius = math.hypot(math.pi, math.acosh(2)) / math.sqrt(3)  # where cos z = −2
    means = (-math.sqrt(3), math.sqrt(3))

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return real_log(torch.log1p(-2 / 3 * (math.sqrt(3) / 2 * u).sin() ** 2))

    def _cumulants(self, order: int) -> list[float]:
        return cumulants_from([0.0 if n % 2 else 3 ** (n // 2) / 3 for n in orders(order)])

    def _cgf(self, e: Tensor) -> Tensor:
        z = math.sqrt(3) * e.abs()
        return z + torch.log1p(2 / 3 * torch.expm1(-z) + torch.expm1(-2 * z) / 6)

    def _slope(self, e: Tensor) -> Tensor:
        t = torch.tanh(math.sqrt(3) / 2 * e)  # sinh z / (2 + cosh z)
        return math.sqrt(3) * 2 * t / (3 - t**2)

    def _natural(self, m: Tensor) -> Tensor:
        q = m / math.sqrt(3)  # (1 − q) y² − 4 q y − (1 + q) = 0 for y = e^{√3 η}
        log_y = torch.log1p((3 * q + 3 * q**2 / ((1 + 3 * q**2).sqrt() + 1)) / (1 - q))
        return log_y / math.sqrt(3)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return ThreePoint(loc, scale)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        law = ThreePoint(loc, scale)
        log_probs = (law.log_probs + eta.unsqueeze(-1) * law.points).log_softmax(-1)
        return Lattice(law.points, log_probs, loc, scale)
