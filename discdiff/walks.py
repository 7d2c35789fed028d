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

For a normal law all of them are DDPM. As the steps shrink `Walk`, and `ReverseWalk` off its end,
tend to the same diffusion; `LevyWalk` and `MarginalWalk` keep their marginals and become processes
that jump, which no score carries back: the mean of the data or their law does. `StableWalk` has
increments of infinite variance and another scaling; given its latent variances it is a chain of
normal steps, a `MixedWalk`.

References:
    | Non-Normal Diffusion Models (Li, 2024)
    | Denoising Lévy Probabilistic Models (Shariatian et al., 2025)
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from . import laws
from .chains import Stepped, Stepwise, every
from .increments import Increment, Stable, increment
from .params import as_numbers, declare
from .process import Chain
from .shapes import along
from .solve import Unsolved
from .validation import require, shown


class Contracting(Stepwise):
    r"""Steps with a share of noise: :math:`\beta_1 \dots \beta_T`, each in (0, 1)."""

    arg_constraints = {"betas": constraints.unit_interval}
    betas: Tensor

    def __init__(self, betas: Tensor | list[float]) -> None:
        super().__init__()
        declare(self, "betas", betas)
        beta = self.betas.detach()
        fits = beta.dim() == 1 and len(beta) > 0 and bool(((beta > 0) & (beta < 1)).all())
        require(fits, f"betas must be numbers in (0, 1), one per step; they are {shown(beta, 8)}")

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.betas)

    @property
    def log_kept(self) -> Tensor:
        r""":math:`\log \bar\alpha_k` for k = 0 … T."""
        kept = torch.log1p(-self.betas).cumsum(0)
        return torch.cat([torch.zeros_like(kept[:1]), kept])


class Steps(Contracting):
    r"""A walk as a term whose own time is the number of the step.

    Arguments:
        law: The increment law, a distribution of one number; it is standardised.
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).

    Raises:
        ValueError: If a β lies elsewhere, or the law has no finite variance.
    """

    increment: Increment

    def __init__(self, law: Distribution, betas: Tensor | list[float]) -> None:
        super().__init__(betas)
        self.law, self.increment = law, increment(law)

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        raise Unsolved("this walk is not declared by its steps forward")

    def extra_repr(self) -> str:
        return f"{self.increment.name}, {shown(self.betas, 3)}"


class FixedIncrements(Steps):
    r""":math:`x_k = \sqrt{1 - \beta_k}\, x_{k-1} + \sqrt{\beta_k}\, \xi_k`."""

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        beta = along(self.betas[k.long() - 1], x)
        # atoms are found again but for rounding, and images of laws do not say their moments
        if self.increment.lattice or not _says_moments(self.law):
            law = self.increment.law((1 - beta).sqrt() * x, beta.sqrt())
            return law.to_event(x.dim() - 1)  # type: ignore[attr-defined]
        factor = beta.sqrt() / self.law.stddev.to(x)
        loc = (1 - beta).sqrt() * x - factor * self.law.mean.to(x)
        law = laws.Affine(self.law.expand(x.shape), loc, factor.expand_as(x))
        return law.to_event(x.dim() - 1)


def _says_moments(law: Distribution) -> bool:
    try:
        return bool(law.mean.isfinite() & law.stddev.isfinite())
    except NotImplementedError:
        return False


class LevyClock(Steps):
    r""":math:`x_k = \sqrt{\bar\alpha_k} (x_0 + L_\tau)` at :math:`\tau = 1/\bar\alpha_k - 1`."""

    def __init__(self, law: Distribution, betas: Tensor | list[float]) -> None:
        super().__init__(law, betas)
        self.increment.require_divisible("a Lévy clock")


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

    backward = True

    def __init__(self, law: Distribution, betas: Tensor | list[float], eta: float = 1.0) -> None:
        super().__init__(law, betas)
        kept = self.log_kept.detach()
        share = self.betas.detach()[1:] / -torch.expm1(kept[2:])  # of all noise, per σ² at η = 1
        most = float(share.max().rsqrt()) if len(share) else 1.0
        within = 0 < eta <= 1 or 0 < eta < most
        end = f"(0, {most:.6g})" if most > 1 else "(0, 1]"
        require(within, f"eta must lie in {end}, where σ² is less than the noise; it is {eta!r}")
        self.eta = float(eta)


