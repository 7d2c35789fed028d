r"""How noise travels from coordinate to coordinate of a linear system.

Noise of covariance G per time reaches the directions :math:`G, A G, A^2 G, \dots`: over a short
time t the covariance has the size :math:`t^{2 i + 1}` in the i-th of them. The first coordinate,
where a lift has its data, hears the directions :math:`e_1, A^\top e_1, (A^\top)^2 e_1, \dots`,
the i-th over a short time as :math:`t^i`. Where these directions are not along axes, the entries
of covariances are nearly dependent, and their factor is found in other coordinates

.. math:: y' = T^\top y, \qquad A' = T^\top A T, \qquad G' = T^\top G T,

with T orthogonal and its columns a basis of the directions, block after block. There the zeros of
A' and G' are exact.

References:
    | Linear Systems (Kailath, 1980), staircase forms
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

INDEPENDENT = 1e-9  # of the largest size: what has no more is no direction of its own
NOISE = 1e-12  # of the largest entry of G: what has no more is rounding


class Stairs(NamedTuple):
    r"""Coordinates :math:`y' = T^\top y` in which noise travels block after block.

    Arguments:
        turn: T, orthogonal, shape (k, k).
        ranks: The sizes of the blocks.
        silent: None where noise enters the first block and goes on block after block; else the
            number of blocks from the first coordinate on into which none enters: they hear it
            from the next one.
    """

    turn: Tensor
    ranks: tuple[int, ...]
    silent: int | None = None

    def again(self, A: Tensor, G: Tensor) -> Stairs:
        """The staircase of other numbers with the same structure; looks at no values."""
        if self.silent is None:
            return staircase(A, G, self.ranks)
        first = _first_unit(G)
        return Stairs(*_basis(A.detach().mT, first, self.ranks), self.silent)

    def systems(self, A: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
        """A and G in these coordinates, with zeros where noise does not come."""
        block = torch.repeat_interleave(torch.arange(len(self.ranks)), torch.tensor(self.ranks))
        row, column = block.to(A.device).unsqueeze(1), block.to(A.device)
        turned = self.turn.mT @ A @ self.turn, self.turn.mT @ G @ self.turn
        if self.silent is None:
            none = row > column + 1, (row > 0) | (column > 0)
        else:
            none = column > row + 1, (row < self.silent) | (column < self.silent)
        # What rounding leaves there is taken away; its derivatives are not.
        A, G = (v - torch.where(z, v, 0.0).detach() for v, z in zip(turned, none, strict=True))
        return A, G

    def aligned(self) -> bool:
        """Whether the blocks that matter are spanned by unit vectors: turning wins nothing."""
        ranks = self.ranks if self.silent is None else self.ranks[: self.silent + 1]
        parts = self.turn[:, : sum(ranks)].split(ranks, -1)
        return all(bool(((p @ p.mT).round() - p @ p.mT).abs().max() < 1e-9) for p in parts)


def staircase(A: Tensor, G: Tensor, ranks: tuple[int, ...] | None = None) -> Stairs:
    r"""The staircase of the noise: the range of G, what A makes of it beyond, and so on.

    Arguments:
        A: Shape (k, k).
        G: Shape (k, k).
        ranks: The sizes of the blocks; found if not given, which looks at values.
    """
    return Stairs(*_basis(A.detach(), G.detach(), ranks))


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
    turn, ranks = _basis(A.mT, _first_unit(G), None)
    loud = (turn.mT @ G).abs().amax(1) > NOISE * G.abs().max()
    each = [bool(v.any()) for v in loud.split(ranks)]
    return Stairs(turn, ranks, each.index(True) if any(each) else 0)


def _first_unit(G: Tensor) -> Tensor:
    r""":math:`e_1 e_1^\top` of the shape of a matrix."""
    first = torch.zeros_like(G)
    first[0, 0] = 1.0
    return first


def _basis(
    A: Tensor, start: Tensor, ranks: tuple[int, ...] | None
) -> tuple[Tensor, tuple[int, ...]]:
    """An orthonormal basis of what A makes of a start, block after block, and their sizes."""
    rest, block, found, basis = torch.eye(len(A)).to(A), start, [], []
    while rest.shape[1] and (ranks is None or len(found) < len(ranks)):
        U, sizes, _ = torch.linalg.svd(rest.mT @ block)
        most = torch.linalg.matrix_norm(block)
        rank = int((sizes > INDEPENDENT * most).sum()) if ranks is None else ranks[len(found)]
        if rank == 0:
            rank = rest.shape[1]  # A never leads there
        basis.append(rest @ U[:, :rank])
        rest, block = rest @ U[:, rank:], A @ basis[-1]
        found.append(rank)
    return torch.cat(basis, -1), tuple(found)


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
