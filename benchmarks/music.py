r"""Kinds of noise on the sopranos of Bach's chorales, beside Markov chains.

    pip install "discdiff[bench]"
    python benchmarks/music.py [--kinds NAME ...] [--seeds N ...] [--steps N] [--voices N]

Data, tokens and split are those of ``benchmarks/chorales.py``: eighth notes, windows of twelve
bars, the first two given. All kinds have one network (a hollow transformer that says the law of
each token given the others), one number of steps, one batch and one learning rate; they differ in
the process alone. The known tokens stand still, ``process.given((tokens, known))``.

Where *hold* and *rest* stand: tokens are ordered hold, rest, lowest pitch, …, highest pitch, so
that the walks of *ordinal* and *killing* noise pass from the lowest note to silence and on to no
new note. The *tree* redraws a token among all, among those of its sort (notes; hold and rest) and
among the notes of its pitch class (hold and rest stand alone), each at unit rate.

Columns of ``benchmarks/results/music.csv``, all on the held-out pieces: ``bits_per_token``, an
upper bound for diffusion and exact for chains, over the free tokens alone, with the standard
errors over pieces and over the draws of the bound; ``below_markov``, by how much it is below the
interpolated Markov chain of order 3, piece by piece, with its standard error over pieces; then,
means over pieces and samples, the Hellinger distance :math:`\|\sqrt p - \sqrt q\| / \sqrt 2` of
the histograms of notes struck in a continuation and in its piece, and the share of generated notes
that do not occur in it, once of the continuation alone and once with the two given bars.

One row is written when each run ends; runs that have a row are skipped.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from chorales import BAR, FIRST, PREFIX, Markov, Music, music
from learning import append, finished, fit, hollow, machine, nats, noises
from torch import Tensor

import discdiff as dd
from discdiff.times import time_density

FOLDER = Path(__file__).parent / "results"
RUNS = Path(__file__).parents[1] / "runs" / "music"
KINDS = ("masked", "uniform", "ordinal", "killing", "tree")
CHAINS = {
    "markov 3": (3, False),
    "markov 3 with metre": (3, True),
    "markov 5 with metre": (5, True),
}
WIDTH, LAYERS, BATCH, RATE = 64, 2, 16, 3e-3
DRAWS, COPIES, GRID = 128, 4, 50
Pair = tuple[Tensor, Tensor]


def tree(data: Music) -> list[Tensor]:
    """All tokens; notes, and what is none; pitch classes."""
    token = torch.arange(data.size)
    note = token >= FIRST
    pitch_class = (token - FIRST + data.low) % 12
    return [torch.zeros_like(token), note.long(), torch.where(note, FIRST + pitch_class, token)]


def batches(data: Music, size: int) -> Iterator[Pair]:
    """Windows of pieces for training in random keys, and what is known of them."""
    pieces = data.transposed()
    while True:
        drawn = []
        for i in torch.randint(len(pieces), (size,)).tolist():
            x = pieces[i][int(torch.randint(len(pieces[i]), ()))]
            spare = max(0, len(x) - data.length) / (BAR * data.voices)
            drawn.append(data.window(x, int(torch.randint(math.ceil(spare) + 1, ()))))
        tokens, known = (torch.stack(v) for v in zip(*drawn, strict=True))
        yield tokens, known


def trained(data: Music, kind: str, options: argparse.Namespace) -> tuple[Any, Any, float]:
    """A process, its trained head and the seconds of processor time."""
    process, absent = noises(data.size, tree(data))[kind]
    head = hollow(data.size, data.length, absent, WIDTH, LAYERS)
    density, source = time_density(process), batches(data, BATCH)

    def loss() -> Tensor:
        x, known = next(source)
        clamped = process.given((x, known))
        t, w = dd.times(clamped, x, density=density)
        return (w * dd.loss(clamped, head, x, t) / (~known).sum(1)).mean()

    return process, head, fit(head.net, loss, options.steps, RATE)


def continued(process: Any, head: Any, held: Pair) -> Tensor:
    """Copies of held-out windows with the free tokens drawn anew, (copies, pieces, D)."""
    x, known = (v.repeat(COPIES, 1) for v in held)
    drawn = dd.sample(process.given((x, known)), head, x.shape, steps=GRID)
    return drawn.reshape(COPIES, -1, x.shape[1])


def notes(x: Tensor, counted: Tensor, size: int) -> Tensor:
    """How often each pitch is struck among the counted tokens, (..., size)."""
    struck = torch.nn.functional.one_hot(x, size) * counted.unsqueeze(-1)
    return struck.sum(-2)[..., FIRST:].double()


def against(samples: Tensor, x: Tensor, counted: Tensor, size: int) -> tuple[float, float]:
    """The mean Hellinger distance and share of outliers of continuations."""
    p, q = notes(samples, counted, size), notes(x, counted, size)
    outliers = (p * (q == 0)).sum(-1) / p.sum(-1).clamp(min=1)
    p, q = (v / v.sum(-1, keepdim=True).clamp(min=1) for v in (p, q))
    distance = (p.sqrt() - q.sqrt()).norm(dim=-1) / math.sqrt(2)
    return float(distance.mean()), float(outliers.mean())


def judged(data: Music, held: Pair, bits: Tensor, markov: Tensor, samples: Tensor) -> dict:
    """The columns of a row: draws of bits (draws, pieces) and samples (copies, pieces, D)."""
    x, known = held
    free, mean = (~known).sum(1), bits.mean(0)
    inside = torch.arange(x.shape[1]) < PREFIX * data.voices
    only = against(samples, x, ~known, data.size)
    whole = against(samples, x, ~known | inside, data.size)
    by_draw = bits.sum(1).std() / math.sqrt(len(bits)) / free.sum() if len(bits) > 1 else 0.0
    figures = {
        "bits_per_token": mean.sum() / free.sum(),
        "error_over_pieces": ratio_error(mean, free),
        "error_over_draws": by_draw,
        "below_markov": (markov - mean).sum() / free.sum(),
        "its_error": ratio_error(markov - mean, free),
        "hellinger": only[0],
        "outliers": only[1],
        "hellinger_with_prefix": whole[0],
        "outliers_with_prefix": whole[1],
    }
    return {k: f"{float(v):.4f}" for k, v in figures.items()}


def ratio_error(bits: Tensor, free: Tensor) -> Tensor:
    """The standard error over pieces of the bits of all per free token of all."""
    left = bits - bits.sum() / free.sum() * free
    return left.square().sum().sqrt() / free.sum() * math.sqrt(len(free) / (len(free) - 1))


def row(options: argparse.Namespace, kind: str, seed: int, figures: dict, **more: Any) -> dict:
    """One line of the table."""
    command = f"python benchmarks/music.py --kinds '{kind}' --seeds {seed}"
    command += f" --steps {options.steps} --voices {options.voices}"
    named = {"kind": kind, "voices": options.voices, "steps": more["steps"], "seed": seed}
    last = {"parameters": more["parameters"], "cpu_seconds": f"{more['seconds']:.0f}"}
    return {**named, **figures, **last, "command": command, "machine": machine()}


def kept(kind: str, seed: int, options: argparse.Namespace, what: str) -> Path:
    """Where the samples or the network of a run are left for pictures."""
    return RUNS / f"{kind}-{options.voices}-{seed}-{what}.pt"


def run(options: argparse.Namespace, data: Music, chain: Markov, kind: str, seed: int) -> dict:
    """One run of a kind of noise, or of a Markov chain."""
    torch.manual_seed(seed)
    RUNS.mkdir(parents=True, exist_ok=True)
    held = data.held_out("test")
    markov = chain.nats(*held) / math.log(2)
    if kind in CHAINS:
        other = Markov(data, *CHAINS[kind])
        bits = other.nats(*held).unsqueeze(0) / math.log(2)
        samples = torch.stack([other.sample(*held) for _ in range(COPIES)])
        more = {"steps": 0, "parameters": other.levels, "seconds": 0.0}
    else:
        process, head, seconds = trained(data, kind, options)
        bits = nats(process.given(held), head, held[0], DRAWS) / math.log(2)
        samples = continued(process, head, held)
        count = sum(p.numel() for p in head.net.parameters())
        torch.save(head.net.state_dict(), kept(kind, seed, options, "net"))
        more = {"steps": options.steps, "parameters": count, "seconds": seconds}
    torch.save(samples, kept(kind, seed, options, "samples"))
    return row(options, kind, seed, judged(data, held, bits, markov, samples), **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="*", default=[*CHAINS, *KINDS])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--voices", type=int, default=1, choices=[1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=FOLDER / "music.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = music(options.voices)
    chain = Markov(data)
    keys = ("kind", "voices", "steps", "seed")
    for seed in options.seeds:
        for kind in options.kinds:
            steps = 0 if kind in CHAINS else options.steps
            mine = tuple(str(v) for v in (kind, options.voices, steps, seed))
            if mine not in finished(options.out, keys):
                append(options.out, run(options, data, chain, kind, seed))


if __name__ == "__main__":
    main()
