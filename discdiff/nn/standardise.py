r"""`Standardise`: a network's inputs on one scale at all times, by the process's own moments.

Where the mean and the variance of :math:`x_t` given :math:`x_0` are affine in :math:`x_0`, as for
linear Gaussian processes and independent particles, data of mean m and standard deviation s give

.. math::
    \mathbb{E}[x_t] = \mathbb{E}[x_t \mid m], \qquad
    \operatorname{Var}[x_t] = \operatorname{Var}[x_t \mid m]
        + (\partial_m \mathbb{E}[x_t \mid m])^2 s^2.

Both are read from the laws at :math:`x_0 = 0` and :math:`x_0 = 1`, which every such space holds;
where coordinates of the last axis are coupled, at the unit vectors. Auxiliaries of a lift are part
of the state: their moments are read as those of the data are.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class HasMarginal(Protocol):
    """What `Standardise` asks of a process."""

    def marginal(self, x_0: Tensor, t: Tensor) -> Any: ...
    def to_data(self, x: Tensor) -> Tensor: ...


class Standardise(nn.Module):
    r"""Gives a network :math:`(x_t - \mathbb{E}[x_t]) / \sqrt{\operatorname{Var}[x_t]}`.

    Where the state is certain (counts at the end of time) the network is given zeros.

    Arguments:
        net: The network.
        process: The process; only its marginals are used.
        mean: Mean of the data, a number or a tensor of the event's shape.
        std: Standard deviation of the data, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        process: HasMarginal,
        mean: float | Tensor,
        std: float | Tensor,
    ) -> None:
        super().__init__()
        self.net = net
        self._marginal, self._to_data = process.marginal, process.to_data
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float64))

    def moments(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the state at t, of shapes that broadcast with it."""
        origin = torch.zeros_like(self._to_data(x))
        lifted = x.dim() > origin.dim()
        m, s = (v.unsqueeze(-1) if lifted else v for v in (self.mean.to(x), self.std.to(x)))
        low = self._marginal(origin, t)
        if covariance_of(low) is not None and not lifted:
            load = torch.stack([self._marginal(e, t).mean - low.mean for e in units(origin)], -1)
            m, s = (v.expand(*v.shape[:-1], load.shape[-1]) for v in (m, s))
            return low.mean + act(load, m), low.variance + act(load**2, s**2)
        high = self._marginal(origin + 1, t)
        slope = high.mean - low.mean
        noise = low.variance + (high.variance - low.variance) * m
        return low.mean + slope * m, noise + (slope * s) ** 2

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        mean, variance = self.moments(x, t)
        certain = variance <= 0
        scale = torch.where(certain, torch.ones_like(variance), variance).rsqrt()
        scaled = torch.where(certain, torch.zeros_like(x), (x - mean) * scale)
        return self.net(scaled, t, context)


def covariance_of(law: Any) -> Tensor | None:
    """The covariance of a law on the last axis; None where entries are independent."""
    return getattr(getattr(law, "base_dist", law), "covariance_matrix", None)


def units(origin: Tensor) -> list[Tensor]:
    """Data that are one in one coordinate of the last axis and zero elsewhere."""
    eye = torch.eye(origin.shape[-1], dtype=origin.dtype, device=origin.device)
    return [origin + row for row in eye]


def act(matrix: Tensor, x: Tensor) -> Tensor:
    """Matrices on the last axis of x."""
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)
