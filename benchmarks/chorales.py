r"""Bach's chorales, as music21 ships them, in tokens; and a Markov chain of them.

Of the 371 chorales of Riemenschneider's edition those with four voices in 4/4 throughout are
taken. A token says what a voice does at each eighth note: 0, it *holds* what it sang; 1, it
*rests*; 2 and up, it strikes the pitch ``low``, ``low`` + 1, … What sounds between two eighths
only is lost. The bar of a pickup is filled up with rests, so that bars begin at multiples of 8.

A *window* is twelve bars (96 tokens of a voice). Longer pieces are cropped: a held-out piece to
its first twelve bars, a piece for training to any twelve. Shorter ones are padded with rests.
The first two bars and the padding are known: they are given to every model, and not scored.

Many chorales share a tune. Two pieces whose sopranos have twelve successive intervals in common
belong to one tune, and the split into training (70 %), validation and test (15 % each) is one of
tunes, so that no held-out melody was seen in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CACHE = Path(__file__).parents[1] / "runs" / "chorales.json"
HOLD, REST, FIRST = 0, 1, 2
BAR = 8
BARS = 12
PREFIX = 2 * BAR
LENGTH = BARS * BAR
SHIFTS = range(-5, 7)
GRAM = 12
Notes = list[list[int]]  # the voices of a piece, in tokens with MIDI pitches


def voice(part: Any) -> list[int]:
    """The eighths of a voice: HOLD, REST or a MIDI pitch."""
    measures = list(part.getElementsByClass("Measure"))
    full = measures[1].duration.quarterLength if len(measures) > 1 else 4.0
    pickup = measures[0].duration.quarterLength % full
    flat = part.flatten()
    end = int(2 * flat.highestTime)
    line = [REST] * end
    for note in flat.notesAndRests:
        first, last = (int(np.ceil(2 * float(v) - 1e-6)) for v in _span(note))
        sounds = getattr(note, "pitch", None) is not None
        tied = note.tie is not None and note.tie.type in ("stop", "continue")
        for i in range(first, min(last, end)):
            struck = i == first and not tied
            line[i] = (note.pitch.midi if struck else HOLD) if sounds else REST
    return [REST] * int(2 * (full - pickup) % (2 * full)) + line


def _span(note: Any) -> tuple[float, float]:
    return note.offset, note.offset + note.quarterLength


def read_corpus() -> Iterator[tuple[str, Notes]]:
    """The name and the voices of each chorale of four voices in 4/4."""
    from music21 import corpus

    for name in corpus.chorales.Iterator(1, 371, returnType="filename"):
        score = corpus.parse(name)
        metres = {s.ratioString for s in score.recurse().getElementsByClass("TimeSignature")}
        if len(score.parts) == 4 and metres == {"4/4"}:
            yield str(name), [voice(part) for part in score.parts]


def pieces(cache: Path = CACHE) -> list[tuple[str, Notes]]:
    """All chorales; parsing them takes minutes, so that the result is kept."""
    if not cache.exists():
        found = list(read_corpus())
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(found))
    return [(name, notes) for name, notes in json.loads(cache.read_text())]


def grams(line: list[int]) -> set[tuple[int, ...]]:
    """The runs of successive intervals of a melody."""
    steps = np.diff([p for p in line if p not in (HOLD, REST)]).tolist()
    return {tuple(steps[i : i + GRAM]) for i in range(len(steps) - GRAM + 1)}


def tunes(lines: list[list[int]]) -> list[int]:
    """The number of the tune of each melody: those that share a run are one."""
    seen: dict[tuple[int, ...], int] = {}
    root = list(range(len(lines)))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, line in enumerate(lines):
        for gram in grams(line):
            root[find(i)] = find(seen.setdefault(gram, i))
    return [find(i) for i in range(len(lines))]


def split(tune: list[int]) -> dict[str, list[int]]:
    """Indices of the pieces for training, validation and test, the same for every seed."""
    order = np.random.default_rng(0).permutation(sorted(set(tune))).tolist()
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    shares = {"test": 0.15, "validation": 0.3, "train": 1.0}
    done = 0
    for label in order:
        mine = [i for i, t in enumerate(tune) if t == label]
        part = next(p for p, share in shares.items() if done < share * len(tune))
        parts[part] += mine
        done += len(mine)
    return {name: sorted(index) for name, index in parts.items()}


@dataclass
class Music:
    """Pieces in tokens, (T·voices,) each, time first; all voices of an eighth side by side.

    Arguments:
        low: The MIDI pitch of token 2.
        size: Number of tokens K.
        voices: Number of voices.
        names: What the pieces are called, by part of the split.
        items: The pieces, by part of the split.
    """

    low: int
    size: int
    voices: int
    names: dict[str, list[str]]
    items: dict[str, list[Tensor]]

    @property
    def length(self) -> int:
        """Number of tokens of a window."""
        return LENGTH * self.voices

    def shifted(self, x: Tensor, by: int) -> Tensor | None:
        """A piece transposed by semitones; None where it leaves the range."""
        pitched = x >= FIRST
        moved = torch.where(pitched, x + by, x)
        fits = bool((moved[pitched] >= FIRST).all()) and bool((moved < self.size).all())
        return moved if fits else None

    def transposed(self) -> list[list[Tensor]]:
        """Each piece for training in all keys that fit the range."""
        every = [[self.shifted(x, by) for by in SHIFTS] for x in self.items["train"]]
        return [[x for x in keys if x is not None] for keys in every]

    def window(self, x: Tensor, bar: int = 0) -> tuple[Tensor, Tensor]:
        """Twelve bars of a piece, and which tokens are known: two bars, and the padding."""
        own = x[bar * BAR * self.voices :][: self.length]
        tokens = torch.full((self.length,), REST).index_copy(0, torch.arange(len(own)), own)
        known = torch.arange(self.length) >= len(own)
        known[: PREFIX * self.voices] = True
        return tokens, known

    def held_out(self, part: str) -> tuple[Tensor, Tensor]:
        """The first windows of all pieces of a part, and what is known of them."""
        both = zip(*[self.window(x) for x in self.items[part]], strict=True)
        tokens, known = (torch.stack(v) for v in both)
        return tokens, known


def music(voices: int = 1, found: list[tuple[str, Notes]] | None = None) -> Music:
    """The chorales in tokens: the sopranos, or so many voices from the top."""
    found = pieces() if found is None else found
    found = [(n, v) for n, v in found if len(v[0]) >= PREFIX + BAR]
    parts = split(tunes([v[0] for _, v in found]))
    pitches = {p for _, v in found for line in v[:voices] for p in line} - {HOLD, REST}
    low, high = min(pitches), max(pitches)

    def tokens(lines: Notes) -> Tensor:
        whole = torch.full((max(map(len, lines[:voices])), voices), REST)
        for i, line in enumerate(lines[:voices]):
            values = torch.tensor(line)
            whole[: len(line), i] = torch.where(values > REST, values - low + FIRST, values)
        return whole.flatten()

    names = {part: [found[i][0] for i in index] for part, index in parts.items()}
    items = {part: [tokens(found[i][1]) for i in index] for part, index in parts.items()}
    return Music(low, high - low + 1 + FIRST, voices, names, items)


Context = Callable[[Tensor, int, int], Tensor]


@dataclass
class Markov:
    r"""An interpolated Markov chain.

    .. math:: p_k(x \mid h_k) = \frac{n(h_k, x) + a_k\, p_{k-1}(x \mid h_{k-1})}{n(h_k) + a_k}

    from :math:`p_{-1}` uniform to the order of the chain, with counts n of the training pieces in
    all keys and strengths a that are tuned on the validation pieces. The context :math:`h_k` holds
    the last k tokens of the same voice and which voice it is; if ``metre``, also the place in the
    bar from k = 1 on (one more level).

    Arguments:
        music: The pieces.
        order: How many tokens a context holds.
        metre: Whether contexts hold the place in the bar.
    """

    music: Music
    order: int = 3
    metre: bool = False

    def __post_init__(self) -> None:
        self.levels = self.order + 1 + self.metre
        rows = [x for keys in self.music.transposed() for x in keys]
        self.tables = [self._count(rows, level) for level in range(self.levels)]
        self.strength = self._tuned()

    def key(self, x: Tensor, i: Tensor, level: int) -> Tensor:
        """The context of sites i of tokens (B, D) at a level, as numbers."""
        voices, size = self.music.voices, self.music.size
        key = i % voices
        beats = self.metre and level > 0
        if beats:
            key = key * BAR + (i // voices) % BAR
        key = key.expand(len(x), -1)
        for back in range(1, level + 1 - beats):
            key = key * size + x[:, i - back * voices]
        return key

    def _count(self, rows: list[Tensor], level: int) -> tuple[Tensor, Tensor]:
        size = self.music.size
        first = self.order * self.music.voices
        both = [self._pairs(x.unsqueeze(0), level, first) for x in rows]
        keys, values = (torch.cat(v) for v in zip(*both, strict=True))
        found, index = keys.unique(return_inverse=True)
        counts = torch.zeros(len(found) * size, dtype=torch.float64)
        counts.index_add_(0, index * size + values, torch.ones_like(index, dtype=torch.float64))
        return found, counts.reshape(-1, size)

    def _pairs(self, x: Tensor, level: int, first: int) -> tuple[Tensor, Tensor]:
        i = torch.arange(first, x.shape[1])
        return self.key(x, i, level).flatten(), x[:, i].flatten()

    def _rows(self, x: Tensor, i: Tensor) -> list[Tensor]:
        """The counts of every token at each level after the contexts of sites i."""
        found = []
        for level, (keys, counts) in enumerate(self.tables):
            wanted = self.key(x, i, level).contiguous()
            place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            found.append(counts[place] * (keys[place] == wanted).unsqueeze(-1))
        return found

    def _mixed(self, rows: list[Tensor], strength: Tensor) -> Tensor:
        p = torch.full_like(rows[0], 1 / self.music.size)
        for counts, a in zip(rows, strength, strict=True):
            p = (counts + a * p) / (counts.sum(-1, keepdim=True) + a)
        return p

    def _tuned(self) -> Tensor:
        """The strengths that make the validation pieces likeliest."""
        x, known = self.music.held_out("validation")
        free = torch.arange(PREFIX * self.music.voices, x.shape[1])
        rows, seen = self._rows(x, free), ~known[:, free]
        logs = torch.full((self.levels,), 2.0, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([logs], max_iter=60, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            p = self._mixed(rows, logs.exp()).gather(-1, x[:, free].unsqueeze(-1)).squeeze(-1)
            nats = -p.log()[seen].mean()
            nats.backward()
            return nats

        optimiser.step(closure)
        return logs.detach().exp()

    def nats(self, x: Tensor, known: Tensor) -> Tensor:
        """What the free tokens of windows (B, D) cost, shape (B,)."""
        free = torch.arange(PREFIX * self.music.voices, x.shape[1])
        p = self._mixed(self._rows(x, free), self.strength)
        each = -p.gather(-1, x[:, free].unsqueeze(-1)).squeeze(-1).log()
        return torch.where(known[:, free], 0.0, each).sum(1)

    def sample(self, x: Tensor, known: Tensor) -> Tensor:
        """Windows (B, D) whose free tokens are drawn anew."""
        x = x.clone()
        for i in range(PREFIX * self.music.voices, x.shape[1]):
            p = self._mixed(self._rows(x, torch.tensor([i])), self.strength)[:, 0]
            x[:, i] = torch.where(known[:, i], x[:, i], p.multinomial(1).squeeze(1))
        return x
