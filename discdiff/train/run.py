"""Run folders: what a training run leaves behind, and `load`, which brings it back.

A run is a folder with ``config.yaml`` (its options), ``log.csv``, ``checkpoints/best.ckpt`` and
``last.ckpt``, a copy of the user's process if there is one, and at the end ``samples.png`` and
``curve.png``.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from ..heads import Head
from ..process import Process
from ..steppers import Stepper
from .declare import process_named
from .describe import Description
from .model import Model
from .seeds import INITIALISE, SAMPLE, seed_noise
from .settings import Settings

CONFIG, LOG, PROCESS = "config.yaml", "log.csv", "process.py"
BEST, LAST = Path("checkpoints/best.ckpt"), Path("checkpoints/last.ckpt")


@dataclass(frozen=True)
class Run:
    """A trained model, with its averaged weights.

    Arguments:
        folder: Where it was found.
        settings: The options it was trained with.
        model: The model.
    """

    folder: Path
    settings: Settings
    model: Model

    @property
    def process(self) -> Process:
        """The process."""
        return self.model.process

    @property
    def head(self) -> Head:
        """The head around the trained network."""
        return self.model.head

    def sample(
        self,
        n: int,
        label: str | int | None = None,
        steps: int = 200,
        stepper: Stepper | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Generated items, shape (n, *event): integers, or reals of real data.

        Arguments:
            n: How many.
            label: The class they shall belong to, by name or index.
            steps: Number of reverse steps.
            stepper: How to step.
            seed: Draws the same items again; if not given, torch's generator goes on.
        """
        if n < 1:
            raise ValueError(f"the number of items must be at least 1; it is {n}")
        if seed is not None:
            seed_noise(seed, SAMPLE)
        return self.model.draw(n, self.labels(label, n), steps, stepper)

    def elbo(self, x: Tensor, label: str | int | Tensor | None = None) -> Tensor:
        """A one-draw estimate of the bound on log p(x), in nats, shape (B,).

        Arguments:
            x: Items of the data, shape (B, *event).
            label: Their class, or one index per item.
        """
        x = self.model.check(torch.as_tensor(x))
        labels = label if isinstance(label, Tensor) else self.labels(label, len(x))
        with torch.no_grad():
            return -self.model.bits(x, labels) * self.model.unit

    def labels(self, label: str | int | None, n: int) -> Tensor | None:
        """The index of a class, n times; None if no class is asked for."""
        if label is None:
            return None
        classes = self.model.data.classes
        if not self.model.classes:
            raise ValueError(f"the run {self.folder} was trained without --labels true")
        index = classes.index(label) if label in classes else _index(label)
        if not 0 <= index < len(classes):
            raise ValueError(f"label {label!r} is none of the classes {list(classes)}")
        device = next(self.model.head.parameters()).device
        return torch.full((n,), index, dtype=torch.int64, device=device)


def load(path: str | Path) -> Run:
    """A trained run: its process, head and options, ready to sample and to score.

    Arguments:
        path: The folder of the run.

    Raises:
        ValueError: If the folder is no run, or its checkpoint is missing or damaged.

    Example::

        run = load("runs/blackout-digits")
        run.sample(4).shape                     # torch.Size([4, 8, 8])
    """
    folder = Path(path)
    settings = read_settings(folder)
    checkpoint = read_checkpoint(folder / BEST)
    data = Description.from_state(checkpoint["data"])
    model = build(settings, data, folder)
    state = {
        name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()
    }
    model.load_state_dict(state)
    return Run(folder, settings, model.eval())


def build(settings: Settings, data: Description, folder: Path | None = None) -> Model:
    """The untrained model of these settings; a user's process comes from the run's own copy."""
    name = settings.process
    if folder is not None and ":" in name:
        name = f"{folder / PROCESS}:{name.rpartition(':')[2]}"
    process = process_named(name, data)
    seed_noise(settings.seed, INITIALISE)
    return Model(process, data, settings)


def create(folder: Path, config: str, settings: Settings) -> None:
    """Makes the folder of a new run and saves its options and the user's process.

    Raises:
        ValueError: If the folder exists.
    """
    if folder.exists():
        raise ValueError(
            f"{folder} exists: resume it (--resume {folder}) or choose another --name"
        )
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    if ":" in settings.process:
        shutil.copyfile(settings.process.rpartition(":")[0], partial / PROCESS)
    (partial / CONFIG).write_text(config, encoding="utf-8")
    partial.rename(folder)


def free_folder(runs: Path, settings: Settings) -> Path:
    """A folder that does not exist yet, named after process and data."""
    process = settings.process.rpartition(":")[2]
    base = f"{process}-{Path(settings.data).stem}"
    names = (base if i == 1 else f"{base}-{i}" for i in count(1))
    return next(runs / name for name in names if not (runs / name).exists())


def read_settings(folder: Path) -> Settings:
    """The options of a run.

    Raises:
        ValueError: If the folder is no run or its options cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is no run: it has no {CONFIG}")
    try:
        config: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Settings(**{f.name: config[f.name] for f in fields(Settings)})
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint.

    Raises:
        ValueError: If it is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"the checkpoint {path} is damaged ({path.stat().st_size} bytes): {error}"
        ) from error
    missing = {"state_dict", "data"} - set(checkpoint)
    if missing:
        raise ValueError(f"{path} is no checkpoint of a run: it lacks {sorted(missing)}")
    return checkpoint


def last_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The checkpoint to go on from; None if the run was stopped before its first step.

    Raises:
        ValueError: If it is missing although the run has begun, or damaged.
    """
    begun = any((folder / name).exists() for name in (LOG, BEST, LAST))
    return read_checkpoint(folder / LAST) if begun else None


def read_log(folder: Path) -> np.ndarray:
    """The rows of a run's log: step, training loss, validation bound; shape (rows, 3)."""
    with (folder / LOG).open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 3)


def _index(label: str | int) -> int:
    return int(label) if isinstance(label, int) or label.isdigit() else -1
