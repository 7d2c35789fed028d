r"""What count processes share that are not superpositions of deaths: laws read point by point.

With the transition law :math:`q` known at any point, everything else follows by Bayes' rule,

.. math::
    \frac{p_t(y)}{p_t(x)} = \mathbb{E}\Big[\frac{q(y \mid x_0)}{q(x \mid x_0)} \Big| x_t = x\Big],
    \qquad
    p(x_s = y \mid x_0, x_t = x) = \frac{q(y \mid x_0)\, q(x \mid y)}{q(x \mid x_0)},

the second on a box of points that grows until the mass outside is below a bound. The ratio is the
statistic that closes the heads: `Ratio`, `Posterior` and `Exact` determine it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Data, Estimate, Posterior, Ratio
from ..numerics.special import log_sum
from ..solve import Engine, Score, Unsolved
from ..validation import values_are_checked
from .counts import all_counts, count_log_table

LOST = 1e-9  # the most mass that a box may leave outside
POINTS = 4096  # the most points of a box


class Boxes(Engine):
    """An engine that knows the transition law at any point of a lattice of counts."""

    axes = 0  # 1 if the counts of several species stand on the last axis
    bounded: tuple[int, ...] | None = None  # the sides of the box where the space is finite

    @abstractmethod
    def entrywise(self, x: Tensor, s: Tensor, t: Tensor) -> TorchDistribution:
        """The transition law with entries (or sites of species) as batch dimensions."""

    @abstractmethod
    def log_pmf(self, x: Tensor, s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The log-probability of y given x; y may carry more leading axes."""

    @abstractmethod
    def log_column(self, y: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The log-probability of a state x from all points y of a box, (G, *x.shape)."""

    @property
    def moves(self) -> Tensor:
        """By what the points of a `Ratio` head differ from the state, shape (J, species)."""
        return torch.tensor([[1.0], [-1.0]], dtype=torch.float64)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self.entrywise(x, s, t).to_event(x.dim() - 1 - self.axes)

    def log_chance(self, x_0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.log_pmf(x_0, torch.zeros_like(t), t, x)

    # -- ratios --------------------------------------------------------------------------------

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        return Score(log_ratio=lambda y: self.log_ratio(estimate, x, t, y))

    def log_ratio(self, estimate: Estimate, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """log p(y)/p(x) for points (B, *event, M), or (B, *sites, M, species)."""
        if isinstance(estimate, Ratio):
            return self._read_ratio(estimate, x, y)
        lead = y.movedim(-1 - self.axes, 0)
        zero = torch.zeros_like(t)
        if isinstance(estimate, Data):
            x_0 = estimate.value
            at_x = self.log_pmf(x_0, zero, t, x)
            return (self.log_pmf(x_0, zero, t, lead) - at_x).movedim(0, -1)
        if isinstance(estimate, Atoms):
            return self._atom_ratio(estimate, x, t, lead)
        if isinstance(estimate, Posterior) and not self.axes:
            x_0, log_mu, at_x = self._posterior(estimate, x, t)
            points = lead.unsqueeze(2).expand(len(lead), *x_0.shape)
            each = _difference(self.log_pmf(x_0, zero, t, points), at_x)
            return _averaged(log_mu, each, 2).movedim(0, -1)
        raise self.refused(estimate)

    def _read_ratio(self, estimate: Ratio, x: Tensor, y: Tensor) -> Tensor:
        change = y - x.unsqueeze(-1 - self.axes)
        change = change if self.axes else change.unsqueeze(-1)
        found = torch.full(change.shape[:-1], torch.nan, dtype=x.dtype, device=x.device)
        for j, move in enumerate(self.moves.to(x.dtype)):
            value = estimate.log_ratio[..., j].unsqueeze(-1).expand(found.shape)
            found = torch.where((change == move).all(-1), value, found)
        return found

    def _atom_ratio(self, estimate: Atoms, x: Tensor, t: Tensor, lead: Tensor) -> Tensor:
        batch, count = estimate.log_weights.shape
        atoms = estimate.atoms.repeat((batch,) + (1,) * (estimate.atoms.dim() - 1)).to(x.dtype)
        many = x.repeat_interleave(count, 0)
        time = t.repeat_interleave(count)
        points = lead.repeat_interleave(count, 1)
        zero = torch.zeros_like(time)
        at_x = self.log_pmf(atoms, zero, time, many)
        each = _difference(self.log_pmf(atoms, zero, time, points), at_x)
        each = each.reshape(len(lead), batch, count, *each.shape[2:])
        weights = estimate.log_weights.reshape((batch, count) + (1,) * (each.dim() - 3))
        return _averaged(weights.to(each.dtype), each, 2).movedim(0, -1)

    def _posterior(
        self, estimate: Posterior, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All data, their log-posterior and their log-probability of x, (B, K, *event) each.

        The posterior is that on those data that can have led to x.
        """
        x_0 = all_counts(estimate.logits.shape[-1], x)
        at_x = self.log_pmf(x_0, torch.zeros_like(t), t, x.unsqueeze(1).expand(x_0.shape))
        log_mu = estimate.log_probs.movedim(-1, 1)
        possible = torch.where(at_x > -torch.inf, log_mu, torch.full_like(log_mu, -torch.inf))
        return x_0, possible.log_softmax(1), at_x

    # -- bridges -------------------------------------------------------------------------------

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        if isinstance(estimate, Data):
            table, box = self._bayes(estimate.value, x, s, t)
        elif isinstance(estimate, Posterior) and not self.axes:
            x_0, log_mu, _ = self._posterior(estimate, x, t)
            table, box = self._bayes(x_0, x.unsqueeze(1).expand(x_0.shape), s, t)
            table = _averaged(log_mu.unsqueeze(-1), table, 1)
        else:
            raise self.silent(estimate)
        if self.axes:
            law: Distribution = laws.Indexed(table, box, x.dtype)
        else:
            law = laws.Table(table, x.dtype)
        return law.to_event(x.dim() - 1 - self.axes)

    def _bayes(
        self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor
    ) -> tuple[Tensor, tuple[int, ...]]:
        """The bridge's log-probabilities on a box (…, points), and the box."""
        box = self.bounded or self._first_box(x_0, x)
        while True:
            table = self._bayes_on(box, x_0, x, s, t)
            if self.bounded is not None or not values_are_checked(x):
                return table, box
            outside = 1 - table.exp().sum(-1)
            reachable = table.max(-1).values > -torch.inf
            lost = float(torch.where(reachable, outside, torch.zeros_like(outside)).detach().max())
            if lost < max(LOST, 1e3 * torch.finfo(table.dtype).eps):
                return table, box
            box = tuple(2 * side for side in box)
            if torch.Size(box).numel() > POINTS:
                raise Unsolved(f"the bridge leaves a mass of {lost:.1e} outside {POINTS} points")

    def _first_box(self, x_0: Tensor, x: Tensor) -> tuple[int, ...]:
        if not self.axes:
            return (2 * int(torch.maximum(x_0, x).max()) + 8,)
        return tuple(2 * int(m) + 4 for m in torch.maximum(x_0, x).flatten(0, -2).amax(0))

    def _bayes_on(
        self, box: tuple[int, ...], x_0: Tensor, x: Tensor, s: Tensor, t: Tensor
    ) -> Tensor:
        points = box_points(box, x.dtype, x.device)
        points = points if self.axes else points[..., 0]
        y = points.reshape((len(points),) + (1,) * (x.dim() - self.axes) + points.shape[1:])
        y = y.expand(len(points), *x.shape)
        zero = torch.zeros_like(s)
        joint = self.log_pmf(x_0, zero, s, y) + self.log_column(y, x, s, t)
        return _difference(joint, self.log_pmf(x_0, zero, t, x)).movedim(0, -1)

    # -- estimates -----------------------------------------------------------------------------

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        if kind is Ratio:
            moves = self.moves.to(x.dtype)
            if self.axes:
                points = x.unsqueeze(-2) + moves
            else:
                points = x.unsqueeze(-1) + moves[:, 0]
            return Ratio(self.log_ratio(estimate, x, t, points))
        if kind is Posterior and isinstance(estimate, Atoms) and not self.axes:
            return Posterior(count_log_table(estimate))
        raise self.unsolved(f"conversion to {kind.__name__}")

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        if isinstance(estimate, Posterior):
            return laws.Table(estimate.log_probs, x.dtype).to_event(x.dim() - 1)
        raise self.silent(estimate)

    def decays(self, head: Any) -> bool:
        return head.kind in (Atoms, Data)

    def starts_at_infinity(self, head: Any) -> bool:
        return head.kind is not Ratio

    def refused(self, estimate: Estimate) -> Unsolved:
        return Unsolved(
            f"{type(estimate).__name__} does not determine the ratios p(y)/p(x) here; Ratio, "
            "Posterior (one species) and Exact do"
        )

    def silent(self, estimate: Estimate) -> Unsolved:
        """The refusal of bridges and decoders for what says nothing of the data."""
        return Unsolved(
            f"{type(estimate).__name__} does not say what x_0 was, as bridges and decoders ask; "
            "Posterior (one species) and Exact do. Ratio serves losses and steps of Euler"
        )


class Pointwise(Boxes):
    """An engine whose transition law is a formula, the same at every point."""

    def log_pmf(self, x: Tensor, s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.entrywise(x, s, t).log_prob(y)

    def log_column(self, y: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        flat, goal = (v.reshape(-1, *x.shape[1:]) for v in (y, x.expand(y.shape)))
        late = self.log_pmf(flat, s.repeat(len(y)), t.repeat(len(y)), goal)
        return late.reshape(y.shape[: y.dim() - self.axes])


def box_points(box: tuple[int, ...], dtype: torch.dtype, device: Any = None) -> Tensor:
    """All points of a box, shape (points, species), last coordinate fastest."""
    sides = [torch.arange(side, dtype=dtype, device=device) for side in box]
    return torch.cartesian_prod(*sides).reshape(-1, len(box))


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """a − b in logarithms, −∞ where a is impossible even if b is too."""
    b = torch.where(a == -torch.inf, torch.zeros_like(b), b)
    return a - b


def _averaged(log_weights: Tensor, values: Tensor, axis: int) -> Tensor:
    """The logarithm of a mean of exponentials; what has no weight counts for nothing, even +∞."""
    none = log_weights == -torch.inf
    return log_sum(torch.where(none, -torch.inf, log_weights + values), axis)
