r"""Seven laws in the plane as 32 bits, through two models, beside independent bits.

    python benchmarks/synthetic.py [--sets NAME ...] [--models NAME ...] [--seed N]
    python benchmarks/synthetic.py --quick

The laws and their code are those of ``benchmarks/toys.py``. The models of
``benchmarks/results/synthetic.csv``:

* *data*: fresh draws of the law itself. Its error is the noise floor.
* *independent bits*: each bit drawn from its own frequency.
* *masked, path-KL*: masked noise. A network says each bit given those that show, whatever the time
  (`heads.Posterior`); `loss` trains it, and `steppers.FirstHitting` draws from it without error of
  time steps.
* *energy, ratio matching*: uniform noise. A scalar network is asked for every change of one bit
  (`nn.Energy`), which gives the law of each noisy bit given the others (`heads.Conditional`);
  `ratio_matching` trains it, and `steppers.Ancestral` draws from it, in 30 steps. It is slow, and
  runs on one set unless it is asked for by name.

``mmd2`` is the unbiased estimate (a U-statistic over all pairs) of the squared maximum mean
discrepancy for the kernel :math:`e^{-0.1 h}`, h the number of bits that differ, between
``samples`` draws of the model and 65536 of the law, the same for all models of a set. The standard
error is that over fresh draws of both (`metrics.mmd`); it does not hold the scatter over trained
networks. ``share`` is ``mmd2`` over that of independent bits.

Training never sees a point twice. One row is written when each run ends; runs that have a row are
skipped. The points that ``benchmarks/results/synthetic.png`` shows stay under ``runs/synthetic``.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from learning import append, finished, fit, machine
from torch import Tensor, nn
from toys import LAWS, measured

import discdiff as dd
from discdiff.metrics import Kernel, Measured, mmd
from discdiff.times import time_density

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parents[1] / "runs" / "synthetic"
QUICK_RUNS = RUNS / "quick"
ASKED = ("8gaussians",)  # sets with an energy, which is slow
LAW, DATA, INDEPENDENT = "law", "data", "independent bits"
MASKED, ENERGY = "masked, path-KL", "energy, ratio matching"
SITES, CHUNK, SIDE = 32, 8192, 1024
COUNTED = 2**20  # draws that give the frequencies of the bits


@dataclass(frozen=True)
class Budget:
    """What a run of a set may spend."""

    samples: int = 65536  # of the law, and of all models but energies
    batch: int = 768
    steps: int = 6500
    width: int = 160
    energy_samples: int = 40960
    energy_batch: int = 128
    energy_steps: int = 5000
    energy_width: int = 128
    energy_grid: int = 30  # steps of sampling


QUICK = Budget(4096, 64, 50, 32, 1024, 16, 10, 16, 5)


class Agreement(Kernel):
    r"""The kernel :math:`e^{-c h}` of bits: what `metrics.Hamming` is, by a product of matrices.

    Where :math:`s = 1 - 2 x`, the number of bits that differ is :math:`h = (d - s^\top s') / 2`,
    exact in float32.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale / math.log(2)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = 1 - 2 * x.float(), 1 - 2 * y.float()
        least = torch.tensor(-self.scale * x.shape[1] / 2)
        return torch.addmm(least, x, y.T, alpha=self.scale / 2).exp2_()


