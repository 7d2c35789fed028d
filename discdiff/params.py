r"""Declared numbers: how a process holds them, and how they become learnable.

A declared number is float64 and stays so: the mathematics of a process runs in float64 whatever
the dtype of the data. It may be a tensor that requires grad (then the graph is kept), or an
``nn.Parameter``.

`learn` makes a number v the image of free reals u under the constraint that its class states,

.. math:: v = T(u), \qquad u = T^{-1}(v_{\mathrm{declared}}),

with T from :func:`torch.distributions.transform_to`. Constraints that torch lacks are here:

.. math::
    \text{rate matrix: } Q_{xy} = e^{u_{xy}}, \; Q_{xx} = -\sum_{y \ne x} Q_{xy}, \qquad
    \text{increasing: } v_0 = 0, \; v_k = \sum_{j < k} e^{u_j}, \qquad
    \text{signed: } v = \pm e^u.

Learning changes numbers and keeps structure, which engines read once: what is zero at declaration
(a rate, a probability of the replacement law, a drift) stays zero.
"""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from itertools import chain
from math import isqrt
from typing import Any, ClassVar, TypeVar

import torch
from torch import Size, Tensor, nn
from torch.distributions import Transform, biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ComposeTransform
from torch.nn.utils import parametrize

M = TypeVar("M", bound=nn.Module)


def declare(module: nn.Module, name: str, value: Any) -> None:
    """Registers a declared number on a module, as a parameter or a float64 buffer.

    Arguments:
        module: The module that holds the number.
        name: Its name, also in ``state_dict``.
        value: A number, a nested list, a tensor (which may require grad) or an ``nn.Parameter``.

    Raises:
        ValueError: If the value is no real number or tensor.
    """
    names = module.__dict__.get("_declared", ())
    module.__dict__["_declared"] = (*(n for n in names if n != name), name)
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
        return
    number = as_numbers(value, name).contiguous()
    if isinstance(value, Tensor) and number is value and not value.requires_grad:
        number = number.clone()  # a later change of the caller's tensor changes no process
    module.register_buffer(name, number)


def as_numbers(value: Any, name: str) -> Tensor:
    """Numbers as a float64 tensor.

    Raises:
        ValueError: If they are none.
    """
    if isinstance(value, Tensor) and value.is_complex():
        raise ValueError(f"{name} must be real; its dtype is {value.dtype}")
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a number or a tensor; it is {value!r}") from error


