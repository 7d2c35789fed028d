r"""Clocks: a noise schedule is a change of time.

A clock sends :math:`t \in [0, 1]` to the own time :math:`\Lambda(t)` of a homogeneous process,
with :math:`\Lambda(0) = 0`, increasing, and :math:`\Lambda(1)` possibly infinite. It is declared
by :math:`\Lambda` with a small *relative* error in float64, which alone is lossless at both ends,
by its rate :math:`\Lambda'` and its inverse. The share of the data that is left is
:math:`e^{-\Lambda}`; the natural variable of time integrals is

.. math:: z = \log(e^{\Lambda} - 1) = -\operatorname{logit} e^{-\Lambda}.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from .numerics.autodiff import gradient
from .numerics.special import log1pexp, logexpm1
from .params import Declared, declare, fixed, increasing, nonnegative
from .validation import require, require_kind, shown

Number = float | Tensor
LAST = 1 - 2.0**-53  # the end of the open interval: the last time before 1


class Clock(Declared, ABC):
    """A change of time on [0, 1]. Times are float64 tensors of any shape."""

    smooth: ClassVar[bool] = True  # whether the rate has derivatives of all orders on (0, 1)
    endless: ClassVar[bool] = False  # whether time goes on for ever

    @abstractmethod
    def forward(self, t: Tensor) -> Tensor:
        r""":math:`\Lambda(t)`."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        r""":math:`\Lambda'(t)`."""

    @abstractmethod
    def inverse(self, u: Tensor) -> Tensor:
        r"""The time t at which :math:`\Lambda(t) = u`."""

    def survival(self, t: Tensor) -> Tensor:
        r""":math:`e^{-\Lambda(t)}`."""
        return (-self(t)).exp()

    def z(self, t: Tensor) -> Tensor:
        r"""The natural variable :math:`\log(e^{\Lambda(t)} - 1)`."""
        return logexpm1(self(t))

    def from_z(self, z: Tensor) -> Tensor:
        """The time at which the natural variable is z."""
        return self.inverse(log1pexp(z))

    def slope(self, t: Tensor) -> Tensor:
        r""":math:`dz/dt = \Lambda' / (1 - e^{-\Lambda})`."""
        return self.rate(t) / -torch.expm1(-self(t))


class Spread:
    r"""A clock seen by a process that spreads for ever: its natural variable is another.

    Noise of variance :math:`\Lambda` on data of variance one leaves the signal-to-noise ratio
    :math:`1 / \Lambda`, not :math:`e^{-\Lambda}`; so

    .. math:: z = \log \Lambda,

    which is the same near :math:`\Lambda = 0`.

    Arguments:
        clock: The clock; none for a process in its own time, :math:`\Lambda(t) = t` on [0, ∞).
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock
        self.endless = clock is None

    def instant(self, t: float) -> Tensor:
        return (self.clock or OwnTime()).instant(t)

    def __call__(self, t: Tensor) -> Tensor:
        return t if self.clock is None else self.clock(t)

    def inverse(self, integral: Tensor) -> Tensor:
        return integral if self.clock is None else self.clock.inverse(integral)

    def z(self, t: Tensor) -> Tensor:
        return self(t).log()

    def from_z(self, z: Tensor) -> Tensor:
        return self.inverse(z.exp())

    def slope(self, t: Tensor) -> Tensor:
        return 1 / t if self.clock is None else self.clock.rate(t) / self.clock(t)


