r"""Tweedie's formula for noise with independent increments: its mean given what is seen.

Let :math:`y = x + Z_\tau` with Z a Lévy process of Gaussian variance :math:`\sigma^2` and Lévy
measure :math:`\nu` per unit of time, and let p be the density of y, whatever the law of x. Then

.. math::
    \mathbb{E}[Z_\tau \mid y] = \tau \Big( -\sigma^2 \frac{p'(y)}{p(y)}
        + \int z\, \frac{p(y - z)}{p(y)}\, \nu(\mathrm{d}z) \Big),

so that :math:`\mathbb{E}[x \mid y] = y - \mathbb{E}[Z_\tau \mid y]` and p determine each other's
read-out: the score for normal noise, for jumps a *generalised* score. Time-reversed jumps come at
the rates :math:`\nu(\mathrm{d}z)\, p(y - z) / p(y)`.

References:
    | Tweedie's Formula and Selection Bias (Efron, 2011)
    | Generative modelling with jump-diffusions (Baule, 2025)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Laplace

from .increments import CompoundPoisson, SymmetricStable
from .numerics.autodiff import gradient
from .solve import Unsolved
from .validation import require

FAR, STEP = 1e3, 2e-3  # of jumps seen one by one, and the step of their logarithms
NEAR, SINGULAR = 1e-8, 1e-4  # the least of them, and where small jumps are without number


@dataclass(frozen=True)
class Jumps:
    r"""What a Lévy process does per unit of time, without its drift.

    Arguments:
        variance: :math:`\sigma^2`.
        up: :math:`z \nu(z)` at z > 0, the density of jumps up times their size.
        down: The same of jumps down, at their size.
        power: α, where :math:`z \nu(z) \sim c z^{-\alpha}` at 0; 0 where it is bounded.
    """

    variance: float
    up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]
    power: float = 0.0


def jumps(law: Distribution) -> Jumps:
    r"""The jumps of the Lévy process that is this law at time 1.

    Arguments:
        law: `increments.CompoundPoisson`, Laplace around 0, gamma, or
            `increments.SymmetricStable` around 0.

    Raises:
        ValueError: If the law has a drift.
        Unsolved: For other laws.
    """
    center = getattr(law, "loc", torch.zeros(()))
    require(bool((center == 0).all()), f"the law must have no drift; its loc is {center}")
    if isinstance(law, CompoundPoisson):
        rate, scale = float(law.rate), float(law.scale)
        at = lambda z: rate * z / scale * law.jump.log_prob(z / scale).exp()
        variance = float(law.scale * law.noise) ** 2
        return Jumps(variance, at, lambda z: -at(-z))
    if isinstance(law, Laplace):
        fall = lambda z: (-z / float(law.scale)).exp()
        return Jumps(0.0, fall, fall)
    if isinstance(law, Gamma):
        shape, rate = float(law.concentration), float(law.rate)
        return Jumps(0.0, lambda z: shape * (-rate * z).exp(), torch.zeros_like)
    if isinstance(law, SymmetricStable) and law.alpha < 2:
        alpha = law.alpha
        size = math.gamma(1 + alpha) * math.sin(math.pi * alpha / 2) / math.pi
        size = size * float(law.scale) ** alpha
        tail = lambda z: size * z**-alpha
        return Jumps(0.0, tail, tail, alpha)
    raise Unsolved(f"the jumps of {type(law).__name__} are not known in closed form")


def noise_mean(
    law: Distribution, density: Callable[[Tensor], Tensor], y: Tensor, tau: float = 1.0
) -> Tensor:
    r""":math:`\mathbb{E}[Z_\tau \mid y]` from the density p of the noisy state alone.

    Arguments:
        law: The law of :math:`Z_1`; see `jumps`.
        density: p, from tensors of any shape; differentiable.
        y: Numbers of shape (n,), float64.
        tau: τ > 0.

    Returns:
        Shape (n,). The integral over jumps is by the trapezoidal rule in the logarithm of their
        size, up to `FAR`, to rounding for smooth densities; below `NEAR`, or `SINGULAR` for stable
        noise, the density is taken as linear.

    Example:
        >>> from torch.distributions import Gamma  # x is 0 for certain: all of y is noise
        >>> y = torch.tensor([0.5, 2.0]).double()
        >>> law = Gamma(torch.tensor(3.0).double(), 1.0)
        >>> seen = lambda v: torch.where(v > 0, law.log_prob(v.clamp(min=1e-300)).exp(), 0.0)
        >>> noise_mean(law, seen, y)
        tensor([0.5000, 2.0000], dtype=torch.float64)
    """
    require(tau > 0, f"tau must be positive; it is {tau}")
    does = jumps(law)
    least = SINGULAR if does.power > 0 else NEAR
    v = torch.arange(math.log(least), math.log(FAR), STEP, dtype=torch.float64)
    z = v.exp()
    up, down = (z * f(z) * STEP for f in (does.up, does.down))
    for each in (up, down):
        each[0] = each[0] / 2
    moved = y.unsqueeze(-1)
    total = (up * density(moved - z)).sum(-1) - (down * density(moved + z)).sum(-1)
    p, slope = density(y), gradient(density, y)
    near = torch.tensor(least, dtype=torch.float64)
    rise, fall = does.up(near), does.down(near)
    if rise != fall:
        total = total + least * p * (rise - fall) * _continued(1 - does.power)
    total = total - least**2 * slope * (rise + fall) * _continued(2 - does.power)
    return tau * (total - does.variance * slope) / p


def _continued(power: float) -> float:
    r"""The trapezoidal rule for :math:`e^{av}` over v < 0, in place of its integral 1 / a.

    So the rule goes on to −∞, where it has no error: with the integral it would end at 0.
    """
    return STEP / 2 / math.tanh(power * STEP / 2)
