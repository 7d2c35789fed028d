r"""Derivatives of functions of a batch, sample by sample.

For :math:`f: \mathbb{R}^n \to \mathbb{R}^n` and random v with mean zero and covariance I,

.. math::
    \nabla \cdot f(x) = \operatorname{tr} \frac{\partial f}{\partial x}
    = \sum_i e_i^\top \frac{\partial f}{\partial x} e_i
    = \mathbb{E}_v \left[ v^\top \frac{\partial f}{\partial x} v \right].

The functions act on a batch, (B, *event), each sample by itself. Results can be differentiated
again, also in the parameters of f.

References:
    | A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines
      (Hutchinson, 1990)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r""":math:`\nabla f(x)` of a function from (B, *event) to (B,), of shape (B, *event).

    Example:
        >>> gradient(lambda x: (x**3).sum(-1), torch.tensor([[1.0, 2.0]]))
        tensor([[ 3., 12.]])
    """
    return torch.func.grad(lambda at: f(at).sum())(x)


def slope(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The derivative in time of a function of times (B,), of the shape of its values (B, *any).

    Example:
        >>> slope(lambda t: torch.stack([t, t**2], -1), torch.tensor([3.0]))
        tensor([[1., 6.]])
    """
    t = t.clone(memory_format=torch.contiguous_format)  # expanded times are one number
    return torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]


def divergence(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r""":math:`\nabla \cdot f(x)` of a field from (B, *event) to itself, of shape (B,).

    Exact, by one backward pass per entry of the event: for small events.

    Example:
        >>> divergence(lambda x: x * x.sum(-1, keepdim=True), torch.tensor([[1.0, 2.0]]))
        tensor([9.])
    """
    n = math.prod(x.shape[1:])
    basis = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, 1, *x.shape[1:])
    return quadratic_forms(f, x, basis.expand(n, *x.shape)).sum(0)


def hutchinson(
    f: Callable[[Tensor], Tensor], x: Tensor, probes: int | Tensor
) -> tuple[Tensor, Tensor]:
    r"""An unbiased estimate of :math:`\nabla \cdot f(x)` and its standard error, of shape (B,).

    The error comes from the off-diagonal part of the Jacobian only: Rademacher probes have the
    smallest variance among those with independent entries. One probe says nothing about its error,
    which is then infinite.

    Arguments:
        f: A field from (B, *event) to itself.
        x: Where the divergence is wanted.
        probes: How many Rademacher probes to draw, or the probes, (n, B, *event): an ODE needs the
            same ones at each of its steps.

    Example:
        >>> hutchinson(lambda x: 2 * x, torch.zeros(1, 3), 4)
        (tensor([6.]), tensor([0.]))
    """
    if isinstance(probes, int):
        probes = signs(x, probes)
    values = quadratic_forms(f, x, probes)
    n = values.shape[0]
    if n == 1:
        return values[0], torch.full_like(values[0], torch.inf)
    return values.mean(0), values.std(0) / math.sqrt(n)


def signs(x: Tensor, probes: int) -> Tensor:
    """Rademacher probes for fields at x, shape (n, B, *event)."""
    bits = torch.randint(2, (probes, *x.shape), device=x.device)
    return (2 * bits - 1).to(x.dtype)


def quadratic_forms(f: Callable[[Tensor], Tensor], x: Tensor, vectors: Tensor) -> Tensor:
    """The values vᵀ (∂f/∂x) v for vectors (n, B, *event), of shape (n, B)."""
    pullback = torch.func.vjp(f, x)[1]
    (rows,) = torch.func.vmap(pullback)(vectors)
    return (rows * vectors).flatten(2).sum(-1)


class Memo:
    """A value that is kept until the numbers it was made from change.

    A value with a graph serves several uses before one backward pass, and is forgotten by that
    pass, which frees the graph. Numbers are compared by value, as not every change of a tensor
    counts its version; so nothing is kept on devices where that would have to wait for them.

    Example:
        >>> made, memo, number = [], Memo(), torch.ones(())
        >>> for step in range(3):
        ...     _ = memo([number], lambda: made.append(step))
        >>> made
        [0]
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._graph, self._made, self._value = False, False, None

    def __call__(self, numbers: Iterable[Tensor], make: Callable[[], Any]) -> Any:
        """The value, made anew if a number or the mode of gradients is another one."""
        now, graph = list(numbers), torch.is_grad_enabled()
        if not (self._made and graph == self._graph and self._same(now)):
            self._value, self._graph, self._made = make(), graph, True
            self._kept = [(n, n.detach().clone()) for n in now]
        return self._value

    def _same(self, now: list[Tensor]) -> bool:
        if torch.compiler.is_compiling() or any(n.device.type != "cpu" for n in now):
            return False
        return len(now) == len(self._kept) and all(
            n is known and torch.equal(n, value)
            for n, (known, value) in zip(now, self._kept, strict=True)
        )

    def forget_after(self, tensor: Tensor) -> Tensor:
        """Has a gradient that flows through this tensor end the value's life."""
        if tensor.requires_grad and not torch.compiler.is_compiling():
            tensor.register_hook(self._forget)
        return tensor

    def _forget(self, gradient: Tensor) -> None:
        self._made, self._value = False, None
