r"""Masks beside other chains, and masks that come at a rate of each token's own.

.. math::
    P(x, y) = e^{-w\tau}\, P_{\text{tokens}}(x, y), \qquad P(x, \text{mask}) = 1 - e^{-w\tau},

and with :math:`w_x` in place of w where tokens stand still.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..estimates import Posterior
from ..shapes import span
from ..solve import Engine, Unsolved, solves
from ..structures import Killing, Masking
from .finite import Finite
from .kernels import FiniteChain, Kernel, Structured, hazard, kernel_of, uniform_like
from .replacement import Replacement


@dataclass
class Masked(Kernel):
    """Tokens that move by a kernel and are masked, all at one rate.

    Arguments:
        stay: The chance not to be masked, (B,).
        gone: The chance to be, (B,).
        tokens: The kernel of the tokens.
    """

    stay: Tensor
    gone: Tensor
    tokens: Kernel

    def __post_init__(self) -> None:
        self.mask = self.tokens.size
        self.size = self.mask + 1

    def _token(self, x: Tensor) -> tuple[Tensor, Tensor]:
        masked = x == self.mask
        return torch.where(masked, torch.zeros_like(x), x), masked.unsqueeze(-1)

    def row(self, x: Tensor) -> Tensor:
        token, masked = self._token(x)
        alive = torch.where(masked, 0.0, self.tokens.row(token) * self.along(self.stay, 2))
        gone = self.along(self.gone, 2).expand(*x.shape, 1)
        return torch.cat([alive, torch.where(masked, torch.ones_like(gone), gone)], -1)

    def column(self, x: Tensor) -> Tensor:
        token, masked = self._token(x)
        alive = self.tokens.column(token) * _held(self.along(self.stay, 2))
        gone = self.along(self.gone, 2).expand(alive.shape)
        return torch.cat([torch.where(masked, gone, alive), masked.to(alive)], -1)

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        token, masked = self._token(x)
        inner, stay, gone = (
            self.tokens.entry(token),
            self.along(self.stay, 2),
            self.along(self.gone, 2),
        )

        def read(y: Tensor) -> Tensor:
            to_mask = y == self.mask
            alive = inner(torch.where(to_mask, torch.zeros_like(y), y)) * stay
            found = torch.where(to_mask, gone, alive)
            return torch.where(masked, to_mask.to(found), found)

        return read

    def times(self, v: Tensor) -> Tensor:
        tokens, mask = v[..., :-1], v[..., -1:]
        alive = self.tokens.times(tokens) * self.along(self.stay, 2).to(v)
        fallen = tokens.sum(-1, keepdim=True) * self.along(self.gone, 2).to(v)
        return torch.cat([alive, mask + fallen], -1)

    def moved(self, x: Tensor) -> Tensor:
        token, masked = self._token(x)
        stays = (uniform_like(x) < self.stay.unsqueeze(-1)) & ~masked.squeeze(-1)
        return torch.where(stays, self.tokens.moved(token), self.mask)


def _held(stay: Tensor) -> Tensor:
    """The chances not to be masked, 1 where none is left.

    They are a common factor of the column of a token, which no ratio within it sees. A token that
    is there all the same was held, as a prompt is: its column is the limit of those from earlier.
    """
    return torch.where(stay < torch.finfo(stay.dtype).tiny, 1.0, stay)


class ToMask(Structured):
    """What chains that end in a mask have in common."""

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        if not self.ends:
            raise Unsolved("the limit depends on the start: not every token is masked in the end")
        probs = torch.zeros(self.size, dtype=torch.float64, device=self.terms[0].scale.device)
        probs[-1] = 1.0
        return self.spread(shape, probs)

    ends: bool


@solves(Killing)
class Killed(ToMask):
    """Any chain beside a mask."""

    technique = "the chain of the tokens, times a survival"

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        inner = terms[0].chain.engine if len(terms) == 1 else None
        return cls(terms) if isinstance(inner, FiniteChain | Replacement) else Finite(terms)

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        (self.term,) = terms
        self.ends = bool((self.term.rate * self.term.scale).detach() > 0)

    def branch(self) -> str:
        engine = self.term.chain.engine
        return f"state {self.size - 1} is the mask; tokens: {type(engine).__name__}"

    def kernel(self, s: Tensor, t: Tensor) -> Masked:
        own = self.term.scale
        inner = kernel_of(self.term.chain.engine, own * s, own * t)
        masked = hazard(own * self.term.rate, span(s, t))
        return Masked((-masked).exp(), -torch.expm1(-masked), inner)


@dataclass
class Diagonal(Kernel):
    """Tokens that stand still until they are masked, each at a rate of its own.

    Arguments:
        stay: The chances not to be masked, (B, K).
        gone: The chances to be, (B, K).
    """

    stay: Tensor
    gone: Tensor

    def __post_init__(self) -> None:
        self.mask = self.stay.shape[-1]
        self.size = self.mask + 1
        self.stay = torch.nn.functional.pad(self.stay, (0, 1), value=1.0)
        self.gone = torch.nn.functional.pad(self.gone, (0, 1), value=0.0)

    def _entry(self, x: Tensor, y: Tensor, stays: Tensor | None = None) -> Tensor:
        """For x and y of one shape (B, …)."""
        index = x.reshape(len(x), -1)
        stays = self.cast(self.stay) if stays is None else stays
        stay = stays.gather(1, index).reshape(x.shape)
        gone = self.cast(self.gone).gather(1, index).reshape(x.shape)
        return torch.where(x == y, stay, 0.0) + torch.where(y == self.mask, gone, 0.0)

    def row(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        return self._entry(*torch.broadcast_tensors(x.unsqueeze(-1), states))

    def column(self, x: Tensor) -> Tensor:
        states = torch.arange(self.size, device=x.device)
        y, starts = torch.broadcast_tensors(x.unsqueeze(-1), states)
        return self._entry(starts, y, _held(self.cast(self.stay)))

    def entry(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda y: self._entry(x.unsqueeze(-1).expand(y.shape), y)

    def times(self, v: Tensor) -> Tensor:
        alive = v * self.stay.unsqueeze(1).to(v)
        fallen = (v * self.gone.unsqueeze(1).to(v)).sum(-1, keepdim=True)
        return torch.cat([alive[..., :-1], alive[..., -1:] + fallen], -1)

    def moved(self, x: Tensor) -> Tensor:
        return torch.where(uniform_like(x) < self.stay.gather(1, x), x, self.mask)


@solves(Masking)
class MaskedEach(ToMask):
    """Every token is masked at a rate of its own."""

    technique = "closed form, a survival per token"
    shows_data = True  # a token that is not masked is the datum

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        late = torch.full((1,), 1e3, dtype=torch.float64, device=terms[0].scale.device)
        self.ends = bool((self._masked(torch.zeros_like(late), late).detach() > 0).all())

    def branch(self) -> str:
        return f"state {self.size - 1} is the mask"

    def _masked(self, s: Tensor, t: Tensor) -> Tensor:
        total: Any = 0.0
        for term in self.terms:
            if term.function is None:
                total = total + hazard(term.scale * term.rates, span(s, t).unsqueeze(-1))
            else:
                total = total + term.scale * span(term.integrated(s), term.integrated(t))
        return total

    def kernel(self, s: Tensor, t: Tensor) -> Diagonal:
        masked = self._masked(s, t)
        return Diagonal((-masked).exp(), -torch.expm1(-masked))

    def decays(self, head: Any) -> bool:
        at_mask = head.kind is Posterior and self.size - 1 in head.absent
        return at_mask or super().decays(head)
