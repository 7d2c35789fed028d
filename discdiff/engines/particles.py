r"""Networks of monomolecular reactions: independent particles under one generator.

If units die, turn into other species and arrive at constant rates, each unit moves by itself with
a one-particle generator A on the species and one dead state, and arrivals are Poisson:

.. math::
    x_t \mid x_0 \sim \sum_i \mathrm{Multinomial}\big(x_0^i, P_{i \cdot}\big) + \mathrm{Poisson}(m),
    \qquad P = e^{A \tau}, \quad m = \int_0^\tau \lambda\, e^{A u}\, du.

Other propensities are handed to the truncated engine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from .. import laws
from ..numerics.linalg import Uniformized
from ..numerics.quadrature import gauss_legendre
from ..numerics.special import log_poisson_pmf, safe_log, times_log
from ..shapes import span
from ..solve import Engine, Unsolved, solves
from ..terms import Reaction
from .boxes import POINTS, Boxes, box_points
from .truncated import Truncated

PANEL_NODES = 24
PANELS = 16


@solves(Reaction)
class Particles(Boxes):
    """Independent particles on species, with Poisson arrivals."""

    technique = "closed form, independent particles"
    axes = 1

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        return cls(terms) if all(_linear(term) is not None for term in terms) else Truncated(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        species = {term.species for term in terms}
        if len(species) > 1:
            raise ValueError(f"reactions on different numbers of species: {sorted(species)}")
        (self.species,) = species
        generator, arrivals = self._declared()
        self.kernel, self.arrivals = Uniformized(generator.detach()), arrivals
        self.generator = generator

    def branch(self) -> str:
        arriving = "with arrivals" if bool((self.arrivals > 0).any()) else "no arrivals"
        return f"{self.species} species, {arriving}"

    @property
    def moves(self) -> Tensor:
        return torch.stack([-term.change for term in self.terms])

    def _declared(self) -> tuple[Tensor, Tensor]:
        """The one-particle generator (species and a dead state), and the arrival rates."""
        size = self.species + 1
        Q = torch.zeros(size, size, dtype=torch.float64)
        arrivals = torch.zeros(self.species, dtype=torch.float64)
        for term in self.terms:
            source, target, rate = _linear(term)  # type: ignore[misc]
            if source is None:
                arrivals[target] += float(term.scale) * rate
            else:
                Q[source, target if target is not None else self.species] += (
                    float(term.scale) * rate
                )
        return Q - Q.sum(1).diag(), arrivals

    def chances(self, tau: Tensor) -> Tensor:
        """Where one particle is after tau, shape (B, species, species + 1)."""
        return self.kernel.matrix(tau)[:, :-1]

    def arrived(self, tau: Tensor) -> Tensor:
        """The means of the arrivals after tau, shape (B, species)."""
        if not bool((self.arrivals > 0).any()):
            return torch.zeros(tau.shape[0], self.species, dtype=torch.float64)
        if not bool(tau.isfinite().all()):
            raise Unsolved("arrivals are integrated up to finite times only")
        u, w = gauss_legendre(PANEL_NODES, 0.0, 1.0)
        start = torch.arange(PANELS, dtype=torch.float64).unsqueeze(-1)
        u, w = ((start + u) / PANELS).reshape(-1), (w / PANELS).repeat(PANELS)
        at = (tau.unsqueeze(-1) * u).reshape(-1)
        inside = self.kernel.matrix(at)[:, :-1, :-1].reshape(len(tau), len(u), *[self.species] * 2)
        mean = torch.einsum("n,i,bnij->bj", w, self.arrivals, inside)
        return mean * tau.unsqueeze(-1)

    def entrywise(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        tau = span(s, t)
        return Scattered(x, self.chances(tau), self.arrived(tau))


class Scattered(laws._Law):
    """The law of particles that moved by themselves, plus Poisson arrivals.

    Arguments:
        x: Particles at the start, (B, *sites, species).
        chances: (B, species, species + 1), the last column for the dead.
        mean: (B, species), the means of the arrivals.
    """

    def __init__(self, x: Tensor, chances: Tensor, mean: Tensor) -> None:
        self.x, self.chances, self.means = x, chances, mean
        super().__init__(x.shape[:-1], x.shape[-1:])

    def _aligned(self, values: Tensor, x: Tensor) -> Tensor:
        lead = x.dim() - 2
        return values.to(x.dtype).reshape(values.shape[:1] + (1,) * lead + values.shape[1:])

    @property
    def mean(self) -> Tensor:
        chances = self._aligned(self.chances, self.x)[..., :-1]
        moved = (self.x.unsqueeze(-2) @ chances).squeeze(-2)
        return moved + self._aligned(self.means, self.x)

    def _draw(self, shape: Size) -> Tensor:
        x = self.x.expand(shape + self.x.shape)
        chances = self._aligned(self.chances, self.x)
        total = torch.poisson(self._aligned(self.means, self.x).expand(x.shape))
        for i in range(x.shape[-1]):
            total = total + self._scatter(x[..., i], chances[..., i, :])
        return total

    def _scatter(self, left: Tensor, chances: Tensor) -> Tensor:
        """A multinomial draw, by binomials one target after the other; the dead are dropped."""
        rest, parts = torch.ones_like(chances[..., 0]), []
        for j in range(chances.shape[-1] - 1):
            share = (chances[..., j] / rest.clamp(min=torch.finfo(rest.dtype).tiny)).clamp(0, 1)
            moved = torch.binomial(left, share.expand(left.shape))
            parts.append(moved)
            left, rest = left - moved, rest - chances[..., j]
        return torch.stack(parts, -1)

    def log_prob(self, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        box = tuple(int(m) + 1 for m in y.clamp(min=0).flatten(0, -2).amax(0))
        points = box_points(box, torch.float64, y.device)
        if len(points) > POINTS:
            raise Unsolved(f"the law at counts {[b - 1 for b in box]} needs {len(points)} points")
        table = self._table(points, box)
        index, inside = laws.box_index(y, box)
        table = table.expand(*index.shape, len(points))
        found = table.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        return torch.where(inside, found, torch.full_like(found, -torch.inf)).to(y.dtype)

    def _table(self, points: Tensor, box: tuple[int, ...]) -> Tensor:
        """All log-probabilities on a box: multinomials convolved one species after the other."""
        x = self.x.to(torch.float64)
        mean = self._aligned(self.means, x).unsqueeze(-2)
        table = log_poisson_pmf(points, mean).sum(-1).exp().expand(*x.shape[:-1], -1)
        gap, inside = laws.box_index(points.unsqueeze(1) - points, box)  # y − k, (points, points)
        for i in range(x.shape[-1]):
            chances = self._aligned(self.chances, x)[..., i, :]
            part = _multinomial(points, x[..., i], chances)
            shifted = torch.where(inside, table[..., gap], torch.zeros_like(table[..., :1, None]))
            table = torch.einsum("...yk,...k->...y", shifted, part)
        return safe_log(table)


def _multinomial(points: Tensor, count: Tensor, chances: Tensor) -> Tensor:
    """Probabilities that ``count`` particles scatter to each point, (…, points)."""
    dead = count.unsqueeze(-1) - points.sum(-1)
    possible = dead >= 0
    dead = dead.clamp(min=0)
    log = torch.lgamma(count + 1).unsqueeze(-1) - torch.lgamma(dead + 1)
    log = log - torch.lgamma(points + 1).sum(-1)
    log_chances = safe_log(chances).unsqueeze(-2)
    log = log + times_log(points, log_chances[..., :-1]).sum(-1)
    log = log + times_log(dead, log_chances[..., -1])
    return torch.where(possible, log.exp(), torch.zeros_like(log))


def _linear(term: Reaction) -> tuple[int | None, int | None, float] | None:
    """(source, target, rate) if the reaction moves, removes or adds one unit at a constant rate."""
    change = term.change.detach()
    if bool((change.abs() > 1).any()) or bool((change > 0).sum() > 1) or bool((change < 0).sum() > 1):
        return None
    source = int(change.argmin()) if bool((change < 0).any()) else None
    target = int(change.argmax()) if bool((change > 0).any()) else None
    generator = torch.Generator().manual_seed(0)
    tries = torch.randint(1, 50, (32, term.species), generator=generator).double()
    rate = torch.as_tensor(term.rate(tries)).double().expand(len(tries))
    per_unit = rate / tries[:, source] if source is not None else rate
    alike = (per_unit - per_unit[0]).abs().max() <= 1e-12 * per_unit[0].abs()
    return (source, target, float(per_unit[0])) if bool(alike) else None
