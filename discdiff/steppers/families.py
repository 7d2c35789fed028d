r"""Reverse families of walks: what the model's step back may look like.

To first order in :math:`\sqrt{\beta}` the exact step back of a walk has increments of the *tilted*
law :math:`f(\xi)\, e^{\eta \xi - K(\eta)}`, K the cumulant generating function; only the normal
law is tilted by being *shifted*. With :math:`g^2 dt = \beta`, s the score and I the Fisher
information of the location of the increment law, what a bound loses for ever, however small the
steps, is

.. math::
    \text{Shift: } \tfrac{I - 1}{2} \int g^2\, \mathbb{E}|s|^2, \qquad
    \text{Shift(matched=False): } \tfrac{1 - 1/I}{2} \int g^2\, \mathbb{E}|s|^2, \qquad
    \text{Tilt: } 0.

The shift of the highest likelihood has its drift shrunk by 1/I, so it samples wrongly. The
exact step of a finite law, with no family at all, is `Ancestral` with `Exact`.

References:
    | Non-Normal Diffusion Models (Li, 2024)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..process import Chain, Process
from ..solve import Engine, Unsolved
from ..stepper import ByLaw, only_leaf
from ..validation import require
from ..walks import Walk

State = Any


class _Family(ByLaw):
    """A stepper of walks, by the name of what it asks their engine."""

    verb: ClassVar[str]
    ends_in_noise: ClassVar[bool] = True

    def law(self, process: Process, estimate: Any, x: State, t: Tensor, s: Tensor) -> Distribution:
        late, early = only_leaf(process, x, t, s)
        ask = getattr(late.core.engine, self.verb, None)
        if ask is None:
            kind = type(self).__name__
            raise Unsolved(
                f"{kind} is a family of steps of walks that are declared by their steps forward, "
                f"not of {late.core!r}"
            )
        return ask(estimate, x, early.time, late.time, *self.options())

    def asks(self) -> tuple[str, tuple[Any, ...]]:
        return self.verb, self.options()

    def options(self) -> tuple[Any, ...]:
        """What is handed to the engine besides."""
        return ()


@dataclass(frozen=True)
class Shift(_Family):
    r"""Steps back with noise of the walk's own shape around a mean.

    Increments of bounded support, on one side or both, are shifted off what the walk itself
    reaches: runs are as always, a bound would be infinite and is `Unsolved`.

    Arguments:
        matched: Whether the mean is :math:`\mathbb{E}[x_s \mid x_t]`, as far as the head says
            it. If not, it moves by 1/I of that only, which is the likeliest shift.

    Example:
        >>> Shift()
        Shift(matched=True)
    """

    matched: bool = True
    verb: ClassVar[str] = "shifted"

    def options(self) -> tuple[Any, ...]:
        return (self.matched,)


@dataclass(frozen=True)
class Tilt(_Family):
    r"""Steps back with noise of the exponential family of the increment law.

    Its mean is :math:`\mathbb{E}[x_s \mid x_t]`, as far as the head says it; by that it is the
    likeliest of its family. Of a network's guess that comes near the ends of the support of the
    noise, or lies beyond, the tilt goes on along its tangent. For laws with a cumulant generating
    function, step by step.

    Arguments:
        posterior: Whether the noise is as much narrower as the bridge's is given the data, by
            :math:`(1 - \bar\alpha_s) / (1 - \bar\alpha_t)` in variance (DDPM's smaller choice):
            better for few steps and for heads that say the data well. For laws on the whole line;
            elsewhere states would be left out, and the noise keeps its width.

    Example:
        >>> Tilt()
        Tilt(posterior=False)
    """

    posterior: bool = False
    verb: ClassVar[str] = "tilted"

    def options(self) -> tuple[Any, ...]:
        return (self.posterior,)


@dataclass(frozen=True)
class Renewed(_Family):
    r"""Steps back with fresh stable noise, which keep the marginals given the data.

    They ask for the mean of the data only, where exact steps ask for its law. For α-stable walks
    and Lévy noise; `Ancestral` with some of the noise does the same of normal noise.

    Arguments:
        eta: The noise: 0 draws none, 1 tends to the reversal with noise like that forward. More
            than 1 is allowed up to where all noise of a step is new.

    Raises:
        ValueError: If eta is negative, or in a step so large that no noise keeps the marginals.

    References:
        | Score-based Generative Models with Lévy Processes (Yoon et al., 2023)

    Example:
        >>> Renewed(0.5)
        Renewed(eta=0.5)
    """

    eta: float = 1.0
    verb: ClassVar[str] = "renewed"
    ends_in_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number = isinstance(self.eta, float | int) and 0 <= self.eta < math.inf
        require(number, f"eta must be a number, at least 0 and finite; it is {self.eta!r}")

    def options(self) -> tuple[Any, ...]:
        return (self.eta,)


@dataclass(frozen=True)
class Gaps:
    """What is lost by shifted steps in the limit of many, in nats, each of shape (B,).

    Arguments:
        matched: By mean-matched ones.
        likeliest: By the likeliest ones.
        bias: 1/I, the share of its drift that the likeliest has.
    """

    matched: Tensor
    likeliest: Tensor
    bias: float


@torch.no_grad()
def shift_gaps(chain: Chain, head: Any, x_0: State) -> Gaps:
    r"""The limits of the module's text, with :math:`\int g^2 |s|^2` by one draw per step.

    Arguments:
        chain: A `Walk`: of others the steps do not tend to a diffusion, or are not shifted.
        head: A head that determines the score, such as `Exact`.
        x_0: Data, (B, *event).

    Raises:
        Unsolved: For another process.

    Example:
        >>> import discdiff as dd
        >>> walk = dd.Walk(torch.distributions.Laplace(0.0, 1.0), dd.linear_betas(100, 1e-3, 0.1))
        >>> _, x_0 = torch.manual_seed(0), torch.zeros(500, 1)
        >>> gaps = shift_gaps(walk, dd.Exact(walk.process, x_0[:1]), x_0)
        >>> gaps.bias, bool(gaps.matched.mean() > gaps.likeliest.mean())
        (0.5, True)
    """
    if not isinstance(chain, Walk):
        raise Unsolved(
            "the limits of shifted steps are those of a Walk, whose steps are increments of one "
            f"shape that tend to a diffusion; this is {chain!r}"
        )
    engine: Engine = next(iter(chain.process.leaves(chain.process.instant(1.0)))).core.engine
    total = torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device)
    for k, beta in enumerate(engine.term.betas.detach(), 1):  # type: ignore[attr-defined]
        at = chain.times[k - 1].expand(len(x_0)).to(x_0.device)
        x = chain.process._marginal(x_0, at).sample()
        step = torch.full_like(at, k)
        score = engine.score(head(x, at), x, step).gradient
        total = total + beta * score.flatten(1).square().sum(1)
    fisher = engine.increment.fisher  # type: ignore[attr-defined]
    return Gaps((fisher - 1) / 2 * total, (1 - 1 / fisher) / 2 * total, 1 / fisher)
