"""The command line: what it prints, and that mistakes are named and write nothing."""

import re

import numpy as np
import pytest
import torch
import yaml
from commands import discdiff

from discdiff.train.settings import Settings

TINY = (
    "--width 16 --blocks 1 --batch 32 --steps 4 --every 2 --warmup 1 --draws 2 --reverse_steps 3 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished small run."""
    runs = tmp_path_factory.mktemp("runs")
    np.save(runs / "items.npy", np.random.default_rng(0).integers(0, 4, (48, 2, 3)))
    args = [*TINY, "--data", runs / "items.npy", "--runs", runs, "--name", "run"]
    assert discdiff("train", *args) == 0
    return runs / "run"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_ends_with_the_bound(here, capsys):
    assert discdiff("train", *TINY) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"held-out: \d+\.\d+ ± \d+\.\d+ bits/dim", lines[-1])
    assert (here / "runs/blackout-digits/samples.png").is_file()
    assert (here / "runs/blackout-digits/curve.png").is_file()


def test_a_second_run_takes_a_new_folder(here):
    np.save(here / "a.npy", np.arange(80).reshape(40, 2))
    for _ in range(2):
        assert discdiff("train", *TINY, "--data", "a.npy") == 0
    assert {p.name for p in (here / "runs").iterdir()} == {"blackout-a", "blackout-a-2"}


def test_the_saved_options_are_those_of_the_run(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["width"] == 16
    assert config["process"] == "blackout"
    assert config["trainer"]["accelerator"] == "cpu"
    assert not {"name", "runs", "resume", "config"} & set(config)


def test_the_saved_options_start_a_new_run(run, here):
    assert discdiff("train", "--config", run / "config.yaml", "--name", "copy") == 0
    copy = here / "runs/copy"
    assert (copy / "log.csv").read_bytes() == (run / "log.csv").read_bytes()


def test_evaluate_repeats_the_bound(run, capsys):
    assert discdiff("evaluate", run) == 0
    first = capsys.readouterr().out
    assert discdiff("evaluate", run, "--draws", 2) == 0
    assert capsys.readouterr().out == first
    assert re.fullmatch(r"held-out: .* bits/dim\n", first)


def test_sample_writes_array_and_figure(run, here, capsys):
    assert discdiff("sample", run, "--number", 5, "--steps", 3, "--out", "drawn/a") == 0
    assert np.load(here / "drawn/a.npy").shape == (5, 2, 3)
    assert (here / "drawn/a.png").is_file()
    assert capsys.readouterr().out.split() == ["drawn/a.npy", "drawn/a.png"]


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import discdiff as dd\n"
        "good = dd.Death().on(dd.clock.LogLinear())\n"
        "class Wrong(dd.Jump):\n"
        "    def out(self, x): return (x // 2)[..., None], x[..., None]\n"
        "    def into(self, x): return (x + 1)[..., None], x[..., None] + 1\n"
        "wrong = Wrong()\n"
    )
    return path


def test_check_passes_a_sound_process(user_file, capsys):
    assert discdiff("check", f"{user_file}:good") == 0
    assert "Dynkin" in capsys.readouterr().out


def test_check_fails_an_unsound_process(user_file, capsys):
    assert discdiff("check", f"{user_file}:wrong") == 1


