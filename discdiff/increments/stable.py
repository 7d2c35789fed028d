r"""Stable laws, which add up although their variance is infinite."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.transforms import ExpTransform

from ..numerics.fourier import quintic
from ..numerics.stable import STEP, log_density_table
from ..numerics.stable import width as stable_width
from ..validation import require
from .base import Increment, doubles, without_variance
from .draws import Reparameterised, alike, tensors, uniform_draws
from .gumbel import GumbelInnovation
from .log_cf import real_log
from .normal import Normal
from .registry import standardises


class SymmetricStable(Reparameterised):
    r"""The law of :math:`m + s X` with :math:`\mathbb{E} e^{iuX} = e^{-|u|^\alpha}`.

    Its tails are powers, :math:`P(|X| > x) \sim x^{-\alpha}`: it has no variance for α < 2, where
    ``variance`` is infinite, and no mean for α ≤ 1, where ``mean`` is the median. Draws are exact
    (Chambers, Mallows and Stuck); the log-density is read from a table, to 1e-9 for α in
    [0.3, 1.99]; at α = 2 the law is normal.

    Arguments:
        alpha: α, in (0, 2].
        loc: m.
        scale: s > 0.

    Raises:
        ValueError: If α lies outside.

    References:
        | A method for simulating stable random variables (Chambers et al., 1976)

    Example:
        >>> SymmetricStable(1.0, 0.0, 2.0).log_prob(torch.tensor(2.0)).exp()  # Cauchy: 1 / (4 π)
        tensor(0.0796, dtype=torch.float64)
    """

    def __init__(self, alpha: float, loc: Any = 0.0, scale: Any = 1.0) -> None:
        require(0 < alpha <= 2, f"alpha must lie in (0, 2]; it is {alpha}")
        self.alpha = float(alpha)
        self.loc, self.scale = tensors(loc, scale)
        super().__init__(self.loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return 2 * self.scale**2 if self.alpha == 2 else torch.full_like(self.loc, math.inf)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        shape = Size(sample_shape) + self.batch_shape
        angle = (uniform_draws(shape, self.loc) - 0.5) * math.pi
        wait = -uniform_draws(shape, self.loc).log()
        root = (self.alpha * angle).sin() / angle.cos() ** (1 / self.alpha)
        x = root * (((1 - self.alpha) * angle).cos() / wait) ** (1 / self.alpha - 1)
        return self.loc + self.scale * x.to(self.loc.dtype)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = (x - self.loc) / self.scale
        if self.alpha == 2:
            return -(y**2) / 4 - 0.5 * math.log(4 * math.pi) - self.scale.log()
        table = log_density_table(self.alpha).to(y.device)
        z = (y.double().abs() / stable_width(self.alpha)).asinh()
        last = table.shape[1] - 1
        cell = (z.detach() / STEP).floor().long().clamp(max=last - 1)
        inside = z.clamp(max=last * STEP)
        value, _ = quintic(table, cell, inside / STEP - cell, z.new_tensor(STEP))
        value = value + (z - inside) * table[1, -1]
        return value.to(y.dtype) - self.scale.log()


class PositiveStable(pyro.TransformedDistribution):
    r"""The law of cS, where S > 0 has :math:`\mathbb{E} e^{-\lambda S} = e^{-\lambda^\rho}`.

    With G standard normal and ρ = α/2, :math:`\sqrt{2 S}\, G` is symmetric α-stable.

    Arguments:
        rho: ρ, in (0, 1).
        scale: c > 0.

    Example:
        >>> law = PositiveStable(0.5)  # Lévy's law
        >>> law.log_prob(torch.tensor(1.0).double())
        tensor(-1.5155, dtype=torch.float64)
    """

    def __init__(self, rho: Any, scale: Any = 1.0) -> None:
        rho, scale = tensors(rho, scale)
        law = GumbelInnovation(scale.log(), 1 / rho, rho)
        super().__init__(law, ExpTransform(), validate_args=False)


class Stable:
    r"""A symmetric α-stable law, :math:`\varphi(u) = e^{-|s u|^\alpha}`, with its own scaling.

    Not an `Increment`: its variance is infinite for α < 2. What adds up is :math:`s^\alpha`:

    .. math:: \rho X + \sigma X' \sim X \quad \text{if} \quad \rho^\alpha + \sigma^\alpha = 1.

    Arguments:
        alpha: α, in (0, 2]; at 2 the law is normal of variance 2 s².
        scale: s > 0.

    Raises:
        ValueError: If α or s lies outside.

    Example:
        >>> Stable(1.0).log_cf(torch.tensor([2.0]))
        tensor([-2.+0.j], dtype=torch.complex128)
    """

    def __init__(self, alpha: float, scale: float = 1.0) -> None:
        require(0 < alpha <= 2, f"alpha must lie in (0, 2]; it is {alpha}")
        require(scale > 0, f"scale must be positive; it is {scale}")
        self.alpha, self.scale = float(alpha), float(scale)
        self.name = f"stable ({alpha:g})"

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def log_cf(self, u: Any) -> Tensor:
        r""":math:`\log \varphi(u) = -|s u|^\alpha`, complex128."""
        return real_log(-((self.scale * doubles(u).abs()) ** self.alpha))

    def cf(self, u: Any) -> Tensor:
        r""":math:`\varphi(u)`, complex128."""
        return self.log_cf(u).exp()

    def law(self, loc: Any, scale: Any) -> SymmetricStable:
        r"""The law of :math:`m + c X`."""
        loc, scale = alike(loc, scale)
        return SymmetricStable(self.alpha, loc, self.scale * scale)

    @property
    def mixing(self) -> Distribution:
        r"""The law of A with :math:`X = \sqrt{A} G`, G standard normal."""
        scale = torch.tensor(2 * self.scale**2, dtype=torch.float64)
        if self.alpha == 2:
            return pyro.Delta(scale)
        return PositiveStable(self.alpha / 2, scale)

    def innovation(self, rho: Any, scale: Any) -> Distribution:
        r"""The law of :math:`c (1 - \rho^\alpha)^{1/\alpha} X`: added to ρcX it makes cX."""
        rho, scale = alike(rho, scale)
        return self.law(0.0, scale * (-torch.expm1(self.alpha * rho.log())) ** (1 / self.alpha))

    def levy(self, tau: Any, scale: Any) -> Distribution:
        r"""The law at time τ of the process that is cX at time 1: :math:`\tau^{1/\alpha} c X`."""
        tau, scale = alike(tau, scale)
        return self.law(0.0, scale * tau ** (1 / self.alpha))

    def sample(
        self, shape: Any = Size(), dtype: torch.dtype = torch.float64, device: Any = None
    ) -> Tensor:
        """Independent draws of a shape."""
        at = torch.zeros((), dtype=dtype, device=device)
        return self.law(at, torch.ones_like(at)).sample(Size(shape))


@standardises(torch.distributions.Cauchy, torch.distributions.HalfCauchy)
def _cauchy(law: Distribution) -> Increment:
    raise ValueError(without_variance(type(law).__name__))


@standardises(pyro.Stable)
def _stable(law: pyro.Stable) -> Increment:
    require(float(law.stability) == 2, without_variance(f"Stable of α = {float(law.stability):g}"))
    return Normal()
