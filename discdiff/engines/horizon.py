"""How far functions of own time are to be resolved: to the next power of two."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..solve import Unsolved

LONGEST = 2**14  # units of own time
FINITE_END = "Way out: a clock with a finite end, such as clock.Constant, Linear or Geometric"


def horizon(t: Tensor, known: Iterable[int]) -> int:
    """The next power of two above all times, or a later one that is known.

    A compiled verb cannot look at t. It answers up to what was asked for before.

    Arguments:
        t: Own times.
        known: The horizons up to which functions are resolved already.

    Raises:
        Unsolved: If a time is infinite.

    Example:
        >>> horizon(torch.tensor([0.5, 5.0]), [1, 2])
        8
    """
    longest = max(known)
    if torch.compiler.is_compiling() or not t.numel():
        return longest
    end = float(t.detach().max())
    if end == torch.inf:
        raise Unsolved(
            f"rates that vary in time are solved up to finite own times only. {FINITE_END}"
        )
    while longest < end:
        longest *= 2
    return longest


def require_near(longest: int) -> None:
    """Raises where these are more units of own time than are looked at."""
    if longest > LONGEST:
        raise Unsolved(
            f"functions of time are resolved up to the own time {LONGEST}. Way out: slower "
            "functions on a slower clock: A(t) on Λ is c A(c t) on Λ / c"
        )
