"""Training: determinism, resumption after a kill, scores, figures, and loading a run."""

import csv
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import discdiff
from PIL import Image

import discdiff as dd
from discdiff import heads, zoo
from discdiff.likelihood import prior_kl
from discdiff.train.callbacks import write_atomically
from discdiff.train.data import Counts, Dataset, Reals, Split, digits
from discdiff.train.declare import (
    NAMES,
    encoding_for,
    head_for,
    process_from_file,
    process_named,
    states_for,
)
from discdiff.train.describe import Description
from discdiff.train.encoding import AsCategories, AsCounts, AsReals
from discdiff.train.evaluate import Bound, score
from discdiff.train.figures import draw_curve, draw_samples
from discdiff.train.files import read
from discdiff.train.model import Model
from discdiff.train.module import Trainee, rate_at
from discdiff.train.run import load
from discdiff.train.settings import Settings

TINY = (
    "--width 16 --blocks 1 --batch 32 --steps 10 --every 4 --warmup 2 --draws 2 --reverse_steps 3 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false"
).split()


def small(folder):
    """The path of a few small items."""
    path = folder / "small.npy"
    np.save(path, np.random.default_rng(0).integers(0, 4, (48, 2, 3)))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished small run."""
    runs = tmp_path_factory.mktemp("runs")
    args = [*TINY, "--data", small(runs), "--runs", runs, "--name", "whole"]
    assert discdiff("train", *args) == 0
    return runs / "whole"


@pytest.fixture(scope="module")
def description():
    return Description.of(digits())


def test_a_run_leaves_all_its_files(finished):
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert names == {
        "config.yaml",
        "log.csv",
        "samples.png",
        "curve.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }


def test_the_log_has_a_row_per_validation(finished):
    with (finished / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4, 8, 10]
    assert all(float(row["train"]) > 0 and float(row["validation"]) > 0 for row in rows)


def test_same_seed_same_log(finished, tmp_path):
    torch.manual_seed(12345)
    args = [*TINY, "--data", small(finished.parent), "--runs", tmp_path, "--name", "again"]
    assert discdiff("train", *args) == 0
    assert (tmp_path / "again/log.csv").read_bytes() == (finished / "log.csv").read_bytes()


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from discdiff.train import cli, module

step = module.Trainee.training_step

def dying(self, batch, index):
    if batch[0] == int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)

module.Trainee.training_step = dying
for kill_at in (0, 3, 4, 7, 9):
    child = os.fork()
    if child == 0:
        os.environ["KILL_AT"] = str(kill_at)
        cli.main(sys.argv[1:] + ["--name", f"killed-{kill_at}"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_runs_resume_to_the_same_log(finished, tmp_path):
    data = str(small(finished.parent))
    args = [*TINY, "--data", data, "--runs", str(tmp_path)]
    command = [sys.executable, "-c", KILLED, "train", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = torch.load(finished / "checkpoints/last.ckpt", weights_only=True)
    killed = sorted(tmp_path.iterdir())
    assert len(killed) == 5
    for run in killed:
        assert not (run / "samples.png").exists()
        assert discdiff("train", "--resume", run) == 0
        assert (run / "log.csv").read_bytes() == (finished / "log.csv").read_bytes()
        last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        for name, value in whole["current_model_state"].items():
            assert torch.equal(last["current_model_state"][name], value), name


def test_a_run_killed_before_its_first_step_begins_again(finished, tmp_path):
    folder = tmp_path / "early"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    assert discdiff("train", "--resume", folder) == 0
    assert (folder / "log.csv").read_bytes() == (finished / "log.csv").read_bytes()


def test_a_run_that_diverges_says_so(tmp_path, capsys):
    args = [*TINY, "--data", small(tmp_path), "--runs", tmp_path, "--lr", "1e30"]
    assert discdiff("train", *args, "--trainer.gradient_clip_val", "null") == 2
    assert "lower --lr" in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(finished, capsys):
    before = (finished / "log.csv").read_bytes()
    assert discdiff("train", "--resume", finished) == 0
    assert (finished / "log.csv").read_bytes() == before


def test_early_stopping_also_holds_after_resuming(tmp_path):
    args = [*TINY, "--steps", "40", "--patience", "1", "--lr", "1e-12", "--ema", "0"]
    args += ["--data", small(tmp_path), "--runs", tmp_path, "--name", "stopped"]
    assert discdiff("train", *args) == 0
    log = (tmp_path / "stopped/log.csv").read_bytes()
    assert len(log.splitlines()) < 11
    assert discdiff("train", "--resume", tmp_path / "stopped") == 0
    assert (tmp_path / "stopped/log.csv").read_bytes() == log


def test_a_longer_resumed_run_goes_on(finished, tmp_path):
    args = [*TINY, "--data", small(finished.parent), "--runs", tmp_path, "--name", "long"]
    assert discdiff("train", *args) == 0
    assert discdiff("train", "--resume", tmp_path / "long", "--steps", 16) == 0
    rows = (tmp_path / "long/log.csv").read_text().splitlines()
    assert rows[1:3] == (finished / "log.csv").read_text().splitlines()[1:3]
    assert rows[-1].startswith("16,")


def test_a_loaded_run_samples_and_scores(finished):
    run = load(finished)
    assert repr(run.process) == repr(dd.Death().on(dd.clock.Logistic(15.0)))
    assert isinstance(run.head, dd.heads.Missing)
    assert run.settings.width == 16
    items = run.sample(3, steps=5, seed=1)
    assert items.shape == (3, 2, 3)
    assert torch.equal(items, run.sample(3, steps=5, seed=1))
    assert run.elbo(torch.ones(4, 2, 3)).shape == (4,)


def test_a_loaded_run_refuses_what_it_cannot_score(finished):
    run = load(finished)
    with pytest.raises(ValueError, match=r"\(2, 4, 4\)"):
        run.elbo(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="17"):
        run.elbo(torch.full((2, 2, 3), 17))
    with pytest.raises(ValueError, match="labels"):
        run.sample(2, label=3)


def test_the_best_checkpoint_holds_averaged_weights(finished):
    checkpoint = torch.load(finished / "checkpoints/last.ckpt", weights_only=True)
    name = "model.head.net.net.net.last.weight"
    average, current = checkpoint["state_dict"][name], checkpoint["current_model_state"][name]
    assert not torch.equal(average, current)


@pytest.mark.parametrize("process", NAMES)
def test_all_processes_train_and_sample(process, tmp_path, capsys):
    args = [*TINY, "--steps", "4", "--runs", tmp_path, "--process", process]
    assert discdiff("train", *args, "--data", "binary-digits") == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("held-out: ") and last.endswith(" bits/dim")
    items = load(tmp_path / f"{process}-binary-digits").sample(2, steps=4, seed=0)
    assert torch.equal(items, items.round())
    assert process == "blackout" or set(items.unique().tolist()) <= {0, 1}


def test_labels_reach_the_network(tmp_path, capsys):
    args = [*TINY, "--labels", "true", "--label_dropout", "0.5", "--runs", tmp_path]
    assert discdiff("train", *args, "--name", "labels") == 0
    assert "held-out, labels unknown: " in capsys.readouterr().out
    run = load(tmp_path / "labels")
    assert run.sample(2, label="7", steps=3).shape == (2, 8, 8)
    with pytest.raises(ValueError, match="label 'x'"):
        run.sample(2, label="x")


def test_the_same_network_serves_all(description):
    sizes = {}
    for name in NAMES:
        model = Model(process_named(name, description), description, Settings())
        trunk = [m for m in model.modules() if type(m).__name__ == "Trunk"]
        sizes[name] = sum(p.numel() for p in trunk[0].parameters())
    assert len(set(sizes.values())) == 1


@pytest.mark.parametrize(
    ("name", "encoding", "head"),
    [
        ("blackout", AsCounts(), dd.heads.Missing),
        ("masked", AsCategories(18), dd.heads.Posterior),
        ("uniform", AsCategories(17), dd.heads.LeaveOneOut),
        ("vp", AsReals(17), dd.heads.Mean),
    ],
)
def test_processes_choose_encoding_and_head(name, encoding, head, description):
    process = process_named(name, description)
    assert encoding_for(process, description) == encoding
    assert type(head_for(process, encoding, description)) is head


LINEAR = {
    "vp": zoo.vp,
    "cld": zoo.cld,
    "psld": zoo.psld,
    "alda": zoo.alda,
    "mdm": lambda: zoo.mdm(3),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_diffusions_begin_at_the_bound_of_normal_data(name, description):
    """Untrained, each bound is the one of normal data, plus what a slow clock leaves."""
    torch.manual_seed(0)
    model = Model(LINEAR[name](), description, Settings(width=16, blocks=1)).eval()
    y = torch.zeros(model.process.state_shape((1, 8, 8)))
    stop = torch.tensor([model.timing()[0]], dtype=torch.float64)
    left = model.head.net.log_left(y, stop).detach().exp()
    assert float(left) == pytest.approx(1e-4, rel=1e-3)
    values = digits().values[:64].repeat(40, 1, 1)
    x, variance = values.double() - description.mean, description.std**2 + 1 / 12
    normal = (variance.log() + ((x**2 + 1 / 12) / variance).mean() + math.log(2 * math.pi)) / 2
    with torch.no_grad():
        bits = model.bits(values)
        rest = prior_kl(model.process, model.encoding.encode(values)).mean() / model.unit
    gap = float(bits.mean() - rest - normal / math.log(2))
    assert abs(gap) < 0.02 + 5 * float(bits.std()) / len(bits) ** 0.5
    loss = model.train().loss(values[:32]).mean()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is None or bool(g.isfinite().all()) for g in grads)


def test_masked_data_cannot_be_the_mask(description):
    process = process_named("masked", description)
    assert head_for(process, AsCategories(18), description).absent == (17,)


@pytest.mark.parametrize("name", ["blackout", "masked", "uniform"])
def test_scores_are_in_bits_of_the_integers(name, description):
    """The exact head of n items gives each log₂ n bits, whatever the encoding adds."""
    values = digits().values[:8]
    process = process_named(name, description)
    model = Model(process, description, Settings(width=16, blocks=1))
    torch.manual_seed(0)
    model.head = dd.Exact(process, model.encoding.encode(values))
    model.classes = 0
    bits = score_without_parameters(model, values)
    error = bits.std() / 8**0.5
    assert abs(float(bits.mean()) * 64 - 3) < 0.05 + 3 * float(error) * 64


def score_without_parameters(model, values):
    with torch.no_grad():
        return torch.stack([model.bits(values) for _ in range(200)]).mean(0)


def test_scores_depend_on_the_seed_only(description):
    model = Model(process_named("blackout", description), description, Settings(width=16)).eval()
    values = digits().values[:6]
    once = score(model, values, draws=4, seed=1)
    torch.rand(3)
    assert torch.equal(score(model, values, draws=4, seed=1), once)
    assert not torch.equal(score(model, values, draws=4, seed=2), once)


def test_the_bound_and_its_error():
    bound = Bound.of(torch.tensor([1.0, 2.0, 3.0]))
    assert bound.mean == 2
    assert bound.error == pytest.approx(1 / 3**0.5)
    assert str(bound) == "2.000 ± 0.577 bits/dim"


def test_the_rate_warms_up_and_ends_at_zero():
    rates = [rate_at(n, 100, 10) for n in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) > 0.97
    assert rates[100] == 0
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


USER = """
import torch
import discdiff as dd

