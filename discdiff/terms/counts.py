"""Jumps of numbers of units: deaths, births, exchanges and reactions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import constraints

from ..params import as_numbers, declare, fixed, nonnegative
from ..validation import require, shown, values_are_checked
from .kinds import Jump, Number, Numbers
from .numbers import broadcasts, require_nonnegative, written, zero


class CountJump(Jump):
    """A jump between counts 0, 1, 2, …, kept as floating tensors of integers."""


class Death(CountJump):
    r"""Every unit dies at unit rate.

    .. math:: (L f)(x) = x \, (f(x - 1) - f(x))

    On a clock this is blackout diffusion.

    References:
        | Blackout Diffusion: Generative Diffusion Models in Discrete-State Spaces (Santos et al.,
          2023)

    Example:
        >>> Death().transition(torch.tensor([10.0]), 0.0, 1.0).mean
        tensor([3.6788])
    """

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - 1).unsqueeze(-1), x.unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + 1).unsqueeze(-1), (x + 1).unsqueeze(-1)


class Immigration(CountJump):
    r"""Units arrive at a constant rate.

    .. math:: (L f)(x) = \mu \, (f(x + 1) - f(x))

    Arguments:
        rate: Arrivals :math:`\mu` per unit time, a number or one per entry of the last axis.

    Raises:
        ValueError: If the rate is negative.

    Example:
        >>> (Death() + Immigration(2.0)).limit((1,)).mean
        tensor([2.])
    """

    arg_constraints = {"rate": nonnegative}
    rate: Tensor

    def __init__(self, rate: Numbers) -> None:
        super().__init__()
        declare(self, "rate", rate)
        require(
            self.rate.dim() <= 1,
            f"rate must be a number or a vector; its shape is {tuple(self.rate.shape)}",
        )
        require_nonnegative(self.rate, "rate")

    @property
    def idle(self) -> bool:
        return super().idle or zero(self.rate)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rate = self.rate.to(x.dtype).expand(x.shape)
        return (x + 1).unsqueeze(-1), rate.unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rate = torch.where(x > 0, self.rate.to(x.dtype), torch.zeros_like(x))
        return (x - 1).unsqueeze(-1), rate.unsqueeze(-1)

    def widths(self) -> dict[str, int]:
        return {"rate": self.rate.shape[-1]} if self.rate.dim() else {}

    def extra_repr(self) -> str:
        return written(self.rate)


class Birth(CountJump):
    r"""Every unit gives birth at unit rate (the Yule process).

    .. math:: (L f)(x) = x \, (f(x + 1) - f(x))

    Example:
        >>> Birth().transition(torch.tensor([2.0]), 0.0, 1.0).mean
        tensor([5.4366])
    """

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + 1).unsqueeze(-1), x.unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - 1).unsqueeze(-1), (x - 1).clamp(min=0).unsqueeze(-1)


class Ehrenfest(CountJump):
    r"""N units with two states each; x of them are up.

    .. math:: (L f)(x) = a (N - x) (f(x + 1) - f(x)) + b x (f(x - 1) - f(x))

    Arguments:
        size: The number N of units.
        up: Rate a at which a unit that is down goes up.
        down: Rate b at which a unit that is up goes down.

    Raises:
        ValueError: If N is not a positive integer, or a rate is negative.

    References:
        | Bridging discrete and continuous state spaces: Exploring the Ehrenfest process in
          time-continuous diffusion models (Winkler et al., 2024)

    Example:
        >>> Ehrenfest(6).limit((1,)).mean
        tensor([3.])
    """

    arg_constraints = {"up": nonnegative, "down": nonnegative}
    up: Tensor
    down: Tensor

    def __init__(self, size: int, up: Number = 1.0, down: Number = 1.0) -> None:
        super().__init__()
        real = isinstance(size, int | float) and math.isfinite(size)
        whole = real and int(size) == size and size > 0
        require(whole, f"size must be a positive integer; it is {size!r}")
        self.size = int(size)
        for name, value in (("up", up), ("down", down)):
            declare(self, name, value)
            shape = tuple(getattr(self, name).shape)
            require(shape == (), f"{name} must be a number; its shape is {shape}")
            require_nonnegative(getattr(self, name), name)

    @property
    def idle(self) -> bool:
        return super().idle or (zero(self.up) and zero(self.down))

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.integer_interval(0, self.size)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        up, down = self.up.to(x.dtype), self.down.to(x.dtype)
        return torch.stack([x + 1, x - 1], -1), torch.stack([up * (self.size - x), down * x], -1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        up, down = self.up.to(x.dtype), self.down.to(x.dtype)
        dies = torch.where(x < self.size, down * (x + 1), torch.zeros_like(x))
        rises = torch.where(x > 0, up * (self.size - x + 1), torch.zeros_like(x))
        return torch.stack([x + 1, x - 1], -1), torch.stack([dies, rises], -1)

    def extra_repr(self) -> str:
        return f"{self.size}, up={written(self.up)}, down={written(self.down)}"


class Reaction(Jump):
    r"""A reaction that changes the counts of species on the last axis.

    .. math:: (L f)(x) = a(x) \, (f(x + \nu) - f(x))

    A rate that is a number k declares mass action: each choice of the units that the change takes
    away reacts at rate k,

    .. math:: a(x) = k \prod_i \binom{x_i}{\max(-\nu_i, 0)},

    so units die or turn into others at rate k each, arrive at rate k, and pairs meet at rate k per
    pair. Where all rates are numbers and one unit at a time dies, arrives or turns into another,
    units are independent particles, which are solved in closed form. No finite number of values
    shows that a function is linear, so reactions with functions, like all others, are solved on a
    truncated space whose loss of mass is bounded.

    Arguments:
        change: The change :math:`\nu` of each species, integers of shape (S,); or one integer for
            a single species.
        rate: The number k ≥ 0 of mass action; or the propensity :math:`a`, a function of states
            (…, S) that returns (…). It is read where x and x + ν are counts.

    Raises:
        ValueError: If the change is zero or not integer, the number is negative, or a propensity
            is negative or not finite at a state where it is read.

    Example:
        >>> convert = Reaction([-1, 1], 2.0)
        >>> convert.out(torch.tensor([[3.0, 0.0]]))
        (tensor([[[2., 1.]]]), tensor([[6.]]))
        >>> meet = Reaction([-2, 1], lambda n: n[..., 0] * (n[..., 0] - 1) / (1 + n[..., 0]))
        >>> meet.out(torch.tensor([[3.0, 0.0]]))
        (tensor([[[1., 1.]]]), tensor([[1.5000]]))
    """

    arg_constraints = {"change": fixed, "rate": nonnegative}
    event_axes = 1
    change: Tensor
    rate: Tensor

    def __init__(
        self, change: int | list[int] | Tensor, rate: Number | Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        declare(self, "change", as_numbers(change, "change").reshape(-1))
        moved = self.change.detach()
        require(
            bool((moved == moved.round()).all()) and bool(moved.any()),
            f"change must hold integers, not all zero; it is {moved.tolist()}",
        )
        self.function = rate if callable(rate) else None
        if self.function is not None:
            return
        declare(self, "rate", rate)
        require(
            self.rate.dim() == 0,
            f"rate must be a number or a function; its shape is {tuple(self.rate.shape)}",
        )
        require_nonnegative(self.rate, "rate")

    @property
    def species(self) -> int:
        return self.change.shape[0]

    @property
    def mass_action(self) -> bool:
        """Whether the rate is declared to be a number."""
        return self.function is None

    def propensity(self, x: Tensor) -> Tensor:
        """The rate at x, zero where x or the state after the reaction is no count."""
        allowed = (x >= 0).all(-1) & ((x + self.change.to(x.dtype)) >= 0).all(-1)
        rate = self._choices(x) if self.function is None else self.function(x)
        rate = torch.as_tensor(rate).to(x.dtype)
        shapes = f"{tuple(x.shape[:-1])}, one rate per state; its shape is {tuple(rate.shape)}"
        require(broadcasts(rate, x[..., 0]), f"the propensity of {self!r} must be {shapes}")
        rate = rate.expand(x.shape[:-1])
        rate = torch.where(allowed, rate, torch.zeros_like(rate))
        if not self.mass_action and values_are_checked(x):
            self._require_rates(rate.detach(), x)
        return rate

    def _choices(self, x: Tensor) -> Tensor:
        """The rate of mass action."""
        rate = self.rate.to(x.dtype).expand(x.shape[:-1])
        for i, change in enumerate(self.change.tolist()):
            for k in range(-int(change)):
                rate = rate * (x[..., i] - k) / (k + 1)
        return rate

    def _require_rates(self, rate: Tensor, x: Tensor) -> None:
        bad = ~((rate >= 0) & rate.isfinite())
        if bool(bad.any()):
            raise ValueError(
                f"the propensity of {self!r} must be ≥ 0 and finite; "
                f"at the state {shown(x[bad][0], x.shape[-1])} it is {float(rate[bad][0]):g}"
            )

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        after = x + self.change.to(x.dtype)
        return after.unsqueeze(-2), self.propensity(x).unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = x - self.change.to(x.dtype)
        return before.unsqueeze(-2), self.propensity(before).unsqueeze(-1)

    def widths(self) -> dict[str, int]:
        return {"change": self.species}

    def extra_repr(self) -> str:
        change = f"{[int(c) for c in self.change.tolist()]}"
        return f"{change}, {written(self.rate)}" if self.mass_action else change
