r"""Classifier-free guidance on the digits: accuracy against diversity, family by family.

    python benchmarks/guidance.py [--families NAME ...] [--scales S ...] [--seeds N ...]
        [--steps N]

The network of each family is that of ``discdiff train --labels``, smaller, trained on the 1350
digits of the training split; a label is hidden with probability 0.1. Samples are drawn by 100
steps of `dd.steppers.Ancestral`, 50 per class, at guidance scales s in

.. math:: (1 + s)\, \hat\varepsilon(x, y) - s\, \hat\varepsilon(x),

that is `dd.guidance.ClassifierFree` at the power :math:`\gamma = 1 + s`, of noise or of logarithms
of ratios: s = 0 is the conditional model itself. Pixels beyond 16 are read as 16. *blackout* is
cut at 16 by `dd.guidance.AtMost`; *blackout, open* is not, and its pixels run away. For each s:

* *accuracy*: how often a support vector classifier names the label that was asked for. It is
  trained on the training digits; its two numbers are chosen on the validation digits, and its own
  accuracy is that on the held-out digits, the row *real digits*.
* *diversity*: the mean Euclidean distance of two samples of a class over that of two training
  digits, averaged over classes.
* *coverage*: the share of held-out digits that have a sample of their class nearer than their
  fifth neighbour among the held-out digits of that class (Naeem et al., 2020). For *real digits*
  the samples are 50 training digits per class.

``benchmarks/results/guidance.csv`` has means and standard errors over the seeds of sampling, for
one trained network per family: how much networks of other seeds would differ is not in them. A
row is written when its scale ends; those that have a row are skipped. ``guidance.png`` draws the
table, ``guidance_digits.png`` one sample per class and scale. Networks are kept under ``--nets``.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from learning import append, finished, fit, machine
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.svm import SVC
from torch import Tensor

import discdiff as dd
from discdiff.train.data import Dataset, digits
from discdiff.train.declare import process_named
from discdiff.train.describe import Description
from discdiff.train.model import Model
from discdiff.train.settings import Settings

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "guidance.csv"
FAMILIES = ("vp", "masked", "blackout")
OPEN = "blackout, open"
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
SETTINGS = Settings(labels=True, label_dropout=0.1, width=256, dropout=0.2)
RATE, REVERSE_STEPS, EACH, CLASSES, NEIGHBOURS = 2e-3, 100, 50, 10, 5
REAL = "real digits"
COLORS = {"vp": "#2e6f95", "masked": "#d1495b", "blackout": "#1c2430"}
BELOW, LEFT, RIGHT = (0, -16), (-20, -13), (20, -13)  # where labels stand, in points
PLACES = {"vp": (LEFT, BELOW), "masked": (BELOW, BELOW), "blackout": (RIGHT, RIGHT)}
TITLES = {"vp": "VP", "masked": "masked", "blackout": "blackout"}


# -- networks and samples -------------------------------------------------------------------------


def trained(family: str, data: Dataset, steps: int, nets: Path) -> tuple[Model, float]:
    """The label-conditional model of a family, and the processor seconds of its training."""
    family = family.partition(",")[0]
    path = nets / f"{family}_{steps}.pt"
    torch.manual_seed(0)
    known = Description.of(data)
    model = Model(process_named(family, known), known, SETTINGS)
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        return model.eval(), saved["seconds"]
    seconds = fit(model, batches(model, data), steps, RATE)
    nets.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "seconds": seconds}, path)
    return model, seconds


def batches(model: Model, data: Dataset) -> Any:
    """Draws the loss of a batch, some labels of which are hidden."""
    values, labels = data.take(data.split.train)
    assert labels is not None

    def loss() -> Tensor:
        index = torch.randint(len(values), (SETTINGS.batch,))
        hidden = torch.rand(SETTINGS.batch) < SETTINGS.label_dropout
        return model.loss(values[index], labels[index].where(~hidden, CLASSES)).mean()

    return loss


def drawn(model: Model, family: str, scale: float, labels: Tensor) -> Tensor:
    """Guided digits of these labels, (B, 8, 8), integers 0 to 16."""
    head: dd.heads.Head = dd.guidance.ClassifierFree(model.head, 1 + scale)
    if family == "blackout":
        head = dd.guidance.AtMost(head, 16, model.process)
    shape = (len(labels), 8, 8)
    state = dd.sample(model.process, head, shape, steps=REVERSE_STEPS, context=labels)
    return model.encoding.decode(state).clamp(0, 16)


# -- measures -------------------------------------------------------------------------------------


class Judge:
    """Accuracy, diversity and coverage of labelled digits.

    Arguments:
        data: The digits.
    """

    def __init__(self, data: Dataset) -> None:
        self.train, self.train_labels = flat(*data.take(data.split.train))
        self.real, self.real_labels = flat(*data.take(data.split.held_out))
        self.classifier = classifier(
            (self.train, self.train_labels), flat(*data.take(data.split.validate))
        )
        self.spread = spreads(self.train, self.train_labels)

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """The share of digits that are taken for what they are said to be."""
        return float((self.classifier.predict(x.numpy()) == labels.numpy()).mean())

    def diversity(self, x: Tensor, labels: Tensor) -> float:
        """The mean distance within classes over that of the training digits."""
        return float((spreads(x, labels) / self.spread).mean())

    def coverage(self, x: Tensor, labels: Tensor) -> float:
        """The share of held-out digits with a digit of their class near."""
        near = [covered(self.real[self.real_labels == c], x[labels == c]) for c in range(CLASSES)]
        return float(torch.cat(near).double().mean())

    def __call__(self, x: Tensor, labels: Tensor) -> tuple[float, float, float]:
        return self.accuracy(x, labels), self.diversity(x, labels), self.coverage(x, labels)


def flat(values: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Digits as vectors, and their labels."""
    assert labels is not None
    return values.flatten(1).double(), labels


