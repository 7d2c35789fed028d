r"""Blackout: perturb counts by thinning, the path likelihood and its gradient.

.. math::
    x_t \sim \mathrm{Binomial}(x_0, p) \qquad D = x_0 - x_t \qquad
    \ell = \frac{-\dot{p}}{1 - p} \big( D \log (D / y) - D + y \big) \qquad
    p(t) = \frac{\sigma(c (1 - 2 t)) - \sigma(-c)}{\sigma(c) - \sigma(-c)}

with :math:`y = (1 - p) \, \mathrm{softplus}(\theta x_t)` the predicted missing units and
:math:`c = 15`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.special import xlogy

from groups import Case, Work
from groups.vp import Scale


class Data(NamedTuple):
    x_0: Tensor
    net: Scale


def data(device: torch.device) -> Data:
    return Data(torch.randint(256, (256, 64), device=device).float(), Scale().to(device))


def floor(data: Data) -> None:
    t = torch.rand(len(data.x_0), 1, device=data.x_0.device, dtype=torch.float64)
    ends = torch.tensor([-15.0, 15.0], dtype=torch.float64).sigmoid()
    low, high = ends.tolist()
    up = torch.sigmoid(15 * (1 - 2 * t))
    gone = ((high - up) / (high - low)).float()
    speed = (30 * up * (1 - up) / (high - low)).float()
    x_t = torch.binomial(data.x_0, 1 - gone)
    y, D = gone * softplus(data.net(x_t, t)), data.x_0 - x_t
    nats = speed / gone * (xlogy(D, D) - xlogy(D, y) - D + y)
    nats.sum(1).mean().backward()


loss = Case("perturb + loss + backward, counts 256 x 64", data, floor)


@loss.row("discdiff, heads.Missing", "discdiff", install="-e .")
def missing(data: Data, dd) -> Work:
    process = dd.Death().on(dd.clock.Logistic(15.0)).to(data.x_0.device)
    head = dd.heads.Missing(data.net)

    def work() -> None:
        t = torch.rand(len(data.x_0), device=data.x_0.device, dtype=torch.float64)
        dd.loss(process, head, data.x_0, t).mean().backward()

    return work


CASES = (loss,)