class Versions:
    """Tensors as they are now, to see later whether they were changed or replaced.

    Example:
        >>> number = torch.ones(1)
        >>> then = Versions([number])
        >>> number.mul_(2.0), then.hold([number])
        (tensor([2.]), False)
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        compiling = torch.compiler.is_compiling()
        self.versions = [] if compiling else [v._version for v in self.tensors]

    def hold(self, tensors: Iterable[Tensor]) -> bool:
        """Whether these are the tensors, unchanged; not looked at while compiling."""
        if torch.compiler.is_compiling():
            return True
        now = list(tensors)
        same = len(now) == len(self.tensors) and all(map(operator.is_, self.tensors, now))
        return same and self.versions == [v._version for v in now]


class Declared(nn.Module):
    """A module whose floating numbers stay float64 under ``.half()``, ``.float()`` and ``.to``.

    A class says in ``arg_constraints`` where its own numbers may lie when they are learned; a
    number that it does not name is real. A child that it names `fixed` is not learned.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    forgotten: ClassVar[tuple[str, ...]] = ()  # attributes that no copy takes along

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in self.forgotten}

    def __deepcopy__(self, memo: dict[int, Any]) -> Declared:
        """A copy; a number that is a function of another tensor stays one, of the same tensor."""
        clone = object.__new__(type(self))
        memo[id(self)] = clone
        memo |= {id(v): v for v in self._buffers.values() if v is not None and not v.is_leaf}
        state = {k: v for k, v in vars(self).items() if k not in self.forgotten}
        vars(clone).update(deepcopy(state, memo))
        return clone

    def instant(self, t: float) -> Tensor:
        """A time, float64 of shape (1,), where the numbers of this module are."""
        numbers = chain(self.buffers(), self.parameters())
        device = next((n.device for n in numbers), torch.device("cpu"))
        return torch.full((1,), t, dtype=torch.float64, device=device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Declared:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if tensor.dtype == torch.float64 and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        return super()._apply(keep, recurse)  # type: ignore[return-value]


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


def changes(*modules: nn.Module) -> bool:
    """Whether a number in these modules may change after its declaration, or carries a graph."""
    return any(
        next(module.parameters(), None) is not None
        or any(b.requires_grad for b in module.buffers())
        for module in modules
    )


def once_each() -> AbstractContextManager[None]:
    """A context in which a learned number is worked out once, however often it is read."""
    return nullcontext() if torch.compiler.is_compiling() else parametrize.cached()


def _constraints_of(module: nn.Module) -> dict[str, Constraint]:
    """What a class and its bases say of their numbers."""
    named: dict[str, Constraint] = {}
    for cls in reversed(type(module).__mro__):
        if issubclass(cls, Declared):
            named.update(vars(cls).get("arg_constraints", {}))
    return named


def _learnable(module: nn.Module) -> Iterator[tuple[nn.Module, str, Constraint]]:
    """The numbers below a module that are free to move, with where they may lie."""
    named = _constraints_of(module)
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


# -- constraints ----------------------------------------------------------------------------------


class Structured(Constraint):
    """A constraint that keeps a structure which a number has when it is declared."""

    @abstractmethod
    def at(self, value: Tensor) -> Constraint | None:
        """The constraint of numbers of this one's structure; None if it leaves no freedom."""

    def __repr__(self) -> str:
        return type(self).__name__.lower()


class Fixed(Structured):
    """Numbers that are structure themselves."""

    def at(self, value: Tensor) -> Constraint | None:
        return None


class Factor(Structured):
    """Factors ≥ 0 in front of a term: a factor of one is no number that somebody declared."""

    def at(self, value: Tensor) -> Constraint | None:
        return None if bool((value == 1).all()) else nonnegative.at(value)


class Sparse(Structured):
    """Tensors whose zeros stay zeros, and whose other entries lie in a given constraint.

    Arguments:
        base: The constraint of the entries that are not zero, as a vector.
        free: True where an entry is not zero; known once a number is declared.
    """

    def __init__(self, base: Constraint, free: Tensor | None = None) -> None:
        self.base, self.free = base, free
        super().__init__()

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        return self.base.event_dim if self.free is None else self.free.dim()

    def at(self, value: Tensor) -> Constraint | None:
        free = value != 0
        certain = self.base is constraints.simplex and int(free.sum()) == 1
        if certain or not bool(free.any()):
            return None
        if bool(free.all()):
            return self.base.at(value) if isinstance(self.base, Structured) else self.base
        base = self.base.at(value[free]) if isinstance(self.base, Structured) else self.base
        return None if base is None else Sparse(base, free)

    def check(self, value: Tensor) -> Tensor:
        if self.free is None:
            return (value == 0) | self.base.check(value)
        free = self.free.to(value.device)
        zero = (value[..., ~free] == 0).all(-1)
        inside = self.base.check(value[..., free])
        return zero & (inside if self.base.event_dim else inside.all(-1))


class Signed(Structured):
    """Numbers that keep their sign."""

    def __init__(self, sign: Tensor | None = None) -> None:
        self.sign = sign
        super().__init__()

    def at(self, value: Tensor) -> Constraint | None:
        return Signed(value.sign())

    def check(self, value: Tensor) -> Tensor:
        return torch.isfinite(value) if self.sign is None else value.sign() == self.sign


class Rates(Structured):
    """Rate matrices: off-diagonal entries are positive where they may be, and rows sum to zero.

    Arguments:
        free: True at the rates that are not zero, shape (K, K); all off-diagonal ones by default.
    """

    event_dim = 2

    def __init__(self, free: Tensor | None = None) -> None:
        self.free = free
        super().__init__()

    def at(self, value: Tensor) -> Constraint | None:
        free = (value > 0) & ~torch.eye(value.shape[-1], dtype=torch.bool, device=value.device)
        return Rates(free) if bool(free.any()) else None

    def check(self, value: Tensor) -> Tensor:
        free = _off_diagonal(value.shape[-1]) if self.free is None else self.free
        free = free.to(value.device)
        rates = value - value.diagonal(dim1=-2, dim2=-1).diag_embed()
        closed = value.sum(-1).abs() <= 1e-6 * value.abs().sum(-1)
        right = torch.where(free, rates > 0, rates == 0)
        return right.all(-1).all(-1) & closed.all(-1)

    def __repr__(self) -> str:
        return "rate_matrix"


class Stochastic(Structured):
    """Matrices whose rows are probabilities; entries that are zero stay zero.

    Arguments:
        free: True at the entries that are not zero.
    """

    event_dim = 2

    def __init__(self, free: Tensor | None = None) -> None:
        self.free = free
        super().__init__()

    def at(self, value: Tensor) -> Constraint | None:
        free = value != 0
        return Stochastic(free) if bool((free.sum(-1) > 1).any()) else None

    def check(self, value: Tensor) -> Tensor:
        right = (value >= 0).all(-1) & ((value.sum(-1) - 1).abs() < 1e-6)
        return right.all(-1)


class Skew(Structured):
    """Skew-symmetric matrices; entries that are zero stay zero.

    Arguments:
        free: True at the entries below the diagonal that are not zero.
    """

    event_dim = 2

    def __init__(self, free: Tensor | None = None) -> None:
        self.free = free
        super().__init__()

    def at(self, value: Tensor) -> Constraint | None:
        free = value.tril(-1) != 0
        return Skew(free) if bool(free.any()) else None

    def check(self, value: Tensor) -> Tensor:
        size = value.abs().amax((-2, -1))
        return (value + value.mT).abs().amax((-2, -1)) <= 1e-12 * size


class Semidefinite(Structured):
    """Positive semi-definite matrices, of a given rank and pattern once a value is known.

    A diagonal one stays diagonal; of any other the coordinates without noise stay so, and the
    block of the others stays of full rank.

    Arguments:
        free: True at the entries of the lower factor that are not zero.
        strict: Whether matrices must be positive definite.
    """

    event_dim = 2

    def __init__(self, free: Tensor | None = None, strict: bool = False) -> None:
        self.free, self.strict = free, strict
        super().__init__()

    def at(self, value: Tensor) -> Constraint | None:
        noisy = value.diagonal() > 0
        if not bool(noisy.any()):
            return None
        full = (noisy[:, None] & noisy[None, :]).tril()
        diagonal = bool((value == value.diagonal().diag()).all())
        free = full & torch.eye(len(value), dtype=torch.bool) if diagonal else full
        return Semidefinite(free, self.strict)

    def check(self, value: Tensor) -> Tensor:
        least = torch.linalg.eigvalsh((value + value.mT) / 2)[..., 0]
        size = value.abs().amax((-2, -1))
        symmetric = (value - value.mT).abs().amax((-2, -1)) <= 1e-12 * size
        return symmetric & ((least > 0) if self.strict else (least >= -1e-12 * size))

    def __repr__(self) -> str:
        return "positive definite" if self.strict else "positive semi-definite"


class Increasing(Constraint):
    """Vectors that increase from zero."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value[..., 0] == 0) & (value.diff(dim=-1) > 0).all(-1)

    def __repr__(self) -> str:
        return "increasing"


fixed = Fixed()
factor = Factor()
sparse = Sparse(constraints.real)
signed = Sparse(Signed())
nonnegative = Sparse(constraints.positive)
probabilities = Sparse(constraints.simplex)
rate_matrix = Rates()
stochastic = Stochastic()
skew = Skew()
semidefinite = Semidefinite()
definite = Semidefinite(strict=True)
increasing = Increasing()


# -- transforms -----------------------------------------------------------------------------------


class Scatter(Transform):
    """The tensor with given entries at the places that are free, and zeros elsewhere."""

    domain = constraints.real_vector
    bijective = True

    def __init__(self, free: Tensor) -> None:
        super().__init__()
        self.free = free
        self.index = free.flatten().nonzero().squeeze(-1)

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        return constraints.independent(constraints.real, self.free.dim())

    def _call(self, x: Tensor) -> Tensor:
        shape = x.shape[:-1]
        zeros = x.new_zeros((*shape, self.free.numel()))
        full = zeros.index_copy(-1, self.index.to(x.device), x)
        return full.reshape(shape + self.free.shape)

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., self.free.to(y.device)]


class SignedExp(Transform):
    r""":math:`u \mapsto \pm e^u`."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True

    def __init__(self, sign: Tensor) -> None:
        super().__init__()
        self.signs = sign

    def _call(self, x: Tensor) -> Tensor:
        return self.signs.to(x.device) * x.exp()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.abs().log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x


class LogRates(Transform):
    """From the logarithms of the rates, row by row, to the rate matrix.

    Arguments:
        free: True at the rates that are not zero; by default at all off-diagonal ones, whose
            number K(K − 1) then tells the size.

    Example:
        >>> LogRates()(torch.zeros(2))
        tensor([[-1.,  1.],
                [ 1., -1.]])
    """

    domain = constraints.real_vector
    bijective = True

    def __init__(self, free: Tensor | None = None) -> None:
        super().__init__()
        self.free = free

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        return Rates(self.free)

    def _pattern(self, size: int) -> Tensor:
        return _off_diagonal(size) if self.free is None else self.free

    def _call(self, x: Tensor) -> Tensor:
        size = (1 + isqrt(1 + 4 * x.shape[-1])) // 2
        rates = Scatter(self._pattern(size))._call(x.exp())
        return rates - rates.sum(-1).diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., self._pattern(y.shape[-1]).to(y.device)].log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.sum(-1)

    def forward_shape(self, shape: Any) -> Size:
        size = (1 + isqrt(1 + 4 * shape[-1])) // 2 if self.free is None else self.free.shape[-1]
        return Size((*shape[:-1], size, size))

    def inverse_shape(self, shape: Any) -> Size:
        return Size((*shape[:-2], int(self._pattern(shape[-1]).sum())))


