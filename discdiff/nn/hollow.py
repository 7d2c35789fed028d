r"""`HollowTransformer`: logits for every token of a sequence, each from all *other* tokens.

Two causal stacks read the sequence from both ends, with the condition c (time and label) first,

.. math::
    l_d = f(c, x_1, …, x_{d-1}), \qquad r_d = g(x_{d+1}, …, x_D, c),

and a readout joins them. No path leads from :math:`x_d` to the logits at d, so one call gives the
laws of all single sites given the others: what ratio matching and leave-one-out heads need.

References:
    | Score-based Continuous-time Discrete Diffusion Models (Sun et al., 2023)
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .transformer import Condition, Embedded, stack


def perceptron(width: int) -> nn.Sequential:
    """A norm and a perceptron of one hidden layer."""
    wide = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
    return nn.Sequential(nn.LayerNorm(width), *wide)


class Readout(nn.Module, ABC):
    """How the two readings of a sequence are joined.

    Arguments:
        width: Size of the vectors.
        heads: Number of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, left: Tensor, right: Tensor, c: Tensor) -> Tensor:
        """Vectors (B, D, width) from both readings of that shape and the condition (B, width)."""


class Concat(Readout):
    """A perceptron on both readings side by side."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.net = nn.Sequential(
            nn.Linear(2 * width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, left: Tensor, right: Tensor, c: Tensor) -> Tensor:
        return self.net(torch.cat([left, right], -1))


class Film(Readout):
    r"""Residual blocks on both readings side by side, scaled and shifted by the condition.

    .. math:: h \leftarrow h + (1 + a(c)) \operatorname{mlp}(\operatorname{norm}(h)) + b(c)
    """

    def __init__(self, width: int, heads: int, blocks: int = 2) -> None:
        super().__init__(width, heads)
        self.first = nn.Linear(2 * width, width)
        self.blocks = nn.ModuleList(perceptron(width) for _ in range(blocks))
        self.films = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))

    def forward(self, left: Tensor, right: Tensor, c: Tensor) -> Tensor:
        h = self.first(torch.cat([left, right], -1))
        for block, film in zip(self.blocks, self.films, strict=True):
            a, b = film(c).unsqueeze(1).chunk(2, -1)
            h = h + (1 + a) * block(h) + b
        return h


class Attention(Readout):
    r"""The query :math:`l_d + r_d` attends to c, to :math:`l_{\le d}` and to :math:`r_{\ge d}`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.net = perceptron(width)

    def forward(self, left: Tensor, right: Tensor, c: Tensor) -> Tensor:
        query = left + right
        keys = self.norm(torch.cat([c.unsqueeze(1), left, right], 1))
        ones = torch.ones(left.shape[1], left.shape[1], dtype=torch.bool, device=left.device)
        hidden = torch.cat([torch.zeros_like(ones[:, :1]), ones.triu(1), ones.tril(-1)], 1)
        found, _ = self.attention(
            self.norm(query), keys, keys, attn_mask=hidden, need_weights=False
        )
        h = query + found
        return h + self.net(h)


class HollowTransformer(nn.Module):
    """Logits of every token from all tokens but itself: for leave-one-out and conditional heads.

    Arguments:
        size: Number of categories that a token can hold.
        length: Number of tokens.
        outputs: Number of logits per token; ``size`` if not given.
        width: Size of the vectors.
        layers: Number of layers of each of the two stacks.
        heads: Number of attention heads.
        readout: `Concat`, `Film` or `Attention`, a type.
        dropout: Probability that a unit is dropped in training.
        classes: Number of class labels that a context may hold; ``classes`` means *unknown*.
        drop: Probability that a label becomes *unknown* in training.

    Example:
        >>> net = HollowTransformer(5, length=8, width=32, layers=2, heads=4).eval()
        >>> x, t = torch.zeros(1, 8, dtype=torch.int64), torch.rand(1)
        >>> y = x.index_fill(1, torch.tensor([3]), 4)  # another token at site 3
        >>> (net(x, t) == net(y, t)).all(-1)[0]  # … changes all logits but its own
        tensor([False, False, False,  True, False, False, False, False])
    """

    def __init__(
        self,
        size: int,
        length: int,
        outputs: int | None = None,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        readout: type[Readout] = Concat,
        dropout: float = 0.1,
        classes: int = 0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedded = Embedded(size, length, width)
        self.condition = Condition(width, classes, drop)
        self.left = stack(width, layers, heads, dropout)
        self.right = stack(width, layers, heads, dropout)
        self.readout = readout(width, heads)
        self.last = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, size if outputs is None else outputs)
        )

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        c = self.condition(t, context)
        h, first = self.embedded(x), c.unsqueeze(1)
        later = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).triu(1)
        left = self.left(torch.cat([first, h[:, :-1]], 1), later)
        right = self.right(torch.cat([first, h[:, 1:].flip(1)], 1), later).flip(1)
        return self.last(self.readout(left, right, c)).unflatten(1, x.shape[1:])
