r"""What an increment is: a law of mean 0 and variance 1, with all that a walk asks it for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from ..numerics.inverse import increasing_inverse
from ..solve import Unsolved
from ..validation import require
from .draws import alike, tensors

REALS = (-math.inf, math.inf)

NOWHERE = (0.0, 0.0)


class Increment(ABC):
    r"""A law of mean 0 and variance 1 on the real line. All tensors are float64.

    Attributes:
        name: What it is called in messages.
        divisible: Whether it is infinitely divisible: the value at time 1 of a Lévy process.
        decomposable: Whether it is self-decomposable: for every ρ in (0, 1),
            :math:`\varphi(v) / \varphi(\rho v)` is a characteristic function.
        lattice: Whether it has atoms, and so no density.
        tilts: Whether its tilts, where it has any, have exact draws.
        reach: A number that :math:`|\xi|` exceeds with probability below 1e-17 (below 1e-13 where
            the tails are powers).
        radius: Up to where :math:`\log \varphi` is the sum of its cumulants: the radius of
            convergence at 0, or a lower bound where it has no closed form; 0 where cumulants are
            infinite or their series diverges.
        fisher: The Fisher information of its location, ∞ where the density has a jump or worse.
        domain: The open interval where :math:`K` is finite; (0, 0) if there is none.
        means: The open interval of the means of tilted laws: the convex hull of the support.
        entropy: The differential entropy in nats, −∞ for laws with atoms.
        indivisible: Why it is not infinitely divisible, where that is said.
    """

    name: str
    divisible: bool
    decomposable: bool
    lattice: bool = False
    tilts: bool = True
    reach: float
    radius: float
    fisher: float
    domain: tuple[float, float]
    entropy: float
    means: tuple[float, float] = REALS
    indivisible: str = ""

    def __repr__(self) -> str:
        return f"<increment {self.name}>"

    def require_divisible(self, what: str) -> None:
        """Raises ``ValueError`` with the reason unless the law is infinitely divisible.

        Arguments:
            what: What needs it.
        """
        known = self.indivisible
        if not known and math.isfinite(self.means[0]) and math.isfinite(self.means[1]):
            known = "no law on a bounded interval but a point is"
        reason = f": {known}" if known else ""
        rule = f"{what} needs an infinitely divisible law; {self.name} is not{reason}"
        require(self.divisible, rule)

    def cf(self, u: Any) -> Tensor:
        r""":math:`\varphi(u) = \mathbb{E} e^{i u \xi}`, complex128 of the shape of u."""
        return self.log_cf(u).exp()

    def log_cf(self, u: Any) -> Tensor:
        r""":math:`\log \varphi(u)`, complex128, continuous from 0 at u = 0.

        A symmetric law's :math:`\varphi` is real. Beyond a zero of it no branch is continuous;
        the imaginary part is then 0 or π, and every n-fold power is still right.
        """
        return self._log_cf(doubles(u))

    @abstractmethod
    def _log_cf(self, u: Tensor) -> Tensor: ...

    def cumulants(self, order: int) -> Tensor:
        r""":math:`\kappa_1, \dots, \kappa_n`, which begin with 0 and 1; shape (order,).

        Raises:
            ValueError: If the order is below 1.
            Unsolved: If one of them is infinite.
        """
        require(order >= 1, f"order must be at least 1; it is {order}")
        beyond = self._cumulants(max(order, 2))[2:order]
        return torch.tensor([0.0, 1.0, *beyond][:order], dtype=torch.float64)

    @abstractmethod
    def _cumulants(self, order: int) -> list[float]: ...

    def cgf(self, e: Any) -> Tensor:
        r""":math:`K(\eta) = \log \mathbb{E} e^{\eta \xi}`, +∞ outside `domain`.

        Raises:
            Unsolved: If it is finite nowhere but at 0.
        """
        return self._inside(doubles(e), self._cgf, math.inf)

    def slope(self, e: Any) -> Tensor:
        r""":math:`K'(\eta)`, the mean of the tilted law; NaN outside `domain`."""
        return self._inside(doubles(e), self._slope, math.nan)

    def natural(self, m: Any) -> Tensor:
        r"""The tilt whose mean is m: the inverse of `slope`, differentiable once at least."""
        self._require_tilts()
        return self._natural(doubles(m))

    def _cgf(self, e: Tensor) -> Tensor:
        raise self._without_tilts()

    def _slope(self, e: Tensor) -> Tensor:
        raise self._without_tilts()

    def _natural(self, m: Tensor) -> Tensor:
        return increasing_inverse(self._slope, m, self.domain)

    def _log_mgf(self, z: Tensor) -> Tensor:
        """K at complex arguments whose real parts lie in `domain`."""
        raise Unsolved(
            f"the generating function of the {self.name} law is known on the reals only"
        )

    def log_prob(self, x: Any) -> Tensor:
        """The log-density, or the log-probability of an atom."""
        return self._unit.log_prob(doubles(x))

    def cdf(self, x: Any) -> Tensor:
        r""":math:`P(\xi \le x)`."""
        return self._unit.cdf(doubles(x))

    def sample(
        self, shape: Any = Size(), dtype: torch.dtype = torch.float64, device: Any = None
    ) -> Tensor:
        """Independent draws of a shape."""
        at = torch.zeros((), dtype=dtype, device=device)
        return self.law(at, torch.ones_like(at)).sample(Size(shape))

    def law(self, loc: Any, scale: Any) -> Distribution:
        r"""The law of :math:`m + s \xi`, of the shape to which m and s > 0 broadcast."""
        return self._law(*alike(loc, scale))

    @abstractmethod
    def _law(self, loc: Tensor, scale: Tensor) -> Distribution: ...

    def tilted(self, loc: Any, scale: Any, eta: Any) -> Distribution:
        r"""The law of :math:`m + s \xi` with :math:`\xi \sim f(\xi) e^{\eta \xi - K(\eta)}`.

        Raises:
            Unsolved: If K is finite nowhere but at 0.
        """
        self._require_tilts()
        return self._tilted(*tensors(loc, scale, eta))

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        raise Unsolved(f"the tilted {self.name} law has no exact draws here")

    def innovation(self, rho: Any, scale: Any, loc: Any = 0.0) -> Distribution:
        r"""The law of :math:`m + s \varepsilon_\rho`, :math:`\xi = \rho \xi' + \varepsilon_\rho`.

        The characteristic function of :math:`s \varepsilon_\rho` is
        :math:`\varphi(s u) / \varphi(\rho s u)`.

        Raises:
            Unsolved: If there is none, or none in closed form.
        """
        return self._innovation(*alike(rho, scale, loc))

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        if self.decomposable:
            raise Unsolved(
                f"the {self.name} law is self-decomposable, but its innovation has no closed "
                "form; normal, Laplace, logistic, gamma and Gumbel laws have one"
            )
        raise Unsolved(
            f"the {self.name} law is not known to be self-decomposable: no noise of fixed shape "
            "keeps it at all times; declare fixed-shape increments instead"
        )

    def levy(self, tau: Any, scale: Any, loc: Any = 0.0) -> Distribution | None:
        r"""The law of :math:`m + s L_\tau`, L the Lévy process with :math:`L_1 = \xi`.

        The characteristic function of :math:`s L_\tau` is :math:`\varphi(s u)^\tau`; None where
        the law has no closed form.
        """
        return self._levy(*alike(tau, scale, loc)) if self.divisible else None

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution | None:
        return None

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution | None:
        r"""The law of :math:`L_s` given :math:`L_t`, s < t; None where it has no closed form."""
        return None

    def crowding(self, tau: float) -> float:
        r"""The e for which :math:`L_\tau` is within r of a point with a chance like :math:`r^e`.

        Where e < 1 the density is infinite there. It is ∞ for laws that do not crowd.
        """
        return math.inf

    @property
    def mixing(self) -> Distribution | None:
        r"""The law of A with :math:`\xi = \sqrt{A} G`, G standard normal; None if not known."""
        return None

    @property
    def _unit(self) -> Distribution:
        return self.law(0.0, 1.0)

    def _inside(self, e: Tensor, f: Callable[[Tensor], Tensor], outside: float) -> Tensor:
        self._require_tilts()
        inside = (e > self.domain[0]) & (e < self.domain[1])
        value = f(torch.where(inside, e, torch.zeros_like(e)))
        return torch.where(inside, value, torch.full_like(value, outside))

    def _require_tilts(self) -> None:
        if self.domain == NOWHERE:
            raise self._without_tilts()

    def _without_tilts(self) -> Unsolved:
        return Unsolved(
            f"the {self.name} law has no exponential moments, so it cannot be tilted; shift it, "
            "or tabulate the exact reverse kernel"
        )


def doubles(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def without_variance(what: str) -> str:
    return (
        f"{what} has no finite variance, so it has no standardised increment; sums of such laws "
        "are not nearly normal but stable: see discdiff.increments.Stable"
    )
