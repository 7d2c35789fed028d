r"""Leaps of a uniform chain: 100 steps of a reverse run at frozen rates.

At a site in state x with posterior :math:`\mu`, :math:`\alpha` the share of sites that are
untouched and :math:`\rho = (1 - \alpha) / (1 + (K - 1) \alpha)`, the reverse rates are

.. math:: \hat r(y) = \frac{1 - \mu(x) (1 - \rho)}{K} + \mu(y)\, \frac{\alpha}{1 - \alpha},
    \quad y \ne x,

and a site that would jump more than once stays. The row named after tauLDR is re-implemented here
from its published sampler: transition matrices from an eigenbasis at each step, gathers of shape
(B, D, K), a Poisson number per target.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from groups import Case, Work
from groups.masked import Table

SHAPE, K, STEPS, RATE = (8, 128), 64, 100, 6.0


class Data(NamedTuple):
    net: Table


def data(device: torch.device) -> Data:
    return Data(Table(*SHAPE, K).to(device).requires_grad_(False))


def floor(data: Data) -> Tensor:
    x = torch.randint(K, SHAPE, device=data.net.logits.device)
    for k in range(STEPS, 0, -1):
        mu, a = data.net(x, k / STEPS).softmax(-1), math.exp(-RATE * k / STEPS)
        h = 1 - mu.gather(-1, x[..., None]) * (1 - (1 - a) / (1 + (K - 1) * a))
        rates = (h / K + mu * (a / (1 - a))).scatter_(-1, x[..., None], 0.0)
        mean = rates.sum(-1) * RATE / STEPS
        jumps = torch.rand(SHAPE, device=x.device) < mean * (-mean).exp()
        cdf = rates[jumps].double().cumsum(-1)
        draw = torch.rand(len(cdf), 1, device=x.device, dtype=torch.float64) * cdf[:, -1:]
        x[jumps] = torch.searchsorted(cdf, draw)[:, 0]
    return x


leaps = Case(f"{STEPS} leaps, 8 x 128 sites, uniform chain, K = {K}", data, floor)


def run(data: Data, dd, process) -> Work:
    head, stepper = dd.heads.Posterior(data.net), dd.steppers.TauLeaping()
    process = process.on(dd.clock.Constant(RATE)).to(data.net.logits.device)
    return lambda: dd.sample(process, head, SHAPE, steps=STEPS, stepper=stepper)


@leaps.row("discdiff, Replace, steppers.TauLeaping", "discdiff", install="-e .")
def replaced(data: Data, dd) -> Work:
    return run(data, dd, dd.Replace(torch.full((K,), 1 / K, dtype=torch.float64)))


@leaps.row("discdiff, RateMatrix, steppers.TauLeaping", "discdiff", install="-e .")
def dense(data: Data, dd) -> Work:
    Q = torch.full((K, K), 1 / K, dtype=torch.float64) - torch.eye(K, dtype=torch.float64)
    return run(data, dd, dd.RateMatrix(Q))


@leaps.row("tauLDR, re-implemented")
def gathered(data: Data) -> Work:
    device = data.net.logits.device
    (N, D), S = SHAPE, K
    R = torch.full((S, S), RATE / S, device=device) - RATE * torch.eye(S, device=device)
    values, vectors = torch.linalg.eigh(R)
    batch = torch.arange(N, device=device)
    every = batch.repeat_interleave(D * S), torch.arange(S, device=device).repeat(N * D)
    own = batch.repeat_interleave(D), torch.arange(D, device=device).repeat(N)

    def transition(t: Tensor) -> Tensor:
        P = vectors @ torch.diag_embed((t[:, None] * values).exp()) @ vectors.T
        return torch.where(P < 1e-8, torch.zeros_like(P), P)

    def step(x: Tensor, t: float, h: float) -> Tensor:
        time = torch.full((N,), t, device=device)
        P, rate = transition(time), R.expand(N, S, S)
        here = x.flatten().repeat_interleave(S)
        mu = data.net(x, time).softmax(-1)
        denominator = P[(*every, here)].view(N, D, S) + 1e-9
        rates = rate[(*every, here)].view(N, D, S) * ((mu / denominator) @ P)
        rates[(*own, x.flatten())] = 0.0
        change = torch.arange(S, device=device).view(1, 1, S) - x.view(N, D, 1)
        number = torch.distributions.Poisson(rates * h).sample()
        number = number * (number.sum(-1, keepdim=True) <= 1)
        return (x + (number * change).sum(-1)).clamp(0, S - 1).long()

    def work() -> Tensor:
        x = torch.randint(S, SHAPE, device=device)
        for k in range(STEPS, 0, -1):
            x = step(x, k / STEPS, 1 / STEPS)
        return x

    return work


CASES = (leaps,)