class Paced:
    r"""A clock seen by a process that forgets at another rate c than one.

    .. math:: z = \log(e^{c \Lambda} - 1)

    A process that is c times as fast on a clock has the natural variable of the process itself
    on a clock that is c times as fast.

    Arguments:
        clock: The clock, or own time.
        pace: The rate c.
    """

    def __init__(self, clock: Clock | OwnTime, pace: float) -> None:
        self.clock, self.pace = clock, pace
        self.endless = clock.endless

    def instant(self, t: float) -> Tensor:
        return self.clock.instant(t)

    def z(self, t: Tensor) -> Tensor:
        return logexpm1(self.pace * self._integral(t))

    def from_z(self, z: Tensor) -> Tensor:
        own = log1pexp(z) / self.pace
        return self.clock.inverse(own) if isinstance(self.clock, Clock) else own

    def slope(self, t: Tensor) -> Tensor:
        own = self.pace * self._integral(t)
        rate = self.clock.rate(t) if isinstance(self.clock, Clock) else 1.0
        return self.pace * rate / -torch.expm1(-own)

    def _integral(self, t: Tensor) -> Tensor:
        return self.clock(t) if isinstance(self.clock, Clock) else t


class OwnTime:
    r"""The clock of a process without one: :math:`\Lambda(t) = t` on [0, ∞)."""

    endless = True

    def instant(self, t: float) -> Tensor:
        return torch.full((1,), t, dtype=torch.float64)

    def z(self, t: Tensor) -> Tensor:
        return logexpm1(t)

    def from_z(self, z: Tensor) -> Tensor:
        return log1pexp(z)

    def slope(self, t: Tensor) -> Tensor:
        return 1 / -torch.expm1(-t)


class Constant(Clock):
    r""":math:`\Lambda(t) = r t`.

    Arguments:
        rate: The rate r > 0.

    Raises:
        ValueError: If the rate is not positive and finite.

    Example:
        >>> Constant(4.0)(torch.tensor([0.5]))
        tensor([2.])
    """

    arg_constraints = {"speed": constraints.positive}
    speed: Tensor

    def __init__(self, rate: Number) -> None:
        super().__init__()
        _require_given(rate, "rate", finite=False)
        declare(self, "speed", rate)
        require_positive(self.speed, "rate")

    def forward(self, t: Tensor) -> Tensor:
        return self.speed * t

    def rate(self, t: Tensor) -> Tensor:
        return self.speed.expand(t.shape)

    def inverse(self, u: Tensor) -> Tensor:
        return u / self.speed

    def __repr__(self) -> str:
        return f"Constant({_number(self.speed)})"


class Linear(Clock):
    r""":math:`\Lambda(t) = \int_0^t \beta`, with :math:`\beta` linear from b0 to b1.

    Arguments:
        b0: :math:`\beta(0) \ge 0`.
        b1: :math:`\beta(1) > 0`.

    Raises:
        ValueError: If b0 is negative or b1 not positive.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al.,
          2021)

    Example:
        >>> Linear(0.1, 20.0)(torch.tensor([1.0]))
        tensor([10.0500])
    """

    arg_constraints = {"b0": nonnegative, "b1": constraints.positive}
    b0: Tensor
    b1: Tensor

    def __init__(self, b0: Number, b1: Number) -> None:
        super().__init__()
        declare(self, "b0", b0)
        declare(self, "b1", b1)
        require_number(self.b0, "b0")
        require(bool(self.b0.detach() >= 0), f"b0 must be ≥ 0; it is {_number(self.b0)}")
        require_positive(self.b1, "b1")

    def forward(self, t: Tensor) -> Tensor:
        return t * torch.lerp(self.b0.to(t), self.b1.to(t), t / 2)

    def rate(self, t: Tensor) -> Tensor:
        return torch.lerp(self.b0.to(t), self.b1.to(t), t)

    def inverse(self, u: Tensor) -> Tensor:
        # The root of (b1 − b0)/2 t² + b0 t = u in the form that does not cancel.
        root = (self.b0**2 + 2 * (self.b1 - self.b0) * u).clamp(min=0).sqrt()
        return torch.where(u == 0, torch.zeros_like(u), 2 * u / (self.b0 + root))

    def __repr__(self) -> str:
        return f"Linear({_number(self.b0)}, {_number(self.b1)})"


