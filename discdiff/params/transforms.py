"""From free numbers to those of a constraint, registered with torch."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ComposeTransform

from .constraints import (
    Increasing,
    Rates,
    Semidefinite,
    Signed,
    Skew,
    Sparse,
    Stochastic,
    increasing,
    off_diagonal,
)


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
        return off_diagonal(size) if self.free is None else self.free

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
