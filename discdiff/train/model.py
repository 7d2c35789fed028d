"""`Model`: a process, a head around a network, and the encoding of the data, as one module."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import heads
from ..drawn import learns
from ..likelihood import prior_kl, stop_for, vlb
from ..loss import loss
from ..nn import (
    MLP,
    Category,
    Column,
    Columns,
    Local,
    Number,
    Precondition,
    Standardise,
    Tokens,
    Waves,
)
from ..process import Chain, Process, Product, batch_size
from ..sample import sample
from ..steppers import Stepper
from ..steps import log_jacobian, reconstruction
from ..times import Blend, Density, require_reach, time_density, times
from ..validation import validate
from .data import Reals
from .declare import encoding_for, examples, head_for, outputs_of, preconditioned, stepper_for
from .describe import Description
from .encoding import AsCategories, AsCounts, AsDensity, AsReals, AsTable, Encoding
from .settings import Settings
from .timing import density_by_guess, quiet_time, shares_by_guess

CHUNK = 4096  # items validated at a time
REACH = 8.0  # outputs of this size are learned fast; larger factors overfit sooner (measured)


class Model(nn.Module):
    """A process, a head around a network, and the encoding of the data.

    All figures are in bits per dimension of the data: of integers, the number of bits that the
    model needs for an item, divided by the number of its entries.

    Arguments:
        process: The process. If it has parameters (`dd.learn`), they are trained with the network.
        data: What is known of the data.
        settings: The size of the network.

    Raises:
        ValueError: If the data cannot be states of the process.
        Unsolved: If no head determines its reversal.
    """

    def __init__(self, process: Process, data: Description, settings: Settings) -> None:
        super().__init__()
        self.process, self.data = process, data
        self.core = process.process if isinstance(process, Chain) else process
        self.stepper = stepper_for(process)
        self.encoding = encoding_for(process, data)
        self.head = head_for(process, self.encoding, data)
        self.classes = len(data.classes) if settings.labels else 0
        self.head.net = self._network(settings)
        self._timed: tuple[float, Blend | Density] | None = None
        self._drawn: Tensor | None = None

    @property
    def dims(self) -> int:
        """Number of entries of an item."""
        return math.prod(self.data.event)

    @property
    def unit(self) -> float:
        """Nats per bit and dimension of an item."""
        return self.dims * math.log(2)

    def check(self, values: Tensor) -> Tensor:
        """Items, after their shape and values were checked.

        Raises:
            ValueError: If they are not of the data's event shape, or hold values data cannot take.
        """
        event = self.data.event
        if tuple(values.shape[1:]) != event:
            raise ValueError(f"items have shape {event}; x has shape {tuple(values.shape)}")
        if isinstance(self.data.kind, Reals):
            bad = ~values.isfinite()
        else:
            bad = (values != values.round()) | (values < 0) | (values >= self.data.kind.levels)
        if bool(bad.any()):
            found = values[bad].flatten()[:4].tolist()
            raise ValueError(
                f"x of shape {tuple(values.shape)} holds {found}: not in {self.data.kind}"
            )
        return values

    def validate(self, values: Tensor) -> None:
        """Compares all items with the support of the process.

        Raises:
            ValueError: If one lies outside, or the process is too slow for its clock.
        """
        for some in values.split(CHUNK):
            validate(self.process, self.encoding.encode(some))
        require_reach(self.core, self.encoding.encode(values[:CHUNK]))

    def loss(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """An unbiased estimate of the bound, shape (B,).

        The KL of the prior is a constant, and left out, unless the process is learned.
        """
        x_0 = self.encoding.encode(values)
        nats = self._path(x_0, labels)
        if learns(self.process):
            nats = nats + prior_kl(self.core, x_0)
        return (nats - self.encoding.log_scale(self.data.event)) / self.unit

    def bits(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """A one-draw estimate of the bound, bits/dim, shape (B,)."""
        x_0 = self.process.check_data(self.encoding.encode(values), "x_0")
        bound = log_jacobian(self.process, x_0) - self._path(x_0, labels)
        bound = bound.double() - prior_kl(self.core, x_0)
        return -(bound + self.encoding.log_scale(self.data.event)) / self.unit

    def bits_of_steps(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """The bound of a chain with all of its steps, one draw of each, bits/dim, shape (B,)."""
        x_0 = self.encoding.encode(values)
        options: dict[str, Any] = {"stepper": self.stepper, "context": labels}
        nats = vlb(self.process, self.head, x_0, **options).nats.double()
        return (nats - self.encoding.log_scale(self.data.event)) / self.unit

    def _path(self, x_0: Any, labels: Tensor | None) -> Tensor:
        """What the bound has beside the KL of the prior and the encoding, nats, (B,)."""
        if isinstance(self.process, Chain):
            return self._chain_path(x_0, labels)
        stop, density = self.timing()
        t, w = times(self.process, x_0, stop=stop, density=density)
        nats = w * loss(self.process, self.head, x_0, t, context=labels)
        if stop == 0:
            return nats
        return nats - reconstruction(self.process, self.head, x_0, stop, labels)

    def _chain_path(self, x_0: Any, labels: Tensor | None) -> Tensor:
        """The terms of a chain; the first, by far the largest of densities, is never left out."""
        assert isinstance(self.process, Chain)
        last, count = len(self.process.times), batch_size(x_0)
        options: dict[str, Any] = {"stepper": self.stepper, "context": labels}
        term = lambda k: loss(self.process, self.head, x_0, k, **options)
        nats = term(torch.ones(count))
        if last == 1:
            return nats
        shares = self._shares()
        u = (torch.rand(count, dtype=torch.float64) + torch.randperm(count)) / count
        i = torch.searchsorted(shares.cumsum(0), u.to(shares.device)).clamp(max=last - 2)
        return nats + term(2 + i) / shares[i].to(nats)

    def _shares(self) -> Tensor:
        """How often each of the steps 2 … T of a chain is looked at."""
        assert isinstance(self.process, Chain)
        net, last = self.head.net, len(self.process.times)
        if not isinstance(net, Precondition):
            return torch.full((last - 1,), 1 / (last - 1), dtype=torch.float64)
        if self._drawn is None or learns(self.process):
            y = torch.zeros(1, *self.data.event, device=net.mean.device)
            size = self.dims if self._draws_states() else None
            self._drawn = shares_by_guess(self.process, partial(net.log_left, y), size)
        return self._drawn

    def _draws_states(self) -> bool:
        """Whether a term of the chain is one draw of a log-ratio, not a divergence."""
        leaves = self.core.leaves(self.core.instant(0.5))
        return any(leaf.core.engine.draws_forward for leaf in leaves)

    def timing(self) -> tuple[float, Blend | Density]:
        """Where the bound stops and how its times are drawn, anew where numbers are learned."""
        if self._timed is None or learns(self.process):
            stop = stop_for(self.process, self.head, None)
            net = self.head.net
            if stop > 0 and isinstance(net, Precondition):
                shape = self.process.state_shape((1, *self.data.event))
                y = torch.zeros(shape, device=net.mean.device)
                log_left = partial(net.log_left, y)
                stop = quiet_time(log_left)
                self._timed = stop, density_by_guess(self.process, log_left, stop)
            else:
                self._timed = stop, time_density(self.process, stop)
        return self._timed

    @torch.no_grad()
    def draw(
        self,
        count: int,
        labels: Tensor | None = None,
        steps: int = 200,
        stepper: Stepper | None = None,
    ) -> Tensor:
        """Values of generated items, shape (count, *event)."""
        shape = self.encoding.shape(count, self.data.event)
        chain = isinstance(self.process, Chain)  # whose steps are its own
        options: dict[str, Any] = {} if chain else {"steps": steps}
        options |= {"stepper": stepper or self.stepper, "context": labels}
        state = sample(self.process, self.head, shape, **options)
        return self.encoding.decode(state)

    def _network(self, settings: Settings) -> nn.Module:
        size = {
            "width": settings.width,
            "blocks": settings.blocks,
            "dropout": settings.dropout,
            "classes": self.classes,
        }
        if isinstance(self.process, Product):
            assert isinstance(self.head, heads.Product) and isinstance(self.encoding, AsTable)
            parts, encodings = self.head.parts, self.encoding.parts
            return Columns(
                {k: _column(parts[k], encodings[k], c) for k, c in self.data.columns.items()},
                **size,
            )
        if isinstance(self.head, heads.Mean):
            if preconditioned(self.process, self.encoding, self.data):
                return self._preconditioned(size)
        outputs = outputs_of(self.head, self.encoding, self.data.kind)
        event = self.process.state_shape((1, *self.data.event))[1:]
        if isinstance(self.encoding, AsCategories):
            tokens = settings.token_dim
            return Tokens(
                MLP((*event, tokens), (*event, *outputs), **size), self.encoding.size, tokens
            )
        mean, std, unit = encoded_moments(self.encoding, self.data)
        waves = Waves(unit, octaves_of(self.data))
        scale = output_scale(self.head, self.encoding, std)
        trunk = MLP(event, (*event, *outputs, waves.features), **size)
        if _says_numbers(self.head, self.encoding):
            _start_at(mean / scale, trunk.last, waves.features)
        return Local(self._standardised(trunk, mean, std), waves, scale)

    def _preconditioned(self, size: dict[str, Any]) -> nn.Module:
        """The network around the best affine guess, to which it adds nothing at the start."""
        mean, std, unit = encoded_moments(self.encoding, self.data)
        waves, event = Waves(unit / std, octaves_of(self.data)), self.data.event
        trunk = MLP(event, (*event, waves.features), **size)
        nn.init.zeros_(trunk.last.weight)
        nn.init.zeros_(trunk.last.bias)
        return Precondition(Local(trunk, waves), self.core, mean, std)

    def _standardised(self, trunk: nn.Module, mean: float, std: float) -> nn.Module:
        """The network with its inputs on one scale, where the marginals at 0 and 1 are known."""
        net = Standardise(trunk, self.core, mean, std)
        x = self.encoding.encode(examples(self.data))
        try:
            net.moments(x, torch.full((len(x),), 0.5, dtype=torch.float64))
        except (ValueError, NotImplementedError):
            return trunk
        return net


def encoded_moments(encoding: Encoding, data: Description) -> tuple[float, float, float]:
    """Mean, standard deviation and smallest difference of the states of these data."""
    mean, std = data.mean, data.std
    if isinstance(encoding, AsDensity):
        return 0.0, 1.0, 0.25
    assert not isinstance(data.kind, Reals)
    if isinstance(encoding, AsReals):
        width = encoding.width
        centre = float((mean + 0.5) * width + encoding.low)
        return centre, float((std**2 + 1 / 12).sqrt() * width), width
    return float(mean), float(std), 1.0


def output_scale(head: heads.Head, encoding: Encoding, std: float) -> float:
    """The factor of what is said per entry, so that a network need not reach far."""
    return max(1.0, std / REACH) if _says_numbers(head, encoding) else 1.0


def _says_numbers(head: heads.Head, encoding: Encoding) -> bool:
    """Whether outputs are on the scale of the counts; logits are not."""
    return isinstance(encoding, AsCounts) and not isinstance(head, heads.Posterior)


def octaves_of(data: Description) -> int:
    """The number of periods 2, 4, 8, … up to the number of values, between 2 and 8."""
    if isinstance(data.kind, Reals):
        return 5
    return min(8, max(2, math.ceil(math.log2(data.kind.levels))))


def _start_at(value: float, layer: nn.Linear, features: int) -> None:
    """Starts the outputs of a network, read against features with a leading 1, at a value."""
    with torch.no_grad():
        layer.bias[::features] = value


def _column(head: heads.Head, encoding: Encoding, data: Description) -> Column:
    outputs = outputs_of(head, encoding, data.kind)
    if isinstance(encoding, AsCategories):
        return Category(encoding.size, (), outputs)
    mean, std, unit = encoded_moments(encoding, data)
    return Number((), outputs, mean, std, unit, output_scale(head, encoding, std))
