r"""Walks whose noise is a sum of scaled increments, read from a table.

Forward, with increments of one shape, the noise from s to t is

.. math:: \sum_{i=s+1}^t c_i \xi_i, \qquad c_i^2 = \beta_i\, \bar\alpha_t / \bar\alpha_i,

and backward, where the steps back have one shape, what is left of the noise at s is a sum over
all later steps. Their characteristic function is a product; it is inverted once for each pair of
steps (see `numerics.fourier`). A sum of one increment is that increment.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Data
from ..increments import Increment
from ..increments.base import REALS
from ..numerics.fourier import Grid, TooSharp, tabulate
from ..shapes import along
from ..solve import Engine, Unsolved, solves
from ..tabulated import Book, Tabulated
from ..walks import FixedIncrements, FixedReversal, LevyClock
from .normal_walk import NormalWalk, is_normal
from .walk import WalkEngine
from .walk_bridge import LinearBridge

SPREAD = 10.0  # standard deviations that many small increments reach together


class Drawn(laws._RealLaw):
    r"""The law of :math:`\mathrm{loc} + \sum_i c_i \xi_i` for increments with atoms: draws only.

    Arguments:
        loc: Any shape (B, *event).
        coefficients: The :math:`c_i`, (B, T), of which some may be 0.
        increment: The law of :math:`\xi`.
    """

    def __init__(self, loc: Tensor, coefficients: Tensor, increment: Increment) -> None:
        self.loc, self.coefficients, self.increment = loc, coefficients, increment
        super().__init__(loc.shape)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return along(self.coefficients.square().sum(1), self.loc).expand_as(self.loc)

    def _draw(self, shape: torch.Size) -> Tensor:
        total = self.loc.expand(shape + self.loc.shape)
        for c in self.coefficients.T:
            if bool((c != 0).any()):
                xi = self.increment.sample(total.shape, total.dtype, total.device)
                total = total + along(c, self.loc) * xi
        return total

    def log_prob(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        raise Unsolved(
            f"a sum of several {self.increment.name} increments in a contracting walk has no "
            "density: its atoms double with each step. It can be drawn from; a single step is "
            "known, and a LevyWalk of an infinitely divisible law, or a law with a density"
        )


class Summed(WalkEngine):
    """A walk with a book of tables, one for each pair of steps that was asked for."""

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self._book = Book(self._table)

    @property
    def book(self) -> Book:
        """The tables so far; an empty book where a table would soon be out of date."""
        return Book(self._table) if self.learned else self._book

    def _table(self, key: Any) -> Grid:
        try:
            return self._grid(key)
        except TooSharp as error:
            raise Unsolved(f"{self.term!r} from step {key[0]} to {key[1]}: {error}") from error

    @abstractmethod
    def coefficients(self, s: int, t: int) -> Tensor:
        """The scales of the increments in the noise from s to t."""

    def _grid(self, key: Any) -> Grid:
        c = self.coefficients(*key)
        c = (c / c.square().sum().sqrt()).unsqueeze(1)
        reach = SPREAD + self.increment.reach * float(c.detach().max())
        return tabulate(lambda u: self.increment.log_cf(c * u.double()).sum(0), reach)

    def _padded(self, c: Tensor) -> Tensor:
        return torch.nn.functional.pad(c.detach(), (0, self.count + 1 - len(c)))

    def summed(
        self, loc: Tensor, scale: Tensor, s: Tensor, t: Tensor, single: Tensor
    ) -> Distribution:
        """The law of loc + noise, of this scale; one increment where ``single``."""
        scale = along(scale, loc)
        if self.increment.lattice and not bool(single.all()):
            pairs, row = torch.stack([s, t], 1).unique(dim=0, return_inverse=True)
            c = [self._padded(self.coefficients(*pair)) for pair in pairs.tolist()]
            return Drawn(loc, torch.stack(c).to(loc.device)[row], self.increment)
        if bool(single.all()):
            return self.increment.law(loc, scale)
        pairs = torch.stack([s, t], 1)
        pairs[single] = pairs[~single][0]
        book = self.book
        rows = book.rows(map(tuple, pairs.tolist()), loc.device)
        table = Tabulated(loc, scale, along(rows, loc, torch.int64), book)
        if not bool(single.any()):
            return table
        one = self.increment.law(loc, scale)
        return laws.Either(along(single, loc, torch.bool), one, table)

    def width(self, s: Tensor, t: Tensor) -> Tensor:
        return (SPREAD + self.increment.reach) * (-torch.expm1(self.kept(s, t))).sqrt()


@solves(FixedIncrements)
class ForwardSteps(Summed):
    r"""Increments of one shape: :math:`c_i^2 = \beta_i \bar\alpha_t / \bar\alpha_i`."""

    technique = "one step in closed form, more from a Fourier table"
    draws_forward = True

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        return NormalWalk(terms) if is_normal(terms) else cls(terms)

    def branch(self) -> str:
        atoms = "; atoms: several steps are drawn only" if self.increment.lattice else ""
        return super().branch() + atoms

    def coefficients(self, s: int, t: int) -> Tensor:
        kept = self.log_kept[t] - self.log_kept[s + 1 : t + 1]
        return (self.term.betas[s:t] * kept.exp()).sqrt()

    def ends(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\sum_i c_i` times the ends of the increment."""
        each = (self.term.betas * (-self.log_kept[1:]).exp()).sqrt()
        until = torch.nn.functional.pad(each.cumsum(0), (1, 0))
        total = (self.log_kept[t] / 2).exp() * (until[t] - until[s])
        return self.ends_times(total)

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self.summed(loc, (-torch.expm1(self.kept(s, t))).sqrt(), s, t, t - s <= 1)

    def single(self, k: Tensor) -> bool:
        return bool((k == 1).all())

    def crowding(self, s: Tensor, t: Tensor) -> float:
        return self.increment.crowding(1.0)

    def reflected(self, mean: Tensor, ratio: Tensor, s: Tensor, t: Tensor) -> Distribution:
        if not bool((t - s == 1).all()):
            return super().reflected(mean, ratio, s, t)
        scale = along((-torch.expm1(self.kept(s, t))).sqrt(), mean) / ratio
        return self.mirrored(mean, scale)

    def tilted(
        self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, posterior: bool
    ) -> Distribution:
        """The step back of one step with noise of the exponential family of the law."""
        j, k = self.index(s), self.index(t)
        if not bool((k - j == 1).all()):
            raise self.unsolved("a tilted step over several steps")
        ratio = along((self.kept(j, k) / 2).exp(), x)
        width = along((-torch.expm1(self.kept(j, k))).sqrt(), x)
        noise = (x - ratio * self.step_mean(estimate, x, j, k)) / width
        narrow = self._narrowing(j, k) if posterior else torch.ones_like(self.log_kept[k])
        narrow = along(narrow, x)
        guessed = not isinstance(estimate, Data | Atoms)
        eta = self.natural(noise / narrow, guessed)
        loc, scale = x / ratio, (narrow * width / ratio).expand_as(x)
        if self.symmetric:
            law: Any = self.increment.tilted(loc, scale, -eta)
            return law.to_event(x.dim() - 1)
        law = self.increment.tilted(torch.zeros_like(x), torch.ones_like(x), eta)
        return laws.Affine(law, loc, -scale).to_event(x.dim() - 1)

    def _narrowing(self, s: Tensor, t: Tensor) -> Tensor:
        """The width of the bridge's noise over the step's; one where the support is bounded."""
        narrow = (torch.expm1(self.log_kept[s]) / torch.expm1(self.log_kept[t])).sqrt()
        whole = self.increment.means == REALS
        return torch.where(s > 0, narrow, 1.0) if whole else torch.ones_like(narrow)


