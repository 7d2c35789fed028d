r"""What objectives of single states share: where they look, and how they count the times.

An objective is a mean over noisy states :math:`x_t` of numbers v that each leaf of the process
gives in its own time; a clock multiplies by its rate and a weight by its factor,

.. math:: \sum_{\text{leaves}} v\, \Lambda'(t)\, w(t).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..drawn import full_precision, learns, with_draw
from ..heads import Head, require_head
from ..process import Leaf, Process, first_tensor, map_state, require_process, require_shape
from ..simulate import advance
from ..solve import Unsolved
from ..validation import require, require_kind, values_are_checked
from ..weights import NLL, Weight

State = Any


def prepared(
    process: Process, head: Head, x_0: State, t: float | Tensor, weight: Weight | None
) -> tuple[State, Tensor, Weight]:
    """The data, the times and the weight of an objective, after they were checked.

    Raises:
        ValueError: If the head is none, the weight is none, data lie outside the support, a shape
            does not fit or a clock's rate is infinite at a time.
    """
    require_process(process)
    require_head(head)
    weight = weight or NLL()
    require_kind(weight, Weight, "weight must be of dd.weights")
    x_0 = process.check_data(x_0, "x_0")
    t = process.check_time(t, x_0, "t")
    if values_are_checked(t):
        finite = all(bool(leaf.speed.isfinite().all()) for leaf in process.leaves(t))
        require(finite, "t must lie where the rate of the clock is finite; here it is infinite")
    return x_0, t, weight


def noisy_state(
    process: Process, x_0: State, t: Tensor, x_t: State | None, steps: int
) -> tuple[State, Distribution | None]:
    """The noisy state: given, drawn (then with its law), or simulated where no law is known.

    Raises:
        ValueError: If a given state does not fit.
        Unsolved: If it would have to be simulated from a process that is itself learned.
    """
    if x_t is not None:
        x_t = process.check_state(x_t, "x_t")
        require_shape(x_t, process.state_shape(map_state(lambda v: v.shape, x_0)), "x_t")
        return x_t, None
    with full_precision(x_0):
        try:
            law = process._marginal(x_0, t)
            return laws.draw(law), law
        except Unsolved:
            if torch.is_grad_enabled() and learns(process):
                raise
            return advance(process, x_0, torch.zeros_like(t), t, steps), None


def summed(
    process: Process,
    x: State,
    t: Tensor,
    weight: Weight,
    of_leaf: Callable[[Leaf], Tensor],
    law: Distribution | None = None,
) -> Tensor:
    """The sum over leaves of numbers (B,) in own time, at a state that was drawn from a law."""
    with full_precision(x):
        total = torch.zeros_like(t).to(_dtype(x))
        for leaf in process.leaves(t):
            total = total + of_leaf(leaf) * (leaf.speed * weight(leaf)).to(total)
        return total if law is None else with_draw(process, law, x, total)


def categories(leaf: Leaf, x: Tensor) -> Tensor:
    """The categories of which laws speak: the states, or the joint index of coupled sites."""
    index = getattr(leaf.core.terms[0], "index", None)
    return index(x) if index is not None else x


def _dtype(x: State) -> torch.dtype:
    first = first_tensor(x)
    return first.dtype if first.is_floating_point() else torch.get_default_dtype()
