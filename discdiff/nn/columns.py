"""`Columns`: one network for a table whose columns are real, categorical or counts.

The state is a dict of columns; so is the output. Each column is turned into a vector by its own
embedding, a common `Trunk` sees them all, and each column has its own last layer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .embedding import Waves
from .mlp import Shape, Trunk, as_shape


class Column(nn.Module, ABC):
    """How one column enters the network, and how much the network says of it.

    Arguments:
        event: Event shape of the column; () for one number per row.
        outputs: What is said per entry, a shape; () for one number.
    """

    scale: float = 1.0

    def __init__(self, event: Shape = (), outputs: Shape = ()) -> None:
        super().__init__()
        self.event, self.outputs = as_shape(event), as_shape(outputs)
        self.entries = math.prod(self.event)

    @property
    @abstractmethod
    def features(self) -> int:
        """Number of features of an entry that the network sees."""

    @property
    @abstractmethod
    def basis(self) -> int:
        """Number of features of an entry against which the output is read; 1: none."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """The features of the entries, shape (B, *event, features)."""

    @property
    def size(self) -> int:
        """Number of coefficients that the network gives for this column."""
        return self.entries * math.prod(self.outputs) * self.basis

    def read(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """The output for this column, shape (B, *event, *outputs)."""
        shaped = coefficients.reshape(x.shape[0], *self.event, *self.outputs, self.basis)
        if self.basis == 1:
            return shaped.squeeze(-1)
        embedded = self.embed(x)
        ones = (1,) * len(self.outputs)
        features = embedded.reshape(*x.shape, *ones, embedded.shape[-1])
        return self.scale * (shaped * features).sum(-1)


class Number(Column):
    """A column of real numbers or counts, shifted and scaled.

    Arguments:
        event: Event shape of the column.
        outputs: What is said per entry.
        mean: The mean of the data.
        std: Their standard deviation.
        unit: The smallest difference that matters: 1 for counts.
        scale: A factor of the outputs, as in `Local`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        event: Shape = (),
        outputs: Shape = (),
        mean: float = 0.0,
        std: float = 1.0,
        unit: float = 0.25,
        scale: float = 1.0,
    ) -> None:
        super().__init__(event, outputs)
        self.scale = scale
        self.waves = Waves(unit)
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    @property
    def features(self) -> int:
        return self.waves.features

    @property
    def basis(self) -> int:
        return self.waves.features

    def embed(self, x: Tensor) -> Tensor:
        waves = self.waves(x)
        scaled = (x.to(waves.dtype) - self.mean) / self.std
        return torch.cat([waves[..., :1], scaled.unsqueeze(-1), waves[..., 2:]], -1)


class Category(Column):
    """A column of categories.

    Arguments:
        size: Number of categories that the state can hold.
        event: Event shape of the column.
        outputs: What is said per entry; one logit per category if not given.
        dim: Size of the embedding.
    """

    def __init__(
        self, size: int, event: Shape = (), outputs: Shape | None = None, dim: int = 16
    ) -> None:
        super().__init__(event, size if outputs is None else outputs)
        self.embedding = nn.Embedding(size, dim)

    @property
    def features(self) -> int:
        return self.embedding.embedding_dim

    @property
    def basis(self) -> int:
        return 1

    def embed(self, x: Tensor) -> Tensor:
        return self.embedding(x)


class Columns(nn.Module):
    """A network from a dict of columns to a dict of outputs with the same names.

    Arguments:
        columns: The columns by name.
        width: Size of the hidden vectors.
        blocks: Number of residual layers.
        dropout: Probability that a hidden unit is dropped in training.
        classes: Number of class labels that a context may hold.

    Example:
        >>> net = Columns({"job": Category(4), "visits": Number(unit=1.0)}, width=32)
        >>> x = {"job": torch.zeros(5, dtype=torch.int64), "visits": torch.ones(5)}
        >>> {name: tuple(y.shape) for name, y in net(x, torch.rand(5)).items()}
        {'job': (5, 4), 'visits': (5,)}
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        width: int = 512,
        blocks: int = 3,
        dropout: float = 0.1,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.names = tuple(columns)
        self.columns = nn.ModuleList(columns.values())
        self.first = nn.Linear(sum(c.entries * c.features for c in columns.values()), width)
        self.trunk = Trunk(width, blocks, dropout, classes)
        self.last = nn.Linear(width, sum(c.size for c in columns.values()))

    def parts(self) -> dict[str, Column]:
        """The columns by name."""
        return dict(zip(self.names, self.columns, strict=True))  # type: ignore[arg-type]

    def forward(
        self, x: Mapping[str, Tensor], t: Tensor, context: Tensor | None = None
    ) -> dict[str, Tensor]:
        parts = self.parts()
        embedded = [column.embed(x[name]).flatten(1) for name, column in parts.items()]
        h = self.trunk(self.first(torch.cat(embedded, -1)), t, context)
        pieces = self.last(h).split([column.size for column in parts.values()], -1)
        return {
            name: column.read(piece, x[name])
            for (name, column), piece in zip(parts.items(), pieces, strict=True)
        }
