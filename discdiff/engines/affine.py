r"""Steps that are linear in the state, in what the network says and in fresh noise,

.. math:: y = a\, x + b\, e + d + c\, \xi .

Every reverse step of a Gaussian process is one, and so is the reading of :math:`\hat x_0`: for
each kind of estimate :math:`\hat x_0 = p\, (x - m) + q\, e` with numbers p and q that depend on
the time alone. So all numbers of a run are found at once, in float64, and a step passes over the
data as few times as can be.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Data, Epsilon, Estimate, Mean, Normal, Score
from ..shapes import act, one_time
from ..solve import Engine, Unsolved


class Affine(ABC):
    """Maps for a batch of times, dimension 0 of all numbers; c is None where none is noisy."""

    c: Any

    @abstractmethod
    def rows(self) -> list[Any]:
        """The maps one by one, each for a batch of any size."""

    @abstractmethod
    def centre(self, x: Tensor, e: Tensor) -> Tensor:
        r""":math:`a x + b e + d`."""

    @abstractmethod
    def draw(self, x: Tensor, e: Tensor) -> Tensor:
        """The map with noise, where there is any."""


@dataclass
class Entrywise(Affine):
    """Numbers (n,), or diagonals (n, k) on the last axis; in a row of a run, plain floats.

    Arguments:
        a: On the state.
        b: On what the network says.
        d: Added; None for nothing.
        c: On noise; None for none.

    Example:
        >>> numbers = torch.tensor([0.5, 0.25]).double()
        >>> first, last = Entrywise(numbers, 1 - numbers).rows()
        >>> last.draw(torch.ones(1, 2), torch.zeros(1, 2))
        tensor([[0.2500, 0.2500]])
    """

    a: Any
    b: Any
    d: Any = None
    c: Any = None

    def rows(self) -> list[Entrywise]:
        columns = (_split(v, len(self.a)) for v in (self.a, self.b, self.d, self.c))
        return [Entrywise(*row) for row in zip(*columns, strict=True)]

    def centre(self, x: Tensor, e: Tensor) -> Tensor:
        require_said_shape(e, x.shape)
        if isinstance(self.b, float):
            moved = torch.add(x * self.a, e, alpha=self.b)
        else:
            moved = aligned(self.a, x) * x + aligned(self.b, x) * e
        return moved if self.d is None else moved + aligned(self.d, x)

    def draw(self, x: Tensor, e: Tensor) -> Tensor:
        moved = self.centre(x, e)
        return moved if self.c is None else moved + aligned(self.c, x) * torch.randn_like(x)


def require_said_shape(e: Tensor, shape: torch.Size) -> None:
    """Raises ``ValueError`` where what is said would be broadcast against the state."""
    if e.shape != shape:
        raise ValueError(
            f"what the network says must have shape {tuple(shape)}; its shape is {tuple(e.shape)}"
        )


def aligned(value: Any, x: Tensor, more: int = 0) -> Any:
    """Numbers (n, ...) against a state and ``more`` axes, in its dtype; a float as it is."""
    if isinstance(value, float):
        return value
    gap = (1,) * (x.dim() + more - value.dim())
    return value.to(x.dtype).reshape(value.shape[:1] + gap + value.shape[1:])


def _split(value: Tensor | None, count: int) -> list[Any]:
    if value is None:
        return [None] * count
    if value.dim() == 1:
        return value.tolist()
    return list(value.split(1))


@dataclass
class Vectorwise(Affine):
    r"""Matrices (n, \*sides, k, k) on the last axis.

    Arguments:
        a: On the state, (n, \*sides, k, k).
        b: On what the network says, (n, \*sides, k, c).
        d: Added, (n, \*sides, k); None for nothing.
        c: On noise, lower triangular, (n, \*sides, k, k); None for none.
        turn: Turns what c makes of noise, orthogonal of shape (k, k); None for no turn.
        flat_in: Whether the network speaks of data without a last axis (c = 1).
        flat_out: Whether the result is data without a last axis.
    """

    a: Tensor
    b: Tensor
    d: Tensor | None = None
    c: Tensor | None = None
    turn: Tensor | None = None
    flat_in: bool = False
    flat_out: bool = False

    def rows(self) -> list[Vectorwise]:
        parts = (self.a, self.b, self.d, self.c)
        columns = [[None] * len(self.a) if v is None else list(v.split(1)) for v in parts]
        same = self.turn, self.flat_in, self.flat_out
        return [Vectorwise(*row, *same) for row in zip(*columns, strict=True)]  # type: ignore

    def centre(self, x: Tensor, e: Tensor) -> Tensor:
        require_said_shape(e, x.shape[:-1] if self.flat_in else x.shape)
        e = e.unsqueeze(-1) if self.flat_in else e
        moved = act(aligned(self.a, x, 1), x) + act(aligned(self.b, x, 1), e)
        moved = moved if self.d is None else moved + aligned(self.d, x)
        return moved.squeeze(-1) if self.flat_out else moved

    def draw(self, x: Tensor, e: Tensor) -> Tensor:
        moved = self.centre(x, e)
        if self.c is None:
            return moved
        noise = act(aligned(self.c, x, 1), torch.randn_like(x))
        return moved + (noise if self.turn is None else noise @ self.turn.to(x.dtype).mT)


class AffineEngine(Engine, ABC):
    """An engine whose reverse steps are affine; the statistic that closes its heads is x_0."""

    deterministic = True
    speaks: ClassVar[tuple[type[Estimate], ...]]  # what determines E[x_0 | x_t], beside the data
    auxiliaries: Any = None  # what a lift adds to the data on a last axis

    @abstractmethod
    def affine(self, kind: type, s: Tensor, t: Tensor, eta: float) -> Affine:
        r"""The step to s that keeps the marginal, with noise :math:`\eta` times the bridge's."""

    @abstractmethod
    def reading(self, kind: type, t: Tensor) -> Affine:
        r""":math:`\hat x_0` from the state and what the network says of it."""

    @abstractmethod
    def spread(self, estimate: Normal, s: Tensor, t: Tensor, eta: float) -> Any:
        """The c of a step that is averaged over a normal law of the data."""

    @abstractmethod
    def around(self, centre: Tensor, c: Tensor) -> Distribution:
        r"""The law of :math:`y + c\, \xi`."""

    @abstractmethod
    def trace(self, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\tfrac12 \operatorname{tr} G \Sigma^{-1}` for each value of the integrand."""

    @abstractmethod
    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio, (B,), or (B, k) of a diagonal."""

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self.step(estimate, x, s, t, 1.0)

    def step(
        self, estimate: Estimate, x: Tensor, s: Tensor, t: Tensor, eta: float
    ) -> Distribution:
        kind, said = self.said(estimate)
        move = self.affine(kind, one_time(s, t), one_time(t, s), eta)
        centre = move.centre(x, said)
        if isinstance(estimate, Normal):
            return self.around(centre, self.spread(estimate, s, t, eta))
        return laws.point(centre) if move.c is None else self.around(centre, move.c)

    def mean_of(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\hat x_0`, the statistic, from any estimate that determines it."""
        kind, said = self.said(estimate)
        if not issubclass(kind, Data | Mean):
            return self.reading(kind, t).centre(x, said)
        require_said_shape(said, x.shape if self.auxiliaries is None else x.shape[:-1])
        return said

    def said(self, estimate: Estimate) -> tuple[type, Tensor]:
        """The kind of an estimate, a finite law by its mean, and the tensor that it says."""
        if isinstance(estimate, Atoms):
            return Mean, estimate.average(estimate.atoms)
        self.require_said(type(estimate))
        if isinstance(estimate, Normal):
            return self.said(estimate.mean)
        return type(estimate), estimate.value  # type: ignore[attr-defined]

    def require_said(self, kind: type) -> None:
        """Raises ``Unsolved`` unless this kind of estimate determines the statistic."""
        if not issubclass(kind, (Data, *self.speaks)):
            names = ", ".join(known.__name__ for known in self.speaks)
            raise Unsolved(
                f"{kind.__name__} does not determine E[x_0 | x_t] here; {names} and Exact do"
            )

    def decays(self, head: Any) -> bool:
        return head.kind is Atoms or head.kind is Data

    def starts_at_infinity(self, head: Any) -> bool:
        spoken = head.head if head.kind is Normal else head
        return spoken.kind not in (Epsilon, Score)