@solves(LevyClock)
class Clocked(Summed):
    r"""A Lévy process at :math:`\tau`: closed where its law is, else by :math:`\varphi^\tau`."""

    technique = "Lévy clock"
    draws_forward = True
    jumps = True

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        return NormalWalk(terms) if is_normal(terms) else cls(terms)

    def branch(self) -> str:
        one = torch.ones(1, dtype=torch.float64)
        closed = self.increment.levy(one, one) is not None
        return f"{super().branch()}, {'closed form' if closed else 'Fourier table'}"

    def coefficients(self, s: int, t: int) -> Tensor:
        raise self.unsolved("a sum of increments of one shape")

    def crowding(self, s: Tensor, t: Tensor) -> float:
        k = torch.arange(self.count, device=self.log_kept.device)
        return self.increment.crowding(float(self.tau(k, k + 1).detach().min()))

    def tau(self, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`1 / \bar\alpha_t - 1 / \bar\alpha_s`."""
        return (-self.log_kept[s]).exp() * torch.expm1(-self.kept(s, t))

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Distribution:
        scale = along((self.log_kept[t] / 2).exp(), loc)
        law = self.increment.levy(along(self.tau(s, t), loc), scale, loc)
        if law is None:
            return self.summed(loc, (-torch.expm1(self.kept(s, t))).sqrt(), s, t, s == t)
        return law

    def _between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        a_s, a_t = (along((self.log_kept[k] / 2).exp(), x) for k in (s, t))
        zero = torch.zeros_like(s)
        early, late = (along(self.tau(zero, k), x, torch.float64).expand_as(x) for k in (s, t))
        law = self.increment.levy_bridge(x / a_t - x_0, early, late)
        if law is None and self.increment.lattice:
            raise Unsolved(
                f"the bridge of a Lévy process of {self.increment.name} increments mixes atoms "
                "and a density, which its total does not tell apart; add noise to the jumps"
            )
        if law is None:
            return LinearBridge(self, x_0, x, s, t)
        return laws.Affine(law, a_s * x_0, a_s)

    def _grid(self, key: Any) -> Grid:
        tau = self.tau(*(torch.tensor(i) for i in key))
        reach = SPREAD + self.increment.reach / float(tau.detach().sqrt())
        return tabulate(lambda u: tau * self.increment.log_cf(u.double() / tau.sqrt()), reach)

    def width(self, s: Tensor, t: Tensor) -> Tensor:
        spread = SPREAD * (-torch.expm1(self.kept(s, t))).sqrt()
        return spread + self.increment.reach * (self.log_kept[t] / 2).exp()


@solves(FixedReversal)
class BackwardSteps(Summed):
    r"""Steps back of one shape.

    With :math:`r_k = x_k - \sqrt{\bar\alpha_k} x_0` and :math:`g_k^2 = (1 - \bar\alpha_{k-1} -
    \sigma_k^2) / (1 - \bar\alpha_k)` a step back is :math:`r_{k-1} = g_k r_k + \sigma_k \xi`.
    """

    technique = "a step back in closed form, more from a Fourier table; no transition"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        whole = is_normal(terms) and terms[0].eta == 1.0
        return NormalWalk(terms) if whole else cls(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self._made = self._make()

    def _make(self) -> tuple[Tensor, Tensor]:
        r"""Of :math:`x_k` the scale of its own noise, and :math:`\sum_{i \le k} \log g_i`."""
        spent = self.spent
        early, late, none = spent[1:-1], spent[2:], torch.zeros_like(spent[:1])
        variance = self.term.eta**2 * self.term.betas[1:] * early / late
        carried = ((early - variance) / late).clamp(min=0).log() / 2
        scales = torch.cat([none, variance.sqrt(), spent[-1:].sqrt()])  # the data have none
        return scales, torch.cat([none, none, carried.cumsum(0)])

    @property
    def made(self) -> tuple[Tensor, Tensor]:
        """The scales and the logarithms of what is carried."""
        return self._make() if self.learned else self._made

    @property
    def spent(self) -> Tensor:
        r""":math:`1 - \bar\alpha_k`."""
        return -torch.expm1(self.log_kept)

    def carried(self, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`\prod_{k=s+1}^t g_k`, what of :math:`r_t` is left in :math:`r_s`."""
        _, log_carried = self.made
        factor = (log_carried[t] - log_carried[s]).exp()
        return torch.where((s == 0) & (t > 0), 0.0, factor)

    def coefficients(self, s: int, t: int) -> Tensor:
        """Of the noise in x_s that came after x_t."""
        between = torch.arange(s, t)
        scales, _ = self.made
        return scales[s:t] * self.carried(torch.full_like(between, s), between)

    def _from(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        """The law of x_t given the data: all noise from the end on."""
        end = torch.full_like(t, self.count + 1)
        loc = along((self.log_kept[t] / 2).exp(), x) * x
        return self.summed(loc, self.spent[t].sqrt(), t, end, (t == self.count) | (t == 0))

    def _between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        factor = self.carried(s, t)
        a_s, a_t = (along((self.log_kept[k] / 2).exp(), x) for k in (s, t))
        loc = a_s * x_0 + along(factor, x) * (x - a_t * x_0)
        scale = (self.spent[s] - factor**2 * self.spent[t]).clamp(min=0).sqrt()
        return self.summed(loc, scale, s, t, t - s <= 1)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        raise Unsolved(
            "a walk that is declared by its steps back has no transition law: forward it is no "
            "Markov chain. Take marginal and bridge, which are exact, or a Walk of the same law"
        )

    def shifted(
        self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, matched: bool
    ) -> Distribution:
        raise Unsolved(
            "steps back of a ReverseWalk have the shape of its increments already, around a mean "
            "that the data say: Ancestral takes them, and of a mean of the data the shifted ones"
        )

    def linear(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        a_s, a_t = (along((self.log_kept[k] / 2).exp(), x) for k in (s, t))
        return a_s * x_0 + along(self.carried(s, t), x) * (x - a_t * x_0)
