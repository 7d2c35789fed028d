"""The laws of ``benchmarks/synthetic.py``, their bits, its kernel, and a short run of it."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

import discdiff as dd

FOLDER = str(Path(__file__).parents[1] / "benchmarks")


@pytest.fixture(scope="module")
def synthetic():
    pytest.importorskip("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("synthetic")
        for name in ("synthetic", "toys", "learning"):
            sys.modules.pop(name, None)


@pytest.fixture
def code(synthetic):
    return sys.modules["toys"].Code(3.0)


def test_bits_are_a_sign_and_a_gray_code(code):
    """One unit is 2^15 / 4 = 8192 cells, whose Gray code is 8192 ^ 4096."""
    one = code.bits(torch.tensor([[1.0, -1.0]])).reshape(2, 16)
    place = lambda row: (row == 1).nonzero().squeeze(1).tolist()
    assert place(one[0]) == [2, 3]  # after the sign, bits of 16384, 8192, 4096, …
    assert place(one[1]) == [0, 2, 3]


def test_neighbouring_cells_differ_in_one_bit(code):
    n = torch.arange(2**15)
    x = (n.double() + 0.5) * 4 / 2**15
    bits = code.bits(torch.stack([x, -x], 1))
    assert ((bits[1:] != bits[:-1]).sum(1) == 2).all()  # one per coordinate
    assert len(bits.unique(dim=0)) == 2**15
    torch.testing.assert_close(code.points(bits), torch.stack([x, -x], 1))


def test_all_draws_have_a_cell(synthetic):
    torch.manual_seed(0)
    for name, law in synthetic.LAWS.items():
        x, code = law(4096), synthetic.measured(law)
        cell = (code.limit + 1) / 2**15
        error = (code.points(code.bits(x)) - x).abs().max()
        print(f"{name}: within ±{code.limit + 1:.2f}, error {error:.1e}")
        assert error <= 0.51 * cell


def test_the_kernel_is_that_of_the_hamming_distance(synthetic):
    torch.manual_seed(0)
    x, y = torch.randint(2, (2, 50, 32)).double()
    fast, slow = synthetic.Agreement(0.1)(x, y), dd.metrics.Hamming(0.1)(x, y)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["circles", "checkerboard"])
def test_areas(synthetic, name):
    """Half of the board is filled; circles have radius 1.5 and 3, with noise 0.24."""
    torch.manual_seed(0)
    x = synthetic.LAWS[name](20000)
    if name == "checkerboard":
        assert ((x[:, 0] / 2).floor() + (x[:, 1] / 2).floor()).remainder(2).unique().numel() == 1
        assert x.abs().max() <= 4
    else:  # E|x|² = (9 + 2.25) / 2 + 2 · 0.24²; its deviation over draws is 3.8
        mean = x.square().sum(1).mean()
        assert abs(mean - (5.625 + 2 * 0.24**2)) <= 4 * 3.8 / math.sqrt(20000)


def test_a_short_run_fills_the_table(synthetic, tmp_path):
    budget = synthetic.Budget(256, 16, 3, 16, 128, 16, 2, 16, 2)
    table, found = tmp_path / "table.csv", []
    for model in synthetic.MODELS:
        line, points = synthetic.run("moons", model, 0, budget)
        assert list(points) == ["law", model]
        found.append(synthetic.shared(table, line))
        synthetic.append(table, found[-1])
    assert [r["steps"] for r in found] == [0, 0, 3, 2]
    assert found[0]["share"] == "1.0000"
    assert all(math.isfinite(float(r["mmd2"])) for r in found)
    assert float(found[3]["share"]) == pytest.approx(
        float(found[3]["mmd2"]) / float(found[0]["mmd2"]), abs=1e-4
    )
    again, _ = synthetic.run("moons", synthetic.MASKED, 0, budget)
    assert again["mmd2"] == found[2]["mmd2"]
