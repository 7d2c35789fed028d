r"""Chains that are declared by their steps: discrete time on the integers.

A chain moves at the times 1, 2, …, T, by a law of :math:`x_k` given :math:`x_{k-1}`. As a term its
own time is the number of steps, and nothing lies between two integers; run on the clock
:math:`\Lambda(t) = T t` it is a process on [0, 1] at the times k / T, of which it is the `Chain`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from . import clock, laws
from .numerics.special import safe_log
from .params import as_numbers, declare, fixed, stochastic
from .process import Chain, Timed
from .terms import Term
from .validation import require, require_count, shown

ROUNDING = 1e-6  # of the sum of a row, as float32 can


class Stepwise(Term):
    """A term that moves at integer own times 1 … ``count`` only: a chain declared by its steps."""

    count: int
    backward: ClassVar[bool] = False  # whether it is declared by its steps back, given the data

    @abstractmethod
    def step(self, x: Tensor, k: Tensor) -> Distribution:
        """The declared law of the state at own time k (B,) given that at k − 1."""

    def __rmul__(self, rate: Any) -> Term:
        raise ValueError("a chain has steps, no rate: it cannot be run at a multiple of its speed")


class Stepped(Timed):
    r"""A chain that is declared by its steps, on the clock :math:`\Lambda(t) = T t`."""

    arg_constraints = {"clock": fixed}  # it counts: there is nothing to learn

    def __init__(self, term: Stepwise) -> None:
        super().__init__(term, clock.Constant(float(term.count)))


class Kernels(Stepwise):
    r"""Steps on the states 0 … K−1, site by site.

    .. math:: q(x_k = y \mid x_{k-1} = x) = (Q_k)_{xy}

    Arguments:
        kernels: One kernel (K, K), or one for each step, (T, K, K).
        steps: The number of steps, for one kernel.

    Raises:
        ValueError: As `MatrixChain` does.
    """

    arg_constraints = {"kernels": stochastic}
    categorical = True
    kernels: Tensor

    def __init__(self, kernels: Tensor, steps: int | None = None) -> None:
        super().__init__()
        values = as_numbers(kernels, "kernels")
        _require_kernels(values.detach())
        self.constant = values.dim() == 2
        if self.constant:
            require(steps is not None, "one kernel (K, K) needs steps=, their number")
            self.count = require_count(steps, "steps")
        else:
            own = steps is None or steps == len(values)
            require(own, f"kernels (T, K, K) say their number, {len(values)}: leave out steps=")
            self.count = len(values)
        self.size = values.shape[-1]
        declare(self, "kernels", kernels)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.integer_interval(0, self.size - 1)

    def matrices(self) -> Tensor:
        """The kernels, (T or 1, K, K) float64, each row divided by its sum."""
        Q = self.kernels.double().reshape(-1, self.size, self.size)
        return Q / Q.sum(-1, keepdim=True)

    def step(self, x: Tensor, k: Tensor) -> Distribution:
        Q = self.matrices().expand(self.count, -1, -1)
        index = k.long().reshape(k.shape + (1,) * (x.dim() - 1)) - 1
        return laws.Table(safe_log(Q[index, x]), torch.int64).to_event(x.dim() - 1)

    def extra_repr(self) -> str:
        what = "one kernel" if self.constant else "a kernel each"
        return f"{self.count} steps of {what}, {self.size} states"


def _require_kernels(Q: Tensor) -> None:
    """Raises ``ValueError`` unless rows are probabilities."""
    square = Q.dim() in (2, 3) and Q.shape[-1] == Q.shape[-2] and Q.numel() > 0
    rule = "kernels must have shape (K, K) or (T, K, K)"
    require(square, f"{rule}; their shape is {tuple(Q.shape)}")
    bad = ~((Q >= 0) & Q.isfinite())
    if bool(bad.any()):
        at = bad.nonzero()[0].tolist()
        raise ValueError(f"kernels must be probabilities ≥ 0; kernels{at} is {float(Q[bad][0]):g}")
    off = (Q.sum(-1) - 1).abs() > ROUNDING
    if bool(off.any()):
        at = off.nonzero()[0].tolist()
        row = f"row {at[-1]}" + (f" of kernel {at[0]} (step {at[0] + 1})" if at[1:] else "")
        total, values = float(Q[off][0].sum()), shown(Q[off][0])
        raise ValueError(f"rows of kernels must sum to one; {row} sums to {total:g}: {values}")


class MatrixChain(Chain):
    r"""A discrete-time Markov chain on finitely many states, by its one-step kernels.

    .. math::
        q(x_k = y \mid x_{k-1} = x) = (Q_k)_{xy}, \qquad
        q(x_t \mid x_s) = (Q_{s+1} Q_{s+2} \cdots Q_t)_{x_s x_t}

    Each site of a state moves by itself. It is the `Chain` at the times k / T of a process on
    [0, 1]: heads are called at these, laws and losses at the indices k.

    Arguments:
        kernels: One kernel (K, K) for all steps, or one for each, (T, K, K); rows are those of the
            state before. They sum to one to 1e-6, as float32 can, and are divided by their sums.
        steps: The number of steps T, for one kernel.

    Raises:
        ValueError: If a shape does not fit, an entry is negative or a row does not sum to one.

    References:
        | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021)

    Example:
        >>> chain = MatrixChain(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), steps=3)
        >>> chain.transition(torch.tensor([0]), 0, 2).probs  # the first row of the square
        tensor([[0.8300, 0.1700]])
        >>> chain.limit((1,)).probs
        tensor([[0.6667, 0.3333]])
    """

    def __init__(self, kernels: Tensor, steps: int | None = None) -> None:
        term = Kernels(kernels, steps)
        count = term.count
        super().__init__(Stepped(term), every(count))

    def __repr__(self) -> str:
        (leaf,) = self.process.leaves(self.times[:1])
        return f"MatrixChain({leaf.core.terms[0].extra_repr()})"


def every(count: int) -> Tensor:
    """The times k / T of T steps on [0, 1], at which the clock ``Constant(T)`` shows k."""
    return torch.arange(1, count + 1, dtype=torch.float64) / count
