r"""A hundred deterministic reverse steps of the variance-preserving diffusion (DDIM).

.. math::
    x_s = \frac{\alpha_s}{\alpha_t} \big(x_t - \sigma_t \hat\epsilon\big) + \sigma_s \hat\epsilon
    \qquad \alpha = e^{-\Lambda / 2} \qquad \sigma^2 = 1 - \alpha^2

The network multiplies its input by one number, so that what is timed is everything else. The
floor works out all its numbers before the loop, and passes over the data twice per step.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from groups import Case, Work
from groups.vp import Scale

STEPS = 100


class Start(NamedTuple):
    x: Tensor
    net: Scale


def start(*shape: int):
    def data(device: torch.device) -> Start:
        return Start(torch.randn(shape, device=device), Scale().to(device))

    return data


@torch.no_grad()
def floor(data: Start) -> Tensor:
    x, t = data.x, torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    clock = 0.1 * t + 9.95 * t**2
    alpha, sigma = (torch.exp(-clock / 2), torch.sqrt(-torch.expm1(-clock)))
    ends = zip(t, pairwise(zip(alpha.tolist(), sigma.tolist(), strict=True)), strict=False)
    for now, ((a, b), (c, d)) in ends:
        noise = data.net(x, now.expand(len(x)))
        x = torch.add(x * (c / a), noise, alpha=d - b * c / a)
    return x


@torch.no_grad()
def as_published(data: Start) -> Tensor:
    x, t = data.x, torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    clock = 0.1 * t + 9.95 * t**2
    alpha, sigma = (torch.exp(-clock / 2), torch.sqrt(-torch.expm1(-clock)))
    ends = zip(t, pairwise(zip(alpha.tolist(), sigma.tolist(), strict=True)), strict=False)
    for now, ((a, b), (c, d)) in ends:
        noise = data.net(x, now.expand(len(x)))
        x_0 = (x - b * noise) / a
        x = c * x_0 + d * noise
    return x


def discdiff_row(stepper):
    def build(data: Start, dd) -> Work:
        vp = (dd.Linear(-1 / 2) + dd.Noise(1.0)).on(dd.clock.Linear(0.1, 20.0)).to(data.x.device)
        head, shape = dd.heads.Epsilon(data.net), tuple(data.x.shape)
        way = stepper(dd)
        return lambda: dd.sample(vp, head, shape, steps=STEPS, stepper=way, start=data.x)

    return build


def diffusers_row(name: str, **options):
    def build(data: Start, diffusers) -> Work:
        scheduler = getattr(diffusers, name)(**options)  # the same clock in 1000 steps

        @torch.no_grad()
        def work() -> Tensor:
            scheduler.set_timesteps(STEPS)
            x = data.x
            for t in scheduler.timesteps:
                noise = data.net(x, t.expand(len(x)))
                x = scheduler.step(noise, t, x).prev_sample
            return x

        return work

    return build


CASES = []
for name, shape in (("256 x 3 x 32 x 32", (256, 3, 32, 32)), ("4 x 1 x 2 x 2", (4, 1, 2, 2))):
    case = Case(f"{STEPS} deterministic steps, {name}", start(*shape), floor)
    case.row("by hand, by way of x_0")(lambda data: lambda: as_published(data))
    ways = {
        "Ancestral(eta=0)": lambda dd: dd.steppers.Ancestral(eta=0.0),
        "Exponential(1)": lambda dd: dd.steppers.Exponential(order=1),
        "Exponential(2)": lambda dd: dd.steppers.Exponential(order=2),
    }
    for label, way in ways.items():
        case.row(f"discdiff, {label}", "discdiff", install="-e .")(discdiff_row(way))
    ddim = diffusers_row("DDIMScheduler", clip_sample=False)
    case.row("diffusers, DDIMScheduler", "diffusers", install="diffusers")(ddim)
    dpm = diffusers_row("DPMSolverMultistepScheduler")
    case.row("diffusers, DPMSolverMultistepScheduler", "diffusers", install="diffusers")(dpm)
    CASES.append(case)