class Cosine(Clock):
    r"""Survival :math:`e^{-\Lambda} = \cos^2(\pi t / 2)`.

    References:
        | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021)

    Example:
        >>> Cosine().survival(torch.tensor(0.5))
        tensor(0.5000)
    """

    def forward(self, t: Tensor) -> Tensor:
        # −log cos² = log(1 + tan²) near 0; −2 log sin(π(1 − t)/2) near 1: each exact at its end.
        late = t > 0.5
        tan = torch.tan(math.pi / 2 * torch.where(late, torch.zeros_like(t), t))
        left = torch.where(late, 1 - t, torch.full_like(t, 0.5))
        return torch.where(late, -2 * torch.sin(math.pi / 2 * left).log(), torch.log1p(tan**2))

    def rate(self, t: Tensor) -> Tensor:
        late = t > 0.5
        tan = torch.tan(math.pi / 2 * torch.where(late, torch.zeros_like(t), t))
        left = torch.where(late, 1 - t, torch.full_like(t, 0.5))
        return math.pi * torch.where(late, 1 / torch.tan(math.pi / 2 * left), tan)

    def inverse(self, u: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.expm1(u).sqrt())

    def __repr__(self) -> str:
        return "Cosine()"


class LogLinear(Clock):
    r"""Survival :math:`1 - t`.

    Example:
        >>> LogLinear().survival(torch.tensor(0.25))
        tensor(0.7500)
    """

    def forward(self, t: Tensor) -> Tensor:
        return -torch.log1p(-t)

    def rate(self, t: Tensor) -> Tensor:
        return 1 / (1 - t)

    def inverse(self, u: Tensor) -> Tensor:
        return -torch.expm1(-u)

    def __repr__(self) -> str:
        return "LogLinear()"


class Logistic(Clock):
    r"""Survival :math:`(\sigma(c(1 - 2t)) - \sigma(-c)) / (\sigma(c) - \sigma(-c))`.

    Uniform in logit survival but for the ends, as the observation times of blackout diffusion.

    Arguments:
        c: The logit of the survival near the ends, positive.

    Raises:
        ValueError: If c is not positive and finite.

    Example:
        >>> Logistic(15.0).survival(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.5000, 0.0000])
    """

    arg_constraints = {"c": constraints.positive}
    c: Tensor

    def __init__(self, c: Number) -> None:
        super().__init__()
        declare(self, "c", c)
        require_positive(self.c, "c")
        require(
            bool(self.c.detach() <= 700), f"c must be ≤ 700, as e^c is; it is {_number(self.c)}"
        )

    # With σ(a) − σ(b) = sinh((a − b)/2) / (2 cosh(a/2) cosh(b/2)):
    #   survival     = sinh(c(1 − t)) cosh(c/2) / (cosh(c(1 − 2t)/2) sinh c)
    #   1 − survival = sinh(c t) cosh(c/2) / (cosh(c(1 − 2t)/2) sinh c)
    # so that survival / (1 − survival) = sinh(c(1 − t)) / sinh(c t), exact at both ends.

    def forward(self, t: Tensor) -> Tensor:
        return log1pexp(self.z(t))

    def z(self, t: Tensor) -> Tensor:
        # As log sinh(ct) = log t + log c + …, the number c has no part in the infinite ends.
        return t.log() - torch.log1p(-t) + _log_sinhc(self.c * t) - _log_sinhc(self.c * (1 - t))

    def rate(self, t: Tensor) -> Tensor:
        # Λ = log(1 + e^z), so Λ' = σ(z) z' with z' = c (coth(c t) + coth(c(1 − t)));
        # σ(z) coth(ct) = sinh(ct)/(sinh(ct) + sinh(c(1−t))) · coth(ct): finite at t = 0.
        share = self.z(t).sigmoid()
        late = share * self.c / torch.tanh(self.c * (1 - t))
        total = 2 * torch.sinh(self.c / 2)  # sinh(ct) + sinh(c(1−t)) = 2 sinh(c/2) cosh(c(½−t))
        early = self.c * torch.cosh(self.c * t) / (total * torch.cosh(self.c * (0.5 - t)))
        return late + early

    def inverse(self, u: Tensor) -> Tensor:
        return self.from_z(logexpm1(u))

    def from_z(self, z: Tensor) -> Tensor:
        # sinh(ct) = e^z sinh(c − ct)  ⇔  tanh(ct) = sinh c / (e^{−z} + cosh c)
        # ct = ½ log((1 + e^{z+c}) / (1 + e^{z−c})) = ½ log1p(2 sinh(c) e^z / (1 + e^{z−c}))
        c = self.c
        late = z > 0  # by symmetry t(z) = 1 − t(−z); both halves are computed without cancellation
        w = torch.where(late, -z, z)
        ratio = 2 * torch.sinh(c) * w.exp() / (1 + (w - c).exp())
        early = torch.log1p(ratio) / (2 * c)
        return torch.where(late, 1 - early, early)

    def __repr__(self) -> str:
        return f"Logistic({_number(self.c)})"


