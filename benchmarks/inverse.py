r"""Posterior sampling on the digits: what was seen through a matrix and noise.

    python benchmarks/inverse.py [--digits N] [--nets PATH]

The networks are those of ``benchmarks/guidance.py``, asked without a label. Of held-out digits two
things are seen, in units of ink (0 to 16): *half*, the upper 32 pixels, and *blocks*, the means of
the 16 blocks of 2×2 pixels, with normal noise of standard deviation 0.5. What ``known=`` of
`dd.sample` holds is the upper half without noise.

Eight digits are drawn for each by 100 steps of `dd.steppers.Ancestral`, and scored by the energy
score, which is least in expectation for the true posterior alone,

.. math:: \mathbb{E} \|X - x_0\| - \tfrac12\, \mathbb{E} \|X - X'\|,

in units of ink, over the lower half (*half*) or all pixels (*blocks*). ``inverse.csv`` has its
mean and standard error over digits, for one network and one seed, beside the distance of the mean
of the eight from the digit; ``inverse.png`` shows draws. *Not guided* is what the network draws
whatever was seen.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from guidance import FAMILIES, RESULTS, REVERSE_STEPS, TITLES, trained
from learning import append, machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import discdiff as dd
from discdiff import guidance, inverse
from discdiff.train.data import Dataset, digits
from discdiff.train.model import Model

DRAWS, STD, UNIT = 8, 0.5, 2 / 17  # a unit of ink, in the states of VP
SHOWN = 8


def half() -> Tensor:
    """The upper 32 pixels, (32, 64)."""
    return torch.eye(64)[:32]


def blocks() -> Tensor:
    """The means of blocks of 2×2 pixels, (16, 64)."""
    one = torch.eye(4).repeat_interleave(2, 1) / 2
    return torch.kron(one, one)


SEEN = {"half": half, "blocks": blocks}


# -- ways to draw ---------------------------------------------------------------------------------


class Problem:
    """Digits of which something is seen, each repeated for every draw.

    Arguments:
        name: What is seen.
        x: The digits, integers (N, 8, 8).
    """

    def __init__(self, name: str, x: Tensor) -> None:
        self.name, self.matrix = name, SEEN[name]()
        self.x = x.repeat_interleave(DRAWS, 0)

    def seen(self, state: Tensor, std: float) -> Tensor:
        """y of states, one for all draws of a digit."""
        y = state.flatten(1)[::DRAWS] @ self.matrix.mT
        return (y + std * torch.randn_like(y)).repeat_interleave(DRAWS, 0)


def drawn(model: Model, head: Any, problem: Problem, known: Any = None) -> Tensor:
    """Digits, (N · DRAWS, 8, 8)."""
    shape = tuple(problem.x.shape)
    x = dd.sample(model.process, head, shape, steps=REVERSE_STEPS, known=known)
    return model.encoding.decode(x).clamp(0, 16)


def not_guided(model: Model, problem: Problem, data: Dataset) -> Tensor:
    """Whatever was seen."""
    return drawn(model, model.head, problem)


def held(model: Model, problem: Problem, data: Dataset) -> Tensor:
    """By ``known=``."""
    mask = (problem.matrix.sum(0) > 0).reshape(8, 8)
    known = model.encoding.encode(problem.x), mask
    return drawn(model, model.head, problem, known)


def by_tweedie(model: Model, problem: Problem, data: Dataset) -> Tensor:
    """By the covariance that the head implies."""
    return observed(model, problem, inverse.Tweedie())


def by_covariance(model: Model, problem: Problem, data: Dataset) -> Tensor:
    """By the covariance of the training digits."""
    states = model.encoding.encode(data.train).flatten(1)
    return observed(model, problem, inverse.Covariance(states.mT.double().cov()))


def observed(model: Model, problem: Problem, spread: inverse.Spread) -> Tensor:
    """By `inverse.Observed`."""
    y = problem.seen(model.encoding.encode(problem.x), STD * UNIT)
    seen = problem.matrix, y, STD * UNIT
    return drawn(model, inverse.Observed(model.head, model.process, *seen, spread), problem)


def by_likelihood(model: Model, problem: Problem, data: Dataset) -> Tensor:
    """By `inverse.Likelihood`, to first order, cut at 16."""
    y = problem.seen(model.encoding.encode(problem.x), STD)
    seen = inverse.Likelihood(model.head, model.process, problem.matrix, y, STD)
    process, order = model.process, guidance.FirstOrder()
    guided = guidance.Classifier(model.head, seen, 1.0, process, order)
    return drawn(model, guidance.AtMost(guided, 16, process), problem)


WAYS: dict[str, Any] = {
    "not guided": not_guided,
    "known=": held,
    "Observed, Covariance": by_covariance,
    "Observed, Tweedie": by_tweedie,
    "Likelihood, first order": by_likelihood,
}
ASKED = (
    *(("half", family, "not guided") for family in FAMILIES),
    *(("half", family, "known=") for family in FAMILIES),
    ("half", "vp", "Observed, Covariance"),
    ("half", "vp", "Observed, Tweedie"),
    ("half", "blackout", "Likelihood, first order"),
    ("blocks", "vp", "not guided"),
    ("blocks", "vp", "Observed, Covariance"),
    ("blocks", "vp", "Observed, Tweedie"),
    ("blocks", "blackout", "Likelihood, first order"),
)


# -- scores ---------------------------------------------------------------------------------------


def scores(x: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """The energy score of each digit, and the distance of the mean of its draws."""
    start = 32 if problem.name == "half" else 0
    draws, truth = (v.flatten(1)[:, start:].double() for v in (x, problem.x))
    draws, truth = draws.reshape(-1, DRAWS, truth.shape[1]), truth[::DRAWS]
    near = (draws - truth.unsqueeze(1)).norm(dim=-1).mean(1)
    apart = torch.cdist(draws, draws).sum((1, 2)) / (DRAWS * (DRAWS - 1))
    return near - apart / 2, (draws.mean(1) - truth).norm(dim=-1)


def shown(value: Tensor) -> tuple[str, str]:
    """The mean and its standard error."""
    return f"{float(value.mean()):.3f}", f"{float(value.std() / math.sqrt(len(value))):.3f}"


def draw(path: Path, real: Tensor, found: dict[tuple[str, str, str], Tensor]) -> None:
    """A row of draws per way, below the digits themselves."""
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, name in zip(figure.subplots(1, 2), SEEN, strict=True):
            mine = {k: v for k, v in found.items() if k[0] == name}
            rows = [real, seen_of(name, real), *(v[::DRAWS][:SHOWN] for v in mine.values())]
            labels = [f"{TITLES[k[1]]}: {k[2]}" for k in mine]
            axes.imshow(tiled(rows), cmap="gray_r", vmin=0, vmax=16)
            axes.set_yticks([4 + 9 * k for k in range(len(rows))], ["digit", "seen", *labels])
            axes.set_xticks([])
            axes.set_anchor("N")
            axes.set_title({"half": "the upper half is seen", "blocks": "blocks are seen"}[name])
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        figure.savefig(path, dpi=150, bbox_inches="tight")


def seen_of(name: str, x: Tensor) -> Tensor:
    """What is seen, as a picture."""
    matrix = SEEN[name]()
    picture = x.flatten(1).float() @ matrix.mT @ (matrix / matrix.square().sum(1, keepdim=True))
    return picture.reshape(-1, 8, 8)


def tiled(rows: list[Tensor]) -> np.ndarray[Any, Any]:
    """Digits (n, 8, 8) side by side and rows below each other, with gaps of one pixel."""
    framed = torch.nn.functional.pad(torch.stack([v.float() for v in rows]), (0, 1, 0, 1))
    return framed.permute(0, 2, 1, 3).reshape(9 * len(rows), -1)[:-1, :-1].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--digits", type=int, default=40)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--nets", type=Path, default=Path("runs/guidance"))
    parser.add_argument("--out", type=Path, default=RESULTS / "inverse.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    real = data.take(data.split.held_out)[0][: options.digits]
    models = {name: trained(name, data, options.steps, options.nets)[0] for name in FAMILIES}
    options.out.unlink(missing_ok=True)
    found = {}
    for name, family, way in ASKED:
        torch.manual_seed(0)
        start, problem = time.process_time(), Problem(name, real)
        x = found[name, family, way] = WAYS[way](models[family], problem, data)
        energy, distance = scores(x, problem)
        line = {"seen": name, "family": family, "way": way}
        line |= dict(zip(("energy_score", "energy_score_error"), shown(energy), strict=True))
        line |= dict(zip(("distance", "distance_error"), shown(distance), strict=True))
        line |= {"cpu_seconds": f"{time.process_time() - start:.0f}", "seed": "0"}
        command = f"python benchmarks/inverse.py --digits {options.digits} --steps {options.steps}"
        append(options.out, line | {"command": command, "machine": machine()})
    draw(options.out.with_suffix(".png"), real[:SHOWN], found)


if __name__ == "__main__":
    main()
