"""Jumps between finitely many states."""

from __future__ import annotations

from typing import ClassVar, SupportsIndex

import torch
from torch import Tensor
from torch.distributions import constraints

from ..laws import box_index
from ..params import as_numbers, declare, probabilities, rate_matrix
from ..validation import require
from .kinds import Function, Jump, Numbers
from .numbers import (
    require_function,
    require_no_parameter,
    require_nonnegative,
    require_numbers,
    written,
)


class FiniteJump(Jump):
    """A jump on the states 0 … K−1, int64."""

    categorical: ClassVar[bool] = True
    size: int

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.integer_interval(0, self.size - 1)

    def varies(self) -> bool:
        """Whether the rates vary in time: `frozen` then gives them at a time."""
        return False

    def matrix(self) -> Tensor:
        """The rate matrix, (K, K) float64; rows sum to zero."""
        states = torch.arange(self.size, device=self.scale.device)
        return self.scale * _matrix_of(*self.out(states), states)

    def matrices(self, t: Tensor) -> Tensor:
        """The rate matrices at own times (B,), shape (B, K, K)."""
        if not self.varies():
            return self.matrix().expand(len(t), -1, -1)
        states = torch.arange(self.size, device=t.device).expand(len(t), -1)
        return self.scale * _matrix_of(*self.frozen(t).out(states), states)

    def states(self, x: Tensor) -> Tensor:
        """All states as points, shape (*x.shape, K)."""
        return torch.arange(self.size, device=x.device).expand(*x.shape, self.size)


def _matrix_of(points: Tensor, rates: Tensor, x: Tensor) -> Tensor:
    """The rate matrices of all jumps out of the states x, (*batch, K) to (*batch, K, K)."""
    rates = rates.expand(points.shape).double().masked_fill(points == x.unsqueeze(-1), 0.0)
    size = x.shape[-1]
    Q = rates.new_zeros(*x.shape, size).scatter_add(-1, points, rates)
    return Q - rates.sum(-1).diag_embed()


