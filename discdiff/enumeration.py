r"""Exact laws of models on spaces that can be enumerated: no Monte Carlo, no bound.

A model is a Markov chain: it starts at the prior and runs with the reverse rates
:math:`\hat r_t` that a head gives. With r reverse time, its law solves the forward equation

.. math:: \frac{d p(y)}{dr} = \sum_x p(x)\, \hat r(x \to y) - p(y) \sum_z \hat r(y \to z)

on all states. On one clock it is integrated in :math:`z = \log(e^\Lambda - 1)`, in which rates
are bounded at both ends and own times have all their digits: near t = 1 float64 times say little
of :math:`\Lambda`, which slow processes feel. Beyond the last float64 time before 1 a network is
asked at that time. On several clocks it is integrated in :math:`\operatorname{logit} t`. So
likelihoods are exact where `elbo` bounds them. A stepper moves laws by the matrices of its steps,
so that its error is found without drawing anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torchdiffeq import odeint

from .clock import LAST
from .estimates import Parts
from .grids import Grid
from .heads import Exact, Head, require_head
from .likelihood import stop_for
from .numerics.special import log1pexp, logexpm1, safe_log
from .process import (
    Leaf,
    Mixture,
    Process,
    Timed,
    batch_size,
    map_state,
    require_law,
    require_process,
)
from .sample import grid_times
from .shapes import along
from .solve import Unsolved
from .stepper import Model, Stepper, carried, kernel_of, law_matrix
from .steppers.jumps import jumps_of, reversal
from .times import require_reach, tempo_of
from .validation import described, require, require_kind, require_tensor, shown

State = Any
LIMIT = 1 << 20  # states
END = 36.0  # logit of the last time before 1, and of one beside 0
FORGOTTEN = 30.0  # lifetimes of the data after which a law is the limit, to e^-30
ROUNDINGS = 16  # the least error of a step, in roundings of the rates
MOST = 5000  # steps; a smooth network takes a hundred or two
FIRST, LONGEST = 0.5, 4.0  # the first step and the longest, in the variable of the route


@dataclass(frozen=True)
class Enumerated:
    """A law on all states of a finite space.

    Arguments:
        states: All N states, (N, *event) or a dict of such.
        probs: Their probabilities, float64 of shape (N,).
        strides: What each entry of a state counts in its index, shaped like one state.
    """

    states: State
    probs: Tensor
    strides: State

    def index(self, x: State) -> Tensor:
        """Where states (B, *event) stand among all.

        Raises:
            ValueError: If they are not among them.
        """
        _require_listed(x, self.states, "x")
        parts = map_state(lambda v, w: (v.long() * w).flatten(1).sum(1), _batched(x), self.strides)
        return torch.stack(_tensors(parts)).sum(0)

    def log_prob(self, x: State) -> Tensor:
        """The log-probabilities of states (B, *event), shape (B,)."""
        return safe_log(self.probs)[self.index(x)]


def states(process: Process, shape: Any) -> State:
    """All states of a process with finitely many.

    Arguments:
        process: The process.
        shape: The event's shape: (D,) for D sites; a dict of shapes for a product.

    Returns:
        Shape (N, *event), the last entry changing fastest; a dict of such for a product.

    Raises:
        ValueError: If there are more than a million.
        Unsolved: If a part of the state has no finite space.

    Example:
        >>> from discdiff import Replace
        >>> states(Replace(torch.full((2,), 0.5)), (2,)).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return _space(process, shape).states


def total_variation(p: Enumerated | Tensor, q: Enumerated | Tensor) -> float:
    r""":math:`\tfrac12 \sum_x |p(x) - q(x)|`, of laws on the same states in the same order.

    Example:
        >>> total_variation(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
        0.5
    """
    a, b = (v.probs if isinstance(v, Enumerated) else v for v in (p, q))
    for name, law in (("p", a), ("q", b)):
        require_kind(law, Tensor, f"{name} must be a law on states")
    shapes = tuple(a.shape), tuple(b.shape)
    require(shapes[0] == shapes[1], f"p and q must be laws on the same states; {shapes} are not")
    return float((a - b).abs().sum() / 2)


