r"""Random walks with any increment law: chains of real numbers in discrete time.

With :math:`\beta_k \in (0, 1)`, :math:`\bar\alpha_k = \prod_{j \le k} (1 - \beta_j)` and a law of
:math:`\xi` of mean zero and variance one, every walk here has

.. math:: \mathbb{E}[x_k \mid x_0] = \sqrt{\bar\alpha_k}\, x_0, \qquad
          \operatorname{Var}[x_k \mid x_0] = 1 - \bar\alpha_k,

the moments of DDPM; the walks differ in where the shape of the law of :math:`\xi` shows:

==================  ====================================================================
`Walk`              in each step: :math:`x_k = \sqrt{1 - \beta_k}\, x_{k-1}
                    + \sqrt{\beta_k}\, \xi_k`
`LevyWalk`          in a Lévy process at time :math:`\tau_k = 1 / \bar\alpha_k - 1`:
                    :math:`x_k = \sqrt{\bar\alpha_k}\, (x_0 + L_{\tau_k})`
`MarginalWalk`      in each marginal: :math:`x_k \sim \sqrt{\bar\alpha_k}\, x_0
                    + \sqrt{1 - \bar\alpha_k}\, \xi`
`ReverseWalk`       in each step back: :math:`x_{k-1} \sim c_0 x_0 + c_k x_k + \sigma_k \xi`
==================  ====================================================================

For a normal law all of them are DDPM. As the steps shrink all of finite variance tend to the same
diffusion. `StableWalk` has increments of infinite variance and another scaling.

References:
    | Non-Normal Diffusion Models (Li, 2024)
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from . import laws
from .chains import Stepped, Stepwise
from .increments import Increment, increment
from .params import as_numbers, declare
from .process import Chain
from .shapes import along
from .solve import Unsolved
from .validation import require, shown


class Steps(Stepwise):
    r"""A walk as a term whose own time is the number of the step.

    Arguments:
        law: The increment law, a distribution of one number; it is standardised.
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).

    Raises:
        ValueError: If a β lies elsewhere, or the law has no finite variance.
    """

    arg_constraints = {"betas": constraints.unit_interval}
    increment: Increment
    betas: Tensor

    def __init__(self, law: Distribution, betas: Tensor | list[float]) -> None:
        super().__init__()
        self.law, self.increment = law, increment(law)
        declare(self, "betas", betas)
        b = self.betas.detach()
        fits = b.dim() == 1 and len(b) > 0 and bool(((b > 0) & (b < 1)).all())
        require(fits, f"betas must be numbers in (0, 1), one per step; they are {shown(b, 8)}")

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.betas)

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        raise Unsolved("this walk is not declared by its steps forward")

    @property
    def log_kept(self) -> Tensor:
        r""":math:`\log \bar\alpha_k` for k = 0 … T."""
        kept = torch.log1p(-self.betas).cumsum(0)
        return torch.cat([torch.zeros_like(kept[:1]), kept])

    def extra_repr(self) -> str:
        return f"{self.increment.name}, {shown(self.betas, 3)}"


class FixedIncrements(Steps):
    r""":math:`x_k = \sqrt{1 - \beta_k}\, x_{k-1} + \sqrt{\beta_k}\, \xi_k`."""

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        beta = along(self.betas[k.long() - 1], x)
        factor = beta.sqrt() / self.law.stddev.to(x)
        loc = (1 - beta).sqrt() * x - factor * self.law.mean.to(x)
        law = laws.Affine(self.law.expand(x.shape), loc, factor.expand_as(x))
        return law.to_event(x.dim() - 1)


class LevyClock(Steps):
    r""":math:`x_k = \sqrt{\bar\alpha_k} (x_0 + L_\tau)` at :math:`\tau = 1/\bar\alpha_k - 1`."""

    def __init__(self, law: Distribution, betas: Tensor | list[float]) -> None:
        super().__init__(law, betas)
        require(
            self.increment.divisible,
            f"a Lévy clock needs an infinitely divisible law; {self.increment.name} is not",
        )


class FixedMarginals(Steps):
    r""":math:`x_k \sim \sqrt{\bar\alpha_k}\, x_0 + \sqrt{1 - \bar\alpha_k}\, \xi`."""

    def __init__(self, law: Distribution, betas: Tensor | list[float]) -> None:
        super().__init__(law, betas)
        require(
            self.increment.decomposable,
            "marginals of one shape need a self-decomposable law, else no Markov chain has them; "
            f"{self.increment.name} is not",
        )


class FixedReversal(Steps):
    r""":math:`x_{k-1} \sim c_0 x_0 + c_k x_k + \sigma_k \xi`, with :math:`\eta` times DDPM's σ."""

    def __init__(self, law: Distribution, betas: Tensor | list[float], eta: float = 1.0) -> None:
        super().__init__(law, betas)
        require(0 < eta <= 1, f"eta must lie in (0, 1]; it is {eta!r}")
        self.eta = float(eta)


class _Walk(Chain):
    """A walk as a chain: index k is its k-th step, 0 the data."""

    kind: ClassVar[type[Steps]]

    def __init__(self, law: Distribution, betas: Tensor | list[float], **options: Any) -> None:
        steps = self.kind(law, betas, **options)
        times = torch.arange(1, steps.count + 1, dtype=torch.float64) / steps.count
        super().__init__(Stepped(steps), times)
        self.law = law

    @property
    def steps(self) -> Steps:
        """The walk as a term in the number of the step."""
        return self.process.process  # type: ignore[return-value]

    @property
    def betas(self) -> Tensor:
        return self.steps.betas

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.steps.extra_repr()})"


