"""Data to train on: `Dataset`, the kinds of data, and the handwritten digits.

A dataset is an array of items with a kind (`Counts`, `Categories`, `Reals`), optional class labels
and a fixed split into items to train on, to validate on and to hold out. Files are read by
`discdiff.train.files`; nothing here is random but the split, which is the same for every seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

INK = 8  # a pixel of a binary digit is 1 where the scan, 0..16, has at least this much ink


@dataclass(frozen=True)
class Counts:
    """Integers 0..max."""

    max: int

    @property
    def levels(self) -> int:
        """Number of values."""
        return self.max + 1


@dataclass(frozen=True)
class Categories:
    """Unordered values 0..size−1; of characters, the vocabulary says which."""

    size: int
    vocabulary: str = ""

    @property
    def levels(self) -> int:
        """Number of values."""
        return self.size


@dataclass(frozen=True)
class Reals:
    """Real numbers; ``example`` says where the first value stands that is no integer."""

    example: str = ""


Kind = Counts | Categories | Reals


@dataclass(frozen=True)
class Split:
    """Indices of the items to train on, to validate on and to hold out."""

    train: NDArray[np.int64]
    validate: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @staticmethod
    def of(count: int, train: int, validate: int) -> Split:
        """A random split, the same for the same numbers."""
        order = np.random.default_rng(0).permutation(count)
        return Split(order[:train], order[train : train + validate], order[train + validate :])

    @staticmethod
    def usual(count: int, name: str) -> Split:
        """Three quarters to train on, a twelfth to validate on, a sixth to hold out.

        Raises:
            ValueError: If there are fewer than 12 items.
        """
        if count < 12:
            raise ValueError(f"{name}: {count} items cannot be split; at least 12 are needed")
        return Split.of(count, round(0.75 * count), round(count / 12))


@dataclass(frozen=True)
class Dataset:
    """Items with a kind, a split and, if known, class labels.

    Arguments:
        name: What to call the data.
        values: The items, shape (N, *event): integers, or float64 for `Reals`.
        kind: What the values are.
        split: Which items are for what.
        labels: Class labels, int64 of shape (N,).
        classes: Names of the classes.
        columns: Names of the columns of a table.
    """

    name: str
    values: Tensor
    kind: Kind
    split: Split
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def take(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """The items of an index and their labels."""
        rows = torch.from_numpy(np.ascontiguousarray(index))
        return self.values[rows], None if self.labels is None else self.labels[rows]

    @property
    def train(self) -> Tensor:
        """The items to train on."""
        return self.take(self.split.train)[0]

    @property
    def digest(self) -> str:
        """A fingerprint of the values and labels."""
        sha = hashlib.sha256(self.values.contiguous().numpy().tobytes())
        if self.labels is not None:
            sha.update(self.labels.contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]


def digits(binary: bool = False) -> Dataset:
    """The 1797 scanned digits that scikit-learn ships: 8×8 pixels of 0..16.

    Arguments:
        binary: Whether a pixel only says if the scan has at least 8 of 16 units of ink.
    """
    raw: Any = load_digits()
    values = torch.from_numpy(raw.images.astype(np.int64))
    split = Split.of(len(values), 1350, 150)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    classes = tuple("0123456789")
    if binary:
        return Dataset("binary-digits", (values >= INK).long(), Counts(1), split, labels, classes)
    return Dataset("digits", values, Counts(16), split, labels, classes)
