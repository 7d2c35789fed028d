r"""Features of single entries: `Tokens` feeds categories to a network, `Local` reads one out.

`Local` lets the output at an entry d depend sharply on the state at the same entry,

.. math:: f(x, t)_d = c \sum_j u_{dj}(x, t)\, \varphi_j(x_d),

with coefficients u from a network that sees everything and fixed features
:math:`\varphi = (1,\ x / P,\ \cos(2 \pi x / P_j),\ \sin(2 \pi x / P_j))` of the entry alone. A
smooth network of all entries has to learn such detail through its hidden layers, and does not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Tokens(nn.Module):
    """Embeds categories before they reach a network.

    Arguments:
        net: A network whose states have one more axis of size ``dim``.
        size: Number of categories a state can hold.
        dim: Size of the embedding.

    Example:
        >>> from discdiff.nn import MLP
        >>> net = Tokens(MLP((6, 4), (6, 3), width=32), size=3, dim=4)
        >>> net(torch.zeros(5, 6, dtype=torch.int64), torch.rand(5)).shape
        torch.Size([5, 6, 3])
    """

    def __init__(self, net: nn.Module, size: int, dim: int = 16) -> None:
        super().__init__()
        self.net = net
        self.embedding = nn.Embedding(size, dim)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(self.embedding(x), t, context)


class Waves(nn.Module):
    r"""The features :math:`\varphi(x)` of single entries, on a new last axis.

    Arguments:
        unit: The smallest difference of entries that matters: 1 for counts.
        octaves: Number of periods: 2, 4, 8, … units.
    """

    periods: Tensor

    def __init__(self, unit: float = 1.0, octaves: int = 5) -> None:
        super().__init__()
        periods = unit * 2.0 ** torch.arange(1, octaves + 1)
        self.register_buffer("periods", periods, persistent=False)

    @property
    def features(self) -> int:
        """Number of features per entry."""
        return 2 + 2 * len(self.periods)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.periods.dtype).unsqueeze(-1)
        angles = 2 * math.pi * x / self.periods
        one = torch.ones_like(x)
        return torch.cat([one, x / self.periods[-1], angles.cos(), angles.sin()], -1)


class Local(nn.Module):
    """Reads the outputs of a network against features of each entry itself.

    Arguments:
        net: A network whose outputs have one more axis, of size ``waves.features``.
        waves: The features.
        scale: The factor c.

    Example:
        >>> from discdiff.nn import MLP
        >>> waves = Waves(unit=1.0)
        >>> net = Local(MLP((8, 8), (8, 8, waves.features), width=32), waves)
        >>> net(torch.zeros(5, 8, 8), torch.rand(5)).shape
        torch.Size([5, 8, 8])
    """

    def __init__(self, net: nn.Module, waves: Waves, scale: float = 1.0) -> None:
        super().__init__()
        self.net, self.waves, self.scale = net, waves, scale

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        coefficients, features = self.net(x, t, context), self.waves(x)
        extra = coefficients.dim() - features.dim()
        features = features.reshape(*x.shape, *(1,) * extra, features.shape[-1])
        return self.scale * (coefficients * features).sum(-1)
