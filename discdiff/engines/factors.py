r"""Independent chains in the factors of one state: :math:`P = P_1 \otimes P_2 \otimes \cdots`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..solve import Engine, solves
from ..structures import Kronecker
from .finite import Finite
from .kernels import FiniteChain, Kernel, Structured, kernel_of
from .replacement import Replacement


@dataclass
class Factors(Kernel):
    """Independent factors of one state.

    Arguments:
        term: Knows how states are made of factors.
        kernels: One per factor.
    """

    term: Kronecker
    kernels: list[Kernel]

    def __post_init__(self) -> None:
        self.size = self.term.size

    def to(self, dtype: torch.dtype) -> Any:
        same = super().to(dtype)
        same.kernels = [kernel.to(dtype) for kernel in self.kernels]
        return same

    def _outer(self, each: list[Tensor]) -> Tensor:
        table = each[0]
        for other in each[1:]:
            table = (table.unsqueeze(-1) * other.unsqueeze(-2)).flatten(-2)
        return table

    def row(self, x: Tensor) -> Tensor:
        pairs = zip(self.kernels, self.term.parts(x), strict=True)
        return self._outer([kernel.row(part) for kernel, part in pairs])

    def column(self, x: Tensor) -> Tensor:
        pairs = zip(self.kernels, self.term.parts(x), strict=True)
        return self._outer([kernel.column(part) for kernel, part in pairs])

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        pairs = zip(self.kernels, self.term.parts(x), strict=True)
        readers = [kernel.entry(part) for kernel, part in pairs]

        def read(y: Tensor) -> Tensor:
            each = [f(part) for f, part in zip(readers, self.term.parts(y), strict=True)]
            return torch.stack(each).prod(0)

        return read

    def times(self, v: Tensor) -> Tensor:
        shape = v.shape
        for kernel, side, stride in zip(
            self.kernels, self.term.sides, self.term.strides, strict=True
        ):
            parts = v.reshape(*shape[:2], -1, side, stride).transpose(-1, -2)
            moved = kernel.times(parts.reshape(shape[0], -1, side)).reshape(parts.shape)
            v = moved.transpose(-1, -2).reshape(shape)
        return v

    def moved(self, x: Tensor) -> Tensor:
        pairs = zip(self.kernels, self.term.parts(x), self.term.strides, strict=True)
        return torch.stack([stride * kernel.moved(part) for kernel, part, stride in pairs]).sum(0)


@solves(Kronecker)
class Factored(Structured):
    """Independent chains in the factors of one state."""

    technique = "a kernel per factor"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        inner = [chain.engine for chain in terms[0].chains] if len(terms) == 1 else [None]
        known = all(isinstance(engine, FiniteChain | Replacement) for engine in inner)
        return cls(terms) if known else Finite(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        (self.term,) = terms

    @property
    def inner(self) -> list[Any]:
        """The engines of the factors."""
        return [chain.engine for chain in self.term.chains]

    def branch(self) -> str:
        names = " ⊗ ".join(type(engine).__name__ for engine in self.inner)
        return f"{' × '.join(map(str, self.term.sides))} states: {names}"

    def kernel(self, s: Tensor, t: Tensor) -> Factors:
        own = self.term.scale
        return Factors(self.term, [kernel_of(e, own * s, own * t) for e in self.inner])

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        each = [engine.limit((1,)).probs[0].double() for engine in self.inner]
        table = each[0]
        for other in each[1:]:
            table = torch.outer(table, other).flatten()
        return self.spread(shape, table)
