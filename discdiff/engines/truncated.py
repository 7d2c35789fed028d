r"""Any jumps between counts, exact on a truncated space with a proved bound on the mass lost.

The generator is restricted to a box; what leaves it goes to one absorbing state. The restricted
probabilities are below the true ones at every point, and the mass in the absorbing state bounds
the sum of all differences (finite state projection). The box grows until that mass is below the
bound; where it does not, the process is refused.

References:
    | The finite state projection algorithm for the solution of the chemical master equation
      (Munsky & Khammash, 2006)
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..numerics.linalg import Uniformized
from ..numerics.special import safe_log
from ..params import changes
from ..shapes import span
from ..solve import Engine, Unsolved, solves
from ..terms import CountJump, Jump
from ..validation import require, shown
from .boxes import POINTS, Boxes, box_points
from .simulated import Simulated

BOUND = 1e-10  # the most mass that may be lost
POINTS_OF_LIMITS = 256  # the most states on which a limit is looked for


@solves(Jump)
class Truncated(Boxes):
    """Jumps of any rates on a box of counts, by uniformization."""

    technique = "truncated space, mass lost < 1e-10"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        counts = not any(term.categorical for term in terms)
        known = all(not term.event_axes or hasattr(term, "species") for term in terms)
        return cls(terms) if counts and known else Simulated(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        axes = {term.event_axes for term in terms}
        require(len(axes) == 1, "reactions and jumps of single entries do not add up")
        (self.axes,) = axes
        if not self.axes and any(term.widths() for term in terms):
            raise Unsolved("rates that differ between entries have no one truncated space")
        self.species = next((term.species for term in terms if hasattr(term, "species")), 1)
        upper = getattr(terms[0].support, "upper_bound", None)
        self.bounded = None if upper is None else (int(upper) + 1,) * self.species
        self._tables: dict[tuple[int, ...], Uniformized] = {}
        self.changes = changes(*terms) or self._carries_graph()

    def _carries_graph(self) -> bool:
        """Whether a rate depends on a tensor that requires grad, seen by its term or not."""
        x = torch.ones((1, self.species) if self.axes else (1,), dtype=torch.float64)
        with torch.enable_grad():
            return any(term.out(x)[1].requires_grad for term in self.terms)

    def branch(self) -> str:
        return f"{self.species} species" if self.axes else "one entry at a time"

    @property
    def moves(self) -> Tensor:
        if self.axes:
            return torch.stack([-term.change for term in self.terms])
        if all(isinstance(term, CountJump) for term in self.terms):
            return super().moves
        raise Unsolved("Ratio is read at one unit more or less, and these jumps lead elsewhere")

    def generator(self, box: tuple[int, ...]) -> Tensor:
        """The rate matrix on a box, with one more state for what leaves it."""
        points = box_points(box, torch.float64)
        count = len(points)
        states = points if self.axes else points[:, 0]
        Q = torch.zeros(count + 1, count + 1, dtype=torch.float64)
        source = torch.arange(count)
        for term in self.terms:
            targets, rates = term.out(states)
            targets = targets if self.axes else targets.unsqueeze(-1)
            for m in range(rates.shape[-1]):
                index, inside = laws.box_index(targets[:, m], box)
                index = torch.where(inside, index, count)
                rate = term.scale * rates[:, m].to(torch.float64)
                bad = ~((rate.detach() >= 0) & rate.detach().isfinite())
                if bool(bad.any()):
                    raise ValueError(
                        f"rates of {term!r} must be ≥ 0 and finite; at the state "
                        f"{shown(points[bad][0], self.species)} one is {float(rate[bad][0]):g}"
                    )
                Q = Q.index_put((source, index), rate, accumulate=True)
        Q = Q - Q.diagonal().diag()
        return Q - Q.sum(1).diag()

    def table(self, box: tuple[int, ...]) -> Uniformized:
        """The transition matrices on a box."""
        if self.changes:
            return Uniformized(self.generator(box))
        if box not in self._tables:
            with torch.inference_mode(False), torch.no_grad():  # kept, and read in training later
                self._tables[box] = Uniformized(self.generator(box))
        return self._tables[box]

    def rows(self, x: Tensor, y: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Transition probabilities from x on a box that holds both states, and the box.

        Raises:
            Unsolved: If no box of the largest size loses less than the bound.
        """
        both = torch.cat([x.reshape(-1, self.species), y.reshape(-1, self.species)])
        box = self.bounded or tuple(_power_of_two(int(m) + 2) for m in both.clamp(min=0).amax(0))
        lost = torch.nan
        while True:
            if self.bounded is None and torch.Size(box).numel() > POINTS:
                raise self._too_large(both, lost)
            rows = self.table(box).rows(self._index(x, box), span(s, t))
            lost = float(rows.detach()[..., -1].max())
            if self.bounded is not None or lost < BOUND:
                return rows[..., :-1], box
            box = tuple(2 * side for side in box)

    def _too_large(self, states: Tensor, lost: float) -> Unsolved:
        if lost >= BOUND:
            reason = f"a space of {POINTS} states loses a mass of {lost:.1e} > {BOUND:g}"
        else:
            reason = f"counts up to {int(states.max())} need more than {POINTS} states"
        out = "simulate the process, or bound its growth"
        if any(not getattr(term, "mass_action", True) for term in self.terms):
            out += "; where units move by themselves, declare their rates as numbers"
        return Unsolved(f"{reason}: {out}")

    def _index(self, x: Tensor, box: tuple[int, ...]) -> Tensor:
        return laws.box_index(x if self.axes else x.unsqueeze(-1), box)[0]

    def entrywise(self, x: Tensor, s: Tensor, t: Tensor) -> TorchDistribution:
        return self._law(*self.rows(x, x, s, t), x.dtype)

    def log_pmf(self, x: Tensor, s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self._law(*self.rows(x, y, s, t), x.dtype).log_prob(y)

    def log_column(self, y: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        _, box = self.rows(x, y, torch.zeros_like(s), torch.zeros_like(s))
        column = self.table(box).columns(self._index(x, box), span(s, t))
        index = self._index(y, box)
        column = safe_log(column).movedim(-1, 0)
        return column.gather(0, index).to(x.dtype)

    def _law(self, rows: Tensor, box: tuple[int, ...], dtype: torch.dtype) -> TorchDistribution:
        log_probs = safe_log(rows).to(dtype)
        return laws.Indexed(log_probs, box, dtype) if self.axes else laws.Table(log_probs, dtype)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        require(
            not self.axes or shape[-1] == self.species, f"the last axis must be {self.species}"
        )
        row, box = self._stationary()
        log_probs = safe_log(row).to(torch.get_default_dtype())
        sites = shape[:-1] if self.axes else shape
        log_probs = log_probs.expand(*sites, -1)
        dtype = torch.get_default_dtype()
        law = laws.Indexed(log_probs, box, dtype) if self.axes else laws.Table(log_probs, dtype)
        return law.to_event(len(sites) - 1)

    def _stationary(self) -> tuple[Tensor, tuple[int, ...]]:
        """The limit from every state of the first box from which no mass is ever lost, and it.

        What leaves a box is absorbed, so the mass absorbed in the limit bounds what is lost.
        States outside are not looked at: they must lead into the box.

        Raises:
            Unsolved: If it depends on the start, or every box of the largest size loses mass.
        """
        box = self.bounded or (8,) * self.species
        while torch.Size(box).numel() <= POINTS_OF_LIMITS or box == self.bounded:
            table = self.table(box)
            rows = table.limit()[:-1]
            seen = rows.detach()
            if table.converged and float(seen[:, -1].max()) < BOUND:
                apart = float((seen - seen[0]).abs().max())
                if apart > 1e-9:
                    raise Unsolved(f"the limit depends on the start (by up to {apart:.2g})")
                return rows[0, :-1], box
            box = tuple(2 * side for side in box)
        raise Unsolved(
            f"no limit law was found on {POINTS_OF_LIMITS} states: in the end mass leaves each box"
        )


def _power_of_two(n: int) -> int:
    side = 8
    while side < n:
        side *= 2
    return side
