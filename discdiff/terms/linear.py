"""Linear drifts and the noise that the state has no part in."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..clock import Clock
from ..params import declare, signed, sparse
from ..validation import require
from .actions import apply_linear, as_matrices, dims_of, entry_shape, with_time
from .kinds import Function, LinearDrift, Numbers, Retimed, WhiteNoise
from .numbers import START, require_function, require_numbers, written, zero


class Linear(LinearDrift):
    r"""Linear motion, :math:`dx = (A x + b)\, dt`.

    Arguments:
        A: A number, a vector (diagonal on the last axis), a matrix (k, k) on the last axis, one
            matrix per entry (*event, k, k), or a function of time that returns one of these.
        b: A number or a vector, or a function of time.

    Example:
        >>> decay = Linear(-0.5)
        >>> decay.velocity(torch.tensor([[2.0]]), torch.zeros(1))
        tensor([[-1.]])
    """

    arg_constraints = {"A": signed, "b": sparse}
    A: Tensor
    b: Tensor

    def __init__(self, A: Numbers | Function, b: Numbers | Function = 0.0) -> None:
        super().__init__()
        self.functions = {k: v for k, v in (("A", A), ("b", b)) if callable(v)}
        for name, value in (("A", A), ("b", b)):
            if not callable(value):
                declare(self, name, value)
                require_numbers(getattr(self, name), name)
                continue
            require_function(value, name)
            if isinstance(value, nn.Module):
                self.add_module(f"{name}_of_time", value)
        if "A" not in self.functions and self.A.dim() >= 2:
            require(
                self.A.shape[-1] == self.A.shape[-2],
                f"A must be square on its last two axes; its shape is {tuple(self.A.shape)}",
            )
        require(
            len(set(self.widths().values())) < 2,
            "b must be a number or have one entry for each coordinate of A on its last axis; "
            f"their sizes are {self.widths()}",
        )

    def number(self, name: str, t: Tensor) -> Tensor:
        """A or b at own times (B,): the declared number, or the function's value."""
        return self.functions[name](t) if name in self.functions else getattr(self, name)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        b = self.number("b", t).to(x.dtype)
        return apply_linear(self.number("A", t), x, "A" in self.functions) + b

    def system(self, t: Tensor, size: int) -> tuple[Tensor, Tensor]:
        A = as_matrices(self.number("A", t), "A" in self.functions, size)
        b = self.number("b", t)
        b = b if "b" in self.functions and b.dim() else b.unsqueeze(0)
        return A, (b if b.dim() > 1 else b.unsqueeze(-1)).expand(*b.shape[:1], size)

    def _values(self, name: str, t: Tensor) -> Tensor:
        return with_time(self.number(name, t), name in self.functions)

    def retimed(self, clock: Clock) -> Linear:
        A = Retimed(clock, self, partial(self._values, "A"))
        zero = "b" not in self.functions and not bool(self.b.ne(0).any())
        return Linear(A, 0.0 if zero else Retimed(clock, self, partial(self._values, "b")))

    def is_matrix(self) -> bool:
        return dims_of(self.number("A", START), "A" in self.functions) >= 2

    def varies(self) -> bool:
        return bool(self.functions)

    def widths(self) -> dict[str, int]:
        numbers = {k: getattr(self, k) for k in ("A", "b") if k not in self.functions}
        if "A" in self.functions and self.is_matrix():
            numbers["A"] = self.number("A", START)
        return {k: v.shape[-1] for k, v in numbers.items() if v.dim()}

    def entry_shapes(self) -> dict[str, torch.Size]:
        return entry_shape("A", self.number("A", START), "A" in self.functions)

    def extra_repr(self) -> str:
        shown = {k: "…" for k in self.functions}
        A, b = (shown.get(k) or written(getattr(self, k)) for k in ("A", "b"))
        return A if b == "0" else f"{A}, {b}"


class Noise(WhiteNoise):
    r"""White noise, :math:`dx = B\, dW`.

    Arguments:
        B: A number, a vector (diagonal on the last axis), a matrix (k, r) on the last axis for r
            sources of noise, one matrix per entry (*event, k, r), or a function of time that
            returns one of these.

    Example:
        >>> Noise(2.0).mix(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1))
        tensor([[2.]])
    """

    arg_constraints = {"B": signed}
    B: Tensor

    def __init__(self, B: Numbers | Function) -> None:
        super().__init__()
        self.function = B if callable(B) else None
        if self.function is None:
            declare(self, "B", B)
            require_numbers(self.B, "B")
        else:
            require_function(self.function, "B")

    @property
    def sources(self) -> int | None:  # type: ignore[override]
        return self.number(START).shape[-1] if self.is_matrix() else None

    @property
    def idle(self) -> bool:
        return super().idle or (self.function is None and zero(self.B))

    def number(self, t: Tensor) -> Tensor:
        """B at own times (B,): the declared number, or the function's value."""
        return self.B if self.function is None else self.function(t)

    def mix(self, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return apply_linear(self.number(t), noise, self.function is not None)

    def unmix(self, vector: Tensor, x: Tensor, t: Tensor) -> Tensor:
        B = self.number(t)
        return apply_linear(B.mT if self.is_matrix() else B, vector, self.function is not None)

    def matrix(self, t: Tensor, size: int) -> Tensor:
        return as_matrices(self.number(t), self.function is not None, size)

    def _values(self, t: Tensor) -> Tensor:
        return with_time(self.number(t), self.function is not None)

    def retimed(self, clock: Clock) -> Noise:
        return Noise(Retimed(clock, self, self._values, power=0.5))

    def is_matrix(self) -> bool:
        return dims_of(self.number(START), self.function is not None) >= 2

    def varies(self) -> bool:
        return self.function is not None

    def widths(self) -> dict[str, int]:
        B = self.number(START)
        if self.is_matrix():
            return {"B": B.shape[-2]}
        return {"B": B.shape[-1]} if self.function is None and B.dim() else {}

    def entry_shapes(self) -> dict[str, torch.Size]:
        return entry_shape("B", self.number(START), self.function is not None)

    def extra_repr(self) -> str:
        return "…" if self.function is not None else written(self.B)
