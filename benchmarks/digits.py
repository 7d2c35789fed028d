"""Trains each family on the digits by its default command and collects the held-out bounds.

    python benchmarks/digits.py [--steps N ...]
    python benchmarks/digits.py --processes logistic ddpm laplace gamma

write ``benchmarks/results/digits.csv``, and ``digits_walks.csv`` if processes are named, with the
command, the seed and the processor of each run, once for each number of steps. Each row is written
when its run ends; a process that is run again by the same command takes the place of its row.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results"
COMMAND = "import sys; from discdiff.train.cli import main; main(sys.argv[1:])"
PROCESSES = ("blackout", "masked", "uniform", "vp")
LAST_LINE = re.compile(r"held-out: ([\d.]+) ± ([\d.]+) bits/dim$")


def train(process: str, options: list[str]) -> dict[str, str]:
    """One run: its last line, its processor time and its command."""
    arguments = ["train", "--process", process, *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.monotonic()
    command = [sys.executable, "-c", COMMAND, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    found = LAST_LINE.search(output.strip())
    if found is None:
        raise SystemExit(f"{' '.join(arguments)} did not end with a bound:\n{output[-500:]}")
    row = {"process": process, "bits_per_dim": found[1], "standard_error": found[2]}
    return {
        **row,
        "user_seconds": f"{spent:.0f}",
        "wall_seconds": f"{time.monotonic() - began:.0f}",
        "seed": "0",
        "command": " ".join(["discdiff", *arguments]),
        "machine": platform.machine() + ", 2 cores",
    }


def record(path: pathlib.Path, row: dict[str, str]) -> None:
    """Adds a row to a file; an older one of the same command goes."""
    rows = []
    if path.exists():
        with path.open(newline="") as file:
            rows = [old for old in csv.DictReader(file) if old["command"] != row["command"]]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, row, restval="")
        writer.writeheader()
        writer.writerows([*rows, row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, nargs="*", help="training steps; the command's own by default"
    )
    parser.add_argument(
        "--processes", nargs="+", help=f"names of processes; {', '.join(PROCESSES)} by default"
    )
    known = parser.parse_args()
    path = RESULTS / ("digits_walks.csv" if known.processes else "digits.csv")
    options = [["--steps", str(n)] for n in known.steps] if known.steps else [[]]
    for chosen in options:
        for process in known.processes or PROCESSES:
            record(path, train(process, chosen))


if __name__ == "__main__":
    main()
