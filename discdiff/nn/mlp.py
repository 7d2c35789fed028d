r"""Multilayer perceptrons with a time argument: `Trunk`, the common part, and `MLP`.

.. math::
    h \leftarrow h + \operatorname{dropout}(\operatorname{silu}(W \operatorname{norm}(h) + V c)),
    \qquad c = \operatorname{embed}(t) + \operatorname{embed}(y),

repeated once per block, where t in [0, 1] is the time and y an optional class label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Shape = int | Sequence[int]


class TimeEmbedding(nn.Module):
    r"""Sines and cosines of the time, mapped to a vector.

    Arguments:
        width: Size of the vector.
        waves: Number of frequencies, geometric from a quarter turn to 16 turns over [0, 1].
    """

    frequencies: Tensor

    def __init__(self, width: int, waves: int = 32) -> None:
        super().__init__()
        turns = 2.0 ** torch.linspace(-2, 4, waves)
        self.register_buffer("frequencies", 2 * math.pi * turns, persistent=False)
        self.net = nn.Sequential(nn.Linear(2 * waves, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angles = t.to(self.frequencies.dtype).unsqueeze(-1) * self.frequencies
        return self.net(torch.cat([angles.sin(), angles.cos()], -1))


class Block(nn.Module):
    """One residual layer, shifted by the condition."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.shift = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        inner = nn.functional.silu(self.linear(self.norm(h)) + self.shift(condition))
        return h + self.dropout(inner)


class Trunk(nn.Module):
    """Residual layers on vectors, conditioned on the time and, if declared, a class label.

    Arguments:
        width: Size of the vectors.
        blocks: Number of residual layers.
        dropout: Probability that a unit of a layer is dropped in training.
        classes: Number of class labels; label ``classes`` (and no context) means *unknown*.

    Raises:
        ValueError: If a context comes although no classes were declared.
    """

    def __init__(
        self, width: int = 512, blocks: int = 3, dropout: float = 0.1, classes: int = 0
    ) -> None:
        super().__init__()
        self.classes = classes
        self.time = TimeEmbedding(width)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def condition(self, t: Tensor, context: Tensor | None) -> Tensor:
        """The vector that conditions every layer, shape (B, width)."""
        c = self.time(t)
        if self.label is not None:
            if context is None:
                context = torch.full(t.shape, self.classes, dtype=torch.int64, device=t.device)
            c = c + self.label(context)
        elif context is not None:
            raise ValueError("a context was given to a network that was declared with classes=0")
        return nn.functional.silu(c)

    def forward(self, h: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        condition = self.condition(t, context)
        for block in self.blocks:
            h = block(h, condition)
        return self.norm(h)


class MLP(nn.Module):
    """A multilayer perceptron from states of one event shape to outputs of another.

    Arguments:
        features: Event shape of the state, or the number of its entries.
        outputs: Event shape of the output; that of the state if not given.
        width: Size of the hidden vectors.
        blocks: Number of residual layers.
        dropout: Probability that a hidden unit is dropped in training.
        classes: Number of class labels that a context may hold; ``classes`` means *unknown*.

    Example:
        >>> MLP((8, 8), (8, 8, 17), width=32)(torch.zeros(5, 8, 8), torch.rand(5)).shape
        torch.Size([5, 8, 8, 17])
    """

    def __init__(
        self,
        features: Shape,
        outputs: Shape | None = None,
        width: int = 512,
        blocks: int = 3,
        dropout: float = 0.1,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.event = as_shape(features)
        self.out_event = self.event if outputs is None else as_shape(outputs)
        self.first = nn.Linear(math.prod(self.event), width)
        self.trunk = Trunk(width, blocks, dropout, classes)
        self.last = nn.Linear(width, math.prod(self.out_event))

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(
                f"x must have shape (B, {', '.join(map(str, self.event))}); it has "
                f"shape {tuple(x.shape)}"
            )
        h = self.first(x.reshape(len(x), math.prod(self.event)).to(self.first.weight.dtype))
        output = self.last(self.trunk(h, t, context))
        return output.reshape(len(x), *self.out_event)


def as_shape(shape: Shape) -> tuple[int, ...]:
    """An event shape; a number counts the entries of a vector."""
    return (shape,) if isinstance(shape, int) else tuple(shape)
