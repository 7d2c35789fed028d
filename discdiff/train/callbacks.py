"""What happens around training: `Log`, `keepers` (checkpoints) and `AtomicIO`.

Files of a run are replaced as a whole, never written in place, so a run that is killed at any
moment leaves the last complete version of each.
"""

from __future__ import annotations

import csv
import io
import math
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .settings import Settings

FIELDS = ("step", "train", "validation")


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file as a whole."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class AtomicIO(TorchCheckpointIO):
    """Checkpoints that replace their predecessors as a whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, buffer.getvalue())


class Log(Callback):
    """Keeps one row per validation in a CSV file: the step, and bits per dimension.

    The rows live in the checkpoint. After a resumption the file holds those of the checkpoint,
    then the new ones: what an uninterrupted run would have written.

    Arguments:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[tuple[int, float, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = trainer.callback_metrics
        train, validation = float(metrics["train"]), float(metrics["validation"])
        if not math.isfinite(train):
            raise ValueError(f"the loss is {train} at step {trainer.global_step}; lower --lr")
        self.rows.append((trainer.global_step, train, validation))
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [(int(step), a, b) for step, a, b in state_dict["rows"]]

    def _write(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows((step, f"{a:.6f}", f"{b:.6f}") for step, a, b in self.rows)
        write_atomically(self.path, text.getvalue().encode())


class Patience(EarlyStopping):
    """Early stopping that also holds for a run resumed after it had stopped."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class First(Callback):
    """Writes a checkpoint before the first step, so that a run can always be resumed.

    Arguments:
        path: The checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            trainer.save_checkpoint(self.path)


def callbacks(folder: Path, settings: Settings) -> list[Callback]:
    """The callbacks of a run: averaged weights, the log, early stopping, two checkpoints."""
    checkpoints = folder / "checkpoints"
    average = get_ema_multi_avg_fn(settings.ema)
    return [
        WeightAveraging(use_buffers=False, multi_avg_fn=average),
        Patience("validation", patience=settings.patience, check_on_train_epoch_end=True),
        First(checkpoints / "last.ckpt"),
        Log(folder / "log.csv"),
        _keeper(checkpoints, "best", monitor="validation"),
        _keeper(checkpoints, "last", monitor=None),
    ]


def _keeper(folder: Path, name: str, monitor: str | None) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename=name,
        monitor=monitor,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        auto_insert_metric_name=False,
    )
