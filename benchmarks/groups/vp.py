r"""Variance-preserving diffusion: perturb, noise-prediction loss and its gradient.

.. math::
    x_t = e^{-\Lambda / 2} x_0 + \sqrt{1 - e^{-\Lambda}} \, \epsilon \qquad
    \Lambda(t) = \int_0^t \beta \qquad \beta \text{ linear from } 0.1 \text{ to } 20

The network multiplies its input by one parameter, so that what is timed is everything else.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from groups import Case, Work


class Scale(nn.Module):
    """A network of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * x


class Data(NamedTuple):
    x_0: Tensor
    net: Scale


def data(device: torch.device) -> Data:
    return Data(torch.randn(256, 3, 32, 32, device=device), Scale().to(device))


def floor(data: Data) -> None:
    t = torch.rand(len(data.x_0), device=data.x_0.device)
    clock = (0.1 * t + 9.95 * t**2)[:, None, None, None]
    noise = torch.randn_like(data.x_0)
    x_t = torch.exp(-clock / 2) * data.x_0 + torch.sqrt(-torch.expm1(-clock)) * noise
    mse_loss(data.net(x_t, t), noise).backward()


loss = Case("perturb + loss + backward, 256 x 3 x 32 x 32", data, floor)


@loss.row("discdiff, weights.Simple", "discdiff", install="-e .")
def simple(data: Data, dd) -> Work:
    vp = (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0)).to(data.x_0.device)
    head, weight = dd.heads.Epsilon(data.net), dd.weights.Simple()

    def work() -> None:
        t = torch.rand(len(data.x_0), device=data.x_0.device)
        dd.loss(vp, head, data.x_0, t, weight=weight).mean().backward()

    return work


@loss.row("discdiff, likelihood, importance-sampled times", "discdiff", install="-e .")
def likelihood(data: Data, dd) -> Work:
    vp = (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0)).to(data.x_0.device)
    head = dd.heads.Epsilon(data.net)

    def work() -> None:
        t, w = dd.times(vp, data.x_0)
        (w * dd.loss(vp, head, data.x_0, t)).mean().backward()

    return work


@loss.row("diffusers, DDPMScheduler", "diffusers", install="diffusers")
def diffusers(data: Data, diffusers) -> Work:
    scheduler = diffusers.DDPMScheduler()  # beta from 1e-4 to 0.02 in 1000 steps: the same clock

    def work() -> None:
        t = torch.randint(1000, (len(data.x_0),), device=data.x_0.device)
        noise = torch.randn_like(data.x_0)
        x_t = scheduler.add_noise(data.x_0, noise, t)
        mse_loss(data.net(x_t, t), noise).backward()

    return work


@loss.row(
    "azula, SimpleDenoiser.loss (predicts the mean, its own VP schedule)",
    "azula.noise",
    "azula.denoise",
    install="azula",
)
def azula(data: Data, noise, denoise) -> Work:
    schedule = noise.VPSchedule(alpha_min=math.exp(-(0.1 + 20.0) / 4))
    denoiser = denoise.SimpleDenoiser(data.net, schedule)

    def work() -> None:
        t = torch.rand(len(data.x_0), device=data.x_0.device)
        denoiser.loss(data.x_0, t).backward()

    return work


@loss.row(
    "flow_matching, AffineProbPath (predicts the noise)",
    "flow_matching.path",
    "flow_matching.path.scheduler",
    install="flow_matching",
)
def flow_matching(data: Data, path, scheduler) -> Work:
    affine = path.AffineProbPath(scheduler.VPScheduler(0.1, 20.0))

    def work() -> None:
        t = torch.rand(len(data.x_0), device=data.x_0.device)
        sample = affine.sample(x_0=torch.randn_like(data.x_0), x_1=data.x_0, t=t)
        mse_loss(data.net(sample.x_t, t), sample.x_0).backward()

    return work


@loss.row(
    "torchcfm, VariancePreserving (predicts the velocity, a trigonometric path)",
    "torchcfm",
    install="torchcfm",
)
def torchcfm(data: Data, torchcfm) -> Work:
    matcher = torchcfm.VariancePreservingConditionalFlowMatcher(sigma=0.0)

    def work() -> None:
        noise = torch.randn_like(data.x_0)
        t, x_t, velocity = matcher.sample_location_and_conditional_flow(noise, data.x_0)
        mse_loss(data.net(x_t, t), velocity).backward()

    return work


CASES = (loss,)