MISTAKES = [
    (["train", "--nothing", "3"], "nothing"),
    (["train", "--steps", "many"], "steps"),
    (["train", "--steps", "0"], "steps"),
    (["train", "--dropout", "1.5"], "dropout"),
    (["train", "--process", "grey"], "grey"),
    (["train", "--process", "mine.py:x"], "mine.py"),
    (["train", "--data", "missing.npy"], "missing.npy"),
    (["train", "--data", "bad.csv"], "row 3, column b: 'x'"),
    (["train", "--data", "real.csv"], "real.csv: row 2, column a: 0.5 is no integer"),
    (["train", "--data", "real.csv", "--process", "masked"], "vp"),
    (["train", "--data", "plain.csv", "--labels", "true"], "no labels"),
    (["train", "--data", "text.txt"], "masked or uniform"),
    (["train", "--data", "large.npy"], "large holds the value 16777216"),
    (["train", "--data", "large.npy", "--process", "vp"], "must lie below 2^24"),
    (["train", "--data", "large.npy", "--process", "masked"], "must lie below 2^24"),
    (["train", "--data", "labels.csv"], "labels.csv holds no column but label"),
    (["train", "--resume", "nowhere"], "nowhere"),
    (["train", "--trainer.accelerator", "abacus"], "abacus"),
    (["train", "--trainer.nothing", "1"], "nothing"),
    (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
    (["sample", "nowhere"], "nowhere"),
    (["evaluate", "nowhere"], "nowhere"),
    (["check", "nowhere.py:x"], "nowhere.py"),
    (["check", "blackout"], "blackout"),
    (["paint"], "paint"),
    ([], "subcommand"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=lambda v: " ".join(v)[:40])
def test_mistakes_are_named_and_write_nothing(here, capsys, args, message):
    (here / "bad.csv").write_text("\n".join(["a,b", "1,2", "1,x", *["1,2"] * 20]))
    (here / "real.csv").write_text("\n".join(["a,b", *["0.5,2"] * 20]))
    (here / "plain.csv").write_text("\n".join(["a,b", *["1,2"] * 20]))
    (here / "text.txt").write_text("abc " * 400)
    (here / "labels.csv").write_text("\n".join(["label", *"ab" * 20]))
    np.save(here / "large.npy", np.full((20, 2), 2**24))
    before = sorted(here.rglob("*"))
    assert discdiff(*args) not in (0, None)
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert sorted(here.rglob("*")) == before


def test_an_existing_folder_is_kept(run, capsys):
    before = (run / "log.csv").read_bytes()
    assert discdiff("train", *TINY, "--runs", run.parent, "--name", "run") == 2
    assert "--resume" in capsys.readouterr().err
    assert (run / "log.csv").read_bytes() == before


@pytest.fixture
def damaged(run, tmp_path):
    """A copy of the run to be damaged."""
    copy = tmp_path / "copy"
    for path in run.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


COMMANDS = [["sample"], ["evaluate"], ["train", "--resume"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
@pytest.mark.parametrize("size", [None, 0, 1000])
def test_missing_and_truncated_checkpoints_are_named(damaged, capsys, command, size):
    for name in ("best.ckpt", "last.ckpt"):
        path = damaged / "checkpoints" / name
        if size is None:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:size])
    before = {p: p.read_bytes() for p in damaged.rglob("*") if p.is_file()}
    assert discdiff(*command, damaged) == 2
    err = capsys.readouterr().err
    assert ".ckpt" in err
    assert "Traceback" not in err
    assert {p: p.read_bytes() for p in damaged.rglob("*") if p.is_file()} == before


def test_a_foreign_checkpoint_is_named(damaged, capsys):
    torch.save({"a": 1}, damaged / "checkpoints/best.ckpt")
    assert discdiff("sample", damaged) == 2
    assert "state_dict" in capsys.readouterr().err


def test_damaged_options_are_named(damaged, capsys):
    (damaged / "config.yaml").write_text("width: [1,")
    assert discdiff("evaluate", damaged) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_options(run, capsys):
    assert discdiff("train", "--resume", run, "--width", 32) == 2
    assert "--width 32" in capsys.readouterr().err


def test_changed_data_are_noticed(here, capsys):
    np.save(here / "a.npy", np.arange(80).reshape(40, 2))
    assert discdiff("train", *TINY, "--data", "a.npy", "--name", "a") == 0
    np.save(here / "a.npy", np.arange(80).reshape(40, 2)[::-1])
    capsys.readouterr()
    for command in (["evaluate"], ["train", "--resume"]):
        assert discdiff(*command, "runs/a") == 2
        assert "has changed" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    assert discdiff("train", "--help") == 0
    text = capsys.readouterr().out
    for name in Settings.__dataclass_fields__:
        assert f"--{name} " in text
