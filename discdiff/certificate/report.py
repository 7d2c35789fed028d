"""What a check found: one row for each law, printed as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..solve import Unsolved


@dataclass(frozen=True)
class Row:
    """One law: its name, the part it was held against, the error, and the tolerance.

    ``error`` is None where the law does not apply; ``note`` then says why.
    """

    law: str
    part: str
    error: float | None
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the law holds, or does not apply."""
        return self.error is None or self.error <= self.tolerance


@dataclass(frozen=True)
class Report:
    """All laws of a process. Truthy if all hold; prints as a table."""

    process: str
    rows: list[Row] = field(default_factory=list)

    def __bool__(self) -> bool:
        return all(row.holds for row in self.rows)

    @property
    def failures(self) -> list[Row]:
        """The laws that do not hold."""
        return [row for row in self.rows if not row.holds]

    def __str__(self) -> str:
        lines = [f"check of {self.process}"]
        for row in self.rows:
            mark = "–" if row.error is None else ("✓" if row.holds else "✗ FAILS")
            error = "" if row.error is None else f"{row.error:9.1e} ≤ {row.tolerance:.0e}"
            part = f"[{row.part}]" if row.part else ""
            lines.append(f"  {row.law:<20}{part:<12}{error:>20}  {mark:<2} {row.note}".rstrip())
        lines.append("all laws hold" if self else f"{len(self.failures)} laws FAIL")
        return "\n".join(lines)

    __repr__ = __str__


def measured(law: str, part: str, tolerance: float, error: Callable[[], Any]) -> Row:
    """A row from a function that returns the error, or (error, note)."""
    try:
        found = error()
    except Unsolved as reason:
        return Row(law, part, None, tolerance, f"not applicable: {str(reason).split('. ')[0]}")
    except (ValueError, IndexError) as reason:  # a law of NaNs names no state
        return Row(law, part, torch.inf, tolerance, str(reason))
    value, note = found if isinstance(found, tuple) else (found, "")
    value = float(value)
    return Row(law, part, torch.inf if value != value else value, tolerance, note)


def index_pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of indices 1 ≤ s < t at which the laws of a chain of so many steps are looked at.

    Of a chain of one step it is that step, from data, which are certain: see `within`.

    Example:
        >>> index_pairs(8)
        [(1, 2), (1, 8), (4, 8), (7, 8)]
    """
    found = {(1, 2), (1, count), (count // 2, count), (count - 1, count)}
    return sorted((s, t) for s, t in found if 1 <= s < t <= count) or [(0, 1)]


def within(s: int) -> None:
    """Raises ``Unsolved`` for a pair of indices that begins at the data."""
    if s == 0:
        raise Unsolved("a single step leads from data, which are certain")