class Geometric(Clock):
    r""":math:`\Lambda(t) = s_0^2 ((s_1 / s_0)^{2t} - 1)`: variance-exploding noise.

    Arguments:
        s0: Smallest standard deviation, positive.
        s1: Largest standard deviation, larger than s0.

    Raises:
        ValueError: Unless 0 < s0 < s1.

    Example:
        >>> Geometric(1.0, 3.0)(torch.tensor([1.0]))
        tensor([8.])
    """

    arg_constraints = {"s0": constraints.positive, "ratio": constraints.greater_than(1.0)}
    s0: Tensor
    ratio: Tensor  # s1 / s0: what is left of s1 once s0 is free

    def __init__(self, s0: Number, s1: Number) -> None:
        super().__init__()
        declare(self, "s0", s0)
        require_positive(self.s0, "s0")
        _require_given(s1, "s1")
        declare(self, "ratio", s1 / self.s0)
        require(
            bool(self.ratio.detach() > 1),
            f"s1 must be larger than s0 = {_number(self.s0)}; it is {_number(self.s1)}",
        )
        end = self.s1.detach() ** 2
        fits = bool(self.s0.detach() ** 2 > 0) and bool(end.isfinite())
        require(fits, f"s0² and s1² must be float64; s0 is {_number(self.s0)}, s1 {s1}")

    @property
    def s1(self) -> Tensor:
        return self.ratio * self.s0

    @property
    def growth(self) -> Tensor:
        return 2 * self.ratio.log()

    def forward(self, t: Tensor) -> Tensor:
        return self.s0**2 * torch.expm1(self.growth * t)

    def rate(self, t: Tensor) -> Tensor:
        return self.s0**2 * self.growth * (self.growth * t).exp()

    def inverse(self, u: Tensor) -> Tensor:
        return torch.log1p(u / self.s0**2) / self.growth

    def __repr__(self) -> str:
        return f"Geometric({_number(self.s0)}, {_number(self.s1)})"


class Power(Clock):
    r""":math:`\Lambda(t) = (c t)^p`.

    With p = 2 a process of unit noise has the standard deviation :math:`c t`.

    Arguments:
        scale: The number c > 0.
        power: The exponent p > 0.

    Raises:
        ValueError: If a number is not positive and finite.

    Example:
        >>> Power(80.0, 2.0)(torch.tensor([0.5]))
        tensor([1600.])
    """

    arg_constraints = {"scale": constraints.positive, "power": fixed}
    scale: Tensor
    power: Tensor

    def __init__(self, scale: Number, power: Number = 1.0) -> None:
        super().__init__()
        for name, value in (("scale", scale), ("power", power)):
            declare(self, name, value)
            require_positive(getattr(self, name), name)

    def forward(self, t: Tensor) -> Tensor:
        return (self.scale * t) ** self.power

    def rate(self, t: Tensor) -> Tensor:
        return self.power * self.scale * (self.scale * t) ** (self.power - 1)

    def inverse(self, u: Tensor) -> Tensor:
        return u ** (1 / self.power) / self.scale

    def __repr__(self) -> str:
        return f"Power({_number(self.scale)}, {_number(self.power)})"


