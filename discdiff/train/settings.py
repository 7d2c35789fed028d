"""`Settings`: the options of a training run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The options of a training run.

    Arguments:
        process: blackout, masked, uniform, vp, ddpm, laplace, logistic, gamma, or PATH:NAME, a
            process in a Python file.
        data: digits, binary-digits, a .npy, .npz, .csv or .txt file, or a folder of images.
        length: Number of characters per item of a text file.
        labels: Whether the network is told the class labels.
        label_dropout: How often a label is hidden in training, so that samples need none.
        seed: Everything random depends on it.
        steps: Number of training steps.
        every: Number of steps between validations, at each of which a checkpoint is written.
        patience: Validations without an improvement after which training stops.
        batch: Number of items per step.
        lr: Largest learning rate, reached after the warm-up and brought to zero by a cosine.
        warmup: Number of steps of warm-up.
        weight_decay: Of AdamW.
        ema: Decay of the averaged weights, which are validated and kept.
        width: Width of the network.
        blocks: Number of its residual layers.
        dropout: Probability that a hidden unit is dropped in training.
        token_dim: Size of the embedding of a category.
        threads: Number of CPU threads; 0 leaves it to torch. One serves small networks best, and
            gives the same numbers on every machine of a kind.
        draws: Number of draws of the bound per held-out item.
        reverse_steps: Number of steps by which the samples of the figure are drawn.
    """

    process: str = "blackout"
    data: str = "digits"
    length: int = 64
    labels: bool = False
    label_dropout: float = 0.1
    seed: int = 0
    steps: int = 3000
    every: int = 200
    patience: int = 6
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.5
    ema: float = 0.998
    width: int = 512
    blocks: int = 3
    dropout: float = 0.1
    token_dim: int = 16
    threads: int = 1
    draws: int = 64
    reverse_steps: int = 200

    def __post_init__(self) -> None:
        at_least_one = ("length", "steps", "every", "patience", "batch", "width", "blocks")
        for name in (*at_least_one, "token_dim", "draws", "reverse_steps"):
            value = getattr(self, name)
            _require(value >= 1, f"--{name} must be at least 1; it is {value}")
        for name in ("seed", "warmup", "weight_decay", "threads"):
            value = getattr(self, name)
            _require(value >= 0, f"--{name} must be at least 0; it is {value}")
        for name in ("label_dropout", "ema", "dropout"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"--{name} must lie in [0, 1); it is {value}")
        _require(0 < self.lr < float("inf"), f"--lr must be positive; it is {self.lr}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
