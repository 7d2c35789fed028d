r"""Exact draws of generalised inverse Gaussian laws, in float64.

.. math:: p(A) \propto A^{p - 1} e^{-(u A + v / A) / 2}

With :math:`a = |p|`, :math:`\omega^2 = u v`, :math:`r^2 = a^2 + \omega^2` and
:math:`A = \tfrac{a + r}{u} e^X` (its reciprocal, times v / u, for p < 0) X has the density

.. math:: e^{\psi(x)}, \qquad \psi(x) = -(r - a) (\cosh x - 1) - a (e^x - 1 - x),

up to a factor: log-concave with its peak at 0. It lies under 1 between two points and under its
tangents, which are exponential laws, beyond. Where these touch at :math:`-2.2 \le \psi \le -1`
three draws in ten are rejected at worst, for all p and ω, with no constant to be found.

References:
    | Random Variate Generation for the Generalized Inverse Gaussian Distribution (Devroye, 2014)
"""

from __future__ import annotations

import torch
from torch import Size, Tensor

from .transcendental import bessel_range

LEAST = 1e-300  # of r − a: what it leaves out of A lies below e^{−690}


def inverse_gaussian_draws(p: Tensor, u: Tensor, v: Tensor, shape: Size = Size()) -> Tensor:
    """Draws of a sample shape, of the laws of the entries; without gradients.

    At v = 0 it is a gamma law where p > 0, and the limit of the others, where p ≤ 0, is the
    point 0.

    Arguments:
        p: The order, any real numbers.
        u: Positive.
        v: Not negative.
        shape: The sample shape.

    Example:
        >>> one = torch.ones(100_000, dtype=torch.float64)
        >>> float((inverse_gaussian_draws(2.5 * one, 2 * one, 0 * one).mean() - 2.5).abs()) < 0.03
        True
    """
    with torch.no_grad():
        p, u, v = torch.broadcast_tensors(*(n.double() for n in (p, u, v)))
        a, omega = p.abs(), u.sqrt() * v.sqrt()
        r = torch.hypot(a, omega).clamp(min=LEAST)
        x = around_peak(a, (omega * (omega / (r + a))).clamp(min=LEAST), shape)
        return torch.where(p > 0, (a + r) / u * x.exp(), v / (a + r) * (-x).exp())


def around_peak(a: Tensor, rest: Tensor, shape: Size = Size()) -> Tensor:
    r"""Draws of X, for a ≥ 0 and :math:`r - a > 0` of one shape."""
    left, right = bessel_range(a, rest, 1.0)
    eta, zeta = _fall(right, a, rest), rest * right.sinh() + a * right.expm1()
    theta, xi = _fall(-left, a, rest), rest * left.sinh() - a * (-left).expm1()
    low, high = theta / xi - left, right - eta / zeta  # where the tangents reach 1
    each = torch.stack([a, rest, low, high, 1 / xi, 1 / zeta]).reshape(6, -1)
    many = Size(shape) + a.shape
    each = each.repeat(1, Size(shape).numel())
    x = torch.zeros_like(each[0])
    waiting = torch.arange(x.numel(), device=x.device)
    while len(waiting):
        tried, kept = _attempt(*each)
        x[waiting[kept]] = tried[kept]
        waiting, each = waiting[~kept], each[:, ~kept]
    return x.reshape(many)


def _attempt(
    a: Tensor, rest: Tensor, low: Tensor, high: Tensor, before: Tensor, after: Tensor
) -> tuple[Tensor, Tensor]:
    """One draw each from the envelope, and whether it is kept."""
    u = torch.rand_like(a) * (high - low + before + after)
    fall, limit = torch.empty_like(a).exponential_(), torch.empty_like(a).exponential_()
    inside, left = u < high - low, u < high - low + before
    beyond = torch.where(left, low - before * fall, high + after * fall)
    x = torch.where(inside, low + u, beyond)
    envelope = torch.where(inside, 0.0, fall)
    return x, ~(_fall(x, a, rest) - envelope > limit)  # what is no number is not tried again


def _fall(x: Tensor, a: Tensor, rest: Tensor) -> Tensor:
    r""":math:`-\psi(x)`."""
    grown, shrunk = x.abs().expm1(), -(-x.abs()).expm1()
    return rest / 2 * grown * shrunk + a * torch.where(x < 0, -x - shrunk, grown - x).abs()