class StableIncrements(Contracting):
    r""":math:`x_k = (1 - \beta_k)^{1/\alpha} x_{k-1} + \beta_k^{1/\alpha} \varepsilon_k`.

    Arguments:
        alpha: α, in (0, 2].
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).
        scale: s > 0, of :math:`\varphi(u) = e^{-|su|^\alpha}`.
    """

    def __init__(self, alpha: float, betas: Tensor | list[float], scale: float = 1.0) -> None:
        super().__init__(betas)
        self.increment = Stable(alpha, scale)

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        beta, root = along(self.betas[k.long() - 1], x), 1 / self.increment.alpha
        law = self.increment.law((1 - beta) ** root * x, (beta**root).expand_as(x))
        return law.to_event(x.dim() - 1)

    def extra_repr(self) -> str:
        return f"{self.increment.alpha:g}, {shown(self.betas, 3)}"


class MixedIncrements(Contracting):
    r""":math:`x_k = \gamma_k x_{k-1} + \sigma_k \sqrt{A_k}\, G_k`, with the :math:`A_k` given.

    Arguments:
        stable: The steps without the :math:`A_k`.
        mixing: :math:`A_1 \dots A_T > 0`, shape (T, *event) or (T, B, *event), where sizes of one
            stand for entries with a variance in common.

    Raises:
        ValueError: If they are not as many as the steps, or not positive.
    """

    mixing: Tensor

    def __init__(self, stable: StableIncrements, mixing: Tensor) -> None:
        super().__init__(stable.betas.detach())
        self.increment = stable.increment
        fits = mixing.dim() > 0 and len(mixing) == self.count
        rule = f"mixing must have {self.count} rows, one for each step"
        require(fits, f"{rule}; its shape is {tuple(mixing.shape)}")
        rule = "mixing must be positive and finite"
        require(bool(((mixing > 0) & mixing.isfinite()).all()), f"{rule}; it is {shown(mixing)}")
        self.register_buffer("mixing", mixing)
        self.event = tuple(mixing.shape[1:])

    def summed(self, weights: Tensor, x: Tensor) -> Tensor:
        r""":math:`\sum_i w_i A_i` for weights (B, T), of the shape of x, float64.

        Raises:
            ValueError: If the :math:`A_i` fit no state of this shape.
        """
        mixing, own = self.mixing.double(), self.mixing.dim() == x.dim() + 1
        shape, given = tuple(x.shape) if own else tuple(x.shape[1:]), tuple(mixing.shape[1:])
        events = zip(given[own:], shape[own:], strict=True)
        fits = len(given) == len(shape) and given[:own] == shape[:own]
        fits = fits and all(one in (1, size) for one, size in events)
        rule = f"mixing of {self.count} steps of shape {given} fits no state of"
        require(fits, f"{rule} shape {tuple(x.shape)}")
        if own:
            return torch.einsum("bt,tb...->b...", weights, mixing).expand(x.shape)
        each = (weights @ mixing.flatten(1)).reshape(len(weights), *given)
        return each.expand(x.shape)

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        beta, root = along(self.betas[k.long() - 1], x), 1 / self.increment.alpha
        chosen = torch.nn.functional.one_hot(k.long() - 1, self.count).double()
        scale = beta**root * self.summed(chosen, x).to(x).sqrt()
        law = pyro.Normal((1 - beta) ** root * x, scale, validate_args=False)
        return law.to_event(x.dim() - 1)

    def extra_repr(self) -> str:
        shape = tuple(self.mixing.shape[1:])
        return f"{self.increment.alpha:g}, {shown(self.betas, 3)}, variances of shape {shape}"


class _Stepping(Chain):
    """A walk as a chain: index k is its k-th step, 0 the data."""

    def __init__(self, steps: Contracting) -> None:
        super().__init__(Stepped(steps), every(steps.count))

    @property
    def steps(self) -> Any:
        """The walk as a term in the number of the step."""
        return self.process.process

    @property
    def betas(self) -> Tensor:
        return self.steps.betas

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.steps.extra_repr()})"