def classifier(train: tuple[Tensor, Tensor], validate: tuple[Tensor, Tensor]) -> Any:
    """The support vector classifier that is best on the validation digits."""
    grid = [(c, g) for c in (1.0, 4.0, 16.0) for g in (2.5e-4, 5e-4, 1e-3, 2e-3)]
    made = [SVC(C=c, gamma=g).fit(*(v.numpy() for v in train)) for c, g in grid]
    return max(made, key=lambda one: one.score(*(v.numpy() for v in validate)))


def spreads(x: Tensor, labels: Tensor) -> Tensor:
    """The mean distance of two digits of each class, (10,)."""
    return torch.stack([torch.pdist(x[labels == c]).mean() for c in range(CLASSES)])


def covered(real: Tensor, x: Tensor) -> Tensor:
    """Which real digits have one of x nearer than their fifth real neighbour."""
    own = torch.cdist(real, real).sort(1).values[:, NEIGHBOURS]
    return (torch.cdist(real, x) < own.unsqueeze(1)).any(1)


# -- table ----------------------------------------------------------------------------------------


def row(name: str, scale: str, found: list[tuple[float, float, float]]) -> dict[str, str]:
    """Means and standard errors over seeds."""
    table = np.array(found)
    mean, error = table.mean(0), table.std(0, ddof=1) / math.sqrt(len(table))
    figures = zip(("accuracy", "diversity", "coverage"), mean, error, strict=True)
    line = {"family": name, "scale": scale}
    for key, value, its_error in figures:
        line |= {key: f"{value:.4f}", f"{key}_error": f"{its_error:.4f}"}
    return line


def origin(options: argparse.Namespace, name: str, scales: str, seconds: float) -> dict[str, str]:
    """What made a row."""
    seeds = " ".join(map(str, options.seeds))
    asked = f"--families {name!r} --scales {scales} " if scales else ""
    command = f"python benchmarks/guidance.py {asked}--seeds {seeds} --steps {options.steps}"
    return {
        "training_steps": str(options.steps) if scales else "",
        "training_cpu_seconds": f"{seconds:.0f}" if scales else "",
        "training_seed": "0" if scales else "",
        "sampling_seeds": seeds,
        "command": command,
        "machine": machine(),
    }


def measure_real(judge: Judge, options: argparse.Namespace) -> dict[str, str]:
    """The row of real digits: accuracy held out, the rest of 50 training digits per class."""
    own = judge.accuracy(judge.real, judge.real_labels)
    found = []
    for seed in options.seeds:
        order = np.random.default_rng(seed).permutation(len(judge.train))
        places = [order[judge.train_labels[order].numpy() == c][:EACH] for c in range(CLASSES)]
        index = torch.from_numpy(np.concatenate(places))
        x, labels = judge.train[index], judge.train_labels[index]
        found.append((own, judge.diversity(x, labels), judge.coverage(x, labels)))
    error = math.sqrt(own * (1 - own) / len(judge.real))
    line = row(REAL, "", found) | {"accuracy_error": f"{error:.4f}"}
    return line | origin(options, REAL, "", 0.0)


def measure(
    model: Model, family: str, scale: float, judge: Judge, seeds: list[int]
) -> list[tuple[float, float, float]]:
    """Accuracy, diversity and coverage at a scale for each seed."""
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append(judge(*flat(drawn(model, family, scale, labels), labels)))
    return found


