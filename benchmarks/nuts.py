r"""The six rates of a three-state chain from one observed path, by NUTS.

A chain with rates :math:`Q_{xy}` is seen at 401 irregular times, with gaps :math:`\tau_k` between
them. Each gap is a site of a Pyro model, exact whatever its length:

.. math::
    \log Q_{xy} \sim \mathcal{N}(0, 1), \qquad
    x_{k + 1} \mid x_k \sim \big(e^{\tau_k Q}\big)_{x_k, \cdot}.

Two chains run one after the other in one thread. The run succeeds if the truth lies in every
central 99 % interval and every split R̂ is at most 1.02. A correct sampler fails the first for
about one seed in seventeen, as six intervals of 99 % each are asked for.

Usage: ``python benchmarks/nuts.py [--seed N] [--warmup N] [--samples N] [--out PATH]`` prints the
table and writes it to ``benchmarks/results/nuts.csv``.
"""

import argparse
import csv
import shlex
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from run import machine
from torch import Tensor
from torch.distributions import transform_to

import discdiff as dd
from discdiff.params import rate_matrix

TRUTH = torch.tensor([1.0, 0.2, 0.3, 0.5, 0.6, 0.1], dtype=torch.float64)
NAMES = ("Q01", "Q02", "Q10", "Q12", "Q20", "Q21")
GAPS = 400
CHAINS = 2
LEVEL = 0.99
LARGEST_R_HAT = 1.02
RESULTS = Path(__file__).parent / "results" / "nuts.csv"


class Line(NamedTuple):
    """What is learned of one rate."""

    rate: str
    truth: float
    mean: float
    sd: float
    low: float
    high: float
    inside: bool
    r_hat: float
    effective: float


def chain(rates: Tensor) -> dd.Process:
    """The chain with these rates, row by row."""
    return dd.RateMatrix(transform_to(rate_matrix)(rates.log()))


def observe(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """States before and after each gap of one path, and the gaps: exponential with mean 1."""
    torch.manual_seed(seed)
    gaps = -torch.rand(GAPS, dtype=torch.float64).log()
    times = torch.cat([torch.zeros(1), gaps.cumsum(0)])
    path = dd.simulate(chain(TRUTH), torch.zeros(1, dtype=torch.int64), times)[:, 0]
    return path[:-1], path[1:], gaps


def model(before: Tensor, after: Tensor, gaps: Tensor) -> None:
    rates = pyro.sample("rates", dist.LogNormal(0.0, 1.0).expand([6]).to_event(1))
    with pyro.plate("gaps", len(gaps)):
        pyro.sample("x", chain(rates).transition(before, 0.0, gaps), obs=after)


def draw(data: tuple[Tensor, Tensor, Tensor], seed: int, warmup: int, samples: int) -> Tensor:
    """The draws of one chain after another, shape (CHAINS, samples, 6)."""
    chains = []
    for k in range(CHAINS):
        pyro.set_rng_seed(1000 * seed + k)
        mcmc = MCMC(NUTS(model), samples, warmup, disable_progbar=True)
        mcmc.run(*data)
        chains.append(mcmc.get_samples()["rates"])
    return torch.stack(chains)


def summarise(draws: Tensor) -> list[Line]:
    flat = draws.flatten(0, 1)
    tail = (1 - LEVEL) / 2
    low, high = flat.quantile(torch.tensor([tail, 1 - tail]), 0)
    columns = (TRUTH, flat.mean(0), flat.std(0), low, high)
    r_hat, effective = split_gelman_rubin(draws), effective_sample_size(draws)
    return [
        Line(
            name,
            *(float(column[i]) for column in columns),
            bool(low[i] <= TRUTH[i] <= high[i]),
            float(r_hat[i]),
            float(effective[i]),
        )
        for i, name in enumerate(NAMES)
    ]


def write(lines: list[Line], out: Path, notes: list[str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        file.writelines(f"# {note}\n" for note in notes)
        writer = csv.writer(file)
        writer.writerow(Line._fields)
        for line in lines:
            writer.writerow([f"{v:.4f}" if isinstance(v, float) else v for v in line])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    start, wall = time.process_time(), time.perf_counter()
    draws = draw(observe(options.seed), options.seed, options.warmup, options.samples)
    spent = time.process_time() - start, time.perf_counter() - wall
    lines = summarise(draws)
    notes = [
        f"python benchmarks/nuts.py {shlex.join(sys.argv[1:])}".strip(),
        f"seed {options.seed}, {CHAINS} chains, {options.warmup} + {options.samples} draws each",
        machine(torch.device("cpu")),
        f"{spent[0]:.0f} s of processor time, {spent[1]:.0f} s in all",
    ]
    print(*notes, sep="\n")
    for line in lines:
        print(
            f"{line.rate}  truth {line.truth:.3f}  mean {line.mean:.3f} ± {line.sd:.3f}  "
            f"[{line.low:.3f}, {line.high:.3f}]  R̂ {line.r_hat:.4f}  n_eff {line.effective:.0f}"
        )
    write(lines, options.out, notes)
    held = all(line.inside and line.r_hat <= LARGEST_R_HAT for line in lines)
    print("every truth inside, every R̂ ≤ 1.02" if held else "a truth or an R̂ is outside")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
