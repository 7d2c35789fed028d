"""Compares linear diffusions with auxiliary variables on the digits, at matched clocks.

    python benchmarks/mdm.py [--steps N] [--seeds N] [--only NAME ...]

Every process is trained by ``discdiff train`` with one network and one budget. Clocks are matched:
each process runs as long as leaves the same prior KL as variance-preserving noise on Song's clock,
for x = 1. The learned ones start from such a clock and learn Q and D. Writes
``benchmarks/results/mdm.csv`` (held-out bits/dim, and the paired difference to the best process
that is not learned), ``mdm_learned.csv`` (what is learned, over training: numbers that no rotation
of the auxiliaries changes) and ``mdm.png``. A run that is kept under ``--runs`` is not repeated.
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
from collections.abc import Callable
from dataclasses import dataclass, fields

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
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
PALETTE = ("#1f5a93", "#c8553d", "#e0a458", "#7a6c9d", "#9c9c9c", "#2e8b7a", "#14463d")
COLORS = dict(zip(NAMES, PALETTE, strict=True))


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


# -- what is learned ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """What no rotation of the auxiliaries changes, at one step of training."""

    noise_on_data: float
    coupling: float
    noise_on_auxiliaries: list[float]
    spectrum: list[complex]
    prior_kl_per_dim: float

    @staticmethod
    def of(process: dd.Process) -> Learned:
        recipe = recipe_of(process)
        Q, D, S = (v.detach() for v in (recipe.Q, recipe.D, recipe.S))
        spectrum = torch.linalg.eigvals((Q + D) @ torch.linalg.inv(S))
        return Learned(
            float(D[0, 0]),
            float(Q[0, 1:].norm()),
            torch.linalg.eigvalsh(D[1:, 1:]).tolist(),
            sorted(spectrum.tolist(), key=lambda v: (v.real, v.imag)),
            end(process),
        )


def unfolded(name: str, run: Result) -> dict[int, Learned]:
    """What was learned, by step."""
    process = globals()[name]()
    found = {}
    for step, state in sorted(run.history.items()):
        process.load_state_dict(state)
        found[step] = Learned.of(process)
    return found


def write_learned(learned: dict[str, list[dict[int, Learned]]]) -> None:
    """Writes what is learned at each checkpoint."""
    with (RESULTS / "mdm_learned.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [field.name for field in fields(Learned)]
        writer.writerow(["process", "seed", "step", *names])
        for name, runs in learned.items():
            for seed, steps in enumerate(runs):
                for step, found in steps.items():
                    values = [shown(getattr(found, field)) for field in names]
                    writer.writerow([name, seed, step, *values])


def shown(value: float | list) -> str:
    """Four digits of each number."""
    if isinstance(value, list):
        return " ".join(shown(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else f"{value:.4f}"


# -- figure ---------------------------------------------------------------------------------------


def draw(results: dict[str, list[Result]], learned: dict[str, list[dict[int, Learned]]]) -> None:
    """The differences, the precision of all, and what is learned."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(11, 6.2), layout="constrained")
        FigureCanvasAgg(figure)
        (gaps, time, kl), rows = figure.subplots(2, 3)
        draw_gaps(gaps, results)
        draw_precision(time, results)
        draw_learned(kl, learned, lambda v: 1e5 * v.prior_kl_per_dim)
        draw_learned(rows[0], learned, lambda v: v.noise_on_data)
        draw_learned(rows[1], learned, lambda v: v.coupling)
        draw_learned(rows[2], learned, lambda v: v.noise_on_auxiliaries)
        kl.set_title(r"prior KL per dim for x = 1, $10^{-5}$ nats")
        rows[0].set_title("learned: noise on the data, $D_{xx}$")
        rows[1].set_title("learned: coupling, $|Q_{xv}|$")
        rows[2].set_title("learned: noise on auxiliaries, spec $D_{vv}$")
        kl.legend(frameon=False)
        figure.savefig(RESULTS / "mdm.png", dpi=150)


def draw_gaps(axis: Axes, results: dict[str, list[Result]]) -> None:
    """The paired difference of each process to the best fixed one, two standard errors."""
    bits = {name: torch.stack([r.bits for r in runs]) for name, runs in results.items() if runs}
    best = best_fixed(bits)
    axis.axvline(0, color="0.8", lw=0.8, zorder=0)
    for place, (name, each) in enumerate(bits.items()):
        difference = each[: len(bits[best])] - bits[best][: len(each)]
        error = math.hypot(over(difference.mean(0)), over(difference.mean(1)))
        by_seed = difference.mean(1)
        axis.plot(by_seed, [place] * len(by_seed), "o", ms=3, color=COLORS[name], alpha=0.5)
        axis.errorbar(
            float(by_seed.mean()), place, xerr=2 * error, fmt="D", ms=5, color=COLORS[name]
        )
    axis.set_yticks(range(len(bits)), [titled(name) for name in bits])
    axis.invert_yaxis()
    axis.locator_params(axis="x", nbins=5)
    axis.set_title(f"bits/dim above {titled(best)}, held out")
    axis.set_xlabel("mean, two standard errors; dots: seeds")


def draw_precision(axis: Axes, results: dict[str, list[Result]]) -> None:
    """How well the data are known, J, over time; learned ones at the end of training."""
    t = torch.linspace(0.002, 1, 400, dtype=torch.float64)
    for name, runs in results.items():
        process = globals()[name]()
        if runs and runs[0].history and name not in FIXED:
            process.load_state_dict(runs[0].history[max(runs[0].history)])
        with torch.no_grad():
            (leaf,) = process.leaves(t)
            level = leaf.core.engine.snr(leaf.time)
        style = "-" if name in FIXED else ":" if name == "learned_2" else "--"
        axis.semilogy(t, level, color=COLORS[name], lw=1.4, ls=style, label=titled(name))
    axis.set_ylim(1e-5, 1e6)
    axis.set_title(r"precision $J = P^\top \Sigma^{-1} P$ of the data")
    axis.set_xlabel("time t")
    axis.legend(frameon=False, fontsize=8)


def draw_learned(
    axis: Axes, learned: dict[str, list[dict[int, Learned]]], read_off: Callable
) -> None:
    """One quantity over training, a line per seed."""
    for name, runs in learned.items():
        for seed, steps in enumerate(runs):
            values = [read_off(found) for found in steps.values()]
            label = titled(name) if seed == 0 else None
            lines = axis.plot(list(steps), values, color=COLORS[name], lw=1.2, alpha=0.8)
            lines[0].set_label(label)
    axis.set_xlabel("step")
    axis.set_ylim(bottom=0)


def titled(name: str) -> str:
    """The name in a text."""
    return name.replace("_", "-") if name.startswith("learned") else name.upper()


# -- all ------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
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
    learned = {
        name: [unfolded(name, run) for run in runs]
        for name, runs in results.items()
        if name not in FIXED
    }
    write_learned(learned)
    draw(results, learned)


if __name__ == "__main__":
    main()
