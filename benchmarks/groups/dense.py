r"""A dense chain: the rows :math:`e_x \exp(t Q)` that a batch of states and times needs.

The chain is random and not reversible: off-diagonal rates are :math:`u^6`, :math:`u` uniform,
scaled until the largest exit rate is one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from groups import Case, Work


class Data(NamedTuple):
    Q: Tensor
    x: Tensor
    t: Tensor


def data(device: torch.device) -> Data:
    rates = torch.rand(256, 256, dtype=torch.float64) ** 6
    rates.fill_diagonal_(0)
    rates = rates / rates.sum(1).max()
    x, t = torch.randint(256, (64,)), torch.rand(64, dtype=torch.float64)
    Q = rates - torch.diag(rates.sum(1))
    return Data(Q.to(device), x.to(device), t.to(device))


def floor(data: Data) -> Tensor:
    P = torch.matrix_exp(data.t[:, None, None] * data.Q)
    return P[torch.arange(len(data.x), device=data.x.device), data.x]


rows = Case("64 rows at 64 times, K = 256, float64", data, floor)


@rows.row("discdiff, transition.probs", "discdiff", install="-e .")
def transition(data: Data, dd) -> Work:
    chain = dd.RateMatrix(data.Q.cpu()).to(data.x.device)
    return lambda: chain.transition(data.x, 0.0, data.t).probs


CASES = (rows,)
