r"""Scalar and diagonal Gaussian processes.

For :math:`dx = (a x + b)\, dt + g\, dW` entry by entry,

.. math::
    x_t \mid x_s \sim \mathcal{N}(\varphi x_s + m, v), \qquad
    \varphi = e^{a \tau}, \quad m = b\, \frac{e^{a \tau} - 1}{a}, \quad
    v = g^2\, \frac{e^{2 a \tau} - 1}{2 a}, \quad \tau = t - s,

and for rates that are functions of time the same with integrals, by Gauss–Legendre quadrature in
panels of unit own time, whose products are kept in a tree.
The statistic that closes the heads is :math:`x_0`: the score is
:math:`(\varphi \hat x_0 + m - x) / v`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import mse_loss

from .. import estimates, laws
from ..estimates import Atoms, Data, Epsilon, Estimate, Mean, Normal, Velocity
from ..numerics.linalg import spanning
from ..numerics.quadrature import gauss_legendre, tail_integrals
from ..numerics.special import expm1_quotient, expm1_ratio
from ..params import Versions, changes
from ..shapes import along, span
from ..solve import Score, Tempo, Unsolved
from ..terms import Linear, Noise
from ..validation import shown, values_are_checked
from .affine import AffineEngine, Entrywise, aligned
from .horizon import horizon, require_near
from .renewed import carried

NODES = (40, 64, 128, 192, 256)
TOLERANCE = 1e-9  # of the sum over all panels


@dataclass(frozen=True)
class Moments:
    r""":math:`\varphi, m, v` of shape (B,), or (B, k) where a diagonal was declared."""

    phi: Tensor
    mean: Tensor
    variance: Tensor

    def then(self, late: Moments) -> Moments:
        """The moments of this transition followed by another one."""
        mean = late.phi * self.mean + late.mean
        return Moments(late.phi * self.phi, mean, late.phi**2 * self.variance + late.variance)

    def at(self, index: Any) -> Moments:
        """Some of the transitions."""
        return Moments(self.phi[index], self.mean[index], self.variance[index])

    def beside(self, other: Moments) -> Moments:
        """These transitions, and others behind them."""
        pairs = zip(_values(self), _values(other), strict=True)
        return Moments(*(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True)
class Rule:
    """Gauss–Legendre on [0, 1]: nodes, weights and the integrals from each node to 1."""

    nodes: Tensor
    weights: Tensor
    tails: Tensor

    @classmethod
    def of(cls, count: int) -> Rule:
        """The rule of this many nodes."""
        return cls(*gauss_legendre(count, 0.0, 1.0), tail_integrals(count))


class Gaussian(AffineEngine):
    """Scalar and diagonal linear diffusions, solved in closed form."""

    technique = "closed form"
    speaks = (Mean, Epsilon, Velocity, estimates.Score, Normal)
    _fixed: tuple[Tensor, Tensor, Tensor] | None = None  # the rates, where they never change

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.drifts = [term for term in terms if isinstance(term, Linear)]
        self.noises = [term for term in terms if isinstance(term, Noise)]
        self.varying = any(d.functions for d in self.drifts) or any(
            n.function is not None for n in self.noises
        )
        zero = self._start()
        with torch.enable_grad():
            a, b, g2 = self._rates(zero)
        if not self.varying:
            _require_noise(g2.detach()[0])
        shapes = {v.shape[1:] for v in (a, b, g2) if v.dim() > 1}
        self.diagonal = bool(shapes)
        self.drifting = bool(b.detach().ne(0).any()) or self.varying or b.requires_grad
        self.changes = a.requires_grad
        self.stable = not self.varying and bool((a.detach() < 0).all())
        self.forgets = self.varying or bool((a.detach() != 0).any())
        moves = self.varying or any(v.requires_grad for v in (a, b, g2))
        self._fixed = None if moves else (a, b, g2)
        self._learned = changes(*terms) or any(v.requires_grad for v in (a, b, g2))
        self._last: tuple[Tensor, Versions, Moments] | None = None
        self._ratio = expm1_ratio if moves or bool((a == 0).any()) else expm1_quotient
        self._rules: dict[int, Rule] = {}  # by the number of panels that they resolve
        if self.varying:
            self._resolve(1)

    def branch(self) -> str:
        if self.varying:
            nodes = len(self._rules[max(self._rules)].nodes)
            return f"rates vary: Gauss–Legendre, {nodes} nodes a unit of own time"
        form = "diagonal" if self.diagonal else "scalar"
        return f"{form}, {'stable' if self.stable else 'no limit'}"

    def _start(self) -> Tensor:
        """The time 0, shape (1,), where the numbers are."""
        return self.terms[0].instant(0.0)

    # -- moments -------------------------------------------------------------------------------

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and g² at times (B,), each of shape (1 or B,) or (1 or B, k)."""
        if self._fixed is not None:
            return self._fixed
        a = b = g2 = torch.zeros(1, dtype=torch.float64, device=t.device)
        for drift in self.drifts:
            a = _plus(
                a, drift.scale * self._number(drift.number("A", t), "A" in drift.functions, t)
            )
            b = _plus(
                b, drift.scale * self._vector(drift.number("b", t), "b" in drift.functions, t)
            )
        for noise in self.noises:
            B = self._number(noise.number(t), noise.function is not None, t)
            g2 = _plus(g2, noise.scale * B**2)
        return a, b, g2

    def _number(self, value: Tensor, per_time: bool, t: Tensor) -> Tensor:
        if value.dim() - (per_time and value.dim() > 0) == 2:
            raise Unsolved(
                "matrices in Linear or Noise have no engine: scalars and diagonals (vectors on "
                "the last axis) are solved; simulate the process with matrices instead"
            )
        return self._vector(value, per_time, t)

    def _vector(self, value: Tensor, per_time: bool, t: Tensor) -> Tensor:
        if per_time:
            return value.expand(t.shape) if value.dim() == 0 else value
        return value.reshape(1, *value.shape)

    def moments(self, s: Tensor | None, t: Tensor) -> Moments:
        """The moments of the transition from s to t; of the marginal where s is None.

        Raises:
            Unsolved: If there are none: what does not contract has no law at infinity.
        """
        if self.varying:
            moments = self._varying(s, t)
        else:
            moments = self._closed(t if s is None else span(s, t), t)
        if not self.stable and values_are_checked(t):
            size = moments.phi.abs() + moments.variance
            if not bool(size.isfinite().all()):
                late = t[~size.isfinite().reshape(len(size), -1).all(1).expand(t.shape)]
                raise Unsolved(
                    f"no law exists at the own times {shown(late)}: a drift coefficient is ≥ 0 "
                    "(or varies), and the law spreads without bound. Way out: a clock with a "
                    "finite end, such as clock.Constant, Linear or Geometric"
                )
        return moments

    def _variance(self, t: Tensor) -> Tensor:
        """That of the marginal given the data."""
        if not self.stable or self.diagonal:
            return self.moments(None, t).variance
        a, _, g2 = self._rates(t)
        return g2 * self._ratio(2 * a, t)

    def _closed(self, tau: Tensor, t: Tensor) -> Moments:
        """The moments for rates that do not vary."""
        a, b, g2 = self._rates(t)
        if self.diagonal:
            tau = tau.unsqueeze(-1)
            a, b, g2 = (v.unsqueeze(-1) if v.dim() == 1 else v for v in (a, b, g2))
        # At the largest number e^{aτ} is what it is at ∞, without the gradient 0 · ∞.
        growth = (a * tau.clamp(max=torch.finfo(tau.dtype).max)).exp()
        mean = b * self._ratio(a, tau) if self.drifting else torch.zeros_like(growth)
        return Moments(growth, mean, g2 * self._ratio(2 * a, tau))

    def _varying(self, s: Tensor | None, t: Tensor) -> Moments:
        """The moments for rates that vary, found once where one time was expanded."""
        if len(t) == 1 or t.stride() != (0,) or (s is not None and s.stride() != (0,)):
            return self._kept(t) if s is None else self._integrated(s, t)
        one = self._varying(None if s is None else s[:1], t[:1])
        return Moments(*(v.expand(len(t), *v.shape[1:]) for v in _values(one)))

    def _kept(self, t: Tensor) -> Moments:
        """The moments of the marginal, which a loss asks for several times at the same times."""
        zero = torch.zeros_like(t)
        if self._learned or t.requires_grad or not values_are_checked(t):
            return self._integrated(zero, t)
        if self._last is None or not (
            torch.equal(self._last[0], t) and self._last[1].hold(self._numbers())
        ):
            with torch.inference_mode(False), torch.no_grad():
                times = t.clone()
                self._last = times, Versions(self._numbers()), self._integrated(0 * times, times)
        return self._last[2]

    def _numbers(self) -> list[Tensor]:
        """Every declared number."""
        return [v for term in self.terms for v in (*term.parameters(), *term.buffers())]

    def _integrated(self, s: Tensor, t: Tensor) -> Moments:
        """The moments for rates that vary: to the next edge, over whole panels, to the end."""
        panels = self._panels(t)
        rule = self._rules[panels]
        if panels == 1:
            return self._step(s, torch.where(t <= 1, t, torch.nan), rule)
        first, last = s.detach().ceil(), t.detach().floor().clamp(max=panels)
        within = first > last  # both times lie in one panel
        t = torch.where(t <= panels, t, torch.nan)
        moments = self._step(s, torch.where(within, t, first), rule)
        tree = self._tree(panels, rule)
        for node in spanning(first, last, panels):
            moments = moments.then(tree.at(node))
        return moments.then(self._step(torch.where(within, t, last), t, rule))

    def _panels(self, t: Tensor) -> int:
        """The number of panels, of unit own time, that reach to all t and are resolved."""
        panels = horizon(t, self._rules)
        if panels not in self._rules:
            self._resolve(panels)
        return panels

    def _tree(self, panels: int, rule: Rule) -> Moments:
        """The identity, the product of all panels, those of both halves, …, the panels."""
        edges = torch.arange(panels + 1, dtype=torch.float64, device=self._start().device)
        level = tree = self._step(edges[:-1], edges[1:], rule)
        while len(level.phi) > 1:
            level = level.at(slice(0, None, 2)).then(level.at(slice(1, None, 2)))
            tree = level.beside(tree)
        one = torch.ones_like(level.phi)
        return Moments(one, 0 * one, 0 * one).beside(tree)

    def _step(self, s: Tensor, t: Tensor, rule: Rule) -> Moments:
        """The moments within a panel, by quadrature."""
        whole = (t - s).unsqueeze(-1)
        u, w = s.unsqueeze(-1) + whole * rule.nodes.to(t), whole * rule.weights.to(t)
        a, b, g2 = self._on_nodes(u)
        length = (t - s).reshape((-1,) + (1,) * (a.dim() - 1))
        left = length * torch.einsum("mn,bn...->bm...", rule.tails.to(a), a)
        rest = left.exp()
        phi = torch.einsum("bn,bn...->b...", w, a).exp()
        mean = torch.einsum("bn,bn...->b...", w, rest * b)
        variance = torch.einsum("bn,bn...->b...", w, rest**2 * g2)
        return Moments(phi, mean, variance)

    def _on_nodes(self, u: Tensor) -> list[Tensor]:
        """The rates at times of any shape."""
        rates = self._rates(u.reshape(-1))
        values = [v.expand(u.numel(), *v.shape[1:]).reshape(*u.shape, *v.shape[1:]) for v in rates]
        return [v.unsqueeze(-1) if self.diagonal and v.dim() == 2 else v for v in values]

    @torch.no_grad()
    def _resolve(self, panels: int) -> None:
        """Finds the first rule that resolves the functions in each of so many unit panels.

        Raises:
            ValueError: If the functions are not smooth there.
            Unsolved: If these are more panels than are looked at.
        """
        require_near(panels)
        edges = torch.arange(panels + 1, dtype=torch.float64, device=self._start().device)
        coarse, gap = self._step(edges[:-1], edges[1:], Rule.of(NODES[0])), torch.inf
        for nodes in NODES[1:]:
            rule = Rule.of(nodes)
            fine = self._step(edges[:-1], edges[1:], rule)
            gap = max(_apart(*pair) for pair in zip(*map(_values, (fine, coarse)), strict=True))
            if gap < TOLERANCE:
                self._rules[panels] = rule
                return
            coarse = fine
        raise ValueError(
            f"the functions in Linear or Noise are not smooth on [0, {panels}] of own time: with "
            f"{NODES[-1]} nodes per unit of it moments still change by {gap:.1e}, above "
            f"{TOLERANCE:g}"
        )

    def _fit(self, value: Tensor, x: Tensor) -> Tensor:
        """Numbers (B,) or (B, k) against a state."""
        if value.dim() == 2:
            shape = (value.shape[0],) + (1,) * (x.dim() - 2) + value.shape[1:]
            return value.to(x.dtype).reshape(shape)
        return along(value, x)

    # -- laws ----------------------------------------------------------------------------------

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        moments = self.moments(s, t)
        return normal(self._centre(x, moments), self._fit(moments.variance.sqrt(), x))

    def perturb(self, x_0: Tensor, t: Tensor) -> tuple[Tensor, Estimate]:
        """A draw, with the noise itself as the target: what the data say of it at x_t."""
        moments = self.moments(None, t)
        noise = torch.randn_like(x_0)
        x = self._fit(moments.variance.sqrt(), x_0) * noise
        x = x.addcmul_(self._fit(moments.phi, x_0), x_0)
        return x + self._fit(moments.mean, x_0) if self.drifting else x, Epsilon(noise)

    def _centre(self, x_0: Tensor, moments: Moments) -> Tensor:
        centre = self._fit(moments.phi, x_0) * x_0
        return centre + self._fit(moments.mean, x_0) if self.drifting else centre

    def log_chance(self, x_0: Tensor, x: Tensor, t: Tensor) -> Tensor | None:
        if not bool((t == 0).any()):
            return None
        return torch.where((along(t, x) == 0) & (x != x_0), -torch.inf, torch.zeros_like(x))

    def around(self, centre: Tensor, c: Tensor) -> Distribution:
        return normal(centre, aligned(c, centre))

    def affine(self, kind: type, s: Tensor, t: Tensor, eta: float) -> Entrywise:
        r"""The step to s that keeps the marginal, with noise :math:`\eta` times the bridge's.

        .. math:: x_s = \varphi_s \hat x_0 + m_s + \sqrt{v_s - \eta^2 w}\, \hat\varepsilon
                  + \eta \sqrt{w}\, \xi, \qquad w = v_s v_{t|s} / v_t

        Its share of :math:`x_t` is the root of
        :math:`(1 - \eta^2)\, v_s / v_t + \eta^2\, (\varphi_{t|s} v_s / v_t)^2`.

        References:
            | Denoising Diffusion Implicit Models (Song et al., 2021)
        """
        early, whole = self._from_zero(s, t)
        noisy = whole.variance > 0  # where nothing is noisy yet, nothing moves
        total = torch.where(noisy, whole.variance, 1.0)
        left = torch.where(noisy, early.variance / total, 1.0)
        gain, noise = left.sqrt(), None
        if eta:
            late = self.moments(s, t)
            bridge = late.phi * left
            if eta > 1:
                anew = torch.where(left > 0, late.variance / total, 0.0)
                gain = (left * carried(eta, anew)).sqrt()
            else:
                gain = bridge if eta == 1 else _blend(gain, bridge, eta)
            noise = eta * (left * late.variance).sqrt()
        p, q = self._reading(kind, whole)
        rest = early.phi - gain * whole.phi
        a, b = gain + rest * p, rest * q
        return Entrywise(a, b, early.mean - a * whole.mean if self.drifting else None, noise)

    def spread(self, estimate: Normal, s: Tensor, t: Tensor, eta: float) -> Tensor:
        r""":math:`\sqrt{c^2 + b^2 w}`, with b the factor of :math:`\hat x_0`."""
        move, w = self.affine(Mean, s, t, eta), estimate.variance
        widened = self._fit(move.b.square(), w) * w
        if move.c is not None:
            widened = widened + self._fit(move.c.square(), w)
        return widened.sqrt()

    def _from_zero(self, s: Tensor, t: Tensor) -> tuple[Moments, Moments]:
        """The moments from 0 to s and to t, found together."""
        both = torch.cat([s, t])
        moments = self.moments(None, both)
        parts = [v.tensor_split([len(s)]) for v in vars(moments).values()]
        return Moments(*(v for v, _ in parts)), Moments(*(v for _, v in parts))

    def reading(self, kind: type, t: Tensor) -> Entrywise:
        r""":math:`\hat x_0` from the state and what the network says of it."""
        moments = self.moments(None, t)
        p, q = self._reading(kind, moments)
        return Entrywise(p, q, -p * moments.mean if self.drifting else None)

    def _reading(self, kind: type, moments: Moments) -> tuple[Tensor, Tensor]:
        r"""The numbers of :math:`\hat x_0 = p\, (x - m) + q\, e`, for what a network says."""
        self.require_said(kind)
        phi, variance = moments.phi, moments.variance
        if issubclass(kind, Data | Mean):
            return torch.zeros_like(phi), torch.ones_like(phi)
        if issubclass(kind, Epsilon):
            return 1 / phi, -variance.sqrt() / phi
        if issubclass(kind, estimates.Score):
            return 1 / phi, variance / phi
        square = phi**2 + variance
        return phi / square, -variance.sqrt() / square

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        mean, variance = self._stationary()
        like = torch.zeros(shape, device=mean.device)
        mean, variance = self._fit(mean, like), self._fit(variance, like)
        return normal(mean.expand(shape), variance.sqrt().expand(shape))

    def _stationary(self) -> tuple[Tensor, Tensor]:
        """The mean and the variance of the limit law."""
        a, b, g2 = self._rates(self._start())
        if not self.stable or (self.changes and not bool((a.detach() < 0).all())):
            raise Unsolved(
                "there is no limit law: a drift coefficient is ≥ 0 (or varies in time). Way out: "
                "process.prior on a clock with a finite end"
            )
        return -b / a, g2 / (-2 * a)

    def rewind(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r"""The law of :math:`X_s` given :math:`X_t = x` in the limit, which is reversible."""
        self._stationary()
        return self.transition(x, s, t)

    def limit_score(self, x: Tensor) -> Tensor:
        """The score of the limit law."""
        mean, variance = (self._fit(v, x) for v in self._stationary())
        return (mean - x) / variance

    # -- scores and estimates ------------------------------------------------------------------

    def epsilon_of(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\hat\varepsilon = (x - \varphi \hat x_0 - m) / \sqrt v`."""
        if isinstance(estimate, Normal):
            return self.epsilon_of(estimate.mean, x, t)
        if isinstance(estimate, Epsilon):
            return estimate.value
        moments = self.moments(None, t)
        std = self._fit(moments.variance.sqrt(), x)
        if isinstance(estimate, estimates.Score):
            return -std * estimate.value
        if isinstance(estimate, Velocity):
            phi = self._fit(moments.phi, x)
            centred = x - self._fit(moments.mean, x) if self.drifting else x
            return (std * centred + phi * estimate.value) / (phi**2 + std**2)
        return (x - self._centre(self.mean_of(estimate, x, t), moments)) / std

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        if isinstance(estimate, Normal):
            return self.score(estimate.mean, x, t)
        if isinstance(estimate, estimates.Score):
            return Score(gradient=estimate.value)
        moments = self.moments(None, t)
        return Score(
            gradient=-self.epsilon_of(estimate, x, t) / self._fit(moments.variance.sqrt(), x)
        )

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        if kind is Mean:
            return Mean(self.mean_of(estimate, x, t))
        if kind is Normal and isinstance(estimate, Atoms):
            mean = estimate.average(estimate.atoms)
            square = estimate.average(estimate.atoms**2)
            return Normal(Mean(mean), (square - mean**2).clamp(min=0))  # it rounds below 0
        if kind is Epsilon:
            return Epsilon(self.epsilon_of(estimate, x, t))
        if kind is estimates.Score:
            return estimates.Score(self.score(estimate, x, t).gradient)
        if kind is Velocity:
            moments = self.moments(None, t)
            phi, std = self._fit(moments.phi, x), self._fit(moments.variance.sqrt(), x)
            x_0, epsilon = self.mean_of(estimate, x, t), self.epsilon_of(estimate, x, t)
            return Velocity(phi * epsilon - std * x_0)
        raise self.unsolved(f"conversion to {kind.__name__}")

    def kl_rate(
        self, target: Any, estimate: Any, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor | None] | None:
        if self.diagonal:
            return None
        epsilon, goal = self.epsilon_of(estimate, x, t), self.epsilon_of(target, x, t)
        return mse_loss(epsilon, goal, reduction="none"), None

    def coefficient(self, t: Tensor) -> Tensor:
        r""":math:`g^2 / 2 v`; of a diagonal, the mean over its coordinates."""
        return _over(self._share(t), t)

    def trace(self, x: Tensor, t: Tensor) -> Tensor:
        return self._fit(self._share(t), x).expand(x.shape)

    def _share(self, t: Tensor) -> Tensor:
        return self._rates(t)[2] / (2 * self._variance(t))

    def snr(self, t: Tensor) -> Tensor:
        r""":math:`\varphi^2 / v`."""
        moments = self.moments(None, t)
        return moments.phi**2 / moments.variance

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        r""":math:`\mathcal{N}(\hat x_0, v / \varphi^2)`, or the law that is said."""
        if isinstance(estimate, Normal):
            return normal(self.mean_of(estimate, x, t), estimate.variance.sqrt())
        moments = self.moments(None, t)
        std = self._fit(moments.variance.sqrt() / moments.phi.abs(), x)
        return normal(self.mean_of(estimate, x, t), std)

    def survival(self, t: Tensor) -> Tensor:
        r""":math:`\varphi^2`, which is :math:`e^{-\Lambda}` for variance-preserving noise."""
        return _over(self.moments(None, t).phi ** 2, t)

    def tempo(self) -> Tempo:
        r""":math:`\varphi^2 = e^{2 a t}` of the slowest and of the fastest coordinate."""
        if self.varying:
            return Tempo()
        rates = 2 * self._rates(self._start())[0].detach().abs()
        slow, fast = float(rates.min()), float(rates.max())
        return Tempo(slow, fast) if slow > 0 else Tempo()

    def profile(self, z: Tensor, breadth: float = 0.0) -> Tensor:
        # A network's loss is flat in z where noise is low, and falls as e^{-z} where it is high.
        return (-z).sigmoid() * torch.where(z < -12, ((z + 12) / 2).exp(), torch.ones_like(z)) + (
            -(z.abs() / 2)
        ).exp() / 8


def _blend(a: Tensor, b: Tensor, eta: float) -> Tensor:
    r""":math:`\sqrt{(1 - \eta^2) a^2 + \eta^2 b^2}`."""
    return torch.hypot((1 - eta**2) ** 0.5 * a, eta * b)


def _over(value: Tensor, t: Tensor) -> Tensor:
    """Numbers (B,), the mean over coordinates where there are several."""
    return (value if value.dim() == 1 else value.flatten(1).mean(1)).expand(t.shape)


def _require_noise(g2: Tensor) -> None:
    """Raises where noise reaches some coordinates of a diagonal, but not all."""
    if g2.dim() and bool(g2.any()) and not bool(g2.all()):
        raise Unsolved(
            f"no noise reaches coordinates {(g2 == 0).nonzero()[:, 0].tolist()} of the last axis: "
            "their law has no density. Way out: a part of their own in a Product, or .given"
        )


def _values(moments: Moments) -> list[Tensor]:
    return list(vars(moments).values())


def _apart(fine: Tensor, coarse: Tensor) -> float:
    """The sum over panels of how far moments are apart, relative to large ones."""
    gap = (fine - coarse).abs() / fine.abs().clamp(min=1)
    return float(gap.reshape(len(gap), -1).amax(1).sum())


def normal(mean: Tensor, std: Tensor) -> Distribution:
    """Independent normal laws, entry by entry."""
    law = laws.Normal(mean, std.expand(mean.shape), validate_args=False)
    return law.to_event(mean.dim() - 1)


def _plus(a: Tensor, b: Tensor) -> Tensor:
    """The sum of numbers (1 or B,) and (1 or B, k)."""
    if a.dim() < b.dim():
        a = a.unsqueeze(-1)
    elif b.dim() < a.dim():
        b = b.unsqueeze(-1)
    return a + b