@torch.no_grad()
def log_prob(
    process: Process,
    head: Head,
    x: State,
    *,
    stop: float | None = None,
    prior: Distribution | None = None,
    context: Any = None,
) -> Tensor:
    r"""The exact log-likelihood of data under the model, in nats, which `elbo` bounds.

    Arguments:
        process: The process, on a clock.
        head: A network with a meaning.
        x: Data, shape (B, *event) or a dict.
        stop: Where the reversal stops and the decoder of `elbo` takes over: 0 for heads that
            decay there, else 1e-3, as for `elbo`.
        prior: The law at time 1, for a batch of any size; the process's own by default.
        context: Handed to the network, for a batch of any size.

    Returns:
        Shape (B,), float64, to a relative 1e-9 or so of the probability; in float32, 1e-5.

    Example:
        >>> from discdiff import Replace, clock, heads
        >>> coin = Replace(torch.full((2,), 0.5)).on(clock.Constant(1.0))
        >>> head = heads.LeaveOneOut(lambda x, t: torch.zeros(*x.shape, 2))
        >>> log_prob(coin, head, torch.tensor([[0, 1]])).exp()
        tensor([0.2500], dtype=torch.float64)
    """
    x = process.check_data(x, "x")
    stop = stop_for(process, head, None) if stop is None else stop
    shape = map_state(lambda v: v.shape[1:], x)  # type: ignore[arg-type, return-value]
    law = marginal(process, head, shape, stop=stop, prior=prior, context=context)
    if not stop:
        return law.log_prob(x)
    return safe_log(law.probs @ _decoded(process, head, law, x, stop, context))


@torch.no_grad()
def marginal(
    process: Process,
    head: Head,
    shape: Any,
    stepper: Stepper | None = None,
    *,
    steps: int | None = None,
    grid: Grid | Tensor | list[float] | None = None,
    stop: float = 0.0,
    prior: Distribution | None = None,
    context: Any = None,
) -> Enumerated:
    r"""The law of samples: of the model itself, or of a stepper on a grid.

    Arguments:
        process: The process, on a clock.
        head: A network with a meaning.
        shape: The event's shape, as in `states`.
        stepper: A stepper whose step is a law; without one, the model's own law, to 1e-9 (in
                float32, 1e-5).
        steps: As in `sample`, for a stepper.
        grid: As in `sample`, for a stepper.
        stop: The time of the law, without a stepper. As it tends to 0 the jumps of a head that
                does not decay there never end (a posterior of what is not masked, for one): the
                law at 0 is their limit. `log_prob` and draws decode such a head instead.
        prior: The law at the first time, for a batch of any size; the process's own by default.
        context: Handed to the network, for a batch of any size.

    Raises:
        ValueError: If parts on several clocks, or what is made of the exact head and asked at t,
            are too slow for their clock (see `times`).
        Unsolved: If a space is not finite, a step of the stepper has no law, or rates are not
            smooth in t.

    Example:
        >>> from discdiff import Exact, Replace, clock, steppers
        >>> flip = Replace(torch.full((2,), 0.5)).on(clock.Constant(3.0))
        >>> exact = Exact(flip, torch.tensor([0, 1]), torch.tensor([0.75, 0.25]))
        >>> marginal(flip, exact, (), steppers.Euler(), steps=400).probs
        tensor([0.7491, 0.2509], dtype=torch.float64)
    """
    require_head(head)
    require_kind(stepper, Stepper | None, "stepper must be of dd.steppers")
    require_process(process)
    require(process.timed, "a model needs a process on a clock: declare .on(clock)")
    space = _space(process, shape)
    size = len(space.probs)
    if prior is not None:
        _require_prior(prior, space.states)
    start = prior or process.prior(map_state(lambda v: v.shape, space.states))
    law = start.log_prob(space.states).double().exp()
    require(law.shape == (size,), f"the law of the prior must have shape ({size},)")
    model = lambda x, t: head(x, t, context)
    if stepper is None:
        require(steps is None and grid is None, "steps and grid belong to a stepper: give one")
        require(0 <= stop < 1, f"stop must lie in [0, 1); it is {stop}")
        route = _route(process, head, model, space, stop)
        law = _reversed(route, space, law / law.sum(), stop)
    else:
        require(stop == 0, "stop belongs to the model's own law: a stepper has its grid")
        times = grid_times(process, steps, grid)
        for t, s in zip(times[:-1], times[1:], strict=True):
            law = pushed(process, model, stepper, space, law, t, s)
    return Enumerated(space.states, law, space.strides)


