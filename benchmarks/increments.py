r"""Walks of seven increment laws toward one diffusion: what depends on the law, and what does not.

    python benchmarks/increments.py [--laws NAME ...] [--size N] [--seed N]

The data are :math:`0.35\, N(-1, 0.5^2) + 0.65\, N(1.2, 0.6^2)`, a walk has N equal steps with
:math:`\bar\alpha_N = e^{-3}`, and all that a network could say is known. Columns of
``benchmarks/results/increments.csv``:

* ``shift_gap``, ``tilt_gap``: the divergence of the exact steps back from those of
  `steppers.Shift` and `steppers.Tilt` of the same means, summed over the walk, in nats: by
  quadrature on a grid, without draws. It is infinite where the supports differ, and empty where a
  law has no density or no tilt, or there are too many steps for the grid.
* ``shift_limit``: :math:`\tfrac{I - 1}{2} \int g^2\, \mathbb{E}|s|^2`.
* ``wasserstein``: W₁ from ``size`` samples to the data's law, drawn by `steppers.Shift` from the
  law at the end with the score of the diffusion. Exact draws have ``floor``.
* ``kurtosis``: the excess kurtosis of :math:`x_N` given :math:`x_0`.

Ends with the picture ``increments.png``.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as pyro
import torch
import torch.distributions as td
from learning import machine
from torch import Tensor

import discdiff as dd
from discdiff.estimates import Mean
from discdiff.increments import Rademacher, increment

RESULTS = Path(__file__).parent / "results"
LAWS = {
    "normal": td.Normal(0.0, 1.0),
    "logistic": pyro.Logistic(0.0, 1.0),
    "Student-t (5)": td.StudentT(5.0),
    "Laplace": td.Laplace(0.0, 1.0),
    "uniform": td.Uniform(-1.0, 1.0),
    "gamma (4)": td.Gamma(4.0, 1.0),
    "Rademacher": Rademacher(0.0, 1.0),
}
FAMILIES = {"shift_gap": dd.steppers.Shift(), "tilt_gap": dd.steppers.Tilt()}
COUNTS = (8, 16, 32, 64, 128, 256, 1000)
GRIDDED, JUMPING = 256, 32  # steps, of densities without and with jumps
TOTAL = 3.0
POINTS, EVERY, REACH = 1601, 20, 7.0
MIXTURE = torch.tensor([[0.35, -1.0, 0.5], [0.65, 1.2, 0.6]], dtype=torch.float64)


def diffused(x: Tensor, log_kept: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Density and score of the data after normal noise."""
    weight, mean, width = MIXTURE.T
    a2 = torch.as_tensor(log_kept, dtype=torch.float64).exp()
    mean, variance = a2.sqrt() * mean, a2 * width**2 + 1 - a2
    gap = x.unsqueeze(-1) - mean
    p = weight * (-(gap**2) / (2 * variance)).exp() / (2 * math.pi * variance).sqrt()
    return p.sum(-1), -(p * gap / variance).sum(-1) / p.sum(-1)


def energy() -> float:
    """∫ g² E|s|² along the diffusion, by the trapezoidal rule."""
    x, at = torch.linspace(-9, 9, 2001), torch.linspace(0, TOTAL, 401)
    each = [torch.trapezoid(p * s**2, x) for p, s in (diffused(x, -t) for t in at)]
    return float(torch.trapezoid(torch.stack(each), at))


def walk_of(law: td.Distribution, count: int) -> dd.Walk:
    return dd.Walk(law, [-math.expm1(-TOTAL / count)] * count)


def gaps(law: td.Distribution, count: int, names: list[str]) -> dict[str, float]:
    """What families of steps back lose, in nats, on a grid."""
    walk, x = walk_of(law, count), torch.linspace(-REACH, REACH, POINTS)
    process, engine, h = walk.process, walk.steps.engine, float(x[1] - x[0])
    y, p = x[::EVERY].unsqueeze(1), diffused(x)[0]
    step = walk.transition(x.reshape(-1, 1, 1).expand(-1, POINTS, 1), 0, 1).base_dist
    kernel = step.log_prob(x.reshape(1, -1, 1))[..., 0].exp()  # from row to column
    kernel = kernel / (kernel.sum(1, keepdim=True) * h)
    found = dict.fromkeys(names, 0.0)
    for k in range(1, count + 1):
        back = p.unsqueeze(1) * kernel[:, ::EVERY]
        back = back / back.sum(0)
        mean = (back * x.unsqueeze(1)).sum(0).unsqueeze(1)
        p = (p @ kernel) * h
        at = torch.tensor([k])
        rest, one = (
            engine.linear(v(y), y, at - 1, at) for v in (torch.zeros_like, torch.ones_like)
        )
        said = Mean((mean - rest) / (one - rest))
        t, s = (torch.full((len(y),), v / count) for v in (k, k - 1))
        for name in names:
            model = FAMILIES[name].law(process, said, y, t, s).base_dist
            log_q = model.log_prob(x.reshape(-1, 1, 1))[..., 0]
            log_q = log_q - (log_q.exp().sum(0) * h).log()
            each = torch.where(back > 1e-30, back * ((back / h).log() - log_q), 0.0).sum(0)
            found[name] += float((p[::EVERY] * each).sum()) * h * EVERY
    return found


