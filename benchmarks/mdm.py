"""Compares linear diffusions with auxiliary variables on the digits, at matched clocks.

    python benchmarks/mdm.py [--steps N] [--seeds N] [--only NAME ...]

Every process is trained by ``discdiff train`` with one network and one budget. Clocks are matched:
each process runs as long as leaves the same prior KL as variance-preserving noise on Song's clock,
for x = 1. The learned ones start from such a clock and learn Q and D. Writes
``benchmarks/results/mdm.csv`` (held-out bits/dim, and the paired difference to the best process
that is not learned) and ``mdm.png`` (what is learned, over training).
"""

from __future__ import annotations

import argparse
import csv
import math
import pathlib
import platform
import subprocess
import time

import matplotlib as mpl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pyro.distributions import Normal
from torch import Tensor

import discdiff as dd
from discdiff.likelihood import prior_kl
from discdiff.train.evaluate import score
from discdiff.train.files import read
from discdiff.train.run import LAST, load

RESULTS = pathlib.Path(__file__).parent / "results"
START = 0.1  # the standard deviation of the auxiliaries at t = 0
DRAWS = 64


# -- processes ------------------------------------------------------------------------------------


def ramp(scale: float) -> dd.Clock:
    """Song's clock, run ``scale`` times as fast."""
    return dd.clock.Linear(0.1 * scale, 20.0 * scale)


def end(process: dd.Process) -> float:
    """The prior KL per entry for x = 1, in nats."""
    with torch.no_grad():
        return float(prior_kl(process, torch.ones(1, 1, dtype=torch.float64)))


def matched(core: dd.Process) -> dd.Process:
    """A lift on the clock that leaves the prior KL of variance-preserving noise."""

    def declared(scale: float) -> dd.Process:
        return core.on(ramp(scale)).lift(Normal(0.0, START))

    goal, low, high = end(vp()), 1e-2, 1e2
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if end(declared(middle)) > goal else (low, middle)
    return declared(high)