def pushed(
    process: Process,
    model: Model,
    stepper: Stepper,
    space: Enumerated,
    law: Tensor,
    t: Tensor,
    s: Tensor,
) -> Tensor:
    """A law (N,) after a step; only states that it can be in are looked at."""

    def step(x: State) -> Tensor:
        late, early = (v.expand(batch_size(x)) for v in (t, s))
        return kernel_of(stepper, process, model, x, late, early, space.states)

    return carried(law.unsqueeze(0), space.states, step)[0]


# -- the forward equation of the reversal --------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """A model in the variable in which its forward equation is integrated.

    Arguments:
        process: The process whose leaves are read.
        model: What is known of the data at its times.
        first, last: The ends of the variable, the later time first.
        time: The time of the process at a value of the variable.
        slope: Its derivative.
    """

    process: Process
    model: Model
    first: float
    last: float
    time: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _route(process: Process, head: Head, model: Model, space: Enumerated, stop: float) -> Route:
    """In own time where there is one clock, else in the logit of t."""
    if isinstance(process, Timed):
        last = float(process.clock.z(process.instant(stop))) if stop else -END
        inner = _on_own_time(process, head, model, space)
        first = float(logexpm1(_start(process)))
        return Route(process.process, inner, first, max(last, -END), log1pexp, torch.sigmoid)
    require_reach(process, space.states)
    last = max(-END, math.log(stop / (1 - stop))) if stop else -END
    return Route(process, model, END, last, torch.sigmoid, lambda v: v.sigmoid() * (-v).sigmoid())


def _start(process: Timed) -> Tensor:
    """The own time at which the reversal starts: where even the slowest leaf has forgotten."""
    end = process.clock(process.instant(1.0))[0]
    if bool(end.isfinite()):
        return end
    leaves = process.leaves(process.instant(0.5))
    slow = min(tempo_of(leaf).slow for leaf in leaves)
    return process.clock(process.instant(LAST))[0].clamp(min=FORGOTTEN / slow)


def _on_own_time(process: Timed, head: Head, model: Model, space: Enumerated) -> Model:
    """The model at own times. The exact head knows them; others are asked at t."""
    if isinstance(head, Exact) and head.process is process:
        return Exact(process.process, head.data, head.weights)
    if any(isinstance(part, Exact) for part in head.modules()):
        require_reach(process, space.states)  # what is made of it is asked at t, and is inexact
    return lambda x, own: model(x, process.clock.inverse(own).clamp(max=LAST))


def _reversed(route: Route, space: Enumerated, law: Tensor, stop: float) -> Tensor:
    """The law at the end of a route, by Dormand and Prince's method of order 8."""
    at = law.new_tensor([route.first])
    rtol = max(1e-10, ROUNDINGS * _rounding(route.model, space, law, route.time(at)))

    def slope(back: Tensor, law: Tensor) -> Tensor:
        flow = _flow(route.process, route.model, space, law, route.time(-back))
        return flow * route.slope(-back)

    span = torch.tensor([-route.first, -route.last], dtype=torch.float64)
    options: dict[str, Any] = {"method": "dopri8", "rtol": rtol, "atol": 1e-5 * rtol}
    # Where the slope is ≈ 0, as it is at first, it says nothing of how long a step may be.
    options["options"] = {"first_step": FIRST, "max_step": LONGEST, "max_num_steps": MOST}
    try:
        found: Any = odeint(slope, law, span, **options)
    except AssertionError as error:
        raise Unsolved(
            f"rates are too rough in t: {MOST} steps do not lead from 1 to {stop:g}. Is the "
            "network less precise in t than the dtype of what it says?"
        ) from error
    return found[-1].clamp(min=0)  # states that are not reached are at ±1e-16


