"""Alignment of numbers per batch element with states of shape (B, *event)."""

from __future__ import annotations

import torch
from torch import Tensor


def along(v: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers of shape (B,) as (B, 1, …, 1) against ``x``, cast once to a floating dtype."""
    if dtype is None:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return v.to(dtype).reshape(v.shape + (1,) * (x.dim() - 1))


def sum_event(values: Tensor) -> Tensor:
    """The sum over all but the batch dimension."""
    return values if values.dim() == 1 else values.flatten(1).sum(1)


def span(s: Tensor, t: Tensor) -> Tensor:
    """The time between s and t, zero where both are the same infinity."""
    return torch.where(s == t, 0.0, t - s)
