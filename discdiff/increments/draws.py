r"""Numbers made alike, and the draws that laws of several increments share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Gamma as TorchGamma

from ..laws import _RealLaw


def alike(*values: Any) -> tuple[Tensor, ...]:
    """Numbers and tensors as floating tensors of one type, float64 if all are numbers.

    Each keeps its shape: arithmetic costs no more than it must before they are broadcast.

    Example:
        >>> [v.dtype for v in alike(1.0, torch.zeros(2))]
        [torch.float32, torch.float32]
    """
    given = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    like = given[0] if given else torch.zeros((), dtype=torch.float64)
    for v in given:
        like = like.to(torch.promote_types(like.dtype, v.dtype))
    return tuple(torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in values)


def tensors(*values: Any) -> tuple[Tensor, ...]:
    """Numbers and tensors as floating tensors of one type and one shape.

    Example:
        >>> [v.shape for v in tensors(1.0, torch.zeros(2))]
        [torch.Size([2]), torch.Size([2])]
    """
    return torch.broadcast_tensors(*alike(*values))


def uniform_draws(shape: Size, like: Tensor) -> Tensor:
    """Uniform draws in the open interval (0, 1), in float64."""
    u = torch.rand(shape, dtype=torch.float64, device=like.device)
    return u * (1 - 2.0**-53) + 2.0**-54  # rand is a multiple of 2⁻⁵³ below 1


def gamma_draws(a: Tensor) -> Tensor:
    r"""Draws of :math:`\Gamma(a, 1)`, one per entry; the gradient reaches a."""
    return TorchGamma(a, a.new_ones(()), validate_args=False).rsample()


def log_gamma_draws(a: Tensor, shape: Size) -> Tensor:
    r"""Draws of :math:`\log G` for :math:`G \sim \Gamma(a, 1)`, also where G itself underflows.

    :math:`G_a = G_{a + 1} U^{1 / a}`; the gradient reaches a.
    """
    a = a.expand(shape + a.shape)
    return gamma_draws(a + 1).log() + uniform_draws(a.shape, a).log().to(a.dtype) / a


def log_gamma_rule(a: Tensor, nodes: int = 700) -> tuple[Tensor, Tensor]:
    r"""The trapezoidal rule for the law of :math:`\log G`, :math:`G \sim \Gamma(a, 1)`.

    Nodes and weights on a new last axis, for a up to 1e5; what lies below −100 is left out.

    Example:
        >>> s, w = log_gamma_rule(torch.tensor(2.5).double())
        >>> (w * s.exp()).sum()
        tensor(2.5000, dtype=torch.float64)
    """
    low = ((torch.lgamma(a + 1) - 45) / a).clamp(min=-100)
    high = (a + 15 * a.sqrt() + 60).log()
    unit = torch.linspace(0.0, 1.0, nodes, dtype=a.dtype, device=a.device)
    width, a = (high - low).unsqueeze(-1), a.unsqueeze(-1)
    s = low.unsqueeze(-1) + width * unit
    return s, (a * s - s.exp() - torch.lgamma(a)).exp() * width / (nodes - 1)


class Reparameterised(_RealLaw):
    """A law whose draws carry gradients to its parameters."""

    has_rsample = True

    def _draw(self, shape: Size) -> Tensor:
        return self.rsample(shape)
