r"""Draws from tables of laws at one read each: Walker's alias method.

A law :math:`p_0, …, p_{n-1}` is cut into n pieces of one size, each made of at most two states:
a uniform number chooses a piece k, and then k itself with chance :math:`c_k`, else its alias. In
units of the size, states with :math:`w_k = n p_k < 1` lack :math:`1 - w_k`, and those with more
give it to them in turn. With D and E the running sums of what is lacked and of what is given, who
gives to whom is found by bisection, for all rows at once.

References:
    | New fast method for generating discrete random numbers with arbitrary frequency
      distributions (Walker, 1974)
    | Parallel weighted random sampling (Hübschle-Schneider and Sanders, 2022)
"""

from __future__ import annotations

import torch
from torch import Tensor


class Aliases:
    """Laws on n states in the rows of a table.

    Arguments:
        probs: Probabilities, shape (R, n); rows that do not sum to one are divided by their sums.

    Example:
        >>> laws = Aliases(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> laws.draw(torch.tensor([0, 1, 1]))
        tensor([1, 0, 0])
    """

    def __init__(self, probs: Tensor) -> None:
        probs = probs.detach().double()
        rows, self.size = probs.shape
        w = probs * (self.size / probs.sum(-1, keepdim=True))
        gives = w >= 1
        givers = gives.long().argsort(dim=-1, descending=True, stable=True)
        takers = givers.flip(-1)  # those that lack come first
        given = (w - 1).gather(-1, givers).clamp(min=0).cumsum(-1)
        lacked = (1 - w).gather(-1, takers).clamp(min=0).cumsum(-1)
        last = (gives.sum(-1, keepdim=True) - 1).clamp(min=0)  # of the givers
        # What a state lacks comes from the first giver that has something left.
        before = torch.nn.functional.pad(lacked[:, :-1], (1, 0))
        giver = torch.searchsorted(given, before, right=True).minimum(last)
        alias = torch.empty_like(givers).scatter(-1, takers, givers.gather(-1, giver))
        # A giver that gave more than it had to its last taker has that from the next giver.
        taker = torch.searchsorted(lacked, given).clamp(max=self.size - 1)
        left = (1 - (lacked.gather(-1, taker) - given)).clamp(0, 1)
        row, place = (torch.arange(self.size, device=w.device) < last).nonzero(as_tuple=True)
        chance = w.clamp(max=1)
        chance[row, givers[row, place]] = left[row, place]
        alias[row, givers[row, place]] = givers[row, place + 1]
        self.pairs = self._packed(chance, alias)

    def _packed(self, chance: Tensor, alias: Tensor) -> Tensor:
        """Alias plus chance, one number; a piece of one state is its own alias, at chance 0."""
        whole = chance > 1 - self.size * 2.0**-51  # so that the chance stays below 1 in the sum
        own = torch.arange(self.size, device=alias.device)
        return torch.where(whole, own, alias) + torch.where(whole, 0.0, chance)

    def draw(self, rows: Tensor) -> Tensor:
        """One draw from each of some rows, (m,) to (m,)."""
        u = torch.rand(rows.shape, dtype=torch.float64, device=rows.device) * self.size
        piece = u.long().clamp(max=self.size - 1)
        pair = self.pairs.flatten().index_select(0, rows * self.size + piece)
        alias = pair.long()
        return torch.where(u - piece < pair - alias, piece, alias)

    def probs(self) -> Tensor:
        """The laws that are drawn from, shape (R, n)."""
        alias = self.pairs.long()
        chance = self.pairs - alias
        return chance.scatter_add(-1, alias, 1 - chance) / self.size
