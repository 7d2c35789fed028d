r"""How noise travels from coordinate to coordinate of a linear system.

Noise of covariance G per time reaches the directions :math:`G, A G, A^2 G, \dots`: over a short
time t the covariance has the size :math:`t^{2 i + 1}` in the i-th of them. The first coordinate,
where a lift has its data, hears the directions :math:`e_1, A^\top e_1, (A^\top)^2 e_1, \dots`,
the i-th over a short time as :math:`t^i`. Where these directions are not along axes, the entries
of covariances are nearly dependent, and their factor is found in other coordinates

.. math:: y' = T^\top y, \qquad A' = T^\top A T, \qquad G' = T^\top G T,

with T orthogonal and its columns a basis of the directions, block after block. There the zeros of
A' and G' are exact. What is smallest over a short time comes first: the block that noise reaches
last, or the coordinate of the data.

References:
    | Linear Systems (Kailath, 1980), staircase forms
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

INDEPENDENT = 1e-9  # of the largest size: what has no more is no direction of its own
NOISE = 1e-12  # of the largest entry of G: what has no more is rounding

Picks = tuple[tuple[int, ...], ...]


class Stairs(NamedTuple):
    r"""Coordinates :math:`y' = T^\top y` in which noise travels block after block.

    Arguments:
        turn: T, orthogonal, shape (k, k).
        picks: Which candidates make each block, as they are found. Those of noise stand in
            reverse order.
        silent: None where noise enters the first block and goes on block after block; else the
            number of blocks from the first coordinate on into which none enters: they hear it
            from the next one.
    """

    turn: Tensor
    picks: Picks
    silent: int | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """The sizes of the blocks as they are found."""
        return tuple(map(len, self.picks))

    def again(self, A: Tensor, G: Tensor) -> Stairs:
        """The staircase of other numbers with the same structure; looks at no values."""
        if self.silent is None:
            return staircase(A, G, self.picks)
        return Stairs(*_basis(A.mT, _first_unit(G), self.picks), self.silent)

    def systems(self, A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """A and G in these coordinates, with zeros where noise does not come."""
        block = self._blocks(A)
        row, column = block.unsqueeze(1), block
        turned = self.turn.mT @ A @ self.turn, self.turn.mT @ G @ self.turn
        quiet = self._quiet(block)
        none = row > column + 1 if self.silent is None else column > row + 1
        pairs = zip(turned, (none, quiet.unsqueeze(1) | quiet), strict=True)
        A, G = (_without(v, where) for v, where in pairs)
        return A, G

    def noise(self, B: Tensor) -> Tensor:
        """Sources (…, k, r) of noise in these coordinates, with zeros where none enters."""
        return _without(self.turn.mT @ B, self._quiet(self._blocks(B)).unsqueeze(1))

    def _blocks(self, like: Tensor) -> Tensor:
        """The block of each coordinate."""
        count = torch.arange(len(self.ranks)), torch.tensor(self.ranks)
        block = torch.repeat_interleave(*count).to(like.device)
        return block.flip(0) if self.silent is None else block

    def _quiet(self, block: Tensor) -> Tensor:
        """Whether no noise enters a coordinate of this block."""
        return block > 0 if self.silent is None else block < self.silent

    def aligned(self) -> bool:
        """Whether the own coordinates are like these: turning wins nothing.

        The blocks that matter are spanned by unit vectors, and those of noise stand in its order.
        """
        if self.silent is not None:
            return _along_axes(self.turn, self.ranks[: self.silent + 1])
        block = self._blocks(self.turn)
        apart = block.unsqueeze(1) != block
        return bool(self.turn[apart].abs().max() < 1e-9) if bool(apart.any()) else True


def _along_axes(turn: Tensor, ranks: tuple[int, ...]) -> bool:
    """Whether the first columns, in groups, are spanned by unit vectors each."""
    parts = turn[:, : sum(ranks)].split(ranks, -1)
    return all(bool(((p @ p.mT).round() - p @ p.mT).abs().max() < 1e-9) for p in parts)


def _without(value: Tensor, none: Tensor) -> Tensor:
    """What rounding leaves where there is nothing is taken away; its derivatives are not."""
    return value - torch.where(none, value, 0.0).detach()


def staircase(A: Tensor, G: Tensor, picks: Picks | None = None) -> Stairs:
    r"""The staircase of the noise: the range of G, what A makes of it beyond, and so on.

    Arguments:
        A: Shape (k, k).
        G: Shape (k, k).
        picks: The structure; found if not given, which looks at values.
    """
    turn, picks = _basis(A, G, picks)
    return Stairs(turn.flip(-1), picks)


def hearing(A: Tensor, G: Tensor) -> Stairs:
    r"""The staircase of the first coordinate: :math:`e_1`, what :math:`A^\top` makes of it, ….

    Arguments:
        A: Shape (k, k).
        G: Shape (k, k).

    Example:
        >>> A = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, -1.0, -1.0]])
        >>> hearing(A, torch.tensor([0.0, 0.0, 2.0]).diag()).silent
        2
    """
    A, G = A.detach(), G.detach()
    turn, picks = _basis(A.mT, _first_unit(G), None)
    loud = (turn.mT @ G).abs().amax(1) > NOISE * G.abs().max()
    each = [bool(v.any()) for v in loud.split([len(block) for block in picks])]
    return Stairs(turn, picks, each.index(True) if any(each) else 0)


def _first_unit(G: Tensor) -> Tensor:
    r""":math:`e_1 e_1^\top` of the shape of a matrix."""
    first = torch.zeros_like(G)
    first[0, 0] = 1.0
    return first


def _basis(A: Tensor, start: Tensor, picks: Picks | None) -> tuple[Tensor, Picks]:
    """An orthonormal basis of what A makes of a start, block after block, and what made them.

    Each block has some columns of its candidates less what they share with those before: of the
    start, then of A times the last block, and after an empty one of the unit matrix.
    """
    basis, found, candidates = A[:, :0], [], start
    while basis.shape[1] < len(A):
        given = None if picks is None else picks[len(found)]
        block, chosen = _block(basis, candidates, given)
        basis, candidates = torch.cat([basis, block], -1), A @ block
        found.append(chosen)
        if not chosen:
            candidates = torch.eye(len(A)).to(A)
    return basis, tuple(found)


def _block(
    basis: Tensor, candidates: Tensor, given: tuple[int, ...] | None
) -> tuple[Tensor, tuple[int, ...]]:
    """Orthonormal columns from candidates, orthogonal to a basis, and which made them."""
    block, chosen = basis[:, :0], []
    most = torch.linalg.matrix_norm(candidates.detach())
    while given is None or len(chosen) < len(given):
        both = torch.cat([basis, block], -1)
        rest = candidates - both @ (both.mT @ candidates)
        sizes = torch.linalg.vector_norm(rest.detach(), dim=0)
        if given is None and not bool((sizes > INDEPENDENT * most).any()):
            break
        chosen.append(int(sizes.argmax()) if given is None else given[len(chosen)])
        column = rest[:, chosen[-1]]
        column = column - both @ (both.mT @ column)  # what rounding left of them
        block = torch.cat([block, (column / column.norm()).unsqueeze(1)], -1)
    return block, tuple(chosen)


def reached(A: Tensor, G: Tensor, start: Tensor | None = None) -> bool:
    r"""Whether the state is random in every direction, all sides alike.

    At all times it is so in the directions :math:`\Phi G, \Phi A G, \dots` of noise of
    covariance G per time, and in the directions :math:`\Phi C` of a random start.

    Arguments:
        A: Shape (*sides, k, k).
        G: Shape (*sides, k, k).
        start: C, shape (k, n); none by default.

    Example:
        >>> A = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # no noise: the start turns, and is a line
        >>> reached(A, torch.zeros(2, 2), torch.tensor([[0.0], [1.0]]))
        False
    """
    A, G = (v.detach() / _norm(v.detach()) for v in torch.broadcast_tensors(A, G))
    blocks = [G]
    for _ in range(A.shape[-1] - 1):
        block = A @ blocks[-1]
        blocks.append(block / _norm(block))
    if start is not None:
        start = start.detach() / _norm(start.detach())
        blocks.append(start.expand(*G.shape[:-1], start.shape[-1]))
    ranks = torch.linalg.matrix_rank(torch.cat(blocks, -1))
    return bool((ranks == A.shape[-1]).all())


def _norm(matrix: Tensor) -> Tensor:
    """Frobenius norms, one for zero."""
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    return torch.where(norm > 0, norm, torch.ones_like(norm))