class Odds(Clock):
    r""":math:`\Lambda(t) = (t / (1 - t))^p`, infinite at t = 1.

    Noise on this clock with p = 2, times 1 − t, is the straight line from the data to noise.

    Arguments:
        power: The exponent p > 0.

    Raises:
        ValueError: If the exponent is not positive and finite.

    Example:
        >>> Odds(2.0)(torch.tensor([0.5, 0.75, 1.0]))
        tensor([1., 9., inf])
    """

    arg_constraints = {"power": fixed}
    power: Tensor

    def __init__(self, power: Number = 1.0) -> None:
        super().__init__()
        declare(self, "power", power)
        require_positive(self.power, "power")

    def forward(self, t: Tensor) -> Tensor:
        return (t / (1 - t)) ** self.power

    def rate(self, t: Tensor) -> Tensor:
        return self.power * (t / (1 - t)) ** (self.power - 1) / (1 - t) ** 2

    def inverse(self, u: Tensor) -> Tensor:
        return 1 / (1 + u ** (-1 / self.power))

    def __repr__(self) -> str:
        return f"Odds({_number(self.power)})"


class LogSNR(Clock):
    r"""A log-ratio of noise to signal that is linear in t, counted from its start.

    .. math:: \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) t, \qquad
              \Lambda(t) = \log \frac{1 + e^{\gamma(t)}}{1 + e^{\gamma_0}}

    A variance-preserving process has then
    :math:`e^{-\Lambda} = \operatorname{sigmoid}(-\gamma(t)) / \operatorname{sigmoid}(-\gamma_0)`.

    Arguments:
        low: :math:`\gamma_0`, at t = 0.
        high: :math:`\gamma_1`, at t = 1.

    Raises:
        ValueError: Unless low < high.

    References:
        | Variational Diffusion Models (Kingma et al., 2021)

    Example:
        >>> LogSNR(-13.3, 5.0).survival(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.9845, 0.0067])
    """

    low: Tensor
    arg_constraints = {"range": constraints.positive}
    range: Tensor  # high − low: what is left of high once low is free

    def __init__(self, low: Number, high: Number) -> None:
        super().__init__()
        declare(self, "low", low)
        require_number(self.low, "low")
        _require_given(high, "high")
        declare(self, "range", high - self.low)
        ok = bool(self.range.detach() > 0)
        require(ok, f"low must be below high; they are {_number(self.low)} and {high}")

    def gamma(self, t: Tensor) -> Tensor:
        r""":math:`\gamma(t)`."""
        return self.low + self.range * t

    def forward(self, t: Tensor) -> Tensor:
        return torch.log1p(self.low.sigmoid() * torch.expm1(self.range * t))

    def rate(self, t: Tensor) -> Tensor:
        return self.range * self.gamma(t).sigmoid()

    def inverse(self, u: Tensor) -> Tensor:
        return torch.log1p(torch.expm1(u) / self.low.sigmoid()) / self.range

    def __repr__(self) -> str:
        return f"LogSNR({_number(self.low)}, {_number(self.low + self.range)})"


class Function(Clock):
    r"""Any increasing function :math:`\Lambda = f(t)` with f(0) = 0.

    The rate is found by autograd and the inverse by bisection, so f should be accurate near its
    ends; use a closed-form clock where there is one.

    Arguments:
        f: A function of float64 times of any shape.

    Raises:
        ValueError: If f(0) is not 0 or f does not increase on a grid of 129 times.

    Example:
        >>> Function(lambda t: t**2).rate(torch.tensor(0.5))
        tensor(1.)
    """

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        require(callable(f), f"f must be a function of times; it is {f!r}")
        t = torch.linspace(0, 1, 129, dtype=torch.float64)
        values = f(t)
        require(
            isinstance(values, Tensor) and values.shape == t.shape,
            f"f must return a tensor of the shape of its times, {tuple(t.shape)}; it returns "
            f"{tuple(values.shape) if isinstance(values, Tensor) else repr(values)}",
        )
        values = values.detach()
        require(abs(float(values[0])) == 0.0, f"f(0) must be 0; it is {float(values[0]):g}")
        bad = ~(values[1:] > values[:-1])
        require(not bool(bad.any()), f"f must increase; it does not near t = {shown(t[1:][bad])}")
        self.f = f

    def forward(self, t: Tensor) -> Tensor:
        return self.f(t)

    def rate(self, t: Tensor) -> Tensor:
        return gradient(self.f, t)

    def inverse(self, u: Tensor) -> Tensor:
        return _bisect(self.f, u)

    def __repr__(self) -> str:
        return f"Function({getattr(self.f, '__name__', self.f)!s})"