def chain(*noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Q that couples neighbours, D with noise where it is said, S = I."""
    k = len(noise)
    half = torch.ones(k - 1, dtype=torch.float64).diag(-1)
    D = torch.tensor(noise, dtype=torch.float64).diag()
    return half - half.T, D, torch.eye(k, dtype=torch.float64)


def vp() -> dd.Process:
    return (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(ramp(1.0))


def cld() -> dd.Process:
    return matched(dd.Langevin(*chain(0.0, 2.0)))


def psld() -> dd.Process:
    Q, D, S = chain(0.01, 4.01 / 4)
    S[1, 1] = 0.25
    return matched(dd.Langevin(0.5 * Q, 0.5 * D, S))


def alda() -> dd.Process:
    return matched(dd.Langevin(*chain(0.0, 0.0, 1.0)))


def malda() -> dd.Process:
    Q, D, S = chain(0.0, 2.0, 2.0)
    lower = torch.ones_like(Q).tril(-1)
    return matched(dd.Langevin(lower - lower.T, D, S))


def learned(k: int) -> dd.Process:
    """Q and D are learned, from numbers near those of variance-preserving noise."""
    torch.manual_seed(k)
    half = 0.1 * torch.randn(k, k, dtype=torch.float64).tril(-1)
    D = 0.5 * torch.eye(k, dtype=torch.float64) + 1e-2
    process = matched(dd.Langevin(half - half.T, D, torch.eye(k, dtype=torch.float64)))
    recipe = process.process.process.recipe
    S = recipe.S
    dd.learn(recipe)
    torch.nn.utils.parametrize.remove_parametrizations(recipe, "S")
    del recipe.S
    recipe.register_buffer("S", S)
    return process


def learned_2() -> dd.Process:
    return learned(2)


def learned_3() -> dd.Process:
    return learned(3)


FIXED = ("vp", "cld", "psld", "alda", "malda")
NAMES = (*FIXED, "learned_2", "learned_3")


# -- runs -----------------------------------------------------------------------------------------


def train(name: str, seed: int, steps: int, runs: pathlib.Path) -> list[tuple[int, dict]]:
    """Trains one process, and collects its parameters whenever a checkpoint is written."""
    folder = runs / f"{name}-{seed}"
    command = ["discdiff", "train", "--process", f"{__file__}:{name}", "--seed", str(seed)]
    command += ["--steps", str(steps), "--runs", str(runs), "--name", folder.name]
    seen: dict[int, dict] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None:
            time.sleep(2.0)
            seen |= snapshot(folder / LAST)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return sorted(seen.items())


def snapshot(path: pathlib.Path) -> dict[int, dict]:
    """The step and the parameters of the process in a checkpoint, if there is one."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, EOFError, RuntimeError):
        return {}
    prefix = "model.process."
    own = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return {checkpoint["global_step"]: {k.removeprefix(prefix): v for k, v in own.items()}}


def scored(folder: pathlib.Path) -> tuple[Tensor, float]:
    """The bound of each held-out item in bits/dim, and the prior KL per entry for x = 1."""
    run = load(folder)
    data = read("digits")
    values, _ = data.take(data.split.held_out)
    return score(run.model, values, draws=DRAWS), end(run.process)


def show(history: dict[str, list[tuple[int, dict]]], path: pathlib.Path) -> None:
    """Draws Q and D over training, one column per process."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(4.2 * len(history), 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(history), squeeze=False, sharex=True)
        for column, (name, states) in enumerate(history.items()):
            process = globals()[name]()
            steps, rows = [], {"Q": [], "D": []}
            for step, state in states:
                process.load_state_dict(state)
                recipe = process.process.process.recipe
                steps.append(step)
                for which in rows:
                    rows[which].append(getattr(recipe, which).detach().flatten())
            for axis, (which, values) in zip(axes[:, column], rows.items(), strict=True):
                axis.plot(steps, torch.stack(values).numpy())
                axis.set_title(f"{which}, {name.replace('_', '-')}")
        for axis in axes[-1]:
            axis.set_xlabel("step")
        figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/mdm"))
    options = parser.parse_args()
    items: dict[str, list[Tensor]] = {name: [] for name in options.only}
    history, rows = {}, []
    for seed in range(options.seeds):
        for name in options.only:
            seen = train(name, seed, options.steps, options.runs)
            bits, left = scored(options.runs / f"{name}-{seed}")
            items[name].append(bits)
            if name.startswith("learned") and seed == 0:
                history[name] = seen
            error = float(bits.std()) / math.sqrt(len(bits))
            rows.append([name, seed, f"{float(bits.mean()):.4f}", f"{error:.4f}", f"{left:.2e}"])
            write(rows, items, options.steps)
    if history:
        show(history, RESULTS / "mdm.png")


def write(rows: list, items: dict[str, list[Tensor]], steps: int) -> None:
    """Writes the table, with the paired difference of each process to the best fixed one."""
    means = {name: torch.stack(bits).mean(0) for name, bits in items.items() if bits}
    fixed = [name for name in FIXED if name in means]
    best = min(fixed, key=lambda name: float(means[name].mean())) if fixed else None
    with (RESULTS / "mdm.csv").open("w", newline="") as file:
        note = f"python benchmarks/mdm.py --steps {steps}; {platform.machine()}, 2 cores"
        file.write(f"# {note}\n")
        writer = csv.writer(file, lineterminator="\n")
        head = ["process", "seed", "bits_per_dim", "standard_error", "prior_kl_per_dim"]
        writer.writerow([*head, "minus_best_fixed", "standard_error_of_difference"])
        writer.writerows([*row, "", ""] for row in rows)
        for name, mean in means.items():
            if best is None:
                continue
            gap = mean - means[best]
            error = float(gap.std()) / math.sqrt(len(gap))
            summary = [name, "mean", f"{float(mean.mean()):.4f}", "", ""]
            writer.writerow([*summary, f"{float(gap.mean()):.4f}", f"{error:.4f}"])


if __name__ == "__main__":
    main()
