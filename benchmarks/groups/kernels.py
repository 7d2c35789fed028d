r"""The kernels of a training step of a learned auxiliary-variable diffusion, at t and at the end.

The recipe of Singhal et al. (2023), for :math:`A = -(Q + D)` and :math:`G = 2 D` on a clock B:

.. math:: \binom{C}{H} = \exp\Big(B \begin{pmatrix} A & G \\ 0 & -A^\top \end{pmatrix}\Big)
          \binom{\Sigma_0}{I}, \qquad \Sigma = C H^{-1}, \quad H^{-1} = e^{B A^\top},

a mean :math:`e^{B A}`, a Cholesky factor and its inverse, for every time of the batch, and as
often for the last time. It assumes that the matrices of all times commute. All is float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from groups import Case, Work

BATCH, VARIANCE = 1024, 0.01


class Numbers(NamedTuple):
    Q: Tensor
    D: Tensor
    start: Tensor  # the initial covariance above the identity
    t: Tensor
    learned: bool


def numbers(size: int, learned: bool):
    def data(device: torch.device) -> Numbers:
        half = torch.randn(size, size, dtype=torch.float64, device=device)
        eye = torch.eye(size, dtype=torch.float64, device=device)
        D = torch.rand(size, dtype=torch.float64, device=device).diag() + 0.5 * eye
        t = 1e-3 + (1 - 1e-3) * torch.rand(BATCH, dtype=torch.float64, device=device)
        start = torch.cat([VARIANCE * eye, eye])
        start[0, 0] = 0.0
        Q, D = (v.requires_grad_(learned) for v in (half - half.mT, D))
        return Numbers(Q, D, start, t, learned)

    return data


def floor(data: Numbers) -> None:
    values = []
    for t in (data.t, torch.ones_like(data.t)):
        A, G = ((0.1 * t + 4.95 * t**2)[:, None, None] * v for v in (-data.Q - data.D, 2 * data.D))
        block = torch.cat([torch.cat([A, G], -1), torch.cat([0 * A, -A.mT], -1)], -2)
        C = (torch.matrix_exp(block) @ data.start)[:, : len(data.Q)]
        L = torch.linalg.cholesky(C @ torch.matrix_exp(A.mT))
        values += [torch.matrix_exp(A)[..., 0], L, torch.linalg.inv(L)]  # of the data x_0 = 1
    if data.learned:
        data.Q.grad = data.D.grad = None
        sum(v.sum() for v in values).backward()


def ours(data: Numbers, dd, pyro, factors) -> Work:
    eye = torch.eye(len(data.Q), dtype=torch.float64, device=data.t.device)
    process = dd.Langevin(data.Q.detach(), data.D.detach(), eye).on(dd.clock.Linear(0.1, 10.0))
    process = process.lift(pyro.Normal(0.0, VARIANCE**0.5)).to(data.t.device)
    if data.learned:
        recipe = dd.learn(process.process.process).recipe
        recipe.parametrizations.S.requires_grad_(False)  # as in the recipe, where it is I
    x_0 = torch.ones(BATCH, dtype=torch.float64, device=data.t.device)

    def work() -> None:
        values = []
        for t in (data.t, 1.0):
            law = process.marginal(x_0, t)
            values += [law.loc, law.factor, factors.lower_inverse(law.factor)]
        if data.learned:
            process.zero_grad()
            sum(v.sum() for v in values).backward()

    return work


CASES = []
for size in (2, 3):
    for learned in (True, False):
        what = "gradients to Q and D" if learned else "no gradients"
        case = Case(f"kernels of 1024 times, k = {size}, {what}", numbers(size, learned), floor)
        needs = "discdiff", "pyro.distributions", "discdiff.numerics.factors"
        case.row("discdiff, marginal", *needs, install="-e .")(ours)
        CASES.append(case)
