r"""Uniform replacement: the path-KL and its gradient on logits of 16 × 256 tokens, K = 1024.

With :math:`\alpha` the share of tokens that were not touched and p the leave-one-out law,
:math:`\hat c = \alpha p + (1 - \alpha)/K` and c the same of the data, the floors compute

.. math::
    \frac{1}{K \alpha} \Big[ \frac{\mathrm{KL}(c \| \hat c) - \log(c_x / \hat c_x) - 1}{c_x}
    + \frac{1}{\hat c_x} \Big],

and the same divergence for a posterior. Rows named after SEDD are re-implemented here from the
published code's formula, constants included: once with logits that are log-scores, the entry of
the state itself set to 0 as that code does; once with the logits of the floor, read as p, so that
all rows train the same model.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from groups import Case, Work
from groups.masked import Table

WORDS = 1024


class Sentences(NamedTuple):
    x_0: Tensor
    net: Table


def sentences(device: torch.device) -> Sentences:
    x_0 = torch.randint(WORDS, (16, 256), device=device)
    return Sentences(x_0, Table(16, 256, WORDS).to(device))


def noisy(x_0: Tensor) -> tuple[Tensor, Tensor]:
    """Survival, (B, 1), and scrambled tokens."""
    kept = torch.rand(len(x_0), 1, device=x_0.device)
    other = torch.randint(WORDS, x_0.shape, device=x_0.device)
    return kept, torch.where(torch.rand(x_0.shape, device=x_0.device) < kept, x_0, other)


def others_floor(data: Sentences) -> None:
    data.net.logits.grad = None
    a, x = noisy(data.x_0)
    low, high = (1 - a) / WORDS, a + (1 - a) / WORDS
    log_c = (a[..., None] * data.net.logits.softmax(-1) + low[..., None]).log()
    log_x, log_0 = (log_c.gather(-1, i[..., None])[..., 0] for i in (x, data.x_0))
    top = torch.where(x == data.x_0, high, low)
    entropy = high * high.log() + (WORDS - 1) * low * low.log()
    kl = entropy - a * log_0 - low * log_c.sum(-1)
    nats = (kl - top.log() + log_x - 1) / top + (-log_x).exp()
    (nats / WORDS / a).sum().backward()


def all_floor(data: Sentences) -> None:
    data.net.logits.grad = None
    a, x = noisy(data.x_0)
    odds, same = WORDS * a / (1 - a), x == data.x_0
    mu = data.net.logits.softmax(-1)
    mu_x = mu.gather(-1, x[..., None])[..., 0]
    h = 1 - mu_x * odds / (1 + odds)
    log_w = (h[..., None] + odds[..., None] * mu).log()
    log_x, log_0 = (log_w.gather(-1, i[..., None])[..., 0] for i in (x, data.x_0))
    s, o = torch.where(same, 1 / (1 + odds), 1.0), torch.where(same, 0.0, odds)
    nats = (WORDS - 1) * h + odds * (1 - mu_x) - s * (log_w.sum(-1) - log_x) - o * log_0
    nats = nats + (WORDS - 1) * s * (s.log() - 1) + (1 + o) * torch.log1p(o) - o
    (nats / WORDS / a).sum().backward()


others = Case("leave-one-out loss + backward, 16 x 256 x 1024", sentences, others_floor)
posterior = Case("posterior loss + backward, 16 x 256 x 1024", sentences, all_floor)


@others.row("discdiff, heads.LeaveOneOut", "discdiff", install="-e .")
def others_loss(data: Sentences, dd) -> Work:
    return path_kl(data, dd, dd.heads.LeaveOneOut(data.net))


@posterior.row("discdiff, heads.Posterior", "discdiff", install="-e .")
def posterior_loss(data: Sentences, dd) -> Work:
    return path_kl(data, dd, dd.heads.Posterior(data.net))


def path_kl(data: Sentences, dd, head) -> Work:
    law = torch.full((WORDS,), 1 / WORDS, dtype=torch.float64)
    process = dd.Replace(law).on(dd.clock.LogLinear()).to(data.x_0.device)

    def work() -> None:
        data.net.logits.grad = None
        t = torch.rand(len(data.x_0), device=data.x_0.device)
        dd.loss(process, head, data.x_0, t).sum().backward()

    return work


def score_entropy(log_score: Tensor, a: Tensor, x: Tensor, x_0: Tensor) -> Tensor:
    """As published, with survival a = e^-σ."""

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(-1, index[..., None])[..., 0]

    growth = (1 - a) / a
    ratio = 1 - WORDS / (growth + WORDS)
    negative = log_score.mean(-1) - at(log_score, x) / WORDS
    moved = at(log_score, x_0) / growth + negative
    negative = torch.where(x == x_0, ratio * negative, moved)
    stays = (WORDS - 1) / WORDS * ratio * (ratio.log() - 1)
    constant = ((-ratio.log() - 1) / ratio - (WORDS - 2)) / WORDS
    score = log_score.exp()
    positive = score.mean(-1) - at(score, x) / WORDS
    return (positive - negative + torch.where(x == x_0, stays, constant)) / a


@others.row("SEDD score entropy, re-implemented, same model")
def entropy_of_model(data: Sentences) -> Work:
    def work() -> None:
        data.net.logits.grad = None
        a, x = noisy(data.x_0)
        p = data.net.logits.softmax(-1)
        log_c = (a[..., None] * p + (1 - a[..., None]) / WORDS).log()
        log_score = log_c - log_c.gather(-1, x[..., None])
        score_entropy(log_score, a, x, data.x_0).sum().backward()

    return work


@others.row("SEDD score entropy, re-implemented, logits are log-scores")
def entropy_of_scores(data: Sentences) -> Work:
    def work() -> None:
        data.net.logits.grad = None
        a, x = noisy(data.x_0)
        log_score = data.net.logits.scatter(-1, x[..., None], 0.0)
        score_entropy(log_score, a, x, data.x_0).sum().backward()

    return work


CASES = (others, posterior)