class Walk(_Walk):
    r"""A walk whose increments have one shape.

    .. math:: x_k = \sqrt{1 - \beta_k}\, x_{k-1} + \sqrt{\beta_k}\, \xi_k

    Its law given the data is that of :math:`\sum_i c_i \xi_i`, :math:`c_i^2 = \beta_i
    \bar\alpha_k / \bar\alpha_i`: the product of characteristic functions, inverted once per
    index; sampling it costs the same whatever the index.

    Arguments:
        law: The law of :math:`\xi`; it is standardised to mean 0 and variance 1.
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).

    Raises:
        ValueError: If a β lies outside (0, 1), or the law has no finite variance.

    Example:
        >>> from torch.distributions import Laplace
        >>> walk = Walk(Laplace(0.0, 1.0), [0.1, 0.2, 0.3])
        >>> walk.marginal(torch.ones(1, 1), 3).variance  # 1 − 0.9 · 0.8 · 0.7
        tensor([[0.4960]])
    """

    kind = FixedIncrements


class LevyWalk(_Walk):
    r"""A walk that is a Lévy process on a clock.

    .. math:: x_k = \sqrt{\bar\alpha_k}\, (x_0 + L_{\tau_k}), \qquad
              \tau_k = 1 / \bar\alpha_k - 1

    with L the Lévy process of :math:`L_1 \sim \xi`. Gamma increments are DDGM.

    Arguments:
        law: An infinitely divisible law; it is standardised.
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).

    Raises:
        ValueError: If the law is not infinitely divisible.

    References:
        | Denoising Diffusion Gamma Models (Nachmani et al., 2021)
    """

    kind = LevyClock


class MarginalWalk(_Walk):
    r"""A walk whose marginals have one shape.

    .. math:: x_k \sim \sqrt{\bar\alpha_k}\, x_0 + \sqrt{1 - \bar\alpha_k}\, \xi

    Arguments:
        law: A self-decomposable law; it is standardised.
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).

    Raises:
        ValueError: If the law is not self-decomposable.
    """

    kind = FixedMarginals


class ReverseWalk(_Walk):
    r"""A walk that is declared by its steps back, given the data.

    .. math::
        x_T = \sqrt{\bar\alpha_T}\, x_0 + \sqrt{1 - \bar\alpha_T}\, \xi_T, \qquad
        x_{k-1} = \sqrt{\bar\alpha_{k-1}}\, x_0 + \sqrt{1 - \bar\alpha_{k-1} - \sigma_k^2}\,
        \frac{x_k - \sqrt{\bar\alpha_k}\, x_0}{\sqrt{1 - \bar\alpha_k}} + \sigma_k \xi_{k-1}

    with :math:`\sigma_k^2 = \eta^2 \beta_k (1 - \bar\alpha_{k-1}) / (1 - \bar\alpha_k)`. It has
    marginals and bridges; it is no Markov chain forward, so `transition` is `Unsolved`.

    Arguments:
        law: The law of :math:`\xi`; it is standardised.
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).
        eta: The noise, times DDPM's, in (0, 1].

    References:
        | Denoising Diffusion Implicit Models (Song et al., 2021)
    """

    kind = FixedReversal

    def __init__(self, law: Distribution, betas: Tensor | list[float], eta: float = 1.0) -> None:
        super().__init__(law, betas, eta=eta)


def linear_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """DDPM's schedule: equidistant β, float64.

    Example:
        >>> linear_betas(3, 0.1, 0.3)
        tensor([0.1000, 0.2000, 0.3000], dtype=torch.float64)
    """
    return as_numbers(torch.linspace(first, last, steps, dtype=torch.float64), "betas")


def log_snr_betas(steps: int, first: float = 5e-4, last: float = 0.9999) -> Tensor:
    r"""Betas between which the logarithm of the signal-to-noise ratio falls in equal parts.

    .. math:: \log \frac{\bar\alpha_k}{1 - \bar\alpha_k} \text{ linear in } k, \qquad
              1 - \bar\alpha_1 = \text{first}, \quad 1 - \bar\alpha_T = \text{last}

    Steps of few per cent of the noise that is there keep finite-step bounds tight at both ends.

    Arguments:
        steps: T, at least 2.
        first, last: Variances of the noise after the first and the last step, rising in (0, 1).

    Example:
        >>> betas = log_snr_betas(3, 0.1, 0.9)
        >>> 1 - (1 - betas).cumprod(0)
        tensor([0.1000, 0.5000, 0.9000], dtype=torch.float64)
    """
    require(steps >= 2, f"steps must be at least 2; it is {steps}")
    require(0 < first < last < 1, f"0 < first < last < 1 is the rule; they are {first}, {last}")
    low, high = torch.tensor([first, last], dtype=torch.float64).logit().tolist()
    log_kept = logsigmoid(-torch.linspace(low, high, steps, dtype=torch.float64))
    return -torch.expm1(log_kept.diff(prepend=torch.zeros(1, dtype=torch.float64)))
