"""Seeds that depend on (seed, purpose, number) only: `key` and `seed_noise`."""

from __future__ import annotations

import numpy as np
import torch

SHUFFLE, NOISE, VALIDATE, EVALUATE, SAMPLE, INITIALISE = range(6)


def key(seed: int, purpose: int, *numbers: int) -> int:
    """A 63-bit seed that depends on all of its arguments."""
    state = np.random.SeedSequence((seed, purpose, *numbers)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def seed_noise(seed: int, purpose: int, *numbers: int) -> None:
    """Seeds torch's generators for one purpose, say for step n of a training run."""
    torch.manual_seed(key(seed, purpose, *numbers))
