r"""Star-shaped diffusion: noisy states that are independent given the data.

.. math::
    q(x_1, \dots, x_T \mid x_0) = \prod_k q_k(x_k \mid x_0), \qquad
    q_k(x \mid x_0) = h_k(x) \exp(a_k x_0 T(x) - n_k(x_0))

A step back from t must then read all of :math:`x_t, \dots, x_T`. In an exponential family whose
natural parameters are multiples of each other a tail statistic says as much,

.. math::
    G_t = \sum_{i \ge t} a_i T(x_i), \qquad
    p(x_0 \mid x_t, \dots, x_T) \propto p(x_0) \exp\Big( x_0 G_t - \sum_{i \ge t} n_i(x_0) \Big),

and it is a Markov chain backward given the data, :math:`G_s = G_t + \sum_{s \le i < t} a_i
T(x_i)`. So the state of the chain at index k is :math:`G_k`, and at index 0 the data.

References:
    | Star-Shaped Denoising Diffusion Probabilistic Models (Okhotin et al., 2023)
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from .chains import Stepped, every
from .given_data import GivenData
from .params import as_numbers
from .process import Chain
from .validation import require, shown


class StarSteps(GivenData):
    """A star as a term in the number of the step: a state is the tail statistic."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """The :math:`a_1 … a_T`, float64."""


class NormalStar(StarSteps):
    r""":math:`x_k \sim N(\sqrt{\bar\alpha_k} x_0, 1 - \bar\alpha_k)`, T the identity.

    Arguments:
        kept: :math:`\bar\alpha_1 \dots \bar\alpha_T`, in (0, 1).
        center: The datum from whose law at the last step runs start.
    """

    kept: Tensor

    def __init__(self, kept: Tensor | list[float], center: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("kept", _inside(kept, "kept"))
        self.center = float(center)

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.kept)

    @property
    def weights(self) -> Tensor:
        return self.kept.sqrt() / (1 - self.kept)

    def extra_repr(self) -> str:
        return f"normal, {shown(self.kept, 3)}"


class BetaStar(StarSteps):
    r""":math:`x_k \sim \mathrm{Beta}(\nu_k \mu_k, \nu_k (1 - \mu_k))`, T the logit.

    Arguments:
        mixed: :math:`\xi_1 \dots \xi_T` in (0, 1), of :math:`\mu_k = \xi_k / 2 + (1 - \xi_k) x_0`.
        concentrations: :math:`\nu_1 \dots \nu_T > 0`.
        center: The datum in [0, 1] from whose law at the last step runs start.
    """

    mixed: Tensor
    concentrations: Tensor

    def __init__(
        self,
        mixed: Tensor | list[float],
        concentrations: Tensor | list[float],
        center: float = 0.5,
    ) -> None:
        super().__init__()
        self.register_buffer("mixed", _inside(mixed, "mixed"))
        values = as_numbers(concentrations, "concentrations").detach().clone()
        fits = values.shape == self.mixed.shape and bool((values > 0).all())
        rule = f"concentrations must be {len(self.mixed)} positive numbers, one per step"
        require(fits, f"{rule}; they are {shown(values, 8)}")
        require(0 <= center <= 1, f"center must lie in [0, 1]; it is {center}")
        self.register_buffer("concentrations", values)
        self.center = float(center)

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.mixed)

    @property
    def weights(self) -> Tensor:
        return self.concentrations * (1 - self.mixed)

    def shapes(self, x_0: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\nu \mu` and :math:`\nu (1 - \mu)` at numbers of steps that broadcast."""
        xi, nu = self.mixed[steps - 1], self.concentrations[steps - 1]
        return nu * (xi / 2 + (1 - xi) * x_0), nu * (xi / 2 + (1 - xi) * (1 - x_0))

    def extra_repr(self) -> str:
        return f"Beta, {shown(self.mixed, 3)}, concentrations {shown(self.concentrations, 3)}"


def _inside(values: Tensor | list[float], name: str) -> Tensor:
    """Numbers in (0, 1), one per step."""
    numbers = as_numbers(values, name).detach().clone()
    inside = numbers.dim() == 1 and len(numbers) > 0
    inside = inside and bool(((numbers > 0) & (numbers < 1)).all())
    require(
        inside, f"{name} must be numbers in (0, 1), one per step; they are {shown(numbers, 8)}"
    )
    return numbers


class StarChain(Chain):
    r"""Star-shaped diffusion, by its tail statistics :math:`G_T, \dots, G_1` and the data.

    It has marginals and bridges; `transition` is `Unsolved`. Heads say the data: `heads.Mean`, or
    `Exact`. The noisy states themselves are not kept.

    Arguments:
        steps: `NormalStar` or `BetaStar`.

    References:
        | Star-Shaped Denoising Diffusion Probabilistic Models (Okhotin et al., 2023)

    Example:
        >>> import torch
        >>> chain = StarChain(NormalStar([0.9, 0.5]))  # signal to noise: 9, 1
        >>> chain.marginal(torch.ones(1, 1), 1).mean
        tensor([[10.]])
    """

    def __init__(self, steps: StarSteps) -> None:
        super().__init__(Stepped(steps), every(steps.count))

    @property
    def steps(self) -> StarSteps:
        """The chain as a term in the number of the step."""
        return self.process.process  # type: ignore[union-attr,return-value]

    def __repr__(self) -> str:
        return f"StarChain({self.steps.extra_repr()})"
