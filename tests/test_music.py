"""The chorales in tokens and their Markov chain: what ``benchmarks/music.py`` stands on."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import warnings
from pathlib import Path

import pytest
import torch

path = Path(__file__).parents[1] / "benchmarks" / "chorales.py"
spec = importlib.util.spec_from_file_location("chorales", path)
chorales = importlib.util.module_from_spec(spec)
sys.modules["chorales"] = chorales  # dataclasses look their module up
spec.loader.exec_module(chorales)

HOLD, REST = chorales.HOLD, chorales.REST


def melody(seed, bars=14):
    """A walk of quarter notes round an octave, with a rest in the first bar."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(-2, 3, (4 * bars,), generator=generator)
    pitches = (60 + steps.cumsum(0) % 13).tolist()
    line = [token for pitch in pitches for token in (pitch, HOLD)]
    return [REST, REST, *line[2:]]


@pytest.fixture(scope="module")
def data():
    found = [(f"walk {seed}", [melody(seed, 9 + seed % 6)] * 4) for seed in range(30)]
    return chorales.music(found=found)


def test_a_chorale_is_read_on_the_grid():
    """BWV 269 begins with a pickup: three quarters of rest, G, then the first full bar."""
    pytest.importorskip("music21")
    from music21 import corpus

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = corpus.parse("bach/bwv269")
    lines = [chorales.voice(part) for part in score.parts]
    print(lines[0][:24])
    quarters = score.parts[0].flatten().notesAndRests
    struck = [n.pitch.midi for n in quarters if n.isNote and float(2 * n.offset) % 1 == 0]
    pickup = score.parts[0].getElementsByClass("Measure")[0].duration.quarterLength
    full = score.parts[0].getElementsByClass("Measure")[1].duration.quarterLength
    assert lines[0][: int(2 * (full - pickup))] == [REST] * int(2 * (full - pickup))
    assert [p for p in lines[0] if p not in (HOLD, REST)] == struck
    assert len({len(line) for line in lines}) == 1


def test_pieces_of_one_tune_stay_together():
    one, other = melody(1), melody(2)
    higher = [p + 3 if p > REST else p for p in one]
    first, second, third = chorales.tunes([one, other, higher])
    assert first == third != second


def test_the_split_is_fixed_and_shares_no_tune(data):
    tune = [i // 3 for i in range(100)]
    parts = chorales.split(tune)
    assert parts == chorales.split(tune)
    assert sorted(itertools.chain(*parts.values())) == list(range(100))
    for one, other in itertools.combinations(parts.values(), 2):
        assert not {tune[i] for i in one} & {tune[i] for i in other}


def test_a_window_knows_two_bars_and_the_padding(data):
    short = data.items["train"][0][: 10 * chorales.BAR]
    tokens, known = data.window(short)
    assert tokens.shape == known.shape == (data.length,)
    assert known[: chorales.PREFIX].all() and known[len(short) :].all()
    assert not known[chorales.PREFIX : len(short)].any()
    assert (tokens[len(short) :] == REST).all() and (tokens[: len(short)] == short).all()


def test_transpositions_keep_intervals_and_range(data):
    piece = data.items["train"][0]
    for moved in data.transposed()[0]:
        pitched = piece >= chorales.FIRST
        assert ((moved - piece)[pitched]).unique().numel() == 1
        assert (moved[~pitched] == piece[~pitched]).all() and moved.max() < data.size


@pytest.mark.parametrize("metre", [False, True])
def test_the_chain_is_a_law_that_beats_its_lower_orders(data, metre):
    chains = [chorales.Markov(data, order, metre) for order in (1, 3)]
    x, known = data.held_out("test")
    free = torch.arange(chorales.PREFIX, x.shape[1])
    for chain in chains:
        law = chain._mixed(chain._rows(x, free), chain.strength)
        torch.testing.assert_close(law.sum(-1), torch.ones_like(law[..., 0]))
    nats = [float(chain.nats(x, known).sum() / (~known).sum()) for chain in chains]
    print(nats)
    assert nats[1] < nats[0]


def test_the_chain_draws_what_is_free(data):
    chain = chorales.Markov(data)
    x, known = data.held_out("test")
    torch.manual_seed(0)
    drawn = chain.sample(x, known)
    assert (drawn[known] == x[known]).all() and drawn.max() < data.size
    assert (drawn != x).any()
