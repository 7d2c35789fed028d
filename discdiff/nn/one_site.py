r"""Any network made blind to the site that it speaks of: `Masked` and `Energy`.

Both give logits of a site given the others at the price of many states per state,

.. math::
    \text{Masked: } \operatorname{net}(x^{d \leftarrow \mathrm{mask}}, t)_d, \qquad
    \text{Energy: } \hat p(x^d = c \mid x^{\setminus d}) \propto e^{f(x^{d \leftarrow c},\, t)},

the first D, the second D (K − 1) + 1. They are one batch of the network, or a few where there are
many.

References:
    | Score-based Continuous-time Discrete Diffusion Models (Sun et al., 2023)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Net = Callable[..., Tensor]
ROWS = 1 << 14  # states of one call


class Masked(nn.Module):
    """The logits of each site by a network that is shown a mask there.

    Arguments:
        net: A network from states (B, *event) to logits (B, *event, K), called as ``net(x, t)``
            or, if there is a context, as ``net(x, t, context)``.
        mask: The token that stands for the site; one that the net knows beside the K others.
        chunk: The number of states that the network is asked for at once.

    Raises:
        ValueError: If the network returns another shape.

    Example:
        >>> from discdiff.nn import Transformer
        >>> net = Masked(Transformer(6, length=8, outputs=5, width=32, layers=1, heads=4), mask=5)
        >>> net(torch.zeros(3, 8, dtype=torch.int64), torch.rand(3)).shape
        torch.Size([3, 8, 5])
    """

    def __init__(self, net: Net, mask: int, chunk: int = ROWS) -> None:
        super().__init__()
        self.net, self.mask, self.chunk = net, mask, _count(chunk, 1, "chunk")

    def forward(self, x: Tensor, t: Tensor, context: Any = None) -> Tensor:
        flat, t = x.flatten(1), t.expand(len(x))
        batch, length = flat.shape
        found = []
        for rows in torch.arange(batch * length, device=x.device).split(self.chunk):
            which, site = rows // length, (rows % length).unsqueeze(1)
            hidden = flat[which].scatter(1, site, self.mask).unflatten(1, x.shape[1:])
            logits = asked(self.net, hidden, t[which], rows_of(context, which))
            _require_shape(logits.shape[:-1] == hidden.shape, logits, hidden, "(B, *event, K)")
            logits = logits.flatten(1, -2)
            index = site.unsqueeze(-1).expand(-1, 1, logits.shape[-1])
            found.append(logits.gather(1, index).squeeze(1))
        return torch.cat(found).unflatten(0, x.shape)


class Energy(nn.Module):
    """The logits of each site by a scalar network, asked for every change of one site.

    The state itself is asked for once: D (K − 1) + 1 states in all.

    Arguments:
        net: A network from states (B, *event) to numbers (B,) or (B, 1), called as ``net(x, t)``
            or, if there is a context, as ``net(x, t, context)``.
        size: The number K of categories.
        chunk: The number of states that the network is asked for at once.

    Raises:
        ValueError: If the network returns another shape.

    Example:
        >>> from discdiff.nn import MLP, Tokens
        >>> net = Energy(Tokens(MLP((8, 4), (), width=32), size=5, dim=4), size=5)
        >>> net(torch.zeros(3, 8, dtype=torch.int64), torch.rand(3)).shape
        torch.Size([3, 8, 5])
    """

    def __init__(self, net: Net, size: int, chunk: int = ROWS) -> None:
        super().__init__()
        self.net, self.size = net, _count(size, 2, "size")
        self.chunk = _count(chunk, 1, "chunk")

    def forward(self, x: Tensor, t: Tensor, context: Any = None) -> Tensor:
        flat, t = x.flatten(1), t.expand(len(x))
        batch, length = flat.shape
        count = 1 + length * (self.size - 1)
        found = []
        for rows in torch.arange(batch * count, device=x.device).split(self.chunk):
            which = rows // count
            states = self.changed(flat[which], rows % count).unflatten(1, x.shape[1:])
            f = asked(self.net, states, t[which], rows_of(context, which))
            _require_shape(f.shape in ((len(rows),), (len(rows), 1)), f, states, "(B,)")
            found.append(f.reshape(-1))
        return self._by_site(torch.cat(found).reshape(batch, count), flat).unflatten(
            1, x.shape[1:]
        )

    def changed(self, states: Tensor, change: Tensor) -> Tensor:
        """States (N, D) after these changes (N,): 0 is none, then come those of each site."""
        moved, change = (change > 0).unsqueeze(1), (change - 1).clamp(min=0).unsqueeze(1)
        site, step = change // (self.size - 1), change % (self.size - 1) + 1
        values = (states.gather(1, site) + step * moved) % self.size
        return states.scatter(1, site, values)

    def _by_site(self, energies: Tensor, states: Tensor) -> Tensor:
        """The energies of a state and its changes (B, count), by site and value, (B, D, K)."""
        here, there = (
            energies[:, :1],
            energies[:, 1:].unflatten(1, (states.shape[1], self.size - 1)),
        )
        f = torch.cat([here.unsqueeze(1).expand(*states.shape, 1), there], -1)
        steps = torch.arange(self.size, device=states.device)
        values = (states.unsqueeze(-1) + steps) % self.size  # the state's own value first
        return torch.zeros_like(f).scatter(-1, values, f)


def asked(net: Net, x: Tensor, t: Tensor, context: Any) -> Tensor:
    """What a network says: asked with two arguments where there is no context, as by heads."""
    return net(x, t) if context is None else net(x, t, context)


def rows_of(context: Any, which: Tensor) -> Any:
    """These rows of a context."""
    if isinstance(context, Mapping):
        return {k: rows_of(v, which) for k, v in context.items()}
    return context[which] if isinstance(context, Tensor) else context


def _count(value: int, least: int, name: str) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not whole:
        raise ValueError(f"{name} must be an integer ≥ {least}; it is {value!r}")
    return value


def _require_shape(holds: bool, output: Tensor, x: Tensor, rule: str) -> None:
    if not holds:
        shapes = tuple(output.shape), tuple(x.shape)
        raise ValueError(
            f"net must return {rule}; it is {shapes[0]} for states of shape {shapes[1]}"
        )
