r"""Increments: laws of mean 0 and variance 1 that a random walk adds up.

An increment :math:`\xi` is more than its density. A walk asks for

.. math::
    \varphi(u) = \mathbb{E} e^{i u \xi}, \qquad
    \log \varphi(u) = \sum_{m \ge 2} \kappa_m \frac{(iu)^m}{m!}, \qquad
    K(\eta) = \log \mathbb{E} e^{\eta \xi}, \qquad
    I = \mathbb{E} \left[ \Bigl( \frac{f'}{f}(\xi) \Bigr)^2 \right],

its sums (products of :math:`\varphi`), its tilts :math:`f(\xi) e^{\eta \xi - K(\eta)}`, which are
to first order the reverse steps of a walk, and the three ways to a marginal of one shape at all
times: a Gaussian mixing law, :math:`\xi = \sqrt{A} G`; a Lévy process with :math:`L_1 = \xi`; and
self-decomposability, :math:`\xi = \rho \xi' + \varepsilon_\rho` for every :math:`\rho` in (0, 1).

`increment` finds the increment of a Pyro or torch distribution by its type; `standardises`
registers one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Transform, constraints
from torch.distributions import Gumbel as TorchGumbel

from . import laws
from .increment_laws import (
    GammaInnovation,
    GammaShare,
    GeneralisedNormal,
    GumbelInnovation,
    KolmogorovSquare,
    Lattice,
    LogisticInnovation,
    LogitBeta,
    NegativeLogGamma,
    PositiveStable,
    Rademacher,
    ShiftedGamma,
    ShiftedPoisson,
    SpikedLaplace,
    StudentT,
    SymmetricStable,
    ThinnedCount,
    ThreePoint,
    TiltedGeneralisedNormal,
    Triangular,
    TruncatedExponential,
    VarianceGamma,
    alike,
    log_gamma_rule,
    tensors,
)
from .laplace_share import LaplaceShare
from .laws import _Law
from .numerics.inverse import increasing_inverse
from .numerics.quadrature import composite, gauss_legendre, panels
from .numerics.transcendental import (
    EULER,
    circular_langevin,
    horner,
    inverse_circular_langevin,
    langevin,
    log_bessel_k,
    log_gamma_ratio,
    log_sinc,
    log_sinhc,
    zeta,
)
from .numerics.waves import waves
from .solve import Unsolved
from .validation import require

FOLLOWED = 64.0  # frequencies up to which a phase is followed
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
        return self._log_cf(_numbers(u))

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
        return self._inside(_numbers(e), self._cgf, math.inf)

    def slope(self, e: Any) -> Tensor:
        r""":math:`K'(\eta)`, the mean of the tilted law; NaN outside `domain`."""
        return self._inside(_numbers(e), self._slope, math.nan)

    def natural(self, m: Any) -> Tensor:
        r"""The tilt whose mean is m: the inverse of `slope`, differentiable once at least."""
        self._require_tilts()
        return self._natural(_numbers(m))

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
        return self._unit.log_prob(_numbers(x))

    def cdf(self, x: Any) -> Tensor:
        r""":math:`P(\xi \le x)`."""
        return self._unit.cdf(_numbers(x))

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


def increment(law: Distribution) -> Increment:
    r"""The increment of a distribution's shape: :math:`(X - \mathbb{E} X) / \mathrm{sd}(X)`.

    Arguments:
        law: One real law of finite variance. Location and scale do not matter, parameters of the
            shape do.

    Raises:
        ValueError: If the law is a batch, or of vectors, or has no finite variance.
        Unsolved: If nothing is registered for its type and it has no density to go by.

    Example:
        >>> increment(pyro.Laplace(3.0, 2.0)).cumulants(4)
        tensor([0., 1., 0., 3.], dtype=torch.float64)
    """
    kind = type(law).__name__
    require(isinstance(law, Distribution), f"an increment must be a distribution; it is a {kind}")
    require(
        law.batch_shape == Size() and law.event_shape == Size(),
        f"an increment must be one law on the reals; {kind} has batch shape "
        f"{tuple(law.batch_shape)} and event shape {tuple(law.event_shape)}",
    )
    for base in type(law).__mro__:
        if base in _registry:
            return _registry[base](law)
    return Numeric(law)


T = TypeVar("T", bound=Callable[[Any], Increment])
_registry: dict[type, Callable[[Any], Increment]] = {}


def standardises(*law_types: type) -> Callable[[T], T]:
    """Registers what makes the increment of distributions of these types.

    The decorated class, or function, is called with the distribution.
    """

    def register(make: T) -> T:
        _registry.update({law_type: make for law_type in law_types})
        return make

    return register


@standardises(torch.distributions.Normal)
class Normal(Increment):
    r"""The standard normal law, :math:`\log \varphi = -u^2 / 2`."""

    name, divisible, decomposable = "normal", True, True
    reach, radius, fisher, domain = 8.65, math.inf, 1.0, REALS
    entropy = 0.5 * math.log(2 * math.pi * math.e)

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return _real(-(u**2) / 2)

    def _cumulants(self, order: int) -> list[float]:
        return [0.0, 1.0] + [0.0] * (order - 2)

    def _cgf(self, e: Tensor) -> Tensor:
        return e**2 / 2

    def _slope(self, e: Tensor) -> Tensor:
        return e

    def _natural(self, m: Tensor) -> Tensor:
        return m

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return laws.Normal(loc, scale, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return self._law(loc + scale * eta, scale)

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return self._law(loc, scale * ((1 - rho) * (1 + rho)).sqrt())

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return self._law(loc, scale * tau.sqrt())

    @property
    def mixing(self) -> Distribution:
        return pyro.Delta(torch.ones((), dtype=torch.float64))


@standardises(torch.distributions.Laplace)
class Laplace(Increment):
    r"""The Laplace law of scale :math:`b = 1/\sqrt{2}`, :math:`\varphi = 1 / (1 + u^2/2)`."""

    name, divisible, decomposable = "Laplace", True, True
    reach, radius, fisher = 28.0, math.sqrt(2), 2.0
    domain = (-math.sqrt(2), math.sqrt(2))
    entropy = 1 + math.log(math.sqrt(2))

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return _real(-torch.log1p(u**2 / 2))

    def _cumulants(self, order: int) -> list[float]:
        return [0.0 if n % 2 else 2 * math.factorial(n - 1) / 2 ** (n / 2) for n in _orders(order)]

    def _cgf(self, e: Tensor) -> Tensor:
        return -torch.log1p(-(e**2) / 2)

    def _slope(self, e: Tensor) -> Tensor:
        return e / ((1 - e / math.sqrt(2)) * (1 + e / math.sqrt(2)))

    def _natural(self, m: Tensor) -> Tensor:
        return 2 * m / (1 + (1 + 2 * m**2).sqrt())

    def crowding(self, tau: float) -> float:
        return 2 * tau

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return pyro.Laplace(loc, scale / math.sqrt(2), validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        left, right = 1 / (math.sqrt(2) + eta), 1 / (math.sqrt(2) - eta)
        width, skew = scale * (left * right).sqrt(), (left / right).sqrt()
        return pyro.AsymmetricLaplace(loc, width, skew, validate_args=False)

    def _log_mgf(self, z: Tensor) -> Tensor:
        return -torch.log(1 - z**2 / 2)

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return SpikedLaplace(loc, scale / math.sqrt(2), rho**2)

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return LaplaceShare(total, s, t)

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return VarianceGamma(loc, scale, tau)

    @property
    def mixing(self) -> Distribution:
        return pyro.Exponential(torch.ones((), dtype=torch.float64))


@standardises(pyro.Logistic)
class Logistic(Increment):
    r"""The logistic law of scale :math:`\sqrt{3}/\pi`, :math:`\varphi = z / \sinh z`, z = √3 u."""

    name, divisible, decomposable = "logistic", True, True
    reach, radius, fisher = 22.5, math.pi / math.sqrt(3), math.pi**2 / 9
    domain = (-math.pi / math.sqrt(3), math.pi / math.sqrt(3))
    entropy = 2 + math.log(math.sqrt(3) / math.pi)

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return _real(-log_sinhc(math.sqrt(3) * u))

    def _cumulants(self, order: int) -> list[float]:
        s = math.sqrt(3) / math.pi
        return [
            0.0 if n % 2 else 2 * math.factorial(n - 1) * _zeta(n) * s**n for n in _orders(order)
        ]

    def _cgf(self, e: Tensor) -> Tensor:
        return -log_sinc(math.sqrt(3) * e)

    def _slope(self, e: Tensor) -> Tensor:
        return math.sqrt(3) * circular_langevin(math.sqrt(3) * e)

    def _natural(self, m: Tensor) -> Tensor:
        return inverse_circular_langevin(m / math.sqrt(3)) / math.sqrt(3)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return laws.Logistic(loc, math.sqrt(3) / math.pi * scale, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        s = math.sqrt(3) / math.pi
        return LogitBeta(loc, s * scale, 1 + s * eta, 1 - s * eta)

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        return LogisticInnovation(loc, math.sqrt(3) / math.pi * scale, rho)

    @property
    def mixing(self) -> Distribution:
        return KolmogorovSquare()


@standardises(torch.distributions.Uniform)
class Uniform(Increment):
    r"""The uniform law on [−√3, √3], :math:`\varphi = \sin z / z` with z = √3 u."""

    name, divisible, decomposable = "uniform", False, False
    reach, radius, fisher, domain = math.sqrt(3), math.pi / math.sqrt(3), math.inf, REALS
    entropy, means = math.log(2 * math.sqrt(3)), (-math.sqrt(3), math.sqrt(3))

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return _log_sinc(math.sqrt(3) * u)

    def _cumulants(self, order: int) -> list[float]:
        return [_bernoulli(n) * 12 ** (n / 2) / n for n in _orders(order)]

    def _cgf(self, e: Tensor) -> Tensor:
        return log_sinhc(math.sqrt(3) * e)

    def _slope(self, e: Tensor) -> Tensor:
        return math.sqrt(3) * langevin(math.sqrt(3) * e)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        half = math.sqrt(3) * scale
        return pyro.Uniform(loc - half, loc + half, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return TruncatedExponential(loc, math.sqrt(3) * scale, math.sqrt(3) * eta)


@standardises(torch.distributions.StudentT)
class Student(Increment):
    r"""Student's law of ν > 2 degrees of freedom, of variance 1.

    .. math::
        \varphi(u) = \frac{K_a(z) z^a}{\Gamma(a) 2^{a - 1}}
        = \frac{1}{\Gamma(a)} \int_0^\infty w^{a - 1} e^{-w - z^2 / (4 w)} \, \mathrm{d}w,
        \qquad a = \nu / 2, \quad z = \sqrt{\nu - 2} |u|.

    The second form, less 1, keeps :math:`\log \varphi` accurate at small u.

    Arguments:
        law: A Student law; its ``df`` is ν.

    Raises:
        ValueError: If ν ≤ 2: the variance is infinite.
    """

    divisible, decomposable, radius, domain = True, True, 0.0, NOWHERE

    def __init__(self, law: torch.distributions.StudentT) -> None:
        self.df = df = float(law.df)
        require(df > 2, _infinite(f"StudentT of {df:g} degrees of freedom"))
        self.name = f"Student t ({df:g})"
        self.fisher = (df + 1) / (df + 3) * df / (df - 2)
        self.entropy = float(self._unit.entropy())
        self.reach = self._find_reach()

    def _find_reach(self) -> float:
        reach = 8.0
        while 2 * float(self.cdf(-reach)) > 1e-13:
            reach *= 1.25
        return reach

    def _log_cf(self, u: Tensor) -> Tensor:
        a, z = self.df / 2, math.sqrt(self.df - 2) * u.abs()
        small = z < 1
        near = torch.where(small, z, torch.zeros_like(z)).unsqueeze(-1)
        s, weights = _log_gamma_rule(a)
        series = torch.log1p((weights * torch.expm1(-(near**2) / 4 * (-s).exp())).sum(-1))
        far = torch.where(small, torch.ones_like(z), z)
        log_k = log_bessel_k(torch.tensor(a, dtype=torch.float64, device=u.device), far)
        large = log_k + a * far.log() - math.lgamma(a) - (a - 1) * math.log(2)
        return _real(torch.where(small, series, large))

    def _cumulants(self, order: int) -> list[float]:
        if order >= self.df and order > 2:
            raise Unsolved(f"the {self.name} law has no cumulants of order {self.df:g} or more")
        return _from_moments([self._moment(n) for n in _orders(order)])

    def _moment(self, n: int) -> float:
        if n % 2:
            return 0.0
        a, m = self.df / 2, n // 2
        logs = math.lgamma(m + 0.5) + math.lgamma(a - m) - math.lgamma(0.5) - math.lgamma(a)
        return (self.df - 2) ** m * math.exp(logs)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        df = torch.full_like(scale, self.df)
        width = math.sqrt((self.df - 2) / self.df) * scale
        return StudentT(df, loc, width, validate_args=False)

    @property
    def mixing(self) -> Distribution:
        a = torch.tensor(self.df / 2, dtype=torch.float64)
        return pyro.InverseGamma(a, a - 1, validate_args=False)


@standardises(torch.distributions.Gamma)
class Gamma(Increment):
    r"""The gamma law, centred: :math:`\xi = (g - k) / \sqrt{k}`, :math:`g \sim \Gamma(k, 1)`.

    .. math:: \log \varphi(u) = -i u \sqrt{k} - k \log(1 - i u / \sqrt{k})

    Arguments:
        law: A gamma law; its ``concentration`` is k.
    """

    divisible, decomposable = True, True

    def __init__(self, law: torch.distributions.Gamma) -> None:
        self.shape = k = float(law.concentration)
        self.root = math.sqrt(k)
        self.means = (-self.root, math.inf)
        self.name = f"gamma ({k:g})"
        self.radius, self.domain = self.root, (-math.inf, self.root)
        self.fisher = k / (k - 2) if k > 2 else math.inf
        self.entropy = float(self._unit.entropy())
        self.reach = _reach(self)

    def _log_cf(self, u: Tensor) -> Tensor:
        v = u / self.root  # −log(1 − iv) = −½ log(1 + v²) + i atan v
        return self.shape * torch.complex(-torch.log1p(v**2) / 2, _atan_less(v))

    def _cumulants(self, order: int) -> list[float]:
        return [math.factorial(n - 1) * self.shape ** (1 - n / 2) for n in _orders(order)]

    def _cgf(self, e: Tensor) -> Tensor:
        return self.shape * _log1m_less(e / self.root)

    def _slope(self, e: Tensor) -> Tensor:
        return e / (1 - e / self.root)

    def _natural(self, m: Tensor) -> Tensor:
        return m / (1 + m / self.root)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return ShiftedGamma(self.shape, scale / self.root, loc - scale * self.root, loc)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        width = scale / (self.root - eta)
        mean = loc + width * (self.root * eta)
        return ShiftedGamma(self.shape, width, loc - scale * self.root, mean)

    def _log_mgf(self, z: Tensor) -> Tensor:
        return -self.shape * torch.log(1 - z / self.root) - z * self.root

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        start = loc - scale * self.root * (1 - rho)
        return GammaInnovation(self.shape, scale / self.root, rho, start)

    def crowding(self, tau: float) -> float:
        return self.shape * tau

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r"""Of a gamma process the share that has come is :math:`\mathrm{Beta}(k s, k (t - s))`."""
        width = total + self.root * t  # of all that has come
        return GammaShare(self.shape * s, self.shape * (t - s), width, (s / t).to(total) * total)

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        start = loc - scale * self.root * tau
        return ShiftedGamma(self.shape * tau, scale / self.root, start, loc)


@standardises(torch.distributions.Exponential)
def _exponential(law: torch.distributions.Exponential) -> Gamma:
    return Gamma(torch.distributions.Gamma(torch.ones_like(law.rate), law.rate))


@standardises(torch.distributions.Chi2)
def _chi_squared(law: torch.distributions.Chi2) -> Gamma:
    return Gamma(law)


@standardises(TorchGumbel)
class Gumbel(Increment):
    r"""The Gumbel law, centred: :math:`\xi = c (g - \gamma)`, :math:`c = \sqrt{6} / \pi`.

    .. math:: \log \varphi(u) = \log \Gamma(1 - i c u) - i \gamma c u
    """

    name, divisible, decomposable = "Gumbel", True, True
    c = math.sqrt(6) / math.pi
    reach, radius, fisher = 32.0, 1 / c, math.pi**2 / 6
    domain = (-math.inf, 1 / c)
    entropy = math.log(c) + 1 + EULER

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        return log_gamma_ratio(torch.complex(torch.zeros_like(u), self.c * u))

    def _cumulants(self, order: int) -> list[float]:
        return [
            0.0 if n == 1 else math.factorial(n - 1) * _zeta(n) * self.c**n for n in _orders(order)
        ]

    def _cgf(self, e: Tensor) -> Tensor:
        w = self.c * e
        return torch.lgamma(1 - w) - EULER * w

    def _slope(self, e: Tensor) -> Tensor:
        return -self.c * (torch.digamma(1 - self.c * e) + EULER)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        width = self.c * scale
        return pyro.Gumbel(loc - EULER * width, width, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        width = self.c * scale
        return NegativeLogGamma(loc - EULER * width, width, 1 - self.c * eta)

    def _innovation(self, rho: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        width = self.c * scale
        return GumbelInnovation(loc - EULER * width * (1 - rho), width, rho)


@standardises(Rademacher)
class Coin(Increment):
    r"""Rademacher's law, ±1 with equal chances, :math:`\varphi = \cos u`."""

    name, divisible, decomposable, lattice = "Rademacher", False, False, True
    reach, radius, fisher, domain = 1.0, math.pi / 2, math.inf, REALS
    entropy, means = -math.inf, (-1.0, 1.0)

    def __init__(self, law: Distribution | None = None) -> None: ...

    def _log_cf(self, u: Tensor) -> Tensor:
        # log cos u = ½ log(1 − sin² u), accurate at small u
        return _signed(torch.log1p(-(u.sin() ** 2)) / 2, u.cos())

    def _cumulants(self, order: int) -> list[float]:
        return _from_moments([float(n % 2 == 0) for n in _orders(order)])

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
        return _real(torch.log1p(-2 / 3 * (math.sqrt(3) / 2 * u).sin() ** 2))

    def _cumulants(self, order: int) -> list[float]:
        return _from_moments([0.0 if n % 2 else 3 ** (n // 2) / 3 for n in _orders(order)])

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


@standardises(Triangular)
class Tent(Increment):
    r"""The triangular law on [−√6, √6]: the sum of two uniform increments, over √2."""

    name, divisible, decomposable = "triangular", False, False
    reach, radius = math.sqrt(6), math.pi * math.sqrt(2 / 3)
    fisher, domain, entropy = math.inf, REALS, 0.5 + math.log(math.sqrt(6))
    means = (-math.sqrt(6), math.sqrt(6))
    _uniform = Uniform()

    def __init__(self, law: Triangular | None = None) -> None:
        plain = law is None or float(law.tilt) == 0
        require(plain, "a tilted triangular law is no increment: declare the untilted one")

    def _log_cf(self, u: Tensor) -> Tensor:
        return _real(2 * self._uniform.log_cf(u / math.sqrt(2)).real)

    def _cumulants(self, order: int) -> list[float]:
        each = self._uniform.cumulants(order).tolist()
        return [2 ** (1 - n / 2) * k for n, k in zip(_orders(order), each, strict=True)]

    def _cgf(self, e: Tensor) -> Tensor:
        return 2 * log_sinhc(math.sqrt(1.5) * e)

    def _slope(self, e: Tensor) -> Tensor:
        return math.sqrt(6) * langevin(math.sqrt(1.5) * e)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Triangular(loc, math.sqrt(6) * scale)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return Triangular(loc, math.sqrt(6) * scale, math.sqrt(6) * eta)


class Power(Increment):
    r"""The generalised normal law, :math:`f \propto e^{-|x / b|^p}`, of variance 1.

    .. math::
        b^2 = \frac{\Gamma(1/p)}{\Gamma(3/p)}, \qquad
        I = \frac{p^2 \Gamma(2 - 1/p)}{b^2 \Gamma(1/p)}, \qquad
        \varphi(u) = \frac{p}{\Gamma(1/p)} \mathrm{Re} \int_0^\infty e^{-y^p + i b u y} \mathrm{d}y

    The path of the last integral is turned into the complex plane until neither factor
    oscillates. For p ≤ 1 it is a mixture of Laplace laws, which is infinitely divisible; for
    p < 1 it has no exponential moments.

    Arguments:
        power: p, neither 1 nor 2.
    """

    decomposable = False

    def __init__(self, power: float) -> None:
        self.power = p = power
        self.width = math.exp((math.lgamma(1 / p) - math.lgamma(3 / p)) / 2)
        self.name = f"generalised normal ({p:g})"
        self.divisible = p < 1  # e^{−|z|^p} mixes Laplace laws then, as it is completely monotone
        if not self.divisible:
            self.indivisible = (
                "tails lighter than e^{−x log x} but normal ones have no root of every order, "
                "so generalised normal laws are for p ≤ 1 and p = 2 only"
            )
        self.domain = REALS if p > 1 else NOWHERE
        information = p > 0.5
        self.fisher = math.inf
        if information:
            logs = math.lgamma(2 - 1 / p) - math.lgamma(1 / p)
            self.fisher = p**2 * math.exp(logs) / self.width**2
        self.entropy = float(GeneralisedNormal(p, 0.0, self.width).entropy())
        self.reach = self.width * self._quantile(1e-17)
        self.radius = _radius(self) if p > 1 else 0.0

    def _quantile(self, tail: float) -> float:
        """Beyond it |z| has this probability: the tail is below e^{−g} (1 + g)^{1/p}."""
        g = -math.log(tail)
        for _ in range(20):
            g = -math.log(tail) + math.log1p(g) * max(0.0, 1 / self.power - 1)
        return g ** (1 / self.power)

    def _log_cf(self, u: Tensor) -> Tensor:
        flat = u.abs().reshape(-1)
        parts = [self._log_cf_part(part) for part in flat.split(2048)]
        return torch.cat(parts).reshape(u.shape) if parts else _real(u)

    def _log_cf_part(self, u: Tensor) -> Tensor:
        near = 0.3 if self.power > 1 else 0.05
        small = u < near
        s, weights = log_gamma_rule(torch.tensor(1 / self.power, dtype=torch.float64))
        y = self.width * (s / self.power).exp()
        part = torch.where(small, u, torch.zeros_like(u)).unsqueeze(-1)
        series = torch.log1p(-2 * (weights * (part * y / 2).sin() ** 2).sum(-1))
        value = self._turned(torch.where(small, torch.ones_like(u), u))
        return _signed(torch.where(small, series, value.abs().log()), value + 2.0 * small)

    def _turned(self, u: Tensor) -> Tensor:
        p, w = self.power, (self.width * u).unsqueeze(-1)
        angle = min(math.pi / (2 * p), math.pi) / 2
        n = int(450 * max(p, 1.0))
        v = torch.linspace(-45.0, 0.0, n, dtype=torch.float64, device=u.device)
        decays = (45 / math.cos(p * angle)) ** (1 / p) if p > 0.5 else math.inf
        end = (45 / (w * math.sin(angle))).clamp(max=decays)
        y = end * v.exp() * complex(math.cos(angle), math.sin(angle))
        power = (p * (end.log() + v)).exp() * complex(math.cos(p * angle), math.sin(p * angle))
        total = ((-power + 1j * w * y).exp() * y).sum(-1) * 45 / (n - 1)
        return p * math.exp(-math.lgamma(1 / p)) * total.real

    def _cumulants(self, order: int) -> list[float]:
        return _from_moments([self._moment(n) for n in _orders(order)])

    def _moment(self, n: int) -> float:
        if n % 2:
            return 0.0
        return self.width**n * math.exp(
            math.lgamma((n + 1) / self.power) - math.lgamma(1 / self.power)
        )

    def _weights(self, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Nodes z > 0 and the logarithms of :math:`e^{-z^p \pm a z}` times their weights."""
        p, a = self.power, (self.width * e).unsqueeze(-1)
        size = a.detach().abs()
        peak = (size / p) ** (1 / (p - 1))
        high = (2 * size) ** (1 / (p - 1)) + 90 ** (1 / p)
        height = (1 - 1 / p) * size * peak
        low = torch.where(height > 60, (height - 45) / size, math.exp(-45.0))
        unit = torch.linspace(0.0, 1.0, 2400, dtype=torch.float64, device=e.device)
        s = low.log() + (high.log() - low.log()) * unit
        z = s.exp()
        base = s - (p * s).exp() + ((high.log() - low.log()) / 2399).log()
        return z, base + a * z, base - a * z

    def _cgf(self, e: Tensor) -> Tensor:
        _, plus, minus = self._weights(e)
        total = torch.logaddexp(plus, minus).logsumexp(-1)
        return total - math.log(2) - math.lgamma(1 + 1 / self.power)

    def _slope(self, e: Tensor) -> Tensor:
        z, plus, minus = self._weights(e)
        shares = torch.logaddexp(plus, minus).softmax(-1)
        return self.width * (shares * z * torch.tanh((plus - minus) / 2)).sum(-1)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return GeneralisedNormal(self.power, loc, self.width * scale)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        log_norm = self._cgf(_numbers(eta)) + math.log(2) + math.lgamma(1 + 1 / self.power)
        tilt, width = self.width * eta, self.width * scale
        return TiltedGeneralisedNormal(self.power, loc, width, tilt, log_norm.to(eta))


@standardises(GeneralisedNormal)
def _generalised_normal(law: GeneralisedNormal) -> Increment:
    closed = {1.0: Laplace, 2.0: Normal}.get(float(law.power))
    return closed() if closed is not None else Power(float(law.power))


@standardises(torch.distributions.Poisson)
class Poisson(Increment):
    r"""The Poisson law, :math:`\xi = (N - \lambda) / \sqrt{\lambda}`, a lattice law.

    Arguments:
        law: A Poisson law; its ``rate`` is λ.
    """

    divisible, decomposable, lattice = True, False, True
    radius, fisher, domain, entropy = math.inf, math.inf, REALS, -math.inf

    def __init__(self, law: torch.distributions.Poisson) -> None:
        self.rate = float(law.rate)
        self.root = math.sqrt(self.rate)
        self.name = f"Poisson ({self.rate:g})"
        self.means = (-self.root, math.inf)
        self.reach = _reach(self)

    def _log_cf(self, u: Tensor) -> Tensor:
        v = u / self.root
        return self.rate * torch.complex(_cos_less(v), _sin_less(v))

    def _cumulants(self, order: int) -> list[float]:
        return [self.rate ** (1 - n / 2) for n in _orders(order)]

    def _cgf(self, e: Tensor) -> Tensor:
        return self.rate * _expm1_less(e / self.root)

    def _slope(self, e: Tensor) -> Tensor:
        return self.root * torch.expm1(e / self.root)

    def _natural(self, m: Tensor) -> Tensor:
        return self.root * torch.log1p(m / self.root)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return self._shifted(loc.new_tensor(self.rate), loc, scale)

    def _shifted(self, rate: Tensor, loc: Tensor, scale: Tensor) -> Distribution:
        return ShiftedPoisson(rate, loc - scale * self.root, scale / self.root)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return self._shifted(self.rate * (eta / self.root).exp(), loc, scale)

    def levy_bridge(self, total: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r"""Given how many units have come, each has come before s with chance s / t."""
        s, t = s.to(total), t.to(total)
        count = self.root * total + self.rate * t
        return ThinnedCount(count, s / t, -self.root * s, 1 / self.root)

    def _levy(self, tau: Tensor, scale: Tensor, loc: Tensor) -> Distribution:
        start = loc - scale * self.root * tau
        return ShiftedPoisson(self.rate * tau, start, scale / self.root)


class GaussianMixture(Increment):
    r"""A finite mixture of normal laws of one mean: :math:`\varphi = \sum_j w_j e^{-r_j u^2 / 2}`.

    Arguments:
        weights: w, summing to one.
        variances: r > 0, of any common scale: they are divided by their mean.
    """

    decomposable = False
    domain = REALS

    def __init__(self, weights: Tensor, variances: Tensor) -> None:
        self.weights, variances = _numbers(weights), _numbers(variances)
        self.variances = variances / (self.weights @ variances)
        self.name = f"mixture of {len(variances)} normal"
        self.divisible = len(self.variances.unique()) == 1
        self.reach = _reach(self)
        self.radius = _radius(self)
        self.entropy, self.fisher = _entropy_and_fisher(
            self, math.sqrt(float(self.variances.min()))
        )

    def _log_cf(self, u: Tensor) -> Tensor:
        exponent = -self.variances * u.unsqueeze(-1) ** 2 / 2
        small = u.abs() < 0.5
        series = torch.log1p(torch.expm1(exponent) @ self.weights)
        return _real(torch.where(small, series, (exponent + self.weights.log()).logsumexp(-1)))

    def _cumulants(self, order: int) -> list[float]:
        return _from_moments([self._moment(n) for n in _orders(order)])

    def _moment(self, n: int) -> float:
        if n % 2:
            return 0.0
        return math.prod(range(1, n, 2)) * float(self.weights @ self.variances ** (n // 2))

    def _exponents(self, e: Tensor) -> Tensor:
        return self.weights.log() + self.variances * e.unsqueeze(-1) ** 2 / 2

    def _cgf(self, e: Tensor) -> Tensor:
        return self._exponents(e).logsumexp(-1)

    def _slope(self, e: Tensor) -> Tensor:
        return e * (self._exponents(e).softmax(-1) @ self.variances)

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        loc, scale = torch.broadcast_tensors(loc, scale)
        logs = self.weights.log().to(loc).expand(loc.shape + self.weights.shape)
        return self._mixed(logs, loc.unsqueeze(-1).expand_as(logs), scale)

    def _mixed(self, logits: Tensor, means: Tensor, scale: Tensor) -> Distribution:
        widths = scale.unsqueeze(-1) * self.variances.sqrt().to(scale)
        return pyro.MixtureSameFamily(
            pyro.Categorical(logits=logits, validate_args=False),
            pyro.Normal(means, widths, validate_args=False),
            validate_args=False,
        )

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        shifts = (scale * eta).unsqueeze(-1) * self.variances.to(eta)
        logits = self.weights.log().to(eta) + self.variances.to(eta) * eta.unsqueeze(-1) ** 2 / 2
        return self._mixed(logits, loc.unsqueeze(-1) + shifts, scale)

    @property
    def mixing(self) -> Distribution:
        points, group = self.variances.unique(return_inverse=True)
        weights = torch.zeros_like(points).index_add(0, group, self.weights)
        return Lattice(points, weights.log(), 0.0, 1.0)


@standardises(torch.distributions.MixtureSameFamily)
def _mixture(law: torch.distributions.MixtureSameFamily) -> Increment:
    parts = law.component_distribution
    normal = isinstance(parts, torch.distributions.Normal)
    if normal and bool((parts.loc == parts.loc[0]).all()):
        return GaussianMixture(law.mixture_distribution.probs, parts.scale**2)
    return Numeric(law)


@standardises(torch.distributions.GeneralizedPareto)
def _generalised_pareto(law: torch.distributions.GeneralizedPareto) -> Increment:
    """Of Pareto's shape, exponential, or a share's, by the sign of its concentration."""
    xi = torch.as_tensor(law.concentration, dtype=torch.float64)
    if float(xi) == 0:
        return increment(torch.distributions.Exponential(torch.ones_like(xi)))
    if float(xi) < 0:
        return increment(torch.distributions.Beta(torch.ones_like(xi), -1 / xi))
    return increment(torch.distributions.Pareto(torch.ones_like(xi), 1 / xi))


@standardises(torch.distributions.Cauchy, torch.distributions.HalfCauchy)
def _cauchy(law: Distribution) -> Increment:
    raise ValueError(_infinite(type(law).__name__))


@standardises(pyro.Stable)
def _stable(law: pyro.Stable) -> Increment:
    require(float(law.stability) == 2, _infinite(f"Stable of α = {float(law.stability):g}"))
    return Normal()


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
        return _real(-((self.scale * _numbers(u).abs()) ** self.alpha))

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


class Standardised(_Law):
    """The law of loc + scale · ξ for an increment that is known by its numbers only."""

    def __init__(self, law: Numeric, loc: Tensor, scale: Tensor) -> None:
        self.increment, self.loc, self.scale = law, loc, scale
        super().__init__(loc.shape)

    @property
    def support(self) -> Any:
        return constraints.real

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale**2

    def _draw(self, shape: Size) -> Tensor:
        xi = self.increment.draws(shape + self.batch_shape).to(self.loc)
        return self.loc + self.scale * xi

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        value = self.increment.density((x - self.loc) / self.scale)
        return value.to(self.loc.dtype) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        return self.increment.below(_numbers(z)).to(self.loc.dtype)


class Numeric(Increment):
    r"""The increment of any law with a density, by quadrature in float64.

    Moments, :math:`\varphi`, distribution function, entropy and Fisher information are integrals
    over panels that are halved until fifteen Gauss-Legendre nodes agree with thirty. The error
    that is left in the mass is `error`; K is found for laws on a bounded interval only, and
    neither a Lévy process nor an innovation nor a mixing law is known.

    Arguments:
        law: A distribution with ``log_prob`` and ``sample``.

    Raises:
        Unsolved: If it has no density, or its mass is not found to be 1 within 1e-8, as that of a
            periodic density.
        ValueError: If its variance is infinite.
    """

    divisible, decomposable, tilts = False, False, False

    def __init__(self, law: Distribution) -> None:
        self.base, self.name = _widened(law), f"{type(law).__name__} (numeric)"
        self._require_density()
        low, high = _ends(law)
        self._require_fall(low, high)
        bounded = math.isfinite(low) and math.isfinite(high)
        self.domain = REALS if bounded else NOWHERE
        self.centre, self.width = 0.0, 1.0
        self.mean, self.deviation = 0.0, 1.0
        edges, x, p = self._resolve(low, high)
        for _ in range(2):  # finer where the mass turns out to be
            self.centre, self.width = self.mean, self.deviation
            edges, x, p = self._resolve(low, high)
        mass = float(p.sum())
        self.error = abs(mass - 1)
        require(math.isfinite(self.deviation) and self.deviation < 1e12, _infinite(self.name))
        if self.error > 1e-8:
            raise Unsolved(f"the density of {type(law).__name__} has mass {mass:.10g}, not 1")
        spread = p * ((x - self.mean) / self.deviation) ** 2
        far = (x - self.centre).abs() > 1e8 * self.width
        require(float(spread[far].sum()) < 1e-6, _infinite(type(law).__name__))
        self._panels: Tensor = (edges - self.mean) / self.deviation
        self._masses: Tensor = p.reshape(-1, 15).sum(-1) / mass
        self.nodes: Tensor = (x - self.mean) / self.deviation
        self.means = ((low - self.mean) / self.deviation, (high - self.mean) / self.deviation)
        self.weights: Tensor = p / mass
        self.reach = self._find_reach()
        self.radius = _radius(self) if bounded else 0.0
        log = self.density(self.nodes)
        terms = torch.where(self.weights > 0, self.weights * log, torch.zeros_like(log))
        self.entropy = -float(terms.sum())
        self.fisher = self._find_fisher()

    def _require_density(self) -> None:
        law, kind = self.base, type(self.base).__name__
        variance = _known(law, "variance")
        require(variance is None or math.isfinite(variance), _infinite(kind))
        try:
            discrete = bool(getattr(law.support, "is_discrete", False))
            with torch.random.fork_rng(devices=[]):
                self.inner = law.sample().double()  # a point of the support
            law.log_prob(self.inner)
        except NotImplementedError as error:
            raise Unsolved(f"{kind} has no log_prob to find an increment from") from error
        if discrete:
            raise Unsolved(f"{kind} is discrete: declare its increment with standardises")

    def _require_fall(self, low: float, high: float) -> None:
        """Raises where the density does not fall far out, as a periodic one does not."""
        far = torch.logspace(9, 12, 61, dtype=torch.float64)
        far = torch.cat([-far, far])
        far = far[(far > low) & (far < high)]
        if len(far) and bool((self._value(far) * far.abs() > 1).any()):
            kind = type(self.base).__name__
            raise Unsolved(f"the density of {kind} does not fall far out, so its mass is not 1")

    def _resolve(self, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
        """Edges, nodes and the mass at them; notes the mean and the deviation."""
        edges = self._edges(low, high)
        x, w = composite(edges)
        p = w * self._value(x)
        mass = float(p.sum())
        if math.isfinite(mass) and mass > 1e-3:
            self.mean = float(p @ x) / mass
            self.deviation = math.sqrt(float(p @ (x - self.mean) ** 2) / mass)
        return edges, x, p

    def _edges(self, low: float, high: float) -> Tensor:
        """Edges in x, from panels in t with x = centre + width · sinh t."""

        def where(x: float) -> float:
            return math.asinh((x - self.centre) / self.width)

        start = max(-30.0, where(low)) if math.isfinite(low) else -30.0
        stop = min(30.0, where(high)) if math.isfinite(high) else 30.0
        inner = torch.linspace(start, stop, 61, dtype=torch.float64)

        def integrand(t: Tensor) -> Tensor:
            z = torch.sinh(t)
            log = self._log_value(self.centre + self.width * z)
            # mass, variance and entropy, of which the last is the roughest
            each = log.exp() * (1 + z**2 + torch.where(log > -700, log, 0.0) ** 2)
            return torch.cosh(t) * each

        t = panels(integrand, inner, 1e-15 / self.width)
        x = self.centre + self.width * torch.sinh(t)
        x[0] = low if start > -30 else x[0]
        x[-1] = high if stop < 30 else x[-1]
        return x

    def _log_value(self, x: Tensor) -> Tensor:
        """The log-density, −∞ where the law says that it has no support."""
        inside = _supports(self.base, x)
        value = self.base.log_prob(torch.where(inside, x, self.inner)).double()
        return torch.where(inside, value, torch.full_like(value, -torch.inf))

    def _value(self, x: Tensor) -> Tensor:
        return self._log_value(x).exp()

    def density(self, xi: Tensor) -> Tensor:
        r""":math:`\log f(\xi)`."""
        return self._log_value(self.mean + self.deviation * _numbers(xi)) + math.log(
            self.deviation
        )

    def below(self, xi: Tensor) -> Tensor:
        r""":math:`P(\xi \le x)`."""
        low, high = self._panels[0], self._panels[-1]
        inner = xi.clamp(low, high)  # no mass lies outside
        index = torch.searchsorted(self._panels[1:-1], inner.contiguous())
        start = self._panels[index].unsqueeze(-1)
        u, w = gauss_legendre(15, 0.0, 1.0)
        width = inner.unsqueeze(-1) - start
        part = (width * w * self.density(start + width * u).exp()).sum(-1)
        before = torch.cat([torch.zeros_like(self._masses[:1]), self._masses.cumsum(0)])
        return before[index] + part

    def draws(self, shape: Size) -> Tensor:
        """Independent draws of a shape."""
        return (self.base.sample(shape).double() - self.mean) / self.deviation

    def _find_reach(self) -> float:
        size, order = self.nodes.abs().sort(descending=True)
        outside = self.weights[order].cumsum(0) > 1e-14
        return float(size[outside][0])

    def _find_fisher(self) -> float:
        """∞ if, at an end of the support, f grows like the distance to it, or less smoothly."""
        for end, inward, bound in zip(
            self._panels[[0, -1]], (1, -1), _ends(self.base), strict=True
        ):
            if math.isfinite(bound):
                log = self.density(end + inward * torch.tensor([1e-7, 1e-6], dtype=torch.float64))
                power = float(log[1] - log[0]) / math.log(10)
                if power < 1.01:
                    return math.inf
        return _fisher(self.density, self.nodes, self.weights)

    def _log_cf(self, u: Tensor) -> Tensor:
        flat = u.reshape(-1).abs()
        if not flat.numel():
            return _real(u)
        rows = u.abs().reshape(-1, u.shape[-1]) if u.dim() else flat.unsqueeze(0)
        value = torch.cat([self._transform(row) for row in rows])
        size, angle = value.abs().log(), value.angle()
        near = flat <= FOLLOWED
        angle[near] = self._followed(flat[near], value[near])
        small = flat < 0.5
        size[small], angle[small] = self._at_small(flat[small])
        return torch.complex(size, angle * u.reshape(-1).sign()).reshape(u.shape)

    def _transform(self, u: Tensor) -> Tensor:
        """φ at frequencies (n,)."""
        return waves(u, *self._resolved(float(u.max())))

    def _followed(self, u: Tensor, value: Tensor) -> Tensor:
        """The phase of φ, in steps in which it turns by less than π."""
        count = 2 + int(float(u.max() if len(u) else 0.0) / 0.05)
        step = 0.05
        coarse = self._transform(step * torch.arange(count, dtype=torch.float64))
        phase = torch.cat([torch.zeros(1).double(), (coarse[1:] / coarse[:-1]).angle().cumsum(0)])
        near = (u / step).round().long()
        return phase[near] + (value / coarse[near]).angle()

    def _at_small(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The modulus of log φ and the phase, less 1 and the mean, which is 0."""
        nodes, weights = self._resolved(1.0)
        turn = u.unsqueeze(-1) * nodes
        real, imag = _cos_less(turn) @ weights, _sin_less(turn) @ weights
        size = torch.log1p(2 * real + real**2 + imag**2) / 2
        return size, torch.atan2(imag, 1 + real)

    def _resolved(self, most: float) -> tuple[Tensor, Tensor]:
        """Nodes so dense that waves up to a frequency turn by at most ten between two edges."""
        width = 10 / max(most, 1.0)
        pieces = [
            _linspace(float(a), float(b), 1 + math.ceil(float(b - a) / width))[:-1]
            if mass > 1e-16 and b - a > width
            else a[None]
            for a, b, mass in zip(self._panels[:-1], self._panels[1:], self._masses, strict=True)
        ]
        nodes, w = composite(torch.cat([*pieces, self._panels[-1:]]))
        return nodes, w * self.density(nodes).exp()

    def _cumulants(self, order: int) -> list[float]:
        moments = []
        for n in _orders(order):
            terms = self.weights * self.nodes**n
            if float(terms[self.nodes.abs() > 1e6].abs().sum()) > 1e-6:
                raise Unsolved(f"the {self.name} law seems to have no moment of order {n}")
            moments.append(float(terms.sum()))
        return _from_moments(moments)

    def _exponents(self, e: Tensor) -> Tensor:
        return self.weights.log() + e.unsqueeze(-1) * self.nodes

    def _cgf(self, e: Tensor) -> Tensor:
        return self._exponents(e).logsumexp(-1)

    def _slope(self, e: Tensor) -> Tensor:
        return self._exponents(e).softmax(-1) @ self.nodes

    def _without_tilts(self) -> Unsolved:
        return Unsolved(
            f"whether the {self.name} law has exponential moments is not known; declare its "
            "increment with standardises"
        )

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Standardised(self, *torch.broadcast_tensors(loc, scale))


def _widened(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """A law whose numbers are float64: those it was declared by, rounded no further."""
    seen = {} if seen is None else seen  # a transform and its inverse hold each other
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_widened(v, seen) for v in value)
    if not isinstance(value, Distribution | Transform):
        return value
    if id(value) not in seen:
        seen[id(value)] = clone = copy(value)
        clone.__dict__ = {name: _widened(part, seen) for name, part in vars(value).items()}
    return seen[id(value)]


def _linspace(start: float, end: float, count: int) -> Tensor:
    return torch.linspace(start, end, count, dtype=torch.float64)


def _cos_less(v: Tensor) -> Tensor:
    """cos v − 1, accurate at small v."""
    return -2 * (v / 2).sin() ** 2


def _ends(law: Distribution) -> tuple[float, float]:
    """The ends of the support, as far as it says so."""
    support = law.support
    low = getattr(support, "lower_bound", -math.inf)
    high = getattr(support, "upper_bound", math.inf)
    return float(low), float(high)


def _supports(law: Distribution, x: Tensor) -> Tensor:
    """Where the density of a law is defined; that of an image is where its origin's is."""
    inside = torch.ones_like(x, dtype=torch.bool)
    if law.support is not None:
        inside = law.support.check(x)
    if isinstance(law, torch.distributions.TransformedDistribution):
        for transform in reversed(law.transforms):
            inverse: Any = transform.inv
            x = inverse(x)
        inside = inside & _supports(law.base_dist, x)
    return inside


def _known(law: Distribution, name: str) -> float | None:
    try:
        return float(getattr(law, name))
    except (NotImplementedError, AttributeError):
        return None


def _fisher(log_density: Callable[[Tensor], Tensor], nodes: Tensor, weights: Tensor) -> float:
    """The mean square of the score, at nodes of positive weight."""
    with torch.enable_grad():
        x = nodes[weights > 0].detach().requires_grad_()
        (score,) = torch.autograd.grad(log_density(x).sum(), x)
    return float(weights[weights > 0] @ score**2)


def _entropy_and_fisher(law: Increment, narrowest: float) -> tuple[float, float]:
    """Of a density that holds normal laws of this width: by sums over grids of x and u."""
    step = math.pi / law.reach  # the sum over u repeats f with a period of twice the reach
    u = step * torch.arange(1, 2 + int(9 / (narrowest * step)), dtype=torch.float64)
    count = int(8 * law.reach / narrowest)
    x = torch.linspace(0.0, 2 * law.reach, 2 * count + 1, dtype=torch.float64)  # from −reach on
    signs = 1.0 - 2.0 * (torch.arange(1, len(u) + 1) % 2)  # e^{−i u reach}
    weights = law.cf(u).conj() * signs * step / math.pi
    f = waves(x, u, weights).real + step / (2 * math.pi)
    slope = waves(x, u, 1j * u * weights).real
    seen = f > 1e-13  # f is a sum of numbers of size 1, so below that it is rounding
    f, slope, width = f[seen], slope[seen], law.reach / count
    return -float((f * f.log()).sum()) * width, float((slope**2 / f).sum()) * width


def _radius(law: Increment) -> float:
    r"""A lower bound: :math:`|\varphi(z) - 1| \le e^{K(|z|)} - 1 < 1` in the disc, so φ ≠ 0.

    For symmetric laws; for others both signs are taken.
    """
    low, high = 0.0, min(law.domain[1], 64.0)
    for _ in range(60):
        middle = (low + high) / 2
        both = torch.tensor([middle, -middle], dtype=torch.float64)
        below = float((law.cgf(both).exp() - 1).sum()) < 1
        low, high = (middle, high) if below else (low, middle)
    return low


def _numbers(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def _real(log: Tensor) -> Tensor:
    return torch.complex(log, torch.zeros_like(log))


def _signed(log: Tensor, value: Tensor) -> Tensor:
    """The logarithm of a real number of this modulus and sign."""
    half_turn = torch.full_like(log, math.pi)
    return torch.complex(log, torch.where(value < 0, half_turn, torch.zeros_like(log)))


def _log_sinc(z: Tensor) -> Tensor:
    """log(sin z / z) for real z of any size."""
    small = z.abs() < 1
    far = torch.where(small, torch.ones_like(z), z)
    value = far.sin() / far
    near = log_sinc(torch.where(small, z, torch.zeros_like(z)))
    return _signed(torch.where(small, near, value.abs().log()), value)


def _log1m_less(v: Tensor) -> Tensor:
    """−log(1 − v) − v for v < 1, accurate at small v."""
    small = v.abs() < 0.1
    near, far = torch.where(small, v, 0.0), torch.where(small, -1.0, v)
    series = torch.zeros_like(v)
    for n in range(18, 1, -1):
        series = (series + 1 / n) * near
    return torch.where(small, series * near, -torch.log1p(-far) - far)


def _atan_less(v: Tensor) -> Tensor:
    """atan v − v, accurate at small v."""
    small = v.abs() < 0.1
    near, far = torch.where(small, v, 0.0), torch.where(small, 1.0, v)
    series = torch.zeros_like(v)
    for n in range(19, 1, -2):
        series = (series + (-1) ** (n // 2) / n) * near**2
    return torch.where(small, series * near, torch.atan(far) - far)


def _sin_less(v: Tensor) -> Tensor:
    """sin v − v, accurate at small v."""
    small = v.abs() < 0.3
    near = torch.where(small, v, 0.0)
    series = near**3 * horner(
        tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(1, 9)), near**2
    )
    return torch.where(small, series, v.sin() - v)


def _expm1_less(v: Tensor) -> Tensor:
    """e^v − 1 − v, accurate at small v."""
    small = v.abs() < 0.3
    near, far = torch.where(small, v, 0.0), torch.where(small, 1.0, v)
    series = near**2 * horner(tuple(1 / math.factorial(k) for k in range(2, 18)), near)
    return torch.where(small, series, torch.expm1(far) - far)


def _log_gamma_rule(a: float) -> tuple[Tensor, Tensor]:
    r"""Nodes and weights, of sum one, for the law of log G with G ~ Γ(a, 1): trapezoidal.

    Wide enough for means of :math:`1 / G` and, where these are nearly infinite, of
    :math:`\min(1/G, 10^{20})`.
    """

    def end(sign: float, power: float) -> float:
        top = power * math.log(power) - power
        s, step = math.log(power), sign * 0.02
        while power * s - math.exp(s) > top - 45 and s > -100:
            s, step = s + step, step * 1.05
        return s

    s = torch.linspace(end(-1.0, a - 1), end(1.0, a), 700, dtype=torch.float64)
    return s, (a * s - s.exp()).softmax(0)


def _orders(order: int) -> range:
    return range(1, order + 1)


def _zeta(n: int) -> float:
    return float(zeta(torch.tensor(float(n), dtype=torch.float64)))


def _bernoulli(n: int) -> float:
    r""":math:`B_n` with :math:`B_1 = 0`, by :math:`2 n! \zeta(n) / (2\pi)^n` for even n."""
    if n % 2:
        return 0.0
    sign = -1.0 if n % 4 == 0 else 1.0
    return sign * 2 * math.factorial(n) * _zeta(n) / (2 * math.pi) ** n


def _from_moments(moments: list[float]) -> list[float]:
    """Cumulants from raw moments: m_n = Σ_k C(n−1, k−1) κ_k m_{n−k}."""
    m, cumulants = [1.0, *moments], [0.0]
    for n in range(1, len(m)):
        rest = (math.comb(n - 1, k - 1) * cumulants[k] * m[n - k] for k in range(1, n))
        cumulants.append(m[n] - math.fsum(rest))
    return cumulants[1:]


def _reach(law: Increment) -> float:
    """Chernoff's bound: P(±ξ > r) ≤ exp(K(±e) − er) < e^{−40}/2 for every e."""
    reach = 0.0
    for end, sign in ((law.domain[1], 1.0), (-law.domain[0], -1.0)):
        e = torch.logspace(-3, 3, 400, dtype=torch.float64)
        e = end * (1 - 1 / (1 + e)) if math.isfinite(end) else e
        reach = max(reach, float(((law.cgf(sign * e) + 41) / e).min()))
    return reach


def _infinite(what: str) -> str:
    return (
        f"{what} has no finite variance, so it has no standardised increment; sums of such laws "
        "are not nearly normal but stable: see discdiff.increments.Stable"
    )
