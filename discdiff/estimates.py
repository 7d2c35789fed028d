r"""What is known of the data :math:`x_0` at a noisy state :math:`x_t`.

The same numbers mean different things in published code, and mixing them up is a silent error.
So each meaning is a type. A head returns one of these values; an engine reads from it the
conditional mean of the statistic in which its score is linear, or refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .validation import require_numbers, values_are_checked


@dataclass(frozen=True)
class Estimate:
    """A typed statement about x_0 given x_t."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """The estimate with a function applied to each of its tensors."""
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(
            **{k: function(v) if isinstance(v, Tensor) else v for k, v in changed.items()}
        )


@dataclass(frozen=True)
class Data(Estimate):
    """The data itself: x_0 is known."""

    value: Any


@dataclass(frozen=True)
class Atoms(Estimate):
    r"""A finite law: :math:`\sum_n w_n \delta_{a_n}`.

    Arguments:
        log_weights: :math:`\log w_n` of shape (B, N), normalised over N.
        atoms: The points :math:`a_n`, shape (N, *event), or a dict of such.
    """

    log_weights: Tensor
    atoms: Any

    def average(self, values: Tensor) -> Tensor:
        """The weighted mean of values of shape (N, *any): shape (B, *any)."""
        weights = self.log_weights.exp().to(values.dtype)
        return torch.tensordot(weights, values, dims=1)


@dataclass(frozen=True)
class Mean(Estimate):
    r""":math:`\mathbb{E}[x_0 \mid x_t]`, of the state's shape."""

    value: Tensor


@dataclass(frozen=True)
class Epsilon(Estimate):
    r""":math:`\mathbb{E}[\varepsilon \mid x_t]`, :math:`x_t = \Phi x_0 + m + L \varepsilon`."""

    value: Tensor


@dataclass(frozen=True)
class Velocity(Estimate):
    r""":math:`\mathbb{E}[\alpha \varepsilon - \sigma x_0 \mid x_t]`."""

    value: Tensor


@dataclass(frozen=True)
class Score(Estimate):
    r""":math:`\nabla \log p_t(x_t)`."""

    value: Tensor


@dataclass(frozen=True)
class Normal(Estimate):
    r""":math:`x_0 \mid x_t \sim \mathcal{N}(\hat x_0, w)`, entry by entry.

    Arguments:
        mean: What determines :math:`\hat x_0`: a `Mean`, `Epsilon`, `Velocity` or `Score`.
        variance: :math:`w \ge 0`, of the state's shape.
    """

    mean: Estimate
    variance: Tensor


@dataclass(frozen=True)
class Missing(Estimate):
    r"""Units that are missing: :math:`\mathbb{E}[x_0 - x_t \mid x_t] = (1 - p_t)\, e^{v}`.

    Arguments:
        log_value: :math:`v`, of the state's shape.
    """

    log_value: Tensor


@dataclass(frozen=True)
class Turnover(Estimate):
    r"""Units lost and units gained, :math:`(1 - p_t)\, e^{v}` each.

    Arguments:
        log_value: :math:`v`, of shape (B, *event, 2): lost, gained.
    """

    log_value: Tensor


@dataclass(frozen=True)
class Logits(Estimate):
    """A categorical law per site, logits (B, *event, K); ``absent`` states have no mass."""

    logits: Tensor
    absent: tuple[int, ...] = ()

    @property
    def masked_logits(self) -> Tensor:
        """The logits, −∞ at absent states; NaN is looked for here, once."""
        if values_are_checked(self.logits) and "looked" not in vars(self):
            require_numbers(self.logits, type(self).__name__)
            vars(self)["looked"] = True
        return without(self.logits, self.absent)

    @property
    def log_probs(self) -> Tensor:
        return self.masked_logits.log_softmax(-1)


@dataclass(frozen=True)
class Posterior(Logits):
    r""":math:`\mu(a) = q(x_0^d = a \mid x_t)`."""


@dataclass(frozen=True)
class LeaveOneOut(Logits):
    r""":math:`\pi(a) = q(x_0^d = a \mid x_t^{\setminus d})`."""


@dataclass(frozen=True)
class Conditional(Logits):
    r""":math:`p_t(x^d = y \mid x_t^{\setminus d})`."""


@dataclass(frozen=True)
class Ratio(Estimate):
    r"""Log-ratios :math:`\log p_t(y) / p_t(x_t)`.

    Arguments:
        log_ratio: On finite spaces (B, *event, K), one per state (the state's own entry counts
            for nothing). On counts (B, *event, 2): to one unit more, to one unit less.
    """

    log_ratio: Tensor


@dataclass(frozen=True)
class Parts(Estimate):
    """One estimate per part of a product."""

    parts: Mapping[str, Estimate]


def without(logits: Tensor, absent: tuple[int, ...]) -> Tensor:
    """The logits with −∞ at absent states."""
    return remove(logits.clone(), absent) if absent else logits


def remove(logits: Tensor, absent: tuple[int, ...]) -> Tensor:
    """As `without`, in place: for logits that are a copy of their own."""
    for state in absent:
        logits[..., state] = -torch.inf
    return logits
