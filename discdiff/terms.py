r"""Generator terms: drifts, diffusions and jumps.

A term is one summand of a generator,

.. math::
    (L f)(x) = v(x) \cdot \nabla f(x), \qquad
    (L f)(x) = \tfrac12 \operatorname{tr}\big(B B^\top \nabla^2 f(x)\big), \qquad
    (L f)(x) = \sum_y r(x, y) \big(f(y) - f(x)\big),

for a drift, a diffusion and a jump. A term holds numbers; engines hold algorithms.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, SupportsIndex

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.utils.parametrize import type_before_parametrizations

from .clock import Clock
from .laws import box_index
from .numerics.factors import cholesky
from .numerics.systems import lyapunov
from .params import (
    Declared,
    as_numbers,
    declare,
    definite,
    factor,
    fixed,
    nonnegative,
    probabilities,
    rate_matrix,
    semidefinite,
    signed,
    skew,
    sparse,
)
from .process import Generator, Sum
from .shapes import act, one_shape
from .solve import Unsolved
from .validation import require, shown, values_are_checked

Number = float | Tensor
Numbers = float | list | Tensor
Function = Callable[[Tensor], Tensor]


class Term(Generator):
    """One summand of a generator. ``c * term`` runs it c times as fast."""

    arg_constraints = {"scale": factor}
    support: ClassVar[constraints.Constraint] = constraints.real
    categorical: ClassVar[bool] = False
    local: ClassVar[bool] = True  # whether it moves along a field, by white noise or to few points
    event: tuple[int, ...] | None = None  # the shape that a state must have, where there is one
    scale: Tensor

    def __init__(self, *numbers: Any) -> None:
        super().__init__()
        name = type(self).__name__
        require(
            not numbers,
            f"{name} takes no number: it has unit rate, and 2.0 * {name}() has rate 2; "
            f"given: {', '.join(map(repr, numbers))}",
        )
        declare(self, "scale", 1.0)

    @property
    def terms(self) -> tuple[Term, ...]:
        return (self,)

    def __rmul__(self, rate: Number) -> Term:
        if not isinstance(rate, float | int | Tensor):
            return NotImplemented
        require("scale" in self._buffers, "the factor of this term is learned: scale first")
        clone = self._copy()
        declare(clone, "scale", rate * self.scale)
        require(
            clone.scale.dim() == 0,
            f"the factor of a term must be a number; its shape is {tuple(clone.scale.shape)}",
        )
        fits = bool(clone.scale.detach() >= 0) and bool(clone.scale.detach().isfinite())
        require(fits, f"a rate must be ≥ 0 and finite; it is {rate}")
        return clone

    @property
    def idle(self) -> bool:
        """Whether the term does nothing: its rate, or its factor, is zero and stays so."""
        return zero(self.scale)

    def widths(self) -> dict[str, int]:
        """The sizes that the last axis of a state must have, by the name of what asks for it."""
        return {}

    def entry_shapes(self) -> dict[str, torch.Size]:
        """The shapes of matrices per entry, (*event, k, k) without (k, k), by their names."""
        return {}

    def check_shape(self, x: Tensor, name: str) -> None:
        """Raises ``ValueError`` if states of this shape do not fit the declared numbers."""
        for of, size in self.widths().items():
            require(
                x.dim() >= 2 and x.shape[-1] == size,
                f"the last axis of {name} must have size {size}, as {of} has; "
                f"its shape is {tuple(x.shape)}",
            )
        for of, sides in self.entry_shapes().items():
            require(
                one_shape(x.shape[1:-1], sides) == x.shape[1:-1],
                f"{name} must have shape (B, {', '.join(map(str, sides))}, {x.shape[-1]}), as "
                f"{of} has one matrix per entry; its shape is {tuple(x.shape)}",
            )

    def __repr__(self) -> str:
        scale = float(self.scale.detach())
        name = f"{type_before_parametrizations(self).__name__}({self.extra_repr()})"
        return name if scale == 1.0 else f"{scale:g} * {name}"


class Drift(Term):
    """A term that moves the state along a velocity field."""

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity at x and own time t of shape (B,), of the state's shape."""


