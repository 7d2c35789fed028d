r"""Observation times: at which times a reverse run stops.

A grid is a decreasing sequence :math:`1 = t_n > … > t_0 = 0` chosen for a clock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .clock import Clock, Spread
from .numerics.special import log1pexp
from .validation import require


class Grid(ABC):
    """A rule for observation times."""

    steps: int

    @abstractmethod
    def times(self, clock: Clock | Spread) -> Tensor:
        """Decreasing times, float64 of shape (steps + 1,), ending at 0.

        Arguments:
            clock: The clock, as it is seen by a process: `sample` knows which.
        """


@dataclass(frozen=True)
class UniformTime(Grid):
    """Equal steps of t from 1 to 0.

    Example:
        >>> from discdiff.clock import LogLinear
        >>> UniformTime(2).times(LogLinear())
        tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """

    steps: int

    def times(self, clock: Clock | Spread) -> Tensor:
        return torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)


@dataclass(frozen=True)
class UniformIntegral(Grid):
    r"""Equal steps of :math:`\Lambda`; the clock must end at a finite value.

    Raises:
        ValueError: If :math:`\Lambda(1) = \infty`.
    """

    steps: int

    def times(self, clock: Clock | Spread) -> Tensor:
        end = clock(torch.ones((), dtype=torch.float64)).detach()
        require(bool(end.isfinite()), "equal steps of Λ need a clock with Λ(1) < ∞")
        share = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)
        return _pinned(clock.inverse(share * end).detach())


@dataclass(frozen=True)
class UniformLogit(Grid):
    r"""Equal steps of logit survival from −c to c, then a last step to 0.

    .. math:: \Lambda(t_k) = \operatorname{softplus}\big(c\,(2 (k - 1) / (T - 1) - 1)\big),
              \quad k = 1 … T, \qquad c = \log(e^{\Lambda_T} - 1)

    Arguments:
        steps: The number T of steps.
        end: :math:`\Lambda_T`, the own time at which the run starts.

    References:
        | Blackout Diffusion (Santos et al., 2023): T = 1000, end 15
    """

    steps: int
    end: float = 15.0

    def own_times(self) -> Tensor:
        """The observation times in the process's own time, decreasing to 0."""
        c = self.end + math.log1p(-math.exp(-self.end))
        logit = torch.linspace(c, -c, self.steps, dtype=torch.float64)
        return torch.cat([log1pexp(logit), torch.zeros(1, dtype=torch.float64)])

    def times(self, clock: Clock | Spread) -> Tensor:
        last = clock(torch.ones((), dtype=torch.float64)).detach()
        require(
            bool(last >= self.end * (1 - 1e-12)), f"the clock ends at {last:g}, before {self.end}"
        )
        t = clock.inverse(self.own_times()).detach().clamp(max=1.0)
        t[-1] = 0.0
        return t


@dataclass(frozen=True)
class Karras(Grid):
    r"""Noise levels :math:`\sigma` with equal steps of :math:`\sigma^{1/\rho}`.

    :math:`\sigma^2 = e^z` with z the natural variable: :math:`e^{\Lambda} - 1`, the
    noise-to-signal ratio of ``Linear(-0.5) + Noise(1.0)``, or :math:`\Lambda` where noise spreads,
    as of ``Noise(1.0)``, scaled or not. With other rates :math:`\sigma` is another measure of
    noise. A clock by itself is that of the first; `sample` knows which it is.

    Arguments:
        steps: Number of steps; the last goes to 0.
        rho: The exponent.
        sigma_min: Smallest level.
        sigma_max: Largest level.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    """

    steps: int
    rho: float = 7.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def times(self, clock: Clock | Spread) -> Tensor:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigma = torch.linspace(high, low, self.steps, dtype=torch.float64) ** self.rho
        end = clock.z(torch.ones((), dtype=torch.float64)).detach()
        t = clock.from_z(torch.minimum(2 * sigma.log(), end)).detach().clamp(max=1.0)
        t = torch.cat([t, torch.zeros(1, dtype=torch.float64)])
        require(
            bool((t.diff() < 0).all()), "the clock ends before sigma_max: choose a smaller one"
        )
        return t


def _pinned(t: Tensor) -> Tensor:
    t = t.clone()
    t[0], t[-1] = 1.0, 0.0
    return t
