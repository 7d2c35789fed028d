r"""Student's increment."""

from __future__ import annotations

import math

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from ..numerics.quadrature import real_line
from ..numerics.transcendental import incomplete_beta, log_bessel_k
from ..solve import Unsolved
from ..validation import require
from .base import NOWHERE, Increment, without_variance
from .cumulants import cumulants_from, orders
from .log_cf import real_log
from .registry import standardises


class StudentT(pyro.StudentT):
    """Student's law with its distribution function.

    Example:
        >>> StudentT(3.0).cdf(torch.tensor([0.0, 1.0]))
        tensor([0.5000, 0.8045])
    """

    def cdf(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        half = torch.full_like(self.df, 0.5)
        tail = incomplete_beta(self.df / 2, half, self.df / (self.df + y**2)) / 2
        return torch.where(y > 0, 1 - tail, tail)


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
        require(df > 2, without_variance(f"StudentT of {df:g} degrees of freedom"))
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
        return real_log(torch.where(small, series, large))

    def _cumulants(self, order: int) -> list[float]:
        if order >= self.df and order > 2:
            raise Unsolved(f"the {self.name} law has no cumulants of order {self.df:g} or more")
        return cumulants_from([self._moment(n) for n in orders(order)])

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


@register_kl(StudentT, StudentT)
def _kl_student(p: StudentT, q: StudentT) -> Tensor:
    r"""No closed form: the trapezoidal rule in t, where the variable is sinh t, to 1e-12."""
    t, w = (v.to(p.loc) for v in real_line(1201, 24.0))
    y = torch.sinh(t)
    df_p, df_q = p.df.unsqueeze(-1), q.df.unsqueeze(-1)
    z = (p.loc - q.loc).unsqueeze(-1) + p.scale.unsqueeze(-1) * y
    log_p = -(df_p + 1) / 2 * torch.log1p(y**2 / df_p) - _log_norm(df_p)
    log_q = -(df_q + 1) / 2 * torch.log1p((z / q.scale.unsqueeze(-1)) ** 2 / df_q) - _log_norm(
        df_q
    )
    gap = log_p - log_q + (q.scale / p.scale).log().unsqueeze(-1)
    return (w * torch.cosh(t) * log_p.exp() * gap).sum(-1)


def _log_norm(df: Tensor) -> Tensor:
    beta = torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2)
    return beta + 0.5 * (math.pi * df).log()