urns = dd.Ehrenfest(3).on(dd.clock.Constant(3.0))
endless = (dd.Death() + dd.Immigration(1.0)).on(dd.clock.Logistic(15.0))
urn_table = dd.Product(a=urns, b=endless)
poisson = (dd.Death() + dd.Immigration(2.0)).on(dd.clock.Constant(4.0))
untimed = dd.Death()
number = 3
def made():
    return dd.Replace(torch.full((17,), 1 / 17)).on(dd.clock.Cosine())
table = dd.Product(
    income=(dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0)),
    job=dd.Replace(dd.one_hot(3, 4)).on(dd.clock.LogLinear()),
    visits=dd.Death().on(dd.clock.Logistic(15.0)),
)
broken = dd.Replace(torch.full((5,), 1 / 5)).on(dd.clock.LogLinear())
mixture = dd.Mixture([0.5, 0.5], untimed.on(dd.clock.Cosine()), untimed.on(dd.clock.LogLinear()))
in_a_table = dd.Product(a=mixture)
slow = (0.1 * dd.Death()).on(dd.clock.LogLinear())
def learned_noise():
    return dd.learn((dd.Linear(-0.5) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 0.5)))
def learned_queue():
    return dd.learn((dd.Death() + dd.Immigration(2.0)).on(dd.clock.Constant(0.1)))
