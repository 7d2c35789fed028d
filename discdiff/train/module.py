"""`Trainee`: the Lightning module that fits a `Model`."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ..validation import NotANumber
from .model import Model
from .seeds import NOISE, VALIDATE, seed_noise
from .settings import Settings
from .stream import Batch

VALIDATION_DRAWS = 8


class Trainee(L.LightningModule):
    """Fits the network of a model by the time integral of its loss, in bits per dimension.

    Before each step the generators are seeded by (seed, number of the step), so nothing depends
    on what was drawn before.

    Arguments:
        model: The model.
        settings: The options of the run.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def training_step(self, batch: Batch, _: int) -> Tensor:
        n, values, labels = batch
        seed_noise(self.settings.seed, NOISE, n, self.global_rank)
        try:
            loss = self.model.loss(values, self._hide(labels)).mean()
        except NotANumber as error:
            raise ValueError(f"training diverged at step {n}: {error}; lower --lr") from error
        self._log_mean("train", loss, len(values))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        n, values, labels = batch
        seed_noise(self.settings.seed, VALIDATE, n, self.global_rank)
        labels = labels if self.model.classes else None
        draws = [self.model.bits(values, labels) for _ in range(VALIDATION_DRAWS)]
        bits = torch.stack(draws).mean()
        self._log_mean("validation", bits, len(values))

    def configure_optimizers(self) -> Any:
        s = self.settings
        # What a process has learned is no weight: zero is not where its numbers should go.
        process = {"params": list(self.model.process.parameters()), "weight_decay": 0.0}
        groups = [{"params": list(self.model.head.parameters())}, process]
        groups = [group for group in groups if group["params"]]
        optimizer = AdamW(groups, lr=s.lr, weight_decay=s.weight_decay)
        schedule = LambdaLR(optimizer, lambda n: rate_at(n, s.steps, s.warmup))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["data"] = self.model.data.state()

    def _log_mean(self, name: str, value: Tensor, count: int) -> None:
        """Logs the mean over a round, of all devices together."""
        self.log(
            name,
            value,
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=count,
        )

    def _hide(self, labels: Tensor | None) -> Tensor | None:
        """Labels, some of them replaced by *unknown*; None if the network takes none."""
        if labels is None or not self.model.classes:
            return None
        hidden = torch.rand(labels.shape, device=labels.device) < self.settings.label_dropout
        return torch.where(hidden, self.model.classes, labels)


def rate_at(n: int, steps: int, warmup: int) -> float:
    """The learning rate at step n as a share of the largest: linear warm-up, then a cosine."""
    start = min(1.0, (n + 1) / (warmup + 1))
    return start * 0.5 * (1 + math.cos(math.pi * min(n, steps) / steps))
