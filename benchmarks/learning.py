"""What the comparisons of noise kinds share: training, bounds, and tables that grow row by row."""

from __future__ import annotations

import copy
import csv
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import discdiff as dd

WARM_UP = 100
DECAY = 0.995  # of the average of weights


def noises(K: int, levels: Sequence[Any]) -> dict[str, tuple[dd.Process, tuple[int, ...]]]:
    r"""The kinds of noise on K tokens, each with the states that data cannot take.

    All run on `dd.clock.LogLinear`, :math:`e^{-\Lambda} = 1 - t`. The walk of ordinal noise is
    sped up by a quarter over its gap, :math:`2 (1 - \cos(\pi / K))`: what it forgets last it
    forgets like :math:`(1 - t)^{1/4}`, and which of two neighbours it came from long before.

    Arguments:
        K: The number of tokens.
        levels: Nested clusters, coarse to fine, for tree noise.
    """
    gap = 2 * (1 - math.cos(math.pi / K))
    uniform = torch.full((K,), 1 / K, dtype=torch.float64)
    declared = {
        "uniform": (dd.Replace(uniform), ()),
        "masked": (dd.Replace(dd.one_hot(K, K + 1)), (K,)),
        "ordinal": ((0.25 / gap) * dd.Reflecting(K), ()),
        "killing": (dd.Killing(dd.Reflecting(K)), (K,)),
        "tree": (dd.Clusters(levels), ()),
    }
    return {k: (p.on(dd.clock.LogLinear()), absent) for k, (p, absent) in declared.items()}


def hollow(K: int, length: int, absent: tuple[int, ...], width: int, layers: int) -> Any:
    """The head and network that all kinds share: leave-one-out laws from a hollow transformer."""
    outputs = K + len(absent)
    net = dd.nn.HollowTransformer(K + 1, length, outputs, width, layers, 4, dropout=0.0)
    return dd.heads.LeaveOneOut(net, absent=absent)


def fit(net: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> float:
    """Trains a network in place and leaves it at the average of its weights.

    Arguments:
        net: The network.
        loss: Draws the loss of a batch.
        steps: Number of steps of AdamW.
        rate: The learning rate: it rises for 100 steps and falls to zero along a cosine.

    Returns:
        The seconds of processor time that training took.
    """
    start = time.process_time()
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01, betas=(0.9, 0.98))
    net.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * schedule(step, steps)
        optimiser.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        follow(average, net, min(DECAY, (step + 1) / (step + 10)))
    net.load_state_dict(average.state_dict())
    net.eval()
    return time.process_time() - start


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate at a step."""
    cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)))
    return min(1.0, (step + 1) / WARM_UP) * float(cosine)


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Moves an exponential average of weights on by one step."""
    for mean, value in zip(average.parameters(), net.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


@torch.no_grad()
def nats(process: dd.Process, head: nn.Module, x_0: Tensor, draws: int) -> Tensor:
    """Draws of the bound on −log p of each item, shape (draws, B)."""
    total = [-dd.elbo(process, head, x_0).double() for _ in range(draws)]
    return torch.stack(total)


def machine() -> str:
    """The machine in a few words."""
    return f"{platform.machine()}, {torch.get_num_threads()} thread"


def finished(path: Path, keys: tuple[str, ...]) -> set[tuple[str, ...]]:
    """What has a row in a table already, by some of its columns."""
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {tuple(row[k] for k in keys) for row in csv.DictReader(file)}


def append(path: Path, row: dict[str, Any]) -> None:
    """Writes one more row."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(*row.values(), flush=True)
