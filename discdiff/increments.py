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
from typing import Any, TypeVar

import pyro.distributions as pyro
import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions import Gumbel as TorchGumbel

from .increment_laws import (
    Lattice,
    LogisticInnovation,
    LogitBeta,
    NegativeLogGamma,
    Rademacher,
    ShiftedGamma,
    SpikedLaplace,
    StudentT,
    TruncatedExponential,
    VarianceGamma,
    tensors,
)
from .numerics.inverse import increasing_inverse
from .numerics.transcendental import (
    EULER,
    circular_langevin,
    langevin,
    log_bessel_k,
    log_gamma_ratio,
    log_sinc,
    log_sinhc,
    zeta,
)
from .solve import Unsolved
from .validation import require

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
        reach: A number that :math:`|\xi|` exceeds with probability below 1e-17 (below 1e-13 where
            the tails are powers).
        radius: Up to where :math:`\log \varphi` is the sum of its cumulants: the radius of
            convergence at 0, or a lower bound where it has no closed form; 0 where cumulants are
            infinite or their series diverges.
        fisher: The Fisher information of its location, ∞ where the density has a jump or worse.
        domain: The open interval where :math:`K` is finite; (0, 0) if there is none.
        entropy: The differential entropy in nats, −∞ for laws with atoms.
    """

    name: str
    divisible: bool
    decomposable: bool
    lattice: bool = False
    reach: float
    radius: float
    fisher: float
    domain: tuple[float, float]
    entropy: float

    def __repr__(self) -> str:
        return f"<increment {self.name}>"

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
        return self._law(*tensors(loc, scale))

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

    def innovation(self, rho: Any, scale: Any) -> Distribution:
        r"""The law of :math:`s \varepsilon_\rho`, with :math:`\xi = \rho \xi' + \varepsilon_\rho`.

        Its characteristic function is :math:`\varphi(s u) / \varphi(\rho s u)`.

        Raises:
            Unsolved: If there is none, or none in closed form.
        """
        return self._innovation(*tensors(rho, scale))

    def _innovation(self, rho: Tensor, scale: Tensor) -> Distribution:
        if self.decomposable:
            raise Unsolved(
                f"the {self.name} law is self-decomposable, but its innovation has no closed "
                "form; normal, Laplace, logistic, gamma and Gumbel laws have one"
            )
        raise Unsolved(
            f"the {self.name} law is not known to be self-decomposable: no noise of fixed shape "
            "keeps it at all times; declare fixed-shape increments instead"
        )

    def levy(self, tau: Any, scale: Any) -> Distribution | None:
        r"""The law of :math:`s L_\tau`, L the Lévy process with :math:`L_1 = \xi`.

        Its characteristic function is :math:`\varphi(s u)^\tau`; None where it has no closed form.
        """
        return self._levy(*tensors(tau, scale)) if self.divisible else None

    def _levy(self, tau: Tensor, scale: Tensor) -> Distribution | None:
        return None

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
        Unsolved: If nothing is registered for its type and it has no density.

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
    raise Unsolved(
        f"no increment is registered for {kind}; known are "
        f"{', '.join(sorted({t.__name__ for t in _registry}))}. Register one with standardises"
    )


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
        return pyro.Normal(loc, scale, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        return self._law(loc + scale * eta, scale)

    def _innovation(self, rho: Tensor, scale: Tensor) -> Distribution:
        return self._law(torch.zeros_like(rho), scale * ((1 - rho) * (1 + rho)).sqrt())

    def _levy(self, tau: Tensor, scale: Tensor) -> Distribution:
        return self._law(torch.zeros_like(tau), scale * tau.sqrt())

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

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return pyro.Laplace(loc, scale / math.sqrt(2), validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        left, right = 1 / (math.sqrt(2) + eta), 1 / (math.sqrt(2) - eta)
        width, skew = scale * (left * right).sqrt(), (left / right).sqrt()
        return pyro.AsymmetricLaplace(loc, width, skew, validate_args=False)

    def _innovation(self, rho: Tensor, scale: Tensor) -> Distribution:
        return SpikedLaplace(torch.zeros_like(rho), scale / math.sqrt(2), rho**2)

    def _levy(self, tau: Tensor, scale: Tensor) -> Distribution:
        return VarianceGamma(torch.zeros_like(tau), scale, tau)

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

    def _law(self, loc: Tensor, scale: Tensor) -> Distribution:
        return pyro.Logistic(loc, math.sqrt(3) / math.pi * scale, validate_args=False)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        s = math.sqrt(3) / math.pi
        return LogitBeta(loc, s * scale, 1 + s * eta, 1 - s * eta)

    def _innovation(self, rho: Tensor, scale: Tensor) -> Distribution:
        return LogisticInnovation(torch.zeros_like(rho), math.sqrt(3) / math.pi * scale, rho)


@standardises(torch.distributions.Uniform)
class Uniform(Increment):
    r"""The uniform law on [−√3, √3], :math:`\varphi = \sin z / z` with z = √3 u."""

    name, divisible, decomposable = "uniform", False, False
    reach, radius, fisher, domain = math.sqrt(3), math.pi / math.sqrt(3), math.inf, REALS
    entropy = math.log(2 * math.sqrt(3))

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
        df = torch.full_like(loc, self.df)
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
        return self._shifted(torch.full_like(loc, self.shape), loc, scale)

    def _shifted(self, k: Tensor, loc: Tensor, scale: Tensor) -> ShiftedGamma:
        return ShiftedGamma(k, scale / self.root, loc - scale * self.root)

    def _tilted(self, loc: Tensor, scale: Tensor, eta: Tensor) -> Distribution:
        width = scale / (self.root - eta)
        return ShiftedGamma(torch.full_like(loc, self.shape), width, loc - scale * self.root)

    def _levy(self, tau: Tensor, scale: Tensor) -> Distribution:
        return ShiftedGamma(self.shape * tau, scale / self.root, -scale * self.root * tau)


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


@standardises(Rademacher)
class Coin(Increment):
    r"""Rademacher's law, ±1 with equal chances, :math:`\varphi = \cos u`."""

    name, divisible, decomposable, lattice = "Rademacher", False, False, True
    reach, radius, fisher, domain = 1.0, math.pi / 2, math.inf, REALS
    entropy = -math.inf

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


def _numbers(x: Any) -> Tensor:
    return torch.as_tensor(x).to(torch.float64)


def _real(log: Tensor) -> Tensor:
    return torch.complex(log, torch.zeros_like(log))


def _signed(log: Tensor, value: Tensor) -> Tensor:
    """The logarithm of a real number of this modulus and sign."""
    return torch.complex(log, torch.where(value < 0, math.pi, 0.0).to(log))


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