def quantiles(size: int, log_kept: float) -> Tensor:
    grid = torch.linspace(-9, 9, 20_001)
    cdf = diffused(grid, log_kept)[0].cumsum(0)
    u = (np.arange(size) + 0.5) / size
    return torch.from_numpy(np.interp(u, (cdf / cdf[-1]).numpy(), grid.numpy()))


def moved(x: Tensor) -> float:
    """W₁ from samples to the data's law."""
    return float((x.sort().values - quantiles(len(x), 0.0)).abs().mean())


def samples(law: td.Distribution, count: int, size: int) -> Tensor:
    score = lambda x, t: diffused(x, -TOTAL * t[0])[1]
    start = quantiles(size, -TOTAL).unsqueeze(1)
    head, stepper = dd.heads.Score(score), dd.steppers.Shift()
    return dd.sample(walk_of(law, count), head, (size, 1), stepper=stepper, start=start)[:, 0]


def kurtosis(law: td.Distribution, count: int) -> float:
    walk = walk_of(law, count)
    kept = walk.steps.log_kept
    c2 = walk.betas * (kept[-1] - kept[1:]).exp()
    return float(increment(law).cumulants(4)[3] * c2.square().sum() / c2.sum() ** 2)


def asked(law: td.Distribution) -> list[str]:
    """The families whose divergence is finite."""
    one = increment(law)
    names = ["shift_gap"] if math.isfinite(one.fisher) and one.name[:5] != "gamma" else []
    return names + (["tilt_gap"] if one.domain != (0.0, 0.0) and not one.lattice else [])


def rows_of(name: str, size: int, total: float, floor: float):
    law = LAWS[name]
    one, families = increment(law), asked(law)
    for count in COUNTS:
        row = {"law": name, "steps": count, "shift_gap": "", "tilt_gap": "", "shift_limit": ""}
        if not one.lattice and "shift_gap" not in families:
            row |= {"shift_gap": "inf", "shift_limit": "inf"}
        if "shift_gap" in families:
            row["shift_limit"] = f"{(one.fisher - 1) / 2 * total:.5f}"
        most = GRIDDED if "shift_gap" in families or name[:5] == "gamma" else JUMPING
        if count <= most and families:
            row |= {key: f"{gap:.5f}" for key, gap in gaps(law, count, families).items()}
        row["wasserstein"] = f"{moved(samples(law, count, size)):.5f}"
        row |= {"floor": f"{floor:.5f}", "kurtosis": f"{kurtosis(law, count):.5f}"}
        print(*row.values(), sep="  ", flush=True)
        yield row


def picture(rows: list[dict[str, str]], path: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    number = lambda text: float(text) if text not in ("", "inf") else math.nan
    for k, name in enumerate(LAWS):
        own = [row for row in rows if row["law"] == name]
        steps, color = [int(row["steps"]) for row in own], f"C{k}"
        column = lambda key, own=own: [number(row[key]) for row in own]
        left.plot(steps, column("shift_gap"), "o-", color=color, ms=3)
        left.plot(steps, column("tilt_gap"), "s--", color=color, ms=3, mfc="white")
        if own and number(own[0]["shift_limit"]) > 0:
            left.axhline(number(own[0]["shift_limit"]), color=color, lw=0.8, ls=":")
        middle.plot(steps, column("wasserstein"), "o-", color=color, ms=3, label=name)
        right.plot(steps, column("kurtosis"), "o-", color=color, ms=3)
    left.plot([], [], "ko-", ms=3, label="Shift (its limit dotted)")
    left.plot([], [], "ks--", ms=3, mfc="white", label="Tilt")
    left.set(title="lost in the bound (nats)", xlabel="steps", xscale="log", yscale="log")
    left.legend(frameon=False)
    middle.axhline(float(rows[0]["floor"]), color="gray", lw=0.8, ls=":")
    middle.set(
        title="W₁ of samples, exact score (dotted: exact draws)",
        xlabel="steps",
        xscale="log",
        yscale="log",
    )
    middle.legend(frameon=False, fontsize=8)
    right.set(title="excess kurtosis of $x_N$ given $x_0$", xlabel="steps", xscale="log")
    right.set_yscale("symlog", linthresh=1e-3)
    right.axhline(0, color="gray", lw=0.5)
    fig.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--laws", nargs="*", default=list(LAWS), choices=list(LAWS))
    parser.add_argument("--size", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(options.seed)
    weight, mean, width = MIXTURE.T
    labels = torch.multinomial(weight, 20 * options.size, replacement=True)
    exact = (mean[labels] + width[labels] * torch.randn(len(labels))).reshape(20, -1)
    floor, total = sum(map(moved, exact)) / 20, energy()
    rows = [row for name in options.laws for row in rows_of(name, options.size, total, floor)]
    with (RESULTS / "increments.csv").open("w", newline="") as file:
        command = f"python benchmarks/increments.py --size {options.size} --seed {options.seed}"
        file.writelines(f"# {line}\n" for line in (command, f"seed {options.seed}", machine()))
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    picture(rows, RESULTS / "increments.png")


if __name__ == "__main__":
    main()