class Learned(Clock):
    r"""A trainable clock with pinned ends: :math:`\Lambda = B(w(t))` for a base clock B.

    :math:`w` is increasing and piecewise linear from 0 to 1 on equal panels, with a softmax of
    free logits as increments: it starts as the identity, and both ends stay those of the base
    clock. :math:`\Lambda` has the base clock's relative accuracy near 0; near 1 it has that of
    1 − w, which is a float64 multiple of 2⁻⁵³.

    Arguments:
        base: The clock at the start; its value at t = 1 stays, also if infinite.
        panels: Number of panels.

    Example:
        >>> Learned(Constant(2.0), 4)(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0., 1., 2.], grad_fn=<MulBackward0>)
    """

    arg_constraints = {"base": fixed}
    smooth = False

    def __init__(self, base: Clock | None = None, panels: int = 16) -> None:
        super().__init__()
        whole = isinstance(panels, int) and panels >= 1 and panels is not True
        require(whole, f"panels must be an integer ≥ 1; it is {panels}")
        require_kind(base, Clock | None, "base must be a Clock")
        self.base = base if base is not None else LogLinear()
        self.panels = panels
        self.logits = nn.Parameter(torch.zeros(panels, dtype=torch.float64))

    def _knots(self) -> tuple[Tensor, Tensor]:
        """The increments of w, and w at the left ends of the panels."""
        share = self.logits.softmax(0)
        return share, share.cumsum(0) - share

    def _warp(self, t: Tensor) -> tuple[Tensor, Tensor]:
        share, left = self._knots()
        panel = (t * self.panels).long().clamp(0, self.panels - 1)
        inside = t * self.panels - panel
        # From the right end in the last panel, so that 1 − w keeps its relative accuracy.
        near_one = 1 - share[-1] * (1 - t) * self.panels
        w = torch.where(panel == self.panels - 1, near_one, left[panel] + share[panel] * inside)
        return w.to(t.dtype), (share[panel] * self.panels).to(t.dtype)

    def forward(self, t: Tensor) -> Tensor:
        w = self._warp(t)[0]
        # The ends are pinned: their gradient in the logits is 0, not the base clock's ∞ · 0.
        return self.base(torch.where((t > 0) & (t < 1), w, w.detach()))

    def rate(self, t: Tensor) -> Tensor:
        w, slope = self._warp(t)
        return self.base.rate(w) * slope

    def inverse(self, u: Tensor) -> Tensor:
        share, left = self._knots()
        w = self.base.inverse(u)
        panel = (
            torch.searchsorted(left.detach(), w.detach().contiguous(), right=True).clamp(min=1) - 1
        )
        return (panel + (w - left[panel]) / share[panel]) / self.panels

    def __repr__(self) -> str:
        return f"Learned({self.base!r}, {self.panels})"