def _rounding(model: Model, space: Enumerated, law: Tensor, time: Tensor) -> float:
    """The rounding of the coarsest numbers that rates are made of: no step errs by less."""
    top = law.argmax()
    likely = map_state(lambda v: v[top].unsqueeze(0), space.states)
    said = _floats(model(likely, time))
    kinds = {torch.get_default_dtype(), *(v.dtype for v in said)}
    return max(torch.finfo(kind).eps for kind in kinds)


def _floats(estimate: Any) -> list[Tensor]:
    """The floating tensors of an estimate."""
    if isinstance(estimate, Parts):
        return [v for part in estimate.parts.values() for v in _floats(part)]
    every = [getattr(estimate, field.name) for field in fields(estimate)]
    return [v for v in every if isinstance(v, Tensor) and v.is_floating_point()]


def _flow(process: Process, model: Model, space: Enumerated, law: Tensor, t: Tensor) -> Tensor:
    """The rate of change of a law (N,) per unit of reverse time, at a time ()."""
    some = law != 0
    x = map_state(lambda v: v[some], space.states)
    time = t.expand(batch_size(x))
    estimate, at, mass = model(x, time), some.nonzero().squeeze(1), law[some]
    change = torch.zeros_like(law)
    leaves = list(process.leaves(time))
    for leaf, strides in zip(leaves, _tensors(space.strides), strict=True):
        target, rates = _moves(leaf, leaf.read(estimate), x, at, strides)
        flux = mass.unsqueeze(1) * rates
        change = change.index_add(0, target.flatten(), flux.flatten())
        change = change.index_add(0, at, -flux.sum(1))
    return change


def _moves(
    leaf: Leaf, estimate: Any, x: State, at: Tensor, strides: Tensor
) -> tuple[Tensor, Tensor]:
    """Where one leaf leads from states with these indices, and the rates in clock time."""
    y = leaf.get(x)
    jumps = reversal(leaf, estimate, y)
    here, axes = y.unsqueeze(-1 - jumps.axes), jumps.axes
    steps = (jumps.points - here).long() * strides.unsqueeze(-1 - axes)
    steps = (steps.sum(-1) if axes else steps).flatten(1)
    rates = leaf.still(jumps.rates.double() * along(leaf.speed, jumps.rates, torch.float64), x)
    rates = rates.flatten(1)
    return torch.where(rates > 0, at.unsqueeze(1) + steps, at.unsqueeze(1)), rates


def _decoded(
    process: Process, head: Head, law: Enumerated, x: State, stop: float, context: Any
) -> Tensor:
    """The probabilities (N, B) of data under the decoders at all states at the stop."""
    size = len(law.probs)
    t = torch.full((size,), stop, dtype=torch.float64)
    estimate = head(law.states, t, context)
    total = torch.zeros(size, batch_size(x), dtype=torch.float64)
    early = process.leaves(torch.zeros(batch_size(x), dtype=torch.float64))
    for leaf, start in zip(process.leaves(t), early, strict=True):
        law_0 = leaf.core.engine.decode(leaf.read(estimate), leaf.get(law.states), leaf.time)
        total = total + safe_log(law_matrix(law_0, start.get(x), size))
    return total.exp()


# -- states --------------------------------------------------------------------------------------


