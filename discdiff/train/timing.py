r"""When a preconditioned model is asked: where its bound stops, and how its times are drawn.

Both follow from :math:`R_t / C_0`, the share of the data's variance that the best affine guess of
them leaves at t. The bound stops where the guess is off by a hundredth of the data's standard
deviation, for every process at the same noise; a fixed time would stop each at another, a lift
where float32 does not see its noise. Times are drawn by the rate of :math:`\tfrac12 \log R_t`,
the path-KL of normal data: by what a network has to learn, not by what the auxiliaries cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..likelihood import STOP
from ..process import Chain, Process
from ..times import Density, natural

LogLeft = Callable[[Tensor], Tensor]  # log R_t / C_0 at times (n,)
QUIET = 2 * math.log(0.01)
POINTS, ROUNDS = 33, 6
FLOOR = 1e-3  # of the density, in nats per unit of z
STEP = 0.05  # of z


@torch.no_grad()
def quiet_time(log_left: LogLeft) -> float:
    """The last time at which the guess is as good as `QUIET` says."""
    low, high = math.log(1e-12), 0.0
    for _ in range(ROUNDS):
        grid = torch.linspace(low, high, POINTS, dtype=torch.float64)
        quiet = int((log_left(grid.exp()) <= QUIET).sum())  # it grows
        if quiet in (0, POINTS):
            return STOP  # such a process has no noise, or nothing else
        low, high = float(grid[quiet - 1]), float(grid[quiet])
    return math.exp(low)


@torch.no_grad()
def shares_by_guess(chain: Chain, log_left: LogLeft, dims: int | None = None) -> Tensor:
    r"""The shares in which the steps 2 … T are drawn; they add up to one.

    Those of the path-KL of normal data, K nats per step and entry. Where a term is no divergence
    but one draw of a log-ratio, of mean :math:`D K` over D entries and of variance
    :math:`2 D K` as that of two normal laws, its root mean square takes the place of K: where K
    is small it is far larger than the mean.

    Arguments:
        chain: The chain.
        log_left: :math:`\log R_t / C_0` at times (n,).
        dims: D, where terms are draws of log-ratios.
    """
    left = log_left(chain.grid().flip(0)[1:])
    growth = torch.where(left.isfinite(), left, 0.0).diff().clamp(min=0.0) / 2 + STEP * FLOOR
    if dims is not None:
        growth = ((dims * growth) ** 2 + 2 * dims * growth).sqrt()
    return growth / growth.sum()


@torch.no_grad()
def density_by_guess(process: Process, log_left: LogLeft, stop: float) -> Density:
    """The density of times by the rate of the path-KL of normal data."""
    (leaf,) = process.leaves(process.instant(0.5))
    clock = natural(leaf)

    def profile(z: Tensor) -> Tensor:
        late, early = (log_left(clock.from_z(z + h).clamp(max=1.0)) for h in (STEP, -STEP))
        rate = (late - early) / (4 * STEP)
        return torch.where(rate.isfinite(), rate, 0.0).clamp(min=0.0) + FLOOR

    return Density(clock, profile, stop)