class Tabulated(Clock):
    r"""A monotone piecewise-linear interpolation of a table of :math:`\Lambda`.

    Arguments:
        t: Times from 0 to 1, increasing.
        integral: :math:`\Lambda` at these times, from 0, increasing and finite.

    Raises:
        ValueError: If a table does not increase or has the wrong ends.

    Example:
        >>> Tabulated([0.0, 0.5, 1.0], [0.0, 1.0, 4.0])(torch.tensor(0.75))
        tensor(2.5000)
    """

    arg_constraints = {"knots": fixed, "integral": increasing}
    smooth = False
    knots: Tensor
    integral: Tensor

    def __init__(self, t: Tensor | list[float], integral: Tensor | list[float]) -> None:
        super().__init__()
        declare(self, "knots", t)
        declare(self, "integral", integral)
        t_, v = self.knots.detach(), self.integral.detach()
        require(
            t_.shape == v.shape and t_.dim() == 1 and len(t_) >= 2,
            "t and integral must be vectors of one size ≥ 2; their shapes are "
            f"{tuple(t_.shape)} and {tuple(v.shape)}",
        )
        for name, values in (("t", t_), ("integral", v)):
            bad = ~values.isfinite()
            require(
                not bool(bad.any()), f"{name} must be finite; it contains {shown(values[bad])}"
            )
        require(float(t_[0]) == 0 and float(t_[-1]) == 1, "t must run from 0 to 1")
        require(float(v[0]) == 0, f"integral must start at 0; it starts at {float(v[0]):g}")
        require(bool((t_.diff() > 0).all() and (v.diff() > 0).all()), "both tables must increase")

    def _panel(self, table: Tensor, at: Tensor) -> Tensor:
        index = torch.searchsorted(table.detach(), at.detach().contiguous(), right=True) - 1
        return index.clamp(0, table.shape[0] - 2)

    def _slope(self, panel: Tensor) -> Tensor:
        return (self.integral.diff() / self.knots.diff())[panel]

    def forward(self, t: Tensor) -> Tensor:
        panel = self._panel(self.knots, t.to(self.knots.dtype))
        return (self.integral[panel] + self._slope(panel) * (t - self.knots[panel])).to(t.dtype)

    def rate(self, t: Tensor) -> Tensor:
        return self._slope(self._panel(self.knots, t.to(self.knots.dtype))).to(t.dtype)

    def inverse(self, u: Tensor) -> Tensor:
        panel = self._panel(self.integral, u.to(self.integral.dtype))
        return (self.knots[panel] + (u - self.integral[panel]) / self._slope(panel)).to(u.dtype)

    def __repr__(self) -> str:
        return f"Tabulated({self.knots.shape[0]} knots)"


def require_number(value: Tensor, name: str) -> None:
    """Raises unless a declared number is one finite number."""
    shape = tuple(value.shape)
    require(shape == (), f"{name} must be a number; its shape is {shape}")
    require(bool(value.detach().isfinite()), f"{name} must be finite; it is {_number(value)}")


def require_positive(value: Tensor, name: str) -> None:
    """Raises unless a declared number is one positive and finite number."""
    shape = tuple(value.shape)
    require(shape == (), f"{name} must be a number; its shape is {shape}")
    ok = bool(value.detach() > 0) and bool(value.detach().isfinite())
    require(ok, f"{name} must be positive and finite; it is {_number(value)}")


def _require_given(value: Number, name: str, finite: bool = True) -> None:
    """Raises unless an argument that is kept under another name is one number."""
    real = isinstance(value, Tensor | float | int) and not isinstance(value, bool)
    require(real, f"{name} must be a number; it is {value!r}")
    if finite:
        require_number(torch.as_tensor(value, dtype=torch.float64), name)


def _log_sinhc(x: Tensor) -> Tensor:
    r""":math:`\log(\sinh(x) / x)` for x ≥ 0, smooth at 0."""
    small = x < 0.1
    s = torch.where(small, x, torch.zeros_like(x)) ** 2
    near = s / 6 * (1 - s / 30 * (1 - 4 * s / 63 * (1 - 3 * s / 40)))  # next: x¹⁰/467775
    far = torch.where(small, torch.ones_like(x), x)
    far = far - (2 * far).log() + torch.log1p(-(-2 * far).exp())
    return torch.where(small, near, far)


def _bisect(f: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """The time at which an increasing f is u, to one rounding of t."""
    low, high = torch.zeros_like(u), torch.ones_like(u)
    for _ in range(100):
        middle = (low + high) / 2
        below = f(middle) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _number(value: Tensor) -> str:
    value = value.detach()
    return f"{float(value):g}" if value.dim() == 0 else str(value.tolist())
