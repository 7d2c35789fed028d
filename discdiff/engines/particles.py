r"""Networks of monomolecular reactions: independent particles under one generator.

If units die, turn into other species and arrive at constant rates, each unit moves by itself with
a one-particle generator A on the species and one dead state, and arrivals are Poisson:

.. math::
    x_t \mid x_0 \sim \sum_i \mathrm{Multinomial}(x_0^i, P_{i \cdot}) + \mathrm{Poisson}(m),
    \qquad P = e^{A \tau}, \quad m = \int_0^\tau \lambda\, e^{A u}\, du.

Other propensities are handed to the truncated engine.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from .. import laws
from ..numerics.linalg import Uniformized
from ..numerics.quadrature import gauss_legendre
from ..numerics.special import log_poisson_pmf, safe_log
from ..params import changes
from ..shapes import span
from ..solve import Engine, Unsolved, solves
from ..terms import Reaction
from .boxes import POINTS, Pointwise, box_points
from .truncated import Truncated

PANEL_NODES = 24
PANELS = 16


@solves(Reaction)
class Particles(Pointwise):
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
        with torch.enable_grad():
            generator, arrivals = self._declared()
        self.changes = changes(*terms) or generator.requires_grad or arrivals.requires_grad
        self._kernel, self._arrivals = Uniformized(generator.detach()), arrivals.detach()

    @property
    def kernel(self) -> Uniformized:
        """The transition matrices of one particle."""
        return Uniformized(self._declared()[0]) if self.changes else self._kernel

    @property
    def arrivals(self) -> Tensor:
        """The arrival rates, shape (species,)."""
        return self._declared()[1] if self.changes else self._arrivals

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
            rate, goal = (
                term.scale * rate,
                torch.tensor(self.species if target is None else target),
            )
            if source is None:
                arrivals = arrivals.index_put((goal,), rate, accumulate=True)
            else:
                Q = Q.index_put((torch.tensor(source), goal), rate, accumulate=True)
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

    def entrywise(self, x: Tensor, s: Tensor, t: Tensor) -> TorchDistribution:
        tau, index = _distinct(span(s, t))
        return Scattered(x, self.chances(tau), self.arrived(tau), index)


class Scattered(laws._Law):
    """The law of particles that moved by themselves, plus Poisson arrivals.

    Arguments:
        x: Particles at the start, (B, *sites, species).
        chances: (T, species, species + 1) at T times, the last column for the dead.
        mean: (T, species), the means of the arrivals.
        index: Which of the times is that of each batch element, (B,).
    """

    def __init__(self, x: Tensor, chances: Tensor, mean: Tensor, index: Tensor) -> None:
        self.x, self.chances, self.means, self.index = x, chances, mean, index
        super().__init__(x.shape[:-1], x.shape[-1:])

    def _aligned(self, values: Tensor, x: Tensor) -> Tensor:
        lead = x.dim() - 2
        shape = self.index.shape + (1,) * lead + values.shape[1:]
        return values.to(x.dtype)[self.index].reshape(shape)

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
        table, where = self._table(points, box)
        index, inside = laws.box_index(y, box)
        found = table[where.reshape(self.x.shape[:-1]), index]
        return torch.where(inside, found, torch.full_like(found, -torch.inf)).to(y.dtype)

    def _table(self, points: Tensor, box: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """All log-probabilities on a box, a row for each distinct start and time, and which row.

        The law of one particle is a polynomial of degree one in the counts; the table is
        multiplied by it once per particle. All terms are positive, so that no relative accuracy
        is lost.
        """
        time = self.index.reshape((-1,) + (1,) * (self.x.dim() - 1)).to(torch.float64)
        starts = torch.cat([self.x.detach().double(), time.expand(*self.x.shape[:-1], 1)], -1)
        rows, where = torch.unique(starts.flatten(0, -2), dim=0, return_inverse=True)
        x, index = rows[:, :-1], rows[:, -1].long()
        table = log_poisson_pmf(points, self.means[index].unsqueeze(1)).sum(-1).exp()
        table = table.reshape(-1, *box)
        for i in range(x.shape[-1]):
            chances = self.chances[index, i].T.reshape(-1, len(x), *[1] * len(box))
            count = x[:, i].reshape(-1, *[1] * len(box))
            for n in range(int(x[:, i].max())):
                table = torch.where(n < count, _one_more(table, chances), table)
        return safe_log(table.reshape(len(x), len(points))), where


def _distinct(tau: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct times, and which of them each is; all are kept where they carry a gradient."""
    if tau.requires_grad or tau.device.type != "cpu" or torch.compiler.is_compiling():
        return tau, torch.arange(len(tau), device=tau.device)
    return torch.unique(tau, return_inverse=True)


def _one_more(table: Tensor, chances: Tensor) -> Tensor:
    """The table of counts after one more particle, scattered or dead, was added."""
    species, lead = len(chances) - 1, table.dim() - len(chances) + 1
    total = chances[-1] * table
    for j in range(species):
        axis = lead + j
        moved = table.narrow(axis, 0, table.shape[axis] - 1)
        none = torch.zeros_like(table.narrow(axis, 0, 1))
        total = total + chances[j] * torch.cat([none, moved], axis)
    return total


def _linear(term: Reaction) -> tuple[int | None, int | None, Tensor] | None:
    """(source, target, rate) if one unit moves, dies or arrives at a constant rate."""
    change = term.change.detach()
    if (
        bool((change.abs() > 1).any())
        or bool((change > 0).sum() > 1)
        or bool((change < 0).sum() > 1)
    ):
        return None
    source = int(change.argmin()) if bool((change < 0).any()) else None
    target = int(change.argmax()) if bool((change > 0).any()) else None
    generator = torch.Generator().manual_seed(0)
    tries = torch.randint(1, 50, (32, term.species), generator=generator).double()
    rate = torch.as_tensor(term.rate(tries)).double().expand(len(tries))
    per_unit = rate / tries[:, source] if source is not None else rate
    alike = (per_unit - per_unit[0]).abs().max() <= 1e-12 * per_unit[0].abs()
    return (source, target, per_unit[0]) if bool(alike) else None