class Diffusion(Term):
    r"""A term that adds noise: :math:`B(x, t)\, dW`.

    The noise has the state's shape, but for its last axis where ``sources`` says another size.
    """

    sources: int | None = None

    def white(self, x: Tensor) -> Tensor:
        """Standard normal noise for a state x."""
        shape = x.shape if self.sources is None else (*x.shape[:-1], self.sources)
        return torch.randn(shape, dtype=x.dtype, device=x.device)

    @abstractmethod
    def mix(self, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`B(x, t)` applied to noise."""

    @abstractmethod
    def unmix(self, vector: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`B(x, t)^\top` applied to a vector of the state's shape."""


class Jump(Term):
    """A term that jumps, entry by entry. A jump to the state itself counts for nothing.

    To declare a jump of one's own, subclass and say where it leads and whence it comes. States are
    counts unless ``support`` and ``categorical`` say otherwise.
    """

    support: ClassVar[constraints.Constraint] = constraints.nonnegative_integer
    event_axes: int = 0

    @abstractmethod
    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points y that x jumps to and the rates r(x, y), each of shape (*x.shape, M)."""

    @abstractmethod
    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points y that jump to x and the rates r(y, x), each of shape (*x.shape, M)."""

    def frozen(self, t: Tensor) -> Jump:
        """The jump with its rates at own time t (B,); itself where they do not vary."""
        return self


# -- continuous -----------------------------------------------------------------------------------


class Field(Drift):
    r"""Motion along any velocity field, :math:`dx = v(x, t)\, dt`; simulated, not solved.

    Arguments:
        velocity: A function of a state (B, *event) and a time (B,).

    Example:
        >>> circle = Field(lambda x, t: torch.stack([-x[:, 1], x[:, 0]], -1))
        >>> circle.velocity(torch.tensor([[1.0, 0.0]]), torch.zeros(1))
        tensor([[-0., 1.]])
    """

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        require(callable(velocity), f"velocity must be a function of (x, t); it is {velocity!r}")
        self._velocity = velocity

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        found = self._velocity(x, t)
        _require_shape(found, x, "velocity", found.shape == x.shape if _tensor(found) else False)
        return found


class LinearDrift(Drift):
    r"""Motion :math:`(A x + b)\, dt` with declared A and b, which engines read."""

    @property
    def event_axes(self) -> int:
        """How many last axes of a state belong to one entry."""
        return int(self.is_matrix())

    @abstractmethod
    def system(self, t: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """A and b at own times (n,) as matrices (n or 1, *sides, k, k) and vectors (n or 1, k)."""

    @abstractmethod
    def is_matrix(self) -> bool:
        """Whether coordinates of the last axis are coupled."""

    @abstractmethod
    def varies(self) -> bool:
        """Whether A or b is a function of time."""


class WhiteNoise(Diffusion):
    r"""Noise :math:`B\, dW` with declared B, which engines read."""

    @property
    def event_axes(self) -> int:
        """How many last axes of a state belong to one entry."""
        return int(self.is_matrix())

    @abstractmethod
    def matrix(self, t: Tensor, size: int) -> Tensor:
        """B at own times (n,) as matrices (n or 1, *sides, k, r)."""

    def square(self, t: Tensor, size: int) -> Tensor:
        r""":math:`B B^\top` at own times (n,), shape (n or 1, *sides, k, k)."""
        B = self.matrix(t, size)
        return B @ B.mT

    @abstractmethod
    def is_matrix(self) -> bool:
        """Whether coordinates of the last axis are coupled."""

    @abstractmethod
    def varies(self) -> bool:
        """Whether B is a function of time."""


class Retimed(nn.Module):
    r"""A number of a term on a clock, as a function of the clock's time t.

    .. math:: v(t) = \big(c\, \Lambda'(t)\big)^p\, v_{\text{own}}(\Lambda(t))

    with c the factor of the term, and p = 1 for a drift, 1/2 for noise.

    Arguments:
        clock: The clock.
        term: The term, whose factor is read.
        values: The number at own times (n,), with n or 1 in front.
        power: The exponent p.
    """

    clock: Clock
    term: Term

    def __init__(
        self, clock: Clock, term: Term, values: Callable[[Tensor], Tensor], power: float = 1.0
    ) -> None:
        super().__init__()
        self.clock, self.term, self.values, self.power = clock, term, values, power

    def forward(self, t: Tensor) -> Tensor:
        value = self.values(self.clock(t))
        rate = (self.term.scale * self.clock.rate(t)) ** self.power
        return rate.expand(t.shape).reshape(t.shape + (1,) * (value.dim() - 1)) * value


class Linear(LinearDrift):
    r"""Linear motion, :math:`dx = (A x + b)\, dt`.

    Arguments:
        A: A number, a vector (diagonal on the last axis), a matrix (k, k) on the last axis, one
            matrix per entry (*event, k, k), or a function of time that returns one of these.
        b: A number or a vector, or a function of time.

    Example:
        >>> decay = Linear(-0.5)
        >>> decay.velocity(torch.tensor([[2.0]]), torch.zeros(1))
        tensor([[-1.]])
    """

    arg_constraints = {"A": signed, "b": sparse}
    A: Tensor
    b: Tensor

    def __init__(self, A: Numbers | Function, b: Numbers | Function = 0.0) -> None:
        super().__init__()
        self.functions = {k: v for k, v in (("A", A), ("b", b)) if callable(v)}
        for name, value in (("A", A), ("b", b)):
            if not callable(value):
                declare(self, name, value)
                _require_finite(getattr(self, name), name)
                continue
            require_function(value, name)
            if isinstance(value, nn.Module):
                self.add_module(f"{name}_of_time", value)
        if "A" not in self.functions and self.A.dim() >= 2:
            require(
                self.A.shape[-1] == self.A.shape[-2],
                f"A must be square on its last two axes; its shape is {tuple(self.A.shape)}",
            )
        require(
            len(set(self.widths().values())) < 2,
            "b must be a number or have one entry for each coordinate of A on its last axis; "
            f"their sizes are {self.widths()}",
        )

    def number(self, name: str, t: Tensor) -> Tensor:
        """A or b at own times (B,): the declared number, or the function's value."""
        return self.functions[name](t) if name in self.functions else getattr(self, name)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        b = self.number("b", t).to(x.dtype)
        return apply_linear(self.number("A", t), x, "A" in self.functions) + b

    def system(self, t: Tensor, size: int) -> tuple[Tensor, Tensor]:
        A = as_matrices(self.number("A", t), "A" in self.functions, size)
        b = self.number("b", t)
        b = b if "b" in self.functions and b.dim() else b.unsqueeze(0)
        return A, (b if b.dim() > 1 else b.unsqueeze(-1)).expand(*b.shape[:1], size)

    def _values(self, name: str, t: Tensor) -> Tensor:
        return _timely(self.number(name, t), name in self.functions)

    def retimed(self, clock: Clock) -> Linear:
        A = Retimed(clock, self, partial(self._values, "A"))
        zero = "b" not in self.functions and not bool(self.b.ne(0).any())
        return Linear(A, 0.0 if zero else Retimed(clock, self, partial(self._values, "b")))

    def is_matrix(self) -> bool:
        return _dims(self.number("A", _START), "A" in self.functions) >= 2

    def varies(self) -> bool:
        return bool(self.functions)

    def widths(self) -> dict[str, int]:
        numbers = {k: getattr(self, k) for k in ("A", "b") if k not in self.functions}
        if "A" in self.functions and self.is_matrix():
            numbers["A"] = self.number("A", _START)
        return {k: v.shape[-1] for k, v in numbers.items() if v.dim()}

    def entry_shapes(self) -> dict[str, torch.Size]:
        return _entry_shape("A", self.number("A", _START), "A" in self.functions)

    def extra_repr(self) -> str:
        shown = {k: "…" for k in self.functions}
        A, b = (shown.get(k) or _numbers(getattr(self, k)) for k in ("A", "b"))
        return A if b == "0" else f"{A}, {b}"


class Noise(WhiteNoise):
    r"""White noise, :math:`dx = B\, dW`.

    Arguments:
        B: A number, a vector (diagonal on the last axis), a matrix (k, r) on the last axis for r
            sources of noise, one matrix per entry (*event, k, r), or a function of time that
            returns one of these.

    Example:
        >>> Noise(2.0).mix(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1))
        tensor([[2.]])
    """

    arg_constraints = {"B": signed}
    B: Tensor

    def __init__(self, B: Numbers | Function) -> None:
        super().__init__()
        self.function = B if callable(B) else None
        if self.function is None:
            declare(self, "B", B)
            _require_finite(self.B, "B")
        else:
            require_function(self.function, "B")

    @property
    def sources(self) -> int | None:  # type: ignore[override]
        return self.number(_START).shape[-1] if self.is_matrix() else None

    @property
    def idle(self) -> bool:
        return super().idle or (self.function is None and zero(self.B))

    def number(self, t: Tensor) -> Tensor:
        """B at own times (B,): the declared number, or the function's value."""
        return self.B if self.function is None else self.function(t)

    def mix(self, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return apply_linear(self.number(t), noise, self.function is not None)

    def unmix(self, vector: Tensor, x: Tensor, t: Tensor) -> Tensor:
        B = self.number(t)
        return apply_linear(B.mT if self.is_matrix() else B, vector, self.function is not None)

    def matrix(self, t: Tensor, size: int) -> Tensor:
        return as_matrices(self.number(t), self.function is not None, size)

    def _values(self, t: Tensor) -> Tensor:
        return _timely(self.number(t), self.function is not None)

    def retimed(self, clock: Clock) -> Noise:
        return Noise(Retimed(clock, self, self._values, power=0.5))

    def is_matrix(self) -> bool:
        return _dims(self.number(_START), self.function is not None) >= 2

    def varies(self) -> bool:
        return self.function is not None

    def widths(self) -> dict[str, int]:
        B = self.number(_START)
        if self.is_matrix():
            return {"B": B.shape[-2]}
        return {"B": B.shape[-1]} if self.function is None and B.dim() else {}

    def entry_shapes(self) -> dict[str, torch.Size]:
        return _entry_shape("B", self.number(_START), self.function is not None)

    def extra_repr(self) -> str:
        return "…" if self.function is not None else _numbers(self.B)


class StateNoise(Diffusion):
    r"""Noise that depends on the state, :math:`dx = g(x, t)\, dW`; simulated, not solved.

    It acts entry by entry, in the sense of Itô. Its reversal drifts along
    :math:`g^2 \nabla \log p_t + \nabla g^2`, the second term entry by entry.

    Arguments:
        g: A function of a state (B, *event) and a time (B,), of values that broadcast with the
            state.

    Example:
        >>> price = StateNoise(lambda x, t: 0.2 * x)
        >>> price.mix(torch.ones(1, 2), torch.tensor([[1.0, 5.0]]), torch.zeros(1))
        tensor([[0.2000, 1.0000]])

    References:
        | Reverse-time diffusion equation models (Anderson, 1982)
    """

    def __init__(self, g: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        require(callable(g), f"g must be a function of (x, t); it is {g!r}")
        self._g = g

    def level(self, x: Tensor, t: Tensor) -> Tensor:
        """g at a state and a time, of a shape that broadcasts with the state's."""
        found = self._g(x, t)
        _require_shape(found, x, "g", _tensor(found) and _broadcasts(found, x))
        return found

    def mix(self, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.level(x, t) * noise

    def unmix(self, vector: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.level(x, t) * vector


class Langevin(Sum):
    r"""The linear diffusion with a given stationary law :math:`\mathcal{N}(0, S)`.

    .. math:: dy = -(Q + D) S^{-1} y\, dt + \sqrt{2 D}\, dW, \qquad
              Q = -Q^\top, \quad D \succeq 0, \quad S \succ 0

    Every linear diffusion with that law is of this form. Q and D may be functions of time: the law
    stays stationary.

    Arguments:
        Q: Skew-symmetric, shape (k, k), or a function of time.
        D: Positive semi-definite, shape (k, k), or a function of time.
        S: The stationary covariance, positive definite, shape (k, k).

    Raises:
        ValueError: If Q is not skew, D not positive semi-definite or S not positive definite.

    References:
        | A complete recipe for stochastic gradient MCMC (Ma et al., 2015)
        | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)

    Example:
        >>> damped = Langevin([[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]], torch.eye(2))
        >>> damped.limit((1, 2)).covariance_matrix[0]
        tensor([[1., 0.],
                [0., 1.]])
    """

    def __init__(self, Q: Numbers | Function, D: Numbers | Function, S: Numbers) -> None:
        recipe = Recipe(Q, D, S)
        super().__init__(Restoring(recipe), Stirring(recipe))

    @property
    def recipe(self) -> Recipe:
        """Q, D and S."""
        return self.terms[0].recipe

    def invariants(self) -> Tensor:
        r"""The eigenvalues of :math:`A = -(Q + D) S^{-1}`, the slowest first; complex, shape (k,).

        Turning the auxiliaries of a lift changes Q, D and S, but nothing that data can see, so
        learned matrices are known up to such a turn only. The eigenvalues do not depend on it:
        their real parts are the rates at which modes are forgotten, equal ones mean critical
        damping.

        Raises:
            Unsolved: If Q or D is a function of time.

        Example:
            >>> Q, D = [[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]
            >>> Langevin(Q, D, torch.eye(2)).invariants().real
            tensor([-0.5000, -0.5000], dtype=torch.float64)
        """
        drift = self.terms[0]
        if drift.varies():
            raise Unsolved("the eigenvalues of matrices that vary in time say nothing of the law")
        (A,), _ = drift.system(_START, self.recipe.S.shape[-1])
        values = torch.linalg.eigvals(A)
        by_size = values.imag.argsort(descending=True)
        return values[by_size][values[by_size].real.argsort(descending=True, stable=True)]

    def __repr__(self) -> str:
        return f"Langevin(k={self.recipe.S.shape[-1]})"


class Recipe(Declared):
    """The matrices Q, D and S that the two terms of `Langevin` share."""

    arg_constraints = {"Q": skew, "D": semidefinite, "S": definite}
    S: Tensor
    D: Tensor

    def __init__(self, Q: Numbers | Function, D: Numbers | Function, S: Numbers) -> None:
        super().__init__()
        self.functions = {k: v for k, v in (("Q", Q), ("D", D)) if callable(v)}
        for name, value in (("Q", Q), ("D", D), ("S", S)):
            if name not in self.functions:
                declare(self, name, value)
                _require_finite(getattr(self, name), name)
            else:
                require_function(value, name)
        shapes = {k: tuple(getattr(self, k).shape) for k in "QDS" if k not in self.functions}
        square = all(len(v) == 2 and v == (v[0], v[0]) for v in shapes.values())
        require(square and len(set(shapes.values())) == 1, f"{shapes} must be one square shape")
        for name, constraint in (("Q", skew), ("D", semidefinite), ("S", definite)):
            if name not in self.functions:
                value = getattr(self, name).detach()
                rule = f"{name} must be {constraint!r}; it is {value.tolist()}"
                require(bool(constraint.check(value)), rule)

    def at(self, name: str, t: Tensor) -> Tensor:
        """Q or D at own times (n,), with n or 1 in front."""
        found = self.functions.get(name)
        return found(t) if found else getattr(self, name).unsqueeze(0)


class Restoring(LinearDrift):
    r"""The drift :math:`-(Q + D) S^{-1} y` of `Langevin`."""

    recipe: Recipe

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return apply_linear(self.system(t, x.shape[-1])[0].expand(len(t), -1, -1), x, True)

    def system(self, t: Tensor, size: int) -> tuple[Tensor, Tensor]:
        both = self.recipe.at("Q", t) + self.recipe.at("D", t)
        A = -torch.linalg.solve(self.recipe.S, both, left=False)
        return A, torch.zeros_like(A[:1, ..., 0])

    def _values(self, t: Tensor) -> Tensor:
        return self.system(t, self.recipe.S.shape[-1])[0]

    def retimed(self, clock: Clock) -> Linear:
        return Linear(Retimed(clock, self, self._values))

    def is_matrix(self) -> bool:
        return True

    def varies(self) -> bool:
        return bool(self.recipe.functions)

    def widths(self) -> dict[str, int]:
        return {"S": self.recipe.S.shape[-1]}


class Stirring(WhiteNoise):
    r"""The noise :math:`\sqrt{2 D}\, dW` of `Langevin`, with the lower factor for the root."""

    recipe: Recipe

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    @property
    def idle(self) -> bool:
        return super().idle or ("D" not in self.recipe.functions and zero(self.recipe.D))

    @property
    def sources(self) -> int:  # type: ignore[override]
        return self.recipe.S.shape[-1]

    def matrix(self, t: Tensor, size: int) -> Tensor:
        return cholesky(2 * self.recipe.at("D", t), singular=True)

    def square(self, t: Tensor, size: int) -> Tensor:
        D = self.recipe.at("D", t)
        return D + D.mT

    def _values(self, t: Tensor) -> Tensor:
        return self.matrix(t, self.recipe.S.shape[-1])

    def retimed(self, clock: Clock) -> Noise:
        return Noise(Retimed(clock, self, self._values, power=0.5))

    def mix(self, noise: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return apply_linear(self.matrix(t, x.shape[-1]).expand(len(t), -1, -1), noise, True)

    def unmix(self, vector: Tensor, x: Tensor, t: Tensor) -> Tensor:
        B = self.matrix(t, x.shape[-1]).expand(len(t), -1, -1)
        return apply_linear(B.mT, vector, True)

    def is_matrix(self) -> bool:
        return True

    def varies(self) -> bool:
        return bool(self.recipe.functions)

    def widths(self) -> dict[str, int]:
        return {"S": self.recipe.S.shape[-1]}


def stationary(A: Numbers, B: Numbers) -> tuple[Tensor, Tensor, Tensor]:
    r"""The matrices (Q, D, S) of a stable linear diffusion :math:`dy = A y\, dt + B\, dW`.

    S solves :math:`A S + S A^\top + B B^\top = 0`, :math:`D = B B^\top / 2` and
    :math:`Q = -(A S + D)`, which is skew.

    Raises:
        ValueError: If an eigenvalue of A has a real part ≥ 0: there is no stationary law.

    Example:
        >>> Q, D, S = stationary([[-0.5]], [[1.0]])
        >>> S
        tensor([[1.]], dtype=torch.float64)
    """
    A, B = as_numbers(A, "A"), as_numbers(B, "B")
    square = A.dim() == 2 and A.shape[0] == A.shape[1] and B.dim() == 2 and len(A) == len(B)
    shapes = f"their shapes are {tuple(A.shape)} and {tuple(B.shape)}"
    require(square, f"A must be (k, k) and B (k, r); {shapes}")
    top = float(torch.linalg.eigvals(A.detach()).real.max())
    require(top < 0, f"the eigenvalues of A must have negative real parts; the largest is {top:g}")
    S, D = lyapunov(A, B @ B.mT), B @ B.mT / 2
    half = A @ S + D
    return -(half - half.mT) / 2, D, S


_START = torch.zeros(1, dtype=torch.float64)


def _tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _broadcasts(value: Tensor, x: Tensor) -> bool:
    pairs = zip(value.shape[::-1], x.shape[::-1], strict=False)
    return value.dim() <= x.dim() and all(a in (1, b) for a, b in pairs)


def _require_shape(value: Any, x: Tensor, name: str, fits: bool) -> None:
    """Raises unless what a function of (x, t) returned fits the state."""
    found = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
    require(fits, f"{name}(x, t) must fit x of shape {tuple(x.shape)}; it returned {found}")


def require_function(value: Any, name: str) -> Tensor:
    """The value of a function of time at (1,); raises ``ValueError`` unless it is a tensor."""
    first = value(_START)
    require(
        isinstance(first, Tensor),
        f"{name} as a function of time must return a tensor for times of shape (B,); "
        f"it returns {first!r}",
    )
    return first


def _entry_shape(name: str, value: Tensor, timely: bool) -> dict[str, torch.Size]:
    """What is in front of a matrix on the last two axes, if anything is."""
    sides = value.shape[int(timely) : -2]
    return {name: sides} if sides else {}


def _dims(value: Tensor, per_time: bool) -> int:
    """The dimensions of a number, without that of time."""
    return value.dim() - (per_time and value.dim() > 0)


def _timely(value: Tensor, per_time: bool) -> Tensor:
    """A number with a dimension of time in front."""
    return value if per_time and value.dim() else value.unsqueeze(0)


def as_matrices(value: Tensor, per_time: bool, size: int) -> Tensor:
    """Numbers, diagonals or matrices as matrices with a dimension of time in front."""
    value = _timely(value, per_time)
    if value.dim() == 1:
        return value[:, None, None] * torch.eye(size, dtype=value.dtype, device=value.device)
    return value.diag_embed() if value.dim() == 2 else value


def apply_linear(A: Tensor, x: Tensor, per_time: bool) -> Tensor:
    """A number, a diagonal or matrices (one per batch element if ``per_time``) applied to x."""
    A = A.to(x.dtype)
    dims = _dims(A, per_time)
    if dims >= 2:
        A = A if per_time else A.unsqueeze(0).expand(x.shape[0], *A.shape)
        return act(A.reshape(A.shape[:1] + (1,) * (x.dim() - dims) + A.shape[1:]), x)
    if per_time and A.dim():
        return A.reshape(A.shape[:1] + (1,) * (x.dim() - A.dim()) + A.shape[1:]) * x
    return A * x


def spread(term: Diffusion, vector: Tensor, x: Tensor, t: Tensor) -> Tensor:
    r""":math:`B B^\top v`; its derivative is that in :math:`B B^\top`, of which a singular root
    has none."""
    if isinstance(term, WhiteNoise) and term.is_matrix():
        G = term.square(t, x.shape[-1])
        if torch.is_grad_enabled() and G.requires_grad:
            return apply_linear(G.expand(len(t), *G.shape[1:]), vector, True)
    return term.mix(term.unmix(vector, x, t), x, t)


# -- finite spaces --------------------------------------------------------------------------------


class FiniteJump(Jump):
    """A jump on the states 0 … K−1, int64."""

    categorical: ClassVar[bool] = True
    size: int

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.integer_interval(0, self.size - 1)

    def varies(self) -> bool:
        """Whether the rates vary in time: `frozen` then gives them at a time."""
        return False

    def matrix(self) -> Tensor:
        """The rate matrix, (K, K) float64; rows sum to zero."""
        states = torch.arange(self.size, device=self.scale.device)
        return self.scale * _matrix_of(*self.out(states), states)

    def matrices(self, t: Tensor) -> Tensor:
        """The rate matrices at own times (B,), shape (B, K, K)."""
        if not self.varies():
            return self.matrix().expand(len(t), -1, -1)
        states = torch.arange(self.size, device=t.device).expand(len(t), -1)
        return self.scale * _matrix_of(*self.frozen(t).out(states), states)

    def states(self, x: Tensor) -> Tensor:
        """All states as points, shape (*x.shape, K)."""
        return torch.arange(self.size, device=x.device).expand(*x.shape, self.size)


def _matrix_of(points: Tensor, rates: Tensor, x: Tensor) -> Tensor:
    """The rate matrices of all jumps out of the states x, (*batch, K) to (*batch, K, K)."""
    rates = rates.expand(points.shape).double().masked_fill(points == x.unsqueeze(-1), 0.0)
    size = x.shape[-1]
    Q = rates.new_zeros(*x.shape, size).scatter_add(-1, points, rates)
    return Q - rates.sum(-1).diag_embed()


class RateMatrix(FiniteJump):
    r"""Any continuous-time Markov chain on finitely many states.

    .. math:: (L f)(x) = \sum_y Q_{xy} f(y)

    Arguments:
        Q: Rates of x → y in row x, shape (K, K), rows summing to zero (to 1e-6 of the rates, as
            float32 can; the diagonal is then completed in float64); or a function of time (B,)
            that returns (B, K, K).
        sites: Sides :math:`(K_1, …, K_D)` of a joint space of coupled sites, with
            :math:`K = \prod_d K_d`; states then carry D sites on their last axis.

    Raises:
        ValueError: If Q is not square, a rate is negative or a row does not sum to zero.

    Example:
        >>> flip = RateMatrix(torch.tensor([[-1.0, 1.0], [2.0, -2.0]]))
        >>> flip.limit((1,)).probs
        tensor([[0.6667, 0.3333]])
    """

    arg_constraints = {"Q": rate_matrix}
    Q: Tensor

    def __init__(self, Q: Tensor | list | Function, sites: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.function = Q if callable(Q) else None
        if self.function is None:
            require_no_parameter(Q, "Q")
            Q = as_numbers(Q, "Q")
            require_rate_matrix(Q.detach(), "Q")
            declare(self, "Q", with_diagonal(Q))
            first = self.Q
        else:
            value = require_function(self.function, "Q")
            shape = tuple(value.shape)
            batched = len(shape) == 3 and shape[0] == 1
            require(batched, f"Q at times of shape (1,) must be (1, K, K); its shape is {shape}")
            first = value[0]
            require_rate_matrix(first.detach(), "Q")
        listed = isinstance(sites, tuple | list) and all(isinstance(n, int) for n in sites)
        require(listed, f"sites must be a tuple of integers; it is {sites!r}")
        self.size, self.sites = first.shape[0], tuple(sites)
        sides = torch.Size(self.sites).numel()
        require(
            not sites or sides == self.size, f"sites {sites} make {sides} states, Q {self.size}"
        )
        self.event_axes = 1 if self.sites else 0

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return _Sites(self.sites) if self.sites else super().support

    def varies(self) -> bool:
        return self.function is not None

    def matrix(self) -> Tensor:
        return self.scale * self.Q

    def matrices(self, t: Tensor) -> Tensor:
        return self.scale * self.function(t) if self.function else super().matrices(t)

    def frozen(self, t: Tensor) -> Jump:
        if self.function is None:
            return self
        clone = self._copy()
        clone.__dict__ |= {"function": None, "Q": self.function(t)}
        return clone

    def index(self, x: Tensor) -> Tensor:
        """The joint index of states: themselves, or of their sites on the last axis."""
        return box_index(x, self.sites)[0] if self.sites else x

    def points(self, index: Tensor) -> Tensor:
        """All states as points, shape (*index.shape, K) or (*index.shape, K, D)."""
        every = torch.arange(self.size, device=index.device)
        if not self.sites:
            return every.expand(*index.shape, self.size)
        every = torch.stack(torch.unravel_index(every, self.sites), -1)
        return every.expand(*index.shape, *every.shape)

    def _rows(self, Q: Tensor, index: Tensor) -> Tensor:
        if Q.dim() == 2:
            return Q[index]
        return Q[torch.arange(len(Q)).reshape((-1,) + (1,) * (index.dim() - 1)), index]

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        index = self.index(x)
        return self.points(index), self._rows(self.Q, index)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        index = self.index(x)
        return self.points(index), self._rows(self.Q.mT, index)

    def widths(self) -> dict[str, int]:
        return {"sites": len(self.sites)} if self.sites else {}

    def extra_repr(self) -> str:
        kind = "Q(t)" if self.function is not None else f"{self.size}×{self.size}"
        return f"{kind}, sites={self.sites}" if self.sites else kind


class Replace(FiniteJump):
    r"""Replacement by a draw from a fixed law, at unit rate.

    .. math:: (L f)(x) = \mathbb{E}_{y \sim \pi}[f(y)] - f(x)

    With :math:`\pi = \delta_{\mathrm{mask}}` tokens are masked; with :math:`\pi` uniform they are
    scrambled.

    Arguments:
        pi: The replacement law, probabilities of shape :math:`(K,)`, summing to one (to 1e-6, as
            float32 can; what is missing is completed in float64 by a common factor).

    Raises:
        ValueError: If an entry of ``pi`` is negative or the sum is not one.

    References:
        | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021)

    Example:
        >>> Replace(torch.full((4,), 0.25)).transition(torch.tensor([0]), 0.0, 1.0).probs
        tensor([[0.5259, 0.1580, 0.1580, 0.1580]])
    """

    arg_constraints = {"pi": probabilities}
    pi: Tensor

    def __init__(self, pi: Numbers) -> None:
        super().__init__()
        require_no_parameter(pi, "pi")
        pi = as_numbers(pi, "pi")
        require_simplex(pi.detach(), "pi")
        declare(self, "pi", pi / pi.sum())
        self.size = self.pi.shape[0]

    def matrix(self) -> Tensor:
        return self.scale * (self.pi.expand(self.size, -1) - torch.eye(self.size).to(self.pi))

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.states(x), self.pi.expand(*x.shape, -1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.states(x), self.pi[x].unsqueeze(-1).expand(*x.shape, self.size)

    def extra_repr(self) -> str:
        return _numbers(self.pi)


# -- counts ---------------------------------------------------------------------------------------


class CountJump(Jump):
    """A jump between counts 0, 1, 2, …, kept as floating tensors of integers."""


class Death(CountJump):
    r"""Every unit dies at unit rate.

    .. math:: (L f)(x) = x \, (f(x - 1) - f(x))

    On a clock this is blackout diffusion.

    References:
        | Blackout Diffusion: Generative Diffusion Models in Discrete-State Spaces (Santos et al.,
          2023)

    Example:
        >>> Death().transition(torch.tensor([10.0]), 0.0, 1.0).mean
        tensor([3.6788])
    """

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - 1).unsqueeze(-1), x.unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + 1).unsqueeze(-1), (x + 1).unsqueeze(-1)


class Immigration(CountJump):
    r"""Units arrive at a constant rate.

    .. math:: (L f)(x) = \mu \, (f(x + 1) - f(x))

    Arguments:
        rate: Arrivals :math:`\mu` per unit time, a number or one per entry of the last axis.

    Raises:
        ValueError: If the rate is negative.

    Example:
        >>> (Death() + Immigration(2.0)).limit((1,)).mean
        tensor([2.])
    """

    arg_constraints = {"rate": nonnegative}
    rate: Tensor

    def __init__(self, rate: Numbers) -> None:
        super().__init__()
        declare(self, "rate", rate)
        require(
            self.rate.dim() <= 1,
            f"rate must be a number or a vector; its shape is {tuple(self.rate.shape)}",
        )
        require_nonnegative(self.rate, "rate")

    @property
    def idle(self) -> bool:
        return super().idle or zero(self.rate)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rate = self.rate.to(x.dtype).expand(x.shape)
        return (x + 1).unsqueeze(-1), rate.unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rate = torch.where(x > 0, self.rate.to(x.dtype), torch.zeros_like(x))
        return (x - 1).unsqueeze(-1), rate.unsqueeze(-1)

    def widths(self) -> dict[str, int]:
        return {"rate": self.rate.shape[-1]} if self.rate.dim() else {}

    def extra_repr(self) -> str:
        return _numbers(self.rate)


class Birth(CountJump):
    r"""Every unit gives birth at unit rate (the Yule process).

    .. math:: (L f)(x) = x \, (f(x + 1) - f(x))

    Example:
        >>> Birth().transition(torch.tensor([2.0]), 0.0, 1.0).mean
        tensor([5.4366])
    """

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + 1).unsqueeze(-1), x.unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - 1).unsqueeze(-1), (x - 1).clamp(min=0).unsqueeze(-1)


class Ehrenfest(CountJump):
    r"""N units with two states each; x of them are up.

    .. math:: (L f)(x) = a (N - x) (f(x + 1) - f(x)) + b x (f(x - 1) - f(x))

    Arguments:
        size: The number N of units.
        up: Rate a at which a unit that is down goes up.
        down: Rate b at which a unit that is up goes down.

    Raises:
        ValueError: If N is not a positive integer, or a rate is negative.

    References:
        | Bridging discrete and continuous state spaces: Exploring the Ehrenfest process in
          time-continuous diffusion models (Winkler et al., 2024)

    Example:
        >>> Ehrenfest(6).limit((1,)).mean
        tensor([3.])
    """

    arg_constraints = {"up": nonnegative, "down": nonnegative}
    up: Tensor
    down: Tensor

    def __init__(self, size: int, up: Number = 1.0, down: Number = 1.0) -> None:
        super().__init__()
        real = isinstance(size, int | float) and math.isfinite(size)
        whole = real and int(size) == size and size > 0
        require(whole, f"size must be a positive integer; it is {size!r}")
        self.size = int(size)
        for name, value in (("up", up), ("down", down)):
            declare(self, name, value)
            shape = tuple(getattr(self, name).shape)
            require(shape == (), f"{name} must be a number; its shape is {shape}")
            require_nonnegative(getattr(self, name), name)

    @property
    def idle(self) -> bool:
        return super().idle or (zero(self.up) and zero(self.down))

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.integer_interval(0, self.size)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        up, down = self.up.to(x.dtype), self.down.to(x.dtype)
        return torch.stack([x + 1, x - 1], -1), torch.stack([up * (self.size - x), down * x], -1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        up, down = self.up.to(x.dtype), self.down.to(x.dtype)
        dies = torch.where(x < self.size, down * (x + 1), torch.zeros_like(x))
        rises = torch.where(x > 0, up * (self.size - x + 1), torch.zeros_like(x))
        return torch.stack([x + 1, x - 1], -1), torch.stack([dies, rises], -1)

    def extra_repr(self) -> str:
        return f"{self.size}, up={_numbers(self.up)}, down={_numbers(self.down)}"


class Reaction(Jump):
    r"""A reaction that changes the counts of species on the last axis.

    .. math:: (L f)(x) = a(x) \, (f(x + \nu) - f(x))

    A rate that is a number k declares mass action: each choice of the units that the change takes
    away reacts at rate k,

    .. math:: a(x) = k \prod_i \binom{x_i}{\max(-\nu_i, 0)},

    so units die or turn into others at rate k each, arrive at rate k, and pairs meet at rate k per
    pair. Where all rates are numbers and one unit at a time dies, arrives or turns into another,
    units are independent particles, which are solved in closed form. No finite number of values
    shows that a function is linear, so reactions with functions, like all others, are solved on a
    truncated space whose loss of mass is bounded.

    Arguments:
        change: The change :math:`\nu` of each species, integers of shape (S,); or one integer for
            a single species.
        rate: The number k ≥ 0 of mass action; or the propensity :math:`a`, a function of states
            (…, S) that returns (…). It is read where x and x + ν are counts.

    Raises:
        ValueError: If the change is zero or not integer, the number is negative, or a propensity
            is negative or not finite at a state where it is read.

    Example:
        >>> convert = Reaction([-1, 1], 2.0)
        >>> convert.out(torch.tensor([[3.0, 0.0]]))
        (tensor([[[2., 1.]]]), tensor([[6.]]))
        >>> meet = Reaction([-2, 1], lambda n: n[..., 0] * (n[..., 0] - 1) / (1 + n[..., 0]))
        >>> meet.out(torch.tensor([[3.0, 0.0]]))
        (tensor([[[1., 1.]]]), tensor([[1.5000]]))
    """

    arg_constraints = {"change": fixed, "rate": nonnegative}
    event_axes = 1
    change: Tensor
    rate: Tensor

    def __init__(
        self, change: int | list[int] | Tensor, rate: Number | Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        declare(self, "change", as_numbers(change, "change").reshape(-1))
        moved = self.change.detach()
        require(
            bool((moved == moved.round()).all()) and bool(moved.any()),
            f"change must hold integers, not all zero; it is {moved.tolist()}",
        )
        self.function = rate if callable(rate) else None
        if self.function is not None:
            return
        declare(self, "rate", rate)
        require(
            self.rate.dim() == 0,
            f"rate must be a number or a function; its shape is {tuple(self.rate.shape)}",
        )
        require_nonnegative(self.rate, "rate")

    @property
    def species(self) -> int:
        return self.change.shape[0]

    @property
    def mass_action(self) -> bool:
        """Whether the rate is declared to be a number."""
        return self.function is None

    def propensity(self, x: Tensor) -> Tensor:
        """The rate at x, zero where x or the state after the reaction is no count."""
        allowed = (x >= 0).all(-1) & ((x + self.change.to(x.dtype)) >= 0).all(-1)
        rate = self._choices(x) if self.function is None else self.function(x)
        rate = torch.as_tensor(rate).to(x.dtype)
        shapes = f"{tuple(x.shape[:-1])}, one rate per state; its shape is {tuple(rate.shape)}"
        require(_broadcasts(rate, x[..., 0]), f"the propensity of {self!r} must be {shapes}")
        rate = rate.expand(x.shape[:-1])
        rate = torch.where(allowed, rate, torch.zeros_like(rate))
        if not self.mass_action and values_are_checked(x):
            self._require_rates(rate.detach(), x)
        return rate

    def _choices(self, x: Tensor) -> Tensor:
        """The rate of mass action."""
        rate = self.rate.to(x.dtype).expand(x.shape[:-1])
        for i, change in enumerate(self.change.tolist()):
            for k in range(-int(change)):
                rate = rate * (x[..., i] - k) / (k + 1)
        return rate

    def _require_rates(self, rate: Tensor, x: Tensor) -> None:
        bad = ~((rate >= 0) & rate.isfinite())
        if bool(bad.any()):
            raise ValueError(
                f"the propensity of {self!r} must be ≥ 0 and finite; "
                f"at the state {shown(x[bad][0], x.shape[-1])} it is {float(rate[bad][0]):g}"
            )

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        after = x + self.change.to(x.dtype)
        return after.unsqueeze(-2), self.propensity(x).unsqueeze(-1)

    def into(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = x - self.change.to(x.dtype)
        return before.unsqueeze(-2), self.propensity(before).unsqueeze(-1)

    def widths(self) -> dict[str, int]:
        return {"change": self.species}

    def extra_repr(self) -> str:
        change = f"{[int(c) for c in self.change.tolist()]}"
        return f"{change}, {_numbers(self.rate)}" if self.mass_action else change


# -- rules ----------------------------------------------------------------------------------------


def one_hot(index: int, size: int) -> Tensor:
    """The probability vector that is certain of one state, float64 of shape (size,).

    Example:
        >>> one_hot(2, 3)
        tensor([0., 0., 1.], dtype=torch.float64)
    """
    whole = isinstance(index, SupportsIndex) and isinstance(size, SupportsIndex)
    require(whole, f"index and size must be integers; they are {index!r} and {size!r}")
    require(0 <= index < size, f"index must lie in [0, {size - 1}]; it is {index}")
    pi = torch.zeros(size, dtype=torch.float64)
    pi[index] = 1.0
    return pi


def zero(value: Tensor) -> bool:
    """Whether declared numbers are zero and stay so."""
    return not value.requires_grad and not bool(value.any())


def require_rate_matrix(Q: Tensor, name: str) -> None:
    """Raises unless Q is square with non-negative rates and rows that sum to zero."""
    require(
        Q.dim() == 2 and Q.shape[0] == Q.shape[1],
        f"{name} must be a square matrix; its shape is {tuple(Q.shape)}",
    )
    _require_finite(Q, name)
    rates = Q - Q.diagonal().diag()
    if bool((rates < 0).any()):
        x, y = (rates < 0).nonzero()[0].tolist()
        raise ValueError(f"{name}[{x}, {y}] = {Q[x, y]:g} is a negative rate")
    sums, size = Q.sum(1), Q.abs().sum(1)
    wrong = sums.abs() > 1e-6 * size
    if bool(wrong.any()):
        x = int(wrong.nonzero()[0])
        raise ValueError(f"rows of {name} must sum to zero; row {x} sums to {sums[x]:g}")


def with_diagonal(Q: Tensor) -> Tensor:
    """The rate matrix with the diagonal that makes its rows sum to zero."""
    rates = Q - Q.diagonal(dim1=-2, dim2=-1).diag_embed()
    return rates - rates.sum(-1).diag_embed()


def require_simplex(pi: Tensor, name: str) -> None:
    """Raises unless pi is a vector of probabilities that sum to one."""
    require(pi.dim() == 1, f"{name} must be a vector; its shape is {tuple(pi.shape)}")
    _require_finite(pi, name)
    require_nonnegative(pi, name)
    total = float(pi.sum())
    require(abs(total - 1) < 1e-6, f"{name} must sum to one; its sum is {total:g}")


def require_no_parameter(value: object, name: str) -> None:
    """Raises if an optimiser would take a number out of its constraint, or miss it."""
    free = isinstance(value, torch.nn.Parameter)
    require(
        not free, f"{name} must be numbers, which dd.learn then makes learnable; it is a Parameter"
    )


def require_nonnegative(value: Tensor, name: str) -> None:
    """Raises unless every number is ≥ 0."""
    _require_finite(value, name)
    bad = value.detach() < 0
    require(not bool(bad.any()), f"{name} must be ≥ 0; it contains {shown(value[bad])}")


def _require_finite(value: Tensor, name: str) -> None:
    bad = ~value.detach().isfinite()
    require(not bool(bad.any()), f"{name} must be finite; it contains {shown(value[bad])}")


def _numbers(value: Tensor) -> str:
    value = value.detach()
    if value.dim() == 0:
        return f"{float(value):g}"
    if value.numel() <= 4 and value.dim() == 1:
        return "[" + ", ".join(f"{v:g}" for v in value.tolist()) + "]"
    return f"<{'×'.join(map(str, value.shape))}>"


class _Sites(constraints.Constraint):
    """Sites on the last axis, each with its own number of states."""

    is_discrete = True
    event_dim = 1

    def __init__(self, sides: tuple[int, ...]) -> None:
        self.sides = sides
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return box_index(value, self.sides)[1]

    def __repr__(self) -> str:
        return f"Sites{self.sides}"
