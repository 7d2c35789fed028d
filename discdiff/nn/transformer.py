"""`Transformer`: logits for every token of a sequence, each from all tokens.

A standard stack of pre-norm encoder layers with learned positions. The time, and a class label if
one is declared, are embedded as one vector that is added to every token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .mlp import TimeEmbedding


class Condition(nn.Module):
    """The time and, if declared, a class label as one vector, shape (B, width).

    Arguments:
        width: Size of the vector.
        classes: Number of class labels; label ``classes`` (and no context) means *unknown*.
        drop: Probability that a label becomes *unknown* in training, as guidance needs.

    Raises:
        ValueError: If a context comes although no classes were declared.
    """

    def __init__(self, width: int, classes: int = 0, drop: float = 0.0) -> None:
        super().__init__()
        self.classes, self.drop = classes, drop
        self.time = TimeEmbedding(width)
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, t: Tensor, context: Tensor | None = None) -> Tensor:
        c = self.time(t)
        if self.label is None:
            if context is not None:
                raise ValueError("a context was given to a network declared with classes=0")
            return c
        unknown = torch.full(t.shape, self.classes, dtype=torch.int64, device=t.device)
        if context is None:
            return c + self.label(unknown)
        if self.training and self.drop > 0:
            hidden = torch.rand(t.shape, device=t.device) < self.drop
            context = torch.where(hidden, unknown, context)
        return c + self.label(context)


class Embedded(nn.Module):
    """Tokens with their positions as vectors, shape (B, D, width)."""

    def __init__(self, size: int, length: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        if math.prod(x.shape[1:]) != len(self.positions):
            raise ValueError(
                f"x must hold {len(self.positions)} tokens; its shape is {tuple(x.shape)}"
            )
        return self.tokens(x.flatten(1)) + self.positions


def stack(width: int, layers: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """Pre-norm encoder layers with a norm at the end."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)


class Transformer(nn.Module):
    """Logits of every token from all tokens, itself included: for posteriors.

    Arguments:
        size: Number of categories that a token can hold.
        length: Number of tokens.
        outputs: Number of logits per token; ``size`` if not given.
        width: Size of the vectors.
        layers: Number of layers.
        heads: Number of attention heads.
        dropout: Probability that a unit is dropped in training.
        classes: Number of class labels that a context may hold; ``classes`` means *unknown*.
        drop: Probability that a label becomes *unknown* in training.

    Example:
        >>> net = Transformer(5, length=8, width=32, layers=2, heads=4)
        >>> net(torch.zeros(3, 8, dtype=torch.int64), torch.rand(3)).shape
        torch.Size([3, 8, 5])
    """

    def __init__(
        self,
        size: int,
        length: int,
        outputs: int | None = None,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        classes: int = 0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedded = Embedded(size, length, width)
        self.condition = Condition(width, classes, drop)
        self.stack = stack(width, layers, heads, dropout)
        self.last = nn.Linear(width, size if outputs is None else outputs)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.embedded(x) + self.condition(t, context).unsqueeze(1)
        return self.last(self.stack(h)).unflatten(1, x.shape[1:])
