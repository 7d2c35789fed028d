r"""Dense rate matrices, by uniformization with squaring.

Entries of the transition matrices are computed with small *relative* error. Rates that vary in
time and do not commute go through a tree of products of panels instead. Coupled sites are one
joint space. See `kernels` for what is made of the matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..numerics.linalg import Propagator, Uniformized, panels_for
from ..numerics.special import safe_log
from ..params import changes
from ..solve import Engine, Unsolved, solves
from ..structures import Sparse
from ..terms import FiniteJump, RateMatrix
from ..validation import require, shown, values_are_checked
from .horizon import horizon
from .kernels import FiniteChain, Kernel, elapsed
from .recognise import recognise

TOLERANCE = 1e-10  # of the panels for rates that vary in time
SPARSE = 2048  # states of a graph up to which its dense table is made
MARGIN = 4  # more squarings for rates that change where they cannot be looked at


@solves(FiniteJump)
class Finite(FiniteChain):
    """Any chain on finitely many states (a thousand at most, in practice)."""

    technique = "uniformization with squaring"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        size = max(term.size for term in terms)
        if size > SPARSE and any(isinstance(term, Sparse) for term in terms):
            raise Unsolved(
                f"a graph of {size} states has no transition matrix that fits: up to {SPARSE} are "
                "solved. Ways out: simulate the process and train by ratio_matching or "
                "implicit_score_matching"
            )
        chain = _recognised(terms)
        return cls(terms) if chain is None else chain.engine

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        sizes = {(term.size, getattr(term, "sites", ())) for term in terms}
        require(len(sizes) == 1, f"rate matrices of different spaces in one sum: {sorted(sizes)}")
        ((self.size, self.sites),) = sizes
        self.varying = any(term.varies() for term in terms)
        self._tables: dict[torch.dtype, Uniformized] = {}
        self._panels: dict[int, int] = {}
        self._propagators: dict[torch.device, Propagator] = {}
        with torch.enable_grad():
            Q = self.matrix(torch.zeros(1, dtype=torch.float64) if self.varying else None)
        self.changes = changes(*terms) or Q.requires_grad
        if not self.varying:
            first = Uniformized(Q.detach())
            self.levels, self.converged = first.levels, first.converged
            self.limits = first.limit()

    def branch(self) -> str:
        space = f"{self.size} states" + (f" = sites {self.sites}" if self.sites else "")
        if self.varying:
            return f"{space}, rates vary: a tree of panels"
        return f"{space}, {self.levels} squarings"

    def matrix(self, t: Tensor | None = None) -> Tensor:
        """The rate matrix of the sum, (K, K), or (B, K, K) at times that matter."""
        if t is None:
            return torch.stack([term.matrix() for term in self.terms]).sum(0)
        return torch.stack([_looked_at(term.matrices(t), t) for term in self.terms]).sum(0)

    def leaving(self, x: Tensor) -> Tensor:
        Q = self.matrix()
        return -Q.diagonal()[x]

    # -- transition matrices -------------------------------------------------------------------

    def kernel(self, s: Tensor, t: Tensor) -> Kernel:
        if self.varying:
            return _Varying(self._propagator(t), s, t, self.size)
        tables = self._fresh_table().to if self.changes else self._table
        return _Homogeneous(tables, elapsed(s, t), self.size)

    def _table(self, dtype: torch.dtype) -> Uniformized:
        if dtype not in self._tables:
            with torch.inference_mode(False), torch.no_grad():  # kept, and read in training later
                self._tables[dtype] = Uniformized(self.matrix(), self.levels).to(dtype)
        return self._tables[dtype]

    def _fresh_table(self) -> Uniformized:
        Q = self.matrix()
        looks = Q.device.type == "cpu" and not torch.compiler.is_compiling()
        return Uniformized(Q, None if looks else self.levels + MARGIN)

    def _propagator(self, t: Tensor) -> Propagator:
        """Panels up to a time above all t: matrices that are kept where no rate changes."""
        longest = horizon(t, [1, *self._panels])
        if self.changes:
            return self._fresh_propagator(longest, t.device)
        known = self._propagators.get(t.device)
        if known is None or known.horizon < longest:
            with torch.inference_mode(False), torch.no_grad():
                known = self._fresh_propagator(longest, t.device)
            self._propagators[t.device] = known
        return known

    def _fresh_propagator(self, longest: int, device: torch.device) -> Propagator:
        if longest in self._panels:
            known = Propagator(self.matrix, longest, self._panels[longest], device)
            looks = self.changes and not torch.compiler.is_compiling()
            if not looks or known.error() <= TOLERANCE:
                return known
        self._panels[longest] = panels_for(self.matrix, longest, TOLERANCE, device)
        return Propagator(self.matrix, longest, self._panels[longest], device)

    # -- laws ----------------------------------------------------------------------------------

    def index(self, x: Tensor) -> Tensor:
        """The joint index of states."""
        return laws.box_index(x, self.sites)[0] if self.sites else x

    def law(self, log_probs: Tensor) -> Distribution:
        if not self.sites:
            return super().law(log_probs)
        return laws.Indexed(log_probs, self.sites, torch.int64).to_event(log_probs.dim() - 2)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self.law(safe_log(self.kernel(s, t).rows(self.index(x))))

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        if self.varying:
            raise Unsolved("rates that vary in time have no limit law")
        rows, converged = self.limits, self.converged
        if self.changes:
            table = self._fresh_table()
            rows, converged = table.limit(), table.converged
        apart = float((rows - rows[0]).detach().abs().max())
        if not converged or apart > 1e-9:
            raise Unsolved(f"the limit depends on the start (by up to {apart:.2g})")
        log_probs = safe_log(rows[0].to(torch.get_default_dtype()))
        sites = tuple(shape[:-1]) if self.sites else tuple(shape)
        return self.law(log_probs.expand(*sites, self.size))


def _recognised(terms: tuple[Any, ...]) -> Any:
    """The structured chain that one plain rate matrix is; None if it is none, or may change."""
    (term, *others) = terms
    plain = not others and isinstance(term, RateMatrix) and not (term.function or term.sites)
    if not plain or changes(term):
        return None
    with torch.inference_mode(False), torch.no_grad():
        Q = term.matrix()
        found = recognise(Q.cpu())
        return None if found is None else found.to(Q.device)


def _looked_at(Q: Tensor, t: Tensor) -> Tensor:
    """Rates at times, after it was checked that they are rates."""
    if values_are_checked(Q):
        bad = ~((Q >= 0) | torch.eye(Q.shape[-1], dtype=torch.bool)).flatten(1).all(1)
        bad = bad | ~Q.isfinite().flatten(1).all(1)
        require(
            not bool(bad.any()),
            f"Q must hold rates ≥ 0 and finite at all own times; it does not at {shown(t[bad])}",
        )
    return Q


class _Homogeneous(Kernel):
    """One matrix per time; where one time (1,) serves the batch, all of it is one event."""

    def __init__(
        self, tables: Callable[[torch.dtype], Uniformized], tau: Tensor, size: int
    ) -> None:
        self.tables, self.tau, self.size = tables, tau, size
        self.table = tables(torch.get_default_dtype())

    def to(self, dtype: torch.dtype) -> Any:
        same = super().to(dtype)
        same.table = self.tables(dtype)
        return same

    def row(self, x: Tensor) -> Tensor:
        return self._folded(self.table.rows, x, x.shape)

    def column(self, x: Tensor) -> Tensor:
        return self._folded(self.table.columns, x, x.shape)

    def times(self, v: Tensor) -> Tensor:
        return self._folded(self.table.apply, v.to(self.table.dtype), v.shape[:-1])

    def _folded(self, verb: Any, value: Tensor, sites: torch.Size) -> Tensor:
        if len(self.tau) == sites[0]:
            return verb(value, self.tau)
        found = verb(value.reshape(1, sites.numel(), *value.shape[len(sites) :]), self.tau)
        return found.reshape(*sites, found.shape[-1])


class _Varying(Kernel):
    def __init__(self, propagator: Propagator, s: Tensor, t: Tensor, size: int) -> None:
        self.propagator, self.s, self.t, self.size = propagator, s, t, size

    def row(self, x: Tensor) -> Tensor:
        return self.cast(self.propagator.rows(x, self.s, self.t))

    def column(self, x: Tensor) -> Tensor:
        return self.cast(self.propagator.columns(x, self.s, self.t))

    def times(self, v: Tensor) -> Tensor:
        return self.propagator.apply(v.double(), self.s, self.t).to(v.dtype)
