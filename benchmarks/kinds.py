r"""Kinds of noise on the digits, as 17 categories, through one network.

    python benchmarks/kinds.py [--kinds NAME ...] [--seeds N ...] [--steps N]

The digits and their split are those of `discdiff.train.data.digits`. All kinds have one network (a
hollow transformer over the 64 pixels that says the law of each given the others), one number of
steps, one batch and one learning rate; they differ in the process alone. The *tree* redraws a
pixel among all values, among no ink (0) or ink (1 to 16), among the half and the quarter of the
ink's range, each at unit rate.

``benchmarks/results/kinds.csv`` has the bound on the held-out digits in bits/dim, with its
standard errors over digits and over the draws of the bound. One row is written when each run ends;
runs that have a row are skipped. An interpolated Markov chain of order 3 over the pixels stands
beside them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from learning import append, finished, fit, hollow, machine, nats, noises
from torch import Tensor

import discdiff as dd
from discdiff.times import time_density
from discdiff.train.data import digits

TABLE = Path(__file__).parent / "results" / "kinds.csv"
KINDS = ("masked", "uniform", "ordinal", "killing", "tree")
WIDTH, LAYERS, BATCH, RATE = 64, 2, 16, 3e-3
LEVELS, DRAWS, ORDER = 17, 16, 3


def tree() -> list[Tensor]:
    """All values; ink or none; halves and quarters of the ink's range."""
    value = torch.arange(LEVELS)
    parts = [torch.where(value == 0, 0, 1 + (value - 1) // width) for width in (16, 8, 4)]
    return [torch.zeros_like(value), *parts]


class Chain:
    r"""An interpolated Markov chain over the pixels, row by row.

    .. math:: p_k(x \mid h_k) = \frac{n(h_k, x) + a_k\, p_{k-1}(x \mid h_{k-1})}{n(h_k) + a_k}

    with :math:`p_{-1}` uniform, contexts of the last k = 0 … `ORDER` pixels and strengths
    :math:`a_k` that make the validation digits likeliest.
    """

    def __init__(self, train: Tensor, validation: Tensor) -> None:
        self.counts = [self._count(train, k) for k in range(ORDER + 1)]
        self.strengths = [1.0] * (ORDER + 1)
        for _ in range(3):
            for k in range(ORDER + 1):
                tried = [self._with(k, 2.0**e, validation) for e in range(-6, 13)]
                self.strengths[k] = min(tried)[1]

    def _with(self, k: int, a: float, validation: Tensor) -> tuple[float, float]:
        self.strengths[k] = a
        return float(self.bits(validation).mean()), a

    def _contexts(self, x: Tensor, k: int) -> Tensor:
        """The last k pixels of each, as numbers; before the first there is a mark."""
        padded = torch.nn.functional.pad(x.long(), (k, 0), value=LEVELS)
        key = torch.zeros_like(x, dtype=torch.int64)
        for back in range(1, k + 1):
            key = key * (LEVELS + 1) + padded[:, k - back : k - back + x.shape[1]]
        return key

    def _count(self, x: Tensor, k: int) -> Tensor:
        counts = torch.zeros((LEVELS + 1) ** k * LEVELS, dtype=torch.float64)
        index = self._contexts(x, k) * LEVELS + x.long()
        counts.index_add_(0, index.flatten(), torch.ones(index.numel(), dtype=torch.float64))
        return counts.reshape(-1, LEVELS)

    def bits(self, x: Tensor) -> Tensor:
        """Bits per pixel of each digit."""
        p = torch.full((*x.shape, LEVELS), 1 / LEVELS, dtype=torch.float64)
        for k, (counts, a) in enumerate(zip(self.counts, self.strengths, strict=True)):
            rows = counts[self._contexts(x, k)]
            p = (rows + a * p) / (rows.sum(-1, keepdim=True) + a)
        return -p.gather(-1, x.long().unsqueeze(-1))[..., 0].log2().mean(1)


def chain() -> dict[str, str]:
    """The line of the Markov chain, which no seed moves."""
    data = digits()
    parts = data.split.train, data.split.validate, data.split.held_out
    train, validation, held_out = (data.take(part)[0].flatten(1) for part in parts)
    bits = Chain(train, validation).bits(held_out)
    figures = {
        "bits_per_dim": f"{float(bits.mean()):.4f}",
        "error_over_digits": f"{float(bits.std()) / math.sqrt(len(held_out)):.4f}",
    }
    command = "python benchmarks/kinds.py --kinds --seeds"
    rest = {"error_over_draws": "0", "parameters": "", "cpu_seconds": "", "command": command}
    return {"kind": "markov 3", "steps": "", "seed": ""} | figures | rest | {"machine": machine()}


def run(kind: str, seed: int, steps: int) -> dict[str, str]:
    """One line of the table."""
    torch.manual_seed(seed)
    data = digits()
    train, held_out = data.train.flatten(1), data.take(data.split.held_out)[0].flatten(1)
    process, absent = noises(LEVELS, tree())[kind]
    head, density = hollow(LEVELS, 64, absent, WIDTH, LAYERS), time_density(process)

    def loss() -> Tensor:
        x = train[torch.randint(len(train), (BATCH,))]
        t, w = dd.times(process, x, density=density)
        return (w * dd.loss(process, head, x, t)).mean() / 64

    seconds = fit(head.net, loss, steps, RATE)
    bits = nats(process, head, held_out, DRAWS) / (64 * math.log(2))
    figures = {
        "bits_per_dim": bits.mean(),
        "error_over_digits": bits.mean(0).std() / math.sqrt(len(held_out)),
        "error_over_draws": bits.mean(1).std() / math.sqrt(DRAWS),
    }
    return {
        "kind": kind,
        "steps": str(steps),
        "seed": str(seed),
        **{k: f"{float(v):.4f}" for k, v in figures.items()},
        "parameters": str(sum(p.numel() for p in head.net.parameters())),
        "cpu_seconds": f"{seconds:.0f}",
        "command": f"python benchmarks/kinds.py --kinds {kind} --seeds {seed} --steps {steps}",
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if ("markov 3",) not in finished(options.out, ("kind",)):
        append(options.out, chain())
    for seed in options.seeds:
        for kind in options.kinds:
            mine = (kind, str(options.steps), str(seed))
            if mine not in finished(options.out, ("kind", "steps", "seed")):
                append(options.out, run(kind, seed, options.steps))


if __name__ == "__main__":
    main()
