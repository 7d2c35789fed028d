r"""Jumps of a reverse run: where entries may go, how fast, and steps of one jump at most.

With the fluxes of the time reversal and of the process itself,

.. math:: F(x, y) = r(y \to x)\, p_t(y), \qquad J(x, y) = r(x \to y)\, p_t(x),

every generator with rates

.. math:: \hat r_\lambda(x \to y) = \frac{(F - J)_+ + \lambda \min(F, J)}{p_t(x)},
    \qquad \lambda \ge 0,

has the same marginals in reverse, as :math:`F - J` alone moves mass. :math:`\lambda = 1` is the
time reversal; :math:`\lambda = 0` makes the fewest jumps.

References:
    | Formulating Discrete Probability Flow Through Optimal Transport (Zhang et al., 2023)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Estimate
from ..numerics.special import safe_log
from ..process import Leaf
from ..reverse import own_rates
from ..shapes import along
from ..solve import Unsolved
from ..terms import Jump
from ..validation import require_finite

Space = tuple[tuple[int, ...], torch.dtype]
Draw = Callable[[tuple[Tensor, ...]], Tensor]  # from indices of entries to points, one for each
Exits = tuple[Tensor, Draw]


@dataclass(frozen=True)
class Jumps:
    """Points that entries may jump to, and the rates, per unit of own time.

    Arguments:
        points: Shape (B, *sites, M), or (B, *sites, M, S) where S species jump together.
        rates: Shape (B, *sites, M).
        axes: The number of state axes of a jump: 0, or 1 for species.
    """

    points: Tensor
    rates: Tensor
    axes: int

    @property
    def total(self) -> Tensor:
        """The rate of leaving, per entry."""
        return self.rates.sum(-1)

    def scaled(self, factor: Tensor) -> Jumps:
        """The same jumps at rates times a factor, aligned with the rates."""
        return replace(self, rates=self.rates * factor)

    def __add__(self, other: Jumps) -> Jumps:
        """The jumps of both."""
        points = torch.cat([self.points, other.points], -1 - self.axes)
        return Jumps(points, torch.cat([self.rates, other.rates], -1), self.axes)


def jumps_of(leaf: Leaf) -> list[Jump]:
    """The jump terms of a leaf."""
    return [term for term in leaf.core.terms if isinstance(term, Jump)]


def reversal(leaf: Leaf, estimate: Estimate, x: Tensor, noise: float = 1.0) -> Jumps:
    r"""The jumps of the reversal of noise level :math:`\lambda`."""
    back = Jumps(*own_rates(leaf, estimate, x), jumps_of(leaf)[0].event_axes)
    if noise == 1:
        return back
    own = forward(leaf, x)
    F, J = (_total_at(back.points, jumps, leaf) for jumps in (back, own))
    share = torch.where(F > 0, J / torch.where(F > 0, F, 1.0), 0.0)
    return back.scaled((1 - share).clamp(min=0) + noise * share.clamp(max=1))


def forward(leaf: Leaf, x: Tensor) -> Jumps:
    """The jumps of the process itself; none to where it is."""
    terms = jumps_of(leaf)
    axes = terms[0].event_axes
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    found = [(term, *term.frozen(leaf.time).out(x)) for term in terms]
    points = torch.cat([points for _, points, _ in found], -1 - axes)
    rates = torch.cat([term.scale.to(dtype) * rates.to(dtype) for term, _, rates in found], -1)
    own = points == x.unsqueeze(-1 - axes)
    return Jumps(points, torch.where(own.all(-1) if axes else own, 0.0, rates), axes)


def _total_at(at: Tensor, jumps: Jumps, leaf: Leaf) -> Tensor:
    """The sum of the rates of all jumps that lead to each of some points."""
    space = _finite(leaf)
    if space is not None and leaf.core.dtype is not None:
        table = _tabulated(jumps, jumps.rates, space)
        return table.gather(-1, _index(at, space[0], jumps.axes))
    axes = jumps.axes
    same = at.unsqueeze(at.dim() - axes) == jumps.points.unsqueeze(at.dim() - 1 - axes)
    same = same.all(-1) if axes else same
    return torch.where(same, jumps.rates.unsqueeze(-2), 0.0).sum(-1)


# -- steps of one jump at most -----------------------------------------------------------------


def exits(leaf: Leaf, estimate: Estimate, x: Tensor, noise: float) -> Exits:
    """How fast entries leave, and draws of where they go; in closed form where one is known."""
    closed = getattr(leaf.core.engine, "exits", None)
    if closed is not None and noise == 1:
        leaf.core.check_estimate(estimate, x)
        found = closed(estimate, x, leaf.time)
        if found is not None:
            return found
    return exits_of(reversal(leaf, estimate, x, noise))


def exits_of(jumps: Jumps) -> Exits:
    """The total rates of entries, and draws of where those go that are named by an index."""

    def draw(where: tuple[Tensor, ...]) -> Tensor:
        index = laws.draw_categories(jumps.rates[where].log())
        return take(jumps.points[where], index, jumps.axes)

    return jumps.total, draw


def jump_once(x: Tensor, draw: Draw, chance: Tensor) -> Tensor:
    """Each entry jumps with a chance, to a point that is drawn for it."""
    u = torch.rand(chance.shape, dtype=torch.float64, device=x.device)
    where = (u < chance).nonzero(as_tuple=True)
    return x.index_put(where, draw(where))


def take(points: Tensor, index: Tensor, axes: int) -> Tensor:
    """One of the M points per entry."""
    if not axes:
        return points.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    index = index[..., None, None].expand(*index.shape, 1, points.shape[-1])
    return points.gather(-2, index).squeeze(-2)


def law_of_one_jump(leaf: Leaf, x: Tensor, jumps: Jumps, chance: Tensor) -> Distribution:
    """The law of `jump_once`, independent over entries.

    Raises:
        Unsolved: If the states cannot be enumerated.
    """
    space = _finite(leaf)
    if space is None:
        raise Unsolved(f"the law of a jump is known on finite spaces, not on {leaf.core.support}")
    total = jumps.total.double()
    share = torch.where(total > 0, chance / torch.where(total > 0, total, 1.0), 0.0)
    stays = Jumps(x.unsqueeze(-1 - jumps.axes), (1 - chance).unsqueeze(-1), jumps.axes)
    moves = jumps.scaled(share.unsqueeze(-1))
    both = stays + moves
    log_probs = safe_log(_tabulated(both, both.rates, space)).to(torch.get_default_dtype())
    sides, dtype = space
    if jumps.axes:
        law: Distribution = laws.Indexed(log_probs, sides, dtype)
        return law.to_event(x.dim() - 2)  # type: ignore[attr-defined]
    return laws.Table(log_probs, dtype).to_event(x.dim() - 1)  # type: ignore[attr-defined]


def expected(total: Tensor, tau: Tensor) -> Tensor:
    """The jumps to expect of entries in a span of own time (B,), from their rates; float64.

    Raises:
        ValueError: If a rate is not finite.
    """
    require_finite(total, "the rates of leaving a state")
    return total.double() * along(tau, total, torch.float64)


def add_jumps(leaf: Leaf, x: Tensor, jumps: Jumps, tau: Tensor) -> Tensor:
    """The state with Poisson numbers of jumps added up, cut off at the ends of its space."""
    axes = jumps.axes
    require_finite(jumps.total, "the rates of leaving a state")
    number = torch.poisson(jumps.rates * along(tau, jumps.rates))
    change = jumps.points - x.unsqueeze(-1 - axes)
    number = number.unsqueeze(-1) if axes else number
    moved = x + (number.to(change.dtype) * change).sum(-1 - axes)
    sides = getattr(leaf.core.terms[0], "sites", ())
    if sides:
        return moved.clamp(min=0).minimum(torch.tensor(sides, device=x.device) - 1)
    return moved.clamp(min=0, max=getattr(leaf.core.support, "upper_bound", None))


def euler_chance(mean: Tensor) -> Tensor:
    r"""The chance :math:`\min(\Lambda, 1)` of an Euler step with :math:`\Lambda` jumps expected.

    Beyond one the entry surely jumps: the chances of its points, which would sum to more than
    one, are divided by their sum.
    """
    return mean.clamp(max=1)


def leap_chance(mean: Tensor) -> Tensor:
    r"""The chance :math:`\Lambda e^{-\Lambda}` of one jump exactly."""
    return mean * (-mean).exp()


def frozen_chance(mean: Tensor) -> Tensor:
    r"""The chance :math:`1 - e^{-\Lambda}` of a jump at all."""
    return -torch.expm1(-mean)


# -- finite spaces -----------------------------------------------------------------------------


def _finite(leaf: Leaf) -> Space | None:
    """The sides of the space of one entry and its dtype, if it is finite."""
    dtype = leaf.core.dtype or torch.get_default_dtype()
    sides: tuple[int, ...] = getattr(leaf.core.terms[0], "sites", ())
    if sides:
        return sides, dtype
    low, high = (getattr(leaf.core.support, f"{end}_bound", None) for end in ("lower", "upper"))
    return ((int(high) + 1,), dtype) if low == 0 and high is not None else None


def _index(points: Tensor, sides: tuple[int, ...], axes: int) -> Tensor:
    """The joint index of points; of those outside, which have no rate, one inside."""
    if axes:
        return laws.box_index(points, sides)[0]
    return points.long().clamp(0, sides[0] - 1)


def _tabulated(jumps: Jumps, values: Tensor, space: Space) -> Tensor:
    """Values of the points, summed into a table over all states of an entry."""
    index = _index(jumps.points, space[0], jumps.axes)
    size = torch.Size(space[0]).numel()
    table = torch.zeros(*values.shape[:-1], size, dtype=values.dtype, device=values.device)
    return table.scatter_add(-1, index, values)
