"""The command line: ``discdiff train | sample | evaluate | check``.

`main` is its entry point. A user's mistake is one line on standard error and a non-zero exit
code; nothing is written before every option and every file has been read.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only

from ..certificate.check import check
from ..solve import Unsolved
from .callbacks import AtomicIO, callbacks
from .data import Categories, Dataset
from .declare import encoding_for, process_from_file, process_named, states_for
from .describe import Description
from .evaluate import held_out
from .figures import draw_curve, draw_samples, spell
from .files import read
from .model import Model
from .module import Trainee
from .run import (
    CONFIG,
    LAST,
    build,
    create,
    free_folder,
    last_checkpoint,
    load,
    read_log,
    read_settings,
)
from .settings import Settings
from .stream import Batches

FLAGS = {  # Lightning's own; a run sets the others itself
    "accelerator",
    "benchmark",
    "detect_anomaly",
    "deterministic",
    "devices",
    "enable_progress_bar",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "max_time",
    "num_nodes",
    "precision",
    "profiler",
    "strategy",
    "sync_batchnorm",
}
PLACES = ("config", "name", "runs", "resume")  # options that say where, not what
FREE = {"steps", "patience", "draws", "reverse_steps"}  # options that a resumed run may change
SHOWN = 64


def main(args: list[str] | None = None) -> None:
    """Runs a command; exits with 0, 1 (a failed check) or 2 (a mistake)."""
    args = sys.argv[1:] if args is None else args
    name = args[0] if args else ""
    try:
        parser, train_parser = build_parser()
        options = parser.parse_args(args)
        name = options.subcommand
        if name == "train":
            status = train(*_resumed(options.train, train_parser, args[1:]), train_parser)
        else:
            commands = {"sample": sample, "evaluate": evaluate, "check": examine}
            status = commands[name](options[name])
    except (ValueError, OSError, Unsolved, MisconfigurationException) as error:
        print(f"discdiff {name}: error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)


def build_parser() -> tuple[ArgumentParser, ArgumentParser]:
    """The parser, and that of ``train``."""
    parser = ArgumentParser(
        prog="discdiff",
        description="Trains, samples, scores and checks declared diffusion processes.",
    )
    commands = parser.add_subcommands()
    train_parser = _train_parser()
    commands.add_subcommand(
        "train", train_parser, help="fit a model; without options, blackout on digits"
    )
    commands.add_subcommand("sample", _sample_parser(), help="draw items from a trained run")
    commands.add_subcommand("evaluate", _evaluate_parser(), help="score a run's held-out items")
    commands.add_subcommand("check", _check_parser(), help="hold a process to its laws")
    return parser, train_parser


def train(settings: Settings, options: Namespace, parser: ArgumentParser) -> int:
    """Trains a model, or goes on training one, and shows what came of it."""
    data = read(settings.data, settings.length)
    if settings.labels and data.labels is None:
        raise ValueError(f"--labels true: {data.name} has no labels")
    description = Description.of(data)
    resume = None if options.resume is None else Path(options.resume)
    begun = None if resume is None else last_checkpoint(resume)
    if begun is not None and resume is not None:
        _require_same_data(begun["data"], description, resume)
    folder = resume or _new_folder(options, settings)
    model = build(settings, description, resume)
    model.validate(data.values)
    trainer = _trainer(options.trainer, folder, settings, _rounds(settings, begun))
    if resume is None and rank_zero_only.rank == 0:
        create(folder, _dump(options, settings, parser), settings)
    _announce(folder, data, model, settings)
    batches = Batches(data, settings.seed, settings.batch, settings.steps, settings.every)
    checkpoint = None if begun is None else str(folder / LAST)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with _quiet(), contextlib.redirect_stdout(sys.stderr):
        trainer.fit(Trainee(model, settings), batches, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        _show(folder, data, settings, trainer.strategy.root_device)
    return 0


def sample(options: Namespace) -> int:
    """Draws items from a run and saves them as an array and as a figure."""
    run = load(options.run)
    items = run.sample(options.number, options.label, options.steps, seed=options.seed)
    data = run.model.data
    base = run.folder / f"sample-{options.seed}" if options.out is None else Path(options.out)
    base.parent.mkdir(parents=True, exist_ok=True)
    np.save(base.with_suffix(".npy"), items.numpy())
    draw_samples(base.with_suffix(".png"), data, {"generated": items}, _title(run.settings))
    if isinstance(data.kind, Categories) and data.kind.vocabulary:
        print("\n".join(spell(items.numpy(), data.kind.vocabulary)))
    print(f"{base.with_suffix('.npy')}\n{base.with_suffix('.png')}")
    return 0


def evaluate(options: Namespace) -> int:
    """Scores the held-out items of a run."""
    run = load(options.run)
    settings = run.settings
    data = read(settings.data, settings.length)
    _require_same_data(run.model.data.state(), Description.of(data), run.folder)
    draws = settings.draws if options.draws is None else options.draws
    if draws < 1:
        raise ValueError(f"--draws must be at least 1; it is {draws}")
    for name, bound in held_out(run.model, data, draws, options.seed).items():
        print(f"{name}: {bound}")
    return 0


def examine(options: Namespace) -> int:
    """Holds a process to its laws; 1 if one fails."""
    if options.data is None:
        process = process_from_file(options.process)
        x = states_for(process)
    else:
        data = read(options.data)
        description = Description.of(data)
        process = process_named(options.process, description)
        x = encoding_for(process, description).encode(data.train[:8])
    report = check(process, x)
    print(report)
    return 0 if report else 1


def _parser(usage: str, description: str) -> ArgumentParser:
    return ArgumentParser(usage=f"discdiff {usage}", description=description)


def _train_parser() -> ArgumentParser:
    parser = _parser("train [options]", "Fits a model and shows what came of it.")
    parser.add_argument("--config", action="config", help="Options from a YAML file.")
    parser.add_class_arguments(Settings)
    where = parser.add_argument_group("Where the run is kept")
    where.add_argument("--name", type=str | None, help="Name of the run's folder.")
    where.add_argument("--runs", type=str, default="runs", help="The folder of all runs.")
    where.add_argument("--resume", type=str | None, help="Folder of a run to go on with.")
    others: set[str | int] = {p for p in inspect.signature(L.Trainer).parameters if p not in FLAGS}
    parser.add_class_arguments(L.Trainer, "trainer", instantiate=False, skip=others)
    parser.set_defaults({"trainer.gradient_clip_val": 1.0})
    return parser


def _sample_parser() -> ArgumentParser:
    parser = _parser("sample RUN [options]", "Draws items from a trained run.")
    parser.add_argument("run", type=str, help="The folder of the run.")
    parser.add_argument("--number", type=int, default=SHOWN, help="How many items.")
    parser.add_argument("--label", type=str | None, help="Their class.")
    parser.add_argument("--steps", type=int, default=200, help="Number of reverse steps.")
    parser.add_argument("--seed", type=int, default=0, help="The draws depend on it.")
    parser.add_argument("--out", type=str | None, help="Where to, without an ending.")
    return parser


def _evaluate_parser() -> ArgumentParser:
    parser = _parser("evaluate RUN [options]", "Scores the held-out items of a trained run.")
    parser.add_argument("run", type=str, help="The folder of the run.")
    parser.add_argument("--draws", type=int | None, help="Number of draws per item.")
    parser.add_argument("--seed", type=int, default=0, help="The draws depend on it.")
    return parser


def _check_parser() -> ArgumentParser:
    text = "Holds a process to its laws; exits with 1 if one fails."
    parser = _parser("check PATH:NAME [options]", text)
    parser.add_argument("process", type=str, help="PATH:NAME (with --data also blackout, …).")
    parser.add_argument("--data", type=str | None, help="Data whose first items are the states.")
    return parser


def _resumed(
    options: Namespace, parser: ArgumentParser, args: list[str]
) -> tuple[Settings, Namespace]:
    """The settings; those of a resumed run are its own, save what is free to change."""
    if options.resume is None:
        return _settings(options), options
    saved = read_settings(Path(options.resume))
    options = parser.parse_args(["--config", str(Path(options.resume) / CONFIG), *args])
    settings = _settings(options)
    for name, value in asdict(settings).items():
        if name not in FREE and value != getattr(saved, name):
            raise ValueError(
                f"--{name} {value}: the run {options.resume} was begun with {getattr(saved, name)}"
            )
    return settings, options


def _settings(options: Namespace) -> Settings:
    """The settings, the path of the data made absolute."""
    settings = Settings(**{f.name: options[f.name] for f in fields(Settings)})
    path = Path(settings.data)
    named = settings.data in ("digits", "binary-digits")
    return settings if named or not path.exists() else replace(settings, data=str(path.resolve()))


def _dump(options: Namespace, settings: Settings, parser: ArgumentParser) -> str:
    kept = options.clone()
    for place in PLACES:
        kept.pop(place, None)
    kept.update(Namespace(**asdict(settings)))
    return parser.dump(kept, skip_validation=True)


def _new_folder(options: Namespace, settings: Settings) -> Path:
    runs = Path(options.runs)
    return free_folder(runs, settings) if options.name is None else runs / options.name


def _require_same_data(state: dict[str, Any], data: Description, folder: Path) -> None:
    if state["digest"] != data.digest:
        raise ValueError(f"{data.name} has changed since the run {folder} was begun")


def _rounds(settings: Settings, begun: dict[str, Any] | None) -> int:
    """The number of rounds of a run, those included that a checkpoint has behind it."""
    done, step = 0, 0
    if begun is not None:
        done = begun["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        step = begun["global_step"]
    return done + max(0, -(-(settings.steps - step) // settings.every))


def _trainer(flags: Namespace, folder: Path, settings: Settings, rounds: int) -> L.Trainer:
    every = callbacks(folder, settings)
    if flags.enable_progress_bar is not False:
        every.append(TQDMProgressBar(refresh_rate=10))
    with _quiet():
        return L.Trainer(
            **flags.as_dict(),
            callbacks=every,
            plugins=[AtomicIO()],
            max_epochs=rounds,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            logger=False,
        )


def _announce(folder: Path, data: Dataset, model: Model, settings: Settings) -> None:
    if rank_zero_only.rank != 0:
        return
    split = data.split
    size = sum(p.numel() for p in model.head.parameters())
    print(
        f"{_title(settings)}: {len(split.train)} items to train on, {len(split.validate)} to "
        f"validate, {len(split.held_out)} held out\n"
        f"{type(model.head).__name__} head on {type(model.encoding).__name__[2:].lower()}, "
        f"{size / 1e6:.2f} million parameters\nrun: {folder}",
        flush=True,
    )


def _show(folder: Path, data: Dataset, settings: Settings, device: torch.device) -> None:
    """Samples, the curve and, last, the held-out bound of a finished run."""
    run = load(folder)
    run.model.to(device)
    bounds = held_out(run.model, data, settings.draws, settings.seed)
    real = data.take(data.split.held_out[:SHOWN])[0]
    generated = run.sample(len(real), steps=settings.reverse_steps, seed=settings.seed).cpu()
    title = _title(settings)
    panels = {"generated": generated, "real, held out": real}
    draw_samples(folder / "samples.png", run.model.data, panels, title)
    draw_curve(folder / "curve.png", read_log(folder), {"held-out": bounds["held-out"]}, title)
    print(f"samples: {folder / 'samples.png'}\ncurve: {folder / 'curve.png'}")
    for name, bound in bounds.items():
        print(f"{name}: {bound}", flush=True)


def _title(settings: Settings) -> str:
    return f"{settings.process.rpartition(':')[2]} on {Path(settings.data).stem}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's advice to itself; its warnings about this run are shown."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        warnings.filterwarnings("ignore", ".*across ranks is zero.*")
        yield
    logger.setLevel(level)


if __name__ == "__main__":
    main()
