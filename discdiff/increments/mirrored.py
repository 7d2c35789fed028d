r"""Increments of affine images: factors of either sign, from the numbers of the law itself.

A law and its image by :math:`x \mapsto m + c x` have one increment where c > 0. Where c < 0 that
of the image is :math:`-\xi`,

.. math::
    \varphi(u) \to \overline{\varphi(u)}, \qquad \kappa_m \to (-1)^m \kappa_m, \qquad
    K(\eta) \to K(-\eta),

so that its sums, tilts, innovations and Lévy processes are the mirror images of known ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ..laws import Still, _RealLaw
from ..solve import Unsolved
from .base import Increment
from .compound import Compound
from .finite import Finite
from .lattice import Lattice
from .logistic import Logistic
from .numeric import Numeric
from .registry import increment, standardises


class Mirror(_RealLaw):
    r"""The law of −y, entry by entry.

    Arguments:
        law: The law of y, with entries as batch dimensions, which may have atoms.

    Example:
        >>> Mirror(torch.distributions.Exponential(1.0)).log_prob(torch.tensor(-2.0))
        tensor(-2.)
    """

    def __init__(self, law: Any) -> None:
        self.law: Any = law
        self.atoms = getattr(law, "atoms", False)
        super().__init__(law.batch_shape)

    @property
    def mean(self) -> Tensor:
        return -self.law.mean

    @property
    def variance(self) -> Tensor:
        return self.law.variance

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.law.has_rsample

    @property
    def still(self) -> Still | None:
        """The atom beside a density, if there is one."""
        atom = getattr(self.law, "still", None)
        return None if atom is None else Still(-atom.at, atom.log_prob)

    def rsample(self, sample_shape: Any = Size(), *args: Any, **kwargs: Any) -> Tensor:
        return -self.law.rsample(Size(sample_shape))

    def _draw(self, shape: Size) -> Tensor:
        return -self.law.sample(shape)

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.law.log_prob(-x)

    def cdf(self, x: Tensor) -> Tensor:
        r""":math:`P(-y \le x) = 1 - P(y \le -x) + P(y = -x)`."""
        above, atom = 1 - self.law.cdf(-x), getattr(self.law, "still", None)
        if self.atoms:
            return above + self.law.log_prob(-x).exp()
        return above if atom is None else above + (atom.at == -x) * atom.log_prob.exp()


class Mirrored(Increment):
    r"""The increment :math:`-\xi` of a known one.

    Arguments:
        base: The increment :math:`\xi`.

    Example:
        >>> Mirrored(increment(torch.distributions.Exponential(1.0))).cumulants(3)
        tensor([ 0.,  1., -2.], dtype=torch.float64)
    """

    def __init__(self, base: Increment) -> None:
        self.base, self.name = base, f"mirrored {base.name}"
        self.divisible, self.decomposable = base.divisible, base.decomposable
        self.lattice, self.tilts, self.indivisible = base.lattice, base.tilts, base.indivisible
        self.reach, self.radius, self.fisher = base.reach, base.radius, base.fisher
        self.entropy = base.entropy
        self.domain = (-base.domain[1], -base.domain[0])
        self.means = (-base.means[1], -base.means[0])

    def _log_cf(self, u: Tensor) -> Tensor:
        return self.base._log_cf(u).conj().resolve_conj()

    def _cumulants(self, order: int) -> list[float]:
        return [(-1) ** n * k for n, k in enumerate(self.base._cumulants(order), 1)]

    def _cgf(self, e: Tensor) -> Tensor:
        return self.base._cgf(-e)

    def _slope(self, e: Tensor) -> Tensor:
        return -self.base._slope(-e)

    def _natural(self, m: Tensor) -> Tensor:
        return -self.base._natural(-m)

    def _log_mgf(self, z: Tensor) -> Tensor:
        return self.base._log_mgf(-z)

    def _without_tilts(self) -> Unsolved:
        return self.base._without_tilts()

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Mirror(self.base._law(-loc, scale))

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return Mirror(self.base._tilted(-loc, scale, -eta))

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return Mirror(self.base._innovation(rho, scale, -loc))

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution | None:
        law = self.base._levy(tau, scale, -loc)
        return None if law is None else Mirror(law)

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution | None:
        law = self.base.levy_bridge(-total, s, t)
        return None if law is None else Mirror(law)

    def crowding(self, tau: float) -> float:
        return self.base.crowding(tau)


def mirrored(base: Increment) -> Increment:
    r""":math:`-\xi`: itself where the law is symmetric, of its own kind where that holds it."""
    probe = torch.linspace(0.1, 3.0, 7, dtype=torch.float64)
    if bool((base.cf(probe).imag.abs() < 1e-14).all()):
        return base
    if isinstance(base, Compound):
        return base.mirrored()
    unit = base.law(0.0, 1.0)
    if isinstance(unit, Lattice):
        return Finite(-unit.points, unit.log_probs, f"mirrored {base.name}")
    return Mirrored(base)


@standardises(torch.distributions.TransformedDistribution)
def _transformed(law: torch.distributions.TransformedDistribution) -> Increment:
    """An affine image of a known law, or the logistic law, as torch's manual builds it."""
    parts, turned = list(law.transforms), False
    while parts and isinstance(parts[-1], torch.distributions.AffineTransform):
        affine: Any = parts.pop()
        turned ^= bool(torch.as_tensor(affine.scale) < 0)
    base: Any = law.base_dist
    if not parts:
        return mirrored(increment(base)) if turned else increment(base)
    unit = isinstance(base, torch.distributions.Uniform)
    if unit and float(base.low) == 0 and float(base.high) == 1:
        if parts == [torch.distributions.SigmoidTransform().inv]:
            return Logistic()
    return Numeric(law)
