r"""The bound of a perfect network on n training digits, which is known: :math:`\log n` nats.

`dd.Exact` is the exact head of the uniform law on n digits. Blackout's prior is exact, so that the
entropy identity reads

.. math::
    \frac1n \sum_i \mathbb{E}[\text{path-KL}(x_i)] = H(p_0) = \log n.

The left side is drawn by `dd.path_kl`, one importance-sampled time and one noisy digit at a time.
Draws come in groups of equal size, whose spread gives the standard error; at one seed most draws
of float32 are those of float64, so that the precisions compare far below that error. A *planted*
row has a head that expects 5 % too many missing units. With
:math:`D(r \| 1.05\, r) = r (0.05 - \log 1.05)` integrated over all births it costs
:math:`(0.05 - \log 1.05)\, \mathbb{E} \sum_d x_0^d` more.

Usage::

    python benchmarks/true_bound.py [--digits N] [--seeds K] [--groups N] [--dtype NAME] [--seed N]

prints the table and writes ``benchmarks/results/true_bound.csv``; with ``--dtype`` or ``--seed``,
one row of it, nothing is written. The exit status is 1 if a mean over seeds lies more than three
standard errors from what is known.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path

import numpy
import torch
from sklearn.datasets import load_digits

import discdiff as dd
from discdiff.estimates import Missing

RESULTS = Path(__file__).parent / "results" / "true_bound.csv"
COPIES = 60  # of every digit in a group
EXCESS = 1.05
FIELDS = [
    "digits", "head", "dtype", "seed", "nats", "standard_error", "known", "z", "command",
]  # fmt: skip


class Excessive(dd.heads.Head):
    """The exact head, but that it expects 5 % too many missing units."""

    kind = Missing

    def __init__(self, exact: dd.Exact):
        super().__init__()
        self.missing = exact.as_(dd.heads.Missing)

    def forward(self, x, t, context=None):
        return Missing(self.missing(x, t).log_value + math.log(EXCESS))


def training_digits(count):
    """The first training digits, as counts 0..16 of 64 pixels."""
    order = numpy.random.default_rng(0).permutation(1797)[:1350]
    return torch.from_numpy(load_digits().data[order[:count]])


def draws(digits, planted, seed, groups, copies=COPIES):
    """Estimates of the mean path-KL from independent groups of draws, and what is known of it."""
    process = dd.Death().on(dd.clock.Logistic(15.0))
    exact, known = dd.Exact(process, digits), math.log(len(digits))
    head = Excessive(exact) if planted else exact
    if planted:
        known += (EXCESS - 1 - math.log(EXCESS)) * float(digits.sum(1).double().mean())
    torch.manual_seed(seed)
    many = digits.repeat(copies, 1)
    with torch.no_grad():
        found = [dd.path_kl(process, head, many).double().mean() for _ in range(groups)]
    return torch.stack(found), known


def row(options, planted, dtype, seed):
    """One line of the table."""
    digits = training_digits(options.digits).to(getattr(torch, dtype))
    found, known = draws(digits, planted, seed, options.groups)
    nats, error = float(found.mean()), float(found.std() / len(found) ** 0.5)
    command = f"python benchmarks/true_bound.py --digits {options.digits} "
    command += f"--groups {options.groups} --dtype {dtype} --seed {seed}"
    head = "planted" if planted else "exact"
    values = [options.digits, head, dtype, seed, nats, error, known, (nats - known) / error]
    return dict(zip(FIELDS, [*values, command], strict=True))


def pooled(rows):
    """The mean over seeds of the rows of one head and dtype, with its standard error."""
    first = rows[0]
    nats = sum(r["nats"] for r in rows) / len(rows)
    error = math.sqrt(sum(r["standard_error"] ** 2 for r in rows)) / len(rows)
    z = (nats - first["known"]) / error
    command = first["command"].partition(" --dtype")[0] + f" --seeds {len(rows)}"
    found = {"seed": "all", "nats": nats, "standard_error": error, "z": z, "command": command}
    return {**first, **found}


def shown(r):
    return {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in r.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--digits", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=8, help="how many seeds, from 0")
    parser.add_argument("--groups", type=int, default=60, help="groups of draws per seed")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="this one only")
    parser.add_argument("--seed", type=int, help="this one only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    one = options.dtype is not None or options.seed is not None
    dtypes = [options.dtype] if options.dtype else ["float64", "float32"]
    seeds = [options.seed] if options.seed is not None else range(options.seeds)
    rows, missed = [], 0
    for planted, dtype in [(False, d) for d in dtypes] + [(True, dtypes[-1])]:
        mine = []
        for seed in seeds:
            mine.append(row(options, planted, dtype, seed))
            print(*shown(mine[-1]).values(), flush=True)
        mine.append(pooled(mine))
        missed += abs(mine[-1]["z"]) > 3
        print(*shown(mine[-1]).values(), flush=True)
        rows.extend(mine)
    if not one:
        with RESULTS.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(shown(r) for r in rows)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
