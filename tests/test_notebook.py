"""The notebooks run from top to bottom, and show what their text says."""

import math
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
TIMEOUT = 300  # seconds per cell, for machines that do much else


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request):
    """A notebook after all its cells have run, one thread, as for a newcomer in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        notebook = nbformat.read(request.param, as_version=4)
        folder = {"metadata": {"path": str(request.param.parent)}}
        client = nbclient.NotebookClient(notebook, timeout=TIMEOUT, resources=folder)
        client.execute()
    notebook.metadata["about"] = request.param.stem.split("_", 1)[1]
    return notebook


def outputs(notebook):
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def printed(notebook):
    return "".join(out.text for out in outputs(notebook) if out.get("name") == "stdout")


def test_every_law_holds(executed):
    assert "all laws hold" in printed(executed)
    assert "FAILS" not in printed(executed)


def test_it_draws(executed):
    pictures = [out for out in outputs(executed) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 2


def test_it_trains(executed):
    """Bits of the digits; nats of blobs, for which what is fixed pays 0.35 more than the truth.

    Points on a grid: the total variation of samples. Points on a line: how far they must be moved.
    """
    text, about = printed(executed), executed.metadata["about"]
    if about == "discrete_states":
        found = re.findall(r"(?:masked|ordinal) samples: ([\d.]+) apart from the truth", text)
        assert len(found) == 2 and max(map(float, found)) < 0.35
        return
    if about == "lecture_notes":
        moved = re.search(
            r"learned network +left mode [\d.]+ \(0.350\), Wasserstein-1 ([\d.]+)", text
        )
        assert float(moved.group(1)) < 0.15
        return
    if about == "non_normal":
        errors = dict(re.findall(r"learned by (\w+): Wasserstein-1 ([\d.]+)", text))
        assert 1.5 * float(errors["squares"]) < float(errors["likelihood"])
        assert float(errors["squares"]) < 0.25
        return
    if about == "declare_a_process":
        assert 1.5 < float(re.search(r"held out: ([\d.]+) ±", text).group(1)) < 2.4
        return
    gaps = re.findall(r"held out: .* nats, (-?[\d.]+) ± ([\d.]+) above the truth", text)
    (fixed, _), (learned, error) = [tuple(map(float, pair)) for pair in gaps]
    assert fixed > 0.3
    assert -4 * error < learned < 0.15


def test_nothing_is_complained_of(executed):
    assert not [out.text for out in outputs(executed) if out.get("name") == "stderr"]


def test_laws_of_discrete_states_are_exact(executed):
    """Steppers by their orders, mix-ups of heads, closed forms: numbers without Monte Carlo."""
    if executed.metadata["about"] != "discrete_states":
        pytest.skip("a notebook of other states")
    text = printed(executed)
    apart = [float(v) for v in re.findall(r"(?:MDLM|SEDD): (\S+) apart", text)]
    assert len(apart) == 2 and max(apart) < 1e-12
    table = dict(re.findall(r"^(Euler|Analytic|Trapezoidal) +(.*)$", text, re.MULTILINE))
    errors = {name: [float(v) for v in row.split()] for name, row in table.items()}
    for name, order in (("Euler", 1), ("Analytic", 1), ("Trapezoidal", 2)):
        assert abs(math.log2(errors[name][-2] / errors[name][-1]) - order) < 0.25
    assert text.count("as a RateMatrix: ") == 8
    assert "probabilities sum to 1.00000000" in text or "sum to 0.99999999" in text


def test_the_lecture_notes_are_right_but_for_what_is_named(executed):
    """Three forms of the bound agree and the printed one does not; few steps err as known."""
    if executed.metadata["about"] != "lecture_notes":
        pytest.skip("a notebook of its own numbers")
    text = printed(executed)
    rows = re.findall(
        r"^(\(1[89]\)|\(2[12]\).*?) +(-[\d.]+) ± [\d.]+ +(-[\d.]+)", text, re.MULTILINE
    )
    bound = {name.split(",")[0]: (float(true), float(other)) for name, true, other in rows}
    assert set(bound) == {"(18)", "(19)", "(21)", "(22)"}
    for column in (0, 1):
        forms = [bound[name][column] for name in ("(18)", "(19)", "(22)")]
        assert max(forms) - min(forms) < 0.02 and bound["(21)"][column] < min(forms) - 1
    steps = dict(re.findall(r"^(1000|100|50|20|10|5) +(0\.\d{4})$", text, re.MULTILINE))
    known = {"1000": 0.0029, "100": 0.0096, "50": 0.02, "20": 0.0522, "10": 0.1077, "5": 0.3377}
    assert set(steps) == set(known)
    assert all(abs(float(steps[k]) / value - 1) < 0.15 for k, value in known.items())
    assert "KL(N(1, 1) ‖ N(0, 4)) = 0.443147 nats" in text


def test_shifts_lose_what_they_must_and_samples_do_not_mind(executed):
    """Per β near the limit; all laws err alike, like one over the number of steps."""
    if executed.metadata["about"] != "non_normal":
        pytest.skip("a notebook of normal noise")
    text = printed(executed)
    lost = re.findall(r"last Shift ([\d.]+), limit ([\d.]+); last Tilt ([\d.]+)", text)
    assert len(lost) == 2
    for shift, limit, tilt in [map(float, numbers) for numbers in lost]:
        assert abs(shift / limit - 1) < 0.2 and tilt < 0.15 * limit
    moved = re.findall(r"^\w+ +(0\.\d{4}) +(0\.\d{4}) +(0\.\d{4})$", text, re.MULTILINE)
    assert len(moved) == 6
    assert all(2.5 < float(first) / float(last) < 7 for first, _, last in moved)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_committed(path):
    notebook = nbformat.read(path, as_version=4)
    assert not outputs(notebook)
    assert all(cell.get("execution_count") is None for cell in notebook.cells)
