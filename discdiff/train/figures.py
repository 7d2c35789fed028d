"""Figures of a run: generated items beside real ones, and the training curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from .data import Categories, Reals
from .describe import Description
from .evaluate import Bound

Array = NDArray[np.generic]

INK, MUTED, ACCENT, SECOND, PAPER = "#1c2430", "#6b7686", "#d1495b", "#2e6f95", "#ffffff"
GAP = "#dfe5ec"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#c3cad4",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}
DPI = 160
TILE = 72  # aimed-at size of an image in pixels of the figure
EDGE, HEAD = 0.35, 0.75  # inches around and above panels


def draw_samples(
    path: Path, data: Description, panels: dict[str, Tensor], title: str = ""
) -> None:
    """Saves items as panels side by side: images as images, text as text, rows as rows.

    Arguments:
        path: Where to.
        data: What the items are.
        panels: Items by the heading of their panel.
        title: A line above them.
    """
    with mpl.rc_context(STYLE):
        shapes = {name: _panel_size(data, len(items)) for name, items in panels.items()}
        width = sum(w for w, _ in shapes.values()) + EDGE * (len(panels) + 1)
        height = max(h for _, h in shapes.values()) + EDGE + HEAD
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        left = EDGE
        for name, items in panels.items():
            w, h = shapes[name]
            top = height - HEAD
            box = (left / width, (top - h) / height, w / width, h / height)
            _panel(figure.add_axes(box), name, items, data)
            left += w + EDGE
        figure.text(EDGE / width, 1 - 0.24 / height, title, color=MUTED, fontsize=9, va="center")
        figure.savefig(path, dpi=DPI)


def draw_curve(
    path: Path,
    rows: NDArray[np.float64],
    bounds: dict[str, Bound] | None = None,
    title: str = "",
) -> None:
    """Saves the training curve.

    Arguments:
        path: Where to.
        rows: Step, training loss, validation bound; shape (rows, 3).
        bounds: Bounds to mark by a band of one standard error.
        title: A line above it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(rows[:, 0], rows[:, 1], color=SECOND, lw=1.6, label="training loss")
        axes.plot(rows[:, 0], rows[:, 2], color=ACCENT, lw=2.2, label="validation bound")
        best = int(np.argmin(rows[:, 2]))
        axes.plot(rows[best, 0], rows[best, 2], "o", color=ACCENT, ms=6, zorder=3)
        for name, bound in (bounds or {}).items():
            low, high = bound.mean - bound.error, bound.mean + bound.error
            axes.axhspan(low, high, color=INK, alpha=0.12, lw=0, label=f"{name} {bound}")
        axes.set_ylim(*_limits(rows, [b.mean for b in (bounds or {}).values()]))
        axes.set_xlim(0, rows[-1, 0])
        axes.set_xlabel("step")
        axes.set_ylabel("bits per dimension")
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="y", color="#e6e9ee", lw=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="upper right")
        figure.savefig(path, dpi=DPI)


def _limits(rows: NDArray[np.float64], marks: Sequence[float]) -> tuple[float, float]:
    """Limits that show where the curves end rather than where they began."""
    low = min(float(rows[:, 1:].min()), *marks) if marks else float(rows[:, 1:].min())
    late = rows[len(rows) // 8 :, 1:]
    high = max(float(late.max()), *marks) if marks else float(late.max())
    margin = 0.08 * (high - low) or 0.1
    return low - margin, high + margin


def _panel_size(data: Description, count: int) -> tuple[float, float]:
    """Width and height of a panel in inches."""
    if _is_image(data):
        rows, columns = _canvas_shape(data, count)
        scale = max(1, round(TILE / data.event[-2])) / DPI  # whole pixels, so that tiles are sharp
        return columns * scale, rows * scale
    if _vocabulary(data):
        return 0.068 * math.prod(data.event), 0.22 * count
    return min(6.0, max(2.4, 0.28 * math.prod(data.event))), min(6.0, 0.16 * count)


def _panel(axes: Axes, name: str, items: Tensor, data: Description) -> None:
    axes.set_title(name, loc="left", fontsize=11, pad=5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    values = items.detach().cpu().numpy()
    vocabulary = _vocabulary(data)
    if _is_image(data):
        low, high = _range(data, values)
        axes.set_facecolor(GAP)
        axes.imshow(
            _mosaic(values, data, high), "gray_r", vmin=low, vmax=high, interpolation="nearest"
        )
    elif vocabulary:
        for i, line in enumerate(spell(values, vocabulary)):
            height = 1 - (i + 0.5) / len(values)
            axes.text(0, height, line, family="monospace", fontsize=8, va="center")
    else:
        _rows(axes, values.reshape(len(values), -1).astype(np.float64), data)


def _rows(axes: Axes, values: NDArray[np.float64], data: Description) -> None:
    """Items as rows of colours, each entry on the scale of the training data."""
    mean, std = (np.broadcast_to(v.numpy(), data.event).ravel() for v in (data.mean, data.std))
    if data.columns:
        mean = np.array([float(c.mean) for c in data.columns.values()])
        std = np.array([float(c.std) for c in data.columns.values()])
    scaled = (values - mean) / std
    axes.imshow(scaled, "viridis", vmin=-2, vmax=2, aspect="auto", interpolation="nearest")
    if data.columns:
        axes.set_xticks(range(len(data.columns)), list(data.columns), fontsize=7)
        axes.tick_params(length=0)


def spell(values: Array, vocabulary: str) -> list[str]:
    """Codes of characters as lines of text, line breaks made visible."""
    rows = values.reshape(len(values), -1)
    lines = ["".join(vocabulary[int(code)] for code in row) for row in rows]
    return [line.replace("\n", "⏎").replace("\t", "⇥") for line in lines]


def _vocabulary(data: Description) -> str:
    return data.kind.vocabulary if isinstance(data.kind, Categories) else ""


def _is_image(data: Description) -> bool:
    colours = len(data.event) == 3 and data.event[0] in (1, 3)
    return (len(data.event) == 2 or colours) and not isinstance(data.kind, Categories)


def _range(data: Description, values: Array) -> tuple[float, float]:
    if isinstance(data.kind, Reals):
        return float(values.min()), float(values.max())
    return 0.0, float(data.kind.levels - 1)


def _grid(count: int) -> tuple[int, int]:
    columns = math.ceil(math.sqrt(count))
    return columns, math.ceil(count / columns)


def _gap(data: Description) -> int:
    return max(1, round(0.1 * data.event[-2]))


def _canvas_shape(data: Description, count: int) -> tuple[int, int]:
    """Height and width of a mosaic, in pixels of the data."""
    columns, rows = _grid(count)
    height, width, gap = data.event[-2], data.event[-1], _gap(data)
    return rows * (height + gap) + gap, columns * (width + gap) + gap


def _mosaic(values: Array, data: Description, high: float) -> Array:
    """Images side by side as one; gaps are NaN, or of their colour among colours in [0, 1]."""
    columns, _ = _grid(len(values))
    height, width, gap = data.event[-2], data.event[-1], _gap(data)
    shape = _canvas_shape(data, len(values))
    colours = len(data.event) == 3 and data.event[0] == 3
    canvas = np.full((*shape, 3), to_rgb(GAP)) if colours else np.full(shape, np.nan)
    for i, item in enumerate(values):
        image = item.transpose(1, 2, 0) / high if colours else item.reshape(height, width)
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas
