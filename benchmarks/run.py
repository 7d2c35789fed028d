r"""Times every row of every case against a floor written by hand in plain torch.

In each round all rows of a case run once, in random order, so that whatever else the machine does
falls on all of them alike. On the CPU the time is that of the process, in one thread; on a GPU it
is the wall clock, synchronised. A row shorter than ``SHORTEST`` is repeated within its turn.
Reported are the median over rounds, its ratio to the floor's and the quartiles.

The system may take back memory that is freed after every call; then a part of what is timed, of
floors and of rows, is how it hands out empty pages. With ``--keep-memory`` freed memory stays with
the process, as on a GPU, and large temporaries cost less.

Rows of libraries that are not installed are skipped. The extra ``bench`` leaves out azula and
torchcfm, which need torchvision: its wheels on the default index are built for CUDA and break
``import lightning`` beside a torch for the CPU. There, install torchvision from the index of
torch's CPU wheels first.

Usage::

    python benchmarks/run.py [group ...] [--rounds N] [--seed N] [--device cpu|cuda] [--csv PATH]
        [--keep-memory]
"""

import argparse
import csv
import ctypes
import importlib
import inspect
import math
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from groups import (
    Case,
    Row,
    Work,
    blackout,
    dense,
    kernels,
    leaping,
    linear,
    masked,
    structures,
    uniform,
    vp,
    walks,
)

GROUPS = {
    "vp": vp,
    "masked": masked,
    "uniform": uniform,
    "dense": dense,
    "blackout": blackout,
    "kernels": kernels,
    "linear": linear,
    "leaping": leaping,
    "structures": structures,
    "walks": walks,
}
RESULTS = Path(__file__).parent / "results"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
SHORTEST = 0.02
WARM_UP = 3


class Timing(NamedTuple):
    """One line of the table, in milliseconds."""

    group: str
    case: str
    row: str
    median: float
    ratio: float
    quartile_1: float
    quartile_3: float


def machine(device: torch.device) -> str:
    """Processor, threads and versions; nothing that names the machine."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        processor = models[0].partition(":")[2].strip() if models else processor
    parts = [processor, f"{torch.get_num_threads()} thread", f"torch {torch.__version__}"]
    if device.type == "cuda":
        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts + [f"Python {platform.python_version()}"])


def keep_memory() -> None:
    """Has glibc, where it is the allocator, return nothing to the system."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def stopwatch(device: torch.device) -> Callable[[], float]:
    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised if device.type == "cuda" else time.process_time


def seconds(work: Work, repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        work()
    return (clock() - start) / repeats


def load(row: Row) -> list | None:
    """The modules that a row needs, or None if one is not installed."""
    try:
        return [importlib.import_module(name) for name in row.needs]
    except ModuleNotFoundError as error:
        # Only the library itself may be missing: a broken installation is an error.
        if error.name not in {need.split(".")[0] for need in row.needs}:
            raise
        return None


def build(case: Case, device: torch.device) -> dict[str, Work]:
    data = case.data(device)
    works = {"floor": lambda: case.floor(data)}
    for row in case.rows:
        modules = load(row)
        if modules is None:
            print(f"{row.label}: not installed: pip install {row.install or row.needs[0]}")
        else:
            works[row.label] = row.build(data, *modules)
    return works


def measure(works: dict[str, Work], rounds: int, clock: Callable[[], float]) -> dict[str, list]:
    repeats = {}
    for label, work in works.items():
        for _ in range(WARM_UP):
            work()
        repeats[label] = math.ceil(SHORTEST / max(seconds(work, 1, clock), 1e-6))
    times = {label: [] for label in works}
    for _ in range(rounds):
        for label in random.sample(list(works), len(works)):
            times[label].append(1e3 * seconds(works[label], repeats[label], clock))
    return times


def timings(group: str, case: Case, times: dict[str, list]) -> Iterator[Timing]:
    floor = statistics.median(times["floor"])
    for label, values in times.items():
        first, median, third = statistics.quantiles(values, n=4, method="inclusive")
        yield Timing(group, case.name, label, median, median / floor, first, third)


def show(case: Case, rows: list[Timing]) -> None:
    width = max(len(row.row) for row in rows)
    print(f"{'':{width}}  median ms    ratio  quartiles ms")
    for row in rows:
        spread = f"{row.quartile_1:.3f} - {row.quartile_3:.3f}"
        print(f"{row.row:{width}}{row.median:11.3f}{row.ratio:9.2f}  {spread}")


def write(path: Path, header: list[str], rows: list[Timing]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in header)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Timing._fields)
        writer.writerows((*row[:3], *(f"{value:.4f}" for value in row[3:])) for row in rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times every row against a floor in plain torch.")
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(GROUPS)}; all")
    parser.add_argument("--rounds", type=int, default=21, help="at least two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-memory", action="store_true", help="on Linux with glibc")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--csv", type=Path, help="default: benchmarks/results/<groups>_<device>.csv"
    )
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {options.rounds}")
    return options


def main() -> None:
    options = arguments()
    names = options.groups or list(GROUPS)
    device = torch.device(options.device)
    torch.set_num_threads(1)
    if options.keep_memory:
        keep_memory()
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    command = f"python benchmarks/run.py {' '.join(names)} --rounds {options.rounds}"
    command += f" --seed {options.seed} --device {device.type}"
    command += " --keep-memory" if options.keep_memory else ""
    header = [command, f"seed {options.seed}", machine(device)]
    print(*header, sep="\n")
    table = []
    for name in names:
        for case in GROUPS[name].CASES:
            print(f"\n{name}: {case.name}\n\n{inspect.getsource(case.floor)}")
            times = measure(build(case, device), options.rounds, stopwatch(device))
            rows = list(timings(name, case, times))
            show(case, rows)
            table += rows
    stem = "all" if names == list(GROUPS) else "_".join(names)
    write(options.csv or RESULTS / f"{stem}_{device.type}.csv", header, table)


if __name__ == "__main__":
    main()
