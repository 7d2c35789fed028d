r"""Any network made blind to the site that it speaks of: `Masked` and `Energy`.

Both give logits of a site given the others at the price of many network calls,

.. math::
    \text{Masked: } \operatorname{net}(x^{d \leftarrow \mathrm{mask}}, t)_d, \qquad
    \text{Energy: } \hat p(x^d = c \mid x^{\setminus d}) \propto e^{f(x^{d \leftarrow c},\, t)},

the first D calls, the second D + 1 (of K − 1 times the batch).

References:
    | Score-based Continuous-time Discrete Diffusion Models (Sun et al., 2023)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Masked(nn.Module):
    """The logits of each site by a network that is shown a mask there.

    Arguments:
        net: A network from states (B, *event) to logits (B, *event, K).
        mask: The token that stands for the site; one that the net knows beside the K others.

    Example:
        >>> from discdiff.nn import Transformer
        >>> net = Masked(Transformer(6, length=8, outputs=5, width=32, layers=1, heads=4), mask=5)
        >>> net(torch.zeros(3, 8, dtype=torch.int64), torch.rand(3)).shape
        torch.Size([3, 8, 5])
    """

    def __init__(self, net: nn.Module, mask: int) -> None:
        super().__init__()
        self.net, self.mask = net, mask

    def forward(self, x: Tensor, t: Tensor, context: Any = None) -> Tensor:
        flat, rows = x.flatten(1), []
        for d in range(flat.shape[1]):
            hidden = flat.clone()
            hidden[:, d] = self.mask
            logits = self.net(hidden.reshape(x.shape), t, context)
            rows.append(logits.reshape(*flat.shape, -1)[:, d])
        return torch.stack(rows, 1).reshape(*x.shape, -1)


class Energy(nn.Module):
    """The logits of each site by a scalar network, asked for every change of one site.

    The state itself is asked for once: D (K − 1) + 1 states in all.

    Arguments:
        net: A network from states (B, *event) to numbers (B,).
        size: The number K of categories.

    Example:
        >>> from discdiff.nn import MLP, Tokens
        >>> net = Energy(Tokens(MLP((8, 4), (), width=32), size=5, dim=4), size=5)
        >>> net(torch.zeros(3, 8, dtype=torch.int64), torch.rand(3)).shape
        torch.Size([3, 8, 5])
    """

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor, t: Tensor, context: Any = None) -> Tensor:
        flat, others = x.flatten(1), self.size - 1
        here = self.net(x, t, context).reshape(-1, 1)
        times, contexts = t.repeat_interleave(others), repeated(context, others)
        steps, rows = torch.arange(self.size, device=x.device), []
        for d in range(flat.shape[1]):
            values = (flat[:, d : d + 1] + steps) % self.size  # the state's own value first
            changed = flat.repeat_interleave(others, 0)
            changed[:, d] = values[:, 1:].reshape(-1)
            there = self.net(changed.reshape(-1, *x.shape[1:]), times, contexts)
            f = torch.cat([here, there.reshape(-1, others)], 1)
            rows.append(torch.zeros_like(f).scatter(1, values, f))
        return torch.stack(rows, 1).reshape(*x.shape, self.size)


def repeated(context: Any, count: int) -> Any:
    """A context with each row count times in a row."""
    if isinstance(context, Mapping):
        return {k: repeated(v, count) for k, v in context.items()}
    return context.repeat_interleave(count, 0) if isinstance(context, Tensor) else context
