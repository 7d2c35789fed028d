r"""Networks of monomolecular reactions: independent particles under one generator.

If units die, turn into other species and arrive at constant rates, each unit moves by itself with
a one-particle generator A on the species and one dead state, and arrivals are Poisson:

.. math::
    x_t \mid x_0 \sim \sum_i \mathrm{Multinomial}(x_0^i, P_{i \cdot}) + \mathrm{Poisson}(m),
    \qquad P = e^{A \tau}, \quad m = \int_0^\tau \lambda\, e^{A u}\, du.

That the rates are constant is what the terms declare: their rates are numbers. Other reactions,
and propensities that are functions, are handed to the truncated engine.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from .. import laws
from ..numerics.linalg import Uniformized
from ..numerics.special import log_poisson_pmf, safe_log
from ..params import changes
from ..shapes import span
from ..solve import Engine, Unsolved, solves
from ..terms import Reaction
from .boxes import POINTS, Pointwise, box_points
from .truncated import Truncated

LEAK = 1e-20  # the part of its mass that the source of the arrivals loses


@solves(Reaction)
class Particles(Pointwise):
    """Independent particles on species, with Poisson arrivals."""

    technique = "closed form, independent particles"
    axes = 1

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        return cls(terms) if all(_one_unit(term) for term in terms) else Truncated(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        species = {term.species for term in terms}
        if len(species) > 1:
            raise ValueError(f"reactions on different numbers of species: {sorted(species)}")
        (self.species,) = species
        with torch.enable_grad():
            generator, arrivals = self._declared()
        self.changes = changes(*terms) or generator.requires_grad or arrivals.requires_grad
        self._kept = generator.detach(), arrivals.detach()
        self._kernel = Uniformized(self._kept[0])

    @property
    def numbers(self) -> tuple[Tensor, Tensor]:
        """The one-particle generator (species and a dead state), and the arrival rates."""
        return self._declared() if self.changes else self._kept

    @property
    def kernel(self) -> Uniformized:
        """The transition matrices of one particle."""
        return Uniformized(self.numbers[0]) if self.changes else self._kernel

    @property
    def arrivals(self) -> Tensor:
        """The arrival rates, shape (species,)."""
        return self.numbers[1]

    def branch(self) -> str:
        arriving = "with arrivals" if bool((self.arrivals > 0).any()) else "no arrivals"
        return f"{self.species} species, {arriving}"

    @property
    def moves(self) -> Tensor:
        return torch.stack([-term.change for term in self.terms])

    def _declared(self) -> tuple[Tensor, Tensor]:
        size = self.species + 1
        Q = torch.zeros(size, size, dtype=torch.float64)
        arrivals = torch.zeros(self.species, dtype=torch.float64)
        for term in self.terms:
            change, rate = term.change.tolist(), term.scale * term.rate
            goal = torch.tensor(change.index(1) if 1 in change else self.species)
            if -1 in change:
                Q = Q.index_put((torch.tensor(change.index(-1)), goal), rate, accumulate=True)
            else:
                arrivals = arrivals.index_put((goal,), rate, accumulate=True)
        return Q - Q.sum(1).diag(), arrivals

    def chances(self, tau: Tensor) -> Tensor:
        """Where one particle is after tau, shape (B, species, species + 1)."""
        return self.kernel.matrix(tau)[:, :-1]

    def arrived(self, tau: Tensor) -> Tensor:
        r"""The means of the arrivals after tau, shape (B, species).

        A source state that leaks to the species at rates :math:`\epsilon \lambda` is added to
        the one-particle chain; in its row

        .. math::
            \frac{P_{\cdot j}(\tau)}{\epsilon} = \int_0^\tau e^{-\epsilon |\lambda| (\tau - u)}
            \, (\lambda\, e^{A u})_j\, du,

        which is the mean up to a factor between :math:`1 - \epsilon |\lambda| \tau` and 1.
        """
        generator, arrivals = self.numbers
        total = arrivals.detach().sum()
        if not bool(total > 0):
            return torch.zeros(tau.shape[0], self.species, dtype=torch.float64)
        if not bool(tau.isfinite().all()):
            raise Unsolved("arrivals are integrated up to finite times only")
        last = max(float(tau.detach().max()), 1e-100)
        epsilon = LEAK / (last * total)
        leak = torch.cat([epsilon * arrivals, arrivals.new_zeros(2)])
        Q = torch.cat([torch.nn.functional.pad(generator, (0, 1)), leak.unsqueeze(0)])
        jumps = last * float(torch.maximum(-generator.detach().diagonal().min(), epsilon * total))
        if jumps > 2.0**1000:
            raise Unsolved(f"arrivals are not integrated over {jumps:g} jumps")
        chain = Uniformized(Q, levels=max(1, math.frexp(jumps)[1] + 1))  # time is never cut off
        source = torch.full((tau.shape[0],), self.species + 1)
        return chain.rows(source, tau)[:, : self.species] / epsilon

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


def _one_unit(term: Reaction) -> bool:
    """Whether one unit moves, dies or arrives, at a rate that is declared to be a number."""
    change = term.change.tolist()
    return (
        term.mass_action
        and set(change) <= {-1, 0, 1}
        and change.count(1) <= 1
        and change.count(-1) <= 1
    )