class _Walk(_Stepping):
    """A walk of increments with finite variance."""

    kind: ClassVar[type[Steps]]

    def __init__(self, law: Distribution, betas: Tensor | list[float], **options: Any) -> None:
        super().__init__(self.kind(law, betas, **options))
        self.law = law


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
        eta: The noise, times DDPM's: in (0, 1], or more as long as :math:`\sigma_k^2 < 1 -
            \bar\alpha_{k-1}`.

    References:
        | Denoising Diffusion Implicit Models (Song et al., 2021)
    """

    kind = FixedReversal

    def __init__(self, law: Distribution, betas: Tensor | list[float], eta: float = 1.0) -> None:
        super().__init__(law, betas, eta=eta)


class StableWalk(_Stepping):
    r"""A walk with symmetric α-stable increments, of infinite variance for α < 2.

    .. math::
        x_k = \gamma_k x_{k-1} + \sigma_k \varepsilon_k, \qquad
        \gamma_k^\alpha = 1 - \beta_k, \quad \sigma_k^\alpha = \beta_k, \qquad
        x_k \mid x_0 \sim \bar\gamma_k x_0 + \bar\sigma_k \varepsilon, \quad
        \bar\gamma_k^\alpha = \bar\alpha_k, \quad \bar\sigma_k^\alpha = 1 - \bar\alpha_k

    with :math:`\mathbb{E} e^{iu\varepsilon} = e^{-|su|^\alpha}`: not variances add up but α-th
    powers of scales. It has moments below the α-th only, so that errors of the noise are squared
    in vain: take their absolute value. Each coordinate has noise of its own. Steps are
    normal given latent variances, :math:`\varepsilon_k = \sqrt{A_k}\, G_k`: see `mixed`.

    Arguments:
        alpha: α, in (0, 2]; at 2 the noise is normal, and with scale :math:`2^{-1/2}` DDPM's.
        betas: :math:`\beta_1 \dots \beta_T`, each in (0, 1).
        scale: s > 0.

    Raises:
        ValueError: If α, β or s lies outside.

    References:
        | Denoising Lévy Probabilistic Models (Shariatian et al., 2025)

    Example:
        >>> walk = StableWalk(1.5, [0.1, 0.2, 0.3])
        >>> walk.marginal(torch.ones(1, 1), 3).base_dist.scale  # (1 − 0.9 · 0.8 · 0.7)^(2/3)
        tensor([[0.6266]])
    """

    def __init__(self, alpha: float, betas: Tensor | list[float], scale: float = 1.0) -> None:
        super().__init__(StableIncrements(alpha, betas, scale))

    @property
    def alpha(self) -> float:
        return self.steps.increment.alpha

    def mixing(self, shape: Any) -> Tensor:
        r"""Draws of :math:`A_1 \dots A_T`, independent in all entries, float64.

        Arguments:
            shape: The shape of one step: that of the data, or of one datum for a whole batch.
                With (B, 1, …, 1) the noise of each step is isotropic, of one variance for all
                entries of a batch element: by itself each entry moves as before.

        Returns:
            Shape (T, *shape).
        """
        return self.steps.increment.mixing.sample(torch.Size([self.steps.count, *shape]))

    def mixed(self, mixing: Tensor) -> MixedWalk:
        """The walk given its latent variances, a chain of normal steps.

        Arguments:
            mixing: Shape (T, *event), one for all of a batch, or (T, B, *event).
        """
        return MixedWalk(self, mixing)


class MixedWalk(_Stepping):
    r"""A stable walk given its latent variances, in which all steps are normal.

    .. math::
        x_k \mid x_0, A \sim \mathcal{N}(\bar\gamma_k x_0, \Sigma_k), \qquad
        \Sigma_k = \gamma_k^2 \Sigma_{k-1} + \sigma_k^2 A_k

    With A drawn anew for each sample its runs are those of DLPM, with ``Ancestral(eta=0.0)`` the
    deterministic ones. Heads mean what they mean for the stable walk: `Epsilon` is
    :math:`(x_k - \bar\gamma_k x_0) / \bar\sigma_k`, of infinite variance, so that one network
    serves all A.

    Arguments:
        walk: The stable walk.
        mixing: :math:`A_1 \dots A_T > 0`, shape (T, *event), one for all of a batch, or
            (T, B, *event), with sizes of one where entries share a variance. With B rows every
            state must have B rows, and finite laws of the data, whose atoms are paired with every
            row, are refused.

    Raises:
        ValueError: If the shape does not fit the steps, or later a state, or an A is not positive.

    References:
        | Denoising Lévy Probabilistic Models (Shariatian et al., 2025)

    Example:
        >>> walk = StableWalk(1.5, [0.1, 0.2]).mixed(torch.tensor([[2.0], [3.0]]))
        >>> walk.marginal(torch.ones(4, 1), 1).variance[0]  # 0.1^(4/3) · 2
        tensor([0.0928])
    """

    def __init__(self, walk: StableWalk, mixing: Tensor) -> None:
        super().__init__(MixedIncrements(walk.steps, mixing))


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