class Layers(nn.Module):
    """Residual layers on features of a state, and of its time if it is to be seen.

    Arguments:
        features: Number of features of the state.
        outputs: Event shape of the output.
        width: Size of the hidden vectors.
        waves: Number of waves of the time; none by default.
        blocks: Number of residual layers.
    """

    turns: Tensor

    def __init__(
        self, features: int, outputs: tuple[int, ...], width: int, waves: int = 0, blocks: int = 3
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("turns", 2 * math.pi * 2.0 ** torch.linspace(-2, 2, waves))
        self.first = nn.Linear(features + 2 * waves, width)
        block = lambda: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(block() for _ in range(blocks))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, math.prod(outputs)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.float().unsqueeze(1) * self.turns
        h = self.first(torch.cat([x, angles.sin(), angles.cos()], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h).reshape(-1, *self.outputs)


class Shown(Layers):
    """The logits of each bit and of the mask, which are the same at all times."""

    def __init__(self, width: int) -> None:
        super().__init__(2 * SITES, (SITES, 3), width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(torch.cat([x == 0, x == 1], 1).float(), t)


class Scalar(Layers):
    """The energy of bits at a time."""

    def __init__(self, width: int) -> None:
        super().__init__(SITES, (), width, waves=8, blocks=2)

    def forward(self, x: Tensor, t: Tensor, context: None = None) -> Tensor:
        return super().forward(1 - 2 * x.float(), t)


@dataclass(frozen=True)
class Drawn:
    """What a model drew, and what it took."""

    x: Tensor
    steps: int = 0
    batch: int = 0
    parameters: int = 0
    training: float = 0.0
    sampling: float = 0.0


Bits = Callable[[int], Tensor]
Points = dict[str, Tensor]


def independent(bits: Bits, budget: Budget) -> Drawn:
    """Bits that know nothing of each other."""
    total = sum(bits(CHUNK).sum(0) for _ in range(COUNTED // CHUNK))
    share = total.double() / (COUNTED // CHUNK * CHUNK)
    return Drawn((torch.rand(budget.samples, SITES, dtype=torch.float64) < share).long())


def masked(bits: Bits, budget: Budget) -> Drawn:
    """Masked noise, the path-KL, first hitting."""
    process = dd.Replace(dd.one_hot(2, 3)).on(dd.clock.LogLinear())
    head, density = dd.heads.Posterior(Shown(budget.width), absent=2), time_density(process)

    def loss() -> Tensor:
        x = bits(budget.batch)
        t, w = dd.times(process, x, density=density)
        return (w * dd.loss(process, head, x, t)).mean() / SITES

    draw = lambda n: dd.sample(process, head, (n, SITES), stepper=dd.steppers.FirstHitting())
    return learned(head, loss, draw, budget.steps, budget.batch, budget.samples)


def energy(bits: Bits, budget: Budget) -> Drawn:
    """Uniform noise, ratio matching of an energy, ancestral steps."""
    process = dd.Replace([0.5, 0.5]).on(dd.clock.Constant(4.0))
    head = dd.heads.Conditional(dd.nn.Energy(Scalar(budget.energy_width), 2))
    batch, steps = budget.energy_batch, budget.energy_steps

    def loss() -> Tensor:
        nats = dd.ratio_matching(
            process, head, bits(batch), torch.rand(batch), weight=dd.weights.Flat()
        )
        return nats.mean() / SITES

    draw = lambda n: dd.sample(process, head, (n, SITES), steps=budget.energy_grid)
    return learned(head, loss, draw, steps, batch, budget.energy_samples)


def learned(
    head: Any, loss: Callable[[], Tensor], draw: Bits, steps: int, batch: int, samples: int
) -> Drawn:
    """Trains a head and draws from it."""
    training = fit(head.net, loss, steps, rate=2e-3)
    start = time.process_time()
    x = torch.cat([draw(min(CHUNK, samples - done)) for done in range(0, samples, CHUNK)])
    count = sum(p.numel() for p in head.net.parameters())
    return Drawn(x, steps, batch, count, training, time.process_time() - start)


MODELS: dict[str, Callable[[Bits, Budget], Drawn]] = {
    INDEPENDENT: independent,
    DATA: lambda bits, budget: Drawn(bits(budget.samples)),
    MASKED: masked,
    ENERGY: energy,
}


def run(name: str, model: str, seed: int, budget: Budget) -> tuple[dict[str, Any], Points]:
    """A row of the table, and points of the law and of the model."""
    torch.manual_seed(seed)
    code = measured(LAWS[name])
    bits: Bits = lambda n: code.bits(LAWS[name](n))
    y = bits(budget.samples)
    drawn = MODELS[model](bits, budget)
    points = {k: code.points(x[:CHUNK]) for k, x in ((LAW, y), (model, drawn.x))}
    return row(name, model, seed, mmd(drawn.x, y, Agreement(0.1), SIDE), drawn), points


def row(name: str, model: str, seed: int, distance: Measured, drawn: Drawn) -> dict[str, Any]:
    """One line of the table, its share still to come."""
    command = f"python benchmarks/synthetic.py --sets {name} --models '{model}' --seed {seed}"
    return {
        "set": name,
        "model": model,
        "samples": len(drawn.x),
        "seed": seed,
        "mmd2": f"{distance.value:.3e}",
        "standard_error": f"{distance.standard_error:.1e}",
        "share": "",
        "steps": drawn.steps,
        "batch": drawn.batch,
        "parameters": drawn.parameters,
        "training_cpu_seconds": f"{drawn.training:.0f}",
        "sampling_cpu_seconds": f"{drawn.sampling:.0f}",
        "command": command,
        "machine": machine(),
    }


def picture(folder: Path, path: Path) -> None:
    """The law of each set above what the models made of it."""
    found: dict[str, Points] = {}
    for name in LAWS:
        kept = [torch.load(file) for file in sorted(folder.glob(f"{name}-*.pt"))]
        found.update({name: {k: v for points in kept for k, v in points.items()}} if kept else {})
    rows = (LAW, MASKED, INDEPENDENT, ENERGY)
    size = (2 * len(found) + 0.4, 2 * len(rows) + 0.3)
    figure, grid = plt.subplots(len(rows), len(found), figsize=size, squeeze=False)
    for column, (name, points) in zip(grid.T, found.items(), strict=True):
        reach = 1.05 * float(points[LAW].abs().max())
        for axes, model in zip(column, rows, strict=True):
            scatter(axes, points.get(model), reach)
        column[0].set_title(name, fontsize=11, color="#2b333d")
    for axes, model in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(model, fontsize=10, color="#2b333d")
    figure.tight_layout(h_pad=0.4, w_pad=0.4)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def scatter(axes: Any, x: Tensor | None, reach: float) -> None:
    """Some points; nothing, not even a frame, where there are none."""
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set(color="#dde2e8", visible=x is not None)
    if x is not None:
        axes.plot(*x.T, ".", color="#1f5fa8", ms=1.6, alpha=0.25, mew=0)


def shared(table: Path, line: dict[str, Any]) -> dict[str, Any]:
    """A row with its share of the independent bits' distance, if that is known."""
    with table.open(newline="") if table.exists() else io.StringIO() as file:
        rows = [line, *csv.DictReader(file)]
    same = [r for r in rows if r["model"] == INDEPENDENT and r["set"] == line["set"]]
    known = [float(r["mmd2"]) for r in same if str(r["seed"]) == str(line["seed"])]
    return {**line, "share": f"{float(line['mmd2']) / known[0]:.4f}" if known else ""}


def plan(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Sets and models, energies last."""
    models = options.models or MODELS
    asked = options.sets if options.models else [k for k in ASKED if k in options.sets]
    quick = [(k, model) for k in options.sets for model in models if model != ENERGY]
    return quick + [(k, ENERGY) for k in asked if ENERGY in models]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", nargs="*", default=list(LAWS), choices=LAWS)
    parser.add_argument("--models", nargs="*", choices=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="next to no training, no table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results, runs = (QUICK_RUNS, QUICK_RUNS) if options.quick else (RESULTS, RUNS)
    runs.mkdir(parents=True, exist_ok=True)
    table, budget = results / "synthetic.csv", QUICK if options.quick else Budget()
    for name, model in plan(options):
        if (name, model, str(options.seed)) not in finished(table, ("set", "model", "seed")):
            line, points = run(name, model, options.seed, budget)
            torch.save(points, runs / f"{name}-{model}.pt")
            append(table, shared(table, line))
    picture(runs, results / "synthetic.png")


if __name__ == "__main__":
    main()
