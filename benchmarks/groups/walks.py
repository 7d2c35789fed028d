r"""Draws of :math:`x_t` given the data from walks of a thousand steps, at step 10 and at the last.

Where the law of :math:`x_t` has a closed form, the floor is torch's own sampler of that family, at
the same size and with a location and a scale for each row; for tables it is a normal draw. No walk
runs through its steps: a draw costs the same at every index, but for gamma variables, of which
torch draws small shapes more slowly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro.distributions as pyro
import torch
import torch.distributions as td
from torch import Tensor

from groups import Case, Work

SHAPE = (256, 3, 32, 32)
LAPLACE, LOGISTIC, GAMMA = td.Laplace(0.0, 1.0), pyro.Logistic(0.0, 1.0), td.Gamma(3.0, 1.0)
KEPT = (1 - torch.linspace(1e-3, 0.02, 1000, dtype=torch.float64)).cumprod(0)

State = tuple[Tensor, Tensor, Tensor, Tensor]


def data(index: int) -> Callable[[torch.device], State]:
    """Data, and for each row what is kept of them, the scale of the noise and the Lévy time."""

    def make(device: torch.device) -> State:
        x = torch.zeros(SHAPE, device=device)
        kept = KEPT[index - 1].to(device)
        rows = kept.sqrt(), (1 - kept).sqrt(), 1 / kept - 1
        a, s, tau = (v.float().expand(len(x), 1, 1, 1).contiguous() for v in rows)
        return x, a, s, tau

    return make


def normal(state: State) -> Tensor:
    x, a, s, _ = state
    return a * x + s * torch.randn_like(x)


def laplace(state: State) -> Tensor:
    x, a, s, _ = state
    return td.Laplace(a * x, s / math.sqrt(2), validate_args=False).sample()


def logistic(state: State) -> Tensor:
    x, a, s, _ = state
    return pyro.Logistic(a * x, s * math.sqrt(3) / math.pi, validate_args=False).sample()


def gamma(state: State) -> Tensor:
    x, a, s, tau = state
    law = td.Gamma((3 * tau).expand_as(x), math.sqrt(3) / a, validate_args=False)
    return a * x + law.sample() - math.sqrt(3) * tau * a


def variance_gamma(state: State) -> Tensor:
    x, a, s, tau = state
    law = td.Gamma(tau.expand_as(x), torch.ones_like(tau), validate_args=False)
    return a * x + a * law.sample().sqrt() * torch.randn_like(x)


def case(name: str, floor: Callable[[State], Tensor], index: int, *walks: tuple) -> Case:
    """A floor and the walks that are held against it; tables are made beforehand."""
    size = " x ".join(map(str, SHAPE))
    made = Case(f"x_t given x_0 at t = {index}, {size}: {name}", data(index), floor)

    def row(kind: str, law: td.Distribution, label: str) -> None:
        def build(state: State, dd) -> Work:
            x = state[0]
            walk = getattr(dd, kind)(law, dd.linear_betas(1000, 1e-3, 0.02))
            walk.marginal(x[:1], index).sample()
            return lambda: walk.marginal(x, index).sample()

        made.row(f"{kind}, {label}", "discdiff", install="-e .")(build)

    for each in walks:
        row(*each)
    return made


def cases(index: int) -> list[Case]:
    """All families at an index."""
    at_once = ("MarginalWalk", LAPLACE, "Laplace")
    tables = [(kind, LAPLACE, "Laplace: table") for kind in ("Walk", "ReverseWalk")]
    return [
        case("normal", normal, index, ("Walk", td.Normal(0.0, 1.0), "normal")),
        case("Laplace", laplace, index, at_once),
        case("logistic", logistic, index, ("MarginalWalk", LOGISTIC, "logistic")),
        case("gamma", gamma, index, ("LevyWalk", GAMMA, "gamma")),
        case("variance-gamma", variance_gamma, index, ("LevyWalk", LAPLACE, "Laplace")),
        case("tables", normal, index, *tables),
    ]


CASES = cases(10) + cases(1000)
