r"""Processes, and every combinator that their operators return.

A Markov process is a sum of generator terms, run on a clock, over one part or a product of named
parts. With :math:`L` the generator of the sum, its law solves

.. math:: \partial_t \mathbb{E}[f(X_t) \mid x] = \mathbb{E}[(L f)(X_t) \mid x]

in the generator's own time. The combinators change how the process is seen, never how it is
solved: a clock sends t to :math:`\Lambda(t)`, a product runs its parts side by side, a push maps
the state, a scale multiplies it, known entries stand still. So each process is a tree whose
leaves are sums of terms; a `Leaf` is such a sum with the way it is seen from outside. Everything
that is linear in the generator (losses, reversal, Euler steps) walks the leaves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, Transform, constraints
from torch.nn.utils.parametrize import type_before_parametrizations

from . import estimates, laws
from .clock import LAST, Clock, Constant
from .estimates import Atoms, Data, Epsilon, Estimate, Logits, Mean, Parts, Ratio, Score, Velocity
from .params import Declared, Versions, declare, probabilities, sparse
from .shapes import once, one_shape, one_time
from .solve import Engine, Unsolved, engine_for
from .solve import Score as Readings
from .validation import (
    as_shape,
    as_time,
    described,
    require,
    require_countable,
    require_kind,
    require_order,
    require_tensor,
    require_values,
    shown,
    values_are_checked,
)

State = Any
Shape = Any

VECTORS = (Mean, Epsilon, Velocity, Score)  # estimates that turn with the state


@dataclass
class Leaf:
    """A sum of terms inside a process, and how it is seen from outside at one time.

    Arguments:
        core: The sum of terms.
        time: Its own time, shape (B,).
        speed: The derivative of its own time, shape (B,).
        get: From the state of the whole to the state of this sum.
        put: From (state of the whole, new state of this sum) to the new state of the whole.
        read: From an estimate for the whole to an estimate for this sum.
        moving: From the state of the whole to masks of the entries that move; none: all do.
        path: The names that lead to the leaf.
        clock: The clock of the leaf; None in its own time.
        steady: Whether ``get``, ``put`` and ``read`` are the same at all times.
    """

    core: Generator
    time: Tensor
    speed: Tensor
    get: Callable[[State], Tensor]
    put: Callable[[State, Tensor], State]
    read: Callable[[Estimate], Estimate]
    moving: tuple[Callable[[State], Tensor], ...] = ()
    path: tuple[str, ...] = ()
    clock: Clock | None = None
    steady: bool = True
    _coefficient: Tensor | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """Where the leaf hangs, for messages and tables."""
        return ".".join(self.path)

    def within(
        self,
        get: Callable[[State], State],
        put: Callable[[State, State], State],
        read: Callable[[Estimate], Estimate],
    ) -> Leaf:
        """The leaf seen through one more combinator."""
        return replace(
            self,
            get=lambda x: self.get(get(x)),
            put=lambda x, y: put(x, self.put(get(x), y)),
            read=lambda e: self.read(read(e)),
            moving=tuple(_after(get, mask) for mask in self.moving),
        )

    @property
    def coefficient(self) -> Tensor:
        """The factor of the closed loss integrand that depends on time alone, shape (B,)."""
        if self._coefficient is None:
            self._coefficient = self.core.engine.coefficient(self.time)
        return self._coefficient

    def score(self, estimate: Estimate, x: Tensor) -> Readings:
        """The score at a state of this sum; an estimate that is the score needs no engine."""
        if isinstance(estimate, Score) and not self.core.support.is_discrete:
            return Readings(gradient=estimate.value)
        return self.core.engine.score(estimate, x, self.time)

    def require_score(self, estimate: Estimate) -> None:
        """Raises where the law of reals has no density, at time 0."""
        if isinstance(estimate, Score) or self.core.support.is_discrete:
            return
        if values_are_checked(self.time) and bool((self.time == 0).any()):
            raise ValueError("t must be > 0 for a score of reals: at t = 0 their law is a point")

    def require_possible(self, data: Data, x: State) -> None:
        """Raises where data cannot lead to a state of the whole, so that there is no bridge.

        Raises:
            ValueError: Naming the values.
        """
        here: Any = self.read(data)
        there = self.get(x)
        known = isinstance(here, Data)
        chance = self.core.engine.log_chance(here.value, there, self.time) if known else None
        if chance is None:
            return
        bad = self.still((chance == -torch.inf).double(), x) > 0
        if bool(bad.any()):
            at = self.time.reshape(-1, *(1,) * (bad.dim() - 1)).expand(bad.shape)[bad]
            raise ValueError(
                f"x_0 and x_t{f' of {self.name!r}' if self.path else ''} must have "
                f"p(x_t | x_0) > 0 (in this precision); x_t contains {shown(there[bad])} where "
                f"x_0 is {shown(here.value[bad])}, at own times {shown(at)}"
            )

    def still(self, values: Tensor, x: State) -> Tensor:
        """Values of shape (B, *event) with zeros at the entries that do not move."""
        for mask in self.moving:
            moves = mask(x)
            moves = moves.reshape(moves.shape + (1,) * (values.dim() - moves.dim()))
            values = torch.where(moves, values, torch.zeros_like(values))
        return values


class Process(Declared, ABC):
    r"""A declared Markov process on a state space.

    Dimension 0 of a state is the batch, all others are the event; a `Product`'s state is a dict.
    On a clock, data stand at t = 0 and noise at t = 1; without one, time runs on [0, ∞).
    """

    # -- verbs ---------------------------------------------------------------------------------

    def transition(self, x_s: State, s: float | Tensor, t: float | Tensor) -> Distribution:
        r"""The law :math:`p(x_t \mid x_s)`, batch shape (B,).

        Arguments:
            x_s: State at time s.
            s: Earlier time, a number or a tensor of shape () or (B,).
            t: Later time, likewise.

        Raises:
            ValueError: If s > t, a shape does not fit, or x_s lies outside the support.
            Unsolved: If no engine knows the transition law.
        """
        x_s = self.check_state(x_s, "x_s")
        s, t = self._times(x_s, s, t)
        return self._transition(x_s, s, t)

    def marginal(self, x_0: State, t: float | Tensor) -> Distribution:
        r"""The law :math:`p(x_t \mid x_0)` of the noisy state given the data.

        Auxiliaries of `lift` are integrated in: the state has them, the data do not.
        """
        x_0 = self.check_data(x_0, "x_0")
        t = self.check_time(t, x_0, "t")
        return self._marginal(x_0, t)

    def bridge(
        self, x_0: State | Estimate, x_t: State, s: float | Tensor, t: float | Tensor
    ) -> Distribution:
        r"""The law :math:`p(x_s \mid x_0, x_t)`, or its mixture over an estimate of x_0.

        Arguments:
            x_0: The data, or what a head says of it. Posterior-like estimates give the exact
                mixture, `Mean` the plug-in, `Missing` stochastic rounding.
            x_t: State at time t.
            s: Earlier time.
            t: Later time.

        Raises:
            ValueError: If s > t, a shape does not fit, a state lies outside the support, or data
                on a discrete space cannot lead to x_t.
            Unsolved: If the estimate does not determine the bridge.
        """
        x_t = self.check_state(x_t, "x_t")
        s, t = self._times(x_t, s, t)
        estimate = self._estimate(x_0, x_t)
        if isinstance(estimate, Data) and values_are_checked(first_tensor(x_t)):
            self._require_possible(estimate, x_t, t)
        return self._bridge(estimate, x_t, s, t)

    def limit(self, shape: Shape) -> Distribution:
        r"""The stationary law that is reached from every state, for states of this shape.

        Raises:
            Unsolved: If there is none.
        """
        return self._limit(self.data_shape(shape))

    def prior(self, shape: Shape) -> Distribution:
        """Where sampling starts: the limit if there is one, else the law at 1 from 0."""
        shape = self.data_shape(shape)
        try:
            return self._limit(shape)
        except Unsolved:
            return self._from_origin(shape, torch.ones((), dtype=torch.float64))

    def _from_origin(self, shape: Shape, t: Tensor) -> Distribution:
        """The law at a time () from zero, for processes without a limit.

        Raises:
            Unsolved: If none is known.
        """
        origin = self.origin(shape)
        try:
            return self._marginal(origin, t.expand(batch_size(origin)))
        except Unsolved as error:
            raise Unsolved(
                f"no law is known from which a run could start: give prior=, such as a normal law "
                f"with the moments of simulate(process, x_0, [{float(t):g}]). {error}"
            ) from error

    def score(self, x_t: State, x_0: State | Estimate, t: float | Tensor) -> Any:
        r"""The score of :math:`p_t(\cdot \mid x_0)`, or what an estimate of x_0 makes of it.

        Returns:
            A `Score` with readings ``gradient`` and ``log_ratio``; a dict of them for a product.

        Raises:
            ValueError: If a state does not fit, or at t = 0, where laws of reals are point masses.
        """
        x_t = self.check_state(x_t, "x_t")
        _, t = self._times(x_t, 0.0, t)
        estimate = self._estimate(x_0, x_t)
        self.require_own_coordinates("score")
        leaves = list(self.leaves(t))
        for leaf in leaves:
            leaf.require_score(leaf.read(estimate))
        scores = [leaf.score(leaf.read(estimate), leaf.get(x_t)) for leaf in leaves]
        return by_name(leaves, scores)

    def convert(self, estimate: State | Estimate, x_t: State, t: float | Tensor, kind: Any) -> Any:
        """What an estimate says, as another kind of estimate (a dict of kinds for a product)."""
        x_t = self.check_state(x_t, "x_t")
        _, t = self._times(x_t, 0.0, t)
        named = kind.values() if isinstance(kind, Mapping) else (kind,)
        for one in named:
            right = isinstance(one, type) and issubclass(one, Estimate)
            require(right, f"kind must be a type of dd.estimates; it is {one!r}")
        return self._convert(self._estimate(estimate, x_t), x_t, t, kind)

    # -- operators -----------------------------------------------------------------------------

    def on(self, clock: Clock) -> Process:
        """The process run on a clock: data at t = 0, noise at t = 1."""
        return Timed(self, clock)

    def push(self, transform: Transform) -> Process:
        """The image of the process under a fixed invertible map of the state."""
        return Pushed(self, transform)

    def scaled(self, alpha: Callable[[Tensor], Tensor]) -> Process:
        r"""The process :math:`x_t = \alpha(t)\, y_t`, with :math:`\alpha(0) = 1`."""
        return Scaled(self, alpha)

    def lift(self, law: Distribution) -> Process:
        """The process on data and auxiliaries: see `Lifted`."""
        return Lifted(self, law)

    def given(self, known: tuple[Tensor, Tensor]) -> Process:
        """The process with known entries clamped: (values, mask), mask true where known."""
        return Given(self, known)

    def at(self, times: Tensor | list[float]) -> Chain:
        """The chain of the process at increasing times: index 0 is the data: see `Chain`."""
        return Chain(self, times)

    def require_own_coordinates(self, verb: str) -> None:
        """Raises where the sums of terms live in other coordinates than the state."""
        if any(isinstance(part, Pushed | Scaled) for part in self.modules()):
            raise Unsolved(
                f"{verb} is known in the coordinates of the sum of terms: ask the process that "
                "was pushed or scaled"
            )

    # -- what a process must say ---------------------------------------------------------------

    @abstractmethod
    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution: ...

    def _marginal(self, x_0: State, t: Tensor) -> Distribution:
        """The law of the state at t given the data."""
        return self._transition(x_0, torch.zeros_like(t), t)

    @abstractmethod
    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution: ...

    def _require_possible(self, data: Data, x: State, t: Tensor) -> None:
        """Raises where data cannot lead to a state at t."""
        for leaf in self.leaves(t):
            leaf.require_possible(data, x)

    @abstractmethod
    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        """A draw of the noisy state, and the training target: what the data say at it."""

    @abstractmethod
    def _limit(self, shape: Shape) -> Distribution: ...

    @abstractmethod
    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        """The sums of terms of which the process is made, seen at time t of shape (B,)."""

    @abstractmethod
    def check_state(self, x: State, name: str) -> State:
        """The state, after its shape, dtype, kind and values were checked."""

    def check_data(self, x_0: State, name: str) -> State:
        """The data, after their shape, dtype, kind and values were checked."""
        return self.check_state(x_0, name)

    def data_shape(self, shape: Shape) -> Shape:
        """The shape of data, after it was checked."""
        return as_shape(shape)

    def to_data(self, x: State) -> State:
        """The data in a state: all of it, but for auxiliaries."""
        return x

    def state_shape(self, shape: Shape) -> Shape:
        """The shape of states for data of this shape."""
        return shape

    @abstractmethod
    def origin(self, shape: Shape) -> State:
        """Data of this shape, all zero."""

    @property
    def timed(self) -> bool:
        """Whether every part runs on a clock, so that time is [0, 1]."""
        return False

    def _convert(self, estimate: Estimate, x: State, t: Tensor, kind: Any) -> Any:
        leaf, *others = self.leaves(t)
        if others:
            raise Unsolved(f"estimates of one sum of terms are converted, not of {self!r}")
        return leaf.core.engine.convert(leaf.read(estimate), leaf.get(x), leaf.time, kind)

    def as_estimate(self, x_0: State | Estimate) -> Estimate:
        """Data as an estimate; estimates as they are."""
        return x_0 if isinstance(x_0, Estimate) else Data(self.check_data(x_0, "x_0"))

    def _estimate(self, x_0: State | Estimate, x_t: State) -> Estimate:
        """Data as an estimate, after it was checked that they fit the noisy state."""
        estimate = self.as_estimate(x_0)
        if isinstance(estimate, Data):
            shape = self.state_shape(map_state(lambda v: v.shape, estimate.value))
            require_shape(x_t, shape, "x_t")
        return estimate

    def _times(self, x: State, s: float | Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.check_time(s, x, "s"), self.check_time(t, x, "t")
        require_order(s, t)
        return s, t

    def check_time(self, t: float | Tensor, x: State, name: str) -> Tensor:
        """A time as float64 of shape (B,), after its shape and values were checked."""
        return as_time(t, first_tensor(x), name, 1.0 if self.timed else math.inf)


@dataclass
class _Plan:
    """An engine, and what it was planned from: numbers, and a basis that is compared."""

    engine: Engine
    basis: list[Any]
    numbers: Versions


class Generator(Process):
    """A sum of terms in its own time: what an engine solves."""

    forgotten = ("_engine",)
    terms: tuple[Any, ...]

    @property
    def engine(self) -> Engine:
        """The engine that solves this sum.

        Raises:
            Unsolved: If none does.
        """
        if torch.compiler.is_compiling():
            _keep_plan(self)
        return self._plan().engine

    def _plan(self) -> _Plan:
        """The plan that is kept, or another where the terms are no longer what it is of."""
        terms = self.terms
        holders = [m for t in terms for m in (t, *t._modules.values())]
        types = [type(m) for m in holders]  # numbers that become learned change the type
        numbers = [v for m in holders for v in m._buffers.values() if v is not None]  # type: ignore
        plan = vars(self).get("_engine")
        if plan is None or plan.basis != types or not plan.numbers.hold(numbers):
            moving = moving_terms(terms)
            try:
                engine = engine_for(kinds_of(moving)).plan(moving or terms)
            except AttributeError as error:  # a module would say that it has no engine
                raise TypeError(f"{self!r} cannot be planned: {error}") from error
            plan = _Plan(engine, types, Versions(numbers))
            vars(self)["_engine"] = plan
        return plan

    @property
    def support(self) -> constraints.Constraint:
        """Where the entries of a state may lie."""
        return self.terms[0].support

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that states must have; None: any floating one."""
        return torch.int64 if self.terms[0].categorical else None

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        yield Leaf(self, t, torch.ones_like(t), _same, _put, _same)

    def data_shape(self, shape: Shape) -> Shape:
        shape = as_shape(shape)
        for term in self.terms:
            term.check_shape(torch.empty(shape, device="meta"), "the state")
        return shape

    def check_state(self, x: State, name: str) -> Tensor:
        require_tensor(x, name)
        fits = x.is_floating_point() if self.dtype is None else x.dtype == self.dtype
        if not fits:
            reals = "a floating tensor, as reals and counts are"
            rule = reals if self.dtype is None else "int64, as categories are"
            raise ValueError(f"{name} of shape {tuple(x.shape)} must be {rule}; it is {x.dtype}")
        for term in self.terms:
            term.check_shape(x, name)
        if values_are_checked(x):
            require_values(x, self.support, name)
            if x.is_floating_point() and self.support.is_discrete:
                require_countable(x, name)
        return x

    @property
    def law_axes(self) -> int:
        """How many last axes of a state one law of an estimate speaks of.

        None where categories have a law per site, even if their rates are coupled.
        """
        per_site = self.terms[0].categorical and not getattr(self.terms[0], "sites", ())
        return 0 if per_site else max(getattr(term, "event_axes", 0) for term in self.terms)

    def check_estimate(self, estimate: Estimate, x: Tensor) -> None:
        """Raises ``ValueError`` unless what is said per state has the shape that x asks for."""
        if not isinstance(estimate, Logits | Ratio):
            return
        values = estimate.logits if isinstance(estimate, Logits) else estimate.log_ratio
        first, size = self.terms[0], values.shape[-1]
        if first.categorical:
            size = getattr(first, "size", size)
            if values.shape[:-1] == x.shape and values.shape[-1] == size and not self.law_axes:
                return
        asked = (*x.shape[: x.dim() - self.law_axes], size)
        if values.shape != asked:
            raise ValueError(
                f"{type(estimate).__name__} must have shape {asked} for a state of shape "
                f"{tuple(x.shape)}; its shape is {tuple(values.shape)}"
            )

    def origin(self, shape: Shape) -> Tensor:
        datum = getattr(self.terms[0], "center", 0.0)
        return torch.full(tuple(shape), datum, dtype=self.dtype or torch.get_default_dtype())

    def __add__(self, other: Process) -> Process:
        if not isinstance(other, Generator):
            return NotImplemented
        return Sum(*self.terms, *other.terms)

    def retimed(self, clock: Clock) -> Generator:
        r"""The same generator in the time t of a clock, :math:`\Lambda'(t)\, L_{\Lambda(t)}`.

        Raises:
            Unsolved: If its rates cannot be functions of time.
        """
        raise Unsolved(
            f"{self!r} cannot be added to terms on different clocks, as linear drifts and white "
            "noise can: put the whole sum on one clock, or declare the time dependence as a "
            "function, RateMatrix(Q) with Q(t)"
        )

    def _transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        return self.engine.transition(x, s, t)

    def _bridge(
        self, estimate: Estimate, x: Tensor, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        if isinstance(estimate, Atoms) and not (eta == 0 and self.engine.deterministic):
            return _atom_bridge(self, estimate, x, s, t, eta)
        self.check_estimate(estimate, x)
        if eta != 1.0 and self.engine.deterministic:
            return self.engine.step(estimate, x, s, t, eta)
        return self.engine.bridge(estimate, x, s, t)

    def _marginal(self, x_0: Tensor, t: Tensor) -> Distribution:
        return self.engine.marginal(x_0, t)

    def _perturb(self, x_0: Tensor, t: Tensor) -> tuple[State, Estimate]:
        return self.engine.perturb(x_0, t)

    def _limit(self, shape: Shape) -> Distribution:
        return self.engine.limit(tuple(shape))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Generator:
        vars(self).pop("_engine", None)  # it was planned from numbers on another device
        return super()._apply(fn, recurse)  # type: ignore[return-value]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        vars(self).pop("_engine", None)  # it was planned from other numbers
        super()._load_from_state_dict(*args, **kwargs)

    def _copy(self) -> Any:
        """A copy that holds the same tensors, also where numbers are learned."""
        clone = object.__new__(type(self))
        vars(clone).update({k: v for k, v in vars(self).items() if k != "_engine"})
        clone._buffers, clone._parameters = dict(self._buffers), dict(self._parameters)
        return clone


class Sum(Generator):
    r"""A sum of terms, :math:`L = \sum_i L_i`: what `+` returns.

    Raises:
        ValueError: If the terms live on different state spaces.
    """

    def __init__(self, *terms: Generator) -> None:
        super().__init__()
        require(bool(terms), "a sum needs at least one term")
        others = [term for term in terms if not isinstance(term, Generator)]
        require(not others, f"the members of a sum must be terms; got {others}")
        spaces = {(str(term.support), term.dtype) for term in terms}
        require(
            len(spaces) == 1,
            "the terms of a sum must share one state space; got "
            + ", ".join(f"{type(term).__name__} on {term.support}" for term in terms),
        )
        self.members = nn.ModuleList(terms)
        _require_one_width(self.terms)

    @property
    def terms(self) -> tuple[Any, ...]:
        return tuple(self._modules["members"]._modules.values())  # type: ignore[union-attr]

    def __rmul__(self, rate: float | Tensor) -> Sum:
        return Sum(*(rate * term for term in self.terms))

    def __repr__(self) -> str:
        return " + ".join(repr(term) for term in self.terms)


def _require_one_width(terms: tuple[Any, ...]) -> None:
    """Raises where declared numbers ask for states with different sizes of the last axis."""
    asked = [(f"{of} of {term!r}", k) for term in terms for of, k in term.widths().items()]
    require(
        len({size for _, size in asked}) < 2,
        "the terms of a sum must ask for one size of the last axis of the state; "
        + ", ".join(f"{name} asks for {size}" for name, size in asked),
    )
    sides = {
        f"{of} of {term!r}": tuple(v) for term in terms for of, v in term.entry_shapes().items()
    }
    require(
        one_shape(*sides.values()) is not None,
        "matrices per entry must be for states of one shape; "
        + ", ".join(f"{name} is for {shape}" for name, shape in sides.items()),
    )


class Timed(Process):
    r"""A process on a clock: :math:`X_t = Y_{\Lambda(t)}` for :math:`t \in [0, 1]`.

    Raises:
        ValueError: If the process already runs on a clock.
    """

    def __init__(self, process: Process, clock: Clock) -> None:
        super().__init__()
        require_kind(clock, Clock, "clock must be a Clock")
        require(not process.timed, "the process already runs on a clock")
        self.process, self.clock = process, clock

    @property
    def timed(self) -> bool:
        return True

    def own(self, t: Tensor) -> Tensor:
        r"""The own time :math:`\Lambda(t)`; one evaluation where t is one time for all."""
        return once(self.clock, t)

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        speed = once(self.clock.rate, t)
        for leaf in self.process.leaves(self.own(t)):
            leaf.speed, leaf.clock = leaf.speed * speed, self.clock
            yield leaf

    def check_state(self, x: State, name: str) -> State:
        return self.process.check_state(x, name)

    def data_shape(self, shape: Shape) -> Shape:
        return self.process.data_shape(shape)

    def origin(self, shape: Shape) -> State:
        return self.process.origin(shape)

    def __add__(self, other: Process) -> Process:
        r"""The sum of the generators; on different clocks, in the clocks' common time t.

        .. math:: L_t = \Lambda_a'(t)\, L_a + \Lambda_b'(t)\, L_b

        Terms that are linear drifts and white noise become functions of t, run on
        ``Constant(1.0)``: their rates must be finite and smooth.

        Raises:
            Unsolved: If the clocks differ and a term is of another kind, or a clock's rate is
                infinite or has kinks.
        """
        if not isinstance(other, Timed):
            return NotImplemented
        if other.clock is self.clock:
            return Timed(self.process + other.process, self.clock)  # type: ignore[operator]
        return Timed(Sum(*self._terms_in_time(), *other._terms_in_time()), Constant(1.0))

    def _terms_in_time(self) -> list[Generator]:
        """The terms as functions of the time t of the clock."""
        if not isinstance(self.process, Generator):
            raise Unsolved(f"terms on different clocks can be added, not a {self.process!r}")
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        finite = bool(self.clock.rate(ends).isfinite().all() and self.clock(ends).isfinite().all())
        if not (finite and self.clock.smooth):
            why = "has kinks" if finite else "is infinite at an end"
            raise Unsolved(
                f"the rate of {self.clock!r} {why}, and terms on different clocks are added where "
                "rates are finite and smooth: put the whole sum on one clock, or choose another"
            )
        return [term.retimed(self.clock) for term in self.process.terms]

    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution:
        return self.process._transition(x, self.own(s), self.own(t))

    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        return self.process._bridge(estimate, x, self.own(s), self.own(t), eta)

    def _marginal(self, x_0: State, t: Tensor) -> Distribution:
        return self.process._marginal(x_0, self.own(t))

    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        return self.process._perturb(x_0, self.own(t))

    def _limit(self, shape: Shape) -> Distribution:
        return self.process._limit(shape)

    def __repr__(self) -> str:
        return f"({self.process!r}).on({self.clock!r})"


class Lifted(Process):
    r"""A linear diffusion of data and auxiliaries: :math:`y = (x, v)` on a new last axis.

    Data are the first coordinate. The auxiliaries start from a normal law, independent of the
    data, and are integrated into every law that is given the data: the marginal, the bridge and
    the training target are those given :math:`x_0` alone. Samples come back as data.

    Arguments:
        process: A linear diffusion with matrices of size k on the last axis, on a clock or not.
        law: The normal law of the auxiliaries: one for each, or a multivariate one on k − 1.

    Raises:
        ValueError: If the process has no matrices, or the law does not fit k − 1 auxiliaries.
        Unsolved: If no engine integrates auxiliaries.

    References:
        | Score-based generative modeling with critically-damped Langevin diffusion (Dockhorn et
          al., 2022)
    """

    seen: LiftedSum
    arg_constraints = {
        "mean": sparse,
        "std": constraints.positive,
        "scale_tril": constraints.lower_cholesky,
    }
    mean: Tensor
    std: Tensor
    scale_tril: Tensor

    def __init__(self, process: Process, law: Distribution) -> None:
        super().__init__()
        require(
            isinstance(process, Generator | Timed),
            f"lift needs a sum of terms, on a clock or not; got a {type(process).__name__}",
        )
        (leaf,) = process.leaves(process.instant(0.5))
        widths = {size for term in leaf.core.terms for size in term.widths().values()}
        size = max(widths, default=1)
        require(
            size >= 2, f"lift needs matrices with k ≥ 2 on the last axis; {process!r} has none"
        )
        self.process, self.size = process, size
        self._declare(law)
        vars(self)["seen"] = LiftedSum(leaf.core, self)
        self.seen.engine  # noqa: B018  an engine that cannot lift says so now

    def _declare(self, law: Distribution) -> None:
        count = self.size - 1
        require_kind(law, Distribution, "lift needs a normal law")
        fits = law.event_shape in ((), (count,)) and law.batch_shape in ((), (1,), (count,))
        require(
            isinstance(law.mean, Tensor) and fits,
            f"the law of {count} auxiliaries must have shape () or ({count},); its shape is "
            f"{tuple(law.batch_shape + law.event_shape)}",
        )
        base = getattr(law, "base_dist", law)
        tril = getattr(base, "scale_tril", None)
        normal = tril is not None or isinstance(base, Normal)
        require(normal, f"the law of the auxiliaries must be normal; it is {law!r}")
        finite = bool(law.mean.isfinite().all()) and bool(law.variance.isfinite().all())
        require(finite, f"the law of the auxiliaries must be finite; it is {law!r}")
        declare(self, "mean", law.mean.double().expand(count))
        if tril is not None:
            declare(self, "scale_tril", tril.double())
        else:
            declare(self, "std", law.variance.sqrt().double().expand(count))

    @property
    def factor(self) -> Tensor:
        """The lower factor of the initial covariance of the auxiliaries."""
        return self.std.diag_embed() if hasattr(self, "std") else self.scale_tril

    @property
    def timed(self) -> bool:
        return self.process.timed

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        for leaf in self.process.leaves(t):
            yield replace(leaf, core=self.seen)

    def _own(self, t: Tensor) -> Tensor:
        """The own time of the sum of terms."""
        return self.process.own(t) if isinstance(self.process, Timed) else t

    def check_state(self, x: State, name: str) -> State:
        return self.process.check_state(x, name)

    def check_data(self, x_0: State, name: str) -> State:
        require_tensor(x_0, name)
        kind = f"{name} of shape {tuple(x_0.shape)} must be a floating tensor; it is {x_0.dtype}"
        require(x_0.is_floating_point(), kind)
        if values_are_checked(x_0):
            require_values(x_0, constraints.real, name)
        return x_0

    def to_data(self, x: State) -> State:
        return x[..., 0]

    def state_shape(self, shape: Shape) -> Shape:
        return (*shape, self.size)

    def origin(self, shape: Shape) -> State:
        return torch.zeros(tuple(shape))

    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution:
        return self.process._transition(x, s, t)

    def _marginal(self, x_0: State, t: Tensor) -> Distribution:
        return self.seen.engine.marginal(x_0, self._own(t))

    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        if isinstance(estimate, Atoms) and eta:
            return _atom_bridge(self, estimate, x, s, t, eta)
        return self.seen._bridge(estimate, x, self._own(s), self._own(t), eta)

    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        return self.seen.engine.perturb(x_0, self._own(t))

    def _limit(self, shape: Shape) -> Distribution:
        return self.process._limit(self.state_shape(shape))

    def __repr__(self) -> str:
        return f"({self.process!r}).lift(N({_rounded(self.mean)}, {_rounded(self.factor)}²))"


class LiftedSum(Generator):
    """A sum of terms as a lift sees it: laws given the data have the auxiliaries integrated in."""

    core: Any
    whole: Any

    def __init__(self, core: Generator, lift: Lifted) -> None:
        super().__init__()
        vars(self).update(core=core, whole=lift)  # seen, not owned: the lift has both as children

    @property
    def terms(self) -> tuple[Any, ...]:  # type: ignore[override]
        return self.core.terms

    def _plan(self) -> _Plan:
        whole, core = self.whole, self.core.engine
        numbers = [v for v in whole._buffers.values() if v is not None]
        learned = type(whole) is not type_before_parametrizations(whole)
        if learned or any(v.requires_grad for v in numbers):
            return _Plan(core.lifted(whole.mean, whole.factor), [core], Versions(numbers))
        plan = vars(self).get("_engine")
        if plan is None or plan.basis != [core] or not plan.numbers.hold(numbers):
            plan = _Plan(core.lifted(whole.mean, whole.factor), [core], Versions(numbers))
            vars(self)["_engine"] = plan
        return plan

    def check_data(self, x_0: State, name: str) -> State:
        return self.whole.check_data(x_0, name)

    def to_data(self, x: State) -> State:
        return self.whole.to_data(x)

    def state_shape(self, shape: Shape) -> Shape:
        return self.whole.state_shape(shape)

    def __repr__(self) -> str:
        return repr(self.core)


@torch.compiler.assume_constant_result
def _keep_plan(process: Any) -> bool:
    """Plans before a graph is traced, as plans look at numbers; they are read when it is."""
    process._plan()
    return True


def _rounded(values: Tensor) -> str:
    values = values.detach().reshape(-1)
    each = {f"{v:.4g}" for v in values[values != 0].tolist()}
    return each.pop() if len(each) == 1 else "…" if each else "0"


class Product(Process):
    r"""Independent processes side by side; the state is a dict with the same names.

    Arguments:
        parts: A dict of processes, for names that are no Python identifiers.
        **named: Processes by keyword.

    Raises:
        ValueError: If there is no part, or a name occurs twice.

    Example:
        >>> from discdiff import Death, Replace
        >>> table = Product(job=Replace(torch.full((3,), 1 / 3)), visits=Death())
        >>> table.names
        ('job', 'visits')
    """

    def __init__(self, parts: Mapping[str, Process] | None = None, /, **named: Process) -> None:
        super().__init__()
        named_so = parts is None or isinstance(parts, Mapping)
        rule = "the parts of a product must be named, by a dict"
        require(named_so, f"{rule}; it is {described(parts)}")
        twice = set(parts or {}) & set(named)
        require(not twice, f"parts named twice: {sorted(twice)}")
        both = {**(parts or {}), **named}
        require(bool(both), "a product needs at least one part")
        other = {
            k: type(part).__name__ for k, part in both.items() if not isinstance(part, Process)
        }
        require(not other, f"the parts of a product must be processes; got {other}")
        chains = [k for k, part in both.items() if isinstance(part, Chain)]
        rule = (
            "a product has parts in continuous time; take the chain of the product by .at(times)"
        )
        require(not chains, f"{rule}: chains are {chains}")
        self.names = tuple(both)
        self.members = nn.ModuleList(both.values())

    @property
    def parts(self) -> dict[str, Process]:
        return dict(zip(self.names, self.members, strict=True))  # type: ignore[arg-type]

    @property
    def timed(self) -> bool:
        return all(part.timed for part in self.parts.values())

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        for name, part in self.parts.items():
            for leaf in part.leaves(t):
                inside = leaf.within(_getter(name), _putter(name), _reader(name))
                yield replace(inside, path=(name, *leaf.path))

    def check_state(self, x: State, name: str) -> State:
        return self._check(x, name, lambda part: part.check_state)

    def check_data(self, x_0: State, name: str) -> State:
        return self._check(x_0, name, lambda part: part.check_data)

    def _check(self, x: State, name: str, of: Callable[[Process], Any]) -> State:
        require(isinstance(x, Mapping), f"{name} must be a dict with keys {list(self.names)}")
        require(
            set(x) == set(self.names),
            f"{name} must have the keys {list(self.names)}; it has {list(x)}",
        )
        state = {k: of(part)(x[k], f"{name}[{k!r}]") for k, part in self.parts.items()}
        sizes = {k: batch_size(v) for k, v in state.items()}
        require(
            len(set(sizes.values())) == 1, f"{name} has parts of different batch size: {sizes}"
        )
        return state

    def data_shape(self, shape: Shape) -> Shape:
        shape = self._shapes(shape)
        checked = {name: part.data_shape(shape[name]) for name, part in self.parts.items()}
        sizes = {name: first_shape(each)[0] for name, each in checked.items()}
        same = len(set(sizes.values())) == 1
        require(same, f"shape has parts of different batch size: {sizes}")
        return checked

    def origin(self, shape: Shape) -> State:
        shape = self._shapes(shape)
        return {name: part.origin(shape[name]) for name, part in self.parts.items()}

    def to_data(self, x: State) -> State:
        return {name: part.to_data(x[name]) for name, part in self.parts.items()}

    def state_shape(self, shape: Shape) -> Shape:
        shape = self._shapes(shape)
        return {name: part.state_shape(shape[name]) for name, part in self.parts.items()}

    def _shapes(self, shape: Shape) -> Mapping[str, Shape]:
        require(
            isinstance(shape, Mapping) and set(shape) == set(self.names),
            f"shape must be a dict with the keys {list(self.names)}; it is {shape}",
        )
        return shape

    def on(self, clock: Clock) -> Process:
        return Product({name: part.on(clock) for name, part in self.parts.items()})

    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution:
        return laws.Joint({k: p._transition(x[k], s, t) for k, p in self.parts.items()})

    def _marginal(self, x_0: State, t: Tensor) -> Distribution:
        return laws.Joint({k: p._marginal(x_0[k], t) for k, p in self.parts.items()})

    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        if isinstance(estimate, Atoms):
            return _atom_bridge(self, estimate, x, s, t, eta)
        return laws.Joint(
            {k: p._bridge(_reader(k)(estimate), x[k], s, t, eta) for k, p in self.parts.items()}
        )

    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        pairs = {k: p._perturb(x_0[k], t) for k, p in self.parts.items()}
        return {k: x for k, (x, _) in pairs.items()}, Parts({k: e for k, (_, e) in pairs.items()})

    def _limit(self, shape: Shape) -> Distribution:
        shape = self._shapes(shape)
        return laws.Joint({k: p._limit(shape[k]) for k, p in self.parts.items()})

    def prior(self, shape: Shape) -> Distribution:
        shape = self.data_shape(shape)
        return laws.Joint({k: p.prior(shape[k]) for k, p in self.parts.items()})

    def _convert(self, estimate: Estimate, x: State, t: Tensor, kind: Any) -> Any:
        return Parts(
            {k: p._convert(_reader(k)(estimate), x[k], t, kind[k]) for k, p in self.parts.items()}
        )

    def __repr__(self) -> str:
        return f"Product({', '.join(f'{k}={p!r}' for k, p in self.parts.items())})"


class Mixture(Process):
    r"""A label is drawn once and kept in the state; it says which process runs.

    The state is a dict ``{"label": (B,) int64, "state": ...}``; `label(x_0)` adds a label drawn
    from the weights to data. What a head says concerns the ``"state"``.

    Arguments:
        weights: The probabilities of the labels, shape (N,), summing to one.
        *processes: One process per label, on one state space.

    Raises:
        ValueError: If the weights are no probabilities, or their number does not fit.
    """

    arg_constraints = {"weights": probabilities}

    weights: Tensor

    def __init__(self, weights: Tensor | list[float], *processes: Process) -> None:
        super().__init__()
        declare(self, "weights", weights)
        others = [type(part).__name__ for part in processes if not isinstance(part, Process)]
        require(not others, f"the processes of a mixture must be processes; got {others}")
        spaces = {tuple(_spaces(part)) for part in processes}
        require(len(spaces) <= 1, f"the processes of a mixture must share one space; got {spaces}")
        clocks = {part.timed for part in processes}
        require(len(clocks) <= 1, "either all processes of a mixture run on a clock, or none")
        require(
            self.weights.shape == (len(processes),),
            f"weights of shape {tuple(self.weights.shape)} must name {len(processes)} processes",
        )
        total = float(self.weights.detach().sum())
        require(
            bool((self.weights >= 0).all()) and abs(total - 1) < 1e-9,
            f"weights must be ≥ 0 and sum to 1; they are {self.weights.tolist()}",
        )
        self.members = nn.ModuleList(processes)

    @property
    def timed(self) -> bool:
        return all(part.timed for part in self.members)  # type: ignore[union-attr]

    def label(self, x_0: Tensor) -> dict[str, Tensor]:
        """Data with labels drawn from the weights."""
        x_0 = self.members[0].check_data(x_0, "x_0")  # type: ignore[operator]
        weights = self.weights.expand(batch_size(x_0), -1)
        return {"label": torch.multinomial(weights, 1)[:, 0], "state": x_0}

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        for i, part in enumerate(self.members):
            for leaf in part.leaves(t):  # type: ignore[operator]
                inside = leaf.within(_getter("state"), _putter_where(i), _state_of_mixture)
                moving = (*inside.moving, _labelled(i))
                yield replace(inside, path=(str(i), *leaf.path), moving=moving)

    def check_state(self, x: State, name: str) -> State:
        require(
            isinstance(x, Mapping) and set(x) == {"label", "state"},
            f"{name} must be a dict with keys 'label' and 'state', as mixture.label(x_0)",
        )
        label = x["label"]
        require_tensor(label, f"{name}['label']")
        require(label.dtype == torch.int64, f"{name}['label'] must be int64, not {label.dtype}")
        if values_are_checked(label):
            space = constraints.integer_interval(0, len(self.members) - 1)
            require_values(label, space, f"{name}['label']")
        for part in self.members:
            part.check_state(x["state"], f"{name}['state']")  # type: ignore[operator]
        shape = (batch_size(x["state"]),)
        found = tuple(label.shape)
        require(found == shape, f"{name}['label'] must have shape {shape}; its shape is {found}")
        return dict(x)

    def data_shape(self, shape: Shape) -> Shape:
        named = (
            isinstance(shape, Mapping) and "state" in shape and set(shape) <= {"label", "state"}
        )
        require(named, f"shape must be a dict with the key 'state'; it is {shape!r}")
        for part in self.members:
            state = part.data_shape(shape["state"])  # type: ignore[operator]
        return {"label": first_shape(state)[:1], "state": state}

    def origin(self, shape: Shape) -> State:
        state = self.members[0].origin(shape["state"])  # type: ignore[operator]
        return {"label": torch.zeros(batch_size(state), dtype=torch.int64), "state": state}

    def _select(self, label: Tensor, choices: list[Distribution]) -> Distribution:
        return laws.Joint({"label": laws.point(label), "state": laws.Selected(label, choices)})

    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution:
        each = [part._transition(x["state"], s, t) for part in self.members]  # type: ignore
        return self._select(x["label"], each)

    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        if isinstance(estimate, Atoms):
            return _atom_bridge(self, estimate, x, s, t, eta)
        inner = _state_of_mixture(estimate)
        each = [part._bridge(inner, x["state"], s, t, eta) for part in self.members]  # type: ignore
        return self._select(x["label"], each)

    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        return _drawn(self, x_0, t)

    def _limit(self, shape: Shape) -> Distribution:
        each = [part._limit(shape["state"]) for part in self.members]  # type: ignore
        return laws.Labelled(self.weights, each)

    def prior(self, shape: Shape) -> Distribution:
        shape = self.data_shape(shape)
        each = [part.prior(shape["state"]) for part in self.members]  # type: ignore
        return laws.Labelled(self.weights, each)

    def __repr__(self) -> str:
        return f"Mixture({self.weights.tolist()}, {', '.join(map(repr, self.members))})"


class Pushed(Process):
    r"""The image :math:`x = T(y)` of a process under a fixed invertible map.

    What a head says (except the data themselves) concerns :math:`y`; its net sees :math:`x`.
    Where T is a rotation, :math:`x = V y` with :math:`V^\top V = I`, a transform that says so by
    an attribute ``rotation = True``, means, noise, velocities and scores are those of x, too:
    :math:`x_t = V \Phi V^\top x_0 + V L V^\top \varepsilon`. Losses and bounds are those of y,
    corrected by :math:`\log |\det \partial T^{-1}|` where a density of x is asked for.

    Raises:
        ValueError: If the transform is none that is invertible, or the process has more than one
            tensor or auxiliaries.
    """

    def __init__(self, process: Process, transform: Transform) -> None:
        super().__init__()
        require(
            isinstance(transform, Transform) and bool(transform.bijective),
            f"push needs an invertible torch Transform; got {transform!r}",
        )
        _require_one_tensor(process, "pushed")
        lifted = any(isinstance(part, Lifted) for part in process.modules())
        require(
            not lifted,
            "a lifted process cannot be pushed, as its state is more than the data: map the data "
            "themselves, y = T⁻¹(x), and take T.log_abs_det_jacobian(y, x) off a bound",
        )
        self.process, self.transform = process, transform
        self.rotates = bool(getattr(transform, "rotation", False))
        leaves = process.leaves(process.instant(0.5))
        self.discrete = all(leaf.core.support.is_discrete for leaf in leaves)

    def _back(self, x: Tensor) -> Tensor:
        return self.transform.inv(x)  # type: ignore[return-value]

    @property
    def timed(self) -> bool:
        return self.process.timed

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        for leaf in self.process.leaves(t):
            yield leaf.within(self._back, lambda x, y: self.transform(y), self._read)

    def _read(self, estimate: Estimate) -> Estimate:
        """What an estimate of x says of y."""
        if self.rotates and isinstance(estimate, VECTORS):
            return estimate.map(self._back)
        return _at_data(self._back)(estimate)

    def _convert(self, estimate: Estimate, x: State, t: Tensor, kind: Any) -> Any:
        found = super()._convert(estimate, x, t, kind)
        turned = self.rotates and isinstance(found, VECTORS)
        return found.map(self.transform) if turned else found  # type: ignore[arg-type]

    def check_state(self, x: State, name: str) -> State:
        require_tensor(x, name)
        if values_are_checked(x):
            require_values(x, self.transform.codomain, name)
        self.process.check_state(self.transform.inv(x), f"T⁻¹({name})")
        return x

    def data_shape(self, shape: Shape) -> Shape:
        shape = as_shape(shape)
        self.process.data_shape(self.transform.inverse_shape(shape))
        return shape

    def origin(self, shape: Shape) -> State:
        return self.transform(self.process.origin(self.transform.inverse_shape(shape)))

    def _image(self, law: Distribution) -> Distribution:
        return laws.Image(law, self.transform, self.discrete)

    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution:
        return self._image(self.process._transition(self.transform.inv(x), s, t))

    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        inner = self._read(estimate)
        return self._image(self.process._bridge(inner, self.transform.inv(x), s, t, eta))

    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        return _drawn(self, x_0, t)

    def _limit(self, shape: Shape) -> Distribution:
        return self._image(self.process._limit(self.transform.inverse_shape(tuple(shape))))

    def prior(self, shape: Shape) -> Distribution:
        shape = self.data_shape(shape)
        return self._image(self.process.prior(self.transform.inverse_shape(shape)))

    def __repr__(self) -> str:
        return f"({self.process!r}).push({self.transform!r})"


class Scaled(Process):
    r"""The process :math:`x_t = \alpha(t)\, y_t` on real vectors, with :math:`\alpha(0) = 1`.

    ``Epsilon`` and ``Mean`` mean the same for x and y; ``Score`` and ``Velocity`` concern x: with
    white noise y, :math:`\sigma = \alpha \sqrt{\Lambda}` and ``Velocity`` is
    :math:`\alpha \varepsilon - \sigma x_0`.

    Where :math:`\Lambda(1) = \infty`, y has no law at t = 1, but x may have one:
    :math:`\alpha(1) = 0` with a finite :math:`\lim \alpha \sqrt{\Lambda}`. All that is asked
    for at t = 1 is then the limit from the left, taken at the last float64 before 1, where
    :math:`\alpha(t)` and :math:`\Lambda(t)` are still finite and their product has its limit to
    rounding: write both so that they are exact near 1, as 1 − t is.

    Arguments:
        process: The process y.
        alpha: A function of times of shape () or (B,), not 0 before t = 1.

    Raises:
        ValueError: If :math:`\alpha(0) \ne 1`, :math:`\alpha(t) = 0` or is not finite at a time
            before 1, or :math:`\alpha(1) = 0` and y is finite there: nothing would be left.

    Example:
        >>> from discdiff import Noise, clock
        >>> line = Noise(1.0).on(clock.Odds(2.0)).scaled(lambda t: 1 - t)  # (1 − t) x_0 + t ε
        >>> line.marginal(torch.tensor([3.0]), 0.75).mean, line.prior((1,)).variance
        (tensor([0.7500]), tensor([1.]))
    """

    def __init__(self, process: Process, alpha: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        require(callable(alpha), f"alpha must be a function of time; it is {alpha!r}")
        first = alpha(torch.zeros((), dtype=torch.float64))
        one = isinstance(first, Tensor) and first.numel() == 1
        require(one, f"alpha must return a tensor of the shape of its times; it returns {first!r}")
        start = float(first.detach())
        require(abs(start - 1) < 1e-12, f"alpha(0) must be 1; it is {start}")
        _require_one_tensor(process, "scaled")
        clamped = any(isinstance(part, Given) for part in process.modules())
        require(not clamped, "known entries would be scaled as well: clamp the scaled process")
        self.process, self.alpha = process, alpha
        others = [leaf.core for leaf in process.leaves(process.instant(0.5))]
        require(
            not any(core.support.is_discrete for core in others),
            f"only real states can be scaled; {others[0]!r} lives on {others[0].support}",
        )
        ends = [leaf.time.isfinite().all() for leaf in process.leaves(process.instant(1.0))]
        self.open = process.timed and not all(bool(end) for end in ends)
        if process.timed:
            self._require_scale()

    def _require_scale(self) -> None:
        """Raises unless the factors leave something of the state at all times."""
        t = torch.linspace(0, 1, 65, dtype=torch.float64)
        if self.open:
            t = t.clamp(max=LAST)
        alpha = self.alpha(t).detach()
        bad = ~alpha.isfinite() | (alpha == 0)
        require(
            not bool(bad.any()),
            f"alpha must be finite and not 0; it is {shown(alpha[bad])} at t = {shown(t[bad])}"
            + ("" if self.open else " (it may vanish at t = 1 where the clock ends at ∞)"),
        )

    def _seen(self, t: Tensor) -> Tensor:
        """The time at which things are evaluated: the end is its limit from the left."""
        return t.clamp(max=LAST) if self.open else t

    @property
    def timed(self) -> bool:
        return self.process.timed

    def _factor(self, t: Tensor, x: Tensor) -> Tensor:
        alpha = self.alpha(t)
        return alpha.reshape((-1,) + (1,) * (x.dim() - 1)).to(x.dtype)

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        t = self._seen(t)
        for leaf in self.process.leaves(t):
            seen = leaf.within(
                lambda x: x / self._factor(t, x),
                lambda x, y: self._factor(t, y) * y,
                lambda estimate: self._inner(estimate, t),
            )
            yield replace(seen, steady=False)

    def _inner(self, estimate: Estimate, t: Tensor) -> Estimate:
        if isinstance(estimate, Score):
            return Score(estimate.value * self._factor(t, estimate.value))
        if isinstance(estimate, Velocity):
            return Velocity(estimate.value / self._factor(t, estimate.value))
        if isinstance(estimate, Data | Atoms | Mean | Epsilon):
            return estimate
        if isinstance(estimate, estimates.Normal):
            return estimates.Normal(self._inner(estimate.mean, t), estimate.variance)
        raise Unsolved(f"{type(estimate).__name__} of a scaled process has no meaning")

    def _outer(self, estimate: Estimate, t: Tensor) -> Estimate:
        if isinstance(estimate, Score):
            return Score(estimate.value / self._factor(t, estimate.value))
        if isinstance(estimate, Velocity):
            return Velocity(estimate.value * self._factor(t, estimate.value))
        return estimate

    def check_state(self, x: State, name: str) -> State:
        return self.process.check_state(x, name)

    def check_data(self, x_0: State, name: str) -> State:
        return self.process.check_data(x_0, name)

    def data_shape(self, shape: Shape) -> Shape:
        return self.process.data_shape(shape)

    def to_data(self, x: State) -> State:
        return self.process.to_data(x)

    def state_shape(self, shape: Shape) -> Shape:
        return self.process.state_shape(shape)

    def origin(self, shape: Shape) -> State:
        return self.process.origin(shape)

    def _image(self, law: Distribution, t: Tensor) -> Distribution:
        return laws.stretched(law, self.alpha(t))

    def _marginal(self, x_0: State, t: Tensor) -> Distribution:
        t = self._seen(t)
        return self._image(self.process._marginal(x_0, t), t)

    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution:
        s, t = self._seen(s), self._seen(t)
        return self._image(self.process._transition(x / self._factor(s, x), s, t), t)

    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        s, t = self._seen(s), self._seen(t)
        inner = self._inner(estimate, t)
        return self._image(self.process._bridge(inner, x / self._factor(t, x), s, t, eta), s)

    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        return _drawn(self, x_0, t)

    def _limit(self, shape: Shape) -> Distribution:
        one = torch.ones(shape[0], dtype=torch.float64)
        return self._image(self.process._limit(shape), one)

    def _convert(self, estimate: Estimate, x: State, t: Tensor, kind: Any) -> Any:
        t = self._seen(t)
        y = x / self._factor(t, x)
        return self._outer(self.process._convert(self._inner(estimate, t), y, t, kind), t)

    def __repr__(self) -> str:
        return f"({self.process!r}).scaled({getattr(self.alpha, '__name__', self.alpha)!s})"


class Given(Process):
    """A process whose known entries stand still at their values.

    Arguments:
        process: A process on tensors.
        known: The pair (values, mask) of the event's shape (or with a batch dimension of one or
            B); mask is boolean, true where the entry is known.

    Raises:
        ValueError: If the mask is not boolean or does not fit the values.
    """

    values: Tensor
    mask: Tensor

    def __init__(self, process: Process, known: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        values, mask = as_pair(known)
        _require_one_tensor(process, "clamped")
        require(mask.dtype == torch.bool, f"the mask must be boolean, not {mask.dtype}")
        require(
            values.shape == mask.shape,
            f"values {tuple(values.shape)} and mask {tuple(mask.shape)} must have one shape",
        )
        lifted = process.state_shape((1, *values.shape[1:])) != (1, *values.shape[1:])
        require(not lifted, "entries of a lifted state cannot be clamped: use sample(known=)")
        cores = [leaf.core for leaf in process.leaves(process.instant(0.5))]
        coupled = [core for core in cores if core.law_axes and not core.support.is_discrete]
        require(
            not coupled,
            f"entries of {coupled} move each other and cannot be clamped: use sample(known=)",
        )
        origin = process.origin((1, *values.shape)).to(values.dtype)
        process.check_state(torch.where(mask, values, origin), "what is known")
        self.process = process
        self.register_buffer("values", values)
        self.register_buffer("mask", mask)

    @property
    def timed(self) -> bool:
        return self.process.timed

    def clamp(self, x: Tensor) -> Tensor:
        """The state with known entries at their values."""
        return torch.where(self.mask, self.values.to(x.dtype), x)

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        for leaf in self.process.leaves(t):
            inside = leaf.within(_same, lambda x, y: self.clamp(y), _same)
            yield replace(inside, moving=(*inside.moving, self._free))

    def _free(self, x: Tensor) -> Tensor:
        return (~self.mask).expand(x.shape)

    def check_state(self, x: State, name: str) -> State:
        x = self.process.check_state(x, name)
        self._require_fit(x.shape, name)
        if values_are_checked(x):
            moved = self.mask.expand(x.shape) & (x != self.values.to(x.dtype))
            require(not bool(moved.any()), f"{name} differs from the known values")
        return x

    def data_shape(self, shape: Shape) -> Shape:
        shape = self.process.data_shape(shape)
        self._require_fit(torch.Size(shape), "the state")
        return shape

    def _require_fit(self, shape: torch.Size, name: str) -> None:
        """Raises unless the known values fit states of this shape."""
        own = self.values.shape
        fits = len(own) <= len(shape) and all(
            a in (1, b) for a, b in zip(own[::-1], shape[::-1], strict=False)
        )
        require(
            fits,
            f"{name} of shape {tuple(shape)} must fit what is known, of shape {tuple(own)}",
        )

    def origin(self, shape: Shape) -> State:
        return self.clamp(self.process.origin(shape))

    def _clamped(self, law: Distribution) -> Distribution:
        return laws.Clamped(law, self.values, self.mask)

    def _marginal(self, x_0: State, t: Tensor) -> Distribution:
        return self._clamped(self.process._marginal(x_0, t))

    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution:
        return self._clamped(self.process._transition(x, s, t))

    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        if isinstance(estimate, Atoms):
            return _atom_bridge(self, estimate, x, s, t, eta)
        return self._clamped(self.process._bridge(estimate, x, s, t, eta))

    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        return _drawn(self, x_0, t)

    def _limit(self, shape: Shape) -> Distribution:
        return self._clamped(self.process._limit(shape))

    def __repr__(self) -> str:
        return f"({self.process!r}).given({int(self.mask.sum())} known entries)"


def as_pair(known: Any) -> tuple[Tensor, Tensor]:
    """What is known, as a pair of tensors.

    Raises:
        ValueError: If it is none.
    """
    pair = isinstance(known, tuple) and len(known) == 2
    require(pair, f"known must be a pair (values, mask); it is {described(known)}")
    kinds = [type(v).__name__ for v in known]
    require(kinds == ["Tensor"] * 2, f"known must be a pair of tensors; it holds {kinds}")
    return known


def _require_one_tensor(process: Process, verb: str) -> None:
    """Raises ``ValueError`` where the state is a dict of tensors."""
    kinds = [type(p).__name__ for p in process.modules() if isinstance(p, Product | Mixture)]
    rule = "entries of one tensor are {0}, not a dict: the parts of a {1} are {0} by themselves"
    require(not kinds, rule.format(verb, "".join(kinds[:1]).lower()))


def require_process(process: Any) -> None:
    """Raises ``ValueError`` unless this is a process."""
    require_kind(process, Process, "process must be a Process")


def require_law(law: Any, shape: Shape, name: str) -> None:
    """Raises ``ValueError`` unless this is a law of states of this shape."""
    require_kind(law, Distribution, f"{name} must be a distribution")
    if isinstance(shape, Mapping):
        return
    batch, event = tuple(law.batch_shape), tuple(law.event_shape)
    more = tuple(shape) == batch + event
    hint = f": call .to_event({len(batch) - 1}) on it" if more else ""
    require(
        batch in ((), (1,), tuple(shape[:1])) and event == tuple(shape[1:]),
        f"{name} must have batch shape {tuple(shape[:1])} and event shape {tuple(shape[1:])}; it "
        f"has {batch} and {event}{hint}",
    )


def _spaces(process: Process) -> list[tuple[str, Any]]:
    """The state spaces of the parts of a process."""
    leaves = process.leaves(process.instant(0.5))
    return [(str(leaf.core.support), leaf.core.dtype) for leaf in leaves]


class Chain(Process):
    r"""The chain of a process at increasing times: discrete time, on the integers.

    Index 0 is the data, index k is the time ``times[k - 1]``. Its laws are those of the process
    at these times; it has steps, no rates, so its bound is `vlb`.

    Arguments:
        process: The process, on a clock or not.
        times: Increasing times without 0, at most 1 on a clock.

    Raises:
        ValueError: If the times do not increase, or lie outside the time of the process.

    References:
        | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021)

    Example:
        >>> from discdiff import Replace, clock, one_hot
        >>> chain = Replace(one_hot(2, 3)).on(clock.LogLinear()).at([0.25, 0.5, 1.0])
        >>> chain.transition(torch.tensor([0]), 1, 2).probs  # survival (1 − 1/2) / (1 − 1/4)
        tensor([[0.6667, 0.0000, 0.3333]])
    """

    times: Tensor

    def __init__(self, process: Process, times: Tensor | list[float]) -> None:
        super().__init__()
        times = torch.as_tensor(times, dtype=torch.float64)
        last = 1.0 if process.timed else torch.inf
        rising = times.dim() == 1 and len(times) > 0 and bool((times.diff() > 0).all())
        require(
            rising and bool((times > 0).all()) and bool((times <= last).all()),
            f"times must increase, above 0 and at most {last:g}; they are {shown(times, 8)}",
        )
        self.process = process
        self.register_buffer("times", times)

    def on(self, clock: Clock) -> Process:
        raise self._finished("run on a clock")

    def push(self, transform: Transform) -> Process:
        raise self._finished("pushed")

    def scaled(self, alpha: Callable[[Tensor], Tensor]) -> Process:
        raise self._finished("scaled")

    def lift(self, law: Distribution) -> Process:
        raise self._finished("lifted")

    def given(self, known: tuple[Tensor, Tensor]) -> Process:
        raise self._finished("clamped")

    def at(self, times: Tensor | list[float]) -> Chain:
        raise self._finished("taken at other times")

    def _finished(self, done: str) -> Unsolved:
        return Unsolved(
            f"a chain cannot be {done}: combine the process that it is taken from, and take the "
            "chain of that by .at(times)"
        )

    def grid(self) -> Tensor:
        """The times from the last to 0, as a run goes through them."""
        return torch.cat([self.times.flip(0), torch.zeros_like(self.times[:1])])

    def time(self, index: Tensor) -> Tensor:
        """The time of the process at an index."""
        return once(lambda k: self.grid()[len(self.times) - k.long()], index)

    def check_time(self, t: float | Tensor, x: State, name: str) -> Tensor:
        t = as_time(t, first_tensor(x), name)
        if values_are_checked(t):
            k = one_time(t)
            bad = (k != k.round()) | (k > len(self.times))
            rule = f"{name} must be an index of the chain, 0 … {len(self.times)}"
            require(not bool(bad.any()), f"{rule}; it contains {shown(k[bad])}")
        return t

    def leaves(self, t: Tensor) -> Iterator[Leaf]:
        raise Unsolved(
            "a chain has steps, no rates: its bound is vlb(chain, head, x_0). For rates, scores "
            "and estimates ask the process that it is taken from"
        )

    def check_state(self, x: State, name: str) -> State:
        return self.process.check_state(x, name)

    def check_data(self, x_0: State, name: str) -> State:
        return self.process.check_data(x_0, name)

    def to_data(self, x: State) -> State:
        return self.process.to_data(x)

    def state_shape(self, shape: Shape) -> Shape:
        return self.process.state_shape(shape)

    def origin(self, shape: Shape) -> State:
        return self.process.origin(shape)

    def _transition(self, x: State, s: Tensor, t: Tensor) -> Distribution:
        return self.process._transition(x, self.time(s), self.time(t))

    def _marginal(self, x_0: State, t: Tensor) -> Distribution:
        return self.process._marginal(x_0, self.time(t))

    def _bridge(
        self, estimate: Estimate, x: State, s: Tensor, t: Tensor, eta: float = 1.0
    ) -> Distribution:
        return self.process._bridge(estimate, x, self.time(s), self.time(t), eta)

    def _require_possible(self, data: Data, x: State, t: Tensor) -> None:
        self.process._require_possible(data, x, self.time(t))

    def _perturb(self, x_0: State, t: Tensor) -> tuple[State, Estimate]:
        return self.process._perturb(x_0, self.time(t))

    def _limit(self, shape: Shape) -> Distribution:
        return self.process._limit(shape)

    def prior(self, shape: Shape) -> Distribution:
        """The limit of the process if there is one, else its law at the last time from 0."""
        return _law_at_end(self.process, shape, self.times[-1])

    def __repr__(self) -> str:
        return f"({self.process!r}).at({shown(self.times, 4)})"


def _law_at_end(process: Process, shape: Shape, end: Tensor) -> Distribution:
    """Where sampling starts at a time that need not be 1."""
    if process.timed and float(end) == 1:
        return process.prior(shape)
    if isinstance(process, Product):
        parts = process.parts.items()
        return laws.Joint({name: _law_at_end(part, shape[name], end) for name, part in parts})
    if isinstance(process, Mixture):
        parts = [_law_at_end(part, shape["state"], end) for part in process.members]  # type: ignore
        return laws.Labelled(process.weights, parts)
    try:
        return process._limit(shape)
    except Unsolved:
        return process._from_origin(shape, end)


def _drawn(process: Process, x_0: State, t: Tensor) -> tuple[State, Estimate]:
    """A draw of the noisy state, with the data themselves as the training target."""
    return laws.draw(process._marginal(x_0, t)), Data(x_0)


def moving_terms(terms: tuple[Any, ...]) -> tuple[Any, ...]:
    """The terms that do something; one of factor zero has no part in the law of a sum."""
    return tuple(term for term in terms if not term.idle)


def kinds_of(terms: tuple[Any, ...]) -> frozenset[type]:
    """The kinds of terms, by which an engine is chosen."""
    return frozenset(type_before_parametrizations(term) for term in terms)


def by_name(leaves: list[Leaf], values: list[Any]) -> Any:
    """Values of leaves by the names of the leaves; the value itself where there is one sum.

    Raises:
        ValueError: If two leaves have one name, as 'a.b' and b within a have.
    """
    if len(leaves) == 1 and not leaves[0].path:
        return values[0]
    found = {leaf.name: value for leaf, value in zip(leaves, values, strict=True)}
    require(len(found) == len(leaves), f"two parts have one name: {[x.name for x in leaves]}")
    return found


def first_tensor(x: State) -> Tensor:
    """The first tensor of a state."""
    while isinstance(x, Mapping):
        x = next(iter(x.values()))
    return x


def first_shape(shape: Shape) -> tuple[int, ...]:
    """The first shape of a state's shapes."""
    while isinstance(shape, Mapping):
        shape = next(iter(shape.values()))
    return tuple(shape)


def batch_size(x: State) -> int:
    """The batch size B of a state."""
    return first_tensor(x).shape[0]


def require_shape(x: State, shape: Shape, name: str) -> None:
    """Raises unless a state has this shape."""
    if isinstance(x, Mapping):
        for key, part in x.items():
            require_shape(part, shape[key], f"{name}[{key!r}]")
        return
    require(
        tuple(x.shape) == tuple(shape),
        f"{name} must have shape {tuple(shape)}; its shape is {tuple(x.shape)}",
    )


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """A function of tensors applied to the matching tensors of states."""
    if isinstance(states[0], Mapping):
        return {k: map_state(function, *(state[k] for state in states)) for k in states[0]}
    return function(*states)


def over_atoms(
    step: Callable[[Data, State, Tensor, Tensor], Distribution],
    estimate: Atoms,
    x: State,
    s: Tensor,
    t: Tensor,
) -> Distribution:
    """The exact mixture of the laws of a step over a finite law of the data, joint over entries.

    Arguments:
        step: From data, x, s and t, of any batch size, to the law of the state at s.
        estimate: The finite law.
        x: State at time t.
        s: Earlier time, (B,).
        t: Later time, (B,).
    """

    def component(index: Tensor) -> Distribution:
        rows = map_state(lambda atoms: atoms[index], estimate.atoms)
        return step(Data(rows), x, s, t)

    def repeated(count: int) -> Distribution:
        def repeat(v: Tensor) -> Tensor:
            return v.repeat_interleave(count, 0)

        def tile(v: Tensor) -> Tensor:
            return v.repeat((s.shape[0],) + (1,) * (v.dim() - 1))

        data = Data(map_state(tile, estimate.atoms))
        return step(data, map_state(repeat, x), repeat(s), repeat(t))

    return laws.AtomMixture(estimate.log_weights, component, repeated)


def _atom_bridge(
    process: Process, estimate: Atoms, x: State, s: Tensor, t: Tensor, eta: float
) -> Distribution:
    """The exact mixture of bridges over a finite law of the data."""

    def step(data: Data, x: State, s: Tensor, t: Tensor) -> Distribution:
        return process._bridge(data, x, s, t, eta)

    return over_atoms(step, estimate, x, s, t)


def _same(x: Any) -> Any:
    return x


def _put(x: State, y: State) -> State:
    return y


def _after(get: Callable[[State], State], mask: Callable[[State], Tensor]) -> Any:
    return lambda x: mask(get(x))


def _getter(name: str) -> Callable[[State], State]:
    return lambda x: x[name]


def _putter(name: str) -> Callable[[State, State], State]:
    return lambda x, y: {**x, name: y}


def _putter_where(i: int) -> Callable[[State, State], State]:
    """Puts a new state of part i of a mixture into the rows that are labelled i."""

    def put(x: State, y: State) -> State:
        own = x["label"] == i

        def chosen(old: Tensor, new: Tensor) -> Tensor:
            return torch.where(own.reshape(own.shape + (1,) * (new.dim() - 1)), new, old)

        return {**x, "state": map_state(chosen, x["state"], y)}

    return put


def _labelled(i: int) -> Callable[[State], Tensor]:
    return lambda x: x["label"] == i


def _reader(name: str) -> Callable[[Estimate], Estimate]:
    """From an estimate for a product to the estimate for one part."""

    def read(estimate: Estimate) -> Estimate:
        if isinstance(estimate, Data):
            return Data(estimate.value[name])
        if isinstance(estimate, Atoms):
            return Atoms(estimate.log_weights, estimate.atoms[name])
        if isinstance(estimate, Parts):
            require(name in estimate.parts, f"the head says nothing of {name!r}")
            return estimate.parts[name]
        raise ValueError(
            f"a product needs an estimate per part (heads.Product); got {type(estimate).__name__}"
        )

    return read


def _state_of_mixture(estimate: Estimate) -> Estimate:
    if isinstance(estimate, Data | Atoms):
        return _reader("state")(estimate)
    return estimate


def _at_data(function: Callable[[Tensor], Tensor]) -> Callable[[Estimate], Estimate]:
    """Applies a map of states to the estimates that are states; leaves the others as they are."""

    def read(estimate: Estimate) -> Estimate:
        if isinstance(estimate, Data):
            return Data(function(estimate.value))
        if isinstance(estimate, Atoms):
            return Atoms(estimate.log_weights, function(estimate.atoms))
        return estimate

    return read
