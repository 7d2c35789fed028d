r"""The increment of a distribution, found by its type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Size
from torch.distributions import Distribution

from ..validation import require
from .base import Increment
from .numeric import Numeric

T = TypeVar("T", bound=Callable[[Any], Increment])

_registry: dict[type, Callable[[Any], Increment]] = {}


def increment(law: Distribution) -> Increment:
    r"""The increment of a distribution's shape: :math:`(X - \mathbb{E} X) / \mathrm{sd}(X)`.

    Arguments:
        law: One real law of finite variance. Location and scale do not matter, parameters of the
            shape do.

    Raises:
        ValueError: If the law is a batch, or of vectors, or has no finite variance.
        Unsolved: If nothing is registered for its type and it has no density to go by.

    Example:
        >>> import torch
        >>> increment(torch.distributions.Laplace(3.0, 2.0)).cumulants(4)
        tensor([0., 1., 0., 3.], dtype=torch.float64)
    """
    kind = type(law).__name__
    require(isinstance(law, Distribution), f"an increment must be a distribution; it is a {kind}")
    require(
        law.batch_shape == Size() and law.event_shape == Size(),
        f"an increment must be one law on the reals; {kind} has batch shape "
        f"{tuple(law.batch_shape)} and event shape {tuple(law.event_shape)}",
    )
    for base in type(law).__mro__:
        if base in _registry:
            return _registry[base](law)
    return Numeric(law)


def standardises(*law_types: type) -> Callable[[T], T]:
    """Registers what makes the increment of distributions of these types.

    The decorated class, or function, is called with the distribution.
    """

    def register(make: T) -> T:
        _registry.update({law_type: make for law_type in law_types})
        return make

    return register