def learned_letters():
    letters = dd.Replace(torch.full((17,), 1 / 17))
    return dd.learn(letters.on(dd.clock.Learned(dd.clock.Constant(0.5))))
"""


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(USER)
    return path


@pytest.mark.parametrize(
    ("name", "head"), [("poisson", dd.heads.Turnover), ("made", dd.heads.LeaveOneOut)]
)
def test_a_users_own_process_trains(user_file, tmp_path, name, head):
    source = f"{user_file}:{name}"
    np.save(tmp_path / "seventeen.npy", np.arange(17 * 12).reshape(-1, 4) % 17)
    args = [*TINY, "--steps", "4", "--runs", tmp_path, "--process", source, "--name", "own"]
    args += ["--data", tmp_path / "seventeen.npy"]
    assert discdiff("train", *args) == 0
    user_file.unlink()
    run = load(tmp_path / "own")
    assert isinstance(run.head, head)
    assert run.sample(2, steps=4).shape == (2, 4)


@pytest.mark.parametrize("name", ["urns", "endless"])
def test_counts_that_need_it_are_trained_by_a_posterior(user_file, tmp_path, capsys, name):
    """The last resort: logits over the values of the data, per entry."""
    np.save(tmp_path / "four.npy", np.arange(4 * 48).reshape(-1, 2, 2) % 4)
    args = [*TINY, "--steps", "4", "--runs", tmp_path, "--process", f"{user_file}:{name}"]
    assert discdiff("train", *args, "--data", tmp_path / "four.npy", "--name", "own") == 0
    run = load(tmp_path / "own")
    assert type(run.head) is heads.Posterior
    assert run.head.net(torch.ones(5, 2, 2), torch.rand(5)).shape == (5, 2, 2, 4)
    items = run.sample(6, steps=4)
    assert items.shape == (6, 2, 2) and set(items.flatten().tolist()) <= {0, 1, 2, 3}
    capsys.readouterr()
    assert discdiff("evaluate", tmp_path / "own") == 0
    assert "held-out" in capsys.readouterr().out


def test_a_posterior_of_counts_learns_what_there_is(user_file):
    """One repeated item costs nearly nothing once it is known."""
    torch.manual_seed(0)
    process = process_from_file(f"{user_file}:urns")
    values = torch.tensor([[0, 3, 1]]).expand(64, 3)
    split = Split.usual(64, "one")
    data = Description.of(Dataset("one", values, Counts(3), split))
    model = Model(process, data, Settings(width=32, blocks=1, dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(values).mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert 0 <= float(model.eval().bits(values).mean()) < 0.2


def test_a_table_takes_a_posterior_for_its_counts(user_file, tmp_path):
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *(f"{i % 4},{i % 7}" for i in range(60))]))
    args = [*TINY, "--steps", "4", "--runs", tmp_path, "--process", f"{user_file}:urn_table"]
    assert discdiff("train", *args, "--data", tmp_path / "t.csv", "--name", "own") == 0
    run = load(tmp_path / "own")
    assert {type(head) for head in run.head.parts.values()} == {heads.Posterior}
    assert run.sample(6, steps=4).shape == (6, 2)


def test_a_posterior_of_many_counts_is_refused(user_file):
    process = process_from_file(f"{user_file}:endless")
    data = described(1024).columns["visits"]
    with pytest.raises(dd.Unsolved, match="Posterior: 1025 logits per entry are more than 1024"):
        head_for(process, AsCounts(), data)


def described(largest):
    """A table of three columns, the last of them counts up to a number."""
    rows = torch.tensor([[0.5, 1, 0], [1.5, 2, largest]], dtype=torch.float64).repeat(10, 1)
    names = ("income", "job", "visits")
    split = Split.usual(20, "table")
    table = Description.of(Dataset("table", rows, Reals(), split, columns=names))
    visits = table.columns["visits"]
    return replace(visits, columns=table.columns)


@pytest.mark.parametrize("name", ["poisson", "made", "learned_noise", "table"])
def test_integers_that_states_cannot_tell_apart_are_refused(user_file, name):
    process = process_from_file(f"{user_file}:{name}")
    data = described(2**24)
    with pytest.raises(ValueError, match=r"visits holds the value 16777216, .* below 2\^24"):
        encoding_for(process, data)
    if name == "poisson":
        encoding_for(process, described(2**24 - 1))


LEARNED = ["learned_noise", "learned_queue", "learned_letters"]


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_process_trains_with_its_network(user_file, tmp_path, name):
    source = f"{user_file}:{name}"
    np.save(tmp_path / "seventeen.npy", np.arange(17 * 12).reshape(-1, 4) % 17)
    args = [*TINY, "--lr", "0.01", "--runs", tmp_path, "--process", source]
    args += ["--data", tmp_path / "seventeen.npy"]
    assert discdiff("train", *args, "--name", "own") == 0
    run, start = load(tmp_path / "own"), process_from_file(source)
    pairs = zip(run.process.parameters(), start.parameters(), strict=True)
    assert any(not torch.equal(now, then) for now, then in pairs)
    assert run.sample(2, steps=4).shape == (2, 4)
    assert discdiff("train", *args, "--steps", "4", "--name", "half") == 0
    assert discdiff("train", "--resume", tmp_path / "half", "--steps", "10") == 0


@pytest.mark.parametrize("name", LEARNED)
def test_what_trains_a_learned_process_is_its_bound(user_file, tmp_path, name):
    """The mean of the loss is that of the bound, the KL of the prior included."""
    torch.manual_seed(0)
    process, data = process_from_file(f"{user_file}:{name}"), read(small(tmp_path))
    model = Model(process, Description.of(data), Settings(width=16, blocks=1)).eval()
    values = data.values.repeat(10, 1, 1)
    with torch.no_grad():
        end = prior_kl(process, model.encoding.encode(values)).mean() / model.unit
        draws = [(model.loss(values).mean(), model.bits(values).mean()) for _ in range(40)]
    loss, bits = torch.tensor(draws, dtype=torch.float64).T
    error = (loss - bits).std() / len(draws) ** 0.5
    assert abs(float(loss.mean() - bits.mean())) < 5 * float(error)
    assert float(end) > 8 * float(error)
    model.loss(values).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert any(p.grad is not None and bool(p.grad.any()) for p in process.parameters())


def test_what_a_process_learned_does_not_decay(user_file, description):
    process = process_from_file(f"{user_file}:learned_noise")
    settings = Settings(width=16, blocks=1)
    trainee = Trainee(Model(process, description, settings), settings)
    net, own = trainee.configure_optimizers()["optimizer"].param_groups
    assert net["weight_decay"] == settings.weight_decay and own["weight_decay"] == 0
    assert {id(p) for p in own["params"]} == {id(p) for p in process.parameters()}
    assert not {id(p) for p in net["params"]} & {id(p) for p in own["params"]}


@pytest.mark.parametrize("name", ["mixture", "in_a_table"])
def test_mixtures_are_refused(user_file, tmp_path, capsys, name):
    (tmp_path / "t.csv").write_text("\n".join(["a", *(str(i % 5) for i in range(60))]))
    args = [*TINY, "--process", f"{user_file}:{name}", "--data", tmp_path / "t.csv"]
    assert discdiff("train", *args, "--runs", tmp_path) == 2
    assert "a label that says which process runs" in capsys.readouterr().err


def test_a_process_too_slow_for_its_clock_is_refused(user_file, tmp_path, capsys):
    args = [*TINY, "--process", f"{user_file}:slow", "--data", small(tmp_path)]
    assert discdiff("train", *args, "--runs", tmp_path) == 2
    assert "too slow for its clock" in capsys.readouterr().err


def test_a_users_table_trains(user_file, tmp_path):
    rows = [f"{0.37 * i % 2 - 1},{i % 3},{i % 5}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["income,job,visits", *rows]))
    source = f"{user_file}:table"
    args = [*TINY, "--steps", "4", "--runs", tmp_path, "--process", source, "--name", "table"]
    assert discdiff("train", *args, "--data", tmp_path / "t.csv") == 0
    items = load(tmp_path / "table").sample(20, steps=4)
    assert items.shape == (20, 3)
    assert set(items[:, 1].tolist()) <= {0, 1, 2}
    assert torch.equal(items[:, 2], items[:, 2].round())


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "declares nothing"), ("number", "no process but a int"), ("untimed", "no clock")],
)
def test_bad_names_in_a_users_file_are_refused(user_file, description, name, message):
    with pytest.raises(ValueError, match=message):
        process_named(f"{user_file}:{name}", description)


def test_a_users_file_that_raises_is_refused(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        process_from_file(f"{tmp_path / 'bad.py'}:x")


def test_data_that_do_not_fit_are_refused(user_file, description):
    with pytest.raises(ValueError, match="as categories: .*16"):
        encoding_for(process_named(f"{user_file}:broken", description), description)


def test_example_states_are_accepted(user_file):
    for name in ("poisson", "made", "table", "untimed", "mixture", "in_a_table"):
        process = process_from_file(f"{user_file}:{name}")
        process.check_state(states_for(process), "x")


def image_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_figures_show_what_they_are_given(tmp_path, description):
    values = digits().values[:20]
    draw_samples(tmp_path / "a.png", description, {"generated": values, "real": values}, "title")
    draw_samples(tmp_path / "b.png", description, {"generated": 0 * values, "real": values})
    one, two = image_of(tmp_path / "a.png"), image_of(tmp_path / "b.png")
    assert one.shape == two.shape
    assert (one < 60).any(-1).sum() > (two < 60).any(-1).sum() > 1000
    rows = np.array([[10, 3.0, 3.1], [20, 2.0, 2.2], [30, 1.8, 2.1]])
    draw_curve(tmp_path / "c.png", rows, {"held-out": Bound(2.0, 0.05)}, "title")
    assert len(np.unique(image_of(tmp_path / "c.png").reshape(-1, 3), axis=0)) > 20


def test_files_are_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_settings_are_checked():
    for wrong in ({"steps": 0}, {"dropout": 1.0}, {"lr": -1.0}, {"seed": -1}, {"ema": 1.5}):
        with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
            Settings(**wrong)


@pytest.mark.parametrize("name", ["ddpm", "laplace"])
def test_steps_of_a_chain_are_drawn_without_bias(description, name):
    """One drawn step over its share has the mean of all steps; the first is never left out."""
    torch.manual_seed(0)
    steps = 20
    betas = dd.linear_betas(steps) if name == "ddpm" else dd.log_snr_betas(steps)
    if name == "ddpm":
        chain = zoo.ddpm_chain(betas)
    else:
        chain = dd.Walk(torch.distributions.Laplace(0.0, 1.0), betas)
    model = Model(chain, description, Settings(width=16, blocks=1)).eval()
    shares = model._shares()
    assert shares.shape == (steps - 1,) and float(shares.min()) > 0
    assert float(shares.sum()) == pytest.approx(1.0)
    x_0 = model.encoding.encode(digits().values[:2])
    with torch.no_grad():
        many = x_0.repeat(1500, *[1] * (x_0.dim() - 1))
        drawn = model._chain_path(many, None).reshape(-1, 2)
        k = torch.arange(1, steps + 1).repeat_interleave(300)
        each = [
            dd.loss(chain, model.head, x.expand(len(k), *x.shape), k, stepper=model.stepper)
            for x in x_0
        ]
    whole = torch.stack([v.reshape(steps, 300).mean(1).sum() for v in each])
    noise = torch.stack([(v.reshape(steps, 300).var(1) / 300).sum() for v in each])
    error = (drawn.var(0) / len(drawn) + noise).sqrt()
    assert bool(((drawn.mean(0) - whole).abs() < 5 * error).all()), (drawn.mean(0), whole, error)
    within = 0.05 if name == "ddpm" else 0.25
    assert bool((error < within * whole.abs()).all()), (whole, error)


@pytest.mark.parametrize("name", ["ddpm", "laplace"])
def test_all_steps_of_a_chain_have_the_mean_of_drawn_ones(description, name):
    """The bound step by step is that of drawn steps, and varies less; half of it would be seen."""
    torch.manual_seed(0)
    betas = dd.linear_betas(20) if name == "ddpm" else dd.log_snr_betas(20)
    laplace = torch.distributions.Laplace(0.0, 1.0)
    chain = zoo.ddpm_chain(betas) if name == "ddpm" else dd.Walk(laplace, betas)
    model = Model(chain, description, Settings(width=16, blocks=1)).eval()
    values = digits().values[:1].repeat(2000, 1, 1)
    with torch.no_grad():
        drawn, whole = model.bits(values), model.bits_of_steps(values)
    error = ((drawn.var() + whole.var()) / len(values)).sqrt()
    assert float((drawn.mean() - whole.mean()).abs()) < 5 * float(error)
    assert 6 * float(error) < 0.5 * float(whole.mean())
    assert float(whole.std()) < 0.7 * float(drawn.std())


def test_shares_follow_what_the_terms_vary_by(description):
    """Draws of log-ratios vary by the root of their mean: their steps are drawn more evenly."""
    laplace = torch.distributions.Laplace(0.0, 1.0)
    model = Model(dd.Walk(laplace, dd.log_snr_betas(200)), description, Settings(width=16)).eval()
    normal = Model(zoo.ddpm_chain(dd.linear_betas(200)), description, Settings(width=16))
    assert model._draws_states() and not normal._draws_states()
    values = digits().values[:4].repeat(200, 1, 1)
    spread = []
    for told in (True, False):
        torch.manual_seed(0)
        model._drawn, model._draws_states = None, lambda told=told: told
        with torch.no_grad():
            spread.append(float(model.bits(values).reshape(200, 4).std(0).mean()))
    assert spread[0] < 0.8 * spread[1], spread


def test_a_chain_is_scored_by_all_of_its_steps(description):
    laplace = torch.distributions.Laplace(0.0, 1.0)
    model = Model(dd.Walk(laplace, dd.log_snr_betas(20)), description, Settings(width=16)).eval()
    values = digits().values[:3]
    once = score(model, values, draws=2, seed=1)
    assert once.shape == (3,) and torch.equal(score(model, values, draws=2, seed=1), once)
    assert not torch.equal(score(model, values, draws=2, seed=2), once)
    assert not torch.equal(score(model, values, draws=1, seed=1), once)  # too long for one draw


@pytest.mark.parametrize("name", ["ddpm", "gamma"])
def test_chains_train_from_the_command_line(name, tmp_path):
    runs = ["--data", small(tmp_path), "--runs", tmp_path, "--name", name]
    assert discdiff("train", "--process", name, *TINY, *runs) == 0
    with (tmp_path / name / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows and all(math.isfinite(float(row["validation"])) for row in rows)
