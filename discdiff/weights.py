r"""Weights: by how much the loss integrand counts at each time.

A weight multiplies the integrand of the path-KL of one leaf; with `NLL` (weight one) the loss is
the likelihood bound. Other weights keep the minimiser and change which times matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .process import Leaf
from .solve import Unsolved
from .validation import require


class Weight(ABC):
    """A factor per time."""

    @abstractmethod
    def __call__(self, leaf: Leaf) -> Tensor:
        """The factor for a leaf seen at its times, shape (B,)."""


@dataclass(frozen=True)
class NLL(Weight):
    """Weight one: the loss is the integrand of the likelihood bound."""

    def __call__(self, leaf: Leaf) -> Tensor:
        return torch.ones_like(leaf.time)


@dataclass(frozen=True)
class Flat(Weight):
    """One over the rate of the clock: what `loss` and its kin say per unit of *own* time.

    With it an objective of published code that counts all times alike is the mean over uniform t.
    """

    def __call__(self, leaf: Leaf) -> Tensor:
        return 1 / leaf.speed


@dataclass(frozen=True)
class Simple(Weight):
    r"""The integrand without its factor that depends on time alone.

    For Gaussian processes :math:`\|\hat\varepsilon - \varepsilon\|^2`, for masked ones the
    cross-entropy of masked sites, for pure death :math:`D \log(D / y) - D + y`.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
    """

    def __call__(self, leaf: Leaf) -> Tensor:
        return 1 / (leaf.coefficient * leaf.speed)


@dataclass(frozen=True)
class Blackout(Weight):
    r"""The weight of the published blackout code: :math:`1 - p` times the likelihood's.

    References:
        | Blackout Diffusion (Santos et al., 2023)
    """

    def __call__(self, leaf: Leaf) -> Tensor:
        return 1 - leaf.core.engine.survival(leaf.time)


@dataclass(frozen=True)
class MinSNR(Weight):
    r"""Noise prediction weighted by :math:`\min(1, \gamma / \mathrm{SNR})`.

    Arguments:
        gamma: The signal-to-noise ratio from which on the weight falls.

    References:
        | Efficient Diffusion Training via Min-SNR Weighting Strategy (Hang et al., 2023)
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        require(self.gamma > 0, f"gamma must be positive; it is {self.gamma}")

    def __call__(self, leaf: Leaf) -> Tensor:
        snr = getattr(leaf.core.engine, "snr", None)
        if snr is None:
            raise Unsolved("MinSNR needs a signal-to-noise ratio: Gaussian processes have one")
        ratio = snr(leaf.time)  # of a diagonal the mean over its coordinates
        ratio = ratio.reshape(len(leaf.time), -1).mean(1)
        return Simple()(leaf) * (self.gamma / ratio).clamp(max=1)
