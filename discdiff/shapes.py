"""Alignment of numbers per batch element with states of shape (B, *event)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def along(v: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers of shape (B,) as (B, 1, …, 1) against ``x``, cast once to a floating dtype."""
    if dtype is None:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return v.to(dtype).reshape(v.shape + (1,) * (x.dim() - 1))


def one_shape(*shapes: tuple[int, ...]) -> torch.Size | None:
    """The shape to which all these are broadcast; None if there is none.

    Example:
        >>> one_shape((3, 1), (4,)), one_shape((3,), (4,))
        (torch.Size([3, 4]), None)
    """
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        return None


def sum_event(values: Tensor) -> Tensor:
    """The sum over all but the batch dimension."""
    return values if values.dim() == 1 else values.flatten(1).sum(1)


def span(s: Tensor, t: Tensor) -> Tensor:
    """The time between s and t, zero where both are the same infinity."""
    return torch.where(s == t, 0.0, t - s)


def once(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """A function of times (B,), evaluated once where t is one time that was expanded."""
    if t.stride() != (0,) or len(t) < 2:
        return function(t)
    return function(t[:1]).expand(t.shape)


def one_time(t: Tensor, *others: Tensor) -> Tensor:
    """Times (B,), or (1,) where they and some others are each one time that was expanded."""
    return t[:1] if all(v.stride() == (0,) for v in (t, *others)) else t


def act(matrix: Tensor, x: Tensor) -> Tensor:
    """Matrices (B, *sides, n, k) on the last axis of x, of shape (*samples, B, *event, k).

    Where one matrix serves all entries of a batch element (all sides are 1), entries are rows of
    one product.
    """
    shared = matrix.dim() == x.dim() + 1 and all(size == 1 for size in matrix.shape[1:-2])
    if not shared:
        return (matrix @ x.unsqueeze(-1)).squeeze(-1)
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    rows = flat @ matrix.reshape(matrix.shape[0], *matrix.shape[-2:]).mT
    return rows.reshape(*x.shape[:-1], matrix.shape[-2])
