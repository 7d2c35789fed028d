"""What declared numbers must be, and how they are written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..validation import require, shown

START = torch.zeros(1, dtype=torch.float64)


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def broadcasts(value: Tensor, x: Tensor) -> bool:
    pairs = zip(value.shape[::-1], x.shape[::-1], strict=False)
    return value.dim() <= x.dim() and all(a in (1, b) for a, b in pairs)


def require_fit(value: Any, x: Tensor, name: str, fits: bool) -> None:
    """Raises unless what a function of (x, t) returned fits the state."""
    found = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
    require(fits, f"{name}(x, t) must fit x of shape {tuple(x.shape)}; it returned {found}")


def require_function(value: Any, name: str) -> Tensor:
    """The value of a function of time at (1,); raises ``ValueError`` unless it is a tensor."""
    first = value(START)
    require(
        isinstance(first, Tensor),
        f"{name} as a function of time must return a tensor for times of shape (B,); "
        f"it returns {first!r}",
    )
    return first


def zero(value: Tensor) -> bool:
    """Whether declared numbers are zero and stay so."""
    return not value.requires_grad and not bool(value.any())


def require_no_parameter(value: object, name: str) -> None:
    """Raises if an optimiser would take a number out of its constraint, or miss it."""
    free = isinstance(value, torch.nn.Parameter)
    require(
        not free, f"{name} must be numbers, which dd.learn then makes learnable; it is a Parameter"
    )


def require_nonnegative(value: Tensor, name: str) -> None:
    """Raises unless every number is ≥ 0."""
    require_numbers(value, name)
    bad = value.detach() < 0
    require(not bool(bad.any()), f"{name} must be ≥ 0; it contains {shown(value[bad])}")


def require_numbers(value: Tensor, name: str) -> None:
    """Raises unless every number is finite."""
    bad = ~value.detach().isfinite()
    require(not bool(bad.any()), f"{name} must be finite; it contains {shown(value[bad])}")


def written(value: Tensor) -> str:
    """Numbers as a declaration shows them: few in full, of many their shape."""
    value = value.detach()
    if value.dim() == 0:
        return f"{float(value):g}"
    if value.numel() <= 4 and value.dim() == 1:
        return "[" + ", ".join(f"{v:g}" for v in value.tolist()) + "]"
    return f"<{'×'.join(map(str, value.shape))}>"
