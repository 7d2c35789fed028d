"""Declared numbers made images of free ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.nn.utils import parametrize

from .constraints import Structured, fixed
from .declared import Declared, constraints_of

M = TypeVar("M", bound=nn.Module)


def learn(process: M) -> M:
    r"""Makes every declared number a parameter under its constraint, in place.

    Rate matrices stay rate matrices, probabilities stay probabilities, clocks stay increasing,
    drifts and noises keep their signs. Zeros stay zeros: jumps that do not occur, states that a
    replacement law cannot produce (so a one-hot law, a mask, is not learned at all), an absent
    drift. The factor of a term is learned if it was scaled, and stays 1 if it was not.

    The overall speed of a term on a clock is counted twice, by its numbers and by the clock, and
    only their product matters: learn one of the two, ``learn(process.clock)`` for instance, where
    each is to be read by itself.

    Arguments:
        process: A process, a term or a clock. Its numbers are then read as before (``chain.Q``),
            may be assigned (``chain.Q = Q``), and are kept in ``state_dict`` as free reals.

    Returns:
        The same process.

    Raises:
        ValueError: If a number already requires grad without being an ``nn.Parameter``: it is a
            function of something else, which is then what is learned. Nothing is changed then.

    Example:
        >>> from discdiff import RateMatrix
        >>> chain = learn(RateMatrix([[-1.0, 1.0], [0.0, 0.0]]))
        >>> [(name, p.shape) for name, p in chain.named_parameters()]
        [('parametrizations.Q.original', torch.Size([1]))]
    """
    if not isinstance(process, Declared):
        kind = type(process).__name__
        raise ValueError(f"process must be a process, a term or a clock; it is a {kind}")
    for module, name, constraint in list(_learnable(process)):
        if parametrize.is_parametrized(module, name):
            continue  # a part that occurs twice
        if name in module._buffers:
            value = module.get_buffer(name)
            delattr(module, name)
            module.register_parameter(name, nn.Parameter(value.detach().clone()))
        parametrize.register_parametrization(module, name, Image(constraint), unsafe=True)
    return process


def _learnable(module: nn.Module) -> Iterator[tuple[nn.Module, str, Constraint]]:
    """The numbers below a module that are free to move, with where they may lie."""
    named = constraints_of(module)
    for name in vars(module).get("_declared", ()):
        if not parametrize.is_parametrized(module, name):
            constraint = named.get(name, constraints.real)
            value = getattr(module, name)
            _require_learnable(module, name, value)
            at = (
                constraint.at(value.detach()) if isinstance(constraint, Structured) else constraint
            )
            if at is not None:
                _require_inside(at, value.detach(), name)
                yield module, name, at
    for name, child in module.named_children():
        if named.get(name) is not fixed:
            yield from _learnable(child)


def _require_learnable(module: nn.Module, name: str, value: Tensor) -> None:
    if value.requires_grad and not isinstance(value, nn.Parameter):
        raise ValueError(
            f"{name} of {type(module).__name__} requires grad already, as a function of another "
            "tensor: learn that one, or declare numbers"
        )
    if hasattr(nn.ModuleDict, name):
        raise ValueError(f"torch cannot parametrize a number of the name {name!r}: choose another")


def _require_inside(constraint: Constraint, value: Tensor, name: str) -> None:
    if not bool(constraint.check(value).all()):
        raise ValueError(f"{name} must be {constraint!r}; it is {value}")


class Image(nn.Module):
    """A number as the image of free reals: the parametrization that `learn` registers."""

    def __init__(self, constraint: Constraint) -> None:
        super().__init__()
        self.constraint, self.transform = constraint, transform_to(constraint)

    def forward(self, u: Tensor) -> Tensor:
        return self.transform(u)

    def right_inverse(self, value: Tensor) -> Tensor:
        _require_inside(self.constraint, value, "the value")
        return self.transform.inv(value)

    def extra_repr(self) -> str:
        return repr(self.constraint)
