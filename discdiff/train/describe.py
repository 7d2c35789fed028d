"""`Description`: what a model must know of its data, small enough to be kept in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .data import Categories, Counts, Dataset, Kind, Reals


@dataclass(frozen=True)
class Description:
    """What a model must know of its data.

    Arguments:
        name: What the data are called.
        event: Shape of an item.
        kind: What the values are.
        mean: Mean of the training items, a number; of `Reals` one per entry.
        std: Standard deviation, likewise; 1 where it would be 0.
        classes: Names of the classes.
        columns: Descriptions of the columns of a table, each with event ().
        digest: Fingerprint of the dataset.
    """

    name: str
    event: tuple[int, ...]
    kind: Kind
    mean: Tensor
    std: Tensor
    classes: tuple[str, ...] = ()
    columns: Mapping[str, Description] = field(default_factory=dict)
    digest: str = ""

    @staticmethod
    def of(data: Dataset) -> Description:
        """The description of a dataset."""
        values = data.train.double()
        mean, std = _moments(values, data.kind)
        columns = {
            name: _column(name, data.values[:, j], values[:, j])
            for j, name in enumerate(data.columns)
        }
        event = tuple(data.values.shape[1:])
        return Description(
            data.name, event, data.kind, mean, std, data.classes, columns, data.digest
        )

    def state(self) -> dict[str, Any]:
        """The description as plain values and tensors."""
        return {
            "name": self.name,
            "event": list(self.event),
            "kind": _kind_state(self.kind),
            "mean": self.mean,
            "std": self.std,
            "classes": list(self.classes),
            "columns": {name: column.state() for name, column in self.columns.items()},
            "digest": self.digest,
        }

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Description:
        """The description that `state` made."""
        columns = {name: Description.from_state(c) for name, c in state["columns"].items()}
        return Description(
            state["name"],
            tuple(state["event"]),
            _kind_from_state(state["kind"]),
            state["mean"],
            state["std"],
            tuple(state["classes"]),
            columns,
            state["digest"],
        )


def _column(name: str, values: Tensor, train: Tensor) -> Description:
    integer = bool((values == values.round()).all() and (values >= 0).all())
    kind = Counts(int(values.max())) if integer else Reals(f"column {name} holds real numbers")
    mean, std = _moments(train, kind)
    return Description(name, (), kind, mean, std)


def _moments(values: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    if isinstance(kind, Reals):
        mean, std = values.mean(0), values.std(0)
    else:
        mean, std = values.mean(), values.std()
    return mean, torch.where(std > 0, std, torch.ones_like(std))


def _kind_state(kind: Kind) -> dict[str, Any]:
    if isinstance(kind, Counts):
        return {"counts": kind.max}
    if isinstance(kind, Categories):
        return {"categories": kind.size, "vocabulary": kind.vocabulary}
    return {"reals": kind.example}


def _kind_from_state(state: Mapping[str, Any]) -> Kind:
    if "counts" in state:
        return Counts(state["counts"])
    if "categories" in state:
        return Categories(state["categories"], state["vocabulary"])
    return Reals(state["reals"])
