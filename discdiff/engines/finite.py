r"""Dense rate matrices, by uniformization with squaring.

With :math:`P_{s,t}` the transition matrices, at :math:`x_t = x` and a posterior :math:`\mu` of
:math:`x_0`,

.. math::
    p(x_s = b \mid x) = \sum_a \mu(a) \frac{P_{0,s}(a, b)\, P_{s,t}(b, x)}{P_{0,t}(a, x)}, \qquad
    \frac{p_t(y)}{p_t(x)} = \sum_a \mu(a) \frac{P_{0,t}(a, y)}{P_{0,t}(a, x)}.

Ratios of transition probabilities are what everything reads, so entries are computed with small
*relative* error. Rates that vary in time and do not commute go through a tree of products of
panels instead. Coupled sites are one joint space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Conditional, Data, Estimate, LeaveOneOut, Logits, Posterior, Ratio
from ..numerics.linalg import Propagator, Uniformized, panels_for
from ..numerics.special import safe_log
from ..params import changes
from ..shapes import span
from ..solve import Engine, Score, Unsolved, solves
from ..terms import FiniteJump, RateMatrix
from ..validation import require
from .replacement import Exits, atom_log_table, log_ratio_table

TOLERANCE = 1e-10  # of the panels for rates that vary in time
MARGIN = 4  # more squarings for rates that change where they cannot be looked at


@solves(FiniteJump)
class Finite(Engine):
    """Any chain on finitely many states (a thousand at most, in practice)."""

    technique = "uniformization with squaring"

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        sizes = {(term.size, getattr(term, "sites", ())) for term in terms}
        require(len(sizes) == 1, f"rate matrices of different spaces in one sum: {sorted(sizes)}")
        ((self.size, self.sites),) = sizes
        self.varying = any(getattr(term, "function", None) is not None for term in terms)
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
        each = [
            term.scale * term.function(t)
            if isinstance(term, RateMatrix) and term.function is not None
            else term.matrix().expand(t.shape[0], -1, -1)
            for term in self.terms
        ]
        return torch.stack(each).sum(0)

    # -- transition matrices -------------------------------------------------------------------

    def _kernel(self, s: Tensor, t: Tensor) -> _Kernel:
        if self.varying:
            return _Varying(self._propagator(t), s, t)
        once = len(t) > 1 and s.stride() == t.stride() == (0,)
        return _Homogeneous(self._table(), span(s[:1], t[:1]) if once else span(s, t))

    def _since_start(self, t: Tensor) -> _Kernel:
        return self._kernel(t.new_zeros(1).expand(t.shape), t)

    def _table(self) -> Uniformized:
        dtype = torch.get_default_dtype()
        if self.changes:
            return self._fresh_table().to(dtype)
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
        horizon = self._horizon(t)
        if self.changes:
            return self._fresh_propagator(horizon, t.device)
        known = self._propagators.get(t.device)
        if known is None or known.horizon < horizon:
            with torch.inference_mode(False), torch.no_grad():
                known = self._fresh_propagator(horizon, t.device)
            self._propagators[t.device] = known
        return known

    def _fresh_propagator(self, horizon: int, device: torch.device) -> Propagator:
        if horizon in self._panels:
            known = Propagator(self.matrix, horizon, self._panels[horizon], device)
            looks = self.changes and not torch.compiler.is_compiling()
            if not looks or known.error() <= TOLERANCE:
                return known
        self._panels[horizon] = panels_for(self.matrix, horizon, TOLERANCE, device)
        return Propagator(self.matrix, horizon, self._panels[horizon], device)

    def _horizon(self, t: Tensor) -> int:
        """The next power of two above t, or a later one that is known.

        A compiled verb cannot look at t. It answers up to what was asked for before, nan beyond.
        """
        horizon = max([1, *self._panels])
        if torch.compiler.is_compiling():
            return horizon
        end = float(t.detach().max()) if t.numel() else 0.0
        if end == torch.inf:
            raise Unsolved("rates that vary in time are solved up to finite times only")
        while horizon < end:
            horizon *= 2
        return horizon

    # -- laws ----------------------------------------------------------------------------------

    def index(self, x: Tensor) -> Tensor:
        """The joint index of states."""
        return laws.box_index(x, self.sites)[0] if self.sites else x

    def _law(self, log_probs: Tensor) -> Distribution:
        if self.sites:
            law = laws.Indexed(log_probs, self.sites, torch.int64)
        else:
            law = laws.Table(log_probs, torch.int64)
        return law.to_event(log_probs.dim() - 2)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self._law(safe_log(self._kernel(s, t).rows(self.index(x))))

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        x = self.index(x)
        zero = torch.zeros_like(s)
        late = self._kernel(s, t).columns(x)
        if isinstance(estimate, Data):
            early = self._kernel(zero, s).rows(self.index(estimate.value))
        else:
            weights = self._weights(estimate, x, t)
            early = self._kernel(zero, s).apply(weights)
        return self._law(safe_log(early * late).log_softmax(-1))

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
        return self._law(log_probs.expand(*sites, self.size))

    def exits(self, estimate: Estimate, x: Tensor, t: Tensor) -> Exits | None:
        r"""How fast the reversal leaves x, and draws of where it goes; None for ratios.

        .. math:: r(y) = Q(y, x)\, v(y) / v(x), \quad v(y) = \sum_a \mu(a) P(a, y) / P(a, x)
        """
        known = isinstance(estimate, Posterior | LeaveOneOut)
        if not known or self.varying or self.sites:
            return None
        kernel, own = self._since_start(t), x.unsqueeze(-1)
        weights = estimate.masked_logits.softmax(-1)
        times = len(kernel.tau)  # type: ignore[attr-defined]  # one, or one per batch element
        eye = torch.eye(self.size, dtype=weights.dtype, device=x.device).expand(times, -1, -1)
        P = kernel.apply(eye)
        if isinstance(estimate, Posterior):
            row = torch.arange(times, device=x.device).reshape((-1,) + (1,) * (x.dim() - 1))
            column = P.mT[row.expand(len(x), *row.shape[1:]), x]
            weights = torch.where(column > 0, weights / column, 0.0)
        v = (weights.reshape(times, -1, self.size) @ P).reshape(weights.shape)
        into = self.matrix().detach().mT.to(v.dtype)[x]
        rates = (into * v / v.gather(-1, own)).detach().scatter_(-1, own, 0.0)

        def draw(where: tuple[Tensor, ...]) -> Tensor:
            cdf = rates[where].double().cumsum(-1)
            u = torch.rand_like(cdf[:, :1]) * cdf[:, -1:]
            return torch.searchsorted(cdf, u, right=True).squeeze(-1)

        return rates.sum(-1), draw

    def staggered(self, v: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`[v P_{s,t}^{-1}](y)\, P_{s,t}(y, x)` for all y, v (B, *sites, K)."""
        kernel = self._kernel(s, t)
        eye = torch.eye(self.size, dtype=v.dtype, device=v.device).expand(len(s), -1, -1)
        flat = v.reshape(len(s), -1, self.size)
        before = torch.linalg.solve(kernel.apply(eye), flat, left=False)
        return before.reshape(v.shape) * kernel.columns(self.index(x))

    # -- scores and estimates ------------------------------------------------------------------

    def _posterior(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r"""The posterior :math:`\mu`, shape (B, *sites, K)."""
        if isinstance(estimate, Data):
            index = self.index(estimate.value)
            return torch.nn.functional.one_hot(index, self.size).to(torch.get_default_dtype())
        if isinstance(estimate, Atoms):
            atoms = Atoms(estimate.log_weights, self.index(estimate.atoms))
            return atom_log_table(atoms, self.size).exp()
        if isinstance(estimate, Posterior):
            return estimate.log_probs.exp()
        if isinstance(estimate, LeaveOneOut):
            joint = estimate.log_probs + safe_log(self._columns(x, t))
            return joint.softmax(-1)
        raise Unsolved(
            f"{type(estimate).__name__} does not determine the posterior of x_0; Posterior, "
            "LeaveOneOut and Exact do"
        )

    def _columns(self, x: Tensor, t: Tensor) -> Tensor:
        return self._since_start(t).columns(x)

    def _weights(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\mu(a) / P_{0,t}(a, x)` up to a factor; 0 for states that cannot lead to x."""
        if isinstance(estimate, LeaveOneOut):
            return estimate.log_probs.exp()
        column = self._columns(x, t)
        possible = column > 0
        mu = self._posterior(estimate, x, t)
        return torch.where(possible, mu / torch.where(possible, column, 1.0), 0.0)

    def ratio_table(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\log p_t(y) / p_t(x)` for all y; x is a joint index."""
        if isinstance(estimate, Conditional | Ratio):
            return log_ratio_table(estimate, x)
        kernel = self._since_start(t)
        if isinstance(estimate, Data):
            law = kernel.rows(self.index(estimate.value))
        else:
            law = kernel.apply(self._weights(estimate, x, t))
        table = safe_log(law)
        return table - table.gather(-1, x.unsqueeze(-1))

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        table = self.ratio_table(estimate, self.index(x), t)
        return Score(log_ratio=lambda y: table.gather(-1, self.index(y)))

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        x = self.index(x)
        if kind is Ratio:
            return Ratio(self.ratio_table(estimate, x, t))
        if kind is Posterior:
            return Posterior(safe_log(self._posterior(estimate, x, t)))
        if not issubclass(kind, Logits):
            raise self.unsolved(f"conversion to {kind.__name__}")
        left_out = safe_log(self._weights(estimate, x, t)).log_softmax(-1)
        if kind is LeaveOneOut:
            return LeaveOneOut(left_out)
        kernel = self._since_start(t)
        return Conditional(safe_log(kernel.apply(left_out.exp())))

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        return self._law(safe_log(self._posterior(estimate, self.index(x), t)))

    def decays(self, head: Any) -> bool:
        return head.kind in (Atoms, Data, LeaveOneOut)

    def starts_at_infinity(self, head: Any) -> bool:
        return head.kind not in (Ratio, Conditional)


class _Kernel(ABC):
    """Transition matrices P between two times per batch element."""

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """The rows P(x, ·), shape (*x.shape, K)."""

    @abstractmethod
    def columns(self, x: Tensor) -> Tensor:
        """The columns P(·, x), shape (*x.shape, K)."""

    @abstractmethod
    def apply(self, v: Tensor) -> Tensor:
        """The products v P of vectors on the last axis."""


class _Homogeneous(_Kernel):
    """One matrix per time; where one time (1,) serves the batch, all of it is one event."""

    def __init__(self, table: Uniformized, tau: Tensor) -> None:
        self.table, self.tau = table, tau

    def rows(self, x: Tensor) -> Tensor:
        return self._folded(self.table.rows, x, x.shape)

    def columns(self, x: Tensor) -> Tensor:
        return self._folded(self.table.columns, x, x.shape)

    def apply(self, v: Tensor) -> Tensor:
        return self._folded(self.table.apply, v, v.shape[:-1])

    def _folded(self, verb: Any, value: Tensor, sites: torch.Size) -> Tensor:
        if len(self.tau) == sites[0]:
            return verb(value, self.tau)
        found = verb(value.reshape(1, sites.numel(), *value.shape[len(sites) :]), self.tau)
        return found.reshape(*sites, found.shape[-1])


class _Varying(_Kernel):
    def __init__(self, propagator: Propagator, s: Tensor, t: Tensor) -> None:
        self.propagator, self.s, self.t = propagator, s, t

    def rows(self, x: Tensor) -> Tensor:
        return self.propagator.rows(x, self.s, self.t).to(torch.get_default_dtype())

    def columns(self, x: Tensor) -> Tensor:
        return self.propagator.columns(x, self.s, self.t).to(torch.get_default_dtype())

    def apply(self, v: Tensor) -> Tensor:
        return self.propagator.apply(v.double(), self.s, self.t).to(v.dtype)
