"""Diffusions that are declared by the law that they keep."""

from __future__ import annotations

import torch
from torch import Tensor

from ..clock import Clock
from ..numerics.factors import cholesky
from ..numerics.systems import lyapunov
from ..params import Declared, as_numbers, declare, definite, semidefinite, skew
from ..process import Sum
from ..solve import Unsolved
from ..validation import require
from .actions import apply_linear
from .kinds import Function, LinearDrift, Numbers, Retimed, WhiteNoise
from .linear import Linear, Noise
from .numbers import START, require_function, require_numbers, zero


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
        (A,), _ = drift.system(START, self.recipe.S.shape[-1])
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
                require_numbers(getattr(self, name), name)
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
