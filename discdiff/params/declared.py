"""Declared numbers: float64, counted by their versions, and held by modules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint
from torch.nn.utils import parametrize


def declare(module: nn.Module, name: str, value: Any) -> None:
    """Registers a declared number on a module, as a parameter or a float64 buffer.

    Arguments:
        module: The module that holds the number.
        name: Its name, also in ``state_dict``.
        value: A number, a nested list, a tensor (which may require grad) or an ``nn.Parameter``.

    Raises:
        ValueError: If the value is no real number or tensor.
    """
    names = module.__dict__.get("_declared", ())
    module.__dict__["_declared"] = (*(n for n in names if n != name), name)
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
        return
    number = as_numbers(value, name).contiguous()
    if isinstance(value, Tensor) and number is value and not value.requires_grad:
        number = number.clone()  # a later change of the caller's tensor changes no process
    module.register_buffer(name, number)


def as_numbers(value: Any, name: str) -> Tensor:
    """Numbers as a float64 tensor.

    Raises:
        ValueError: If they are none.
    """
    if isinstance(value, Tensor) and value.is_complex():
        raise ValueError(f"{name} must be real; its dtype is {value.dtype}")
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a number or a tensor; it is {value!r}") from error


class Versions:
    """Tensors as they are now, to see later whether they were changed or replaced.

    Example:
        >>> number = torch.ones(1)
        >>> then = Versions([number])
        >>> number.mul_(2.0), then.hold([number])
        (tensor([2.]), False)
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        compiling = torch.compiler.is_compiling()
        self.versions = [] if compiling else [v._version for v in self.tensors]

    def hold(self, tensors: Iterable[Tensor]) -> bool:
        """Whether these are the tensors, unchanged; not looked at while compiling."""
        if torch.compiler.is_compiling():
            return True
        now = list(tensors)
        same = len(now) == len(self.tensors) and all(map(operator.is_, self.tensors, now))
        return same and self.versions == [v._version for v in now]


class Declared(nn.Module):
    """A module whose floating numbers stay float64 under ``.half()``, ``.float()`` and ``.to``.

    A class says in ``arg_constraints`` where its own numbers may lie when they are learned; a
    number that it does not name is real. A child that it names `fixed` is not learned.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    forgotten: ClassVar[tuple[str, ...]] = ()  # attributes that no copy takes along

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in self.forgotten}

    def __deepcopy__(self, memo: dict[int, Any]) -> Declared:
        """A copy; a number that is a function of another tensor stays one, of the same tensor."""
        clone = object.__new__(type(self))
        memo[id(self)] = clone
        memo |= {id(v): v for v in self._buffers.values() if v is not None and not v.is_leaf}
        state = {k: v for k, v in vars(self).items() if k not in self.forgotten}
        vars(clone).update(deepcopy(state, memo))
        return clone

    def instant(self, t: float) -> Tensor:
        """A time, float64 of shape (1,), where the numbers of this module are."""
        numbers = chain(self.buffers(), self.parameters())
        device = next((n.device for n in numbers), torch.device("cpu"))
        return torch.full((1,), t, dtype=torch.float64, device=device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Declared:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if tensor.dtype == torch.float64 and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        return super()._apply(keep, recurse)  # type: ignore[return-value]


def changes(*modules: nn.Module) -> bool:
    """Whether a number in these modules may change after its declaration, or carries a graph."""
    return any(
        next(module.parameters(), None) is not None
        or any(b.requires_grad for b in module.buffers())
        for module in modules
    )


def once_each() -> AbstractContextManager[None]:
    """A context in which a learned number is worked out once, however often it is read."""
    return nullcontext() if torch.compiler.is_compiling() else parametrize.cached()


def constraints_of(module: nn.Module) -> dict[str, Constraint]:
    """What a class and its bases say of their numbers."""
    named: dict[str, Constraint] = {}
    for cls in reversed(type(module).__mro__):
        if issubclass(cls, Declared):
            named.update(vars(cls).get("arg_constraints", {}))
    return named