class RateMatrix(FiniteJump):
    r"""Any continuous-time Markov chain on finitely many states.

    .. math:: (L f)(x) = \sum_y Q_{xy} f(y)

    Arguments:
        Q: Rates of x → y in row x, shape (K, K), rows summing to zero (to 1e-6 of the rates, as
            float32 can; the diagonal is then completed in float64); or a function of time (B,)
            that returns (B, K, K).
        sites: Sides :math:`(K_1, …, K_D)` of a joint space of coupled sites, with
            :math:`K = \prod_d K_d`; states then carry D sites on their last axis.

    Raises:
        ValueError: If Q is not square, a rate is negative or a row does not sum to zero.

    Example:
        >>> flip = RateMatrix(torch.tensor([[-1.0, 1.0], [2.0, -2.0]]))
        >>> flip.limit((1,)).probs
        tensor([[0.6667, 0.3333]])
    """

    arg_constraints = {"Q": rate_matrix}
    Q: Tensor

    def __init__(self, Q: Tensor | list | Function, sites: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.function = Q if callable(Q) else None
        if self.function is None:
            require_no_parameter(Q, "Q")
            Q = as_numbers(Q, "Q")
            require_rate_matrix(Q.detach(), "Q")
            declare(self, "Q", with_diagonal(Q))
            first = self.Q
        else:
            value = require_function(self.function, "Q")
            shape = tuple(value.shape)
            batched = len(shape) == 3 and shape[0] == 1
            require(batched, f"Q at times of shape (1,) must be (1, K, K); its shape is {shape}")
            first = value[0]
            require_rate_matrix(first.detach(), "Q")
        listed = isinstance(sites, tuple | list) and all(isinstance(n, int) for n in sites)
        require(listed, f"sites must be a tuple of integers; it is {sites!r}")
        self.size, self.sites = first.shape[0], tuple(sites)
        sides = torch.Size(self.sites).numel()
        require(
            not sites or sides == self.size, f"sites {sites} make {sides} states, Q {self.size}"
        )
        self.event_axes = 1 if self.sites else 0

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return _Sites(self.sites) if self.sites else super().support

    def varies(self) -> bool:
        return self.function is not None

    def matrix(self) -> Tensor:
        return self.scale * self.Q

    def matrices(self, t: Tensor) -> Tensor:
        return self.scale * self.function(t) if self.function else super().matrices(t)

    def frozen(self, t: Tensor) -> Jump:
        if self.function is None:
            return self
        clone = self._copy()
        clone.__dict__ |= {"function": None, "Q": self.function(t)}
        return clone

    def index(self, x: Tensor) -> Tensor:
        """The joint index of states: themselves, or of their sites on the last axis."""
        return box_index(x, self.sites)[0] if self.sites else x

    def points(self, index: Tensor) -> Tensor:
        """All states as points, shape (*index.shape, K) or (*index.shape, K, D)."""
        every = torch.arange(self.size, device=index.device)
        if not self.sites:
            return every.expand(*index.shape, self.size)
        every = torch.stack(torch.unravel_index(every, self.sites), -1)
        return every.expand(*index.shape, *every.shape)

    def _rows(self, Q: Tensor, index: Tensor) -> Tensor:
        if Q.dim() == 2:
            return Q[index]
        return Q[torch.arange(len(Q)).reshape((-1,) + (1,) * (index.dim() - 1)), index]

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        index = self.index(x)
        return self.points(index), self._rows(self.Q, index)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        index = self.index(x)
        return self.points(index), self._rows(self.Q.mT, index)

    def widths(self) -> dict[str, int]:
        return {"sites": len(self.sites)} if self.sites else {}

    def extra_repr(self) -> str:
        kind = "Q(t)" if self.function is not None else f"{self.size}×{self.size}"
        return f"{kind}, sites={self.sites}" if self.sites else kind


class Replace(FiniteJump):
    r"""Replacement by a draw from a fixed law, at unit rate.

    .. math:: (L f)(x) = \mathbb{E}_{y \sim \pi}[f(y)] - f(x)

    With :math:`\pi = \delta_{\mathrm{mask}}` tokens are masked; with :math:`\pi` uniform they are
    scrambled.

    Arguments:
        pi: The replacement law, probabilities of shape :math:`(K,)`, summing to one (to 1e-6, as
            float32 can; what is missing is completed in float64 by a common factor).

    Raises:
        ValueError: If an entry of ``pi`` is negative or the sum is not one.

    References:
        | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021)

    Example:
        >>> Replace(torch.full((4,), 0.25)).transition(torch.tensor([0]), 0.0, 1.0).probs
        tensor([[0.5259, 0.1580, 0.1580, 0.1580]])
    """

    arg_constraints = {"pi": probabilities}
    pi: Tensor

    def __init__(self, pi: Numbers) -> None:
        super().__init__()
        require_no_parameter(pi, "pi")
        pi = as_numbers(pi, "pi")
        require_simplex(pi.detach(), "pi")
        declare(self, "pi", pi / pi.sum())
        self.size = self.pi.shape[0]

    def matrix(self) -> Tensor:
        return self.scale * (self.pi.expand(self.size, -1) - torch.eye(self.size).to(self.pi))

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.states(x), self.pi.expand(*x.shape, -1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.states(x), self.pi[x].unsqueeze(-1).expand(*x.shape, self.size)

    def extra_repr(self) -> str:
        return written(self.pi)


def one_hot(index: int, size: int) -> Tensor:
    """The probability vector that is certain of one state, float64 of shape (size,).

    Example:
        >>> one_hot(2, 3)
        tensor([0., 0., 1.], dtype=torch.float64)
    """
    whole = isinstance(index, SupportsIndex) and isinstance(size, SupportsIndex)
    require(whole, f"index and size must be integers; they are {index!r} and {size!r}")
    require(0 <= index < size, f"index must lie in [0, {size - 1}]; it is {index}")
    pi = torch.zeros(size, dtype=torch.float64)
    pi[index] = 1.0
    return pi


def require_rate_matrix(Q: Tensor, name: str) -> None:
    """Raises unless Q is square with non-negative rates and rows that sum to zero."""
    require(
        Q.dim() == 2 and Q.shape[0] == Q.shape[1],
        f"{name} must be a square matrix; its shape is {tuple(Q.shape)}",
    )
    require_numbers(Q, name)
    rates = Q - Q.diagonal().diag()
    if bool((rates < 0).any()):
        x, y = (rates < 0).nonzero()[0].tolist()
        raise ValueError(f"{name}[{x}, {y}] = {Q[x, y]:g} is a negative rate")
    sums, size = Q.sum(1), Q.abs().sum(1)
    wrong = sums.abs() > 1e-6 * size
    if bool(wrong.any()):
        x = int(wrong.nonzero()[0])
        raise ValueError(f"rows of {name} must sum to zero; row {x} sums to {sums[x]:g}")


def with_diagonal(Q: Tensor) -> Tensor:
    """The rate matrix with the diagonal that makes its rows sum to zero."""
    rates = Q - Q.diagonal(dim1=-2, dim2=-1).diag_embed()
    return rates - rates.sum(-1).diag_embed()


def require_simplex(pi: Tensor, name: str) -> None:
    """Raises unless pi is a vector of probabilities that sum to one."""
    require(pi.dim() == 1, f"{name} must be a vector; its shape is {tuple(pi.shape)}")
    require_numbers(pi, name)
    require_nonnegative(pi, name)
    total = float(pi.sum())
    require(abs(total - 1) < 1e-6, f"{name} must sum to one; its sum is {total:g}")


class _Sites(constraints.Constraint):
    """Sites on the last axis, each with its own number of states."""

    is_discrete = True
    event_dim = 1

    def __init__(self, sides: tuple[int, ...]) -> None:
        self.sides = sides
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return box_index(value, self.sides)[1]

    def __repr__(self) -> str:
        return f"Sites{self.sides}"
