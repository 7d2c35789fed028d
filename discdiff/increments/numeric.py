r"""Increments known by nothing but a density: all else by quadrature."""

from __future__ import annotations

import math
from copy import copy
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Transform

from ..laws import _RealLaw
from ..numerics.less import cos_less, sin_less
from ..numerics.quadrature import composite, gauss_legendre, panels
from ..numerics.waves import waves
from ..solve import Unsolved
from ..validation import require
from .base import NOWHERE, REALS, Increment, doubles, without_variance
from .cumulants import cumulants_from, orders
from .log_cf import real_log
from .measured import fisher_of, radius_of

FOLLOWED = 64.0  # frequencies up to which a phase is followed


class Standardised(_RealLaw):
    """The law of loc + scale · ξ for an increment that is known by its numbers only."""

    def __init__(self, law: Numeric, loc: Tensor, scale: Tensor) -> None:
        self.increment, self.loc, self.scale = law, loc, scale
        super().__init__(loc.shape)

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
        return self.increment.below(doubles(z)).to(self.loc.dtype)


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
        require(
            math.isfinite(self.deviation) and self.deviation < 1e12, without_variance(self.name)
        )
        if not self.error <= 1e-8:  # nor NaN
            raise Unsolved(f"the density of {type(law).__name__} has mass {mass:.10g}, not 1")
        spread = p * ((x - self.mean) / self.deviation) ** 2
        far = (x - self.centre).abs() > 1e8 * self.width
        require(float(spread[far].sum()) < 1e-6, without_variance(type(law).__name__))
        self._panels: Tensor = (edges - self.mean) / self.deviation
        self._masses: Tensor = p.reshape(-1, 15).sum(-1) / mass
        self.nodes: Tensor = (x - self.mean) / self.deviation
        self.means = ((low - self.mean) / self.deviation, (high - self.mean) / self.deviation)
        self.weights: Tensor = p / mass
        self.reach = self._find_reach()
        self.radius = radius_of(self) if bounded else 0.0
        log = self.density(self.nodes)
        terms = torch.where(self.weights > 0, self.weights * log, torch.zeros_like(log))
        self.entropy = -float(terms.sum())
        self.fisher = self._find_fisher()

    def _require_density(self) -> None:
        law, kind = self.base, type(self.base).__name__
        variance = _known(law, "variance")
        require(variance is None or math.isfinite(variance), without_variance(kind))
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
        return self._log_value(self.mean + self.deviation * doubles(xi)) + math.log(self.deviation)

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

    def _powers(self) -> list[float]:
        """The powers of the distance by which the density begins at the ends of its support."""
        near = torch.tensor([1e-7, 1e-6], dtype=torch.float64)
        ends = zip(self._panels[[0, -1]], (1, -1), _ends(self.base), strict=True)
        logs = [self.density(end + way * near) for end, way, at in ends if math.isfinite(at)]
        return [float(log[1] - log[0]) / math.log(10) for log in logs]

    def _find_fisher(self) -> float:
        """∞ if, at an end of the support, f grows like the distance to it, or less smoothly."""
        if any(power < 1.01 for power in self._powers()):
            return math.inf
        return fisher_of(self.density, self.nodes, self.weights)

    def crowding(self, tau: float) -> float:
        """Of one increment, by how its density begins where that is infinite."""
        least = min(self._powers(), default=0.0)
        return 1 + least if least < -0.01 else math.inf

    def _log_cf(self, u: Tensor) -> Tensor:
        flat = u.reshape(-1).abs()
        if not flat.numel():
            return real_log(u)
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
        real, imag = cos_less(turn) @ weights, sin_less(turn) @ weights
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
        for n in orders(order):
            terms = self.weights * self.nodes**n
            if float(terms[self.nodes.abs() > 1e6].abs().sum()) > 1e-6:
                raise Unsolved(f"the {self.name} law seems to have no moment of order {n}")
            moments.append(float(terms.sum()))
        return cumulants_from(moments)

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
