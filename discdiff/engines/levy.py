r"""Lévy noise under a linear drift: the characteristic function is inverted.

.. math::
    X_t \mid x_s \sim e^{a \tau} x_s + Z_\tau, \qquad
    \log \varphi_{Z_\tau}(u) = c \int_0^\tau \psi(e^{a r} u)\, dr, \qquad \tau = t - s

The integral is by Gauss–Legendre, the inverse by fast transforms (see `numerics.fourier`), once
for each τ of which a density is asked. Without drift a law that is closed at all times stays so;
jumps are drawn one by one, with no table. α-stable noise stays stable, of scale
:math:`(c \int_0^\tau e^{a \alpha r} dr)^{1/\alpha}`. Bridges are Bayes' rule of three densities;
without drift their means, and the whole bridges of Laplace noise, are closed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..increments import Compound
from ..levy import Levy
from ..numerics.fourier import Grid, frequencies, tabulate
from ..numerics.quadrature import gauss_legendre
from ..shapes import along
from ..solve import Engine, Unsolved, solves
from ..tabulated import Book, Tabulated
from ..terms import Linear, LinearDrift
from .jump_noise import JumpNoise
from .renewed_stable import RenewedStable
from .stable import StableBridge
from .walk import WalkEngine
from .walk_bridge import Bridge, LinearBridge

SPREAD = 10.0  # standard deviations that many small jumps reach together
FORGOTTEN = 40.0  # −log of what is left where nothing is
ROUGH = 1e-9  # what frequencies left out may add to a density
NODES = 48  # of the quadrature in time, per unit of the drift


@solves(LinearDrift, Levy)
class LevyNoise(WalkEngine):
    """A scalar linear drift and Lévy noise."""

    technique = "characteristic function, inverted by fast transforms; jumps are drawn one by one"
    jumps = True

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        noises = [term for term in terms if isinstance(term, Levy)]
        return StableNoise(terms) if noises and noises[0].stable else cls(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        Engine.__init__(self, terms)
        drifts = [term for term in terms if isinstance(term, LinearDrift)]
        noises = [term for term in terms if isinstance(term, Levy)]
        if len(noises) != 1 or len(drifts) > 1:
            raise self.unsolved("a sum of several such terms")
        self.a, self.term = _rate(drifts, self), noises[0]
        self.increment: Any = self.term.increment
        self.speed = float(self.term.scale.detach())
        self.symmetric = True
        self.book = Book(self._grid)
        if getattr(self.increment, "lattice", False):
            raise Unsolved(
                f"noise of {self.increment.name} jumps alone leaves an atom, with no density: "
                "give the jumps some noise, CompoundPoisson(rate, jump, noise)"
            )

    def branch(self) -> str:
        return "no drift" if self.a == 0 else "stable" if self.a < 0 else "no limit"

    def index(self, t: Tensor) -> Tensor:
        return t

    def kept(self, s: Tensor, t: Tensor) -> Tensor:
        return 2 * self.a * torch.where(s == t, 0.0, t - s)

    def elapsed(self, power: float, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`c \int_0^\tau e^{p a r} dr`, (B,)."""
        if self.a == 0:
            return self.speed * (t - s)
        rate = power * self.a
        return self.speed * torch.expm1(rate * torch.where(s == t, 0.0, t - s)) / rate

    def crowding(self, s: Tensor, t: Tensor) -> float:
        if self.a != 0 or isinstance(self.increment, Compound):
            return math.inf
        return self.increment.crowding(self.speed * float((t - s).detach().min()))

    def deviation(self, s: Tensor, t: Tensor) -> Tensor:
        """The standard deviation of the noise from s to t, (B,)."""
        return self.term.deviation * self.elapsed(2.0, s, t).sqrt()

    def spread(self, k: Tensor, x: Tensor) -> Tensor:
        return along(self.deviation(torch.zeros_like(k), k), x)

    def width(self, s: Tensor, t: Tensor) -> Tensor:
        largest = self.increment.reach * self.term.deviation * (self.kept(s, t) / 2).exp()
        return SPREAD * self.deviation(s, t) + largest.clamp(min=self.increment.reach)

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Any:
        tau = torch.where(s == t, 0.0, t - s)
        if self.a < 0:
            tau = tau.clamp(max=FORGOTTEN / -self.a)  # what is older has been forgotten
        if bool((tau == 0).any()):
            raise Unsolved("a state that is certain has no density")
        if isinstance(self.increment, Compound):
            return self._jumping(loc, tau)
        if self.a == 0:
            width = torch.full_like(loc, self.term.deviation)
            law = self.increment.levy(along(self.speed * tau, loc).expand_as(loc), width)
            if law is not None:
                return laws.Affine(law, loc, torch.ones_like(loc))
        return self._tabulated(loc, tau)

    def _tabulated(self, loc: Tensor, tau: Tensor) -> Tabulated:
        """The law by tables, one for each time."""
        scale = along(self.deviation(torch.zeros_like(tau), tau), loc, torch.float64)
        rows = along(self.book.rows(tau.tolist(), loc.device), loc, torch.int64)
        return Tabulated(loc, scale.expand_as(loc), rows, self.book)

    def _jumping(self, loc: Tensor, tau: Tensor) -> JumpNoise:
        """The law of jumps, which are drawn one by one."""
        zero, speed = torch.zeros_like(tau), self.speed
        integrals = self.elapsed(1.0, zero, tau), self.elapsed(2.0, zero, tau)
        deviation, unit = self.deviation(zero, tau), self.term.deviation / self.increment.root
        table = lambda: self._tabulated(loc, tau)
        times = speed * tau, integrals, self.a / speed
        return JumpNoise(loc, deviation, *times, unit, self.increment, table)

    def _log_cf(self, u: Tensor, tau: float) -> Tensor:
        """The logarithm of the characteristic function of the noise, at u (n,)."""
        panels = max(1, math.ceil(abs(self.a) * tau))
        total = torch.zeros_like(u, dtype=torch.complex128)
        for k in range(panels):
            r, weights = gauss_legendre(NODES, k * tau / panels, (k + 1) * tau / panels)
            each = self.term.log_cf(u * (self.a * r).exp().unsqueeze(1))
            total = total + (weights.unsqueeze(1) * each).sum(0)
        return self.speed * total

    def _grid(self, key: Any) -> Grid:
        at = torch.tensor([key], dtype=torch.float64)
        unit = float(self.deviation(torch.zeros_like(at), at))
        reach = float(self.width(torch.zeros_like(at), at)) / unit
        log_cf = lambda u: self._log_cf(u.double() / unit, key)
        _, error = frequencies(log_cf, reach)
        if error > ROUGH:
            raise Unsolved(
                f"the density of {self.increment.name} noise after a time {key:g} is too rough to "
                f"be tabulated: frequencies left out add {error:.1e}"
            )
        return tabulate(log_cf, reach)

    def linear(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        zero = torch.zeros_like(s)
        ratio, a_s = (along((self.kept(*k) / 2).exp(), x) for k in ((s, t), (zero, s)))
        share = along(self.elapsed(2.0, zero, s) / self.elapsed(2.0, zero, t), x)
        return a_s * x_0 + share * ratio * (x - a_s * ratio * x_0)

    def _between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Any:
        if bool(t.isinf().all()) and self.a < 0:  # of the data nothing is left there
            return self._from(x_0, torch.zeros_like(s), s)
        return self.given_end(x_0, x, s, t)

    def given_end(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Any:
        """The bridge from a state that tells of the data."""
        if self.a != 0:
            return Bridge(self, x_0, x, s, t)
        early, late = (along(self.speed * k, x, torch.float64).expand_as(x) for k in (s, t))
        law = self.increment.levy_bridge((x - x_0) / self.term.deviation, early, late)
        if law is None:
            return LinearBridge(self, x_0, x, s, t)
        return laws.Affine(law, x_0, torch.full_like(x, self.term.deviation))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        if self.a >= 0:
            raise self.unsolved("limit, as nothing is forgotten: it")
        zero = torch.zeros(shape[0], dtype=torch.float64)
        law = self.noise(torch.zeros(shape), zero, torch.full_like(zero, math.inf))
        return law.to_event(len(shape) - 1)


class StableNoise(LevyNoise, RenewedStable):
    """A scalar linear drift and symmetric stable noise, which stays stable."""

    technique = "closed form: stable"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.alpha = self.increment.alpha

    def grown(self, s: Tensor, t: Tensor) -> Tensor:
        """The scale of the noise from s to t, (B,), in units of that of the law."""
        return self.elapsed(self.alpha, s, t) ** (1 / self.alpha)

    def spread(self, k: Tensor, x: Tensor) -> Tensor:
        return along(self.grown(torch.zeros_like(k), k), x)

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Any:
        return self.increment.law(loc, along(self.grown(s, t), loc).expand_as(loc))

    def linear(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        zero = torch.zeros_like(s)
        ratio, a_s = (along((self.kept(*k) / 2).exp(), x) for k in ((s, t), (zero, s)))
        share = along(self.elapsed(self.alpha, zero, s) / self.elapsed(self.alpha, zero, t), x)
        return a_s * x_0 + share * ratio ** (self.alpha - 1) * (x - a_s * ratio * x_0)

    def given_end(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Any:
        return StableBridge(self, x_0, x, s, t)


def _rate(drifts: list[Any], engine: Engine) -> float:
    """The rate a of a scalar drift without b."""
    if not drifts:
        return 0.0
    drift = drifts[0]
    scalar = isinstance(drift, Linear) and not drift.functions and drift.A.dim() == 0
    if not scalar or bool((drift.b != 0).any()):
        raise engine.unsolved("a drift other than Linear(a), a one number,")
    return float(drift.scale.detach() * drift.A.detach())
