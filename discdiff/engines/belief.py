r"""A belief: the posterior law of a categorical :math:`x_0`, site by site.

The statistic of finite processes is :math:`1[x_0 = a]`, so an estimate says what it knows by a
law on the states. It is either certain of one state (the data) or a table of logits; both answer
the same questions, and the data never become a one-hot table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..estimates import remove, without
from ..laws import draw_categories
from ..numerics.special import log_sum
from ..validation import require_numbers


class Belief(ABC):
    """A law on the states 0 … K−1 for each site, of shape (B, *sites)."""

    @abstractmethod
    def log_at(self, state: Tensor) -> Tensor:
        """Log-probabilities of one state per site; extra leading or last axes broadcast."""

    @abstractmethod
    def log_table(self, size: int) -> Tensor:
        """Log-probabilities of all states, shape (B, *sites, K)."""

    @abstractmethod
    def log_other(self, state: Tensor) -> Tensor:
        """The log-probability of all states but one per site, without cancellation."""

    @abstractmethod
    def draw(self, rows: Tensor) -> Tensor:
        """Draws at some sites, given by their flat indices."""


class Certain(Belief):
    """All mass on one state per site."""

    def __init__(self, state: Tensor) -> None:
        self.state = state

    def log_at(self, state: Tensor) -> Tensor:
        own = self.state.unsqueeze(-1) if state.dim() > self.state.dim() else self.state
        agrees = state == own
        zero = torch.zeros(agrees.shape, dtype=torch.get_default_dtype(), device=state.device)
        return torch.where(agrees, zero, zero - torch.inf)

    def log_table(self, size: int) -> Tensor:
        return self.log_at(
            torch.arange(size, device=self.state.device).expand(*self.state.shape, size)
        )

    def log_other(self, state: Tensor) -> Tensor:
        zero = torch.zeros(state.shape, dtype=torch.get_default_dtype(), device=state.device)
        return torch.where(state == self.state, zero - torch.inf, zero)

    def draw(self, rows: Tensor) -> Tensor:
        return self.state.reshape(-1).index_select(0, rows)


class Spread(Belief):
    """A table of logits on the last axis; cut and normalised only where it is read.

    Arguments:
        logits: Shape (B, *sites, K).
        absent: States without mass.
        kind: The kind of estimate that they are of.
    """

    def __init__(self, logits: Tensor, absent: tuple[int, ...] = (), kind: str = "Exact") -> None:
        self.logits, self.absent, self.kind = logits, absent, kind

    def log_at(self, state: Tensor) -> Tensor:
        table = self.log_table(self.logits.shape[-1])
        if state.dim() == table.dim():
            return table.gather(-1, state)
        table = table.expand(*state.shape, table.shape[-1])
        return table.gather(-1, state.unsqueeze(-1)).squeeze(-1)

    def log_table(self, size: int) -> Tensor:
        return without(self.logits, self.absent).log_softmax(-1)

    def log_other(self, state: Tensor) -> Tensor:
        table = self.log_table(self.logits.shape[-1])
        own = torch.arange(table.shape[-1], device=state.device) == state.unsqueeze(-1)
        return log_sum(table.masked_fill(own, -torch.inf), -1)

    def draw(self, rows: Tensor) -> Tensor:
        logits = self.logits.reshape(-1, self.logits.shape[-1]).index_select(0, rows)
        try:
            return draw_categories(remove(logits, self.absent))
        except ValueError:
            require_numbers(self.logits, self.kind)  # says which rows
            raise
