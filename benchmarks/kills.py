"""Kills a training run five times at random moments, resumes it, and compares the logs.

    python benchmarks/kills.py [--steps N] [--seed S]

The run is that of ``discdiff train``. Its log must equal, byte for byte, that of a run that was
left alone. Writes ``benchmarks/results/kills.csv``.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import random
import signal
import subprocess
import tempfile
import time

RESULTS = pathlib.Path(__file__).parent / "results" / "kills.csv"
KILLS = 5


def last_step(log: pathlib.Path) -> str:
    """The last step in a log; 0 if there is none yet."""
    rows = log.read_text().splitlines()[1:] if log.exists() else []
    return rows[-1].split(",")[0] if rows else "0"


def killed_after(command: list[str], seconds: float) -> bool:
    """Whether a command was killed after some seconds; it may be done before."""
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
        run.wait()
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        train = ["discdiff", "train", "--steps", str(options.steps), "--runs", name]
        start = time.monotonic()
        subprocess.run([*train, "--name", "whole"], check=True, capture_output=True)
        length = time.monotonic() - start
        whole, killed = folder / "whole" / "log.csv", folder / "killed" / "log.csv"
        command, rows = [*train, "--name", "killed"], []
        for kill in range(1, KILLS + 1):
            seconds = chance.uniform(0.08, 0.2) * length
            stopped = killed_after(command, seconds)
            rows.append({"kill": kill, "seconds": f"{seconds:.1f}", "logged": last_step(killed)})
            command = ["discdiff", "train", "--resume", str(folder / "killed")]
            if not stopped:
                break
        subprocess.run(command, check=True, capture_output=True)
        equal = whole.read_bytes() == killed.read_bytes()
    for row in rows:
        row |= {"steps": options.steps, "seed": options.seed, "logs_equal": equal}
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(RESULTS.read_text())
    if not equal or len(rows) < KILLS:
        raise SystemExit("the logs differ" if not equal else "the run ended before five kills")


if __name__ == "__main__":
    main()
