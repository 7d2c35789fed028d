r"""Chains of one-step kernels: products, each made once and kept.

.. math:: P_{s,t} = Q_{s+1} Q_{s+2} \cdots Q_t

What starts at the data, :math:`P_{0,k}`, stands in one table, and so do the steps themselves;
other pairs of times are multiplied when they are first asked for. Factors have no negative
entries, so products have small relative error. See `kernels` for what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..chains import Kernels
from ..estimates import Estimate
from ..numerics.special import safe_log
from ..params import changes
from ..shapes import one_time
from ..solve import Tempo, Unsolved, solves
from ..validation import require, shown, values_are_checked
from .kernels import FiniteChain, Kernel, as_default
from .replacement import Exits

NEAR = 1e-6  # how far a clock may show from an integer
SQUARINGS = 60  # of a whole run, after which what still depends on the start always will
SAME = 1e-9  # how far laws of two starts may be apart at the limit


@solves(Kernels)
class Products(FiniteChain):
    """A chain on finitely many states that is declared by its steps."""

    technique = "products of one-step kernels"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        require(len(terms) == 1, "chains that are declared by their steps have no sum")
        (self.term,) = terms
        self.size, self.count = self.term.size, self.term.count
        self.changes = changes(self.term)
        self._kept: dict[Any, Tensor] = {}

    def branch(self) -> str:
        return self.term.extra_repr()

    # -- transition matrices -------------------------------------------------------------------

    def kernel(self, s: Tensor, t: Tensor) -> Kernel:
        i, j = self.index_of(one_time(s, t)), self.index_of(one_time(t, s))
        if self.term.constant:
            i, j = torch.zeros_like(i), j - i
        if not bool(i.any()):
            return Product(self.kept("from the data", self._from_data), j)
        if bool((j == i + 1).all()):
            return Product(self.kept("steps", self.term.matrices), i)
        pairs, index = torch.stack([i, j], 1).unique(dim=0, return_inverse=True)
        many = [self.kept(tuple(p), lambda p=p: self._between(*p)) for p in pairs.tolist()]
        return Product(torch.stack(many), index)

    def index_of(self, t: Tensor) -> Tensor:
        """Own times as integers.

        Raises:
            ValueError: If one is none, or no step leads there.
        """
        k = t.round()
        if values_are_checked(t):
            bad = ((t - k).abs() > NEAR) | (k < 0) | (k > self.count)
            rule = f"a chain of {self.count} steps has laws at its steps 0 … {self.count} only"
            require(not bool(bad.any()), f"{rule}; it is asked for at {shown(t[bad])}")
        return k.long()

    def kept(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """A table that is made once, or each time where the kernels change."""
        if self.changes:
            return make()
        if key not in self._kept:
            with torch.inference_mode(False), torch.no_grad():
                self._kept[key] = make()
        return self._kept[key]

    def _from_data(self) -> Tensor:
        """All products from 0, (T + 1, K, K)."""
        Q = self.term.matrices()
        P = [torch.eye(self.size, dtype=Q.dtype, device=Q.device)]
        for k in range(self.count):
            P.append(P[-1] @ Q[k % len(Q)])
        return torch.stack(P)

    def _between(self, i: int, j: int) -> Tensor:
        """The product from i to j, (K, K)."""
        Q = self.term.matrices()
        P = torch.eye(self.size, dtype=Q.dtype, device=Q.device)
        for k in range(i, j):
            P = P @ Q[k]
        return P

    # -- laws ----------------------------------------------------------------------------------

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        r"""The law that every step leaves as it is and that repeats of the run reach."""
        Q = self.term.matrices()
        P = Q[0] if self.term.constant else self._between(0, self.count)
        for _ in range(SQUARINGS):
            P = P @ P
            P = P / P.sum(-1, keepdim=True)
        pi = P[0]
        apart = float((P - pi).detach().abs().max())
        if apart > SAME:
            raise Unsolved(f"the limit depends on the start (by up to {apart:.2g})")
        moved = float((pi @ Q - pi).detach().abs().max())
        if moved > SAME:
            raise Unsolved(f"no law is left as it is by every step (the last by {moved:.2g})")
        return self.law(safe_log(as_default(pi)).expand(*shape, self.size))

    def tempo(self) -> Tempo:
        return Tempo()  # steps are counted, and no density of times is asked for

    def exits(self, estimate: Estimate, x: Tensor, t: Tensor) -> Exits | None:
        return None

    def kl_rate(self, target: Any, estimate: Any, x: Tensor, t: Tensor) -> None:
        raise Unsolved("a chain has steps, no rates: its loss is loss(chain, head, x_0, k)")


class Product(Kernel):
    """Matrices of a table, one per batch element.

    Arguments:
        table: Shape (n, K, K), float64.
        index: Which of them, (B,), or (1,) where one serves all.
    """

    def __init__(self, table: Tensor, index: Tensor) -> None:
        self.table, self.index, self.size = table, index, table.shape[-1]

    def row(self, x: Tensor) -> Tensor:
        return self.cast(self.table[self.index.unsqueeze(1), x])

    def column(self, x: Tensor) -> Tensor:
        return self.cast(self.table.mT[self.index.unsqueeze(1), x])

    def times(self, v: Tensor) -> Tensor:
        return (v.double() @ self.table[self.index]).to(v.dtype)

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        some, start = self.index.reshape(-1, 1, 1), x.unsqueeze(-1)
        return lambda y: self.cast(self.table[some, start, y])
