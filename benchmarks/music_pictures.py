"""Piano rolls and a MIDI file of what the runs of ``benchmarks/music.py`` drew.

    python benchmarks/music_pictures.py [--pieces I J] [--heard KIND]

reads the samples that the runs of seed 0 left under ``runs/music`` and writes
``benchmarks/results/music.png`` and ``benchmarks/results/music.mid``: three continuations by one
kind, a bar of silence after each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from chorales import BAR, FIRST, HOLD, PREFIX, Music, music
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

FOLDER = Path(__file__).parent / "results"
RUNS = Path(__file__).parents[1] / "runs" / "music"
ROWS = ("markov 3", "uniform", "masked", "ordinal", "killing", "tree")
GIVEN, OWN, STRANGE = "#9aa5b1", "#1f5fa8", "#e4572e"
NAMES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")
SOLID = 0.09  # how round the corners of a note are


def struck(x: Tensor, free_until: int) -> list[tuple[int, int, int]]:
    """The notes of a line: start, end and token."""
    found: list[tuple[int, int, int]] = []
    sounding = False
    for i, token in enumerate(x[:free_until].tolist()):
        if token >= FIRST:
            found.append((i, i + 1, token))
        elif token == HOLD and sounding:
            found[-1] = (found[-1][0], i + 1, found[-1][2])
        sounding = token >= FIRST or (token == HOLD and sounding)
    return found


def roll(axes: Axes, x: Tensor, end: int, low: int, own: set[int]) -> None:
    """Draws a line: what was given, what is of the piece, and notes that it does not have."""
    axes.axvspan(0, PREFIX, color="#eef1f5", zorder=0, lw=0)
    for bar in range(0, end + 1, BAR):
        axes.axvline(bar, color="#dde2e8", lw=0.6, zorder=1)
    for start, stop, token in struck(x, end):
        color = GIVEN if start < PREFIX else OWN if token in own else STRANGE
        shape = f"round,pad=0,rounding_size={SOLID}"
        box = FancyBboxPatch(
            (start + 0.1, token - FIRST + low - 0.42), stop - start - 0.2, 0.84, shape,
            mutation_aspect=1, color=color, lw=0, zorder=3,
        )  # fmt: skip
        axes.add_patch(box)


def dressed(axes: Axes, end: int, low: int, high: int) -> None:
    """The frame of a roll: octaves' names, numbered bars."""
    axes.set_xlim(0, end)
    axes.set_ylim(low - 1, high + 1)
    ticks = [p for p in range(low, high + 1) if p % 12 in (0, 4, 7)]
    axes.set_yticks(ticks, [f"{NAMES[p % 12]}{p // 12 - 1}" for p in ticks], fontsize=6.5)
    axes.set_xticks(range(0, end, BAR), [])
    axes.tick_params(length=0, colors="#6b7683")
    for spine in axes.spines.values():
        spine.set_visible(False)


def picture(data: Music, pieces: list[int], rows: dict[str, Tensor]) -> None:
    """A grid of rolls: pieces beside each other, the real one above what kinds made of it."""
    x, known = data.held_out("test")
    lines = {"Bach": x, **rows}
    grid = plt.subplots(
        len(lines), len(pieces), figsize=(5.6 * len(pieces), 1.25 * len(lines) + 0.7),
        sharex="col", sharey="col", squeeze=False,
    )  # fmt: skip
    figure, every = grid
    for column, piece in enumerate(pieces):
        end = int((~known[piece]).nonzero().max()) + 1
        own = set(x[piece, :end].tolist())
        shown = torch.cat([v[piece, :end] for v in lines.values()])
        pitches = shown[shown >= FIRST] - FIRST + data.low
        for axes, (name, values) in zip(every[:, column], lines.items(), strict=True):
            roll(axes, values[piece], end, data.low, own)
            dressed(axes, end, int(pitches.min()), int(pitches.max()))
            if column == 0:
                axes.set_ylabel(name, fontsize=10, color="#2b333d", labelpad=8)
        number = data.names["test"][piece].rpartition("/")[2].replace("bwv", "BWV ")
        every[0, column].set_title(number, fontsize=10, color="#2b333d", pad=6)
        bars = range(0, end, BAR)
        every[-1, column].set_xticks(
            [b + BAR / 2 for b in bars], [b // BAR + 1 for b in bars], fontsize=7
        )
        every[-1, column].set_xlabel("bar", fontsize=8, color="#6b7683")
    marks = ((GIVEN, "given"), (OWN, "a note of the piece"), (STRANGE, "not in the piece"))
    handles = [plt.Rectangle((0, 0), 1, 1, color=c, lw=0) for c, _ in marks]
    figure.legend(
        handles, [text for _, text in marks], ncols=3, loc="lower center", frameon=False,
        fontsize=8.5, handlelength=1.6, handleheight=0.7, labelcolor="#2b333d",
    )  # fmt: skip
    figure.align_ylabels()
    figure.tight_layout(rect=(0, 0.035, 1, 1), h_pad=0.3, w_pad=1.5)
    figure.savefig(FOLDER / "music.png", dpi=150)
    plt.close(figure)


def heard(data: Music, lines: Tensor, known: Tensor) -> None:
    """Writes lines one after the other, as MIDI."""
    from music21 import note, stream, tempo

    song = stream.Part([tempo.MetronomeMark(number=84)])
    for x, given in zip(lines, known, strict=True):
        end, at = int((~given).nonzero().max()) + 1, 0
        for start, stop, token in struck(x, end):
            if start > at:
                song.append(note.Rest(quarterLength=(start - at) / 2))
            song.append(note.Note(token - FIRST + data.low, quarterLength=(stop - start) / 2))
            at = stop
        song.append(note.Rest(quarterLength=(end - at + BAR) / 2))
    song.write("midi", FOLDER / "music.mid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pieces", type=int, nargs="*", default=[0, 3])
    parser.add_argument("--heard", default="masked")
    options = parser.parse_args()
    data = music()
    found = {k: RUNS / f"{k}-1-0-samples.pt" for k in ROWS}
    rows = {k: torch.load(path)[0] for k, path in found.items() if path.exists()}
    picture(data, options.pieces, rows)
    known = data.held_out("test")[1]
    heard(data, rows[options.heard][:3], known[:3])


if __name__ == "__main__":
    main()