class RowSoftmax(Transform):
    """From the entries that are free, in logarithms, to rows of probabilities."""

    domain = constraints.real_vector
    bijective = True

    def __init__(self, free: Tensor) -> None:
        super().__init__()
        self.free = free

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        return Stochastic(self.free)

    def _call(self, x: Tensor) -> Tensor:
        free = self.free.to(x.device)
        return Scatter(self.free)._call(x).masked_fill(~free, -torch.inf).softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., self.free.to(y.device)].log()


class SkewPart(Transform):
    """From the entries below the diagonal that are free to the skew-symmetric matrix."""

    domain = constraints.real_vector
    bijective = True

    def __init__(self, free: Tensor) -> None:
        super().__init__()
        self.free = free

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        return Skew(self.free)

    def _call(self, x: Tensor) -> Tensor:
        lower = Scatter(self.free)._call(x)
        return lower - lower.mT

    def _inverse(self, y: Tensor) -> Tensor:
        return y[..., self.free.to(y.device)]


class Square(Transform):
    """From the entries of a lower factor, with a positive diagonal, to its square."""

    domain = constraints.real_vector
    bijective = True

    def __init__(self, free: Tensor, strict: bool) -> None:
        super().__init__()
        self.free, self.strict = free, strict

    @property
    def codomain(self) -> Constraint:  # type: ignore[override]
        return Semidefinite(self.free, self.strict)

    def _call(self, x: Tensor) -> Tensor:
        lower = Scatter(self.free)._call(x)
        positive = lower.diagonal().exp() * self.free.diagonal().to(x.device)
        factor = lower.tril(-1) + positive.diag_embed()
        return factor @ factor.mT

    def _inverse(self, y: Tensor) -> Tensor:
        noisy = self.free.diagonal()
        factor = torch.zeros_like(y)
        block, failed = torch.linalg.cholesky_ex(y[noisy][:, noisy])
        if bool(failed):
            raise ValueError(
                "what is learned stays as singular as zeros on its diagonal say; of these numbers "
                f"a combination is zero, too: {y.tolist()}. Way out: turn the coordinates, so "
                "that directions without noise are axes, or learn the B of Linear(A) + Noise(B)"
            )
        factor[noisy.outer(noisy)] = block.flatten()
        entries = factor.tril(-1) + factor.diagonal().log().diag_embed()
        return entries[self.free.to(y.device)]


