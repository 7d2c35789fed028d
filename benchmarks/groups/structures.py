"""Structured vocabularies: perturbing a million tokens through a tree and through features.

The floor is the cheapest noise there is, replacement by uniform draws: what structure costs on top
of it is the ratio. Nothing of size K×K is made; a dense matrix would take 20 GB.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from groups import Case, Work

WORDS, RANK = 50_257, 64


class Tokens(NamedTuple):
    x_0: Tensor


def tokens(device: torch.device) -> Tokens:
    return Tokens(torch.randint(WORDS, (1000, 1000), device=device))


def floor(data: Tokens) -> Tensor:
    t = torch.rand(len(data.x_0), 1, device=data.x_0.device)
    other = torch.randint(WORDS, data.x_0.shape, device=t.device)
    return torch.where(torch.rand(data.x_0.shape, device=t.device) < t, other, data.x_0)


perturb = Case("perturb a million tokens, K = 50 257", tokens, floor)


def sampled(data: Tokens, chain, dd) -> Work:
    process = chain.on(dd.clock.LogLinear()).to(data.x_0.device)

    def work() -> Tensor:
        t = torch.rand(len(data.x_0), device=data.x_0.device)
        return process.marginal(data.x_0, t).sample()

    return work


@perturb.row("discdiff, Replace: rank one", "discdiff", install="-e .")
def rank_one(data: Tokens, dd) -> Work:
    return sampled(data, dd.Replace(torch.full((WORDS,), 1 / WORDS, dtype=torch.float64)), dd)


@perturb.row("discdiff, Clusters: a tree of three levels", "discdiff", install="-e .")
def tree(data: Tokens, dd) -> Work:
    middle = torch.randint(300, (WORDS,))
    fine = middle * 50 + torch.randint(50, (WORDS,))
    return sampled(data, dd.Clusters([torch.zeros(WORDS), middle, fine]), dd)


@perturb.row("discdiff, LowRank: 64 features", "discdiff", install="-e .")
def features(data: Tokens, dd) -> Work:
    U, W = torch.rand(2, WORDS, RANK, dtype=torch.float64)
    return sampled(data, dd.LowRank(U / U.sum(1, keepdim=True), W / W.sum(0)), dd)


CASES = (perturb,)
