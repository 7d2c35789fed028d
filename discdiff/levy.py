r"""Lévy noise as a term in continuous time.

.. math::
    dX = a X\, dt + dL, \qquad \mathbb{E} e^{iu L_t} = e^{t \psi(u)}, \qquad
    X_t = e^{a t} x_0 + Z_t, \quad \log \varphi_{Z_t}(u) = \int_0^t \psi(e^{a r} u)\, dr
"""

from __future__ import annotations

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from .increments import Increment, Stable, SymmetricStable, increment
from .laws import mean_and_variance
from .terms import Term
from .validation import require

ROUNDING = 1e-6  # of a mean that was subtracted in float32, in standard deviations


class Levy(Term):
    r"""Noise with independent increments, :math:`dL` with :math:`L_1` of a given law.

    Entry by entry. Solved with a scalar `Linear` drift, or none.

    Arguments:
        law: The law of :math:`L_1`: infinitely divisible with mean 0, such as a
            `increments.CompoundPoisson` with noise (a jump diffusion), or symmetric α-stable
            (`increments.SymmetricStable` or Pyro's).

    Raises:
        ValueError: If the law is not infinitely divisible, or its mean is not 0.

    References:
        | Lévy Processes and Infinitely Divisible Distributions (Sato, 1999)
        | Score-based Generative Models with Lévy Processes (Yoon et al., 2023)

    Example:
        >>> import torch
        >>> from discdiff import Linear
        >>> noise = Levy(SymmetricStable(1.5))
        >>> (Linear(-1.0) + noise).limit((1,)).scale  # (1 / α)^(1 / α)
        tensor([0.7631])
    """

    local = False

    def __init__(self, law: Distribution) -> None:
        super().__init__()
        self.law = law
        self.stable = _stable(law)
        self.increment: Increment | Stable = self.stable or increment(law)
        if self.stable is None:
            center, variance = mean_and_variance(law)
        else:
            center, variance = law.loc, torch.ones(())  # type: ignore[attr-defined]
        if isinstance(self.increment, Increment):
            self.increment.require_divisible("Lévy noise")
        rule = "the law of Lévy noise must have mean 0: subtract it by an AffineTransform"
        self.deviation: float = float(variance) ** 0.5
        near = abs(float(center)) <= ROUNDING * self.deviation
        require(near, f"{rule}; it is {float(center):g}")

    def log_cf(self, u: Tensor) -> Tensor:
        r""":math:`\psi(u)`, complex128."""
        return self.increment.log_cf(self.deviation * u)

    def extra_repr(self) -> str:
        return self.increment.name


def _stable(law: Distribution) -> Stable | None:
    """The symmetric stable law, if it is one of infinite variance."""
    if isinstance(law, SymmetricStable) and law.alpha < 2:
        return Stable(law.alpha, float(law.scale))
    if isinstance(law, pyro.Stable) and float(law.stability) < 2:
        require(float(law.skew) == 0, f"stable noise must be symmetric; its skew is {law.skew}")
        return Stable(float(law.stability), float(law.scale))
    return None
