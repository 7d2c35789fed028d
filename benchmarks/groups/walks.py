r"""Draws of :math:`x_t` given the data from walks of a thousand steps, at step 10 and at the last.

The floor is a normal draw of the same size; rows of torch draw from the same family themselves.
No walk runs through its steps: a draw costs the same at every index.
"""

from __future__ import annotations

import pyro.distributions as pyro
import torch
import torch.distributions as td
from torch import Tensor

from groups import Case, Work

SIZE = 1 << 18
LAPLACE, LOGISTIC, GAMMA = td.Laplace(0.0, 1.0), pyro.Logistic(0.0, 1.0), td.Gamma(3.0, 1.0)


def data(device: torch.device) -> Tensor:
    return torch.zeros(SIZE // 64, 64, device=device)


def floor(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * torch.randn_like(x)


draw = Case(f"x_t given x_0, {SIZE} numbers", data, floor)


def of_torch(label: str, law: td.Distribution) -> None:
    """A row of torch's own sampler."""

    def build(x: Tensor) -> Work:
        wide = law.expand(x.shape)
        return lambda: 0.5 * x + 0.5 * wide.sample()

    draw.row(label)(build)


def of_walk(label: str, kind: str, law: td.Distribution, k: int) -> None:
    """A row of a walk at an index; its table is made beforehand."""

    def build(x: Tensor, dd) -> Work:
        walk = getattr(dd, kind)(law, dd.linear_betas(1000, 1e-3, 0.02))
        walk.marginal(x[:1], k).sample()
        return lambda: walk.marginal(x, k).sample()

    draw.row(label, "discdiff", install="-e .")(build)


of_torch("torch, Laplace", LAPLACE)
of_torch("pyro, logistic", LOGISTIC)
of_torch("torch, gamma", GAMMA)
for index in (10, 1000):
    of_walk(f"MarginalWalk, Laplace, t = {index}: closed form", "MarginalWalk", LAPLACE, index)
    of_walk(f"MarginalWalk, logistic, t = {index}: closed form", "MarginalWalk", LOGISTIC, index)
    of_walk(f"LevyWalk, gamma, t = {index}: closed form", "LevyWalk", GAMMA, index)
    of_walk(f"Walk, Laplace, t = {index}: table", "Walk", LAPLACE, index)
    of_walk(f"ReverseWalk, Laplace, t = {index}: table", "ReverseWalk", LAPLACE, index)

CASES = [draw]
