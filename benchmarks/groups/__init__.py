"""What a benchmark is made of: cases, each with a floor and the rows that are measured against it.

A **floor** is the same work written by hand in plain torch, at most twelve lines, shown with the
results. A **row** is a library's way of doing it. A row names the modules it needs; they are
imported by the harness and handed to it, so that a missing library is a line of output and not a
failure.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Work = Callable[[], Any]


class Row(NamedTuple):
    """One library's way: ``build(data, *modules)`` does what is done once, its result is timed."""

    label: str
    build: Callable[..., Work]
    needs: tuple[str, ...]
    install: str


class Case:
    """One task.

    Arguments:
        name: What is done, with sizes.
        data: Makes the common inputs on a device.
        floor: Does the task once, given the inputs, in plain torch.
    """

    def __init__(
        self,
        name: str,
        data: Callable[[torch.device], Any],
        floor: Callable[[Any], Any],
    ) -> None:
        self.name = name
        self.data = data
        self.floor = floor
        self.rows: list[Row] = []

    def row(self, label: str, *needs: str, install: str = "") -> Callable[[Callable], Callable]:
        """Registers the decorated ``build(data, *modules)`` under a label."""

        def register(build: Callable[..., Work]) -> Callable[..., Work]:
            self.rows.append(Row(label, build, needs, install))
            return build

        return register
