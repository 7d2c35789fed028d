"""Batches that depend on (seed, n) only: `Stream` and `Batches`.

Step n trains on items n·B .. (n+1)·B of an endless sequence of shuffled passes through the data,
the e-th pass shuffled by (seed, e). So a run that is stopped anywhere and resumed repeats the
steps it lost, to the last bit.
"""

from __future__ import annotations

from functools import lru_cache

import lightning.pytorch as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Indexed

from .data import Dataset
from .seeds import SHUFFLE, key

Batch = tuple[int, Tensor, Tensor | None]


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of items in one pass through the data."""
    return np.random.default_rng(key(seed, SHUFFLE, epoch)).permutation(count)


def rows_of_step(seed: int, n: int, count: int, batch: int) -> NDArray[np.int64]:
    """The items of step n."""
    position = np.arange(n * batch, (n + 1) * batch)
    epochs, places = position // count, position % count
    rows = [order(seed, int(e), count)[places[epochs == e]] for e in np.unique(epochs)]
    return np.concatenate(rows)


class Stream(Indexed[Batch]):
    """Batches by the number of their step.

    Arguments:
        data: The dataset; its training items are used.
        seed: The seed of the run.
        batch: Number of items per step, all devices together.
        rank: Which device this is.
        devices: How many there are; each takes its share of every batch.
    """

    def __init__(
        self, data: Dataset, seed: int, batch: int, rank: int = 0, devices: int = 1
    ) -> None:
        self.data, self.seed, self.batch = data, seed, batch
        self.rank, self.devices = rank, devices

    def __getitem__(self, n: int) -> Batch:
        index = self.data.split.train
        rows = rows_of_step(self.seed, n, len(index), self.batch)
        values, labels = self.data.take(index[rows[self.rank :: self.devices]])
        return n, values, labels


class Batches(L.LightningDataModule):
    """Rounds of ``every`` training steps, each followed by the validation items in one order.

    Arguments:
        data: The dataset.
        seed: The seed of the run.
        batch: Number of items per step.
        steps: Number of steps in all.
        every: Number of steps per round.
    """

    def __init__(self, data: Dataset, seed: int, batch: int, steps: int, every: int) -> None:
        super().__init__()
        self.data, self.seed, self.batch = data, seed, batch
        self.steps, self.every = steps, every

    def train_dataloader(self) -> DataLoader[Batch]:
        """The steps of the next round; the trainer asks anew for each."""
        assert self.trainer is not None
        rank, devices = self.trainer.global_rank, self.trainer.world_size
        stream = Stream(self.data, self.seed, self.batch, rank, devices)
        first = self.trainer.global_step
        steps = range(first, min(first + self.every, self.steps))
        return DataLoader(stream, batch_size=None, sampler=steps)

    def val_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        rank, devices = self.trainer.global_rank, self.trainer.world_size
        index = self.data.split.validate[rank::devices]
        chunks = [
            (n, *self.data.take(index[i : i + self.batch]))
            for n, i in enumerate(range(0, len(index), self.batch))
        ]
        return DataLoader(chunks, batch_size=None)  # type: ignore[arg-type]
