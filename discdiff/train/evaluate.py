"""The bound on items, in bits per dimension, and its standard error: `score`, `Bound`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..process import Chain
from .data import Dataset
from .model import Model
from .seeds import EVALUATE, seed_noise

ROWS = 512  # items per call of the network, draws counted
EACH = 16  # steps of a chain that take the place of one draw


@dataclass(frozen=True)
class Bound:
    """A mean over items and its standard error.

    Arguments:
        mean: Bits per dimension.
        error: The standard error of the mean over items.
    """

    mean: float
    error: float

    @staticmethod
    def of(bits: Tensor) -> Bound:
        """The mean and its standard error of one number per item."""
        error = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
        return Bound(float(bits.mean()), error)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f} bits/dim"


@torch.no_grad()
def score(
    model: Model, values: Tensor, labels: Tensor | None = None, draws: int = 64, seed: int = 0
) -> Tensor:
    """The bound of each item, averaged over several draws, bits/dim, shape (N,).

    A draw looks at one step of a chain, or one time. A chain of no more than `EACH` times as many
    steps is looked at step by step instead, each once: what a step says of an item may vary far
    more than what the steps add up to.

    Arguments:
        model: The model.
        values: Items, shape (N, *event).
        labels: Their class labels, if the network is to know them.
        draws: Number of draws per item.
        seed: The draws depend on it.
    """
    if isinstance(model.process, Chain) and len(model.process.times) <= EACH * draws:
        return _by_steps(model, values, labels, seed)
    rows = max(1, ROWS // draws)
    parts = []
    for n, start in enumerate(range(0, len(values), rows)):
        seed_noise(seed, EVALUATE, n)
        some = values[start : start + rows].repeat_interleave(draws, 0)
        known = None if labels is None else labels[start : start + rows].repeat_interleave(draws)
        parts.append(model.bits(some, known).reshape(-1, draws).mean(1))
    return torch.cat(parts)


def _by_steps(model: Model, values: Tensor, labels: Tensor | None, seed: int) -> Tensor:
    """The bound of each item by all steps of a chain, (N,)."""
    parts = []
    for n, start in enumerate(range(0, len(values), ROWS)):
        seed_noise(seed, EVALUATE, n)
        known = None if labels is None else labels[start : start + ROWS]
        parts.append(model.bits_of_steps(values[start : start + ROWS], known))
    return torch.cat(parts)


def held_out(model: Model, data: Dataset, draws: int, seed: int) -> dict[str, Bound]:
    """The bounds of the held-out items; the headline is the last one.

    A network that takes class labels is scored without them, then with them.
    """
    values, labels = data.take(data.split.held_out)
    device = next(model.parameters()).device
    values = values.to(device)
    if not model.classes or labels is None:
        return {"held-out": Bound.of(score(model, values, None, draws, seed))}
    return {
        "held-out, labels unknown": Bound.of(score(model, values, None, draws, seed)),
        "held-out": Bound.of(score(model, values, labels.to(device), draws, seed)),
    }
