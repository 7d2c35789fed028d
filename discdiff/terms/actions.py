"""Numbers, diagonals and matrices, applied to states."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import act
from .kinds import Diffusion, WhiteNoise


def entry_shape(name: str, value: Tensor, timely: bool) -> dict[str, torch.Size]:
    """What is in front of a matrix on the last two axes, if anything is."""
    sides = value.shape[int(timely) : -2]
    return {name: sides} if sides else {}


def dims_of(value: Tensor, per_time: bool) -> int:
    """The dimensions of a number, without that of time."""
    return value.dim() - (per_time and value.dim() > 0)


def with_time(value: Tensor, per_time: bool) -> Tensor:
    """A number with a dimension of time in front."""
    return value if per_time and value.dim() else value.unsqueeze(0)


def as_matrices(value: Tensor, per_time: bool, size: int) -> Tensor:
    """Numbers, diagonals or matrices as matrices with a dimension of time in front."""
    value = with_time(value, per_time)
    if value.dim() == 1:
        return value[:, None, None] * torch.eye(size, dtype=value.dtype, device=value.device)
    return value.diag_embed() if value.dim() == 2 else value


def apply_linear(A: Tensor, x: Tensor, per_time: bool) -> Tensor:
    """A number, a diagonal or matrices (one per batch element if ``per_time``) applied to x."""
    A = A.to(x.dtype)
    dims = dims_of(A, per_time)
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
