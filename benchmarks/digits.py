"""Trains each family on the digits by its default command and collects the held-out bounds.

    python benchmarks/digits.py [--steps N ...]

writes ``benchmarks/results/digits.csv`` with the command, the seed and the processor of each run,
once for each number of steps.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import platform
import re
import resource
import subprocess

RESULTS = pathlib.Path(__file__).parent / "results" / "digits.csv"
PROCESSES = ("blackout", "masked", "uniform", "vp")
LAST_LINE = re.compile(r"held-out: ([\d.]+) ± ([\d.]+) bits/dim$")


def train(process: str, options: list[str]) -> dict[str, str]:
    """One run: its last line, its processor time and its command."""
    command = ["discdiff", "train", "--process", process, *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    found = LAST_LINE.search(output.strip())
    if found is None:
        raise SystemExit(f"{' '.join(command)} did not end with a bound:\n{output[-500:]}")
    row = {"process": process, "bits_per_dim": found[1], "standard_error": found[2]}
    return {
        **row,
        "user_seconds": f"{spent:.0f}",
        "seed": "0",
        "command": " ".join(command),
        "machine": platform.machine() + ", 2 cores",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, nargs="*", help="training steps; the command's own by default"
    )
    steps = parser.parse_args().steps
    options = [["--steps", str(n)] for n in steps] if steps else [[]]
    rows = []
    for chosen in options:
        for process in PROCESSES:
            rows.append(train(process, chosen))
            with RESULTS.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
