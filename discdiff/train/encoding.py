r"""Encodings: the integers of the data as states of a process, and back.

Every encoding adds to a log-likelihood of the state what makes it one of the data, so that counts,
categories and dequantised reals are scored in one unit, bits per dimension of the integers:

* `AsCounts`, `AsCategories`: the state is the value, nothing is added.
* `AsReals`: :math:`y = (1 - a) (k + u) / K + a` with u uniform on [0, 1), for which
  :math:`\log P(k) \ge \mathbb{E}_u \log p(y) + \log ((1 - a) / K)` (see `discdiff.reals`).
* `AsDensity`: real data, :math:`y = (x - m) / s`, for which
  :math:`\log p(x) = \log p(y) - \log s`; a density, not a probability.
* `AsTable`: one encoding per column, the state is a dict.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..reals import dequantise, log_width, quantise

State = Any


class Encoding(ABC):
    """How values of the data become states of a process."""

    @abstractmethod
    def encode(self, values: Tensor) -> State:
        """States for values of shape (B, *event); random where values are dequantised."""

    @abstractmethod
    def decode(self, state: State) -> Tensor:
        """The values that states stand for."""

    @abstractmethod
    def log_scale(self, event: tuple[int, ...]) -> float:
        """What the log-likelihood of an item gains over that of its state, in nats."""

    def shape(self, batch: int, event: tuple[int, ...]) -> Any:
        """The shape of a batch of states."""
        return (batch, *event)


@dataclass(frozen=True)
class AsCounts(Encoding):
    """Values as counts, floating."""

    def encode(self, values: Tensor) -> Tensor:
        return values.to(torch.get_default_dtype())

    def decode(self, state: Tensor) -> Tensor:
        return state.round().long()

    def log_scale(self, event: tuple[int, ...]) -> float:
        return 0.0


@dataclass(frozen=True)
class AsCategories(Encoding):
    """Values as categories.

    Arguments:
        size: Number of states, those that data cannot take included.
    """

    size: int

    def encode(self, values: Tensor) -> Tensor:
        return values.long()

    def decode(self, state: Tensor) -> Tensor:
        return state

    def log_scale(self, event: tuple[int, ...]) -> float:
        return 0.0


@dataclass(frozen=True)
class AsReals(Encoding):
    """Integers below K, dequantised, on [low, 1).

    Arguments:
        levels: K.
        low: Where the interval starts: −1, or 0 for processes on the unit interval.
    """

    levels: int
    low: float = -1.0

    @property
    def width(self) -> float:
        """The width of an integer."""
        return (1 - self.low) / self.levels

    def encode(self, values: Tensor) -> Tensor:
        return dequantise(values, self.levels, self.low)

    def decode(self, state: Tensor) -> Tensor:
        return quantise(state, self.levels, self.low)

    def log_scale(self, event: tuple[int, ...]) -> float:
        return log_width(self.levels, math.prod(event), self.low)


@dataclass(frozen=True)
class AsDensity(Encoding):
    """Real data, each entry shifted and scaled.

    Arguments:
        mean: m, of the event's shape.
        std: s, likewise, positive.
    """

    mean: Tensor
    std: Tensor

    def encode(self, values: Tensor) -> Tensor:
        scaled = (values - self.mean.to(values)) / self.std.to(values)
        return scaled.to(torch.get_default_dtype())

    def decode(self, state: Tensor) -> Tensor:
        return state * self.std.to(state) + self.mean.to(state)

    def log_scale(self, event: tuple[int, ...]) -> float:
        return -float(self.std.log().sum())


@dataclass(frozen=True)
class AsTable(Encoding):
    """The columns of (B, C) values, each in its own way.

    Arguments:
        parts: An encoding per column, in their order.
    """

    parts: Mapping[str, Encoding]

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        return {
            name: part.encode(values[:, j]) for j, (name, part) in enumerate(self.parts.items())
        }

    def decode(self, state: Mapping[str, Tensor]) -> Tensor:
        columns = [part.decode(state[name]).double() for name, part in self.parts.items()]
        return torch.stack(columns, 1)

    def log_scale(self, event: tuple[int, ...]) -> float:
        return sum(part.log_scale(()) for part in self.parts.values())

    def shape(self, batch: int, event: tuple[int, ...]) -> dict[str, Any]:
        return {name: part.shape(batch, ()) for name, part in self.parts.items()}