def _space(process: Process, shape: Any) -> Enumerated:
    """All states, with probabilities that are yet to be found."""
    require_process(process)
    process.require_own_coordinates("enumeration")
    if any(isinstance(part, Mixture) for part in process.modules()):
        raise Unsolved("the states of a mixture are enumerated process by process")
    sides = _sides(process, shape)
    flat = torch.cat([side.flatten() for side in _tensors(sides)])
    size = math.prod(flat.tolist())
    require(size <= LIMIT, f"{size} states are too many to be enumerated: the limit is {LIMIT}")
    strides = size // flat.cumprod(0)
    digits = torch.arange(size).unsqueeze(1) // strides % flat
    wide, counted = iter(_split(digits, sides)), iter(_split(strides.unsqueeze(0), sides))
    shapes: Any = map_state(lambda v: (1, *v.shape), sides)  # type: ignore[arg-type]
    origin = process.origin(shapes)
    each = map_state(lambda v: next(wide).to(v.dtype), origin)
    weights = map_state(lambda v: next(counted), origin)
    return Enumerated(each, torch.zeros(size, dtype=torch.float64), weights)


def _require_listed(x: State, states: State, name: str) -> None:
    """Raises unless states are among all that there are."""
    if isinstance(states, Mapping):
        named = isinstance(x, Mapping) and set(x) == set(states)
        require(named, f"{name} must be a dict with the keys {list(states)}")
        for key in states:
            _require_listed(x[key], states[key], key)
        return
    require_tensor(x, name)
    event, last = tuple(states.shape[1:]), states.amax(0)
    rule = f"{name} must hold states of shape {event}, a batch of them"
    require(tuple(x.shape[1:]) == event, f"{rule}; its shape is {tuple(x.shape)}")
    bad = (x < 0) | (x > last) | (x != x.round())
    rule = f"{name} must be among the states, up to {last.tolist()}"
    require(not bool(bad.any()), f"{rule}; it contains {shown(x[bad])}")


def _require_prior(prior: Any, states: State) -> None:
    """Raises unless this may be a law of all states, for one batch or a batch of any size."""
    if isinstance(prior, Distribution):
        shape: Any = map_state(lambda v: v.shape, states)  # type: ignore[arg-type, return-value]
        require_law(prior, shape, "prior")
        return
    require(hasattr(prior, "log_prob"), f"prior must be a distribution; it is {described(prior)}")


def _sides(process: Process, shape: Any) -> Any:
    """The number of values of each entry, shaped like one state."""
    parts = getattr(process, "parts", None)
    if parts is not None:
        named = isinstance(shape, Mapping) and set(shape) == set(parts)
        require(named, f"shape must be a dict with the keys {list(parts)}; it is {shape}")
        return {name: _sides(part, shape[name]) for name, part in parts.items()}
    listed = isinstance(shape, tuple | list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape
    )
    require(
        listed, f"shape must be the event's, positive integers without a batch; it is {shape!r}"
    )
    (leaf,) = process.leaves(process.instant(0.5))
    bounds = [getattr(leaf.core.support, f"{end}_bound", None) for end in ("lower", "upper")]
    sides = getattr(leaf.core.terms[0], "sites", ())
    if not jumps_of(leaf) or not (sides or (bounds[0] == 0 and bounds[1] is not None)):
        raise Unsolved(f"{leaf.core!r} lives on {leaf.core.support}, which is not finite")
    each = torch.tensor(sides) if sides else torch.tensor(int(bounds[1]) + 1)  # type: ignore
    return each.expand(tuple(shape)).clone()


def _split(values: Tensor, like: Any) -> list[Tensor]:
    """Columns (N, E) as tensors shaped like each part, (N, *part)."""
    parts = _tensors(like)
    columns = values.split([part.numel() for part in parts], 1)
    return [v.reshape(len(v), *part.shape) for v, part in zip(columns, parts, strict=True)]


def _tensors(state: State) -> list[Tensor]:
    """The tensors of a state, in order."""
    if isinstance(state, Mapping):
        return [v for part in state.values() for v in _tensors(part)]
    return [state]


def _batched(x: State) -> State:
    """A state whose tensors have an event axis, if only of size one."""
    return map_state(lambda v: v.unsqueeze(1) if v.dim() == 1 else v, x)
