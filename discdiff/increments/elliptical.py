r"""Elliptical laws: normal vectors whose variance is one random number for all entries.

.. math::
    X = m + c \sqrt{A}\, G, \qquad q = \| x - m \|^2 / c^2, \qquad
    p(x) = (2 \pi c^2)^{-d/2} \int A^{-d/2} e^{-q / 2A}\, p(\mathrm{d}A)

A law of A that is known after x was seen makes all of it closed. Two families are:

===============================================  ================================================
:math:`p(A) \propto A^{-a-1} e^{-b/A}`           Student's law; after x with a + d/2, b + q/2
:math:`p(A) \propto A^{p-1} e^{-(uA + v/A)/2}`   Laplace's at p = 1, u = 2, v = 0; after x with
                                                 p − d/2, v + q: generalised inverse Gaussian
===============================================  ================================================

References:
    | Random Variate Generation for the Generalized Inverse Gaussian Distribution (Devroye, 2014)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from ..laws import _Law
from ..numerics.inverse_gaussian import inverse_gaussian_draws
from ..numerics.transcendental import log_bessel_k
from ..shapes import along, sum_event
from ..solve import Unsolved
from .base import Increment
from .draws import log_gamma_draws
from .laplace import Laplace
from .normal import Normal
from .student import Student


class Mixing(ABC):
    """The law of A, one number for each batch element, float64."""

    @abstractmethod
    def after(self, q: Tensor, dim: int) -> Mixing:
        r"""The law given x, of which :math:`q = \|x - m\|^2 / c^2` is told."""

    @abstractmethod
    def log_norm(self) -> Tensor:
        """The logarithm of the integral of the unnormalised density, as its class writes it."""

    @abstractmethod
    def sample(self, shape: Size) -> Tensor:
        """Draws of A."""

    @abstractmethod
    def mean(self) -> Tensor:
        """The mean of A."""


@dataclass(frozen=True)
class Certain(Mixing):
    """A = 1, weighed by :math:`e^{-q/2}` of what was seen: normal vectors."""

    q: Tensor

    def after(self, q: Tensor, dim: int) -> Mixing:
        return Certain(self.q + q)

    def log_norm(self) -> Tensor:
        return -self.q / 2

    def sample(self, shape: Size) -> Tensor:
        return torch.ones_like(self.q).expand(shape + self.q.shape)

    def mean(self) -> Tensor:
        return torch.ones_like(self.q)


@dataclass(frozen=True)
class InverseGamma(Mixing):
    """Density proportional to :math:`A^{-a-1} e^{-b/A}`."""

    a: Tensor
    b: Tensor

    def after(self, q: Tensor, dim: int) -> Mixing:
        return InverseGamma(self.a + dim / 2, self.b + q / 2)

    def log_norm(self) -> Tensor:
        return torch.lgamma(self.a) - self.a * self.b.log()

    def sample(self, shape: Size) -> Tensor:
        return self.b * (-log_gamma_draws(self.a, shape)).exp()

    def mean(self) -> Tensor:
        return torch.where(self.a > 1, self.b / (self.a - 1), math.inf)


@dataclass(frozen=True)
class InverseGaussian(Mixing):
    """Density proportional to :math:`A^{p-1} e^{-(uA + v/A)/2}`, with v = 0 for p > 0 only."""

    p: Tensor
    u: Tensor
    v: Tensor

    def after(self, q: Tensor, dim: int) -> Mixing:
        return InverseGaussian(self.p - dim / 2, self.u, self.v + q)

    @property
    def omega(self) -> Tensor:
        r""":math:`\sqrt{u v}`; one where v is zero, to be replaced."""
        return torch.where(self.v > 0, self.u * self.v, 1.0).sqrt()

    def log_norm(self) -> Tensor:
        r""":math:`2 (v/u)^{p/2} K_p(\sqrt{uv})`; of a gamma law where v = 0."""
        v = torch.where(self.v > 0, self.v, 1.0)
        full = math.log(2) + self.p / 2 * (v / self.u).log() + _log_k(self.p, self.omega)
        gamma = torch.where(
            self.p > 0,
            torch.lgamma(self.p.clamp(min=1e-300)) + self.p * (2 / self.u).log(),
            math.inf,
        )
        return torch.where(self.v > 0, full, gamma)

    def mean(self) -> Tensor:
        up = InverseGaussian(self.p + 1, self.u, self.v)
        return (up.log_norm() - self.log_norm()).exp()

    def sample(self, shape: Size) -> Tensor:
        return inverse_gaussian_draws(self.p, self.u, self.v, shape)


def _log_k(p: Tensor, z: Tensor) -> Tensor:
    r""":math:`\log K_p(z)`; of one number (p = 1/2 before, −1/2 or 1/2 after) it is elementary."""
    if bool((p.abs() == 0.5).all()):
        return (math.log(math.pi / 2) - z.log()) / 2 - z
    return log_bessel_k(p, z)


def mixing(increment: Increment, like: Tensor) -> Mixing:
    """The law of A of an increment's shape, of mean one, for batch elements like these (B,).

    Raises:
        Unsolved: If it is not known in a family that stays closed after a state was seen.
    """
    like = torch.zeros_like(like, dtype=torch.float64)
    if isinstance(increment, Normal):
        return Certain(like)
    if isinstance(increment, Student):
        return InverseGamma(like + increment.df / 2, like + (increment.df - 2) / 2)
    if isinstance(increment, Laplace):
        return InverseGaussian(like + 1, like + 2, like)
    raise Unsolved(
        "noise whose variance is shared by all entries is known for normal, Laplace and Student "
        f"laws; the {increment.name} law mixes no normal laws, or the law of their variance given "
        "a state is not closed"
    )


class Elliptical(_Law):
    r"""The law of :math:`m + c \sqrt{A}\, G`, one A for all entries of a batch element.

    Arguments:
        loc: m, (B, *event).
        scale: c > 0, (B,).
        mixing: The law of A, (B,).
    """

    def __init__(self, loc: Tensor, scale: Tensor, mixing: Mixing) -> None:
        self.loc, self.scale, self.mixing = loc, scale.double(), mixing
        super().__init__(loc.shape[:1], loc.shape[1:])

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return along(self.scale**2 * self.mixing.mean(), self.loc).expand_as(self.loc)

    def squared(self, x: Tensor) -> Tensor:
        r""":math:`q = \|x - m\|^2 / c^2`, (B,)."""
        return squares(x - self.loc) / self.scale**2

    def _draw(self, shape: Size) -> Tensor:
        width = self.scale * self.mixing.sample(shape).sqrt()
        wide = width.to(self.loc.dtype).reshape(width.shape + (1,) * len(self.event_shape))
        return self.loc + wide * torch.randn(
            shape + self.loc.shape, dtype=self.loc.dtype, device=self.loc.device
        )

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dim = self.event_shape.numel()
        after = self.mixing.after(self.squared(x), dim).log_norm() - self.mixing.log_norm()
        value = after - dim * (self.scale.log() + math.log(2 * math.pi) / 2)
        return value.to(self.loc.dtype)


def squares(x: Tensor) -> Tensor:
    """The squared norm of each batch element, float64, (B,)."""
    return sum_event(x.double().square())