class LogSteps(Transform):
    """From the logarithms of the steps to the vector that increases from zero by them."""

    domain = constraints.real_vector
    codomain = increasing
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x.exp().cumsum(-1), (1, 0))

    def _inverse(self, y: Tensor) -> Tensor:
        return y.diff(dim=-1).log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.sum(-1)

    def forward_shape(self, shape: Any) -> Size:
        return Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Any) -> Size:
        return Size((*shape[:-1], shape[-1] - 1))


def _off_diagonal(size: int) -> Tensor:
    return ~torch.eye(size, dtype=torch.bool)


def _known(structure: Tensor | None) -> Tensor:
    """The structure of a number: a constraint has it once the number is declared."""
    if structure is None:
        raise NotImplementedError("its zeros and signs are known once a number is declared")
    return structure


@transform_to.register(Sparse)
def _to_sparse(constraint: Sparse) -> Transform:
    return ComposeTransform([transform_to(constraint.base), Scatter(_known(constraint.free))])


@transform_to.register(Signed)
@biject_to.register(Signed)
def _to_signed(constraint: Signed) -> Transform:
    return SignedExp(_known(constraint.sign))


@transform_to.register(Rates)
@biject_to.register(Rates)
def _to_rates(constraint: Rates) -> Transform:
    return LogRates(constraint.free)


@transform_to.register(Stochastic)
def _to_stochastic(constraint: Stochastic) -> Transform:
    return RowSoftmax(_known(constraint.free))


@transform_to.register(Skew)
@biject_to.register(Skew)
def _to_skew(constraint: Skew) -> Transform:
    return SkewPart(_known(constraint.free))


@transform_to.register(Semidefinite)
@biject_to.register(Semidefinite)
def _to_semidefinite(constraint: Semidefinite) -> Transform:
    return Square(_known(constraint.free), constraint.strict)


@transform_to.register(Increasing)
@biject_to.register(Increasing)
def _to_increasing(constraint: Increasing) -> Transform:
    return LogSteps()
