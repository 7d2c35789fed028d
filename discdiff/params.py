r"""Declared numbers: how a process holds them, and how they become learnable.

A declared number is float64 and stays so: the mathematics of a process runs in float64 whatever
the dtype of the data. It may be a tensor that requires grad (then the graph is kept), or an
``nn.Parameter``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def declare(module: nn.Module, name: str, value: Any) -> None:
    """Registers a declared number on a module, as a parameter or a float64 buffer.

    Arguments:
        module: The module that holds the number.
        name: Its name, also in ``state_dict``.
        value: A number, a nested list, a tensor (which may require grad) or an ``nn.Parameter``.

    Raises:
        ValueError: If the value is no real number or tensor.
    """
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
        return
    if isinstance(value, Tensor) and value.is_complex():
        raise ValueError(f"{name} must be real; its dtype is {value.dtype}")
    try:
        number = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a number or a tensor; it is {value!r}") from error
    if isinstance(value, Tensor) and number is value and not value.requires_grad:
        number = number.clone()  # a later change of the caller's tensor must not change the process
    module.register_buffer(name, number)


class Declared(nn.Module):
    """A module whose floating numbers stay float64 under ``.half()``, ``.float()`` and ``.to``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Declared:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if tensor.dtype == torch.float64 and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        return super()._apply(keep, recurse)  # type: ignore[return-value]
