"""What declared numbers may be: the constraints that torch lacks, with what stays zero."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


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
        free = off_diagonal(value.shape[-1]) if self.free is None else self.free
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


def off_diagonal(size: int) -> Tensor:
    return ~torch.eye(size, dtype=torch.bool)
