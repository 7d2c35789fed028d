"""What a term is, and the kinds of terms: drifts, diffusions and jumps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.utils.parametrize import type_before_parametrizations

from ..clock import Clock
from ..params import declare, factor
from ..process import Generator
from ..shapes import one_shape
from ..validation import require
from .numbers import zero

Number = float | Tensor

Numbers = float | list | Tensor

Function = Callable[[Tensor], Tensor]


class Term(Generator):
    """One summand of a generator. ``c * term`` runs it c times as fast."""

    arg_constraints = {"scale": factor}
    support: ClassVar[constraints.Constraint] = constraints.real
    categorical: ClassVar[bool] = False
    local: ClassVar[bool] = True  # whether it moves along a field, by white noise or to few points
    event: tuple[int, ...] | None = None  # the shape that a state must have, where there is one
    scale: Tensor

    def __init__(self, *numbers: Any) -> None:
        super().__init__()
        name = type(self).__name__
        require(
            not numbers,
            f"{name} takes no number: it has unit rate, and 2.0 * {name}() has rate 2; "
            f"given: {', '.join(map(repr, numbers))}",
        )
        declare(self, "scale", 1.0)

    @property
    def terms(self) -> tuple[Term, ...]:
        return (self,)

    def __rmul__(self, rate: Number) -> Term:
        if not isinstance(rate, float | int | Tensor):
            return NotImplemented
        require("scale" in self._buffers, "the factor of this term is learned: scale first")
        clone = self._copy()
        declare(clone, "scale", rate * self.scale)
        require(
            clone.scale.dim() == 0,
            f"the factor of a term must be a number; its shape is {tuple(clone.scale.shape)}",
        )
        fits = bool(clone.scale.detach() >= 0) and bool(clone.scale.detach().isfinite())
        require(fits, f"a rate must be ≥ 0 and finite; it is {rate}")
        return clone

    @property
    def idle(self) -> bool:
        """Whether the term does nothing: its rate, or its factor, is zero and stays so."""
        return zero(self.scale)

    def widths(self) -> dict[str, int]:
        """The sizes that the last axis of a state must have, by the name of what asks for it."""
        return {}

    def entry_shapes(self) -> dict[str, torch.Size]:
        """The shapes of matrices per entry, (*event, k, k) without (k, k), by their names."""
        return {}

    def check_shape(self, x: Tensor, name: str) -> None:
        """Raises ``ValueError`` if states of this shape do not fit the declared numbers."""
        for of, size in self.widths().items():
            require(
                x.dim() >= 2 and x.shape[-1] == size,
                f"the last axis of {name} must have size {size}, as {of} has; "
                f"its shape is {tuple(x.shape)}",
            )
        for of, sides in self.entry_shapes().items():
            require(
                one_shape(x.shape[1:-1], sides) == x.shape[1:-1],
                f"{name} must have shape (B, {', '.join(map(str, sides))}, {x.shape[-1]}), as "
                f"{of} has one matrix per entry; its shape is {tuple(x.shape)}",
            )

    def __repr__(self) -> str:
        scale = float(self.scale.detach())
        name = f"{type_before_parametrizations(self).__name__}({self.extra_repr()})"
        return name if scale == 1.0 else f"{scale:g} * {name}"


class Drift(Term):
    """A term that moves the state along a velocity field."""

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity at x and own time t of shape (B,), of the state's shape."""


class Diffusion(Term):
    r"""A term that adds noise: :math:`B(x, t)\, dW`.

    The noise has the state's shape, but for its last axis where ``sources`` says another size.
    """

    sources: int | None = None

    def white(self, x: Tensor) -> Tensor:
        """Standard normal noise for a state x."""
        shape = x.shape if self.sources is None else (*x.shape[:-1], self.sources)
        return torch.randn(shape, dtype=x.dtype, device=x.device)

    @abstractmethod
    def mix(self, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`B(x, t)` applied to noise."""

    @abstractmethod
    def unmix(self, vector: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`B(x, t)^\top` applied to a vector of the state's shape."""


class Jump(Term):
    """A term that jumps, entry by entry. A jump to the state itself counts for nothing.

    To declare a jump of one's own, subclass and say where it leads and whence it comes. States are
    counts unless ``support`` and ``categorical`` say otherwise.
    """

    support: ClassVar[constraints.Constraint] = constraints.nonnegative_integer
    event_axes: int = 0

    @abstractmethod
    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points y that x jumps to and the rates r(x, y), each of shape (*x.shape, M)."""

    @abstractmethod
    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points y that jump to x and the rates r(y, x), each of shape (*x.shape, M)."""

    def frozen(self, t: Tensor) -> Jump:
        """The jump with its rates at own time t (B,); itself where they do not vary."""
        return self


class LinearDrift(Drift):
    r"""Motion :math:`(A x + b)\, dt` with declared A and b, which engines read."""

    @property
    def event_axes(self) -> int:
        """How many last axes of a state belong to one entry."""
        return int(self.is_matrix())

    @abstractmethod
    def system(self, t: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """A and b at own times (n,) as matrices (n or 1, *sides, k, k) and vectors (n or 1, k)."""

    @abstractmethod
    def is_matrix(self) -> bool:
        """Whether coordinates of the last axis are coupled."""

    @abstractmethod
    def varies(self) -> bool:
        """Whether A or b is a function of time."""


class WhiteNoise(Diffusion):
    r"""Noise :math:`B\, dW` with declared B, which engines read."""

    @property
    def event_axes(self) -> int:
        """How many last axes of a state belong to one entry."""
        return int(self.is_matrix())

    @abstractmethod
    def matrix(self, t: Tensor, size: int) -> Tensor:
        """B at own times (n,) as matrices (n or 1, *sides, k, r)."""

    def square(self, t: Tensor, size: int) -> Tensor:
        r""":math:`B B^\top` at own times (n,), shape (n or 1, *sides, k, k)."""
        B = self.matrix(t, size)
        return B @ B.mT

    @abstractmethod
    def is_matrix(self) -> bool:
        """Whether coordinates of the last axis are coupled."""

    @abstractmethod
    def varies(self) -> bool:
        """Whether B is a function of time."""


class Retimed(nn.Module):
    r"""A number of a term on a clock, as a function of the clock's time t.

    .. math:: v(t) = \big(c\, \Lambda'(t)\big)^p\, v_{\text{own}}(\Lambda(t))

    with c the factor of the term, and p = 1 for a drift, 1/2 for noise.

    Arguments:
        clock: The clock.
        term: The term, whose factor is read.
        values: The number at own times (n,), with n or 1 in front.
        power: The exponent p.
    """

    clock: Clock
    term: Term

    def __init__(
        self, clock: Clock, term: Term, values: Callable[[Tensor], Tensor], power: float = 1.0
    ) -> None:
        super().__init__()
        self.clock, self.term, self.values, self.power = clock, term, values, power

    def forward(self, t: Tensor) -> Tensor:
        value = self.values(self.clock(t))
        rate = (self.term.scale * self.clock.rate(t)) ** self.power
        return rate.expand(t.shape).reshape(t.shape + (1,) * (value.dim() - 1)) * value
