r"""Tokens: perturbing by masks and by uniform draws, the masked loss, reverse masked steps.

With survival :math:`1 - t` the masked path likelihood is

.. math:: \frac{1}{t} \sum_{i : x_t^i = \mathrm{mask}} - \log \mu_\theta(x_0^i \mid x_t) \, .

flow_matching runs time from noise at 0 to data at 1. The row named after SEDD is re-implemented
here from the published formula, with logits read as :math:`\log \mu` up to a constant and scores
:math:`\mu / (e^\sigma - 1)`. In the floor of the loss nothing keeps the logit of the mask at
:math:`-\infty`; the network is trusted to do so.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from groups import Case, Work

WORDS = 50_000


class Tokens(NamedTuple):
    x_0: Tensor
    mask: int


def tokens(device: torch.device) -> Tokens:
    return Tokens(torch.randint(WORDS - 1, (1000, 1000), device=device), WORDS - 1)


def mask_floor(data: Tokens) -> Tensor:
    t = torch.rand(len(data.x_0), 1, device=data.x_0.device)
    return torch.where(torch.rand(data.x_0.shape, device=t.device) < t, data.mask, data.x_0)


def uniform_floor(data: Tokens) -> Tensor:
    t = torch.rand(len(data.x_0), 1, device=data.x_0.device)
    other = torch.randint(WORDS, data.x_0.shape, device=t.device)
    return torch.where(torch.rand(data.x_0.shape, device=t.device) < t, other, data.x_0)


masks = Case("mask a million tokens, K = 50 000", tokens, mask_floor)
uniform = Case("scramble a million tokens, K = 50 000", tokens, uniform_floor)


@masks.row("discdiff, marginal.sample", "discdiff", install="-e .")
def perturb_masked(data: Tokens, dd) -> Work:
    law = dd.one_hot(data.mask, WORDS)
    return perturb(data, dd.Replace(law).on(dd.clock.LogLinear()).to(data.x_0.device))


@uniform.row("discdiff, marginal.sample", "discdiff", install="-e .")
def perturb_uniform(data: Tokens, dd) -> Work:
    law = torch.full((WORDS,), 1 / WORDS, dtype=torch.float64)
    return perturb(data, dd.Replace(law).on(dd.clock.LogLinear()).to(data.x_0.device))


def perturb(data: Tokens, process) -> Work:
    def work() -> Tensor:
        t = torch.rand(len(data.x_0), device=data.x_0.device)
        return process.marginal(data.x_0, t).sample()

    return work


def mixture_path(path, scheduler):
    return path.MixtureDiscreteProbPath(scheduler.PolynomialConvexScheduler(n=1.0))


PATH = "flow_matching.path", "flow_matching.path.scheduler"


@masks.row("flow_matching, MixtureDiscreteProbPath", *PATH, install="flow_matching")
def mix_masked(data: Tokens, path, scheduler) -> Work:
    mixture, noise = mixture_path(path, scheduler), torch.full_like(data.x_0, data.mask)
    t = torch.rand(len(data.x_0), device=data.x_0.device)
    return lambda: mixture.sample(x_0=noise, x_1=data.x_0, t=t.uniform_()).x_t


@uniform.row("flow_matching, MixtureDiscreteProbPath", *PATH, install="flow_matching")
def mix_uniform(data: Tokens, path, scheduler) -> Work:
    mixture = mixture_path(path, scheduler)
    t = torch.rand(len(data.x_0), device=data.x_0.device)

    def work() -> Tensor:
        noise = torch.randint(WORDS, data.x_0.shape, device=t.device)
        return mixture.sample(x_0=noise, x_1=data.x_0, t=t.uniform_()).x_t

    return work


class Table(nn.Module):
    """A network whose logits are its parameter, whatever its input."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.logits


class Sentences(NamedTuple):
    x_0: Tensor
    net: Table
    mask: int


def sentences(device: torch.device) -> Sentences:
    return Sentences(
        torch.randint(1023, (16, 256), device=device), Table(16, 256, 1024).to(device), 1023
    )


def loss_floor(data: Sentences) -> None:
    data.net.logits.grad = None
    t = torch.rand(len(data.x_0), 1, device=data.x_0.device)
    masked = torch.rand(data.x_0.shape, device=t.device) < t
    rows = data.net.logits[masked]
    nats = cross_entropy(rows, data.x_0[masked], reduction="none")
    (nats / t.expand_as(masked)[masked]).sum().backward()


