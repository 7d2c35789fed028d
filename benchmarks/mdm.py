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
import shutil
import subprocess
import time
from dataclasses import dataclass

import torch
from pyro.distributions import Normal
from torch import Tensor

import discdiff as dd
from discdiff.likelihood import prior_kl
from discdiff.train.evaluate import score
from discdiff.train.files import read
from discdiff.train.run import LAST, load

RESULTS = pathlib.Path(__file__).parent / "results"
START = 0.1  # the standard deviation of the auxiliaries at t = 0
DRAWS = 256
EVERY = 100  # steps between checkpoints


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
    """Q and D are learned, from numbers near those of variance-preserving noise; S is not."""
    torch.manual_seed(k)
    half = 0.1 * torch.randn(k, k, dtype=torch.float64).tril(-1)
    D = 0.5 * torch.eye(k, dtype=torch.float64) + 1e-2
    process = matched(dd.Langevin(half - half.T, D, torch.eye(k, dtype=torch.float64)))
    recipe = dd.learn(recipe_of(process))
    recipe.get_parameter("parametrizations.S.original").requires_grad_(False)
    return process


def recipe_of(process: dd.Process) -> torch.nn.Module:
    """What holds the Q, D and S of a lift on a clock."""
    return process.process.process.recipe


def learned_2() -> dd.Process:
    return learned(2)


def learned_3() -> dd.Process:
    return learned(3)


FIXED = ("vp", "cld", "psld", "alda", "malda")
NAMES = (*FIXED, "learned_2", "learned_3")


# -- runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What is kept of a run: the bits/dim of each held-out item, the prior KL per entry for x = 1,
    and the parameters of the process at each checkpoint."""

    bits: Tensor
    prior_kl: float
    history: dict[int, dict[str, Tensor]]


def result(name: str, seed: int, options: argparse.Namespace) -> Result:
    """The result of a run: as it was kept, or that of training now."""
    folder = options.runs / f"{name}-{seed}"
    kept = folder / "result.pt"
    if not kept.exists():
        shutil.rmtree(folder, ignore_errors=True)
        history = train(name, seed, options.steps, folder)
        torch.save([*scored(folder), history], kept)
    return Result(*torch.load(kept, weights_only=True))


def train(name: str, seed: int, steps: int, folder: pathlib.Path) -> dict[int, dict]:
    """Trains one process, and collects its parameters whenever a checkpoint is written."""
    command = ["discdiff", "train", "--process", f"{__file__}:{name}", "--seed", str(seed)]
    command += ["--steps", str(steps), "--every", str(EVERY), "--patience", str(steps)]
    command += ["--draws", "1", "--runs", str(folder.parent), "--name", folder.name]
    seen: dict[int, dict] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        written = 0.0
        while run.poll() is None:
            time.sleep(1.0)
            path = folder / LAST
            if path.exists() and path.stat().st_mtime != written:
                written = path.stat().st_mtime
                seen |= snapshot(path)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return seen | snapshot(folder / LAST)


def snapshot(path: pathlib.Path) -> dict[int, dict[str, Tensor]]:
    """The step and the averaged parameters of the process in a checkpoint."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "model.process."
    own = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return {checkpoint["global_step"]: {k.removeprefix(prefix): v for k, v in own.items()}}


def scored(folder: pathlib.Path) -> tuple[Tensor, float]:
    """The bound of each held-out item in bits/dim, and the prior KL per entry for x = 1."""
    run = load(folder)
    data = read("digits")
    values, _ = data.take(data.split.held_out)
    return score(run.model, values, draws=DRAWS), end(run.process)


# -- tables ---------------------------------------------------------------------------------------


def write(results: dict[str, list[Result]], note: str) -> None:
    """Writes the table, with the paired difference of each process to the best fixed one."""
    bits = {name: torch.stack([r.bits for r in runs]) for name, runs in results.items() if runs}
    best = best_fixed(bits)
    with (RESULTS / "mdm.csv").open("w", newline="") as file:
        file.write(f"# {note}\n")
        writer = csv.writer(file, lineterminator="\n")
        head = ["process", "seed", "bits_per_dim", "standard_error", "prior_kl_per_dim"]
        head += ["minus_best_fixed", "error_over_items", "error_over_seeds"]
        writer.writerow(head)
        for name, runs in results.items():
            for seed, run in enumerate(runs):
                row = [f"{float(run.bits.mean()):.4f}", f"{over(run.bits):.4f}"]
                writer.writerow([name, seed, *row, f"{run.prior_kl:.2e}", "", "", ""])
        for name, each in bits.items():
            mean, gaps = each.mean(0), each[: len(bits[best])] - bits[best][: len(each)]
            row = [f"{float(mean.mean()):.4f}", f"{over(mean):.4f}", ""]
            numbers = (float(gaps.mean()), over(gaps.mean(0)), over(gaps.mean(1)))
            writer.writerow([name, "mean", *row, *(f"{v:.4f}" for v in numbers)])


def best_fixed(bits: dict[str, Tensor]) -> str:
    """The process that needs the fewest bits, of those that are not learned."""
    fixed = [name for name in FIXED if name in bits] or list(bits)
    return min(fixed, key=lambda name: float(bits[name].mean()))


def over(values: Tensor) -> float:
    """The standard error of the mean."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/mdm"))
    options = parser.parse_args()
    note = f"python benchmarks/mdm.py --steps {options.steps} --seeds {options.seeds}"
    results: dict[str, list[Result]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name in options.only:
            results[name].append(result(name, seed, options))
            bits = results[name][-1].bits
            print(f"{name} {seed}: {float(bits.mean()):.4f} ± {over(bits):.4f}", flush=True)
            write(results, f"{note}; {platform.machine()}, one core")


if __name__ == "__main__":
    main()