def fill(options: argparse.Namespace, data: Dataset, judge: Judge) -> None:
    """Writes the rows that are missing."""
    if (REAL, "") not in finished(options.out, ("family", "scale")):
        append(options.out, measure_real(judge, options))
    for family in options.families:
        model, seconds = trained(family, data, options.steps, options.nets)
        for scale in options.scales:
            if (family, f"{scale:g}") in finished(options.out, ("family", "scale")):
                continue
            found = measure(model, family, scale, judge, options.seeds)
            line = row(family, f"{scale:g}", found)
            append(options.out, line | origin(options, family, f"{scale:g}", seconds))


# -- pictures -------------------------------------------------------------------------------------


def draw_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Accuracy against diversity and coverage, a line per family, a dot per scale."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        FigureCanvasAgg(figure)
        pair = figure.subplots(1, 2, sharey=True)
        for axes, key in zip(pair, ("diversity", "coverage"), strict=True):
            draw_lines(axes, rows, key)
        left, right = figure.axes
        left.set_xlabel("diversity: distance within a class, real digits = 1")
        right.set_xlabel("coverage of held-out digits")
        left.set_ylabel("accuracy of the classifier (dots grow with s)")
        left.legend(frameon=False, loc="lower left")
        figure.savefig(path, dpi=150)


def draw_lines(axes: Axes, rows: list[dict[str, str]], key: str) -> None:
    """The lines of one measure, with standard errors; dots grow with the scale."""
    (real,) = (line for line in rows if line["family"] == REAL)
    point = {"color": "0.55", "ms": 9, "label": REAL}
    axes.plot(float(real[key]), float(real["accuracy"]), "*", **point)
    axes.axhline(float(real["accuracy"]), color="0.85", lw=0.8, zorder=0)
    for family in FAMILIES:
        mine = [line for line in rows if line["family"] == family]
        x, y, dx, dy = (
            [float(line[k]) for line in mine]
            for k in (key, "accuracy", f"{key}_error", "accuracy_error")
        )
        color = {"color": COLORS[family]}
        axes.errorbar(x, y, xerr=dx, yerr=dy, lw=1, elinewidth=0.8, **color)
        axes.scatter(x, y, [8 + 10 * k for k in range(len(x))], label=TITLES[family], **color)
        for k, where in zip((0, -1) if mine else (), PLACES[family], strict=False):
            place = {"xytext": where, "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"s = {mine[k]['scale']}", (x[k], y[k]), fontsize=7, **color, **place)


def draw_digits(path: Path, samples: dict[str, dict[float, Tensor]]) -> None:
    """One digit per class (down) and scale (across), a panel per family."""
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9.6, 5.7), layout="constrained")
        FigureCanvasAgg(figure)
        panels = np.atleast_1d(figure.subplots(1, len(samples), gridspec_kw={"wspace": 0.08}))
        for axes, (family, by_scale) in zip(panels, samples.items(), strict=True):
            axes.imshow(tiled(list(by_scale.values())), cmap="gray_r", vmin=0, vmax=16)
            axes.set_title(TITLES[family])
            places = [4 + 9 * k for k in range(len(by_scale))]
            axes.set_xticks(places, [f"{s:g}" for s in by_scale])
            axes.set_yticks([])
            axes.set_xlabel("guidance scale s")
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        figure.savefig(path, dpi=150)


def tiled(columns: list[Tensor]) -> np.ndarray[Any, Any]:
    """Digits (10, 8, 8) side by side, with gaps of one pixel."""
    framed = torch.nn.functional.pad(torch.stack(columns), (0, 1, 0, 1))
    return framed.permute(1, 2, 0, 3).reshape(9 * len(columns[0]), -1)[:-1, :-1].numpy()


def one_per_class(options: argparse.Namespace, data: Dataset) -> dict[str, dict[float, Tensor]]:
    """A digit per class and scale, from the same random numbers at each scale."""
    found: dict[str, dict[float, Tensor]] = {}
    for family in FAMILIES:
        model, _ = trained(family, data, options.steps, options.nets)
        found[family] = {}
        for scale in SCALES:
            torch.manual_seed(0)
            found[family][scale] = drawn(model, family, scale, torch.arange(CLASSES))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--families", nargs="*", default=(*FAMILIES, OPEN), choices=(*FAMILIES, OPEN)
    )
    parser.add_argument("--scales", type=float, nargs="*", default=SCALES)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--nets", type=Path, default=Path("runs/guidance"))
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    fill(options, data, Judge(data))
    with options.out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    draw_table(options.out.with_suffix(".png"), rows)
    pictures = options.out.with_name(options.out.stem + "_digits.png")
    draw_digits(pictures, one_per_class(options, data))


if __name__ == "__main__":
    main()
