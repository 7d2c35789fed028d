r"""Sampling: a reverse run from the prior to the data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor

from .grids import Grid
from .heads import Head, leaf_heads, require_head
from .params import as_numbers
from .process import (
    Chain,
    Process,
    as_pair,
    first_tensor,
    map_state,
    require_law,
    require_process,
    require_shape,
)
from .solve import Unsolved
from .stepper import Stepper
from .steppers import Ancestral
from .times import natural
from .validation import require, require_count, require_kind, require_numbers, shown

State = Any


@torch.no_grad()
def sample(
    process: Process,
    head: Head,
    shape: Any,
    *,
    steps: int | None = None,
    grid: Grid | Tensor | list[float] | None = None,
    stepper: Stepper | None = None,
    start: State | None = None,
    known: tuple[Any, Any] | None = None,
    prior: Any = None,
    context: Any = None,
    progress: bool = False,
) -> State:
    r"""Draws data by running the reversal.

    Arguments:
        process: The process, on a clock, or the chain of one: its times are the grid.
        head: A network with a meaning.
        shape: The data's shape (B, *event); a dict of shapes for a product.
        steps: Number of equal steps of t from 1 to 0; 100 if no grid is given.
        grid: Decreasing times, or a `dd.grids` object.
        stepper: A `steppers` object; `Ancestral` by default.
        start: The state at the first time of the grid; drawn from the prior by default: the limit,
            or the law at that time from 0.
        known: The pair (values, mask), mask true where the data are known: infilling. A dict of
            such pairs for a product. Exact for masked sites with an exact head, as what is known
            shows at once. Elsewhere known entries are drawn afresh from their own law at each
            time, which is approximate: the exact way is ``process.given(known)``, with a head
            trained on it. On reals `inverse.Observed` takes account of what known entries say of
            the others at each time.
        prior: The law at the first time; the process's own by default.
        context: Handed to the network.
        progress: Whether to count the steps on standard error.

    Returns:
        The state at the last time of the grid.

    Raises:
        ValueError: If the process has no clock, or the grid does not decrease in [0, 1].
        Unsolved: If the head cannot leave :math:`\Lambda = \infty`.
    """
    require_process(process)
    require_head(head)
    if isinstance(process, Chain):
        require(steps is None and grid is None, "the steps of a chain are its own: give no others")
        grid = process.grid()
        prior = process.prior(shape) if prior is None and start is None else prior
        process = process.process
    require(process.timed, "sample needs a process on a clock: declare .on(clock)")
    shape = process.data_shape(shape)
    t = grid_times(process, steps, grid)
    stepper = stepper or Ancestral()
    require_kind(stepper, Stepper, "stepper must be of dd.steppers")
    if prior is not None:
        require_law(prior, process.state_shape(shape), "prior")
    x = start if start is not None else (prior or process.at(t[:1]).prior(shape)).sample()
    x = process.check_state(_to_device(x, process), "start")
    require_shape(x, process.state_shape(shape), "start")
    _check_known(process, x, known)
    _require_leaving(process, head, t[0])
    batch, device = first_tensor(x).shape[0], first_tensor(x).device
    stepper = stepper.prepared(process, t.to(device))
    memory = stepper.init(process, x)
    model = lambda state, time: head(state, time, context)
    counted = _counter(len(t) - 1)
    times = t.to(device).unsqueeze(1).expand(-1, batch).unbind()
    for late, early in pairwise(times):
        if known is not None:
            x = hold(process, x, known, late)
        x, memory = stepper.step(process, model, x, late, early, memory)
        if progress:
            counted()
    require_numbers(first_tensor(x), type(head).__name__)
    return process.to_data(hold(process, x, known, times[-1]))


def _counter(total: int) -> Callable[[], None]:
    """Counts steps on standard error."""
    done = count(1)

    def counted() -> None:
        step = next(done)
        print(f"\rstep {step}/{total}", end="\n" if step == total else "", file=sys.stderr)

    return counted


def grid_times(
    process: Process, steps: int | None, grid: Grid | Tensor | list[float] | None
) -> Tensor:
    """The decreasing times of a run, float64.

    Raises:
        ValueError: If both or an unusable grid are given.
    """
    require(steps is None or grid is None, "give either steps or grid, not both")
    if isinstance(grid, Grid):
        clocks = {id(leaf.clock): natural(leaf) for leaf in process.leaves(process.instant(1.0))}
        require(len(clocks) == 1, "a grid object needs one clock; give times for several clocks")
        return grid.times(next(iter(clocks.values())))  # type: ignore[arg-type]
    if grid is None:
        number = 100 if steps is None else require_count(steps, "steps")
        return torch.linspace(1, 0, number + 1, dtype=torch.float64)
    t = as_numbers(grid, "grid")
    require(t.dim() == 1 and t.numel() >= 2, "grid must be a vector of at least two times")
    require(
        bool((t.diff() < 0).all()) and bool((t >= 0).all()) and bool((t <= 1).all()),
        f"grid must decrease within [0, 1]; it is {shown(t, 8)}",
    )
    return t


def hold(process: Process, x: State, known: Any, t: Tensor) -> State:
    """The state with known entries at a draw of their own law at time t.

    A site of a masked process may hold its data at any time before the end, and does.
    """
    if known is None:
        return x
    if isinstance(known, dict):
        parts: Any = process.parts
        return {k: hold(parts[k], v, known.get(k), t) for k, v in x.items()}
    values, mask = (v.to(first_tensor(x).device) for v in known)
    data = process.to_data(x)
    values = values.to(x.dtype).expand(data.shape)
    (leaf,) = process.leaves(t)
    if bool((t == 0).all()):
        clamped = torch.where(mask, values, data)
        return clamped if data is x else torch.cat([clamped.unsqueeze(-1), x[..., 1:]], -1)
    if not _shows_data(leaf.core.engine):
        values = process._marginal(values.contiguous(), t).sample()
    return torch.where(mask if data is x else mask.unsqueeze(-1), values, x)


def _shows_data(engine: Any) -> bool:
    """Whether what is not masked is the datum, so that it may be shown at any time."""
    return getattr(engine, "target", None) is not None or getattr(engine, "shows_data", False)


def _check_known(process: Process, x: State, known: Any) -> None:
    """Raises unless what is known fits the state.

    Raises:
        ValueError: If it is no pair (values, mask), or a dict of pairs for a product.
    """
    if known is None:
        return
    if isinstance(x, Mapping):
        parts = getattr(process, "parts", None)
        mixed = "what is known of a mixture must be clamped in each of its processes, by .given"
        require(parts is not None, mixed)
        named = isinstance(known, Mapping) and set(known) <= set(x)
        require(named, f"known must be a dict with keys among {list(x)}")
        for name, part in parts.items():  # type: ignore[union-attr]
            _check_known(part, x[name], known.get(name))
        return
    values, mask = as_pair(known)
    x = process.to_data(x)
    require(mask.dtype == torch.bool, f"the mask of known must be boolean; it is {mask.dtype}")
    shapes = tuple(values.shape), tuple(mask.shape)
    for name, shape in zip(("values", "mask"), shapes, strict=True):
        fits = len(shape) <= x.dim() and all(
            a in (1, b) for a, b in zip(shape[::-1], tuple(x.shape)[::-1], strict=False)
        )
        require(fits, f"the {name} of known must fit shape {tuple(x.shape)}; its shape is {shape}")
    filled = torch.where(mask.to(x.device), values.to(x.device, x.dtype), x)
    process.check_data(filled, "known")


def _require_leaving(process: Process, head: Head, t: Tensor) -> None:
    """Raises if the first step starts at Λ = ∞ and the head says nothing there."""
    first = t.reshape(1)
    finite = [
        leaf.clock is None or bool(leaf.clock(first).isfinite().all())
        for leaf in process.leaves(first)
    ]
    if all(finite):
        return
    for (leaf, part), ends in zip(leaf_heads(process, head), finite, strict=True):
        if not ends and not leaf.core.engine.starts_at_infinity(part):
            raise Unsolved(
                f"{type(part).__name__} cannot step from Λ = ∞: start the grid below 1, or use a "
                "head that says what x_0 is"
            )


def _to_device(x: State, process: Process) -> State:
    buffers = next(process.buffers(), None)
    device = buffers.device if buffers is not None else torch.device("cpu")
    return map_state(lambda v: v.to(device), x)
