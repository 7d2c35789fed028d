r"""Structure in a plain rate matrix: the term that someone would have declared.

Each detector reads the matrix once, in O(K²), and proposes a term; it is taken only if its own
rate matrix is the given one, entry by entry. Found are

* equal columns, :math:`Q_{xy} = \lambda \pi_y`: `Replace`,
* a last state that is never left and is reached at one rate, or from tokens that else stand still:
  `Killing` of what the tokens are recognised as, `Masking`,
* rates that depend on the increment alone: `Increments`,
* one rate to each neighbour: `Reflecting`,
* rates that are constant on nested blocks: `Clusters`,
* rates of moves in one factor of the state at a time: `Kronecker` of what the factors are,
* a matrix of low rank and a diagonal: `LowRank`, where features have states of their own (see
  `separable`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..process import Generator
from ..structures import Clusters, Increments, Killing, Kronecker, Masking, Reflecting
from ..terms import RateMatrix, Replace
from .separable import low_rank

SMALL = 3  # states below which there is nothing to gain
LARGE = 32  # states from which factors and features are cheaper than one dense table
RELATIVE = 1e-12


def recognise(Q: Tensor) -> Generator | None:
    """The structured chain with this rate matrix, float64 of shape (K, K); None if there is none.

    Example:
        >>> walk = torch.ones(4, 4).tril(1).triu(-1).double()
        >>> recognise(2 * (walk - walk.sum(1).diag()))
        2 * Reflecting(4)
    """
    if len(Q) < SMALL or not bool((Q != 0).any()):
        return None
    for chain in proposals(Q):
        found = torch.stack([term.matrix() for term in chain.terms]).sum(0)
        if bool(((found - Q).abs() <= RELATIVE * Q.abs().maximum(found.abs())).all()):
            return chain
    return None


def proposals(Q: Tensor) -> Iterator[Generator]:
    """What the chain may be, read from a few of its entries."""
    K = len(Q)
    columns = torch.cat([Q[1, :1], Q[0, 1:]])  # one off-diagonal entry of each
    if bool(columns.sum() > 0):
        yield columns.sum() * Replace(columns / columns.sum())
    if not bool(Q[-1].ne(0).any()):
        yield from _masked(Q[:-1, :-1], Q[:-1, -1])
    rates = torch.cat([torch.zeros_like(Q[0, :1]), Q[0, 1:]])
    if bool((rates > 0).any()):
        yield Increments(K, rates)
    if float(Q[0, 1]) > 0:
        yield Q[0, 1] * Reflecting(K)
    tree = _tree(Q - Q.diagonal().diag())
    if tree is not None:
        yield tree
    if K >= LARGE:
        yield from _factored(Q)
        yield from low_rank(Q)


def _factored(Q: Tensor) -> Iterator[Generator]:
    """Chains in two factors of the state, of which the second may have factors again."""
    K = len(Q)
    for side in range(2, K // 2 + 1):
        if K % side:
            continue
        table = Q.reshape(side, K // side, side, K // side)
        first, second = _generator(table[:, 0, :, 0]), _generator(table[0, :, 0, :])
        moves = int((first != 0).sum()), int((second != 0).sum())
        # Every entry off the diagonal stands for one of a factor, once per state of the other.
        expected = sum(
            (n - int((part.diagonal() != 0).sum())) * (K // len(part))
            for n, part in zip(moves, (first, second), strict=True)
        )
        apart = int((Q != 0).sum()) - int((Q.diagonal() != 0).sum())
        if all(moves) and expected == apart:
            yield Kronecker(*(recognise(part) or RateMatrix(part) for part in (first, second)))


def _generator(rates: Tensor) -> Tensor:
    """The rate matrix with these rates off the diagonal."""
    rates = rates - rates.diagonal().diag()
    return rates - rates.sum(1).diag()


def _masked(tokens: Tensor, rates: Tensor) -> Iterator[Generator]:
    """Chains that end in the last state."""
    if not bool((tokens - tokens.diagonal().diag()).ne(0).any()):
        yield Masking(rates)
    elif bool((rates == rates[0]).all()) and float(rates[0]) > 0:
        inner = tokens + rates[0] * torch.eye(len(tokens), dtype=tokens.dtype)
        yield Killing(recognise(inner) or RateMatrix(inner), rates[0])


def _tree(rates: Tensor) -> Generator | None:
    """Nested clusters: what a block has in common is its level, and the rest lies within."""
    chain: Any = None
    label = torch.zeros(len(rates), dtype=torch.int64)
    off = ~torch.eye(len(rates), dtype=torch.bool)
    while bool(rates[off].gt(RELATIVE * rates.max()).any()):
        same = label == label.unsqueeze(1)
        least = torch.where(same & off, rates, torch.inf).amin(1)
        size = same.sum(1)
        rate = (least * size)[size > 1].min()  # what all blocks of the level have in common
        if float(rate) > 0:
            level = rate * Clusters([label])
            chain = chain + level if chain else level
            rates = torch.where(same & off, rates - (rate / size).unsqueeze(1), rates).clamp(min=0)
            rates = torch.where(rates < RELATIVE * rate / len(rates), 0.0, rates)
        finer = _blocks(rates)
        if finer is None or torch.equal(finer, label):
            return None
        label = finer
    return chain


def _blocks(rates: Tensor) -> Tensor | None:
    """Labels of the blocks outside of which all rates are zero; None if they do not nest."""
    joined = (rates > 0) | torch.eye(len(rates), dtype=torch.bool)
    first = joined.long().argmax(1)  # the first state that each is joined to
    if not torch.equal(joined, first == first.unsqueeze(1)):
        return None
    return first.unique(return_inverse=True)[1]