loss = Case("masked loss + backward, logits 16 x 256 x 1024", sentences, loss_floor)


@loss.row("discdiff, heads.Posterior", "discdiff", install="-e .")
def masked_loss(data: Sentences, dd) -> Work:
    process = dd.Replace(dd.one_hot(data.mask, 1024)).on(dd.clock.LogLinear())
    process = process.to(data.x_0.device)
    head = dd.heads.Posterior(data.net, absent=data.mask)

    def work() -> None:
        data.net.logits.grad = None
        t = torch.rand(len(data.x_0), device=data.x_0.device)
        dd.loss(process, head, data.x_0, t).sum().backward()

    return work


@loss.row(
    "flow_matching, MixturePathGeneralizedKL",
    *PATH,
    "flow_matching.loss",
    install="flow_matching",
)
def generalized_kl(data: Sentences, path, scheduler, losses) -> Work:
    mixture, noise = mixture_path(path, scheduler), torch.full_like(data.x_0, data.mask)
    criterion = losses.MixturePathGeneralizedKL(mixture, reduction="sum")

    def work() -> None:
        data.net.logits.grad = None
        t = torch.rand(len(data.x_0), device=data.x_0.device)
        x_t = mixture.sample(x_0=noise, x_1=data.x_0, t=t).x_t
        criterion(data.net(x_t, t), data.x_0, x_t, t).backward()

    return work


@loss.row("SEDD score entropy, re-implemented")
def score_entropy(data: Sentences) -> Work:
    def work() -> None:
        data.net.logits.grad = None
        t = torch.rand(len(data.x_0), 1, device=data.x_0.device)
        masked = torch.rand(data.x_0.shape, device=t.device) < t
        ratio = ((1 - t) / t).expand_as(masked)[masked]
        mean = data.net.logits.log_softmax(-1)
        log_score = (mean + torch.log((1 - t) / t)[..., None])[masked]
        target = log_score.gather(-1, data.x_0[masked][:, None])[:, 0]
        entropy = log_score[:, : data.mask].exp().sum(-1) - ratio * target
        entropy = entropy + ratio * (torch.log(ratio) - 1)
        (entropy / (1 - t).expand_as(masked)[masked]).sum().backward()

    return work


class Prompt(NamedTuple):
    net: Table
    mask: int


def prompt(device: torch.device) -> Prompt:
    return Prompt(Table(8, 128, 512).to(device).requires_grad_(False), 511)


def steps_floor(data: Prompt) -> Tensor:
    x = torch.full((8, 128), data.mask, device=data.net.logits.device)
    for k in range(100, 0, -1):
        logits = data.net(x, k / 100)
        opens = (x == data.mask) & (torch.rand(x.shape, device=x.device) < 1 / k)
        rows = logits[opens].double()
        rows[:, data.mask] = -torch.inf
        total = rows.softmax(-1).cumsum(-1)
        draw = torch.rand(len(rows), 1, device=x.device, dtype=torch.float64) * total[:, -1:]
        x[opens] = torch.searchsorted(total, draw, right=True)[:, 0]
    return x


steps = Case("100 reverse masked steps, 8 x 128 tokens, K = 512", prompt, steps_floor)


@steps.row("discdiff, steppers.Ancestral", "discdiff", install="-e .")
def ancestral(data: Prompt, dd) -> Work:
    process = dd.Replace(dd.one_hot(data.mask, 512)).on(dd.clock.LogLinear())
    process = process.to(data.net.logits.device)
    head, stepper = dd.heads.Posterior(data.net, absent=data.mask), dd.steppers.Ancestral()
    return lambda: dd.sample(process, head, (8, 128), steps=100, stepper=stepper)


@steps.row(
    "flow_matching, MixtureDiscreteEulerSolver",
    *PATH,
    "flow_matching.solver",
    "flow_matching.utils",
    install="flow_matching",
)
def euler(data: Prompt, path, scheduler, solver, utils) -> Work:
    class Probabilities(utils.ModelWrapper):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.model(x, t).softmax(-1)

    net = Probabilities(data.net)
    mixture = mixture_path(path, scheduler)
    sampler = solver.MixtureDiscreteEulerSolver(net, mixture, vocabulary_size=512)
    device = data.net.logits.device
    start = torch.full((8, 128), data.mask, device=device)
    grid = torch.linspace(0, 1, 101, device=device)
    return lambda: sampler.sample(start, step_size=None, time_grid=grid)


CASES = (masks, uniform, loss, steps)
